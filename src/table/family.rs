//! The mappings of one address family: IPv4's entries are smaller than IPv6's.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use nfct::Flow;

use super::chunks::{CHUNK, Chunks, chunk_of};
use super::closed::ClosedQueue;
use super::ended::EndedLifetimes;
use super::entry::{PackedMapping, SlotState};
use super::feed::{BeginKnown, Begun, EndKnown, Ended, FeedItem, wall};
use super::forward::ForwardIndex;
use super::heads::{IndexedBy, WARMED};
use super::index::ChainIndex;
use super::journal::{Change, Journal};
use super::moment::Offsets;
use super::packed::{Address, PackedTuples};
use super::publics::PublicAddresses;
use super::repeated::{OVERTAKEN, Repeated};
use super::slots::Slots;
use super::tuple_index::TupleIndex;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping, Source};
use crate::tuples::Tuples;

/// Slots in a slice. One hold of the lock works on one slice, for far less than a
/// millisecond.
const SLOTS_PER_SLICE: u32 = 512;

/// The kernel's default of the shortest timeout of a TCP connection that closes:
/// `nf_conntrack_tcp_timeout_close`. With a longer one set, a mapping is verified after this time too.
pub const MAX_CLOSING_TIMEOUT: Duration = Duration::from_secs(10);
/// Closed entries are stored at least this long, although lookups do not see them after
/// `del_delay`: their lifetimes must be known when a late event names them.
pub(super) const MIN_KEPT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct FamilyTable<A: Address> {
    pub(super) entries: Chunks<PackedMapping<A>>,
    offsets: Offsets,
    slots: Slots,
    pub(super) live: usize,
    /// The closed mappings that lookups can see.
    pub(super) closed: usize,
    /// All closed mappings that are stored.
    pub(super) kept: usize,
    /// How many more live mappings may be stored.
    pub(super) room: usize,
    pub(super) closed_queue: ClosedQueue,
    /// The position there from which a search for old ones continues.
    pub(super) searched_to: u64,
    /// The position there of the first whose `del_delay` had not passed when it was last checked.
    first_visible: u64,
    pub(super) tuple_index: TupleIndex,
    pub(super) indexes: Vec<ChainIndex>,
    /// The key of the legacy routes. Its index exists always, and that by public address and port.
    pub(super) key: Key,
    pub(super) forwards: ForwardIndex<A>,
    /// The public addresses of translated sources.
    pub(super) publics: PublicAddresses,
    /// The latest time, by the monotonic clock, at which a stored entry opened.
    newest_opened: u64,
    /// How long lookups still find a closed mapping.
    pub(super) del_delay: Duration,
    /// Counts dumps; an entry has the number of the last dump that contained it.
    pub(super) dump_number: u16,
    /// Lifetimes that ended while a dump runs, which it may still contain.
    pub(super) ended_during_dump: Option<EndedLifetimes>,
    /// Lifetimes whose DESTROY event the kernel repeats.
    pub(super) repeated: Repeated,
    /// Lifetimes whose DESTROY event came without a NEW event, which may only be late.
    pub(super) ended_unknown: Repeated,
    /// The zones that were ever stored, except zone 0.
    pub(super) zones: BTreeSet<u16>,
    /// The number of live mappings that may end without a DESTROY event.
    pub(super) unreported: usize,
    /// The number of mappings that ended, as a query has shown, although their DESTROY event
    /// has not come yet.
    pub(super) missing_ends: usize,
    /// Whether the kernel reports the end of each connection whose NEW event it sends.
    pub(super) trusts_events: bool,
    /// Whether no event has been lost, so that an end without one is evidence of missing events.
    pub(super) expects_ends: bool,
    /// The shortest timeout of a connection that closes.
    pub(super) closing_timeout: Duration,
}

