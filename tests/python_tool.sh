# shellcheck shell=bash
# What tests have in common that run a Python tool against a daemon in a temporary network namespace. A run.sh sources
# it, after it has set `here`, its folder, and `root`, the checkout, and has defined `fail`.
# shellcheck disable=SC2154 # here and root

# A user's PATH may lack ip and sysctl.
PATH=$PATH:/usr/sbin:/sbin

# Sets `target`, cargo's target directory, and `venv`, a virtual environment in it with this name, which has what
# requirements.txt lists.
make_venv() {
    # CARGO_TARGET_DIR or build.target-dir may name another directory.
    target=$(cd "$root" && cargo metadata --no-deps --offline --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    venv=$target/$1
    if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "needs python3 with venv: \`make setup\` installs it"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/installed.txt"
    fi
}

# Goes on with `run.sh --inside ARGUMENTS` as root in a network namespace of its own.
go_inside() {
    local sudo=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "needs root for a network namespace: run it as root or install sudo"
        sudo=(sudo --)
    fi
    exec "${sudo[@]}" unshare --net bash "$here/run.sh" --inside "$@"
}

# Sets `work`, a temporary folder, and `pid`, which a daemon's process id can be assigned to. Both end with the script.
begin_work() {
    pid=
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean_up() {
    [[ -z $pid ]] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
    rm -rf "$work"
}
