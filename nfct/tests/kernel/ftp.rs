//! Expectations of the FTP helper on a NAT gateway: active and passive transfers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Instant;

use lab::samples::tcp;
use lab::{Lab, Netns, PATIENCE};
use nfct::{Direction, EventKind, ExpectEvents, ExpectGroups, Expectation, Family, Layer4, Query, Tuple};

use super::expectations::{all, next};

const CLIENT: &str = "192.168.7.2";
const PUBLIC: &str = "100.64.2.1";
const SERVER: &str = "198.51.100.1";

const GATEWAY_RULES: &str = "\
table ip nat {
    ct helper ftp-standard {
        type \"ftp\" protocol tcp
    }
    chain prerouting {
        type filter hook prerouting priority -150
        tcp dport 21 ct helper set \"ftp-standard\"
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";

/// A gateway with the FTP helper, a client and an FTP server.
fn gateway() -> Option<Lab> {
    lab::require().then(|| Lab::builder().ruleset(GATEWAY_RULES).build())
}

/// The control connection: the client's side, the server's side, and the original tuple.
fn control(lab: &Lab) -> (Line, Line, Tuple) {
    let listener = lab.listen(lab.server_at(21));
    let connection = lab.connect_to(&listener, lab.client_at(0, 0));
    let port = connection.client.local_addr().unwrap().port();
    let (mut client, mut server) = (Line::new(connection.client), Line::new(connection.server));
    // The helper parses a line only after it has seen the end of one in that direction.
    server.say("220 ready");
    assert_eq!(client.read_line(), "220 ready");
    client.say("USER anonymous");
    assert_eq!(server.read_line(), "USER anonymous");
    server.say("230 logged in");
    assert_eq!(client.read_line(), "230 logged in");
    (client, server, tcp(CLIENT, port, SERVER, 21))
}

fn listen(netns: &Netns, address: &str) -> TcpListener {
    netns.enter(|| TcpListener::bind((address, 0)).unwrap())
}

fn connect_from(netns: &Netns, to: SocketAddr) -> TcpStream {
    netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap())
}

/// One side of a control connection, read and written in lines.
struct Line(BufReader<TcpStream>);

