#!/bin/bash
# full-tree.sh SUITE : build what a full VM boots, once, and print the directory that holds it
#
# In it: root.img, the file system of the test container (root-tree.sh) with AppArmor, the audit daemon and the
# kernel's modules in it; vmlinuz and initramfs, of that Debian's cloud kernel. Packages come with apt from where the
# root tree's come from. In the cache under a name that holds the recipe's hash, by a rename at the very end.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
SUITE=${1:-}
case $SUITE in trixie | bookworm) ;; *) usage ;; esac

ROOT=$("$TESTBED_SRC/root-tree.sh" "$SUITE")
# For its busybox, which runs on any kernel.
TRIXIE=$("$TESTBED_SRC/root-tree.sh" trixie)
OUT=$CACHE/full-$SUITE-$({ recipe_of "$0" "$TESTBED_SRC"/full/*; echo "$ROOT"; } | sha256sum | cut -c1-12)
if [ -d "$OUT" ]; then echo "$OUT"; exit 0; fi
need_root
need mkfs.ext4 cpio xz zstd
lock "full-$SUITE"
if [ -d "$OUT" ]; then echo "$OUT"; exit 0; fi

# The leftovers of an interrupted build; we hold the lock, so nobody is at work on them.
rm -rf --one-file-system "$CACHE/full-$SUITE".new.*
NEW=$(mktemp -d "$CACHE/full-$SUITE.new.XXXXXX")
trap 'rm -rf --one-file-system "$NEW"' EXIT
LOG=$CACHE/full-$SUITE.log
T0=$SECONDS
PACKAGES=(apparmor auditd)
say "building the full VM of Debian $SUITE: its root tree, ${PACKAGES[*]} and linux-image-cloud-amd64 (log: $LOG)"

TREE=$NEW/tree
build() {
  cp -a "$ROOT" "$TREE"
  cp -L /etc/resolv.conf "$TREE/etc/resolv.conf"
  local in_tree=(chroot "$TREE" env DEBIAN_FRONTEND=noninteractive) deb
  "${in_tree[@]}" apt-get -q update
  "${in_tree[@]}" apt-get -q -y --no-install-recommends install "${PACKAGES[@]}"
  # The kernel is only unpacked, not installed: an installation would want an initramfs.
  # shellcheck disable=SC2016  # the tree's shell expands it
  "${in_tree[@]}" sh -ec 'mkdir /var/tmp/kernel; cd /var/tmp/kernel
    apt-get -q -o APT::Sandbox::User=root download \
      "$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -n 1)"'
  deb=$(echo "$TREE"/var/tmp/kernel/*.deb)
  dpkg-deb -x "$deb" "$NEW/kernel"
  rm -r "$TREE/var/tmp/kernel"
  "${in_tree[@]}" apt-get -q clean
  rm -rf "$TREE"/var/lib/apt/lists/* "$TREE/etc/resolv.conf"

  local version modules
  cp "$NEW"/kernel/boot/vmlinuz-* "$NEW/out/vmlinuz"
  # It lies in /lib or in /usr/lib, as that Debian has it; in the tree these are the same.
  modules=$(echo "$NEW"/kernel/{usr/,}lib/modules/*/kernel | tr ' ' '\n' | grep -v '\*' | head -n 1)
  modules=${modules%/kernel}
  version=${modules##*/}
  mkdir -p "$TREE/usr/lib/modules"
  cp -a "$modules" "$TREE/usr/lib/modules/"
  chroot "$TREE" depmod "$version"

  local initramfs=$NEW/initramfs module plain
  mkdir -p "$initramfs"/{bin,dev,root,lib}
  cp "$TRIXIE/usr/bin/busybox" "$initramfs/bin/"
  install -m 755 "$TESTBED_SRC/full/init" "$initramfs/init"
  # What is built in is named as such, and needs no file.
  chroot "$TREE" modprobe -a -S "$version" --show-depends virtio_pci virtio_blk virtio_console ext4 |
    sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' |
    while read -r module; do
      plain=$(basename "$module")
      plain=${plain%.ko*}.ko
      case $module in
        *.xz) xz -dc "$TREE/$module" ;;
        *.zst) zstd -qdc "$TREE/$module" ;;
        *) cat "$TREE/$module" ;;
      esac >"$initramfs/lib/$plain"
      echo "$plain" >>"$initramfs/modules"
    done
  (cd "$initramfs" && find . | cpio --quiet -o -H newc -R 0:0) >"$NEW/out/initramfs"

  install -m 755 "$TESTBED_SRC/full/shell.py" "$TREE/usr/local/sbin/virtsnap-test-shell"
  install -m 644 "$TESTBED_SRC/full/shell.service" "$TREE/etc/systemd/system/virtsnap-test-shell.service"
  ln -s ../virtsnap-test-shell.service "$TREE/etc/systemd/system/multi-user.target.wants/"
  # Under emulation the parser takes a minute and a half for the hundred profiles of trixie: libvirt's are enough.
  local profile
  mkdir -p "$TREE/etc/apparmor.d/disable"
  for profile in "$TREE"/etc/apparmor.d/*; do
    case ${profile##*/} in
      *libvirt*) ;;
      *) [ -d "$profile" ] || ln -sf "/etc/apparmor.d/${profile##*/}" "$TREE/etc/apparmor.d/disable/" ;;
    esac
  done
  # Loaded many times for each merge; with this it takes half as long.
  echo Optimize=no-expr-simplify >>"$TREE/etc/apparmor/parser.conf"
  # Else the first boot has much to update.
  touch "$TREE/etc/.updated" "$TREE/var/.updated"
  echo full >"$TREE/etc/hostname"
  truncate -s 4G "$NEW/out/root.img"
  mkfs.ext4 -q -F -d "$TREE" -E lazy_itable_init=0,lazy_journal_init=0 "$NEW/out/root.img"
}
mkdir "$NEW/out"
set +e
# Not as a condition: there a failing command in it would not end it.
(set -ex; build) </dev/null >"$LOG" 2>&1
status=$?
set -e
if [ $status != 0 ]; then tail -n 30 "$LOG" >&2; die "the full VM could not be built"; fi

for old in "$CACHE/full-$SUITE"-*; do
  [ -d "$old" ] || continue
  grep -qsxF "full=$old" "$RUN"/full/*/state || rm -rf --one-file-system "$old"
done
chmod 755 "$NEW/out"
mv "$NEW/out" "$OUT"
say "full VM of $SUITE: $(du -sh "$OUT" | cut -f1), $((SECONDS - T0)) s"
echo "$OUT"
