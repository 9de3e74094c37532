#!/usr/bin/env bash
# Runs an honest tenant beside slowhttptest in its four modes, with a thousand connections each, and beside every HTTP/2
# abuse we know, before the release binary: see main.rs. Takes about six minutes; with EXHAUSTION_SECONDS=4, three.
# All traffic stays on loopback. For figures worth quoting, leave the machine idle meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../.."
type -P slowhttptest >/dev/null || {
    echo "installing slowhttptest"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slowhttptest >/dev/null
}
# Two sockets for each of a thousand connections, on either side of the proxy.
ulimit -n "$(ulimit -Hn)"
exec cargo bench -p gatepay-proxy --bench exhaustion
