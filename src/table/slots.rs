//! Which slots of a table are free, and which of them is used next.
//!
//! Usually it is the one that was freed last, which the processor's cache still has. In a table
//! that has become much too large, it is one of the lowest chunk, so that the higher chunks become
//! empty and give their memory back.

use super::chunks::{CHUNK, NONE, chunk_of};

/// Empty chunks that keep their memory.
const SPARE: usize = 2;

/// The free slots of one chunk.
#[derive(Debug, Clone, Copy)]
struct ChunkUse {
    /// The slot that was freed last. Free slots are linked.
    first_free: u32,
    /// The slots from here on were never used since the chunk got its memory.
    fresh: u16,
    used: u16,
}

impl ChunkUse {
    const EMPTY: Self = Self { first_free: NONE, fresh: 0, used: 0 };

    fn has_free(self) -> bool {
        (self.used as usize) < CHUNK
    }
}

/// The free slots of a table.
#[derive(Debug, Default)]
pub(super) struct Slots {
    chunks: Vec<ChunkUse>,
    /// A bit for each chunk: whether it has a free slot.
    with_free: Vec<u64>,
    /// No word before this one has a bit set.
    lowest_word: usize,
    /// The chunk in which a slot was freed last.
    recent: usize,
    /// Slots in use.
    used: usize,
    /// Chunks that have memory and no slot in use.
    spare: usize,
    /// Chunks that have memory.
    allocated: usize,
}

impl Slots {
    /// A free slot, which counts as used from now on. `next_free` returns the slot that is linked
    /// behind a free one. The caller gives its chunk memory, if it has none.
    pub(super) fn take(&mut self, next_free: impl Fn(u32) -> u32) -> u32 {
        let is_sparse = self.used < self.allocated * CHUNK / 2;
        let recent = Some(self.recent).filter(|chunk| {
            !is_sparse && self.chunks.get(*chunk).is_some_and(|chunk| chunk.used > 0 && chunk.has_free())
        });
        let chunk = recent.unwrap_or_else(|| self.lowest());
        let first = (chunk * CHUNK) as u32;
        let state = &mut self.chunks[chunk];
        if state.used == 0 {
            if state.fresh == 0 {
                self.allocated += 1;
            } else {
                self.spare -= 1;
            }
        }
        let slot = match state.first_free {
            NONE => {
                state.fresh += 1;
                first + u32::from(state.fresh) - 1
            }
            slot => {
                state.first_free = next_free(slot);
                slot
            }
        };
        state.used += 1;
        self.used += 1;
        if !state.has_free() {
            self.with_free[chunk / 64] &= !(1 << (chunk % 64));
        }
        slot
    }

    /// The lowest chunk with a free slot; a new one if there is none.
    fn lowest(&mut self) -> usize {
        while let Some(word) = self.with_free.get(self.lowest_word) {
            if *word != 0 {
                return self.lowest_word * 64 + word.trailing_zeros() as usize;
            }
            self.lowest_word += 1;
        }
        let chunk = self.chunks.len();
        self.chunks.push(ChunkUse::EMPTY);
        self.set_with_free(chunk);
        chunk
    }

    fn set_with_free(&mut self, chunk: usize) {
        let word = chunk / 64;
        if word >= self.with_free.len() {
            self.with_free.resize(word + 1, 0);
        }
        self.with_free[word] |= 1 << (chunk % 64);
        self.lowest_word = self.lowest_word.min(word);
    }

    /// Frees a slot. Returns the free slot that the caller must link behind it, and the chunk whose
    /// memory it must give back, if there is one.
    pub(super) fn free(&mut self, slot: u32) -> (u32, Option<usize>) {
        let chunk = chunk_of(slot);
        self.recent = chunk;
        self.used -= 1;
        let state = &mut self.chunks[chunk];
        state.used -= 1;
        let next = std::mem::replace(&mut state.first_free, slot);
        let is_empty = state.used == 0;
        if is_empty && self.spare == SPARE {
            *state = ChunkUse::EMPTY;
            self.allocated -= 1;
        } else {
            self.spare += usize::from(is_empty);
        }
        let released = self.chunks[chunk].fresh == 0;
        self.set_with_free(chunk);
        (next, released.then_some(chunk))
    }

    /// Slots that have memory.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.allocated * CHUNK
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    #[test]
    fn no_slot_is_given_twice_and_memory_is_given_back() {
        let (mut slots, mut links, mut used) = (Slots::default(), HashMap::new(), BTreeSet::new());
        let mut with_memory = BTreeSet::new();
        let mut random = 1_u64;
        let take = |slots: &mut Slots, links: &HashMap<u32, u32>, used: &mut BTreeSet<u32>| {
            let slot = slots.take(|slot| links[&slot]);
            assert!(used.insert(slot), "{slot} is in use");
            slot
        };
        let free = |slots: &mut Slots, links: &mut HashMap<u32, u32>, slot| {
            let (next, released) = slots.free(slot);
            links.insert(slot, next);
            released
        };
        for round in 0..6 {
            for _ in 0..100_000 {
                with_memory.insert(chunk_of(take(&mut slots, &links, &mut used)));
            }
            assert_eq!(slots.allocated(), with_memory.len() * CHUNK);
            // All but a few end, in another order.
            let mut ending: Vec<u32> = used.iter().copied().collect();
            for at in (1..ending.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ending.swap(at, (random >> 33) as usize % (at + 1));
            }
            ending.truncate(ending.len() - 100 * (round % 2));
            for slot in ending {
                used.remove(&slot);
                if let Some(chunk) = free(&mut slots, &mut links, slot) {
                    assert!(with_memory.remove(&chunk));
                    assert!(!used.iter().any(|slot| chunk_of(*slot) == chunk));
                }
            }
            let needed = used.iter().map(|slot| chunk_of(*slot)).collect::<BTreeSet<_>>().len();
            assert!(with_memory.len() <= needed + SPARE, "{} for {needed}", with_memory.len());
        }
    }

    #[test]
    fn a_table_that_has_become_small_moves_to_the_lowest_chunks() {
        let (mut slots, mut links) = (Slots::default(), HashMap::new());
        let all: Vec<u32> = (0..100 * CHUNK).map(|_| slots.take(|_| NONE)).collect();
        // One in each chunk stays.
        let (kept, ended): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|slot| slot % CHUNK as u32 == 0);
        for slot in ended {
            links.insert(slot, slots.free(slot).0);
        }
        assert_eq!(slots.allocated(), 100 * CHUNK);
        // These end one by one, and others begin.
        for slot in kept.into_iter().rev() {
            let new = slots.take(|slot| links[&slot]);
            assert_eq!(chunk_of(new), 0);
            links.insert(slot, slots.free(slot).0);
        }
        assert!(slots.allocated() <= (1 + SPARE) * CHUNK, "{}", slots.allocated());
    }
}
