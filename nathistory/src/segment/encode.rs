//! Parquet's encodings of the values of one page.
//!
//! They are written here, because they can then use what is known of these columns: rows with the same value
//! cost nothing, dictionaries are sorted by frequency, and each byte of split values is compressed by itself.

use std::io;

use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};

/// The values of a block and of a part of it in `DELTA_BINARY_PACKED`.
const BLOCK: usize = 128;
const PART: usize = 32;

/// Compresses pages with Zstandard, or leaves them as they are.
pub(super) struct Compressor {
    encoder: Option<Encoder<'static>>,
}

impl Compressor {
    /// A compressor of this level; `None` leaves all as it is.
    pub(super) fn new(level: Option<i32>) -> io::Result<Self> {
        Ok(Self { encoder: level.map(Encoder::new).transpose()? })
    }

    /// Compresses these parts, one after the other, into one frame. Each part has blocks of its own: random bytes
    /// of one do not spoil the statistics of another.
    pub(super) fn compress(&mut self, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
        let Some(encoder) = &mut self.encoder else { return Ok(parts.concat()) };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(zstd::zstd_safe::compress_bound(length) + 16 * parts.len());
        encoder.reinit()?;
        encoder.set_pledged_src_size(Some(length as u64))?;
        let mut out = OutBuffer::around(&mut bytes);
        for (index, part) in parts.iter().enumerate() {
            let mut input = InBuffer::around(part);
            while input.pos() < part.len() {
                encoder.run(&mut input, &mut out)?;
            }
            if index + 1 < parts.len() {
                while encoder.flush(&mut out)? > 0 {}
            }
        }
        while encoder.finish(&mut out, true)? > 0 {}
        Ok(bytes)
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)) as u64, out);
}

/// Which rows of a page have a value, as runs of rows with and without one.
pub(super) fn levels(runs: &[(bool, u32)], out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend([0; 4]);
    for (present, rows) in runs {
        varint(u64::from(*rows) << 1, out);
        out.push(u8::from(*present));
    }
    let length = (out.len() - begin - 4) as u32;
    out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
}

/// Indices into a dictionary of so many entries. Few entries are packed into parts of bytes. More have whole bytes,
/// because bits that are not those of a byte cannot be compressed.
pub(super) fn indices(indices: &[u32], entries: usize, out: &mut Vec<u8>) {
    let width = match entries {
        0..=2 => 1,
        3..=4 => 2,
        5..=16 => 4,
        17..=0x100 => 8,
        0x101..=0x1_0000 => 16,
        0x1_0001..=0x100_0000 => 24,
        _ => 32,
    };
    let bytes = usize::div_ceil(width, 8);
    out.push(width as u8);
    let Some(first) = indices.first() else { return };
    if indices.iter().all(|index| index == first) {
        varint((indices.len() as u64) << 1, out);
        out.extend(&first.to_le_bytes()[..bytes]);
        return;
    }
    let groups = indices.len().div_ceil(8);
    varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * width;
    match width {
        1..8 => pack(indices.iter().map(|index| u64::from(*index)), width as u32, out),
        8 => out.extend(indices.iter().map(|index| *index as u8)),
        16 => out.extend(indices.iter().flat_map(|index| (*index as u16).to_le_bytes())),
        _ => indices.iter().for_each(|index| out.extend(&index.to_le_bytes()[..bytes])),
    }
    out.resize(end, 0);
}

/// An integer that a column has.
pub(super) trait Integer: Copy + Ord {
    /// Its size in bytes.
    const SIZE: usize;
    /// Its difference from another one, which can wrap around.
    fn difference(self, from: Self) -> i64;
    /// How far a difference exceeds the least one.
    fn excess(difference: i64, least: i64) -> u64;
    fn wide(self) -> i64;
    /// Its bytes, the least significant one first.
    fn byte(self, index: usize) -> u8;
}

impl Integer for i32 {
    const SIZE: usize = 4;

    fn difference(self, from: Self) -> i64 {
        self.wrapping_sub(from).into()
    }

    fn excess(difference: i64, least: i64) -> u64 {
        u64::from((difference as i32).wrapping_sub(least as i32) as u32)
    }

    fn wide(self) -> i64 {
        self.into()
    }

    fn byte(self, index: usize) -> u8 {
        (self >> (index * 8)) as u8
    }
}

impl Integer for i64 {
    const SIZE: usize = 8;

    fn difference(self, from: Self) -> i64 {
        self.wrapping_sub(from)
    }

    fn excess(difference: i64, least: i64) -> u64 {
        difference.wrapping_sub(least) as u64
    }

    fn wide(self) -> i64 {
        self
    }

    fn byte(self, index: usize) -> u8 {
        (self >> (index * 8)) as u8
    }
}

/// `BYTE_STREAM_SPLIT`: first the first byte of each value, then the second byte of each, and so on.
pub(super) fn split<T: Integer>(values: &[T], out: &mut Vec<u8>) {
    for index in 0..T::SIZE {
        out.extend(values.iter().map(|value| value.byte(index)));
    }
}

/// `DELTA_BINARY_PACKED`: the differences of neighbours, in as few bits as 32 of them need.
pub(super) fn deltas<T: Integer>(values: &[T], out: &mut Vec<u8>) {
    varint(BLOCK as u64, out);
    varint((BLOCK / PART) as u64, out);
    varint(values.len() as u64, out);
    let Some(first) = values.first() else { return zigzag(0, out) };
    zigzag(first.wide(), out);
    let mut last = *first;
    for block in values[1..].chunks(BLOCK) {
        let mut differences = [0; BLOCK];
        for (difference, value) in differences.iter_mut().zip(block) {
            *difference = value.difference(last);
            last = *value;
        }
        let least = differences[..block.len()].iter().copied().min().unwrap_or(0);
        zigzag(least, out);
        let mut excesses = [0; BLOCK];
        for (excess, difference) in excesses.iter_mut().zip(&differences[..block.len()]) {
            *excess = T::excess(*difference, least);
        }
        let widths = out.len();
        out.extend([0; BLOCK / PART]);
        // Parts without values are left out.
        for (index, part) in excesses.chunks(PART).take(block.len().div_ceil(PART)).enumerate() {
            let width = 64 - part.iter().fold(0, |all, excess| all | excess).leading_zeros();
            out[widths + index] = width as u8;
            pack(part.iter().copied(), width, out);
        }
    }
}

/// Packs values into this many bits each, the least significant one first, and fills the last byte with zeros.
fn pack(values: impl Iterator<Item = u64>, width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u128, 0);
    for value in values {
        bits |= u128::from(value) << count;
        count += width;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push(bits as u8);
    }
}
