//! Verifies doubtful mappings: the thread's side of [`Verifier`](super::verifier::Verifier).

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use nfct::{Error, Flow, Found, Query, Tuple};

use super::pulse::MAX_REST;
use super::pump::RETRY_PAUSE;
use super::shared::Tracker;
use super::state::TrackerState;
use super::verifier::{MAX_TOGETHER, Work};
use crate::table::{Asked, Cursor, Verified};

/// Mappings that may end without a DESTROY event, and that a patrol verifies at most: half a
/// millisecond of processor time.
const PATROLLED: usize = 128;
/// Slices of the table that a patrol searches for such mappings at most.
const PATROLLED_SLICES: usize = 64;
/// How often queries are made that fail because the system lacks memory.
const QUERY_ATTEMPTS: u32 = 3;

impl Tracker {
    /// Does the work of the thread that queries the kernel; never returns except for an
    /// error.
    pub(super) fn verify_forever(
        &self,
        mut query: Query,
        work: &Receiver<Work>,
    ) -> Result<Infallible, Error> {
        let mut patrol = Cursor::START;
        loop {
            self.pulses.verify.beat();
            match work.recv_timeout(MAX_REST) {
                Ok(Work::Queries(batch, sender)) => {
                    let tuples = batch.take_tuples();
                    // Lookups that have waited too long are gone.
                    if !sender.is_closed() {
                        let _ = sender.send(self.query_kernel(&mut query, &tuples));
                    }
                }
                Ok(Work::Job(job)) => job(&mut query),
                Ok(Work::Requested) => self.verify_requested(&mut query)?,
                Ok(Work::Patrol) => patrol = self.patrol(&mut query, patrol)?,
                Ok(Work::Clashes) => {
                    if let Ok(count) = query.clashes() {
                        self.clashes.note(count, self.clock.now());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new("receiving work", io::Error::other("the tracker is gone")));
                }
            }
        }
    }

    /// The kernel's entries with these tuples; `None` if the queries failed.
    fn query_kernel(&self, query: &mut Query, tuples: &[Tuple]) -> Option<Vec<Found>> {
        let mut attempts = 1;
        loop {
            self.stats.kernel_queries.add(tuples.len());
            match query.find_each(tuples) {
                Ok(found) => return Some(found),
                Err(error) if error.is_transient() && attempts < QUERY_ATTEMPTS => {
                    log::debug!("{error}; trying again");
                    std::thread::sleep(RETRY_PAUSE);
                    attempts += 1;
                }
                Err(error) => {
                    log::debug!("{error}");
                    return None;
                }
            }
        }
    }

    /// Verifies mappings for which the table requests it.
    fn verify_requested(&self, query: &mut Query) -> Result<(), Error> {
        self.verifier.begin_requested();
        let (tuples, asked, has_more) = {
            let mut state = self.lock();
            let tuples = state.table.take_requested(MAX_TOGETHER);
            (tuples, state.table.asked(self.clock.now()), state.table.has_requested())
        };
        if self.verify_now(query, &tuples, asked)?.is_none() {
            // The next events have them verified.
            self.lock().table.request_again(&tuples);
        } else if has_more {
            self.verifier.push_requested();
        }
        Ok(())
    }

    /// Verifies some of the mappings that may end without a DESTROY event, from a position
    /// on. Returns where to continue.
    fn patrol(&self, query: &mut Query, from: Cursor) -> Result<Cursor, Error> {
        let (mut cursor, mut tuples) = (from, Vec::new());
        let asked = self.lock().table.asked(self.clock.now());
        for _ in 0..PATROLLED_SLICES {
            let state = self.lock();
            let left = PATROLLED - tuples.len();
            let next = state.table.unreported_in(cursor, left, |reply| tuples.push(reply));
            cursor = next.unwrap_or(Cursor::START);
            if next.is_none() || tuples.len() >= PATROLLED {
                break;
            }
        }
        for tuples in tuples.chunks(MAX_TOGETHER) {
            self.verify_now(query, tuples, asked)?;
        }
        Ok(cursor)
    }

    /// Queries the kernel for reply tuples, and applies its replies. `asked` is
    /// [`asked`](crate::table::Table::asked) when the tuples were read. Returns how many mappings
    /// had ended; `None` if the queries failed.
    pub(super) fn verify_now(
        &self,
        query: &mut Query,
        tuples: &[Tuple],
        asked: Asked,
    ) -> Result<Option<usize>, Error> {
        if tuples.is_empty() {
            return Ok(Some(0));
        }
        let Some(found) = self.query_kernel(query, tuples) else { return Ok(None) };
        // The DESTROY event of a connection that the kernel no longer has tells when it ended.
        self.catch_up(|state| self.apply(state, tuples, &found, asked)).map(Some)
    }

    /// Applies the kernel's replies to queries for these tuples. Returns how many mappings
    /// had ended.
    pub(super) fn apply(
        &self,
        state: &mut TrackerState,
        tuples: &[Tuple],
        found: &[Found],
        asked: Asked,
    ) -> usize {
        let now = self.clock.now();
        let mut ended = 0;
        for (tuple, found) in tuples.iter().zip(found) {
            let flow = match found {
                Found::Flow(_, flow) => living(flow).filter(|flow| state.settings.filter.matches_flow(flow)),
                Found::Nothing => None,
                // What it is cannot be known.
                _ => continue,
            };
            // A connection begun outside has this tuple in its original direction.
            let reply = flow.map_or(*tuple, |flow| flow.reply);
            // The kernel has a tuple once: then no connection has it in its reply direction.
            if reply != *tuple && state.table.verified(tuple, None, asked, now) == Verified::Ended {
                ended += 1;
            }
            match state.table.verified(&reply, flow, asked, now) {
                Verified::Ended => ended += 1,
                Verified::Added => self.stats.created_by_query.increment(),
                Verified::Live | Verified::Nothing => {}
            }
        }
        self.note_dropped(state);
        self.notify_changes(state);
        ended
    }
}

/// An entry, unless the kernel is removing it.
pub(super) fn living(flow: &Flow) -> Option<&Flow> {
    Some(flow).filter(|flow| !flow.status.is_dying())
}
