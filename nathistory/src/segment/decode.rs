//! Rows from the columns of a row group.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::page_index::offset_index::OffsetIndexMetaData;
use parquet::file::reader::SerializedPageReader;
use parquet::file::statistics::Statistics;

use crate::record::{Counters, End, Known, Moment, Record};
use crate::row::Row;
use crate::segment::blocks::Blocks;
use crate::segment::columns::Column;
use crate::segment::texts::Texts;
use crate::text::address_order;

/// A type of values.
pub(super) trait Plain: DataType + Sized {
    /// The least and the greatest value of some statistics, if they are exact.
    fn bounds(statistics: &Statistics) -> Option<(Self::T, Self::T)>;
    /// The reader of such a column.
    fn reader(reader: ColumnReader) -> Option<ColumnReaderImpl<Self>>;
}

macro_rules! plain {
    ($type:ident, $statistics:ident, $reader:ident) => {
        impl Plain for $type {
            fn bounds(statistics: &Statistics) -> Option<(Self::T, Self::T)> {
                match statistics {
                    Statistics::$statistics(values) if values.min_is_exact() && values.max_is_exact() => {
                        Some((values.min_opt()?.clone(), values.max_opt()?.clone()))
                    }
                    _ => None,
                }
            }

            fn reader(reader: ColumnReader) -> Option<ColumnReaderImpl<Self>> {
                match reader {
                    ColumnReader::$reader(reader) => Some(reader),
                    _ => None,
                }
            }
        }
    };
}

plain!(Int32Type, Int32, Int32ColumnReader);
plain!(Int64Type, Int64, Int64ColumnReader);
plain!(ByteArrayType, ByteArray, ByteArrayColumnReader);

/// A row group whose columns can be read.
pub(super) struct Group<'a> {
    pub(super) blocks: Arc<Blocks>,
    pub(super) metadata: &'a RowGroupMetaData,
    /// Where the pages of each column are.
    pub(super) pages: Vec<OffsetIndexMetaData>,
    /// The place in the file of each column; `None` if the file does not have it.
    pub(super) places: &'a [Option<usize>],
}

impl Group<'_> {
    /// The number of its rows.
    pub(super) fn rows(&self) -> usize {
        usize::try_from(self.metadata.num_rows()).unwrap_or(0)
    }

    /// A column, which is read from the first row on.
    pub(super) fn cursor<T: Plain>(&self, column: Column) -> Result<Cursor<T>, ParquetError> {
        let Some(place) = self.places[column as usize] else {
            return Ok(Cursor::of(Source::Same(None)));
        };
        let chunk = self.metadata.column(place);
        if let Some(value) = only_value::<T>(chunk) {
            return Ok(Cursor::of(Source::Same(value)));
        }
        let locations = self.pages.get(place).map(|pages| pages.page_locations().clone());
        let pages = SerializedPageReader::new(self.blocks.clone(), chunk, self.rows(), locations)?;
        let reader = get_column_reader(chunk.column_descr_ptr(), Box::new(pages));
        let reader = T::reader(reader)
            .ok_or_else(|| ParquetError::General(format!("{} has another type", column.name())))?;
        Ok(Cursor::of(Source::Pages { reader: Box::new(reader), at: 0 }))
    }

    /// A column of texts, which is read from the first row on.
    pub(super) fn texts(&self, column: Column) -> Result<Texts, ParquetError> {
        let Some(place) = self.places[column as usize] else { return Ok(Texts::same_text(None)) };
        let chunk = self.metadata.column(place);
        if chunk.column_type() != Type::BYTE_ARRAY {
            return Err(ParquetError::General(format!("{} has another type", column.name())));
        }
        if let Some(text) = only_value::<ByteArrayType>(chunk) {
            return Ok(Texts::same_text(text.map(|text| Bytes::copy_from_slice(text.data()))));
        }
        let locations = self.pages.get(place).map(|pages| pages.page_locations().clone()).unwrap_or_default();
        let begins = locations.iter().map(|location| usize::try_from(location.first_row_index).unwrap_or(0));
        let begins = begins.chain([self.rows()]).collect();
        let pages = SerializedPageReader::new(self.blocks.clone(), chunk, self.rows(), Some(locations))?;
        Ok(Texts::of_pages(pages, chunk.column_descr().max_def_level() > 0, begins))
    }
}

