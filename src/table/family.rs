//! The mappings of one address family: IPv4's entries are smaller than IPv6's.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::chunks::{CHUNK, Chunks, chunk_of};
use super::ended::EndedLifetimes;
use super::entry::{Address, NONE, PackedMapping, SlotState};
use super::forward::ForwardIndex;
use super::index::{ChainIndex, IndexedBy};
use super::journal::{Change, Journal};
use super::publics::PublicAddresses;
use super::repeated::{OVERTAKEN, Repeated};
use super::slots::Slots;
use super::tuple_index::TupleIndex;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Doubt;

/// Slots in a slice. One hold of the lock works on one slice, for far less than a
/// millisecond.
const SLOTS_PER_SLICE: u32 = 1024;

/// The kernel's default of the shortest timeout of a TCP connection that closes:
/// `nf_conntrack_tcp_timeout_close`. With a longer one set, a mapping is verified after this time too.
pub const MAX_CLOSING_TIMEOUT: Duration = Duration::from_secs(10);
/// Closed entries are stored at least this long, although lookups do not see them after
/// `del_delay`: their lifetimes must be known when a late event names them.
pub(super) const MIN_KEPT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct FamilyTable<A> {
    pub(super) entries: Chunks<PackedMapping<A>>,
    slots: Slots,
    pub(super) live: usize,
    /// The closed mappings that lookups can see.
    pub(super) closed: usize,
    /// All closed mappings that are stored.
    pub(super) kept: usize,
    /// How many more live mappings may be stored.
    pub(super) room: usize,
    /// Closed entries are linked in the order in which they closed, which is the
    /// order in which they expire.
    pub(super) first_closed: u32,
    last_closed: u32,
    /// Where a search through them for old ones continues: behind this one.
    pub(super) searched_to: u32,
    /// The first of them whose `del_delay` has not passed when it was last checked.
    first_visible: u32,
    pub(super) tuple_index: TupleIndex,
    pub(super) indexes: Vec<ChainIndex>,
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
        let mut indexed_by = IndexedBy::STANDARD.to_vec();
        if !indexed_by.contains(&IndexedBy::key(key)) {
            indexed_by.push(IndexedBy::key(key));
        }
        Self {
            entries: Chunks::new(),
            slots: Slots::default(),
            live: 0,
            closed: 0,
            kept: 0,
            room: usize::MAX,
            first_closed: NONE,
            last_closed: NONE,
            searched_to: NONE,
            first_visible: NONE,
            tuple_index: TupleIndex::new(),
            indexes: indexed_by.into_iter().map(ChainIndex::new).collect(),
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
        for _ in 0..max {
            let slot = self.first_closed;
            if slot == NONE || now.since(self.entries.get(slot).closed()) < kept_for {
                break;
            }
            removed += self.remove_closed(NONE, slot, now);
        }
        // With a short `del_delay`, others are hidden before they are removed.
        if self.del_delay < MIN_KEPT {
            for _ in 0..max {
                let slot = self.first_visible;
                if slot == NONE || now.since(self.entries.get(slot).closed()) < self.del_delay {
                    break;
                }
                removed += self.hide_first();
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
        let slot = self.first_closed;
        if slot == NONE {
            return false;
        }
        let entry = self.entries.get(slot);
        let (closed, hash) = (entry.closed(), self.tuple_index.hash(&entry.reply));
        if now.since(closed) < OVERTAKEN {
            // Its NEW event may still come.
            self.ended_unknown.remember(hash, entry.id, now);
        }
        if entry.is_unreported() && entry.is_suspect() {
            // Its DESTROY event may still come.
            self.missing_ends = self.missing_ends.saturating_sub(1);
            self.repeated.remember(hash, entry.id, now);
        }
        if self.remove_closed(NONE, slot, now) > 0 && now.since(closed) < self.del_delay {
            journal.note_forgotten(closed);
        }
        true
    }

    /// When the mapping closed that closed first of those that are stored.
    pub(super) fn oldest_closed(&self) -> Option<Stamp> {
        (self.first_closed != NONE).then(|| self.entries.get(self.first_closed).closed())
    }

    /// Removes a closed mapping; `previous` is the one that closed before it, or [`NONE`].
    /// Returns 1 if lookups could still see it, and otherwise 0.
    pub(super) fn remove_closed(&mut self, previous: u32, slot: u32, now: Stamp) -> usize {
        let entry = self.entries.get(slot);
        let (next, was_visible) = (entry.next, entry.state() == SlotState::Closed);
        if self.repeated.is_active(now) {
            self.repeated.remember(self.tuple_index.hash(&entry.reply), entry.id, now);
        }
        match previous {
            NONE => self.first_closed = next,
            previous => self.entries.get_mut(previous).next = next,
        }
        if self.last_closed == slot {
            self.last_closed = previous;
        }
        if self.first_visible == slot {
            self.first_visible = next;
        }
        if self.searched_to == slot {
            self.searched_to = previous;
        }
        self.kept -= 1;
        self.closed -= usize::from(was_visible);
        self.free_slot(slot, previous == NONE);
        usize::from(was_visible)
    }

    /// Hides the first visible one of the closed mappings from lookups. Returns 1, or 0 if it
    /// was hidden already.
    fn hide_first(&mut self) -> usize {
        let entry = self.entries.get_mut(self.first_visible);
        self.first_visible = entry.next;
        if entry.state() != SlotState::Closed {
            return 0;
        }
        entry.set_state(SlotState::Removed);
        self.closed -= 1;
        1
    }

    pub(super) fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        let age = |slot| now.since(self.entries.get(slot).closed());
        let visible =
            (self.first_visible != NONE).then(|| self.del_delay.saturating_sub(age(self.first_visible)));
        // Also those that were hidden while `del_delay` was shorter.
        let kept = (self.first_closed != self.first_visible)
            .then(|| self.del_delay.max(MIN_KEPT).saturating_sub(age(self.first_closed)));
        visible.into_iter().chain(kept).min()
    }

    pub(super) fn index(&self, by: IndexedBy) -> Option<&ChainIndex> {
        self.indexes.iter().find(|index| index.by == by)
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

    /// Stores a live mapping, and returns its slot.
    pub(super) fn insert(&mut self, entry: PackedMapping<A>, journal: &mut Journal) -> u32 {
        let hash = self.tuple_index.hash(&entry.reply);
        self.insert_hashed(entry, hash, journal)
    }

    /// Stores a live mapping with the hash of its reply tuple, and returns its slot.
    pub(super) fn insert_hashed(&mut self, entry: PackedMapping<A>, hash: u64, journal: &mut Journal) -> u32 {
        self.unreported += usize::from(entry.is_unreported());
        self.zones.extend([entry.original.zone(), entry.reply.zone()].into_iter().filter(|zone| *zone != 0));
        let slot = self.store(entry, journal);
        self.tuple_index.insert(slot, hash, &mut self.entries);
        self.live += 1;
        journal.record(|| Change::Opened(self.entries.get(slot).mapping(Doubt::None)));
        slot
    }

    /// Stores a lifetime of which only the end is known.
    pub(super) fn insert_closed(&mut self, entry: PackedMapping<A>, closed: Stamp, journal: &mut Journal) {
        let slot = self.store(entry, journal);
        journal.record(|| Change::Opened(self.entries.get(slot).mapping(Doubt::None)));
        self.queue_closed(slot, closed, Some(entry.mark), journal);
        self.tuple_index.insert(slot, self.tuple_index.hash(&entry.reply), &mut self.entries);
        journal.record(|| Change::Closed(self.entries.get(slot).mapping(Doubt::None)));
    }

    /// Stores an entry in a free slot and adds it to the chain indexes.
    pub(super) fn store(&mut self, entry: PackedMapping<A>, journal: &mut Journal) -> u32 {
        let slot = self.slots.take(|free| self.entries.get(free).next);
        self.entries.grow_to(slot, PackedMapping::FREE);
        *self.entries.get_mut(slot) = PackedMapping { dump_number: self.dump_number, ..entry };
        self.number_and_index(slot, journal, false);
        let entry = self.entries.get(slot);
        self.forwards.insert(slot, entry);
        if entry.is_source_nat() {
            self.publics.insert(entry.reply.dst);
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
        let opened = Stamp::from(entry.opened).monotonic;
        entry.set_was_newest(opened >= self.newest_opened);
        self.newest_opened = self.newest_opened.max(opened);
        for index in &mut self.indexes {
            index.insert(slot, &self.entries);
        }
    }

    /// Closes a live mapping whose end no event has reported.
    pub(super) fn close_slot(&mut self, slot: u32, closed: Stamp, journal: &mut Journal) {
        self.close_marked(slot, closed, None, journal);
    }

    /// Closes a live mapping that ended at `closed`, with the mark at its end if an event
    /// reported it.
    pub(super) fn close_marked(
        &mut self,
        slot: u32,
        closed: Stamp,
        mark: Option<u32>,
        journal: &mut Journal,
    ) {
        self.live -= 1;
        self.unreported -= usize::from(self.entries.get(slot).is_unreported());
        self.queue_closed(slot, closed, mark, journal);
        journal.record(|| Change::Closed(self.entries.get(slot).mapping(Doubt::None)));
    }

    /// Appends an entry to the closed ones, which wait to expire.
    fn queue_closed(&mut self, slot: u32, closed: Stamp, mark: Option<u32>, journal: &mut Journal) {
        let entry = self.entries.get_mut(slot);
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.tuple_index.hash(&entry.reply), entry.id);
        }
        entry.set_state(SlotState::Closed);
        entry.set_final_mark(mark);
        entry.dump_number = journal.number_closing();
        entry.set_closed(closed.max(Stamp::from(entry.opened)));
        entry.set_unreported(false);
        entry.set_suspect(false);
        entry.next = NONE;
        self.closed += 1;
        self.kept += 1;
        match self.last_closed {
            NONE => self.first_closed = slot,
            last => self.entries.get_mut(last).next = slot,
        }
        self.last_closed = slot;
        if self.first_visible == NONE {
            self.first_visible = slot;
        }
    }

    /// Frees the slot of a closed mapping. `is_oldest` says that none closed before it.
    fn free_slot(&mut self, slot: u32, is_oldest: bool) {
        self.forwards.remove(slot, self.entries.get(slot));
        for index in &mut self.indexes {
            index.remove(slot, &self.entries);
        }
        self.tuple_index.remove(slot, is_oldest, &mut self.entries);
        let (next, released) = self.slots.free(slot);
        *self.entries.get_mut(slot) = PackedMapping { next, ..PackedMapping::FREE };
        if let Some(chunk) = released {
            self.entries.release(chunk);
            self.indexes.iter_mut().for_each(|index| index.release(chunk));
        }
    }
}
