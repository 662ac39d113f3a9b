//! `/v1/mappings` and `/v1/events`: the streams.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lab::http::Stream;
use lab::{Lab, PATIENCE};
use nfct::Protocol;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::setup::{TestConnection, client, connections, ctnetlink, lines, numbers, start_daemon};

#[test]
fn the_streamed_table_is_what_conntrack_shows() {
    const CONNECTIONS: u16 = 10_000;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let daemon = start_daemon(&lab);
    let mut query = ctnetlink(&lab);
    for number in 0..CONNECTIONS {
        let from = SocketAddr::new([10, 0, (number >> 8) as u8, number as u8].into(), 40001);
        let nat = SocketAddr::new(lab.public(0), 20_000 + number);
        let server = lab.server_at(443);
        let protocol = if number % 3 == 0 { Protocol::Udp } else { Protocol::Tcp };
        TestConnection { protocol, src: from, dst: server, nat, server, zone: number % 2, mark: 0 }
            .create(&mut query);
    }
    connections()[4].create(&mut query);

    let table = client(&lab, &daemon).get("/v1/mappings?state=live");
    let mut ours = BTreeSet::new();
    for mapping in lines(&table) {
        let [src, dst, nat, server] = ["src", "dst", "nat", "server"].map(|end| {
            let address: IpAddr = mapping[format!("{end}_ip")].as_str().unwrap().parse().unwrap();
            (address, mapping[format!("{end}_port")].as_u64().unwrap())
        });
        let protocol = mapping["protocol"].as_str().unwrap().to_owned();
        let number = |name: &str| mapping[name].as_u64().unwrap();
        let zone = number("zone");
        assert!(ours.insert((protocol, src, dst, server, nat, zone, number("id"))), "{mapping}");
    }

    let mut theirs = BTreeSet::new();
    for family in ["ipv4", "ipv6"] {
        for line in lab.gateway().run("conntrack", &["-L", "-o", "id", "-f", family]).lines() {
            let values = |name: &str| -> Vec<&str> {
                let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
                pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
            };
            let address = |name: &str, at: usize| values(name)[at].parse::<IpAddr>().unwrap();
            let port = |name: &str, at: usize| values(name)[at].parse::<u64>().unwrap();
            // The test's own requests are not translated.
            if values("src")[0] == values("dst")[1] {
                continue;
            }
            theirs.insert((
                line.split_whitespace().next().unwrap().to_owned(),
                (address("src", 0), port("sport", 0)),
                (address("dst", 0), port("dport", 0)),
                (address("src", 1), port("sport", 1)),
                (address("dst", 1), port("dport", 1)),
                values("zone").first().map_or(0, |zone| zone.parse().unwrap()),
                port("id", 0),
            ));
        }
    }
    assert_eq!(theirs.len(), usize::from(CONNECTIONS) + 1);
    assert!(ours == theirs, "{} of ours, {} of theirs", ours.len(), theirs.len());

    // A lookup returns a thousand of them and says that there are more.
    let answer = client(&lab, &daemon).get("/v1/lookup").json();
    assert_eq!(answer["matches"].as_array().unwrap().len(), 1000);
    assert_eq!((&answer["truncated"], &answer["ambiguous"]), (&json!(true), &json!(true)));
    println!("{} mappings streamed, all as conntrack shows them", ours.len());
}

#[test]
fn events_report_in_order_what_opens_and_closes() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let mut daemon = start_daemon(&lab);
    let address = daemon.addr_on(lab.public(0));
    let open = |path, headers: &[(&str, &str)]| {
        let stream = Stream::connect(lab.server(), address, path, headers);
        assert_eq!(stream.head.status, 200);
        stream
    };
    let mut all = open("/v1/events", &[]);
    let mut udp = open("/v1/events?protocol=udp", &[("Accept", "application/x-ndjson")]);
    let mut closed = open("/v1/events?state=closed&src_ip=192.168.7.0/29", &[("Accept", "*/*")]);
    let mut sent =
        open("/v1/events?nat_port=50001&zone=0", &[("Accept", "text/html, text/event-stream;q=0.9")]);
    assert_eq!(all.head.header("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(sent.head.header("Content-Type"), Some("text/event-stream"));
    assert_eq!(sent.head.header("Cache-Control"), Some("no-store"));

    let mut query = ctnetlink(&lab);
    let made = connections();
    made.iter().for_each(|one| one.create(&mut query));
    made.iter().for_each(|one| one.delete(&mut query));

    let mut expected = Vec::new();
    for (event, state) in [("opened", "live"), ("closed", "closed")] {
        for number in 0..made.len() {
            let line = all.next_json();
            assert_eq!((&line["event"], &line["mapping"]["state"]), (&json!(event), &json!(state)));
            assert_eq!(numbers([&line["mapping"]]), [number]);
            assert_eq!(line["mapping"]["closed"].is_string(), event == "closed");
            expected.push(line);
        }
    }
    let only = |test: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        expected.iter().filter(|line| test(&line["mapping"])).cloned().collect()
    };
    for line in only(&|mapping| mapping["protocol"] == "udp") {
        assert_eq!(udp.next_json(), line);
    }
    let inside = |mapping: &Value| {
        mapping["src_ip"].as_str().unwrap().starts_with("192.168.7.") && mapping["src_ip"] != "192.168.7.9"
    };
    for line in only(&|mapping| mapping["state"] == "closed" && inside(mapping)) {
        assert_eq!(closed.next_json(), line);
    }
    for line in only(&|mapping| mapping["nat_port"] == 50001 && mapping["zone"] == 0) {
        assert_eq!(sent.next_line(), Some(format!("event: {}", line["event"].as_str().unwrap())));
        let data = sent.next_line().expect("data follows");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").expect("data")).unwrap();
        assert_eq!(data, line["mapping"]);
        assert_eq!(sent.next_line().as_deref(), Some(""));
    }

    // When the daemon ends, the streams end cleanly.
    daemon.signal(Signal::SIGTERM);
    for stream in [&mut all, &mut udp, &mut closed, &mut sent] {
        assert_eq!(stream.next_line(), None);
    }
    assert!(daemon.wait().success());
}