/// The value that all rows of a column have, if the statistics say that they have the same.
fn only_value<T: Plain>(chunk: &ColumnChunkMetaData) -> Option<Option<T::T>> {
    let statistics = chunk.statistics()?;
    match u64::try_from(chunk.num_values()).ok()?.checked_sub(statistics.null_count_opt()?)? {
        0 => Some(None),
        values if values == chunk.num_values() as u64 => {
            let (least, greatest) = T::bounds(statistics)?;
            (least == greatest).then_some(Some(least))
        }
        _ => None,
    }
}

enum Source<T: DataType> {
    /// All rows have this value; `None` is null.
    Same(Option<T::T>),
    /// A reader that is at this row.
    Pages { reader: Box<ColumnReaderImpl<T>>, at: usize },
}

/// Reads a column from its begin to its end.
pub(super) struct Cursor<T: DataType> {
    source: Source<T>,
    levels: Vec<i16>,
    values: Vec<T::T>,
    /// How many levels, and how many values, were taken.
    taken: (usize, usize),
}

impl<T: DataType> Cursor<T> {
    fn of(source: Source<T>) -> Self {
        Self { source, levels: Vec::new(), values: Vec::new(), taken: (0, 0) }
    }

    /// Reads the values of these rows, which follow those that were read before. The caller takes all of them.
    pub(super) fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError> {
        let Source::Pages { reader, at } = &mut self.source else { return Ok(()) };
        self.levels.clear();
        self.values.clear();
        self.taken = (0, 0);
        for rows in ranges {
            let skipped = rows.start.saturating_sub(*at);
            let count = rows.len();
            let found = (
                reader.skip_records(skipped)?,
                reader.read_records(count, Some(&mut self.levels), None, &mut self.values)?.0,
            );
            if found != (skipped, count) {
                return Err(ParquetError::General(format!("a column ends before row {}", rows.end)));
            }
            *at = rows.end;
        }
        Ok(())
    }

    /// Whether all rows have the same value.
    pub(super) fn same(&self) -> Option<Option<&T::T>> {
        match &self.source {
            Source::Same(value) => Some(value.as_ref()),
            Source::Pages { .. } => None,
        }
    }

    /// The value of the next row, which stays the next one; `None` if it is null.
    #[inline]
    pub(super) fn peek(&self) -> Option<&T::T> {
        if let Source::Same(value) = &self.source {
            return value.as_ref();
        }
        let (level, value) = self.taken;
        let is_null = self.levels.get(level).is_some_and(|level| *level == 0);
        if is_null { None } else { self.values.get(value) }
    }

    /// The value of the next row; `None` if it is null.
    #[inline]
    pub(super) fn next(&mut self) -> Option<&T::T> {
        if let Source::Same(value) = &self.source {
            return value.as_ref();
        }
        let (level, value) = self.taken;
        self.taken.0 += 1;
        // Columns without nulls have no levels.
        if self.levels.get(level).is_some_and(|level| *level == 0) {
            return None;
        }
        self.taken.1 += 1;
        self.values.get(value)
    }
}

/// By what rows are sorted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) ip: IpAddr,
    /// Port, protocol and begin as a number, because merging compares many.
    rest: u128,
}

impl Key {
    /// The order of [`Row::order`], as far as it depends on this.
    #[inline]
    pub(super) fn order(&self, other: &Key) -> Ordering {
        address_order(self.ip, other.ip).then_with(|| self.rest.cmp(&other.rest))
    }
}

/// A column of which rows are taken in order.
trait Taken {
    /// Reads the values of these rows, which follow those that were read before. The caller takes all of them.
    fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError>;
    /// Passes the next row.
    fn pass(&mut self);
    /// The begin of what is not taken yet.
    fn place(&self) -> (usize, usize);
    /// Makes the rows from there on the next ones again.
    fn go_back(&mut self, place: (usize, usize));
}

impl<T: DataType> Taken for Cursor<T> {
    fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError> {
        self.read(ranges)
    }

    fn pass(&mut self) {
        self.next();
    }

    fn place(&self) -> (usize, usize) {
        self.taken
    }

    fn go_back(&mut self, place: (usize, usize)) {
        self.taken = place;
    }
}

impl Taken for Texts {
    fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError> {
        self.read(ranges)
    }

    fn pass(&mut self) {
        self.next_place();
    }

    fn place(&self) -> (usize, usize) {
        (self.taken(), 0)
    }

    fn go_back(&mut self, (taken, _): (usize, usize)) {
        self.go_back(taken);
    }
}

type Numbers = Cursor<Int32Type>;
type Longs = Cursor<Int64Type>;

