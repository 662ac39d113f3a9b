//! Reads a column of texts.
//!
//! The pages of such a column have the places of its texts in a dictionary. These are read here: the texts then need
//! not be copied for each row, and a condition compares places. Of most row groups that do not have the host that is
//! asked for, only the dictionary is read.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedPageReader;

use crate::segment::blocks::Blocks;

/// The place of what is null.
const NULL: u32 = u32::MAX;

/// Reads a column of texts from its begin to its end.
pub(super) struct Texts {
    source: Source,
    /// The places of the texts of the rows that were read, and how many were taken.
    read: Vec<u32>,
    taken: usize,
}

enum Source {
    /// All rows have this text, and its address, if it was parsed; `None` is null.
    Same(Option<(Bytes, Option<IpAddr>)>),
    Pages(Box<Pages>),
}

struct Pages {
    reader: SerializedPageReader<Blocks>,
    /// Whether the column has nulls.
    nullable: bool,
    /// The first row of each page, and the number of all rows.
    begins: Vec<usize>,
    dictionary: Option<Dictionary>,
    /// The next page that the reader reads.
    next: usize,
    /// The places of the texts of the page before that.
    places: Vec<u32>,
    /// The text that was searched for last, and its place.
    searched: Option<(Vec<u8>, Option<u32>)>,
}

/// The texts of a chunk.
#[derive(Default)]
struct Dictionary {
    bytes: Bytes,
    /// Where each begins and ends.
    texts: Vec<Range<u32>>,
    /// The addresses of those that were parsed, as far as they are of version 4; zero if they were not. To parse a
    /// text again would take longer than all else that is done to read it.
    parsed: Vec<u32>,
}

impl Texts {
    pub(super) fn same_text(text: Option<Bytes>) -> Self {
        Self { source: Source::Same(text.map(|text| (text, None))), read: Vec::new(), taken: 0 }
    }

    /// A column with these pages. `begins` are the first rows of the pages, and the number of all rows.
    pub(super) fn of_pages(reader: SerializedPageReader<Blocks>, nullable: bool, begins: Vec<usize>) -> Self {
        let pages =
            Pages { reader, nullable, begins, dictionary: None, next: 0, places: Vec::new(), searched: None };
        Self { source: Source::Pages(Box::new(pages)), read: Vec::new(), taken: 0 }
    }

    /// Reads the texts of these rows, which do not precede those that were read before. The caller takes all.
    pub(super) fn read(&mut self, ranges: &[Range<usize>]) -> Result<(), ParquetError> {
        let Source::Pages(pages) = &mut self.source else { return Ok(()) };
        self.read.clear();
        self.taken = 0;
        for rows in ranges {
            pages.each(rows.clone(), |places, _| self.read.extend_from_slice(places))?;
        }
        Ok(())
    }

    /// The place of the text of the next row, by which [`text`](Self::text) finds it; `None` if it is null.
    #[inline]
    pub(super) fn next_place(&mut self) -> Option<u32> {
        match &self.source {
            Source::Same(same) => same.as_ref().map(|_| 0),
            Source::Pages(_) => {
                let place = self.read.get(self.taken).copied().filter(|place| *place != NULL);
                self.taken += 1;
                place
            }
        }
    }

    /// The text at a place.
    #[inline]
    pub(super) fn text(&self, place: u32) -> Option<&[u8]> {
        match &self.source {
            Source::Same(same) => same.as_ref().map(|(text, _)| &text[..]),
            Source::Pages(pages) => pages.dictionary.as_ref()?.text(place),
        }
    }

    /// The address that the text at a place is.
    #[inline]
    pub(super) fn address(&mut self, place: u32) -> Result<IpAddr, ParquetError> {
        match &mut self.source {
            Source::Same(Some((text, address))) => match address {
                Some(address) => Ok(*address),
                None => Ok(*address.insert(parse(text)?)),
            },
            Source::Same(None) => Err(cut()),
            Source::Pages(pages) => pages.dictionary.as_mut().ok_or_else(cut)?.address(place),
        }
    }

