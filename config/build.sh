#!/usr/bin/env bash
# Builds the program as packages and images have it: target/dist/gatepay-proxy, laid out by counts of its own work (PGO).
#
# A first build counts how often its code runs while a benchmark loads it (`end_to_end -- train`); the second, the `dist` profile, is laid
# out by these counts. It takes a tenth less processor time per request than `cargo build --profile dist` alone. Where
# rustup cannot add its llvm-tools, this warns and builds the program in that way.
#
# PROGRAM_PROFILE=FILE takes the counts from a file, such as the one that is kept as target/training/gatepay-proxy.profdata: the same
# source, compiler and counts give the same program. PACKAGE_CARGO may be `cargo auditable`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
training=$target/training
host=$(rustc -vV | sed -n 's/^host: //p')
tools=$(rustc --print sysroot)/lib/rustlib/$host/bin
mkdir -p "$training"
# The host is named, so that no build script and no macro is built with these flags.
build() { "$@" --profile dist --locked --quiet --package gatepay-proxy --target "$host"; }

# Loads a program that counts, if there is none newer than the counts.
count() {
    # Crates are counted one by one: only the second build optimizes them together.
    RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate -Clto=off -Clinker-plugin-lto=no -Cembed-bitcode=no" \
        CARGO_TARGET_DIR=$training build cargo build
    local counting=$training/$host/dist/gatepay-proxy
    [[ $1 -nt $counting ]] && return
    rm -rf "$training/raw"
    GATEPAY_PROXY=$counting LLVM_PROFILE_FILE=$training/raw/%p.profraw \
        cargo bench --profile counted --locked --quiet --package gatepay-proxy --bench end_to_end -- train
    "$tools/llvm-profdata" merge -o "$1" "$training/raw"
}

counts=${PROGRAM_PROFILE:-}
if [[ -z $counts ]]; then
    if [[ -x $tools/llvm-profdata ]] || rustup component add llvm-tools; then
        counts=$training/gatepay-proxy.profdata
        count "$counts"
    else
        echo "$0: no llvm-profdata in $tools: the program is built without counts of its own work" >&2
    fi
fi
if [[ -n $counts ]]; then
    # Of other crates cargo does not look whether the file has changed, so its name does; of ours it looks at the time.
    named=$training/$(sha256sum <"$counts" | cut -c1-16).profdata
    [[ -e $named ]] || cp "$counts" "$named"
    export RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-use=$named"
fi
# shellcheck disable=SC2086
build ${PACKAGE_CARGO:-cargo} build
install -D "$target/$host/dist/gatepay-proxy" "$target/dist/gatepay-proxy"
