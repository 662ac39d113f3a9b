//! What the tracker's lock protects: the table, and the socket that feeds it.

use std::time::Instant;

use log::Level;
use nfct::Events;

use super::settings::Settings;
use crate::table::Table;

/// The table, the event socket, and the state of both.
pub(super) struct TrackerState {
    pub(super) events: Events,
    pub(super) table: Table,
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
    pub(super) complete: bool,
    /// When events were first lost since the last complete dump.
    pub(super) overrun_at: Option<Instant>,
    /// The kernel's count of lost events when the log last reported it.
    pub(super) lost_events_logged: u32,
    /// Lines to log after the lock is released, because writing to the log can block.
    pub(super) pending_log: Vec<(Level, String)>,
}

impl TrackerState {
    pub(super) fn new(events: Events, settings: Settings, receive_buffer: usize) -> Self {
        Self {
            events,
            table: Table::new(settings.key, settings.del_delay),
            settings,
            messages: 0,
            receive_buffer,
            invalidations: 0,
            invalidated_at: Instant::now(),
            complete: false,
            overrun_at: None,
            lost_events_logged: 0,
            pending_log: Vec::new(),
        }
    }

    /// Logs a line after the lock is released.
    pub(super) fn log(&mut self, level: Level, line: impl Into<String>) {
        self.pending_log.push((level, line.into()));
    }
}