impl<A: Address> FamilyTable<A> {
    pub(super) fn new(key: Key, del_delay: Duration) -> Self {
        Self {
            entries: Chunks::new(),
            offsets: Offsets::default(),
            slots: Slots::default(),
            live: 0,
            closed: 0,
            kept: 0,
            room: usize::MAX,
            closed_queue: ClosedQueue::default(),
            searched_to: 0,
            first_visible: 0,
            tuple_index: TupleIndex::new(),
            indexes: [IndexedBy::NatIpAndPort, IndexedBy::key(key)].map(ChainIndex::new).into(),
            key,
            forwards: ForwardIndex::new(),
            publics: PublicAddresses::new(),
            newest_opened: 0,
            del_delay,
            dump_number: 0,
            ended_during_dump: None,
            repeated: Repeated::default(),
            ended_unknown: Repeated::with_period(OVERTAKEN.as_millis() as u64),
            zones: BTreeSet::new(),
            unreported: 0,
            missing_ends: 0,
            trusts_events: true,
            expects_ends: false,
            closing_timeout: MAX_CLOSING_TIMEOUT,
        }
    }

    pub(super) fn expire(&mut self, now: Stamp, max: usize) -> usize {
        let (mut removed, kept_for) = (0, self.del_delay.max(MIN_KEPT));
        for count in 0..max {
            let Some((position, slot)) = self.closed_queue.first() else { break };
            if self.entries.get(slot).closed().age(now) < kept_for {
                break;
            }
            if count % WARMED == 0 {
                self.warm_removal(position, WARMED.min(max - count));
            }
            removed += self.remove_closed(position, slot, now);
        }
        // With a short `del_delay`, others are hidden before they are removed.
        if self.del_delay < MIN_KEPT {
            for _ in 0..max {
                let Some((position, slot)) = self.closed_queue.from(self.first_visible) else { break };
                if self.entries.get(slot).closed().age(now) < self.del_delay {
                    break;
                }
                self.first_visible = position + 1;
                removed += self.hide(slot);
            }
        }
        removed
    }

    /// Whether another live mapping may be stored. If not, that is counted.
    pub(super) fn has_room(&self, journal: &mut Journal) -> bool {
        if self.room == 0 {
            journal.count_refused();
        }
        self.room > 0
    }

    /// Zone 0 and all zones that were ever stored.
    pub(super) fn zones_with_0(&self) -> impl Iterator<Item = u16> {
        std::iter::once(0).chain(self.zones.iter().copied())
    }

    /// Removes the mapping that closed first, before its time. Returns whether there is one.
    pub(super) fn forget_oldest(&mut self, now: Stamp, journal: &mut Journal) -> bool {
        let Some((position, slot)) = self.closed_queue.first() else { return false };
        let entry = self.entries.get(slot);
        let (closed, hash) = (entry.closed(), self.tuple_index.hash(&entry.reply()));
        if closed.age(now) < OVERTAKEN {
            // Its NEW event may still come.
            self.ended_unknown.remember(hash, entry.id, now);
        }
        if entry.is_unreported() && entry.is_suspect() {
            // Its DESTROY event may still come.
            self.missing_ends = self.missing_ends.saturating_sub(1);
            self.repeated.remember(hash, entry.id, now);
        }
        if self.remove_closed(position, slot, now) > 0 && closed.age(now) < self.del_delay {
            journal.note_forgotten(self.offsets.stamp(closed));
        }
        true
    }

    /// When the mapping closed that closed first of those that are stored.
    pub(super) fn oldest_closed(&self) -> Option<Stamp> {
        self.closed_queue.first().map(|(_, slot)| self.offsets.stamp(self.entries.get(slot).closed()))
    }

    /// Removes the closed mapping at a position of the queue.
    /// Returns 1 if lookups could still see it, and otherwise 0.
    pub(super) fn remove_closed(&mut self, position: u64, slot: u32, now: Stamp) -> usize {
        let entry = self.entries.get(slot);
        let was_visible = entry.state() == SlotState::Closed;
        if self.repeated.is_active(now) {
            self.repeated.remember(self.tuple_index.hash(&entry.reply()), entry.id, now);
        }
        let is_oldest = self.closed_queue.remove(position);
        self.kept -= 1;
        self.closed -= usize::from(was_visible);
        self.free_slot(slot, is_oldest);
        usize::from(was_visible)
    }

