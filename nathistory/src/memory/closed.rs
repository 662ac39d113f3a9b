//! Mappings that closed since the last seal.

use hashbrown::DefaultHashBuilder;

use crate::memory::chunks::Chunks;
use crate::memory::ends::Ends;
use crate::memory::packed::{Addresses, Packed, fingerprint, found_by};
use crate::record::{Counters, End, Known, Moment, Record};

/// It had no slot.
const NONE: u32 = u32::MAX;

/// Closed mappings, found by public end.
#[derive(Debug, Default)]
pub(crate) struct ClosedList {
    items: Chunks<Item>,
    addresses: Addresses,
    by_public: Ends,
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct Item {
    packed: Packed,
    closed_at: i64,
    closed_since: i64,
    packets: [u64; 2],
    bytes: [u64; 2],
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
            was_at: was_at.unwrap_or(NONE),
            closed_known: closed.known as u8,
            has_since: closed.since.is_some(),
            has_counters: record.counters.is_some(),
        });
        for (_, end) in found_by(record) {
            self.by_public.push(fingerprint(&self.hasher, &end), place);
        }
    }

    /// The mappings with a public end, and few others.
    pub(crate) fn at_end(&self, end: End, on: &mut dyn FnMut(Record)) {
        let places = self.by_public.places(fingerprint(&self.hasher, &end));
        places.for_each(|place| on(self.items.get(place).record(&self.addresses)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_small_as_the_memory_wants() {
        assert_eq!(size_of::<Item>(), 112);
    }
}
