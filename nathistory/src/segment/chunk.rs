//! Collects the values of one column of a row group, and writes them as pages.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, Type, ZstdLevel};
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::segment::encode::{self, Compressor, Integer};
use crate::text::address_order;

/// How a chunk is written.
pub(super) struct Context<'a> {
    pub(super) compressor: &'a mut Compressor,
    pub(super) level: Option<i32>,
    pub(super) page_rows: usize,
    /// Whether the least and the greatest value of each page are recorded.
    pub(super) index: bool,
    pub(super) column: ColumnDescPtr,
}

/// The pages of a chunk, and what the file says about them.
pub(super) type Written = (Bytes, ColumnCloseResult);

/// A type of values.
pub(super) trait Value: Copy + Eq + Hash {
    /// As in a page without encoding.
    fn plain(self, out: &mut Vec<u8>);
    /// The statistics of a chunk.
    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics;
    /// Its bytes in the statistics.
    fn bound(self) -> Vec<u8>;
    /// The order that the statistics have; `unsigned` if numbers have no sign.
    fn order(self, other: Self, unsigned: bool) -> Ordering;
}

impl Value for i32 {
    fn plain(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }

    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
        Statistics::int32(bounds.map(|it| it.0), bounds.map(|it| it.1), None, Some(nulls), false)
    }

    fn bound(self) -> Vec<u8> {
        self.to_le_bytes().to_vec()
    }

    fn order(self, other: Self, unsigned: bool) -> Ordering {
        if unsigned { (self as u32).cmp(&(other as u32)) } else { self.cmp(&other) }
    }
}

impl Value for i64 {
    fn plain(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }

    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
        Statistics::int64(bounds.map(|it| it.0), bounds.map(|it| it.1), None, Some(nulls), false)
    }

    fn bound(self) -> Vec<u8> {
        self.to_le_bytes().to_vec()
    }

    fn order(self, other: Self, unsigned: bool) -> Ordering {
        if unsigned { (self as u64).cmp(&(other as u64)) } else { self.cmp(&other) }
    }
}

/// A word of a column that has few. The places of its text in [`WORDS`] are compared faster than texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) usize);

/// All words: which host is inside, what is translated, how a moment is known.
pub(super) const WORDS: [&str; 10] =
    ["server", "src", "none", "src", "dst", "src+dst", "kernel", "event", "dump", "range"];

impl Value for Word {
    fn plain(self, out: &mut Vec<u8>) {
        let text = self.bound();
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text);
    }

    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
        texts(bounds.map(|(least, greatest)| (least.bound(), greatest.bound())), nulls)
    }

    fn bound(self) -> Vec<u8> {
        WORDS[self.0].as_bytes().to_vec()
    }

    fn order(self, other: Self, _: bool) -> Ordering {
        WORDS[self.0].cmp(WORDS[other.0])
    }
}

impl Value for IpAddr {
    fn plain(self, out: &mut Vec<u8>) {
        let text = self.to_string();
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }

    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
        texts(bounds.map(|(least, greatest)| (least.bound(), greatest.bound())), nulls)
    }

    fn bound(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    fn order(self, other: Self, _: bool) -> Ordering {
        address_order(self, other)
    }
}

fn texts(bounds: Option<(Vec<u8>, Vec<u8>)>, nulls: u64) -> Statistics {
    let (least, greatest) = bounds.map(|(least, greatest)| (least.into(), greatest.into())).unzip();
    Statistics::byte_array(least, greatest, None, Some(nulls), false)
}

/// Which rows have a value. Most columns have one in each row, or in none.
#[derive(Default)]
struct Presence {
    runs: Vec<(bool, u32)>,
    rows: usize,
}

/// The rows of a page: which of them have a value, and the places of these values.
struct PageRows {
    runs: Vec<(bool, u32)>,
    rows: usize,
    values: Range<usize>,
}

impl Presence {
    #[inline]
    fn push(&mut self, present: bool) {
        self.rows += 1;
        match self.runs.last_mut() {
            Some((last, count)) if *last == present => *count += 1,
            _ => self.runs.push((present, 1)),
        }
    }

    fn clear(&mut self) {
        self.runs.clear();
        self.rows = 0;
    }

