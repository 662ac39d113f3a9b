//! Power is lost after each operation of the disk, and what was not synced survives, or not, or in part: nothing
//! that was synced is lost, nothing is invented, and every state opens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nathistory::{Options, Question, Reason, Record, check, open};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand::Rng;

use crate::disks::{Memory, Operation};
use crate::model::Model;
use crate::traffic::Traffic;
use crate::{START, all, assert_records, find, is_long, without_ids};

/// What survives of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Survives {
    Everything,
    Nothing,
    /// The first names and the first bytes.
    Beginning,
    /// The names, and the lengths of files, but not their bytes.
    Zeros,
    /// Some of the names in any order, and the first bytes.
    AnyNames,
    /// All names, and any sectors.
    AnySectors,
}

const ALL: [Survives; 6] = [
    Survives::Everything,
    Survives::Nothing,
    Survives::Beginning,
    Survives::Zeros,
    Survives::AnyNames,
    Survives::AnySectors,
];
const SECTOR: usize = 512;

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    current: Vec<u8>,
}

impl File {
    fn surviving(&self, survives: Survives, rng: &mut TestRng) -> Vec<u8> {
        let durable = self.durable.len().min(self.current.len());
        match survives {
            Survives::Everything => self.current.clone(),
            Survives::Nothing => self.durable.clone(),
            Survives::Beginning | Survives::AnyNames => {
                self.current[..rng.random_range(durable..=self.current.len())].to_vec()
            }
            Survives::Zeros => {
                let mut bytes = self.current[..durable].to_vec();
                bytes.resize(rng.random_range(durable..=self.current.len()), 0);
                bytes
            }
            Survives::AnySectors => {
                let mut bytes = self.current.clone();
                for sector in bytes[durable..].chunks_mut(SECTOR) {
                    if rng.random_range(0..3) == 0 {
                        sector.fill(0);
                    }
                }
                bytes
            }
        }
    }
}

/// The files after power was lost.
fn lose_power(operations: &[Operation], survives: Survives, rng: &mut TestRng) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<usize, File> = BTreeMap::new();
    let mut durable: BTreeMap<String, usize> = BTreeMap::new();
    let mut pending: Vec<&Operation> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Create { file, .. } => {
                files.insert(*file, File::default());
                pending.push(operation);
            }
            Operation::Write { file, bytes } => files.get_mut(file).unwrap().current.extend(bytes),
            Operation::Truncate { file, length } => files.get_mut(file).unwrap().current.resize(*length, 0),
            Operation::Sync { file } => {
                let file = files.get_mut(file).unwrap();
                file.durable = file.current.clone();
            }
            Operation::Rename { .. } | Operation::Remove { .. } => pending.push(operation),
            Operation::SyncNames => {
                pending.drain(..).for_each(|operation| apply_name(operation, &mut durable));
            }
        }
    }
    let count = match survives {
        Survives::Nothing => 0,
        Survives::Beginning => rng.random_range(0..=pending.len()),
        _ => pending.len(),
    };
    for operation in &pending[..count] {
        if survives != Survives::AnyNames || rng.random_range(0..2) == 0 {
            apply_name(operation, &mut durable);
        }
    }
    durable.into_iter().map(|(name, file)| (name, files[&file].surviving(survives, rng))).collect()
}

