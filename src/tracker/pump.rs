//! Draining the event socket into the table.

use std::convert::Infallible;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, EventKind, Received, Waiter};

use super::memory::Memory;
use super::shared::Tracker;
use super::state::TrackerState;
use super::verifier::Work;
use crate::clock::Stamp;
use crate::config::NetlinkConfig;

/// System calls that receive events under one hold of the lock; each receives up to
/// 64.
const RECEIVES_PER_HOLD: usize = 2;
/// How long the thread lets events collect before it reads them, so that it reads
/// many per wake-up. A lookup reads the queued events at once, so this delays no
/// lookup.
const COLLECT_TIME: Duration = Duration::from_millis(1);
/// The thread polls an idle socket this often, to prove that it runs.
const MAX_REST: Duration = Duration::from_secs(1);
/// Closed mappings removed under one hold of the lock.
const EXPIRIES_PER_HOLD: usize = 128;

/// The pause after an error that may pass.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Without events, the kernel's setting is read once in this number of checks.
const IDLE_CHECKS: u32 = 5;

/// What the regular checks remember.
#[derive(Debug, Default)]
struct Checks {
    /// The messages received until the last check.
    messages: u64,
    /// The checks since a message was received.
    idle: u32,
    memory: Memory,
}

impl Tracker {
    /// Receives some of the queued events, and removes expired mappings. Returns
    /// whether nothing is left to do.
    pub(super) fn pump(&self, state: &mut TrackerState) -> Result<bool, Error> {
        let mut is_empty = false;
        for _ in 0..RECEIVES_PER_HOLD {
            let before = state.recording.is_some().then(|| self.clock.now());
            let TrackerState { events, table, settings, batch, .. } = state;
            let (mut began, mut ended) = (0, 0);
            let attempt = self.begin_attempt();
            let received = events.receive(|event| {
                match event.kind {
                    EventKind::New => began += 1,
                    EventKind::Destroy => ended += 1,
                    EventKind::Update => {}
                }
                if settings.filter.matches_flow(&event.flow) {
                    batch.push(event);
                }
            });
            if let (Some(recording), Some(before)) = (&state.recording, before) {
                table.set_waited_since(recording.waited_since(before));
            }
            // Read after the events were received, so that none gets a time before it happened.
            let created = batch.apply(table, || self.clock.now());
            let received = received?;
            self.stats.created_by_event.add(created);
            self.stats.events_new.add(began);
            self.stats.events_destroy.add(ended);
            if state.reporting.is_unheard && began + ended > 0 {
                self.change_reporting(state, |reporting| reporting.is_unheard = false);
            }
            if let (Some(recording), Some(before)) = (&mut state.recording, before) {
                recording.note_received(&received, before);
            }
            match received {
                Received::Some { messages, malformed } => {
                    state.messages += messages as u64;
                    self.stats.malformed.add(malformed);
                }
                Received::Nothing => {
                    self.note_empty(attempt);
                    is_empty = true;
                    break;
                }
                Received::Overrun => self.note_overrun(state),
                // From here on nothing is missing.
                Received::Recovered { lost } => {
                    state.table.record_loss(lost.into());
                    state.know_closed_from(self.clock.now(), true);
                }
                // More may wait already: only an empty read shows that the socket is drained.
                _ => {}
            }
        }
        let is_expired = self.expire(state, self.clock.now(), is_empty);
        self.notify_changes(state);
        if state.table.has_requested() {
            self.verifier.push_requested();
        }
        Ok(is_empty && is_expired)
    }

    /// Whether the socket is empty. This needs no lock, costs less than receiving, and tells other
    /// threads nothing.
    pub(super) fn is_socket_empty(&self) -> Result<bool, Error> {
        Ok(!self.socket.wait(Some(Duration::ZERO))?)
    }

    /// Checks whether the socket is empty, and tells other threads.
    pub(super) fn poll_socket(&self) -> Result<(), Error> {
        let attempt = self.begin_attempt();
        if self.is_socket_empty()? {
            self.note_empty(attempt);
        }
        Ok(())
    }

    fn begin_attempt(&self) -> u64 {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        // The system call that follows is not an atomic operation. The fence keeps it
        // after the count.
        fence(Ordering::SeqCst);
        attempt
    }

    /// Notes that this attempt found the socket empty.
    fn note_empty(&self, attempt: u64) {
        self.last_empty_attempt.fetch_max(attempt, Ordering::SeqCst);
    }

    /// Removes some expired mappings and, if the socket is drained, closed ones that are too many.
    /// Returns whether none is left.
    pub(super) fn expire(&self, state: &mut TrackerState, now: Stamp, is_drained: bool) -> bool {
        let deleted = state.table.expire(now, EXPIRIES_PER_HOLD);
        self.stats.removed_after_del_delay.add(deleted);
        let surplus = if is_drained { state.table.forget_surplus(now, EXPIRIES_PER_HOLD) } else { 0 };
        self.note_dropped(state);
        deleted < EXPIRIES_PER_HOLD && surplus < EXPIRIES_PER_HOLD
    }

