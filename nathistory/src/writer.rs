//! Appends entries, and freezes what a segment can be made of.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Lock;
use crate::entry::Entry;
use crate::error::Error;
use crate::log::{AppendError, BeginError, Header, LogFile, log_name};
use crate::removal::Removal;
use crate::state::{Frozen, Shared};
use crate::time::{HOUR, Millis};

/// The entries that are applied before readers get their turn.
const PIECE: usize = 256;
/// So many segments may wait for the keeper, however many mappings they have.
const WAITING_SEGMENTS: usize = 2;
/// The bytes of log for each record of a segment. A log that is longer has many mappings that did not close.
const LOG_BYTES: u64 = 128;

/// When a segment is made, and how much may wait for that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealing {
    pub(crate) records: usize,
    pub(crate) interval: Duration,
    pub(crate) most_waiting: usize,
}

/// Appends to a history. There is one.
///
/// Entries are found by readers once [`append`](Self::append) returns, and durable once
/// [`sync`](Self::sync) returns. It never waits for the keeper: what is frozen waits in memory until that has
/// made a segment of it.
pub struct Writer {
    shared: Arc<Shared>,
    seal_records: usize,
    seal_interval: Millis,
    most_waiting: usize,
    /// `None` after a failure, until a new log can be begun.
    log: Option<LogFile>,
    /// The number of the next log.
    next: u64,
    /// The size of the log that failed.
    failed_bytes: u64,
    /// Removals that were appended, and are logged once the log is synced.
    appended: Vec<Removal>,
    _lock: Arc<Lock>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("shared", &self.shared)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        sealing: Sealing,
        log: Option<LogFile>,
        next: u64,
        lock: Arc<Lock>,
    ) -> Self {
        Self {
            shared,
            seal_records: sealing.records.max(1),
            seal_interval: Millis::try_from(sealing.interval.as_millis()).unwrap_or(Millis::MAX),
            most_waiting: sealing.most_waiting,
            log,
            next,
            failed_bytes: 0,
            appended: Vec::new(),
            _lock: lock,
        }
    }

    /// Appends entries at this moment: all, or none.
    ///
    /// # Errors
    /// Those of the disk, also if segments cannot be made for so long that memory would not suffice. Nothing was
    /// appended then. Once this succeeds again, the caller appends a gap, and what is open now.
    pub fn append(&mut self, entries: &[Entry], now: Millis) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.check_waiting()?;
        self.append_in_any_case(entries, now)
    }

    fn append_in_any_case(&mut self, entries: &[Entry], now: Millis) -> Result<(), Error> {
        if self.log.is_none() {
            self.rotate(now)?;
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        if let Err(failure) = log.append(entries, now) {
            let doing = format!("appending to {}/{}", self.shared.disk.name(), log_name(log.number()));
            return Err(match failure {
                AppendError::Undone(error) => Error::io(doing, error),
                AppendError::Broken(error) => {
                    self.give_log_up();
                    Error::io(doing, error)
                }
            });
        }
        let log_bytes = log.length();
        for piece in entries.chunks(PIECE) {
            let mut state = self.shared.write();
            for entry in piece {
                state.memory.apply(entry, now);
            }
        }
        self.shared.write().log_bytes = log_bytes;
        Ok(())
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Those of the disk. What was appended since the last success is known to readers, and becomes durable when
    /// it is sealed, but a crash before that can lose it.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.append_removals()?;
        let Some(log) = &mut self.log else {
            let error = std::io::Error::other("writing failed before, and no new log was begun yet");
            return Err(Error::io(format!("syncing {}", self.shared.disk.name()), error));
        };
        if !log.is_synced() {
            let doing = format!("syncing {}/{}", self.shared.disk.name(), log_name(log.number()));
            if let Err(error) = log.sync() {
                self.give_log_up();
                return Err(Error::io(doing, error));
            }
        }
        self.shared.removals().logged.append(&mut self.appended);
        Ok(())
    }

    /// # Errors
    /// When what waits for the keeper takes too much memory.
    fn check_waiting(&self) -> Result<(), Error> {
        let state = self.shared.read();
        let waiting = state.frozen.len();
        let mappings: usize = state.frozen.iter().map(|frozen| frozen.sealed.len()).sum();
        if waiting <= WAITING_SEGMENTS || mappings < self.most_waiting {
            return Ok(());
        }
        let error = std::io::Error::other(format!("{waiting} segments wait, because none can be made"));
        Err(Error::io(format!("appending to {}", self.shared.disk.name()), error))
    }

    fn append_removals(&mut self) -> Result<(), Error> {
        let wanted = std::mem::take(&mut self.shared.removals().wanted);
        let Some(at) = wanted.iter().map(|removal| removal.at).max() else { return Ok(()) };
        let entries: Vec<Entry> = wanted.iter().cloned().map(Entry::Removed).collect();
        // To remove something can be what makes room.
        match self.append_in_any_case(&entries, at) {
            Ok(()) => {
                self.appended.extend(wanted);
                Ok(())
            }
            Err(error) => {
                self.shared.removals().wanted.extend(wanted);
                Err(error)
            }
        }
    }

    /// What the log has stays in memory. The next rotation freezes it, so that it gets into a segment.
    fn give_log_up(&mut self) {
        if let Some(log) = self.log.take() {
            self.failed_bytes = log.length();
        }
        // They are logged in the segment.
        self.appended.clear();
    }

    /// Whether [`rotate`](Self::rotate) is due: there are enough records for a segment, enough time has passed,
    /// or an hour began, because segments of one hour are merged when it is over.
    pub fn is_seal_due(&self, now: Millis) -> bool {
        let state = self.shared.read();
        let from = state.memory.from();
        state.memory.closed().len() >= self.seal_records
            || state.log_bytes / LOG_BYTES >= self.seal_records as u64
            || now.saturating_sub(from).saturating_abs() >= self.seal_interval
            || now.div_euclid(HOUR) != from.div_euclid(HOUR)
    }

    /// Freezes what is in memory, so that the keeper makes a segment of it, and begins a new log.
    ///
    /// # Errors
    /// Those of the disk. Nothing is frozen then. The next append tries again.
    pub fn rotate(&mut self, now: Millis) -> Result<(), Error> {
        let number = self.next;
        // Should this fail, the segment will have what the log may have lost.
        if let Some(log) = self.log.as_mut().filter(|log| !log.is_synced()) {
            let _ = log.sync();
        }
        // Readers are not kept out: nobody but this writer changes memory.
        let (open, preamble) = {
            let state = self.shared.read();
            (state.memory.copy_open(), state.memory.preamble())
        };
        let log_bytes = self.log.as_ref().map_or(self.failed_bytes, LogFile::length);
        let gateway = self.shared.gateway.clone();
        let header = Header { gateway, number, from: now, before: Some(log_bytes) };
        let log = match LogFile::create(&self.shared.disk, &header, &preamble, now) {
            Ok(log) => log,
            Err(BeginError { error, can_exist }) => {
                if can_exist {
                    self.give_log_up();
                }
                let doing = format!("beginning {}/{}", self.shared.disk.name(), log_name(number));
                return Err(Error::io(doing, error));
            }
        };
        let mut state = self.shared.write();
        let sealed = state.memory.seal(open, now);
        state.frozen.push(Arc::new(Frozen { number: number - 1, sealed, log_bytes }));
        state.rotations += 1;
        state.log_bytes = log.length();
        drop(state);
        self.log = Some(log);
        self.next += 1;
        Ok(())
    }

    /// The size in bytes of the log that is appended to.
    pub fn log_bytes(&self) -> u64 {
        self.log.as_ref().map_or(0, LogFile::length)
    }
}
