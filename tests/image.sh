#!/usr/bin/env bash
# The image of config/image/build.sh, run as a container program would: unpacked from its OCI layout, its root read-only, as the
# user it names, without capabilities, with a mounted configuration and a writable /state. It answers signed requests, takes a
# tenant more, and drains. Needs root and mounts, without which it ends with 77; all traffic stays on loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "SKIPPED: $0: $*" >&2; exit 77; }
((EUID == 0)) || skip "only root may change into another root folder"
unshare --mount --propagation private true || skip "this machine allows no mounts (a container needs --privileged)"
[[ -n ${IMAGE_NAMESPACE:-} ]] || IMAGE_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
config/image/build.sh
profile=${PACKAGE_PROFILE:-dist}
program=$target/${profile/#dev/debug}/gatepay-proxy

folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; umount "$folder"/root/{etc/gatepay-proxy,state,proc} "$folder/root" 2>/dev/null || true; rm -rf --one-file-system "$folder"' EXIT
mkdir "$folder/layout" "$folder/files" "$folder/root" "$folder/config" "$folder/state"
tar -C "$folder/layout" -xf "$target/image/gatepay-proxy.oci.tar"

echo "--- each blob has the digest and the size that it is named by"
field() { grep -o "\"$1\":\"[^\"]*\"" "$2" | cut -d'"' -f4; }
blob() { echo "$folder/layout/blobs/sha256/${1#sha256:}"; }
for path in "$folder"/layout/blobs/sha256/*; do
    [[ $(sha256sum <"$path" | cut -d' ' -f1) == "$(basename "$path")" ]] || { echo "$path is another"; exit 1; }
done
manifest=$(blob "$(field digest "$folder/layout/index.json")")
mapfile -t digests < <(field digest "$manifest")
config=$(blob "${digests[0]}")
layer=$(blob "${digests[1]}")
grep -q "\"diff_ids\":\[\"sha256:$(gunzip -c "$layer" | sha256sum | cut -d' ' -f1)\"\]" "$config"
user=$(field User "$config")
[[ $user == 10001:10001 ]] || { echo "it would run as $user"; exit 1; }

echo "--- what is in it"
tar -C "$folder/files" -xzf "$layer"
(cd "$folder/files" && find . -type f -size +40k -printf '%s %p\n' | sort -rn | head)
if find "$folder/files" \( -name 'sh' -o -name 'bash' -o -name 'busybox' -o -name 'apt*' -o -name 'dpkg*' -o -perm /6000 \) | grep .; then
    echo "there is a shell, a package manager or a set-uid file"
    exit 1
fi

echo "--- run"
cat >"$folder/config/proxy.toml" <<'END'
state_dir = "/state"
[listen]
address = "127.0.0.1:18081"
[admin]
address = "127.0.0.1:19091"
[upstream]
url = "http://127.0.0.1:18091"
[[institution.credential]]
client_id = "fake-institution"
secret = { file = "secrets/institution.key" }
END
umask 077
mkdir "$folder/config/tenants.d" "$folder/config/secrets"
echo fake-institution-secret >"$folder/config/secrets/institution.key"
"$program" tenant add acme --sub-account 2124538349 --config "$folder/config/proxy.toml" --json >"$folder/acme"
chown -R 0:10001 "$folder/config"
chmod -R u=rwX,g=rX,o= "$folder/config"
chown 10001:10001 "$folder/state"
mount --bind "$folder/files" "$folder/root"
mount -o remount,bind,ro "$folder/root"
mount --bind "$folder/config" "$folder/root/etc/gatepay-proxy"
mount -o remount,bind,ro "$folder/root/etc/gatepay-proxy"
mount --bind "$folder/state" "$folder/root/state"
# Container programs mount these themselves; the image has the mount points.
mount -t proc -o ro proc "$folder/root/proc"
# Takes the place of the shell around it, so that a job is the program itself.
contained() {
    exec env -i PATH=/usr/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
        setpriv --no-new-privs \
        /usr/sbin/chroot --userspec="$user" "$folder/root" /usr/bin/gatepay-proxy "$@"
}
(contained version)
(contained check) >"$folder/check" || { cat "$folder/check"; exit 1; }
grep 'memory limit' "$folder/check"
(contained state init --never-served)
(contained sandbox --listen 127.0.0.1:18091 --client-id fake-institution \
    --secret-file /etc/gatepay-proxy/secrets/institution.key --sub-account 2124538349) >"$folder/sandbox" 2>&1 &
(contained serve) >"$folder/access" 2>"$folder/log" &
proxy=$!
for port in 18091 18081; do
    for _ in {1..300}; do (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
done
sed -n 's/.*"secret":"\([^"]*\)".*/\1/p' "$folder/acme" >"$folder/acme.key"
"$program" call --url http://127.0.0.1:18081 --client-id "$(sed -n 's/.*"client_id":"\([^"]*\)".*/\1/p' "$folder/acme")" \
    --secret-file "$folder/acme.key" --data '{"merchantTradeNo":"tea-1","currency":"USDT","orderAmount":"1.21","env":{"terminalType":"APP"},"goods":{"goodsName":"tea"}}' \
    POST /v1/pay/order || { cat "$folder/log" "$folder/sandbox"; exit 1; }
echo
kill "$proxy"
wait "$proxy" || { echo "it did not drain"; cat "$folder/log"; exit 1; }
echo "the image answers, as $user, with a read-only root: $SECONDS s"