    /// Notes that events were lost, and enlarges the receive buffer for the next
    /// burst.
    fn note_overrun(&self, state: &mut TrackerState) {
        self.stats.overruns.increment();
        if let Some(recording) = &mut state.recording {
            recording.note_overrun();
        }
        if state.overrun_at.is_none() {
            state.log(Level::Warn, "conntrack events lost (receive buffer full), resyncing");
            state.overrun_at = Some(Instant::now());
        }
        let NetlinkConfig { receive_buffer_max, .. } = state.settings.netlink;
        // The kernel doubles the size that it is given.
        let wanted = state.receive_buffer.min(receive_buffer_max.0);
        if wanted > state.receive_buffer / 2 {
            match state.events.set_receive_buffer(wanted) {
                Ok(bytes) => {
                    state.log(Level::Debug, format!("receive buffer enlarged to {} KiB", bytes >> 10));
                    state.receive_buffer = bytes;
                }
                Err(error) => state.log(Level::Warn, error.to_string()),
            }
        }
        self.invalidate(state);
    }

    /// Drains the socket while no lookup does; never returns except for an error.
    pub(super) fn pump_forever(&self, waiter: &Waiter) -> Result<Infallible, Error> {
        let (mut next_check, mut checks) = (Instant::now(), Checks::default());
        loop {
            let next_expiry = self.pump_until(|state, is_done| {
                self.rounds.fetch_add(1, Ordering::Relaxed);
                Ok(is_done.then(|| state.table.next_expiry(self.clock.now())))
            })?;
            if Instant::now() >= next_check {
                next_check = Instant::now() + MAX_REST;
                self.check_regularly(&mut checks);
            }
            let rest_ends = Instant::now() + next_expiry.map_or(MAX_REST, |expiry| expiry.min(MAX_REST));
            loop {
                let rest = rest_ends.saturating_duration_since(Instant::now());
                if let Err(error) = waiter.wait(Some(rest)) {
                    pause_after(error)?;
                }
                let attempts = self.attempts.load(Ordering::SeqCst);
                std::thread::sleep(COLLECT_TIME);
                // Lookups may have drained the socket meanwhile.
                if Instant::now() >= rest_ends || !self.is_drained_since(attempts) {
                    break;
                }
                self.rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What is done about once a second.
    fn check_regularly(&self, checks: &mut Checks) {
        let mut state = self.lock();
        let received = state.messages;
        let is_busy = std::mem::replace(&mut checks.messages, received) != received;
        checks.idle = if is_busy { 0 } else { checks.idle + 1 };
        if state.table.unreported() > 0 {
            self.verifier.push(Work::Patrol);
        }
        // A DESTROY event may be a little later than the query that shows the end.
        if state.missing_ends > 0 && state.table.missing_ends() > 0 {
            let missing = state.table.take_missing_ends();
            self.stats.missing_destroy_events.add(missing);
            self.note_missing_events(&mut state, "a connection ended");
        }
        state.missing_ends = state.table.missing_ends();
        self.check_room(&mut state);
        drop(state);
        checks.memory.check();
        if is_busy && !self.clashes.check(self.clock.now()) {
            self.verifier.push(Work::Clashes);
        }
        // Lookups check it too, so an idle gateway need not do so each second, unless a recorder wants to
        // know since when.
        if checks.idle % IDLE_CHECKS == 0 || self.has_recorder {
            self.check_for_recorder(|| self.check_events_setting());
        }
    }

    /// Receives queued events until `then` returns something, which it is asked under the hold
    /// of the lock that received the last of them. It learns whether nothing is left to do. Errors
    /// that may pass do not end this.
    fn pump_until<T>(
        &self,
        mut then: impl FnMut(&mut TrackerState, bool) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        loop {
            let failed = {
                let mut state = self.lock();
                match self.pump(&mut state).and_then(|is_done| then(&mut state, is_done)) {
                    Ok(Some(value)) => return Ok(value),
                    Ok(None) => None,
                    Err(error) => Some(error),
                }
            };
            match failed {
                Some(error) => pause_after(error)?,
                // During a flood, lookups must get the lock too.
                None => std::thread::yield_now(),
            }
        }
    }

    /// Applies the events that are queued now, then calls `then` under the same hold of the
    /// lock. A flood of new events cannot delay this.
    pub(super) fn catch_up<T>(&self, then: impl FnOnce(&mut TrackerState) -> T) -> Result<T, Error> {
        let (mut limit, mut then) = (None, Some(then));
        self.pump_until(|state, is_done| {
            let is_done = is_done || state.has_received_queued(&mut limit)?;
            Ok(then.take_if(|_| is_done).map(|then| then(state)))
        })
    }

    /// Drains the socket, then calls `then` under the same hold of the lock. For
    /// `resync`; lookups use [`drain_then`](Self::drain_then).
    pub(super) fn drain_blocking<T>(&self, then: impl FnOnce(&mut TrackerState) -> T) -> Result<T, Error> {
        let mut then = Some(then);
        self.pump_until(|state, is_done| {
            // During a flood this takes long.
            self.pulses.resync.beat();
            Ok(then.take_if(|_| is_done).map(|then| then(state)))
        })
    }
}

/// Waits a moment after an error that may pass, such as a lack of memory.
///
/// # Errors
/// The same error, if it stays.
pub(super) fn pause_after(error: Error) -> Result<(), Error> {
    if !error.is_transient() {
        return Err(error);
    }
    log::warn!("{error}; trying again");
    std::thread::sleep(RETRY_PAUSE);
    Ok(())
}
