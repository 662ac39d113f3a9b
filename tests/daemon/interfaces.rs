//! `nat_ip = @outside`: the addresses of an interface are followed as they change, under traffic.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use lab::http::Client;
use lab::traffic::Connection;
use lab::{Daemon, Lab, Netns, flows, wait_until};
use nfct::{Direction, Protocol, Query};
use serde_json::Value;

use super::usual::{TestConfig, USUAL};

/// What the daemon answers about a public address and port.
struct Answer {
    complete: bool,
    /// The inside hosts of the live mappings.
    hosts: Vec<SocketAddr>,
}

fn look_up(client: &mut Client, public: SocketAddr) -> Answer {
    let (ip, port) = (public.ip(), public.port());
    let response = client.get(&format!("/v1/lookup?nat_ip={ip}&nat_port={port}&protocol=tcp&state=live"));
    let json = response.json();
    let host = |found: &Value| {
        let ip: IpAddr = found["src_ip"].as_str().expect("an address").parse().expect("an address");
        SocketAddr::new(ip, found["src_port"].as_u64().expect("a port") as u16)
    };
    Answer {
        complete: json["complete"].as_bool().expect("a truth value"),
        hosts: json["matches"].as_array().expect("a list").iter().map(host).collect(),
    }
}

/// The addresses that an interface has.
fn addresses(netns: &Netns, interface: &str) -> BTreeSet<IpAddr> {
    let list = netns.run("ip", &["-oneline", "address", "show", "dev", interface]);
    let words = list.lines().filter_map(|line| line.split_whitespace().nth(3));
    words.map(|word| word.split('/').next().expect("an address").parse().expect("an address")).collect()
}

fn start(lab: &Lab, filter: &'static str) -> (Daemon, Client) {
    let daemon = TestConfig { filter, ..USUAL }.start(lab);
    daemon.wait_for_line("the table equals the kernel's");
    let client = Client::connect(lab.gateway(), daemon.local_addr());
    (daemon, client)
}

fn wait_ready(client: &mut Client) {
    wait_until("the table is complete", || client.get("/readyz").status == 200);
}

/// Creates an entry through ctnetlink, from an inside port to a public address with the same port.
fn make(lab: &Lab, query: &mut Query, port: u16, public: IpAddr) -> SocketAddr {
    let nat = SocketAddr::new(public, port);
    let (src, server) = match public {
        IpAddr::V4(_) => (lab.client_at(0, port), lab.server_at(443)),
        IpAddr::V6(_) => (lab.client6_at(0, port), lab.server6_at(443)),
    };
    flows::create(query, &flows::source_nat(Protocol::Tcp, src, server, nat));
    nat
}

#[test]
fn an_address_changes_while_connections_begin() {
    const ROUNDS: usize = 6;
    /// Connections between two changes at least.
    const BETWEEN: usize = 15;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).build();
    let (daemon, mut client) = start(&lab, "nat_ip = @outside\ndst_port = 443");
    daemon.wait_for_line("@outside stands for 100.64.2.1");
    let server = lab.listen(lab.server_at(443));
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let (begun, has_changed_all) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (mut found, mut incomplete, mut gone) = (0, 0, 0);
    let mut connections: Vec<(Connection, SocketAddr)> = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut old = "100.64.2.1/24".to_owned();
            for round in 0..ROUNDS {
                let before = begun.load(Ordering::SeqCst);
                wait_until("connections begin", || begun.load(Ordering::SeqCst) >= before + BETWEEN);
                let new = format!("100.64.2.{}/32", 10 + round);
                lab.gateway().run("ip", &["address", "add", &new, "dev", "outside"]);
                lab.gateway().run("ip", &["address", "delete", &old, "dev", "outside"]);
                old = new;
            }
            has_changed_all.store(true, Ordering::SeqCst);
        });
        let mut port = 20_000;
        let mut left = BETWEEN;
        while left > 0 {
            left -= usize::from(has_changed_all.load(Ordering::SeqCst));
            port += 1;
            let inside = lab.client_at((port % 2) as u8, port);
            let connection = lab.connect_to(&server, inside);
            let public = connection.peer;
            begun.fetch_add(1, Ordering::SeqCst);
            let answer = look_up(&mut client, public);
            if !answer.hosts.is_empty() {
                assert_eq!(answer.hosts, [inside], "{public}");
                found += 1;
                connections.push((connection, inside));
            } else if !answer.complete {
                incomplete += 1;
                connections.push((connection, inside));
            } else {
                // The kernel deletes connections on an address that it loses.
                let is_there = addresses(lab.gateway(), "outside").contains(&public.ip());
                assert!(!is_there, "{inside} is behind {public}, which is still there, and was not found");
                gone += 1;
            }
        }
    });
    wait_ready(&mut client);
    let now = addresses(lab.gateway(), "outside");
    let (mut live, mut ended) = (0, 0);
    for (connection, inside) in &connections {
        let answer = look_up(&mut client, connection.peer);
        assert!(answer.complete);
        let reply = flows::tuple(Protocol::Tcp, server.address(), connection.peer);
        let is_live = query.get(Direction::Reply, &reply).expect("the kernel answers").is_some();
        if is_live && now.contains(&connection.peer.ip()) {
            assert_eq!(answer.hosts, [*inside], "{}", connection.peer);
            live += 1;
        } else {
            assert_eq!(answer.hosts, [], "{}", connection.peer);
            ended += 1;
        }
    }
    println!(
        "{ROUNDS} changes of the address: {found} lookups found the host, {incomplete} were not complete, {gone} came \
         after the address was gone; afterwards {live} live connections were found, and {ended} had ended"
    );
    assert!(live >= BETWEEN && found > BETWEEN, "there was traffic");
}

