//! What the tracker takes from the table: the changes for its listeners, and what must be
//! verified with the kernel.

use std::collections::VecDeque;

use nfct::Tuple;

use super::feed::{Fed, Feed, FeedItem};
use crate::clock::Stamp;
use crate::mapping::Mapping;

/// Changes kept at most until they are taken.
const MAX_CHANGES: usize = 65_536;
/// Requested verifications kept at most. Those that are left out happen when the mappings
/// are looked up.
const MAX_REQUESTED: usize = 65_536;

/// A change to the table that listeners receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A mapping opened.
    Opened(Mapping),
    /// A mapping closed.
    Closed(Mapping),
    /// The kernel dropped this many events, and with them what they reported.
    Lost(u64),
}

/// Changes taken from the table.
#[derive(Debug)]
pub struct Changes {
    /// The number of the first change.
    pub first: u64,
    /// Consecutive changes.
    pub changes: Vec<Change>,
    /// The number of the next change. If it is greater than `first` plus the
    /// length of [`changes`](Self::changes), the changes between were too many to
    /// keep.
    pub next: u64,
}

/// Numbers all changes and all stored entries, and keeps the changes that listeners want
/// and the requested verifications.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// The number of the next change.
    next: u64,
    /// The number of the first change that is kept.
    first_kept: u64,
    /// The kept changes, if they are collected.
    changes: Option<Vec<Change>>,
    /// The number of the entry that was stored last.
    last_entry: u32,
    /// The number of the last closing; it wraps around.
    last_closing: u16,
    /// The reply tuples of mappings to verify.
    requested: VecDeque<Tuple>,
    dropped: Dropped,
    /// What a recorder is told, if there is one.
    pub(super) feed: Option<Box<Feed>>,
}

/// What the table's limits have cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Closed mappings that were removed before `del_delay` was over.
    pub forgotten: usize,
    /// When the last of these closed.
    pub forgotten_until: Option<Stamp>,
    /// Mappings that were not stored.
    pub refused: usize,
}

impl Journal {
    /// Notes that a closed mapping was removed before `del_delay` was over.
    pub(super) fn note_forgotten(&mut self, closed: Stamp) {
        self.dropped.forgotten += 1;
        self.dropped.forgotten_until =
            self.dropped.forgotten_until.into_iter().chain([closed]).max_by_key(|stamp| stamp.monotonic);
    }

    pub(super) fn count_refused(&mut self) {
        self.dropped.refused += 1;
    }

    pub(super) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// Tells the recorder of a begin or an end, if there is a recorder.
    #[inline]
    pub(super) fn feed(&mut self, now: Stamp, item: impl FnOnce(&Feed) -> FeedItem) {
        if let Some(feed) = &mut self.feed {
            let item = item(feed);
            feed.push(item, now);
        }
    }

    /// Takes what the recorder is told.
    pub(super) fn take_feed(&mut self, empty: &mut Vec<Vec<FeedItem>>) -> Fed {
        self.feed.as_mut().map(|feed| feed.take(empty)).unwrap_or_default()
    }

    /// A number for an entry that is stored now.
    pub(super) fn number_entry(&mut self) -> u32 {
        self.last_entry = self.last_entry.wrapping_add(1);
        self.last_entry
    }

    #[cfg(test)]
    pub(super) fn skip_numbers(&mut self, count: u32) {
        self.last_entry = self.last_entry.wrapping_add(count);
    }

    /// A number for a mapping that closes now.
    pub(super) fn number_closing(&mut self) -> u16 {
        self.last_closing = self.last_closing.wrapping_add(1);
        self.last_closing
    }

    /// The number of the last closing.
    pub(super) fn last_closing(&self) -> u16 {
        self.last_closing
    }

    /// The number of the entry that was stored last.
    pub(super) fn last_entry(&self) -> u32 {
        self.last_entry
    }

    /// Requests that the mapping with this reply tuple be verified with the kernel soon.
    pub(super) fn request_verification(&mut self, reply: Tuple) {
        if self.requested.len() < MAX_REQUESTED {
            self.requested.push_back(reply);
        }
    }

    /// Takes requested verifications, at most `max`.
    pub(super) fn take_requested(&mut self, max: usize) -> Vec<Tuple> {
        let count = self.requested.len().min(max);
        self.requested.drain(..count).collect()
    }

    pub(super) fn has_requested(&self) -> bool {
        !self.requested.is_empty()
    }

    pub(super) fn collect(&mut self, collect: bool) -> u64 {
        if collect != self.changes.is_some() {
            self.changes = collect.then(Vec::new);
        }
        self.next
    }

    pub(super) fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    pub(super) fn take(&mut self) -> Changes {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        Changes { first: self.first_kept, changes, next: self.next }
    }

    pub(super) fn record(&mut self, change: impl FnOnce() -> Change) {
        if let Some(changes) = &mut self.changes {
            if changes.is_empty() {
                self.first_kept = self.next;
            }
            // A change is kept only if none before it is missing.
            if changes.len() < MAX_CHANGES && self.first_kept + changes.len() as u64 == self.next {
                changes.push(change());
            }
        }
        self.next += 1;
    }
}
