#!/bin/bash
# container.sh : a container with a real systemd, D-Bus, polkit, libvirtd and QEMU
#
#   container.sh start NAME SUITE [--owner=PID] [NSPAWN-OPTION…]
#                               pristine at each start: writes go to memory and end with it. The
#                               repository is at /src, the guest at /guest, both read-only. With an
#                               owner it stops by itself when that process is gone.
#   container.sh exec NAME CMD…   a command in it, in the caller's cgroup
#   container.sh run NAME CMD…    the same as a transient unit of its systemd
#   container.sh leader NAME      the process that is its PID 1
#   container.sh stop NAME        at once; nothing of it stays
#   container.sh reap             stops those whose owner is gone
#   container.sh list             name, suite, leader and owner of each
#
# Several run side by side under names of their own. It has a network of its own without a way out
# and shares no socket with the host: the host's libvirt is out of its reach. Works on a host whose
# PID 1 is systemd, and on one with any other PID 1 and any layout of cgroups.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

ENV=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8)

# Added to qemu.conf before libvirtd starts. Without this filter libvirt asks each QEMU, one by one, for some 480 features
# of its guest's processor, which makes 0.8 s out of 0.2 s for each start of a VM.
SETTINGS='w+ /etc/libvirt/qemu.conf - - - - capability_filters = [ "cpu-unavailable-features" ]'

check_name() { [[ ${1:-} =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || die "a container's name is lower-case letters, digits and '-', not '${1:-}'"; }
get() { sed -n "s/^$2=//p" "$RUN/$1.state" 2>/dev/null || true; }
set_state() { echo "$2=$3" >>"$RUN/$1.state"; }

leader_of() {
  local leader
  leader=$(get "$1" leader)
  alive "${leader:-none}" || die "container $1 is not running"
  echo "${leader%%:*}"
}

enter() {
  local leader=$1
  shift
  exec nsenter -t "$leader" -m -u -i -n -p -C -r -w "${ENV[@]}" "$@"
}

# nspawn's child that is PID 1 of the new PID namespace; nspawn has short-lived others before.
find_leader() {
  local child
  for child in $(pgrep -P "$1" || true); do
    [ "$(awk '/^NSpid:/ {print $NF, NF}' "/proc/$child/status" 2>/dev/null)" = "1 3" ] && echo "$child" && return
  done
  return 1
}

# nspawn hands the container a pure cgroup2 tree. It wants one mounted on the host, which on a host
# without systemd may be anywhere or nowhere.
cgroup2_mount() {
  local at
  at=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
  if [ -z "$at" ]; then
    at=/sys/fs/cgroup
    # With cgroup v1 on a tmpfs there, the v2 tree goes beside it, where nspawn looks for it.
    [ "$(stat -f -c %T $at)" = tmpfs ] && at=$at/unified
    mkdir -p "$at"
    mount -t cgroup2 cgroup2 "$at"
  fi
  echo "$at"
}

start() {
  local name=${1:-} suite=${2:-} owner='' options=()
  check_name "$name"
  [ -n "$suite" ] || usage
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --owner=*) owner=$(identity "${1#*=}") || die "no process ${1#*=}"; shift ;;
      *) options+=("$1"); shift ;;
    esac
  done
  need systemd-nspawn nsenter pgrep
  local tree guest
  tree=$("$TESTBED_SRC/root-tree.sh" "$suite")
  guest=$("$TESTBED_SRC/guest-image.sh")
  mkdir -p "$RUN"
  (set -o noclobber; : >"$RUN/$name.state") 2>/dev/null || die "there is a container $name already"
  # From here on whatever goes wrong takes what there is of the container with it.
  STARTING=$name
  trap 'stop "$STARTING"' EXIT
  set_state "$name" suite "$suite"
  set_state "$name" tree "$tree"
  set_state "$name" guest "$guest"
  [ -z "$owner" ] || set_state "$name" owner "$owner"

  local scope=() cgroup=''
  if [ -d /run/systemd/system ]; then
    scope=(systemd-run --quiet --scope --collect --slice=machine.slice
      --unit="virtsnap-testbed-$name" --property=Delegate=yes)
  else
    cgroup=$(cgroup2_mount)/virtsnap-testbed-$name
    mkdir -p "$cgroup"
    set_state "$name" cgroup "$cgroup"
  fi

  # SYSTEMD_NSPAWN_LOCK: the tree is only read, so several containers may share it.
  # The inner subshell moves itself into the cgroup, from where nspawn then takes it.
  (
    [ -z "$cgroup" ] || echo "$BASHPID" >"$cgroup/cgroup.procs"
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
    exec setsid "${scope[@]}" systemd-nspawn --quiet --register=no --keep-unit --machine="$name" --hostname="$name" \
      --directory="$tree" --volatile=overlay --private-network --capability=all \
      --resolv-conf=off --timezone=off --link-journal=no \
      --bind-ro="$REPO:/src" --bind-ro="$guest:/guest" "${options[@]}" \
      --set-credential=tmpfiles.extra:"$SETTINGS" \
      --console=pipe --boot systemd.journald.forward_to_console=0
  ) </dev/null >"$RUN/$name.console" 2>&1 &
  local nspawn=$! leader='' deadline=$((SECONDS + 60))
  set_state "$name" nspawn "$(identity $nspawn || true)"
  until leader=$(find_leader $nspawn) && [ -S "/proc/$leader/root/run/systemd/private" ]; do
    if ! kill -0 $nspawn 2>/dev/null || [ $SECONDS -gt $deadline ]; then
      cat "$RUN/$name.console" >&2
      die "the container $name does not come up"
    fi
    sleep 0.05
  done
  set_state "$name" leader "$(identity "$leader")"
  local state
  state=$(enter "$leader" timeout 60 systemctl is-system-running --wait || true)
  if [ "$state" != running ]; then
    say "the container $name is $state:"
    (enter "$leader" systemctl --no-pager --failed) >&2
    [ "$state" = degraded ] || exit 1
  fi
  capabilities "$leader" "$tree.capabilities"
  # libvirt changes the owner of the kernel and initramfs that it boots: give it its own.
  (enter "$leader" sh -c 'mkdir -p /var/lib/virtsnap-guest && cp /guest/vmlinux /guest/initramfs /var/lib/virtsnap-guest/')
  if [ -n "$owner" ]; then
    setsid "$0" guard "$name" "$owner" </dev/null >/dev/null 2>&1 &
    set_state "$name" guard "$(identity $! || true)"
  fi
  trap - EXIT
}

