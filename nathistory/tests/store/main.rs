//! The history from outside: against a model, without power, on disks that fail, with damaged files.
//!
//! `PYNATCONND_LONG=1` runs the long forms.

#![allow(unreachable_pub, reason = "in a test program, pub is for its other modules")]

mod damage;
mod disks;
mod failing;
mod killed;
mod model;
mod power;
mod retention;
mod rules;
mod together;
mod traffic;
mod truth;

use std::ops::ControlFlow;

use nathistory::{Completeness, Gap, Millis, Question, Reader, Record};

/// 2026-11-27T10:40:00Z.
pub const START: Millis = 1_795_776_000_000 + 40 * 60_000;

/// Whether the long forms run.
pub fn is_long() -> bool {
    std::env::var_os("PYNATCONND_LONG").is_some_and(|value| value == "1")
}

/// What a reader answers. Each begin or end of a match that is not known exactly must lie in a gap; the gaps that
/// are only about these are left out.
pub fn find(reader: &Reader, question: &Question) -> (Vec<Record>, Completeness) {
    let mut records = Vec::new();
    let completeness = reader.find(question, &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
    let mut completeness = completeness.unwrap();
    let opened = records.iter().map(|record| (record.opened, record.opened.at > question.from));
    let closed = records.iter().filter_map(|record| record.closed);
    let closed = closed.map(|closed| (closed, closed.at >= question.from));
    for (moment, is_asked) in opened.chain(closed) {
        let Some(since) = moment.since else { continue };
        let has = |gap: &Gap| gap.from <= since && gap.to.is_none_or(|to| to >= moment.at);
        let is_asked = is_asked && since <= question.to;
        assert!(!is_asked || completeness.gaps.iter().any(has), "{moment:?} {completeness:?}");
    }
    let is_about_matches = |detail: &String| detail.starts_with("a mapping opened or closed");
    completeness.gaps.retain(|gap| !gap.detail.as_ref().is_some_and(is_about_matches));
    (records, completeness)
}

/// In an order that does not depend on where they were found.
pub fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_cached_key(|record| (record.opened.at, format!("{record:?}")));
    records
}

/// The same without ids, which the segments of days do not keep.
pub fn without_ids(mut records: Vec<Record>) -> Vec<Record> {
    records.iter_mut().for_each(|record| record.id = None);
    sorted(records)
}

/// All records of all times.
pub fn all(reader: &Reader) -> Vec<Record> {
    sorted(find(reader, &Question::about(i64::MIN, i64::MAX)).0)
}

/// Fails with what differs, and no more.
pub fn assert_records(found: &[Record], expected: &[Record], what: &str) {
    if found != expected {
        let extra: Vec<_> = found.iter().filter(|record| !expected.contains(record)).take(5).collect();
        let missing: Vec<_> = expected.iter().filter(|record| !found.contains(record)).take(5).collect();
        let counts = (found.len(), expected.len());
        panic!("{what}: {counts:?} records; extra: {extra:#?}; missing: {missing:#?}");
    }
}
