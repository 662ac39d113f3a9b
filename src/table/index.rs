//! Indexes of the table, by slot number.
//!
//! An index is cut into many small hash tables: one that grows moves only its
//! own slots, about a thousand of four million, so that no insertion holds the
//! table's lock long.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::{DefaultHashBuilder, HashTable};
use nfct::Protocol;

use super::entry::{Address, Entry, NONE, Packed, State};
use super::slab::Chunks;
use crate::config::Key;
use crate::mapping::KeyValue;

/// Small tables an index is cut into.
const SHARDS: usize = 4096;

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

    fn of(&mut self, hash: u64) -> &mut HashTable<u32> {
        &mut self.tables[shard(hash)]
    }
}

/// Which small table a hash belongs to: neither the bits that choose a bucket
/// there (the lowest) nor those that are compared first (the highest) tell.
///
/// The last shards get twice as many slots as the first, and those between in
/// even steps. A hash table grows when it is full; of shards of one size all
/// would be full at about the same time, and their growing would add up.
fn shard(hash: u64) -> usize {
    let part = (hash >> 40) & 0xffff;
    // log2(1 + part) for a part from 0 to 1, in units of 1/65536, to 1 %.
    let spread = part + ((part * (0x10000 - part)) >> 16) * 22486 / 0x10000;
    (spread as usize * SHARDS) >> 16
}

/// Live mappings by reply tuple, protocol and zone: what makes one unique.
#[derive(Debug)]
pub(super) struct Identities {
    shards: Shards,
}

impl Identities {
    pub(super) fn new() -> Self {
        Self { shards: Shards::new() }
    }

    pub(super) fn hash<A: Address>(&self, reply: &Packed<A>) -> u64 {
        self.shards.hasher.hash_one(reply)
    }

    pub(super) fn find<A: Address>(&mut self, reply: &Packed<A>, entries: &Chunks<Entry<A>>) -> Option<u32> {
        let hash = self.hash(reply);
        self.shards.of(hash).find(hash, |slot| entries.get(*slot).reply == *reply).copied()
    }

    /// Adds a slot whose reply tuple is not there yet.
    pub(super) fn insert<A: Address>(&mut self, slot: u32, entries: &Chunks<Entry<A>>) {
        let hasher = self.shards.hasher.clone();
        let hash_of = |slot: &u32| hasher.hash_one(entries.get(*slot).reply);
        let hash = hash_of(&slot);
        self.shards.of(hash).insert_unique(hash, slot, hash_of);
    }

    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<Entry<A>>) {
        let hash = self.hash(&entries.get(slot).reply);
        if let Ok(found) = self.shards.of(hash).find_entry(hash, |candidate| *candidate == slot) {
            found.remove();
        }
    }
}

/// What an index is by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    NatPort,
    NatIpAndPort,
    SrcIp,
    SrcIpAndPort,
    NatIp,
    SrcPort,
    DstIp,
    DstPort,
}

impl By {
    /// The index that answers for one of the six keys.
    pub(super) fn key(key: Key) -> Self {
        match key {
            Key::SrcIp => By::SrcIp,
            Key::SrcPort => By::SrcPort,
            Key::NatIp => By::NatIp,
            Key::NatPort => By::NatPort,
            Key::DstIp => By::DstIp,
            Key::DstPort => By::DstPort,
        }
    }

    fn of<A: Address>(self, entry: &Entry<A>) -> IndexKey<A> {
        let none = A::UNSET;
        let (address, port) = match self {
            By::NatPort => (none, entry.reply.nat_port()),
            By::NatIpAndPort => (entry.reply.dst, entry.reply.nat_port()),
            By::SrcIp => (entry.original.src, 0),
            By::SrcIpAndPort => (entry.original.src, entry.original.near_port()),
            By::NatIp => (entry.reply.dst, 0),
            By::SrcPort => (none, entry.original.near_port()),
            By::DstIp => (entry.original.dst, 0),
            By::DstPort => (none, entry.original.far_port()),
        };
        IndexKey { address, port, class: Class::of(entry.original.protocol()) }
    }
}

/// Protocols have chains of their own, so that thousands of UDP flows from one
/// port don't hide the TCP connection that shares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Tcp,
    Udp,
    Other,
}

impl Class {
    pub(super) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Class::Tcp,
            Protocol::Udp => Class::Udp,
            _ => Class::Other,
        }
    }

    /// The classes that answers of this protocol are in.
    pub(super) fn all_of(protocol: Option<Protocol>) -> impl Iterator<Item = Class> {
        let only = protocol.map(Class::of);
        [Class::Tcp, Class::Udp, Class::Other]
            .into_iter()
            .filter(move |class| only.is_none_or(|only| only == *class))
    }
}

