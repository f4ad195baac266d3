#!/bin/bash
# make-vm.sh NAME [OPTION…] : inside the container: define a VM that boots the test guest
#
#   --memory MIB       (default 96)
#   --disks N          vda, vdb … (default 1), each a copy of the 64 MiB template
#   --format FORMAT    qcow2 (default) or raw
#   --size MIB         a larger disk; its file system stays as it is
#   --dir DIR          where the disks go (default /var/lib/libvirt/images)
#   --no-channel       no agent channel in the XML
#   --append WORDS     more for the kernel's command line, e.g. "nowriter noagent"
#   --start            start it and wait until its agent answers (with --no-channel: just start)
#
# NAME may be anything that libvirt takes, also with spaces and '<'. Prints the VM's UUID, which is
# always the same for the same name. The side channel's socket is /run/virtsnap-guest/UUID.sock.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ $# -gt 0 ] || usage
NAME=$1
shift
MEMORY=96 DISKS=1 FORMAT=qcow2 SIZE='' DIR=/var/lib/libvirt/images CHANNEL=yes APPEND='' START=''
while [ $# -gt 0 ]; do
  case $1 in
    --memory) MEMORY=$2; shift 2 ;;
    --disks) DISKS=$2; shift 2 ;;
    --format) FORMAT=$2; shift 2 ;;
    --size) SIZE=$2; shift 2 ;;
    --dir) DIR=$2; shift 2 ;;
    --append) APPEND=$2; shift 2 ;;
    --no-channel) CHANNEL=''; shift ;;
    --start) START=yes; shift ;;
    *) usage ;;
  esac
done
[ -d /guest ] || die "make-vm.sh runs inside the container (container.sh run NAME /src/tests/testbed/make-vm.sh …)"

# xml TEXT : as XML content or attribute value.
xml() {
  local t=$1
  t=${t//&/\&amp;} t=${t//</\&lt;} t=${t//>/\&gt;} t=${t//\"/\&quot;} t=${t//\'/\&apos;}
  printf %s "${t//$'\n'/\&#10;}"
}

HASH=$(printf %s "$NAME" | md5sum)
UUID=${HASH:0:8}-${HASH:8:4}-${HASH:12:4}-${HASH:16:4}-${HASH:20:12}
# A file's name is the VM's where that is harmless.
FILE=$NAME
[[ $NAME =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || FILE="vm-${HASH:0:8}"

SIDE=/run/virtsnap-guest
mkdir -p "$SIDE" "$DIR"
chown libvirt-qemu "$SIDE"

disks=''
for ((i = 0; i < DISKS; i++)); do
  letters=abcdefghijklmnop
  dev=vd${letters:i:1}
  image=$DIR/$FILE-$dev.$FORMAT
  cp "/guest/template.$FORMAT" "$image.new"
  [ -z "$SIZE" ] || qemu-img resize -q -f "$FORMAT" "$image.new" "${SIZE}M"
  # As a new file: a leftover may be open in a QEMU that is about to end.
  mv "$image.new" "$image"
  disks+="<disk type='file' device='disk'><driver name='qemu' type='$FORMAT' discard='unmap'/>"
  disks+="<source file='$(xml "$image")'/><target dev='$dev' bus='virtio'/></disk>"
done

channel=''
[ -z "$CHANNEL" ] || channel="<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"

# What shortens an emulated boot: it saves self-tests, waits, and defences nobody attacks here.
QUICK="mitigations=off nokaslr cryptomgr.notests no_timer_check rcupdate.rcu_expedited=1 audit=0"
definition=$(mktemp)
trap 'rm -f "$definition"' EXIT
# qemu64: what emulation does fastest. tb-cache: else QEMU's translation cache dwarfs the guest.
cat >"$definition" <<XML
<domain type='qemu'>
  <name>$(xml "$NAME")</name>
  <uuid>$UUID</uuid>
  <memory unit='MiB'>$MEMORY</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/var/lib/virtsnap-guest/vmlinux</kernel>
    <initrd>/var/lib/virtsnap-guest/initramfs</initrd>
    <cmdline>$(xml "console=ttyS0 quiet panic=-1 tsc=unstable $QUICK $APPEND")</cmdline>
  </os>
  <features><acpi/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <cpu mode='custom' match='exact'><model fallback='allow'>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    $disks
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0'/>
    $channel
    <channel type='unix'>
      <source mode='bind' path='$SIDE/$UUID.sock'/>
      <target type='virtio' name='org.virtsnap.test.0'/>
    </channel>
    <serial type='file'><source path='/var/log/libvirt/qemu/$FILE-serial.log'/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
XML
virsh -q define "$definition" >&2

if [ -n "$START" ]; then
  virsh -q start "$UUID" >&2
  if [ -n "$CHANNEL" ]; then
    deadline=$((SECONDS + 60))
    until virsh -q qemu-agent-command "$UUID" '{"execute":"guest-ping"}' --timeout 2 >/dev/null 2>&1; do
      [ $SECONDS -le $deadline ] || die "the agent of '$NAME' does not answer"
      sleep 0.1
    done
  fi
fi
echo "$UUID"
