//! What listeners are told: the table gathers its changes until they are taken.

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

/// Changes taken from the table.
#[derive(Debug)]
pub struct Taken {
    /// The number of the first.
    pub first: u64,
    /// They themselves, one after the other.
    pub changes: Vec<Change>,
    /// The number of the next change. Where more than [`changes`](Self::changes)
    /// lie between, they were too many to keep.
    pub next: u64,
}

/// What happened, in order.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// How many changes there were; the number of the first that is kept, and
    /// those that are, if they are collected.
    sequence: u64,
    first_kept: u64,
    changes: Option<Vec<Change>>,
    /// How many entries were ever stored.
    placed: u32,
}

impl Journal {
    /// A number for an entry that is stored now.
    pub(super) fn number_entry(&mut self) -> u32 {
        self.placed = self.placed.wrapping_add(1);
        self.placed
    }

    pub(super) fn collect(&mut self, collect: bool) -> u64 {
        if collect != self.changes.is_some() {
            self.changes = collect.then(Vec::new);
        }
        self.sequence
    }

    pub(super) fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    pub(super) fn take(&mut self) -> Taken {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        Taken { first: self.first_kept, changes, next: self.sequence }
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
