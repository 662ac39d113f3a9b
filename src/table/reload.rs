//! Removing the mappings that another filter excludes.

use super::entry::SlotState;
use super::family::FamilyTable;
use super::journal::Journal;
use super::packed::Address;
use crate::clock::Stamp;
use crate::tuples::Tuples;

impl<A: Address> FamilyTable<A> {
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
                || keep(&self.mapping(slot).tuples)
            {
                continue;
            }
            if entry.state() == SlotState::Live {
                self.close_slot(slot, now, journal);
            }
            removed += self.hide(slot);
        }
        (next, removed)
    }
}
