# All tasks of a checkout; `make` lists them. Run it as yourself: steps that need root use sudo.

# A new rustup is not yet in the shell's PATH, and a user's PATH may not have nft and ip.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
RUST_MIN := 1.85

# What the build, the demo and the tests need in addition to Rust.
PACKAGES := libnetfilter-conntrack-dev libclang-dev pkg-config build-essential \
	nftables iptables iproute2 conntrack curl python3 procps
SCRIPTS := demo/run.sh .ci/run tests/openapi/run.sh tests/sanitize/run.sh debian/vendor.sh tests/packages/lint.sh \
	tests/packages/target_dir.sh tests/packages/run.sh tests/crates/run.sh tests/history_files/run.sh tests/python_tool.sh

# All tests use this selection of packages and features, also in tests/openapi and tests/sanitize: with another
# selection cargo builds the dependencies again. Not --all-features: with nfct's prebuilt-bindings nothing uses bindgen.
CARGO_TEST = cargo test --workspace --features nfct/serde,nfct/tokio --locked

# Prints the time and the name of a step of `make test`, to show which steps take long.
STEP = @printf '\n%s make test: %s\n' "$$(date +%T)"

# The tests need root: cargo builds as the user and starts the programs through sudo.
define AS_ROOT
if [ -n "$(SUDO)" ] && command -v sudo >/dev/null; then \
	host=$$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_'); \
	set -- env "CARGO_TARGET_$${host}_RUNNER=sudo -E"; \
fi
endef

# Where `make install-files` installs, below DESTDIR. The packages override what differs there.
prefix := /usr
bindir := $(prefix)/bin
mandir := $(prefix)/share/man
bashdir := $(prefix)/share/bash-completion/completions
fishdir := $(prefix)/share/fish/vendor_completions.d
zshdir := $(prefix)/share/zsh/site-functions
INSTALL = install -D -p -m 644
# Sets $$release to where cargo builds: CARGO_TARGET_DIR or build.target-dir can name a directory other than target.
RELEASE = target=$$(cargo metadata --no-deps --offline --format-version 1 2>/dev/null | \
	sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'); release=$${target:-target}/release

# Both packages are built in one tree, separate from the checkout. The second uses the programs of the first.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
PACKAGED := target/package
TREE := $(CURDIR)/$(PACKAGED)/pynatconnd-$(VERSION)
# The toolchain's own programs: a package's build has another home directory, where rustup's find no toolchain.
TOOLCHAIN = PATH="$$(rustc --print sysroot)/bin:$$PATH"

.PHONY: help setup rust build demo check test crate-test bindings sanitize bench soak run clean install-files source deb rpm \
	package-lint package-test

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
			echo "setup: not Debian or Ubuntu: install these and libclang by hand:$$missing" >&2; exit 1; fi; \
		echo "setup: all tools found; the build also needs libclang, which is not checked here"; exit 0; \
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
		: "only the programs are needed: no service is started"; \
		trap '$(SUDO) rm -f '$$policy EXIT; trap 'exit 130' INT TERM; \
		printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin $$policy; \
	fi; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	for service in nginx haproxy caddy apache2 prometheus; do \
		case "$$missing" in *$$service*) \
			: "and none at the next boot"; \
			if command -v systemctl >/dev/null; then $(SUDO) systemctl disable $$service.service || true; fi;; \
		esac; \
	done

rust:
	@command -v cargo >/dev/null || { \
		echo "needs Rust $(RUST_MIN) or newer, found no cargo: install it from https://rustup.rs" >&2; exit 1; }
	@version=$$(cargo --version | cut -d ' ' -f 2); \
	test "$$(printf '%s\n' $(RUST_MIN) "$$version" | sort -V | head -n 1)" = $(RUST_MIN) || { \
		echo "needs Rust $(RUST_MIN) or newer, found $$version: run \`rustup update\`, or see https://rustup.rs" >&2; exit 1; }

build: rust ## build target/release/pynatconnd and its other programs
	cargo build --release --locked -p pynatconnd -p nathistory

demo: setup ## show one lookup on real NAT between network namespaces
	@demo/run.sh

check: rust ## before each commit: fmt, clippy, unit tests, layers; without root
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	$(CARGO_TEST) --lib --bins --test house

# One build for each kind of artefact: checked (clippy, doc), tests, release (both packages).
test: PACKAGES += shellcheck python3-venv nginx haproxy caddy apache2 openssl mandoc systemd prometheus valgrind \
	dnsmasq-base udhcpc
test: setup ## everything that CI runs
	$(STEP) "fmt, shellcheck"
	cargo fmt --all --check
	shellcheck --external-sources $(SCRIPTS)
	$(STEP) clippy
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	$(STEP) doc
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --locked
	$(STEP) "build the tests"
	$(CARGO_TEST) --no-run
	$(STEP) tests
	@$(AS_ROOT); echo "$$* $(CARGO_TEST)"; "$$@" $(CARGO_TEST)
	$(STEP) openapi
	tests/openapi/run.sh
	$(STEP) "history files"
	QUESTIONS=300 tests/history_files/run.sh
	$(STEP) valgrind
	tests/sanitize/run.sh valgrind
	$(STEP) crates
	tests/crates/run.sh
	$(STEP) packages
	tests/packages/target_dir.sh
	@: "the packages are built in their own tree, whatever this says"
	CARGO_TARGET_DIR=$(CURDIR)/target/elsewhere $(MAKE) package-lint
	$(STEP) passed

