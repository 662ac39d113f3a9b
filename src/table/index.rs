//! Indexes of the table; they store slot numbers.
//!
//! An index is divided into many small hash tables. A hash table that grows moves
//! only its own slots, about a thousand of four million, so no insertion holds the
//! table's lock long.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::{DefaultHashBuilder, HashTable};
use nfct::Protocol;

use super::chunks::Chunks;
use super::entry::{Address, NONE, PackedMapping, PackedTuple, SlotState};
use crate::config::Key;
use crate::tuples::KeyValue;

/// Hash tables in an index.
const SHARDS: usize = 4096;
/// The maximum number of entries of a chain that are walked at once.
pub(super) const MAX_CHAIN_WALK: usize = 4096;

#[derive(Debug)]
struct Shards {
    tables: Box<[HashTable<u32>]>,
    hasher: DefaultHashBuilder,
}

impl Shards {
    fn new() -> Self {
        Self {
            tables: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    fn table(&mut self, hash: u64) -> &mut HashTable<u32> {
        &mut self.tables[shard(hash)]
    }
}

/// The shard of a hash. It depends neither on the lowest bits, which choose a
/// bucket in the hash table, nor on the highest, which are compared first.
///
/// The last shards get twice as many slots as the first ones, with even steps
/// between. A hash table grows when it is full. Shards of equal size would all
/// be full at about the same time, and the times of their growth would add up.
fn shard(hash: u64) -> usize {
    let part = (hash >> 40) & 0xffff;
    // log2(1 + part) for a part from 0 to 1 in units of 1/65536, accurate to 1 %.
    let spread = part + ((part * (0x10000 - part)) >> 16) * 22486 / 0x10000;
    (spread as usize * SHARDS) >> 16
}

/// Finds a live mapping by what identifies it: reply tuple, protocol and zone.
#[derive(Debug)]
pub(super) struct LiveIndex {
    shards: Shards,
}

impl LiveIndex {
    pub(super) fn new() -> Self {
        Self { shards: Shards::new() }
    }

    pub(super) fn hash<A: Address>(&self, reply: &PackedTuple<A>) -> u64 {
        self.shards.hasher.hash_one(reply)
    }

    pub(super) fn find<A: Address>(
        &mut self,
        reply: &PackedTuple<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        let hash = self.hash(reply);
        self.shards.table(hash).find(hash, |slot| entries.get(*slot).reply == *reply).copied()
    }

    /// Adds a slot whose reply tuple is not in the index yet.
    pub(super) fn insert<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        let hasher = self.shards.hasher.clone();
        let hash_of = |slot: &u32| hasher.hash_one(entries.get(*slot).reply);
        let hash = hash_of(&slot);
        self.shards.table(hash).insert_unique(hash, slot, hash_of);
    }

    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        let hash = self.hash(&entries.get(slot).reply);
        if let Ok(found) = self.shards.table(hash).find_entry(hash, |candidate| *candidate == slot) {
            found.remove();
        }
    }
}

/// The fields by which an index finds entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexedBy {
    NatPort,
    NatIpAndPort,
    SrcIp,
    SrcIpAndPort,
    NatIp,
    SrcPort,
    DstIp,
    DstPort,
}

impl IndexedBy {
    /// The indexes that every table has.
    pub(super) const STANDARD: [IndexedBy; 4] =
        [IndexedBy::NatPort, IndexedBy::NatIpAndPort, IndexedBy::SrcIp, IndexedBy::SrcIpAndPort];

    /// The index for one of the six keys.
    pub(super) fn key(key: Key) -> Self {
        match key {
            Key::SrcIp => IndexedBy::SrcIp,
            Key::SrcPort => IndexedBy::SrcPort,
            Key::NatIp => IndexedBy::NatIp,
            Key::NatPort => IndexedBy::NatPort,
            Key::DstIp => IndexedBy::DstIp,
            Key::DstPort => IndexedBy::DstPort,
        }
    }

    fn key_of<A: Address>(self, entry: &PackedMapping<A>) -> ChainKey<A> {
        let none = A::UNSET;
        let (address, port) = match self {
            IndexedBy::NatPort => (none, entry.reply.nat_port()),
            IndexedBy::NatIpAndPort => (entry.reply.dst, entry.reply.nat_port()),
            IndexedBy::SrcIp => (entry.original.src, 0),
            IndexedBy::SrcIpAndPort => (entry.original.src, entry.original.src_port()),
            IndexedBy::NatIp => (entry.reply.dst, 0),
            IndexedBy::SrcPort => (none, entry.original.src_port()),
            IndexedBy::DstIp => (entry.original.dst, 0),
            IndexedBy::DstPort => (none, entry.original.dst_port()),
        };
        ChainKey { address, port, class: ProtocolClass::of(entry.original.protocol()) }
    }
}

/// Each class has chains of its own, so that thousands of UDP flows from one port
/// do not hide the TCP connection that shares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ProtocolClass {
    Tcp,
    Udp,
    Other,
}

impl ProtocolClass {
    pub(super) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => ProtocolClass::Tcp,
            Protocol::Udp => ProtocolClass::Udp,
            _ => ProtocolClass::Other,
        }
    }

    /// The classes of this protocol's mappings, or all classes.
    pub(super) fn all_of(protocol: Option<Protocol>) -> impl Iterator<Item = ProtocolClass> {
        let only = protocol.map(ProtocolClass::of);
        [ProtocolClass::Tcp, ProtocolClass::Udp, ProtocolClass::Other]
            .into_iter()
            .filter(move |class| only.is_none_or(|only| only == *class))
    }
}

