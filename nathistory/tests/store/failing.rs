//! Disks that are full, broken or slow.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nathistory::{Entry, Gap, Moment, Options, Question, Reason, Record, check, open};
use rand::Rng;

use crate::disks::{Call, Memory};
use crate::model::Model;
use crate::traffic::Traffic;
use crate::{START, all, assert_records, find, is_long, sorted};

fn options() -> Options {
    Options { gateway: "gateway".into(), seal_interval: Duration::from_secs(600), ..Options::default() }
}

#[test]
fn what_was_refused_is_not_there_and_the_rest_is() {
    for seed in 0..if is_long() { 100 } else { 8 } {
        let disk = Memory::default();
        let mut traffic = Traffic::new(seed);
        let mut faults = Traffic::new(seed + 1_000).rng;
        let mut model = Model::new(START);
        let everything = Question::about(i64::MIN, i64::MAX);
        let mut store = open(disk.shared(), options(), START).unwrap();
        let (mut refused, mut failed_syncs) = (0, 0);
        for round in 0..12 {
            if round % 2 == 1 {
                let mut faults = TestFaults(faults.random());
                disk.set_fault(Some(Box::new(move |_, _| faults.next())));
            } else {
                disk.set_fault(None);
            }
            for _ in 0..60 {
                let entry = traffic.entry(&model);
                match store.writer.append(std::slice::from_ref(&entry), traffic.now) {
                    Ok(()) => model.apply(&entry),
                    Err(_) => refused += 1,
                }
                if traffic.chance(4) {
                    failed_syncs += u32::from(store.writer.sync().is_err());
                }
                if traffic.chance(20) {
                    let _ = store.writer.rotate(traffic.now);
                }
                if traffic.chance(10) {
                    let _ = store.keeper.run_due(traffic.now);
                }
            }
            let expected = sorted(model.find(&everything));
            assert_records(&all(&store.reader), &expected, &format!("seed {seed}, while it fails"));
            let (_, completeness) = find(&store.reader, &everything);
            assert_eq!(completeness.gaps, model.gaps(&everything), "seed {seed}");
        }
        assert!(refused > 0 && failed_syncs > 0, "{refused} {failed_syncs}");
        disk.set_fault(None);
        // A new log is begun by what is appended.
        store.writer.append(&[Entry::Alive { at: traffic.now }], traffic.now).unwrap();
        store.writer.sync().unwrap();
        drop(store);
        let mut store = open(disk.shared(), options(), traffic.now).unwrap();
        let expected = sorted(model.find(&everything));
        assert_records(&all(&store.reader), &expected, &format!("seed {seed}, after the start"));
        store.writer.rotate(traffic.now).unwrap();
        while store.keeper.run_due(traffic.now).unwrap() {}
        let expected = sorted(model.find(&everything));
        assert_records(&all(&store.reader), &expected, &format!("seed {seed}, after the seal"));
        assert_eq!(check(&disk.shared()).unwrap().problems, [], "seed {seed}");
    }
}

/// One call in eight fails; a write after some of its bytes.
struct TestFaults(u64);

impl TestFaults {
    fn next(&mut self) -> Result<(), usize> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.0 >> 33) as usize;
        if random % 8 == 0 { Err(random / 8 % 100) } else { Ok(()) }
    }
}

#[test]
fn a_full_disk_becomes_a_gap_once_there_is_room() {
    let disk = Memory::default();
    let mut traffic = Traffic::new(3);
    let mut store = open(disk.shared(), options(), START).unwrap();
    let record = traffic.connection();
    store.writer.append(&[Entry::Opened(record)], START + 1).unwrap();
    store.writer.sync().unwrap();
    let length = disk.bytes("0000000001.log").len();
    disk.set_fault(Some(Box::new(|call, _| if call == Call::Write { Err(10) } else { Ok(()) })));
    let error = store.writer.append(&[Entry::Closed(record)], START + 2).unwrap_err();
    assert!(error.to_string().contains("appending to memory/0000000001.log"), "{error}");
    // The part of a frame that was written is cut off.
    assert_eq!(disk.bytes("0000000001.log").len(), length);
    disk.set_fault(None);
    let gap = Gap { from: START + 1, to: Some(START + 9), reason: Reason::NotWritten, detail: None };
    let entries =
        [Entry::Gap(gap.clone()), Entry::Reconcile { since: START + 1 }, Entry::Reconciled { at: START + 9 }];
    store.writer.append(&entries, START + 9).unwrap();
    let (records, completeness) = find(&store.reader, &Question::about(START + 5, START + 5));
    assert_eq!(completeness.gaps, [gap]);
    let closed = records[0].closed.unwrap();
    assert_eq!((closed.since, closed.at), (Some(record.opened.at.max(START + 1)), START + 9));
}

