//! Every kind of mapping is found with its true fields: public ports that hosts, protocols and destinations
//! share, source and destination NAT, protocols with and without ports, zones.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lab::flows::{self, create, source_nat};
use lab::http::Client;
use lab::{Daemon, Lab, traffic};
use nfct::{Conntrack, Layer4, Protocol, Query, Tuple};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::binary::DAEMON;

const CONFIG: &str = "[data]\nkey_name = nat_port\n";

/// A client on the gateway itself.
struct LookupClient(Client);

impl LookupClient {
    fn of(lab: &Lab, daemon: &Daemon) -> Self {
        daemon.wait_for_line("equals the kernel's");
        Self(Client::connect(lab.gateway(), daemon.local_addr()))
    }

    /// The matches of a lookup, and whether they are ambiguous.
    fn all(&mut self, lookup: &str) -> (Vec<Value>, bool) {
        let answer = self.0.get(&format!("/v1/lookup?{lookup}"));
        let json = answer.json();
        let matches = json["matches"].as_array().expect("a list").clone();
        if matches.iter().any(|one| one["state"] == "live") {
            assert_eq!(json["complete"], true, "{lookup}: {json}");
        }
        assert_eq!(answer.status, if matches.is_empty() { 404 } else { 200 }, "{lookup}: {json}");
        (matches, json["ambiguous"].as_bool().expect("yes or no"))
    }

    /// The only match of a lookup, which must have these fields.
    fn one(&mut self, lookup: &str, fields: Value) -> Value {
        let (matches, ambiguous) = self.all(lookup);
        assert!(matches.len() == 1 && !ambiguous, "{lookup}: {matches:#?}");
        for (name, value) in fields.as_object().expect("fields") {
            assert_eq!(&matches[0][name], value, "{lookup}: {name} of {:#}", matches[0]);
        }
        matches[0].clone()
    }
}

fn open_query(lab: &Lab) -> Query {
    lab.gateway().enter(Query::open).expect("ctnetlink is available")
}

#[test]
fn connections_that_share_a_public_port_are_told_apart_by_the_other_fields() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).servers(2).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = LookupClient::of(&lab, &daemon);
    let (first_server, second_server) =
        (lab.listen(lab.server_at(443)), lab.listen(lab.server_number(1, 443)));
    let udp = lab.udp_server(lab.server_at(443));
    let mut open = Vec::new();
    for port in 40_000..40_020 {
        let first = lab.connect_to(&first_server, lab.client_at(0, port));
        let second = lab.connect_to(&second_server, lab.client_at(1, port));
        let third = lab.udp_client(lab.client_at(2, port));
        let public = (lab.public(0), port).into();
        let peers = [first.peer, second.peer, traffic::udp_exchange(&third, &udp)];
        assert_eq!(peers, [public; 3], "all share the public port");

        let nat = format!("nat_ip=100.64.2.1&nat_port={port}");
        let (matches, ambiguous) = client.all(&nat);
        assert!(matches.len() == 3 && ambiguous, "{matches:#?}");
        let (matches, ambiguous) = client.all(&format!("{nat}&protocol=tcp"));
        assert!(matches.len() == 2 && ambiguous, "{matches:#?}");
        let sources: Vec<_> = matches.iter().map(|one| one["src_ip"].as_str().expect("an address")).collect();
        assert_eq!(sources, ["192.168.7.3", "192.168.7.2"], "the newest first");
        let exact = [
            ("protocol=tcp&dst_ip=198.51.100.1&dst_port=443", "192.168.7.2"),
            ("protocol=tcp&server_ip=198.51.100.2", "192.168.7.3"),
            ("protocol=tcp&src_ip=192.168.7.3", "192.168.7.3"),
            ("protocol=udp", "192.168.7.4"),
        ];
        for (rest, src_ip) in exact {
            client.one(&format!("{nat}&{rest}"), json!({"src_ip": src_ip, "src_port": port, "nat": ["src"]}));
        }
        open.push((first, second, third));
    }
    println!("shared ports: {} with two TCP and one UDP each, all told apart", open.len());
}

