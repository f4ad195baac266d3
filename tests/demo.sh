#!/bin/bash
# demo.sh: the main job, live: a real guest under a real systemd, libvirt and D-Bus, snapshotted by policy.
#
# Everything happens in a container of its own that is thrown away at the end; no libvirt and no VM of this host is
# touched. make demo installs what this needs. BINARIES: built ones to use instead of building.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

suite=${SUITE:-trixie}
name=virtsnap-demo-$$
container=tests/testbed/container.sh
binaries=${BINARIES:-}

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold= dim= plain=; fi
say() { printf '\n%s── %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
inside() { "$container" exec "$name" "$@"; }
show() { printf '%s# %s%s\n' "$bold" "$*" "$plain"; inside bash -c "$*"; }

trees() { tests/testbed/root-tree.sh "$suite" >/dev/null && tests/testbed/guest-image.sh >/dev/null; }

# Built by the user, all else done by root; beside the compiler where both are the same.
if [ -z "$binaries" ]; then
  say "Building (unoptimised, which takes a third of the time), and Debian root trees beside it, once"
  building_trees=
  if [ "$(id -u)" = 0 ]; then trees & building_trees=$!; fi
  cargo build --locked --bins
  if [ -n "$building_trees" ]; then wait "$building_trees"; fi
  binaries=target/debug
fi
if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=SUITE,NO_COLOR,VIRTSNAP_TESTBED BINARIES="$binaries" "$0" "$@"
fi

cleanup() { "$container" stop "$name" >/dev/null 2>&1 || true; }
trap cleanup EXIT
trap 'exit 130' INT TERM

say "A Debian container with systemd, D-Bus, libvirtd and QEMU, and one real guest in it"
note "(root trees and the guest are cached in ${VIRTSNAP_TESTBED:-/var/cache/virtsnap-testbed}; the first time takes a minute or two)"
trees
"$container" start "$name" "$suite" --owner=$$ >/dev/null
inside /src/tests/testbed/make-vm.sh web1 --disks 2 --start >/dev/null
show 'virsh version --daemon | grep -E "library|hypervisor|daemon"; virsh list; virsh domblklist web1'
show "virsh qemu-agent-command web1 '{\"execute\":\"guest-fsfreeze-status\"}'"
note "The guest's agent answers. A program in the guest writes a counter to each disk, ten times a second."

say "Installing virtsnap as a user would, with a policy that runs every minute and keeps the last two"
leader=$("$container" leader "$name")
make --no-print-directory -s install-files DESTDIR="/proc/$leader/root" BINARIES="$binaries" >/dev/null
inside bash -c 'cat > /etc/virtsnap/policies.d/minute.toml <<X
[policy.minute]
vms = ["web*"]
schedule = "* * * * *"
quiesce = "require"
keep-last = 2
X
sed -i "s/^#min-free = .*/min-free = \"1%\"/" /etc/virtsnap/virtsnapd.toml
systemd-sysusers 2>/dev/null; systemctl daemon-reload; systemctl reload dbus'
show 'cat /etc/virtsnap/policies.d/minute.toml'
show 'virtsnapd --check'
show 'systemctl start virtsnapd'
until [ "$(inside busctl get-property org.virtsnap1 /org/virtsnap1 org.virtsnap1.Manager State)" = 's "running"' ]; do
  sleep 0.2
done
show 'systemctl show virtsnapd -p User -p ActiveState -p StatusText'
show 'virtsnap run minute'

say "Waiting for the schedule: two more snapshots, and the oldest goes (at most two minutes)"
# Its shell would say that it was ended.
inside bash -c 'exec 2>/dev/null; journalctl -u virtsnapd -o cat -f -n 0 || true' &
follower=$!
deadline=$((SECONDS + 150))
while [ "$(inside bash -c 'journalctl -u virtsnapd -o cat | grep -c "deleted$" || true')" -lt 1 ]; do
  [ $SECONDS -lt $deadline ] || { echo "nothing was pruned in time" >&2; inside journalctl -u virtsnapd --no-pager; exit 1; }
  sleep 0.5
done
sleep 0.5
# In the container: to kill who waits for it out here would leave it there, writing on.
inside pkill -x journalctl || true
wait $follower 2>/dev/null || true

say "What there is now"
show 'virtsnap list web1'
show 'virtsnap plan web1'
show 'virsh snapshot-list --tree web1'

say "The same over D-Bus, for scripts and desktops"
# Debian 13's busctl complains on standard error of any service whose signals follow its methods.
show 'busctl tree --list org.virtsnap1 2>/dev/null | grep -E "vm/|policy/"'
# shellcheck disable=SC2016 # it is the container's shell that expands them
show 's=$(busctl tree --list org.virtsnap1 2>/dev/null | grep /snapshot/. | tail -1); for p in Name Consistency FrozenUSec SizeBytes Origin; do printf "%-12s " $p; busctl get-property org.virtsnap1 $s org.virtsnap1.Snapshot $p; done'
note "FrozenUSec: how long the guest's file systems were frozen at most, in microseconds."

say "The guest meanwhile"
for disk in vda vdb; do
  inside /src/tests/testbed/guest-exec.py web1 "awk 'NR>1 && \$1 != last+1 {lost=1} {last=\$1} END {print \"$disk: \" NR \" writes, \" (lost ? \"SOME LOST\" : \"none lost\")}' /run/writer-$disk.log" | tee "/tmp/$name.$disk"
  if ! grep -q 'none lost' "/tmp/$name.$disk"; then rm -f "/tmp/$name.$disk"; exit 1; fi
  rm -f "/tmp/$name.$disk"
done
show "virsh qemu-agent-command web1 '{\"execute\":\"guest-fsfreeze-status\"}'"

say "A minute with the client"
guest() { inside /src/tests/testbed/guest-exec.py web1 "$1"; }
tour() { printf '\n%s%s%s\n%s$ %s%s\n' "$dim" "$1" "$plain" "$bold" "$2" "$plain"; inside bash -c "$2"; }
tour "The policy stands still while somebody works on the VM, and everybody sees why." \
  "virtsnap suspend minute --reason 'a person shows the client'"
tour "How things are, what is wrong first. The exit status is for monitoring." "virtsnap status || echo \"exit status \$?\""
guest 'echo "works" >/mnt/vda/application; sync'
tour "A restore point by hand, with an end of its own: no policy prunes it before, or keeps it longer." \
  "virtsnap create web1 --name before-upgrade --description 'it works' --expires 7d"
guest 'echo "broken" >/mnt/vda/application; sync'
tour "What becomes of each, the newest first." "virtsnap list web1 --timeline"
note "An upgrade has broken the application in the guest. It reads: $(guest 'cat /mnt/vda/application')"
tour "Back to where it worked. What the guest wrote since is not lost: a safety snapshot is the way back." \
  "virtsnap revert web1 before-upgrade --start --yes"
note "The guest boots, and reads: $(guest 'until [ -e /mnt/vda/application ]; do sleep 0.2; done; cat /mnt/vda/application')"
until inside virtsnap show web1 --json | grep -q '"agent_connected": *true'; do sleep 0.2; done
tour "The same in one: guard puts the VM back if the command fails, and ends with the command's own exit status." \
  "virtsnap guard web1 -- sh -c 'echo the upgrade begins; exit 3' || echo \"exit status \$?\""
tour "What was taken on top of what; the star is where the VM is." "virtsnap list web1 --tree"
tour "What is not needed any more is merged away; the disks read as before." \
  "virtsnap delete web1 before-upgrade --recursive --yes || echo \"exit status \$?\""
tour "All of it was a job, which any program can follow on D-Bus." "virtsnap jobs | tail -n 8"

say "Done. The container is thrown away; nothing of this is left on the host."