fn apply_name(operation: &Operation, names: &mut BTreeMap<String, usize>) {
    match operation {
        Operation::Create { name, file } => {
            names.insert(name.clone(), *file);
        }
        Operation::Rename { from, to, file } => {
            // It is the file that gets another name, whatever became of the old one.
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Operation::Remove { name } => {
            names.remove(name);
        }
        _ => {}
    }
}

fn options() -> Options {
    Options { gateway: "gateway".into(), seal_interval: Duration::from_secs(600), ..Options::default() }
}

/// What was done to a disk.
struct History {
    operations: Vec<Operation>,
    /// All records after each batch.
    truths: Vec<Vec<Record>>,
    /// By operation: how many batches had begun to be appended, and how many were synced.
    batches: Vec<(usize, usize, usize)>,
}

fn history(seed: u64, batches: usize) -> History {
    let disk = Memory::recording();
    let mut traffic = Traffic::new(seed);
    traffic.pace = 4_000;
    let mut model = Model::new(START);
    let everything = Question::about(i64::MIN, i64::MAX);
    let mut store = open(disk.shared(), options(), START).unwrap();
    let mut history = History { operations: Vec::new(), truths: vec![Vec::new()], batches: Vec::new() };
    let mut synced = 0;
    for number in 1..=batches {
        let mut batch = Vec::new();
        for _ in 0..traffic.rng.random_range(1..4) {
            let entry = traffic.entry(&model);
            model.apply(&entry);
            batch.push(entry);
        }
        history.truths.push(without_ids(model.find(&everything)));
        history.batches.push((disk.count(), number, synced));
        store.writer.append(&batch, traffic.now).unwrap();
        if traffic.chance(3) {
            store.writer.sync().unwrap();
            synced = number;
            history.batches.push((disk.count(), number, synced));
        }
        if traffic.chance(12) || store.writer.is_seal_due(traffic.now) {
            store.writer.rotate(traffic.now).unwrap();
        }
        if traffic.chance(8) {
            store.keeper.run_due(traffic.now).unwrap();
        }
        if traffic.chance(20) {
            traffic.now += traffic.rng.random_range(0..2 * 3_600_000);
        }
        if traffic.chance(40) {
            // A process that is killed, here while the keeper works, loses nothing that was written.
            let mut left = traffic.rng.random_range(0..12);
            disk.set_fault(Some(Box::new(move |_, _| {
                left -= i32::from(left > 0);
                if left > 0 { Ok(()) } else { Err(0) }
            })));
            while let Ok(true) = store.keeper.run_due(traffic.now) {}
            drop(store);
            disk.set_fault(None);
            store = open(disk.shared(), options(), traffic.now).unwrap();
        }
    }
    while store.keeper.run_due(traffic.now).unwrap() {}
    history.operations = disk.operations();
    history
}

impl History {
    /// After so many operations: the batches that can be there, and those that must be.
    fn bounds(&self, count: usize) -> (usize, usize) {
        let known = self.batches.iter().take_while(|(operations, ..)| *operations <= count);
        known.last().map_or((0, 0), |(_, begun, synced)| (*begun, *synced))
    }

    fn assert_survives(&self, count: usize, survives: Survives, rng: &mut TestRng) {
        let what = format!("{count} of {} operations, {survives:?}", self.operations.len());
        let disk = Memory::of_files(lose_power(&self.operations[..count], survives, rng)).shared();
        let now = START + 30 * 86_400_000;
        let mut store =
            open(Arc::clone(&disk), options(), now).unwrap_or_else(|error| panic!("{what}: {error}"));
        let (begun, synced) = self.bounds(count);
        let found = without_ids(all(&store.reader));
        let is_truth = self.truths[synced..=begun].contains(&found);
        let (_, completeness) = find(&store.reader, &Question::about(i64::MIN, i64::MAX));
        let is_damaged = completeness.gaps.iter().any(|gap| gap.reason == Reason::Damaged);
        if !is_truth {
            // Sectors of the last write can be missing before others that are there: that is a gap, before which
            // nothing is missing.
            assert!(survives == Survives::AnySectors && is_damaged, "{what}: batches {synced} to {begun}");
            for record in self.truths[synced].iter().filter(|record| record.closed.is_some()) {
                assert!(found.contains(record), "{what}: {record:?}");
            }
        }
        assert!(!is_damaged || survives == Survives::AnySectors, "{what}: {completeness:?}");
        while store.keeper.run_due(now).unwrap() {}
        assert_records(&without_ids(all(&store.reader)), &found, &what);
        if rng.random_range(0..8) == 0 {
            store.writer.rotate(now).unwrap();
            while store.keeper.run_due(now).unwrap() {}
            drop(store);
            let store = open(Arc::clone(&disk), options(), now).unwrap();
            assert_records(&without_ids(all(&store.reader)), &found, &format!("{what}, once more"));
            assert_eq!(check(&disk).unwrap().problems, [], "{what}");
        }
    }
}

#[test]
fn nothing_that_was_synced_is_lost_and_nothing_is_invented() {
    let (seeds, batches, points) = if is_long() { (4, 300, 5_000) } else { (1, 120, 300) };
    let try_all = |seed| {
        let history = history(seed, batches);
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let all = (history.operations.len() + 1) * ALL.len();
        let tried = (0..all).step_by(all.div_ceil(points.min(all)));
        tried
            .clone()
            .for_each(|point| history.assert_survives(point / ALL.len(), ALL[point % ALL.len()], &mut rng));
        tried.count()
    };
    let tried: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..seeds).map(|seed| scope.spawn(move || try_all(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!("{tried} crash points");
    assert!(tried >= if is_long() { 10_000 } else { 200 });
}

#[test]
fn a_segment_that_is_removed_on_purpose_is_never_missing() {
    let options = Options { retention_bytes: Some(60_000), ..options() };
    let disk = Memory::recording();
    let mut traffic = Traffic::new(1);
    let mut model = Model::new(START);
    let mut store = open(disk.shared(), options.clone(), START).unwrap();
    for _ in 0..40 {
        for _ in 0..5 {
            let entry = traffic.entry(&model);
            model.apply(&entry);
            store.writer.append(&[entry], traffic.now).unwrap();
        }
        store.writer.sync().unwrap();
        store.writer.rotate(traffic.now).unwrap();
        traffic.now += 900_000;
        while store.keeper.run_due(traffic.now).unwrap() {}
    }
    let operations = disk.operations();
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[8; 32]);
    let removals = operations.iter().enumerate().filter(
        |(_, operation)| matches!(operation, Operation::Remove { name } if name.ends_with(".parquet")),
    );
    let points: Vec<usize> = removals.map(|(place, _)| place).collect();
    assert!(points.len() > 30, "{}", points.len());
    let step = if is_long() { 1 } else { 7 };
    for place in points.into_iter().flat_map(|place| place.saturating_sub(6)..place + 6).step_by(step) {
        for survives in ALL {
            let place = place.min(operations.len());
            let disk = Memory::of_files(lose_power(&operations[..place], survives, &mut rng)).shared();
            let mut store = open(Arc::clone(&disk), options.clone(), traffic.now).unwrap();
            for _ in 0..3 {
                store.writer.sync().unwrap();
                store.writer.rotate(traffic.now).unwrap();
                while store.keeper.run_due(traffic.now).unwrap() {}
            }
            assert_eq!(check(&disk).unwrap().problems, [], "{place} {survives:?}");
        }
    }
}
