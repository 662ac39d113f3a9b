//! What is there when a history is opened.

use std::sync::Arc;

use crate::catalog::{Catalog, SegmentFile};
use crate::disk::Disk;
use crate::error::Error;
use crate::gap::{Gap, Reason};
use crate::log::{Header, LogEnd, Part, log_name, parse_log_name, read_header, replay};
use crate::memory::Memory;
use crate::segment::{Segment, UNFINISHED};
use crate::state::{Frozen, State};
use crate::time::Millis;

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) state: State,
    /// The newest log, which can be appended to.
    pub(crate) log: Option<(u64, LogEnd)>,
    /// The number of the next log, if a new one is begun.
    pub(crate) next: u64,
    /// The name of the gateway in the newest file.
    pub(crate) gateway: Option<String>,
    /// Files that are not needed any more.
    pub(crate) needless: Vec<String>,
}

/// Reads the files of a directory: the open mappings of the newest segment, and the logs after it.
///
/// # Errors
/// Those of the disk. What is damaged becomes a gap.
pub(crate) fn find(disk: &dyn Disk, files: &[(String, u64)], now: Millis) -> Result<Found, Error> {
    let (mut catalog, mut needless) = Catalog::of_files(disk, files);
    let unfinished = files.iter().map(|(name, _)| name).filter(|name| UNFINISHED.contains(&name.as_str()));
    needless.extend(unfinished.cloned());
    // A segment is made again if it is damaged while its log is still there.
    if let Some(damaged) = catalog.last().filter(|newest| has_log(files, newest) && is_damaged(disk, newest))
    {
        needless.push(damaged.file.clone());
        let without = catalog.without(&damaged.file);
        catalog = without;
    }
    let sealed = catalog.last().map_or(0, |newest| newest.name.last);
    let mut logs: Vec<(u64, u64)> =
        files.iter().filter_map(|(name, bytes)| Some((parse_log_name(name)?, *bytes))).collect();
    logs.sort_unstable();
    let done = logs.partition_point(|(number, _)| *number <= sealed);
    needless.extend(logs.drain(..done).map(|(number, _)| log_name(number)));

    let headers = logs.iter().map(|(number, _)| read_header(disk, *number)).collect::<Result<Vec<_>, _>>()?;
    let mut gateway = headers.iter().flatten().last().map(|header| header.gateway.clone());
    if let (None, Some(newest)) = (&gateway, catalog.last()) {
        gateway = Segment::open(disk, &newest.file).ok().map(|segment| segment.info().gateway.clone());
    }
    let memory = carried(disk, &catalog, headers.iter().flatten().next(), now)?;
    let mut state = State {
        memory,
        frozen: Vec::new(),
        catalog: Arc::new(catalog),
        rotations: 0,
        log_bytes: 0,
        ends_at: None,
    };
    let mut expected = sealed + 1;
    let mut log = None;
    for (place, &(number, bytes)) in logs.iter().enumerate() {
        if let Some((before, _)) = log.take() {
            let to = headers[place].as_ref().map_or(state.memory.span().1, |header| header.from);
            state.freeze(before, to);
        }
        let mut reading = Reading { memory: &mut state.memory, now: None, damage: None };
        if number > expected {
            reading.begin_damage(missing(expected, number - 1));
        }
        let next = headers.get(place + 1).and_then(Option::as_ref);
        let length = next.and_then(|next| next.before);
        let end = replay(disk, number, length, &mut |part| reading.read(part))?;
        let is_newest = place + 1 == logs.len();
        if end.torn > 0 && !is_newest {
            // It was finished, so no write can have been cut off at its end.
            let name = log_name(number);
            reading.begin_damage(format!("{name}: the last {} bytes are damaged", end.torn));
        }
        reading.end_damage(next.map_or(now, |next| next.from));
        state.log_bytes = bytes.saturating_sub(if is_newest { end.torn } else { 0 });
        expected = number + 1;
        if is_newest && end.is_unreadable {
            // Neither is it cut off where the disk cannot read it, nor appended to.
            state.freeze(number, now);
            state.log_bytes = 0;
            break;
        }
        log = Some((number, end));
    }
    // A log whose begin never became durable has nothing.
    let log = match log {
        Some((number, end)) if end.length == 0 => {
            expected = number;
            state.log_bytes = 0;
            None
        }
        other => other,
    };
    Ok(Found { state, log, next: expected, gateway, needless })
}

