# Everything that one does with a checkout; `make` lists it. Not root: what needs root goes through sudo.

# A rustup that was installed a minute ago is in no shell's PATH yet; nft and ip may not be in a user's.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
RUST_MIN := 1.85

# What the build, the daemon's demo and the tests need beside Rust.
PACKAGES := libnetfilter-conntrack-dev libclang-dev pkg-config build-essential \
	nftables iproute2 conntrack curl python3 procps
SCRIPTS := demo/run.sh .ci/run tests/openapi/run.sh tests/sanitize/run.sh debian/vendor.sh tests/packages/lint.sh \
	tests/packages/run.sh

# What is run here needs root: cargo builds as the user, and starts what it has built through sudo.
define AS_ROOT
if [ -n "$(SUDO)" ] && command -v sudo >/dev/null; then \
	host=$$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_'); \
	set -- env "CARGO_TARGET_$${host}_RUNNER=sudo -E"; \
fi
endef

# Where `make install-files` puts things, under DESTDIR; the packages set what is otherwise with them.
prefix := /usr
bindir := $(prefix)/bin
mandir := $(prefix)/share/man
bashdir := $(prefix)/share/bash-completion/completions
fishdir := $(prefix)/share/fish/vendor_completions.d
zshdir := $(prefix)/share/zsh/site-functions
INSTALL = install -D -p -m 644

# Packages are built in a tree of their own; the second finds the programs that the first has built.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
PACKAGED := target/package
TREE := $(CURDIR)/$(PACKAGED)/pynatconnd-$(VERSION)
# The toolchain itself: what looks into the home directory for one finds another home in a package's build.
TOOLCHAIN = PATH="$$(rustc --print sysroot)/bin:$$PATH"

.PHONY: help setup rust build demo test sanitize bench run clean install-files source deb rpm package-lint package-test

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do \
		printf '  make %-13s %s\n' "$$name" "$$text"; done

setup: rust ## install what is missing to build, test and try it (Debian, Ubuntu)
	@set -e; missing=; \
	if ! command -v apt-get >/dev/null; then \
		for tool in cc make pkg-config nft ip conntrack curl python3 sysctl; do \
			command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		pkg-config --exists libnetfilter_conntrack 2>/dev/null || missing="$$missing libnetfilter_conntrack(headers)"; \
		if [ -n "$$missing" ]; then \
			echo "setup: this is no Debian or Ubuntu: install these, and libclang, by hand:$$missing" >&2; exit 1; fi; \
		echo "setup: nothing to install that could be checked here; the build needs libclang too"; exit 0; \
	fi; \
	for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	echo "setup: installing$$missing"; \
	if [ -n "$(SUDO)" ] && ! command -v sudo >/dev/null; then \
		echo "setup: needs root or sudo to install them" >&2; exit 1; fi; \
	$(SUDO) apt-get update -q; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
		: "programs are wanted, not services: none is started, so none can fail to"; \
		trap '$(SUDO) rm -f '$$policy EXIT; trap 'exit 130' INT TERM; \
		printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin $$policy; \
	fi; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	for service in nginx prometheus; do \
		case "$$missing" in *$$service*) \
			: "nor is it to be started with the machine"; \
			if command -v systemctl >/dev/null; then $(SUDO) systemctl disable $$service.service || true; fi;; \
		esac; \
	done

rust:
	@command -v cargo >/dev/null || { \
		echo "needs Rust $(RUST_MIN) or newer, and there is no cargo: https://rustup.rs installs it" >&2; exit 1; }
	@version=$$(cargo --version | cut -d ' ' -f 2); \
	test "$$(printf '%s\n' $(RUST_MIN) "$$version" | sort -V | head -n 1)" = $(RUST_MIN) || { \
		echo "needs Rust $(RUST_MIN) or newer, this is $$version: \`rustup update\`, or https://rustup.rs" >&2; exit 1; }

build: rust ## build target/release/pynatconnd
	cargo build --release --locked

demo: setup ## show it at work: real NAT between network namespaces, one question, one answer
	@demo/run.sh

