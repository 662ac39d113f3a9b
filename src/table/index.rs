//! Indexes of the table that find all entries which share an address, a port or both; they store slot
//! numbers.

use std::hash::BuildHasher;
use std::net::IpAddr;

use nfct::Protocol;

use super::chunks::Chunks;
use super::entry::{Address, NONE, PackedMapping, SlotState};
use super::shards::{SHARDS, Shards};
use crate::config::Key;
use crate::tuples::KeyValue;

/// Hash tables for the chains of an index that were set aside, which are few.
const ASIDE_SHARDS: usize = 256;
/// The maximum number of entries of a chain that are walked at once.
pub(super) const MAX_CHAIN_WALK: usize = 4096;

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
        let class = ProtocolClass::of(entry.original.protocol());
        ChainKey { address, port, class }
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

/// The neighbours of a slot in its chain, and whether that is the chain of those set aside: the
/// highest bit of `newer`.
#[derive(Debug, Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
}

/// Slots are less than this, because `max_mappings` is.
const ASIDE: u32 = 1 << 31;

impl Link {
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
}

/// A walk through the live slots of a chain.
#[derive(Debug)]
pub(super) struct Walk {
    next: Option<u32>,
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
    /// Whether the chains are in the order in which the entries were stored. Those
    /// of an index that was added later are not.
    pub(super) is_ordered: bool,
    /// The first slot of each chain.
    heads: Shards,
    /// The first slot of each chain of those set aside.
    aside: Shards,
    links: Chunks<Link>,
    /// The first slot that is not in the index yet. An index that is added while the
    /// table is in use is built in slices.
    built_to: u32,
}

impl ChainIndex {
    pub(super) fn new(by: IndexedBy) -> Self {
        Self {
            by,
            is_ordered: true,
            heads: Shards::new(SHARDS),
            aside: Shards::new(ASIDE_SHARDS),
            links: Chunks::new(),
            built_to: u32::MAX,
        }
    }

    /// An index for a table that has entries already; none is in it yet.
    pub(super) fn unbuilt(by: IndexedBy) -> Self {
        Self { is_ordered: false, built_to: 0, ..Self::new(by) }
    }

    /// Adds these slots of a slice from where it stopped to `end`, or to the end of the table.
    pub(super) fn build<A: Address>(
        &mut self,
        slots: impl Iterator<Item = u32>,
        end: Option<u32>,
        entries: &Chunks<PackedMapping<A>>,
    ) {
        self.built_to = end.unwrap_or(u32::MAX);
        for slot in slots.filter(|slot| entries.get(*slot).state() != SlotState::Free) {
            self.insert(slot, entries);
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
        self.links.grow_to(slot, Link::new(false, NONE, NONE));
        self.put_first(slot, false, entries);
    }

    pub(super) fn remove<A: Address>(&mut self, slot: u32, entries: &Chunks<PackedMapping<A>>) {
        if slot < self.built_to {
            self.unlink(slot, entries);
        }
    }

    /// Gives the memory of a chunk back that has only free slots.
    pub(super) fn release(&mut self, chunk: usize) {
        self.links.release(chunk);
    }

    /// The first slots of the chains, or of those set aside.
    fn heads(&mut self, is_aside: bool) -> &mut Shards {
        if is_aside { &mut self.aside } else { &mut self.heads }
    }

    /// Puts a slot at the front of the chain of its key.
    fn put_first<A: Address>(&mut self, slot: u32, is_aside: bool, entries: &Chunks<PackedMapping<A>>) {
        let by = self.by;
        let key = by.key_of(entries.get(slot));
        let heads = self.heads(is_aside);
        let hasher = heads.hasher.clone();
        let hash = hasher.hash_one(key);
        let table = heads.table_mut(hash);
        let older = match table.find_mut(hash, |slot| by.key_of(entries.get(*slot)) == key) {
            Some(head) => std::mem::replace(head, slot),
            None => {
                table.insert_unique(hash, slot, |slot| hasher.hash_one(by.key_of(entries.get(*slot))));
                NONE
            }
        };
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
        let link = *self.links.get(slot);
        let newer = link.newer();
        if let Some(older) = link.older() {
            let older = self.links.get_mut(older);
            *older = Link::new(link.is_aside(), newer.unwrap_or(NONE), older.older);
        }
        if let Some(newer) = newer {
            self.links.get_mut(newer).older = link.older;
            return;
        }
        let by = self.by;
        let heads = self.heads(link.is_aside());
        let hash = heads.hasher.hash_one(by.key_of(entries.get(slot)));
        if let Ok(mut found) = heads.table_mut(hash).find_entry(hash, |candidate| *candidate == slot) {
            match link.older() {
                Some(older) => *found.get_mut() = older,
                None => {
                    found.remove();
                    heads.shrink(hash, |slot| by.key_of(entries.get(slot)));
                }
            }
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

    /// The first slot of a key in some of the chains.
    fn head<A: Address>(
        &self,
        heads: &Shards,
        key: ChainKey<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        let hash = heads.hasher.hash_one(key);
        heads.table(hash).find(hash, |slot| self.by.key_of(entries.get(*slot)) == key).copied()
    }

    /// Begins a walk through the live slots of a key's chain, the one added last first.
    pub(super) fn begin_walk<A: Address>(
        &self,
        key: ChainKey<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Walk {
        Walk { next: self.head(&self.heads, key, entries), walked: 0, set_aside: 0, last_aside: None }
    }

    /// The next live slot of a walk. Sets the closed ones before it aside.
    pub(super) fn next_live<A: Address>(
        &mut self,
        walk: &mut Walk,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Result<Option<u32>, Unfinished> {
        while let Some(slot) = walk.next {
            walk.next = self.links.get(slot).older();
            if entries.get(slot).state() == SlotState::Live {
                walk.walked += 1;
                return if walk.walked > MAX_CHAIN_WALK { Err(Unfinished::TooMany) } else { Ok(Some(slot)) };
            }
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
        Ok(None)
    }

    /// The slots of a key that were set aside when they had closed, those that were set aside
    /// last first. All closed ones are here after a walk to the end of
    /// the chain.
    pub(super) fn aside<'a, A: Address>(
        &'a self,
        key: ChainKey<A>,
        entries: &'a Chunks<PackedMapping<A>>,
    ) -> impl Iterator<Item = u32> + 'a {
        let head = self.head(&self.aside, key, entries);
        std::iter::successors(head, |slot| self.links.get(*slot).older())
            .inspect(|slot| debug_assert!(entries.get(*slot).state() != SlotState::Free))
    }
}
