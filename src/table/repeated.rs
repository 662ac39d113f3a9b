//! Lifetimes whose DESTROY event the kernel repeats.
//!
//! If a listener asks for reliable delivery and does not read, the kernel sends the DESTROY
//! events that this listener did not get again and again, to all listeners: after a second,
//! and then one every few milliseconds, in turn. So with many of them, an event can come again
//! long after its mapping was removed. While the kernel repeats events, the lifetimes of
//! removed mappings are therefore remembered too.

use std::collections::HashSet;
use std::time::Duration;

use super::shards::CellHash;
use crate::clock::Stamp;

/// Events of two processors can overtake each other by less than this time.
pub(super) const OVERTAKEN: Duration = Duration::from_secs(1);
/// The period, in milliseconds, for lifetimes whose DESTROY event comes again.
const PERIOD: u64 = 300_000;
/// Lifetimes of one period that are remembered at most.
const MAX_LIFETIMES: usize = 262_144;
/// The kernel no longer repeats events if none came again for this time, in milliseconds.
const QUIET: u64 = 10_000;

/// Lifetimes by hash of the reply tuple and by conntrack id. One is forgotten one to two
/// periods after it was last noted.
#[derive(Debug)]
pub(super) struct Repeated {
    /// In milliseconds.
    period: u64,
    this_period: HashSet<(CellHash, u32)>,
    last_period: HashSet<(CellHash, u32)>,
    /// When this period began, in milliseconds of the monotonic clock.
    began: u64,
    /// When an event last came again; 0 if never.
    last: u64,
}

impl Default for Repeated {
    fn default() -> Self {
        Self::with_period(PERIOD)
    }
}

impl Repeated {
    /// Remembers lifetimes for one to two times this number of milliseconds.
    pub(super) fn with_period(period: u64) -> Self {
        Self { period, this_period: HashSet::new(), last_period: HashSet::new(), began: 0, last: 0 }
    }

    /// Notes that a DESTROY event of this lifetime came again.
    pub(super) fn note(&mut self, hash: CellHash, id: u32, now: Stamp) {
        self.last = now.monotonic;
        self.remember(hash, id, now);
    }

    /// Whether the kernel repeats events, so that removed lifetimes must be remembered.
    pub(super) fn is_active(&self, now: Stamp) -> bool {
        self.last != 0 && now.monotonic.saturating_sub(self.last) < QUIET
    }

    /// Remembers a lifetime whose DESTROY event may come again.
    pub(super) fn remember(&mut self, hash: CellHash, id: u32, now: Stamp) {
        self.forget_old(now);
        if self.this_period.len() < MAX_LIFETIMES {
            self.this_period.insert((hash, id));
        }
    }

    /// Whether a DESTROY event of this lifetime came more than once lately.
    pub(super) fn contains(&mut self, hash: CellHash, id: u32, now: Stamp) -> bool {
        if self.this_period.is_empty() && self.last_period.is_empty() {
            return false;
        }
        self.forget_old(now);
        let lifetime = (hash, id);
        self.this_period.contains(&lifetime) || self.last_period.contains(&lifetime)
    }

    fn forget_old(&mut self, now: Stamp) {
        let age = now.monotonic.saturating_sub(self.began);
        if age >= self.period {
            let this_period = std::mem::take(&mut self.this_period);
            self.last_period = if age < 2 * self.period { this_period } else { HashSet::new() };
            self.began = now.monotonic;
        }
    }
}
