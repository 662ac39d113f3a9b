//! The rules of doubt, one by one: events that are late, missing or repeated, and what queries
//! and dumps tell.

use std::time::Duration;

use nfct::{Flow, Status, Tuple};

use super::doubt_model::{flow, stamp};
use super::*;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};

/// Applies a DESTROY event of `flow`, and its NEW event after it.
fn overtaken(table: &mut Table, flow: &Flow, at: u64) {
    assert_eq!(table.close(flow, stamp(at)), CloseResult::WasUnknown);
    assert!(table.open(flow, stamp(at)));
}

fn only_live(table: &Table, at: u64) -> Mapping {
    let mut live = Vec::new();
    table.scan(Cursor::START, stamp(at), |mapping| live.extend(Some(mapping).filter(Mapping::is_live)));
    assert_eq!(live.len(), 1, "{live:?}");
    live[0]
}

#[test]
fn a_new_event_after_the_destroy_event_is_doubtful_until_it_is_verified() {
    // Also if no lookup sees closed mappings any more.
    for del_delay in [Duration::ZERO, Duration::from_secs(10)] {
        let mut table = Table::new(Key::NatPort, del_delay);
        let flow = flow(2, 1, 1);
        overtaken(&mut table, &flow, 0);
        table.expire(stamp(1), 9);
        assert_eq!(only_live(&table, 1).doubt, Doubt::Doubtful);
        let asked = table.asked(stamp(2));
        assert_eq!(table.take_requested(9), [flow.reply]);
        assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(2)), Verified::Live);
        assert_eq!(only_live(&table, 2).doubt, Doubt::None, "the id was used again at once");
        table.close(&flow, stamp(3));
        table.open(&flow, stamp(4));
        let asked = table.asked(stamp(5));
        assert_eq!(table.verified(&flow.reply, None, asked, stamp(5)), Verified::Ended);
        assert_eq!(table.live(), 0);
        assert_eq!(table.missing_ends(), 0, "nothing is missing");
    }
}

#[test]
fn a_late_new_event_is_doubtful_however_many_mappings_opened_in_between() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let late = flow(2, 1, 1);
    table.close(&late, stamp(0));
    for server in 2..200 {
        table.open(&flow(2, 1, server), stamp(0));
    }
    table.open(&late, stamp(1));
    assert_eq!(table.take_requested(9), [late.reply]);
}

#[test]
fn a_late_event_of_a_dying_entry_does_not_replace_a_live_mapping() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let (live, mut dying) = (flow(2, 1, 1), flow(3, 1, 1));
    dying.status = Status(1 << 9);
    table.collect_changes(true);
    table.open(&live, stamp(0));
    assert!(table.open(&dying, stamp(1)));
    assert!(!table.open(&dying, stamp(1)), "it is stored already");
    let mapping = only_live(&table, 2);
    assert_eq!((mapping.original, mapping.doubt), (live.original, Doubt::Doubtful));
    assert_eq!(table.closed(), 1, "who had the port is known");
    let asked = table.asked(stamp(3));
    table.verified(&live.reply, Some(&live), asked, stamp(3));
    assert_eq!(only_live(&table, 3).doubt, Doubt::None);
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Opened(_), Change::Opened(_), Change::Closed(_)]), "{changes:?}");
}

#[test]
fn an_end_that_no_event_tells_is_evidence_unless_the_event_comes_later() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let end = |table: &mut Table, flow: &Flow| {
        table.open(flow, stamp(0));
        let asked = table.asked(stamp(1));
        assert_eq!(table.verified(&flow.reply, None, asked, stamp(1)), Verified::Ended);
    };
    end(&mut table, &flow(2, 1, 1));
    assert_eq!(table.missing_ends(), 0, "its event may have been lost");
    table.set_expects_ends(true);
    end(&mut table, &flow(2, 1, 2));
    end(&mut table, &flow(2, 2, 2));
    assert_eq!(table.missing_ends(), 2);
    assert_eq!(table.close(&flow(2, 1, 2), stamp(2)), CloseResult::Stale);
    assert_eq!((table.take_missing_ends(), table.missing_ends()), (1, 0));
}

