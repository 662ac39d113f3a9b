//! The counters of the HTTP server: requests, lookups by route and outcome, and responses by status and
//! duration.

use std::time::Duration;

use super::kind::Kind;
use super::route::RouteLabel;
use crate::stats::{Counter, Histogram, PerThread, Times, microseconds};

/// From a lookup on an idle gateway to one that waits for a resync or for a match.
const RESPONSE_BOUNDS: [Duration; 14] = microseconds([
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
]);

/// All counters of the HTTP server.
#[derive(Debug)]
pub struct HttpCounters(PerThread<Counters>);

impl Default for HttpCounters {
    fn default() -> Self {
        Self(PerThread::new(Counters::default))
    }
}

impl HttpCounters {
    /// Those that this thread counts with.
    pub fn here(&self) -> &Counters {
        self.0.here()
    }

    /// The sum of a count over all threads.
    pub fn sum(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        self.0.sum(count)
    }

    /// How long responses of this route took, on all threads.
    pub fn response_times(&self, route: RouteLabel) -> Times {
        Histogram::sum(self.0.all().map(|counters| &counters.response_time[route as usize]))
    }
}

/// The counters of one thread.
#[derive(Debug)]
pub struct Counters {
    /// Lookups that began, and requests that were refused because of their client.
    pub requests: Counter,
    /// Requests from clients outside `ip_acl`.
    pub refused: Counter,
    /// Requests and connections that got no place, by kind.
    pub refused_places: [Counter; Kind::ALL.len()],
    /// Idle connections that were closed for new ones.
    pub evicted: Counter,
    /// Lookups that ended.
    pub lookups: Lookups,
    /// Lookups of `/v1/auth` that ended without an inside host, by reason.
    pub nobody: Nobodies,
    /// How long responses, or the beginnings of streams, took to make, by route.
    pub response_time: [Histogram; RouteLabel::ALL.len()],
    /// Responses by status.
    pub responses: Responses,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests: Counter::default(),
            refused: Counter::default(),
            refused_places: Default::default(),
            evicted: Counter::default(),
            lookups: Lookups::default(),
            nobody: Nobodies::default(),
            response_time: std::array::from_fn(|_| Histogram::new(&RESPONSE_BOUNDS)),
            responses: Responses::default(),
        }
    }
}

impl Counters {
    /// Counts a response.
    pub fn count_response(&self, route: RouteLabel, status: u16, took: Duration) {
        self.response_time[route as usize].record(took);
        self.responses.count(status);
    }
}

/// The outcome of a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupOutcome {
    /// There is a mapping.
    Found,
    /// There is none, and the table is complete.
    NotFound,
    /// None was found, but the table may be incomplete.
    Undecided,
    /// The request was not valid.
    Bad,
}

impl LookupOutcome {
    /// All of them, each at the index that it converts to.
    pub const ALL: [LookupOutcome; 4] =
        [LookupOutcome::Found, LookupOutcome::NotFound, LookupOutcome::Undecided, LookupOutcome::Bad];

    /// The outcome of a valid lookup in a table that was complete or not.
    pub fn of(found: bool, complete: bool) -> Self {
        match (found, complete) {
            (true, _) => LookupOutcome::Found,
            (false, true) => LookupOutcome::NotFound,
            (false, false) => LookupOutcome::Undecided,
        }
    }

    /// The text of its label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            LookupOutcome::Found => "found",
            LookupOutcome::NotFound => "not_found",
            LookupOutcome::Undecided => "undecided",
            LookupOutcome::Bad => "bad",
        }
    }
}

/// Lookups by route and outcome.
#[derive(Debug, Default)]
pub struct Lookups([[Counter; LookupOutcome::ALL.len()]; RouteLabel::ALL.len()]);

impl Lookups {
    /// Counts one.
    pub fn count(&self, route: RouteLabel, outcome: LookupOutcome) {
        self.0[route as usize][outcome as usize].increment();
    }

    /// The lookups of one route and outcome.
    pub fn get(&self, route: RouteLabel, outcome: LookupOutcome) -> u64 {
        self.0[route as usize][outcome as usize].get()
    }

    /// The lookups of one outcome on all routes.
    pub fn sum(&self, outcome: LookupOutcome) -> u64 {
        RouteLabel::ALL.iter().map(|route| self.get(*route, outcome)).sum()
    }
}

/// Why `/v1/auth` finds no inside host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nobody {
    /// No connection has been translated to this address: the client is not behind this gateway, or the
    /// proxy passes another address.
    UnknownAddress,
    /// The gateway uses the address, but no live connection has this public port.
    UnknownPort,
    /// One has it, but to another server address or port, of another protocol or in another zone.
    OtherServer,
}

impl Nobody {
    /// All of them, each at the index that it converts to.
    pub const ALL: [Nobody; 3] = [Nobody::UnknownAddress, Nobody::UnknownPort, Nobody::OtherServer];

    /// The text of its header and of its label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Nobody::UnknownAddress => "unknown_address",
            Nobody::UnknownPort => "unknown_port",
            Nobody::OtherServer => "other_server",
        }
    }
}

/// Lookups without an inside host, by reason.
#[derive(Debug, Default)]
pub struct Nobodies([Counter; Nobody::ALL.len()]);

impl Nobodies {
    /// Counts one.
    pub fn count(&self, reason: Nobody) {
        self.0[reason as usize].increment();
    }

    /// The lookups with one reason.
    pub fn get(&self, reason: Nobody) -> u64 {
        self.0[reason as usize].get()
    }
}

/// Responses by HTTP status.
#[derive(Debug, Default)]
pub struct Responses([Counter; Responses::STATUSES.len()]);

impl Responses {
    /// The statuses that the server uses; 0 stands for any other.
    pub const STATUSES: [u16; 12] = [0, 200, 204, 400, 403, 404, 405, 408, 413, 431, 500, 503];

    /// Counts one.
    pub fn count(&self, status: u16) {
        let index = Self::STATUSES.iter().position(|known| *known == status);
        self.0[index.unwrap_or(0)].increment();
    }

    /// The responses with the status at this index of [`STATUSES`](Self::STATUSES).
    pub fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_at_their_index() {
        for (index, outcome) in LookupOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, reason) in Nobody::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn what_different_threads_count_is_summed() {
        let counters = HttpCounters::default();
        std::thread::scope(|scope| {
            for place in 0..20 {
                let counters = &counters;
                scope.spawn(move || {
                    crate::stats::count_at(place);
                    counters.here().requests.increment();
                    counters.here().count_response(RouteLabel::Legacy, 200, Duration::from_micros(60));
                });
            }
        });
        assert_eq!(counters.sum(|counters| counters.requests.get()), 20);
        assert_eq!(counters.sum(|counters| counters.responses.get(1)), 20);
        let times = counters.response_times(RouteLabel::Legacy);
        assert_eq!((times.count, times.buckets[1]), (20, (0.000_1, 20)));
        assert!((times.sum - 0.001_2).abs() < 1e-9, "{times:?}");
    }

    #[test]
    fn responses_are_counted_by_status() {
        let responses = Responses::default();
        for status in [200, 503, 418] {
            responses.count(status);
        }
        let counts =
            Responses::STATUSES.into_iter().enumerate().map(|(at, status)| (status, responses.get(at)));
        let counted: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0, 1), (200, 1), (503, 1)]);
    }
}
