//! Damaged, missing and foreign files: each is named, and the rest is answered.

use std::sync::Arc;
use std::time::Duration;

use nathistory::{Entry, Error, Millis, Options, Question, Reader, Reason, Record, check, open};

use crate::disks::Memory;
use crate::model::Model;
use crate::traffic::Traffic;
use crate::{START, find, sorted};

fn options() -> Options {
    Options { gateway: "gateway".into(), seal_interval: Duration::from_secs(60), ..Options::default() }
}

/// Five segments of one hour, and a log. The begin of each.
fn five_segments() -> (Memory, Model, Vec<Millis>) {
    let disk = Memory::default();
    let mut traffic = Traffic::new(5);
    let mut model = Model::new(START);
    let mut store = open(disk.shared(), options(), START).unwrap();
    let mut begins = vec![START];
    for _ in 0..5 {
        let end = traffic.now + 60_000;
        while traffic.now < end {
            let entry = traffic.entry(&model);
            if is_plain(&entry) {
                model.apply(&entry);
                store.writer.append(&[entry], traffic.now).unwrap();
            }
        }
        store.writer.rotate(traffic.now).unwrap();
        begins.push(traffic.now);
        while store.keeper.run_due(traffic.now).unwrap() {}
    }
    for _ in 0..20 {
        let entry = traffic.entry(&model);
        if is_plain(&entry) {
            model.apply(&entry);
            store.writer.append(&[entry], traffic.now).unwrap();
        }
    }
    store.writer.sync().unwrap();
    assert_eq!(disk.names(".parquet").len(), 5);
    assert_eq!(check(&disk.shared()).unwrap().problems, []);
    (disk, model, begins)
}

/// Gaps of the traffic would hide those that are expected here, and a segment begins earlier if it has mappings
/// that opened at some moment before it.
fn is_plain(entry: &Entry) -> bool {
    !matches!(entry, Entry::Gap(_) | Entry::Reconcile { .. })
}

fn named(disk: &Memory) -> Vec<String> {
    check(&disk.shared()).unwrap().problems.into_iter().map(|problem| problem.file).collect()
}

fn copy(disk: &Memory) -> Memory {
    let names = disk.names("");
    Memory::of_files(names.into_iter().map(|name| (name.clone(), disk.bytes(&name))).collect())
}

fn remove(disk: &Memory, name: &str) {
    disk.shared().remove(name).unwrap();
}

#[test]
fn a_changed_byte_is_named() {
    let (disk, ..) = five_segments();
    for name in disk.names(".parquet") {
        let bytes = disk.bytes(&name);
        for place in (0..bytes.len()).step_by(bytes.len() / 23) {
            let copy = copy(&disk);
            let mut changed = bytes.clone();
            changed[place] ^= 0x10;
            copy.set_bytes(&name, changed);
            assert_eq!(named(&copy), [name.as_str()], "byte {place}");
        }
    }
    let log = &disk.names(".log")[0];
    let mut changed = disk.bytes(log);
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    disk.set_bytes(log, changed);
    assert_eq!(named(&disk), [log.as_str()]);
}

#[test]
fn a_removed_segment_is_named() {
    let (disk, ..) = five_segments();
    for (number, name) in (1..).zip(disk.names(".parquet")) {
        let copy = copy(&disk);
        remove(&copy, &name);
        assert_eq!(named(&copy), [format!("{number:010}")]);
    }
    for name in &disk.names(".parquet")[1..4] {
        remove(&disk, name);
    }
    assert_eq!(named(&disk), ["0000000002 to 0000000004"]);
}

#[test]
fn swapped_segments_are_named() {
    let (disk, ..) = five_segments();
    let names = disk.names(".parquet");
    let (second, fourth) = (disk.bytes(&names[1]), disk.bytes(&names[3]));
    disk.set_bytes(&names[1], fourth);
    disk.set_bytes(&names[3], second);
    assert_eq!(named(&disk), [names[1].clone(), names[3].clone()]);
}

/// Somebody who knows the format could write a segment anew. The next one still has the hash of the first.
#[test]
fn a_segment_that_was_written_anew_is_named() {
    let (disk, ..) = five_segments();
    let other = Memory::default();
    let mut traffic = Traffic::new(6);
    let mut store = open(other.shared(), options(), START).unwrap();
    let entry = Entry::Opened(traffic.connection());
    store.writer.append(&[entry], START).unwrap();
    store.writer.rotate(START + 60_000).unwrap();
    while store.keeper.run_due(START + 60_000).unwrap() {}
    let first = &disk.names(".parquet")[0];
    let forged = &other.names(".parquet")[0];
    remove(&disk, first);
    disk.set_bytes(forged, other.bytes(forged));
    assert_eq!(named(&disk), [forged.as_str()]);
}

