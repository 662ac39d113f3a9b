//! What is too old or too much is removed, and that is recorded.

use std::time::Duration;

use nathistory::{Entry, Options, Question, Reader, Reason, Record, Store, check, open};

use crate::disks::Memory;
use crate::traffic::Traffic;
use crate::{START, all, find, without_ids};

const DAY: i64 = 86_400_000;

/// A mapping each half hour, for some days.
fn fill(store: &mut Store, days: i64) -> i64 {
    fill_from(store, START, days)
}

fn fill_from(store: &mut Store, from: i64, days: i64) -> i64 {
    let mut traffic = Traffic::new(9);
    let mut now = from;
    let mut id = 100;
    while now < from + days * DAY {
        now += 1_800_000;
        id += 1;
        let opened = nathistory::Moment::event(now - 1_000);
        let record = Record {
            id: Some(id),
            opened,
            closed: Some(nathistory::Moment::event(now)),
            ..traffic.connection()
        };
        store.writer.append(&[Entry::Closed(record)], now).unwrap();
        store.writer.sync().unwrap();
        store.writer.rotate(now).unwrap();
        while store.keeper.run_due(now).unwrap() {}
        // What the keeper wants to remove is logged, and then removed.
        store.writer.sync().unwrap();
        while store.keeper.run_due(now).unwrap() {}
    }
    now
}

#[test]
fn segments_become_hours_and_hours_become_days() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), Options::default(), START).unwrap();
    let now = fill(&mut store, 5);
    // Five days and what is left of today: the hours that are over, and two halves of this one.
    let names = disk.names(".parquet");
    assert!(names.len() <= 6 + 24 + 2, "{names:#?}");
    assert_eq!(all(&store.reader).len(), 5 * 48);
    assert_eq!(store.reader.span(), Some((START, now)));
    let question = Question::about(START + DAY, START + DAY + 3_600_000);
    assert_eq!(find(&store.reader, &question).1.gaps, []);
    let report = check(&disk.shared()).unwrap();
    assert_eq!((report.problems.len(), report.removed.len(), report.rows >= 240), (0, 0, true));
}

/// The one that has the moment, and the next one for the ends of mappings that were open at its end. A moment at
/// which one ends and the next begins touches both.
#[test]
fn a_moment_is_found_in_three_files_at_most() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), Options::default(), START).unwrap();
    let now = fill(&mut store, 20);
    let records = all(&store.reader);
    drop(store);
    for record in records.iter().step_by(7) {
        let end = record.public_ends().next().unwrap().public;
        for at in [record.opened.at, record.opened.at + 500] {
            // Nothing is open yet.
            let store = open(disk.shared(), Options::default(), now).unwrap();
            disk.take_opened();
            let question = Question {
                nat_ip: Some(end.ip),
                nat_port: end.port,
                ..Question::about(at - 1_000, at + 1_000)
            };
            let (found, completeness) = find(&store.reader, &question);
            assert!(found.contains(record) && completeness.gaps.is_empty(), "{record:?}");
            let opened = disk.take_opened();
            assert!(opened.len() <= 3, "{opened:#?}");
        }
    }
}

#[test]
fn what_is_too_old_is_removed() {
    let disk = Memory::default();
    let options = Options { retention: Some(Duration::from_secs(2 * 86_400)), ..Options::default() };
    let mut store = open(disk.shared(), options.clone(), START).unwrap();
    let now = fill(&mut store, 7);
    let records = all(&store.reader);
    let oldest = records.iter().map(|record| record.opened.at).min().unwrap();
    // Days are removed whole.
    assert!(oldest > now - 3 * DAY - 3_600_000 && oldest < now - 2 * DAY + 3_600_000, "{}", now - oldest);
    let (_, completeness) = find(&store.reader, &Question::about(START + 1, START + 1));
    assert_eq!(completeness.gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>(), [Reason::Removed]);
    let (_, completeness) = find(&store.reader, &Question::about(now - 2 * DAY + 1, now));
    assert_eq!(completeness.gaps, []);
    drop(store);
    let store = open(disk.shared(), options, now).unwrap();
    assert_eq!(all(&store.reader), records);
    // The newest removal is in the log, and in no segment yet.
    let report = check(&disk.shared()).unwrap();
    assert_eq!(report.problems, []);
    assert!(!report.removed.is_empty());
}

#[test]
fn what_is_too_much_is_removed() {
    let disk = Memory::default();
    let options = Options { retention_bytes: Some(100_000), ..Options::default() };
    let mut store = open(disk.shared(), options, START).unwrap();
    fill(&mut store, 4);
    let figures = store.reader.figures();
    assert!(figures.segment_bytes + figures.log_bytes <= 100_000, "{figures:?}");
    assert!(figures.segments > 1, "{figures:?}");
    assert_eq!(check(&disk.shared()).unwrap().problems, []);
}

#[test]
fn a_search_that_goes_on_can_finish_although_its_files_are_removed() {
    let disk = Memory::default();
    let options = Options { retention: Some(Duration::from_secs(86_400)), ..Options::default() };
    let mut store = open(disk.shared(), options, START).unwrap();
    let now = fill(&mut store, 1);
    let before = all(&store.reader);
    let reader = store.reader.clone();
    let mut found = Vec::new();
    reader
        .find(&Question::about(i64::MIN, i64::MAX), &mut |record| {
            if found.is_empty() {
                let later = now + 3 * DAY;
                for _ in 0..3 {
                    store.writer.rotate(later).unwrap();
                    while store.keeper.run_due(later).unwrap() {}
                    store.writer.sync().unwrap();
                }
            }
            found.push(record);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(crate::sorted(found), before);
    let later = now + 3 * DAY;
    while store.keeper.run_due(later).unwrap() {}
    assert_eq!(all(&store.reader), []);
}

#[test]
fn a_reader_of_files_goes_on_when_another_process_merges_them() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), Options::default(), START).unwrap();
    let now = fill(&mut store, 1);
    let reader = Reader::of_files(disk.shared()).unwrap();
    let before = without_ids(all(&reader));
    assert_eq!(before, without_ids(all(&store.reader)));
    let (_, completeness) = find(&reader, &Question::about(now, now + 1));
    assert_eq!(completeness.gaps.iter().map(|gap| gap.reason).collect::<Vec<_>>(), [Reason::NotRunning]);
    let files = disk.names(".parquet");
    fill_from(&mut store, now, 2);
    assert!(files.iter().any(|name| !disk.names(".parquet").contains(name)));
    let after = without_ids(all(&reader));
    assert!(before.iter().all(|record| after.contains(record)));
    assert_eq!(after, without_ids(all(&store.reader)));
}