#[test]
fn source_and_destination_nat_are_found_in_both_families() {
    const RULES: &str = "\
table ip nat {
    chain prerouting {
        type nat hook prerouting priority -100
        iifname \"outside\" tcp dport 8443 dnat to 192.168.7.2:443
        iifname \"inside\" tcp dport 3128 redirect to :8081
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.3 tcp dport 8888 snat to 192.168.7.3:50001
        ip saddr 192.168.7.0/24 oifname \"outside\" tcp dport != 80 masquerade
    }
}
table ip6 nat {
    chain prerouting {
        type nat hook prerouting priority -100
        iifname \"outside\" tcp dport 8443 dnat to [fd00:7::2]:443
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip6 saddr fd00:7::/64 oifname \"outside\" masquerade
    }
}
";
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ipv6().ruleset(RULES).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = LookupClient::of(&lab, &daemon);
    let mut open = Vec::new();

    // Source NAT over IPv6: two hosts, one port.
    let server = lab.listen(lab.server6_at(443));
    for host in 0..2 {
        let connection = lab.connect_to(&server, lab.client6_at(host, 40_001));
        assert_eq!(connection.peer.ip(), lab.public6());
        let lookup = format!("nat_ip=2001:db8::2&nat_port={}&state=live", connection.peer.port());
        let src_ip = lab.client6_at(host, 0).ip();
        client.one(
            &lookup,
            json!({"l3": "ipv6", "src_ip": src_ip, "src_port": 40_001, "nat_ip": "2001:db8::2",
            "dst_ip": "2001:db8::1", "server_ip": "2001:db8::1"}),
        );
        open.push(connection);
    }

    // Destination NAT in both families: an inside server answers.
    let from_outside = |from: SocketAddr, to: SocketAddr| {
        lab.server().enter(|| traffic::connect(from, to)).unwrap_or_else(|error| panic!("{to}: {error}"))
    };
    let inner = lab.client().enter(|| std::net::TcpListener::bind(lab.client_at(0, 443))).expect("free");
    let stream = from_outside(lab.server_at(50_000), (lab.public(0), 8443).into());
    let (inside, peer) = inner.accept().expect("it came");
    assert_eq!(peer, lab.server_at(50_000));
    let translated = json!({"src_ip": "198.51.100.1", "src_port": 50_000, "dst_ip": "100.64.2.1",
        "dst_port": 8443, "server_ip": "192.168.7.2", "server_port": 443, "nat_ip": "198.51.100.1",
        "nat_port": 50_000, "nat": ["dst"]});
    for lookup in [
        "protocol=tcp&nat_ip=198.51.100.1&nat_port=50000",
        "src_ip=198.51.100.1&src_port=50000",
        "server_ip=192.168.7.2&server_port=443",
        "dst_ip=100.64.2.1&dst_port=8443",
    ] {
        client.one(lookup, translated.clone());
    }
    let inner6 = lab.client().enter(|| std::net::TcpListener::bind(lab.client6_at(0, 443))).expect("free");
    let stream6 = from_outside(lab.server6_at(50_000), (lab.public6(), 8443).into());
    let (inside6, _) = inner6.accept().expect("it came");
    client.one(
        "dst_ip=2001:db8::2&dst_port=8443",
        json!({"src_ip": "2001:db8::1", "src_port": 50_000,
        "server_ip": "fd00:7::2", "server_port": 443, "nat_ip": "2001:db8::1", "nat": ["dst"]}),
    );

    // Redirect: the gateway answers instead of the server.
    let proxy = lab.gateway().enter(|| std::net::TcpListener::bind("0.0.0.0:8081")).expect("free");
    let redirected = lab.connect(lab.client_at(0, 40_003), lab.server_at(3128));
    let (at_proxy, peer) = proxy.accept().expect("it came");
    assert_eq!(peer, lab.client_at(0, 40_003));
    client.one(
        "src_ip=192.168.7.2&src_port=40003",
        json!({"dst_ip": "198.51.100.1", "dst_port": 3128,
        "server_ip": "192.168.7.1", "server_port": 8081, "nat_ip": "192.168.7.2", "nat": ["dst"]}),
    );

    // Only the port is translated.
    let server = lab.listen(lab.server_at(8888));
    let connection = lab.connect_to(&server, lab.client_at(1, 40_004));
    assert_eq!(connection.peer, lab.client_at(1, 50_001));
    client.one(
        "nat_ip=192.168.7.3&nat_port=50001",
        json!({"src_ip": "192.168.7.3", "src_port": 40_004,
        "nat": ["src"]}),
    );
    open.push(connection);

    // Without NAT: tracked, except with nat_only.
    let server = lab.listen(lab.server_at(80));
    let plain = lab.connect_to(&server, lab.client_at(0, 40_005));
    client.one("nat_ip=192.168.7.2&nat_port=40005", json!({"src_ip": "192.168.7.2", "nat": []}));
    let config = format!("[filter]\nnat_only = yes\n{CONFIG}[http_server]\nport = 8082\n");
    let nat_only = DAEMON.start(lab.gateway(), config);
    let mut other = LookupClient::of(&lab, &nat_only);
    let later = lab.connect_to(&server, lab.client_at(0, 40_006));
    for port in [40_005, 40_006] {
        assert_eq!(other.all(&format!("src_ip=192.168.7.2&src_port={port}")).0, [] as [Value; 0]);
    }
    let body = other.0.get("/v1/mappings?state=live").text().to_owned();
    let shown: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(shown.len(), 6, "{shown:#?}");
    assert!(shown.iter().all(|one| !one["nat"].as_array().expect("a list").is_empty()), "{shown:#?}");
    println!("translations: masquerade, DNAT, redirect and port only, IPv4 and IPv6: {} right", shown.len());
    drop((open, stream, inside, stream6, inside6, redirected, at_proxy, plain, later));
}