#[test]
fn a_repeated_destroy_event_neither_revives_a_mapping_nor_ends_the_next_one() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.collect_changes(true);
    table.open(&flow, stamp(0));
    for at in (100..20_000).step_by(100) {
        table.close(&flow, stamp(at));
        table.expire(stamp(at), 9);
    }
    assert_eq!((table.live(), table.closed()), (0, 0));
    assert_eq!(table.take_changes().changes.len(), 2, "opened and closed once");
    table.open(&flow, stamp(20_000));
    assert_eq!(table.close(&flow, stamp(20_100)), CloseResult::Stale);
    assert_eq!(only_live(&table, 20_100).doubt, Doubt::Doubtful);
    let asked = table.asked(stamp(20_200));
    table.verified(&flow.reply, None, asked, stamp(20_200));
    assert_eq!(table.live(), 0);
}

#[test]
fn a_repeated_new_event_changes_nothing_and_an_id_that_comes_back_is_a_new_lifetime() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut first = flow(2, 1, 1);
    table.collect_changes(true);
    for at in 0..1000 {
        table.open(&first, stamp(at));
    }
    assert_eq!(table.take_changes().changes.len(), 1);
    // Its end was suppressed, and its timeout has passed.
    table.open(&first, stamp(9_000));
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Closed(_), Change::Opened(_)]), "{changes:?}");
    assert_eq!(only_live(&table, 9_000).opened, stamp(9_000));
    // The kernel's timestamps tell lifetimes apart at once, in events, dumps and replies.
    let at = |milliseconds| Some((stamp(milliseconds).wall) * 1_000_000);
    first.start = at(9_100);
    table.open(&first, stamp(9_101));
    first.start = at(9_200);
    table.begin_dump();
    assert!(table.merge(&first, stamp(9_201), stamp(9_201)));
    drop(table.end_dump());
    first.start = at(9_300);
    let asked = table.asked(stamp(9_301));
    assert_eq!(table.verified(&first.reply, Some(&first), asked, stamp(9_301)), Verified::Added);
    assert_eq!(table.take_changes().changes.len(), 6);
    assert_eq!(only_live(&table, 9_400).opened, stamp(9_300));
}

#[test]
fn mappings_without_an_event_and_with_a_rival_are_doubtful() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let flow = |host, server| flow(host, 1, server);
    table.begin_dump();
    table.merge(&flow(2, 1), stamp(0), stamp(0));
    drop(table.end_dump());
    assert_eq!((only_live(&table, 0).doubt, table.unreported()), (Doubt::Unreported, 1));
    table.open(&flow(2, 1), stamp(1));
    assert_eq!((only_live(&table, 1).doubt, table.unreported()), (Doubt::None, 0));
    assert_eq!(only_live(&table, 4_999).doubt, Doubt::None);
    assert_eq!(only_live(&table, 5_001).doubt, Doubt::Doubtful, "its timeout has passed");
    let mut long = flow(2, 1);
    long.timeout = Some(60);
    table.verified(&long.reply, Some(&long), table.asked(stamp(5_002)), stamp(5_002));
    let doubts = |table: &Table, at| {
        let mut doubts = Vec::new();
        table.scan(Cursor::START, stamp(at), |mapping| doubts.push(mapping.doubt));
        doubts
    };
    table.open(&flow(3, 2), stamp(5_003));
    assert_eq!(doubts(&table, 5_004), [Doubt::Doubtful; 2], "another host has the same public port");
    table.close(&flow(3, 2), stamp(5_005));
    table.open(&flow(2, 2), stamp(5_006));
    assert_eq!(doubts(&table, 5_007)[0], Doubt::None, "the same host on the same port, to another server");
}

fn doubt_at(table: &Table, at: u64) -> Doubt {
    only_live(table, at).doubt
}

#[test]
fn a_mapping_that_opened_while_events_were_missing_stays_doubtful() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.open(&flow(2, 1, 1), stamp(0));
    table.set_trusts_events(false);
    assert_eq!(table.distrust(Cursor::START), Some(Cursor { is_v4: false, slot: 0 }));
    assert_eq!(doubt_at(&table, 1), Doubt::Unreported, "it was live when events were first missing");
    table.close(&flow(2, 1, 1), stamp(2));
    table.open(&flow(3, 2, 1), stamp(3));
    table.set_trusts_events(true);
    assert_eq!(doubt_at(&table, 4), Doubt::Unreported, "it opened while events were missing");
    let asked = table.asked(stamp(5));
    table.verified(&flow(3, 2, 1).reply, Some(&flow(3, 2, 1)), asked, stamp(5));
    assert_eq!(doubt_at(&table, 6), Doubt::Unreported, "a query does not tell whether its end is reported");
    table.open(&flow(3, 2, 1), stamp(7));
    assert_eq!(table.unreported(), 0, "a later life, whose end is reported");
}

