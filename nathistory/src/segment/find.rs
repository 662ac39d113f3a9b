//! Answers questions from one segment.

use std::ops::{ControlFlow, Range};

use parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::statistics::Statistics;

use crate::error::Error;
use crate::question::Question;
use crate::row::Row;
use crate::segment::blocks::contained;
use crate::segment::columns::Column;
use crate::segment::decode::{Cursor, Decoder, Group, Plain};
use crate::segment::open::Segment;
use crate::segment::rows::{narrow, only};
use crate::segment::texts::Texts;

/// The rows that are decoded at once.
const BATCH: usize = 1 << 12;

impl Segment {
    /// Passes the rows that fit to `on`, in their order, which can stop the search. Of a mapping with two public
    /// ends that both fit, only the row of the source is passed.
    ///
    /// # Errors
    /// Those of the disk and of `on`; `Damaged` if the segment is not what was written.
    pub(crate) fn find(
        &self,
        question: &Question,
        on: &mut dyn FnMut(Row) -> Result<ControlFlow<()>, Error>,
    ) -> Result<ControlFlow<()>, Error> {
        let search = Search::new(question);
        for index in 0..self.groups() {
            let failed = |error| self.error(error);
            if !search.can_have_some(self, index) {
                continue;
            }
            let group = contained(|| self.group(index)).map_err(failed)?;
            for rows in contained(|| search.candidates(self, index, &group)).map_err(failed)? {
                if self.find_in(&group, rows, &search, on)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn find_in(
        &self,
        group: &Group<'_>,
        rows: Range<usize>,
        search: &Search<'_>,
        on: &mut dyn FnMut(Row) -> Result<ControlFlow<()>, Error>,
    ) -> Result<ControlFlow<()>, Error> {
        let failed = |error| self.error(error);
        let mut conditions = contained(|| Conditions::new(group, search.question)).map_err(failed)?;
        let mut decoder = None;
        let mut at = rows.start;
        while at < rows.end {
            let mut ranges = only(at..rows.end.min(at + BATCH));
            at += BATCH;
            contained(|| conditions.narrow(&mut ranges, search)).map_err(failed)?;
            if ranges.is_empty() {
                continue;
            }
            let decoder = match &mut decoder {
                Some(decoder) => decoder,
                none => none.insert(contained(|| Decoder::new(group)).map_err(failed)?),
            };
            contained(|| decoder.read(&ranges)).map_err(failed)?;
            for _ in ranges.into_iter().flatten() {
                let row = decoder.next().map_err(failed)?;
                if fits(search.question, &row) && on(row)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Whether this row is the one of its mapping that answers the question.
fn fits(question: &Question, row: &Row) -> bool {
    question.fits_public(row.public)
        && question.fits(&row.record)
        && (row.is_source || !row.record.is_source_nat() || !question.fits_public(row.record.nat))
}

/// A question, and its address as text.
struct Search<'a> {
    question: &'a Question,
    nat_ip: Option<Vec<u8>>,
    src_ip: Option<Vec<u8>>,
    dst_ip: Option<Vec<u8>>,
}

impl<'a> Search<'a> {
    fn new(question: &'a Question) -> Self {
        let text =
            |address: Option<std::net::IpAddr>| address.map(|address| address.to_string().into_bytes());
        Self {
            question,
            nat_ip: text(question.nat_ip),
            src_ip: text(question.src_ip),
            dst_ip: text(question.dst_ip),
        }
    }

    /// The rows of a row group among which those that fit are, as far as the indexes of the pages tell.
    fn candidates(
        &self,
        segment: &Segment,
        index: usize,
        group: &Group<'_>,
    ) -> Result<Vec<Range<usize>>, ParquetError> {
        if self.question.nat_ip.is_none() && self.question.nat_port.is_none() {
            return Ok(only(0..group.rows()));
        }
        Ok(self.pages(segment, &segment.page_bounds(index)?, group))
    }

    /// Whether some row of a row group can fit, as far as the statistics tell.
    fn can_have_some(&self, segment: &Segment, index: usize) -> bool {
        let group = segment.group_metadata(index);
        self.can_have(|column| group.column(segment.place(column)?).statistics())
    }

    /// Whether some row of a row group can fit.
    fn can_have<'s>(&self, statistics: impl Fn(Column) -> Option<&'s Statistics>) -> bool {
        let number = |column: Column, asked: Option<i32>| {
            asked.is_none_or(|asked| {
                let bounds = statistics(column).and_then(Int32Type::bounds);
                bounds.is_none_or(|(least, greatest)| least <= asked && asked <= greatest)
            })
        };
        let text = |column: Column, asked: &Option<Vec<u8>>| {
            asked.as_ref().is_none_or(|asked| {
                let bounds = statistics(column).and_then(ByteArrayType::bounds);
                bounds.is_none_or(|(least, greatest)| {
                    least.data() <= asked.as_slice() && asked.as_slice() <= greatest.data()
                })
            })
        };
        let opened = || {
            let begins =
                |column: Column| statistics(column).and_then(Int64Type::bounds).map(|bounds| bounds.0);
            // A range can begin before the moment at which it ends.
            let begin = begins(Column::Opened);
            let of_ranges = begins(Column::OpenedAfter);
            begin.is_none_or(|begin| begin.min(of_ranges.unwrap_or(begin)) <= self.question.to)
        };
        let question = self.question;
        text(Column::NatIp, &self.nat_ip)
            && number(Column::NatPort, question.nat_port.map(i32::from))
            && number(Column::Protocol, question.protocol.map(i32::from))
            && text(Column::SrcIp, &self.src_ip)
            && number(Column::SrcPort, question.src_port.map(i32::from))
            && opened()
    }

    /// The rows of the pages that can have the public end.
    fn pages(
        &self,
        segment: &Segment,
        bounds: &[ColumnIndexMetaData],
        group: &Group<'_>,
    ) -> Vec<Range<usize>> {
        let rows = group.rows();
        let of = |column: Column, can_have: &dyn Fn(&ColumnIndexMetaData, usize) -> bool| {
            let place = segment.place(column)?;
            let (bounds, pages) = (bounds.get(place)?, group.pages.get(place)?.page_locations());
            if bounds.num_pages() as usize != pages.len() {
                return None;
            }
            let mut ranges: Vec<Range<usize>> = Vec::new();
            for (page, location) in pages.iter().enumerate() {
                let end = pages.get(page + 1).map_or(rows, |next| next.first_row_index as usize);
                let begin = location.first_row_index as usize;
                if can_have(bounds, page) {
                    match ranges.last_mut() {
                        Some(last) if last.end == begin => last.end = end,
                        _ => ranges.push(begin..end),
                    }
                }
            }
            Some(ranges)
        };
        let all = || only(0..rows);
        let ips = match &self.nat_ip {
            Some(asked) => of(Column::NatIp, &|bounds, page| match bounds {
                ColumnIndexMetaData::BYTE_ARRAY(bounds) => {
                    bounds.min_value(page).is_none_or(|least| least <= asked.as_slice())
                        && bounds.max_value(page).is_none_or(|greatest| asked.as_slice() <= greatest)
                }
                _ => true,
            })
            .unwrap_or_else(all),
            None => all(),
        };
        let ports = match self.question.nat_port.map(i32::from) {
            Some(asked) => of(Column::NatPort, &|bounds, page| match bounds {
                ColumnIndexMetaData::INT32(bounds) => {
                    !bounds.is_null_page(page)
                        && bounds.min_value(page).is_none_or(|least| *least <= asked)
                        && bounds.max_value(page).is_none_or(|greatest| asked <= *greatest)
                }
                _ => true,
            })
            .unwrap_or_else(all),
            None => all(),
        };
        intersection(&ips, &ports)
    }
}

/// The rows that are in both.
fn intersection(a: &[Range<usize>], b: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut both = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let common = a[i].start.max(b[j].start)..a[i].end.min(b[j].end);
        if !common.is_empty() {
            both.push(common);
        }
        if a[i].end < b[j].end { i += 1 } else { j += 1 }
    }
    both
}

/// The columns that decide whether a row can fit, in the order in which they narrow the rows.
struct Conditions {
    nat_ip: Option<Texts>,
    nat_port: Option<Cursor<Int32Type>>,
    protocol: Option<Cursor<Int32Type>>,
    src_ip: Option<Texts>,
    src_port: Option<Cursor<Int32Type>>,
    dst_ip: Option<Texts>,
    dst_port: Option<Cursor<Int32Type>>,
    opened: Cursor<Int64Type>,
    opened_after: Cursor<Int64Type>,
    times: Cursor<Int64Type>,
    duration: Cursor<Int64Type>,
}

impl Conditions {
    fn new(group: &Group<'_>, question: &Question) -> Result<Self, ParquetError> {
        fn of<T: Plain>(
            group: &Group<'_>,
            asked: bool,
            column: Column,
        ) -> Result<Option<Cursor<T>>, ParquetError> {
            asked.then(|| group.cursor(column)).transpose()
        }
        Ok(Self {
            nat_ip: question.nat_ip.map(|_| group.texts(Column::NatIp)).transpose()?,
            nat_port: of(group, question.nat_port.is_some(), Column::NatPort)?,
            protocol: of(group, question.protocol.is_some(), Column::Protocol)?,
            src_ip: question.src_ip.map(|_| group.texts(Column::SrcIp)).transpose()?,
            src_port: of(group, question.src_port.is_some(), Column::SrcPort)?,
            dst_ip: question.dst_ip.map(|_| group.texts(Column::DstIp)).transpose()?,
            dst_port: of(group, question.dst_port.is_some(), Column::DstPort)?,
            opened: group.cursor(Column::Opened)?,
            opened_after: group.cursor(Column::OpenedAfter)?,
            times: group.cursor(Column::Opened)?,
            duration: group.cursor(Column::Duration)?,
        })
    }

    /// Keeps the rows that can fit. [`fits`] decides about each of them, so a condition that is missing here only
    /// costs time.
    fn narrow(&mut self, ranges: &mut Vec<Range<usize>>, search: &Search<'_>) -> Result<(), ParquetError> {
        fn equal<T: DataType>(
            cursor: &mut Option<Cursor<T>>,
            ranges: &mut Vec<Range<usize>>,
            fits: impl Fn(&T::T) -> bool,
            or_null: bool,
        ) -> Result<(), ParquetError> {
            match cursor {
                Some(cursor) if !ranges.is_empty() => {
                    narrow(cursor, ranges, |value| value.map_or(or_null, &fits))
                }
                _ => Ok(()),
            }
        }
        fn text(
            texts: &mut Option<Texts>,
            ranges: &mut Vec<Range<usize>>,
            asked: &Option<Vec<u8>>,
            or_null: bool,
        ) -> Result<(), ParquetError> {
            match (texts, asked) {
                (Some(texts), Some(asked)) if !ranges.is_empty() => texts.narrow(asked, or_null, ranges),
                _ => Ok(()),
            }
        }
        let question = search.question;
        let number =
            |asked: Option<u16>| move |value: &i32| asked.is_none_or(|asked| *value == i32::from(asked));
        text(&mut self.nat_ip, ranges, &search.nat_ip, false)?;
        equal(&mut self.nat_port, ranges, number(question.nat_port), false)?;
        equal(&mut self.protocol, ranges, number(question.protocol.map(u16::from)), false)?;
        text(&mut self.src_ip, ranges, &search.src_ip, false)?;
        equal(&mut self.src_port, ranges, number(question.src_port), false)?;
        // Records without a destination fit each.
        text(&mut self.dst_ip, ranges, &search.dst_ip, true)?;
        equal(&mut self.dst_port, ranges, number(question.dst_port), true)?;
        self.narrow_to_time(ranges, question)
    }

    fn narrow_to_time(
        &mut self,
        ranges: &mut Vec<Range<usize>>,
        question: &Question,
    ) -> Result<(), ParquetError> {
        if ranges.is_empty() {
            return Ok(());
        }
        // Of most segments no mapping opened in a range.
        if self.opened_after.same() == Some(None) {
            narrow(&mut self.opened, ranges, |opened| opened.is_none_or(|opened| *opened <= question.to))?;
        }
        if ranges.is_empty() {
            return Ok(());
        }
        // If all rows have the same duration, each still has its own begin.
        if let Some(duration) = self.duration.same().map(|duration| duration.copied()) {
            let ends_after = |opened: Option<&i64>| match (opened, duration) {
                (Some(opened), Some(duration)) => opened.wrapping_add(duration) >= question.from,
                _ => true,
            };
            return narrow(&mut self.times, ranges, ends_after);
        }
        if self.times.same().is_none() {
            self.times.read(ranges)?;
        }
        let times = &mut self.times;
        narrow(&mut self.duration, ranges, |duration| {
            let opened = times.next();
            match (opened, duration) {
                (Some(opened), Some(duration)) => opened.wrapping_add(*duration) >= question.from,
                _ => true,
            }
        })
    }
}
