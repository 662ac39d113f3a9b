//! Reads a log.

use std::io;

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, Reading};
use crate::entry::Entry;
use crate::error::{EIO, Error};
use crate::log::name::log_name;
use crate::log::{codec, frame};
use crate::time::Millis;

/// The first frame is no longer than this, in bytes.
const LONGEST_HEADER: usize = 1 << 16;

/// What is read at once from a disk that cannot read everything, in bytes.
const SECTOR: usize = 4096;

/// What the first frame of a log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The name of the gateway.
    pub(crate) gateway: String,
    /// The number of the segment that it will become.
    pub(crate) number: u64,
    /// The begin of its span.
    pub(crate) from: Millis,
    /// The length of the log before it. If more is there, appending failed, and the caller was told so.
    pub(crate) before: Option<u64>,
}

/// A part of a log.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its first frame.
    Header(Header),
    /// The entries of one frame, and when they were appended.
    Entries(Vec<Entry>, Millis),
    /// Bytes that are no frame, followed by more frames.
    Damage(String),
}

/// How a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// The length in bytes up to the end of the last whole frame.
    pub(crate) length: u64,
    /// The bytes after it, which are no frame: the last write was cut off.
    pub(crate) torn: u64,
    /// The number of the frame that would follow.
    pub(crate) sequence: u32,
    /// Whether there are bytes in the middle that are no frame.
    pub(crate) is_damaged: bool,
    /// Whether the disk cannot read all of it.
    pub(crate) is_unreadable: bool,
}

/// The first frame of a log, if it is there.
pub(crate) fn read_header(disk: &dyn Disk, number: u64) -> Result<Option<Header>, Error> {
    let name = log_name(number);
    let failed = |error| Error::io(format!("reading {name}"), error);
    let file = disk.open(&name).map_err(failed)?;
    let mut bytes =
        vec![0; usize::try_from(file.length()).map_or(LONGEST_HEADER, |all| all.min(LONGEST_HEADER))];
    read_what_is_readable(&*file, &mut bytes).map_err(failed)?;
    let header = frame::read(&bytes).filter(|frame| frame.sequence == 0);
    Ok(header.and_then(|frame| serde_json::from_slice(frame.payload).ok()))
}

/// Passes the parts of a log to `on`, in order. If it is not the newest one, its length is known.
pub(crate) fn replay(
    disk: &dyn Disk,
    number: u64,
    length: Option<u64>,
    on: &mut dyn FnMut(Part),
) -> Result<LogEnd, Error> {
    let name = log_name(number);
    let (mut bytes, unreadable) = read_all(disk, &name)?;
    if let Some(length) = length {
        // Missing bytes are as damaged as others.
        bytes.resize(usize::try_from(length).unwrap_or(bytes.len()).min(bytes.len() + LONGEST_HEADER), 0);
    }
    let mut end =
        LogEnd { length: 0, torn: 0, sequence: 0, is_damaged: false, is_unreadable: unreadable > 0 };
    let mut at = 0;
    while at < bytes.len() {
        let Some(next) = frame::find(&bytes, at, end.sequence) else { break };
        let frame = frame::read(&bytes[next..]);
        let Some(frame) = frame else { break };
        if next > at || frame.sequence > end.sequence {
            end.is_damaged = true;
            let missing = frame.sequence - end.sequence;
            on(Part::Damage(format!(
                "{name}: bytes {at} to {next} are damaged, {missing} batches are missing"
            )));
        }
        match parts(frame) {
            Some(parts) => parts.into_iter().for_each(&mut *on),
            None => {
                end.is_damaged = true;
                on(Part::Damage(format!("{name}: the batch at byte {next} cannot be decoded")));
            }
        }
        end.sequence = frame.sequence + 1;
        at = next + frame::HEAD + frame.payload.len();
        end.length = at as u64;
    }
    if unreadable > 0 {
        end.is_damaged = true;
        on(Part::Damage(format!("{name}: the disk cannot read {unreadable} bytes")));
    }
    end.torn = bytes.len() as u64 - end.length;
    Ok(end)
}

/// The bytes of a file, and how many of them the disk cannot read: these are zero.
fn read_all(disk: &dyn Disk, name: &str) -> Result<(Vec<u8>, usize), Error> {
    let doing = || format!("reading {name}");
    let file = disk.open(name).map_err(|error| Error::io(doing(), error))?;
    let length = usize::try_from(file.length()).map_err(|_| Error::damaged(name, "it is too long"))?;
    let mut bytes = vec![0; length];
    let unreadable = read_what_is_readable(&*file, &mut bytes).map_err(|error| Error::io(doing(), error))?;
    Ok((bytes, unreadable))
}

/// Fills the buffer from the begin of a file. Returns how many bytes the disk cannot read: these are zero.
fn read_what_is_readable(file: &dyn Reading, bytes: &mut [u8]) -> io::Result<usize> {
    match file.read_at(bytes, 0) {
        Err(error) if error.raw_os_error() == Some(EIO) => {}
        other => return other.map(|()| 0),
    }
    let mut unreadable = 0;
    for (place, sector) in (0_u64..).zip(bytes.chunks_mut(SECTOR)) {
        if file.read_at(sector, place * SECTOR as u64).is_err() {
            sector.fill(0);
            unreadable += sector.len();
        }
    }
    Ok(unreadable)
}

fn parts(frame: frame::Frame<'_>) -> Option<Vec<Part>> {
    if frame.sequence == 0 {
        return Some(vec![Part::Header(serde_json::from_slice(frame.payload).ok()?)]);
    }
    let (now, mut rest) = frame.payload.split_first_chunk()?;
    let mut entries = Vec::new();
    while !rest.is_empty() {
        entries.push(codec::decode(&mut rest)?);
    }
    Some(vec![Part::Entries(entries, i64::from_le_bytes(*now))])
}
