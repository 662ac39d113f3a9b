//! Verifies the files of a history.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::SegmentFile;
use crate::disk::Disk;
use crate::entry::Entry;
use crate::error::Error;
use crate::log::{Part, log_name, parse_log_name, read_header, replay};
use crate::marker::{self, MARKER};
use crate::removal::Removal;
use crate::segment::{Info, Segment, UNFINISHED, merge_removals};
use crate::time::Millis;

/// How often files that were replaced meanwhile are searched for anew.
const ATTEMPTS: usize = 20;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name. Of a segment that is missing, only the beginning is known.
    pub file: String,
    /// What is wrong.
    pub what: String,
}

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The name of the gateway in the newest segment.
    pub gateway: Option<String>,
    /// The number of segments.
    pub segments: u64,
    /// The number of rows of all segments. A mapping with two public ends has two, and one that was open at the
    /// end of a segment is in the next one again.
    pub rows: u64,
    /// The bytes of all files.
    pub bytes: u64,
    /// The time from which to which there are segments.
    pub span: Option<(Millis, Millis)>,
    /// The segments that were removed because they were too old or too many, as far as that is still known.
    pub removed: Vec<Removal>,
    /// Everything that is wrong. If there is nothing, the files are what was written, and none is missing.
    pub problems: Vec<Problem>,
}

/// A segment, with what is needed to verify the chain.
struct Link {
    file: SegmentFile,
    /// `None` if it is damaged.
    whole: Option<(Info, String)>,
}

/// Verifies each byte of all files, and the chain of hashes between them. It changes nothing, and can be used while
/// a gateway writes.
///
/// # Errors
/// `NotAHistory` and `Newer` if the directory belongs to something else, and those of the disk.
pub fn check(disk: &Arc<dyn Disk>) -> Result<Report, Error> {
    let disk = &**disk;
    let mut report = Report::default();
    let mut links: BTreeMap<String, Link> = BTreeMap::new();
    let mut attempt = 0;
    let (files, logs) = loop {
        let files = disk.list().map_err(|error| Error::io(format!("reading {}", disk.name()), error))?;
        marker::check(disk, &files)?;
        attempt += 1;
        let is_whole = verify_segments(disk, &files, &mut links, &mut report)?;
        let sealed = links.values().map(|link| link.file.name.last).max().unwrap_or_default();
        match read_logs(disk, &files, sealed)? {
            Some(logs) if is_whole => break (files, logs),
            // The gateway replaced a file meanwhile.
            _ if attempt < ATTEMPTS => {}
            _ => {
                let error = std::io::Error::other("its files change faster than they can be read");
                return Err(Error::io(format!("verifying {}", disk.name()), error));
            }
        }
    };
    for (name, bytes) in &files {
        report.bytes += bytes;
        let is_known = SegmentFile::new(name, *bytes).is_some() || parse_log_name(name).is_some();
        if !is_known && name != MARKER && !UNFINISHED.contains(&name.as_str()) {
            report.add(name, "it does not belong to a history");
        }
    }
    let mut links: Vec<Link> = links.into_values().collect();
    links.sort_by_key(|link| (link.file.name.first, std::cmp::Reverse(link.file.name.last)));
    remove_merged(&mut links);
    report.segments = links.len() as u64;
    let infos = || links.iter().filter_map(|link| Some(&link.whole.as_ref()?.0));
    report.rows = infos().map(|info| info.rows).sum();
    report.gateway = infos().next_back().map(|info| info.gateway.clone());
    report.removed = merge_removals(infos().flat_map(|info| &info.removed).chain(&logs.removed));
    report.verify_chain(&links);
    report.problems.extend(logs.problems);
    let froms = links.iter().map(|link| link.file.name.from).min();
    report.span = froms.zip(links.iter().map(|link| link.file.name.to).max());
    Ok(report)
}

/// Verifies the segments that were not verified yet. Returns whether all were still there.
fn verify_segments(
    disk: &dyn Disk,
    files: &[(String, u64)],
    links: &mut BTreeMap<String, Link>,
    report: &mut Report,
) -> Result<bool, Error> {
    let mut is_whole = true;
    for (name, bytes) in files {
        let Some(file) = SegmentFile::new(name, *bytes).filter(|_| !links.contains_key(name)) else {
            continue;
        };
        match verify(disk, file, report)? {
            Some(link) => {
                links.insert(name.clone(), link);
            }
            None => is_whole = false,
        }
    }
    Ok(is_whole)
}

/// Segments of which a merged one is there too are not missing, and not wrong: a crash, or a keeper that is at
/// work, leaves them.
fn remove_merged(links: &mut Vec<Link>) {
    let mut last = 0;
    links.retain(|link| {
        let is_new = link.file.name.last > last;
        last = last.max(link.file.name.last);
        is_new
    });
}

