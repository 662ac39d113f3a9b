//! Giving memory back to the system when it is no longer needed.
//!
//! After a burst, most of the memory of the table, of a dump or of responses is free, but the C
//! library keeps it. Searching the heap for it takes some milliseconds, in which other threads may
//! have to wait for memory. So this happens rarely while it gives nothing back.

use std::time::{Duration, Instant};

use crate::proc::Process;

/// The time between two attempts, at first and at most.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(40));
/// Memory is given back if the process has this many bytes more than it had at least.
const GROWTH: u64 = 8 << 20;
/// An attempt that gives back fewer bytes than this was not worth it.
const WORTH: u64 = 1 << 20;

/// The attempts to give memory back.
#[derive(Debug)]
pub(super) struct Memory {
    next: Instant,
    interval: Duration,
    /// The resident memory at the last check, and the least of all.
    resident: u64,
    least: u64,
}

impl Default for Memory {
    fn default() -> Self {
        let (interval, _) = INTERVALS;
        let resident = resident();
        Self { next: Instant::now() + interval, interval, resident, least: resident }
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    Process::read().map_or(0, |process| process.resident)
}

impl Memory {
    /// Gives memory back, if it is time for that. Call it about once a second, without the table's
    /// lock.
    pub(super) fn check(&mut self) {
        if Instant::now() < self.next {
            return;
        }
        let before = resident();
        let mut after = before;
        if before > self.least.saturating_add(GROWTH) {
            nfct::release_unused_memory();
            after = resident();
            log::debug!("memory given back: {} KiB resident, before {} KiB", after >> 10, before >> 10);
        }
        let has_changed = before.abs_diff(self.resident) >= GROWTH || before.saturating_sub(after) >= WORTH;
        self.interval = if has_changed { INTERVALS.0 } else { (self.interval * 2).min(INTERVALS.1) };
        self.next = Instant::now() + self.interval;
        self.resident = after;
        self.least = self.least.min(after);
    }
}