    /// Hides a closed mapping from lookups. Returns 1, or 0 if it was hidden already.
    pub(super) fn hide(&mut self, slot: u32) -> usize {
        let entry = self.entries.get_mut(slot);
        if entry.state() != SlotState::Closed {
            return 0;
        }
        entry.set_state(SlotState::Removed);
        self.closed -= 1;
        1
    }

    pub(super) fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        let age = |slot| self.entries.get(slot).closed().age(now);
        let visible = self.closed_queue.from(self.first_visible);
        let visible = visible.map(|(_, slot)| self.del_delay.saturating_sub(age(slot)));
        // Also those that were hidden while `del_delay` was shorter.
        let kept = self.closed_queue.first().filter(|(position, _)| *position < self.first_visible);
        let kept = kept.map(|(_, slot)| self.del_delay.max(MIN_KEPT).saturating_sub(age(slot)));
        visible.into_iter().chain(kept).min()
    }

    /// An index, if it has all entries.
    pub(super) fn index(&self, by: IndexedBy) -> Option<&ChainIndex> {
        self.indexes.iter().find(|index| index.by == by && index.is_complete())
    }

    /// Both tuples of a flow; `None` if an address is of the other family.
    #[inline]
    pub(super) fn pack(&self, flow: &Flow) -> Option<PackedTuples<A>> {
        PackedTuples::pack(flow, |reply| self.tuple_index.hash(reply))
    }

    /// The mapping of a slot; its doubt is not computed.
    pub(super) fn mapping(&self, slot: u32) -> Mapping {
        let entry = self.entries.get(slot);
        Mapping {
            tuples: Tuples { original: entry.original().unpack(), reply: entry.reply().unpack() },
            id: entry.id,
            mark: entry.final_mark(),
            opened: self.offsets.stamp(entry.opened),
            closed: (entry.state() != SlotState::Live).then(|| self.offsets.stamp(entry.closed())),
            source: entry.source(),
            doubt: Doubt::None,
            sequence: entry.sequence,
        }
    }

    /// Whether `flow`, which has the same tuples and the same id as the mapping of a slot, began after
    /// that opened: then it is a later lifetime. `None` if the kernel keeps no timestamps, or if
    /// the wall clock has gone back since that timestamp. A mapping may open a little later
    /// than its connection began, if an event reported it.
    pub(super) fn is_before(&self, slot: u32, flow: &Flow, now: Stamp) -> Option<bool> {
        let began = flow.start? / 1_000_000;
        (began <= now.wall).then(|| self.offsets.stamp(self.entries.get(slot).opened).wall < began)
    }

    /// The slots of the slice from `from` on, and where the next one begins. Some of them can be
    /// free.
    pub(super) fn slice(&self, from: u32) -> (impl Iterator<Item = u32> + use<A>, Option<u32>) {
        let all = self.entries.len() as u32;
        let end = from.saturating_add(SLOTS_PER_SLICE).min(all);
        // Few chunks: one that begins in the middle has parts of three.
        let mut parts: [Range<u32>; SLOTS_PER_SLICE as usize / CHUNK + 1] = std::array::from_fn(|_| 0..0);
        for (part, chunk) in parts.iter_mut().zip(chunk_of(from)..) {
            let first = (chunk * CHUNK) as u32;
            if self.entries.has(chunk) {
                *part = first.max(from)..(first + CHUNK as u32).min(end);
            }
        }
        (parts.into_iter().flatten(), (end < all).then_some(end))
    }

    /// Stores a live mapping with these tuples, those of `flow`, and returns its slot. It may end
    /// without a DESTROY event unless `is_reported`.
    pub(super) fn insert(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        source: Source,
        is_reported: bool,
        now: Stamp,
        journal: &mut Journal,
    ) -> u32 {
        let slot = self.store(tuples, flow, source, now, journal);
        self.entries.get_mut(slot).set_unreported(!is_reported);
        self.unreported += usize::from(!is_reported);
        let zones = [tuples.original.zone(), tuples.reply.zone()];
        if zones != [0, 0] {
            self.zones.extend(zones.into_iter().filter(|zone| *zone != 0));
        }
        self.tuple_index.insert(slot, tuples.hash, &mut self.entries);
        self.live += 1;
        journal.record(|| Change::Opened(self.mapping(slot)));
        journal.feed(now, |feed| match source {
            Source::Event => FeedItem::Opened(Begun::new(flow, now, feed.begin_by_event())),
            Source::Dump | Source::Kernel => FeedItem::Found(Begun::new(flow, now, BeginKnown::Found)),
        });
        slot
    }

    /// Stores a lifetime that has ended already, although it was unknown.
    pub(super) fn insert_closed(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        closed: Stamp,
        now: Stamp,
        journal: &mut Journal,
    ) {
        let slot = self.store(tuples, flow, Source::Event, now, journal);
        journal.record(|| Change::Opened(self.mapping(slot)));
        self.queue_closed(slot, closed, Some(flow.mark), journal);
        self.tuple_index.insert(slot, tuples.hash, &mut self.entries);
        journal.record(|| Change::Closed(self.mapping(slot)));
    }

    /// Stores an entry in a free slot and adds it to the chain indexes.
    fn store(
        &mut self,
        tuples: &PackedTuples<A>,
        flow: &Flow,
        source: Source,
        now: Stamp,
        journal: &mut Journal,
    ) -> u32 {
        let slot = self.slots.take(|free| self.entries.get(free).next);
        self.entries.grow_to(slot, PackedMapping::FREE);
        let opened = self.offsets.moment(moment(flow.start, now).unwrap_or(now));
        let entry = self.entries.get_mut(slot);
        entry.set(tuples, flow, source, opened, now);
        entry.dump_number = self.dump_number;
        self.number_and_index(slot, journal, false);
        self.forwards.insert(slot, tuples);
        if tuples.is_source_nat() {
            self.publics.insert(tuples.reply.dst);
        }
        let older = self.index(IndexedBy::NatIpAndPort).and_then(|index| index.older(slot).next());
        if let Some(older) = older {
            self.entries.get_mut(slot).set_shares_port();
            let older = self.entries.get_mut(older);
            if older.state() == SlotState::Live {
                older.set_shares_port();
            }
        }
        slot
    }

    /// Numbers an entry and puts it at the front of its chains, which are in the
    /// order of these numbers. `is_indexed` says that it is in them already.
    pub(super) fn number_and_index(&mut self, slot: u32, journal: &mut Journal, is_indexed: bool) {
        if is_indexed {
            for index in &mut self.indexes {
                index.remove(slot, &self.entries);
            }
        }
        let entry = self.entries.get_mut(slot);
        entry.sequence = journal.number_entry();
        let opened = entry.opened.monotonic();
        entry.set_was_newest(opened >= self.newest_opened);
        self.newest_opened = self.newest_opened.max(opened);
        for index in &mut self.indexes {
            index.insert(slot, &self.entries);
        }
    }

    /// Closes a live mapping whose end no event has reported.
    pub(super) fn close_slot(&mut self, slot: u32, now: Stamp, journal: &mut Journal) {
        journal.feed(now, |_| {
            let (begun, known) = (self.begun(slot), self.missed_end(slot, now));
            FeedItem::Closed(Ended { begun, was_live: true, at: now.wall, known, mark: None, counters: None })
        });
        self.close_live(slot, now, None, journal);
    }

    /// Closes a live mapping that ended at `closed`, as a DESTROY event reports.
    pub(super) fn close_reported(
        &mut self,
        slot: u32,
        flow: &Flow,
        closed: Stamp,
        now: Stamp,
        journal: &mut Journal,
    ) {
        journal.feed(now, |feed| {
            let opened = self.offsets.stamp(self.entries.get(slot).opened);
            let begun = match flow.start {
                Some(_) => Begun::new(flow, now, BeginKnown::Unknown),
                None => self.begun(slot),
            };
            FeedItem::Closed(Ended {
                begun,
                was_live: true,
                ..ended(flow, opened.wall, now, feed.end_by_event())
            })
        });
        self.close_live(slot, closed, Some(flow.mark), journal);
    }

    /// What is known of the begin of a stored mapping.
    fn begun(&self, slot: u32) -> Begun {
        let Mapping { tuples, id, opened, source, .. } = self.mapping(slot);
        let known = if source == Source::Event { BeginKnown::Event } else { BeginKnown::Found };
        Begun { tuples, id, at: opened.wall, known }
    }

    /// What is known of the end of a live mapping that has ended by now, if no event reported that.
    fn missed_end(&self, slot: u32, now: Stamp) -> EndKnown {
        let entry = self.entries.get(slot);
        let (since, timeout) = entry.told(now);
        let told = now.wall.saturating_sub(since);
        let shortest = match self.shortest_timeout(entry.protocol()) {
            Some(shortest) => timeout.min(shortest.as_millis() as u64),
            None => timeout,
        };
        let lasted_until = told.saturating_add(shortest).min(now.wall);
        EndKnown::Missed { told, lasted_until, is_reported: !entry.is_unreported() }
    }

    /// Closes a live mapping, with the mark at its end if an event reported it.
    fn close_live(&mut self, slot: u32, closed: Stamp, mark: Option<u32>, journal: &mut Journal) {
        self.live -= 1;
        self.unreported -= usize::from(self.entries.get(slot).is_unreported());
        self.queue_closed(slot, closed, mark, journal);
        journal.record(|| Change::Closed(self.mapping(slot)));
    }

    /// Appends an entry to the closed ones, which wait to expire.
    fn queue_closed(&mut self, slot: u32, closed: Stamp, mark: Option<u32>, journal: &mut Journal) {
        let entry = self.entries.get_mut(slot);
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.tuple_index.hash(&entry.reply()), entry.id);
        }
        entry.set_state(SlotState::Closed);
        entry.set_final_mark(mark);
        entry.dump_number = journal.number_closing();
        let opened = self.offsets.stamp(entry.opened);
        entry.set_closed(if closed > opened { self.offsets.moment(closed) } else { entry.opened });
        entry.set_unreported(false);
        entry.set_suspect(false);
        self.closed += 1;
        self.kept += 1;
        self.closed_queue.push(slot);
    }

    /// Frees the slot of a closed mapping. `is_oldest` says that none closed before it.
    fn free_slot(&mut self, slot: u32, is_oldest: bool) {
        let entry = self.entries.get(slot);
        self.forwards.remove(slot, &entry.original(), &entry.reply());
        for index in &mut self.indexes {
            index.remove(slot, &self.entries);
        }
        self.tuple_index.remove(slot, is_oldest, &mut self.entries);
        let (next, released) = self.slots.free(slot);
        let freed = self.entries.get_mut(slot);
        freed.set_state(SlotState::Free);
        freed.next = next;
        if let Some(chunk) = released {
            self.entries.release(chunk);
            self.indexes.iter_mut().for_each(|index| index.release(chunk));
        }
    }
}

/// The end that a DESTROY event reports, of a mapping that was not live. It is not earlier than `opened`.
pub(super) fn ended(flow: &Flow, opened: u64, now: Stamp, otherwise: EndKnown) -> Ended {
    let stop = flow.stop.map(|stop| wall(stop, now)).filter(|stop| *stop >= opened);
    let (at, known) = stop.map_or((now.wall, otherwise), |stop| (stop, EndKnown::Kernel));
    Ended {
        begun: Begun::new(flow, now, BeginKnown::Unknown),
        was_live: false,
        at,
        known,
        mark: Some(flow.mark),
        counters: flow.counters_original.zip(flow.counters_reply).map(Into::into),
    }
}

/// The moment of one of the kernel's timestamps, which are in nanoseconds since the Unix
/// epoch.
pub(super) fn moment(nanoseconds: Option<u64>, now: Stamp) -> Option<Stamp> {
    Some(now.back_to_wall(nanoseconds? / 1_000_000))
}
