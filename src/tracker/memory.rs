//! Giving memory back to the system when it is no longer needed.
//!
//! After a burst, most of the memory of the table, of a dump or of responses is free, but the C
//! library keeps it. Searching the heap for it takes milliseconds, in which other threads may have
//! to wait for memory, so this happens only after the process has grown.

use std::time::{Duration, Instant};

use crate::proc::Process;

/// The time between two checks.
const INTERVAL: Duration = Duration::from_secs(10);
/// The growth of the resident memory, in bytes, after which memory is given back.
const GROWTH: u64 = 16 << 20;

/// When memory was last given back.
#[derive(Debug)]
pub(super) struct Memory {
    checked: Instant,
    /// The resident memory after that, or since then if it has become less.
    resident: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { checked: Instant::now(), resident: 0 }
    }
}

impl Memory {
    /// Gives memory back, if it is time for that. Call it without the table's lock.
    pub(super) fn check(&mut self) {
        if self.checked.elapsed() < INTERVAL {
            return;
        }
        self.checked = Instant::now();
        let resident = || Process::read().map_or(0, |process| process.resident);
        let before = resident();
        if before < self.resident + GROWTH {
            self.resident = self.resident.min(before);
            return;
        }
        nfct::release_unused_memory();
        self.resident = resident();
        log::debug!("resident memory: {} KiB, of {} KiB", self.resident >> 10, before >> 10);
    }
}
