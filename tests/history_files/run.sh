#!/usr/bin/env bash
# Compares DuckDB and ClickHouse's engine with /v1/history: both read the segments, with the queries of
# doc/HISTORY.md, and agree with the daemon. The daemon runs in a temporary network namespace. Needs root and uses sudo.
set -euo pipefail

# A user's PATH may lack ip.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
questions=${QUESTIONS:-1000}

fail() {
    echo "history_files: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- build as the user, run as root

if [[ ${1-} != --inside ]]; then
    # What `make test` has built: another selection of packages would build the dependencies once more.
    (cd "$root" && cargo test --quiet --workspace --features nfct/serde,nfct/tokio --locked --no-run)
    target=$(cd "$root" && cargo metadata --no-deps --offline --format-version 1 |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    venv=$target/history_files
    if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv" || fail "needs python3 with venv: \`make setup\` installs it"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/installed.txt"
    fi
    sudo=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "needs root for a network namespace: run it as root or install sudo"
        sudo=(sudo --)
    fi
    exec "${sudo[@]}" unshare --net bash "$here/run.sh" --inside "$target" "$venv" "$questions"
fi
target=$2
venv=$3
questions=$4

# ---------------------------------------------------------------- a history, and the daemon that answers from it

pid=
work=$(mktemp -d)
clean_up() {
    [[ -z $pid ]] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$target/debug/examples/make_history" "$work/history"
ip link set lo up
printf '[data]\nkey_name = nat_port\n[http_server]\nhost = 127.0.0.1\nport = 8080\n[history]\npath = %s\n' \
    "$work/history" >"$work/pynatconnd.conf"
"$target/debug/pynatconnd" -c "$work/pynatconnd.conf" 2>"$work/log" &
pid=$!
for ((tries = 0; tries < 100; tries++)); do
    curl --silent --output /dev/null http://127.0.0.1:8080/healthz && break
    kill -0 "$pid" 2>/dev/null || { cat "$work/log" >&2; fail "the daemon ended"; }
    sleep 0.1
done
"$venv/bin/python" "$here/compare.py" "$work/history" http://127.0.0.1:8080 "$questions"
