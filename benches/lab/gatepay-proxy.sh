#!/bin/bash
# kind: resign   title: gatepay-proxy
# Target of a side-by-side lab: writes a configuration for the given tenants and runs `serve` with it.
# GATEPAY_PROXY names the binary. The default is the program that config/build.sh builds in this checkout.
. "${LAB:?}/env.sh"
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
binary=${GATEPAY_PROXY:-$here/../../target/dist/gatepay-proxy}

folder=$RUNDIR/gatepay-proxy
rm -rf "$folder"
python3 - "$folder" <<'PYTHON'
import json, os, sys
folder = sys.argv[1]
env = os.environ
os.makedirs(f"{folder}/secrets", mode=0o700)
lab = json.load(open(env["TENANTS"]))

def secret(name, text):
    with open(os.open(f"{folder}/secrets/{name}", os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)

secret("institution", env["INSTITUTION_SECRET"])
secret("audit", "a1" * 32)
everything = "EVERYTHING" in env
rate = int(env["RATE_LIMIT"])
with open(f"{folder}/tenants.toml", "w") as file:
    for number, tenant in enumerate(lab["tenants"]):
        secret(f"t{number}", tenant["secret"])
        file.write(f"""[[tenant]]
id = "t{number}"
sub_account = "{tenant["sub_account"]}"
[[tenant.credential]]
client_id = "{tenant["client_id"]}"
secret = {{ file = "secrets/t{number}" }}
[tenant.limits]
requests_per_second = {rate}
burst = {rate}
in_flight = 1000
""")
        if everything:
            file.write("""[[tenant.cap]]
calls = ["payouts"]
currency = "USDT"
per_day = "1000000"
""")

upstream = env["UPSTREAM"]
ca = f'ca = "{env["UPSTREAM_CA"]}"' if upstream.startswith("https:") else ""
# The quota is out of reach, because the work per request is measured. Body checks are off: some of the lab's bodies
# name no order, and the checks would refuse them as GatePay does.
with open(f"{folder}/proxy.toml", "w") as file:
    file.write(f"""tenants = "tenants.toml"
checks = "off"
state_dir = "state"
[listen]
address = "127.0.0.1:{env["PORT"]}"
[admin]
address = "127.0.0.1:{env.get("ADMIN_PORT", "9209")}"
[upstream]
url = "{upstream}"
{ca}
[upstream.quota]
requests_per_second = 1000000
burst = 1000000
[institution]
[[institution.credential]]
client_id = "{env["INSTITUTION_ID"]}"
secret = {{ file = "secrets/institution" }}
""")
    if everything:
        file.write(f"""[audit]
dir = "audit"
key = {{ file = "secrets/audit" }}
[store]
path = "store.db"
[notifications]
listen = "127.0.0.1:{int(env["PORT"]) + 500}"
public_url = "https://notify.example.com/gatepay"
path = "/gatepay"
""")
PYTHON
[[ -z ${EVERYTHING:-} ]] || "$binary" store migrate --config "$folder/proxy.toml"
"$binary" state init --never-served --config "$folder/proxy.toml"
if [[ -n ${EVERYTHING:-} ]]; then
    # The first process of a store waits until no request from before it can be fresh; one that follows it in order does not.
    sed "s/:$PORT\"/:0\"/" "$folder/proxy.toml" > "$folder/first.toml"
    "$binary" serve --config "$folder/first.toml" > "$folder/access.log" &
    sleep 11.5
    kill "$!" && sleep 0.1 && kill "$!" && wait "$!"
fi
exec "$binary" serve --config "$folder/proxy.toml" > "$folder/access.log"
