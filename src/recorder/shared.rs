//! What the thread that writes shares with the rest of the daemon.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// What the thread is asked to do.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Those that wait until everything is appended that has happened so far.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Whether it must append and sync everything, and end.
    pub(super) stop: bool,
}

/// Shared by the thread and its handle.
#[derive(Debug)]
pub(super) struct Shared {
    requests: Mutex<Requests>,
    changed: Condvar,
    /// In milliseconds.
    pub(super) sync_interval: AtomicU64,
    /// Everything before this moment is in the history, apart from its gaps.
    pub(super) recorded_until: AtomicI64,
    /// Whether entries cannot be written.
    pub(super) is_failing: AtomicBool,
}

impl Shared {
    pub(super) fn new(recorded_until: i64) -> Self {
        Self {
            requests: Mutex::default(),
            changed: Condvar::new(),
            sync_interval: AtomicU64::new(0),
            recorded_until: AtomicI64::new(recorded_until),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Asks the thread for something.
    pub(super) fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Waits for requests, for at most this time, and takes them.
    pub(super) fn wait(&self, timeout: Duration) -> Requests {
        let deadline = Instant::now() + timeout;
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if requests.stop || !requests.waiting.is_empty() || left.is_zero() {
                let stop = requests.stop;
                return Requests { stop, ..std::mem::take(&mut *requests) };
            }
            requests = self.changed.wait_timeout(requests, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
