//! What a recorder is told of each way in which a mapping begins or ends.

use std::time::Duration;

use nfct::{Counters, Flow, Status};

use super::doubt_model::{flow, stamp};
use super::*;
use crate::clock::Stamp;
use crate::config::Key;

const DEL_DELAY: Duration = Duration::from_secs(10);

fn table() -> Table {
    let mut table = Table::new(Key::NatPort, DEL_DELAY);
    table.begin_feed();
    table
}

fn fed(table: &mut Table) -> Vec<FeedItem> {
    let fed = table.take_feed(&mut Vec::new());
    assert_eq!(fed.dropped, None);
    fed.chunks.into_iter().flatten().collect()
}

fn wall(at: u64) -> u64 {
    stamp(at).wall
}

/// The flow with the kernel's timestamps, in milliseconds as `stamp` takes them.
fn timed(flow: &Flow, start: u64, stop: Option<u64>) -> Flow {
    let nanoseconds = |at| wall(at) * 1_000_000 + 999_999;
    let mut flow = *flow;
    (flow.start, flow.stop) = (Some(nanoseconds(start)), stop.map(nanoseconds));
    flow
}

fn with_id(mut flow: Flow, id: u32) -> Flow {
    flow.id = id;
    flow
}

fn begun(flow: &Flow, at: u64, known: BeginKnown) -> Begun {
    Begun { tuples: flow.into(), id: flow.id, at: wall(at), known }
}

fn ended(begun: Begun, at: u64, known: EndKnown) -> Ended {
    Ended { begun, was_live: true, at: wall(at), known, mark: None, counters: None }
}

#[test]
fn without_a_recorder_nothing_is_kept() {
    let mut table = Table::new(Key::NatPort, DEL_DELAY);
    table.open(&flow(2, 1, 1), stamp(0));
    assert!(!table.has_feed() && fed(&mut table).is_empty());
}

#[test]
fn events_tell_when_and_the_kernels_timestamps_more_exactly() {
    let mut table = table();
    let plain = flow(2, 1, 1);
    table.open(&plain, stamp(100));
    let mut end = plain;
    end.mark = 7;
    end.counters_original = Some(Counters { packets: 3, bytes: 400 });
    end.counters_reply = Some(Counters { packets: 2, bytes: 300 });
    table.close(&end, stamp(200));
    // The kernel's begin is in the DESTROY event, too.
    let exact = flow(2, 2, 1);
    table.open(&exact, stamp(300));
    table.close(&timed(&exact, 299, Some(350)), stamp(400));
    let opened = begun(&plain, 100, BeginKnown::Event);
    let counters = end.counters_original.zip(end.counters_reply).map(|(one, other)| [one, other]);
    let closed = Ended { mark: Some(7), counters, ..ended(opened, 200, EndKnown::Event) };
    let exactly =
        Ended { mark: Some(0), ..ended(begun(&exact, 299, BeginKnown::Kernel), 350, EndKnown::Kernel) };
    let expected = [
        FeedItem::Opened(opened),
        FeedItem::Closed(closed),
        FeedItem::Opened(begun(&exact, 300, BeginKnown::Event)),
        FeedItem::Closed(exactly),
    ];
    assert_eq!(fed(&mut table), expected);
}

#[test]
fn an_end_before_the_event_of_the_begin_is_not_before_the_begin() {
    let mut table = table();
    let short = flow(2, 1, 1);
    table.open(&short, stamp(100));
    table.close(&timed(&short, 97, Some(98)), stamp(100));
    let items = fed(&mut table);
    let FeedItem::Closed(closed) = items[1] else { panic!("{items:?}") };
    assert_eq!((closed.at, closed.known), (wall(100), EndKnown::Event));
}

#[test]
fn events_that_have_waited_have_no_exact_time() {
    let mut table = table();
    let flow = flow(2, 1, 1);
    table.set_waited_since(Some(wall(5)));
    table.open(&flow, stamp(9_000));
    table.close(&flow, stamp(9_000));
    table.set_waited_since(None);
    table.open(&flow, stamp(9_100));
    let items = fed(&mut table);
    let known = |item: &FeedItem| match item {
        FeedItem::Opened(begun) => begun.known,
        other => panic!("{other:?}"),
    };
    assert_eq!((known(&items[0]), known(&items[2])), (BeginKnown::Late(wall(5)), BeginKnown::Event));
    assert!(
        matches!(items[1], FeedItem::Closed(Ended { known: EndKnown::Late(since), .. }) if since == wall(5))
    );
}

#[test]
fn what_a_dump_or_a_query_finds_began_earlier() {
    let mut table = table();
    let (dumped, exact, queried) = (flow(2, 1, 1), flow(2, 2, 1), flow(2, 3, 1));
    table.begin_dump();
    table.merge(&dumped, stamp(0), stamp(10));
    table.merge(&timed(&exact, 4, None), stamp(0), stamp(10));
    drop(table.end_dump());
    let asked = table.asked(stamp(20));
    table.verified(&queried.reply, Some(&queried), asked, stamp(21));
    let expected = [
        FeedItem::Found(begun(&dumped, 10, BeginKnown::Found)),
        FeedItem::Found(begun(&exact, 4, BeginKnown::Kernel)),
        FeedItem::Found(begun(&queried, 21, BeginKnown::Found)),
    ];
    assert_eq!(fed(&mut table), expected);
}

