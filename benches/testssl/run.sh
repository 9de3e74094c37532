#!/usr/bin/env bash
# Runs testssl.sh against the listener of the binary at GATEPAY_PROXY (default: the build of config/build.sh in this checkout),
# with a certificate from a test authority that names a CRL. Fails if a finding is worse than LOW. All traffic stays on
# loopback.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "${GATEPAY_PROXY:-${CARGO_TARGET_DIR:-target}/dist/gatepay-proxy}")
find_testssl() { type -P testssl || type -P testssl.sh; }
testssl=$(find_testssl) || {
    echo "installing testssl.sh"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends testssl.sh >/dev/null
    testssl=$(find_testssl)
}
folder=$(mktemp -d)
trap 'kill "${proxy:-}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"

mkdir tenants.d secrets
umask 077
printf fake-institution-secret >secrets/institution.key
cat >openssl.cnf <<'END'
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[listener]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost
crlDistributionPoints = URI:http://crl.example/fake.crl
authorityKeyIdentifier = keyid
END
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc)
openssl req -x509 "${key[@]}" -days 90 -subj "/CN=fake authority" -keyout ca.key -out ca.pem \
    -config <(printf '[req]\ndistinguished_name=name\n[name]\n'; cat openssl.cnf) -extensions authority
openssl req "${key[@]}" -subj "/CN=localhost" -keyout secrets/listener.key -out listener.csr
openssl x509 -req -in listener.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 85 \
    -extfile openssl.cnf -extensions listener -out cert.pem 2>/dev/null
cat >proxy.toml <<'END'
[listen]
address = "127.0.0.1:0"
tls = { certificate = "cert.pem", key = "secrets/listener.key" }
[admin]
address = "127.0.0.2:0"
[[institution.credential]]
client_id = "fake-institution"
secret = { file = "secrets/institution.key" }
END
"$binary" serve >/dev/null 2>log &
proxy=$!
for _ in $(seq 100); do
    address=$(sed -n 's/.*"message":"serving".*"address":"\([^"]*\)".*/\1/p;s/.*"address":"\([^"]*\)".*"message":"serving".*/\1/p' log)
    [[ -n $address ]] && break
    sleep 0.1
done
[[ -n $address ]] || { cat log; exit 1; }

# Resumes a session of either TLS version, which testssl.sh checks only in part.
for version in -tls1_2 -tls1_3; do
    ask() { (sleep 1; printf 'GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n'; sleep 1) |
        openssl s_client -connect "$address" -servername localhost -CAfile ca.pem $version "$@" 2>/dev/null; }
    ask -sess_out session >/dev/null
    ask -sess_in session | grep -o '^Reused, .*' || { echo "$version: not resumed"; exit 1; }
done

"$testssl" --quiet --color 0 --warnings off --add-ca ca.pem --ip 127.0.0.1 --jsonfile findings.json \
    "localhost:${address##*:}" >report.txt || true
sed -n '/Testing protocols/,$p' report.txt
echo
# Each finding on one line: severity, check, result.
findings=$(awk -F'" *: *"' '
    /"id" *:/ { id = $2 }
    /"severity" *:/ { severity = $2 }
    /"finding" *:/ { finding = $2 }
    /}/ && severity { gsub(/",? *$/, "", id); gsub(/",? *$/, "", severity); gsub(/",? *$/, "", finding)
        print severity "\t" id "\t" finding; severity = finding = "" }' findings.json)
echo "findings by severity:"
cut -f1 <<<"$findings" | sort | uniq -c
echo "all but OK and INFO:"
grep -vE '^(OK|INFO)	' <<<"$findings" || echo none
# FATAL and WARN are problems of testssl.sh itself: they would mean that a check did not run.
if grep -qE '^(WARN|MEDIUM|HIGH|CRITICAL|FATAL)	' <<<"$findings"; then
    echo "FAILED: worse than LOW"
    exit 1
fi
[[ $(wc -l <<<"$findings") -ge 100 ]] || { echo "FAILED: not everything was looked at"; exit 1; }
echo "passed: nothing worse than LOW"