#[test]
fn what_begins_right_after_an_address_has_appeared_is_not_missed() {
    const ROUNDS: u8 = 40;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    let (_daemon, mut client) = start(&lab, "nat_ip = @outside");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let (mut at_once, mut made) = (0, Vec::new());
    for round in 0..ROUNDS {
        let address: IpAddr = match round % 2 {
            0 => [100, 64, 2, 100 + round].into(),
            _ => [0x2001, 0xdb8, 0, 0, 0, 0, 1, u16::from(round)].into(),
        };
        lab.gateway().run("ip", &["address", "add", &address.to_string(), "dev", "outside"]);
        let public = make(&lab, &mut query, 20_000 + u16::from(round), address);
        let answer = look_up(&mut client, public);
        assert!(!answer.hosts.is_empty() || !answer.complete, "{public} was called free");
        at_once += usize::from(!answer.hosts.is_empty());
        wait_until("the connection is found", || {
            let answer = look_up(&mut client, public);
            assert!(!answer.hosts.is_empty() || !answer.complete, "{public} was called free");
            answer.complete && answer.hosts.len() == 1
        });
        made.push(public);
    }
    for public in &made {
        lab.gateway().run("ip", &["address", "delete", &public.ip().to_string(), "dev", "outside"]);
    }
    // ctnetlink's entries are still there, but not on an address of the interface.
    for public in &made {
        wait_until("the connection is not tracked", || look_up(&mut client, *public).hosts.is_empty());
    }
    println!("{ROUNDS} addresses: {at_once} connections were found at once, the others a moment later");
}

#[test]
fn an_interface_can_come_go_and_be_renamed() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let (daemon, mut client) = start(&lab, "nat_ip = @ppp0, 100.64.2.1");
    daemon.wait_for_line("the interface ppp0 has no address, so @ppp0 stands for none");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let ip = |line: &str| {
        lab.gateway().run("ip", &line.split_whitespace().collect::<Vec<_>>());
    };
    let [first, second, fixed]: [IpAddr; 3] =
        ["203.0.113.1", "203.0.113.2", "100.64.2.1"].map(|address| address.parse().expect("an address"));
    let publics = [(1, first), (2, second), (3, fixed)];
    let publics = publics.map(|(port, address)| make(&lab, &mut query, port, address));
    let mut expect = |what: &str, expected: [bool; 3]| {
        wait_until(what, || {
            let answers = publics.map(|public| look_up(&mut client, public));
            answers.iter().all(|answer| answer.complete)
                && answers.map(|answer| !answer.hosts.is_empty()) == expected
        });
    };
    expect("there is no such interface", [false, false, true]);
    ip("link add ppp0 type veth peer name other0");
    ip("address add 203.0.113.1 peer 192.0.2.9 dev ppp0");
    expect("it has an address", [true, false, true]);
    ip("address add 203.0.113.2/32 dev other0");
    ip("link set ppp0 name ppp1");
    expect("it has another name", [false, false, true]);
    ip("link set other0 name ppp0");
    expect("another one has its name", [false, true, true]);
    // A label is not a name.
    ip("address add 203.0.113.1/32 dev ppp0 label ppp0:1");
    expect("it has two addresses", [true, true, true]);
    ip("link delete ppp0");
    expect("it is gone", [false, false, true]);
    // A reload to another interface reads its addresses.
    ip("link add wan type veth peer name other0");
    ip("address add 203.0.113.2/32 dev wan");
    let text = std::fs::read_to_string(daemon.config_path()).expect("the file is there");
    daemon.rewrite_config(&text.replace("@ppp0", "@wan"));
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_for_line("@wan stands for 203.0.113.2");
    expect("the other interface counts", [false, true, true]);
    ip("address delete 203.0.113.2/32 dev wan");
    expect("its address is gone", [false, false, true]);
}

#[test]
fn the_configuration_is_valid_without_the_interface() {
    let (_directory, path) =
        super::usual::directory_with("[filter]\nnat_ip = @ppp0\n[data]\nkey_name = nat_port\n");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pynatconnd"))
        .args(["--check-config", "-c", &path])
        .output()
        .expect("it can be started");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nat_ip = @ppp0\n"), "{output:?}");
}
