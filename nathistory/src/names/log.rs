//! The log: frames of JSON.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use crate::disk::{Appending, Disk};
use crate::error::Error;
use crate::log::frame;
use crate::names::fact::{NameEntry, NameFact, NameGap};
use crate::time::Millis;

const PREFIX: &str = "names-";
const EXTENSION: &str = ".log";

pub(super) fn log_name(number: u64) -> String {
    format!("{PREFIX}{number:010}{EXTENSION}")
}

fn parse_log_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?.parse().ok()?;
    (log_name(number) == name).then_some(number)
}

/// The numbers of the logs among the files of a directory, in their order.
pub(super) fn log_numbers(files: &[(String, u64)]) -> Vec<u64> {
    let mut numbers: Vec<u64> = files.iter().filter_map(|(name, _)| parse_log_name(name)).collect();
    numbers.sort_unstable();
    numbers
}

/// What logs have said.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) facts: HashMap<u64, NameFact>,
    pub(super) gaps: Vec<NameGap>,
    pub(super) alive: Option<Millis>,
    /// The number of the next frame of the log that was read last, and its length up to the end of its last whole one.
    pub(super) sequence: u32,
    pub(super) length: u64,
    /// Whether something is missing.
    pub(super) is_damaged: bool,
}

impl Said {
    /// Applies a log.
    pub(super) fn read(&mut self, disk: &dyn Disk, number: u64) -> Result<(), Error> {
        let name = log_name(number);
        let failed = |error| Error::io(format!("reading {}/{name}", disk.name()), error);
        let file = disk.open(&name).map_err(failed)?;
        let length = usize::try_from(file.length()).map_err(|_| Error::damaged(&name, "it is too long"))?;
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0).map_err(failed)?;
        (self.sequence, self.length) = (0, 0);
        let mut at = 0;
        while let Some(next) = frame::find(&bytes, at, self.sequence) {
            let Some(frame) = frame::read(&bytes[next..]) else { break };
            self.is_damaged |= next > at || frame.sequence > self.sequence;
            match serde_json::from_slice::<Vec<NameEntry>>(frame.payload) {
                Ok(entries) => entries.into_iter().for_each(|entry| self.apply(entry)),
                Err(_) => self.is_damaged = true,
            }
            self.sequence = frame.sequence + 1;
            at = next + frame::HEAD + frame.payload.len();
            self.length = at as u64;
        }
        Ok(())
    }

    fn apply(&mut self, entry: NameEntry) {
        match entry {
            NameEntry::Fact(fact) => drop(self.facts.insert(fact.key, fact)),
            // A gap that lasts is appended again and again.
            NameEntry::Gap(gap) => {
                let is_same = |other: &&mut NameGap| {
                    (&other.source, &other.place, other.from) == (&gap.source, &gap.place, gap.from)
                };
                match self.gaps.iter_mut().rev().find(is_same) {
                    Some(same) => same.to = same.to.max(gap.to),
                    None => self.gaps.push(gap),
                }
            }
            NameEntry::Alive { at } => self.alive = self.alive.max(Some(at)),
        }
    }
}

/// A log that is appended to.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    pub(super) number: u64,
    file: Box<dyn Appending>,
    sequence: u32,
    pub(super) length: u64,
}

impl Log {
    /// A new log with these entries, durable with its name. If that fails, there is none.
    pub(super) fn create(disk: &Arc<dyn Disk>, number: u64, entries: &[NameEntry]) -> io::Result<Self> {
        let name = log_name(number);
        let file = match disk.create(&name) {
            // What a failure left, which could not be removed then.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&name).and_then(|()| disk.create(&name))?
            }
            other => other?,
        };
        let mut log = Self { disk: disk.clone(), number, file, sequence: 0, length: 0 };
        let filled = log.append(entries).and_then(|()| log.sync()).and_then(|()| disk.sync_names());
        if filled.is_err() {
            // Read after the log before it, it would undo what was appended there since.
            let _ = disk.remove(&name);
        }
        filled.map(|()| log)
    }

    /// Goes on with a log that was read, after what is torn at its end is cut off.
    pub(super) fn reopen(disk: &Arc<dyn Disk>, number: u64, said: &Said) -> io::Result<Self> {
        let name = log_name(number);
        disk.truncate(&name, said.length)?;
        let file = disk.append(&name)?;
        Ok(Self { disk: disk.clone(), number, file, sequence: said.sequence, length: said.length })
    }

    /// Appends entries, some to a frame: all, or those of the first frames.
    pub(super) fn append(&mut self, entries: &[NameEntry]) -> io::Result<()> {
        let mut rest = entries.iter().peekable();
        while rest.peek().is_some() {
            let mut bytes = Vec::new();
            let start = frame::begin(&mut bytes);
            let mut before = b'[';
            while let Some(entry) = rest.next_if(|_| bytes.len() < FRAME) {
                bytes.push(std::mem::replace(&mut before, b','));
                serde_json::to_writer(&mut bytes, entry)?;
            }
            bytes.push(b']');
            frame::finish(&mut bytes, start, self.sequence);
            if let Err(error) = self.file.write_all(&bytes) {
                // If this fails too, a reader finds the next frame behind the torn one.
                let _ = self.disk.truncate(&log_name(self.number), self.length);
                return Err(error);
            }
            self.length += bytes.len() as u64;
            self.sequence += 1;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

/// A frame ends after the entry that makes it at least this long, in bytes.
const FRAME: usize = 256 << 10;
