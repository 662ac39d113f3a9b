//! Requests for a dump, to the thread that reads dumps.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Whether a dump is requested.
#[derive(Debug, Default)]
pub(super) struct DumpRequest {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl DumpRequest {
    /// Requests a dump as soon as possible.
    pub(super) fn set(&self) {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Clears the request, because a dump begins now.
    pub(super) fn clear(&self) {
        *self.requested.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits until a dump is requested (true) or until `deadline` (false).
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let mut requested = self.requested.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if *requested || left.is_zero() {
                return *requested;
            }
            requested = self.changed.wait_timeout(requested, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