    /// The text of the next row; `None` if it is null.
    #[inline]
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let place = self.next_place()?;
        self.text(place)
    }

    /// The address that the text of the next row is; `None` if it is null.
    #[inline]
    pub(super) fn next_address(&mut self) -> Result<Option<IpAddr>, ParquetError> {
        self.next_place().map(|place| self.address(place)).transpose()
    }

    /// Like [`next_address`](Self::next_address), of a row that stays the next one.
    #[inline]
    pub(super) fn peek_address(&mut self) -> Result<Option<IpAddr>, ParquetError> {
        let taken = self.taken;
        let address = self.next_address();
        self.taken = taken;
        address
    }

    /// How many rows were taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Makes the rows after so many the next ones again.
    pub(super) fn go_back(&mut self, taken: usize) {
        self.taken = taken;
    }

    /// Keeps of these rows those that have this text, and with `or_null` those that have none.
    pub(super) fn narrow(
        &mut self,
        text: &[u8],
        or_null: bool,
        ranges: &mut Vec<Range<usize>>,
    ) -> Result<(), ParquetError> {
        let pages = match &mut self.source {
            Source::Same(same) => {
                if !same.as_ref().map_or(or_null, |(same, _)| *same == text) {
                    ranges.clear();
                }
                return Ok(());
            }
            Source::Pages(pages) => pages,
        };
        let place = pages.place(text)?;
        if place.is_none() && !(or_null && pages.nullable) {
            ranges.clear();
            return Ok(());
        }
        let mut kept: Vec<Range<usize>> = Vec::new();
        for rows in &*ranges {
            pages.each(rows.clone(), |places, first| {
                for (row, found) in (first..).zip(places) {
                    if Some(*found) == place || (or_null && *found == NULL) {
                        match kept.last_mut() {
                            Some(last) if last.end == row => last.end += 1,
                            _ => kept.push(row..row + 1),
                        }
                    }
                }
            })?;
        }
        *ranges = kept;
        Ok(())
    }
}

impl Pages {
    /// Passes the places of these rows to `on`, in parts, with the first row of each part.
    fn each(&mut self, rows: Range<usize>, mut on: impl FnMut(&[u32], usize)) -> Result<(), ParquetError> {
        let mut row = rows.start;
        while row < rows.end {
            let page = self.begins.partition_point(|begin| *begin <= row);
            let (Some(begin), Some(end)) = (self.begins.get(page.wrapping_sub(1)), self.begins.get(page))
            else {
                return Err(ParquetError::General(format!("a column of texts ends before row {row}")));
            };
            let (begin, end) = (*begin, *end);
            self.load(page - 1, end - begin)?;
            let until = rows.end.min(end);
            on(&self.places[row - begin..until - begin], row);
            row = until;
        }
        Ok(())
    }

    /// The place of a text in the dictionary.
    fn place(&mut self, text: &[u8]) -> Result<Option<u32>, ParquetError> {
        if let Some((searched, place)) = &self.searched {
            if searched == text {
                return Ok(*place);
            }
        }
        let dictionary = self.dictionary()?;
        let place = (0..).zip(&dictionary.texts).find(|(place, _)| dictionary.text(*place) == Some(text));
        let place = place.map(|(place, _)| place);
        self.searched = Some((text.to_vec(), place));
        Ok(place)
    }

    fn dictionary(&mut self) -> Result<&Dictionary, ParquetError> {
        if self.dictionary.is_none() {
            self.dictionary = Some(match self.reader.get_next_page()? {
                Some(Page::DictionaryPage { buf, num_values, .. }) => Dictionary::new(buf, num_values)?,
                _ => return Err(ParquetError::General("a column of texts has no dictionary".to_owned())),
            });
        }
        self.dictionary.as_ref().ok_or_else(|| ParquetError::General("no dictionary".to_owned()))
    }

