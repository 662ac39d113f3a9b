//! Time as the daemon needs it: a monotonic reading for everything that is
//! measured, and the wall clock only for what is shown to people.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One moment on both clocks, each in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Since an arbitrary moment long before the daemon's start; never steps.
    pub monotonic: u64,
    /// Since the Unix epoch, as the wall clock stood then.
    pub wall: u64,
}

impl Stamp {
    /// How long ago `earlier` was, by the monotonic clock.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_millis(self.monotonic.saturating_sub(earlier.monotonic))
    }

    /// The moment that the wall clock showed as `wall` milliseconds, which must
    /// not lie in the future; as far back on both clocks.
    pub fn back_to_wall(self, wall: u64) -> Stamp {
        let age = self.wall.saturating_sub(wall);
        Stamp { monotonic: self.monotonic.saturating_sub(age), wall: self.wall.min(wall) }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// This moment.
    fn now(&self) -> Stamp;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

/// A mapping that the kernel says is years old must still have a monotonic
/// stamp: the count begins a hundred years before the daemon.
const BEFORE_START: u64 = 100 * 366 * 24 * 3600 * 1000;

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        Stamp {
            monotonic: BEFORE_START + self.start.elapsed().as_millis() as u64,
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
        }
    }
}

/// How long this thread has been on a processor since it began.
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
