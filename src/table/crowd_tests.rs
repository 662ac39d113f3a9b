//! Many mappings that share a port or an address: lookups find what they name without a walk past
//! the others.

use std::net::Ipv4Addr;
use std::time::Duration;

use nfct::{Flow, Protocol, Tuple};
use proptest::prelude::*;

use super::build::build_index;
use super::index::MAX_CHAIN_WALK;
use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Mapping;
use crate::question::{Question, StateFilter};
use crate::tuples::KeyValue;

const MANY: u32 = 20_000;

fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

/// A connection of 192.168.7.`host` from the public port 7 to one of many servers.
fn flow(host: u8, protocol: Protocol, server: u32) -> Flow {
    let server = (Ipv4Addr::from(0x0a00_0000 + server), 443);
    let original = Tuple::with_ports(protocol, (Ipv4Addr::from([192, 168, 7, host]), 7), server);
    let reply = Tuple::with_ports(protocol, server, (Ipv4Addr::from([100, 64, 2, 1]), 7));
    let mut flow = Flow::new(original, reply);
    flow.id = server.0.to_bits();
    flow
}

fn end() -> Question {
    let public = Some(std::net::IpAddr::from([100, 64, 2, 1]).into());
    Question { nat_ip: public, nat_port: Some(7), ..Question::default() }
}

/// The question for exactly one of them.
fn exactly(server: u32) -> Question {
    let server = std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + server));
    Question { peer_ip: Some(server.into()), peer_port: Some(443), ..end() }
}

/// Repeats a lookup until one hold of the lock is enough. Returns how often it was not.
fn repeat<T>(mut lookup: impl FnMut() -> Result<T, Unfinished>) -> (T, usize) {
    for again in 0.. {
        match lookup() {
            Ok(found) => return (found, again),
            Err(Unfinished::Again) => assert!(again < 100, "it gets further each time"),
            Err(unfinished) => panic!("{unfinished:?}: there is an index for it"),
        }
    }
    unreachable!()
}

fn hosts(found: &[Mapping]) -> Vec<std::net::IpAddr> {
    found.iter().map(|mapping| mapping.src_ip()).collect()
}

#[test]
fn the_newest_mappings_of_a_port_have_closed_and_the_live_one_is_found_behind_them() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    let live = flow(2, Protocol::Tcp, MANY);
    table.open(&live, stamp(0));
    for server in 0..MANY {
        table.open(&flow(3, Protocol::Tcp, server), stamp(1));
        table.close(&flow(3, Protocol::Tcp, server), stamp(2));
    }
    let mut best = || repeat(|| table.best(Key::NatPort, KeyValue::Port(7), None, |_| true, stamp(3)));
    let (found, again) = best();
    assert_eq!(found.map(|mapping| mapping.tuples.original), Some(live.original));
    assert_eq!(again, (MANY as usize - 1) / MAX_CHAIN_WALK, "each hold of the lock has bounded work");
    assert_eq!(best(), (found, 0), "the closed ones have been set aside");

    let only_live = Question { state: StateFilter::Live, ..end() };
    let (found, _) = repeat(|| table.find(&only_live, 1000, stamp(3)));
    assert_eq!(hosts(&found), [live.original.src]);
    // All closed ones are too many for one hold of the lock, but one of them is found by its tuple.
    let (_, more) =
        (0..9).map(|_| table.find(&end(), 1000, stamp(3))).fold((0, 0), |(again, more), found| match found {
            Err(Unfinished::Again) => (again + 1, more),
            Err(_) => (again, more + 1),
            Ok(found) => panic!("{} found", found.len()),
        });
    assert!(more > 0);
    let one = table.find(&exactly(17), 1000, stamp(3)).unwrap();
    assert_eq!(hosts(&one), [flow(3, Protocol::Tcp, 17).original.src]);

    // They expire, those that were set aside too.
    while table.expire(stamp(700_000), 1000) > 0 {}
    assert_eq!((table.live(), table.closed()), (1, 0));
    assert_eq!(
        table.find(&end(), 1000, stamp(700_001)).map(|found| hosts(&found)),
        Ok(vec![live.original.src])
    );
}

