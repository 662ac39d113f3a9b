//! Types of counters, and the counters of the tracker and the daemon. Counting takes no lock and
//! allocates nothing, because it happens for each event and each request.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock::Stamp;

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `many`.
    pub fn add(&self, many: usize) {
        // A write takes the counter out of the caches of the other processors.
        if many > 0 {
            self.0.fetch_add(many as u64, Ordering::Relaxed);
        }
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The longest of many durations.
#[derive(Debug, Default)]
pub struct Longest(AtomicU64);

impl Longest {
    /// Records one.
    pub fn record(&self, time: Duration) {
        let nanoseconds = nanoseconds(time);
        // Usually another one is longer, and nothing needs to be written.
        if nanoseconds > self.0.load(Ordering::Relaxed) {
            self.0.fetch_max(nanoseconds, Ordering::Relaxed);
        }
    }

    /// The longest so far.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The buckets of a [`Histogram`]. It may use fewer.
const MAX_BUCKETS: usize = 16;

/// Durations, counted by length.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bound of each bucket except the last, which has none.
    bounds: &'static [Duration],
    buckets: [AtomicU64; MAX_BUCKETS],
    nanoseconds: AtomicU64,
}

/// The contents of a [`Histogram`].
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Their sum, in seconds.
    pub sum: f64,
    /// Their number.
    pub count: u64,
    /// The upper bound of each bucket in seconds, and the number of durations in that bucket alone.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// An empty histogram with these bounds, in ascending order: at most 15.
    pub fn new(bounds: &'static [Duration]) -> Self {
        assert!(bounds.len() < MAX_BUCKETS, "{} bounds", bounds.len());
        Self { bounds, buckets: Default::default(), nanoseconds: AtomicU64::new(0) }
    }

    /// Records one.
    pub fn record(&self, time: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < time);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds(time), Ordering::Relaxed);
    }

    /// Its contents now.
    pub fn get(&self) -> Times {
        Self::sum([self])
    }

    /// The contents of histograms with the same bounds, as if they were one.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Histogram>) -> Times {
        let (mut buckets, mut nanoseconds) = (Vec::new(), 0_u64);
        for histogram in all {
            if buckets.is_empty() {
                let bounds = histogram.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
                buckets = bounds.map(|bound| (bound, 0)).collect();
            }
            for ((_, sum), count) in buckets.iter_mut().zip(&histogram.buckets) {
                *sum += count.load(Ordering::Relaxed);
            }
            nanoseconds = nanoseconds.wrapping_add(histogram.nanoseconds.load(Ordering::Relaxed));
        }
        Times {
            sum: Duration::from_nanos(nanoseconds).as_secs_f64(),
            // The sum of the buckets as read above, because other threads continue to count.
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    /// Where this thread counts in each [`PerThread`].
    static PLACE: Cell<usize> = const { Cell::new(0) };
}

/// From now on, this thread counts at this place in each [`PerThread`]. All others count at place 0.
pub fn count_at(place: usize) {
    PLACE.set(place);
}

/// Counters of one kind, once for each thread that serves requests, and once for all others. Threads that
/// write to the same memory wait for each other's caches, for every write.
#[derive(Debug)]
pub struct PerThread<T>(Box<[Apart<T>]>);

/// Shares no cache line with anything else; processors load two lines of 64 bytes at once.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> PerThread<T> {
    /// New counters.
    pub fn new(new: impl Fn() -> T) -> Self {
        let places = thread::available_parallelism().map_or(1, usize::from) + 1;
        Self((0..places).map(|_| Apart(new())).collect())
    }

    /// Those of this thread.
    pub fn here(&self) -> &T {
        &self.0[PLACE.get() % self.0.len()].0
    }

    /// Those of all threads.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Apart(counters)| counters)
    }

    /// The sum of a count over all threads.
    pub fn sum(&self, count: impl Fn(&T) -> u64) -> u64 {
        self.all().map(count).sum()
    }
}

/// Bounds of a [`Histogram`], in microseconds.
pub const fn microseconds<const N: usize>(bounds: [u64; N]) -> [Duration; N] {
    let mut times = [Duration::ZERO; N];
    let mut at = 0;
    while at < N {
        times[at] = Duration::from_micros(bounds[at]);
        at += 1;
    }
    times
}

/// Fine steps up to 5 ms, which no hold should exceed, and one bucket for holds that do.
const LOCK_BOUNDS: [Duration; 10] = microseconds([1, 5, 10, 50, 100, 500, 1_000, 2_500, 5_000, 25_000]);
/// From an empty table to millions of entries.
const RESYNC_BOUNDS: [Duration; 11] = microseconds([
    1_000, 5_000, 25_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000,
]);

