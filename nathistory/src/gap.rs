//! A time of which something is not known.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// Why something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The history begins later.
    BeforeHistory,
    /// The daemon was not running.
    NotRunning,
    /// Events were lost, and the table was not yet equal to the kernel's again.
    EventsLost,
    /// The kernel reported nothing, or only a part.
    NotReported,
    /// Another filter was coming into force.
    FilterChanged,
    /// Entries came faster than they could be written.
    RecorderBehind,
    /// Writing failed: the disk was full, for example.
    NotWritten,
    /// The wall clock was set.
    ClockStepped,
    /// A file is damaged or missing.
    Damaged,
    /// It was removed, because it was older or larger than configured.
    Removed,
}

/// A time in which mappings can have opened or closed without the history knowing it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// Its begin.
    pub from: Millis,
    /// Its end; `None` while it lasts.
    pub to: Option<Millis>,
    /// Why.
    pub reason: Reason,
    /// More about it: how many entries are missing, by how much the clock was set, which file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 10] = [
        Reason::BeforeHistory,
        Reason::NotRunning,
        Reason::EventsLost,
        Reason::NotReported,
        Reason::FilterChanged,
        Reason::RecorderBehind,
        Reason::NotWritten,
        Reason::ClockStepped,
        Reason::Damaged,
        Reason::Removed,
    ];

    /// Its name in answers and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::BeforeHistory => "before_history",
            Reason::NotRunning => "not_running",
            Reason::EventsLost => "events_lost",
            Reason::NotReported => "not_reported",
            Reason::FilterChanged => "filter_changed",
            Reason::RecorderBehind => "recorder_behind",
            Reason::NotWritten => "not_written",
            Reason::ClockStepped => "clock_stepped",
            Reason::Damaged => "damaged",
            Reason::Removed => "removed",
        }
    }
}

impl Gap {
    /// Whether it lasts, or ends after this moment.
    pub(crate) fn ends_after(&self, at: Millis) -> bool {
        self.to.is_none_or(|to| to > at)
    }

    /// Whether it touches some moment from `from` to `to`.
    pub fn touches(&self, from: Millis, to: Millis) -> bool {
        self.from <= to && self.to.is_none_or(|end| end >= from)
    }
}
