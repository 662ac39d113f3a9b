//! Several segments as one.

use std::cmp::Ordering;

use parquet::errors::ParquetError;

use crate::error::Error;
use crate::gap::{Gap, Reason};
use crate::removal::Removal;
use crate::segment::blocks::external;
use crate::segment::collect::Columns;
use crate::segment::decode::{Decoder, Key};
use crate::segment::info::Info;
use crate::segment::open::Segment;
use crate::segment::rows::Rows;
use crate::segment::supply::{Added, Supply};
use crate::time::Millis;

/// After so many rows, something else gets its turn.
const PIECE: u64 = 1 << 16;
/// Mappings that opened so shortly after the span's begin, in milliseconds, keep their ids: clocks are read at different
/// moments.
const MARGIN: Millis = 1_000;

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

/// The rows of segments that follow each other, in their order. A mapping that was open at the end of one is in
/// the next one too: the row of the last one is used, which knows most.
pub(crate) struct Merge<'a, F> {
    inputs: Vec<Input<'a>>,
    /// The inputs that have a next row. Each precedes those at twice its place and one or two more.
    heap: Vec<usize>,
    is_started: bool,
    /// Called every now and then: merging a day can take minutes.
    between: F,
    count: u64,
    /// Mappings that opened later lose their ids, if they have closed.
    forgets_after: Option<Millis>,
    last: Option<Key>,
    /// The id of the last row, and whether it may be forgotten.
    id: Option<(Option<i32>, bool)>,
}

struct Input<'a> {
    rows: Rows<'a>,
    /// That of the next row.
    key: Option<Key>,
}

impl Input<'_> {
    /// Looks at the next row.
    #[inline]
    fn look(&mut self) -> Result<(), ParquetError> {
        let key = self.rows.ready().and_then(|decoder| decoder.map(|decoder| decoder.key()).transpose());
        self.key = key.map_err(|error| external(self.rows.error(error)))?;
        Ok(())
    }
}

impl<'a, F: FnMut() -> Result<(), Error>> Merge<'a, F> {
    pub(crate) fn new(inputs: &'a [Segment], between: F) -> Self {
        let inputs = inputs.iter().map(|input| Input { rows: input.whole_rows(), key: None }).collect();
        Self {
            inputs,
            heap: Vec::new(),
            is_started: false,
            between,
            count: 0,
            forgets_after: None,
            last: None,
            id: None,
        }
    }

    /// The same without the ids of the mappings that both opened and closed in the span that this describes: no other
    /// segment has these. By the others, a mapping is known again in the segments before and after. Rows with the same
    /// public end and begin keep their ids, too, so that all stay in order. `before` is the end of the segment before
    /// all inputs.
    pub(crate) fn without_ids(mut self, info: &Info, before: Option<Millis>) -> Self {
        // With a clock that was set, it cannot be told what was open at the begin.
        let is_steady = info.gaps.iter().all(|gap| gap.reason != Reason::ClockStepped);
        let begins = info.begins.filter(|_| is_steady);
        self.forgets_after = begins.map(|begins| begins.max(before.unwrap_or(begins)).saturating_add(MARGIN));
        self
    }

    /// The order of the next rows of two inputs.
    fn order(&mut self, input: usize, other: usize) -> Result<Ordering, ParquetError> {
        let (Some(key), Some(other_key)) = (&self.inputs[input].key, &self.inputs[other].key) else {
            return Ok(Ordering::Equal);
        };
        let order = key.order(other_key);
        if order.is_ne() {
            return Ok(order);
        }
        let mut row = |input: usize| {
            let rows = &mut self.inputs[input].rows;
            let row = rows.ready().and_then(|decoder| decoder.map(|decoder| decoder.peek()).transpose());
            row.map_err(|error| external(rows.error(error)))
        };
        Ok(match (row(input)?, row(other)?) {
            (Some(row), Some(other)) => row.order(&other),
            _ => Ordering::Equal,
        })
    }

    /// Moves the input at this place down, behind those that precede it. Of equal rows the last input is the last.
    fn sift(&mut self, mut place: usize) -> Result<(), ParquetError> {
        loop {
            let mut first = place;
            for below in [2 * place + 1, 2 * place + 2] {
                if below < self.heap.len() {
                    let (input, other) = (self.heap[below], self.heap[first]);
                    if self.order(input, other)?.then(input.cmp(&other)).is_lt() {
                        first = below;
                    }
                }
            }
            if first == place {
                return Ok(());
            }
            self.heap.swap(place, first);
            place = first;
        }
    }

    fn start(&mut self) -> Result<(), ParquetError> {
        self.is_started = true;
        for (place, input) in self.inputs.iter_mut().enumerate() {
            input.look()?;
            if input.key.is_some() {
                self.heap.push(place);
            }
        }
        (0..self.heap.len()).rev().try_for_each(|place| self.sift(place))
    }

    /// After the row of the first input was taken.
    fn advance(&mut self) -> Result<(), ParquetError> {
        let Some(&input) = self.heap.first() else { return Ok(()) };
        self.inputs[input].look()?;
        if self.inputs[input].key.is_none() {
            self.heap.swap_remove(0);
        }
        self.sift(0)
    }

    /// Whether the row after the first one is another version of the same lifetime, which knows more.
    fn has_later_version(&mut self, input: usize) -> Result<bool, ParquetError> {
        for below in [1, 2] {
            let Some(&other) = self.heap.get(below) else { break };
            if self.inputs[input].key == self.inputs[other].key && self.order(input, other)?.is_eq() {
                // One that has closed and has no id is in one input only.
                let rows = &mut self.inputs[input].rows;
                let is_known =
                    |decoder: &mut Decoder| decoder.id.peek().is_some() || decoder.duration.peek().is_none();
                let known = rows.ready().map(|decoder| decoder.is_some_and(is_known));
                return known.map_err(|error| external(rows.error(error)));
            }
        }
        Ok(false)
    }

    /// Adds the id of the row that was added last. The key is that of the row after it.
    fn add_id(&mut self, next: Option<Key>, columns: &mut Columns) {
        if let Some((id, may_forget)) = self.id.take() {
            columns.id.push(id.filter(|_| !may_forget || next == self.last));
        }
    }
}

impl<F: FnMut() -> Result<(), Error>> Supply for Merge<'_, F> {
    fn add_next(&mut self, columns: &mut Columns) -> Result<Option<Added>, ParquetError> {
        if self.count % PIECE == 0 {
            (self.between)().map_err(external)?;
        }
        self.count += 1;
        if !self.is_started {
            self.start()?;
        }
        loop {
            let Some(&input) = self.heap.first() else { return Ok(None) };
            let Some(key) = self.inputs[input].key else { return Ok(None) };
            if self.has_later_version(input)? {
                let rows = &mut self.inputs[input].rows;
                rows.skip().map_err(|error| external(rows.error(error)))?;
                self.advance()?;
                continue;
            }
            self.add_id(Some(key), columns);
            let rows = &mut self.inputs[input].rows;
            let copied = rows.copy(columns).map_err(|error| external(rows.error(error)))?;
            let is_own = self.forgets_after.is_some_and(|after| copied.earliest > after);
            let is_alone = self.last.replace(key) != Some(key);
            self.id = Some((copied.id, is_own && is_alone && !copied.is_open));
            self.advance()?;
            return Ok(Some(Added { public_ip: key.ip, is_open: copied.is_open }));
        }
    }

    fn end_group(&mut self, columns: &mut Columns) {
        let next = self.heap.first().and_then(|input| self.inputs[*input].key);
        self.add_id(next, columns);
    }
}
