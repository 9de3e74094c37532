#!/usr/bin/env bash
# Counts what admitting a request costs, in instructions, and fails if it is more than is promised, or more with many
# tenants than with few. Counted, not timed: the same on a busy machine. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
MOST=3000
REQUESTS=20000

# Without link-time optimization, which takes minutes and could only make it cheaper.
export CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 CARGO_TERM_COLOR=never
built=$(cargo bench --locked --package gatepay-proxy --bench admission --no-run 2>&1) || { echo "$built"; exit 1; }
program=$(sed -n 's/^ *Executable.*(\(.*\))$/\1/p' <<<"$built")

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$@" 2>&1 |
        tee /dev/stderr | sed -n 's/.*Collected : //p'
}

failed=0
# A quota that admits everything, then one that admits hardly anything.
for quota in 1000000 100; do
    for tenants in 100 10000; do
        dry=$(count "$tenants" "$REQUESTS" "$quota" dry 2>/dev/null)
        all=$(count "$tenants" "$REQUESTS" "$quota" 2> >(grep ' admitted$' >&2))
        each=$(((all - dry) / REQUESTS))
        echo "$each instructions for each of $REQUESTS requests, $tenants active tenants, quota of $quota"
        ((each <= MOST)) || failed=1
        if [[ $tenants == 100 ]]; then few=$each; else
            # The caches are colder, not the work more: a tenth is for the hash tables in between.
            ((each * 10 <= few * 11)) || { echo "with many tenants it costs more"; failed=1; }
        fi
    done
done
((failed == 0)) || { echo "more than the promised $MOST"; exit 1; }
