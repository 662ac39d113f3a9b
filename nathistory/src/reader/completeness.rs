//! What is known about the completeness of an answer.

use std::sync::Arc;

use crate::catalog::SegmentFile;
use crate::gap::{Gap, Reason};
use crate::question::Question;
use crate::segment::merge_gaps;
use crate::time::Millis;

/// What is known about the completeness of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// The gaps that touch the time asked about, the oldest first. If there are none, the answer is complete.
    pub gaps: Vec<Gap>,
}

impl Completeness {
    /// Of these gaps, in the order of the segments that have them, those that touch the question.
    pub(super) fn new(gaps: &[Gap], question: &Question) -> Self {
        let mut gaps = merge_gaps(gaps);
        gaps.retain(|gap| gap.touches(question.from, question.to));
        Self { gaps }
    }
}

/// The time of a segment that cannot be read.
pub(super) fn damaged(file: &SegmentFile, what: String) -> Gap {
    Gap { from: file.name.from, to: Some(file.name.to), reason: Reason::Damaged, detail: Some(what) }
}

/// The times of segments that are missing between others.
pub(super) fn missing(segments: &[Arc<SegmentFile>]) -> impl Iterator<Item = Gap> {
    segments.windows(2).filter_map(|pair| {
        let (before, after) = (&pair[0].name, &pair[1].name);
        let (first, last) = (before.last + 1, after.first.saturating_sub(1));
        (first <= last).then(|| Gap {
            from: before.to.min(after.from),
            to: Some(after.from.max(before.to)),
            reason: Reason::Damaged,
            detail: Some(format!("segments {first} to {last} are missing, after {}", pair[0].file)),
        })
    })
}

/// The time before everything is known: before the first segment, or before what is in memory if there is none.
pub(super) fn before(first: Option<&SegmentFile>, begin: Millis, question: &Question) -> Option<Gap> {
    let reason = match first {
        Some(first) if first.name.first > 1 => Reason::Removed,
        _ => Reason::BeforeHistory,
    };
    // It has no begin. 1970 can be written in all formats.
    let gap = Gap { from: question.from.min(0).min(begin), to: Some(begin), reason, detail: None };
    (question.from < begin).then_some(gap)
}
