//! Connections that began outside: a public end is a public end in either direction.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use lab::http::{Client, Stream};
use lab::{Lab, traffic};
use nfct::Protocol;
use serde_json::{Value, json};

use super::setup::{TestConnection, client, ctnetlink, start_daemon};
use crate::binary::DAEMON;

/// A port forward, and masquerading.
const RULES: &str = "\
table ip nat {
    chain prerouting {
        type nat hook prerouting priority -100
        iifname \"outside\" tcp dport 8443 dnat to 192.168.7.2:443
        iifname \"outside\" udp dport 6969 dnat to 192.168.7.3:69
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";

/// Only the public address of the lab.
const CONFIG: &str = "\
[filter]
nat_ip = 100.64.2.1

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 198.51.100.0/24, 127.0.0.1
";

/// The matches of a lookup.
fn matches(client: &mut Client, lookup: &str) -> Vec<Value> {
    client.get(&format!("/v1/lookup?{lookup}")).json()["matches"].as_array().unwrap().clone()
}

fn auth(client: &mut Client, headers: &[(&str, &str)]) -> [Option<String>; 4] {
    let answer = client.request("GET", "/v1/auth", headers, b"");
    ["X-Nat-Found", "X-Nat-Src-Ip", "X-Nat-Src-Port", "X-Nat-Ambiguous"]
        .map(|name| answer.header(name).map(str::to_owned))
}

fn values(values: [&str; 4]) -> [Option<String>; 4] {
    values.map(|value| Some(value.to_owned()))
}

#[test]
fn a_forwarded_connection_is_found_by_its_public_end() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ruleset(RULES).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let mut client = client(&lab, &daemon);
    let address = daemon.addr_on(lab.public(0));
    let mut events = Stream::connect(lab.server(), address, "/v1/events?nat_port=8443", &[]);

    // TCP from outside to an inside server, and UDP.
    let inner = lab.client().enter(|| TcpListener::bind(lab.client_at(0, 443))).unwrap();
    let far = lab.server_at(50_000);
    let public = SocketAddr::new(lab.public(0), 8443);
    let outer = lab.server().enter(|| traffic::connect(far, public)).unwrap();
    let (accepted, peer) = inner.accept().unwrap();
    assert_eq!(peer, far);
    let tftp = lab.client().enter(|| UdpSocket::bind(lab.client_at(1, 69))).unwrap();
    let asking = lab.udp_server(lab.server_at(50_001));
    asking.send_to(b"ask", SocketAddr::new(lab.public(0), 6969)).unwrap();
    let (_, peer) = tftp.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(peer, lab.server_at(50_001));

    let expected = json!({"src_ip": "198.51.100.1", "src_port": 50_000, "dst_ip": "100.64.2.1", "dst_port": 8443,
        "nat_ip": "198.51.100.1", "nat_port": 50_000, "server_ip": "192.168.7.2", "server_port": 443,
        "inside": "server", "nat": ["dst"], "state": "live"});
    for lookup in [
        "nat_ip=100.64.2.1&nat_port=8443",
        "nat_port=8443",
        "nat_ip=100.64.2.1&protocol=tcp",
        "nat_ip=100.64.2.1&nat_port=8443&src_ip=198.51.100.1&src_port=50000",
        "server_ip=192.168.7.2",
    ] {
        let found = matches(&mut client, lookup);
        assert_eq!(found.len(), 1, "{lookup}: {found:#?}");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&found[0][name], value, "{lookup}: {name}");
        }
    }
    // The other end is not translated. It is found there too, as the host that it is.
    let found = matches(&mut client, "nat_ip=198.51.100.1&nat_port=50000");
    assert_eq!((found.len(), &found[0]["inside"]), (1, &json!("src")));
    // Address and port are of the same end.
    for lookup in ["nat_ip=100.64.2.1&nat_port=50000", "nat_ip=198.51.100.1&nat_port=8443"] {
        assert_eq!(matches(&mut client, lookup), [] as [Value; 0], "{lookup}");
    }
    let found = matches(&mut client, "nat_ip=100.64.2.1&nat_port=6969");
    assert_eq!((&found[0]["server_ip"], &found[0]["server_port"]), (&json!("192.168.7.3"), &json!(69)));
    let opened = events.next_json();
    assert_eq!((&opened["event"], &opened["mapping"]["inside"]), (&json!("opened"), &json!("server")));

    // /v1/auth: the server that began the connection asks for the inside host. Its own address is the far side.
    let base = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "8443")];
    let forwarded = values(["1", "192.168.7.2", "443", "0"]);
    assert_eq!(auth(&mut client, &base), forwarded);
    let from = |ip, port| [base[0], base[1], ("X-Dst-IP", ip), ("X-Dst-Port", port)];
    assert_eq!(auth(&mut client, &from("198.51.100.1", "50000")), forwarded);
    for (ip, port) in [("198.51.100.2", "50000"), ("198.51.100.1", "50002"), ("192.168.7.2", "443")] {
        assert_eq!(auth(&mut client, &from(ip, port))[0].as_deref(), Some("0"), "{ip} {port}");
    }

    // The legacy routes know the public end of source NAT, and the filter applies to it.
    assert_eq!(client.get("/nat_port/8443").status, 404);
    assert_eq!(client.get("/nat_port/50000").status, 404);
    let server = lab.listen(lab.server_at(443));
    let usual = lab.connect_to(&server, lab.client_at(0, 40_001));
    assert_eq!(client.get("/nat_port/40001").json()["src_ip"], "192.168.7.2");
    let keys: Vec<_> = client.get("/debug").json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["40001"]);
    drop((outer, accepted, usual));
}