fn has_log(files: &[(String, u64)], segment: &SegmentFile) -> bool {
    let log = log_name(segment.name.last);
    segment.name.first == segment.name.last && files.iter().any(|(name, _)| *name == log)
}

fn is_damaged(disk: &dyn Disk, segment: &SegmentFile) -> bool {
    Segment::open(disk, &segment.file).is_err_and(|error| error.is_of_one_file())
}

fn missing(first: u64, last: u64) -> String {
    if first == last {
        format!("{} is missing", log_name(first))
    } else {
        format!("{} to {} are missing", log_name(first), log_name(last))
    }
}

/// The memory with which the logs after the segments begin.
fn carried(
    disk: &dyn Disk,
    catalog: &Catalog,
    header: Option<&Header>,
    now: Millis,
) -> Result<Memory, Error> {
    let first = catalog.first().map(|oldest| oldest.name.from);
    let newest = catalog.last().map(|newest| newest.name.to);
    let from = newest.or(header.map(|header| header.from)).unwrap_or(now);
    let mut memory = Memory::new(first.unwrap_or(from), from);
    memory.begin_alive(newest);
    // If the newest segment is damaged, an older one knows mappings that can still be open. A reader names the
    // gap, so this need not.
    for file in catalog.segments().iter().rev() {
        match carry(disk, &file.file, &mut memory) {
            Ok(()) => break,
            Err(error) if error.is_of_one_file() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(memory)
}

fn carry(disk: &dyn Disk, file: &str, memory: &mut Memory) -> Result<(), Error> {
    let segment = Segment::open(disk, file)?;
    let to = segment.info().to;
    for gap in segment.info().gaps.iter().filter(|gap| gap.ends_after(to)) {
        memory.add_gap(gap.clone());
    }
    for row in segment.open_rows() {
        memory.carry(&row?.record);
    }
    memory.end_carrying();
    memory.begin_swept(segment.info().swept);
    Ok(())
}

/// Applies the parts of logs.
struct Reading<'a> {
    memory: &'a mut Memory,
    /// When the last batch was appended.
    now: Option<Millis>,
    /// Where something is missing: from when, and what.
    damage: Option<(Millis, String)>,
}

impl Reading<'_> {
    fn read(&mut self, part: Part) {
        match part {
            Part::Header(header) => self.now = Some(header.from),
            Part::Damage(what) => self.begin_damage(what),
            Part::Entries(entries, now) => {
                self.end_damage(now);
                self.now = Some(now);
                for entry in &entries {
                    self.memory.apply(entry, now);
                }
            }
        }
    }

    fn begin_damage(&mut self, what: String) {
        // What is missing can have happened a little before it was appended.
        let alive = self.memory.last_alive();
        let from = self.now.into_iter().chain(alive).min().unwrap_or(self.memory.from());
        match &mut self.damage {
            Some((_, whats)) => {
                whats.push_str("; ");
                whats.push_str(&what);
            }
            none => *none = Some((from, what)),
        }
    }

    fn end_damage(&mut self, at: Millis) {
        if let Some((from, what)) = self.damage.take() {
            let to = Some(at.max(from));
            self.memory.add_gap(Gap { from, to, reason: Reason::Damaged, detail: Some(what) });
        }
    }
}

impl State {
    /// Freezes what was read from a log that is not the newest.
    fn freeze(&mut self, number: u64, to: Millis) {
        let open = self.memory.copy_open();
        let sealed = self.memory.seal(open, to);
        self.frozen.push(Arc::new(Frozen { number, sealed, log_bytes: self.log_bytes }));
        self.rotations += 1;
    }
}
