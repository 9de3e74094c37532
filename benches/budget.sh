#!/usr/bin/env bash
# Counts the instructions, allocations and system calls of a request in the whole program, as packages have it, over real
# sockets. Fails if they exceed the budget. The counts are the same on a busy machine. Needs valgrind and strace.
#
# The budget is the program's cost when the budget was set, and a tenth more. A change that lowers the cost lowers the
# budget. A change that raises the cost removes the rise again, or raises the budget and gives the reason in its commit.
set -euo pipefail
cd "$(dirname "$0")/.."
INSTRUCTIONS=71600
ALLOCATIONS=2
# Of a hundred requests: a read and a write on either side of each, and the calls that many share.
SYSTEM_CALLS=460

export CARGO_TERM_COLOR=never
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The benchmark around it is built the quicker way.
config/build.sh
cp "$target/dist/gatepay-proxy" "$folder"
end_to_end() { GATEPAY_PROXY=$folder/gatepay-proxy cargo bench --profile counted --locked --quiet --package gatepay-proxy --bench end_to_end -- "$1"; }
counted=$(end_to_end count && end_to_end calls)
echo "$counted"

failed=0
within() {
    local is
    is=$(sed -n "s/^$1: \([0-9]*\).*/\1/p" <<<"$counted")
    if ((is > $2)); then
        echo "$is $1, and the budget is $2: see what came in (callgrind_annotate, strace), or raise it in $0 and say why"
        failed=1
    elif ((is * 10 < $2 * 8)); then
        echo "$is $1, and the budget is $2: lower it in $0, so that it stays won"
    fi
}
within "instructions per request" $INSTRUCTIONS
within "allocations per request" $ALLOCATIONS
within "system calls per 100 requests" $SYSTEM_CALLS
exit $failed