/// The events that a reader received.
#[derive(Debug, Default)]
struct ReceivedEvents {
    opened: u64,
    closed: u64,
    lost: u64,
    markers: u64,
}

impl ReceivedEvents {
    fn total(&self) -> u64 {
        self.opened + self.closed + self.lost
    }

    fn read(&mut self, stream: &mut Stream) {
        let line = stream.next_json();
        match line["event"].as_str() {
            Some("opened") => self.opened += 1,
            Some("closed") => self.closed += 1,
            Some("lost") => {
                assert_eq!(line["cause"], "client");
                self.lost += line["count"].as_u64().expect("a count");
                self.markers += 1;
            }
            Some("alive") => {}
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn a_slow_reader_is_told_how_many_events_it_lost_and_slows_nobody_down() {
    /// Connections per round: far fewer events than those by which a reader may lag behind.
    const ROUND: u64 = 60;
    const ROUNDS: u64 = 350;
    /// Events that are longer than the slow reader's receive buffer.
    const EMPTIED: u64 = ROUND;
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    // A small send buffer, so that a reader lags behind soon.
    lab.gateway().sysctl("net.ipv4.tcp_wmem", "4096 16384 65536");
    let daemon = start_daemon(&lab);
    let address = daemon.addr_on(lab.public(0));
    let server = lab.listen(lab.server_at(443));
    let known = lab.connect_to(&server, lab.client_at(0, 40001));
    let mut lookups = client(&lab, &daemon);
    assert_eq!(lookups.get("/v1/lookup?nat_port=40001").status, 200);

    let slow = lab.server().enter(|| -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(16 * 1024)?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        Ok(socket.into())
    });
    let slow = slow.expect("the daemon can be reached");
    let mut slow = Stream::open(slow, "/v1/events?dst_port=4433", &[]);
    let mut fast = Stream::connect(lab.server(), address, "/v1/events?dst_port=4433", &[]);
    let (mut slowly, mut quickly) = (ReceivedEvents::default(), ReceivedEvents::default());

    let mut query = ctnetlink(&lab);
    let begun = Instant::now();
    let mut emptied = begun;
    for round in 0..ROUNDS {
        for number in 0..ROUND {
            let number = u16::try_from(round * ROUND + number).unwrap();
            let nat = SocketAddr::new(lab.public(0), 50_000);
            let from = SocketAddr::new([10, 0, (number >> 8) as u8, number as u8].into(), 40001);
            let server = SocketAddr::new([203, 0, (number >> 8) as u8, number as u8].into(), 4433);
            let protocol = Protocol::Tcp;
            let made = TestConnection { protocol, src: from, dst: server, nat, server, zone: 0, mark: 0 };
            made.create(&mut query);
            made.delete(&mut query);
        }
        // A reader that keeps up gets everything, so each round is read before the next begins.
        while quickly.total() < 2 * ROUND * (round + 1) {
            quickly.read(&mut fast);
        }
        // Lookups work all the time.
        let answer = lookups.get("/v1/lookup?nat_ip=100.64.2.1&nat_port=40001&state=live");
        assert_eq!((answer.status, &answer.json()["matches"][0]["src_port"]), (200, &json!(40001)));
        // The daemon disconnects a client that reads nothing for ten seconds. A few lines make room for nothing as
        // long as the receive buffer is nearly full, so on a slow machine the reader empties it once in a while.
        if round % 10 == 0 {
            slowly.read(&mut slow);
        }
        if emptied.elapsed() > Duration::from_secs(2) {
            (0..EMPTIED).for_each(|_| slowly.read(&mut slow));
            emptied = Instant::now();
        }
    }
    let all = 2 * ROUND * ROUNDS;
    println!("{all} events in {:?}", begun.elapsed());
    assert_eq!((quickly.opened, quickly.closed, quickly.lost), (all / 2, all / 2, 0));

    while slowly.total() < all {
        slowly.read(&mut slow);
    }
    println!("the slow reader: {slowly:?}");
    assert_eq!(slowly.total(), all);
    assert!(slowly.lost > 0 && slowly.markers > 0);

    // From now on it gets everything again.
    let made = TestConnection {
        dst: "203.0.113.1:4433".parse().unwrap(),
        server: "203.0.113.1:4433".parse().unwrap(),
        ..connections()[0]
    };
    made.create(&mut query);
    for stream in [&mut slow, &mut fast] {
        let line = stream.next_json();
        assert_eq!((&line["event"], &line["mapping"]["nat_port"]), (&json!("opened"), &json!(50001)));
    }
    drop(known);
}
