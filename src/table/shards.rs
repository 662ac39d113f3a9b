//! Hash tables of slots, divided into many small ones. A hash table that grows moves only its own
//! slots, a few thousand of many millions, so no insertion holds the table's lock long.
//!
//! A cell has a slot and a part of its hash. So growing and removing need no access to what the slots
//! stand for, a search accesses it only to confirm what it has found, and usually reads one line of the
//! processor's cache. Cells are searched from their home on, one after the other, up to an empty one.

use std::hash::{BuildHasher, Hash};
use std::hint::black_box;

use hashbrown::DefaultHashBuilder;

use super::chunks::NONE;

/// Hash tables in an index.
pub(super) const SHARDS: usize = 4096;
/// The least number of cells of a hash table.
const MIN_CELLS: usize = 8;
/// A hash table with fewer cells keeps them.
const MIN_SHRUNK: usize = 64;
/// 2^64 divided by the golden ratio, made odd: a multiplication spreads every bit to the highest ones.
const MIXER: u64 = 0x9E37_79B9_7F4A_7C15;

/// The hash of a key, as cells have it: well mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct CellHash(u32);

/// A slot and its hash.
#[derive(Debug, Clone, Copy)]
struct Cell {
    slot: u32,
    hash: CellHash,
}

const EMPTY: Cell = Cell { slot: NONE, hash: CellHash(0) };

/// One hash table: a power of two of cells, or none.
#[derive(Debug, Clone, Default)]
struct Cells {
    cells: Box<[Cell]>,
    /// Cells that are not empty.
    used: usize,
}

impl CellHash {
    /// That of no key in particular.
    pub(super) const ZERO: Self = Self(0);

    /// One of `count` parts.
    pub(super) fn part(self, count: usize) -> usize {
        self.0 as usize % count
    }

    /// Where a search begins among `cells`, a power of two.
    #[inline]
    fn home(self, cells: usize) -> usize {
        // The highest bits choose the shard. A multiplication brings the others there.
        ((u64::from(self.0.wrapping_mul(MIXER as u32)) * cells as u64) >> 32) as usize
    }
}

impl Cells {
    /// The cells from the home of a hash on, up to the first empty one, with their numbers.
    #[inline]
    fn search(&self, hash: CellHash) -> impl Iterator<Item = (usize, Cell)> + '_ {
        let mask = self.cells.len().wrapping_sub(1);
        let home = hash.home(self.cells.len());
        (0..self.cells.len())
            .map(move |step| (home + step) & mask)
            .map(|at| (at, self.cells[at]))
            .take_while(|(_, cell)| cell.slot != NONE)
    }

    #[inline]
    fn find(&self, hash: CellHash, is_equal: impl Fn(u32) -> bool) -> Option<usize> {
        let mut cells = self.search(hash);
        cells.find(|(_, cell)| cell.hash == hash && is_equal(cell.slot)).map(|(at, _)| at)
    }

    /// Adds a cell. The caller knows that it is not there yet.
    #[inline]
    fn add(&mut self, cell: Cell) {
        if (self.used + 1) * 8 > self.cells.len() * 7 {
            self.resize((self.cells.len() * 2).max(MIN_CELLS));
        }
        self.place(cell);
        self.used += 1;
    }

    fn place(&mut self, cell: Cell) {
        let mask = self.cells.len().wrapping_sub(1);
        let mut at = cell.hash.home(self.cells.len());
        while self.cells[at].slot != NONE {
            at = (at + 1) & mask;
        }
        self.cells[at] = cell;
    }

    fn resize(&mut self, cells: usize) {
        let old = std::mem::replace(&mut self.cells, vec![EMPTY; cells].into_boxed_slice());
        old.into_iter().filter(|cell| cell.slot != NONE).for_each(|cell| self.place(cell));
    }

    /// Removes a cell, and moves those behind it that a search would no longer reach.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.cells.len().wrapping_sub(1);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell.slot == NONE {
                break;
            }
            // How far the cell is from its home, and from the hole.
            let home = cell.hash.home(self.cells.len());
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
        self.used -= 1;
        if self.cells.len() >= MIN_SHRUNK && self.used < self.cells.len() / 8 {
            self.resize(self.cells.len() / 4);
        }
    }
}

/// A hash table of slots in many parts.
#[derive(Debug)]
pub(super) struct Shards {
    tables: Box<[Cells]>,
    hasher: DefaultHashBuilder,
}

