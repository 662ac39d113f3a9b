//! Applies the kernel's events: what began and what ended.

use nfct::Flow;

use super::entry::SlotState;
use super::family::{FamilyTable, ended, moment};
use super::feed::{Begun, Ended, FeedItem};
use super::journal::Journal;
use super::packed::{Address, PackedTuples};
use super::repeated::OVERTAKEN;
use super::shards::CellHash;
use crate::clock::Stamp;
use crate::mapping::Source;

/// Lifetimes with one reply tuple among which a closed one is searched.
const MAX_LIFETIMES: usize = 64;

/// What a DESTROY event did to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseResult {
    /// It closed a live mapping.
    WasLive,
    /// The mapping was unknown, and is now stored as closed.
    WasUnknown,
    /// The table has newer information; nothing changed.
    Stale,
}

impl<A: Address> FamilyTable<A> {
    /// Applies a NEW event. Returns whether it opened a mapping.
    pub(super) fn open(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        now: Stamp,
        journal: &mut Journal,
    ) -> bool {
        let hash = tuples.hash;
        let newest = self.tuple_index.newest(hash, &tuples.reply, &self.entries);
        let Some(slot) = newest.filter(|slot| self.entries.get(*slot).state() == SlotState::Live) else {
            if flow.status.is_dying() && self.find_closed(tuples, flow.id).is_some() {
                // The DESTROY event overtook the NEW event.
                return false;
            }
            if !self.has_room(journal) {
                return false;
            }
            let closed_before = newest.is_some() && self.closed_before(tuples, flow.id, now);
            let slot = self.insert(tuples, flow, Source::Event, self.trusts_events, now, journal);
            // The id does not tell: the same tuples get the same id again. Nor does a DESTROY event
            // that seemed to be a repeated one.
            let overtaken = self.ended_unknown.contains(hash, flow.id, now)
                || closed_before
                || self.repeated.contains(hash, flow.id, now);
            if overtaken || flow.status.is_dying() {
                self.suspect(slot, journal);
            }
            return true;
        };
        let has_tuples_and_id = self.entries.get(slot).has(tuples, flow.id);
        if !has_tuples_and_id && flow.status.is_dying() {
            // The kernel gives a reply tuple to one connection at a time. Either this event is
            // late, or the table lacks the end of the connection that it has.
            self.suspect(slot, journal);
            let is_unknown = self.find_closed(tuples, flow.id).is_none();
            if is_unknown {
                journal.feed(now, |feed| {
                    let begun = Begun::new(flow, now, feed.begin_by_event());
                    FeedItem::Closed(Ended { begun, mark: None, ..ended(flow, 0, now, feed.end_by_event()) })
                });
                self.insert_closed(tuples, flow, now, now, journal);
            }
            return is_unknown;
        }
        if !has_tuples_and_id || !self.is_same_lifetime(slot, flow, now) {
            // The previous connection ended without a DESTROY event, or this event is late.
            self.close_slot(slot, now, journal);
            let slot = self.insert(tuples, flow, Source::Event, self.trusts_events, now, journal);
            self.suspect(slot, journal);
            return true;
        }
        // The first NEW event of what a dump or a query found, or a repeated one, or that of a later
        // lifetime whose predecessor ended without an event.
        if self.entries.get(slot).source() == Source::Event {
            self.suspect(slot, journal);
        }
        let entry = self.entries.get_mut(slot);
        entry.dump_number = self.dump_number;
        entry.set_told(flow, now);
        if self.trusts_events {
            self.unreported -= usize::from(entry.is_unreported());
            entry.set_unreported(false);
        }
        // A query that was made before this event must not close it.
        self.number_and_index(slot, journal, true);
        false
    }

