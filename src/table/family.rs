//! The mappings of one address family: IPv4's entries are smaller than IPv6's.

use std::time::Duration;

use nfct::Flow;

use super::chunks::Chunks;
use super::ended::EndedLifetimes;
use super::entry::{Address, NONE, PackedMapping, PackedTuples, SlotState};
use super::forward::ForwardIndex;
use super::index::{ChainIndex, ChainKey, IndexedBy, LiveIndex, MAX_CHAIN_WALK, ProtocolClass};
use super::journal::{Change, Journal};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Source;

/// Slots in a slice. One hold of the lock works on one slice, for far less than a
/// millisecond.
const SLOTS_PER_SLICE: u32 = 1024;

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

#[derive(Debug)]
pub(super) struct FamilyTable<A> {
    pub(super) entries: Chunks<PackedMapping<A>>,
    /// The first free slot; free slots are linked.
    first_free: u32,
    /// The first slot that was never used.
    pub(super) first_unused: u32,
    pub(super) live: usize,
    pub(super) closed: usize,
    /// Closed entries are linked in the order in which they closed, which is the
    /// order in which they expire.
    first_closed: u32,
    last_closed: u32,
    pub(super) live_index: LiveIndex,
    pub(super) indexes: Vec<ChainIndex>,
    pub(super) forwards: ForwardIndex<A>,
    /// The latest time, by the monotonic clock, at which a stored entry opened.
    newest_opened: u64,
    /// How long lookups still find a closed mapping.
    pub(super) del_delay: Duration,
    /// Counts dumps; an entry has the number of the last dump that contained it.
    pub(super) dump_number: u16,
    /// Lifetimes that ended while a dump runs, which it may still contain.
    pub(super) ended_during_dump: Option<EndedLifetimes>,
    /// Whether the mappings that the dump adds may end without a DESTROY event.
    pub(super) dumped_may_end_silently: bool,
}

impl<A: Address> FamilyTable<A> {
    pub(super) fn new(key: Key, del_delay: Duration) -> Self {
        let mut indexed_by = IndexedBy::STANDARD.to_vec();
        if !indexed_by.contains(&IndexedBy::key(key)) {
            indexed_by.push(IndexedBy::key(key));
        }
        Self {
            entries: Chunks::new(),
            first_free: NONE,
            first_unused: 0,
            live: 0,
            closed: 0,
            first_closed: NONE,
            last_closed: NONE,
            live_index: LiveIndex::new(),
            indexes: indexed_by.into_iter().map(ChainIndex::new).collect(),
            forwards: ForwardIndex::new(),
            newest_opened: 0,
            del_delay,
            dump_number: 0,
            ended_during_dump: None,
            dumped_may_end_silently: false,
        }
    }

    pub(super) fn open(&mut self, flow: &Flow, source: Source, now: Stamp, journal: &mut Journal) -> bool {
        let Some(tuples) = PackedTuples::pack(flow) else { return false };
        if let Some(slot) = self.live_index.find(&tuples.reply, &self.entries) {
            let entry = self.entries.get_mut(slot);
            if entry.id == flow.id && entry.original == tuples.original {
                entry.mark = flow.mark;
                entry.dump_number = self.dump_number;
                if source == Source::Event {
                    // The kernel sends a DESTROY event for each NEW event.
                    entry.clear_may_end_silently();
                    // It may be another lifetime: the kernel reuses conntrack ids.
                    self.number_and_index(slot, journal, true);
                }
                return false;
            }
            // The kernel gives a reply tuple to one connection at a time, so the
            // previous one ended without a DESTROY event.
            self.close_slot(slot, now, journal);
        } else if flow.status.is_dying() && self.is_known_closed(&tuples, flow) {
            // The DESTROY event overtook the NEW event.
            return false;
        }
        self.insert(PackedMapping::new(&tuples, flow, source, source == Source::Kernel, now), journal);
        true
    }

