#!/bin/bash
# full-vm.sh : a full VM with a kernel of its own, for what a container cannot have: AppArmor
#
#   full-vm.sh start NAME SUITE [--owner=PID] [--files=DIR]
#                            the system of container.sh with AppArmor and an audit daemon, on that Debian's own kernel;
#                            pristine at each start: writes go to a file that ends with it. What is in DIR now is at
#                            /files. With an owner it stops by itself when that process is gone.
#   full-vm.sh exec NAME CMD…   a command in it, as root; without a time limit, so use timeout(1)
#   full-vm.sh console NAME     what it wrote to its console
#   full-vm.sh stop NAME        at once; nothing of it stays
#   full-vm.sh reap             stops those whose owner is gone
#
# QEMU is that of trixie's root tree, and emulates: what /dev/kvm is there may be of a kind that no stock kernel boots
# on. No network, no device and no socket but the one for commands.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

MEMORY=2048
# What a boot may take on a machine that has other things to do.
BOOT=600

check_name() { [[ ${1:-} =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || die "a full VM's name is lower-case letters, digits and '-', not '${1:-}'"; }
here() { echo "$RUN/full/$1"; }
get() { sed -n "s/^$2=//p" "$(here "$1")/state" 2>/dev/null || true; }
set_state() { echo "$2=$3" >>"$(here "$1")/state"; }

in_vm() {
  local name=$1
  shift
  "$TESTBED_SRC/full-vm-exec.py" "$(here "$name")/shell" "$(printf '%q ' "$@")"
}

# QEMU in its root tree, with what it wants to see of this host; in the place of this process.
boot() {
  local tree=$1 full=$2 dir=$3 files=$4 drives=()
  mount -t tmpfs -o size=1M tmpfs "$tree/mnt"
  mkdir "$tree"/mnt/{full,vm,scratch}
  mount --bind "$full" "$tree/mnt/full"
  mount --bind "$dir" "$tree/mnt/vm"
  mount --bind "$CACHE" "$tree/mnt/scratch"
  mount --rbind /dev "$tree/dev"
  mount -t proc proc "$tree/proc"
  # Reads fall through, writes go to a file that has no name any more.
  drives=(-drive "file=/mnt/full/root.img,if=virtio,format=raw,snapshot=on")
  [ -z "$files" ] || drives+=(-drive "file=/mnt/vm/files.img,if=virtio,format=raw,readonly=on")
  exec chroot "$tree" env -i TMPDIR=/mnt/scratch PATH=/usr/bin:/bin qemu-system-x86_64 \
    -accel tcg,thread=multi,tb-size=256 -cpu qemu64,svm=off -machine q35 -smp 2 -m $MEMORY \
    -nodefaults -no-user-config -display none -no-reboot -nic none \
    -kernel /mnt/full/vmlinuz -initrd /mnt/full/initramfs \
    -append "console=ttyS0 rw quiet panic=-1 mitigations=off nokaslr apparmor=1 security=apparmor audit=1 systemd.show_status=0" \
    "${drives[@]}" \
    -serial file:/mnt/vm/console -device virtio-serial \
    -chardev socket,id=shell,path=/mnt/vm/shell,server=on,wait=off \
    -device virtserialport,chardev=shell,name=org.virtsnap.shell
}

start() {
  local name=${1:-} suite=${2:-} owner='' files=''
  check_name "$name"
  [ -n "$suite" ] || usage
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --owner=*) owner=$(identity "${1#*=}") || die "no process ${1#*=}"; shift ;;
      --files=*) files=${1#*=}; shift ;;
      *) usage ;;
    esac
  done
  need unshare python3 mkfs.ext4
  local tree full dir qemu state deadline
  tree=$("$TESTBED_SRC/root-tree.sh" trixie)
  full=$("$TESTBED_SRC/full-tree.sh" "$suite")
  dir=$(here "$name")
  mkdir -p "$RUN/full"
  mkdir "$dir" 2>/dev/null || die "there is a full VM $name already"
  # From here on whatever goes wrong takes what there is of it with it.
  STARTING=$name
  trap 'stop "$STARTING"' EXIT
  set_state "$name" tree "$tree"
  set_state "$name" full "$full"
  [ -z "$owner" ] || set_state "$name" owner "$owner"
  if [ -n "$files" ]; then
    truncate -s "$(($(du -sm "$files" | cut -f1) * 2 + 16))M" "$dir/files.img"
    mkfs.ext4 -q -F -d "$files" -O ^has_journal -E root_owner=0:0 "$dir/files.img"
  fi

  setsid unshare --mount "$0" boot "$tree" "$full" "$dir" "$files" </dev/null >"$dir/qemu.log" 2>&1 &
  qemu=$!
  set_state "$name" qemu "$(identity $qemu || true)"
  deadline=$((SECONDS + BOOT))
  until [ -S "$dir/shell" ] && timeout 20 "$TESTBED_SRC/full-vm-exec.py" "$dir/shell" true 2>/dev/null; do
    if ! kill -0 $qemu 2>/dev/null || [ $SECONDS -gt $deadline ]; then
      cat "$dir/qemu.log" >&2
      tail -n 40 "$dir/console" >&2 || true
      die "the full VM $name does not come up"
    fi
    sleep 0.2
  done
  state=$(in_vm "$name" timeout $BOOT systemctl is-system-running --wait || true)
  if [ "$state" != running ]; then
    say "the full VM $name is $state:"
    in_vm "$name" systemctl --no-pager --failed >&2
    [ "$state" = degraded ] || exit 1
  fi
  [ -z "$files" ] || in_vm "$name" sh -c 'mkdir /files && mount -o ro /dev/vdb /files'
  if [ -n "$owner" ]; then
    setsid "$0" guard "$name" "$owner" </dev/null >/dev/null 2>&1 &
    set_state "$name" guard "$(identity $! || true)"
  fi
  trap - EXIT
}

# Waits for the end of the owner, then stops the VM, if it's still the same one.
guard() {
  local qemu
  qemu=$(get "$1" qemu)
  tail --pid="${2%%:*}" -f /dev/null
  [ "$(get "$1" qemu)" = "$qemu" ] && stop "$1"
}

stop() {
  local name=$1 dir qemu guard
  dir=$(here "$name")
  [ -d "$dir" ] || return 0
  qemu=$(get "$name" qemu)
  guard=$(get "$name" guard)
  if [ -n "$guard" ] && [ "${guard%%:*}" != $$ ] && alive "$guard"; then
    # Its process group: the guard and its tail.
    kill -TERM -- "-${guard%%:*}" 2>/dev/null || true
  fi
  # Its mounts are its own and go with it.
  while [ -n "$qemu" ] && alive "$qemu"; do
    kill -KILL "${qemu%%:*}" 2>/dev/null || true
    sleep 0.02
  done
  rm -rf --one-file-system "$dir"
}

reap() {
  local dir name owner
  for dir in "$RUN"/full/*; do
    name=${dir##*/}
    owner=$(get "$name" owner)
    [ -n "$owner" ] || continue
    alive "$owner" || { say "stopping $name: its owner is gone"; stop "$name"; }
  done
}

[ $# -gt 0 ] || usage
command=$1
shift
case $command in
  start) need_root; start "$@" ;;
  boot) boot "$@" ;;
  exec) check_name "${1:-}"; in_vm "$@" ;;
  console) check_name "${1:-}"; cat "$(here "$1")/console" ;;
  stop) need_root; check_name "${1:-}"; stop "$1" ;;
  guard) guard "$@" ;;
  reap) need_root; reap ;;
  *) usage ;;
esac
