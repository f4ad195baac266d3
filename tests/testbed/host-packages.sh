#!/bin/bash
# host-packages.sh [build|test|all] : install the Debian packages that are missing on this host
#
# build: to compile virtsnap; test: to build and run the testbed (includes what build needs);
# all (default) is both. Says what it installs, and does nothing if all is there. Works on Debian 12
# and 13, also where `apt-get update` never ran. Without root it asks sudo. Fails with an advice
# where there is no Rust, or too old a one.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

BUILD=(gcc libc6-dev make pkg-config libvirt-dev)
TEST=(mmdebstrap systemd-container zstd xz-utils binutils python3-minimal cpio dbus util-linux
  qemu-utils e2fsprogs procps)
case ${1:-all} in
  build) WANTED=("${BUILD[@]}") ;;
  test | all) WANTED=("${BUILD[@]}" "${TEST[@]}") ;;
  *) usage ;;
esac

installed() { [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# Rust is the one thing that is no Debian package here: Cargo.toml wants a newer one than Debian has.
# It belongs to the user, so it's looked for before sudo changes PATH and HOME.
rust_is_new_enough() {
  local wanted cargo version
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")
  for cargo in cargo "$HOME/.cargo/bin/cargo"; do
    version=$("$cargo" --version 2>/dev/null | cut -d' ' -f2) || continue
    [ "$(printf '%s\n' "$wanted" "$version" | sort -V | head -n 1)" = "$wanted" ] && return 0
  done
  say "virtsnap needs Rust $wanted or newer. Install it as described at https://rustup.rs (on Debian 13 also:"
  say "apt-get install rustup && rustup default stable), then run this again."
  return 1
}
[ -n "${VIRTSNAP_RUST_SEEN:-}" ] || rust_is_new_enough || exit 1

MISSING=()
for package in "${WANTED[@]}"; do installed "$package" || MISSING+=("$package"); done
[ ${#MISSING[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "missing: ${MISSING[*]}. As root, run: apt-get install ${MISSING[*]}"
  say "missing: ${MISSING[*]}; asking sudo to install them"
  exec sudo VIRTSNAP_RUST_SEEN=1 "$0" "$@"
fi

export DEBIAN_FRONTEND=noninteractive
# The package lists may be absent or old. One unreachable third-party source must not stop us:
# apt then warns, and what matters is whether the packages can be had.
apt-get -qq update || say "apt-get update had errors; trying with the lists that are there"

# systemd-container wants systemd at its own version. Taking the one of the installed version keeps
# the host's systemd as it is.
SYSTEMD=$(dpkg-query -W -f='${Version}' systemd 2>/dev/null || true)
for i in "${!MISSING[@]}"; do
  if [ "${MISSING[i]}" != systemd-container ] || [ -z "$SYSTEMD" ]; then continue; fi
  if apt-cache madison systemd-container | awk -F'|' '{gsub(/ /, "", $2); print $2}' | grep -qxF "$SYSTEMD"; then
    MISSING[i]="systemd-container=$SYSTEMD"
  else
    say "no systemd-container $SYSTEMD to be had: apt will upgrade systemd within its release"
  fi
done
say "installing: ${MISSING[*]}"
apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install "${MISSING[@]}" >&2
