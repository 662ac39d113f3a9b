//! A clash of two packets of one new connection, made to happen by a queue of packets.

use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nfct_sys as sys;

use super::{in_fresh_namespace, lacks};
use crate::channel::Channel;
use crate::direction::Direction;
use crate::event::{Event, EventKind, Groups};
use crate::events::Events;
use crate::family::Family;
use crate::found::Found;
use crate::notification::Notification;
use crate::query::Query;
use crate::socket;
use crate::state::Status;
use crate::tuple::Tuple;
use crate::wire::{MessageWriter, Messages};

/// A queue that holds packets until the test lets them go (`linux/netfilter/nfnetlink_queue.h`).
struct PacketQueue {
    channel: Channel,
}

impl PacketQueue {
    const PACKET_HEADER: u16 = 1;
    const VERDICT_HEADER: u32 = 2;
    const CONFIG_COMMAND: u32 = 1;
    const CONFIG_PARAMETERS: u32 = 2;

    fn message(message: u16, flags: u32, sequence: u32) -> MessageWriter {
        MessageWriter::of_kind((libc::NFNL_SUBSYS_QUEUE as u16) << 8 | message, flags, sequence, 0)
    }

    /// Takes the packets of queue 0.
    fn open() -> Self {
        let mut channel = Channel::open().unwrap();
        let sequence = channel.next_sequence();
        let mut request = Self::message(2, sys::NLM_F_REQUEST | sys::NLM_F_ACK, sequence);
        // The command NFQNL_CFG_CMD_BIND, and the mode NFQNL_COPY_META without a range.
        request.attribute(Self::CONFIG_COMMAND, &[1, 0, 0, 0]);
        request.attribute(Self::CONFIG_PARAMETERS, &[0, 0, 0, 0, 1]);
        let bound = channel.acknowledged(&request.finish(), sequence, "taking packets");
        bound.unwrap_or_else(|_| panic!("the queue is free"));
        Self { channel }
    }

    /// Waits for a packet, and returns its number.
    fn next(&mut self) -> [u8; 4] {
        let arrives = socket::wait(self.channel.as_fd(), Some(Duration::from_secs(10)));
        assert!(arrives.unwrap(), "a packet waits in the queue");
        let length = self.channel.receive().unwrap();
        let message = Messages::new(&self.channel.buffer[..length]).next().unwrap().unwrap();
        let mut attributes = message.attributes().unwrap().map(Result::unwrap);
        let (_, header) = attributes.find(|(kind, _)| *kind == Self::PACKET_HEADER).unwrap();
        header[..4].try_into().unwrap()
    }

    /// Lets a packet go. It is delivered when this returns.
    fn accept(&mut self, number: [u8; 4]) {
        let mut request = Self::message(1, sys::NLM_F_REQUEST, 0);
        let accept = 1_u32.to_be_bytes();
        request.attribute(Self::VERDICT_HEADER, &[accept, number].concat());
        self.channel.send(&request.finish()).unwrap();
    }
}

/// Waits for the next event. The kernel is queried for `reply` meanwhile, so that it collects
/// that entry as soon as it has expired.
fn next_event(events: &mut Events, query: &mut Query, reply: &Tuple) -> Event {
    let since = Instant::now();
    loop {
        match events.try_next().unwrap() {
            Some(Notification::Event(event)) => return event,
            Some(other) => panic!("{other:?}"),
            None => assert!(since.elapsed() < Duration::from_secs(60), "an event is missing"),
        }
        query.find_each(&[*reply]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_clash_is_counted_and_its_entry_is_found_by_its_reply_tuple_alone() {
    if Command::new("iptables-nft").arg("-V").output().is_err() {
        return lacks("iptables-nft");
    }
    in_fresh_namespace(|| {
        let run = |command: &str| {
            let mut words = command.split(' ');
            let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
            assert!(status.success(), "{command}");
        };
        run("ip link set lo up");
        // Between connection tracking and NAT. Each packet gets a translation of its own.
        run("iptables-nft -w -t mangle -A OUTPUT -p udp --dport 53 -j NFQUEUE --queue-num 0");
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let rules = "table ip n {\n chain o {\n type nat hook output priority -100\n \
                     udp dport 53 dnat to 127.0.0.1 : numgen inc mod 2 map { 0 : 5001, 1 : 5002 }\n }\n}\n";
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());

        let mut query = Query::open().unwrap();
        let mut events = Events::subscribe(Groups::ALL).unwrap();
        let mut queue = PacketQueue::open();
        let servers = [5001, 5002].map(|port| UdpSocket::bind(("127.0.0.1", port)).unwrap());
        let seen_in_time = (0..100).any(|_| one_clash(&mut query, &mut events, &mut queue, &servers));
        assert!(seen_in_time, "the entry of a clash lives for a second, which is enough to see it");
    });
}

/// Makes a clash. Returns false if looking at its entry took longer than that entry lives.
fn one_clash(
    query: &mut Query,
    events: &mut Events,
    queue: &mut PacketQueue,
    servers: &[UdpSocket; 2],
) -> bool {
    let before = (query.clashes().unwrap(), query.count().unwrap().entries);
    let listed_before = query.dump(Family::Any).unwrap().flatten().count();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect("127.0.0.1:53").unwrap();
    client.send(b"first").unwrap();
    client.send(b"second").unwrap();
    let packets = [queue.next(), queue.next()];
    assert_eq!(query.count().unwrap().entries, before.1 + 2, "neither is in the table");
    let since = Instant::now();
    packets.into_iter().for_each(|packet| queue.accept(packet));

    let home = ([127, 0, 0, 1], client.local_addr().unwrap().port());
    let original = Tuple::udp(home, ([127, 0, 0, 1], 53));
    let replies = [5001, 5002].map(|port| Tuple::udp(([127, 0, 0, 1], port), home));
    let found = query.find_each(&[original, replies[0], replies[1]]).unwrap();
    let after = (query.clashes().unwrap(), query.count().unwrap().entries);
    let listed = query.dump(Family::Any).unwrap().flatten().count();
    let duration = since.elapsed();
    // Both packets arrive, each at its own server.
    for (server, expected) in servers.iter().zip([&b"first"[..], b"second"]) {
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 16];
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], expected);
    }
    let [begin, end] = [(); 2].map(|()| next_event(events, query, &replies[1]));
    if duration >= Duration::from_millis(900) {
        return false;
    }

    assert_eq!(after, (before.0 + 1, before.1 + 2));
    let [
        Found::Flow(Direction::Original, by_original),
        Found::Flow(Direction::Reply, winner),
        Found::Flow(Direction::Reply, loser),
    ] = &found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((by_original.id, by_original.reply), (winner.id, replies[0]));
    assert!(!winner.status.contains(Status::NAT_CLASH), "{winner:?}");
    assert!(loser.status.contains(Status::NAT_CLASH | Status::FIXED_TIMEOUT), "{loser:?}");
    assert_eq!(loser.original, original);
    assert_eq!(listed, listed_before + 1, "a dump lists the winner alone");
    let begun = (begin.kind, begin.flow.reply);
    assert_eq!(begun, (EventKind::New, replies[0]), "the kernel reports the begin of the winner alone");
    // Its DESTROY event has the original tuple of the winner, which lives on.
    assert_eq!(end.kind, EventKind::Destroy);
    assert_eq!((end.flow.original, end.flow.reply, end.flow.id), (original, replies[1], loser.id));
    assert!(end.flow.status.contains(Status::NAT_CLASH) && end.flow.id != winner.id, "{end:?}");
    assert!(matches!(query.find_each(&[original]).unwrap()[0], Found::Flow(..)));
    true
}