/// What the entries of a chain share: an address, a port, or both, and the
/// protocol's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChainKey<A> {
    address: A,
    port: u16,
    class: ProtocolClass,
}

impl<A: Address> ChainKey<A> {
    /// `None` if the address is of the other family.
    pub(super) fn new(address: Option<IpAddr>, port: Option<u16>, class: ProtocolClass) -> Option<Self> {
        let address = address.map_or(Some(A::UNSET), A::from_ip)?;
        Some(Self { address, port: port.unwrap_or(0), class })
    }

    pub(super) fn of_value(value: KeyValue, class: ProtocolClass) -> Option<Self> {
        match value {
            KeyValue::Ip(address) => Self::new(Some(address), None, class),
            KeyValue::Port(port) => Self::new(None, Some(port), class),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
}

/// Finds the entries that share a key. They form a chain, which begins with the
/// entry that was added last.
#[derive(Debug)]
pub(super) struct ChainIndex {
    pub(super) by: IndexedBy,
    /// Whether the chains are in the order in which the entries were stored. Those
    /// of an index that was added later are not.
    pub(super) is_ordered: bool,
    /// The first slot of each chain.
    heads: Shards,
    links: Chunks<Link>,
    /// The first slot that is not in the index yet. An index that is added while the
    /// table is in use is built in slices.
    built_to: u32,
}

impl ChainIndex {
    pub(super) fn new(by: IndexedBy) -> Self {
        Self { by, is_ordered: true, heads: Shards::new(), links: Chunks::new(), built_to: u32::MAX }
    }

    /// An index for a table that has entries already; none is in it yet.
    pub(super) fn unbuilt(by: IndexedBy) -> Self {
        Self { is_ordered: false, built_to: 0, ..Self::new(by) }
    }

    /// Adds the used slots from where it stopped to `end`. `is_last` says that
    /// there are none after them.
    pub(super) fn build<A: Address>(&mut self, end: u32, is_last: bool, entries: &Chunks<PackedMapping<A>>) {
        let begin = std::mem::replace(&mut self.built_to, end);
        for slot in begin..end {
            if entries.get(slot).state() != SlotState::Free {
                self.insert(slot, entries);
            }
        }
        if is_last {
            self.built_to = u32::MAX;
        }
    }

    /// Where [`build`](Self::build) continues, or `None` when the index is complete.
    pub(super) fn unbuilt_from(&self) -> Option<u32> {
        (self.built_to != u32::MAX).then_some(self.built_to)
    }

    pub(super) fn insert<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        if slot >= self.built_to {
            return;
        }
        let by = self.by;
        let key = by.key_of(entries.get(slot));
        let hasher = self.heads.hasher.clone();
        let hash = hasher.hash_one(key);
        self.links.grow_to(slot, Link { newer: NONE, older: NONE });
        let shard = self.heads.table(hash);
        let older = match shard.find_mut(hash, |slot| by.key_of(entries.get(*slot)) == key) {
            Some(head) => std::mem::replace(head, slot),
            None => {
                shard.insert_unique(hash, slot, |slot| hasher.hash_one(by.key_of(entries.get(*slot))));
                NONE
            }
        };
        *self.links.get_mut(slot) = Link { newer: NONE, older };
        if older != NONE {
            self.links.get_mut(older).newer = slot;
        }
    }

    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        if slot >= self.built_to {
            return;
        }
        let Link { newer, older } = *self.links.get(slot);
        if older != NONE {
            self.links.get_mut(older).newer = newer;
        }
        if newer != NONE {
            self.links.get_mut(newer).older = older;
            return;
        }
        let hash = self.heads.hasher.hash_one(self.by.key_of(entries.get(slot)));
        if let Ok(mut found) = self.heads.table(hash).find_entry(hash, |candidate| *candidate == slot) {
            if older == NONE {
                found.remove();
            } else {
                *found.get_mut() = older;
            }
        }
    }

    /// Whether a slot is in the chain of a key.
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
        let newer = move |slot: u32| Some(self.links.get(slot).newer).filter(|newer| *newer != NONE);
        std::iter::successors(newer(slot), move |slot| newer(*slot))
    }

    /// The older slots of a slot's chain, the next older one first.
    pub(super) fn older(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let older = move |slot: u32| Some(self.links.get(slot).older).filter(|older| *older != NONE);
        std::iter::successors(older(slot), move |slot| older(*slot))
    }

    /// The slots of a key's chain, the one added last first.
    pub(super) fn walk<'a, A: Address>(
        &'a self,
        key: ChainKey<A>,
        entries: &'a Chunks<PackedMapping<A>>,
    ) -> impl Iterator<Item = u32> + 'a {
        let hash = self.heads.hasher.hash_one(key);
        let shard = &self.heads.tables[shard(hash)];
        let head = shard.find(hash, |slot| self.by.key_of(entries.get(*slot)) == key).copied();
        std::iter::successors(head, |slot| Some(self.links.get(*slot).older).filter(|older| *older != NONE))
            .inspect(|slot| debug_assert!(entries.get(*slot).state() != SlotState::Free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_at_different_times() {
        let mut slots = [0_u32; SHARDS];
        for part in 0..0x10000_u64 {
            slots[shard(part << 40)] += 1;
        }
        let (first, last): (u32, u32) = (slots[..64].iter().sum(), slots[SHARDS - 64..].iter().sum());
        assert!(slots.iter().all(|slots| (8..=25).contains(slots)));
        let ratio = f64::from(last.max(first)) / f64::from(last.min(first));
        assert!((1.8..2.2).contains(&ratio), "{first} {last}");
    }
}
