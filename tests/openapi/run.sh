#!/usr/bin/env bash
# Checks a running daemon against doc/openapi.json with Schemathesis, which sends valid and invalid requests and
# compares every response with the document. The daemon runs in a temporary network namespace, with some connections
# created through ctnetlink. Needs root and uses sudo.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

# Timeouts in seconds: for the start of the daemon, and for all requests together.
patience=10
longest=120

fail() {
    echo "openapi: $*" >&2
    exit 1
}

# shellcheck source=tests/python_tool.sh
source "$root/tests/python_tool.sh"

# ---------------------------------------------------------------- build as the user, run as root

if [[ ${1-} != --inside ]]; then
    # The daemon of `make test`: `cargo build` selects other features, and builds the dependencies once more.
    (cd "$root" && cargo test --quiet --workspace --features nfct/serde,nfct/tokio --locked --no-run --test daemon)
    make_venv schemathesis
    go_inside "$target/debug/pynatconnd" "$venv"
fi
daemon=$2
venv=$3

# ---------------------------------------------------------------- the daemon and some connections

begin_work

ip link set lo up
cat >"$work/pynatconnd.conf" <<END
[data]
key_name = nat_port
del_delay = 3600

[http_server]
port = 8080

[history]
path = $work/history

[names]
neighbours = yes
END
"$daemon" -c "$work/pynatconnd.conf" 2>"$work/log" &
pid=$!
for ((i = 0; i < patience * 20; i++)); do
    ! grep -q 'listening on http://' "$work/log" || break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
done
grep -q 'listening on http://' "$work/log" || {
    cat "$work/log" >&2
    fail "the daemon did not start in $patience seconds, its log is above"
}

# Creates a connection: insert PROTOCOL INSIDE PORT SERVER PORT PUBLIC PORT [OPTIONS]
insert() {
    conntrack --create --proto "$1" --orig-src "$2" --orig-port-src "$3" --orig-dst "$4" --orig-port-dst "$5" \
        --reply-src "$4" --reply-port-src "$5" --reply-dst "$6" --reply-port-dst "$7" --timeout 3600 \
        "${@:8}" >/dev/null 2>"$work/complaint" || fail "conntrack: $(<"$work/complaint")"
}
insert tcp 192.168.7.2 40001 198.51.100.1 443 100.64.2.1 40001 --state ESTABLISHED
insert udp 192.168.7.2 40001 198.51.100.1 443 100.64.2.1 40001
insert tcp fd00:7::2 40001 2001:db8::1 443 2001:db8::2 40002 --state ESTABLISHED
insert udp 192.168.7.3 5060 198.51.100.1 5060 100.64.2.1 40003 --mark 7
conntrack --delete --proto udp --orig-port-src 40001 >/dev/null 2>&1

# ---------------------------------------------------------------- check it against the document

# Files that Schemathesis and Python write are removed with this folder.
cd "$work"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here
timeout "$longest" "$venv/bin/schemathesis" --config-file "$here/schemathesis.toml" \
    run http://127.0.0.1:8080/v1/openapi.json || {
    sed 's/^/daemon: /' "$work/log" | tail -n 20 >&2
    fail "the daemon does not match doc/openapi.json, see above"
}
kill -0 "$pid" 2>/dev/null || fail "the daemon ended during the requests"
