//! The table as a whole.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Directory, Disk};
use crate::names::{NameEntry, NameFact, NameGap, NameStore, StoredNames};
use crate::time::Millis;

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(Directory::new(path).unwrap())
}

fn fact(key: u64, began: Millis, ended: Option<Millis>) -> NameFact {
    NameFact {
        key,
        net: format!("10.0.0.{key}/32"),
        source: "dnsmasq".to_owned(),
        place: "/leases".to_owned(),
        name: (key % 2 == 0).then(|| format!("host \"{key}\"")),
        mac: Some(format!("02:00:00:00:00:{key:02x}")),
        labels: (0..key % 3).map(|at| (format!("label{at}"), "ü".to_owned())).collect(),
        began_after: began - 5,
        began,
        learnt: began + 7,
        ended_after: ended,
        ended,
        until: Some(began + 1_000_000),
        ..NameFact::default()
    }
}

fn opened(path: &Path) -> (NameStore, StoredNames) {
    let (store, mut stored) = NameStore::open(disk(path), 1000, 0).unwrap();
    stored.facts.sort_by_key(|fact| fact.key);
    (store, stored)
}

#[test]
fn what_was_appended_is_there_again_with_what_was_learnt_later() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, stored) = opened(directory.path());
    assert_eq!(stored, StoredNames::default());
    let gap = NameGap { source: "kea".into(), place: "/k".into(), from: 5, to: 9 };
    let entries: Vec<NameEntry> = (1..200).map(|key| NameEntry::Fact(fact(key, 100, None))).collect();
    store.append(&entries).unwrap();
    store.append(&[NameEntry::Fact(fact(2, 100, Some(400))), NameEntry::Gap(gap.clone())]).unwrap();
    store.append(&[NameEntry::Alive { at: 500 }]).unwrap();
    store.sync().unwrap();
    assert!(NameStore::open(disk(directory.path()), 1000, 0).is_err(), "it is locked");
    drop(store);
    let (mut store, stored) = opened(directory.path());
    let mut expected: Vec<NameFact> = (1..200).map(|key| fact(key, 100, None)).collect();
    expected[1] = fact(2, 100, Some(400));
    assert_eq!((stored.facts, stored.gaps, stored.alive), (expected.clone(), vec![gap.clone()], Some(500)));
    // Sealed: what has ended is in a file, the rest in the next log.
    for round in 0..3 {
        store.seal(600 + round, 0).unwrap();
        store.append(&[NameEntry::Fact(fact(200 + round as u64, 100, Some(601)))]).unwrap();
        expected.push(fact(200 + round as u64, 100, Some(601)));
    }
    drop(store);
    let (_store, stored) = opened(directory.path());
    assert_eq!((stored.facts, stored.gaps, stored.alive), (expected, vec![gap], Some(500)));
    assert_eq!(stored.damaged, [] as [String; 0]);
}

#[test]
fn a_torn_or_damaged_log_loses_only_what_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("names-0000000001.log");
    let (mut store, _) = opened(directory.path());
    let append = |key| {
        store.append(&[NameEntry::Fact(fact(key, 100, None))]).unwrap();
        fs::metadata(&path).unwrap().len() as usize
    };
    let [first, second, _] = [1, 2, 3].map(append);
    drop(store);
    let whole = fs::read(&path).unwrap();
    // Torn at each byte of the last frame.
    for length in second..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (mut store, stored) = opened(directory.path());
        assert!(stored.facts.len() == 2 && stored.damaged.is_empty(), "{length}: {stored:?}");
        store.append(&[NameEntry::Fact(fact(9, 100, None))]).unwrap();
        drop(store);
        assert_eq!(opened(directory.path()).1.facts.len(), 3);
    }
    let mut changed = whole;
    changed[first + 40] ^= 1;
    fs::write(&path, &changed).unwrap();
    let (_store, stored) = opened(directory.path());
    assert_eq!((stored.facts.len(), stored.damaged), (2, vec!["names-0000000001.log".to_owned()]));
}

#[test]
fn a_crash_in_the_middle_of_a_seal_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(directory.path());
    let facts: Vec<NameFact> = (1..=9).map(|key| fact(key, 100, (key > 4).then_some(300))).collect();
    store.append(&facts.iter().cloned().map(NameEntry::Fact).collect::<Vec<_>>()).unwrap();
    store.sync().unwrap();
    let log = directory.path().join("names-0000000001.log");
    let before = fs::read(&log).unwrap();
    store.seal(400, 0).unwrap();
    drop(store);
    // The old log was not removed.
    fs::write(&log, &before).unwrap();
    assert_eq!(opened(directory.path()).1.facts, facts);
    // The file was not written.
    fs::write(&log, &before).unwrap();
    let file = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|it| it == "parquet")).unwrap();
    fs::remove_file(file).unwrap();
    let (mut store, stored) = opened(directory.path());
    assert_eq!(stored.facts, facts);
    store.seal(500, 0).unwrap();
    drop(store);
    assert_eq!(opened(directory.path()).1.facts, facts);
}

#[test]
fn old_files_are_removed_and_the_newest_facts_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = opened(directory.path());
    for round in 1..=5_i64 {
        store.append(&[NameEntry::Fact(fact(round as u64, 100 * round, Some(100 * round + 50)))]).unwrap();
        store.seal(100 * round + 60, 0).unwrap();
    }
    store.seal(700, 300).unwrap();
    drop(store);
    let keys = |most| -> Vec<u64> {
        let (_store, stored) = NameStore::open(disk(directory.path()), most, 0).unwrap();
        stored.facts.iter().map(|fact| fact.key).collect()
    };
    assert_eq!((keys(1000), keys(2)), (vec![5, 4, 3], vec![5, 4]));
}