#[test]
fn one_flow_of_thousands_on_a_port_is_found_by_its_far_side() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let tcp = flow(2, Protocol::Tcp, 5);
    table.open(&tcp, stamp(0));
    for server in 0..MANY {
        table.open(&flow(3, Protocol::Udp, server), stamp(1));
    }
    let both = table.find(&exactly(5), 1000, stamp(2)).unwrap();
    assert_eq!(both.len(), 2, "{both:?}");
    let only = Question { protocol: Some(Protocol::Tcp), ..exactly(5) };
    assert_eq!(hosts(&table.find(&only, 1000, stamp(2)).unwrap()), [tcp.original.src]);
    table.close(&tcp, stamp(3));
    let closed = table.find(&only, 1000, stamp(4)).unwrap();
    assert!(closed.len() == 1 && !closed[0].is_live());
    assert_eq!(table.find(&exactly(MANY), 1000, stamp(4)), Ok(vec![]), "and none that does not exist");
}

#[test]
fn the_newest_of_thousands_of_live_mappings_are_found_without_a_walk_through_all() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    for server in 0..MANY {
        table.open(&flow(3, Protocol::Tcp, server), stamp(u64::from(server)));
    }
    let host = std::net::IpAddr::from([192, 168, 7, 3]);
    let by_host = Question { src_ip: Some(host.into()), ..Question::default() };
    let now = stamp(u64::from(MANY));
    assert_eq!(table.find(&by_host, 1000, now), Err(Unfinished::NoIndex(IndexedBy::SrcIp)));
    build_index(&mut table, IndexedBy::SrcIp, now);
    for question in [end(), by_host] {
        let found = table.find(&question, 1000, stamp(u64::from(MANY))).unwrap();
        let mut ids: Vec<u32> = found.iter().map(|mapping| mapping.id - 0x0a00_0000).collect();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        assert!(ids.len() > 1000 && ids[..1001] == (MANY - 1001..MANY).rev().collect::<Vec<_>>());
    }
}

#[test]
fn an_unknown_destroy_event_on_a_crowded_port_is_stored_without_a_walk() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for server in 0..MANY {
        assert_eq!(table.close(&flow(3, Protocol::Tcp, server), stamp(1)), CloseResult::WasUnknown);
        assert_eq!(table.close(&flow(3, Protocol::Tcp, server), stamp(1)), CloseResult::Stale, "once more");
    }
    assert_eq!(table.closed(), MANY as usize);
}

proptest! {
    #[test]
    fn lookups_equal_a_walk_through_the_whole_table(
        steps in prop::collection::vec((2..5_u8, any::<bool>(), 0..4_u32, 0..4_u8), 0..120),
        lookups in prop::collection::vec(0..120_usize, 0..8),
    ) {
        let mut table = Table::new(Key::NatPort, Duration::from_millis(40));
        build_index(&mut table, IndexedBy::SrcIp, stamp(0));
        for (at, (host, udp, server, action)) in steps.iter().enumerate() {
            let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
            let (flow, now) = (flow(*host, protocol, *server), stamp(at as u64));
            match action {
                0 | 1 => drop(table.open(&flow, now)),
                2 => drop(table.close(&flow, now)),
                _ => drop(table.expire(now, 2)),
            }
            // Lookups set closed ones aside, at any time.
            if !lookups.contains(&at) {
                continue;
            }
            let mut all = Vec::new();
            let mut cursor = Some(Cursor::START);
            while let Some(from) = cursor {
                cursor = table.scan(from, now, |mapping| all.push(mapping));
            }
            let host = std::net::IpAddr::from([192, 168, 7, *host]);
            let by_host = Question { src_ip: Some(host.into()), ..Question::default() };
            let closed = Question { state: StateFilter::Closed, ..end() };
            for question in [end(), exactly(*server), by_host, closed, Question { nat_port: Some(7), ..Question::default() }] {
                let mut found = table.find(&question, 1000, now).unwrap();
                let mut expected: Vec<_> = all.iter().copied().filter(|mapping| question.matches(mapping)).collect();
                found.sort_by_key(Mapping::age_rank);
                expected.sort_by_key(Mapping::age_rank);
                prop_assert_eq!(found, expected, "{:?}", question);
            }
            let best = table.best(Key::NatPort, KeyValue::Port(7), None, |_| true, now).unwrap();
            prop_assert_eq!(best.map(|best| best.rank()), all.iter().map(Mapping::rank).max());
        }
    }
}
