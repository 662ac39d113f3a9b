//! Mappings that closed since the last seal.

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::memory::chunks::Chunks;
use crate::memory::packed::{Addresses, Chain, Packed, fingerprint, found_by, spread};
use crate::record::{Counters, End, Known, Moment, Record};

/// No link follows.
const NONE: u32 = u32::MAX;
/// So many links are added to the index at once: it is large, and what they need of it is loaded from memory at the
/// same time.
const TOGETHER: usize = 64;

/// Closed mappings, found by public end.
#[derive(Debug, Default)]
pub(crate) struct ClosedList {
    items: Chunks<Item>,
    addresses: Addresses,
    /// The chain of each public end, the newest link first. A link is twice a place, plus 1 for the second public end.
    by_public: HashTable<Chain>,
    /// The last links, with the fingerprints of their ends: they are not in the index yet.
    waiting: Vec<(u32, u32)>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct Item {
    packed: Packed,
    closed_at: i64,
    closed_since: i64,
    packets: [u64; 2],
    bytes: [u64; 2],
    next: [u32; 2],
    /// The slot that it had while it was open.
    was_at: u32,
    closed_known: u8,
    has_since: bool,
    has_counters: bool,
}

impl Item {
    fn record(&self, addresses: &Addresses) -> Record {
        Record {
            closed: Some(Moment {
                at: self.closed_at,
                known: Known::ALL[usize::from(self.closed_known)],
                since: self.has_since.then_some(self.closed_since),
            }),
            counters: self.has_counters.then_some(Counters { packets: self.packets, bytes: self.bytes }),
            ..self.packed.record(addresses)
        }
    }
}

impl ClosedList {
    /// A list that needs no more room for its index until it has so many.
    pub(crate) fn with_room(count: usize) -> Self {
        Self { by_public: HashTable::with_capacity(count), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The mapping at a place.
    pub(crate) fn get(&self, place: usize) -> Option<Record> {
        let place = u32::try_from(place).ok().filter(|_| place < self.items.len())?;
        Some(self.items.get(place).record(&self.addresses))
    }

    /// Loads a mapping into the processor's caches: [`get`](Self::get) will not wait for memory. Several of these are
    /// loaded at the same time.
    #[inline]
    pub(crate) fn warm(&self, place: usize) {
        if let Some(place) = u32::try_from(place).ok().filter(|_| place < self.items.len()) {
            let item = self.items.get(place);
            std::hint::black_box((item.packed.opened(), item.closed_known));
        }
    }

    /// Like [`get`](Self::get), with the slot that it had while it was open, if it was.
    pub(crate) fn get_with_slot(&self, place: usize) -> Option<(Record, Option<u32>)> {
        let place = u32::try_from(place).ok().filter(|_| place < self.items.len())?;
        let item = self.items.get(place);
        Some((item.record(&self.addresses), Some(item.was_at).filter(|&slot| slot != NONE)))
    }

    /// Adds a mapping, and the slot that it had while it was open.
    pub(super) fn push(&mut self, record: &Record, closed: Moment, was_at: Option<u32>) {
        let packed = Packed::new(record, &mut self.addresses);
        let counters = record.counters.unwrap_or_default();
        let place = self.items.push(Item {
            packed,
            closed_at: closed.at,
            closed_since: closed.since.unwrap_or_default(),
            packets: counters.packets,
            bytes: counters.bytes,
            next: [NONE; 2],
            was_at: was_at.unwrap_or(NONE),
            closed_known: closed.known as u8,
            has_since: closed.since.is_some(),
            has_counters: record.counters.is_some(),
        });
        for (which, end) in found_by(record) {
            self.waiting.push((place * 2 + which, fingerprint(&self.hasher, &end)));
        }
        if self.waiting.len() >= TOGETHER {
            self.index();
        }
    }

    /// Adds the links that wait to the index.
    fn index(&mut self) {
        let mut seen = 0;
        for (_, fingerprint) in &self.waiting {
            self.by_public.find(spread(*fingerprint), |chain| {
                seen ^= chain.first;
                false
            });
        }
        std::hint::black_box(seen);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(..).for_each(|(link, fingerprint)| self.link(link, fingerprint));
        self.waiting = waiting;
    }

    fn link(&mut self, link: u32, fingerprint: u32) {
        let hash = spread(fingerprint);
        match self.by_public.find_mut(hash, |chain| chain.fingerprint == fingerprint) {
            Some(chain) => {
                let second = std::mem::replace(&mut chain.first, link);
                self.items.get_mut(link / 2).next[link as usize % 2] = second;
            }
            None => {
                let chain = Chain { fingerprint, first: link };
                self.by_public.insert_unique(hash, chain, |chain| spread(chain.fingerprint));
            }
        }
    }

    /// The mappings with a public end, and few others.
    pub(crate) fn at_end(&self, end: End, on: &mut dyn FnMut(Record)) {
        let fingerprint = fingerprint(&self.hasher, &end);
        let chain = self.by_public.find(spread(fingerprint), |chain| chain.fingerprint == fingerprint);
        let mut link = chain.map_or(NONE, |chain| chain.first);
        while link != NONE {
            let item = self.items.get(link / 2);
            on(item.record(&self.addresses));
            link = item.next[link as usize % 2];
        }
        let waiting = self.waiting.iter().filter(|(_, other)| *other == fingerprint);
        waiting.for_each(|(link, _)| on(self.items.get(link / 2).record(&self.addresses)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_small_as_the_memory_wants() {
        assert_eq!(size_of::<Item>(), 120);
    }
}
