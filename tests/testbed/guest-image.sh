#!/bin/bash
# guest-image.sh : build the tiny test guest, once, and print the directory that holds it
#
# In it: vmlinux and initramfs (Debian's cloud kernel, busybox, the real qemu-ga, a writer per
# disk; see guest/), and template.raw and template.qcow2, the 64 MiB ext4 disk that each of a
# guest's disks starts as. Made from the root tree of trixie, without the network. In the cache
# under a name that holds the recipe's hash, by a rename at the very end.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

ROOT=$("$TESTBED_SRC/root-tree.sh" trixie)
OUT=$CACHE/guest-$({ recipe_of "$0" "$TESTBED_SRC"/guest/*; echo "$ROOT"; } | sha256sum | cut -c1-12)
if [ -d "$OUT" ]; then echo "$OUT"; exit 0; fi
need_root
need gcc python3 zstd xz cpio mkfs.ext4 qemu-img
lock guest
if [ -d "$OUT" ]; then echo "$OUT"; exit 0; fi

rm -rf --one-file-system "$CACHE"/guest.new.*
NEW=$(mktemp -d "$CACHE/guest.new.XXXXXX")
trap 'rm -rf --one-file-system "$NEW"' EXIT
say "building the test guest"

# The kernel, uncompressed: QEMU boots an ELF kernel through PVH, which saves it decompressing
# itself under emulation. The setup header says where the payload lies; zstd's magic where it starts.
KERNEL=$ROOT/usr/lib/virtsnap-guest
IMAGE=$(echo "$KERNEL"/boot/vmlinuz-*)
mkdir "$NEW/out"
python3 - "$IMAGE" <<'PY' | zstd -qdc >"$NEW/out/vmlinux"
import struct, sys
image = open(sys.argv[1], 'rb').read()
offset, = struct.unpack_from('<I', image, 0x248)
length, = struct.unpack_from('<I', image, 0x24c)
start = (image[0x1f1] + 1) * 512 + offset
payload = image[start:start + length]
# The last four bytes are the decompressed size, appended by the kernel's build.
sys.stdout.buffer.write(payload[payload.find(b'\x28\xb5\x2f\xfd'):-4])
PY

I=$NEW/initramfs
mkdir -p "$I"/{bin,sbin,proc,sys,dev,run,tmp,mnt,usr/sbin,etc/qemu,lib/modules,var}
ln -s ../run "$I/var/run"
cp "$ROOT/usr/bin/busybox" "$I/bin/"
cp "$ROOT/usr/sbin/qemu-ga" "$I/usr/sbin/"
for library in $(chroot "$ROOT" ldd /usr/sbin/qemu-ga | grep -o '/[^ ]*'); do
  mkdir -p "$I/$(dirname "$library")"
  cp -L "$ROOT/$library" "$I/$library"
done
find "$KERNEL" -name '*.ko*' | while read -r module; do
  plain=$I/lib/modules/$(basename "${module%.ko*}").ko
  case $module in
    *.xz) xz -dc "$module" >"$plain" ;;
    *.zst) zstd -qdc "$module" >"$plain" ;;
    *) cp "$module" "$plain" ;;
  esac
done
cp "$TESTBED_SRC/guest/init" "$I/init"
cp "$TESTBED_SRC/guest/side-channel" "$I/bin/"
cp "$TESTBED_SRC/guest/fsfreeze-hook" "$I/etc/qemu/"
for name in shutdown poweroff reboot halt; do cp "$TESTBED_SRC/guest/poweroff" "$I/sbin/$name"; done
gcc -static -Os -Wall -Wextra -o "$I/bin/writer" "$TESTBED_SRC/guest/writer.c"
chmod 755 "$I/init" "$I"/bin/* "$I"/sbin/* "$I/etc/qemu/fsfreeze-hook"
(cd "$I" && find . | cpio --quiet -o -H newc -R 0:0) >"$NEW/out/initramfs"

# The disk: the counter's block is there before the guest first writes (see writer.c), and no lazy
# initialisation writes behind the tests' backs.
mkdir "$NEW/files"
printf '%016d\n' 0 >"$NEW/files/counter"
truncate -s 64M "$NEW/out/template.raw"
mkfs.ext4 -q -F -d "$NEW/files" -E lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0 "$NEW/out/template.raw"
qemu-img convert -q -f raw -O qcow2 "$NEW/out/template.raw" "$NEW/out/template.qcow2"

chmod 755 "$NEW/out"
for old in "$CACHE"/guest-*; do
  [ -d "$old" ] || continue
  grep -qsxF "guest=$old" "$RUN"/*.state || rm -rf --one-file-system "$old"
done
mv "$NEW/out" "$OUT"
say "test guest: $(du -sh "$OUT" | cut -f1)"
echo "$OUT"
