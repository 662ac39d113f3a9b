//! Many lifetimes of one tuple, in order and within the limits.

use std::net::Ipv4Addr;
use std::time::Duration;

use nfct::{Flow, Protocol, Tuple};

use super::store::Limits;
use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Doubt;
use crate::question::Question;

fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

/// host:port -> server 10.0.0.1:443, public 100.64.2.1:7
fn flow(host: u8, id: u32) -> Flow {
    let server = (Ipv4Addr::from([10, 0, 0, 1]), 443);
    let original = Tuple::with_ports(Protocol::Tcp, (Ipv4Addr::from([192, 168, 7, host]), 7), server);
    let reply = Tuple::with_ports(Protocol::Tcp, server, (Ipv4Addr::from([100, 64, 2, 1]), 7));
    let mut flow = Flow::new(original, reply);
    flow.id = id;
    flow.timeout = Some(1000);
    flow
}

fn exactly() -> Question {
    Question {
        nat_ip: Some(std::net::IpAddr::from([100, 64, 2, 1]).into()),
        nat_port: Some(7),
        peer_ip: Some(std::net::IpAddr::from([10, 0, 0, 1]).into()),
        peer_port: Some(443),
        ..Question::default()
    }
}

#[test]
fn an_end_that_comes_late_belongs_to_the_newest_lifetime_with_its_id() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    table.set_expects_ends(true);
    let (x, y) = (flow(2, 1), flow(3, 2));
    table.open(&x, stamp(0));
    table.close(&x, stamp(1));
    table.open(&x, stamp(5000));
    let asked = table.asked(stamp(6000));
    assert_eq!(table.verified(&x.reply, Some(&y), asked, stamp(6001)), Verified::Added);
    assert_eq!(table.missing_ends(), 1);
    let mut end = x;
    end.mark = 77;
    assert_eq!(table.close(&end, stamp(6002)), CloseResult::Stale);
    assert_eq!(table.missing_ends(), 0, "its DESTROY event has come");
}

#[test]
fn the_mark_at_the_end_is_that_of_the_lifetime_that_ended() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    let (x, y) = (flow(2, 1), flow(3, 2));
    table.open(&x, stamp(0));
    table.close(&x, stamp(1));
    table.open(&x, stamp(5000));
    table.open(&y, stamp(6000)); // replaces x
    let mut end = x;
    end.mark = 77;
    table.close(&end, stamp(6001));
    let found = table.find(&exactly(), 1000, stamp(6003)).unwrap();
    let at = |opened| found.iter().find(|m| m.opened == stamp(opened)).unwrap().mark;
    assert_eq!((at(0), at(5000)), (Some(0), Some(77)));
}

#[test]
fn a_known_end_is_recognised_behind_many_lifetimes() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    table.set_expects_ends(true);
    for n in 0..100 {
        table.open(&flow(2, 100 + n), stamp(u64::from(n) * 10));
        table.close(&flow(2, 100 + n), stamp(u64::from(n) * 10 + 1));
    }
    let (x, y) = (flow(2, 1), flow(3, 2));
    table.open(&x, stamp(5000));
    table.open(&y, stamp(6000)); // replaces x
    let closed = table.closed();
    assert_eq!(table.close(&x, stamp(6001)), CloseResult::Stale, "known as closed");
    assert_eq!(table.closed(), closed);
}

#[test]
fn of_many_lifetimes_of_a_tuple_the_newest_are_found() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..200_000 {
        table.open(&flow(2, n), stamp(1));
        table.close(&flow(2, n), stamp(2));
    }
    let found = table.find(&exactly(), 1000, stamp(3)).unwrap();
    let ids: Vec<u32> = found.iter().map(|mapping| mapping.id).collect();
    assert_eq!(ids, (198_999..200_000).rev().collect::<Vec<_>>());
}

#[test]
fn many_lifetimes_of_a_forward_are_too_many_for_one_hold_of_the_lock() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    let original = Tuple::tcp(([10, 0, 0, 1], 443), ([100, 64, 2, 1], 7));
    let reply = Tuple::tcp(([10, 0, 0, 1], 443), ([192, 168, 7, 2], 8)).reversed();
    let mut flow = Flow::new(original, reply);
    for n in 0..200_000 {
        flow.id = n;
        table.open(&flow, stamp(1));
        table.close(&flow, stamp(2));
    }
    assert_eq!(table.find(&exactly(), 1000, stamp(3)), Err(Unfinished::TooMany));
}

