//! The first slots of an index's chains, by key.

use std::hash::{Hash, Hasher};
use std::hint::black_box;
use std::net::IpAddr;

use nfct::Protocol;

use super::chunks::{Chunks, NONE};
use super::entry::PackedMapping;
use super::packed::{Address, PackedTuple};
use super::shards::Shards;
use crate::config::Key;
use crate::tuples::KeyValue;

/// Entries that are loaded into the processor's cache together. More would not fit its nearest part, with all
/// that belongs to them.
pub const WARMED: usize = 32;

/// The fields by which an index finds entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexedBy {
    /// The public port.
    NatPort,
    /// The public address and port.
    NatIpAndPort,
    /// The inside address.
    SrcIp,
    /// The inside address and port.
    SrcIpAndPort,
    /// The public address.
    NatIp,
    /// The inside port.
    SrcPort,
    /// The destination before NAT.
    DstIp,
    /// The destination port before NAT.
    DstPort,
}

impl std::fmt::Display for IndexedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IndexedBy::NatPort => "nat_port",
            IndexedBy::NatIpAndPort => "nat_ip and nat_port",
            IndexedBy::SrcIp => "src_ip",
            IndexedBy::SrcIpAndPort => "src_ip and src_port",
            IndexedBy::NatIp => "nat_ip",
            IndexedBy::SrcPort => "src_port",
            IndexedBy::DstIp => "dst_ip",
            IndexedBy::DstPort => "dst_port",
        })
    }
}

impl IndexedBy {
    /// The index for one of the six keys.
    pub fn key(key: Key) -> Self {
        match key {
            Key::SrcIp => IndexedBy::SrcIp,
            Key::SrcPort => IndexedBy::SrcPort,
            Key::NatIp => IndexedBy::NatIp,
            Key::NatPort => IndexedBy::NatPort,
            Key::DstIp => IndexedBy::DstIp,
            Key::DstPort => IndexedBy::DstPort,
        }
    }

    #[inline]
    pub(super) fn key_of<A: Address>(self, entry: &PackedMapping<A>) -> ChainKey<A> {
        self.key_of_tuples(&entry.original(), &entry.reply())
    }

    #[inline]
    pub(super) fn key_of_tuples<A: Address>(
        self,
        original: &PackedTuple<A>,
        reply: &PackedTuple<A>,
    ) -> ChainKey<A> {
        let none = A::UNSET;
        let (address, port) = match self {
            IndexedBy::NatPort => (none, reply.nat_port()),
            IndexedBy::NatIpAndPort => (reply.dst, reply.nat_port()),
            IndexedBy::SrcIp => (original.src, 0),
            IndexedBy::SrcIpAndPort => (original.src, original.src_port()),
            IndexedBy::NatIp => (reply.dst, 0),
            IndexedBy::SrcPort => (none, original.src_port()),
            IndexedBy::DstIp => (original.dst, 0),
            IndexedBy::DstPort => (none, original.dst_port()),
        };
        ChainKey { address, port, class: ProtocolClass::of(original.protocol()) }
    }

    /// Whether a port alone is the key.
    fn is_port(self) -> bool {
        matches!(self, IndexedBy::NatPort | IndexedBy::SrcPort | IndexedBy::DstPort)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainKey<A> {
    address: A,
    port: u16,
    class: ProtocolClass,
}

impl<A: Address> Hash for ChainKey<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = u64::from(self.port) | (self.class as u64) << 16;
        if A::IS_V4 {
            state.write_u64(self.address.bits() as u64 | port << 32);
        } else {
            state.write_u128(self.address.bits());
            state.write_u64(port);
        }
    }
}

impl<A: Address> ChainKey<A> {
    /// The key of no entry in particular.
    pub(super) const NONE: Self = Self { address: A::UNSET, port: 0, class: ProtocolClass::Other };

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

/// The first slots of the chains of an index.
#[derive(Debug)]
pub(super) enum Heads {
    /// Of an index by port: an array needs neither a hash nor a comparison.
    ByPort(Ports),
    /// Of any other.
    Hashed(Shards),
}

impl Heads {
    /// No chains. A hash table has this many parts.
    pub(super) fn new(by: IndexedBy, shards: usize) -> Self {
        if by.is_port() { Heads::ByPort(Ports::default()) } else { Heads::Hashed(Shards::new(shards)) }
    }

