#!/bin/bash
# deb.sh [BINARIES [OUT [REVISION]]]: a Debian package of what `make install-files` installs; prints its path.
#
# BINARIES: the directory with the built virtsnapd, virtsnap and virtsnap-apparmor (target/release); OUT: the directory
# where the package goes (target); REVISION: of the package (1).
# A package runs on the Debian that it was built on and on newer ones.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export PATH="$HOME/.cargo/bin:$PATH"

packaging/tools.sh cargo-deb
exec 9>target/package.lock
flock 9
packaging/stage.sh deb "${1:-target/release}"
# Fast: xz at its highest saves little and takes minutes.
cargo deb --quiet --no-build --no-strip --fast --output "${2:-target}" --deb-revision "${3:-1}" \
  --maintainer "${DEBFULLNAME:-local build} <${DEBEMAIL:-root@localhost}>"
