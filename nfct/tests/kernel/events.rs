//! Events of the real kernel, each test in its own network namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::time::{Duration, Instant};

use lab::in_fresh_namespace;
use lab::samples::{create, entry, masqueraded, over_ipv6, zoned};
use nfct::{
    Direction, Endpoint, Event, EventKind, Events, Family, Groups, KernelFilter, Logic, Notification,
    Protocol, Query, Received,
};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn event(notification: Notification) -> Event {
    match notification {
        Notification::Event(event) => event,
        other => panic!("found {other:?}, expected an event"),
    }
}

#[test]
fn an_iterator_waits_and_yields_each_event_once() {
    in_fresh_namespace(|| {
        let mut events = Events::subscribe(Groups::ALL).unwrap();
        events.set_receive_buffer(4 << 20).unwrap();
        assert_eq!(events.try_next().unwrap(), None);
        let start = Instant::now();
        assert_eq!(events.next_within(Duration::from_millis(30)).unwrap(), None);
        assert!(start.elapsed() >= Duration::from_millis(30));

        let mut query = Query::open().unwrap();
        // Created while the iterator waits.
        let maker = std::thread::spawn(move || {
            (1..=300).for_each(|port| create(&mut query, masqueraded(port)));
            let mut changed = entry(masqueraded(1));
            changed.set_mark(99);
            query.update(&changed).unwrap();
            query.flush(Family::Any).unwrap();
            query
        });
        let seen: Vec<Event> =
            events.by_ref().take(601).map(|notification| event(notification.unwrap())).collect();
        let of = |kind| seen.iter().filter(move |event| event.kind == kind).count();
        assert_eq!((of(EventKind::New), of(EventKind::Update), of(EventKind::Destroy)), (300, 1, 300));
        let mut query = maker.join().unwrap();

        // Some are read one by one, the rest together.
        (1..=200).for_each(|port| create(&mut query, masqueraded(port)));
        let mut ports = Vec::new();
        let mut keep = |event: Event| ports.push(event.flow.original.to_string());
        for _ in 0..7 {
            keep(event(events.next_within(SOON).unwrap().unwrap()));
        }
        assert!(matches!(events.receive(&mut keep).unwrap(), Received::Some { messages: 57, malformed: 0 }));
        keep(event(events.try_next().unwrap().unwrap()));
        while events.receive(&mut keep).unwrap() != Received::Nothing {}
        let expected: Vec<_> = (1..=200).map(|port| masqueraded(port).0.to_string()).collect();
        assert_eq!(ports, expected);
    });
}

#[test]
fn full_events_have_what_plain_ones_have() {
    in_fresh_namespace(|| {
        let mut plain = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        let mut full = Events::subscribe(Groups::NEW | Groups::DESTROY).unwrap();
        let mut query = Query::open().unwrap();
        for tuples in [masqueraded(1), over_ipv6(2), zoned(3, masqueraded(3))] {
            create(&mut query, tuples);
        }
        query.flush(Family::Any).unwrap();
        for notification in full.full().take(6) {
            let Notification::Event(event) = notification.unwrap() else { panic!("no event") };
            let other = self::event(plain.try_next().unwrap().unwrap());
            assert_eq!(event.kind, other.kind);
            assert_eq!(event.entry.original(), Some(other.flow.original));
            assert_eq!(event.entry.reply(), Some(other.flow.reply));
            assert_eq!((event.entry.id(), event.entry.mark()), (Some(other.flow.id), Some(7)));
        }
    });
}

#[test]
fn an_overrun_is_a_value_and_events_follow_it() {
    in_fresh_namespace(|| {
        let mut events = Events::subscribe(Groups::NEW).unwrap();
        events.set_receive_buffer(4096).unwrap();
        let mut query = Query::open().unwrap();
        (1..=2000).for_each(|port| create(&mut query, masqueraded(port)));
        assert_eq!(events.try_next().unwrap(), Some(Notification::Overrun));
        let (mut lost, mut received) = (0, 0);
        while let Some(notification) = events.try_next().unwrap() {
            match notification {
                Notification::Event(_) if lost == 0 => received += 1,
                Notification::Recovered { lost: count } if lost == 0 => lost = count,
                other => panic!("found {other:?}"),
            }
        }
        assert!((1..2000).contains(&received), "{received} events");
        assert_eq!(received + lost, 2000, "each event is read or counted as lost");
        assert_eq!(events.waiter().unwrap().drops().unwrap(), lost);
        create(&mut query, masqueraded(3000));
        assert_eq!(event(events.next().unwrap().unwrap()).flow.original, masqueraded(3000).0);

        // A second overrun has its own count, in every form of event. `wait` returns for it.
        (4001..=6000).for_each(|port| create(&mut query, masqueraded(port)));
        assert!(events.wait(Some(Duration::ZERO)).unwrap());
        let is_event = |of: &Notification<nfct::FullEvent>| matches!(of, Notification::Event(_));
        let mut full = events.full().map(Result::unwrap);
        assert!(matches!(full.next(), Some(Notification::Overrun)));
        let received = full.by_ref().take_while(is_event).count() as u32;
        // The recovery was the last notification.
        assert_eq!(events.next_within(Duration::ZERO).unwrap(), None);
        let drops = events.waiter().unwrap().drops().unwrap();
        assert_eq!(received + drops - lost, 2000);
    });
}