    /// Applies a DESTROY event.
    pub(super) fn close(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        now: Stamp,
        journal: &mut Journal,
    ) -> CloseResult {
        let hash = tuples.hash;
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(hash, flow.id);
        }
        let closed = moment(flow.stop, now).unwrap_or(now);
        let live = self.tuple_index.live_by_hash(hash, &tuples.reply, &self.entries);
        if let Some(slot) = live.filter(|slot| self.entries.get(*slot).has(tuples, flow.id)) {
            if self.repeated.contains(hash, flow.id, now) {
                // It may be the end of an earlier lifetime with the same id, once more.
                self.repeated.note(hash, flow.id, now);
                self.suspect(slot, journal);
                return CloseResult::Stale;
            }
            self.close_reported(slot, flow, closed, now, journal);
            return CloseResult::WasLive;
        }
        if let Some(slot) = self.find_closed(tuples, flow.id) {
            self.entries.get_mut(slot).set_final_mark(Some(flow.mark));
            self.note_end(slot, hash, now);
            return CloseResult::Stale;
        }
        if self.repeated.contains(hash, flow.id, now) {
            self.repeated.note(hash, flow.id, now);
            return CloseResult::Stale;
        }
        if let Some(slot) = live {
            // Its NEW event is missing, so the end of the live mapping may be missing too.
            self.suspect(slot, journal);
        }
        journal.feed(now, |feed| FeedItem::Closed(ended(flow, 0, now, feed.end_by_event())));
        if now.since(closed) >= self.del_delay.max(OVERTAKEN) {
            // No lookup could find it any more.
            return CloseResult::Stale;
        }
        self.ended_unknown.remember(hash, flow.id, now);
        self.insert_closed(tuples, flow, closed, now, journal);
        CloseResult::WasUnknown
    }

    /// Notes a DESTROY event of a mapping that is closed already: the first one, if a query
    /// has closed it, or a repeated one.
    fn note_end(&mut self, slot: u32, hash: CellHash, now: Stamp) {
        let entry = self.entries.get_mut(slot);
        if entry.is_unreported() {
            self.missing_ends -= usize::from(entry.is_suspect()).min(self.missing_ends);
            entry.set_unreported(false);
            entry.set_suspect(false);
        }
        // It may also be the end of a later lifetime, whose NEW event is still to come.
        self.repeated.note(hash, entry.id, now);
    }

    /// Whether a NEW event names the lifetime that the live mapping with its tuples and its
    /// id already has.
    fn is_same_lifetime(&self, slot: u32, flow: &Flow, now: Stamp) -> bool {
        let entry = self.entries.get(slot);
        if let Some(is_before) = self.is_before(slot, flow, now) {
            return !is_before;
        }
        if entry.is_unreported() && entry.source() == Source::Event {
            // Its end may have been suppressed.
            return false;
        }
        if entry.is_unreported() {
            // The event of a connection that a dump or a query found was queued before that.
            return entry.opened.age(now) < OVERTAKEN;
        }
        // The kernel repeats a NEW event that another listener with reliable delivery did not get.
        let (since, timeout) = entry.told(now);
        since < timeout
    }

    /// Whether the lifetime that a NEW event names was closed just before.
    fn closed_before(&self, tuples: &PackedTuples<A>, id: u32, now: Stamp) -> bool {
        self.closed_lifetimes(tuples, id).any(|slot| self.entries.get(slot).closed().age(now) < OVERTAKEN)
    }

    /// The slot in which exactly this lifetime is stored as closed.
    pub(super) fn find_closed(&self, tuples: &PackedTuples<A>, id: u32) -> Option<u32> {
        self.closed_lifetimes(tuples, id).next()
    }

    /// The slots with these tuples and this conntrack id that are closed, the newest first, among
    /// a few with the reply tuple. The same tuples usually get the same id again.
    fn closed_lifetimes(&self, tuples: &PackedTuples<A>, id: u32) -> impl Iterator<Item = u32> {
        self.tuple_index.all(&tuples.reply, &self.entries).take(MAX_LIFETIMES).filter(move |slot| {
            let entry = self.entries.get(*slot);
            entry.is_closed() && entry.has(tuples, id)
        })
    }
}
