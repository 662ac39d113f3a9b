//! The rows of a segment, in their order.

use std::iter;
use std::ops::Range;

use parquet::errors::ParquetError;

use crate::error::Error;
use crate::row::Row;
use crate::segment::blocks::contained;
use crate::segment::collect::Columns;
use crate::segment::columns::Column;
use crate::segment::copy::{Copied, Translations};
use crate::segment::decode::{Cursor, Decoder, Group, lacks};
use crate::segment::open::Segment;

/// The rows that are decoded at once: few, because many segments are read at the same time to merge them.
const BATCH: usize = 1 << 10;

/// The rows of a segment. After an error there are no more.
pub(crate) struct Rows<'a> {
    segment: &'a Segment,
    which: Which,
    next_group: usize,
    group: Option<InGroup>,
    /// The rows that were decoded and not yet taken.
    decoded: usize,
    failed: bool,
}

/// What is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those that were open at the end.
    Open,
    /// All, with all columns.
    Whole,
}

/// A place in a row group.
struct InGroup {
    decoder: Decoder,
    translations: Translations,
    duration: Option<Cursor<parquet::data_type::Int64Type>>,
    at: usize,
    rows: usize,
}

impl Segment {
    /// All rows, in their order.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::new(self, Which::All)
    }

    /// The rows of the mappings that were open at the end, in their order.
    pub(crate) fn open_rows(&self) -> Rows<'_> {
        Rows::new(self, Which::Open)
    }

    /// All rows, in their order, to be copied into other columns.
    pub(super) fn whole_rows(&self) -> Rows<'_> {
        Rows::new(self, Which::Whole)
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
    fn new(segment: &'a Segment, which: Which) -> Self {
        Self { segment, which, next_group: 0, group: None, decoded: 0, failed: false }
    }

    /// Decodes the next row, if there is one.
    fn advance(&mut self) -> Result<Option<Row>, ParquetError> {
        let Some(decoder) = self.ready()? else { return Ok(None) };
        let row = decoder.next()?;
        self.decoded -= 1;
        Ok(Some(row))
    }

    /// A decoder whose next row is the next one, if there is one.
    #[inline]
    pub(super) fn ready(&mut self) -> Result<Option<&mut Decoder>, ParquetError> {
        if self.decoded == 0 && !self.decode()? {
            return Ok(None);
        }
        Ok(self.group.as_mut().map(|group| &mut group.decoder))
    }

    /// Decodes some rows, unless there are no more.
    fn decode(&mut self) -> Result<bool, ParquetError> {
        while self.decoded == 0 {
            match &mut self.group {
                Some(group) if group.at < group.rows => self.decoded = contained(|| group.read())?,
                _ if self.next_group == self.segment.groups() => return Ok(false),
                _ => {
                    let open = || InGroup::new(&self.segment.group(self.next_group)?, self.which);
                    self.group = Some(contained(open)?);
                    self.next_group += 1;
                }
            }
        }
        Ok(true)
    }

    /// Copies the next row, which [`ready`](Self::ready) has found, into columns. Returns what it leaves out.
    #[inline]
    pub(super) fn copy(&mut self, columns: &mut Columns) -> Result<Copied, ParquetError> {
        let Some(group) = self.group.as_mut() else { return Err(lacks("row group")) };
        self.decoded = self.decoded.saturating_sub(1);
        columns.copy(&mut group.decoder, &mut group.translations)
    }

    /// Passes the next row.
    pub(super) fn skip(&mut self) -> Result<(), ParquetError> {
        if let Some(decoder) = self.ready()? {
            decoder.skip();
            self.decoded -= 1;
        }
        Ok(())
    }

    /// An error as one of this file: if the disk cannot read it, it is damaged.
    pub(super) fn error(&self, error: ParquetError) -> Error {
        match self.segment.error(error) {
            Error::Io { doing, source } => Error::damaged(self.segment.name(), format!("{doing}: {source}")),
            other => other,
        }
    }
}

impl InGroup {
    fn new(group: &Group<'_>, which: Which) -> Result<Self, ParquetError> {
        let duration = if which == Which::Open { Some(group.cursor(Column::Duration)?) } else { None };
        let decoder = if which == Which::Whole { Decoder::whole(group) } else { Decoder::new(group) };
        let translations = Translations::default();
        Ok(Self { decoder: decoder?, translations, duration, at: 0, rows: group.rows() })
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
