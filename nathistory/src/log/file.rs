//! A log that is appended to.

use std::io;
use std::sync::Arc;

use crate::disk::{Appending, Disk};
use crate::entry::Entry;
use crate::log::name::log_name;
use crate::log::replay::{Header, LogEnd};
use crate::log::{codec, frame};
use crate::time::Millis;

/// A frame ends after the entry that makes it at least this long, in bytes.
const FRAME: usize = 256 << 10;

/// Appends to one file.
pub(crate) struct LogFile {
    disk: Arc<dyn Disk>,
    number: u64,
    file: Box<dyn Appending>,
    /// The length of all whole frames.
    length: u64,
    /// The number of the next frame.
    sequence: u32,
    is_synced: bool,
    buffer: Vec<u8>,
}

/// A log could not be begun.
#[derive(Debug)]
pub(crate) struct BeginError {
    pub(crate) error: io::Error,
    /// Whether its file can exist now, or after a crash. Then the log before it has the length that this one says,
    /// and must not be appended to any more.
    pub(crate) can_exist: bool,
}

/// Appending failed.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// The file is as it was before.
    Undone(io::Error),
    /// The file can end with a part of a frame, and must not be used any more.
    Broken(io::Error),
}

impl LogFile {
    /// A new log with these entries, durable with its name.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        header: &Header,
        entries: &[Entry],
        now: Millis,
    ) -> Result<Self, BeginError> {
        let name = log_name(header.number);
        let not_begun = |error| BeginError { error, can_exist: false };
        let begun = |error| BeginError { error, can_exist: true };
        let mut buffer = Vec::new();
        let start = frame::begin(&mut buffer);
        buffer.extend_from_slice(&serde_json::to_vec(header).map_err(|error| not_begun(error.into()))?);
        frame::finish(&mut buffer, start, 0);
        let file = match disk.create(&name) {
            // It was begun before, and could not be removed when that failed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&name).and_then(|()| disk.create(&name)).map_err(begun)?
            }
            other => other.map_err(not_begun)?,
        };
        let mut log = Self {
            disk: Arc::clone(disk),
            number: header.number,
            file,
            length: 0,
            sequence: 1,
            is_synced: false,
            buffer,
        };
        let finished = log.finish_creation(entries, now);
        if finished.is_err() {
            // It has nothing that is needed. If this fails too, the next attempt or start removes it.
            let _ = disk.remove(&name);
        }
        finished.map(|()| log).map_err(begun)
    }

    fn finish_creation(&mut self, entries: &[Entry], now: Millis) -> io::Result<()> {
        self.encode(entries, now);
        self.file.write_all(&self.buffer)?;
        self.length = self.buffer.len() as u64;
        self.file.sync()?;
        self.is_synced = true;
        self.disk.sync_names()
    }

    /// Goes on with a log that was read, after what is torn at its end is cut off.
    pub(crate) fn reopen(disk: &Arc<dyn Disk>, number: u64, end: &LogEnd) -> io::Result<Self> {
        let name = log_name(number);
        if end.torn > 0 {
            disk.truncate(&name, end.length)?;
        }
        let file = disk.append(&name)?;
        let mut log = Self {
            disk: Arc::clone(disk),
            number,
            file,
            length: end.length,
            sequence: end.sequence,
            is_synced: false,
            buffer: Vec::new(),
        };
        // A process that was killed can have left frames that are not durable.
        log.sync()?;
        Ok(log)
    }

    /// The number of the segment that it will become.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Whether all is durable.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Appends entries: all, or none.
    pub(crate) fn append(&mut self, entries: &[Entry], now: Millis) -> Result<(), AppendError> {
        let sequence = self.sequence;
        self.buffer.clear();
        self.encode(entries, now);
        self.is_synced = false;
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.length += self.buffer.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.sequence = sequence;
                match self.disk.truncate(&log_name(self.number), self.length) {
                    Ok(()) => Err(AppendError::Undone(error)),
                    Err(_) => Err(AppendError::Broken(error)),
                }
            }
        }
    }

    /// Makes all durable. After an error, nothing can be assumed of what was appended since the last success:
    /// the kernel can have dropped the pages, so a second attempt would succeed without them.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.is_synced = true;
        Ok(())
    }

    fn encode(&mut self, entries: &[Entry], now: Millis) {
        let mut entries = entries.iter().peekable();
        while entries.peek().is_some() {
            let start = frame::begin(&mut self.buffer);
            self.buffer.extend_from_slice(&now.to_le_bytes());
            while self.buffer.len() - start < FRAME {
                let Some(entry) = entries.next() else { break };
                codec::encode(entry, &mut self.buffer);
            }
            frame::finish(&mut self.buffer, start, self.sequence);
            self.sequence += 1;
        }
    }
}
