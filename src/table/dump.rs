//! Merges a dump of the kernel's table while events continue to arrive.

use std::time::Duration;

use nfct::Flow;

use super::ended::EndedLifetimes;
use super::entry::{Address, PackedMapping, PackedTuple, PackedTuples, SlotState};
use super::family::FamilyTable;
use super::journal::Journal;
use crate::clock::Stamp;
use crate::mapping::{Mapping, Source};

impl<A: Address> FamilyTable<A> {
    pub(super) fn begin_dump(&mut self, may_end_silently: bool) {
        self.dumped_may_end_silently = may_end_silently;
        self.dump_number = self.dump_number.wrapping_add(1);
        self.ended_during_dump = Some(EndedLifetimes::new());
    }

    pub(super) fn merge(&mut self, flow: &Flow, now: Stamp, journal: &mut Journal) -> bool {
        if flow.status.is_dying() {
            return false;
        }
        let Some(tuples) = PackedTuples::pack(flow) else { return false };
        if let Some(slot) = self.live_index.find(&tuples.reply, &self.entries) {
            let entry = self.entries.get_mut(slot);
            if entry.id == flow.id {
                entry.mark = flow.mark;
                entry.dump_number = self.dump_number;
                return false;
            }
            if entry.dump_number == self.dump_number {
                // It opened while the dump ran; the dump has the previous lifetime.
                return false;
            }
            self.close_slot(slot, now, journal);
        }
        let hash = self.live_index.hash(&tuples.reply);
        if self.ended_during_dump.as_ref().is_some_and(|ended| ended.contains(hash, flow.id)) {
            return false;
        }
        let entry = PackedMapping::new(&tuples, flow, Source::Dump, self.dumped_may_end_silently, now);
        self.insert(entry, journal);
        true
    }

    pub(super) fn close_lifetime(&mut self, mapping: &Mapping, now: Stamp, journal: &mut Journal) {
        let Some(reply) = PackedTuple::pack(&mapping.reply) else { return };
        let found = self.live_index.find(&reply, &self.entries);
        if let Some(slot) = found.filter(|slot| {
            let entry = self.entries.get(*slot);
            (entry.id, entry.sequence) == (mapping.id, mapping.sequence)
        }) {
            self.close_slot(slot, now, journal);
        }
    }

    pub(super) fn close_unseen(
        &mut self,
        from: u32,
        now: Stamp,
        journal: &mut Journal,
    ) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(from);
        let mut closed = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state() == SlotState::Live && entry.dump_number != self.dump_number {
                self.close_slot(slot, now, journal);
                closed += 1;
            }
        }
        (next, closed)
    }

    pub(super) fn end_dump(&mut self) -> Option<EndedLifetimes> {
        self.ended_during_dump.take()
    }

    pub(super) fn remove_old(&mut self, from: u32, life_span: Duration, now: Stamp) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(from);
        let mut removed = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state() == SlotState::Closed && now.since(entry.opened.into()) > life_span {
                self.entries.get_mut(slot).set_state(SlotState::Removed);
                self.closed -= 1;
                removed += 1;
            }
        }
        (next, removed)
    }
}
