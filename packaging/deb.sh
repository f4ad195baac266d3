#!/bin/bash
# deb.sh [BINARIES [OUT [LEVEL]]]: a Debian package of what `make install-files` installs.
#
# BINARIES: the directory with the built virtsnapd, virtsnap and virtsnap-apparmor (target/release); OUT: where the package goes (target);
# LEVEL: how hard it is compressed, 0 to 9 (6).
# A package runs on the Debian that it was built on and on newer ones.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

binaries=${1:-target/release}
out=${2:-target}
level=${3:-6}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
package=$out/virtsnap_${version}_$architecture.deb

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
make --no-print-directory -s install-files DESTDIR="$root" BINARIES="$binaries"
install -D -m 644 LICENSE "$root/usr/share/doc/virtsnap/copyright"
install -m 644 README.md "$root/usr/share/doc/virtsnap/README.md"
gzip -9n "$root"/usr/share/man/man*/*
# What only a debugger reads; a release build has none.
strip --strip-debug "$root"/usr/bin/virtsnap* "$root"/usr/sbin/virtsnap*

# The newest interface of libc that any of them wants: built on a newer Debian, it is not to be installed on an older.
libc=$(objdump -T "$root"/usr/bin/virtsnap* "$root"/usr/sbin/virtsnap* | grep -o 'GLIBC_[0-9][0-9.]*' | cut -d_ -f2 | sort -V | tail -n 1)

install -d -m 755 "$root/DEBIAN"
install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$root/DEBIAN/"
# Those that an administrator removes stay removed.
printf '%s\n' /etc/virtsnap/virtsnapd.toml /etc/polkit-1/rules.d/50-virtsnap-libvirt.rules >"$root/DEBIAN/conffiles"
cat >"$root/DEBIAN/control" <<EOF
Package: virtsnap
Version: $version
Architecture: $architecture
Maintainer: ${DEBFULLNAME:-local build} <${DEBEMAIL:-root@localhost}>
Section: admin
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $libc), libgcc-s1, libvirt0 (>= 9.0), default-dbus-system-bus | dbus-system-bus | dbus, systemd (>= 252)
Recommends: libvirt-daemon-system, polkitd | policykit-1, qemu-utils
Description: snapshots of libvirt/QEMU virtual machines by policy
 A service that takes snapshots of virtual machines on a schedule, with the guest's
 file systems frozen through its agent, keeps and prunes them by rules that explain
 themselves, and puts all of it on D-Bus; and its command-line client.
EOF
dpkg-deb --root-owner-group -Zxz -z"$level" -b "$root" "$package" >/dev/null
echo "$package"
