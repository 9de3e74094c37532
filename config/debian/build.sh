#!/usr/bin/env bash
# Builds target/debian/gatepay-proxy_*.deb out of the program that config/build.sh builds. Needs
# cargo-deb and dpkg-dev. Its arguments go to cargo-deb: --deb-revision 2.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# To try the scripts with a program that is built already: PACKAGE_PROFILE=release.
profile=${PACKAGE_PROFILE:-dist}
if [[ $profile == dist ]]; then config/build.sh; else cargo build --profile "$profile" --locked --quiet --package gatepay-proxy; fi
[[ $profile != dev ]] || profile=debug

# What packages have beside the program is made by the program itself.
# Where the assets in crates/proxy/Cargo.toml name it.
made=target/package
rm -rf "$made"
mkdir -p "$made"
program=$target/$profile/gatepay-proxy
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$made/$shell"
done
"$program" manual "$made/man"
gzip -9n "$made"/man/*.1

cargo deb --package gatepay-proxy --profile "${PACKAGE_PROFILE:-dist}" --no-build --no-strip --locked --quiet "$@"
