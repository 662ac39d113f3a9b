//! Proof that a thread makes progress.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A thread that waits for work proves this often that it runs.
pub(super) const MAX_REST: Duration = Duration::from_secs(2);

/// When a thread last made progress.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// In milliseconds after `start`.
    beat_at: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), beat_at: AtomicU64::new(0) }
    }

    /// Notes progress: a step of the work that is bounded, or a look whether there is work.
    pub(super) fn beat(&self) {
        self.beat_at.store(self.now(), Ordering::Relaxed);
    }

    /// How long the thread has made no progress.
    fn silence(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.beat_at.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The threads that can wait for the kernel, or work, for a long time. The one that drains the socket has
/// its [rounds](super::Tracker::rounds) instead.
#[derive(Debug)]
pub(super) struct Pulses {
    pub(super) resync: Pulse,
    pub(super) verify: Pulse,
    pub(super) rules: Pulse,
    pub(super) addresses: Pulse,
    pub(super) indexes: Pulse,
}

impl Pulses {
    pub(super) fn new() -> Self {
        Self {
            resync: Pulse::new(),
            verify: Pulse::new(),
            rules: Pulse::new(),
            addresses: Pulse::new(),
            indexes: Pulse::new(),
        }
    }

    /// A thread that has made no progress for longer than `limit`, and for how long.
    pub(super) fn stalled(&self, limit: Duration) -> Option<(&'static str, Duration)> {
        let named = [
            ("resync", &self.resync),
            ("verify", &self.verify),
            ("rules", &self.rules),
            ("addresses", &self.addresses),
            ("indexes", &self.indexes),
        ];
        named.into_iter().map(|(name, pulse)| (name, pulse.silence())).find(|(_, silence)| *silence > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_makes_no_progress_is_named() {
        let pulses = Pulses::new();
        let limit = Duration::from_secs(10);
        assert_eq!(pulses.stalled(limit), None);
        let old = Instant::now().checked_sub(Duration::from_secs(20)).expect("the system runs for longer");
        let pulses = Pulses { verify: Pulse { start: old, beat_at: AtomicU64::new(0) }, ..pulses };
        assert!(pulses.stalled(limit).is_some_and(|(name, silence)| name == "verify" && silence > limit));
        pulses.verify.beat();
        assert_eq!(pulses.stalled(limit), None);
    }
}
