//! Lookups are exact on real NAT: at the moment a server accepts a connection,
//! for connections older than the daemon, and for public ports that one inside
//! host takes over from another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::{Daemon, Lab, Netns, flows, traffic};
use nfct::{Query, Tuple};

use super::binary::DAEMON;

const CONFIG: &str = "\
[filter]
dst_ip = 198.51.100.1
dst_port = 443

[data]
key_name = nat_port

[http_server]
host = 0.0.0.0
ip_acl = 100.64.2.0/24, 198.51.100.0/24, 127.0.0.1
";

/// The inside host behind a public port, or the status of the response.
fn inside_host(client: &mut Client, port: u16) -> Result<SocketAddr, u16> {
    let answer = client.get(&format!("/nat_port/{port}"));
    if answer.status != 200 {
        return Err(answer.status);
    }
    let json = answer.json();
    let port = json["src_port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    Ok((
        json["src_ip"].as_str().and_then(|ip| ip.parse::<std::net::IpAddr>().ok()).expect("an address"),
        port,
    )
        .into())
}

/// Counts right, wrong and missing results.
#[derive(Debug, Default)]
struct Tally {
    right: usize,
    wrong: Vec<String>,
    missing: Vec<String>,
}

impl Tally {
    fn ask(&mut self, client: &mut Client, port: u16, expected: SocketAddr) {
        self.note(port, inside_host(client, port), expected);
    }

    fn note(&mut self, port: u16, answer: Result<SocketAddr, u16>, expected: SocketAddr) {
        match answer {
            Ok(found) if found == expected => self.right += 1,
            Ok(found) => self.wrong.push(format!("port {port}: {found}, expected {expected}")),
            Err(status) => self.missing.push(format!("port {port}: {status}, expected {expected}")),
        }
    }

    fn check(&self, what: &str, lookups: usize) {
        println!("{what}: {lookups} lookups, {} wrong, {} missing", self.wrong.len(), self.missing.len());
        assert!(self.wrong.is_empty() && self.missing.is_empty(), "{self:#?}");
        assert_eq!(self.right, lookups);
    }
}

/// Sends the server the client's inside address.
fn greet(stream: &mut TcpStream) {
    let name = stream.local_addr().expect("connected").to_string();
    stream.write_all(format!("{name:<32}").as_bytes()).expect("the server reads");
}

fn read_greeting(stream: &mut TcpStream) -> SocketAddr {
    let mut name = [0; 32];
    stream.read_exact(&mut name).expect("the client sends its address");
    std::str::from_utf8(&name).expect("text").trim().parse().expect("an address")
}

/// Deletes the entry of a connection, if the kernel has not done so.
fn delete_entry(lab: &Lab, from: SocketAddr, to: SocketAddr) {
    lab.gateway().enter(|| {
        let mut query = Query::open().expect("ctnetlink is available");
        // False if the connection has already ended by itself.
        flows::remove(&mut query, &Tuple::tcp(from, to));
    });
}

fn client_from(netns: &Netns, lab: &Lab, daemon: &Daemon) -> Client {
    Client::connect(netns, daemon.addr_on(lab.public(0)))
}

#[test]
fn a_lookup_at_accept_always_finds_the_inside_address() {
    const CONNECTIONS: usize = 2000;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(4).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let server = lab.listen(lab.server_at(443));
    let target = server.address();
    let clients: Vec<_> = (0..4)
        .map(|index| {
            let from = lab.client_at(index, 0);
            lab.client().spawn(move || {
                for _ in 0..CONNECTIONS / 4 {
                    let mut stream = traffic::connect(from, target).expect("connected");
                    greet(&mut stream);
                    // Wait until the server has done its lookup.
                    let _ = stream.read(&mut [0]);
                }
            })
        })
        .collect();
    let mut client = client_from(lab.server(), &lab, &daemon);
    let mut tally = Tally::default();
    for _ in 0..CONNECTIONS {
        let (mut stream, peer) = server.accept();
        let answer = inside_host(&mut client, peer.port());
        let expected = read_greeting(&mut stream);
        tally.note(peer.port(), answer, expected);
    }
    clients.into_iter().for_each(|client| client.join().expect("the client finished"));
    tally.check("at the moment of accept", CONNECTIONS);
}

