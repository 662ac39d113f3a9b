//! Draining the event socket into the table.

use std::convert::Infallible;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, EventKind, Received, Waiter};

use super::{State, Tracker};
use crate::config::Netlink;
use crate::mapping::Learnt;
use crate::table::End;

/// System calls under one hold of the lock: at most a hundred events or so.
const RECEIVES: usize = 2;
/// How long events gather before they are read while nobody asks: a question
/// reads at once what is there, so this delays no answer, and many events are
/// read for one waking.
const GATHERED_FOR: Duration = Duration::from_millis(1);
/// Where nothing happens the socket is looked at this often all the same: that
/// shows that the thread lives.
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Closed mappings removed under one hold of the lock.
const EXPIRIES: usize = 128;

impl Tracker {
    /// Takes in some of what waits, and removes mappings whose time is over.
    /// Returns whether nothing is left to do.
    pub(super) fn pump(&self, state: &mut State) -> Result<bool, Error> {
        let mut empty = false;
        for _ in 0..RECEIVES {
            let State { events, table, settings, .. } = state;
            let (mut created, mut began, mut ended) = (0, 0, 0);
            // Read after the events were: none is stamped with a time before its own.
            let mut received_at = None;
            let attempt = self.begin_attempt();
            let received = events.receive(|event| {
                match event.kind {
                    EventKind::New => began += 1,
                    EventKind::Destroy => ended += 1,
                    EventKind::Update => {}
                }
                if !settings.filter.matches(&event.flow) {
                    return;
                }
                let now = *received_at.get_or_insert_with(|| self.clock.now());
                match event.kind {
                    EventKind::New => created += usize::from(table.open(&event.flow, Learnt::Event, now)),
                    EventKind::Destroy => {
                        created += usize::from(table.close(&event.flow, now) == End::OfUnknown);
                    }
                    EventKind::Update => {}
                }
            })?;
            self.stats.created_by_event.add(created);
            self.stats.events_new.add(began);
            self.stats.events_destroy.add(ended);
            match received {
                Received::Some { messages, malformed } => {
                    state.messages += messages as u64;
                    self.stats.malformed.add(malformed);
                }
                Received::Nothing => {
                    self.note_empty(attempt);
                    empty = true;
                    break;
                }
                Received::Overrun => self.note_overrun(state),
                // More may wait already: only an empty read shows that the socket is drained.
                _ => {}
            }
        }
        let expired = self.expire(state);
        self.note_changes(state);
        Ok(empty && expired)
    }

    /// Looks whether anything waits, which costs less than to receive, and needs
    /// no lock.
    pub(super) fn look(&self) -> Result<(), Error> {
        let attempt = self.begin_attempt();
        if !self.socket.wait(Some(Duration::ZERO))? {
            self.note_empty(attempt);
        }
        Ok(())
    }

    fn begin_attempt(&self) -> u64 {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        // What the kernel does next is no atomic operation, and must not come first.
        fence(Ordering::SeqCst);
        attempt
    }

    /// The socket was seen empty by the attempt of this number.
    fn note_empty(&self, attempt: u64) {
        self.drained.fetch_max(attempt, Ordering::SeqCst);
    }

    /// Removes mappings whose time is over. Returns whether none is left.
    pub(super) fn expire(&self, state: &mut State) -> bool {
        let deleted = state.table.expire(self.clock.now(), EXPIRIES);
        self.stats.deleted.add(deleted);
        deleted < EXPIRIES
    }

    /// Events were lost. The next burst gets more room.
    fn note_overrun(&self, state: &mut State) {
        self.stats.overruns.increment();
        if state.lost.is_none() {
            state.log(
                Level::Warn,
                "the kernel dropped events because it was not read fast enough: reading its table anew",
            );
            state.lost = Some(Instant::now());
        }
        let Netlink { receive_buffer_max, .. } = state.settings.netlink;
        // The kernel doubles what it is given.
        let wanted = state.receive_buffer.min(receive_buffer_max.0);
        if wanted > state.receive_buffer / 2 {
            match state.events.set_receive_buffer(wanted) {
                Ok(bytes) => {
                    state.log(Level::Debug, format!("the receive buffer is {} KiB now", bytes >> 10));
                    state.receive_buffer = bytes;
                }
                Err(error) => state.log(Level::Warn, error.to_string()),
            }
        }
        self.disturb(state);
    }

    /// Drains the socket while nobody asks.
    pub(super) fn pump_forever(&self, waiter: &Waiter) -> Result<Infallible, Error> {
        loop {
            let next_expiry = self.pump_all()?;
            let rest_ends =
                Instant::now() + next_expiry.map_or(LONGEST_REST, |expiry| expiry.min(LONGEST_REST));
            loop {
                waiter.wait(Some(rest_ends.saturating_duration_since(Instant::now())))?;
                let attempts = self.attempts.load(Ordering::SeqCst);
                std::thread::sleep(GATHERED_FOR);
                // Questions may have drained it meanwhile.
                if Instant::now() >= rest_ends || !self.is_drained(attempts) {
                    break;
                }
                self.rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Reads the socket empty, and returns how long until a mapping's time is over.
    fn pump_all(&self) -> Result<Option<Duration>, Error> {
        loop {
            {
                let mut state = self.lock();
                let done = self.pump(&mut state)?;
                self.rounds.fetch_add(1, Ordering::Relaxed);
                if done {
                    return Ok(state.table.next_expiry(self.clock.now()));
                }
            }
            // Under a flood, questions get their turn.
            std::thread::yield_now();
        }
    }
}