/// What a chain has in common: an address, a port, or both, and the protocol's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IndexKey<A> {
    address: A,
    port: u16,
    class: Class,
}

impl<A: Address> IndexKey<A> {
    /// `None` for an address of the other family.
    pub(super) fn new(address: Option<IpAddr>, port: Option<u16>, class: Class) -> Option<Self> {
        let address = address.map_or(Some(A::UNSET), A::of)?;
        Some(Self { address, port: port.unwrap_or(0), class })
    }

    pub(super) fn of_value(value: KeyValue, class: Class) -> Option<Self> {
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

/// Mappings that share a key, in chains that begin with the one entered last.
#[derive(Debug)]
pub(super) struct Chains {
    pub(super) by: By,
    /// Whether the chains are in the order in which entries were entered into
    /// the table: those of an index that was made later are not.
    pub(super) in_order: bool,
    newest: Shards,
    links: Chunks<Link>,
    /// Slots from here on are not in it yet: an index that is made while the
    /// table is in use grows by slices.
    built: u32,
}

impl Chains {
    pub(super) fn new(by: By) -> Self {
        Self { by, in_order: true, newest: Shards::new(), links: Chunks::new(), built: u32::MAX }
    }

    /// An index of a table that has entries already, none of which is in it.
    pub(super) fn unbuilt(by: By) -> Self {
        Self { in_order: false, built: 0, ..Self::new(by) }
    }

    /// Enters the used slots from where it stopped up to `end`; `last` says
    /// that there are none beyond.
    pub(super) fn build<A: Address>(&mut self, end: u32, last: bool, entries: &Chunks<Entry<A>>) {
        let begin = std::mem::replace(&mut self.built, end);
        for slot in begin..end {
            if entries.get(slot).state() != State::Free {
                self.insert(slot, entries);
            }
        }
        if last {
            self.built = u32::MAX;
        }
    }

    /// Where [`build`](Self::build) goes on, or `None` when it is whole.
    pub(super) fn unbuilt_from(&self) -> Option<u32> {
        (self.built != u32::MAX).then_some(self.built)
    }

    pub(super) fn insert<A: Address>(&mut self, slot: u32, entries: &Chunks<Entry<A>>) {
        if slot >= self.built {
            return;
        }
        let by = self.by;
        let key = by.of(entries.get(slot));
        let hasher = self.newest.hasher.clone();
        let hash = hasher.hash_one(key);
        self.links.reach(slot, Link { newer: NONE, older: NONE });
        let shard = self.newest.of(hash);
        let older = match shard.find_mut(hash, |slot| by.of(entries.get(*slot)) == key) {
            Some(newest) => std::mem::replace(newest, slot),
            None => {
                shard.insert_unique(hash, slot, |slot| hasher.hash_one(by.of(entries.get(*slot))));
                NONE
            }
        };
        *self.links.get_mut(slot) = Link { newer: NONE, older };
        if older != NONE {
            self.links.get_mut(older).newer = slot;
        }
    }

    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<Entry<A>>) {
        if slot >= self.built {
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
        let hash = self.newest.hasher.hash_one(self.by.of(entries.get(slot)));
        if let Ok(mut found) = self.newest.of(hash).find_entry(hash, |candidate| *candidate == slot) {
            if older == NONE {
                found.remove();
            } else {
                *found.get_mut() = older;
            }
        }
    }

    /// The slots that share a slot's key and are newer, the next newer one first.
    pub(super) fn newer(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let newer = move |slot: u32| Some(self.links.get(slot).newer).filter(|newer| *newer != NONE);
        std::iter::successors(newer(slot), move |slot| newer(*slot))
    }

    /// The slots whose key is `key`, the one entered last first.
    pub(super) fn walk<'a, A: Address>(
        &'a self,
        key: IndexKey<A>,
        entries: &'a Chunks<Entry<A>>,
    ) -> impl Iterator<Item = u32> + 'a {
        let hash = self.newest.hasher.hash_one(key);
        let shard = &self.newest.tables[shard(hash)];
        let newest = shard.find(hash, |slot| self.by.of(entries.get(*slot)) == key).copied();
        std::iter::successors(newest, |slot| Some(self.links.get(*slot).older).filter(|older| *older != NONE))
            .inspect(|slot| debug_assert!(entries.get(*slot).state() != State::Free))
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