#[test]
fn an_echo_is_found_by_its_public_identifier() {
    const ECHO_REQUEST: u8 = 8;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).build();
    lab.client().sysctl("net.ipv4.ping_group_range", "0 2147483647");
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = LookupClient::of(&lab, &daemon);
    let outside = lab.server().enter(|| raw_socket(1));
    let mut identifiers = Vec::new();
    let pings: Vec<_> = (0..3)
        .map(|host| {
            let from = lab.client_at(host, 7777);
            // An ICMP socket uses its port as the identifier.
            let socket = lab.client().enter(|| {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(socket2::Protocol::ICMPV4))?;
                socket.bind(&from.into()).map(|()| socket)
            });
            let socket = socket.expect("the kernel lets everybody ping");
            let mut echo = vec![ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1];
            echo.extend(from.to_string().bytes());
            socket.send_to(&echo, &lab.server_at(0).into()).expect("sent");
            let (_, seen) = receive(&outside, |icmp| icmp[0] == ECHO_REQUEST && icmp[8..] == echo[8..]);
            let identifier = u16::from_be_bytes([seen[4], seen[5]]);
            let lookup = format!("protocol=icmp&nat_ip=100.64.2.1&nat_port={identifier}");
            let src_ip = from.ip();
            client.one(
                &lookup,
                json!({"src_ip": src_ip, "src_port": 7777, "nat_port": identifier,
                "dst_port": null, "server_port": null, "icmp": {"type": 8, "code": 0}}),
            );
            let lookup = format!("protocol=icmp&src_ip={src_ip}&src_port=7777");
            client.one(&lookup, json!({"nat_port": identifier}));
            identifiers.push(identifier);
            socket
        })
        .collect();
    identifiers.sort_unstable();
    identifiers.dedup();
    assert_eq!(identifiers.len(), pings.len(), "each has an identifier of its own outside");
    println!("echo: 3 hosts with identifier 7777, outside {identifiers:?}, each the right one");
}

/// A socket for all packets of a protocol in the namespace of the calling thread.
fn raw_socket(protocol: u8) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(i32::from(protocol).into())).expect("root");
    socket.set_read_timeout(Some(lab::PATIENCE)).expect("it is open");
    socket
}

/// The next packet that `wanted` accepts: its source address and the data after its IP header.
fn receive(mut socket: &Socket, wanted: impl Fn(&[u8]) -> bool) -> (IpAddr, Vec<u8>) {
    loop {
        let mut packet = [0; 2048];
        let length = socket.read(&mut packet).expect("a packet comes");
        let header = usize::from(packet[0] & 15) * 4;
        let payload = &packet[header..length];
        if wanted(payload) {
            return (Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]).into(), payload.to_vec());
        }
    }
}

