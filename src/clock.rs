//! Time: the monotonic clock for everything that is measured, and the wall clock only
//! for times that people read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment on both clocks, each in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Milliseconds since an arbitrary moment long before the daemon's start; never
    /// jumps.
    pub monotonic: u64,
    /// Milliseconds since the Unix epoch, as the wall clock showed at that moment.
    pub wall: u64,
}

impl Stamp {
    /// The time since `earlier`, by the monotonic clock.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_millis(self.monotonic.saturating_sub(earlier.monotonic))
    }

    /// The moment at which the wall clock showed `wall`, which must not be in the
    /// future. Both clocks go back by the same time.
    pub fn back_to_wall(self, wall: u64) -> Stamp {
        let age = self.wall.saturating_sub(wall);
        Stamp { monotonic: self.monotonic.saturating_sub(age), wall: self.wall.min(wall) }
    }
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// The current moment.
    fn now(&self) -> Stamp;
}

/// The system's clocks. Both times of a stamp differ by a constant that changes only when the wall clock is
/// set: the two clocks of the system run at the same speed.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    /// How far the wall clock is ahead of the time since `start`, in nanoseconds, or slightly more.
    ahead: AtomicI64,
}

/// The monotonic time of the daemon's start: a hundred years, so that a connection
/// that began years ago has a monotonic time too.
const START: u64 = 100 * 366 * 24 * 3600 * 1000;
const MILLISECOND: i64 = 1_000_000;
/// What is added to the first measurement, in nanoseconds: later ones may be this much greater.
const MARGIN: i64 = 100_000;
/// A thread that is interrupted between its readings of the two clocks tries again, so often.
const READINGS: usize = 8;

impl Default for SystemClock {
    fn default() -> Self {
        let clock = Self { start: Instant::now(), ahead: AtomicI64::new(0) };
        let measured = clock.least(clock.readings());
        clock.ahead.store(measured + MARGIN, Ordering::Relaxed);
        clock
    }
}

impl SystemClock {
    /// The time since `start`, and how far the wall clock is ahead of it, in nanoseconds. That is
    /// too much by the time between the two readings.
    fn readings(&self) -> (i64, i64) {
        let passed = self.start.elapsed().as_nanos() as i64;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        (passed, wall - passed)
    }

    /// How far the wall clock is ahead: the least of some readings, of which this is the first.
    fn least(&self, first: (i64, i64)) -> i64 {
        let readings = std::iter::once(first).chain(std::iter::repeat_with(|| self.readings()));
        readings.take(READINGS).map(|(_, ahead)| ahead).min().unwrap_or_default()
    }

    /// Notes how far the wall clock is ahead, and returns it.
    fn measure(&self, first: (i64, i64)) -> i64 {
        let noted = adjusted(self.ahead.load(Ordering::Relaxed), self.least(first));
        self.ahead.store(noted, Ordering::Relaxed);
        noted
    }
}

/// What `noted` becomes when the wall clock is measured to be ahead by this time. It changes in whole
/// milliseconds, so that the monotonic time in milliseconds goes on evenly, and is never too little:
/// a stamp is not earlier than what happened before it.
fn adjusted(noted: i64, measured: i64) -> i64 {
    if is_near(noted, measured) {
        return noted;
    }
    let change = measured - noted;
    noted + (change.div_euclid(MILLISECOND) + 1) * MILLISECOND
}

/// Whether the wall clock has not been set since `noted`. The two may differ a little without that.
fn is_near(noted: i64, measured: i64) -> bool {
    (0..=2 * MILLISECOND).contains(&(noted - measured))
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let (passed, measured) = self.readings();
        let noted = self.ahead.load(Ordering::Relaxed);
        let ahead = if is_near(noted, measured) { noted } else { self.measure((passed, measured)) };
        let wall = (passed + ahead).max(0) / MILLISECOND;
        let monotonic = START as i64 + wall - ahead.div_euclid(MILLISECOND);
        Stamp { monotonic: monotonic as u64, wall: wall as u64 }
    }
}

/// The processor time that this thread has used.
#[cfg(feature = "bench")]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_the_system_differ_by_a_constant_and_follow_it() {
        let clock = SystemClock::default();
        let first = clock.now();
        for _ in 0..100_000 {
            let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            let now = clock.now();
            let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
            assert_eq!(now.wall.wrapping_sub(now.monotonic), first.wall.wrapping_sub(first.monotonic));
            assert!((before..=after + 2).contains(&now.wall), "{before} {} {after}", now.wall);
        }
    }

    #[test]
    fn a_clock_that_is_set_is_followed_in_whole_milliseconds_and_never_too_early() {
        let noted = 1_700_000_000_123_456_789;
        for measured in [noted, noted - 1, noted - 2 * MILLISECOND] {
            assert_eq!(adjusted(noted, measured), noted);
        }
        for change in [1, 999_999, 1_000_000, 7_200_000_000_001, -2_000_001, -3_600_000_000_000] {
            let measured = noted + change;
            let adjusted = adjusted(noted, measured);
            assert_eq!((adjusted - noted) % MILLISECOND, 0);
            assert!((1..=MILLISECOND).contains(&(adjusted - measured)), "{change}");
            assert!(is_near(adjusted, measured));
        }
    }
}
