//! What is known about connections that the kernel does not report to the daemon.

use std::time::{Duration, Instant};

/// Without further evidence for this time, events are trusted again that were missing once.
const MIN_QUIET: Duration = Duration::from_secs(60);
/// Each time that events are missing again, that time doubles, up to this.
const MAX_QUIET: Duration = Duration::from_secs(3600);

/// Why the table is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// The kernel's table is being read: at the start, or in a resync.
    Resync,
    /// `nf_conntrack_events` is 0.
    EventsOff,
    /// Rules suppress events.
    Rules,
    /// Connections began or ended without an event.
    MissingEvents,
    /// `nf_conntrack_events` cannot be read, and no event has been received yet.
    Unheard,
    /// The kernel's table has entries that cannot be parsed.
    Unreadable,
    /// There are more connections than `max_mappings`.
    Full,
    /// The filter in force does not have the addresses that an interface has.
    Addresses,
}

impl Incomplete {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Resync,
        Self::EventsOff,
        Self::Rules,
        Self::MissingEvents,
        Self::Unheard,
        Self::Unreadable,
        Self::Full,
        Self::Addresses,
    ];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resync => "resync",
            Self::EventsOff => "events_off",
            Self::Rules => "rules",
            Self::MissingEvents => "missing_events",
            Self::Unheard => "unheard",
            Self::Unreadable => "unreadable",
            Self::Full => "full",
            Self::Addresses => "addresses",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Resync => "the kernel's table is being read: try again shortly",
            Self::EventsOff => "net.netfilter.nf_conntrack_events is 0: set it to 1",
            Self::Rules => "rules suppress conntrack events: the log names them",
            Self::MissingEvents => "connections began or ended without an event: see the log",
            Self::Unheard => {
                "net.netfilter.nf_conntrack_events cannot be read, and the kernel has not reported a \
                 connection yet: let the daemon read /proc/sys, or wait for a connection"
            }
            Self::Unreadable => "entries of the kernel's table cannot be parsed: see the log",
            Self::Full => "there are more connections than max_mappings: raise it",
            Self::Addresses => {
                "the addresses of an interface in [filter] have changed, and the filter could not: see the log"
            }
        }
    }
}

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
    /// The filter in force does not have the addresses that an interface has.
    pub(super) lacks_addresses: bool,
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
            lacks_addresses: false,
            missed: None,
            next_quiet: MIN_QUIET,
        }
    }

    /// Whether the kernel reports every connection, as far as the daemon knows.
    pub(super) fn is_complete(&self) -> bool {
        self.reasons().next().is_none()
    }

    /// Why it does not.
    pub(super) fn reasons(&self) -> impl Iterator<Item = Incomplete> + use<> {
        [
            (self.is_off, Incomplete::EventsOff),
            (self.masked_by.is_some(), Incomplete::Rules),
            (self.missed.is_some(), Incomplete::MissingEvents),
            (self.is_unheard, Incomplete::Unheard),
            (self.has_unreadable, Incomplete::Unreadable),
            (self.lacks_addresses, Incomplete::Addresses),
        ]
        .into_iter()
        .filter_map(|(applies, reason)| applies.then_some(reason))
    }

    /// Whether connections that begin now are certainly not all reported.
    pub(super) fn has_gap(&self) -> bool {
        self.is_off || self.masked_by.is_some()
    }

    /// Whether a connection that begins without an event is evidence of missing events. Such
    /// evidence is sought also after other has been found.
    pub(super) fn expects_events(&self) -> bool {
        !self.has_gap() && !self.is_unheard
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_only_if_nothing_is_known_to_be_missing() {
        let complete = || Reporting::new(Some(1));
        assert!(complete().is_complete());
        assert!(!Reporting { is_off: true, ..complete() }.is_complete());
        assert_eq!(Reporting::new(Some(0)).reasons().collect::<Vec<_>>(), [Incomplete::EventsOff]);
        assert!(!Reporting { masked_by: Some("a rule".to_owned()), ..complete() }.is_complete());
        assert!(!Reporting { has_unreadable: true, ..complete() }.is_complete(), "an entry cannot be parsed");
        assert!(!Reporting { lacks_addresses: true, ..complete() }.is_complete(), "an address is missing");
        assert!(!Reporting::new(Some(0)).is_complete());
        let mut hidden = Reporting::new(None);
        assert!(!hidden.is_complete(), "the setting is hidden");
        hidden.is_unheard = false;
        assert!(hidden.is_complete());
    }

    #[test]
    fn events_that_were_missing_are_trusted_after_a_quiet_time_that_doubles() {
        let mut reporting = Reporting::new(Some(2));
        let quiet = |reporting: &Reporting| reporting.missed.expect("some are missing").1;
        for expected in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            reporting.note_missed();
            reporting.note_missed();
            assert_eq!(quiet(&reporting), Duration::from_secs(expected));
            reporting.note_none_missed();
            assert!(!reporting.is_complete() && !reporting.are_events_complete());
            // As if that time had passed.
            reporting.missed = Some((Instant::now(), Duration::ZERO));
            reporting.note_none_missed();
            assert!(reporting.is_complete());
        }
    }
}