    /// Divides the rows into pages.
    fn pages(&self, page_rows: usize) -> Vec<PageRows> {
        let mut pages = Vec::new();
        let mut value = 0;
        let mut page = PageRows { runs: Vec::new(), rows: 0, values: 0..0 };
        for (present, count) in &self.runs {
            let mut left = *count as usize;
            while left > 0 {
                let part = left.min(page_rows - page.rows);
                page.runs.push((*present, part as u32));
                page.rows += part;
                value += if *present { part } else { 0 };
                left -= part;
                if page.rows == page_rows {
                    page.values.end = value;
                    let next = PageRows { runs: Vec::new(), rows: 0, values: value..value };
                    pages.push(std::mem::replace(&mut page, next));
                }
            }
        }
        if page.rows > 0 {
            page.values.end = value;
            pages.push(page);
        }
        pages
    }
}

/// A hash of few instructions: the keys are chosen by the gateway's network, and a slow segment is the worst that
/// bad ones make.
#[derive(Default)]
pub(super) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The high bits of the product depend on all bits, and the table uses both ends.
        let product = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
}

/// The places in an output's dictionary of those in an input's, for as long as both last.
#[derive(Default)]
pub(super) struct Translation {
    places: Vec<u32>,
    /// That of the output's dictionary.
    generation: u64,
}

/// No place.
const UNKNOWN: u32 = u32::MAX;

/// A column whose values repeat: the pages have their places in a dictionary.
pub(super) struct Repeating<V: Value> {
    presence: Presence,
    places: HashMap<V, u32, BuildHasherDefault<QuickHasher>>,
    entries: Vec<(V, u32)>,
    indices: Vec<u32>,
    last: Option<(V, u32)>,
    /// How many dictionaries there have been.
    generation: u64,
}

impl<V: Value> Default for Repeating<V> {
    fn default() -> Self {
        Self {
            presence: Presence::default(),
            places: HashMap::default(),
            entries: Vec::new(),
            indices: Vec::new(),
            last: None,
            generation: 1,
        }
    }
}

impl<V: Value> Repeating<V> {
    #[inline]
    pub(super) fn push(&mut self, value: Option<V>) {
        self.presence.push(value.is_some());
        let Some(value) = value else { return };
        let index = match self.last {
            Some((last, index)) if last == value => index,
            _ => self.index(value),
        };
        self.last = Some((value, index));
        self.add(index);
    }

    fn add(&mut self, index: u32) {
        self.entries[index as usize].1 += 1;
        self.indices.push(index);
    }

    /// The place of a value in the dictionary.
    fn index(&mut self, value: V) -> u32 {
        *self.places.entry(value).or_insert_with(|| {
            self.entries.push((value, 0));
            self.entries.len() as u32 - 1
        })
    }

    /// Like [`push`](Self::push), for the value at this place of an input's dictionary.
    #[inline]
    pub(super) fn push_translated(
        &mut self,
        place: u32,
        translation: &mut Translation,
        value: impl FnOnce() -> Result<V, ParquetError>,
    ) -> Result<(), ParquetError> {
        let place = place as usize;
        if translation.generation != self.generation {
            translation.places.clear();
            translation.generation = self.generation;
        }
        let index = match translation.places.get(place) {
            Some(index) if *index != UNKNOWN => *index,
            _ => {
                let index = self.index(value()?);
                if translation.places.len() <= place {
                    translation.places.resize(place + 1, UNKNOWN);
                }
                translation.places[place] = index;
                index
            }
        };
        self.presence.push(true);
        self.add(index);
        Ok(())
    }