    pub(super) fn close(&mut self, flow: &Flow, now: Stamp, journal: &mut Journal) -> CloseResult {
        let Some(tuples) = PackedTuples::pack(flow) else { return CloseResult::Stale };
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.live_index.hash(&tuples.reply), flow.id);
        }
        match self.live_index.find(&tuples.reply, &self.entries) {
            Some(slot) if self.entries.get(slot).id == flow.id => {
                self.entries.get_mut(slot).set_final_mark(flow.mark);
                self.close_slot(slot, now, journal);
                CloseResult::WasLive
            }
            _ if self.is_known_closed(&tuples, flow) => CloseResult::Stale,
            _ => {
                let slot = self.store(PackedMapping::new(&tuples, flow, Source::Event, false, now), journal);
                self.entries.get_mut(slot).set_final_mark(flow.mark);
                self.queue_closed(slot, now);
                CloseResult::WasUnknown
            }
        }
    }

    pub(super) fn expire(&mut self, now: Stamp, max: usize) -> usize {
        let mut removed = 0;
        for _ in 0..max {
            if self.first_closed == NONE {
                break;
            }
            let slot = self.first_closed;
            let entry = self.entries.get(slot);
            if now.since(entry.closed.into()) < self.del_delay {
                break;
            }
            if entry.state() == SlotState::Closed {
                self.closed -= 1;
                removed += 1;
            }
            self.first_closed = entry.next;
            if self.first_closed == NONE {
                self.last_closed = NONE;
            }
            self.free_slot(slot);
        }
        removed
    }

    pub(super) fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        let first = (self.first_closed != NONE).then(|| self.entries.get(self.first_closed))?;
        Some(self.del_delay.saturating_sub(now.since(first.closed.into())))
    }

    pub(super) fn index(&self, by: IndexedBy) -> Option<&ChainIndex> {
        self.indexes.iter().find(|index| index.by == by)
    }

    /// The slots of the slice from `from` on, and where the next one begins.
    pub(super) fn slice(&self, from: u32) -> (std::ops::Range<u32>, Option<u32>) {
        let end = from.saturating_add(SLOTS_PER_SLICE).min(self.first_unused);
        (from..end, (end < self.first_unused).then_some(end))
    }

    /// Whether exactly this lifetime is stored as closed.
    fn is_known_closed(&self, tuples: &PackedTuples<A>, flow: &Flow) -> bool {
        let class = ProtocolClass::of(flow.original.protocol);
        let key = ChainKey::new(Some(flow.reply.dst), Some(tuples.reply.nat_port()), class);
        let chain = self.index(IndexedBy::NatIpAndPort).zip(key);
        chain.is_some_and(|(index, key)| {
            index.walk(key, &self.entries).take(MAX_CHAIN_WALK).any(|slot| {
                let entry = self.entries.get(slot);
                entry.state() == SlotState::Closed && entry.id == flow.id && entry.reply == tuples.reply
            })
        })
    }

    pub(super) fn insert(&mut self, entry: PackedMapping<A>, journal: &mut Journal) {
        let slot = self.store(entry, journal);
        let entry = *self.entries.get(slot);
        self.live_index.insert(slot, &self.entries);
        self.live += 1;
        journal.record(|| Change::Opened(entry.mapping()));
    }

    /// Stores an entry in a free slot and adds it to the chain indexes.
    fn store(&mut self, entry: PackedMapping<A>, journal: &mut Journal) -> u32 {
        let slot = if self.first_free == NONE {
            self.first_unused += 1;
            self.first_unused - 1
        } else {
            self.first_free
        };
        self.entries.grow_to(slot, PackedMapping::FREE);
        self.first_free = self.entries.get(slot).next;
        *self.entries.get_mut(slot) = PackedMapping { dump_number: self.dump_number, ..entry };
        self.number_and_index(slot, journal, false);
        self.forwards.insert(slot, self.entries.get(slot));
        slot
    }

    /// Numbers an entry and puts it at the front of its chains, which are in the
    /// order of these numbers. `is_indexed` says that it is in them already.
    fn number_and_index(&mut self, slot: u32, journal: &mut Journal, is_indexed: bool) {
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

    pub(super) fn close_slot(&mut self, slot: u32, now: Stamp, journal: &mut Journal) {
        self.live_index.remove(slot, &self.entries);
        self.live -= 1;
        self.queue_closed(slot, now);
        let entry = *self.entries.get(slot);
        journal.record(|| Change::Closed(entry.mapping()));
    }

    /// Appends an entry to the closed ones, which wait to expire.
    fn queue_closed(&mut self, slot: u32, now: Stamp) {
        let entry = self.entries.get_mut(slot);
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.live_index.hash(&entry.reply), entry.id);
        }
        entry.set_state(SlotState::Closed);
        entry.closed = now.into();
        entry.next = NONE;
        self.closed += 1;
        match self.last_closed {
            NONE => self.first_closed = slot,
            last => self.entries.get_mut(last).next = slot,
        }
        self.last_closed = slot;
    }

    fn free_slot(&mut self, slot: u32) {
        self.forwards.remove(slot, self.entries.get(slot));
        for index in &mut self.indexes {
            index.remove(slot, &self.entries);
        }
        *self.entries.get_mut(slot) = PackedMapping { next: self.first_free, ..PackedMapping::FREE };
        self.first_free = slot;
    }
}
