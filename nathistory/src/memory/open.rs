//! Mappings that are open.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::memory::chunks::Chunks;
use crate::memory::packed::{Addresses, Chain, Packed, fingerprint, found_by, spread, write_ip};
use crate::record::{End, Moment, Record};

/// No link follows.
const NONE: u32 = u32::MAX;
/// The epoch of a free slot.
const FREE: u32 = u32::MAX;

/// Open mappings, found by connection and by public end.
#[derive(Debug, Default)]
pub(super) struct OpenTable {
    slots: Chunks<Slot>,
    free: Vec<u32>,
    addresses: Addresses,
    /// Slots.
    by_connection: HashTable<u32>,
    /// The chain of each public end. A link is twice a slot, plus 1 for the second public end.
    by_public: HashTable<Chain>,
    hasher: DefaultHashBuilder,
    /// The number of this span.
    span: u32,
}

#[derive(Debug)]
struct Slot {
    packed: Packed,
    /// The reconciliation in which it was last seen; [`FREE`] if the slot is free.
    epoch: u32,
    /// The span in which it was added.
    span: u32,
    next: [u32; 2],
    previous: [u32; 2],
}

/// A copy of all open mappings.
#[derive(Debug)]
pub(crate) struct OpenCopy {
    packed: Vec<Packed>,
    addresses: Addresses,
}

impl OpenCopy {
    pub(crate) fn len(&self) -> usize {
        self.packed.len()
    }

    pub(crate) fn get(&self, place: usize) -> Record {
        self.packed[place].record(&self.addresses)
    }
}

/// The server and the reply direction's zone follow from the rest for nearly all.
fn hash_connection(hasher: &DefaultHashBuilder, record: &Record) -> u64 {
    let mut hash = hasher.build_hasher();
    let port = |end: &End| u64::from(end.port.unwrap_or_default());
    let dst = record.dst.as_ref();
    let ports = port(&record.src) | port(&record.nat) << 16 | dst.map_or(0, port) << 32;
    hash.write_u64(
        u64::from(record.id.unwrap_or_default())
            | u64::from(record.protocol) << 32
            | u64::from(record.zone) << 40,
    );
    hash.write_u64(ports);
    for end in [Some(&record.src), Some(&record.nat), dst].into_iter().flatten() {
        write_ip(&mut hash, end);
    }
    hash.finish()
}

impl OpenTable {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The number of slots, for [`each`](Self::each).
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The slot of the open mapping with the same tuples and id.
    pub(super) fn find(&self, record: &Record) -> Option<u32> {
        let hash = hash_connection(&self.hasher, record);
        let is_it = |&slot: &u32| self.slots.get(slot).packed.is_same_connection(record, &self.addresses);
        self.by_connection.find(hash, is_it).copied()
    }

    pub(super) fn record(&self, slot: u32) -> Record {
        self.slots.get(slot).packed.record(&self.addresses)
    }

    pub(super) fn opened(&self, slot: u32) -> Moment {
        self.slots.get(slot).packed.opened()
    }

    pub(super) fn set_epoch(&mut self, slot: u32, epoch: u32) {
        self.slots.get_mut(slot).epoch = epoch;
    }

    /// Whether a mapping was added in this span, so that no segment has it.
    pub(super) fn is_new(&self, slot: u32) -> bool {
        self.slots.get(slot).span == self.span
    }

    /// Begins another span: what is here now is in a segment, or will be.
    pub(super) fn begin_span(&mut self) {
        self.span = self.span.wrapping_add(1);
    }

