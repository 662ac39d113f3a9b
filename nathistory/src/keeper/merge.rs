//! Merges the segments of an hour, and those of a day.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::{Catalog, SegmentFile};
use crate::disk::Disk;
use crate::error::Error;
use crate::segment::{self, Info, Kind, Segment, Written, merge_gaps, merge_removals};
use crate::time::{DAY, HOUR, Millis};

/// The most segments that are merged at once, which bounds the memory for it. More need several rounds.
const MOST: usize = 32;
/// A segment that ends so shortly after an hour still belongs to the hour before: its log is ended at the first
/// occasion after the hour.
const LATE: Millis = 60_000;

/// Why nothing was merged.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The input that cannot be read.
    pub(super) damaged: Option<String>,
}

/// The segments that are to be merged next: those of the oldest hour that is over and has several, otherwise
/// those of the oldest day that is over. The newest segment is never among them: at the start, its open mappings
/// are read, which takes longer from a large file. The hour and the day of the newest are not over.
pub(super) fn due<'a>(
    catalog: &'a Catalog,
    unmergeable: &BTreeSet<String>,
) -> Option<&'a [Arc<SegmentFile>]> {
    let (newest, others) = catalog.segments().split_last()?;
    [HOUR, DAY].into_iter().find_map(|length| {
        let part = |file: &SegmentFile| part(file.name.to, length);
        let follow = |a: &SegmentFile, b: &SegmentFile| {
            part(a) == part(b)
                // Over a segment that is missing, nothing is carried.
                && a.name.last + 1 == b.name.first
                && !unmergeable.contains(&a.file)
                && !unmergeable.contains(&b.file)
        };
        let mut parts = others.chunk_by(|a, b| follow(a, b));
        let due = parts.find(|inputs| inputs.len() > 1 && part(&inputs[0]) != part(newest))?;
        Some(&due[..due.len().min(MOST)])
    })
}

/// Merges segments that follow each other; `None` if the first two are of gateways with different names. Every now and
/// then it calls `between`, because merging a day can take minutes.
pub(super) fn merge(
    disk: &dyn Disk,
    catalog: &Catalog,
    files: &[Arc<SegmentFile>],
    between: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Option<Written>, Failed> {
    let mut inputs = Vec::new();
    for file in files {
        let damaged = |error| failed(error, &file.file);
        inputs.push(Segment::open(disk, &file.file).map_err(damaged)?);
    }
    let gateway = inputs[0].info().gateway.clone();
    let same = inputs.iter().take_while(|input| input.info().gateway == gateway).count();
    inputs.truncate(same);
    if inputs.len() < 2 {
        return Ok(None);
    }
    let last = &inputs[inputs.len() - 1];
    let last_hash = last.hash().map_err(|error| failed(error, last.name()))?;
    let info = merged_info(&inputs, last_hash);
    let mut rows = segment::Merge::new(&inputs, between);
    let is_hour = part(inputs[0].info().to, HOUR) == part(last.info().to, HOUR);
    let kind = if is_hour { Kind::Hour } else { Kind::Day };
    if kind == Kind::Day {
        // In an hour, somebody may still compare ids with what the kernel reports. In a day they are a third of all bytes.
        let before = catalog.segments().iter().rfind(|file| file.name.last < info.first);
        rows = rows.without_ids(&info, before.map(|before| before.name.to));
    }
    let written = segment::write(disk, kind, info, &mut rows);
    written.map(Some).map_err(|error| match &error {
        Error::Damaged { file, .. } => {
            let file = file.clone();
            failed(error, &file)
        }
        _ => Failed { error, damaged: None },
    })
}

/// The number of the hour or of the day to which a segment belongs that ends at this moment.
fn part(to: Millis, length: Millis) -> Millis {
    (to - LATE).div_euclid(length)
}

fn failed(error: Error, file: &str) -> Failed {
    let damaged = error.is_of_one_file().then(|| file.to_owned());
    Failed { error, damaged }
}

fn merged_info(inputs: &[Segment], last_hash: String) -> Info {
    let infos = || inputs.iter().map(Segment::info);
    let (first, last) = (inputs[0].info(), inputs[inputs.len() - 1].info());
    // The wall clock can have been set back in between.
    let from = infos().map(|info| info.from).min().unwrap_or(first.from);
    let to = infos().map(|info| info.to).max().unwrap_or(last.to);
    let mut info = Info::new(first.gateway.clone(), first.first, from, to);
    info.last = last.last;
    info.gaps = merge_gaps(infos().flat_map(|info| &info.gaps));
    info.removed = merge_removals(infos().flat_map(|info| &info.removed));
    info.swept = last.swept;
    info.begins = first.begins;
    info.previous.clone_from(&first.previous);
    info.stands_for = [last_hash].into_iter().chain(last.stands_for.iter().cloned()).collect();
    info
}