/// Verifies a segment; `None` if it was replaced meanwhile.
fn verify(disk: &dyn Disk, file: SegmentFile, report: &mut Report) -> Result<Option<Link>, Error> {
    let verified = Segment::open(disk, &file.file).and_then(|segment| {
        segment.verify()?;
        let hash = segment.hash()?;
        Ok((segment.info().clone(), hash))
    });
    let whole = match verified {
        Ok(verified) => Some(verified),
        Err(Error::Damaged { what, .. }) => {
            report.add(&file.file, what);
            None
        }
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            report.add(&file.file, error.to_string());
            None
        }
    };
    Ok(Some(Link { file, whole }))
}

impl Report {
    fn add(&mut self, file: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { file: file.into(), what: what.into() });
    }

    fn verify_chain(&mut self, links: &[Link]) {
        let mut before: Option<&Link> = None;
        for link in links {
            let next = before.map_or(1, |before| before.file.name.last + 1);
            if link.file.name.first > next {
                self.verify_removed(link, next, before);
            } else if link.file.name.first < next {
                self.add(&link.file.file, "another segment has some of its numbers");
            } else if let Some(before) = before {
                self.verify_link(before, link);
            }
            before = Some(link);
        }
    }

    /// Whether the segments before this one were removed on purpose.
    fn verify_removed(&mut self, link: &Link, next: u64, before: Option<&Link>) {
        let last = link.file.name.first - 1;
        let removal = self.removed.iter().find(|removal| removal.last == last);
        let previous = link.whole.as_ref().map(|(info, _)| info.previous.as_deref());
        let what = match (removal, before) {
            (Some(removal), None) => match previous {
                // A damaged one has no hash.
                Some(Some(previous))
                    if !removal.hashes.is_empty() && !removal.hashes.iter().any(|hash| hash == previous) =>
                {
                    "the segment before it was removed, but has another hash than this one says"
                }
                _ => return,
            },
            _ => {
                let (first, last) = (name_begin(next), name_begin(last));
                let what = if first == last { "it is missing" } else { "they are missing" };
                let file = if first == last { first } else { format!("{first} to {last}") };
                self.add(file, format!("{what} before {}", link.file.file));
                return;
            }
        };
        self.add(&link.file.file, what);
    }

    /// Whether a segment has the hash that the next one says.
    fn verify_link(&mut self, before: &Link, link: &Link) {
        let (Some((info, hash)), Some((next, _))) = (&before.whole, &link.whole) else { return };
        let Some(previous) = &next.previous else { return };
        if previous != hash && !info.stands_for.contains(previous) {
            let what = format!("it has another hash than {} says: it was replaced", link.file.file);
            self.add(&before.file.file, what);
        }
    }
}

/// What the logs say.
#[derive(Default)]
struct Logs {
    problems: Vec<Problem>,
    removed: Vec<Removal>,
}

/// Reads the logs of which no segment was made yet; `None` if one was replaced meanwhile. The others are removed at
/// the next start.
fn read_logs(disk: &dyn Disk, files: &[(String, u64)], sealed: u64) -> Result<Option<Logs>, Error> {
    let mut numbers: Vec<u64> = files.iter().filter_map(|(name, _)| parse_log_name(name)).collect();
    numbers.retain(|number| *number > sealed);
    numbers.sort_unstable();
    let mut logs = Logs::default();
    let mut expected = sealed + 1;
    for (place, number) in numbers.iter().enumerate() {
        let name = log_name(*number);
        if *number > expected {
            logs.add(&name_begin(expected), format!("it, or its log, is missing before {name}"));
        }
        expected = number + 1;
        let next = numbers.get(place + 1);
        let mut read = || {
            let header = next.map(|next| read_header(disk, *next)).transpose()?.flatten();
            let length = header.and_then(|header| header.before);
            let end = replay(disk, *number, length, &mut |part| logs.read(&name, *number, part))?;
            if end.torn > 0 && next.is_some() {
                logs.add(&name, format!("the last {} bytes are damaged", end.torn));
            }
            Ok(())
        };
        match read() {
            Ok(()) => {}
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(logs))
}

impl Logs {
    fn add(&mut self, file: &str, what: String) {
        self.problems.push(Problem { file: file.to_owned(), what });
    }

    fn read(&mut self, name: &str, number: u64, part: Part) {
        match part {
            Part::Damage(what) => self.add(name, what),
            Part::Header(header) if header.number != number => {
                self.add(name, format!("it is log {}", header.number));
            }
            Part::Header(_) => {}
            Part::Entries(entries, _) => {
                self.removed.extend(entries.into_iter().filter_map(|entry| match entry {
                    Entry::Removed(removal) => Some(removal),
                    _ => None,
                }))
            }
        }
    }
}

/// How the names of a segment that is missing begin.
fn name_begin(number: u64) -> String {
    format!("{number:010}")
}
