//! What is counted while the daemon runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `many`.
    pub fn add(&self, many: usize) {
        self.0.fetch_add(many as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest of many times.
#[derive(Debug, Default)]
pub struct Longest(AtomicU64);

impl Longest {
    /// Takes one more.
    pub fn record(&self, time: Duration) {
        self.0.fetch_max(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The longest so far.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// All counters of one daemon.
#[derive(Debug, Default)]
pub struct Stats {
    /// Mappings that were put into the table.
    pub created: Counter,
    /// Closed mappings whose time was over.
    pub deleted: Counter,
    /// Old mappings dropped at `garbage_cleaner_interval`.
    pub expired: Counter,
    /// Look-ups, and requests that were refused whatever they asked for.
    pub requests: Counter,
    /// Look-ups that found a mapping.
    pub found: Counter,
    /// Look-ups that found none.
    pub not_found: Counter,
    /// Look-ups that made no sense.
    pub bad: Counter,
    /// Requests from clients outside `ip_acl`.
    pub unauthorized: Counter,
    /// Times that the kernel dropped events because the buffer was full.
    pub overruns: Counter,
    /// Kernel messages that could not be read.
    pub malformed: Counter,
    /// Single connections that the kernel was asked for.
    pub kernel_questions: Counter,
    /// Times that the kernel's table was read whole.
    pub dumps: Counter,
    /// Mappings that a dump showed to be gone without an event.
    pub swept: Counter,
    /// How long the table's lock was held at once.
    pub lock_held: Longest,
}
