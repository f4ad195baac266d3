# shellcheck shell=bash
# lib.sh : what the testbed's scripts share. Sourced, never run.
#
# Environment:
#   VIRTSNAP_TESTBED   where root trees and the guest's image are cached
#                      (default /var/cache/virtsnap-testbed; never inside the repository)

# shellcheck disable=SC2034  # the sourcing scripts use these
TESTBED_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
REPO=$(cd "$TESTBED_SRC/../.." && pwd -P)
CACHE=${VIRTSNAP_TESTBED:-/var/cache/virtsnap-testbed}
RUN=/run/virtsnap-testbed

# Everything meant for people goes to stderr: stdout carries results (paths, pids).
say() { echo "testbed: $*" >&2; }
die() { say "$*"; exit 1; }

# usage : print the calling script's header comment and fail.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }

need_root() { [ "$(id -u)" = 0 ] || die "$(basename "$0") needs root (containers and chown): run it with sudo"; }

# need COMMAND… : these must be there.
need() {
  local command
  for command; do
    command -v "$command" >/dev/null || die "$command is missing: run $TESTBED_SRC/host-packages.sh test"
  done
}

# recipe_of FILE... : a short name for what these files say, so that a changed recipe builds anew.
recipe_of() { cat "$@" | sha256sum | cut -c1-12; }

# lock NAME : one builder at a time; the others wait here and then find the work done.
# The lock goes with the process.
lock() {
  mkdir -p "$CACHE"
  exec {LOCK_FD}>"$CACHE/$1.lock"
  flock "$LOCK_FD"
}

# A process is named by its PID and its start time, since PIDs are used again.
identity() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # The second field is the command in parentheses, which may hold anything.
  # shellcheck disable=SC2086
  set -- "$1" ${stat##*) }
  [ "$2" != Z ] && echo "$1:${21}"
}
alive() { [ "$(identity "${1%%:*}" || true)" = "$1" ]; }
