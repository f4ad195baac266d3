#!/bin/bash
# peers.sh : unpack the daemons that `make bench-scale` measures beside ours, once, and print where
#
# libvirt-dbus, snapperd and udisksd of Debian 13 with the libraries that they want, for a container of trixie. Only
# unpacked: none of them is started by being there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

TREE=$CACHE/peers-$(recipe_of "$0")
if [ -d "$TREE" ]; then echo "$TREE"; exit 0; fi
need_root
need mmdebstrap
lock peers
if [ -d "$TREE" ]; then echo "$TREE"; exit 0; fi

# The leftovers of an interrupted run; we hold the lock, so nobody is at work on them.
rm -rf --one-file-system "$CACHE"/peers.new.*
NEW=$(mktemp -d "$CACHE/peers.new.XXXXXX")
trap 'rm -rf --one-file-system "$NEW"' EXIT
say "unpacking libvirt-dbus, snapper and udisks2 (log: $CACHE/peers.log)"
mmdebstrap --variant=extract --mode=root --include=libvirt-dbus,snapper,udisks2 \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
  trixie "$NEW/root" </dev/null >"$CACHE/peers.log" 2>&1 || { tail -n 30 "$CACHE/peers.log" >&2; die "mmdebstrap failed"; }
# The daemons and what they load; of libvirt's client library the container has its own.
mkdir "$NEW/peers"
for part in usr/lib usr/libexec usr/sbin usr/share/dbus-1; do
  mkdir -p "$NEW/peers/$part"
  cp -a "$NEW/root/$part/." "$NEW/peers/$part/"
done
rm -rf "$NEW"/peers/usr/lib/{python3*,systemd,udev,locale,firmware,modules,x86_64-linux-gnu/{gconv,perl*}}
for old in "$CACHE"/peers-*; do [ ! -d "$old" ] || rm -rf --one-file-system "$old"; done
chmod 755 "$NEW/peers"
mv "$NEW/peers" "$TREE"
say "peers: $(du -sh "$TREE" | cut -f1)"
echo "$TREE"