#[test]
fn the_end_of_an_unknown_lifetime_makes_the_live_one_doubtful_once() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.collect_changes(true);
    let (live, unknown) = (flow(2, 1, 1), flow(3, 1, 1));
    table.open(&live, stamp(0));
    assert_eq!(table.close(&unknown, stamp(1)), CloseResult::WasUnknown);
    assert_eq!((doubt_at(&table, 2), table.closed()), (Doubt::Doubtful, 1));
    let changes = table.take_changes().changes;
    assert!(matches!(changes[..], [Change::Opened(_), Change::Opened(_), Change::Closed(_)]), "{changes:?}");
    assert_eq!(table.take_requested(9), [live.reply]);
    let asked = table.asked(stamp(3));
    assert_eq!(table.verified(&live.reply, Some(&live), asked, stamp(3)), Verified::Live);
    assert_eq!(doubt_at(&table, 4), Doubt::None);
    // And so does the NEW event of a live mapping that comes again.
    table.open(&live, stamp(5));
    assert_eq!((doubt_at(&table, 6), table.take_requested(9)), (Doubt::Doubtful, vec![live.reply]));
}

#[test]
fn a_mapping_closed_when_the_kernel_says_so() {
    let at = |milliseconds| Some(stamp(milliseconds).wall * 1_000_000);
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut known = flow(2, 1, 1);
    table.open(&known, stamp(0));
    known.stop = at(4_000);
    table.close(&known, stamp(9_000));
    let mut closed = Vec::new();
    table.scan(Cursor::START, stamp(9_001), |mapping| closed.extend(mapping.closed));
    assert_eq!(closed, [stamp(4_000)]);
    table.scan(Cursor::START, stamp(14_000), |mapping| panic!("del_delay is over: {mapping:?}"));
    // An unknown one that nobody can look up any more is not stored.
    let mut unknown = flow(3, 2, 1);
    unknown.stop = at(4_000);
    assert_eq!(table.close(&unknown, stamp(14_000)), CloseResult::Stale);
    unknown.stop = at(4_001);
    assert_eq!(table.close(&unknown, stamp(14_000)), CloseResult::WasUnknown);
}

#[test]
fn what_has_closed_is_remembered_for_two_seconds_although_no_lookup_finds_it() {
    let flow = flow(2, 1, 1);
    for (at, known) in [(2_000, true), (2_001, false)] {
        let mut table = Table::new(Key::NatPort, Duration::ZERO);
        table.open(&flow, stamp(0));
        table.close(&flow, stamp(1));
        table.scan(Cursor::START, stamp(1), |mapping| panic!("found: {mapping:?}"));
        table.expire(stamp(at), 9);
        let expected = if known { CloseResult::Stale } else { CloseResult::WasUnknown };
        assert_eq!(table.close(&flow, stamp(at)), expected, "after {at} ms");
    }
}

#[test]
fn closing_protocols_are_verified_again_after_their_shortest_timeout() {
    use nfct::Protocol::{Dccp, Sctp, Tcp, Udp};
    for (protocol, limit) in [(Tcp, 10_000), (Sctp, 1_000), (Dccp, 1_000), (Udp, u64::MAX)] {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        let mut flow = flow(2, 1, 1);
        (flow.original.protocol, flow.reply.protocol) = (protocol, protocol);
        flow.timeout = Some(100);
        table.open(&flow, stamp(0));
        let at_limit = if limit == u64::MAX { Doubt::None } else { Doubt::Aged };
        let limit = limit.min(99_999);
        assert_eq!(doubt_at(&table, limit - 1), Doubt::None, "{protocol}");
        assert_eq!(doubt_at(&table, limit), at_limit, "{protocol}");
        table.verified(&flow.reply, Some(&flow), table.asked(stamp(limit)), stamp(limit));
        assert_eq!(doubt_at(&table, limit + 1), Doubt::None, "{protocol}");
    }
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut tcp = flow(2, 1, 1);
    (tcp.original.protocol, tcp.reply.protocol, tcp.timeout) = (Tcp, Tcp, Some(100));
    table.set_closing_timeout(Duration::from_secs(3));
    table.open(&tcp, stamp(0));
    assert_eq!(doubt_at(&table, 3_000), Doubt::Aged, "the kernel's setting is shorter");
}

