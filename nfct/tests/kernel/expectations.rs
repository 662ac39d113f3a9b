//! Expectations of the FTP helper, on a connection over the loopback.

use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lab::samples::{tcp, with};
use lab::{PATIENCE, in_fresh_namespace, ip, nft};
use nfct::{
    Direction, EventKind, Expect, ExpectEvent, ExpectEvents, ExpectFlags, ExpectGroups, ExpectHandle,
    ExpectNat, ExpectRef, ExpectRequest, Expectation, Family, Layer4, Next, Notification, Protocol, Query,
    Tuple,
};

/// A connection to port 21 over the loopback, with the kernel's FTP helper.
struct Control {
    _ends: (TcpStream, TcpStream),
    tuple: Tuple,
}

const HELPER: &str = "\
table inet filter {
    ct helper ftp-standard {
        type \"ftp\" protocol tcp
        l3proto ip
    }
    chain output {
        type filter hook output priority 0
        tcp dport 21 ct helper set \"ftp-standard\"
    }
    chain postrouting {
        type nat hook postrouting priority 100
    }
}
";

fn listen_with_helper() -> TcpListener {
    ip("link set lo up");
    nft(HELPER);
    TcpListener::bind("127.0.0.1:21").unwrap()
}

fn connect(listener: &TcpListener) -> Control {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    Control { tuple: tcp("127.0.0.1", peer.port(), "127.0.0.1", 21), _ends: (client, server) }
}

/// The expectation that `PORT` on `control` would create.
fn expectation(control: &Control, port: u16) -> Expectation {
    Expectation::new(control.tuple, tcp("127.0.0.1", 0, "127.0.0.1", port))
}

pub(super) fn all(query: &mut Query) -> Vec<Expectation> {
    query.dump_expectations(Family::Any).unwrap().collect::<Result<_, _>>().unwrap()
}

pub(super) fn next(events: &mut ExpectEvents) -> ExpectEvent {
    match events.next_within(PATIENCE).unwrap() {
        Some(Notification::Event(event)) => event,
        other => panic!("expected an event, found {other:?}"),
    }
}

#[test]
fn an_expectation_is_created_found_updated_and_deleted_with_an_event_each() {
    in_fresh_namespace(|| {
        let mut events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        assert_eq!(all(&mut query), []);

        let made = expectation(&control, 50000);
        query.create_expectation(&made).unwrap();
        assert_eq!(query.create_expectation(&made).unwrap_err().errno(), Some(libc::EEXIST));
        let found = query.get_expectation(&made.expected).unwrap().unwrap();
        assert_eq!((found.master, found.expected, found.mask), (made.master, made.expected, made.mask));
        // The helper's timeout, five minutes.
        assert!((290..=300).contains(&found.timeout.unwrap()), "{found:?}");
        assert!(found.id.is_some());
        // A second may pass between two replies.
        let timeless = |expectation: &Expectation| with(expectation.clone(), |it| it.timeout = None);
        let listed: Vec<_> = all(&mut query).iter().map(timeless).collect();
        assert_eq!(listed, [timeless(&found)]);

        let reported = next(&mut events);
        assert_eq!((reported.kind, timeless(&reported.expectation)), (EventKind::New, timeless(&found)));

        query.update_expectation(&with(found.clone(), |it| it.timeout = Some(60))).unwrap();
        let changed = query.get_expectation(&made.expected).unwrap().unwrap();
        assert!((50..=60).contains(&changed.timeout.unwrap()), "{changed:?}");

        let other_lifetime = with(found.clone(), |it| it.id = found.id.map(|id| id ^ 1));
        assert!(!query.delete_expectation(&other_lifetime).unwrap());
        assert!(query.delete_expectation(&found).unwrap());
        assert_eq!(query.get_expectation(&made.expected).unwrap(), None);
        assert!(!query.delete_expectation(&found).unwrap());
        let reported = next(&mut events);
        assert_eq!((reported.kind, reported.expectation.id), (EventKind::Destroy, found.id));
        assert_eq!(events.try_next().unwrap(), None);
    });
}

