//! Indexes of the table that find all entries which share an address, a port or both; they store slot
//! numbers.

use std::collections::VecDeque;
use std::hint::black_box;

use super::chunks::{Chunks, NONE, chunk_of};
use super::entry::{PackedMapping, SlotState};
use super::heads::{ChainKey, Heads, IndexedBy, WARMED};
use super::packed::{Address, PackedTuples};
use super::shards::SHARDS;

/// Hash tables for the chains of an index that were set aside, which are few.
const ASIDE_SHARDS: usize = 256;
/// The maximum number of entries of a chain that are walked at once.
pub(super) const MAX_CHAIN_WALK: usize = 4096;

/// The neighbours of a slot in its chain, and whether that is the chain of those set aside: the
/// highest bit of `newer`.
#[derive(Debug, Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
}

/// Slots are less than this, because `max_mappings` is.
const ASIDE: u32 = 1 << 31;
/// The older neighbour of a slot that is in no chain.
const ABSENT: u32 = NONE - 1;

impl Link {
    /// That of a slot in no chain.
    const ABSENT: Self = Self { newer: NONE, older: ABSENT };

    fn new(is_aside: bool, newer: u32, older: u32) -> Self {
        Self { newer: newer & !ASIDE | if is_aside { ASIDE } else { 0 }, older }
    }

    fn is_aside(self) -> bool {
        self.newer & ASIDE != 0
    }

    fn newer(self) -> Option<u32> {
        Some(self.newer & !ASIDE).filter(|slot| *slot != NONE & !ASIDE)
    }

    fn older(self) -> Option<u32> {
        Some(self.older).filter(|slot| *slot != NONE)
    }
}

/// Why one hold of the lock was not enough for a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// The same lookup will get further the next time.
    Again,
    /// No index serves it, or too many entries share the value. Use
    /// [`scan`](super::Table::scan).
    TooMany,
    /// This index would serve it, and does not exist yet. Use [`scan`](super::Table::scan) until it does.
    NoIndex(IndexedBy),
}

/// Where a walk continues. The link of a slot is read only when the walk goes on: most end at the first one.
#[derive(Debug, Clone, Copy)]
enum Next {
    At(Option<u32>),
    Behind(u32),
}

/// A walk through the live slots of a chain.
#[derive(Debug)]
pub(super) struct Walk {
    next: Next,
    walked: usize,
    set_aside: usize,
    /// The slot that was set aside last.
    last_aside: Option<u32>,
}

/// Finds the entries that share a key. They form a chain, which begins with the
/// entry that was added last.
///
/// Closed entries stay in their chains, because closing must cost little. A walk for live ones
/// sets the closed ones that it meets aside, in a second chain with the same key: no lookup walks
/// past them again.
#[derive(Debug)]
pub(super) struct ChainIndex {
    pub(super) by: IndexedBy,
    /// The first slot of each chain.
    heads: Heads,
    /// The first slot of each chain of those set aside.
    aside: Heads,
    links: Chunks<Link>,
    /// While the index is built: entries that were stored since that began, and their numbers. They
    /// come in front of those that were there before.
    arrivals: Option<VecDeque<(u32, u32)>>,
    /// When a lookup last used it, by the monotonic clock.
    pub(super) used_at: u64,
}

impl ChainIndex {
    pub(super) fn new(by: IndexedBy) -> Self {
        Self {
            by,
            heads: Heads::new(by, SHARDS),
            aside: Heads::new(by, ASIDE_SHARDS),
            links: Chunks::new(),
            arrivals: None,
            used_at: 0,
        }
    }

    /// An index for a table that has entries already; none is in it yet.
    pub(super) fn unbuilt(by: IndexedBy, now: u64) -> Self {
        Self { arrivals: Some(VecDeque::new()), used_at: now, ..Self::new(by) }
    }

    /// Whether it has all entries.
    pub(super) fn is_complete(&self) -> bool {
        self.arrivals.is_none()
    }

    /// Adds an entry that was there before the index, if that is still so: it has this number and is in
    /// no chain. Those that opened first come first.
    pub(super) fn add<A: Address>(&mut self, slot: u32, sequence: u32, entries: &Chunks<PackedMapping<A>>) {
        let is_same = entries.has(chunk_of(slot)) && {
            let entry = entries.get(slot);
            entry.state() != SlotState::Free && entry.sequence == sequence
        };
        if !is_same {
            return;
        }
        self.links.grow_to(slot, Link::ABSENT);
        if self.links.get(slot).older == ABSENT {
            self.put_first(slot, false, entries);
        }
    }

    /// Adds at most `max` of the entries that have arrived. Returns whether the index is complete.
    pub(super) fn add_arrivals<A: Address>(
        &mut self,
        max: usize,
        entries: &Chunks<PackedMapping<A>>,
    ) -> bool {
        for _ in 0..max {
            let Some(arrivals) = &mut self.arrivals else { return true };
            match arrivals.pop_front() {
                Some((slot, sequence)) => self.add(slot, sequence, entries),
                None => self.arrivals = None,
            }
        }
        self.is_complete()
    }

