//! What reliable delivery (`NETLINK_BROADCAST_ERROR`) does and does not do, on the real
//! kernel, each test in its own network namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use lab::samples::{create, masqueraded};
use lab::{in_fresh_namespace, wait_until};
use nfct::{EventKind, Events, Family, Flow, Groups, Notification, Query, Tuple};

/// Flows, more than fit the receive buffer of a listener that does not read.
const FLOWS: u16 = 100;

/// Sets up loopback, with connection tracking.
fn track_loopback() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let rules =
        "table inet t {\n chain c {\n type filter hook output priority 0\n ct state new counter\n }\n}\n";
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

/// A listener whose receive buffer has room for a few events.
fn slow(groups: Groups, reliable: bool) -> Events {
    let events = Events::subscribe(groups).unwrap();
    events.set_receive_buffer(4096).unwrap();
    events.set_reliable(reliable).unwrap();
    events
}

/// A listener that has room for all events.
fn ready(groups: Groups) -> Events {
    let events = Events::subscribe(groups).unwrap();
    events.set_receive_buffer(4 << 20).unwrap();
    events
}

/// The events that are waiting.
fn waiting(events: &mut Events) -> Vec<(EventKind, Flow)> {
    let mut received = Vec::new();
    while let Some(notification) = events.try_next().unwrap() {
        if let Notification::Event(event) = notification {
            received.push((event.kind, event.flow));
        }
    }
    received
}

/// One UDP flow, and its tuple.
struct Sender {
    socket: UdpSocket,
    original: Tuple,
}

impl Sender {
    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        let original =
            Tuple::udp(([127, 0, 0, 1], socket.local_addr().unwrap().port()), ([127, 0, 0, 1], to.port()));
        Self { socket, original }
    }

    fn send(&self) {
        self.socket.send(b"x").unwrap();
    }
}

/// How often each listener has received a NEW event of this flow.
fn count(events: &[(EventKind, Flow)], sender: &Sender) -> usize {
    events.iter().filter(|(kind, flow)| *kind == EventKind::New && flow.original == sender.original).count()
}

#[test]
fn a_lost_new_event_is_repeated_with_later_packets_and_holds_no_packet_back() {
    for reliable in [true, false] {
        in_fresh_namespace(move || {
            track_loopback();
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            receiver.set_nonblocking(true).unwrap();
            let arrived = || std::iter::from_fn(|| receiver.recv(&mut [0; 8]).ok()).count();
            let mut slow = slow(Groups::NEW, reliable);
            let mut other = ready(Groups::NEW);
            let senders: Vec<Sender> =
                (0..FLOWS).map(|_| Sender::new(receiver.local_addr().unwrap())).collect();
            senders.iter().for_each(Sender::send);
            assert_eq!(arrived(), usize::from(FLOWS), "no packet is held back");
            let seen = waiting(&mut other);
            // On loopback a packet passes the kernel's check for lost events twice.
            let most = if reliable { 2 } else { 1 };
            assert!(senders.iter().all(|sender| (1..=most).contains(&count(&seen, sender))));

            // The slow listener lacks the last flows. Each later packet repeats the event, to all listeners.
            let last = senders.last().unwrap();
            for _ in 0..3 {
                last.send();
                let again = waiting(&mut other);
                assert_eq!(count(&again, last) > 0, reliable, "reliable: {reliable}");
                assert_eq!(count(&again, last), again.len());
                if let (Some((_, first)), Some((_, again))) =
                    (seen.iter().find(|(_, flow)| flow.original == last.original), again.first())
                {
                    assert_eq!(first.id, again.id, "the same lifetime");
                }
            }
            assert_eq!(arrived(), 3);

            // The listener reads. What was lost stays lost, until a packet of the flow comes.
            let received = waiting(&mut slow);
            assert!((1..usize::from(FLOWS)).contains(&received.len()), "{}", received.len());
            assert_eq!(count(&received, last), 0);
            assert!(waiting(&mut slow).is_empty());
            for round in 0..3 {
                last.send();
                let expected = usize::from(reliable && round == 0);
                assert_eq!(count(&waiting(&mut slow), last), expected, "reliable: {reliable}, round {round}");
                assert_eq!(count(&waiting(&mut other), last), expected);
            }
            // A flow without a later packet is never reported.
            let silent = &senders[senders.len() - 2];
            assert_eq!(count(&received, silent), 0);
            assert!(waiting(&mut slow).is_empty());
        });
    }
}

#[test]
fn a_lost_destroy_event_is_repeated_and_its_entry_stays_until_then() {
    in_fresh_namespace(|| {
        let slow_events = slow(Groups::DESTROY, true);
        let mut other = ready(Groups::NEW | Groups::DESTROY);
        let mut query = Query::open().unwrap();
        (0..FLOWS).for_each(|port| create(&mut query, masqueraded(port)));
        query.flush(Family::Any).unwrap();
        // They are neither listed nor found, but count against the limit (nf_conntrack_max).
        let dying = query.dump_dying().unwrap().count();
        assert!((1..usize::from(FLOWS)).contains(&dying), "{dying}");
        assert_eq!(query.dump(Family::Any).unwrap().count(), 0);
        assert_eq!(query.count().unwrap().entries as usize, dying);
        for port in 0..FLOWS {
            assert!(query.get_by_original(&masqueraded(port).0).unwrap().is_none());
        }
        // The kernel tries again and again, so other listeners get some events repeatedly.
        let mut destroyed: BTreeMap<String, usize> = BTreeMap::new();
        let mut receive = |other: &mut Events| {
            for (kind, flow) in waiting(other) {
                if kind == EventKind::Destroy {
                    *destroyed.entry(flow.original.to_string()).or_default() += 1;
                }
            }
            destroyed.clone()
        };
        assert_eq!(receive(&mut other).len(), usize::from(FLOWS));
        wait_until("an event is repeated three times", || {
            receive(&mut other).values().any(|count| *count > 3)
        });
        // A new connection can have the tuple of one that waits: its NEW precedes the old DESTROY.
        let again = query.dump_dying().unwrap().next().unwrap().unwrap();
        let port = again.original.src_port().unwrap();
        create(&mut query, masqueraded(port));
        let mut slow_events = slow_events;
        let mut received: Vec<Flow> = Vec::new();
        wait_until("all are delivered", || {
            received.extend(waiting(&mut slow_events).into_iter().map(|(_, flow)| flow));
            query.dump_dying().unwrap().count() == 0
        });
        received.extend(waiting(&mut slow_events).into_iter().map(|(_, flow)| flow));
        for port in 0..FLOWS {
            let count = received.iter().filter(|flow| flow.original == masqueraded(port).0).count();
            assert_eq!(count, 1, "{port}");
        }
        assert!(query.get_by_original(&masqueraded(port).0).unwrap().is_some(), "the new connection");
        assert_eq!(query.count().unwrap().entries, 1);
    });
}

#[test]
fn entries_that_wait_for_a_listener_end_with_its_socket() {
    in_fresh_namespace(|| {
        let slow = slow(Groups::DESTROY, true);
        let mut query = Query::open().unwrap();
        (0..FLOWS).for_each(|port| create(&mut query, masqueraded(port)));
        query.flush(Family::Any).unwrap();
        assert!(query.dump_dying().unwrap().count() > 0);
        drop(slow);
        wait_until("the kernel frees them", || query.count().unwrap().entries == 0);
        assert_eq!(query.dump_dying().unwrap().count(), 0);
    });
}