#[test]
fn nat_flags_class_and_function_reach_the_kernel() {
    in_fresh_namespace(|| {
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        let made = with(expectation(&control, 50000), |it| {
            it.nat =
                Some(ExpectNat { tuple: tcp("127.0.0.9", 50009, "0.0.0.0", 0), direction: Direction::Reply });
            it.flags = ExpectFlags::PERMANENT;
            it.helper = Some("ftp".to_owned());
            it.function = Some("nat-follow-master".to_owned());
        });
        query.create_expectation(&made).unwrap();
        let found = query.get_expectation(&made.expected).unwrap().unwrap();
        assert_eq!(found.nat.unwrap().direction, Direction::Reply);
        let nat = found.nat.unwrap().tuple;
        assert_eq!((nat.src, nat.protocol), ("127.0.0.9".parse().unwrap(), Protocol::Tcp));
        assert!(matches!(nat.layer4, Layer4::Ports { src: 50009, .. }), "{nat}");
        assert!(found.flags.is_permanent() && !found.flags.is_inactive());
        assert_eq!(found.helper.as_deref(), Some("ftp"));
        assert_eq!(found.function.as_deref(), Some("nat-follow-master"));

        // An update creates one that does not exist, with the helper's timeout.
        let other = with(expectation(&control, 50002), |it| it.timeout = Some(60));
        query.update_expectation(&other).unwrap();
        let found = query.get_expectation(&other.expected).unwrap().unwrap();
        assert!((290..=300).contains(&found.timeout.unwrap()), "{found:?}");

        // The kernel's errors are returned: FTP has one class, 0.
        let other_class = with(made.clone(), |it| it.class = 1);
        let other_class = with(other_class, |it| it.expected = tcp("127.0.0.1", 0, "127.0.0.1", 50001));
        assert_eq!(query.create_expectation(&other_class).unwrap_err().errno(), Some(libc::EINVAL));
        let unknown = with(expectation(&control, 50001), |it| it.function = Some("no-such".to_owned()));
        assert_eq!(query.create_expectation(&unknown).unwrap_err().errno(), Some(libc::EINVAL));
        let stranger = with(unknown, |it| it.master = tcp("127.0.0.1", 1, "127.0.0.1", 21));
        assert_eq!(query.create_expectation(&stranger).unwrap_err().errno(), Some(libc::ENOENT));
        let mixed = with(expectation(&control, 1), |it| it.expected = tcp("::1", 0, "::1", 1));
        assert!(query.create_expectation(&mixed).unwrap_err().to_string().contains("one family"));
    });
}

#[test]
fn an_expectation_is_found_in_its_masters_zone_only() {
    in_fresh_namespace(|| {
        ip("link set lo up");
        nft(
            "table inet zones {\n chain output {\n type filter hook output priority -300\n ct zone set 7\n }\n chain prerouting {\n type filter hook prerouting priority -300\n ct zone set 7\n }\n}\n",
        );
        nft(HELPER);
        let listener = TcpListener::bind("127.0.0.1:21").unwrap();
        let control = connect(&listener);
        let zoned = |tuple: Tuple| Tuple { zone: 7, ..tuple };
        let mut query = Query::open().unwrap();
        let elsewhere = expectation(&control, 50000);
        assert_eq!(query.create_expectation(&elsewhere).unwrap_err().errno(), Some(libc::ENOENT));

        let made = Expectation::new(zoned(control.tuple), elsewhere.expected);
        assert_eq!(made.zone, 7);
        query.create_expectation(&made).unwrap();
        assert_eq!(query.get_expectation(&made.expected).unwrap(), None);
        let found = query.get_expectation(&zoned(made.expected)).unwrap().unwrap();
        let of = query.dump_expectations_of(&zoned(control.tuple)).unwrap();
        assert_eq!(of.map(|one| one.unwrap().id).collect::<Vec<_>>(), [found.id]);
        assert!(query.delete_expectation(&with(found, |it| it.zone = 7)).unwrap());
        assert_eq!(all(&mut query), []);
    });
}

