//! Readers, the writer and the keeper at the same time: each answer is what was known at one moment.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use nathistory::{Entry, Moment, Options, Question, Record, open};

use crate::disks::Memory;
use crate::killed::{LIFE, at, record, verified};
use crate::{START, all, find};

const COUNT: u32 = 10_000;
/// A question is asked at least after so many mappings.
const PACE: u32 = 100;

#[test]
fn each_answer_is_what_was_known_at_one_moment() {
    let disk = Memory::default();
    let options = Options { seal_records: 1_000, ..Options::default() };
    let store = open(disk.shared(), options, START).unwrap();
    let (is_over, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let (mut keeper, mut writer, reader) = (store.keeper, store.writer, store.reader.clone());
    thread::scope(|scope| {
        let keeping = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                if !keeper.run_due(at(COUNT)).unwrap() {
                    thread::yield_now();
                }
            }
        });
        let asking = scope.spawn(|| {
            let mut last = 0;
            while !is_over.load(Ordering::SeqCst) {
                let found = verified(&all(&reader));
                assert!(found >= last, "{found} after {last}");
                last = found;
                // One that closed long ago, and one that is open.
                for number in [found / 3 + 1, found].into_iter().filter(|_| found > 3 * LIFE) {
                    let end = record(number).nat;
                    let question = Question {
                        nat_ip: Some(end.ip),
                        nat_port: end.port,
                        ..Question::about(at(number), at(number))
                    };
                    let records = find(&reader, &question).0;
                    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [Some(number)]);
                }
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        for number in 1..=COUNT {
            let mut entries = vec![Entry::Opened(record(number))];
            if let Some(old) = number.checked_sub(LIFE).filter(|old| *old > 0) {
                entries
                    .push(Entry::Closed(Record { closed: Some(Moment::event(at(number))), ..record(old) }));
            }
            writer.append(&entries, at(number)).unwrap();
            if writer.is_seal_due(at(number)) {
                writer.rotate(at(number)).unwrap();
            }
            let is_failed = || keeping.is_finished() || asking.is_finished();
            if number % PACE == 0 {
                let before = asked.load(Ordering::SeqCst);
                while asked.load(Ordering::SeqCst) == before && !is_failed() {
                    thread::yield_now();
                }
            }
            if is_failed() {
                break;
            }
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert_eq!(verified(&all(&store.reader)), COUNT);
}