#[test]
fn more_mappings_of_a_port_than_are_compared_are_doubtful() {
    for (number, doubt) in [(65, Doubt::None), (66, Doubt::Doubtful)] {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        // Of one host, so that none is a rival.
        for server in 0..number {
            table.open(&flow(2, 1, server), stamp(0));
        }
        let mut doubts = Vec::new();
        table.scan(Cursor::START, stamp(1), |mapping| doubts.push(mapping.doubt));
        assert_eq!(doubts, vec![doubt; number.into()], "{number}");
    }
}

#[test]
fn some_of_the_mappings_without_an_event_are_taken_in_turn() {
    const MAPPINGS: u16 = 3_000;
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    table.begin_dump();
    for port in 0..MAPPINGS {
        table.merge(&flow(2, port, 1), stamp(0), stamp(0));
    }
    drop(table.end_dump());
    let (mut taken, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = cursor {
        let before = taken.len();
        cursor = table.unreported_in(from, 128, |reply| taken.push(reply));
        assert!(taken.len() - before <= 128, "{} at once", taken.len() - before);
    }
    taken.sort_by_key(|reply| reply.dst_port());
    let all: Vec<Tuple> = (0..MAPPINGS).map(|port| flow(2, port, 1).reply).collect();
    assert!(taken == all, "each one once");
}

#[test]
fn a_query_made_before_an_event_does_not_settle_the_doubt_that_the_event_raises() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    // The kernel repeats its DESTROY event. The same tuples then get the same id.
    table.close(&flow, stamp(1));
    table.close(&flow, stamp(2));
    table.open(&flow, stamp(3));
    assert_eq!(table.take_requested(9), [flow.reply]);
    let asked = table.asked(stamp(4));
    // The kernel finds it, and then it ends.
    assert_eq!(table.close(&flow, stamp(5)), CloseResult::Stale);
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(6)), Verified::Live);
    assert_eq!(only_live(&table, 6).doubt, Doubt::Doubtful);
    assert_eq!(table.take_requested(9), [flow.reply], "it is verified again");
    // Its NEW event comes once more.
    let asked = table.asked(stamp(7));
    table.open(&flow, stamp(7));
    assert_eq!(table.verified(&flow.reply, None, asked, stamp(7)), Verified::Nothing);
    assert_eq!(table.take_requested(9), [flow.reply], "it is verified again");
    let asked = table.asked(stamp(7));
    assert_eq!(table.verified(&flow.reply, None, asked, stamp(7)), Verified::Ended);
}

#[test]
fn a_query_that_took_long_adds_nothing_that_has_closed_since() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let (flow, other) = (flow(2, 1, 1), flow(3, 2, 2));
    table.open(&flow, stamp(0));
    let asked = table.asked(stamp(1));
    for _ in 0..40_000 {
        table.open(&other, stamp(2));
        table.close(&other, stamp(2));
    }
    table.close(&flow, stamp(2));
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(3)), Verified::Nothing);
    assert_eq!(table.live(), 0);
}

#[test]
fn a_wall_clock_that_goes_back_makes_no_other_lifetime() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
    let mut flow = flow(2, 1, 1);
    flow.start = Some(stamp(24 * 3600 * 1000).wall * 1_000_000);
    table.begin_dump();
    assert!(table.merge(&flow, stamp(0), stamp(0)));
    table.begin_dump();
    assert!(!table.merge(&flow, stamp(1_000), stamp(1_000)));
    drop(table.end_dump());
    let asked = table.asked(stamp(2_000));
    assert_eq!(table.verified(&flow.reply, Some(&flow), asked, stamp(2_000)), Verified::Live);
}

#[test]
fn what_a_longer_del_delay_keeps_in_memory_is_not_due_yet() {
    let mut table = Table::new(Key::NatPort, Duration::from_secs(1));
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    table.close(&flow, stamp(0));
    assert_eq!(table.expire(stamp(1_500), 9), 1, "lookups no longer find it");
    table.set_del_delay(Duration::from_secs(60));
    assert_eq!(table.expire(stamp(10_000), 9), 0);
    assert_eq!(table.next_expiry(stamp(10_000)), Some(Duration::from_secs(50)));
    table.expire(stamp(60_000), 9);
    assert_eq!(table.next_expiry(stamp(60_000)), None);
}
