//! What connections and requests need places for, and how many there are.

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection; see `connections`.
    Connection,
    /// A connection beyond the limit, on which only health and metrics are answered.
    Spare,
    /// A stream of `/v1/events` or `/v1/mappings`.
    Stream,
    /// A response of `/debug`.
    Debug,
    /// A lookup with `wait`.
    Wait,
    /// A legacy lookup that waits until the table is complete.
    Incomplete,
    /// A POST with many lookups.
    Post,
    /// A lookup with many matches, until they are sent.
    Large,
    /// A lookup that no index serves, until it is sent.
    Scan,
    /// A scrape of `/metrics` or `/nagios`.
    Scrape,
    /// A question about a moment of the history.
    History,
    /// A question about a span of the history, until it is sent.
    HistorySpan,
}

impl Kind {
    /// All of them, each at the index that it converts to.
    pub const ALL: [Kind; 12] = [
        Kind::Connection,
        Kind::Spare,
        Kind::Stream,
        Kind::Debug,
        Kind::Wait,
        Kind::Incomplete,
        Kind::Post,
        Kind::Large,
        Kind::Scan,
        Kind::Scrape,
        Kind::History,
        Kind::HistorySpan,
    ];

    /// The text of its label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Connection => "connection",
            Kind::Spare => "spare",
            Kind::Stream => "stream",
            Kind::Debug => "debug",
            Kind::Wait => "wait",
            Kind::Incomplete => "incomplete",
            Kind::Post => "post",
            Kind::Large => "large",
            Kind::Scan => "scan",
            Kind::Scrape => "scrape",
            Kind::History => "history",
            Kind::HistorySpan => "history_span",
        }
    }

    /// What an error calls such work.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Kind::Connection | Kind::Spare => "connections",
            Kind::Stream => "streams",
            Kind::Debug => "responses of /debug",
            Kind::Wait => "lookups that wait",
            Kind::Incomplete => "lookups that wait for the table",
            Kind::Post => "POST requests",
            Kind::Large => "lookups with more than 64 matches",
            Kind::Scan => "lookups that no index serves",
            Kind::Scrape => "scrapes",
            Kind::History => "questions about a moment of the history",
            Kind::HistorySpan => "questions about a span of the history",
        }
    }

    /// The number of places, unless the configuration sets it.
    pub(super) const fn limit(self) -> usize {
        match self {
            Kind::Connection => 1024,
            Kind::Stream | Kind::Wait => 256,
            Kind::Incomplete => 128,
            Kind::Spare | Kind::Large => 64,
            Kind::Post => 32,
            Kind::Debug | Kind::Scrape => 16,
            Kind::Scan | Kind::History => 8,
            Kind::HistorySpan => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_at_their_index() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }
}
