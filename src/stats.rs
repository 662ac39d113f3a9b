//! What is counted while the daemon runs. Counting takes no lock and no memory:
//! it happens for each event and each request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Stamp;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `many`.
    pub fn add(&self, many: usize) {
        self.0.fetch_add(many as u64, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest of many times.
#[derive(Debug, Default)]
pub struct Longest(AtomicU64);

impl Longest {
    /// Takes one more.
    pub fn record(&self, time: Duration) {
        let nanoseconds = nanoseconds(time);
        // Mostly it is not the longest: then nothing is written.
        if nanoseconds > self.0.load(Ordering::Relaxed) {
            self.0.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    /// The longest so far.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// How many times were how long.
#[derive(Debug)]
pub struct Histogram {
    /// The greatest time of each bucket but the last, which has no bound.
    bounds: &'static [Duration],
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

/// What a [`Histogram`] holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Seconds in all.
    pub sum: f64,
    /// How many times there were.
    pub count: u64,
    /// The greatest time of each bucket, in seconds, and how many are in it and
    /// in none before it.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// An empty one with these bounds, in ascending order.
    pub fn new(bounds: &'static [Duration]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, nanoseconds: AtomicU64::new(0) }
    }

    /// Takes one more.
    pub fn record(&self, time: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < time);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    /// What it holds now.
    pub fn get(&self) -> Times {
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let buckets: Vec<_> =
            bounds.zip(&self.buckets).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        Times {
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64(),
            // Of the same reading as the buckets, which others add to meanwhile.
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Groups of HTTP paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/{key_name}/{value}`, `/{value}`, and whatever is no other.
    Legacy,
    /// `/v1/lookup`.
    Lookup,
    /// `/v1/auth`.
    Auth,
    /// `/v1/mappings`.
    Mappings,
    /// `/v1/events`.
    Events,
    /// `/debug`.
    Debug,
    /// `/nagios`.
    Nagios,
    /// `/metrics`.
    Metrics,
    /// `/healthz` and `/readyz`.
    Health,
    /// `/v1/openapi.json`, and what is not there under `/v1/`.
    Other,
}

impl Route {
    /// All of them, in the order of their numbers.
    pub const ALL: [Route; 10] = [
        Route::Legacy,
        Route::Lookup,
        Route::Auth,
        Route::Mappings,
        Route::Events,
        Route::Debug,
        Route::Nagios,
        Route::Metrics,
        Route::Health,
        Route::Other,
    ];
    /// Those that look mappings up.
    pub const LOOKUPS: [Route; 3] = [Route::Legacy, Route::Lookup, Route::Auth];

    /// Where a path belongs.
    pub fn of(path: &str) -> Self {
        match path {
            "/v1/lookup" => Route::Lookup,
            "/v1/auth" => Route::Auth,
            "/v1/mappings" => Route::Mappings,
            "/v1/events" => Route::Events,
            "/debug" => Route::Debug,
            "/nagios" => Route::Nagios,
            "/metrics" => Route::Metrics,
            "/healthz" | "/readyz" => Route::Health,
            "/v1" => Route::Other,
            _ if path.starts_with("/v1/") => Route::Other,
            _ => Route::Legacy,
        }
    }

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Route::Legacy => "legacy",
            Route::Lookup => "lookup",
            Route::Auth => "auth",
            Route::Mappings => "mappings",
            Route::Events => "events",
            Route::Debug => "debug",
            Route::Nagios => "nagios",
            Route::Metrics => "metrics",
            Route::Health => "health",
            Route::Other => "other",
        }
    }
}

/// What came of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A mapping.
    Found,
    /// None, for sure.
    NotFound,
    /// None, but the table may lack some.
    Undecided,
    /// The question made no sense.
    Bad,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Outcome; 4] = [Outcome::Found, Outcome::NotFound, Outcome::Undecided, Outcome::Bad];

    /// What a look-up that found something or nothing came to, in a table that
    /// was complete or not.
    pub fn of(found: bool, complete: bool) -> Self {
        match (found, complete) {
            (true, _) => Outcome::Found,
            (false, true) => Outcome::NotFound,
            (false, false) => Outcome::Undecided,
        }
    }

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Found => "found",
            Outcome::NotFound => "not_found",
            Outcome::Undecided => "undecided",
            Outcome::Bad => "bad",
        }
    }
}

/// Look-ups by route and outcome.
#[derive(Debug, Default)]
pub struct Lookups([[Counter; Outcome::ALL.len()]; Route::ALL.len()]);

impl Lookups {
    /// Counts one.
    pub fn count(&self, route: Route, outcome: Outcome) {
        self.0[route as usize][outcome as usize].increment();
    }

    /// Those of one route and outcome.
    pub fn get(&self, route: Route, outcome: Outcome) -> u64 {
        self.0[route as usize][outcome as usize].get()
    }

    /// Those of one outcome by all routes.
    pub fn sum(&self, outcome: Outcome) -> u64 {
        Route::ALL.iter().map(|route| self.get(*route, outcome)).sum()
    }
}

/// Answers by HTTP status.
#[derive(Debug, Default)]
pub struct Responses([Counter; Responses::STATUSES.len()]);

impl Responses {
    /// The statuses that are told apart. The server knows no others; 0 would
    /// count them.
    pub const STATUSES: [u16; 12] = [0, 200, 204, 400, 403, 404, 405, 408, 413, 431, 500, 503];

    /// Counts one.
    pub fn count(&self, status: u16) {
        let at = Self::STATUSES.iter().position(|known| *known == status);
        self.0[at.unwrap_or(0)].increment();
    }

    /// How often each was answered.
    pub fn get(&self) -> impl Iterator<Item = (u16, u64)> {
        Self::STATUSES.into_iter().zip(self.0.iter().map(Counter::get))
    }
}

const fn micros<const N: usize>(bounds: [u64; N]) -> [Duration; N] {
    let mut times = [Duration::ZERO; N];
    let mut at = 0;
    while at < N {
        times[at] = Duration::from_micros(bounds[at]);
        at += 1;
    }
    times
}

/// From a look-up at rest to one that waits for a resync, or to be told to.
const HTTP_BOUNDS: [Duration; 14] = micros([
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
]);
/// Up to the 5 ms that no hold may take, and what should never be.
const LOCK_BOUNDS: [Duration; 10] = micros([1, 5, 10, 50, 100, 500, 1_000, 2_500, 5_000, 25_000]);
/// From an empty table to millions of entries.
const RESYNC_BOUNDS: [Duration; 11] = micros([
    1_000, 5_000, 25_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
]);

/// All counters of one daemon.
#[derive(Debug)]
pub struct Stats {
    /// Events of connections that began.
    pub events_new: Counter,
    /// Events of connections that ended.
    pub events_destroy: Counter,
    /// Mappings that were put into the table because of an event.
    pub created_by_event: Counter,
    /// Mappings that were put into the table because a dump had them.
    pub created_by_dump: Counter,
    /// Closed mappings whose time was over.
    pub deleted: Counter,
    /// Old mappings dropped at `garbage_cleaner_interval`.
    pub expired: Counter,
    /// Look-ups that began, and requests that were refused whatever they asked for.
    pub requests: Counter,
    /// What came of look-ups.
    pub lookups: Lookups,
    /// Requests from clients outside `ip_acl`.
    pub unauthorized: Counter,
    /// How long answers took, or the beginnings of streams, by route.
    pub http_time: [Histogram; Route::ALL.len()],
    /// Answers by status.
    pub responses: Responses,
    /// Times that the kernel dropped events because the buffer was full.
    pub overruns: Counter,
    /// Kernel messages that could not be read.
    pub malformed: Counter,
    /// Single connections that the kernel was asked for.
    pub kernel_questions: Counter,
    /// How long it took each time that the kernel's table was read, whole or not.
    pub resync_time: Histogram,
    /// Times that it was read and nothing disturbed that.
    pub dumps: Counter,
    /// Times that it was read and something did, so that it was read again.
    pub disturbed_dumps: Counter,
    /// Mappings that a dump showed to be gone without an event.
    pub swept: Counter,
    /// How long the table's lock was held at once.
    pub lock_time: Histogram,
    /// The longest of these.
    pub lock_held: Longest,
    /// The most processor time of one hold that did more than read the table. Where
    /// holds are much longer, other threads had the processor.
    #[cfg(feature = "bench")]
    pub lock_worked: Longest,
    /// When the configuration was put into force, in milliseconds since the Unix epoch.
    pub configured_at: AtomicU64,
    /// Whether the last reload failed.
    pub reload_failed: AtomicBool,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            events_new: Counter::default(),
            events_destroy: Counter::default(),
            created_by_event: Counter::default(),
            created_by_dump: Counter::default(),
            deleted: Counter::default(),
            expired: Counter::default(),
            requests: Counter::default(),
            lookups: Lookups::default(),
            unauthorized: Counter::default(),
            http_time: std::array::from_fn(|_| Histogram::new(&HTTP_BOUNDS)),
            responses: Responses::default(),
            overruns: Counter::default(),
            malformed: Counter::default(),
            kernel_questions: Counter::default(),
            resync_time: Histogram::new(&RESYNC_BOUNDS),
            dumps: Counter::default(),
            disturbed_dumps: Counter::default(),
            swept: Counter::default(),
            lock_time: Histogram::new(&LOCK_BOUNDS),
            lock_held: Longest::default(),
            #[cfg(feature = "bench")]
            lock_worked: Longest::default(),
            configured_at: AtomicU64::new(0),
            reload_failed: AtomicBool::new(false),
        }
    }
}

impl Stats {
    /// A configuration came into force.
    pub fn note_configured(&self, now: Stamp) {
        self.configured_at.store(now.wall, Ordering::Relaxed);
        self.reload_failed.store(false, Ordering::Relaxed);
    }

    /// An answer was made.
    pub fn count_answer(&self, route: Route, status: u16, took: Duration) {
        self.http_time[route as usize].record(took);
        self.responses.count(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_buckets_that_they_fit() {
        const BOUNDS: [Duration; 2] = micros([10, 1_000]);
        let histogram = Histogram::new(&BOUNDS);
        for nanoseconds in [0, 10_000, 10_001, 1_000_000, 1_000_001, u64::MAX / 4] {
            histogram.record(Duration::from_nanos(nanoseconds));
        }
        let times = histogram.get();
        assert_eq!(times.buckets, [(0.000_01, 2), (0.001, 2), (f64::INFINITY, 2)]);
        assert_eq!(times.count, 6);
        assert!((times.sum - (u64::MAX / 4) as f64 / 1e9).abs() < 1.0, "{times:?}");
    }

    #[test]
    fn names_and_numbers_fit() {
        for (number, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, number);
        }
        for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, number);
        }
        for (path, route) in [
            ("/nat_port/1", Route::Legacy),
            ("/v1/lookup", Route::Lookup),
            ("/v1/lookups", Route::Other),
            ("/v1", Route::Other),
            ("/v1x", Route::Legacy),
            ("/readyz", Route::Health),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
        let responses = Responses::default();
        for status in [200, 503, 418] {
            responses.count(status);
        }
        let counted: Vec<_> = responses.get().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0, 1), (200, 1), (503, 1)]);
    }
}
