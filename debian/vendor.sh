#!/usr/bin/env bash
# Makes the source tree of the packages: the files of this checkout, and all crates in vendor/, so that a build needs
# no network.
# vendor.sh DIRECTORY: makes DIRECTORY and DIRECTORY.tar.gz. The output of earlier builds in DIRECTORY/target stays, so
# that cargo builds only what has changed.
set -euo pipefail
umask 022

tree=$(realpath --canonicalize-missing "${1:?vendor.sh: needs the directory to make}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The files of the project, without build output. In a git checkout these are the tracked files, whoever owns them.
git() {
    command git -c safe.directory='*' "$@"
}
list_files() {
    if git rev-parse --git-dir >/dev/null 2>&1; then
        git ls-files -z --deduplicate
    else
        find . -mindepth 1 \( -path ./target -o -path ./vendor -o -path ./.cargo \) -prune -o ! -type d -print0
    fi
}

mkdir -p "$tree/target"
cmp -s Cargo.lock "$tree/Cargo.lock" || rm -rf "$tree/vendor"
find "$tree" -mindepth 1 -maxdepth 1 ! -name target ! -name vendor -exec rm -rf {} +
list_files | tar --create --mode=go=rX --null --files-from=- --ignore-failed-read |
    tar --extract -C "$tree"

mkdir "$tree/.cargo"
cat >"$tree/.cargo/config.toml" <<'END'
[source.crates-io]
replace-with = "vendored-sources"

[source.vendored-sources]
directory = "vendor"

[net]
offline = true
END

# Keeps only the manifest of crates that no Linux build compiles.
leave_out_foreign() {
    local targets=() crate name version checksum
    local -A used=()
    for machine in x86_64 i686 aarch64 riscv64gc powerpc64le s390x; do
        targets+=(--target "$machine-unknown-linux-gnu")
    done
    targets+=(--target armv7-unknown-linux-gnueabihf)
    while read -r name version _; do
        used[$name-${version#v}]=1
    done < <(cargo tree --locked --workspace --edges all "${targets[@]}" --prefix none --format '{p}')
    for crate in "$1"/*; do
        if [[ ! -v used[${crate##*/}] ]]; then
            checksum=$(sed -n 's/.*"package":"\([0-9a-f]*\)".*/\1/p' "$crate/.cargo-checksum.json")
            find "$crate" -mindepth 1 ! -name Cargo.toml -delete
            mkdir "$crate/src"
            : >"$crate/src/lib.rs"
            printf '{"files":{},"package":"%s"}' "$checksum" >"$crate/.cargo-checksum.json"
        fi
    done
}

if [[ ! -d $tree/vendor ]]; then
    cargo vendor --quiet --locked --versioned-dirs "$tree/vendor.new" >/dev/null
    leave_out_foreign "$tree/vendor.new"
    mv "$tree/vendor.new" "$tree/vendor"
fi

# Reproducible: the same files make the same archive.
epoch=$(git log -1 --format=%ct 2>/dev/null || date --reference CHANGELOG.md +%s)
tar --create --gzip --file "$tree.tar.gz" --sort=name --owner=0 --group=0 --numeric-owner \
    --mtime="@$epoch" --exclude="${tree##*/}/target" -C "$(dirname "$tree")" "${tree##*/}"