    /// Writes the pages, and forgets the values.
    pub(super) fn write(&mut self, context: &mut Context<'_>) -> Result<Written, ParquetError> {
        // The most frequent values have the smallest places, so that their bytes repeat. Values of about the same
        // frequency are sorted, so that the dictionary is small.
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        let unsigned = is_unsigned(context);
        order.sort_unstable_by(|a, b| {
            let ((a, many), (b, more)) = (self.entries[*a as usize], self.entries[*b as usize]);
            many.leading_zeros().cmp(&more.leading_zeros()).then_with(|| a.order(b, unsigned))
        });
        let mut place = vec![0; order.len()];
        for (new, old) in (0..).zip(&order) {
            place[*old as usize] = new;
        }
        for index in &mut self.indices {
            *index = place[*index as usize];
        }
        let sorted: Vec<V> = order.iter().map(|old| self.entries[*old as usize].0).collect();
        let nulls = self.presence.rows - self.indices.len();
        // Without values there is no dictionary, and some readers want one for pages that refer to it.
        let encoding = if sorted.is_empty() { Encoding::PLAIN } else { Encoding::RLE_DICTIONARY };
        let mut pages = Pages::new(context, vec![Encoding::PLAIN, Encoding::RLE, encoding]);
        let mut dictionary = Vec::new();
        sorted.iter().for_each(|value| value.plain(&mut dictionary));
        if !sorted.is_empty() {
            pages.dictionary(dictionary, sorted.len())?;
        }
        let is_same = sorted.len() + usize::from(nulls > 0) <= 1;
        let page_rows = if is_same { usize::MAX } else { pages.context.page_rows };
        for page in self.presence.pages(page_rows) {
            let indices = &self.indices[page.values.clone()];
            let mut bytes = pages.begin(&page);
            if !sorted.is_empty() {
                encode::indices(indices, sorted.len(), &mut bytes);
            }
            let values = indices.iter().map(|index| sorted[*index as usize]);
            pages.data(&page, &[&bytes], encoding, values)?;
        }
        let bounds = bounds(sorted.iter().copied(), unsigned);
        let written = pages.close(&self.presence, bounds, nulls);
        self.presence.clear();
        self.places.clear();
        self.entries.clear();
        self.indices.clear();
        self.last = None;
        self.generation += 1;
        written
    }
}

/// A column of numbers that hardly repeat.
pub(super) struct Varying<V: Value + Integer> {
    presence: Presence,
    values: Vec<V>,
}

impl<V: Value + Integer> Default for Varying<V> {
    fn default() -> Self {
        Self { presence: Presence::default(), values: Vec::new() }
    }
}

impl<V: Value + Integer> Varying<V> {
    #[inline]
    pub(super) fn push(&mut self, value: Option<V>) {
        self.presence.push(value.is_some());
        self.values.extend(value);
    }

    /// Writes the pages, and forgets the values.
    pub(super) fn write(&mut self, context: &mut Context<'_>) -> Result<Written, ParquetError> {
        let nulls = self.presence.rows - self.values.len();
        let page_rows = if self.values.is_empty() { usize::MAX } else { context.page_rows };
        let rows = self.presence.pages(page_rows);
        // The encoding that is smaller for the first page, with a value in it, is used for all.
        let sample = rows.iter().find(|page| !page.values.is_empty());
        let sample = sample.map_or(&[][..], |page| &self.values[page.values.clone()]);
        let (mut split, mut deltas) = (Vec::new(), Vec::new());
        encode::split(sample, &mut split);
        encode::deltas(sample, &mut deltas);
        let streams: Vec<&[u8]> = split.chunks(sample.len().max(1)).collect();
        let is_split =
            context.compressor.compress(&streams)?.len() < context.compressor.compress(&[&deltas])?.len();
        let encoding = if is_split { Encoding::BYTE_STREAM_SPLIT } else { Encoding::DELTA_BINARY_PACKED };
        let mut pages = Pages::new(context, vec![Encoding::RLE, encoding]);
        for page in rows {
            let values = &self.values[page.values.clone()];
            let mut bytes = pages.begin(&page);
            let levels = bytes.len();
            if is_split {
                encode::split(values, &mut bytes);
            } else {
                encode::deltas(values, &mut bytes);
            }
            let (first, rest) = bytes.split_at(if is_split { levels + values.len() } else { bytes.len() });
            let mut parts = vec![first];
            parts.extend(rest.chunks(values.len().max(1)));
            pages.data(&page, &parts, encoding, values.iter().copied())?;
        }
        let bounds = bounds(self.values.iter().copied(), is_unsigned(pages.context));
        let written = pages.close(&self.presence, bounds, nulls);
        self.presence.clear();
        self.values.clear();
        written
    }
}

/// Whether the numbers of a column have no sign.
fn is_unsigned(context: &Context<'_>) -> bool {
    !context.column.sort_order().is_signed()
}

fn bounds<V: Value>(values: impl Iterator<Item = V>, unsigned: bool) -> Option<(V, V)> {
    values.fold(None, |bounds, value| match bounds {
        None => Some((value, value)),
        Some((least, greatest)) if value == least || value == greatest => Some((least, greatest)),
        Some((least, greatest)) if value.order(least, unsigned).is_lt() => Some((value, greatest)),
        Some((least, greatest)) if value.order(greatest, unsigned).is_gt() => Some((least, value)),
        same => same,
    })
}

