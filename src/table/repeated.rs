//! Lifetimes whose DESTROY event the kernel repeats.
//!
//! If a listener asks for reliable delivery and does not read, the kernel sends the DESTROY
//! events that this listener did not get again and again, to all listeners: after a second,
//! and then one every few milliseconds, in turn. So with many of them, an event can come again
//! long after its mapping was removed. While the kernel repeats events, the lifetimes of
//! removed mappings are therefore remembered too.

use std::collections::HashSet;

use crate::clock::Stamp;

/// A lifetime is forgotten one to two periods, in milliseconds, after it was last noted.
const PERIOD: u64 = 300_000;
/// Lifetimes of one period that are remembered at most.
const MAX_LIFETIMES: usize = 262_144;
/// The kernel no longer repeats events if none came again for this time, in milliseconds.
const QUIET: u64 = 10_000;

/// Lifetimes by hash of the reply tuple and by conntrack id.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    this_period: HashSet<(u64, u32)>,
    last_period: HashSet<(u64, u32)>,
    /// When this period began, in milliseconds of the monotonic clock.
    began: u64,
    /// When an event last came again; 0 if never.
    last: u64,
}

impl Repeated {
    /// Notes that a DESTROY event of this lifetime came again.
    pub(super) fn note(&mut self, hash: u64, id: u32, now: Stamp) {
        self.last = now.monotonic;
        self.remember(hash, id, now);
    }

    /// Whether the kernel repeats events, so that removed lifetimes must be remembered.
    pub(super) fn is_active(&self, now: Stamp) -> bool {
        self.last != 0 && now.monotonic.saturating_sub(self.last) < QUIET
    }

    /// Remembers a lifetime whose DESTROY event may come again.
    pub(super) fn remember(&mut self, hash: u64, id: u32, now: Stamp) {
        self.forget_old(now);
        if self.this_period.len() < MAX_LIFETIMES {
            self.this_period.insert((hash, id));
        }
    }

    /// Whether a DESTROY event of this lifetime came more than once lately.
    pub(super) fn contains(&mut self, hash: u64, id: u32, now: Stamp) -> bool {
        if self.this_period.is_empty() && self.last_period.is_empty() {
            return false;
        }
        self.forget_old(now);
        let lifetime = (hash, id);
        self.this_period.contains(&lifetime) || self.last_period.contains(&lifetime)
    }

    fn forget_old(&mut self, now: Stamp) {
        let age = now.monotonic.saturating_sub(self.began);
        if age >= PERIOD {
            let this_period = std::mem::take(&mut self.this_period);
            self.last_period = if age < 2 * PERIOD { this_period } else { HashSet::new() };
            self.began = now.monotonic;
        }
    }
}
