//! Building an index while the table is in use.

use super::cursor::Cursor;
use super::entry::SlotState;
use super::family::FamilyTable;
use super::heads::IndexedBy;
use super::index::ChainIndex;
use super::packed::Address;
use super::store::Table;
use super::verify::is_later;
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
/// order in which they opened, and then those that were stored meanwhile. Lookups use it once the last step is done.
#[derive(Debug)]
pub struct IndexBuild {
    by: IndexedBy,
    /// The number of the last entry when it began.
    began: u32,
    /// Where collecting continues; `None` when all are collected.
    cursor: Option<Cursor>,
    entries: Vec<Unindexed>,
    /// How many there will be, about.
    expected: usize,
    /// The first of these to add next; `None` while they are not sorted.
    next: Option<usize>,
}

impl IndexBuild {
    /// Begins to build an index, unless the table has it or it is being built. From now on, entries that are
    /// stored are noted for it.
    pub fn begin(table: &mut Table, by: IndexedBy, now: Stamp) -> Option<Self> {
        // Both families always have the same indexes.
        if table.v4.indexes.iter().any(|index| index.by == by) {
            return None;
        }
        table.v4.indexes.push(ChainIndex::unbuilt(by, now.monotonic));
        table.v6.indexes.push(ChainIndex::unbuilt(by, now.monotonic));
        let (began, cursor) = (table.last_entry(), Some(Cursor::START));
        let expected = table.live() + table.v4.kept + table.v6.kept;
        Some(Self { by, began, cursor, entries: Vec::new(), expected, next: None })
    }

    /// What [`step`](Self::step) needs and takes longer. Call it before each step, without the lock.
    pub fn prepare(&mut self) {
        if self.cursor.is_some() {
            self.entries.reserve(ROOM.max(self.expected.saturating_sub(self.entries.len())));
        } else if self.next.is_none() {
            self.entries.sort_unstable();
            self.next = Some(0);
        }
    }

    /// One step, under one hold of the lock. Returns whether the index is complete.
    pub fn step(&mut self, table: &mut Table) -> bool {
        let Self { by, began, entries, .. } = self;
        let last = table.last_entry();
        if let Some(cursor) = self.cursor {
            self.cursor = cursor.after(if cursor.is_v4 {
                table.v4.unindexed(cursor.slot, *began, last, entries)
            } else {
                table.v6.unindexed(cursor.slot, *began, last, entries)
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

    /// Collects the entries of a slice that were stored before the number `began`, of those up to
    /// `last`. Returns where to continue.
    fn unindexed(&self, from: u32, began: u32, last: u32, entries: &mut Vec<Unindexed>) -> Option<u32> {
        let (slice, next) = self.slice(from);
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state() != SlotState::Free && !is_later(entry.sequence, began, last) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nfct::{Flow, Tuple};

    use super::super::verify::Verified;
    use super::*;
    use crate::question::Question;

    fn stamp(milliseconds: u64) -> Stamp {
        Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
    }

    fn flow(host: u8) -> Flow {
        let server = ([198, 51, 100, 1], 443);
        let reply = Tuple::tcp(server, ([100, 64, 2, 1], 40_000 + u16::from(host)));
        let mut flow = Flow::new(Tuple::tcp(([192, 168, 7, host], 50_000), server), reply);
        flow.id = host.into();
        flow.timeout = Some(432_000);
        flow
    }

    /// The conntrack ids of what a lookup by inside address finds.
    fn found(table: &mut Table, host: u8) -> Vec<u32> {
        let src_ip = Some(std::net::IpAddr::from([192, 168, 7, host]).into());
        let question = Question { src_ip, ..Question::default() };
        let found = table.find(&question, 1000, stamp(9)).expect("there is an index");
        found.iter().map(|mapping| mapping.id).collect()
    }

    #[test]
    fn a_mapping_that_is_older_than_billions_of_others_is_indexed_and_its_end_is_believed() {
        for later in [1, u32::MAX / 2 - 1, u32::MAX / 2 + 7, u32::MAX - 9] {
            let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
            table.open(&flow(1), stamp(1));
            table.skip_numbers(later);
            let mut build = IndexBuild::begin(&mut table, IndexedBy::SrcIp, stamp(2)).expect("it is new");
            // Arrives while the index is built.
            table.open(&flow(2), stamp(3));
            loop {
                build.prepare();
                if build.step(&mut table) {
                    break;
                }
            }
            assert_eq!((found(&mut table, 1), found(&mut table, 2)), (vec![1], vec![2]), "{later}");
            let asked = table.asked(stamp(4));
            assert_eq!(table.verified(&flow(1).reply, None, asked, stamp(5)), Verified::Ended, "{later}");
        }
    }

    #[test]
    fn an_index_stays_while_one_family_needs_it() {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        build_index(&mut table, IndexedBy::SrcIp, stamp(0));
        table.open(&flow(1), stamp(1));
        assert_eq!(found(&mut table, 1), [1]);
        drop(table.remove_indexes(stamp(5).monotonic));
        assert!(table.has_index(IndexedBy::SrcIp));
        drop(table.remove_indexes(stamp(10).monotonic));
        assert!(!table.has_index(IndexedBy::SrcIp) && table.has_index(IndexedBy::NatPort));
    }
}