test: PACKAGES += shellcheck python3-venv nginx mandoc systemd prometheus valgrind
test: setup ## everything that CI runs
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked
	shellcheck $(SCRIPTS)
	@$(AS_ROOT); echo "$$* cargo test --workspace --all-features --locked"; "$$@" cargo test --workspace --all-features --locked
	tests/openapi/run.sh
	tests/sanitize/run.sh valgrind
	$(MAKE) package-lint

sanitize: PACKAGES += valgrind libmnl-dev
sanitize: setup ## nfct's tests with the C library under valgrind and AddressSanitizer
	tests/sanitize/run.sh

bench: PACKAGES += nginx wrk
bench: setup ## figures against peers; ROWS=events,http picks, QUICK=1 rehearses
	@$(AS_ROOT); "$$@" cargo bench --bench gateway --features bench --locked

run: build ## follow the NAT of this machine itself, with pynatconnd.conf
	$(SUDO) target/release/pynatconnd -c pynatconnd.conf

install-files:
	install -d "$(DESTDIR)$(bindir)"
	install -p -m 755 target/release/pynatconnd target/release/check_pynatconnd "$(DESTDIR)$(bindir)"
	$(INSTALL) pynatconnd.conf "$(DESTDIR)/etc/pynatconnd.conf"
	$(INSTALL) systemd/pynatconnd.modules-load "$(DESTDIR)$(prefix)/lib/modules-load.d/pynatconnd.conf"
	$(INSTALL) systemd/pynatconnd.sysctl "$(DESTDIR)$(prefix)/lib/sysctl.d/50-pynatconnd.conf"
	@set -e; newest=$$(ls -t target/release/build/pynatconnd-*/out/share/pynatconnd.8 | head -n 1); \
	share=$${newest%/*}; set -x; \
	$(INSTALL) $$share/pynatconnd.8 -t "$(DESTDIR)$(mandir)/man8"; \
	$(INSTALL) $$share/pynatconnd.conf.5 -t "$(DESTDIR)$(mandir)/man5"; \
	$(INSTALL) $$share/check_pynatconnd.1 -t "$(DESTDIR)$(mandir)/man1"; \
	for program in pynatconnd check_pynatconnd; do \
		$(INSTALL) $$share/$$program.bash "$(DESTDIR)$(bashdir)/$$program"; \
		$(INSTALL) $$share/$$program.fish -t "$(DESTDIR)$(fishdir)"; \
		$(INSTALL) $$share/_$$program -t "$(DESTDIR)$(zshdir)"; \
	done

source: rust
	debian/vendor.sh $(TREE)

deb rpm package-lint: PACKAGES += debhelper rpm
deb: setup source ## build target/package/*.deb, without a network once the crates are there
	rm -f $(PACKAGED)/*.deb
	@: "-d: cargo need not be a package's. The tests are make test's, CHECK=1 has them run here"
	cd $(TREE) && $(TOOLCHAIN) DEB_BUILD_OPTIONS=$(if $(CHECK),,nocheck) dpkg-buildpackage -b -d -nc -us -uc
	@ls $(PACKAGED)/*.deb

rpm: setup source ## build target/package/*.rpm likewise
	rm -f $(PACKAGED)/*.rpm
	@: "Debian's rpmbuild knows neither what is installed nor the macros for systemd"
	cd $(TREE) && $(TOOLCHAIN) rpmbuild -bb --build-in-place $(if $(CHECK),,--nocheck) \
		$$(test -n "$$(rpm --eval '%{?_unitdir}')" || echo --nodeps --load=debian/rpm-macros) \
		--define "_topdir $(TREE)/target/rpmbuild" --define "_rpmdir $(CURDIR)/$(PACKAGED)" \
		--define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" pynatconnd.spec
	@ls $(PACKAGED)/*.rpm

package-lint: PACKAGES += lintian rpmlint cpio shellcheck systemd
package-lint: setup deb rpm ## what lintian, rpmlint and systemd-analyze say of both
	tests/packages/lint.sh

package-test: PACKAGES += debhelper rpm rpm2cpio cpio debootstrap systemd-container
package-test: setup deb rpm ## install, run, upgrade and remove both in clean roots of Debian 12 and 13
	$(SUDO) tests/packages/run.sh

clean: ## remove what was built
	cargo clean
