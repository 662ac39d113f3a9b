//! Holds the tracker's lock and measures for how long. If a thread panics while it
//! holds the lock, the process ends.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use parking_lot::MutexGuard;

use super::state::TrackerState;
#[cfg(feature = "bench")]
use crate::clock;
use crate::held;
use crate::stats::Stats;

/// The target of log lines that were held back until the lock was released.
const LOG_TARGET: &str = "pynatconnd::tracker";

/// A hold of the lock.
pub(super) struct Guard<'a> {
    state: MutexGuard<'a, TrackerState>,
    held_since: Instant,
    /// The thread's processor time when it began to do more than read the table.
    #[cfg(feature = "bench")]
    work_began: Option<std::time::Duration>,
    stats: &'a Stats,
}

impl<'a> Guard<'a> {
    #[inline]
    pub(super) fn new(state: MutexGuard<'a, TrackerState>, stats: &'a Stats) -> Self {
        held::note(true);
        Self {
            state,
            held_since: Instant::now(),
            #[cfg(feature = "bench")]
            work_began: None,
            stats,
        }
    }

    /// Notes that this hold does more than read the table from now on. Only such
    /// holds have their processor time measured, because reading that clock takes as
    /// long as a few lookups.
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
        held::note(false);
        let held = self.held_since.elapsed();
        self.stats.longest_lock_hold.record(held);
        self.stats.lock_holds.here().record(held);
        #[cfg(feature = "bench")]
        if let Some(began) = self.work_began {
            self.stats.longest_lock_work.record(clock::thread_time().saturating_sub(began));
        }
        if std::thread::panicking() {
            // The table may be half changed, so the daemon must not answer from it.
            log::error!("a thread panicked while it held the table's lock, aborting");
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
