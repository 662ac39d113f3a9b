//! Moments in six bytes.

use std::time::Duration;

use crate::clock::Stamp;

/// Bits of the monotonic time: 139 years in milliseconds.
const MONOTONIC_BITS: u32 = 42;
/// Bits of the number of an offset.
const OFFSET_BITS: u32 = 48 - MONOTONIC_BITS;

/// A [`Stamp`] without its wall-clock time: that is the monotonic time plus one of the [`Offsets`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment([u16; 3]);

impl Moment {
    /// What free slots hold.
    pub(super) const ZERO: Self = Self([0; 3]);

    /// A moment of which only the monotonic time counts.
    pub(super) fn monotonic_only(monotonic: u64) -> Self {
        Self::new(monotonic, 0)
    }

    fn new(monotonic: u64, offset: usize) -> Self {
        let monotonic = monotonic.min((1 << MONOTONIC_BITS) - 1);
        let bits = monotonic | (offset as u64) << MONOTONIC_BITS;
        Self([bits as u16, (bits >> 16) as u16, (bits >> 32) as u16])
    }

    fn bits(self) -> u64 {
        let [low, middle, high] = self.0.map(u64::from);
        low | middle << 16 | high << 32
    }

    /// Milliseconds of the monotonic clock.
    pub(super) fn monotonic(self) -> u64 {
        self.bits() & ((1 << MONOTONIC_BITS) - 1)
    }

    /// The time from this moment to `now` by the monotonic clock; none if it is later.
    #[inline]
    pub(super) fn age(self, now: Stamp) -> Duration {
        Duration::from_millis(now.monotonic.saturating_sub(self.monotonic()))
    }
}

/// How far the wall clock was ahead of the monotonic one. That changes only when somebody sets the
/// wall clock, so all moments share a few such numbers.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// In milliseconds.
    known: Vec<i64>,
    /// The one that was used last.
    current: usize,
    /// The one that is replaced next when no number is left: the oldest.
    oldest: usize,
}

impl Offsets {
    /// The moment of a stamp.
    pub(super) fn moment(&mut self, stamp: Stamp) -> Moment {
        let offset = (stamp.wall as i64).wrapping_sub(stamp.monotonic as i64);
        if self.known.get(self.current) != Some(&offset) {
            self.current = self.number(offset);
        }
        Moment::new(stamp.monotonic, self.current)
    }

    /// The number of an offset. If the wall clock was set more often than there are numbers, the oldest
    /// one is replaced: moments that are as old get another wall-clock time.
    fn number(&mut self, offset: i64) -> usize {
        if let Some(at) = self.known.iter().position(|known| *known == offset) {
            return at;
        }
        if self.known.len() < 1 << OFFSET_BITS {
            self.known.push(offset);
            return self.known.len() - 1;
        }
        if self.oldest == self.current {
            self.oldest = (self.oldest + 1) % self.known.len();
        }
        let replaced = self.oldest;
        self.known[replaced] = offset;
        self.oldest = (replaced + 1) % self.known.len();
        replaced
    }

    /// The stamp of a moment.
    pub(super) fn stamp(&self, moment: Moment) -> Stamp {
        let monotonic = moment.monotonic();
        let offset = self.known.get((moment.bits() >> MONOTONIC_BITS) as usize).copied().unwrap_or(0);
        Stamp { monotonic, wall: monotonic.saturating_add_signed(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_whatever_the_wall_clock_does() {
        let mut offsets = Offsets::default();
        let stamps: Vec<_> = (0..64_u64)
            .map(|at| Stamp { monotonic: (1 << 42) - 1 - at, wall: (at * 7_919) % 64 * 3_600_000_000 })
            .collect();
        let moments: Vec<_> = stamps.iter().map(|stamp| offsets.moment(*stamp)).collect();
        for (stamp, moment) in stamps.iter().zip(&moments) {
            assert_eq!(offsets.stamp(*moment), *stamp);
        }
        // No number is left, so the oldest ones are replaced; never the one in use.
        for (at, stamp) in stamps.iter().enumerate() {
            let later = Stamp { wall: stamp.wall + 1, ..*stamp };
            let moment = offsets.moment(later);
            assert_eq!(offsets.stamp(moment), later);
            assert!(
                moments[at + 1..]
                    .iter()
                    .zip(&stamps[at + 1..])
                    .all(|(moment, stamp)| offsets.stamp(*moment) == *stamp)
            );
        }
    }

    #[test]
    fn the_age_of_a_moment_is_that_of_the_monotonic_clock() {
        let mut offsets = Offsets::default();
        let moment = offsets.moment(Stamp { monotonic: 5_000, wall: 1_700_000_000_000 });
        assert_eq!(moment.age(Stamp { monotonic: 7_500, wall: 0 }), Duration::from_millis(2_500));
        assert_eq!(moment.age(Stamp { monotonic: 1, wall: 1_800_000_000_000 }), Duration::ZERO);
        assert_eq!(size_of::<Moment>(), 6);
    }
}
