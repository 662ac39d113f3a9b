//! The segments that there are.

use std::sync::Arc;

use crate::disk::Disk;
use crate::segment::{Name, Segment};
use crate::time::Millis;

/// One segment's file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// What its name says.
    pub(crate) name: Name,
    /// Its name.
    pub(crate) file: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

/// Segments in the order of their numbers. It is never changed: a new one takes its place, and whoever reads
/// this one can finish, because a file is kept for as long as a catalog has it.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    segments: Vec<Arc<SegmentFile>>,
}

impl SegmentFile {
    /// The file with this name; `None` if it is not that of a segment.
    pub(crate) fn new(file: &str, bytes: u64) -> Option<Self> {
        Some(Self { name: Name::parse(file)?, file: file.to_owned(), bytes })
    }

    /// Whether its span touches some moment from `from` to `to`.
    pub(crate) fn touches(&self, from: Millis, to: Millis) -> bool {
        self.name.from <= to && self.name.to >= from
    }

    /// Whether it was merged from others, of which this is one.
    fn stands_for(&self, other: &SegmentFile) -> bool {
        self.name.first <= other.name.first
            && self.name.last >= other.name.last
            && (self.name.first, self.name.last) != (other.name.first, other.name.last)
    }
}

impl Catalog {
    /// The catalog of files, and the files of segments that are not needed, because they were merged into
    /// others that are whole, or are to be merged again.
    pub(crate) fn of_files(disk: &dyn Disk, files: &[(String, u64)]) -> (Self, Vec<String>) {
        let mut found: Vec<_> =
            files.iter().filter_map(|(file, bytes)| SegmentFile::new(file, *bytes)).map(Arc::new).collect();
        // What is merged precedes that of which it is made.
        found.sort_by_key(|file| (file.name.first, std::cmp::Reverse(file.name.last)));
        let (mut segments, mut needless): (Vec<Arc<SegmentFile>>, Vec<String>) = (Vec::new(), Vec::new());
        let mut rest = found.as_slice();
        while let Some((file, after)) = rest.split_first() {
            let inputs = after.iter().take_while(|other| file.stands_for(other)).count();
            let (inputs, after) = after.split_at(inputs);
            if inputs.is_empty() || Segment::open(disk, &file.file).is_ok() || !is_whole(file, inputs) {
                segments.push(Arc::clone(file));
                needless.extend(inputs.iter().map(|input| input.file.clone()));
                rest = after;
            } else {
                needless.push(file.file.clone());
                rest = &rest[1..];
            }
        }
        (Self { segments }, needless)
    }

    /// All, in order.
    pub(crate) fn segments(&self) -> &[Arc<SegmentFile>] {
        &self.segments
    }

    /// The oldest.
    pub(crate) fn first(&self) -> Option<&Arc<SegmentFile>> {
        self.segments.first()
    }

    /// The newest.
    pub(crate) fn last(&self) -> Option<&Arc<SegmentFile>> {
        self.segments.last()
    }

    /// The size of all files in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// With one more segment, in the place of those for which it stands.
    pub(crate) fn with(&self, new: Arc<SegmentFile>) -> Self {
        let others = self.segments.iter().filter(|segment| !new.stands_for(segment));
        let mut segments: Vec<_> = others.cloned().chain([Arc::clone(&new)]).collect();
        segments.sort_by_key(|segment| segment.name.first);
        Self { segments }
    }

    /// Without the segment with this name.
    pub(crate) fn without(&self, file: &str) -> Self {
        Self { segments: self.segments.iter().filter(|segment| segment.file != file).cloned().collect() }
    }
}

/// Whether these are all of which a merged segment was made.
fn is_whole(merged: &SegmentFile, inputs: &[Arc<SegmentFile>]) -> bool {
    let mut next = merged.name.first;
    for input in inputs {
        if input.name.first == next {
            next = input.name.last + 1;
        }
    }
    next == merged.name.last + 1
}
