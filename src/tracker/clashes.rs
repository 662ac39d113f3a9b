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

/// By this time after a clash the DESTROY event has come: the entry lasts a second, and the
/// kernel collects expired entries within about fifteen.
const MAX_LIFETIME: Duration = Duration::from_secs(20);

/// The kernel's counter, and when it last rose.
#[derive(Debug)]
pub(super) struct Clashes {
    count: AtomicU64,
    /// In milliseconds of the monotonic clock; 0 if never.
    rose_at: AtomicU64,
}

impl Clashes {
    /// `count` is the counter now.
    pub(super) fn new(count: u64) -> Self {
        Self { count: AtomicU64::new(count), rose_at: AtomicU64::new(0) }
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