    /// The first slot of the chain of a key.
    #[inline]
    pub(super) fn first<A: Address>(
        &self,
        by: IndexedBy,
        key: ChainKey<A>,
        entries: &Chunks<PackedMapping<A>>,
    ) -> Option<u32> {
        match self {
            Heads::ByPort(ports) => Some(ports.get(key.class, key.port)).filter(|slot| *slot != NONE),
            Heads::Hashed(shards) => {
                shards.find(shards.hash(&key), |slot| by.key_of(entries.get(slot)) == key)
            }
        }
    }

    /// Loads what [`put`](Self::put) needs for these keys into the processor's cache, and passes the slots
    /// that are probably the first of their chains to `on`.
    pub(super) fn warm<A: Address>(&self, keys: &[ChainKey<A>], mut on: impl FnMut(u32)) {
        match self {
            Heads::ByPort(ports) => {
                keys.iter()
                    .map(|key| ports.get(key.class, key.port))
                    .filter(|slot| *slot != NONE)
                    .for_each(on);
            }
            Heads::Hashed(shards) => {
                let mut hashes = [None; WARMED];
                for (hash, key) in hashes.iter_mut().zip(keys) {
                    let key = shards.hash(key);
                    shards.load(key);
                    *hash = Some(key);
                }
                hashes.into_iter().flatten().filter_map(|hash| shards.guess(hash)).for_each(&mut on);
            }
        }
    }

    /// Loads the place of a key into the processor's cache, without waiting for it.
    pub(super) fn load<A: Address>(&self, key: ChainKey<A>) {
        match self {
            Heads::ByPort(ports) => {
                black_box(ports.get(key.class, key.port));
            }
            Heads::Hashed(shards) => shards.load(shards.hash(&key)),
        }
    }

    /// Makes a slot the first of the chain of its key. Returns the one that was the first, or [`NONE`].
    #[inline]
    pub(super) fn put<A: Address>(
        &mut self,
        by: IndexedBy,
        slot: u32,
        entries: &Chunks<PackedMapping<A>>,
    ) -> u32 {
        let key = by.key_of(entries.get(slot));
        match self {
            Heads::ByPort(ports) => std::mem::replace(ports.get_mut(key.class, key.port), slot),
            Heads::Hashed(shards) => {
                let hash = shards.hash(&key);
                shards.put(hash, slot, |slot| by.key_of(entries.get(slot)) == key).unwrap_or(NONE)
            }
        }
    }

    /// Makes `second` the first of the chain in which `first` is the first; with [`NONE`] the chain ends.
    pub(super) fn replace<A: Address>(
        &mut self,
        by: IndexedBy,
        first: u32,
        second: u32,
        entries: &Chunks<PackedMapping<A>>,
    ) {
        let key = by.key_of(entries.get(first));
        match self {
            Heads::ByPort(ports) => *ports.get_mut(key.class, key.port) = second,
            Heads::Hashed(shards) => shards.replace(shards.hash(&key), first, second),
        }
    }
}

/// Ports of one page.
const PAGE: usize = 512;

/// A slot for each port of each class, in pages, of which only those exist that were used.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pages: Vec<Box<[u32]>>,
}

impl Ports {
    fn at(class: ProtocolClass, port: u16) -> (usize, usize) {
        let at = (class as usize) << 16 | usize::from(port);
        (at / PAGE, at % PAGE)
    }

    fn get(&self, class: ProtocolClass, port: u16) -> u32 {
        let (page, at) = Self::at(class, port);
        self.pages.get(page).and_then(|page| page.get(at)).copied().unwrap_or(NONE)
    }

    fn get_mut(&mut self, class: ProtocolClass, port: u16) -> &mut u32 {
        let (page, at) = Self::at(class, port);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, Box::default);
        }
        let page = &mut self.pages[page];
        if page.is_empty() {
            *page = vec![NONE; PAGE].into_boxed_slice();
        }
        &mut page[at]
    }
}