impl Line {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// An address in FTP's notation: `192,168,7,2,195,80`.
fn to_ftp(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    format!("{a},{b},{c},{d},{high},{low}")
}

fn from_ftp(text: &str) -> SocketAddr {
    let numbers: Vec<u8> = text.split(',').map(|number| number.parse().unwrap()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("{text}") };
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

/// Sends bytes over a data connection and checks that they arrive.
fn transfer(mut from: TcpStream, mut to: TcpStream) {
    let sent: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.write_all(&sent).unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    to.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} of {} bytes arrived as they were", received.len(), sent.len());
}

/// The expectation that the kernel has just reported, which must be the only one
/// in its list and belong to `control`.
fn only_expectation(events: &mut ExpectEvents, query: &mut Query, control: Tuple) -> Expectation {
    let reported = next(events);
    assert_eq!((reported.kind, reported.expectation.master), (EventKind::New, control));
    let listed = all(query);
    let ids: Vec<_> = listed.iter().map(|expectation| expectation.id).collect();
    assert_eq!(ids, [reported.expectation.id]);
    let found = query.get_expectation(&reported.expectation.expected).unwrap().unwrap();
    assert_eq!((found.id, &found.nat), (reported.expectation.id, &reported.expectation.nat));
    println!("{found}");
    found
}

/// Waits for the end of `expectation` and checks that none is left.
fn wait_fulfilled(events: &mut ExpectEvents, query: &mut Query, expectation: &Expectation) {
    let reported = next(events);
    assert_eq!((reported.kind, reported.expectation.id), (EventKind::Destroy, expectation.id));
    assert_eq!(all(query), []);
}

#[test]
fn an_active_ftp_transfer_through_nat_is_listed_and_watched() {
    let Some(lab) = gateway() else { return };
    let (mut events, mut query) =
        lab.gateway().enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = control(&lab);

    // The client sends its inside address. The gateway replaces it with the public one.
    let listener = listen(lab.client(), CLIENT);
    let inside = listener.local_addr().unwrap();
    client.say(&format!("PORT {}", to_ftp(inside)));
    let line = server.read_line();
    let public = from_ftp(line.strip_prefix("PORT ").unwrap());
    assert_eq!(public.ip().to_string(), PUBLIC);
    server.say("200 PORT command successful");
    assert_eq!(client.read_line(), "200 PORT command successful");

    let expectation = only_expectation(&mut events, &mut query, control);
    assert_eq!(expectation.expected, tcp(SERVER, 0, PUBLIC, public.port()));
    assert_eq!(expectation.mask, tcp("255.255.255.255", 0, "255.255.255.255", 0xffff));
    let nat = expectation.nat.unwrap();
    // The port is the inside port; the address is the master's.
    assert_eq!((nat.tuple.src.is_unspecified(), nat.direction), (true, Direction::Reply));
    assert!(matches!(nat.tuple.layer4, Layer4::Ports { src, .. } if src == inside.port()), "{nat:?}");
    assert_eq!(expectation.function.as_deref(), Some("nat-follow-master"));

    // The data connection to the public address reaches the client.
    let data = connect_from(lab.server(), public);
    let from = data.local_addr().unwrap();
    let (received, peer) = listener.accept().unwrap();
    assert_eq!(peer, from);
    wait_fulfilled(&mut events, &mut query, &expectation);
    let flow = query.get_by_original(&tcp(SERVER, from.port(), PUBLIC, public.port())).unwrap().unwrap();
    assert!(flow.status.is_expected() && flow.status.is_destination_nat(), "{flow:?}");
    assert_eq!(flow.reply, tcp(CLIENT, inside.port(), SERVER, from.port()));
    let entry = query.get(Direction::Original, &flow.original).unwrap().unwrap();
    assert_eq!(entry.master(), Some(control), "the kernel has assigned the data connection to its master");
    transfer(data, received);
}

#[test]
fn a_passive_ftp_transfer_through_nat_is_listed_and_watched() {
    let Some(lab) = gateway() else { return };
    let (mut events, mut query) =
        lab.gateway().enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = control(&lab);

    client.say("PASV");
    assert_eq!(server.read_line(), "PASV");
    let listener = listen(lab.server(), SERVER);
    let data_address = listener.local_addr().unwrap();
    server.say(&format!("227 Entering Passive Mode ({})", to_ftp(data_address)));
    let line = client.read_line();
    let reported = line.split(['(', ')']).nth(1).unwrap();
    assert_eq!(from_ftp(reported), data_address);

    let expectation = only_expectation(&mut events, &mut query, control);
    assert_eq!(expectation.expected, tcp(CLIENT, 0, SERVER, data_address.port()));

    let data = connect_from(lab.client(), data_address);
    let from = data.local_addr().unwrap();
    let (sending, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), PUBLIC);
    wait_fulfilled(&mut events, &mut query, &expectation);
    let flow =
        query.get_by_original(&tcp(CLIENT, from.port(), SERVER, data_address.port())).unwrap().unwrap();
    assert!(flow.status.is_expected() && flow.status.is_source_nat(), "{flow:?}");
    assert_eq!(flow.reply, tcp(SERVER, data_address.port(), PUBLIC, peer.port()));
    let entry = query.get(Direction::Original, &flow.original).unwrap().unwrap();
    assert_eq!(entry.master(), Some(control), "the kernel has assigned the data connection to its master");
    transfer(sending, data);
}

#[test]
fn an_unfulfilled_expectation_ends_with_its_master() {
    let Some(lab) = gateway() else { return };
    let (mut events, mut query) =
        lab.gateway().enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = control(&lab);
    client.say(&format!("PORT {}", to_ftp((Ipv4Addr::new(192, 168, 7, 2), 50000).into())));
    server.read_line();
    let expectation = only_expectation(&mut events, &mut query, control);
    let start = Instant::now();
    query.flush(Family::Any).unwrap();
    wait_fulfilled(&mut events, &mut query, &expectation);
    assert!(start.elapsed() < PATIENCE);
}
