//! Resyncing the table with the kernel's: at the start, after an overrun, and from
//! time to time, because a connection may end without a DESTROY event (the kernel
//! sends one only for connections that began while somebody subscribed).
//!
//! The order of the steps makes the result exact. First the socket is drained,
//! because after an overrun the kernel drops all events until then. Then the dump
//! runs while events continue to arrive. A mapping that opens during the dump stays
//! open although the dump lacks it, and a mapping that closes during the dump stays
//! closed although the dump has it. If the socket overruns again during the dump, the
//! dump proves nothing and is repeated. So is a dump that fails because the system lacks memory.
//!
//! A dump of a million entries takes seconds. If an overrun makes it useless, it
//! continues while the burst of events lasts, because it still finds connections.
//! Once the burst is over, it is cut short, and the next dump completes the table.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, Events, Groups, Query, Tuple};

use super::dump::DumpSummary;
use super::pulse::MAX_REST;
use super::settings::Settings;
use super::shared::Tracker;
use super::state::TrackerState;
use crate::proc;
use crate::table::{Asked, Cursor, MAX_CLOSING_TIMEOUT};

/// The shortest time between an invalid dump and the next one. While events are
/// still lost, it is at least as long as the dump took.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest time between a dump that failed and the next one.
const MAX_FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// A burst is over when no events were lost for this long.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// The maximum number of dumps in a row that are cut short. The next one is always
/// read to its end, because it still finds connections.
const MAX_CUT_SHORT: u32 = 3;
/// The least time between two dumps while the kernel does not report every connection.
const MIN_UNREPORTED_INTERVAL: Duration = Duration::from_secs(5);
/// That time is at least this many times as long as a dump takes.
const MAX_SHARE: u32 = 20;
/// Mappings that are verified together.
const VERIFIED_TOGETHER: usize = 128;
/// The NEW event of an entry that a dump has is queued by this time later.
const EVENT_DELAY: Duration = Duration::from_millis(100);

/// The result of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DumpOutcome {
    /// The table equals the kernel's.
    Complete,
    /// Events were lost during the dump, or the filter changed.
    Invalid,
    /// Like `Invalid`, and the rest of the dump was not read.
    CutShort,
}

impl Tracker {
    /// Reads the kernel's table whenever there is a reason to; never returns except
    /// for an error.
    pub(super) fn resync_forever(&self, mut query: Query) -> Result<Infallible, Error> {
        let mut cleaned = Instant::now();
        let (mut cut_short, mut failures) = (0, 0);
        loop {
            let begun = Instant::now();
            let outcome = match self.resync(&mut query, cut_short < MAX_CUT_SHORT) {
                Ok(outcome) => outcome,
                Err(error) if error.is_transient() => {
                    self.stats.incomplete_dumps.increment();
                    self.pause_after_failure(&error, failures);
                    failures += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            failures = 0;
            let is_complete = outcome == DumpOutcome::Complete;
            cut_short = if outcome == DumpOutcome::CutShort { cut_short + 1 } else { 0 };
            let ended = Instant::now();
            let took = ended - begun;
            let (settings, reports_all) = {
                let state = self.lock();
                (state.settings.clone(), state.reporting.is_complete())
            };
            let Settings { garbage_cleaner_interval, sweep_interval, .. } = settings;
            if is_complete && ended >= cleaned + garbage_cleaner_interval {
                self.remove_old_mappings();
                cleaned = ended;
            }
            let sweep_interval = next_interval(reports_all, took, sweep_interval);
            let next = (cleaned + garbage_cleaner_interval).min(ended + sweep_interval);
            if !is_complete || self.wait_for_request(next) {
                self.pause(ended, took);
            }
        }
    }

    /// Waits until a dump is requested (true) or until `deadline` (false).
    fn wait_for_request(&self, deadline: Instant) -> bool {
        loop {
            self.pulses.resync.beat();
            let rest_ends = deadline.min(Instant::now() + MAX_REST);
            if self.dump_request.wait_until(rest_ends) {
                return true;
            }
            if rest_ends >= deadline {
                return false;
            }
        }
    }

    /// Waits after a dump that failed, and after so many others in a row.
    fn pause_after_failure(&self, error: &Error, failures: u32) {
        let pause = MIN_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_FAILURE_PAUSE);
        log::warn!("{error}; reading the kernel's table again in {} ms", pause.as_millis());
        let next = Instant::now() + pause;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            self.pulses.resync.beat();
            thread::sleep(left.min(MAX_REST));
        }
    }

