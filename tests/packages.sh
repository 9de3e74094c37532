#!/usr/bin/env bash
# The .deb in a small Debian of its own (debootstrap, chroot): installed, configured, started as its unit would start it, asked
# with signed requests, upgraded while requests go on, removed, purged. Fails if a request fails or a file is left.
#
# There is no systemd in a chroot, so `launch` stands for the sockets and the service: it binds once and hands both sockets to
# each program, by the unit's own ExecStart. Needs root and mounts, without which it ends with 77; all traffic stays on loopback.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "SKIPPED: $0: $*" >&2; exit 77; }
((EUID == 0)) || skip "only root may change into another root folder"
unshare --mount --propagation private true || skip "this machine allows no mounts (a container needs --privileged)"
# A mount namespace of its own: nothing stays mounted, however this ends.
[[ -n ${PACKAGES_NAMESPACE:-} ]] || PACKAGES_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
profile=${PACKAGE_PROFILE:-dist}
program=$target/${profile/#dev/debug}/gatepay-proxy

# Of two revisions of one program; cargo-deb keeps the newest in its folder.
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
folder=$(mktemp -d)
for revision in 1 2; do
    config/debian/build.sh --deb-revision $revision
    mv "$target"/debian/gatepay-proxy_"$version"-${revision}_*.deb "$folder/$revision.deb"
done

# The tree is made once and copied: most of its minute goes into downloads.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
base=$target/debian-$suite
if [[ ! -e $base/etc/os-release ]]; then
    rm -rf "$base"
    # shellcheck disable=SC2046
    mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\?\([^ ]*\) .*/\2/p' $(ls /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null) | grep -v security | head -n 1)
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$base" "$mirror" >"$target/debootstrap.log" ||
        { tail "$target/debootstrap.log"; rm -rf "$base"; skip "debootstrap made no Debian to try the package in"; }
fi
root=$folder/root
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; umount "$root/proc" "$root/dev" 2>/dev/null || true; rm -rf --one-file-system "$folder"' EXIT
mkdir "$root"
cp -a "$base/." "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
inside() { chroot "$root" "$@"; }
as_service() { chroot --userspec=gatepay-proxy:gatepay-proxy "$root" "$@"; }
# What a purge may leave: dpkg's own records, and logs of other programs.
present() { (cd "$root" && find . -xdev -path ./proc -prune -o -path ./dev -prune -o -print | grep -v -e '^./var/lib/dpkg' -e '^./var/log/' -e '^./var/cache' -e '^./etc/.*-$' -e '^./tmp/' | sort); }
present >"$folder/before"

echo "--- install"
cp "$folder"/?.deb "$root/tmp/"
inside dpkg -i /tmp/1.deb
for path in usr/bin/gatepay-proxy usr/lib/systemd/system/gatepay-proxy.service etc/gatepay-proxy/proxy.toml \
    usr/share/man/man1/gatepay-proxy-serve.1.gz usr/share/bash-completion/completions/gatepay-proxy; do
    [[ -e $root/$path ]] || { echo "the package has no $path"; exit 1; }
done
inside gatepay-proxy version
# Freshly installed, it has no secret: it says so, with file and line.
! as_service gatepay-proxy check 2>"$folder/fault"
grep -q '^proxy.toml:[0-9]*: institution.credential\[0\].secret.file: file not found' "$folder/fault" || { cat "$folder/fault"; exit 1; }

echo "--- configure"
echo fake-institution-secret | as_service /bin/sh -c 'umask 077; cat >/etc/gatepay-proxy/secrets/institution.key'
echo fake-audit-key-0123456789abcdef | as_service /bin/sh -c 'umask 077; cat >/etc/gatepay-proxy/secrets/audit.key'
# The emulator stands for GatePay. The journal is as the page on it shows.
sed -i 's/^# \(\[audit\]\|dir =\|key =\)/\1/' "$root/etc/gatepay-proxy/proxy.toml"
cat >>"$root/etc/gatepay-proxy/proxy.toml" <<'END'

[upstream]
url = "http://127.0.0.1:18090"
END
as_service gatepay-proxy tenant add acme --sub-account 2124538349 --json >"$folder/acme"
client=$(sed -n 's/.*"client_id":"\([^"]*\)".*/\1/p' "$folder/acme")
sed -n 's/.*"secret":"\([^"]*\)".*/\1/p' "$folder/acme" >"$folder/acme.key"
as_service gatepay-proxy state init --never-served
as_service gatepay-proxy check | head -n 3
# `exec`, so that the job is the program, which the trap ends.
(exec chroot --userspec=gatepay-proxy:gatepay-proxy "$root" gatepay-proxy sandbox --listen 127.0.0.1:18090 \
    --client-id your-institution --secret-file /etc/gatepay-proxy/secrets/institution.key \
    --sub-account 2124538349) >"$folder/sandbox" 2>&1 &
sandbox=$!

echo "--- start"
# The two sockets as systemd holds them: they outlive each program. SIGUSR1 restarts, as `systemctl restart` does.
cat >"$folder/launch.pl" <<'END'
use strict;
use IO::Socket::INET;
my ($root, @command) = @ARGV;
$^F = 9;    # the sockets stay open in the programs
my @sockets = map { IO::Socket::INET->new(Listen => 4096, LocalAddr => '127.0.0.1', LocalPort => $_, ReuseAddr => 1) or die "$_: $!" } 18080, 19090;
die "not the descriptors of systemd's protocol" if fileno($sockets[0]) != 3 || fileno($sockets[1]) != 4;
my $child;
sub start {
    $child = fork // die;
    return if $child;
    %ENV = (PATH => '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LISTEN_FDS => 2, LISTEN_FDNAMES => 'listen:admin', LISTEN_PID => $$);
    exec 'chroot', '--userspec=gatepay-proxy:gatepay-proxy', $root, @command or die;
}
my $again = 0;
$SIG{USR1} = sub { $again = 1; kill TERM => $child };
$SIG{TERM} = sub { kill TERM => $child };
start();
while (1) {
    my $ended = waitpid $child, 0;
    next if $ended < 0 && $!{EINTR};
    print "ended with ", $? >> 8, "\n";
    STDOUT->flush;
    last unless $again;
    $again = 0;
    start();
}
exit($? >> 8);
END
unit=$root/usr/lib/systemd/system/gatepay-proxy.service
read -ra start <<<"$(sed -n 's/^ExecStart=//p' "$unit")"
perl "$folder/launch.pl" "$root" "${start[@]}" >"$folder/access" 2>"$folder/log" &
launcher=$!
call() {
    "$program" call --url http://127.0.0.1:18080 --client-id "$client" --secret-file "$folder/acme.key" \
        --data "{\"merchantTradeNo\":\"$1\",\"currency\":\"USDT\",\"orderAmount\":\"1.21\",\"env\":{\"terminalType\":\"APP\"},\"goods\":{\"goodsName\":\"tea\"}}" \
        POST /v1/pay/order
}
listens() {
    for _ in {1..300}; do (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.1; done
    echo "nothing listens on $1"
    cat "$folder/log" "$folder/sandbox"
    return 1
}
listens 18090
listens 18080
call first 2>"$folder/first" || { cat "$folder/first" "$folder/log" "$folder/sandbox"; exit 1; }
echo
[[ -s $(ls "$root"/var/log/gatepay-proxy/audit-*.jsonl) ]] || { echo "there is no audit journal"; exit 1; }

echo "--- upgrade while requests go on"
shop() {
    local number=0 failed=0
    until [[ -e $folder/enough ]]; do
        number=$((number + 1))
        sleep 0.05 # within the tenant's rate
        call "$1-$number" >"$folder/$1.out" 2>&1 || { failed=$((failed + 1)); cat "$folder/$1.out" >>"$folder/failed"; }
    done
    echo "$number $failed" >"$folder/$1.count"
}
for name in a b c; do shop $name & shops+=($!); done
sleep 1
inside dpkg -i /tmp/2.deb
# postinst would let systemd do this.
kill -USR1 "$launcher"
until grep -q ended "$folder/access"; do sleep 0.2; done
sleep 2
touch "$folder/enough"
wait "${shops[@]}"
cat "$folder"/?.count | awk '{ all += $1; failed += $2 } END { print all " requests, " failed " failed"; exit failed > 0 || all < 30 }' ||
    { cat "$folder/failed" "$folder/log"; exit 1; }
grep -q '^ended with 0$' "$folder/access" || { cat "$folder/log"; exit 1; }
as_service gatepay-proxy audit verify
grep -q 18090 "$root/etc/gatepay-proxy/proxy.toml" || { echo "the upgrade lost the configuration"; exit 1; }

echo "--- purge"
kill "$launcher"
wait "$launcher" || { cat "$folder/log"; exit 1; }
# A call's end is written up to 200 ms after its answer, so every call has one only now.
as_service gatepay-proxy audit verify >"$folder/verified"
grep ' calls, 0 of them without a record of their end$' "$folder/verified" || { cat "$folder/verified"; exit 1; }
kill "$sandbox" # a program of the service's user, which could not be removed before
wait "$sandbox" || true
inside dpkg --purge gatepay-proxy
present >"$folder/after"
diff "$folder/before" "$folder/after" || { echo "the purge left these"; exit 1; }
! inside getent passwd gatepay-proxy || { echo "the purge left the user"; exit 1; }
echo "installed, upgraded and purged in $SECONDS s"