#[test]
fn a_dump_lists_many_expectations_and_the_c_library_agrees() {
    in_fresh_namespace(|| {
        let listener = listen_with_helper();
        let mut query = Query::open().unwrap();
        let mut controls = Vec::new();
        // The helper allows one expectation per master. This number does not fit one datagram of 32 KiB, and the
        // limit of the smallest machine is 256.
        for port in 0..240 {
            let control = connect(&listener);
            query.create_expectation(&expectation(&control, 50000 + port)).unwrap();
            controls.push(control);
        }
        let mut ours = all(&mut query);
        assert_eq!(ours.len(), controls.len());
        let mut theirs = Vec::new();
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        handle
            .query(ExpectRequest::Dump(Family::Any), |_, expect| {
                theirs.extend(expect.to_expectation());
                Next::Continue
            })
            .unwrap();
        handle.query(ExpectRequest::Dump(Family::Ipv6), |_, _| panic!("there is none")).unwrap();
        for list in [&mut ours, &mut theirs] {
            list.sort_by_key(|expectation| format!("{}", expectation.expected));
            for expectation in list.iter_mut() {
                // The library does not store the id. A second may pass between the two dumps.
                (expectation.id, expectation.timeout) = (None, None);
            }
        }
        assert_eq!(ours, theirs);
        assert_eq!(query.dump_expectations(Family::Ipv6).unwrap().count(), 0);

        // The expectations of one master.
        let mut of = |control: &Control| {
            let dump = query.dump_expectations_of(&control.tuple).unwrap();
            dump.collect::<Result<Vec<_>, _>>()
        };
        let one = of(&controls[7]).unwrap();
        assert_eq!(one.iter().map(|one| one.master).collect::<Vec<_>>(), [controls[7].tuple]);
        let stranger = Control { tuple: tcp("127.0.0.1", 1, "127.0.0.1", 21), ..connect(&listener) };
        assert_eq!(of(&stranger).unwrap_err().errno(), Some(libc::ENOENT));

        // A dump that is dropped early does not affect the next query.
        let first = query.dump_expectations(Family::Any).unwrap().next().unwrap().unwrap();
        assert_eq!(query.get_expectation(&first.expected).unwrap().unwrap().id, first.id);

        assert!(query.delete_expectation(&first).unwrap());
        assert_eq!(query.dump_expectations_of(&first.master).unwrap().count(), 0);
        query.flush_expectations_of("tftp").unwrap();
        assert_eq!(all(&mut query).len(), controls.len() - 1);
        query.flush_expectations_of("ftp").unwrap();
        assert_eq!(all(&mut query).len(), 0);
        query.create_expectation(&expectation(&controls[0], 50000)).unwrap();
        query.flush_expectations().unwrap();
        assert_eq!(all(&mut query).len(), 0);
    });
}

#[test]
fn every_request_of_the_c_library_works() {
    use ExpectRequest::{Create, CreateOrUpdate, Delete, Flush, Get};

    in_fresh_namespace(|| {
        let mut events = ExpectHandle::open(ExpectGroups::NEW | ExpectGroups::DESTROY).unwrap();
        let control = connect(&listen_with_helper());
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        let mut answer_to = |request: ExpectRequest<'_>| {
            let mut answer = Vec::new();
            let keep = |_: EventKind, expect: &ExpectRef| {
                answer.push(expect.to_owned());
                Next::Continue
            };
            handle.query(request, keep).map(|()| answer).map_err(|error| error.errno())
        };
        let expect = Expect::from_expectation(&expectation(&control, 50000)).unwrap();

        assert_eq!(answer_to(Get(&expect)).unwrap_err(), Some(libc::ENOENT));
        assert!(answer_to(Create(&expect)).unwrap().is_empty());
        assert_eq!(answer_to(Create(&expect)).unwrap_err(), Some(libc::EEXIST));
        let mut longer = expect.clone();
        longer.set_timeout(Duration::from_secs(900));
        answer_to(CreateOrUpdate(&longer)).unwrap();
        let found = answer_to(Get(&expect)).unwrap();
        assert_eq!((found[0].master(), found[0].expected()), (Some(control.tuple), expect.expected()));
        assert!(found[0].timeout().unwrap() > Duration::from_secs(800));

        // Without any field the library would have removed every expectation.
        assert!(answer_to(Delete(&Expect::new().unwrap())).is_err());
        assert_eq!(answer_to(Get(&expect)).unwrap().len(), 1);
        answer_to(Delete(&expect)).unwrap();
        answer_to(Create(&expect)).unwrap();
        answer_to(Flush).unwrap();
        assert_eq!(answer_to(Get(&expect)).unwrap_err(), Some(libc::ENOENT));

        let mut reported = Vec::new();
        events
            .catch_messages(|message, kind, expect| {
                assert_eq!(message.expectation().unwrap().expected, expect.expected().unwrap());
                reported.push(kind);
                if reported.len() == 4 { Next::Stop } else { Next::Continue }
            })
            .unwrap();
        let twice = [EventKind::New, EventKind::Destroy, EventKind::New, EventKind::Destroy];
        assert_eq!(reported, twice);
    });
}

