//! Random entries, seals, merges and restarts: each question is answered as the model does.

use std::sync::Arc;
use std::time::Duration;

use nathistory::disk::{Directory, Disk};
use nathistory::{Options, Question, Reader, Store, check, open};
use rand::Rng;

use crate::model::Model;
use crate::traffic::Traffic;
use crate::{START, assert_records, find, is_long, without_ids};

fn options() -> Options {
    Options { gateway: "gateway".into(), seal_interval: Duration::from_secs(600), ..Options::default() }
}

fn assert_answers(traffic: &mut Traffic, model: &Model, reader: &Reader, questions: usize, seed: u64) {
    for _ in 0..questions {
        let question = traffic.question(model);
        assert_answer(model, reader, &question, seed);
    }
    assert_answer(model, reader, &Question::about(i64::MIN, i64::MAX), seed);
}

fn assert_answer(model: &Model, reader: &Reader, question: &Question, seed: u64) {
    let (records, completeness) = find(reader, question);
    let expected = model.find(question);
    let what = format!("seed {seed}, {question:?}");
    if let Some(other) = records.iter().find(|record| record.id.is_some() && !expected.contains(record)) {
        let near: Vec<_> = expected.iter().filter(|record| record.opened.at == other.opened.at).collect();
        panic!("{what}: {other:#?} has another id than {near:#?}");
    }
    let (found, expected) = (without_ids(records), without_ids(expected));
    if question.from >= START || question.to == i64::MAX {
        assert_records(&found, &expected, &what);
    } else {
        // Of mappings that were open before the history began, and that closed before it or in its first moments,
        // it is not known in general.
        let since = Question { from: START, ..*question };
        let known = expected.iter().filter(|record| since.to >= since.from && since.fits(record));
        let known: Vec<_> = known.filter(|record| record.earliest() >= START).copied().collect();
        let found_known: Vec<_> = found.iter().filter(|record| known.contains(record)).copied().collect();
        assert_records(&found_known, &known, &what);
        assert!(found.iter().all(|record| expected.contains(record)), "{what}");
    }
    assert_eq!(completeness.gaps, model.gaps(question), "seed {seed}, {question:?}");
}

fn run(seed: u64, steps: usize) {
    let directory = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory.path()).unwrap());
    let mut traffic = Traffic::new(seed);
    let mut model = Model::new(START);
    let mut store = open(Arc::clone(&disk), options(), START).unwrap();
    assert_eq!(store.last_alive, None);
    traffic.pace = [50, 2_000, 20_000][traffic.rng.random_range(0..3)];
    for _ in 0..steps {
        match traffic.rng.random_range(0..200) {
            0..170 => {
                let mut batch = Vec::new();
                for _ in 0..traffic.rng.random_range(1..6) {
                    let entry = traffic.entry(&model);
                    model.apply(&entry);
                    batch.push(entry);
                }
                store.writer.append(&batch, traffic.now).unwrap();
            }
            170..175 => {
                if traffic.chance(3) || store.writer.is_seal_due(traffic.now) {
                    store.writer.rotate(traffic.now).unwrap();
                }
            }
            175..185 => {
                store.keeper.run_due(traffic.now).unwrap();
            }
            185 => traffic.now += traffic.rng.random_range(0..3 * 3_600_000),
            186 => {
                // The clock is set back.
                let back = traffic.rng.random_range(0..3_600_000);
                traffic.now = (traffic.now - back).max(START + 60_000);
            }
            187 => {
                drop(store);
                traffic.now += traffic.rng.random_range(1..100_000);
                store = open(Arc::clone(&disk), options(), traffic.now).unwrap();
                assert_answers(&mut traffic, &model, &store.reader, 5, seed);
                if traffic.chance(2) {
                    let since = store.last_alive.unwrap_or(START);
                    let entries = traffic.start(&model, since);
                    entries.iter().for_each(|entry| model.apply(entry));
                    store.writer.append(&entries, traffic.now).unwrap();
                }
            }
            _ => assert_answers(&mut traffic, &model, &store.reader, 3, seed),
        }
    }
    let Store { writer, mut keeper, reader, .. } = store;
    assert_answers(&mut traffic, &model, &reader, 100, seed);
    while keeper.run_due(traffic.now).unwrap() {}
    assert_answers(&mut traffic, &model, &reader, 200, seed);
    assert_eq!(check(&disk).unwrap().problems, []);
    // Another process reads the same from the files.
    let of_files = Reader::of_files(Arc::clone(&disk)).unwrap();
    for _ in 0..20 {
        let question = traffic.question(&model);
        let (records, _) = find(&of_files, &question);
        let expected = without_ids(model.find(&question));
        assert_records(&without_ids(records), &expected, &format!("seed {seed}, files, {question:?}"));
    }
    drop(writer);
}

#[test]
fn each_question_is_answered_as_the_model_does() {
    let (first, count, steps) = if is_long() { (1_000, 60, 2_500) } else { (0, 6, 1_000) };
    for seed in first..first + count {
        run(seed, steps);
    }
}
