//! What the tracker's lock protects: the table, and the socket that feeds it.

use std::time::Instant;

use log::Level;
use nfct::{Error, Events};

use super::recording::Recording;
use super::reporting::Reporting;
use super::settings::Settings;
use crate::clock::Stamp;
use crate::table::{Batch, Table};

/// The table, the event socket, and the state of both.
pub(super) struct TrackerState {
    pub(super) events: Events,
    pub(super) table: Table,
    /// Events that have been received and are not in the table yet; empty between two holds of the lock.
    pub(super) batch: Batch,
    pub(super) settings: Settings,
    /// The number of messages that were received from the socket.
    pub(super) messages: u64,
    /// The socket's receive buffer in force, as the kernel counts it.
    pub(super) receive_buffer: usize,
    /// Counts overruns and changes of the filter. Each makes a dump useless that is
    /// running at that time.
    pub(super) invalidations: u64,
    /// When the last of these happened.
    pub(super) invalidated_at: Instant,
    /// Whether a complete dump has been merged since then.
    pub(super) synced: bool,
    /// Whether another filter is coming into force: the kernel, the daemon and the table may
    /// differ about it.
    pub(super) changes_filter: bool,
    pub(super) reporting: Reporting,
    /// Whether the table is known to equal the kernel's: it is synced, no filter is coming
    /// into force, and the kernel reports every connection.
    pub(super) complete: bool,
    /// The mappings that were live at some time may end without a DESTROY event; they must be
    /// marked so before the table is complete again.
    pub(super) distrust: bool,
    /// The number of mappings that had ended without a DESTROY event a second ago.
    pub(super) missing_ends: usize,
    /// The table has every mapping that has closed since then.
    closed_known_since: Stamp,
    /// Whether events or mappings were lost before that. If not, the daemon had not started yet, or
    /// another filter was in force.
    pub(super) has_lost_events: bool,
    /// When events were first lost since the last complete dump.
    pub(super) overrun_at: Option<Instant>,
    /// The kernel's count of lost events when the log last reported it.
    pub(super) lost_events_logged: u32,
    /// Whether the table lacks connections because it was full.
    pub(super) is_full: bool,
    /// Whether closed mappings are removed before `del_delay` is over, because they are too many.
    pub(super) forgets_closed: bool,
    /// What a recorder needs to know, if there is one.
    pub(super) recording: Option<Recording>,
    /// Lines to log after the lock is released, because writing to the log can block.
    pub(super) pending_log: Vec<(Level, String)>,
}

impl TrackerState {
    pub(super) fn new(
        events: Events,
        settings: Settings,
        receive_buffer: usize,
        reporting: Reporting,
        now: Stamp,
    ) -> Self {
        let mut table = Table::new(settings.key, settings.del_delay);
        table.set_limits(settings.limits);
        let recording = settings.has_recorder.then(|| {
            table.begin_feed();
            Recording::new(now)
        });
        Self {
            events,
            table,
            batch: Batch::default(),
            settings,
            messages: 0,
            receive_buffer,
            invalidations: 0,
            invalidated_at: Instant::now(),
            synced: false,
            changes_filter: false,
            reporting,
            complete: false,
            distrust: false,
            missing_ends: 0,
            closed_known_since: now,
            has_lost_events: false,
            overrun_at: None,
            lost_events_logged: 0,
            is_full: false,
            forgets_closed: false,
            recording,
            pending_log: Vec::new(),
        }
    }

    /// Whether the table has every mapping that has closed and can still be looked up.
    pub(super) fn knows_closed(&self, now: Stamp) -> bool {
        now.since(self.closed_known_since) >= self.settings.del_delay
    }

    /// Whether all messages have been received that were queued at the first call, which sets
    /// `limit` to their number. A flood of new events cannot delay that.
    pub(super) fn has_received_queued(&self, limit: &mut Option<u64>) -> Result<bool, Error> {
        let limit = match *limit {
            Some(limit) => limit,
            None => *limit.insert(self.messages + self.events.most_waiting()? as u64),
        };
        Ok(self.messages >= limit)
    }

    /// Notes that mappings that closed before `since` may be missing: because events were, or for
    /// another reason.
    pub(super) fn know_closed_from(&mut self, since: Stamp, has_lost_events: bool) {
        if since.monotonic >= self.closed_known_since.monotonic {
            self.closed_known_since = since;
            self.has_lost_events = has_lost_events;
        }
    }

    /// Logs a line after the lock is released.
    pub(super) fn log(&mut self, level: Level, line: impl Into<String>) {
        self.pending_log.push((level, line.into()));
    }
}
