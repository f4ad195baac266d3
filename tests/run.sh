#!/bin/bash
# run.sh [--quick|--full]: all tests, or all but those with real guests, or those in full VMs and no other. What make
# test, make test-quick, make test-full and CI run.
#
# Its last lines are the test runner's summary. The root trees of the containers are built beside the compiler, so
# that a new machine waits for the slower of the two only.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

quick=
[ "${1:-}" = --quick ] && quick=yes

if [ "${1:-}" = --full ]; then
  tests/testbed/full-tree.sh trixie
  tests/testbed/full-tree.sh bookworm
  if command -v cargo-nextest >/dev/null; then exec cargo nextest run --locked --profile full; fi
  exec cargo test --locked --test full_apparmor -- --test-threads=2 --nocapture
fi

say() { printf '\n== %s\n' "$*"; }

trees=
if [ -z "$quick" ]; then
  say "root trees of Debian 13 and 12, and the guest (cached in ${VIRTSNAP_TESTBED:-/var/cache/virtsnap-testbed})"
  log=$(mktemp)
  (
    tests/testbed/root-tree.sh trixie && tests/testbed/guest-image.sh && tests/testbed/root-tree.sh bookworm
  ) >"$log" 2>&1 &
  trees=$!
fi

say "building"
if command -v cargo-nextest >/dev/null; then
  cargo nextest run --locked --no-run
else
  echo "cargo-nextest is not installed: using cargo test, which shows less (cargo install --locked cargo-nextest)"
  cargo test --locked --no-run
fi

# Before the tests: one that compiles them first would take too long.
packaging/tools.sh cargo-deb cargo-generate-rpm

if [ -n "$trees" ]; then
  if ! wait "$trees"; then
    echo "the testbed could not be built:" >&2
    cat "$log" >&2
    exit 1
  fi
  rm -f "$log"
fi

say "examples in the documentation"
cargo test --locked --doc --quiet

say "tests"
without=()
if command -v cargo-nextest >/dev/null; then
  [ -z "$quick" ] || without=(-E 'not (binary(/^real_/) | binary(testbed_smoke) | (binary(contract) & test(/^(trixie|bookworm)/)))')
  exec cargo nextest run --locked "${without[@]}"
fi
without=(--skip full_trixie:: --skip full_bookworm::)
[ -z "$quick" ] || without+=(--skip trixie:: --skip bookworm::)
exec cargo test --locked --lib --bins --tests -- --test-threads=2 "${without[@]}"
