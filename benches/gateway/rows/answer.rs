//! Row 9: a packet of a new connection has reached the server through the NAT, and the server looks up its sender at once.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load::{self, Pace};
use crate::meter::percentile;
use crate::report::{Row, Target};
use lab::http::Client;

/// New connections per second.
const RATE: u32 = 20_000;
/// The server looks up the sender of one packet in this number.
const ONE_OF: u32 = 20;
/// Inside hosts with different ports, so that the NAT keeps the ports and drops nothing.
const HOSTS: u8 = 4;
const FIRST_PORT: u16 = 10_000;

/// The server's observations.
#[derive(Default)]
struct Seen {
    packets: u32,
    /// Milliseconds from the receipt of a packet to the response.
    times: Vec<f64>,
    missing: u32,
    wrong: u32,
}

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let flows = bench.many(50_000);
    let gateway = Gateway::new();
    let lab = gateway.lab();
    let daemon = gateway.daemon(CONFIG);
    let (mut p50, mut p99, mut most) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unanswered, mut rates, mut lookups, mut packets) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..bench.rounds(5) {
        let server = lab.udp_server(lab.server_at(9000));
        // The largest receive buffer of an ordinary socket, for the packets that come during a lookup.
        SockRef::from(&server).set_recv_buffer_size(4 << 20).expect("the socket is open");
        server.set_read_timeout(Some(Duration::from_secs(2))).expect("the socket is open");
        let client = Client::connect(lab.server(), daemon.addr_on(lab.public(0)));
        let senders: Vec<_> = (0..HOSTS).map(|host| lab.client_at(host, 0)).collect();
        let target = lab.server_at(9000);
        let sending = lab.client().spawn(move || send(&senders, target, flows));
        let mut seen = serve(&server, client, flows);
        rates.push(sending.join().expect("packets can be sent"));
        p50.push(percentile(&mut seen.times, 0.5));
        p99.push(percentile(&mut seen.times, 0.99));
        most.push(percentile(&mut seen.times, 1.0));
        unanswered.push(f64::from(seen.missing + seen.wrong));
        lookups += seen.times.len();
        packets += seen.packets;
        load::flush(gateway.netns());
    }
    let row = Row::new("9", "from a new flow's packet at the server to the answer, through real NAT")
        .figure("median", "ms", &p50)
        .target("99 of 100", "ms", &p99, Target::AtMost(1.0))
        .figure("the longest", "ms", &most)
        .target("missing or wrong", "", &unanswered, Target::AtMost(0.0))
        .figure("new flows", "a second", &rates)
        .note(format!("{packets} packets arrived, {lookups} senders were looked up"));
    Ok(vec![row])
}

/// Sends one packet from each address and port, and returns the packets per second.
fn send(hosts: &[SocketAddr], target: SocketAddr, flows: u32) -> f64 {
    let pace = Pace::new(RATE);
    for number in 0..flows {
        let port = FIRST_PORT + number as u16;
        let from = SocketAddr::new(hosts[number as usize % hosts.len()].ip(), port);
        let socket = UdpSocket::bind(from).unwrap_or_else(|error| panic!("cannot bind {from}: {error}"));
        socket.send_to(from.to_string().as_bytes(), target).expect("the way is open");
        pace.wait(number + 1);
    }
    pace.reached(flows)
}

/// Receives packets and looks up the senders of some, until no more come.
fn serve(server: &UdpSocket, mut client: Client, flows: u32) -> Seen {
    let mut seen = Seen::default();
    let mut buffer = [0; 64];
    while seen.packets < flows {
        let (length, peer) = match server.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("the server cannot receive: {error}"),
        };
        let received = Instant::now();
        seen.packets += 1;
        if seen.packets % ONE_OF != 0 {
            continue;
        }
        let answer = client.get(&format!("/nat_port/{}", peer.port()));
        seen.times.push(received.elapsed().as_secs_f64() * 1e3);
        if answer.status != 200 {
            seen.missing += 1;
            continue;
        }
        let json = answer.json();
        let found = format!("{}:{}", json["src_ip"].as_str().unwrap_or_default(), json["src_port"]);
        seen.wrong += u32::from(found.as_bytes() != &buffer[..length]);
    }
    seen
}
