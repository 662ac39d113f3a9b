//! Merges a dump of the kernel's table while events continue to arrive.

use std::time::Duration;

use nfct::{Flow, Tuple};

use super::ended::EndedLifetimes;
use super::entry::SlotState;
use super::family::{FamilyTable, MIN_KEPT};
use super::journal::Journal;
use super::packed::{Address, PackedTuple, PackedTuples};
use super::verify::Asked;
use crate::clock::Stamp;
use crate::mapping::Source;

/// Places of the queue of closed mappings that one step of a search for old ones passes.
const SEARCHED: usize = 512;

impl<A: Address> FamilyTable<A> {
    pub(super) fn begin_dump(&mut self) {
        self.dump_number = self.dump_number.wrapping_add(1);
        self.ended_during_dump = Some(EndedLifetimes::new());
    }

    pub(super) fn merge(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        read: Stamp,
        now: Stamp,
        journal: &mut Journal,
    ) -> bool {
        if flow.status.is_dying() {
            return false;
        }
        let hash = tuples.hash;
        let has_ended = self.ended_during_dump.as_ref().is_some_and(|ended| ended.contains(hash, flow.id));
        if let Some(slot) = self.tuple_index.live_by_hash(hash, &tuples.reply, &self.entries) {
            let is_later = self.is_before(slot, flow, now) == Some(true);
            let entry = self.entries.get_mut(slot);
            if entry.has(tuples, flow.id) && !is_later {
                entry.dump_number = self.dump_number;
                entry.set_told_if_newer(flow, read);
                return false;
            }
            if entry.dump_number == self.dump_number {
                // It opened while the dump ran; the dump has the previous lifetime.
                return false;
            }
            self.close_slot(slot, now, journal);
        }
        if has_ended {
            // Or it is a new lifetime with the same id.
            journal.request_verification(flow.reply);
            return false;
        }
        if !self.has_room(journal) {
            return false;
        }
        let slot = self.insert(tuples, flow, Source::Dump, false, now, journal);
        // The kernel had it then; it may have ended since.
        self.entries.get_mut(slot).set_told(flow, read);
        true
    }

    /// Passes the reply tuples of the live mappings of a slice that the dump did not
    /// contain, and that did not open while it ran, to `on`. Returns where to continue.
    pub(super) fn unseen(&self, from: u32, mut on: impl FnMut(Tuple)) -> Option<u32> {
        let (slice, next) = self.slice(from);
        slice
            .map(|slot| self.entries.get(slot))
            .filter(|entry| entry.state() == SlotState::Live && entry.dump_number != self.dump_number)
            .for_each(|entry| on(entry.reply().unpack()));
        next
    }

    /// Whether the mapping with this reply tuple came from a dump, and no event has
    /// reported it since the moment `merged`: a NEW event numbers its entry again.
    pub(super) fn is_only_dumped(&mut self, reply: &PackedTuple<A>, merged: Asked, last: u32) -> bool {
        self.tuple_index.live(reply, &self.entries).is_some_and(|slot| {
            let entry = self.entries.get(slot);
            entry.source() == Source::Dump && !merged.is_before(entry.sequence, last)
        })
    }

    pub(super) fn end_dump(&mut self) -> Option<EndedLifetimes> {
        self.ended_during_dump.take()
    }

    /// Removes closed mappings that opened more than `life_span` ago. It searches through the closed
    /// ones in the order in which they closed: from the first one on if `from` is 0, and otherwise from
    /// where it stopped. Returns whether there are more, as a number other than 0.
    pub(super) fn remove_old(&mut self, from: u32, life_span: Duration, now: Stamp) -> (Option<u32>, usize) {
        if from == 0 {
            self.searched_to = 0;
        }
        let mut removed = 0;
        for _ in 0..SEARCHED {
            let positions = self.closed_queue.positions();
            let position = self.searched_to.max(positions.start);
            if position >= positions.end {
                return (None, removed);
            }
            self.searched_to = position + 1;
            let Some(slot) = self.closed_queue.get(position) else { continue };
            let entry = self.entries.get(slot);
            let is_old = entry.opened.age(now) > life_span;
            if is_old && entry.closed().age(now) >= MIN_KEPT {
                removed += self.remove_closed(position, slot, now);
            } else if is_old {
                removed += self.hide(slot);
            }
        }
        (Some(1), removed)
    }
}