    /// Reads a page of so many rows, unless it was read last.
    fn load(&mut self, page: usize, rows: usize) -> Result<(), ParquetError> {
        if self.next == page + 1 {
            return Ok(());
        }
        if self.next > page {
            return Err(ParquetError::General("a page of texts was passed".to_owned()));
        }
        let entries = self.dictionary()?.texts.len();
        while self.next < page {
            self.reader.skip_next_page()?;
            self.next += 1;
        }
        let Some(Page::DataPage { buf, num_values, encoding: Encoding::RLE_DICTIONARY, .. }) =
            self.reader.get_next_page()?
        else {
            return Err(ParquetError::General("a page of texts is not encoded by a dictionary".to_owned()));
        };
        self.next = page + 1;
        if num_values as usize != rows {
            return Err(ParquetError::General(format!("a page has {num_values} rows, not {rows}")));
        }
        self.places.clear();
        let values = if self.nullable {
            let length = buf.first_chunk().map_or(0, |length: &[u8; 4]| u32::from_le_bytes(*length) as usize);
            let levels = buf.get(4..).and_then(|buf| buf.get(..length)).ok_or_else(cut)?;
            packed(levels, 1, rows, &mut self.places)?;
            buf.get(4 + length..).ok_or_else(cut)?
        } else {
            &buf[..]
        };
        let present =
            if self.nullable { self.places.iter().filter(|level| **level == 1).count() } else { rows };
        let mut places = Vec::with_capacity(present);
        match values.split_first() {
            Some((width, values)) => packed(values, *width, present, &mut places)?,
            None if present == 0 => {}
            None => return Err(cut()),
        }
        if places.iter().any(|place| *place as usize >= entries) {
            return Err(ParquetError::General("a place is not in the dictionary".to_owned()));
        }
        if self.nullable {
            let mut places = places.into_iter();
            for level in &mut self.places {
                *level = if *level == 1 { places.next().unwrap_or(NULL) } else { NULL };
            }
        } else {
            self.places = places;
        }
        Ok(())
    }
}

impl Dictionary {
    fn new(bytes: Bytes, count: u32) -> Result<Self, ParquetError> {
        // Each text has four bytes at least.
        let mut texts = Vec::with_capacity((count as usize).min(bytes.len() / 4));
        let mut at = 0usize;
        for _ in 0..count {
            let length = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(cut)?;
            let begin = at + 4;
            at = begin.saturating_add(u32::from_le_bytes(*length) as usize);
            if at > bytes.len() {
                return Err(cut());
            }
            texts.push(u32::try_from(begin)?..u32::try_from(at)?);
        }
        let parsed = vec![0; texts.len()];
        Ok(Self { bytes, texts, parsed })
    }

    #[inline]
    fn address(&mut self, place: u32) -> Result<IpAddr, ParquetError> {
        match self.parsed.get(place as usize) {
            Some(0) | None => {}
            Some(bits) => return Ok(Ipv4Addr::from_bits(*bits).into()),
        }
        let address = parse(self.text(place).ok_or_else(cut)?)?;
        if let IpAddr::V4(address) = address {
            self.parsed[place as usize] = address.to_bits();
        }
        Ok(address)
    }

    #[inline]
    fn text(&self, place: u32) -> Option<&[u8]> {
        let range = self.texts.get(place as usize)?;
        self.bytes.get(range.start as usize..range.end as usize)
    }
}

/// The address of a text. Merging parses many, so the usual ones are parsed here.
fn parse(text: &[u8]) -> Result<IpAddr, ParquetError> {
    let otherwise = || std::str::from_utf8(text).ok()?.parse().ok();
    parse_v4(text)
        .map(IpAddr::from)
        .or_else(otherwise)
        .ok_or_else(|| ParquetError::General(format!("{:?} is no address", String::from_utf8_lossy(text))))
}

