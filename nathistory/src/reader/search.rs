//! Walks the segments.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::catalog::SegmentFile;
use crate::disk::Disk;
use crate::error::Error;
use crate::gap::{Gap, Reason};
use crate::question::Question;
use crate::reader::completeness::{Completeness, before, damaged, missing};
use crate::reader::ends::find_ends;
use crate::reader::snapshot::Snapshot;
use crate::record::Record;
use crate::segment::Segment;
use crate::state::Shared;
use crate::time::Millis;

/// Mappings that wait until the ends of those among them that are open are found.
const WAITING: usize = 1 << 16;
/// One search.
pub(super) struct Search<'a> {
    pub(super) shared: &'a Shared,
    pub(super) disk: &'a dyn Disk,
    pub(super) question: &'a Question,
    pub(super) on: &'a mut dyn FnMut(Record) -> ControlFlow<()>,
    gaps: Vec<Gap>,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        disk: &'a dyn Disk,
        question: &'a Question,
        on: &'a mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Self {
        Self { shared, disk, question, on, gaps: Vec::new() }
    }

    /// Searches what this snapshot has.
    pub(super) fn run(
        mut self,
        snapshot: Snapshot,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Completeness, Error> {
        let Snapshot { catalog, records, gaps, from, ends_at } = snapshot;
        let segments = catalog.segments();
        self.gaps.extend(missing(segments));
        let first = catalog.first().map(|first| &**first);
        self.gaps.extend(before(first, self.begin(first, from), self.question));
        let (mut flow, mut first) = (ControlFlow::Continue(()), None);
        for (place, file) in segments.iter().enumerate() {
            if !file.touches(self.question.from, self.question.to) {
                continue;
            }
            if flow.is_continue() {
                flow = match is_wanted() {
                    true => self.search(segments, place)?,
                    false => ControlFlow::Break(()),
                };
            }
            first = first.or(Some(place));
        }
        if let Some(first) = first {
            self.find_ends_of_gaps(&segments[first + 1..], &gaps)?;
        }
        self.gaps.extend(gaps);
        // Nobody knows what happened after the end of the files.
        self.gaps.extend(ends_at.map(|from| Gap {
            from,
            to: None,
            reason: Reason::NotRunning,
            detail: Some("the files end here".to_owned()),
        }));
        for record in records {
            if flow.is_break() {
                break;
            }
            flow = (self.on)(record);
        }
        Ok(Completeness::new(&self.gaps, self.question))
    }

    /// From when on everything is known. A segment's span also has the begins of mappings that it learnt of late.
    fn begin(&self, first: Option<&SegmentFile>, memory: Millis) -> Millis {
        let Some(first) = first else { return memory };
        if self.question.from >= first.name.to {
            return first.name.from;
        }
        let opened = self.shared.open_segment(self.disk, first);
        opened.ok().and_then(|segment| segment.info().begins).unwrap_or(first.name.from)
    }

    fn search(&mut self, segments: &[Arc<SegmentFile>], place: usize) -> Result<ControlFlow<()>, Error> {
        let file = &segments[place];
        let mut is_open = false;
        let found = self.shared.open_segment(self.disk, file).and_then(|segment| {
            is_open = true;
            self.gaps.extend(segment.info().gaps.iter().cloned());
            self.search_open(&segment, segments, place)
        });
        match found {
            Err(error) if error.is_of_one_file() => {
                let mut gap = damaged(file, error.to_string());
                if is_open {
                    // The segment before has left to this one what was open at its end.
                    gap.from = gap.from.min(self.question.from);
                }
                self.gaps.push(gap);
                Ok(ControlFlow::Continue(()))
            }
            other => other,
        }
    }

    fn search_open(
        &mut self,
        segment: &Segment,
        segments: &[Arc<SegmentFile>],
        place: usize,
    ) -> Result<ControlFlow<()>, Error> {
        let later = &segments[place + 1..];
        // What is open at its end is passed from the next one if that is searched too, and from memory if there
        // is no next one.
        let is_carried = later.first().is_none_or(|next| {
            next.touches(self.question.from, self.question.to)
                && self.shared.open_segment(self.disk, next).is_ok()
        });
        let mut waiting = Vec::new();
        let (question, shared, disk) = (self.question, self.shared, self.disk);
        let on = &mut *self.on;
        let mut pass = |waiting: &mut Vec<Record>| -> Result<ControlFlow<()>, Error> {
            find_ends(shared, disk, later, question, waiting)?;
            for record in waiting.drain(..) {
                // With its end, it may not fit any more.
                if question.fits(&record) && on(record).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        let found = segment.find(question, &mut |row| {
            if is_carried && row.record.closed.is_none() {
                return Ok(ControlFlow::Continue(()));
            }
            waiting.push(row.record);
            // Closed ones need not wait, except for open ones before them: the order stays.
            if waiting.len() >= WAITING || (row.record.closed.is_some() && waiting.len() == 1) {
                return pass(&mut waiting);
            }
            Ok(ControlFlow::Continue(()))
        });
        // What was found before a damaged page is passed.
        let flow = match &found {
            Ok(ControlFlow::Break(())) => ControlFlow::Break(()),
            _ => pass(&mut waiting)?,
        };
        found.map(|_| flow)
    }

    /// A gap that lasts at the end of a segment that was searched ends in a later one, or in memory.
    fn find_ends_of_gaps(&mut self, later: &[Arc<SegmentFile>], memory: &[Gap]) -> Result<(), Error> {
        let mut found: Vec<Gap> = Vec::new();
        let is_version_of = |gap: &Gap, other: &Gap| (gap.from, gap.reason) == (other.from, other.reason);
        let ends = |gap: &Gap, among: &[Gap]| {
            among.iter().any(|other| is_version_of(gap, other) && other.to.is_some())
        };
        let others = later.iter().filter(|file| !file.touches(self.question.from, self.question.to));
        for file in others {
            let lasting = self.gaps.iter().filter(|gap| gap.to.is_none());
            let mut unknown = lasting.filter(|gap| {
                gap.touches(self.question.from, self.question.to)
                    && !ends(gap, &self.gaps)
                    && !ends(gap, &found)
                    && !memory.iter().any(|other| is_version_of(gap, other))
            });
            if unknown.next().is_none() {
                break;
            }
            match self.shared.open_segment(self.disk, file) {
                Ok(segment) => {
                    let known = segment.info().gaps.iter();
                    let known = known.filter(|gap| self.gaps.iter().any(|other| is_version_of(gap, other)));
                    found.extend(known.cloned());
                }
                Err(error) if error.is_of_one_file() => {}
                Err(error) => return Err(error),
            }
        }
        self.gaps.extend(found);
        Ok(())
    }
}
