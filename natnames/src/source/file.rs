//! A file in which the operator writes who has an address, and since when. doc/NAMES.md describes its lines.
//!
//! The file is read as a whole whenever it changes. The lines of an address are put into the order of time; what has been
//! reported of it is not reported again, so that a file that is read a thousand times tells each thing once.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::Source;
use super::follow::{Watch, at_path};
use super::format::{Parser, Record};
use super::lines::{Line, Lines, Unreadable};
use crate::claim::{Claim, Report};
use crate::host::Host;
use crate::outlet::{Outlet, Stopped};
use crate::time::Millis;

/// What is kept of the lines of a file, in bytes, without what the allocator adds: more than a million lines.
const MOST_MEMORY: usize = 256 << 20;
/// What the labels of a host take at least.
const LABELS: usize = 640;
/// A writer that is at it has paused when nothing happened for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A file that is written all the time is read after this time nevertheless.
const LONGEST_UNREST: Duration = Duration::from_secs(1);
/// The wall clock can be set while a line waits for its begin, so it is looked at this often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Follows a file of lines that say who has an address.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    most_memory: usize,
    reported: HashMap<IpNetwork, Reported>,
}

/// What was reported last of an address.
#[derive(Debug, Clone, Copy)]
struct Reported {
    /// Since when.
    begin: Millis,
    /// Of whom.
    host: u64,
}

/// What a file says of an address, with the moment at which that begins.
type Begin = (Millis, Claim);

impl File {
    /// The file at this path. It need not exist yet, but its folder must.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), most_memory: MOST_MEMORY, reported: HashMap::new() }
    }

    /// The lines of a file that say something, with their numbers.
    fn read(&self, file: fs::File, now: Millis) -> io::Result<Vec<(u64, Record)>> {
        let mut lines = Lines::new(file);
        let (mut parser, mut unreadable, mut why) = (Parser::default(), Unreadable::default(), None);
        let (mut records, mut memory, mut number) = (Vec::new(), 0, 0);
        while let Some(line) = lines.next().map_err(|error| at_path(&self.path, error))? {
            let read = match line {
                Line::Whole(text) | Line::Unfinished(text) => parser.read(text).map_err(|why| (text, why)),
                Line::TooLong(text) => Err((text, "it is too long".to_owned())),
            };
            number += 1;
            match read {
                Ok(None) => {}
                Ok(Some(record)) => {
                    memory += memory_of(&record);
                    records.push((number, record));
                }
                Err((text, error)) => {
                    unreadable.note(text);
                    why.get_or_insert(error);
                }
            }
            if memory > self.most_memory {
                // What is over is given up before what holds.
                records = without_past(records, now);
                memory = records.iter().map(|(_, record)| memory_of(record)).sum();
                if memory > self.most_memory / 4 * 3 {
                    log::warn!(
                        "names: {}: the file is too large: what follows line {number} is not read",
                        self.path.display()
                    );
                    break;
                }
            }
        }
        if let Some(why) = why {
            log::warn!("names: {}: {unreadable}: {why}", self.path.display());
        }
        Ok(records)
    }

    /// Reports a whole list. Returns what begins later, the first at the end.
    fn list(&mut self, records: Vec<(u64, Record)>, outlet: &Outlet) -> Result<Vec<Begin>, Stopped> {
        let now = outlet.now();
        let before = std::mem::take(&mut self.reported);
        let mut later = Vec::new();
        outlet.say(Report::ListBegins { missed_since: None })?;
        for_each_address(records, |net, records| {
            let mut begun = in_order(records, now);
            later.extend(begun.split_off(begun.partition_point(|(begin, _)| *begin <= now)));
            let (reports, reported) = news(net, begun, before.get(&net), now);
            self.reported.extend(reported.map(|reported| (net, reported)));
            reports.into_iter().try_for_each(|report| outlet.say(report))
        })?;
        outlet.say(Report::ListEnds)?;
        later.sort_by_key(|(begin, _)| std::cmp::Reverse(*begin));
        Ok(later)
    }

    /// Reports what has begun meanwhile.
    fn begin(&mut self, later: &mut Vec<Begin>, outlet: &Outlet) -> Result<(), Stopped> {
        let now = outlet.now();
        while later.last().is_some_and(|(begin, _)| *begin <= now) {
            let Some((begin, claim)) = later.pop() else { break };
            self.reported.insert(claim.net, Reported { begin, host: digest(&claim.host) });
            outlet.say(Report::Holds(claim))?;
        }
        Ok(())
    }
}

impl Source for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        let mut watch = Watch::new(&self.path)?;
        let mut file = watch.first_open(outlet)?;
        loop {
            let records = self.read(file, outlet.now())?;
            let mut later = self.list(records, outlet)?;
            outlet.note_read();
            loop {
                let next = later.last().map(|(begin, _)| begin.saturating_sub(outlet.now()));
                let next = next.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
                if watch.wait(outlet, next.map(|next| next.min(LONGEST_WAIT)))? {
                    break;
                }
                self.begin(&mut later, outlet)?;
            }
            let begun = Instant::now();
            while begun.elapsed() < LONGEST_UNREST && watch.wait(outlet, Some(QUIET))? {}
            file = watch.reopen(outlet)?;
        }
    }
}

