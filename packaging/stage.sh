#!/bin/bash
# stage.sh FORMAT BINARIES: lays out in target/package/FORMAT what a package of that format (deb, rpm) holds.
#
# BINARIES: the directory with the built virtsnapd, virtsnap and virtsnap-apparmor. All of it is what `make install-files`
# installs, and what belongs to a package only: compressed man pages, licences, no debug information.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

format=$1
binaries=$2
root=target/package/$format
doc=$root/usr/share/doc/virtsnap

rm -rf "$root"
case $format in
  deb)
    make --no-print-directory -s install-files DESTDIR="$root" BINARIES="$binaries"
    install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/virtsnap"
    ;;
  rpm)
    make --no-print-directory -s install-files DESTDIR="$root" BINARIES="$binaries" \
      zshdir=/usr/share/zsh/site-functions
    install -D -m 644 -t "$root/usr/share/licenses/virtsnap" LICENSE
    ;;
  *) echo "stage.sh: no such format: $format" >&2; exit 2 ;;
esac
install -D -m 644 -t "$doc" README.md
packaging/licences.py >"$doc/third-party-licenses.txt"
gzip -9n "$root"/usr/share/man/man*/* "$doc/third-party-licenses.txt"
# What only a debugger reads; a release build has none.
strip --strip-unneeded "$root"/usr/bin/* "$root"/usr/sbin/*
