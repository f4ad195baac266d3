#!/bin/bash
# host-packages.sh [build|package|test|all] : install the Debian packages that are missing on this host
#
# build: to compile virtsnap; package: to make its packages, too; test: to build and run the testbed
# (includes what the others need); all (default) is the same. Says what it installs, and does nothing if all is there. Works on Debian 12
# and 13, also where `apt-get update` never ran. Without root it asks sudo. Rust, which virtsnap wants
# newer than Debian has it, is installed for the user who asks, with rustup.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

BUILD=(gcc libc6-dev make pkg-config libvirt-dev)
PACKAGE=(binutils dpkg-dev python3-minimal rpm xz-utils)
TEST=(mmdebstrap systemd-container zstd xz-utils binutils python3-minimal cpio dbus util-linux
  qemu-utils e2fsprogs procps mandoc lintian restic borgbackup tzdata zsh fish python3-dbus libglib2.0-bin gjs)
case ${1:-all} in
  # What this script asks root for.
  --packages) WANTED=() ;;
  build) WANTED=("${BUILD[@]}") ;;
  package) WANTED=("${BUILD[@]}" "${PACKAGE[@]}") ;;
  test | all) WANTED=("${BUILD[@]}" "${PACKAGE[@]}" "${TEST[@]}") ;;
  *) usage ;;
esac

installed() { [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

# Rust is the one thing that is no Debian package here: Cargo.toml wants a newer one than Debian has. It belongs to the
# user, so that neither sudo's PATH nor its HOME counts.
rust_is_new_enough() {
  local cargo version
  for cargo in cargo "$HOME/.cargo/bin/cargo"; do
    version=$("$cargo" --version 2>/dev/null | cut -d' ' -f2) || continue
    [ "$(printf '%s\n' "$RUST" "$version" | sort -V | head -n 1)" = "$RUST" ] && return 0
  done
  return 1
}

install_rust() {
  RUST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")
  rust_is_new_enough && return 0
  say "installing: Rust $RUST or newer for user $(id -un), with rustup"
  local advice="Rust could not be installed; do it as described at https://rustup.rs, then run this again"
  if ! command -v rustup >/dev/null && [ ! -x "$HOME/.cargo/bin/rustup" ]; then
    # Debian 13 has rustup, Debian 12 has not.
    if apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
      as_root "$0" --packages rustup
    else
      command -v curl >/dev/null || as_root "$0" --packages curl ca-certificates
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal \
        --default-toolchain none --no-modify-path || die "$advice"
    fi
  fi
  PATH=$PATH:$HOME/.cargo/bin rustup toolchain install stable --profile minimal -c clippy -c rustfmt || die "$advice"
  PATH=$PATH:$HOME/.cargo/bin rustup default stable || die "$advice"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "this needs root, and there is no sudo. As root, run: $*"
  say "asking sudo for: $*"
  sudo "$@"
}

install_packages() {
  local MISSING=("$@") SYSTEMD i
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
}

if [ "${1:-}" = --packages ]; then
  shift
  install_packages "$@"
  exit
fi

MISSING=()
for package in "${WANTED[@]}"; do installed "$package" || MISSING+=("$package"); done
if [ ${#MISSING[@]} -gt 0 ]; then
  as_root "$0" --packages "${MISSING[@]}"
fi
install_rust

