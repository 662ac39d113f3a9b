//! What listeners are told: the table gathers its changes until they are taken.

use super::Table;
use crate::mapping::Mapping;

/// Changes kept for listeners until they are taken.
const MOST_CHANGES: usize = 65_536;

/// A change to the table that listeners may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A mapping began.
    Opened(Mapping),
    /// A mapping ended.
    Closed(Mapping),
}

impl Table {
    /// Whether changes are collected for [`take_changes`](Self::take_changes).
    /// Returns the number of the next change.
    pub fn collect_changes(&mut self, collect: bool) -> u64 {
        if collect != self.changes.is_some() {
            self.changes = collect.then(Vec::new);
        }
        self.sequence
    }

    /// Whether changes wait to be taken.
    pub fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    /// The changes since the last call, and the number of the first of them.
    /// Those that were too many to keep are missing at their end, which the
    /// next one's number shows.
    pub fn take_changes(&mut self) -> (u64, Vec<Change>) {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        (self.first_kept, changes)
    }

    pub(super) fn note(&mut self, change: impl FnOnce() -> Change) {
        if let Some(changes) = &mut self.changes {
            if changes.is_empty() {
                self.first_kept = self.sequence;
            }
            // Only changes without a gap before them are kept.
            if changes.len() < MOST_CHANGES && self.first_kept + changes.len() as u64 == self.sequence {
                changes.push(change());
            }
        }
        self.sequence += 1;
    }
}
