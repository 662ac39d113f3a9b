//! Data connections that a server outside begins, and that the kernel's helpers expect: active FTP and TFTP.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use lab::http::Client;
use lab::{Lab, traffic};
use serde_json::{Value, json};

use super::setup::{client, start_daemon};

/// Masquerading, with helpers for both protocols.
const RULES: &str = "\
table ip nat {
    ct helper ftp-standard {
        type \"ftp\" protocol tcp
    }
    ct helper tftp-standard {
        type \"tftp\" protocol udp
    }
    chain prerouting {
        type filter hook prerouting priority -150
        tcp dport 21 ct helper set \"ftp-standard\"
        udp dport 69 ct helper set \"tftp-standard\"
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade random
    }
}
";

/// The inside host behind `public` that the server at `own` asks for, and whether it could be another.
fn inside(
    client: &mut Client,
    public: SocketAddr,
    own: SocketAddr,
    protocol: &str,
) -> (Option<SocketAddr>, bool) {
    let [ip, port, own_ip, own_port] =
        [public.ip().to_string(), public.port().to_string(), own.ip().to_string(), own.port().to_string()];
    let headers = [
        ("X-Real-IP", &*ip),
        ("X-Real-Port", &*port),
        ("X-Dst-IP", &*own_ip),
        ("X-Dst-Port", &*own_port),
        ("X-Protocol", protocol),
    ];
    let answer = client.request("GET", "/v1/auth", &headers, b"");
    let address = answer.header("X-Nat-Src-Ip").zip(answer.header("X-Nat-Src-Port"));
    let address = address.map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap()));
    (address, answer.header("X-Nat-Ambiguous") == Some("1"))
}

/// The only match of a lookup.
fn one(client: &mut Client, lookup: &str) -> Value {
    let answer = client.get(&format!("/v1/lookup?{lookup}")).json();
    assert_eq!(answer["matches"].as_array().unwrap().len(), 1, "{lookup}: {answer:#}");
    answer["matches"][0].clone()
}

#[test]
fn the_server_of_an_active_ftp_transfer_finds_the_client() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ruleset(RULES).build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let server = lab.listen(lab.server_at(21));
    let control = lab.connect_to(&server, lab.client_at(0, 40_001));
    let mut from_client = BufReader::new(control.server.try_clone().unwrap());
    let mut from_server = BufReader::new(control.client.try_clone().unwrap());
    let line = |from: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    // The helper parses a line only after it has seen the end of one in that direction.
    (&control.server).write_all(b"220 ready\r\n").unwrap();
    assert_eq!(line(&mut from_server), "220 ready");
    (&control.client).write_all(b"USER anonymous\r\n").unwrap();
    assert_eq!(line(&mut from_client), "USER anonymous");

    // The client listens at port 50001, which is 195 * 256 + 81. The gateway announces its own address and port.
    let data = lab.client().enter(|| TcpListener::bind(lab.client_at(0, 50_001))).unwrap();
    (&control.client).write_all(b"PORT 192,168,7,2,195,81\r\n").unwrap();
    let announced = line(&mut from_client);
    let numbers: Vec<u8> =
        announced["PORT ".len()..].split(',').map(|number| number.parse().unwrap()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("{announced}") };
    let public = SocketAddr::new([a, b, c, d].into(), u16::from_be_bytes([high, low]));
    assert_eq!(public.ip(), lab.public(0));
    let own = lab.server_at(20);
    let outer = lab.server().enter(|| traffic::connect(own, public)).unwrap();
    let (accepted, _) = data.accept().unwrap();

    assert_eq!(inside(&mut client, public, own, "tcp"), (Some(lab.client_at(0, 50_001)), false));
    let found = one(&mut client, &format!("nat_ip={}&nat_port={}&src_port=20", public.ip(), public.port()));
    assert_eq!(
        (&found["inside"], &found["server_ip"], &found["server_port"], &found["dst_port"]),
        (&json!("server"), &json!("192.168.7.2"), &json!(50_001), &json!(public.port()))
    );
    drop((outer, accepted));
}

#[test]
fn the_server_of_a_tftp_transfer_finds_the_client() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ruleset(RULES).build();
    let daemon = start_daemon(&lab);
    let mut client = client(&lab, &daemon);
    let known = lab.udp_server(lab.server_at(69));
    let asking = lab.udp_client(lab.client_at(0, 40_001));
    // A read request: the server sends the file from a port of its own choice.
    asking.send_to(b"\0\x01file\0octet\0", lab.server_at(69)).unwrap();
    let (_, public) = known.recv_from(&mut [0; 64]).unwrap();
    assert_ne!(public.port(), 40_001);
    let data = lab.udp_server(lab.server_at(3456));
    data.send_to(b"\0\x03\0\x01data", public).unwrap();
    let (_, peer) = asking.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(peer, lab.server_at(3456));

    let (own, from) = (lab.server_at(3456), lab.client_at(0, 40_001));
    assert_eq!(inside(&mut client, public, own, "udp"), (Some(from), false));
    assert_eq!(inside(&mut client, public, lab.server_at(69), "udp"), (Some(from), false));
    let lookup = format!("nat_ip=100.64.2.1&nat_port={}", public.port());
    let found = one(&mut client, &format!("{lookup}&src_port=3456"));
    assert_eq!((&found["inside"], &found["server_port"]), (&json!("server"), &json!(40_001)));
    let found = one(&mut client, &format!("{lookup}&dst_port=69"));
    assert_eq!((&found["inside"], &found["src_port"]), (&json!("src"), &json!(40_001)));
}