/// Passes the lines of each address on, in the order of the file.
fn for_each_address<E>(
    mut records: Vec<(u64, Record)>,
    mut each: impl FnMut(IpNetwork, Vec<Record>) -> Result<(), E>,
) -> Result<(), E> {
    records.sort_unstable_by_key(|(number, record)| (net_of(record), *number));
    let mut records = records.into_iter().map(|(_, record)| record).peekable();
    while let Some(first) = records.next() {
        let net = net_of(&first);
        let mut same = vec![first];
        while let Some(next) = records.next_if(|next| net_of(next) == net) {
            same.push(next);
        }
        each(net, same)?;
    }
    Ok(())
}

/// Puts the lines of one address into the order of time.
///
/// A line without a time is of the present, and counts unless a line below it is of the present or the past.
fn in_order(records: Vec<Record>, now: Millis) -> Vec<Begin> {
    let mut timed: Vec<(Millis, Record)> = Vec::with_capacity(records.len());
    let mut is_replaced = false;
    for record in records.into_iter().rev() {
        let (at, is_over) = match &record {
            // It ended, but nobody knows when it began.
            Record::Holds(claim) => (claim.since, claim.since.is_none() && !holds(claim, now)),
            Record::Free { at, .. } => (*at, false),
        };
        if is_over || (at.is_none() && is_replaced) {
            continue;
        }
        let at = at.unwrap_or(now);
        is_replaced |= at <= now;
        timed.push((at, record));
    }
    timed.reverse();
    timed.sort_by_key(|(at, _)| *at);
    let mut claims: Vec<Begin> = Vec::with_capacity(timed.len());
    for (at, record) in timed {
        let last = claims.pop();
        match (record, last) {
            (Record::Holds(claim), last) => {
                // Of two with the same begin, the lower one counts.
                claims.extend(last.filter(|(begin, _)| *begin < at));
                claims.push((at, claim));
            }
            (Record::Free { at: Some(at), .. }, Some((begin, mut last))) => {
                last.until = Some(last.until.map_or(at, |until| until.min(at)));
                claims.push((begin, last));
            }
            // It ends now, and that the list does not have it says so.
            (Record::Free { at: None, .. }, last) => {
                claims.extend(last.filter(|(_, last)| !holds(last, now)));
            }
            (Record::Free { .. }, None) => {}
        }
    }
    claims
}

/// What is to be reported of an address in a list, and what was reported of it then.
fn news(
    net: IpNetwork,
    begun: Vec<Begin>,
    before: Option<&Reported>,
    now: Millis,
) -> (Vec<Report>, Option<Reported>) {
    let Some((begin, last)) = begun.last() else { return (Vec::new(), None) };
    let (begin, host) = (*begin, digest(&last.host));
    let Some(before) = before else {
        let reports = begun.into_iter().map(|(_, claim)| Report::Holds(claim));
        return (reports.collect(), Some(Reported { begin, host }));
    };
    if begin >= before.begin {
        let new = begun.into_iter().filter(|(begin, _)| *begin >= before.begin);
        let reports = new.map(|(_, claim)| Report::Holds(claim));
        return (reports.collect(), Some(Reported { begin, host }));
    }
    // The line that was reported last is gone, and one of a time before it is the last now.
    let mut last = last.clone();
    if !holds(&last, now) {
        return (Vec::new(), Some(*before));
    }
    if host == before.host {
        return (vec![Report::Holds(last)], Some(*before));
    }
    // What was said of that time stays: it holds from now on.
    (last.since, last.within) = (None, 0);
    let reports = vec![Report::Ends { net, at: None }, Report::Holds(last)];
    (reports, Some(Reported { begin: now, host }))
}

/// Leaves out what is over.
fn without_past(records: Vec<(u64, Record)>, now: Millis) -> Vec<(u64, Record)> {
    let mut left = Vec::new();
    let kept: Result<(), Stopped> = for_each_address(records, |_, records| {
        let mut claims = in_order(records, now);
        let present = claims.partition_point(|(begin, _)| *begin <= now).saturating_sub(1);
        let kept = claims.drain(present.min(claims.len())..).filter(|(_, claim)| holds(claim, now));
        // They are above all lines that follow.
        left.extend(kept.map(|(_, claim)| (0, Record::Holds(claim))));
        Ok(())
    });
    debug_assert!(kept.is_ok());
    left
}

fn holds(claim: &Claim, now: Millis) -> bool {
    claim.until.is_none_or(|until| until > now)
}

fn net_of(record: &Record) -> IpNetwork {
    match record {
        Record::Holds(claim) => claim.net,
        Record::Free { net, .. } => *net,
    }
}

fn digest(host: &Host) -> u64 {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    hasher.finish()
}

/// What a line takes in memory.
fn memory_of(record: &Record) -> usize {
    let own = size_of::<(u64, Record)>();
    let Record::Holds(Claim { host, .. }) = record else { return own };
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
    let labels = host.labels.iter().map(|(key, value)| key.capacity() + value.capacity());
    let fixed = if host.labels.is_empty() { 0 } else { LABELS };
    own + fixed + text(&host.name) + text(&host.subscriber) + text(&host.client_id) + labels.sum::<usize>()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