impl Shards {
    /// A hash table in this many parts.
    pub(super) fn new(count: usize) -> Self {
        Self {
            tables: vec![Cells::default(); count].into_boxed_slice(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The hash of a key.
    #[inline]
    pub(super) fn hash(&self, key: &impl Hash) -> CellHash {
        let hash = self.hasher.hash_one(key);
        // With some of its random seeds this hash maps a row of addresses to few values of any 16 bits.
        CellHash(((hash ^ hash >> 32).wrapping_mul(MIXER) >> 32) as u32)
    }

    #[inline]
    fn table(&self, hash: CellHash) -> &Cells {
        &self.tables[shard(hash, self.tables.len())]
    }

    #[inline]
    fn table_mut(&mut self, hash: CellHash) -> &mut Cells {
        let shard = shard(hash, self.tables.len());
        &mut self.tables[shard]
    }

    /// Loads the home of a hash into the processor's cache, without waiting for it.
    #[inline]
    pub(super) fn load(&self, hash: CellHash) {
        let table = self.table(hash);
        black_box(table.cells.get(hash.home(table.cells.len())).map_or(0, |cell| cell.slot));
    }

    /// A slot that is probably the one of a hash.
    #[inline]
    pub(super) fn guess(&self, hash: CellHash) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The slot with this hash for which `is_equal` returns true.
    #[inline]
    pub(super) fn find(&self, hash: CellHash, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let table = self.table(hash);
        table.find(hash, is_equal).map(|at| table.cells[at].slot)
    }

    /// Puts a slot in the place of the one with this hash for which `is_equal` returns true, and returns
    /// that one. Adds it if there is none.
    #[inline]
    pub(super) fn put(&mut self, hash: CellHash, slot: u32, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let table = self.table_mut(hash);
        match table.find(hash, is_equal) {
            Some(at) => Some(std::mem::replace(&mut table.cells[at].slot, slot)),
            None => {
                table.add(Cell { slot, hash });
                None
            }
        }
    }

    /// Puts another slot in the place of one with this hash; removes it if the other is [`NONE`].
    pub(super) fn replace(&mut self, hash: CellHash, slot: u32, other: u32) {
        let table = self.table_mut(hash);
        let Some(at) = table.find(hash, |candidate| candidate == slot) else { return };
        if other == NONE {
            table.remove(at);
        } else {
            table.cells[at].slot = other;
        }
    }
}

/// The shard of a hash, of `count`.
///
/// The last shards get twice as many slots as the first ones, with even steps
/// between. A hash table grows when it is full. Shards of equal size would all
/// be full at about the same time, and the times of their growth would add up.
#[inline]
fn shard(hash: CellHash, count: usize) -> usize {
    let part = u64::from(hash.0 >> 16);
    // log2(1 + part) for a part from 0 to 1 in units of 1/65536, accurate to 1 %.
    let spread = part + ((part * (0x10000 - part)) >> 16) * 22486 / 0x10000;
    (spread as usize * count) >> 16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn shards_fill_at_different_times() {
        let mut slots = [0_u32; SHARDS];
        for part in 0..0x10000_u32 {
            slots[shard(CellHash(part << 16), SHARDS)] += 1;
        }
        let (first, last): (u32, u32) = (slots[..64].iter().sum(), slots[SHARDS - 64..].iter().sum());
        assert!(slots.iter().all(|slots| (8..=25).contains(slots)));
        let ratio = f64::from(last.max(first)) / f64::from(last.min(first));
        assert!((1.8..2.2).contains(&ratio), "{first} {last}");
    }

    #[test]
    fn the_table_equals_a_map_while_it_grows_and_shrinks() {
        // Keys are slots. Few hashes in a small table, so that searches pass each other's cells.
        for (bits, count) in [(3, 1), (8, 1), (32, 16)] {
            let mut shards = Shards::new(count);
            let hash = |key: u32| CellHash((u64::from(key).wrapping_mul(MIXER) >> (64 - bits)) as u32);
            let (mut map, mut random) = (BTreeMap::new(), 1_u64);
            for step in 0..40_000_u32 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let key = (random >> 33) as u32 % if step / 10_000 % 2 == 0 { 3000 } else { 60 };
                let found = shards.find(hash(key), |slot| slot % 4096 == key);
                assert_eq!(found, map.get(&key).copied());
                match random >> 60 {
                    0..=8 => {
                        let slot = key + 4096 * (step % 7);
                        assert_eq!(
                            shards.put(hash(key), slot, |slot| slot % 4096 == key),
                            map.insert(key, slot)
                        );
                    }
                    9 => {
                        if let Some(slot) = map.get_mut(&key) {
                            shards.replace(hash(key), *slot, *slot + 4096);
                            *slot += 4096;
                        }
                    }
                    _ => {
                        if let Some(slot) = map.remove(&key) {
                            shards.replace(hash(key), slot, NONE);
                        }
                    }
                }
                assert_eq!(shards.tables.iter().map(|table| table.used).sum::<usize>(), map.len());
            }
            for key in 0..3000 {
                if let Some(slot) = map.remove(&key) {
                    shards.replace(hash(key), slot, NONE);
                }
            }
            assert!(shards.tables.iter().all(|table| table.used == 0 && table.cells.len() < MIN_SHRUNK));
        }
    }

    #[test]
    fn rows_of_keys_spread_over_shards_and_cells() {
        let mut shards = Shards::new(256);
        for key in 0..200_000_u32 {
            shards.put(shards.hash(&key), key, |_| false);
        }
        let steps: usize = (0..200_000_u32)
            .map(|key| shards.table(shards.hash(&key)).search(shards.hash(&key)).count())
            .sum();
        assert!(steps < 200_000 * 16, "{steps} cells up to an empty one");
    }
}