crate-test: PACKAGES += debootstrap
crate-test: setup ## nfct from its packaged files, also in a clean root without the C library
	tests/crates/run.sh
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" tests/crates/run.sh --clean-root

bindings: setup ## update nfct-sys/prebuilt/bindings.rs from the headers of this system
	UPDATE_BINDINGS=1 cargo test --quiet --locked -p nfct-sys --test prebuilt
	git diff --stat -- nfct-sys/prebuilt

sanitize: PACKAGES += valgrind libmnl-dev
sanitize: setup ## nfct's tests with the C library, under valgrind and AddressSanitizer
	tests/sanitize/run.sh

bench: PACKAGES += nginx wrk
bench: setup ## measure against other programs; ROWS=events,http selects, QUICK=1 is a short run
	@$(AS_ROOT); "$$@" cargo bench --bench gateway --features bench --locked

soak: setup ## the tests of bounded work with the full numbers; prints memory, times and losses
	@$(AS_ROOT); PYNATCONND_LONG=1 "$$@" $(CARGO_TEST) --test bounds -- --nocapture

run: build ## run the daemon on this machine, with pynatconnd.conf
	@$(RELEASE); set -x; $(SUDO) "$$release/pynatconnd" -c pynatconnd.conf

install-files:
	install -d "$(DESTDIR)$(bindir)"
	@$(RELEASE); set -x; install -p -m 755 "$$release/pynatconnd" "$$release/check_pynatconnd" "$$release/nathistory" \
		"$(DESTDIR)$(bindir)"
	$(INSTALL) pynatconnd.conf "$(DESTDIR)/etc/pynatconnd.conf"
	$(INSTALL) systemd/pynatconnd.modules-load "$(DESTDIR)$(prefix)/lib/modules-load.d/pynatconnd.conf"
	$(INSTALL) systemd/pynatconnd.sysctl "$(DESTDIR)$(prefix)/lib/sysctl.d/50-pynatconnd.conf"
	@set -e; $(RELEASE); newest=$$(ls -t "$$release"/build/pynatconnd-*/out/share/pynatconnd.8 | head -n 1); \
	share=$${newest%/*}; set -x; \
	$(INSTALL) "$$share/pynatconnd.8" -t "$(DESTDIR)$(mandir)/man8"; \
	$(INSTALL) "$$share/pynatconnd.conf.5" -t "$(DESTDIR)$(mandir)/man5"; \
	$(INSTALL) "$$share/check_pynatconnd.1" "$$share/nathistory.1" -t "$(DESTDIR)$(mandir)/man1"; \
	for program in pynatconnd check_pynatconnd nathistory; do \
		$(INSTALL) "$$share/$$program.bash" "$(DESTDIR)$(bashdir)/$$program"; \
		$(INSTALL) "$$share/$$program.fish" -t "$(DESTDIR)$(fishdir)"; \
		$(INSTALL) "$$share/_$$program" -t "$(DESTDIR)$(zshdir)"; \
	done

source: rust
	debian/vendor.sh $(TREE)

deb rpm package-lint: PACKAGES += debhelper rpm
deb: setup source ## build target/package/*.deb; offline once the crates are downloaded
	rm -f $(PACKAGED)/*.deb
	@: "-d: cargo may come from rustup. make test runs the tests; CHECK=1 also runs them here"
	cd $(TREE) && $(TOOLCHAIN) DEB_BUILD_OPTIONS=$(if $(CHECK),,nocheck) dpkg-buildpackage -b -d -nc -us -uc
	@ls $(PACKAGED)/*.deb

rpm: setup source ## build target/package/*.rpm; offline once the crates are downloaded
	rm -f $(PACKAGED)/*.rpm
	@: "Debian's rpmbuild has no list of installed packages and no macros for systemd"
	cd $(TREE) && $(TOOLCHAIN) rpmbuild -bb --build-in-place $(if $(CHECK),,--nocheck) \
		$$(test -n "$$(rpm --eval '%{?_unitdir}')" || echo --nodeps --load=debian/rpm-macros) \
		--define "_topdir $(TREE)/target/rpmbuild" --define "_rpmdir $(CURDIR)/$(PACKAGED)" \
		--define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" pynatconnd.spec
	@ls $(PACKAGED)/*.rpm

package-lint: PACKAGES += lintian rpmlint cpio shellcheck systemd
package-lint: setup deb rpm ## check both packages with lintian, rpmlint and systemd-analyze
	tests/packages/lint.sh

package-test: PACKAGES += debhelper rpm rpm2cpio cpio debootstrap systemd-container
package-test: setup deb rpm ## install, run, upgrade and remove both in clean roots of Debian 12 and 13
	$(SUDO) tests/packages/run.sh

clean: ## remove what was built
	cargo clean
	rm -rf $(PACKAGED)
