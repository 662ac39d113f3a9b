#!/usr/bin/env bash
# Shows pynatconnd at work on real NAT: a client, a masquerading gateway and a server, each in its own network
# namespace. The server sees a connection from the gateway's public address and looks up its inside host at the
# gateway. Everything is removed at the end, also after Ctrl-C.
set -euo pipefail

# Some shells do not have ip and nft in their PATH.
PATH=$PATH:/usr/sbin:/sbin

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")

# The limit for each step, in seconds.
patience=10

client_ip=192.168.7.2
client_port=40001
public_ip=100.64.2.1
server_ip=198.51.100.1
server_port=443
http_port=8080

fail() {
    echo "demo: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- build as the user, run the rest as root

if [[ ${1-} != --built ]]; then
    command -v cargo >/dev/null || fail "cargo not found: install Rust 1.85 or newer (https://rustup.rs)"
    cargo build --release --locked --manifest-path "$root/Cargo.toml"
    # CARGO_TARGET_DIR or build.target-dir may name another directory.
    target=$(cargo metadata --no-deps --offline --format-version 1 --manifest-path "$root/Cargo.toml" |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    set -- --built "$target/release/pynatconnd"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "network namespaces need root: run the demo as root or install sudo"
        exec sudo -- bash "$here/run.sh" "$@"
    fi
fi
daemon=${2:?--built needs the path of the daemon}
((EUID == 0)) || fail "network namespaces need root"
for tool in ip nft python3 curl; do
    command -v "$tool" >/dev/null || fail "the tool $tool is missing: \`make setup\` installs it"
done

# ---------------------------------------------------------------- namespaces and processes, and their removal

client=pynatconnd-demo-$$-client
gateway=pynatconnd-demo-$$-gateway
server=pynatconnd-demo-$$-server
work=
started=()

clean_up() {
    local pid netns i
    trap '' INT TERM HUP
    if ((${#started[@]})); then
        kill "${started[@]}" 2>/dev/null || true
        for pid in "${started[@]}"; do
            for ((i = 0; i < patience * 20; i++)); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.05
            done
            ((i < patience * 20)) || kill -KILL "$pid" 2>/dev/null || true
            wait "$pid" 2>/dev/null || true
        done
    fi
    for netns in "$client" "$gateway" "$server"; do
        ip netns del "$netns" 2>/dev/null || true
    done
    [[ -z $work ]] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
work=$(mktemp -d)

# Waits until a process has written text to a file: wait_for TEXT FILE PID
wait_for() {
    local i
    for ((i = 0; i < patience * 20; i++)); do
        if grep -qsF -- "$1" "$2"; then
            return
        fi
        kill -0 "$3" 2>/dev/null || break
        sleep 0.05
    done
    echo "demo: expected \"$1\", found:" >&2
    cat "$2" >&2
    exit 1
}

# ---------------------------------------------------------------- client, gateway and server

for netns in "$client" "$gateway" "$server"; do
    ip netns add "$netns" || fail "cannot create a network namespace"
    ip -n "$netns" link set lo up
done
# The two devices of a link get different indexes. With equal ones the kernel takes a second to bring the link up.
ip -n "$gateway" -batch - <<EOF
link add inside index 11 type veth peer name eth0 index 21 netns $client
link add outside index 12 type veth peer name eth0 index 22 netns $server
address add 192.168.7.1/24 dev inside
address add $public_ip/24 dev outside
link set inside up
link set outside up
route add 198.51.100.0/24 dev outside
EOF
ip -n "$client" -batch - <<EOF
address add $client_ip/24 dev eth0
link set eth0 up
route add default via 192.168.7.1
EOF
ip -n "$server" -batch - <<EOF
address add $server_ip/24 dev eth0
link set eth0 up
route add 100.64.2.0/24 dev eth0
EOF
ip netns exec "$gateway" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
# "random" gives the connection a public port that differs from its inside port, as on busy gateways.
ip netns exec "$gateway" nft -f - <<EOF
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        oifname "outside" masquerade random
    }
}
EOF

# ---------------------------------------------------------------- the daemon, and one connection

ip netns exec "$gateway" "$daemon" -c "$here/pynatconnd.conf" 2>"$work/daemon" &
started+=($!)
wait_for "listening on http://" "$work/daemon" $!

# Accepts one connection, prints its source, and keeps it open.
ip netns exec "$server" python3 -u - "$server_ip" "$server_port" >"$work/server" 2>&1 <<'EOF' &
import signal, socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready")
connection, (address, port) = listener.accept()
print("peer", address, port)
signal.pause()
EOF
started+=($!)
wait_for ready "$work/server" $!
server_pid=$!

ip netns exec "$client" python3 - "$client_ip" "$client_port" "$server_ip" "$server_port" 2>"$work/client" <<'EOF' &
import signal, socket, sys
inside, server = (sys.argv[1], int(sys.argv[2])), (sys.argv[3], int(sys.argv[4]))
connection = socket.create_connection(server, timeout=10, source_address=inside)
signal.pause()
EOF
started+=($!)
wait_for peer "$work/server" "$server_pid"
read -r _ seen_ip seen_port < <(grep ^peer "$work/server")

# ---------------------------------------------------------------- the lookup

bold='' plain=''
if [[ -t 1 && -z ${NO_COLOR-} ]]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi
url=http://$public_ip:$http_port/nat_port/$seen_port

cat <<EOF

    client -------------- NAT gateway -------------- server
    $client_ip           $public_ip                $server_ip
                          pynatconnd

The client connects:    $client_ip:$client_port -> $server_ip:$server_port
The server sees:        ${bold}$seen_ip:$seen_port${plain} -> $server_ip:$server_port

Which host is it? The server looks it up at the gateway:

EOF
echo "    \$ ${bold}curl -s $url${plain}"
status=$(ip netns exec "$server" curl -s --max-time "$patience" -o "$work/response" -w '%{http_code}' "$url") || {
    cat "$work/daemon" >&2
    fail "the daemon does not respond"
}
sed 's/^/    /' "$work/response"
echo

if ! found=$(python3 - "$work/response" 2>"$work/complaint" <<'EOF'
import json, sys
mapping = json.load(open(sys.argv[1]))
print(f"{mapping['src_ip']}:{mapping['src_port']}")
EOF
); then
    cat "$work/daemon" >&2
    fail "the response (status $status) has no inside address"
fi
[[ $found == "$client_ip:$client_port" ]] || fail "found $found, expected $client_ip:$client_port"
echo
echo "${bold}$seen_ip:$seen_port is $found.${plain}"
