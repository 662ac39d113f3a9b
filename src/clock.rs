//! Time: the monotonic clock for everything that is measured, and the wall clock only
//! for times that people read.

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

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

/// The monotonic time of the daemon's start: a hundred years, so that a connection
/// that began years ago has a monotonic time too.
const START: u64 = 100 * 366 * 24 * 3600 * 1000;

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        Stamp {
            monotonic: START + self.start.elapsed().as_millis() as u64,
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        }
    }
}

/// The processor time that this thread has used.
#[cfg(feature = "bench")]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
