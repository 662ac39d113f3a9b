//! Where a segment is written to: it computes the checksums of what passes.

use std::fmt::Write as _;
use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::disk::Appending;

/// Writes to a file, and computes a CRC32C of each block and the hash of all. While it captures, it keeps what
/// is written to it instead.
pub(super) struct Sink {
    file: Box<dyn Appending>,
    hash: Sha256,
    written: u64,
    block_size: usize,
    block: u32,
    in_block: usize,
    checks: Vec<u32>,
    captured: Option<Vec<u8>>,
}

impl Sink {
    pub(super) fn new(file: Box<dyn Appending>, block_size: usize) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            written: 0,
            block_size,
            block: 0,
            in_block: 0,
            checks: Vec::new(),
            captured: None,
        }
    }

    /// What is written from now on is kept in memory.
    pub(super) fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// What was kept; from now on it is written again.
    pub(super) fn captured(&mut self) -> Vec<u8> {
        self.captured.take().unwrap_or_default()
    }

    /// The bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Ends the last block, and returns the checks of all as hexadecimal digits.
    pub(super) fn end_blocks(&mut self) -> String {
        if self.in_block > 0 {
            self.end_block();
        }
        let mut text = String::with_capacity(self.checks.len() * 8);
        for check in &self.checks {
            // Writing to a string does not fail.
            let _ = write!(text, "{check:08x}");
        }
        text
    }

    /// Makes the file durable. Returns its hash.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        self.file.flush()?;
        self.file.sync()?;
        Ok((hexadecimal(&self.hash.finalize()), self.written))
    }

    fn end_block(&mut self) {
        self.checks.push(self.block);
        self.block = 0;
        self.in_block = 0;
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(captured) = &mut self.captured {
            captured.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(self.block_size - self.in_block));
            self.block = crc32c::crc32c_append(self.block, part);
            self.in_block += part.len();
            if self.in_block == self.block_size {
                self.end_block();
            }
            rest = after;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub(super) fn hash_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
