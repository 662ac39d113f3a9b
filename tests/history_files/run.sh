#!/usr/bin/env bash
# Compares DuckDB and ClickHouse's engine with /v1/history: both read the segments, with the queries of
# doc/HISTORY.md, and agree with the daemon. The daemon runs in a temporary network namespace. Needs root and uses sudo.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
questions=${QUESTIONS:-1000}

fail() {
    echo "history_files: $*" >&2
    exit 1
}

# shellcheck source=tests/python_tool.sh
source "$root/tests/python_tool.sh"

# ---------------------------------------------------------------- build as the user, run as root

if [[ ${1-} != --inside ]]; then
    # What `make test` has built: another selection of packages would build the dependencies once more.
    (cd "$root" && cargo test --quiet --workspace --features nfct/serde,nfct/tokio --locked --no-run)
    make_venv history_files
    go_inside "$target" "$venv" "$questions"
fi
target=$2
venv=$3
questions=$4

# ---------------------------------------------------------------- a history, and the daemon that answers from it

begin_work

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