/// Writes pages.
struct Pages<'c, 'a> {
    context: &'c mut Context<'a>,
    bytes: TrackedWrite<Vec<u8>>,
    encodings: Vec<Encoding>,
    uncompressed: usize,
    dictionary: Option<i64>,
    data: Option<i64>,
    offsets: OffsetIndexBuilder,
    bounds: ColumnIndexBuilder,
}

impl<'c, 'a> Pages<'c, 'a> {
    fn new(context: &'c mut Context<'a>, encodings: Vec<Encoding>) -> Self {
        let bounds = ColumnIndexBuilder::new(context.column.physical_type());
        Self {
            context,
            bytes: TrackedWrite::new(Vec::new()),
            encodings,
            uncompressed: 0,
            dictionary: None,
            data: None,
            offsets: OffsetIndexBuilder::new(),
            bounds,
        }
    }

    /// The begin of a page: which rows have a value, if the column has nulls.
    fn begin(&self, page: &PageRows) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(page.rows * 8 + 64);
        if self.context.column.max_def_level() > 0 {
            encode::levels(&page.runs, &mut bytes);
        }
        bytes
    }

    fn dictionary(&mut self, plain: Vec<u8>, entries: usize) -> Result<(), ParquetError> {
        let page = Page::DictionaryPage {
            buf: self.context.compressor.compress(&[&plain])?.into(),
            num_values: entries as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        self.dictionary = Some(self.write(page, plain.len())?.0);
        Ok(())
    }

    fn data<V: Value>(
        &mut self,
        page: &PageRows,
        parts: &[&[u8]],
        encoding: Encoding,
        values: impl Iterator<Item = V>,
    ) -> Result<(), ParquetError> {
        let length = parts.iter().map(|part| part.len()).sum();
        let data = Page::DataPage {
            buf: self.context.compressor.compress(parts)?.into(),
            num_values: page.rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let (offset, size) = self.write(data, length)?;
        self.data.get_or_insert(offset);
        self.offsets.append_row_count(page.rows as i64);
        self.offsets.append_offset_and_size(offset, size);
        if self.context.index {
            let bounds = bounds(values, is_unsigned(self.context));
            let (least, greatest) = bounds.map(|(least, greatest)| (least.bound(), greatest.bound())).unzip();
            let nulls = page.rows - page.values.len();
            let bounds = (least.unwrap_or_default(), greatest.unwrap_or_default());
            self.bounds.append(page.values.is_empty(), bounds.0, bounds.1, nulls as i64);
        }
        Ok(())
    }

    /// Writes a page, and returns where it is and how long it is.
    fn write(&mut self, page: Page, uncompressed: usize) -> Result<(i64, i32), ParquetError> {
        let mut writer = SerializedPageWriter::new(&mut self.bytes);
        let written = writer.write_page(CompressedPage::new(page, uncompressed))?;
        // The header of a page is not compressed.
        self.uncompressed += written.uncompressed_size;
        Ok((written.offset as i64, i32::try_from(written.bytes_written)?))
    }

    fn close<V: Value>(
        mut self,
        presence: &Presence,
        bounds: Option<(V, V)>,
        nulls: usize,
    ) -> Result<Written, ParquetError> {
        let column = self.context.column.clone();
        let compressed = self.bytes.bytes_written();
        let compression = match self.context.level {
            Some(level) => Compression::ZSTD(ZstdLevel::try_new(level)?),
            None => Compression::UNCOMPRESSED,
        };
        let metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(compression)
            .set_encodings(self.encodings)
            .set_num_values(presence.rows as i64)
            .set_total_compressed_size(compressed as i64)
            .set_total_uncompressed_size(self.uncompressed as i64)
            .set_data_page_offset(self.data.unwrap_or(0))
            .set_dictionary_page_offset(self.dictionary)
            .set_statistics(V::statistics(bounds, nulls as u64))
            .build()?;
        let index = self.context.index;
        if column.physical_type() == Type::BYTE_ARRAY {
            // Only that of the column by which the file is sorted first is recorded.
            self.bounds.set_boundary_order(BoundaryOrder::ASCENDING);
        }
        let closed = ColumnCloseResult {
            bytes_written: compressed as u64,
            rows_written: presence.rows as u64,
            metadata,
            bloom_filter: None,
            column_index: if index { Some(self.bounds.build()?) } else { None },
            offset_index: Some(self.offsets.build()),
        };
        Ok((self.bytes.into_inner()?.into(), closed))
    }
}