#[test]
fn forwards_that_the_chain_has_too_are_counted() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..200_000_u32 {
        let far = (Ipv4Addr::from(0x0b00_0000 + n), 500);
        let original = Tuple::with_ports(Protocol::Udp, far, (Ipv4Addr::from([100, 64, 2, 1]), 500));
        let reply = Tuple::with_ports(Protocol::Udp, far, (Ipv4Addr::from([192, 168, 7, 2]), 500)).reversed();
        let mut flow = Flow::new(original, reply);
        flow.id = n;
        table.open(&flow, stamp(1));
    }
    let question = Question { nat_port: Some(500), ..Question::default() };
    assert_eq!(table.find(&question, 1000, stamp(3)), Err(Unfinished::TooMany));
}

#[test]
fn closed_mappings_of_either_family_make_room() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    table.set_limits(Limits { closed: 100, all: 10 });
    for n in 0..10 {
        table.open(&flow(2, n), stamp(1));
        table.close(&flow(2, n), stamp(2));
    }
    let v6 = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let original = Tuple::tcp((v6("fd00::1"), 7), (v6("2001:db8::1"), 443));
    let reply = Tuple::tcp((v6("2001:db8::7"), 7), (v6("2001:db8::1"), 443)).reversed();
    let new = Flow::new(original, reply);
    let opened = table.open(&new, stamp(3));
    assert!(opened, "all {} others have closed", table.closed());
}

#[test]
fn a_late_new_event_is_doubtful_although_its_lifetime_was_forgotten() {
    for all in [usize::MAX, 1] {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
        table.set_limits(Limits { closed: 100, all });
        let x = flow(2, 1);
        let asked = table.asked(stamp(0));
        assert_eq!(table.verified(&x.reply, Some(&x), asked, stamp(1)), Verified::Added);
        table.close(&x, stamp(2));
        table.open(&x, stamp(3)); // late
        let found = table.find(&exactly(), 1000, stamp(4)).unwrap();
        let live = found.iter().find(|m| m.is_live()).unwrap();
        assert_eq!(live.doubt, Doubt::Doubtful, "all {all}");
    }
}

#[test]
fn lifetimes_that_replace_each_other_stay_within_the_limit() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    table.set_limits(Limits { closed: 1000, all: 10 });
    for n in 0..200 {
        table.open(&flow((n % 2) as u8 + 2, n), stamp(u64::from(n)));
    }
    let stored = table.live() + table.closed();
    assert!(stored <= 10, "{stored}");
}

#[test]
fn the_inner_destination_is_found_behind_many_lifetimes() {
    let client = ([198, 51, 100, 9], 50_000);
    let tuple = |to: ([u8; 4], u16), zone| Tuple { zone, ..Tuple::tcp(client, to) };
    let forward = |to, then, zone, id| {
        let mut flow = Flow::new(tuple(to, zone), tuple(then, zone).reversed());
        flow.id = id;
        flow
    };
    let (public, middle, inside) = (([100, 64, 2, 1], 443), ([10, 0, 0, 1], 8443), ([192, 168, 7, 2], 9443));
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..100 {
        table.open(&forward(middle, inside, 4, 100 + n), stamp(0));
        table.close(&forward(middle, inside, 4, 100 + n), stamp(1));
    }
    table.open(&forward(public, middle, 0, 1), stamp(10));
    table.open(&forward(middle, inside, 4, 2), stamp(10));
    let question = Question {
        nat_ip: Some(std::net::IpAddr::from(public.0).into()),
        nat_port: Some(443),
        ..Default::default()
    };
    let found = table.find(&question, 1000, stamp(11)).unwrap();
    let outer = found.iter().find(|m| m.id == 1).unwrap();
    assert_eq!(table.trace(*outer, stamp(11)).server_host().ip, std::net::IpAddr::from(inside.0));
}

#[test]
fn the_inner_source_of_each_of_many_closed_mappings_is_found() {
    let server = ([198, 51, 100, 1], 443);
    let tuple =
        |host: u8, zone| Tuple { zone, ..Tuple::tcp(([10, 0, 0, host], 1000 + u16::from(host)), server) };
    let step = |from, to, zone, id| {
        let mut flow = Flow::new(tuple(from, zone), tuple(to, zone).reversed());
        flow.id = id;
        flow
    };
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..100_u32 {
        let at = u64::from(n) * 10;
        table.open(&step(1, 2, 4, 1000 + n), stamp(at));
        table.open(&step(2, 3, 0, 2000 + n), stamp(at + 1));
        table.close(&step(1, 2, 4, 1000 + n), stamp(at + 2));
        table.close(&step(2, 3, 0, 2000 + n), stamp(at + 3));
    }
    let question = Question {
        nat_ip: Some(std::net::IpAddr::from([10, 0, 0, 3]).into()),
        nat_port: Some(1003),
        ..Default::default()
    };
    let found = table.find(&question, 1000, stamp(2000)).unwrap();
    let wrong: Vec<u32> = found
        .iter()
        .filter(|outer| {
            table.trace(**outer, stamp(2000)).source_host().ip != std::net::IpAddr::from([10, 0, 0, 1])
        })
        .map(|outer| outer.id)
        .collect();
    assert_eq!(wrong, [] as [u32; 0]);
}

