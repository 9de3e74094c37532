#!/usr/bin/env bash
# Makes an image from scratch, without a container program: target/image/gatepay-proxy.oci.tar, an OCI layout that `podman load`,
# `skopeo` and registries' clients read. In it are the program, the C library, the authorities' certificates and nothing else: no
# shell, no package manager. It runs as user 10001, and needs no writable root.
#
# `config/image/build.sh rootfs FOLDER` makes only the folder of files, for a Dockerfile. The same program gives the same image,
# byte for byte, as long as Debian's packages are the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# As in config/debian/build.sh.
profile=${PACKAGE_PROFILE:-dist}
program=$target/${profile/#dev/debug}/gatepay-proxy

rootfs() {
    local root=$1 work package
    work=$(mktemp -d)
    mkdir -p "$root"/{etc/ssl/certs,usr/bin,etc/gatepay-proxy,proc,state,tmp}
    # Of Debian's packages only the files that the program opens.
    (cd "$work" && apt-get download -qq libc6 libgcc-s1 ca-certificates >/dev/null)
    for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/all"; done
    local lib=lib/$(uname -m)-linux-gnu name
    mkdir -p "$root/$lib" "$root/lib64"
    for name in $(needed); do
        cp -L "$work/all/$lib/$name" "$root/$lib/$name"
    done
    # Looked up by name when a host is resolved.
    cp -L "$work/all/$lib/"{libnss_dns.so.2,libnss_files.so.2,libresolv.so.2} "$root/$lib/"
    cp -L "$work/all/lib64/"ld-linux-*.so.* "$root/lib64/" 2>/dev/null || cp -L "$work/all/$lib/"ld-linux-*.so.* "$root/lib/"
    cat "$work/all/usr/share/ca-certificates/mozilla/"*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
    mkdir -p "$root/usr/share/doc"
    for name in libc6 libgcc-s1 ca-certificates; do
        cp -rL "$work/all/usr/share/doc/$name" "$root/usr/share/doc/" 2>/dev/null || true
    done
    echo 'gatepay-proxy:x:10001:10001::/:/nonexistent' >"$root/etc/passwd"
    echo 'gatepay-proxy:x:10001:' >"$root/etc/group"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    install -m 0755 "$program" "$root/usr/bin/gatepay-proxy"
    chown 10001:10001 "$root/state"
    chmod 0700 "$root/state"
    rm -rf "$work"
}

# The libraries that the program names.
needed() {
    readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -v '^ld-linux'
}

if [[ ${1:-} == rootfs ]]; then
    rootfs "$2"
    exit
fi

if [[ $profile == dist ]]; then config/build.sh; else cargo build --profile "$profile" --locked --quiet --package gatepay-proxy; fi
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git show -s --format=%ct HEAD 2>/dev/null || echo 0)}
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
blobs=$folder/layout/blobs/sha256
mkdir -p "$blobs"
rootfs "$folder/rootfs"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --format=posix \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$folder/rootfs" -cf "$folder/layer.tar" .
layer=$(sha256sum <"$folder/layer.tar" | cut -d' ' -f1)
gzip -9n "$folder/layer.tar"

# Stores a blob under its digest, and prints its descriptor.
blob() {
    local digest
    digest=$(sha256sum <"$2" | cut -d' ' -f1)
    printf '{"mediaType":"%s","digest":"sha256:%s","size":%s' "$1" "$digest" "$(stat -c %s "$2")"
    mv "$2" "$blobs/$digest"
}
layer_blob="$(blob application/vnd.oci.image.layer.v1.tar+gzip "$folder/layer.tar.gz")}"
labels='"org.opencontainers.image.title":"gatepay-proxy","org.opencontainers.image.version":"'$version'","org.opencontainers.image.revision":"'$commit'","org.opencontainers.image.licenses":"Apache-2.0"'
cat >"$folder/config.json" <<END
{"created":"$created","architecture":"$arch","os":"linux","config":{"User":"10001:10001","ExposedPorts":{"8080/tcp":{},"9090/tcp":{}},"Env":["PATH=/usr/bin","SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],"Entrypoint":["/usr/bin/gatepay-proxy"],"Cmd":["serve"],"WorkingDir":"/","StopSignal":"SIGTERM","Labels":{$labels}},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"$created","created_by":"config/image/build.sh"}]}
END
config_blob="$(blob application/vnd.oci.image.config.v1+json "$folder/config.json")}"
cat >"$folder/manifest.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config_blob,"layers":[$layer_blob],"annotations":{$labels}}
END
manifest_blob="$(blob application/vnd.oci.image.manifest.v1+json "$folder/manifest.json")"
cat >"$folder/layout/index.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[$manifest_blob,"annotations":{"org.opencontainers.image.ref.name":"$version"}}]}
END
echo '{"imageLayoutVersion":"1.0.0"}' >"$folder/layout/oci-layout"
mkdir -p "$target/image"
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C "$folder/layout" \
    -cf "$target/image/gatepay-proxy.oci.tar" oci-layout index.json blobs
echo "target/image/gatepay-proxy.oci.tar: $(stat -c %s "$target/image/gatepay-proxy.oci.tar") bytes"
