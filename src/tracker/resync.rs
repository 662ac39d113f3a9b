//! Resyncing the table with the kernel's: at the start, after an overrun, and from
//! time to time, because a connection may end without a DESTROY event (the kernel
//! sends one only for connections that began while somebody subscribed).
//!
//! The order of the steps makes the result exact. First the socket is drained,
//! because after an overrun the kernel drops all events until then. Then the dump
//! runs while events continue to arrive. A mapping that opens during the dump stays
//! open although the dump lacks it, and a mapping that closes during the dump stays
//! closed although the dump has it. If the socket overruns again during the dump, the
//! dump proves nothing and is repeated.
//!
//! A dump of a million entries takes seconds. If an overrun makes it useless, it
//! continues while the burst of events lasts, because it still finds connections.
//! Once the burst is over, it is cut short, and the next dump completes the table.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, Query};

use super::dump::DumpSummary;
use super::settings::Settings;
use super::shared::Tracker;
use super::state::TrackerState;
use crate::proc;

/// The shortest time between an invalid dump and the next one. While events are
/// still lost, it is at least as long as the dump took.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// A burst is over when no events were lost for this long.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// The maximum number of dumps in a row that are cut short. The next one is always
/// read to its end, because it still finds connections.
const MAX_CUT_SHORT: u32 = 3;
/// The time between two dumps while the kernel does not report connections.
const DUMP_INTERVAL_WITHOUT_EVENTS: Duration = Duration::from_secs(5);

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
        let mut is_first = true;
        let mut cut_short = 0;
        loop {
            let begun = Instant::now();
            // Connections that began before the daemon subscribed, or while the
            // kernel did not report them, end without a DESTROY event.
            let events_off = proc::conntrack_events() == Some(0);
            let may_end_silently = is_first || events_off;
            let outcome = self.resync(&mut query, may_end_silently, cut_short < MAX_CUT_SHORT)?;
            let is_complete = outcome == DumpOutcome::Complete;
            cut_short = if outcome == DumpOutcome::CutShort { cut_short + 1 } else { 0 };
            is_first &= !is_complete;
            let ended = Instant::now();
            let Settings { garbage_cleaner_interval, sweep_interval, .. } = self.lock().settings;
            if is_complete && ended >= cleaned + garbage_cleaner_interval {
                self.remove_old_mappings();
                cleaned = ended;
            }
            let sweep_interval =
                if events_off { DUMP_INTERVAL_WITHOUT_EVENTS.min(sweep_interval) } else { sweep_interval };
            let next = (cleaned + garbage_cleaner_interval).min(ended + sweep_interval);
            if !is_complete || self.dump_request.wait_until(next) {
                self.pause(ended, ended - begun);
            }
        }
    }

    /// Waits, after a dump that ended at `ended`, until the next one may begin.
    fn pause(&self, ended: Instant, took: Duration) {
        let latest = ended + MIN_PAUSE.max(took);
        loop {
            let quiet = self.lock().invalidated_at + QUIET_TIME;
            let left = latest.min(quiet.max(ended + MIN_PAUSE)).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left);
        }
    }

    /// Makes the table equal to the kernel's, unless events are lost at the same
    /// time.
    fn resync(
        &self,
        query: &mut Query,
        may_end_silently: bool,
        may_cut_short: bool,
    ) -> Result<DumpOutcome, Error> {
        let begun = Instant::now();
        let buckets = proc::conntrack_buckets();
        let (invalidations, filter, was_empty) = self.drain_blocking(|state| {
            self.dump_request.clear();
            state.table.begin_dump(may_end_silently);
            (state.invalidations, state.settings.filter.clone(), state.table.live() == 0)
        })?;
        let is_useless = |state: &TrackerState| {
            may_cut_short
                && state.invalidations != invalidations
                && state.invalidated_at.elapsed() >= QUIET_TIME
        };
        let dump = self.merge_dump(query, &filter, is_useless);
        // While the kernel resizes its table, a dump may lack entries.
        let is_resized = proc::conntrack_buckets() != buckets;
        let is_complete = matches!(dump, Ok(DumpSummary { interrupted: false, cut_short: false, .. }))
            && !is_resized
            && self.drain_blocking(|state| state.invalidations)? == invalidations;
        // An entry that cannot be parsed may be that of any mapping, so no mapping is
        // closed then.
        let is_parsed = matches!(dump, Ok(DumpSummary { malformed: 0, .. }));
        let closed = if is_complete && is_parsed && !was_empty {
            self.in_slices(|state, cursor, now| state.table.close_unseen(cursor, now))
        } else {
            0
        };
        // Declared before the lock is taken, so that it is dropped after the release.
        let _ended_lifetimes;
        let mut state = self.lock();
        _ended_lifetimes = state.table.end_dump();
        let DumpSummary { entries, malformed, cut_short, .. } = dump?;
        self.stats.resync_time.record(begun.elapsed());
        self.stats.closed_by_dump.add(closed);
        self.stats.malformed.add(malformed);
        self.notify_changes(&state);
        if malformed > 0 {
            state.log(Level::Warn, format!("{malformed} entries of the kernel's table cannot be parsed"));
        }
        if !is_complete || state.invalidations != invalidations {
            self.stats.incomplete_dumps.increment();
            return Ok(if cut_short { DumpOutcome::CutShort } else { DumpOutcome::Invalid });
        }
        self.loaded.store(true, Ordering::Relaxed);
        self.stats.complete_dumps.increment();
        let was_complete = state.complete;
        if proc::conntrack_events() == Some(0) {
            // The kernel does not report what begins from now on.
            state.complete = false;
            self.complete.send_replace(false);
        } else if !state.complete {
            state.complete = true;
            self.complete.send_replace(true);
        }
        let summary = format!(
            "{} mappings from {entries} kernel entries, read in {} ms",
            state.table.live(),
            begun.elapsed().as_millis()
        );
        self.log_complete(&mut state, &summary, was_complete, closed);
        Ok(DumpOutcome::Complete)
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
        let removed = self.in_slices(|state, cursor, now| state.table.remove_old(cursor, life_span, now));
        self.stats.removed_after_life_span.add(removed);
    }
}