/// Reads rows of a row group from its begin to its end.
pub(super) struct Decoder {
    pub(super) nat_ip: Texts,
    pub(super) nat_port: Numbers,
    pub(super) protocol: Numbers,
    pub(super) opened: Longs,
    pub(super) duration: Longs,
    pub(super) inside: Texts,
    pub(super) src_ip: Texts,
    pub(super) src_port: Numbers,
    pub(super) dst_ip: Texts,
    pub(super) dst_port: Numbers,
    pub(super) server_ip: Texts,
    pub(super) server_port: Numbers,
    pub(super) source_nat_ip: Texts,
    pub(super) source_nat_port: Numbers,
    pub(super) zone: Numbers,
    pub(super) reply_zone: Numbers,
    pub(super) id: Numbers,
    pub(super) mark: Numbers,
    /// Only of a decoder of all columns; otherwise it follows from the others.
    pub(super) nat: Texts,
    pub(super) opened_known: Texts,
    pub(super) opened_after: Longs,
    pub(super) closed_known: Texts,
    pub(super) closed_after: Longs,
    pub(super) counters: [Longs; 4],
}

impl Decoder {
    pub(super) fn new(group: &Group<'_>) -> Result<Self, ParquetError> {
        Ok(Self {
            nat_ip: group.texts(Column::NatIp)?,
            nat_port: group.cursor(Column::NatPort)?,
            protocol: group.cursor(Column::Protocol)?,
            opened: group.cursor(Column::Opened)?,
            duration: group.cursor(Column::Duration)?,
            inside: group.texts(Column::Inside)?,
            src_ip: group.texts(Column::SrcIp)?,
            src_port: group.cursor(Column::SrcPort)?,
            dst_ip: group.texts(Column::DstIp)?,
            dst_port: group.cursor(Column::DstPort)?,
            server_ip: group.texts(Column::ServerIp)?,
            server_port: group.cursor(Column::ServerPort)?,
            source_nat_ip: group.texts(Column::SourceNatIp)?,
            source_nat_port: group.cursor(Column::SourceNatPort)?,
            zone: group.cursor(Column::Zone)?,
            reply_zone: group.cursor(Column::ReplyZone)?,
            id: group.cursor(Column::Id)?,
            mark: group.cursor(Column::Mark)?,
            nat: Texts::same_text(None),
            opened_known: group.texts(Column::OpenedKnown)?,
            opened_after: group.cursor(Column::OpenedAfter)?,
            closed_known: group.texts(Column::ClosedKnown)?,
            closed_after: group.cursor(Column::ClosedAfter)?,
            counters: [
                group.cursor(Column::PacketsOriginal)?,
                group.cursor(Column::PacketsReply)?,
                group.cursor(Column::BytesOriginal)?,
                group.cursor(Column::BytesReply)?,
            ],
        })
    }

    /// A decoder of all columns.
    pub(super) fn whole(group: &Group<'_>) -> Result<Self, ParquetError> {
        Ok(Self { nat: group.texts(Column::Nat)?, ..Self::new(group)? })
    }

    /// Reads these rows. The caller takes all of them with [`next`](Self::next), or one by one from all columns.
    pub(super) fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError> {
        self.columns().into_iter().try_for_each(|column| column.read(ranges))
    }

    /// By what the next row is sorted first.
    pub(super) fn key(&mut self) -> Result<Key, ParquetError> {
        let ip = self.nat_ip.peek_address()?.ok_or_else(|| lacks("nat_ip"))?;
        let port = self.nat_port.peek().map_or(0, |port| u128::from(*port as u32) + 1);
        let protocol = *self.protocol.peek().ok_or_else(|| lacks("protocol"))? as u32;
        let opened = *self.opened.peek().ok_or_else(|| lacks("opened"))?;
        // The least number is zero.
        let opened = (opened ^ i64::MIN) as u64;
        Ok(Key { ip, rest: port << 96 | u128::from(protocol) << 64 | u128::from(opened) })
    }

    /// The next row of those that were read, which stays the next one.
    pub(super) fn peek(&mut self) -> Result<Row, ParquetError> {
        let places = self.columns().map(|column| column.place());
        let row = self.next();
        self.columns().into_iter().zip(places).for_each(|(column, place)| column.go_back(place));
        row
    }

    /// Passes the next row.
    pub(super) fn skip(&mut self) {
        self.columns().into_iter().for_each(Taken::pass);
    }