#[test]
fn the_kernel_delivers_only_what_the_filter_accepts() {
    in_fresh_namespace(|| {
        let mut events = Events::subscribe(Groups::NEW).unwrap();
        let mut query = Query::open().unwrap();
        let all = || [masqueraded(1), masqueraded(2), over_ipv6(3), zoned(4, masqueraded(4))];
        let mut received = |filter: &KernelFilter| {
            events.set_filter(filter).unwrap();
            all().into_iter().for_each(|tuples| create(&mut query, tuples));
            query.flush(Family::Any).unwrap();
            let mut received = Vec::new();
            while let Some(notification) = events.try_next().unwrap() {
                let original = event(notification).flow.original;
                received.push(all().iter().position(|(made, _)| *made == original).unwrap());
            }
            received
        };
        let filter = KernelFilter::new();
        let public = "100.64.2.1".parse().unwrap();
        let inside = [("192.168.0.0".parse().unwrap(), 16)];
        let (original, reply) = (Direction::Original, Direction::Reply);
        assert_eq!(received(&filter), [0, 1, 2, 3]);
        assert_eq!(received(&filter.clone().protocols(Logic::Except, [Protocol::Udp])), [0, 1, 3]);
        assert_eq!(received(&filter.clone().zones(Logic::Only, [0])), [0, 1, 2]);
        assert_eq!(received(&filter.clone().zones(Logic::Except, [0])), [3]);
        assert_eq!(received(&filter.clone().marks(Logic::Only, [(7, 7)])), [0, 1, 2, 3]);
        assert!(received(&filter.clone().marks(Logic::Except, [(7, u32::MAX)])).is_empty());
        assert_eq!(received(&filter.clone().states(Logic::Only, Protocol::Tcp, [3])), [0, 1, 2, 3]);
        assert_eq!(received(&filter.clone().states(Logic::Except, Protocol::Tcp, [1, 3])), [2]);
        assert_eq!(
            received(&filter.clone().networks(original, Endpoint::Source, Logic::Only, inside)),
            [0, 1, 3]
        );
        assert_eq!(
            received(&filter.clone().networks(original, Endpoint::Source, Logic::Except, inside)),
            [2]
        );
        let both = filter.clone().address(reply, Endpoint::Destination, public).port(
            reply,
            Endpoint::Destination,
            3,
        );
        assert_eq!(received(&both), [1]);
        let places = [(reply, Endpoint::Destination), (original, Endpoint::Destination)];
        assert_eq!(received(&filter.clone().address_in(places, public)), [0, 1, 3]);
        let server = "198.51.100.1".parse().unwrap();
        assert_eq!(received(&filter.clone().address_in(places, server).port_in(places, 3)), [1]);
        let server = "2001:db8::1".parse().unwrap();
        assert_eq!(received(&filter.clone().address_in(places, server).port_in(places, 53)), [2]);
        assert_eq!(received(&filter), [0, 1, 2, 3], "the filter is removed");
    });
}

