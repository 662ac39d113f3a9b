//! Several segments as one.

use crate::error::Error;
use crate::gap::Gap;
use crate::removal::Removal;
use crate::row::Row;
use crate::segment::open::Segment;
use crate::segment::rows::Rows;

/// The rows of segments that follow each other, in their order. A mapping that was open at the end of one is in
/// the next one too: the row of the last one is used, which knows most. After an error there are no more.
pub(crate) fn merge(inputs: &[Segment]) -> impl Iterator<Item = Result<Row, Error>> {
    Merge {
        inputs: inputs.iter().map(Segment::rows).collect(),
        heads: Vec::new(),
        heap: Vec::new(),
        started: false,
        failed: false,
    }
}

/// The gaps of segments that follow each other. A gap that had no end yet is replaced by the one with its end.
pub(crate) fn merge_gaps<'a>(gaps: impl IntoIterator<Item = &'a Gap>) -> Vec<Gap> {
    let mut merged: Vec<Gap> = Vec::new();
    for gap in gaps {
        let same = merged.iter_mut().find(|other| other.reason == gap.reason && other.from == gap.from);
        match same {
            // The later one knows more, unless it forgot the end.
            Some(other) if gap.to.is_some() || other.to.is_none() => *other = gap.clone(),
            Some(_) => {}
            None => merged.push(gap.clone()),
        }
    }
    merged.sort();
    merged
}

/// The removals of segments that follow each other, each once.
pub(crate) fn merge_removals<'a>(removals: impl IntoIterator<Item = &'a Removal>) -> Vec<Removal> {
    let mut merged: Vec<Removal> = Vec::new();
    for removal in removals {
        if !merged.contains(removal) {
            merged.push(removal.clone());
        }
    }
    merged.sort_by_key(|removal| (removal.first, removal.last, removal.at));
    merged
}

/// Merges with a heap of the inputs. The rows themselves are large, and stay where they are.
struct Merge<'a> {
    inputs: Vec<Rows<'a>>,
    /// The next row of each input.
    heads: Vec<Option<Row>>,
    /// The inputs that have a next row. Each precedes those at twice its place and one or two more.
    heap: Vec<usize>,
    started: bool,
    failed: bool,
}

impl Merge<'_> {
    /// Whether the next row of an input precedes that of another one. Of equal rows the last input is the last.
    fn precedes(&self, input: usize, other: usize) -> bool {
        match (&self.heads[input], &self.heads[other]) {
            (Some(row), Some(other_row)) => row.order(other_row).then(input.cmp(&other)).is_lt(),
            _ => false,
        }
    }

    /// Moves the input at this place down, behind those that precede it.
    fn sift(&mut self, mut place: usize) {
        loop {
            let mut first = place;
            for below in [2 * place + 1, 2 * place + 2] {
                if below < self.heap.len() && self.precedes(self.heap[below], self.heap[first]) {
                    first = below;
                }
            }
            if first == place {
                return;
            }
            self.heap.swap(place, first);
            place = first;
        }
    }

    fn start(&mut self) -> Result<(), Error> {
        self.started = true;
        for (input, rows) in self.inputs.iter_mut().enumerate() {
            let head = rows.next().transpose()?;
            if head.is_some() {
                self.heap.push(input);
            }
            self.heads.push(head);
        }
        (0..self.heap.len()).rev().for_each(|place| self.sift(place));
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Row>, Error> {
        if !self.started {
            self.start()?;
        }
        loop {
            let Some(input) = self.heap.first().copied() else { return Ok(None) };
            let row = std::mem::replace(&mut self.heads[input], self.inputs[input].next().transpose()?);
            if self.heads[input].is_none() {
                self.heap.swap_remove(0);
            }
            self.sift(0);
            let next = self.heap.first().and_then(|input| self.heads[*input].as_ref());
            match (&row, next) {
                // The same lifetime: the later input knows more.
                (Some(row), Some(next)) if row.order(next).is_eq() => {}
                _ => return Ok(row),
            }
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.advance();
        self.failed = row.is_err();
        row.transpose()
    }
}
