//! Building an index while the table is in use.

use super::cursor::Cursor;
use super::entry::SlotState;
use super::family::FamilyTable;
use super::heads::IndexedBy;
use super::index::ChainIndex;
use super::packed::Address;
use super::store::Table;
use crate::clock::Stamp;
use crate::config::Key;

/// Entries that are added under one hold of the lock.
const ADDED_PER_HOLD: usize = 256;
/// Room for more than a slice, so that none is allocated under the lock.
const ROOM: usize = 2048;

/// An entry that an index which is built lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unindexed {
    /// [`Mapping::age_rank`](crate::mapping::Mapping::age_rank): they are added in this order.
    rank: (u64, u32),
    is_v4: bool,
    slot: u32,
}

/// An index that is built in steps: first the entries are collected that exist, then they are added in the
/// order in which they opened, and then those that were stored meanwhile.
#[derive(Debug)]
pub struct IndexBuild {
    by: IndexedBy,
    /// The number of the last entry when it began.
    began: u32,
    /// Where collecting continues; `None` when all are collected.
    cursor: Option<Cursor>,
    entries: Vec<Unindexed>,
    /// The first of these to add next; `None` while they are not sorted.
    next: Option<usize>,
    /// Earlier attempts that did not end, to be dropped without the lock.
    _unfinished: [Option<ChainIndex>; 2],
}

impl IndexBuild {
    /// Begins to build an index, unless the table has it. From now on, entries that are stored are noted for it.
    pub fn begin(table: &mut Table, by: IndexedBy, now: Stamp) -> Option<Self> {
        let _unfinished = match table.has_index(by) {
            true => return None,
            false => [table.v4.begin_index(by, now), table.v6.begin_index(by, now)],
        };
        let (began, cursor) = (table.last_entry(), Some(Cursor::START));
        Some(Self { by, began, cursor, entries: Vec::new(), next: None, _unfinished })
    }

    /// What [`step`](Self::step) needs and takes longer. Call it before each step, without the lock.
    pub fn prepare(&mut self) {
        if self.cursor.is_some() {
            self.entries.reserve(ROOM);
        } else if self.next.is_none() {
            self.entries.sort_unstable();
            self.next = Some(0);
        }
    }

    /// One step, under one hold of the lock. Returns whether the index is complete.
    pub fn step(&mut self, table: &mut Table) -> bool {
        let Self { by, began, entries, .. } = self;
        if let Some(cursor) = self.cursor {
            self.cursor = cursor.after(if cursor.is_v4 {
                table.v4.unindexed(cursor.slot, *began, entries)
            } else {
                table.v6.unindexed(cursor.slot, *began, entries)
            });
            return false;
        }
        let Some(next) = self.next.filter(|next| *next < entries.len()) else {
            return table.v4.finish_index(*by) && table.v6.finish_index(*by);
        };
        let end = (next + ADDED_PER_HOLD).min(entries.len());
        for entry in &entries[next..end] {
            if entry.is_v4 {
                table.v4.add_to_index(*by, entry);
            } else {
                table.v6.add_to_index(*by, entry);
            }
        }
        self.next = Some(end);
        false
    }
}

impl<A: Address> FamilyTable<A> {
    /// Whether an index exists always.
    fn is_permanent(&self, by: IndexedBy) -> bool {
        by == IndexedBy::NatIpAndPort || by == IndexedBy::key(self.key)
    }

    /// Changes the key of the legacy routes. Its index must be built.
    pub(super) fn set_key(&mut self, key: Key) {
        self.key = key;
    }

    /// Begins to add an index. Returns that of an earlier attempt that did not end.
    fn begin_index(&mut self, by: IndexedBy, now: Stamp) -> Option<ChainIndex> {
        let unfinished = self.indexes.iter().position(|index| index.by == by);
        let unfinished = unfinished.map(|at| self.indexes.swap_remove(at));
        self.indexes.push(ChainIndex::unbuilt(by, now.monotonic));
        unfinished
    }

    /// Collects the entries of a slice that were stored before the number `began`. Returns where
    /// to continue.
    fn unindexed(&self, from: u32, began: u32, entries: &mut Vec<Unindexed>) -> Option<u32> {
        let (slice, next) = self.slice(from);
        for slot in slice {
            let entry = self.entries.get(slot);
            let has_arrived = (1..=u32::MAX / 2).contains(&entry.sequence.wrapping_sub(began));
            if entry.state() != SlotState::Free && !has_arrived {
                entries.push(Unindexed { rank: entry.age_rank(), is_v4: A::IS_V4, slot });
            }
        }
        next
    }

    /// Adds an entry to an index that is built, if it still exists.
    fn add_to_index(&mut self, by: IndexedBy, entry: &Unindexed) {
        if let Some(index) = self.indexes.iter_mut().find(|index| index.by == by && !index.is_complete()) {
            index.add(entry.slot, entry.rank.1, &self.entries);
        }
    }

    /// Adds some of the entries that have arrived to an index that is built. Returns whether it is
    /// complete.
    fn finish_index(&mut self, by: IndexedBy) -> bool {
        let index = self.indexes.iter_mut().find(|index| index.by == by);
        index.is_none_or(|index| index.add_arrivals(ADDED_PER_HOLD, &self.entries))
    }

    /// Removes the indexes that need not exist and that no lookup has used since `used_since`, by the
    /// monotonic clock.
    pub(super) fn remove_indexes(&mut self, used_since: u64) -> Vec<ChainIndex> {
        let unused = |this: &Self| {
            let is_unused = |index: &ChainIndex| {
                index.is_complete() && !this.is_permanent(index.by) && index.used_at < used_since
            };
            this.indexes.iter().position(is_unused)
        };
        let mut removed = Vec::new();
        while let Some(at) = unused(self) {
            removed.push(self.indexes.remove(at));
        }
        removed
    }
}

/// Builds an index at once.
#[cfg(test)]
pub(super) fn build_index(table: &mut Table, by: IndexedBy, now: Stamp) {
    let Some(mut build) = IndexBuild::begin(table, by, now) else { return };
    loop {
        build.prepare();
        if build.step(table) {
            return;
        }
    }
}
