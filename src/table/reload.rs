//! Putting another configuration into force while the table is in use.

use super::entry::{Address, SlotState};
use super::family::FamilyTable;
use super::index::{ChainIndex, IndexedBy};
use super::journal::Journal;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Doubt;
use crate::tuples::Tuples;

impl<A: Address> FamilyTable<A> {
    /// Returns the indexes that are no longer needed.
    pub(super) fn set_key(&mut self, key: Key) -> Vec<ChainIndex> {
        let by = IndexedBy::key(key);
        let is_needed = |index: &ChainIndex| IndexedBy::STANDARD.contains(&index.by) || index.by == by;
        let (needed, others) = std::mem::take(&mut self.indexes).into_iter().partition(is_needed);
        self.indexes = needed;
        if self.index(by).is_none() {
            self.indexes.push(ChainIndex::unbuilt(by));
        }
        others
    }

    pub(super) fn build_index(&mut self) -> bool {
        for at in 0..self.indexes.len() {
            if let Some(from) = self.indexes[at].unbuilt_from() {
                let (slice, next) = self.slice(from);
                self.indexes[at].build(slice, next, &self.entries);
                return true;
            }
        }
        false
    }

    pub(super) fn retain(
        &mut self,
        from: u32,
        now: Stamp,
        keep: impl Fn(&Tuples) -> bool,
        journal: &mut Journal,
    ) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(from);
        let mut removed = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if matches!(entry.state(), SlotState::Free | SlotState::Removed)
                || keep(&entry.mapping(Doubt::None).tuples)
            {
                continue;
            }
            if entry.state() == SlotState::Live {
                self.close_slot(slot, now, journal);
            }
            self.entries.get_mut(slot).set_state(SlotState::Removed);
            self.closed -= 1;
            removed += 1;
        }
        (next, removed)
    }
}
