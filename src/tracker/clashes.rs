//! How many clashes of UDP packets the kernel has resolved lately.
//!
//! If the first two packets of a UDP socket are handled at the same time, both get an entry.
//! If their public ports differ, the kernel keeps the second entry by its reply tuple only:
//! it reports no NEW event for it, no dump contains it, and it lasts a second. Its DESTROY
//! event tells who had the port. Until then only a counter of the kernel shows that there
//! may be such an entry (`nf_ct_resolve_clash` in `net/netfilter/nf_conntrack_core.c`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Stamp;
use crate::proc::ClashCounter;

/// By this time after a clash the DESTROY event has come: the entry lasts a second, and the
/// kernel collects expired entries within about fifteen.
const MAX_LIFETIME: Duration = Duration::from_secs(20);

/// The kernel's counter, and when it last rose.
#[derive(Debug)]
pub(super) struct Clashes {
    counter: ClashCounter,
    count: AtomicU64,
    /// In milliseconds of the monotonic clock; 0 if never.
    rose_at: AtomicU64,
}

impl Clashes {
    /// `by_query` reads the counter through netlink, if no file has it.
    pub(super) fn new(counter: ClashCounter, by_query: impl FnOnce() -> u64) -> Self {
        let count = AtomicU64::new(counter.read().unwrap_or_else(by_query));
        Self { counter, count, rose_at: AtomicU64::new(0) }
    }

    /// Reads the counter. Returns false if only a query can read it.
    pub(super) fn check(&self, now: Stamp) -> bool {
        let count = self.counter.read();
        count.into_iter().for_each(|count| self.note(count, now));
        count.is_some()
    }

    /// Notes the counter's value.
    pub(super) fn note(&self, count: u64, now: Stamp) {
        if self.count.swap(count, Ordering::SeqCst) != count {
            self.rose_at.fetch_max(now.monotonic, Ordering::SeqCst);
        }
    }

    /// Whether an entry of a clash may exist whose public port nothing has told.
    pub(super) fn are_recent(&self, now: Stamp) -> bool {
        let rose_at = self.rose_at.load(Ordering::SeqCst);
        rose_at != 0 && u128::from(now.monotonic.saturating_sub(rose_at)) < MAX_LIFETIME.as_millis()
    }
}
