//! Dumps, lookups and overruns on the real kernel, each test in its own network namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lab::in_fresh_namespace;
use lab::samples::{create, masqueraded, tuple, zoned};
use nfct::{EventKind, Events, Family, Flow, Groups, Handle, Layer4, Next, Protocol, Query, Received, Tuple};

fn everything() -> Vec<(Tuple, Tuple)> {
    let mut all: Vec<_> = (1..=500).map(masqueraded).collect();
    let v6 = tuple(Protocol::Udp, "fd00:7::2", "2001:db8::1", Layer4::Ports { src: 1, dst: 53 });
    let v6_reply = tuple(Protocol::Udp, "2001:db8::1", "2001:db8::2", Layer4::Ports { src: 53, dst: 65535 });
    all.push((v6, v6_reply));
    all.push(zoned(5, masqueraded(1)));
    let echo = |kind| Layer4::Icmp { id: 77, kind, code: 0 };
    all.push((
        tuple(Protocol::Icmp, "192.168.7.2", "198.51.100.1", echo(8)),
        tuple(Protocol::Icmp, "198.51.100.1", "192.168.7.2", echo(0)),
    ));
    all
}

#[test]
fn a_dump_lists_the_created_entries_and_the_c_library_agrees() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let made = everything();
        for entry in &made {
            create(&mut query, *entry);
        }
        let ours: Vec<Flow> = query.dump(Family::Any).unwrap().collect::<Result<_, _>>().unwrap();
        let seen: HashMap<Tuple, Flow> = ours.iter().map(|flow| (flow.reply, *flow)).collect();
        assert_eq!((ours.len(), seen.len()), (made.len(), made.len()));
        for (original, reply) in &made {
            let flow = seen[reply];
            assert_eq!(flow.original, *original);
            assert_eq!(flow.mark, 7);
            assert!(flow.status.is_assured() && !flow.status.is_dying());
        }

        let mut theirs = HashMap::new();
        Handle::open(Groups::NONE)
            .unwrap()
            .dump(Family::Any, |entry| {
                theirs.insert(
                    entry.id().unwrap(),
                    (entry.original(), entry.reply(), entry.mark(), entry.status()),
                );
                Next::Continue
            })
            .unwrap();
        assert_eq!(theirs.len(), ours.len());
        for flow in &ours {
            let expected = (Some(flow.original), Some(flow.reply), Some(flow.mark), Some(flow.status));
            // The library does not store the type of an ICMP reply.
            if flow.original.protocol != Protocol::Icmp {
                assert_eq!(theirs[&flow.id], expected);
            }
        }
        println!("{} entries read alike by both readers", ours.len());

        assert_eq!(query.dump(Family::Ipv6).unwrap().count(), 1);
        query.flush(Family::Any).unwrap();
        assert_eq!(query.dump(Family::Any).unwrap().count(), 0);
    });
}

#[test]
fn an_entry_is_found_by_its_reply_tuple_alone() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for entry in everything() {
            create(&mut query, entry);
        }
        for (original, reply) in everything() {
            let found = query.get_by_reply(&reply).unwrap().unwrap_or_else(|| panic!("{reply}"));
            assert_eq!((found.original, found.reply), (original, reply));
            assert_eq!(query.get_by_original(&original).unwrap().unwrap().id, found.id);
        }
        let (_, reply) = masqueraded(600);
        assert_eq!(query.get_by_reply(&reply).unwrap(), None);
        let other_zone = Tuple { zone: 6, ..masqueraded(1).1 };
        assert_eq!(query.get_by_reply(&other_zone).unwrap(), None);
    });
}

#[test]
fn a_dump_that_is_dropped_early_does_not_disturb_the_next_query() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for entry in everything() {
            create(&mut query, entry);
        }
        let first = query.dump(Family::Any).unwrap().next().unwrap().unwrap();
        assert_eq!(query.get_by_reply(&first.reply).unwrap().unwrap().id, first.id);
        let mut dump = query.dump(Family::Any).unwrap();
        assert!(dump.next().is_some());
        dump.abandon();
        assert_eq!(query.get_by_reply(&first.reply).unwrap().unwrap().id, first.id);
        assert_eq!(query.dump(Family::Any).unwrap().count(), everything().len());
    });
}

#[test]
fn a_panicking_callback_ends_the_dump_and_reaches_the_caller() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for port in 1..=100 {
            create(&mut query, masqueraded(port));
        }
        let mut seen = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            Handle::open(Groups::NONE).unwrap().dump(Family::Any, |_| {
                seen += 1;
                assert!(seen < 10, "enough");
                Next::Continue
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(seen, 10);

        let mut seen = 0;
        let stop_at_three = |_: &_| {
            seen += 1;
            if seen == 3 { Next::Stop } else { Next::Continue }
        };
        Handle::open(Groups::NONE).unwrap().dump(Family::Any, stop_at_three).unwrap();
        assert_eq!(seen, 3);
    });
}

#[test]
fn events_report_a_lifetime_from_new_to_destroy() {
    in_fresh_namespace(|| {
        let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        events.set_receive_buffer(4 << 20).unwrap();
        let mut query = Query::open().unwrap();
        assert_eq!(events.receive(|_| panic!("nothing happened")).unwrap(), Received::Nothing);
        for port in 1..=200 {
            create(&mut query, masqueraded(port));
        }
        query.flush(Family::Any).unwrap();
        assert!((400..2000).contains(&events.most_waiting().unwrap()));
        let mut seen = Vec::new();
        while events.receive(|event| seen.push(event)).unwrap() != Received::Nothing {}
        assert_eq!(events.most_waiting().unwrap(), 0);
        let of = |kind| seen.iter().filter(move |event| event.kind == kind).map(|event| event.flow);
        assert_eq!((of(EventKind::New).count(), of(EventKind::Destroy).count()), (200, 200));
        let born: HashMap<u32, Flow> = of(EventKind::New).map(|flow| (flow.id, flow)).collect();
        for dead in of(EventKind::Destroy) {
            assert_eq!(born[&dead.id].original, dead.original);
        }
    });
}

#[test]
fn an_overrun_is_reported_and_the_socket_stays_usable() {
    in_fresh_namespace(|| {
        let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        events.set_receive_buffer(4096).unwrap();
        let mut query = Query::open().unwrap();
        for port in 1..=2000 {
            create(&mut query, masqueraded(port));
        }
        let drops = events.waiter().unwrap().drops().unwrap();
        assert_eq!(events.receive(|_| ()).unwrap(), Received::Overrun);
        let (mut seen, mut counted) = (0, Vec::new());
        loop {
            match events.receive(|_| seen += 1).unwrap() {
                Received::Nothing => break,
                Received::Recovered { lost } => counted.push(lost),
                _ => {}
            }
        }
        assert_eq!(seen + drops, 2000, "each is read or counted as dropped");
        assert_eq!(counted, [drops], "the overrun is reported once, after the socket is drained");
        create(&mut query, masqueraded(3000));
        let mut seen = 0;
        while events.receive(|_| seen += 1).unwrap() != Received::Nothing {}
        assert_eq!(seen, 1);
        assert!(
            events.set_receive_buffer(64 << 20).unwrap() >= 64 << 20,
            "CAP_NET_ADMIN allows more than rmem_max"
        );
    });
}