/// Sends a packet of a protocol from an inside host to the server.
fn send_raw(lab: &Lab, protocol: u8, host: u8, payload: &[u8]) {
    let socket = lab.client().enter(|| raw_socket(protocol));
    socket.bind(&lab.client_at(host, 0).into()).expect("the address is there");
    socket.send_to(payload, &lab.server_at(0).into()).expect("sent");
}

/// An SCTP packet with one INIT chunk; `tag` identifies the sender.
fn sctp_init(src: u16, dst: u16, tag: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(src.to_be_bytes());
    packet.extend(dst.to_be_bytes());
    // No verification tag yet; the checksum comes last.
    packet.extend([0; 8]);
    // INIT, no flags, 20 bytes: tag, window, streams out and in, first TSN.
    packet.extend([1, 0, 0, 20]);
    packet.extend(tag.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1_u32.to_be_bytes());
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

#[test]
fn other_protocols_are_found_with_the_fields_they_have() {
    const SCTP: u8 = 132;
    const GRE: u8 = 47;
    const DCCP: u8 = 33;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(3).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = LookupClient::of(&lab, &daemon);
    let mut query = open_query(&lab);
    let mut answered = Vec::new();

    // SCTP: two hosts with one port.
    let outside = lab.server().enter(|| raw_socket(SCTP));
    for host in 0..2 {
        let init = sctp_init(5000, 9899, 0x1000 + u32::from(host));
        send_raw(&lab, SCTP, host, &init);
        let (from, seen) = receive(&outside, |sctp| sctp[16..20] == init[16..20]);
        assert_eq!(from, lab.public(0));
        let nat_port = u16::from_be_bytes([seen[0], seen[1]]);
        let lookup = format!("protocol=sctp&nat_ip=100.64.2.1&nat_port={nat_port}");
        client
            .one(&lookup, json!({"src_ip": lab.client_at(host, 0).ip(), "src_port": 5000, "dst_port": 9899}));
    }
    answered.push("sctp");

    // UDP-Lite and DCCP, where the kernel tracks their ports.
    for protocol in [Protocol::UdpLite, Protocol::Dccp] {
        let made = |host: u8| {
            let public = (lab.public(0), 6000 + u16::from(host)).into();
            source_nat(protocol, lab.client_at(host, 5001), lab.server_at(5001), public)
        };
        let is_made = |query: &mut Query, (original, reply): (Tuple, Tuple)| {
            query.create(&flows::entry(&original, &reply)).is_ok()
        };
        if !is_made(&mut query, made(0)) {
            continue;
        }
        // Where the kernel does not know the protocol's ports, two hosts have one entry.
        if !is_made(&mut query, made(1)) {
            flows::remove(&mut query, &made(0).0);
            continue;
        }
        for host in 0..2 {
            let lookup = format!("protocol={protocol}&nat_port={}", 6000 + u16::from(host));
            let fields = json!({"src_ip": lab.client_at(host, 0).ip(), "src_port": 5001, "dst_port": 5001,
                "protocol": protocol.to_string()});
            client.one(&lookup, fields);
        }
        answered.push(protocol.name().expect("it has one"));
    }

    // GRE has no keys without the PPTP helper, and two with it, as created here.
    let outside = lab.server().enter(|| raw_socket(GRE));
    send_raw(&lab, GRE, 0, &[0, 0, 8, 0, 1, 2, 3, 4]);
    let (from, _) = receive(&outside, |_| true);
    assert_eq!(from, lab.public(0));
    client.one(
        "protocol=gre&nat_ip=100.64.2.1&dst_ip=198.51.100.1",
        json!({"src_ip": "192.168.7.2",
        "protocol": "gre", "nat": ["src"]}),
    );
    let keyed = |src: &str, dst: &str, keys: (u16, u16)| Tuple {
        src: src.parse().expect("an address"),
        dst: dst.parse().expect("an address"),
        protocol: Protocol::Gre,
        layer4: Layer4::Keys { src: keys.0, dst: keys.1 },
        zone: 0,
    };
    for host in 3..5 {
        let inside = keyed(&format!("192.168.7.{host}"), "198.51.100.1", (77, 88));
        let outside = keyed("198.51.100.1", "100.64.2.1", (88, 100 + host));
        create(&mut query, &(inside, outside));
        client.one(
            &format!("protocol=gre&nat_port={}", 100 + host),
            json!({
            "src_ip": format!("192.168.7.{host}"), "src_port": 77, "dst_port": 88, "server_port": 88}),
        );
    }
    answered.push("gre");

    // Protocols that the kernel tracks by address alone: unknown ones, and DCCP in kernels without it.
    for protocol in [DCCP, 50, 253] {
        let outside = lab.server().enter(|| raw_socket(protocol));
        send_raw(&lab, protocol, 2, &[0; 32]);
        let (from, _) = receive(&outside, |_| true);
        if from != lab.public(0) {
            assert_eq!(protocol, DCCP, "only where the kernel can see that it is invalid");
            continue;
        }
        let name = Protocol::from(protocol).to_string();
        client.one(
            &format!("protocol={protocol}&nat_ip=100.64.2.1&state=live"),
            json!({"src_ip": "192.168.7.4",
            "protocol": name, "nat": ["src"]}),
        );
        if protocol != DCCP {
            client.one(
                &format!("protocol={protocol}&src_ip=192.168.7.4"),
                json!({"src_port": null,
                "nat_port": null, "dst_port": null, "server_port": null}),
            );
        }
    }
    answered.push("numbers 50 and 253");
    println!("other protocols: {} answered right", answered.join(", "));
}

#[test]
fn zones_keep_equal_connections_apart() {
    const RULES: &str = "\
table ip raw {
    chain prerouting {
        type filter hook prerouting priority -300
        iifname \"inside\" ip saddr 192.168.7.3 ct original zone set 7
    }
}
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).ruleset(RULES).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let mut client = LookupClient::of(&lab, &daemon);
    let mut query = open_query(&lab);

    // Equal in everything but the zone.
    let inside = "192.168.7.2:40001".parse().expect("an address");
    let public = "100.64.2.1:40001".parse().expect("an address");
    let (original, reply) = source_nat(Protocol::Tcp, inside, lab.server_at(443), public);
    let in_zone = |zone| (Tuple { zone, ..original }, Tuple { zone, ..reply });
    for zone in [3, 4, 65_535] {
        let (original, reply) = in_zone(zone);
        let mut entry: Conntrack = flows::entry(&original, &reply);
        entry.set_mark(u32::from(zone));
        query.create(&entry).unwrap_or_else(|error| panic!("{original}: {error}"));
    }
    let nat = "protocol=tcp&nat_ip=100.64.2.1&nat_port=40001";
    let (matches, ambiguous) = client.all(nat);
    assert!(matches.len() == 3 && ambiguous, "{matches:#?}");
    for zone in [3, 4, 65_535] {
        let found =
            client.one(&format!("{nat}&zone={zone}&fields=mark"), json!({"zone": zone, "mark": zone}));
        assert_eq!(found.get("reply_zone"), None, "{found}");
    }
    let (original, _) = in_zone(4);
    assert!(flows::remove(&mut query, &original));
    client.one(&format!("{nat}&zone=4&fields=mark"), json!({"state": "closed", "mark": 4}));
    client.one(&format!("{nat}&zone=3&fields=mark"), json!({"state": "live", "mark": 3}));
    client.one(&format!("{nat}&zone=65535&fields=mark"), json!({"state": "live", "mark": 65_535}));

    // A zone for the inside only, as for tenants whose addresses overlap.
    let server = lab.listen(lab.server_at(443));
    let tenant = lab.connect_to(&server, lab.client_at(1, 40_002));
    let usual = lab.connect_to(&server, lab.client_at(0, 40_003));
    let nat = format!("nat_ip=100.64.2.1&nat_port={}", tenant.peer.port());
    let fields = json!({"src_ip": "192.168.7.3", "zone": 7, "reply_zone": 0});
    for zone in ["", "&zone=7", "&zone=0"] {
        client.one(&format!("{nat}{zone}"), fields.clone());
    }
    let nat = format!("nat_ip=100.64.2.1&nat_port={}", usual.peer.port());
    client.one(&format!("{nat}&zone=0"), json!({"src_ip": "192.168.7.2", "zone": 0}));
    assert_eq!(client.all(&format!("{nat}&zone=7")).0.len(), 0);
    println!("zones: 3 with equal tuples, one of the inside only, one default: each found in its own");
}