#[cfg(feature = "tokio")]
mod stream {
    use nfct::{EventStream, Namespace};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(SOON, test).await.expect("it ends in time") });
    }

    #[test]
    fn a_stream_waits_without_blocking_the_thread_and_loses_no_event() {
        in_fresh_namespace(|| {
            run(async {
                let mut stream = EventStream::new(Events::subscribe(Groups::NEW).unwrap()).unwrap();
                stream.events().set_receive_buffer(4 << 20).unwrap();
                let mut query = Query::open().unwrap();
                for round in 0..20 {
                    // The stream is polled first and has nothing; an event wakes it.
                    let first = stream.next();
                    let make = async {
                        tokio::task::yield_now().await;
                        for port in 1..=100 {
                            create(&mut query, masqueraded(1000 * round + port));
                        }
                    };
                    let (first, ()) = tokio::join!(first, make);
                    assert_eq!(event(first.unwrap().unwrap()).flow.original, masqueraded(1000 * round + 1).0);
                    for port in 2..=100 {
                        let notification = stream.next().await.unwrap().unwrap();
                        assert_eq!(event(notification).flow.original, masqueraded(1000 * round + port).0);
                    }
                    let nothing = tokio::time::timeout(Duration::from_millis(1), stream.next()).await;
                    assert!(nothing.is_err(), "{nothing:?}");
                }
                // The subscription returns events that the stream has received but not yielded.
                (1..=3).for_each(|port| create(&mut query, over_ipv6(port)));
                let mut full = stream.full();
                let Some(Ok(Notification::Event(first))) = full.next().await else { panic!("no event") };
                assert_eq!(first.entry.original(), Some(over_ipv6(1).0));
                let rest: Vec<_> =
                    full.into_inner().take(2).map(|notification| event(notification.unwrap())).collect();
                assert_eq!(rest[1].flow.original, over_ipv6(3).0);
            });
        });
    }

    #[test]
    fn an_overrun_is_reported_and_the_stream_continues() {
        in_fresh_namespace(|| {
            run(async {
                let mut stream = EventStream::new(Events::subscribe(Groups::NEW).unwrap()).unwrap();
                stream.events().set_receive_buffer(4096).unwrap();
                let mut query = Query::open().unwrap();
                (1..=2000).for_each(|port| create(&mut query, masqueraded(port)));
                assert_eq!(stream.next().await.unwrap().unwrap(), Notification::Overrun);
                let mut received = 0;
                let lost = loop {
                    match stream.next().await.unwrap().unwrap() {
                        Notification::Event(_) => received += 1,
                        Notification::Recovered { lost } => break lost,
                        other => panic!("found {other:?}"),
                    }
                };
                assert!((1..2000).contains(&received), "{received}");
                assert_eq!(received + lost, 2000, "each event is read or counted as lost");

                // A stream that begins after the socket was drained reports the recovery.
                let mut events = stream.into_inner();
                (4001..=6000).for_each(|port| create(&mut query, masqueraded(port)));
                assert_eq!(events.try_next().unwrap(), Some(Notification::Overrun));
                while matches!(events.receive(|_| ()).unwrap(), nfct::Received::Some { messages: 64, .. }) {}
                let mut stream = EventStream::new(events).unwrap();
                assert!(matches!(stream.next().await, Some(Ok(Notification::Recovered { lost: 1.. }))));
                create(&mut query, masqueraded(3000));
                let last = event(stream.next().await.unwrap().unwrap());
                assert_eq!(last.flow.original, masqueraded(3000).0);
            });
        });
    }

    #[test]
    fn streams_of_many_namespaces_share_one_thread() {
        in_fresh_namespace(|| {
            let namespaces: Vec<Namespace> = (0..3)
                .map(|_| {
                    let made = std::thread::spawn(|| {
                        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                        Namespace::at("/proc/thread-self/ns/net").unwrap()
                    });
                    made.join().unwrap()
                })
                .collect();
            run(async {
                let mut streams: Vec<EventStream> = namespaces
                    .iter()
                    .map(|there| there.enter(|| Events::subscribe(Groups::NEW)).unwrap())
                    .map(|events| EventStream::new(events).unwrap())
                    .collect();
                for (at, there) in namespaces.iter().enumerate() {
                    create(&mut there.enter(Query::open).unwrap(), masqueraded(at as u16));
                }
                for (at, stream) in streams.iter_mut().enumerate() {
                    let notification = event(stream.next().await.unwrap().unwrap());
                    assert_eq!(notification.flow.original, masqueraded(at as u16).0);
                }
            });
        });
    }
}

#[test]
fn event_types_can_move_to_other_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Events>();
    send::<nfct::FullEvents<'_>>();
    send::<nfct::FullEvent>();
    send::<Query>();
    send::<nfct::Dump<'_>>();
    send::<nfct::Dump<'_, nfct::Conntrack>>();
    send::<nfct::Handle>();
    send::<nfct::Namespace>();
    sync::<nfct::Namespace>();
    send::<nfct::Waiter>();
    sync::<nfct::Waiter>();
    sync::<nfct::Selection>();
    sync::<KernelFilter>();
    sync::<nfct::Error>();
    send::<nfct::Error>();
    #[cfg(feature = "tokio")]
    send::<nfct::EventStream>();
}
