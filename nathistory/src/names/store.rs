//! Opens the table, appends to it, and seals it.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, Lock};
use crate::error::Error;
use crate::names::fact::{NameEntry, NameFact, NameGap};
use crate::names::file::{self, FactFile, UNFINISHED};
use crate::names::log::{Log, Said, log_name, log_numbers};
use crate::time::Millis;

/// A log is sealed after this time, in milliseconds.
const SPAN: Millis = 24 * 60 * 60 * 1000;
/// A log is sealed when so many bytes were appended to it.
const LONGEST: u64 = 32 << 20;

/// What is stored when a table is opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StoredNames {
    /// The facts, the newest of those that have ended first.
    pub facts: Vec<NameFact>,
    /// Times in which sources were not followed.
    pub gaps: Vec<NameGap>,
    /// The last moment at which sources were followed.
    pub alive: Option<Millis>,
    /// Files of which something could not be read.
    pub damaged: Vec<String>,
}

/// The table of names in a directory.
pub struct NameStore {
    disk: Arc<dyn Disk>,
    _lock: Lock,
    log: Log,
    /// The length with which the log began: facts that hold.
    began_with: u64,
    sealed_at: Millis,
    is_synced: bool,
}

impl std::fmt::Debug for NameStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameStore").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl NameStore {
    /// Opens the table, and reads at most `most` facts that have ended, the newest ones.
    ///
    /// # Errors
    /// If another process has it open, and those of the disk. A damaged file is none: what can be read of it is.
    pub fn open(disk: Arc<dyn Disk>, most: usize, now: Millis) -> Result<(Self, StoredNames), Error> {
        let doing = |what: &str| format!("{what} {}", disk.name());
        let lock = disk.lock().map_err(|error| Error::io(doing("locking"), error))?;
        let names = disk.list().map_err(|error| Error::io(doing("listing"), error))?;
        let mut files: Vec<FactFile> = names.iter().filter_map(|(name, _)| FactFile::parse(name)).collect();
        files.sort_by_key(|file| file.number);
        let sealed = files.last().map_or(0, |file| file.number);
        let mut logs = log_numbers(&names);
        // What a crash left.
        for number in logs.iter().filter(|number| **number <= sealed) {
            let _ = disk.remove(&log_name(*number));
        }
        let _ = disk.remove(UNFINISHED);
        logs.retain(|number| *number > sealed);
        let mut said = Said::default();
        let mut stored = StoredNames::default();
        for number in &logs {
            said.read(&*disk, *number)?;
            if std::mem::take(&mut said.is_damaged) {
                stored.damaged.push(log_name(*number));
            }
        }
        let log = match logs.last() {
            Some(number) => Log::reopen(&disk, *number, &said),
            None => Log::create(&disk, sealed + 1, &[]),
        };
        let log = log.map_err(|error| Error::io(doing("opening a log in"), error))?;
        // A fact can have been sealed before more was known of it: the log knows more than a file, and a later file more
        // than an earlier one.
        let mut facts = said.facts;
        for file in files.iter().rev() {
            if facts.len() >= most {
                break;
            }
            match file::read(&*disk, file) {
                Ok(read) => {
                    for fact in read {
                        facts.entry(fact.key).or_insert(fact);
                    }
                }
                Err(_) => stored.damaged.push(file.name.clone()),
            }
        }
        stored.facts = facts.into_values().collect();
        stored.facts.sort_by_key(|fact| (std::cmp::Reverse(fact.end()), fact.key));
        stored.facts.truncate(most);
        (stored.gaps, stored.alive) = (said.gaps, said.alive);
        // Without a file, it is not known how old the log is.
        let sealed_at = files.last().map_or(if logs.is_empty() { now } else { 0 }, |file| file.to);
        let store = Self { disk, _lock: lock, log, began_with: 0, sealed_at, is_synced: true };
        Ok((store, stored))
    }

    /// Appends entries: all, or a part from the begin.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn append(&mut self, entries: &[NameEntry]) -> io::Result<()> {
        self.is_synced &= entries.is_empty();
        self.log.append(entries)
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.log.sync()?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Makes a file of the facts that have ended, if it is time, and removes files whose facts all ended before `oldest`.
    ///
    /// # Errors
    /// Those of the disk. Nothing is lost then.
    pub fn seal_if_due(&mut self, now: Millis, oldest: Millis) -> Result<(), Error> {
        let appended = self.log.length.saturating_sub(self.began_with);
        if appended < LONGEST && now.saturating_sub(self.sealed_at) < SPAN {
            return Ok(());
        }
        self.seal(now, oldest)
    }

    pub(super) fn seal(&mut self, now: Millis, oldest: Millis) -> Result<(), Error> {
        let doing = || format!("sealing {}", self.disk.name());
        self.sealed_at = now;
        let mut said = Said::default();
        let names = self.disk.list().map_err(|error| Error::io(doing(), error))?;
        let mut logs = log_numbers(&names);
        logs.retain(|number| *number <= self.log.number);
        for number in &logs {
            said.read(&*self.disk, *number)?;
        }
        let (mut ended, open): (Vec<NameFact>, Vec<NameFact>) =
            said.facts.into_values().partition(|fact| fact.end() <= now);
        let gaps = said.gaps.into_iter().filter(|gap| gap.to >= oldest).map(NameEntry::Gap);
        let entries: Vec<NameEntry> = open
            .into_iter()
            .map(NameEntry::Fact)
            .chain(gaps)
            .chain(said.alive.map(|at| NameEntry::Alive { at }))
            .collect();
        let before = self.log.number;
        let next = Log::create(&self.disk, before + 1, &entries);
        self.log = next.map_err(|error| Error::io(doing(), error))?;
        self.began_with = self.log.length;
        // From here on, both logs together have everything, until the file is there.
        let to = ended.iter().map(NameFact::end).max().unwrap_or(now);
        file::write(&*self.disk, before, &mut ended, to)?;
        for number in logs {
            // What remains is removed when the table is opened.
            let _ = self.disk.remove(&log_name(number));
        }
        for file in names.iter().filter_map(|(name, _)| FactFile::parse(name)).filter(|file| file.to < oldest)
        {
            let _ = self.disk.remove(&file.name);
        }
        Ok(())
    }
}
