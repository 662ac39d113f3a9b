//! Lookups of many tuples at once on the real kernel, each test in its own network
//! namespace.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::time::Instant;

use lab::in_fresh_namespace;
use lab::samples::{create, entry, masqueraded, over_ipv6, zoned};
use nfct::{Direction, Error, Found, Layer4, Protocol, Query, Tuple};

/// The results, each as a word; an entry by its direction.
fn kinds(found: &[Found]) -> Vec<&'static str> {
    let kind = |found: &Found| match found {
        Found::Nothing => "nothing",
        Found::Flow(Direction::Original, _) => "original",
        Found::Flow(Direction::Reply, _) => "reply",
        Found::Failed(_) => "failed",
        _ => "unknown",
    };
    found.iter().map(kind).collect()
}

#[test]
fn each_of_200_tuples_gets_its_own_answer() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let mut tuples = Vec::new();
        let mut expected = Vec::new();
        for port in 0..50 {
            for both in [masqueraded(port), over_ipv6(port)] {
                let mut made = entry(both);
                made.set_mark(1000 + u32::from(port));
                query.create(&made).unwrap();
                tuples.extend([both.0, both.1]);
                expected.extend(["original", "reply"]);
            }
            if port % 7 == 0 {
                tuples.push(masqueraded(1000 + port).1);
                expected.push("nothing");
            }
        }
        assert!(tuples.len() > 200);
        let found = query.find_each(&tuples).unwrap();
        assert_eq!(kinds(&found), expected);
        for (tuple, found) in tuples.iter().zip(&found) {
            let Found::Flow(direction, flow) = found else { continue };
            let same = match direction {
                Direction::Original => query.get_by_original(tuple),
                Direction::Reply => query.get_by_reply(tuple),
            };
            let same = same.unwrap().unwrap();
            assert_eq!((flow.id, flow.mark, flow.status), (same.id, same.mark, same.status), "{tuple}");
            assert_eq!((flow.original, flow.reply), (same.original, same.reply), "{tuple}");
        }
        assert!(query.find_each(&[]).unwrap().is_empty());
        assert_eq!(kinds(&query.find_each(&tuples[..1]).unwrap()), ["original"]);
    });
}

#[test]
fn a_tuple_that_is_not_valid_does_not_affect_the_others() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let (original, reply) = masqueraded(1);
        create(&mut query, (original, reply));
        let two_families = Tuple { dst: "2001:db8::1".parse().unwrap(), ..original };
        let not_fitting = Tuple { layer4: Layer4::None, ..original };
        // The kernel tracks no such type.
        let ping = Tuple::icmp_echo([192, 168, 7, 2], [198, 51, 100, 1], 1);
        let no_type = Tuple { layer4: Layer4::Icmp { id: 1, kind: 200, code: 0 }, ..ping };
        let no_ports = Tuple { protocol: Protocol::Other(50), layer4: Layer4::None, ..original };
        let tuples = [original, two_families, reply, not_fitting, no_type, reply, ping, no_ports, original];
        let expected =
            ["original", "failed", "reply", "failed", "failed", "reply", "nothing", "nothing", "original"];
        // In one datagram, and each by itself.
        let found = query.find_each(&tuples).unwrap();
        assert_eq!(kinds(&found), expected);
        for (tuple, expected) in tuples.iter().zip(expected) {
            assert_eq!(kinds(&query.find_each(&[*tuple]).unwrap()), [expected], "{tuple}");
        }
        let errno = |at: usize| match &found[at] {
            Found::Failed(error) => error.errno(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(found[1], Found::Failed(Error::Invalid { .. })), "{:?}", found[1]);
        assert!(matches!(found[3], Found::Failed(Error::Invalid { .. })), "{:?}", found[3]);
        assert_eq!(errno(4), Some(libc::EINVAL));
        // All of them are wrong: nothing is sent.
        assert_eq!(kinds(&query.find_each(&[two_families; 70]).unwrap()), ["failed"; 70]);
    });
}

#[test]
fn the_zone_of_either_direction_is_respected() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        let (original, reply) = masqueraded(1);
        let in_zone = |zone, tuple: Tuple| Tuple { zone, ..tuple };
        // Zones for both directions, with the same addresses and ports, and for one direction.
        let original_only = (in_zone(5, masqueraded(2).0), masqueraded(2).1);
        let reply_only = (masqueraded(3).0, in_zone(6, masqueraded(3).1));
        for (mark, tuples) in [(1, (original, reply)), (2, zoned(3, (original, reply)))]
            .into_iter()
            .chain([(3, original_only), (4, reply_only)])
        {
            let mut made = entry(tuples);
            made.set_mark(mark);
            query.create(&made).unwrap_or_else(|error| panic!("{}: {error}", tuples.0));
        }
        let expected = [
            (original, "original", 1),
            (reply, "reply", 1),
            (in_zone(3, original), "original", 2),
            (in_zone(3, reply), "reply", 2),
            (in_zone(4, original), "nothing", 0),
            (in_zone(4, reply), "nothing", 0),
            (original_only.0, "original", 3),
            (original_only.1, "reply", 3),
            (in_zone(0, original_only.0), "nothing", 0),
            (in_zone(5, original_only.1), "nothing", 0),
            (reply_only.0, "original", 4),
            (reply_only.1, "reply", 4),
            (in_zone(6, reply_only.0), "nothing", 0),
            (in_zone(0, reply_only.1), "nothing", 0),
        ];
        let tuples = expected.map(|(tuple, ..)| tuple);
        let found = query.find_each(&tuples).unwrap();
        assert_eq!(kinds(&found), expected.map(|(_, kind, _)| kind));
        for ((tuple, _, mark), found) in expected.iter().zip(&found) {
            if let Found::Flow(_, flow) = found {
                assert_eq!(flow.mark, *mark, "{tuple}");
                assert!([flow.original, flow.reply].contains(tuple), "{tuple}: {flow:?}");
            }
        }
    });
}

/// `cargo test --test kernel many:: -- --ignored --nocapture`
#[test]
#[ignore = "prints figures, and asserts nothing about them"]
fn figures_of_one_and_of_many() {
    in_fresh_namespace(|| {
        const COUNT: u16 = 20_000;
        let mut query = Query::open().unwrap();
        for port in 0..COUNT {
            create(&mut query, masqueraded(port));
        }
        // Spread, so that neighbours are not in the processor's cache.
        let tuples: Vec<Tuple> =
            (0..COUNT).map(|at| masqueraded((u32::from(at) * 7919 % u32::from(COUNT)) as u16).1).collect();
        let microseconds = |since: Instant| since.elapsed().as_secs_f64() * 1e6 / f64::from(COUNT);
        for _ in 0..5 {
            let started = Instant::now();
            for tuple in &tuples {
                assert!(query.get_by_reply(tuple).unwrap().is_some());
            }
            print!("one by one {:.2} us", microseconds(started));
            for at_once in [1, 2, 4, 16, 64, 1024] {
                let started = Instant::now();
                for chunk in tuples.chunks(at_once) {
                    assert_eq!(query.find_each(chunk).unwrap().len(), chunk.len());
                }
                print!(", {at_once} at once {:.2}", microseconds(started));
            }
            println!();
        }
    });
}
