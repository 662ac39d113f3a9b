//! What entries mean.

use nathistory::{Entry, Gap, Known, Moment, Options, Question, Reason, Record, Store, open};

use crate::disks::Memory;
use crate::traffic::Traffic;
use crate::{START, all, find};

fn store() -> Store {
    open(Memory::default().shared(), Options::default(), START).unwrap()
}

fn mapping() -> Record {
    Record { opened: Moment::event(START + 10), ..Traffic::new(1).connection() }
}

fn append(store: &mut Store, entries: &[Entry]) {
    store.writer.append(entries, START + 1_000).unwrap();
}

fn lifetimes(store: &Store) -> Vec<(Moment, Option<Moment>)> {
    all(&store.reader).iter().map(|record| (record.opened, record.closed)).collect()
}

fn closed(record: Record, at: i64) -> Entry {
    Entry::Closed(Record { closed: Some(Moment::event(at)), ..record })
}

#[test]
fn a_mapping_keeps_the_begin_that_is_known() {
    let mut store = store();
    let end = Record { opened: Moment::dump(START + 500), ..mapping() };
    append(&mut store, &[Entry::Opened(mapping()), closed(end, START + 500)]);
    assert_eq!(lifetimes(&store), [(Moment::event(START + 10), Some(Moment::event(START + 500)))]);
}

#[test]
fn the_kernels_begin_is_taken_at_the_end_until_a_segment_has_another() {
    for is_sealed in [false, true] {
        let mut store = store();
        let end = Record { opened: Moment::kernel(START + 3), ..mapping() };
        append(&mut store, &[Entry::Opened(mapping())]);
        if is_sealed {
            store.writer.rotate(START + 1_500).unwrap();
            while store.keeper.run_due(START + 1_500).unwrap() {}
        }
        store.writer.append(&[closed(end, START + 2_000)], START + 2_000).unwrap();
        let begin = if is_sealed { mapping().opened } else { end.opened };
        assert_eq!(lifetimes(&store), [(begin, Some(Moment::event(START + 2_000)))], "{is_sealed}");
    }
}

#[test]
fn a_mapping_whose_begin_was_not_seen_has_its_own() {
    let mut store = store();
    let end = Record { opened: Moment::kernel(START + 3), ..mapping() };
    append(&mut store, &[closed(end, START + 500)]);
    assert_eq!(lifetimes(&store), [(Moment::kernel(START + 3), Some(Moment::event(START + 500)))]);
}

#[test]
fn a_mapping_that_opens_again_closed_unseen() {
    let mut store = store();
    let again = Record { opened: Moment::event(START + 90), ..mapping() };
    append(&mut store, &[Entry::Opened(mapping()), Entry::Opened(again)]);
    let ended = Moment::range(START + 10, START + 90);
    assert_eq!(lifetimes(&store), [(Moment::event(START + 10), Some(ended)), (again.opened, None)]);
}

#[test]
fn the_kernels_later_begin_is_another_lifetime() {
    for is_end in [false, true] {
        let mut store = store();
        let later = Record { opened: Moment::kernel(START + 90), ..mapping() };
        let second = if is_end { closed(later, START + 95) } else { Entry::Seen(later) };
        append(&mut store, &[Entry::Opened(mapping()), second]);
        let ended = Moment::range(START + 10, START + 90);
        let end = is_end.then(|| Moment::event(START + 95));
        assert_eq!(lifetimes(&store), [(Moment::event(START + 10), Some(ended)), (later.opened, end)]);
    }
}

#[test]
fn an_end_that_no_event_would_have_reported_can_be_as_early_as_the_last_sweep() {
    for sweep in [None, Some(START + 50), Some(START + 900)] {
        let mut store = store();
        let found = Record { opened: Moment::kernel(START + 10), ..mapping() };
        append(&mut store, &[Entry::Seen(found)]);
        append(&mut store, sweep.map(|at| Entry::Swept { at }).as_slice());
        // Also when another process goes on.
        store.writer.rotate(START + 1_500).unwrap();
        while store.keeper.run_due(START + 1_500).unwrap() {}
        let entries = [Entry::Reconcile { since: START + 800 }, Entry::Reconciled { at: START + 2_000 }];
        store.writer.append(&entries, START + 2_000).unwrap();
        let since = sweep.map_or(START + 10, |at| at.min(START + 800));
        assert_eq!(lifetimes(&store), [(found.opened, Some(Moment::range(since, START + 2_000)))]);
    }
}

#[test]
fn a_reconciliation_ends_what_did_not_follow() {
    let mut store = store();
    let other = Record { id: Some(77), ..mapping() };
    let new = Record { id: Some(78), opened: Moment::dump(START + 300), ..mapping() };
    append(&mut store, &[Entry::Opened(mapping()), Entry::Opened(other)]);
    append(&mut store, &[Entry::Reconcile { since: START + 200 }, Entry::Seen(other), Entry::Seen(new)]);
    append(&mut store, &[Entry::Reconciled { at: START + 400 }]);
    let found = all(&store.reader);
    let end_of = |id: Option<u32>| found.iter().find(|record| record.id == id).unwrap().closed;
    assert_eq!(end_of(mapping().id), Some(Moment::range(START + 200, START + 400)));
    assert_eq!((end_of(Some(77)), end_of(Some(78))), (None, None));
    let begin = found.iter().find(|record| record.id == Some(78)).unwrap().opened;
    assert_eq!((begin.known, begin.since, begin.at), (Known::Range, Some(START + 200), START + 300));
}

#[test]
fn a_dump_after_a_gap_leaves_a_range() {
    let mut store = store();
    let gap = Gap { from: START + 100, to: None, reason: Reason::EventsLost, detail: None };
    let seen = |id, at| Entry::Seen(Record { id, opened: Moment::dump(at), ..mapping() });
    append(
        &mut store,
        &[seen(Some(1_000), START + 50), Entry::Gap(gap.clone()), seen(Some(1_001), START + 150)],
    );
    let (_, completeness) = find(&store.reader, &Question::about(START + 400, START + 400));
    assert_eq!(completeness.gaps, std::slice::from_ref(&gap));
    let ends = Entry::GapEnds { reason: gap.reason, at: START + 200, detail: Some("5 events".into()) };
    append(&mut store, &[ends, seen(Some(1_002), START + 250)]);
    let begins: Vec<Moment> = all(&store.reader).iter().map(|record| record.opened).collect();
    let range = Moment::range(START + 100, START + 150);
    assert_eq!(begins, [Moment::dump(START + 50), range, Moment::dump(START + 250)]);
    let (_, completeness) = find(&store.reader, &Question::about(START + 200, START + 200));
    assert_eq!(completeness.gaps, [Gap { to: Some(START + 200), detail: Some("5 events".into()), ..gap }]);
    assert_eq!(find(&store.reader, &Question::about(START + 201, START + 300)).1.gaps, []);
}

#[test]
fn the_last_moment_that_is_known_survives_a_restart() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), Options::default(), START).unwrap();
    assert_eq!(store.last_alive, None);
    append(&mut store, &[Entry::Opened(mapping()), Entry::Alive { at: START + 700 }]);
    store.writer.rotate(START + 1_000).unwrap();
    drop(store);
    let store = open(disk.shared(), Options::default(), START + 9_000).unwrap();
    assert_eq!(store.last_alive, Some(START + 700));
    assert_eq!(store.reader.figures().waiting, 1);
    assert_eq!(store.reader.gateway(), "");
    let before = find(&store.reader, &Question::about(START - 1, START)).1.gaps;
    assert_eq!((before[0].reason, before[0].to), (Reason::BeforeHistory, Some(START)));
}
