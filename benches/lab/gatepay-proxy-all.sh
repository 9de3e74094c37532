#!/bin/bash
# kind: resign   title: gatepay-proxy, journal, store, notifications and caps on
# The same target with all that is off by default. The store is a SQLite file. A check that a stamp of four minutes ago is taken
# fails: it may be from before the store.
export EVERYTHING=1
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/gatepay-proxy.sh"
