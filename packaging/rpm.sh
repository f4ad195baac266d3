#!/bin/bash
# rpm.sh [BINARIES [OUT [REVISION]]]: an RPM package of what `make install-files` installs; prints its path.
#
# BINARIES: the directory with the built virtsnapd, virtsnap and virtsnap-apparmor (target/release); OUT: the directory
# where the package goes (target); REVISION: of the package, rpm's release (1).
# A package runs where libc is as new as where it was built: build it on the distribution that it is for.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export PATH="$HOME/.cargo/bin:$PATH"

packaging/tools.sh cargo-generate-rpm
exec 9>target/package.lock
flock 9
packaging/stage.sh rpm "${1:-target/release}"
out=$(readlink -f "${2:-target}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package=$out/virtsnap-$version-${3:-1}.$(uname -m).rpm
# gzip: every rpm unpacks it, and zstd as it is used here takes ten times as long.
cargo generate-rpm --auto-req /usr/lib/rpm/find-requires --set-metadata "release = \"${3:-1}\"" \
  --payload-compress gzip --output "$package"
echo "$package"