/// A call that waits for the disk would wait for ever.
#[test]
fn a_slow_disk_of_the_keeper_holds_up_nobody() {
    let disk = Memory::default();
    let mut traffic = Traffic::new(4);
    let model = Model::new(START);
    let mut store = open(disk.shared(), options(), START).unwrap();
    for _ in 0..50 {
        let entry = traffic.entry(&model);
        store.writer.append(&[entry], traffic.now).unwrap();
    }
    store.writer.rotate(traffic.now).unwrap();
    let before = all(&store.reader).len();
    for call in [Call::Create, Call::Write, Call::Sync, Call::Rename] {
        let name = if call == Call::Rename { ".parquet" } else { "segment.tmp" };
        disk.gate().close_for(Some((call, name.to_owned())));
        let mut keeper = store.keeper;
        let keeping = thread::spawn(move || {
            keeper.run_due(START).unwrap();
            keeper
        });
        disk.gate().wait_for_caller();
        let (done, is_done) = mpsc::channel();
        let (mut writer, reader) = (store.writer, store.reader.clone());
        let now = traffic.now + 1;
        let appending = thread::spawn(move || {
            for _ in 0..100 {
                writer.append(&[Entry::Alive { at: now }], now).unwrap();
                writer.sync().unwrap();
                assert!(all(&reader).len() >= before);
            }
            writer.rotate(now).unwrap();
            done.send(()).unwrap();
            writer
        });
        is_done.recv_timeout(Duration::from_secs(60)).expect("nobody waits for the keeper");
        disk.gate().close_for(None);
        store.keeper = keeping.join().unwrap();
        store.writer = appending.join().unwrap();
    }
}

#[test]
fn what_is_frozen_is_sealed_while_others_are_merged() {
    const HOUR: i64 = 3_600_000;
    let disk = Memory::default();
    let mut traffic = Traffic::new(5);
    let mut store = open(disk.shared(), options(), START).unwrap();
    for (number, at) in [START, START + 1, START + 2 * HOUR].into_iter().enumerate() {
        let record = Record { id: Some(number as u32), opened: Moment::event(at), ..traffic.connection() };
        store.writer.append(&[Entry::Opened(record)], at).unwrap();
        store.writer.rotate(at).unwrap();
    }
    for _ in 0..3 {
        assert!(store.keeper.run_due(START + 2 * HOUR).unwrap());
    }
    let before = disk.names(".parquet").len();
    disk.gate().close_for(Some((Call::Create, "merge.tmp".to_owned())));
    let mut keeper = store.keeper;
    let merging = thread::spawn(move || {
        assert!(keeper.run_due(START + 2 * HOUR).unwrap());
        keeper
    });
    disk.gate().wait_for_caller();
    let last = Record { id: Some(9), ..traffic.connection() };
    store.writer.append(&[Entry::Opened(last)], START + 2 * HOUR + 1).unwrap();
    store.writer.rotate(START + 2 * HOUR + 1).unwrap();
    disk.gate().close_for(Some((Call::Sync, "merge.tmp".to_owned())));
    disk.gate().wait_for_caller();
    assert_eq!(disk.names(".parquet").len(), before + 1, "it is sealed, and the merged one is not finished");
    assert_eq!(all(&store.reader).len(), 4);
    disk.gate().close_for(None);
    let mut keeper = merging.join().unwrap();
    while keeper.run_due(START + 2 * HOUR).unwrap() {}
    assert_eq!(all(&store.reader).len(), 4);
    assert_eq!(check(&disk.shared()).unwrap().problems, []);
}