    /// Adds a mapping. None with the same tuples and id is open.
    pub(super) fn insert(&mut self, record: &Record, epoch: u32) {
        let packed = Packed::new(record, &mut self.addresses);
        let span = self.span;
        let item = Slot { packed, epoch, span, next: [NONE; 2], previous: [NONE; 2] };
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.slots.get_mut(slot) = item;
                slot
            }
            None => self.slots.push(item),
        };
        let (slots, addresses, hasher) = (&self.slots, &self.addresses, &self.hasher);
        let unpack = |slot: u32| slots.get(slot).packed.record(addresses);
        self.by_connection.insert_unique(hash_connection(hasher, record), slot, |&slot| {
            hash_connection(hasher, &unpack(slot))
        });
        for (which, end) in found_by(record) {
            self.link(slot * 2 + which, end);
        }
    }

    /// Puts a link before the others of its public end.
    fn link(&mut self, link: u32, end: End) {
        let fingerprint = fingerprint(&self.hasher, &end);
        let hash = spread(fingerprint);
        match self.by_public.find_mut(hash, |chain| chain.fingerprint == fingerprint) {
            Some(chain) => {
                let second = std::mem::replace(&mut chain.first, link);
                self.slots.get_mut(link / 2).next[link as usize % 2] = second;
                self.slots.get_mut(second / 2).previous[second as usize % 2] = link;
            }
            None => {
                let chain = Chain { fingerprint, first: link };
                self.by_public.insert_unique(hash, chain, |chain| spread(chain.fingerprint));
            }
        }
    }

    fn unlink(&mut self, link: u32, end: End) {
        let which = link as usize % 2;
        let slot = self.slots.get(link / 2);
        let (next, previous) = (slot.next[which], slot.previous[which]);
        if next != NONE {
            self.slots.get_mut(next / 2).previous[next as usize % 2] = previous;
        }
        if previous != NONE {
            self.slots.get_mut(previous / 2).next[previous as usize % 2] = next;
            return;
        }
        let hash = spread(fingerprint(&self.hasher, &end));
        if let Ok(mut entry) = self.by_public.find_entry(hash, |chain| chain.first == link) {
            if next == NONE {
                entry.remove();
            } else {
                entry.get_mut().first = next;
            }
        }
    }

    /// Removes a mapping.
    pub(super) fn remove(&mut self, slot: u32) -> Record {
        let record = self.record(slot);
        for (which, end) in found_by(&record) {
            self.unlink(slot * 2 + which, end);
        }
        let hash = hash_connection(&self.hasher, &record);
        if let Ok(entry) = self.by_connection.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        let item = self.slots.get_mut(slot);
        item.epoch = FREE;
        item.packed.release(&mut self.addresses);
        self.free.push(slot);
        record
    }

    /// The slots of mappings that were not seen in this reconciliation.
    pub(super) fn unseen(&self, epoch: u32) -> Vec<u32> {
        let slots = (0u32..).zip(self.slots.iter());
        slots.filter(|(_, slot)| slot.epoch != FREE && slot.epoch != epoch).map(|(place, _)| place).collect()
    }

    /// The mappings that were seen in this reconciliation.
    pub(super) fn seen(&self, epoch: u32) -> impl Iterator<Item = Record> {
        let slots = self.slots.iter().filter(move |slot| slot.epoch == epoch);
        slots.map(|slot| slot.packed.record(&self.addresses))
    }

    /// The mappings with a public end, and few others.
    pub(super) fn at_end(&self, end: End, on: &mut dyn FnMut(Record)) {
        let fingerprint = fingerprint(&self.hasher, &end);
        let chain = self.by_public.find(spread(fingerprint), |chain| chain.fingerprint == fingerprint);
        let mut link = chain.map_or(NONE, |chain| chain.first);
        while link != NONE {
            on(self.record(link / 2));
            link = self.slots.get(link / 2).next[link as usize % 2];
        }
    }

    /// The mappings in a range of slots.
    pub(super) fn each(&self, slots: std::ops::Range<usize>, on: &mut dyn FnMut(Record)) {
        for place in slots.start..slots.end.min(self.slots.len()) {
            let Ok(place) = u32::try_from(place) else { return };
            let slot = self.slots.get(place);
            if slot.epoch != FREE {
                on(slot.packed.record(&self.addresses));
            }
        }
    }

    /// Copies all mappings.
    pub(super) fn copy(&self) -> OpenCopy {
        let mut packed = Vec::with_capacity(self.len());
        packed.extend(self.slots.iter().filter(|slot| slot.epoch != FREE).map(|slot| slot.packed));
        OpenCopy { packed, addresses: self.addresses.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_small_as_the_memory_wants() {
        assert_eq!(size_of::<Slot>(), 80);
    }
}
