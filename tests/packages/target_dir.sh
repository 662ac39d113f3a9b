#!/usr/bin/env bash
# Checks that `make run` and `make install-files` use the programs where cargo builds them, if CARGO_TARGET_DIR or
# build.target-dir names another directory than target. Programs that only print a word stand in for the real ones, so
# nothing is built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "target directory: $*" >&2
    exit 1
}

# The repository's Makefile in a package without dependencies.
checkout=$work/checkout
mkdir -p "$checkout/src" "$checkout/systemd"
cp "$root/Makefile" "$root/pynatconnd.conf" "$checkout"
cp "$root"/systemd/* "$checkout/systemd"
printf '[package]\nname = "pynatconnd"\nversion = "0.0.0"\nedition = "2024"\n' >"$checkout/Cargo.toml"
echo 'fn main() {}' >"$checkout/src/main.rs"

stand_in() {
    local release=$1/release share=$1/release/build/pynatconnd-0/out/share
    mkdir -p "$share"
    for program in pynatconnd check_pynatconnd nathistory; do
        printf '#!/bin/sh\necho "%s"\n' "$2" >"$release/$program"
        chmod +x "$release/$program"
        touch "$share/$program".{bash,fish} "$share/_$program"
    done
    touch "$share"/{pynatconnd.8,pynatconnd.conf.5,check_pynatconnd.1,nathistory.1}
}

check() {
    local expected=$1 said
    said=$(make -s -C "$checkout" -o build run SUDO= 2>/dev/null)
    [[ $said == "$expected" ]] || fail "make run started \"$said\", expected \"$expected\""
    rm -rf "$work/installed"
    make -s -C "$checkout" install-files DESTDIR="$work/installed" 2>/dev/null || fail "$expected: nothing installed"
    said=$("$work/installed/usr/bin/pynatconnd")
    [[ $said == "$expected" ]] || fail "make install-files installed \"$said\", expected \"$expected\""
    [[ -e $work/installed/usr/share/man/man8/pynatconnd.8 ]] || fail "$expected: no manual page"
}

unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
stand_in "$checkout/target" "in target"
check "in target"
stand_in "$work/by variable" "by variable"
CARGO_TARGET_DIR="$work/by variable" check "by variable"
stand_in "$work/by file" "by file"
mkdir "$checkout/.cargo"
printf '[build]\ntarget-dir = "%s"\n' "$work/by file" >"$checkout/.cargo/config.toml"
check "by file"
echo "target directory: make run and make install-files use the one that cargo uses"
