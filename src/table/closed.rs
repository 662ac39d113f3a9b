//! The closed entries in the order in which they closed, which is the order in which they expire.

use std::collections::VecDeque;
use std::ops::Range;

use super::chunks::NONE;

/// Slots of one allocation: small, so that growing does not hold the table's lock long.
const PART: usize = 1024;

/// Slots in order; [`NONE`] where one was removed.
#[derive(Debug)]
struct Part {
    slots: Vec<u32>,
    /// Those that were not removed.
    left: usize,
}

/// Slots of closed entries. A position is the number of slots that were ever added before.
#[derive(Debug, Default)]
pub(super) struct ClosedQueue {
    parts: VecDeque<Part>,
    /// The position of the first slot of the first part.
    begin: u64,
    /// The position of the first slot that was not removed, or the end.
    first: u64,
    /// The position of the next slot that is added.
    end: u64,
}

impl ClosedQueue {
    /// Adds a slot.
    pub(super) fn push(&mut self, slot: u32) {
        if self.parts.back().is_none_or(|part| part.slots.len() == PART) {
            self.parts.push_back(Part { slots: Vec::with_capacity(PART), left: 0 });
        }
        if let Some(part) = self.parts.back_mut() {
            part.slots.push(slot);
            part.left += 1;
        }
        self.end += 1;
    }

    /// The positions from the first slot on.
    pub(super) fn positions(&self) -> Range<u64> {
        self.first..self.end
    }

    /// The first slot from a position on, and its position. Parts of which nothing is left cost one step.
    pub(super) fn from(&self, position: u64) -> Option<(u64, u32)> {
        let mut position = position.max(self.first);
        while let Some((part, at)) = self.place(position) {
            let part = &self.parts[part];
            if part.left > 0 {
                let slots = (position..).zip(&part.slots[at..]);
                let mut slots = slots.filter(|(_, slot)| **slot != NONE);
                if let Some((position, slot)) = slots.next() {
                    return Some((position, *slot));
                }
            }
            position += (PART - at) as u64;
        }
        None
    }

    /// The first slot and its position.
    #[inline]
    pub(super) fn first(&self) -> Option<(u64, u32)> {
        (self.first != self.end).then(|| (self.first, self.at(self.first)))
    }

    /// The slot at a position.
    #[inline]
    pub(super) fn get(&self, position: u64) -> Option<u32> {
        Some(self.at(position)).filter(|slot| *slot != NONE)
    }

    /// Removes the slot at a position. Returns whether it was the first.
    pub(super) fn remove(&mut self, position: u64) -> bool {
        let Some((part, at)) = self.place(position) else { return false };
        let part = &mut self.parts[part];
        part.left -= usize::from(std::mem::replace(&mut part.slots[at], NONE) != NONE);
        let is_first = position == self.first;
        if is_first {
            self.first = self.from(position).map_or(self.end, |(position, _)| position);
            while self.begin + PART as u64 <= self.first {
                self.parts.pop_front();
                self.begin += PART as u64;
            }
        }
        is_first
    }

    fn place(&self, position: u64) -> Option<(usize, usize)> {
        let at = usize::try_from(position.checked_sub(self.begin)?).ok()?;
        (position < self.end).then_some((at / PART, at % PART))
    }

    fn at(&self, position: u64) -> u32 {
        self.place(position).map_or(NONE, |(part, at)| self.parts[part].slots[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_in_order_whichever_are_removed_and_no_memory_stays() {
        let mut queue = ClosedQueue::default();
        assert_eq!((queue.first(), queue.from(7)), (None, None));
        (0..10_000).for_each(|slot| queue.push(slot));
        // From the middle first.
        (2..9_998).filter(|position| position % 3 != 0).for_each(|position| assert!(!queue.remove(position)));
        assert_eq!(
            (queue.first(), queue.from(2), queue.from(9_999)),
            (Some((0, 0)), Some((3, 3)), Some((9_999, 9_999)))
        );
        assert!(!queue.remove(10_000), "there is none");
        let mut expected: Vec<u32> =
            (0..10_000).filter(|slot| slot % 3 == 0 || *slot == 1 || *slot == 9_998).collect();
        expected.sort_unstable();
        for slot in expected {
            assert_eq!(queue.first(), Some((slot.into(), slot)));
            assert!(queue.remove(slot.into()));
        }
        assert!(queue.first().is_none() && queue.parts.len() <= 1);
        queue.push(5);
        assert_eq!(queue.first(), Some((10_000, 5)));
    }
}