    #[inline]
    pub(super) fn insert<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        self.links.grow_to(slot, Link::ABSENT);
        match &mut self.arrivals {
            Some(arrivals) => arrivals.push_back((slot, entries.get(slot).sequence)),
            None => self.put_first(slot, false, entries),
        }
    }

    #[inline]
    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        // While the index is built, it may not have reached this slot.
        if self.links.has(chunk_of(slot)) && self.links.get(slot).older != ABSENT {
            self.unlink(slot, entries);
        }
    }

    /// Loads what inserting entries with these tuples needs into the processor's cache.
    pub(super) fn warm<A: Address>(&self, tuples: &[PackedTuples<A>], entries: &Chunks<PackedMapping<A>>) {
        let mut keys = [ChainKey::NONE; WARMED];
        let keys = &mut keys[..tuples.len().min(WARMED)];
        for (key, tuples) in keys.iter_mut().zip(tuples) {
            *key = self.by.key_of_tuples(&tuples.original, &tuples.reply);
        }
        self.heads.warm(keys, |first| {
            black_box((self.links.get(first).older, entries.get(first).id));
        });
    }

    /// Loads the place of a slot into the processor's cache, without waiting for it.
    pub(super) fn load(&self, slot: u32) {
        if self.links.has(chunk_of(slot)) {
            black_box(self.links.get(slot).older);
        }
    }

    /// Loads what [`remove`](Self::remove) changes beside that.
    pub(super) fn load_neighbours<A: Address>(&self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        if !self.links.has(chunk_of(slot)) || self.links.get(slot).older == ABSENT {
            return;
        }
        let link = *self.links.get(slot);
        link.older().into_iter().chain(link.newer()).for_each(|neighbour| self.load(neighbour));
        if link.newer().is_none() {
            self.heads.load(self.by.key_of(entries.get(slot)));
        }
    }

    /// Gives the memory of a chunk back that has only free slots.
    pub(super) fn release(&mut self, chunk: usize) {
        self.links.release(chunk);
    }

    /// The first slots of the chains, or of those set aside.
    fn heads(&mut self, is_aside: bool) -> &mut Heads {
        if is_aside { &mut self.aside } else { &mut self.heads }
    }

    /// Puts a slot at the front of the chain of its key.
    fn put_first<A: Address>(&mut self, slot: u32, is_aside: bool, entries: &Chunks<PackedMapping<A>>) {
        let by = self.by;
        let older = self.heads(is_aside).put(by, slot, entries);
        *self.links.get_mut(slot) = Link::new(is_aside, NONE, older);
        if older != NONE {
            let older = self.links.get_mut(older);
            *older = Link::new(is_aside, slot, older.older);
        }
    }

    /// Puts a slot that is in no chain behind another one.
    fn put_behind(&mut self, slot: u32, newer: u32) {
        let Link { older, .. } = *self.links.get(newer);
        let is_aside = self.links.get(newer).is_aside();
        *self.links.get_mut(slot) = Link::new(is_aside, newer, older);
        self.links.get_mut(newer).older = slot;
        if older != NONE {
            *self.links.get_mut(older) = Link::new(is_aside, slot, self.links.get(older).older);
        }
    }

    /// Takes a slot out of its chain.
    fn unlink<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        let by = self.by;
        let link = std::mem::replace(self.links.get_mut(slot), Link::ABSENT);
        let newer = link.newer();
        if let Some(older) = link.older() {
            let older = self.links.get_mut(older);
            *older = Link::new(link.is_aside(), newer.unwrap_or(NONE), older.older);
        }
        match newer {
            Some(newer) => self.links.get_mut(newer).older = link.older,
            None => self.heads(link.is_aside()).replace(by, slot, link.older, entries),
        }
    }

    /// Whether a slot is in the chains of a key.
    pub(super) fn has_key<A: Address>(
        &self,
        slot: u32,
        key: ChainKey<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> bool {
        self.by.key_of(entries.get(slot)) == key
    }

    /// The newer slots of a slot's chain, the next newer one first.
    pub(super) fn newer(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let newer = move |slot: u32| self.links.get(slot).newer();
        std::iter::successors(newer(slot), move |slot| newer(*slot))
    }

    /// The older slots of a slot's chain, the next older one first.
    pub(super) fn older(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let older = move |slot: u32| self.links.get(slot).older();
        std::iter::successors(older(slot), move |slot| older(*slot))
    }

    /// Begins a walk through the live slots of a key's chain, the one added last first.
    pub(super) fn begin_walk<A: Address>(
        &self,
        key: ChainKey<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Walk {
        let next = Next::At(self.heads.first(self.by, key, entries));
        Walk { next, walked: 0, set_aside: 0, last_aside: None }
    }

    /// The next live slot of a walk. Sets the closed ones before it aside.
    pub(super) fn next_live<A: Address>(
        &mut self,
        walk: &mut Walk,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Result<Option<u32>, Unfinished> {
        loop {
            let next = match walk.next {
                Next::At(slot) => slot,
                Next::Behind(slot) => self.links.get(slot).older(),
            };
            let Some(slot) = next else { return Ok(None) };
            if entries.get(slot).state() == SlotState::Live {
                walk.next = Next::Behind(slot);
                walk.walked += 1;
                return if walk.walked > MAX_CHAIN_WALK { Err(Unfinished::TooMany) } else { Ok(Some(slot)) };
            }
            walk.next = Next::At(self.links.get(slot).older());
            if walk.set_aside == MAX_CHAIN_WALK {
                return Err(Unfinished::Again);
            }
            walk.set_aside += 1;
            self.unlink(slot, entries);
            // In the same order as before.
            match walk.last_aside.replace(slot) {
                None => self.put_first(slot, true, entries),
                Some(last) => self.put_behind(slot, last),
            }
        }
    }

    /// The slots of a key that were set aside when they had closed, those that were set aside
    /// last first. All closed ones are here after a walk to the end of
    /// the chain.
    pub(super) fn aside<'a, A: Address>(
        &'a self,
        key: ChainKey<A>,
        entries: &'a Chunks<PackedMapping<A>>,
    ) -> impl Iterator<Item = u32> + 'a {
        let head = self.aside.first(self.by, key, entries);
        std::iter::successors(head, |slot| self.links.get(*slot).older())
            .inspect(|slot| debug_assert!(entries.get(*slot).state() != SlotState::Free))
    }
}
