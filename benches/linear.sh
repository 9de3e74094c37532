#!/usr/bin/env bash
# Counts the instructions of each reader over inputs that are expensive for it. Fails if a reader takes more than 2.2
# times as many for its largest input as for half of it. Instructions are the same on a busy machine. Needs valgrind.
# With a reader's name it runs only that reader. Exits with 77 if valgrind cannot see what is to be counted.
set -euo pipefail
cd "$(dirname "$0")/.."

# Without link-time optimization, as in benches/admission.sh.
export CARGO_TERM_COLOR=never
built=$(cargo bench --profile counted --locked --package gatepay-proxy --bench linear --no-run 2>&1) || { echo "$built"; exit 1; }
program=$(sed -n 's/^ *Executable.*(\(.*\))$/\1/p' <<<"$built")

# The C library copies and clears long blocks with one instruction that valgrind counts once a byte. That count would be
# a step in the result and says nothing about our code.
export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000

# The name as the linker has it, which is also found where it differs from the name in the source.
symbol=$(nm "$program" | sed -n 's/.* [tT] \([^ ]*6linear8measured[^ ]*\)$/\1/p' | head -n 1)
[[ -n $symbol ]] || { echo "$program has no symbol of linear::measured, the code that is counted"; exit 1; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
begun=$SECONDS
# Each call of `measured` leaves a file of its own, with the counts of that call alone.
valgrind --tool=callgrind --demangle=no --collect-atstart=no --toggle-collect="$symbol" --dump-after="$symbol" \
    --callgrind-out-file="$folder/out" "$program" "$@" >"$folder/lines" 2>"$folder/log" || { cat "$folder/log"; exit 1; }
# A valgrind that reads no symbols of this program, as has been seen on one machine, counts nothing at all.
if [[ ! -e $folder/out.1 ]]; then
    echo "not tried: valgrind does not find $symbol in $program. It says:"
    cat "$folder/log"
    readelf --wide --sections --program-headers "$program"
    exit 77
fi

# Reader, family, bytes; then the instructions.
paste "$folder/lines" <(
    for number in $(seq "$(wc -l <"$folder/lines")"); do
        sed -n 's/^\(summary\|totals\): //p' "$folder/out.$number" | head -n 1
    done
) >"$folder/counted"
awk -F '\t' '
    NR % 2 { half = $4; bytes = $3; next }
    {
        if (half < 100 || $4 < 100) { print "nothing was counted of " $1 ": " $2; failed = 1; next }
        ratio = $4 / half
        times = $3 / bytes
        each = $4 / $3
        if (ratio > 2.2) { printf "%-32s %-28s %9.1f a byte, %.2f times as many for twice the bytes\n", $1, $2, each, ratio; failed = 1 }
        count++
        if (ratio > most) { most = ratio; where = $1 ": " $2 }
        if (each > dearest) { dearest = each; dear = $1 ": " $2 }
    }
    END {
        if (count < 1) { print "nothing was counted"; exit 1 }
        printf "%d families: for twice the bytes at most %.2f times as many instructions (%s), at most %.0f a byte (%s)\n", count, most, where, dearest, dear
        exit failed
    }
' "$folder/counted"
echo "counted in $((SECONDS - begun)) s"
