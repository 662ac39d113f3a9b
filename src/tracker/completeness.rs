//! Whether the table is complete. It is not while the kernel does not report every connection;
//! then every live mapping is doubtful.

use std::sync::atomic::Ordering;

use log::Level;

use super::reporting::Reporting;
use super::shared::Tracker;
use super::state::TrackerState;

impl Tracker {
    /// Changes what is known about the kernel's reports, and with it whether the table is
    /// complete.
    pub(super) fn change_reporting(&self, state: &mut TrackerState, change: impl FnOnce(&mut Reporting)) {
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
            // Nothing has reported what began, and perhaps also ended, meanwhile.
            state.closed_known_since = self.clock.now();
            self.invalidate(state);
        } else if has_gap && !had_gap {
            self.dump_request.set();
        }
        self.update_complete(state);
    }

    /// Notes that events are missing: `what` says which, for the log.
    pub(super) fn note_missing_events(&self, state: &mut TrackerState, what: &str) {
        if !state.reporting.has_missed() {
            state.log(
                Level::Warn,
                format!(
                    "the kernel does not report every connection: {what} without an event; until all are \
                     reported again, the table is incomplete, and live mappings are verified with the kernel"
                ),
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

    /// Reads the kernel's setting again. Lookups call this, so it must be cheap.
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
                "net.netfilter.nf_conntrack_events is 0: the kernel does not report connections; set it to 1",
            );
        }
        self.change_reporting(&mut state, |reporting| reporting.is_off = is_off);
    }

    /// Computes whether the table is complete, and tells those that wait for it.
    pub(super) fn update_complete(&self, state: &mut TrackerState) {
        let complete = state.synced && state.reporting.is_complete();
        if complete != state.complete {
            state.complete = complete;
            state.table.set_expects_ends(complete);
            self.complete.send_replace(complete);
        }
    }
}