# capabilities LEADER KEPT : libvirt asks a QEMU that it does not know yet for all that it can, which takes a second or
# two. It asks again where what it kept does not fit, so that this is never wrong.
capabilities() {
  local there=/proc/$1/root/var/cache/libvirt/qemu/capabilities kept=$2 new
  if [ -d "$kept" ]; then
    mkdir -p "$there"
    cp -a "$kept/." "$there/"
    return
  fi
  (enter "$1" virsh -q capabilities) >/dev/null
  new=$(mktemp -d "$kept.XXXXXX")
  cp -a "$there/." "$new/"
  # Another may have been faster.
  mv -T "$new" "$kept" 2>/dev/null || rm -rf "$new"
}

# Waits for the end of the owner, then stops the container, if it's still the same one.
guard() {
  local leader
  leader=$(get "$1" leader)
  tail --pid="${2%%:*}" -f /dev/null
  [ "$(get "$1" leader)" = "$leader" ] && stop "$1"
}

stop() {
  local name=$1 nspawn leader guard cgroup deadline
  [ -e "$RUN/$name.state" ] || return 0
  nspawn=$(get "$name" nspawn)
  leader=$(get "$name" leader)
  guard=$(get "$name" guard)
  cgroup=$(get "$name" cgroup)
  if [ -z "$leader" ] && [ -n "$nspawn" ] && alive "$nspawn"; then
    leader=$(find_leader "${nspawn%%:*}") && leader=$(identity "$leader") || leader=''
  fi
  if [ -n "$guard" ] && [ "${guard%%:*}" != $$ ] && alive "$guard"; then
    # Its process group: the guard and its tail.
    kill -TERM -- "-${guard%%:*}" 2>/dev/null || true
  fi
  # A pristine overlay needs no clean end. PID 1 takes all its processes with it; nspawn then ends
  # by itself. Killed first, nspawn would leave the container behind.
  if [ -n "$leader" ] && alive "$leader"; then kill -KILL "${leader%%:*}" 2>/dev/null || true; fi
  deadline=$((SECONDS + 10))
  while [ -n "$nspawn" ] && alive "$nspawn"; do
    [ $SECONDS -le $deadline ] || kill -KILL "${nspawn%%:*}" 2>/dev/null || true
    sleep 0.02
  done
  if [ -n "$cgroup" ] && [ -d "$cgroup" ]; then
    [ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill"
    # A killed process leaves its cgroup a moment later.
    deadline=$((SECONDS + 10))
    until find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || [ ! -d "$cgroup" ] || [ $SECONDS -gt $deadline ]; do
      sleep 0.05
    done
  fi
  rm -f "$RUN/$name.console" "$RUN/$name.state"
}

names() {
  local state
  for state in "$RUN"/*.state; do
    [ -e "$state" ] || continue
    state=${state##*/}
    echo "${state%.state}"
  done
}

reap() {
  local name owner
  for name in $(names); do
    owner=$(get "$name" owner)
    [ -n "$owner" ] || continue
    alive "$owner" || { say "stopping $name: its owner is gone"; stop "$name"; }
  done
}

list() {
  local name
  for name in $(names); do
    echo "$name $(get "$name" suite) leader=$(get "$name" leader) owner=$(get "$name" owner)"
  done
}

[ $# -gt 0 ] || usage
command=$1
shift
case $command in
  start) need_root; start "$@" ;;
  exec) check_name "${1:-}"; LEADER=$(leader_of "$1"); shift; enter "$LEADER" "$@" ;;
  run)
    check_name "${1:-}"; LEADER=$(leader_of "$1"); shift
    enter "$LEADER" systemd-run --quiet --pipe --wait --collect "$@"
    ;;
  leader) check_name "${1:-}"; leader_of "$1" ;;
  stop) need_root; check_name "${1:-}"; stop "$1" ;;
  guard) guard "$@" ;;
  reap) need_root; reap ;;
  list) list ;;
  *) usage ;;
esac
