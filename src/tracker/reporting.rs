//! What is known about connections that the kernel does not report to the daemon.

use std::time::{Duration, Instant};

/// Without further evidence for this time, events are trusted again that were missing once.
const MIN_QUIET: Duration = Duration::from_secs(60);
/// Each time that events are missing again, that time doubles, up to this.
const MAX_QUIET: Duration = Duration::from_secs(3600);

/// The reasons why connections may be unreported.
#[derive(Debug)]
pub(super) struct Reporting {
    /// `nf_conntrack_events` is 0.
    pub(super) is_off: bool,
    /// The rules that suppress events, in words.
    pub(super) masked_by: Option<String>,
    /// `nf_conntrack_events` cannot be read, and no event has been received yet.
    pub(super) is_unheard: bool,
    /// The last complete dump had entries that could not be parsed.
    pub(super) has_unreadable: bool,
    /// When the last evidence of missing events was found, and how long there must be no other.
    missed: Option<(Instant, Duration)>,
    /// The time without evidence that the next evidence requires.
    next_quiet: Duration,
}

impl Reporting {
    pub(super) fn new(events: Option<u32>) -> Self {
        Self {
            is_off: events == Some(0),
            masked_by: None,
            is_unheard: events.is_none(),
            has_unreadable: false,
            missed: None,
            next_quiet: MIN_QUIET,
        }
    }

    /// Whether the kernel reports every connection, as far as the daemon knows.
    pub(super) fn is_complete(&self) -> bool {
        !self.is_off && !self.is_unheard && !self.has_unreadable && self.are_events_complete()
    }

    /// Whether connections that begin now are certainly not all reported.
    pub(super) fn has_gap(&self) -> bool {
        self.is_off || self.masked_by.is_some()
    }

    /// Whether each connection that has a NEW event will have a DESTROY event.
    pub(super) fn are_events_complete(&self) -> bool {
        self.masked_by.is_none() && self.missed.is_none()
    }

    /// Whether there was evidence of missing events lately.
    pub(super) fn has_missed(&self) -> bool {
        self.missed.is_some()
    }

    /// Notes evidence that events are missing.
    pub(super) fn note_missed(&mut self) {
        let quiet = self.missed.map_or(self.next_quiet, |(_, quiet)| quiet);
        self.missed = Some((Instant::now(), quiet));
        self.next_quiet = (quiet * 2).min(MAX_QUIET);
    }

    /// Notes that a sweep has found no evidence of missing events.
    pub(super) fn note_none_missed(&mut self) {
        if self.missed.is_some_and(|(at, quiet)| at.elapsed() >= quiet) {
            self.missed = None;
        }
    }
}
