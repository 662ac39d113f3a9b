//! A file whose blocks are verified when they are read.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use crate::disk::Reading;
use crate::error::Error;

/// The blocks that are kept. The columns of one page lie close together, and large pages span two blocks.
const KEPT: usize = 32;
const DIGITS: usize = 8;

/// What the footer says of the blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Checks {
    /// The bytes of a block; the last one can be shorter.
    pub(super) block_size: usize,
    /// The bytes of all blocks: where the footer begins.
    pub(super) length: u64,
    /// The CRC32C of each, eight hexadecimal digits.
    pub(super) crc32c: String,
}

/// The part of a file before its footer. Clones share the blocks that are kept.
#[derive(Clone)]
pub(super) struct Blocks {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    file: Arc<dyn Reading>,
    checks: Checks,
    /// The blocks that were read last, the newest at the end.
    kept: Mutex<Vec<(usize, Bytes)>>,
}

impl Blocks {
    /// The blocks of a file. `footer` is where the footer begins.
    pub(super) fn new(
        name: &str,
        file: Arc<dyn Reading>,
        checks: Checks,
        footer: u64,
    ) -> Result<Self, String> {
        let size = checks.block_size as u64;
        if checks.length != footer || size == 0 {
            return Err(format!("it has {footer} bytes before its footer, not {}", checks.length));
        }
        if checks.crc32c.len() as u64 != footer.div_ceil(size) * DIGITS as u64 {
            return Err("the number of its blocks is not that of their checks".to_owned());
        }
        let kept = Mutex::new(Vec::new());
        Ok(Self { shared: Arc::new(Shared { name: name.to_owned(), file, checks, kept }) })
    }

    /// The number of blocks.
    pub(super) fn count(&self) -> usize {
        self.shared.checks.crc32c.len() / DIGITS
    }

    /// Reads and verifies one block.
    pub(super) fn verify(&self, index: usize) -> Result<(), ParquetError> {
        self.shared.read(index).map(drop)
    }
}

impl Shared {
    fn block(&self, index: usize) -> Result<Bytes, ParquetError> {
        let find = |kept: &mut Vec<(usize, Bytes)>| {
            let at = kept.iter().rposition(|(other, _)| *other == index)?;
            // It becomes the newest.
            kept[at..].rotate_left(1);
            kept.last().map(|(_, bytes)| bytes.clone())
        };
        if let Some(bytes) = find(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(bytes);
        }
        // Read without the lock: another thread reads the same one at worst.
        let bytes = self.read(index)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((index, bytes.clone()));
        Ok(bytes)
    }

    fn read(&self, index: usize) -> Result<Bytes, ParquetError> {
        let start = index as u64 * self.checks.block_size as u64;
        let size = (self.checks.length.saturating_sub(start)).min(self.checks.block_size as u64);
        let mut buffer = BytesMut::zeroed(size as usize);
        self.file
            .read_at(&mut buffer, start)
            .map_err(|error| external(Error::io(format!("reading {}", self.name), error)))?;
        let digits = self.checks.crc32c.get(index * DIGITS..(index + 1) * DIGITS);
        let expected = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let found = crc32c::crc32c(&buffer);
        if expected != Some(found) {
            let expected = digits.unwrap_or("none");
            let what =
                format!("the CRC32C of bytes {start} to {} is {found:08x}, not {expected}", start + size);
            return Err(external(Error::damaged(&self.name, what)));
        }
        Ok(buffer.freeze())
    }
}

impl Length for Blocks {
    /// That of the whole file: what is read is compared with it. But only what precedes the footer can be read.
    fn len(&self) -> u64 {
        self.shared.file.length()
    }
}

impl ChunkReader for Blocks {
    type T = BlocksRead;

    fn get_read(&self, start: u64) -> Result<BlocksRead, ParquetError> {
        Ok(BlocksRead { blocks: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let all = self.shared.checks.length;
        let end = start.checked_add(length as u64).filter(|end| *end <= all);
        let Some(end) = end else {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} end after {all}")));
        };
        if length == 0 {
            return Ok(Bytes::new());
        }
        let size = self.shared.checks.block_size as u64;
        let (first, last) = ((start / size) as usize, ((end - 1) / size) as usize);
        let part = |index: usize| {
            let block = self.shared.block(index)?;
            let begin = index as u64 * size;
            let from = start.saturating_sub(begin) as usize;
            Ok::<_, ParquetError>(block.slice(from..((end - begin).min(size)) as usize))
        };
        if first == last {
            return part(first);
        }
        let mut bytes = BytesMut::with_capacity(length);
        for index in first..=last {
            bytes.extend_from_slice(&part(index)?);
        }
        Ok(bytes.freeze())
    }
}

/// Reads on from an offset.
pub(super) struct BlocksRead {
    blocks: Blocks,
    at: u64,
}

impl Read for BlocksRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.blocks.shared.checks.block_size as u64;
        let to_block_end = size - self.at % size;
        let left = self.blocks.shared.checks.length.saturating_sub(self.at).min(to_block_end);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = self.blocks.get_bytes(self.at, length).map_err(io::Error::other)?;
        buffer[..length].copy_from_slice(&bytes);
        self.at += length as u64;
        Ok(length)
    }
}

/// Runs what decodes. Parquet's code panics on some pages that nobody writes; their checks can be right all the same
/// if somebody made them on purpose. What was being decoded is not used any more then.
pub(super) fn contained<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let panicked = |_| Err(ParquetError::General("it cannot be decoded".to_owned()));
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(panicked)
}

/// An error of the history, on its way through Parquet's code.
pub(super) fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// An error as that of the file. What is not an error of the system says that the file is damaged.
pub(super) fn of_file(name: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(other) => Error::damaged(name, other.to_string()),
        },
        other => Error::damaged(name, other.to_string()),
    }
}
