//! Requests for indexes, to the thread that builds them.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::table::IndexedBy;

/// Which indexes lookups need.
#[derive(Debug, Default)]
pub(super) struct IndexRequests {
    wanted: Mutex<Vec<IndexedBy>>,
    changed: Condvar,
    /// Held while an index is built.
    pub(super) build: Mutex<()>,
}

impl IndexRequests {
    /// Requests an index.
    pub(super) fn push(&self, by: IndexedBy) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if !wanted.contains(&by) {
            wanted.push(by);
            self.changed.notify_one();
        }
    }

    /// Waits for a request, for at most `timeout`.
    pub(super) fn wait(&self, timeout: Duration) -> Option<IndexedBy> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(wanted, timeout, |wanted| wanted.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.first().copied()
    }

    /// Notes that an index exists.
    pub(super) fn remove(&self, by: IndexedBy) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).retain(|wanted| *wanted != by);
    }
}