#[test]
fn lookups_at_accept_that_several_threads_of_the_daemon_serve_find_the_inside_address() {
    const CONNECTIONS: usize = 2000;
    const SERVERS: u8 = 4;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(4).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    let server = lab.listen(lab.server_at(443));
    let target = server.address();
    let clients: Vec<_> = (0..SERVERS)
        .map(|index| {
            let from = lab.client_at(index, 0);
            lab.client().spawn(move || {
                for at in 0..CONNECTIONS / usize::from(SERVERS) {
                    let mut stream = traffic::connect(from, target).expect("connected");
                    greet(&mut stream);
                    let _ = stream.read(&mut [0]);
                    // Now and then no event comes for a moment: lookups then check the socket in another way.
                    if at % 8 == 0 {
                        std::thread::sleep(Duration::from_millis(3));
                    }
                }
            })
        })
        .collect();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let servers: Vec<_> = (0..SERVERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = client_from(lab.server(), &lab, &daemon);
                    let mut tally = Tally::default();
                    for _ in 0..CONNECTIONS / usize::from(SERVERS) {
                        let (mut stream, peer) = server.accept();
                        let answer = inside_host(&mut client, peer.port());
                        tally.note(peer.port(), answer, read_greeting(&mut stream));
                    }
                    tally
                })
            })
            .collect();
        servers.into_iter().map(|server| server.join().expect("the server finished")).collect()
    });
    clients.into_iter().for_each(|client| client.join().expect("the client finished"));
    for tally in tallies {
        tally.check("at the moment of accept, on several threads", CONNECTIONS / usize::from(SERVERS));
    }
}

#[test]
fn connections_older_than_the_daemon_are_found() {
    const CONNECTIONS: u16 = 50;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let old: Vec<_> =
        (0..CONNECTIONS).map(|index| lab.connect_to(&server, lab.client_at(0, 40000 + index))).collect();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    lab::wait_until("the kernel's table is read", || {
        client_from(lab.server(), &lab, &daemon).get("/readyz").status == 200
    });
    let mut client = client_from(lab.server(), &lab, &daemon);
    let mut tally = Tally::default();
    for connection in &old {
        tally.ask(&mut client, connection.peer.port(), connection.client.local_addr().unwrap());
    }
    tally.check("opened before the daemon", CONNECTIONS.into());
}

#[test]
fn a_reused_public_port_belongs_to_its_new_host_at_once() {
    const PORTS: u16 = 100;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().clients(2).build();
    let server = lab.listen(lab.server_at(443));
    let daemon = DAEMON.start(lab.gateway(), CONFIG);

    let (mut first, mut at_once) = (Tally::default(), Tally::default());
    let mut open = Vec::new();
    for port in 40000..40000 + PORTS {
        let connection = lab.connect_to(&server, lab.client_at(0, port));
        assert_eq!(connection.peer.port(), port);
        // On new connections: the daemon closes an idle one if the machine stalls for 5 s.
        first.ask(&mut client_from(lab.server(), &lab, &daemon), port, lab.client_at(0, port));
        connection.reset();
        delete_entry(&lab, lab.client_at(0, port), server.address());

        let connection = lab.connect_to(&server, lab.client_at(1, port));
        assert_eq!(connection.peer.port(), port, "the port passed to the other host");
        at_once.ask(&mut client_from(lab.server(), &lab, &daemon), port, lab.client_at(1, port));
        open.push(connection);
    }
    first.check("a public port's first host", PORTS.into());
    at_once.check("a public port reused by another host, at once", PORTS.into());

    // Longer than del_delay: the first host's mapping is gone.
    let reused = Instant::now();
    std::thread::sleep(Duration::from_secs(12).saturating_sub(reused.elapsed()));
    let mut client = client_from(lab.server(), &lab, &daemon);
    let mut later = Tally::default();
    for connection in &open {
        later.ask(&mut client, connection.peer.port(), connection.client.local_addr().unwrap());
    }
    later.check("a public port reused by another host, 12 s later", PORTS.into());
}