fn parse_v4(text: &[u8]) -> Option<[u8; 4]> {
    let mut octets = [0; 4];
    let (mut index, mut octet, mut digits) = (0, 0u32, 0);
    for byte in text {
        match byte {
            b'0'..=b'9' if digits < 3 => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && octet < 256 && index < 3 => {
                octets[index] = octet as u8;
                (index, octet, digits) = (index + 1, 0, 0);
            }
            _ => return None,
        }
    }
    octets[3] = octet as u8;
    (index == 3 && digits > 0 && octet < 256).then_some(octets)
}

fn cut() -> ParquetError {
    ParquetError::EOF("a page of texts is cut".to_owned())
}

/// Numbers of so many bits, as runs of equal ones and packed ones.
fn packed(mut bytes: &[u8], width: u8, count: usize, out: &mut Vec<u32>) -> Result<(), ParquetError> {
    if width > 32 {
        return Err(ParquetError::General(format!("a page has places of {width} bits")));
    }
    let (size, width) = (usize::from(width).div_ceil(8), usize::from(width));
    let end = out.len() + count;
    while out.len() < end {
        let left = end - out.len();
        let (header, rest) = varint(bytes).ok_or_else(cut)?;
        if header & 1 == 0 {
            let run = usize::try_from(header >> 1).unwrap_or(usize::MAX).min(left);
            let value = rest.get(..size).ok_or_else(cut)?;
            if run == 0 {
                return Err(ParquetError::General("a run of no values".to_owned()));
            }
            let value = value.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            out.resize(out.len() + run, value);
            bytes = &rest[size..];
        } else {
            let groups = usize::try_from(header >> 1).unwrap_or(usize::MAX);
            let length = groups.checked_mul(width).filter(|length| *length <= rest.len()).ok_or_else(cut)?;
            let (values, rest) = rest.split_at(length);
            let run = (groups * 8).min(left);
            if run == 0 {
                return Err(ParquetError::General("a run of no values".to_owned()));
            }
            match width {
                8 => out.extend(values[..run].iter().map(|value| u32::from(*value))),
                16 => out.extend(
                    values.chunks_exact(2).take(run).map(|v| u32::from(u16::from_le_bytes([v[0], v[1]]))),
                ),
                _ => unpack(values, width, run, out),
            }
            bytes = rest;
        }
    }
    Ok(())
}

fn unpack(values: &[u8], width: usize, count: usize, out: &mut Vec<u32>) {
    let (mut bits, mut have) = (0u64, 0);
    let mut values = values.iter();
    for _ in 0..count {
        while have < width {
            bits |= u64::from(values.next().copied().unwrap_or(0)) << have;
            have += 8;
        }
        out.push((bits & ((1 << width) - 1)) as u32);
        bits >>= width;
        have -= width;
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for text in ["0.0.0.0", "255.10.9.100", "2001:db8::1", "::ffff:192.0.2.1", "::"] {
            assert_eq!(parse(text.as_bytes()).ok(), text.parse().ok(), "{text}");
        }
        for text in
            ["", "1.2.3", "1.2.3.", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "1..2.3", "1.2.3.4x", "1.2.3.0004"]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"1.2.3.\xff").is_err());
    }

    #[test]
    fn packed_numbers_of_any_width_are_read() {
        let read = |bytes: &[u8], width, count| {
            let mut out = Vec::new();
            packed(bytes, width, count, &mut out).map(|()| out).ok()
        };
        assert_eq!(read(&[6, 1, 3, 0b0000_0101], 1, 5), Some(vec![1, 1, 1, 1, 0]));
        assert_eq!(read(&[3, 0x88, 0xc6, 0xfa], 3, 8), Some(vec![0, 1, 2, 3, 4, 5, 6, 7]));
        assert_eq!(read(&[4, 1, 2, 3], 24, 2), Some(vec![0x03_0201; 2]));
        for (bytes, width) in
            [(&[][..], 8), (&[0, 1], 8), (&[1], 8), (&[3, 1], 8), (&[0xff; 9], 8), (&[4], 8), (&[2, 0], 33)]
        {
            assert_eq!(read(bytes, width, 2), None, "{bytes:?}");
        }
    }
}
