//! Hash tables of slots, divided into many small ones. A hash table that grows moves only its own
//! slots, a few thousand of many millions, so no insertion holds the table's lock long.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

/// Hash tables in an index.
pub(super) const SHARDS: usize = 4096;
/// A shard with fewer places keeps them.
const MIN_SHRUNK: usize = 56;

/// A hash table of slots in many parts.
#[derive(Debug)]
pub(super) struct Shards {
    tables: Box<[HashTable<u32>]>,
    pub(super) hasher: DefaultHashBuilder,
}

impl Shards {
    /// A hash table in this many parts.
    pub(super) fn new(count: usize) -> Self {
        Self { tables: (0..count).map(|_| HashTable::new()).collect(), hasher: DefaultHashBuilder::default() }
    }

    /// The part of a hash.
    #[inline]
    pub(super) fn table(&self, hash: u64) -> &HashTable<u32> {
        &self.tables[shard(hash, self.tables.len())]
    }

    /// The part of a hash, for changes.
    #[inline]
    pub(super) fn table_mut(&mut self, hash: u64) -> &mut HashTable<u32> {
        let shard = shard(hash, self.tables.len());
        &mut self.tables[shard]
    }

    /// Gives memory back after a removal, if the shard of this hash has become much too large.
    /// `key_of` is what the hash of a slot is made of.
    pub(super) fn shrink<K: Hash>(&mut self, hash: u64, key_of: impl Fn(u32) -> K) {
        let table = &mut self.tables[shard(hash, self.tables.len())];
        if table.capacity() >= MIN_SHRUNK && table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2, |slot| self.hasher.hash_one(key_of(*slot)));
        }
    }
}

/// The shard of a hash, of `count`. It depends neither on the lowest bits, which choose a
/// bucket in the hash table, nor on the highest, which are compared first.
///
/// The last shards get twice as many slots as the first ones, with even steps
/// between. A hash table grows when it is full. Shards of equal size would all
/// be full at about the same time, and the times of their growth would add up.
fn shard(hash: u64, count: usize) -> usize {
    let part = (hash >> 40) & 0xffff;
    // log2(1 + part) for a part from 0 to 1 in units of 1/65536, accurate to 1 %.
    let spread = part + ((part * (0x10000 - part)) >> 16) * 22486 / 0x10000;
    (spread as usize * count) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_at_different_times() {
        let mut slots = [0_u32; SHARDS];
        for part in 0..0x10000_u64 {
            slots[shard(part << 40, SHARDS)] += 1;
        }
        let (first, last): (u32, u32) = (slots[..64].iter().sum(), slots[SHARDS - 64..].iter().sum());
        assert!(slots.iter().all(|slots| (8..=25).contains(slots)));
        let ratio = f64::from(last.max(first)) / f64::from(last.min(first));
        assert!((1.8..2.2).contains(&ratio), "{first} {last}");
    }
}