#[test]
fn an_end_that_no_event_tells_lies_after_the_kernel_last_told_of_the_mapping() {
    let missed = |told, lasted_until, is_reported| EndKnown::Missed {
        told: wall(told),
        lasted_until: wall(lasted_until),
        is_reported,
    };
    let mut udp = flow(2, 1, 1);
    udp.timeout = Some(5);
    // A query.
    let mut table = table();
    table.open(&udp, stamp(0));
    let asked = table.asked(stamp(8_000));
    table.verified(&udp.reply, None, asked, stamp(8_010));
    let opened = begun(&udp, 0, BeginKnown::Event);
    let closed = ended(opened, 8_010, missed(0, 5_000, true));
    assert_eq!(fed(&mut table)[1..], [FeedItem::Closed(closed)]);
    // A dump has another connection in its place. Its end may not be reported.
    let (old, new) = (flow(2, 1, 1), with_id(flow(2, 1, 1), 9));
    table.set_trusts_events(false);
    table.open(&old, stamp(10_000));
    table.set_trusts_events(true);
    table.begin_dump();
    table.merge(&new, stamp(11_000), stamp(11_005));
    drop(table.end_dump());
    let items = fed(&mut table);
    let opened = begun(&old, 10_000, BeginKnown::Event);
    let closed = ended(opened, 11_005, missed(10_000, 11_005, false));
    assert_eq!(
        items[1..],
        [FeedItem::Closed(closed), FeedItem::Found(begun(&new, 11_005, BeginKnown::Found))]
    );
    // A NEW event, and another filter.
    let newer = with_id(new, 10);
    table.open(&newer, stamp(12_000));
    table.retain(Cursor::START, stamp(12_500), |_| false);
    let items = fed(&mut table);
    let found = begun(&new, 11_005, BeginKnown::Found);
    let opened = begun(&newer, 12_000, BeginKnown::Event);
    let expected = [
        FeedItem::Closed(ended(found, 12_000, missed(11_000, 12_000, false))),
        FeedItem::Opened(opened),
        FeedItem::Closed(ended(opened, 12_500, missed(12_000, 12_500, true))),
    ];
    assert_eq!(items, expected);
}

#[test]
fn an_end_of_an_unknown_mapping_is_told_however_old_it_is() {
    for (at, begin) in [(1_000, None), (60_000, Some(500))] {
        let mut table = table();
        let plain = flow(2, 1, 1);
        let unknown = begin.map_or(plain, |start| timed(&plain, start, Some(900)));
        let result = table.close(&unknown, stamp(at));
        let is_old = begin.is_some();
        assert_eq!(result, if is_old { CloseResult::Stale } else { CloseResult::WasUnknown });
        let expected = match begin {
            Some(start) => ended(begun(&plain, start, BeginKnown::Kernel), 900, EndKnown::Kernel),
            None => ended(begun(&plain, at, BeginKnown::Unknown), at, EndKnown::Event),
        };
        let expected = Ended { was_live: false, mark: Some(0), ..expected };
        assert_eq!(fed(&mut table), [FeedItem::Closed(expected)]);
    }
}

#[test]
fn repeated_and_late_events_are_told_once() {
    let mut table = table();
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    table.open(&flow, stamp(10));
    // Long after `del_delay`, too.
    for at in (100..40_000).step_by(100) {
        table.close(&flow, stamp(at));
        table.expire(stamp(at), 9);
    }
    assert_eq!((table.live(), table.closed()), (0, 0));
    let items = fed(&mut table);
    assert!(matches!(items[..], [FeedItem::Opened(_), FeedItem::Closed(_)]), "{items:?}");
}

#[test]
fn a_late_event_of_a_dying_entry_tells_of_both_its_begin_and_its_end() {
    let mut table = table();
    let (live, mut dying) = (flow(2, 1, 1), flow(3, 1, 1));
    dying.status = Status(1 << 9);
    table.open(&live, stamp(0));
    table.open(&dying, stamp(1));
    table.close(&dying, stamp(2));
    let both = ended(begun(&dying, 1, BeginKnown::Event), 1, EndKnown::Event);
    let expected = [
        FeedItem::Opened(begun(&live, 0, BeginKnown::Event)),
        FeedItem::Closed(Ended { was_live: false, ..both }),
    ];
    assert_eq!(fed(&mut table), expected);
}

#[test]
fn what_the_clock_shows_later_does_not_change_what_was_told() {
    let mut table = table();
    let flow = flow(2, 1, 1);
    table.open(&flow, stamp(0));
    // The wall clock is set back by an hour.
    let later = Stamp { wall: wall(1_000) - 3_600_000, ..stamp(1_000) };
    let asked = table.asked(later);
    table.verified(&flow.reply, None, asked, later);
    let items = fed(&mut table);
    let FeedItem::Closed(Ended { at, known: EndKnown::Missed { told, .. }, .. }) = items[1] else {
        panic!("{items:?}")
    };
    assert_eq!((at, told), (later.wall, later.wall - 1_000));
}
