//! The rows of a segment, in their order.

use std::iter;
use std::ops::Range;

use parquet::errors::ParquetError;

use crate::error::Error;
use crate::row::Row;
use crate::segment::blocks::contained;
use crate::segment::columns::Column;
use crate::segment::decode::{Cursor, Decoder, Group};
use crate::segment::open::Segment;

/// The rows that are decoded at once: few, because many segments are read at the same time to merge them.
const BATCH: usize = 1 << 10;

/// The rows of a segment. After an error there are no more.
pub(crate) struct Rows<'a> {
    segment: &'a Segment,
    open_only: bool,
    next_group: usize,
    group: Option<InGroup>,
    /// The rows that were decoded and not yet taken.
    decoded: usize,
    failed: bool,
}

/// A place in a row group.
struct InGroup {
    decoder: Decoder,
    duration: Option<Cursor<parquet::data_type::Int64Type>>,
    at: usize,
    rows: usize,
}

impl Segment {
    /// All rows, in their order.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::new(self, false)
    }

    /// The rows of the mappings that were open at the end, in their order.
    pub(crate) fn open_rows(&self) -> Rows<'_> {
        Rows::new(self, true)
    }

    /// Verifies all bytes and all rows.
    ///
    /// # Errors
    /// Those of the disk; `Damaged` with what is wrong.
    pub(crate) fn verify(&self) -> Result<(), Error> {
        for index in 0..self.blocks.count() {
            self.blocks.verify(index).map_err(|error| self.error(error))?;
        }
        let (mut rows, mut open_rows) = (0, 0);
        let mut last: Option<Row> = None;
        for row in self.rows() {
            let row = row?;
            if last.is_some_and(|last| last.order(&row).is_gt()) {
                return Err(Error::damaged(self.name(), format!("row {rows} is not in order")));
            }
            let is_listed = |address| self.info().nat_ips.as_ref().is_none_or(|all| all.contains(address));
            let is_new = last.is_none_or(|last| last.public.ip != row.public.ip);
            if is_new && !is_listed(&row.public.ip) {
                let what = format!("{} is not among its public addresses", row.public.ip);
                return Err(Error::damaged(self.name(), what));
            }
            rows += 1;
            open_rows += u64::from(row.record.closed.is_none());
            last = Some(row);
        }
        if (rows, open_rows) != (self.info().rows, self.info().open_rows) {
            let what = format!(
                "it has {rows} rows, {open_rows} of them open, not {} and {}",
                self.info().rows,
                self.info().open_rows
            );
            return Err(Error::damaged(self.name(), what));
        }
        Ok(())
    }
}

impl<'a> Rows<'a> {
    pub(super) fn new(segment: &'a Segment, open_only: bool) -> Self {
        Self { segment, open_only, next_group: 0, group: None, decoded: 0, failed: false }
    }

    /// Decodes the next row, if there is one.
    fn advance(&mut self) -> Result<Option<Row>, ParquetError> {
        loop {
            if let Some(group) = &mut self.group {
                if self.decoded > 0 {
                    self.decoded -= 1;
                    return group.decoder.next().map(Some);
                }
                if group.at < group.rows {
                    self.decoded = contained(|| group.read())?;
                    continue;
                }
            }
            if self.next_group == self.segment.groups() {
                return Ok(None);
            }
            let open = || InGroup::new(&self.segment.group(self.next_group)?, self.open_only);
            self.group = Some(contained(open)?);
            self.next_group += 1;
        }
    }
}

impl InGroup {
    fn new(group: &Group<'_>, open_only: bool) -> Result<Self, ParquetError> {
        let duration = if open_only { Some(group.cursor(Column::Duration)?) } else { None };
        Ok(Self { decoder: Decoder::new(group)?, duration, at: 0, rows: group.rows() })
    }

    /// Decodes the next rows, and returns their number.
    fn read(&mut self) -> Result<usize, ParquetError> {
        let rows = self.at..self.rows.min(self.at + BATCH);
        self.at = rows.end;
        let mut ranges = only(rows);
        if let Some(duration) = &mut self.duration {
            narrow(duration, &mut ranges, |duration| duration.is_none())?;
        }
        self.decoder.read(&ranges)?;
        Ok(ranges.iter().map(Range::len).sum())
    }
}

/// One range of rows.
pub(super) fn only(rows: Range<usize>) -> Vec<Range<usize>> {
    iter::once(rows).collect()
}

/// Keeps of these rows those whose value in a column fits.
pub(super) fn narrow<T: parquet::data_type::DataType>(
    cursor: &mut Cursor<T>,
    ranges: &mut Vec<Range<usize>>,
    mut fits: impl FnMut(Option<&T::T>) -> bool,
) -> Result<(), ParquetError> {
    if let Some(value) = cursor.same() {
        if !fits(value) {
            ranges.clear();
        }
        return Ok(());
    }
    cursor.read(ranges)?;
    let mut kept: Vec<Range<usize>> = Vec::new();
    for row in ranges.iter().cloned().flatten() {
        if fits(cursor.next()) {
            match kept.last_mut() {
                Some(last) if last.end == row => last.end += 1,
                _ => kept.push(row..row + 1),
            }
        }
    }
    *ranges = kept;
    Ok(())
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.advance().map_err(|error| self.segment.error(error));
        self.failed = row.is_err();
        row.transpose()
    }
}