#[test]
fn a_damaged_or_missing_segment_is_a_gap_and_the_rest_is_answered() {
    let (whole, model, begins) = five_segments();
    let names = whole.names(".parquet");
    for is_missing in [false, true] {
        let disk = copy(&whole);
        if is_missing {
            remove(&disk, &names[2]);
        } else {
            let mut bytes = disk.bytes(&names[2]);
            let footer = bytes.len() - 30;
            bytes[footer] ^= 1;
            disk.set_bytes(&names[2], bytes);
        }
        let now = begins[5] + 60_000;
        let store = open(disk.shared(), options(), now).unwrap();
        for reader in [store.reader.clone(), Reader::of_files(disk.shared()).unwrap()] {
            for (number, begin) in begins.iter().enumerate().take(5) {
                let question = Question::about(begin + 20_000, begin + 30_000);
                let (records, completeness) = find(&reader, &question);
                if number == 2 {
                    let gap = &completeness.gaps[0];
                    assert_eq!((gap.reason, gap.to), (Reason::Damaged, Some(begins[3])));
                    // The kernel says when a mapping began, which can be a little before the segment.
                    assert!(gap.from <= begins[2] && gap.from > begins[2] - 5_000, "{gap:?}");
                    let detail = gap.detail.as_ref().unwrap();
                    let expected = if is_missing { "segments 3 to 3 are missing" } else { names[2].as_str() };
                    assert!(detail.contains(expected), "{detail}");
                } else {
                    assert_eq!(completeness.gaps, [], "{number}");
                    let ends_are_known = number != 1;
                    assert_same(&records, &model.find(&question), ends_are_known);
                }
            }
        }
    }
}

/// The end of a mapping that was open at the end of a segment can be in the one that is damaged.
fn assert_same(found: &[Record], expected: &[Record], ends_are_known: bool) {
    let without_end = |records: &[Record]| {
        let records = records.iter().map(|record| match ends_are_known {
            true => *record,
            false => Record { closed: None, counters: None, mark: None, ..*record },
        });
        sorted(records.collect())
    };
    assert_eq!(without_end(found), without_end(expected));
}

#[test]
fn a_damaged_batch_of_the_log_is_a_gap_and_the_rest_is_answered() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), options(), START).unwrap();
    let mut traffic = Traffic::new(7);
    let mut lengths = Vec::new();
    let mut records = Vec::new();
    for number in 0..10 {
        let record = Record { id: Some(100 + number), ..traffic.connection() };
        records.push(record);
        lengths.push(disk.bytes("0000000001.log").len());
        let now = START + i64::from(number) * 1_000;
        store.writer.append(&[Entry::Opened(record), Entry::Alive { at: now }], now).unwrap();
    }
    drop(store);
    let mut bytes = disk.bytes("0000000001.log");
    bytes[lengths[4] + 20] ^= 1;
    disk.set_bytes("0000000001.log", bytes);
    let store = open(disk.shared(), options(), START + 20_000).unwrap();
    let (found, completeness) = find(&store.reader, &Question::about(START + 4_000, START + 4_000));
    let gap = &completeness.gaps[0];
    assert_eq!((gap.from, gap.to, gap.reason), (START + 3_000, Some(START + 5_000), Reason::Damaged));
    assert!(gap.detail.as_ref().unwrap().starts_with("0000000001.log: bytes"), "{gap:?}");
    assert!(!found.contains(&records[4]));
    let (found, completeness) = find(&store.reader, &Question::about(START + 6_000, START + 9_000));
    assert_eq!((found.len(), completeness.gaps.len()), (9, 0));
    // It was frozen at once, so the damaged bytes are not needed any more.
    assert_eq!(store.reader.figures().waiting, 1);
}

/// A process that was killed can have left the log of a segment that is there already.
#[test]
fn a_damaged_segment_whose_log_is_there_is_made_again() {
    let disk = Memory::default();
    let mut store = open(disk.shared(), options(), START).unwrap();
    let mut traffic = Traffic::new(8);
    store.writer.append(&[Entry::Opened(traffic.connection())], START + 1).unwrap();
    store.writer.rotate(START + 2).unwrap();
    let log = disk.bytes("0000000001.log");
    while store.keeper.run_due(START + 2).unwrap() {}
    let expected = find(&store.reader, &Question::about(START, START + 10));
    drop(store);
    let name = disk.names(".parquet").remove(0);
    let whole = disk.bytes(&name);
    disk.set_bytes("0000000001.log", log);
    disk.set_bytes(&name, whole[..whole.len() / 2].to_vec());
    let mut store = open(disk.shared(), options(), START + 10).unwrap();
    assert_eq!(find(&store.reader, &Question::about(START, START + 10)), expected);
    while store.keeper.run_due(START + 10).unwrap() {}
    assert_eq!(disk.bytes(&name), whole);
    assert_eq!(find(&store.reader, &Question::about(START, START + 10)), expected);
    assert_eq!(named(&disk), [""; 0]);
}

#[test]
fn other_directories_are_refused() {
    let disk = Memory::default();
    disk.set_bytes("mail.txt", Vec::new());
    let error = open(disk.shared(), options(), START).unwrap_err();
    assert!(matches!(error, Error::NotAHistory { ref found, .. } if found == "mail.txt"), "{error}");
    assert!(Reader::of_files(disk.shared()).is_err());
    assert!(check(&disk.shared()).is_err());

    let disk = Memory::default();
    disk.set_bytes("FORMAT", b"nathistory 2\n".to_vec());
    let error = open(disk.shared(), options(), START).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 2, known: 1, .. }), "{error}");
    disk.set_bytes("FORMAT", b"nathistory x\n".to_vec());
    assert!(matches!(open(disk.shared(), options(), START), Err(Error::Damaged { .. })));
}

#[test]
fn a_second_writer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn nathistory::disk::Disk> =
        Arc::new(nathistory::disk::Directory::new(directory.path()).unwrap());
    let store = open(Arc::clone(&disk), options(), START).unwrap();
    assert!(matches!(open(Arc::clone(&disk), options(), START), Err(Error::InUse { .. })));
    assert!(Reader::of_files(Arc::clone(&disk)).is_ok());
    let reader = store.reader.clone();
    drop(store);
    // A reader does not keep the lock.
    assert!(open(disk, options(), START).is_ok());
    drop(reader);
}