#[test]
fn lifetimes_are_in_the_order_in_which_they_closed() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    // The ends of unknown lifetimes, while one is live and after it has ended.
    table.open(&flow(2, 9), stamp(0));
    (10..20).for_each(|id| assert_eq!(table.close(&flow(2, id), stamp(1000)), CloseResult::WasUnknown));
    table.close(&flow(2, 9), stamp(1001));
    (20..30).for_each(|id| assert_eq!(table.close(&flow(2, id), stamp(1002)), CloseResult::WasUnknown));
    let ids = |table: &mut Table| {
        let found = table.find(&exactly(), 1000, stamp(1003)).unwrap();
        found.iter().map(|mapping| mapping.id).collect::<Vec<_>>()
    };
    let newest_first: Vec<u32> = (20..30).rev().chain([9]).chain((10..20).rev()).collect();
    assert_eq!(ids(&mut table), newest_first);
    // What is removed first closed first, or is in the middle.
    table.remove_old(Cursor::START, Duration::from_millis(2500), stamp(3003));
    assert_eq!(ids(&mut table), newest_first.iter().copied().filter(|id| *id != 9).collect::<Vec<_>>());
    table.set_limits(Limits { closed: 12, ..Limits::NONE });
    table.forget_surplus(stamp(1003), 100);
    assert_eq!(ids(&mut table), [29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18]);
}

#[test]
fn a_forgotten_end_is_no_evidence_of_missing_events() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    table.set_expects_ends(true);
    table.set_limits(Limits { closed: 1, all: 100 });
    let x = flow(2, 1);
    table.open(&x, stamp(0));
    let asked = table.asked(stamp(5));
    table.verified(&x.reply, None, asked, stamp(6));
    let other = {
        let mut f = flow(4, 5);
        f.original.layer4 = nfct::Layer4::Ports { src: 9, dst: 443 };
        f.reply.layer4 = nfct::Layer4::Ports { src: 443, dst: 9 };
        f
    };
    table.open(&other, stamp(6));
    table.close(&other, stamp(7));
    let result = table.close(&x, stamp(8));
    assert_eq!((table.missing_ends(), result), (0, CloseResult::Stale));
}

#[test]
fn a_lower_limit_takes_effect_on_what_is_stored() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..1000 {
        table.open(&flow(2, n), stamp(1));
        table.close(&flow(2, n), stamp(2));
    }
    table.set_limits(Limits { closed: 10_000, all: 100 });
    while table.forget_surplus(stamp(3), 128) > 0 {}
    assert!(table.closed() <= 100, "{}", table.closed());
}

#[test]
fn the_other_family_has_nothing_to_walk() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(600));
    for n in 0..5_000_u32 {
        let far = (Ipv4Addr::from(0x0b00_0000 + n), 40_000);
        let original = Tuple::with_ports(Protocol::Tcp, far, (Ipv4Addr::from([100, 64, 2, 1]), 443));
        let reply =
            Tuple::with_ports(Protocol::Tcp, far, (Ipv4Addr::from([192, 168, 7, 2]), 8443)).reversed();
        let mut flow = Flow::new(original, reply);
        flow.id = n;
        table.open(&flow, stamp(1));
    }
    let v6 = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let original = Tuple::tcp((v6("fd00::1"), 7), (v6("2001:db8::1"), 443));
    let reply = Tuple::tcp((v6("2001:db8::7"), 443), (v6("2001:db8::1"), 443)).reversed();
    table.open(&Flow::new(original, reply), stamp(2));
    let question = Question {
        nat_ip: Some(v6("2001:db8::7").into()),
        nat_port: Some(443),
        peer_ip: Some(v6("2001:db8::1").into()),
        peer_port: Some(443),
        ..Question::default()
    };
    let found = table.find(&question, 1000, stamp(3)).map(|f| f.len());
    let end =
        table.find(&Question { peer_ip: None, peer_port: None, ..question }, 1000, stamp(3)).map(|f| f.len());
    assert_eq!((found, end), (Ok(1), Ok(1)));
}
