#!/bin/sh
# Runs nfct's tests with the C library, under AddressSanitizer and under valgrind. For `make sanitize`.
#
# AddressSanitizer checks a library only if the library was compiled for it. So this script builds the library from
# the distribution's source package, which apt verifies with the distribution's keys. If the mirror no longer has the
# source of the installed release, the script uses a later one: the interface is the same
# (libnetfilter_conntrack.so.3). valgrind runs the installed library.
#
#   tests/sanitize/run.sh [asan|valgrind]...    both, without an argument
#   SUITE=trixie tests/sanitize/run.sh asan     with the source of that release
set -eu
cd "$(dirname "$0")/../.."
work=$PWD/target/sanitize

say() {
	printf '\nsanitize: %s\n' "$*"
}

# Downloads the library's source of one suite: `source_of SUITE`.
source_of() {
	apt=$work/apt
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	# The mirrors that this machine uses for the component main, for source packages.
	keys=
	for keyring in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/ubuntu-archive-keyring.gpg; do
		test ! -e "$keyring" || keys=" [signed-by=$keyring]"
	done
	apt-get indextargets --format "\$(REPO_URI) \$(COMPONENT)" 'Created-By: Packages' 'Component: main' |
		sort -u | sed "s|^\(.*\) \(.*\)|deb-src$keys \1 $1 \2|" >"$apt/sources.list"
	set -- -qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- \
		-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=
	# A mirror of security updates may lack the suite; one mirror that has it is enough.
	apt-get "$@" update 2>/dev/null || true
	(cd "$work" && apt-get "$@" source --tar-only --download-only libnetfilter-conntrack 2>/dev/null)
}

build_library() {
	command -v apt-get >/dev/null || {
		echo "sanitize: AddressSanitizer needs Debian or Ubuntu, to build the library from its source package" >&2
		exit 69
	}
	rm -rf "$work"
	mkdir -p "$work"
	# shellcheck disable=SC1091
	. /etc/os-release
	for suite in ${SUITE:-"$VERSION_CODENAME" stable testing unstable}; do
		if source_of "$suite" && tarball=$(ls "$work"/libnetfilter-conntrack_*.orig.tar.* 2>/dev/null); then
			break
		fi
		say "the mirror has no source of libnetfilter_conntrack for $suite"
		tarball=
	done
	test -n "$tarball" || {
		echo "sanitize: found no source of the library; set SUITE to a release whose source the mirror has" >&2
		exit 69
	}
	tar -C "$work" -xf "$tarball"
	(
		cd "$work"/libnetfilter_conntrack-*/
		./configure --quiet --disable-static CC='gcc -fsanitize=address' \
			CFLAGS='-g -O1 -fno-omit-frame-pointer' >/dev/null
		make -s -C src >/dev/null
	)
	library=$(ls -d "$work"/libnetfilter_conntrack-*/src/.libs)
	say "built $(basename "$tarball") for AddressSanitizer"
	nm -D "$library/libnetfilter_conntrack.so.3" | grep -q __asan_init
}

# The tools that the tests start (ip, nft, conntrack) run without the sanitizer.
shield() {
	mkdir -p "$work/bin"
	for tool in ip nft conntrack; do
		printf '#!/bin/sh\nunset LD_PRELOAD LD_LIBRARY_PATH\nexec %s "$@"\n' "$(command -v "$tool")" >"$work/bin/$tool"
		chmod +x "$work/bin/$tool"
	done
}

# Prints the paths of nfct's test programs. They are those of `make test`: another selection of packages or
# features would build the dependencies once more.
test_programs() {
	cargo test --quiet --workspace --features nfct/serde,nfct/tokio --locked --no-run --message-format=json \
		>"$work/messages"
	python3 - "$work/messages" <<'END'
import json, sys
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
        if message["manifest_path"].endswith("/nfct/Cargo.toml"):
            print(message["executable"])
END
}

# Runs nfct's tests with these words in front of each test program, and an option for the test program:
# `tests_under NAME OPTION WORDS...`.
tests_under() {
	name=$1 option=$2
	shift 2
	mkdir -p "$work"
	programs=$(test_programs)
	test -n "$programs" || {
		echo "sanitize: cargo names no test program of nfct" >&2
		exit 70
	}
	root=
	test "$(id -u)" = 0 || root='sudo -E'
	for program in $programs; do
		program_name=$(basename "$program")
		say "$name: ${program_name%-*}"
		# shellcheck disable=SC2086 # no word, or two
		(cd nfct && $root env CI=true "$@" "$program" --quiet "$option")
	done
	say "$name: clean"
}

asan() {
	build_library
	shield
	# The sanitizer delays the reuse of freed memory, so the test that measures the process's memory cannot pass.
	tests_under AddressSanitizer --skip=a_dump_needs_no_more_memory "PATH=$work/bin:$PATH" "LD_LIBRARY_PATH=$library" \
		"LD_PRELOAD=$(gcc -print-file-name=libasan.so)" \
		ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
}

valgrind() {
	# Lost blocks are errors. "Possibly lost" blocks are not: std keeps the main thread's handle by a pointer into
	# it, which valgrind cannot tell from a random value.
	# valgrind is slow, so the property tests run fewer cases; AddressSanitizer runs them all.
	export PROPTEST_CASES="${PROPTEST_CASES:-50}"
	# valgrind runs one thread at a time, so the tests run one after the other.
	tests_under valgrind --test-threads=1 valgrind --error-exitcode=99 --leak-check=full \
		--show-leak-kinds=definite,indirect --errors-for-leak-kinds=definite,indirect
	unset PROPTEST_CASES
}

test $# != 0 || set -- valgrind asan
for check; do
	case $check in
	asan | valgrind) "$check" ;;
	*)
		echo "sanitize: found \"$check\", expected asan or valgrind" >&2
		exit 64
		;;
	esac
done
