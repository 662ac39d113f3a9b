//! Opens a history.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::Error;
use crate::keeper::{Keeper, Retention};
use crate::log::{Header, LogFile, log_name};
use crate::marker;
use crate::reader::Reader;
use crate::start;
use crate::state::Shared;
use crate::time::Millis;
use crate::writer::{Sealing, Writer};

/// How a history is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The name of the gateway.
    pub gateway: String,
    /// A segment is made after so many records at the latest.
    pub seal_records: usize,
    /// A segment is made after this time at the latest, and when an hour begins.
    pub seal_interval: Duration,
    /// If so many mappings wait in memory to become segments, because none can be made, no more are appended.
    pub most_waiting: usize,
    /// For how long records are kept at least, after the end of their segment's span: an hour or a day.
    pub retention: Option<Duration>,
    /// The most bytes that all files should have. The newest segment and the log are kept in any case.
    pub retention_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gateway: String::new(),
            seal_records: 500_000,
            seal_interval: Duration::from_secs(15 * 60),
            most_waiting: 8_000_000,
            retention: None,
            retention_bytes: None,
        }
    }
}

/// An open history.
#[derive(Debug)]
pub struct Store {
    /// Appends.
    pub writer: Writer,
    /// Seals, merges and removes.
    pub keeper: Keeper,
    /// Answers.
    pub reader: Reader,
    /// Until when everything is known from before this start; `None` if the history is new. From then on there
    /// is a gap, which the caller appends, followed by what is open now.
    pub last_alive: Option<Millis>,
}

/// Opens the history in a directory, or begins one in an empty directory.
///
/// # Errors
/// `InUse` if another writer has it, `NotAHistory` and `Newer` if it belongs to something else, and those of the
/// disk. What is damaged is no error: it becomes a gap.
pub fn open(disk: Arc<dyn Disk>, options: Options, now: Millis) -> Result<Store, Error> {
    let lock = disk.lock().map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Error::InUse { path: disk.name() };
        }
        Error::io(format!("locking {}", disk.name()), error)
    })?;
    let files = disk.list().map_err(|error| Error::io(format!("reading {}", disk.name()), error))?;
    if !marker::check(&*disk, &files)? {
        marker::create(&*disk)?;
    }
    let found = start::find(&*disk, &files, now)?;
    // A process that was killed can have left names that are not durable: those of segments for which the needless
    // files were replaced, too.
    disk.sync_names().map_err(|error| Error::io(format!("syncing {}", disk.name()), error))?;
    for file in &found.needless {
        disk.remove(file).map_err(|error| Error::io(format!("removing {}/{file}", disk.name()), error))?;
    }
    make_durable(&disk, found.state.frozen.iter().map(|frozen| frozen.number))?;
    let last_alive = found.state.memory.last_alive();
    let from = found.state.memory.from();
    let is_damaged = found.log.is_some_and(|(_, end)| end.is_damaged);
    let shared = Arc::new(Shared::new(Arc::clone(&disk), options.gateway.clone(), found.state));
    let log = match found.log {
        Some((number, end)) => LogFile::reopen(&disk, number, &end),
        None => {
            let header = Header { gateway: options.gateway, number: found.next, from, before: None };
            let preamble = shared.read().memory.preamble();
            LogFile::create(&disk, &header, &preamble, from).map_err(|failure| failure.error)
        }
    };
    let log = log.map_err(|error| Error::io(format!("opening the log in {}", disk.name()), error))?;
    shared.write().log_bytes = log.length();
    let next = log.number() + 1;
    let lock = Arc::new(lock);
    let sealing = Sealing {
        records: options.seal_records,
        interval: options.seal_interval,
        most_waiting: options.most_waiting,
    };
    let mut writer = Writer::new(Arc::clone(&shared), sealing, Some(log), next, Arc::clone(&lock));
    if is_damaged {
        // So that the gap is written down, and the damaged bytes need not be read again.
        writer.rotate(now)?;
    }
    let retention = Retention { age: options.retention, bytes: options.retention_bytes };
    let keeper = Keeper::new(Arc::clone(&shared), retention, lock);
    Ok(Store { writer, keeper, reader: Reader::new(shared), last_alive })
}

/// Makes logs durable that are not yet sealed. A process that was killed can have left frames that are not.
fn make_durable(disk: &Arc<dyn Disk>, logs: impl Iterator<Item = u64>) -> Result<(), Error> {
    for number in logs {
        let name = log_name(number);
        let synced = disk.append(&name).and_then(|mut file| file.sync());
        match synced {
            Ok(()) => {}
            Err(error) => {
                let error = Error::io(format!("syncing {}/{name}", disk.name()), error);
                // What could be read of it becomes a segment.
                if !error.is_of_one_file() {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
