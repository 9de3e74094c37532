#!/usr/bin/env bash
# An honest tenant beside slowhttptest in its four modes, with a thousand connections each, and beside every abuse of
# HTTP/2 we know, before the release binary: see main.rs. Takes some six minutes; EXHAUSTION_SECONDS=4 three.
# Everything stays on loopback. For a figure worth quoting leave the machine alone meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../.."
type -P slowhttptest >/dev/null || {
    echo "installing slowhttptest"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slowhttptest >/dev/null
}
# Two sockets for each of a thousand connections, on either side.
ulimit -n "$(ulimit -Hn)"
exec cargo bench -p gatepay-proxy --bench exhaustion