#[test]
fn a_reply_is_caught_without_waiting() {
    in_fresh_namespace(|| {
        let control = connect(&listen_with_helper());
        Query::open().unwrap().create_expectation(&expectation(&control, 50000)).unwrap();
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        for request in [ExpectRequest::Dump(Family::Any), ExpectRequest::Dump(Family::Ipv4)] {
            handle.send(request).unwrap();
            let mut caught = Vec::new();
            handle
                .catch(|_, expect| {
                    caught.extend(expect.expected());
                    Next::Continue
                })
                .unwrap();
            assert_eq!(caught, [tcp("127.0.0.1", 0, "127.0.0.1", 50000)]);
        }
    });
}

#[test]
fn a_panic_or_a_stop_ends_a_query_and_the_handle_stays_usable() {
    in_fresh_namespace(|| {
        let listener = listen_with_helper();
        let mut query = Query::open().unwrap();
        let controls: Vec<Control> = (0..20).map(|_| connect(&listener)).collect();
        for (port, control) in (50000..).zip(&controls) {
            query.create_expectation(&expectation(control, port)).unwrap();
        }
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        let dump = ExpectRequest::Dump(Family::Any);
        let mut seen = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            handle.query(dump, |_, _| {
                seen += 1;
                assert!(seen < 10, "enough");
                Next::Continue
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(seen, 10);

        let mut seen = 0;
        let third = |_: EventKind, _: &ExpectRef| {
            seen += 1;
            if seen == 3 { Next::Stop } else { Next::Continue }
        };
        handle.query(dump, third).unwrap();
        assert_eq!(seen, 3);

        let mut seen = 0;
        let all = |_: EventKind, _: &ExpectRef| {
            seen += 1;
            Next::Continue
        };
        handle.query(dump, all).unwrap();
        assert_eq!(seen, controls.len());
    });
}

#[test]
fn an_overrun_is_reported_and_events_follow_it() {
    in_fresh_namespace(|| {
        let mut events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
        events.set_receive_buffer(4096).unwrap();
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        for port in 1..=500 {
            // Each replaces the previous one, because of the helper's limit.
            query.create_expectation(&expectation(&control, 50000 + port)).unwrap();
        }
        assert!(events.wait(Some(Duration::ZERO)).unwrap());
        let (mut overruns, mut recovered, mut received) = (0, Vec::new(), 0);
        while let Some(notification) = events.try_next().unwrap() {
            match notification {
                Notification::Overrun => overruns += 1,
                Notification::Recovered { lost } => recovered.push(lost),
                _ => received += 1,
            }
        }
        assert_eq!(overruns, 1);
        // Each of the 500 except the first has ended the previous one.
        assert_eq!(recovered, [999 - received]);
        assert_eq!(events.waiter().unwrap().drops().unwrap(), recovered[0]);
        assert!(!events.wait(Some(Duration::ZERO)).unwrap());
        query.flush_expectations().unwrap();
        assert_eq!(next(&mut events).kind, EventKind::Destroy);
        assert!(events.set_receive_buffer(1 << 20).unwrap() >= 1 << 20);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_stream_yields_expectations_without_blocking_the_thread() {
    in_fresh_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
            let mut stream = nfct::EventStream::expectations(events).unwrap();
            let control = connect(&listen_with_helper());
            // No event yet: the waiting thread causes the event.
            let early = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
            assert!(early.is_err());
            let mut query = Query::open().unwrap();
            query.create_expectation(&expectation(&control, 50000)).unwrap();
            query.flush_expectations().unwrap();
            for kind in [EventKind::New, EventKind::Destroy] {
                match tokio::time::timeout(PATIENCE, stream.next()).await.unwrap() {
                    Some(Ok(Notification::Event(event))) => {
                        assert_eq!((event.kind, event.expectation.master), (kind, control.tuple));
                    }
                    other => panic!("expected {kind:?}, found {other:?}"),
                }
            }
        });
    });
}