#[test]
fn a_port_of_a_forward_and_of_an_inside_host_are_told_apart_by_the_far_side() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).servers(2).ruleset(RULES).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let mut client = client(&lab, &daemon);
    // Port 8443 of the gateway is the public port of an inside host as well.
    let inner = lab.client().enter(|| TcpListener::bind(lab.client_at(0, 443))).unwrap();
    let public = SocketAddr::new(lab.public(0), 8443);
    let outer = lab.server().enter(|| traffic::connect(lab.server_at(50_000), public)).unwrap();
    let accepted = inner.accept().unwrap();
    let server = lab.listen(lab.server_number(1, 443));
    let usual = lab.connect_to(&server, lab.client_at(1, 8443));
    assert_eq!(usual.peer, public);

    let answer = client.get("/v1/lookup?nat_ip=100.64.2.1&nat_port=8443").json();
    assert_eq!((answer["matches"].as_array().unwrap().len(), &answer["ambiguous"]), (2, &json!(true)));
    let base = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "8443")];
    assert_eq!(auth(&mut client, &base), values(["1", "192.168.7.3", "8443", "1"]));
    let from = |ip, port| [base[0], base[1], ("X-Dst-IP", ip), ("X-Dst-Port", port)];
    assert_eq!(auth(&mut client, &from("198.51.100.1", "50000")), values(["1", "192.168.7.2", "443", "0"]));
    assert_eq!(auth(&mut client, &from("198.51.100.2", "443")), values(["1", "192.168.7.3", "8443", "0"]));
    drop((outer, accepted, usual));
}

#[test]
fn every_kind_of_translated_destination_has_a_public_end() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let mut query = ctnetlink(&lab);
    let make = |protocol, src: &str, dst: &str, server: &str| {
        let made = TestConnection::new(protocol, src, dst, src);
        TestConnection { server: server.parse().expect("an address and port"), ..made }
    };
    // Only the prefix of the address is translated, only the port, and a ping.
    for made in [
        make(Protocol::Tcp, "[2001:db8::1]:50000", "[2001:db8:1::7]:443", "[fd00:7::7]:443"),
        make(Protocol::Udp, "198.51.100.1:50000", "100.64.2.1:5353", "100.64.2.1:53"),
        make(Protocol::Icmp, "198.51.100.1:77", "100.64.2.1:0", "192.168.7.2:0"),
    ] {
        made.create(&mut query);
    }
    for (lookup, expected) in [
        (
            "nat_ip=2001:db8:1::7&nat_port=443",
            json!({"inside": "server", "server_ip": "fd00:7::7", "server_port": 443, "nat": ["dst"]}),
        ),
        ("nat_ip=100.64.2.1&nat_port=5353", json!({"inside": "server", "server_port": 53, "nat": ["dst"]})),
        (
            "nat_ip=100.64.2.1&nat_port=77",
            json!({"inside": "server", "server_ip": "192.168.7.2", "protocol": "icmp", "nat": ["dst"]}),
        ),
        ("nat_ip=2001:db8:1::/48", json!({"inside": "server", "server_ip": "fd00:7::7"})),
    ] {
        let found = matches(&mut client, lookup);
        assert_eq!(found.len(), 1, "{lookup}: {found:#?}");
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&found[0][name], value, "{lookup}: {name}");
        }
    }
}

#[test]
fn both_ends_of_one_connection_can_be_meant() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    // An inside host reaches another one through the public address, and has the same port there.
    let made = TestConnection::new(Protocol::Tcp, "192.168.7.2:443", "100.64.2.1:443", "100.64.2.1:443");
    TestConnection { server: "192.168.7.3:8443".parse().unwrap(), ..made }.create(&mut ctnetlink(&lab));

    let answer = client.get("/v1/lookup?nat_ip=100.64.2.1&nat_port=443").json();
    assert_eq!((answer["matches"].as_array().unwrap().len(), &answer["ambiguous"]), (1, &json!(true)));
    let base = [("X-Real-IP", "100.64.2.1"), ("X-Real-Port", "443")];
    assert_eq!(auth(&mut client, &base)[3].as_deref(), Some("1"));
    let from = |ip, port| [base[0], base[1], ("X-Dst-IP", ip), ("X-Dst-Port", port)];
    let client_of_server = auth(&mut client, &from("192.168.7.3", "8443"));
    assert_eq!(client_of_server, values(["1", "192.168.7.2", "443", "0"]));
    let server_of_client = auth(&mut client, &from("192.168.7.2", "443"));
    assert_eq!(server_of_client, values(["1", "192.168.7.3", "8443", "0"]));
}
