//! Loading what several calls need into the processor's cache.
//!
//! In a large table almost every access waits for the memory. The accesses of one event depend on each
//! other, and the processor does not see far enough ahead to begin with the next event meanwhile. So several
//! first pass through the steps of a look-up together: the accesses of one step do not depend on each
//! other, so they are under way at the same time. Nothing that this finds is used.

use std::hint::black_box;

use super::family::FamilyTable;
use super::heads::WARMED;
use super::packed::{Address, PackedTuples};

impl<A: Address> FamilyTable<A> {
    /// Loads what removing `count` closed entries from a position of the queue on needs.
    pub(super) fn warm_removal(&self, position: u64, count: usize) {
        let slots = || (position..position + count as u64).filter_map(|at| self.closed_queue.get(at));
        slots().for_each(|slot| {
            black_box(self.entries.get(slot).id);
            self.indexes.iter().for_each(|index| index.load(slot));
        });
        slots().for_each(|slot| {
            self.tuple_index.load(self.tuple_index.hash(&self.entries.get(slot).reply()));
            self.indexes.iter().for_each(|index| index.load_neighbours(slot, &self.entries));
        });
    }

    /// At most [`WARMED`] flows.
    pub(super) fn warm(&self, flows: impl Iterator<Item = PackedTuples<A>> + Clone) {
        flows.clone().for_each(|tuples| self.tuple_index.load(tuples.hash));
        let unknown = flows.filter(|tuples| !self.tuple_index.load_entry(tuples.hash, &self.entries));
        let (mut found, mut count) = ([PackedTuples::NONE; WARMED], 0);
        for (found, tuples) in found.iter_mut().zip(unknown) {
            *found = tuples;
            count += 1;
        }
        if count > 0 {
            self.indexes.iter().for_each(|index| index.warm(&found[..count], &self.entries));
        }
    }
}
