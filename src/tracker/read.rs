//! The only way to the table for lookups: drain the event socket, then read.

use std::sync::atomic::Ordering;

use nfct::Error;

use super::guard::Guard;
use super::shared::Tracker;
use super::state::TrackerState;
use crate::clock::Stamp;
use crate::table::Table;

/// Attempts at the lock before blocking. Yielding to other connections is
/// cheaper than being woken.
pub(super) const LOCK_ATTEMPTS: u32 = 32;

/// The result of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was read from the table.
    pub value: T,
    /// Whether the table was known to equal the kernel's.
    pub complete: bool,
}

impl Tracker {
    /// Reads the table, with all events that the kernel has queued until now.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn read<T>(&self, read: impl FnOnce(&Table, Stamp) -> T) -> Result<Answer<T>, Error> {
        self.drain_then(|state, now| read(&state.table, now)).await
    }

    /// Drains the event socket, then calls `then` under the same hold of the lock.
    ///
    /// While no events come, each lookup sees for itself that the socket is empty. When
    /// events come, lookups that arrive together are served together: each yields to the
    /// others of its thread first, and the socket is drained only once, after the last of
    /// them has arrived. While another thread holds the lock, this thread serves its other
    /// connections.
    pub(super) async fn drain_then<T>(
        &self,
        then: impl FnOnce(&mut TrackerState, Stamp) -> T,
    ) -> Result<Answer<T>, Error> {
        let is_empty = self.is_quiet.load(Ordering::Relaxed) && self.is_socket_empty()?;
        let arrival = if is_empty { None } else { Some(self.join_others().await?) };
        let (mut message_limit, mut lock_attempts) = (None, 0);
        loop {
            lock_attempts += 1;
            if let Some(mut state) =
                if lock_attempts <= LOCK_ATTEMPTS { self.try_lock() } else { Some(self.lock()) }
            {
                if let Some(now) = self.drain_step(&mut state, arrival, &mut message_limit)? {
                    let value = then(&mut state, now);
                    return Ok(Answer { value, complete: state.complete });
                }
                lock_attempts = 0;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lets the other lookups that this thread has received reach this point, then checks the socket
    /// once for all of them. Returns the latest attempt before that.
    async fn join_others(&self) -> Result<u64, Error> {
        let arrival = self.attempts.load(Ordering::SeqCst);
        tokio::task::yield_now().await;
        if !self.is_drained_since(arrival) {
            self.poll_socket()?;
        }
        self.is_quiet.store(self.is_drained_since(arrival), Ordering::Relaxed);
        Ok(arrival)
    }

    /// Receives some of the queued events; returns this moment if the table is up to
    /// date for a lookup that arrived after the attempt `arrival`, or that has found the socket empty
    /// itself: `None`.
    ///
    /// A flood of new events cannot delay a lookup forever. The table is up to date
    /// for it once the socket was found empty after its arrival, or once all messages
    /// that were queued at the first step have been received: `message_limit`.
    fn drain_step(
        &self,
        state: &mut Guard<'_>,
        arrival: Option<u64>,
        message_limit: &mut Option<u64>,
    ) -> Result<Option<Stamp>, Error> {
        let is_drained = || arrival.is_none_or(|arrival| self.is_drained_since(arrival));
        if is_drained() {
            let now = self.clock.now();
            self.expire(state, now, true);
            return Ok(Some(now));
        }
        state.begin_work();
        self.pump(state)?;
        let is_done = is_drained() || state.has_received_queued(message_limit)?;
        Ok(is_done.then(|| self.clock.now()))
    }
}
