# Two commands matter: `make demo` shows it, `make test` proves it. Both install what is missing (and say so), may
# be run again and again, and touch no libvirt and no VM of yours: guests run in containers of their own.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

DESTDIR  ?=
prefix   ?= /usr
bindir   ?= $(prefix)/bin
sbindir  ?= $(prefix)/sbin
libdir   ?= $(prefix)/lib
datadir  ?= $(prefix)/share
# Debian's place; others have $(datadir)/zsh/site-functions.
zshdir   ?= $(datadir)/zsh/vendor-completions
# Where the built binaries are.
BINARIES ?= target/release

# How long each target is fuzzed, in seconds.
FUZZ_TIME ?= 60

# So many random runs are simulated.
SEEDS ?= 1000

TESTBED := tests/testbed

.PHONY: help build deb rpm demo test test-quick test-full lint bench bench-real bench-scale simulate fuzz deny install install-files clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make build         the daemon and the client, optimised, in target/release
build: build-packages
	cargo build --release --locked

.PHONY: build-packages package-packages test-packages
build-packages:
	@$(TESTBED)/host-packages.sh build

package-packages:
	@$(TESTBED)/host-packages.sh package

test-packages:
	@$(TESTBED)/host-packages.sh test

## make demo          a real guest, real snapshots, live, in a container (a few minutes; the build is most of it)
demo: test-packages
	@tests/demo.sh

## make test          everything: unit, property, private bus, real guests on Debian 13 and Debian 12
test: build-packages test-packages
	@tests/run.sh

## make test-quick    the same without real guests
test-quick: test-packages
	@tests/run.sh --quick

## make test-full     what wants AppArmor, in full VMs of both Debians with their own kernels (two hours on two cores; no part of make test)
test-full: build-packages test-packages
	@tests/run.sh --full

## make lint          formatting and clippy, warnings are errors
lint: build-packages
	cargo fmt --all -- --check
	cargo fmt --manifest-path fuzz/Cargo.toml -- --check
	cargo clippy --locked --all-targets -- -D warnings

## make bench         the benchmarks that need no guest
bench: build-packages
	cargo bench --locked --bench retention

## make bench-real    how long real guests are frozen, and what pruning copies, with virsh beside it (some minutes)
bench-real: build-packages test-packages
	cargo bench --locked --bench real

## make bench-scale   1,000 VMs of 20 snapshots on the bus, and 100 when nothing happens, with libvirt-dbus, snapperd, udisksd and virsh beside (some minutes)
bench-scale: build-packages test-packages
	cargo bench --locked --bench scale

## make simulate      trouble at every boundary of every operation, and SEEDS random runs, 1000 if not said (half an hour)
simulate: build-packages
	VIRTSNAP_EVERY=1 VIRTSNAP_SEEDS=$(SEEDS) VIRTSNAP_VMS=1000 cargo nextest run --locked --test simulation --success-output immediate

## make fuzz          each fuzz target for FUZZ_TIME seconds, 60 if not said (needs cargo-fuzz)
# Without a sanitizer: there is hardly any `unsafe` to look for, and the variable lets the stable compiler take
# cargo-fuzz's flags. What is found lies in fuzz/artifacts; fixed, it belongs into fuzz/seeds, which cargo test replays.
fuzz: build-packages
	@command -v cargo-fuzz >/dev/null || { echo "this needs cargo-fuzz: cargo install --locked cargo-fuzz" >&2; exit 1; }
	@set -e; for target in $(notdir $(wildcard fuzz/seeds/*)); do \
	  echo "== $$target, $(FUZZ_TIME) s"; \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_TIME) -max_len=4096 -timeout=10 -report_slow_units=1; \
	done

## make deny          licences and advisories of what this is built on (needs cargo-deny)
deny:
	cargo deny --locked check

## make deb           a Debian package, in target/
deb: build package-packages
	@packaging/deb.sh

## make rpm           an RPM package, in target/
rpm: build package-packages
	@packaging/rpm.sh

## make install       into DESTDIR; then: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl reload dbus && journalctl --update-catalog
install: build install-files

# Separate, so that a package build and the tests install exactly what a user does.
install-files:
	install -D -m 755 -t $(DESTDIR)$(bindir) $(BINARIES)/virtsnapd $(BINARIES)/virtsnap
	install -D -m 755 -t $(DESTDIR)$(sbindir) $(BINARIES)/virtsnap-apparmor
	install -D -m 644 -t $(DESTDIR)$(libdir)/systemd/system systemd/*.service systemd/*.socket
	sed -i 's,=\(-\?\)/usr/bin/virtsnap,=\1$(bindir)/virtsnap,; s,=\(-\?\)/usr/sbin/virtsnap,=\1$(sbindir)/virtsnap,' \
	  $(patsubst systemd/%,$(DESTDIR)$(libdir)/systemd/system/%,$(wildcard systemd/*.service))
	install -D -m 644 -t $(DESTDIR)$(libdir)/systemd/system-preset systemd/90-virtsnapd.preset
	install -D -m 644 -t $(DESTDIR)$(libdir)/systemd/catalog systemd/virtsnap.catalog
	install -D -m 644 systemd/virtsnap.sysusers.conf $(DESTDIR)$(libdir)/sysusers.d/virtsnap.conf
	install -D -m 644 systemd/virtsnap.tmpfiles.conf $(DESTDIR)$(libdir)/tmpfiles.d/virtsnap.conf
	install -D -m 644 -t $(DESTDIR)$(datadir)/dbus-1/system.d dbus/org.virtsnap1.conf
	install -D -m 644 -t $(DESTDIR)$(datadir)/dbus-1/system-services dbus/org.virtsnap1.service
	install -D -m 644 -t $(DESTDIR)$(datadir)/dbus-1/interfaces dbus/org.virtsnap1.*.xml
	install -D -m 644 -t $(DESTDIR)$(datadir)/polkit-1/actions polkit/org.virtsnap1.policy
	install -D -m 644 -t $(DESTDIR)$(datadir)/polkit-1/rules.d polkit/60-virtsnap.rules
	install -d -m 755 $(DESTDIR)/etc/virtsnap/policies.d
	test -e $(DESTDIR)/etc/polkit-1/rules.d/50-virtsnap-libvirt.rules || \
	  install -D -m 644 -t $(DESTDIR)/etc/polkit-1/rules.d polkit/50-virtsnap-libvirt.rules
	test -e $(DESTDIR)/etc/virtsnap/virtsnapd.toml || install -m 644 config/virtsnapd.toml $(DESTDIR)/etc/virtsnap/
	install -m 644 config/policies.d/README $(DESTDIR)/etc/virtsnap/policies.d/
	install -D -m 644 -t $(DESTDIR)$(datadir)/doc/virtsnap/examples config/examples/*.toml examples/*
	install -D -m 644 -t $(DESTDIR)$(datadir)/man/man5 man/org.virtsnap1.5 man/virtsnap-policy.5
	install -D -m 644 -t $(DESTDIR)$(datadir)/man/man1 man/virtsnap.1
	install -D -m 644 -t $(DESTDIR)$(datadir)/man/man8 man/virtsnap-apparmor.8 man/virtsnapd.8
	install -D -m 644 packaging/completion/virtsnap.bash $(DESTDIR)$(datadir)/bash-completion/completions/virtsnap
	install -D -m 644 -t $(DESTDIR)$(zshdir) packaging/completion/_virtsnap
	install -D -m 644 -t $(DESTDIR)$(datadir)/fish/vendor_completions.d packaging/completion/virtsnap.fish

clean:
	cargo clean
