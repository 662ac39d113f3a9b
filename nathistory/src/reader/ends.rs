//! The ends of mappings that are open at the end of a segment.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::catalog::SegmentFile;
use crate::disk::Disk;
use crate::error::Error;
use crate::question::Question;
use crate::record::Record;
use crate::segment::Segment;
use crate::state::Shared;

/// So few mappings are searched one by one. For more, whole segments are read.
const FEW: usize = 64;

/// Finds the ends of those of these mappings that were open at the end of a segment, in the segments after it.
/// Those that memory has, or another segment that is searched for the question, are removed: they are passed from
/// there. A mapping that is nowhere stays open, because its end is not known.
///
/// Most mappings are short, so the segment after it, and no further one, has the end.
///
/// # Errors
/// Those of the disk.
pub(super) fn find_ends(
    shared: &Shared,
    disk: &dyn Disk,
    later: &[Arc<SegmentFile>],
    question: &Question,
    records: &mut Vec<Record>,
) -> Result<(), Error> {
    let mut open: Vec<Record> = records.iter().filter(|record| record.closed.is_none()).copied().collect();
    // What memory has now, it had when the question was asked: mappings only leave it.
    open.retain(|record| !is_in_memory(shared, record));
    let mut known = HashMap::new();
    let mut is_doubtful = false;
    for file in later {
        if open.is_empty() {
            break;
        }
        let found = match shared.open_segment(disk, file) {
            Ok(_) if file.touches(question.from, question.to) => {
                open.clear();
                break;
            }
            Ok(segment) => find_among(&segment, question, &open),
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => open.retain(|record| match found.get(&lifetime(record)) {
                Some(later) if later.closed.is_none() => true,
                other => {
                    // If it was not carried, what was known of it was lost.
                    known.insert(lifetime(record), other.copied().unwrap_or(*record));
                    false
                }
            }),
            // They can be in those after it.
            Err(error) if error.is_of_one_file() => {
                is_doubtful = true;
                continue;
            }
            Err(error) => return Err(error),
        }
        is_doubtful = false;
    }
    if is_doubtful {
        // They can have ended in a segment that cannot be read.
        known.extend(open.iter().map(|record| (lifetime(record), *record)));
    }
    // Those that are left were open until the last segment, so memory had them.
    records.retain_mut(|record| {
        if record.closed.is_none() {
            match known.get(&lifetime(record)) {
                Some(version) => *record = *version,
                None => return false,
            }
        }
        true
    });
    Ok(())
}

/// What a segment knows of these lifetimes.
fn find_among(
    segment: &Segment,
    question: &Question,
    wanted: &[Record],
) -> Result<HashMap<Record, Record>, Error> {
    let mut found = HashMap::new();
    if wanted.len() <= FEW {
        for record in wanted {
            let _ = segment.find(&about(record), &mut |row| {
                if row.record.is_same_lifetime(record) {
                    found.insert(lifetime(record), row.record);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        return Ok(found);
    }
    let wanted: HashSet<Record> = wanted.iter().map(lifetime).collect();
    let anytime = Question { from: i64::MIN, to: i64::MAX, ..*question };
    let _ = segment.find(&anytime, &mut |row| {
        let key = lifetime(&row.record);
        if wanted.contains(&key) {
            found.insert(key, row.record);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// What all versions of a lifetime have in common.
fn lifetime(record: &Record) -> Record {
    Record { mark: None, closed: None, counters: None, ..*record }
}

/// A question that this lifetime fits.
fn about(record: &Record) -> Question {
    let public = record.public_ends().next().map(|end| end.public);
    Question {
        nat_ip: public.map(|public| public.ip),
        nat_port: public.and_then(|public| public.port),
        protocol: Some(record.protocol),
        src_ip: Some(record.src.ip),
        src_port: record.src.port,
        // The end can be a little before the begin, if both come from different clocks.
        ..Question::about(i64::MIN, record.opened.at)
    }
}

/// Whether memory knows a lifetime.
fn is_in_memory(shared: &Shared, record: &Record) -> bool {
    let Some(end) = record.public_ends().next() else { return false };
    let state = shared.read();
    let mut found = state.memory.has_open(record);
    let mut add = |other: Record| found |= other.is_same_lifetime(record);
    for frozen in &state.frozen {
        frozen.sealed.closed.at_end(end.public, &mut add);
    }
    state.memory.closed().at_end(end.public, &mut add);
    found
}
