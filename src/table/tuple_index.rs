//! Finds the lifetimes of one reply tuple.

use std::hint::black_box;

use super::chunks::{Chunks, NONE};
use super::entry::{ALONE, PackedMapping, SlotState};
use super::packed::{Address, PackedTuple};
use super::shards::{CellHash, SHARDS, Shards};

/// Finds entries by their reply tuple with protocol and zone, which identifies a live
/// mapping.
///
/// The lifetimes with one reply tuple form a list in the order in which they closed. The hash table has
/// the newest: the live one, if there is one, or the one that closed last. `around` links them in both
/// directions with one number, the neighbours' slots combined by XOR: who comes from one neighbour finds
/// the other. The oldest has only one, so it is removed without a walk.
#[derive(Debug)]
pub(super) struct TupleIndex {
    newest: Shards,
}

impl TupleIndex {
    pub(super) fn new() -> Self {
        Self { newest: Shards::new(SHARDS) }
    }

    #[inline]
    pub(super) fn hash<A: Address>(&self, reply: &PackedTuple<A>) -> CellHash {
        self.newest.hash(reply)
    }

    /// Loads the place of a hash into the processor's cache, without waiting for it.
    #[inline]
    pub(super) fn load(&self, hash: CellHash) {
        self.newest.load(hash);
    }

    /// Loads the entry of a hash, whose place is there, into the processor's cache. Returns whether there
    /// probably is one.
    #[inline]
    pub(super) fn load_entry<A: Address>(&self, hash: CellHash, entries: &Chunks<PackedMapping<A>>) -> bool {
        let guess = self.newest.guess(hash);
        guess.is_some_and(|slot| {
            black_box(entries.get(slot).id);
            true
        })
    }

    /// The live mapping with this reply tuple.
    pub(super) fn live<A: Address>(
        &self,
        reply: &PackedTuple<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        self.live_by_hash(self.hash(reply), reply, entries)
    }

    /// The live mapping with this reply tuple, whose hash is `hash`.
    #[inline]
    pub(super) fn live_by_hash<A: Address>(
        &self,
        hash: CellHash,
        reply: &PackedTuple<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        self.newest(hash, reply, entries).filter(|slot| entries.get(*slot).state() == SlotState::Live)
    }

    /// The newest lifetime with this reply tuple, whose hash is `hash`. If none is live, it is the one
    /// that closed last.
    #[inline]
    pub(super) fn newest<A: Address>(
        &self,
        hash: CellHash,
        reply: &PackedTuple<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        self.newest.find(hash, |slot| entries.get(slot).reply() == *reply)
    }

    /// All lifetimes with this reply tuple, the newest first.
    pub(super) fn all<'a, A: Address>(
        &self,
        reply: &PackedTuple<A>,
        entries: &'a Chunks<PackedMapping<A>>,
    ) -> impl Iterator<Item = u32> + use<'a, A> {
        let newest = self.newest(self.hash(reply), reply, entries);
        let first = newest.map(|newest| (NONE, newest));
        let older = |(newer, slot): &(u32, u32)| {
            let older = entries.get(*slot).around ^ newer;
            (older != NONE).then_some((*slot, older))
        };
        std::iter::successors(first, older).map(|(_, slot)| slot)
    }

    /// Adds a slot that is not in the index yet, with the hash of its reply tuple: a live one if no
    /// other is live.
    pub(super) fn insert<A: Address>(
        &mut self,
        slot: u32,
        hash: CellHash,
        entries: &mut Chunks<PackedMapping<A>>,
    ) {
        let reply = entries.get(slot).reply();
        let is_equal = |slot| entries.get(slot).reply() == reply;
        let Some(newest) = self.newest.put(hash, slot, is_equal) else {
            entries.get_mut(slot).around = ALONE;
            return;
        };
        if entries.get(newest).state() == SlotState::Live {
            // The live one stays the newest.
            self.newest.replace(hash, slot, newest);
            let older = entries.get(newest).around ^ NONE;
            entries.get_mut(slot).around = newest ^ older;
            replace_neighbour(newest, older, slot, entries);
            replace_neighbour(older, newest, slot, entries);
        } else {
            entries.get_mut(slot).around = NONE ^ newest;
            replace_neighbour(newest, NONE, slot, entries);
        }
    }

    /// Removes a closed slot. `is_oldest` says that none closed before it.
    pub(super) fn remove<A: Address>(
        &mut self,
        slot: u32,
        is_oldest: bool,
        entries: &mut Chunks<PackedMapping<A>>,
    ) {
        let entry = entries.get(slot);
        let (reply, around) = (entry.reply(), entry.around);
        let hash = self.hash(&reply);
        let Some(newest) = self.newest(hash, &reply, entries) else { return };
        let (newer, older) = if newest == slot {
            (NONE, around ^ NONE)
        } else if is_oldest {
            (around ^ NONE, NONE)
        } else {
            let (mut newer, mut at) = (NONE, newest);
            while at != slot {
                (newer, at) = (at, entries.get(at).around ^ newer);
            }
            (newer, around ^ newer)
        };
        replace_neighbour(newer, slot, older, entries);
        replace_neighbour(older, slot, newer, entries);
        if newer == NONE {
            self.newest.replace(hash, slot, older);
        }
    }
}

/// Gives a slot another neighbour in the list of its reply tuple. Does nothing for [`NONE`].
fn replace_neighbour<A: Address>(slot: u32, old: u32, new: u32, entries: &mut Chunks<PackedMapping<A>>) {
    if slot != NONE {
        entries.get_mut(slot).around ^= old ^ new;
    }
}
