#!/usr/bin/env bash
# Uses nfct and nfct-sys as their users do: from the packaged files, outside the repository, in a crate of its own.
# Needs cargo 1.90 or newer, which packages two crates that depend on each other.
#   run.sh                what `make test` runs
#   run.sh --clean-root   the same without headers and libclang, in a clean root of Debian 12, as `make crate-test`
#                         runs it; needs root, debootstrap and, for the first time, a network
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
targets=(x86_64-unknown-linux-musl aarch64-unknown-linux-gnu)

fail() {
    echo "crates: $*" >&2
    exit 1
}

say() {
    printf 'crates: %s\n' "$*"
}

cargo_version=$(cargo --version | cut -d ' ' -f 2)
if [[ $(printf '%s\n' 1.90 "$cargo_version" | sort -V | head -n 1) != 1.90 ]]; then
    [[ -z ${CI-} ]] || fail "needs cargo 1.90 or newer, this is $cargo_version"
    say "skipped: needs cargo 1.90 or newer, this is $cargo_version"
    exit 0
fi

work=$(mktemp -d)
log=$work/log
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
host=$(rustc -vV | sed -n 's/^host: //p')
# With the host as a named target, what runs there (bindgen) is built once for all targets.
export CARGO_TARGET_DIR=$work/target CARGO_BUILD_TARGET=$host CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_COLOR=never
user=$CARGO_TARGET_DIR/$host/debug/user

# Runs a command whose output matters only when it fails: quietly WHAT COMMAND...
quietly() {
    local what=$1
    shift
    say "$what"
    "$@" >"$log" 2>&1 || {
        tail -n 40 "$log" >&2
        fail "$what: failed"
    }
}

# ---------------------------------------------------------------- the packaged files

cd "$root"
quietly "package both" cargo package --locked --allow-dirty --no-verify -p nfct-sys -p nfct
mkdir "$work/crates"
for crate in "$CARGO_TARGET_DIR"/package/*.crate; do
    tar --extract --gzip --file "$crate" -C "$work/crates"
done
nfct=$(echo "$work"/crates/nfct-[0-9]*)
nfct_sys=$(echo "$work"/crates/nfct-sys-[0-9]*)
for folder in "$nfct" "$nfct_sys"; do
    cmp "$root/LICENSE" "$folder/LICENSE"
    ! grep -nE '\]\((\.\.|doc|tests|\.ci)/' "$folder/README.md" || fail "a link of ${folder##*/}/README.md leaves the crate"
    [[ -z $(find "$folder" -type l) ]] || fail "${folder##*/} has symbolic links"
done
cmp "$root/wrapper.h" "$nfct_sys/wrapper.h"
for example in "$root"/nfct/examples/*.rs; do
    cmp "$example" "$nfct/examples/${example##*/}"
done

# A user's crate. It takes the crates from here, and all others in the versions of the repository.
mkdir -p "$work/user/src"
cat >"$work/user/Cargo.toml" <<END
[package]
name = "user"
version = "0.0.0"
edition = "2024"

[features]
prebuilt-bindings = ["nfct/prebuilt-bindings"]

[dependencies]
nfct = { version = "*", features = ["serde", "tokio"] }

[dev-dependencies]
tokio = { version = "1", features = ["macros", "rt", "time"] }

[patch.crates-io]
nfct = { path = "$nfct" }
nfct-sys = { path = "$nfct_sys" }

[workspace]
END
cat >"$work/user/src/main.rs" <<'END'
//! Calls the C library, so that it is linked.

/// Uses nfct's stream.
pub type Stream = nfct::EventStream;

fn main() -> Result<(), nfct::Error> {
    println!("{} {:?}", nfct::LIBRARY_VERSION, nfct::Conntrack::new()?);
    Ok(())
}
END
cp -r "$nfct/examples" Cargo.lock "$work/user/"
cd "$work/user"
mkdir "$work/empty"
without_libclang=(env "LIBCLANG_PATH=$work/empty" "LLVM_CONFIG_PATH=$work/empty/llvm-config")
without_library=(env "PKG_CONFIG_LIBDIR=$work/empty" PKG_CONFIG_PATH=)

# ---------------------------------------------------------------- in a clean root

