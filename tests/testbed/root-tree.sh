#!/bin/bash
# root-tree.sh SUITE : build the root tree of the test container, once, and print its path
#
# SUITE is trixie (libvirt 11.3, QEMU 10.0, systemd 257) or bookworm (9.0.0, 7.2, 252).
# The tree holds a real systemd, D-Bus, polkit, libvirtd and QEMU from Debian packages; that of
# trixie also what guest-image.sh makes the guest of. It lands in the cache under a name that holds
# the recipe's hash, by a rename at the very end: what exists there is whole and up to date.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
SUITE=${1:-}
case $SUITE in trixie | bookworm) ;; *) usage ;; esac

TREE=$CACHE/root-$SUITE-$(recipe_of "$0")
if [ -d "$TREE" ]; then echo "$TREE"; exit 0; fi
need_root
need mmdebstrap dpkg-deb
lock "root-$SUITE"
if [ -d "$TREE" ]; then echo "$TREE"; exit 0; fi

PACKAGES=(
  systemd systemd-sysv libpam-systemd udev dbus polkitd
  libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
  swtpm swtpm-tools
  e2fsprogs kmod procps iproute2 util-linux less strace ca-certificates python3-libvirt python3-dbus
  openssh-client openssh-server
)
[ "$SUITE" = trixie ] && PACKAGES+=(busybox-static qemu-guest-agent)

# The leftovers of an interrupted build; we hold the lock, so nobody is at work on them.
rm -rf --one-file-system "$CACHE/root-$SUITE".new.*
NEW=$(mktemp -d "$CACHE/root-$SUITE.new.XXXXXX")
trap 'rm -rf --one-file-system "$NEW"' EXIT
LOG=$CACHE/root-$SUITE.log
T0=$SECONDS
say "building the root tree of Debian $SUITE (about half a minute; log: $LOG)"

# The guest's kernel is only unpacked, not installed: an installation would want an initramfs.
# Of its modules the guest needs virtio_blk; ext4 and the virtio console are built in.
HOOKS=()
if [ "$SUITE" = trixie ]; then
  # shellcheck disable=SC2016  # mmdebstrap's shell expands it
  HOOKS=(--customize-hook='set -e; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; cd "$1/var/tmp"
    deb=$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -n 1)
    apt-get -qq -o APT::Sandbox::User=root download "$deb"
    mkdir -p "$1/usr/lib/virtsnap-guest"
    dpkg-deb --fsys-tarfile "$deb"_*.deb |
      tar -x -C "$1/usr/lib/virtsnap-guest" --wildcards "./boot/vmlinuz-*" "*/virtio_blk.ko*"
    rm "$deb"_*.deb')
fi

mmdebstrap --variant=minbase --mode=root --include="$(IFS=,; echo "${PACKAGES[*]}")" \
  --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  "${HOOKS[@]}" \
  "$SUITE" "$NEW/root" </dev/null >"$LOG" 2>&1 || { tail -n 30 "$LOG" >&2; die "mmdebstrap failed"; }

# Nothing that wakes up by itself, and no login prompt on a console that is a pipe.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer man-db.timer motd-news.timer console-getty.service getty.target systemd-firstboot.service \
  qemu-guest-agent.service systemd-timesyncd.service ssh.service ssh.socket; do
  ln -sf /dev/null "$NEW/root/etc/systemd/system/$unit"
done
# An empty machine ID is taken from the container's UUID and isn't a "first boot" with presets.
: >"$NEW/root/etc/machine-id"
rm -f "$NEW/root/etc/hostname" "$NEW/root/etc/resolv.conf"
chmod 755 "$NEW"

# A tree of an older recipe goes, unless a container runs on it.
for old in "$CACHE/root-$SUITE"-*; do
  [ -d "$old" ] || continue
  grep -qsxF "tree=$old" "$RUN"/*.state || rm -rf --one-file-system "$old"
done
mv "$NEW/root" "$TREE"
say "root tree of $SUITE: $(du -sh "$TREE" | cut -f1), $((SECONDS - T0)) s"
echo "$TREE"