/// The counters of the tracker and the daemon.
#[derive(Debug)]
pub struct Stats {
    /// NEW events.
    pub events_new: Counter,
    /// DESTROY events.
    pub events_destroy: Counter,
    /// Mappings added to the table by an event.
    pub created_by_event: Counter,
    /// Mappings added to the table by a dump.
    pub created_by_dump: Counter,
    /// Mappings added to the table because a query has found them.
    pub created_by_query: Counter,
    /// Connections that began without a NEW event, as sweeps have shown.
    pub missing_new_events: Counter,
    /// Connections that ended without a DESTROY event although they had a NEW event.
    pub missing_destroy_events: Counter,
    /// Closed mappings removed after `del_delay`.
    pub removed_after_del_delay: Counter,
    /// Closed mappings removed because they were older than `life_span`.
    pub removed_after_life_span: Counter,
    /// Closed mappings removed before `del_delay` was over, because they were too many.
    pub forgotten: Counter,
    /// Mappings that were not stored because the table was full.
    pub refused: Counter,
    /// Overruns: times that events were lost because the receive buffer was full.
    pub overruns: Counter,
    /// Messages from the kernel that could not be parsed.
    pub malformed: Counter,
    /// Queries to the kernel about single connections.
    pub kernel_queries: Counter,
    /// How long dumps of the kernel's table took, complete or not.
    pub resync_time: Histogram,
    /// Complete dumps.
    pub complete_dumps: Counter,
    /// Incomplete dumps, which were repeated, for example because events were lost.
    pub incomplete_dumps: Counter,
    /// Mappings closed because a dump no longer had them: they had ended without a DESTROY event.
    pub closed_by_dump: Counter,
    /// How long each hold of the table's lock took.
    pub lock_holds: PerThread<Histogram>,
    /// The longest hold.
    pub longest_lock_hold: Longest,
    /// The most processor time of one hold that did more than read the table. A hold that took much
    /// longer had to wait for a processor.
    #[cfg(feature = "bench")]
    pub longest_lock_work: Longest,
    /// When the configuration in force was loaded, in milliseconds since the Unix epoch.
    pub configured_at: AtomicU64,
    /// Whether the last reload failed.
    pub reload_failed: AtomicBool,
    /// Attempts to bind the addresses to listen on that failed.
    pub bind_failures: Counter,
    /// What the recorder of the history does.
    pub history: HistoryStats,
    /// Whether the daemon listens nowhere, because a reload could bind neither the new nor the old
    /// addresses.
    pub listens_nowhere: AtomicBool,
}

/// From a fast disk to one that hangs.
const SYNC_BOUNDS: [Duration; 9] =
    microseconds([100, 500, 1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000]);

/// The counters of the recorder.
#[derive(Debug)]
pub struct HistoryStats {
    /// Whether a history is kept.
    pub is_on: AtomicBool,
    /// Entries appended.
    pub entries: Counter,
    /// Bytes written, to the log and to segments.
    pub bytes: Counter,
    /// Entries that are missing, because they came too fast or could not be written.
    pub dropped: Counter,
    /// Attempts to write that failed.
    pub write_errors: Counter,
    /// How long each sync of a file took.
    pub syncs: Histogram,
    /// Segments.
    pub segments: AtomicU64,
    /// The size of all files.
    pub bytes_on_disk: AtomicU64,
    /// Gaps that have not ended.
    pub open_gaps: AtomicU64,
}

impl Default for HistoryStats {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            entries: Counter::default(),
            bytes: Counter::default(),
            dropped: Counter::default(),
            write_errors: Counter::default(),
            syncs: Histogram::new(&SYNC_BOUNDS),
            segments: AtomicU64::new(0),
            bytes_on_disk: AtomicU64::new(0),
            open_gaps: AtomicU64::new(0),
        }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            events_new: Counter::default(),
            events_destroy: Counter::default(),
            created_by_event: Counter::default(),
            created_by_dump: Counter::default(),
            created_by_query: Counter::default(),
            missing_new_events: Counter::default(),
            missing_destroy_events: Counter::default(),
            removed_after_del_delay: Counter::default(),
            removed_after_life_span: Counter::default(),
            forgotten: Counter::default(),
            refused: Counter::default(),
            overruns: Counter::default(),
            malformed: Counter::default(),
            kernel_queries: Counter::default(),
            resync_time: Histogram::new(&RESYNC_BOUNDS),
            complete_dumps: Counter::default(),
            incomplete_dumps: Counter::default(),
            closed_by_dump: Counter::default(),
            lock_holds: PerThread::new(|| Histogram::new(&LOCK_BOUNDS)),
            longest_lock_hold: Longest::default(),
            #[cfg(feature = "bench")]
            longest_lock_work: Longest::default(),
            configured_at: AtomicU64::new(0),
            reload_failed: AtomicBool::new(false),
            bind_failures: Counter::default(),
            history: HistoryStats::default(),
            listens_nowhere: AtomicBool::new(false),
        }
    }
}

impl Stats {
    /// Notes that a configuration was put into force.
    pub fn note_configured(&self, now: Stamp) {
        self.configured_at.store(now.wall, Ordering::Relaxed);
        self.reload_failed.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_bucket() {
        const BOUNDS: [Duration; 2] = microseconds([10, 1_000]);
        let histogram = Histogram::new(&BOUNDS);
        for nanoseconds in [0, 10_000, 10_001, 1_000_000, 1_000_001, u64::MAX / 4] {
            histogram.record(Duration::from_nanos(nanoseconds));
        }
        let times = histogram.get();
        assert_eq!(times.buckets, [(0.000_01, 2), (0.001, 2), (f64::INFINITY, 2)]);
        assert_eq!(times.count, 6);
        assert!((times.sum - (u64::MAX / 4) as f64 / 1e9).abs() < 1.0, "{times:?}");
    }
}