if [[ ${1-} == --clean-root ]]; then
    ((EUID == 0)) || fail "needs root, to create a clean root"
    kept=$root/target/package/roots/crates.tar
    clean=$work/root
    in_clean_root() {
        # shellcheck disable=SC2016 # it is that bash which replaces them
        unshare --mount --propagation private bash -euc '
            clean=$1 work=$2 toolchain=$3 registry=$4
            shift 4
            for folder in "$work/crates" "$work/user" "$toolchain" "$registry"; do
                mkdir -p "$clean$folder"
                mount --bind "$folder" "$clean$folder"
            done
            mount -t proc proc "$clean/proc"
            exec chroot "$clean" env -i HOME=/root PATH="$toolchain/bin:/usr/bin:/bin" CARGO_HOME="${registry%/*}" \
                CARGO_NET_OFFLINE=true CARGO_TARGET_DIR=/root/target "$@"' bash \
            "$clean" "$work" "$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}/registry" "$@"
    }
    # Everything that is built there offline is downloaded here.
    quietly "download" cargo fetch
    mkdir "$clean"
    if [[ ! -e $kept ]]; then
        mkdir -p "${kept%/*}"
        # The C compiler is there for Rust's linker: no headers of the library, no libclang, no pkg-config.
        quietly "create a root" debootstrap --variant=minbase --include=gcc,libc6-dev bookworm "$clean"
        tar --create --file "$kept.new" --one-file-system -C "$clean" .
        mv "$kept.new" "$kept"
    else
        tar --extract --file "$kept" -C "$clean"
    fi
    [[ -z $(find "$clean" -name 'libnetfilter_conntrack*' -o -name 'libclang*' -o -name pkg-config) ]] ||
        fail "the root is not clean"
    ! in_clean_root cargo build --manifest-path "$work/user/Cargo.toml" >"$log" 2>&1 ||
        fail "the root must not have what bindgen needs"
    grep -q 'nfct-sys needs libnetfilter_conntrack' "$log" || fail "the error does not say what is missing: $(<"$log")"
    quietly "document as docs.rs does, in the clean root" in_clean_root env DOCS_RS=1 \
        cargo doc --no-deps --all-features --manifest-path "$work/user/Cargo.toml" -p user -p nfct -p nfct-sys
    test -e "$clean/root/target/doc/nfct/struct.EventStream.html"
    quietly "check with prebuilt bindings, in the clean root" \
        in_clean_root cargo check --features prebuilt-bindings --manifest-path "$work/user/Cargo.toml"
    say "passed"
    exit 0
fi

# ---------------------------------------------------------------- built

quietly "build with bindgen" cargo build
say "$("$user")"
quietly "build again" cargo build --verbose
! grep -E '^ *(Compiling|Dirty|Running)' "$log" || fail "the second build compiled something"
grep -q 'Fresh nfct-sys' "$log" || fail "the second build does not name nfct-sys"

# With the feature bindgen is not run again, with a changed header it must be.
touch "$nfct_sys/wrapper.h"
! "${without_libclang[@]}" cargo build >"$log" 2>&1 || fail "libclang is not hidden"
grep -q 'nfct-sys needs libclang' "$log" || fail "the build without libclang names another reason: $(<"$log")"
quietly "build without libclang, with prebuilt bindings" \
    "${without_libclang[@]}" cargo build --features prebuilt-bindings
"$user" >/dev/null
ldd "$user" | grep -q libnetfilter_conntrack || fail "the C library is not linked"

# ---------------------------------------------------------------- documented and checked

quietly "document as docs.rs does, without the C library and libclang" env DOCS_RS=1 RUSTDOCFLAGS="--cfg docsrs" \
    "${without_library[@]}" "${without_libclang[@]}" cargo doc --no-deps --all-features -p user -p nfct -p nfct-sys
test -e "$CARGO_TARGET_DIR/$host/doc/nfct/struct.EventStream.html"

for target in "${targets[@]}"; do
    if ! rustc --print target-libdir --target "$target" | xargs test -e &&
        ! rustup target add "$target" >"$log" 2>&1; then
        say "check for $target: skipped, rustup cannot install the target: $(tail -n 1 "$log")"
        continue
    fi
    quietly "check for $target" "${without_libclang[@]}" cargo check --features prebuilt-bindings --target "$target"
done

quietly "check the examples" cargo check --features prebuilt-bindings --examples

oldest=$(sed -n '/^tokio = .*optional/s/.*version = "\([0-9.]*\)".*/\1/p' "$root/nfct/Cargo.toml")
cargo update --quiet -p tokio --precise "$oldest.0"
quietly "check with tokio $oldest, the oldest" cargo check --features prebuilt-bindings

# ---------------------------------------------------------------- published

cd "$root"
quietly "publish, without an upload" cargo publish --dry-run --locked --allow-dirty -p nfct-sys -p nfct
say "passed"
