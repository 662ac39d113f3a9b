//! Whether the table is complete. It is not while the kernel does not report every connection;
//! then every live mapping is doubtful.

use std::sync::atomic::Ordering;
use std::time::Duration;

use log::Level;
use nfct::Error;

use super::reporting::{Incomplete, Reporting};
use super::shared::Tracker;
use super::state::TrackerState;
use crate::table::{Dropped, Limits};

/// How often a lookup checks whether changed rules and addresses have been read, before its answer is not
/// complete. Usually reading them takes less than a millisecond.
const RULE_CHECKS: u32 = 20;
const RULE_CHECK_INTERVAL: Duration = Duration::from_millis(1);

impl Tracker {
    /// Changes what is known about the kernel's reports, and with it whether the table is
    /// complete.
    pub(super) fn change_reporting(&self, state: &mut TrackerState, change: impl FnOnce(&mut Reporting)) {
        let was_complete = state.reporting.is_complete();
        let (trusted, had_gap) = (state.reporting.are_events_complete(), state.reporting.has_gap());
        change(&mut state.reporting);
        let (trusts, has_gap) = (state.reporting.are_events_complete(), state.reporting.has_gap());
        state.table.set_trusts_events(trusts);
        if trusted && !trusts {
            // Mappings that are live now may end without a DESTROY event, also later.
            state.distrust = true;
            self.dump_request.set();
        }
        if had_gap && !has_gap {
            // Nothing has reported what began meanwhile.
            self.invalidate(state);
        } else if has_gap && !had_gap {
            self.dump_request.set();
        }
        if !was_complete && state.reporting.is_complete() {
            // Nor what began and ended meanwhile, whatever the reason was.
            state.know_closed_from(self.clock.now(), true);
        }
        self.update_complete(state);
    }

    /// Notes that events are missing: `what` says which, for the log.
    pub(super) fn note_missing_events(&self, state: &mut TrackerState, what: &str) {
        if !state.reporting.has_missed() {
            state.log(
                Level::Warn,
                format!("the kernel does not report every connection, so the table is incomplete: {what} without an event"),
            );
        }
        self.change_reporting(state, Reporting::note_missed);
    }

    /// Notes that a sweep has found no evidence of missing events.
    pub(super) fn note_no_missing_events(&self, state: &mut TrackerState) {
        let was_missed = state.reporting.has_missed();
        self.change_reporting(state, Reporting::note_none_missed);
        if was_missed && !state.reporting.has_missed() {
            state.log(Level::Info, "the kernel reports every connection again");
        }
    }

    /// Notes what the table's limits have cost. Whatever stores mappings calls this under the same
    /// hold of the lock, so that no lookup misses it.
    pub(super) fn note_dropped(&self, state: &mut TrackerState) {
        let Dropped { forgotten, forgotten_until, refused } = state.table.take_dropped();
        if let Some(until) = forgotten_until {
            self.stats.forgotten.add(forgotten);
            state.know_closed_from(until, true);
            if !std::mem::replace(&mut state.forgets_closed, true) {
                let Limits { closed, all } = state.settings.limits;
                state.log(
                    Level::Warn,
                    format!(
                        "more mappings than max_closed ({closed}) or max_mappings ({all}) allows, the oldest \
                         closed ones are removed before del_delay is over"
                    ),
                );
            }
        }
        if refused > 0 {
            self.stats.refused.add(refused);
            if !std::mem::replace(&mut state.is_full, true) {
                let all = state.settings.limits.all;
                state.log(
                    Level::Warn,
                    format!(
                        "max_mappings is reached, further connections are ignored and the table is incomplete: \
                         raise it (found {all})"
                    ),
                );
                self.update_complete(state);
            }
        }
    }

    /// Notices that there is room again; called about once a second.
    pub(super) fn check_room(&self, state: &mut TrackerState) {
        if state.forgets_closed && state.knows_closed(self.clock.now()) {
            state.forgets_closed = false;
            state.log(Level::Info, "closed mappings are kept for the whole del_delay again");
        }
        if state.is_full && state.table.has_room_again() {
            state.is_full = false;
            state.log(Level::Info, "fewer mappings than max_mappings again, resyncing");
            // Nothing has stored what began meanwhile, nor what began and ended.
            self.invalidate(state);
            state.know_closed_from(self.clock.now(), true);
        }
    }

    /// Whether the table is known to equal the kernel's at this moment: no rule that
    /// suppresses events has come into force, and neither the setting nor the addresses of an
    /// interface have changed, without the threads having noticed.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn is_complete_now(&self) -> Result<bool, Error> {
        Ok(self.check_reporting().await? && self.is_complete())
    }

    /// Why the table is not complete; empty if it is.
    pub fn incomplete_because(&self) -> Vec<Incomplete> {
        let state = self.lock();
        let resync = Some(Incomplete::Resync).filter(|_| !state.synced || state.changes_filter);
        let full = Some(Incomplete::Full).filter(|_| state.is_full);
        state.reporting.reasons().chain(resync).chain(full).collect()
    }

    /// Notices what has changed in the kernel's reports until now. Returns false if that is
    /// not known in time. Lookups call this, so it must be cheap.
    pub(super) async fn check_reporting(&self) -> Result<bool, Error> {
        self.check_events_setting();
        for _ in 0..RULE_CHECKS {
            if self.has_noticed_changes()? {
                return Ok(true);
            }
            tokio::time::sleep(RULE_CHECK_INTERVAL).await;
        }
        Ok(false)
    }

    /// Whether the threads have noticed all changes of rules and addresses.
    pub(super) fn has_noticed_changes(&self) -> Result<bool, Error> {
        // In this order: the thread sets the second before it empties the first.
        let has_changes = self.rule_changes.wait(Some(Duration::ZERO))?;
        Ok(!has_changes && !self.reads_rules.load(Ordering::SeqCst) && self.has_current_addresses()?)
    }

    /// Reads the kernel's setting again.
    pub(super) fn check_events_setting(&self) {
        let is_off = self.events_setting.read() == Some(0);
        if self.events_are_off.load(Ordering::SeqCst) == is_off {
            return;
        }
        let mut state = self.lock();
        if self.events_are_off.swap(is_off, Ordering::SeqCst) == is_off {
            return;
        }
        if is_off {
            state.log(
                Level::Warn,
                "net.netfilter.nf_conntrack_events is 0, so the kernel does not report connections: set it to 1",
            );
        }
        self.change_reporting(&mut state, |reporting| reporting.is_off = is_off);
    }

    /// Computes whether the table is complete, and tells those that wait for it.
    pub(super) fn update_complete(&self, state: &mut TrackerState) {
        let complete =
            state.synced && !state.changes_filter && !state.is_full && state.reporting.is_complete();
        if complete != state.complete {
            state.complete = complete;
            state.table.set_expects_ends(complete);
            self.complete.send_replace(complete);
        }
        if state.recording.is_some() {
            self.record_completeness(state);
        }
    }
}
