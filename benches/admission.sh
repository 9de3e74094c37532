#!/usr/bin/env bash
# Counts the instructions of admitting a request. Fails if they exceed the promised limit, or grow with the number of
# tenants. Instructions are the same on a busy machine. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/.."
MOST=3000
REQUESTS=20000

# Without link-time optimization, which takes minutes and could only lower the count.
export CARGO_TERM_COLOR=never
built=$(cargo bench --profile counted --locked --package gatepay-proxy --bench admission --no-run 2>&1) || { echo "$built"; exit 1; }
program=$(sed -n 's/^ *Executable.*(\(.*\))$/\1/p' <<<"$built")

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$@" 2>&1 |
        tee /dev/stderr | sed -n 's/.*Collected : //p'
}

failed=0
# A quota that admits every request, then a quota that admits hardly any.
for quota in 1000000 100; do
    for tenants in 100 10000; do
        dry=$(count "$tenants" "$REQUESTS" "$quota" dry 2>/dev/null)
        all=$(count "$tenants" "$REQUESTS" "$quota" 2> >(grep ' admitted$' >&2))
        each=$(((all - dry) / REQUESTS))
        echo "$each instructions for each of $REQUESTS requests, $tenants active tenants, quota of $quota"
        ((each <= MOST)) || failed=1
        if [[ $tenants == 100 ]]; then few=$each; else
            # More tenants mean colder caches, not more work. A tenth is allowed for the hash tables in between.
            ((each * 10 <= few * 11)) || { echo "with many tenants it costs more"; failed=1; }
        fi
    done
done
((failed == 0)) || { echo "more than the promised $MOST"; exit 1; }