    /// All columns.
    fn columns(&mut self) -> [&mut dyn Taken; Column::ALL.len()] {
        let [packets_original, packets_reply, bytes_original, bytes_reply] = &mut self.counters;
        [
            &mut self.nat_ip,
            &mut self.nat_port,
            &mut self.protocol,
            &mut self.opened,
            &mut self.duration,
            &mut self.inside,
            &mut self.src_ip,
            &mut self.src_port,
            &mut self.dst_ip,
            &mut self.dst_port,
            &mut self.server_ip,
            &mut self.server_port,
            &mut self.source_nat_ip,
            &mut self.source_nat_port,
            &mut self.zone,
            &mut self.reply_zone,
            &mut self.id,
            &mut self.mark,
            &mut self.nat,
            &mut self.opened_known,
            &mut self.opened_after,
            &mut self.closed_known,
            &mut self.closed_after,
            packets_original,
            packets_reply,
            bytes_original,
            bytes_reply,
        ]
    }

    /// The next row of those that were read.
    pub(super) fn next(&mut self) -> Result<Row, ParquetError> {
        let public = end(&mut self.nat_ip, &mut self.nat_port)?.ok_or_else(|| lacks("nat_ip"))?;
        let is_source = match self.inside.next() {
            Some(b"src") => true,
            Some(b"server") => false,
            other => return Err(unknown("inside", other)),
        };
        let src = end(&mut self.src_ip, &mut self.src_port)?.ok_or_else(|| lacks("src_ip"))?;
        let dst = end(&mut self.dst_ip, &mut self.dst_port)?;
        let server = end(&mut self.server_ip, &mut self.server_port)?.or(dst);
        let source_nat = end(&mut self.source_nat_ip, &mut self.source_nat_port)?;
        let nat = if is_source { public } else { source_nat.unwrap_or(src) };
        let zone = narrow("zone", self.zone.next())?.ok_or_else(|| lacks("zone"))?;
        let opened_at = *self.opened.next().ok_or_else(|| lacks("opened"))?;
        let opened = Moment {
            at: opened_at,
            known: known(self.opened_known.next())?.ok_or_else(|| lacks("opened_known"))?,
            since: self.opened_after.next().copied(),
        };
        let duration = self.duration.next().copied();
        let closed_known = known(self.closed_known.next())?;
        let closed_after = self.closed_after.next().copied();
        let closed = match (duration, closed_known) {
            (Some(duration), Some(known)) => {
                Some(Moment { at: opened_at.wrapping_add(duration), known, since: closed_after })
            }
            (None, None) => None,
            _ => return Err(lacks("duration_ms or closed_known")),
        };
        let [packets_original, packets_reply, bytes_original, bytes_reply] = &mut self.counters;
        let packets = (packets_original.next(), packets_reply.next());
        let bytes = (bytes_original.next(), bytes_reply.next());
        let counters = match (packets, bytes) {
            ((Some(a), Some(b)), (Some(c), Some(d))) => {
                Some(Counters { packets: [*a as u64, *b as u64], bytes: [*c as u64, *d as u64] })
            }
            _ => None,
        };
        let record = Record {
            protocol: narrow("protocol", self.protocol.next())?.ok_or_else(|| lacks("protocol"))?,
            zone,
            reply_zone: narrow("reply_zone", self.reply_zone.next())?.unwrap_or(zone),
            src,
            dst,
            nat,
            server,
            id: self.id.next().map(|id| *id as u32),
            mark: self.mark.next().map(|mark| *mark as u32),
            opened,
            closed,
            counters,
        };
        Ok(Row { public, is_source, record })
    }
}

fn known(text: Option<&[u8]>) -> Result<Option<Known>, ParquetError> {
    let Some(text) = text else { return Ok(None) };
    let known = Known::ALL.into_iter().find(|known| known.as_str().as_bytes() == text);
    known.map(Some).ok_or_else(|| unknown("opened_known or closed_known", Some(text)))
}

fn narrow<N: TryFrom<i32>>(column: &str, value: Option<&i32>) -> Result<Option<N>, ParquetError> {
    let Some(value) = value else { return Ok(None) };
    let narrow = N::try_from(*value).map_err(|_| ParquetError::General(format!("{column} is {value}")))?;
    Ok(Some(narrow))
}

pub(super) fn lacks(column: &str) -> ParquetError {
    ParquetError::General(format!("a row has no {column}"))
}

fn unknown(column: &str, text: Option<&[u8]>) -> ParquetError {
    let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
    ParquetError::General(format!("{column} is {text:?}"))
}

fn end(ip: &mut Texts, port: &mut Numbers) -> Result<Option<End>, ParquetError> {
    let port = narrow("a port", port.next())?;
    Ok(ip.next_address()?.map(|ip| End { ip, port }))
}
