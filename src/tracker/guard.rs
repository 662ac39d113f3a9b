//! Holding the tracker's lock: how long it is held is measured, and a thread that
//! panics with it ends the process.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::MutexGuard;

use super::state::TrackerState;
#[cfg(feature = "bench")]
use crate::clock;
use crate::stats::Stats;

/// The target of log lines that waited for the lock's release.
const LOG_TARGET: &str = "pynatconnd::tracker";

/// A hold of the lock.
pub(super) struct Guard<'a> {
    state: MutexGuard<'a, TrackerState>,
    held_since: Instant,
    /// The thread's processor time when it began to do more than to read.
    #[cfg(feature = "bench")]
    work_began: Option<std::time::Duration>,
    stats: &'a Stats,
}

impl<'a> Guard<'a> {
    #[inline]
    pub(super) fn new(state: MutexGuard<'a, TrackerState>, stats: &'a Stats) -> Self {
        Self {
            state,
            held_since: Instant::now(),
            #[cfg(feature = "bench")]
            work_began: None,
            stats,
        }
    }

    /// Notes that from here on this hold does more than to read the table. The
    /// benchmark wants to know the processor time of such holds; to read that
    /// clock takes as long as a few lookups.
    #[inline]
    pub(super) fn begin_work(&mut self) {
        #[cfg(feature = "bench")]
        self.work_began.get_or_insert_with(clock::thread_time);
    }
}

impl Deref for Guard<'_> {
    type Target = TrackerState;

    fn deref(&self) -> &TrackerState {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut TrackerState {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let held = self.held_since.elapsed();
        self.stats.longest_lock_hold.record(held);
        self.stats.lock_holds.record(held);
        #[cfg(feature = "bench")]
        if let Some(began) = self.work_began {
            self.stats.longest_lock_work.record(clock::thread_time().saturating_sub(began));
        }
        if std::thread::panicking() {
            // The table may be half-changed: nothing must be answered from it.
            log::error!("a thread panicked while it changed the table, aborting");
            std::process::abort();
        }
        if !self.state.pending_log.is_empty() {
            let lines = std::mem::take(&mut self.state.pending_log);
            MutexGuard::unlocked(&mut self.state, || {
                lines.iter().for_each(|(level, line)| log::log!(target: LOG_TARGET, *level, "{line}"));
            });
        }
    }
}