    /// Waits, after a dump that ended at `ended`, until the next one may begin.
    fn pause(&self, ended: Instant, took: Duration) {
        let latest = ended + MIN_PAUSE.max(took);
        loop {
            self.pulses.resync.beat();
            let quiet = self.lock().invalidated_at + QUIET_TIME;
            let left = latest.min(quiet.max(ended + MIN_PAUSE)).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(MAX_REST));
        }
    }

    /// Makes the table equal to the kernel's, unless events are lost at the same
    /// time.
    fn resync(&self, query: &mut Query, may_cut_short: bool) -> Result<DumpOutcome, Error> {
        let (begun, begun_at) = (Instant::now(), self.clock.now());
        subscribe_again();
        // The files are read without the lock.
        let closing_timeout = closing_timeout();
        let (invalidations, filter, expects_events, distrust) = self.drain_blocking(|state| {
            self.dump_request.clear();
            state.table.begin_dump();
            state.table.set_closing_timeout(closing_timeout);
            let distrust = std::mem::take(&mut state.distrust);
            let expects_events = state.synced && state.reporting.expects_events();
            (state.invalidations, state.settings.filter.clone(), expects_events, distrust)
        })?;
        if distrust {
            self.distrust_all();
        }
        let is_useless = |state: &TrackerState| {
            may_cut_short
                && state.invalidations != invalidations
                && state.invalidated_at.elapsed() >= QUIET_TIME
        };
        let dump = self.merge_dump(query, &filter, invalidations, is_useless);
        let verified = match &dump {
            Ok(DumpSummary { interrupted: false, cut_short: false, .. }) => {
                self.verify_dumped(query, invalidations)
            }
            _ => Ok(None),
        };
        // Declared before the lock is taken, so that it is dropped after the release.
        let _ended_lifetimes;
        let mut state = self.lock();
        _ended_lifetimes = state.table.end_dump();
        drop(state);
        let DumpSummary { entries, malformed, cut_short, unknown, .. } = dump?;
        let verified = verified?;
        let (is_valid, closed) = (verified.is_some(), verified.unwrap_or(0));
        let unreported = if is_valid && expects_events { self.count_unreported(&unknown)? } else { 0 };
        state = self.lock();
        self.stats.resync_time.record(begun.elapsed());
        self.stats.closed_by_dump.add(closed);
        self.stats.malformed.add(malformed);
        if malformed > 0 && !state.reporting.has_unreadable {
            state.log(Level::Warn, format!("{malformed} entries of the kernel's table cannot be parsed"));
        }
        if !is_valid || state.invalidations != invalidations {
            self.stats.incomplete_dumps.increment();
            return Ok(if cut_short { DumpOutcome::CutShort } else { DumpOutcome::Invalid });
        }
        self.loaded.store(true, Ordering::Relaxed);
        self.stats.complete_dumps.increment();
        let was_complete = state.complete;
        state.synced = true;
        self.record_sync(&mut state, begun_at);
        self.change_reporting(&mut state, |reporting| reporting.has_unreadable = malformed > 0);
        if unreported > 0 {
            self.stats.missing_new_events.add(unreported);
            self.note_missing_events(&mut state, &format!("{unreported} connections began"));
        } else {
            self.note_no_missing_events(&mut state);
        }
        let summary = format!(
            "{} mappings from {entries} kernel entries, read in {} ms",
            state.table.live(),
            begun.elapsed().as_millis()
        );
        self.log_complete(&mut state, &summary, was_complete, closed);
        Ok(DumpOutcome::Complete)
    }

    /// Verifies what a dump lacked, unless events were lost during it. Returns how many mappings
    /// had ended; `None` if the dump proves nothing.
    fn verify_dumped(&self, query: &mut Query, invalidations: u64) -> Result<Option<usize>, Error> {
        if self.drain_blocking(|state| state.invalidations)? != invalidations {
            return Ok(None);
        }
        self.verify_unseen(query)
    }

    /// Verifies the live mappings that the dump lacked: while the kernel resizes its hash
    /// table, a dump may lack entries. Returns how many had ended; `None` if a query failed.
    fn verify_unseen(&self, query: &mut Query) -> Result<Option<usize>, Error> {
        let (mut cursor, mut ended) = (Some(Cursor::START), 0);
        while let Some(from) = cursor {
            let mut unseen = Vec::new();
            let asked = {
                let state = self.lock();
                cursor = state.table.unseen(from, |reply| unseen.push(reply));
                state.table.asked(self.clock.now())
            };
            for unseen in unseen.chunks(VERIFIED_TOGETHER) {
                self.pulses.resync.beat();
                match self.verify_now(query, unseen, asked)? {
                    Some(count) => ended += count,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(ended))
    }

    /// How many of these connections, which the dump had and the table lacked, no event has
    /// reported.
    fn count_unreported(&self, unknown: &[(Tuple, Asked)]) -> Result<usize, Error> {
        if unknown.is_empty() {
            return Ok(0);
        }
        thread::sleep(EVENT_DELAY);
        self.drain_blocking(|state| {
            unknown.iter().filter(|(reply, merged)| state.table.is_only_dumped(reply, *merged)).count()
        })
    }

    /// Marks all live mappings as such that may end without a DESTROY event.
    fn distrust_all(&self) {
        self.in_slices(|state, cursor, _| {
            self.pulses.resync.beat();
            (state.table.distrust(cursor), 0)
        });
    }

    /// Logs what a complete dump has changed, if it has changed anything.
    fn log_complete(&self, state: &mut TrackerState, summary: &str, was_complete: bool, closed: usize) {
        let line = if let Some(overrun_at) = state.overrun_at.take() {
            let lost_events = self.lost_events().unwrap_or(state.lost_events_logged);
            let logged = std::mem::replace(&mut state.lost_events_logged, lost_events);
            format!(
                "the table equals the kernel's again, {} ms after the overrun: {summary}; {} events lost, \
                 receive buffer {} KiB",
                overrun_at.elapsed().as_millis(),
                lost_events.wrapping_sub(logged),
                state.receive_buffer >> 10
            )
        } else if state.complete && !was_complete {
            format!("the table equals the kernel's: {summary}")
        } else if closed > 0 && state.complete {
            format!("closed {closed} mappings that had ended without a DESTROY event")
        } else {
            return;
        };
        state.log(Level::Info, line);
    }

    /// Removes old mappings that the kernel no longer has.
    fn remove_old_mappings(&self) {
        let life_span = self.lock().settings.life_span;
        let removed = self.in_slices(|state, cursor, now| {
            self.pulses.resync.beat();
            state.table.remove_old(cursor, life_span, now)
        });
        self.stats.removed_after_life_span.add(removed);
    }
}

/// The time between a dump that took this long and the next one.
fn next_interval(reports_all: bool, took: Duration, sweep_interval: Duration) -> Duration {
    if reports_all {
        sweep_interval
    } else {
        MIN_UNREPORTED_INTERVAL.max(took * MAX_SHARE).min(sweep_interval)
    }
}

/// Subscribes once more, for a moment. With `nf_conntrack_events` = 2 the kernel keeps one flag
/// that says whether anybody listens. A listener that ends while another one begins can clear
/// it (`nfnetlink_unbind` in `net/netfilter/nfnetlink.c`). This sets it again.
fn subscribe_again() {
    if let Err(error) = Events::subscribe(Groups::NEW | Groups::DESTROY) {
        log::debug!("{error}");
    }
}

/// The shortest timeout that a packet can give to a TCP connection.
fn closing_timeout() -> Duration {
    proc::shortest_tcp_timeout().map_or(MAX_CLOSING_TIMEOUT, |timeout| timeout.min(MAX_CLOSING_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreported_connections_are_searched_every_five_seconds_or_less_often_if_a_dump_takes_long() {
        let seconds = Duration::from_secs_f64;
        let next = |reports_all, took, interval| next_interval(reports_all, seconds(took), seconds(interval));
        assert_eq!(next(true, 0.1, 300.0), seconds(300.0));
        assert_eq!(next(false, 0.1, 300.0), seconds(5.0));
        assert_eq!(next(false, 2.0, 300.0), seconds(40.0));
        assert_eq!(next(false, 60.0, 300.0), seconds(300.0), "never less often than otherwise");
        assert_eq!(next(false, 0.1, 1.5), seconds(1.5), "nor more seldom than configured");
    }
}