#[test]
fn memory_is_bounded_while_no_segment_can_be_made() {
    let disk = Memory::default();
    let mut traffic = Traffic::new(6);
    let options = Options { most_waiting: 50, ..options() };
    let mut store = open(disk.shared(), options, START).unwrap();
    disk.set_fault(Some(Box::new(|_, name| if name == "segment.tmp" { Err(0) } else { Ok(()) })));
    let mut appended = 0;
    let error = loop {
        traffic.now += 1;
        let record =
            Record { opened: Moment::event(traffic.now), id: Some(appended), ..traffic.connection() };
        if let Err(error) = store.writer.append(&[Entry::Opened(record)], traffic.now) {
            break error;
        }
        appended += 1;
        if appended % 10 == 0 {
            store.writer.rotate(traffic.now).unwrap();
            assert!(store.keeper.run_due(traffic.now).is_err());
        }
        assert!(appended < 1_000, "it grows without end");
    };
    assert!(error.to_string().ends_with("segments wait, because none can be made"), "{error}");
    assert_eq!(all(&store.reader).len() as u32, appended);
    disk.set_fault(None);
    while store.keeper.run_due(traffic.now).unwrap() {}
    store.writer.append(&[Entry::Alive { at: traffic.now }], traffic.now).unwrap();
    assert_eq!(all(&store.reader).len() as u32, appended);
}

/// The newest segment, of which a start reads the open mappings; one that is to be merged; a log.
#[test]
fn a_file_that_the_disk_cannot_read_is_a_gap_and_stops_nobody() {
    const HOUR: i64 = 3_600_000;
    let disk = Memory::default();
    let mut traffic = Traffic::new(7);
    let mut store = open(disk.shared(), options(), START).unwrap();
    for number in 0..4 {
        let at = START + i64::from(number);
        let record = Record { id: Some(number), opened: Moment::event(at), ..traffic.connection() };
        let closed = Record { closed: Some(Moment::event(at)), ..record };
        store.writer.append(&[Entry::Opened(record), Entry::Closed(closed)], at).unwrap();
        store.writer.rotate(at).unwrap();
        store.keeper.run_due(at).unwrap();
    }
    drop(store);
    let segments = disk.names(".parquet");
    disk.set_unreadable(&[&segments[1], &segments[3]]);
    let mut store = open(disk.shared(), options(), START + 9).unwrap();
    let (records, completeness) = find(&store.reader, &Question::about(START, START + 3));
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [Some(0), Some(2)]);
    let gaps: Vec<_> = completeness.gaps.iter().map(|gap| (gap.reason, gap.from, gap.to)).collect();
    let damaged = |at| (Reason::Damaged, START + at - 1, Some(START + at));
    assert_eq!(gaps, [damaged(1), damaged(3)]);
    // Sealing goes on, and what can be read is merged.
    let record = Record { id: Some(9), ..traffic.connection() };
    store.writer.append(&[Entry::Opened(record)], START + 2 * HOUR).unwrap();
    store.writer.rotate(START + 2 * HOUR).unwrap();
    let mut errors = 0;
    for _ in 0..10 {
        errors += u32::from(store.keeper.run_due(START + 2 * HOUR).is_err());
    }
    assert!((1..4).contains(&errors), "{errors}");
    assert_eq!(store.reader.figures().waiting, 0);
    // A log that cannot be read.
    drop(store);
    let logs = disk.names(".log");
    disk.set_unreadable(&[logs.last().unwrap()]);
    let store = open(disk.shared(), options(), START + 3 * HOUR).unwrap();
    let (_, completeness) = find(&store.reader, &Question::about(START + 2 * HOUR, START + 2 * HOUR));
    assert!(completeness.gaps.iter().any(|gap| gap.reason == Reason::Damaged), "{completeness:?}");
}

#[test]
fn a_mapping_whose_end_cannot_be_read_is_not_lost() {
    let disk = Memory::default();
    let mut traffic = Traffic::new(8);
    let mut store = open(disk.shared(), options(), START).unwrap();
    let record = Record { id: Some(1), opened: Moment::event(START + 10), ..traffic.connection() };
    store.writer.append(&[Entry::Opened(record)], START + 10).unwrap();
    store.writer.rotate(START + 100).unwrap();
    store.keeper.run_due(START + 100).unwrap();
    let closed = Record { closed: Some(Moment::event(START + 150)), ..record };
    store.writer.append(&[Entry::Closed(closed)], START + 150).unwrap();
    store.writer.rotate(START + 200).unwrap();
    store.keeper.run_due(START + 200).unwrap();
    let question = Question::about(START + 50, START + 60);
    assert_eq!(find(&store.reader, &question).0, [closed]);
    drop(store);
    disk.set_unreadable(&[&disk.names(".parquet")[1]]);
    let store = open(disk.shared(), options(), START + 300).unwrap();
    // It may still be open: the start took it from the segment before.
    assert_eq!(find(&store.reader, &question).0, [record]);
    let (records, completeness) = find(&store.reader, &Question::about(START + 120, START + 130));
    assert_eq!((records, completeness.gaps[0].reason), (vec![record], Reason::Damaged));
}
