//! The C library's handles and callbacks on the real kernel, each test in its own network namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lab::in_fresh_namespace;
use lab::samples::{entry, masqueraded, over_ipv6, zoned};
use nfct::{
    Error, EventKind, Family, Groups, Handle, KernelFilter, Logic, Next, Protocol, Query, Request, Selection,
    Status,
};

fn answers(handle: &mut Handle, request: Request<'_>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    handle
        .query(request, |_, entry| {
            seen.insert(entry.original().unwrap().to_string());
            Next::Continue
        })
        .unwrap();
    seen
}

#[test]
fn every_query_of_the_library_works() {
    in_fresh_namespace(|| {
        let mut handle = Handle::open(Groups::NONE).unwrap();
        let mut query = Query::open().unwrap();
        let ignore = |_, _: &_| Next::Continue;
        let mut first = entry(masqueraded(1));
        handle.query(Request::Create(&first), ignore).unwrap();
        let twice = handle.query(Request::Create(&first), ignore).unwrap_err();
        assert_eq!(twice.errno(), Some(libc::EEXIST), "{twice}");
        first.set_mark(9);
        handle.query(Request::Update(&first), ignore).unwrap();
        assert_eq!(query.get_by_original(&masqueraded(1).0).unwrap().unwrap().mark, 9);
        for mark in [4, 5] {
            let mut second = entry(over_ipv6(2));
            second.set_mark(mark);
            handle.query(Request::CreateOrUpdate(&second), ignore).unwrap();
            assert_eq!(query.get_by_original(&over_ipv6(2).0).unwrap().unwrap().mark, mark);
        }
        let name = |tuples: (nfct::Tuple, nfct::Tuple)| tuples.0.to_string();
        let of = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        let (one, two) = (name(masqueraded(1)), name(over_ipv6(2)));
        assert_eq!(answers(&mut handle, Request::Get(&first)), of(std::slice::from_ref(&one)));
        let missing = handle.query(Request::Get(&entry(masqueraded(77))), ignore).unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENOENT), "{missing}");

        assert_eq!(answers(&mut handle, Request::Dump(Family::Any)), of(&[one.clone(), two.clone()]));
        assert_eq!(answers(&mut handle, Request::Dump(Family::Ipv6)), of(std::slice::from_ref(&two)));
        assert_eq!(answers(&mut handle, Request::DumpReset(Family::Ipv4)), of(std::slice::from_ref(&one)));
        let marked = Selection::all().mark(9, u32::MAX);
        assert_eq!(answers(&mut handle, Request::DumpFilter(marked.clone())), of(std::slice::from_ref(&one)));
        let assured = Selection::from(Family::Ipv6).status(Status::ASSURED, Status::ASSURED);
        assert_eq!(answers(&mut handle, Request::DumpFilterReset(assured)), of(std::slice::from_ref(&two)));

        let in_zone = zoned(5, masqueraded(3));
        handle.query(Request::Create(&entry(in_zone)), ignore).unwrap();
        match handle.query(Request::DumpFilter(Selection::all().zone(5)), ignore) {
            Ok(()) => {
                let found = answers(&mut handle, Request::DumpFilter(Selection::all().zone(5)));
                assert_eq!(found, of(&[name(in_zone)]));
            }
            Err(error) => assert!(matches!(error, Error::Library { needs: "1.1.0", .. }), "{error}"),
        }

        match handle.query(Request::FlushFilter(marked.clone()), ignore) {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error, Error::Library { needs: "1.1.0", .. }), "{error}");
                assert_eq!(query.count().unwrap().entries, 3, "nothing was removed");
                query.flush(marked).unwrap();
            }
        }
        assert_eq!(query.get_by_original(&masqueraded(1).0).unwrap(), None);
        assert_eq!(query.count().unwrap().entries, 2);
        handle.query(Request::Delete(&entry(over_ipv6(2))), ignore).unwrap();
        assert_eq!(query.count().unwrap().entries, 1);
        handle.query(Request::Flush, ignore).unwrap();
        assert_eq!(query.count().unwrap().entries, 0);
    });
}

#[test]
fn a_panic_or_a_stop_ends_a_query_and_the_handle_stays_usable() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (1..=1000).for_each(|port| query.create(&entry(masqueraded(port))).unwrap());
        let mut handle = Handle::open(Groups::NONE).unwrap();
        for _ in 0..3 {
            let mut seen = 0;
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                handle.query(Request::Dump(Family::Any), |_, _| {
                    seen += 1;
                    assert!(seen < 10, "enough");
                    Next::Continue
                })
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"enough"));
            assert_eq!(seen, 10);
            let mut seen = 0;
            let stop = |_, _: &_| {
                seen += 1;
                if seen == 3 { Next::Stop } else { Next::Continue }
            };
            handle.query(Request::Dump(Family::Any), stop).unwrap();
            assert_eq!(seen, 3);
            // The next message is the reply to this query.
            assert_eq!(answers(&mut handle, Request::Get(&entry(masqueraded(500)))).len(), 1);
            assert_eq!(answers(&mut handle, Request::Dump(Family::Any)).len(), 1000);
        }
    });
}

#[test]
fn replies_and_events_are_caught_with_their_messages() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (1..=5).for_each(|port| query.create(&entry(masqueraded(port))).unwrap());
        let mut handle = Handle::open(Groups::NONE).unwrap();
        handle.send(Request::Dump(Family::Any)).unwrap();
        let mut seen = BTreeSet::new();
        handle
            .catch_messages(|message, kind, entry| {
                let flow = message.flow().unwrap();
                assert_eq!((entry.original(), entry.id()), (Some(flow.original), Some(flow.id)));
                assert_eq!(kind, EventKind::Update, "entries of a dump count as updates");
                seen.insert(flow.id);
                Next::Continue
            })
            .unwrap();
        assert_eq!(seen.len(), 5);

        let mut handle = Handle::open(Groups::ALL).unwrap();
        KernelFilter::new().protocols(Logic::Only, [Protocol::Udp]).attach(&handle).unwrap();
        query.create(&entry(masqueraded(6))).unwrap();
        query.create(&entry(over_ipv6(1))).unwrap();
        query.flush(Family::Any).unwrap();
        let mut received = Vec::new();
        for _ in 0..2 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                handle.catch(|kind, entry| {
                    received.push((kind, entry.original().unwrap()));
                    panic!("in the callback")
                })
            }));
            assert!(outcome.is_err());
        }
        assert_eq!(received, [(EventKind::New, over_ipv6(1).0), (EventKind::Destroy, over_ipv6(1).0)]);
    });
}
