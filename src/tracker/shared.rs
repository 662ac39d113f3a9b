//! The tracker that its threads and the lookups share, and its lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nfct::{Error, Waiter};
// Its mutex is eventually fair: work in slices takes the lock again at once, and
// waiting threads must get it between two slices.
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::clashes::Clashes;
use super::dump_request::DumpRequest;
use super::filtering::Filtering;
use super::guard::Guard;
use super::index_requests::IndexRequests;
use super::listener::Publisher;
use super::pulse::Pulses;
use super::state::TrackerState;
use super::verifier::Verifier;
use super::watch::Watches;
use crate::addresses::AddressChanges;
use crate::clock::{Clock, Stamp};
use crate::proc::EventsSetting;
use crate::stats::Stats;
use crate::table::Cursor;

/// Follows the kernel's connections and finds mappings.
pub struct Tracker {
    state: Mutex<TrackerState>,
    /// The event socket, for calls that need no lock.
    pub(super) socket: Waiter,
    /// Counts attempts to receive from the socket; an attempt is counted before
    /// it is made.
    pub(super) attempts: AtomicU64,
    /// The last attempt that found the socket empty. A thread that reads this
    /// number and then takes the lock finds in the table every event that was
    /// queued before that attempt: events are received under the lock, which is
    /// held until they are in the table.
    pub(super) last_empty_attempt: AtomicU64,
    /// Whether the socket was empty when a lookup last looked. It decides only in which order
    /// a lookup does its steps.
    pub(super) is_quiet: AtomicBool,
    /// Queries the kernel about single connections.
    pub(super) verifier: Arc<Verifier>,
    pub(super) clashes: Clashes,
    /// Shows whether the rules of nftables have changed.
    pub(super) rule_changes: Waiter,
    /// Whether the thread that follows the rules has not yet noted what it read.
    pub(super) reads_rules: AtomicBool,
    pub(super) filtering: Mutex<Filtering>,
    /// Shows whether the addresses of the interfaces have changed.
    pub(super) address_changes: AddressChanges,
    /// Whether the filter in force has an interface, whose addresses can change.
    pub(super) has_interfaces: AtomicBool,
    /// Whether the thread that follows the addresses has not yet put a change into force.
    pub(super) reads_addresses: AtomicBool,
    /// The kernel's setting `nf_conntrack_events`.
    pub(super) events_setting: EventsSetting,
    /// Whether it was 0 when it was last read.
    pub(super) events_are_off: AtomicBool,
    /// Whether a recorder is told of each begin and each end.
    pub(super) has_recorder: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stats: Arc<Stats>,
    pub(super) dump_request: DumpRequest,
    pub(super) index_requests: IndexRequests,
    /// Whether the table is known to equal the kernel's.
    pub(super) complete: watch::Sender<bool>,
    /// Whether a complete dump was merged since the start.
    pub(super) loaded: AtomicBool,
    /// Counts rounds of the thread that drains the socket.
    pub(super) rounds: AtomicU64,
    /// Progress of the other threads.
    pub(super) pulses: Pulses,
    pub(super) publisher: Publisher,
    pub(super) watches: Arc<Watches>,
    /// Lookups that scan the table at the same time.
    pub(super) lookup_scans: Semaphore,
    /// Streams that read a slice of the table at the same time.
    pub(super) stream_scans: Semaphore,
}

/// What a tracker is made of, apart from its table.
pub(super) struct Parts {
    pub(super) socket: Waiter,
    pub(super) verifier: Arc<Verifier>,
    pub(super) clashes: Clashes,
    pub(super) rule_changes: Waiter,
    pub(super) filtering: Filtering,
    pub(super) address_changes: AddressChanges,
    pub(super) events_setting: EventsSetting,
}

impl Tracker {
    pub(super) fn new(state: TrackerState, parts: Parts, clock: Arc<dyn Clock>, stats: Arc<Stats>) -> Self {
        // Scans leave half of the processors to the others.
        let scans = (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1);
        let Parts { socket, verifier, clashes, rule_changes, filtering, address_changes, events_setting } =
            parts;
        Self {
            events_are_off: AtomicBool::new(state.reporting.is_off),
            has_recorder: state.recording.is_some(),
            state: Mutex::new(state),
            socket,
            attempts: AtomicU64::new(0),
            last_empty_attempt: AtomicU64::new(0),
            is_quiet: AtomicBool::new(true),
            verifier,
            clashes,
            rule_changes,
            reads_rules: AtomicBool::new(false),
            filtering: Mutex::new(filtering),
            address_changes,
            has_interfaces: AtomicBool::new(false),
            reads_addresses: AtomicBool::new(false),
            events_setting,
            clock,
            stats,
            dump_request: DumpRequest::default(),
            index_requests: IndexRequests::default(),
            complete: watch::Sender::new(false),
            loaded: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            pulses: Pulses::new(),
            publisher: Publisher::new(),
            watches: Arc::default(),
            lookup_scans: Semaphore::new(scans),
            stream_scans: Semaphore::new(scans),
        }
    }

    /// The receive buffer of the event socket, in bytes as the kernel counts
    /// them: more than a kilobyte per event.
    pub fn receive_buffer(&self) -> usize {
        self.lock().receive_buffer
    }

    /// The number of events that the kernel could not deliver because the receive
    /// buffer was full.
    ///
    /// # Errors
    /// When the system cannot read the count.
    pub fn lost_events(&self) -> Result<u32, Error> {
        self.socket.drops()
    }

    /// Whether the table is known to equal the kernel's, as far as the threads have noticed.
    pub(super) fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Notifies of each time that the table may have become complete or
    /// incomplete.
    pub fn watch_complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// Whether a complete dump was merged since the start. The table can still be
    /// incomplete: the kernel may not report connections.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }

    /// The number of rounds of the thread that drains the socket. It makes a round
    /// at least once per second, unless it hangs.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// A thread that has made no progress for longer than `limit`, and for how long. A thread
    /// without work proves every two seconds that it runs.
    pub fn stalled(&self, limit: Duration) -> Option<(&'static str, Duration)> {
        self.pulses.stalled(limit)
    }

    /// Waits until the table equals the kernel's, for at most `timeout`; returns
    /// whether it does.
    pub async fn wait_complete(&self, timeout: Duration) -> bool {
        let mut complete = self.complete.subscribe();
        let reached = tokio::time::timeout(timeout, complete.wait_for(|complete| *complete)).await;
        reached.is_ok_and(|state| state.is_ok())
    }

    /// Whether the socket was found empty, by any thread, in an attempt after
    /// this one.
    pub(super) fn is_drained_since(&self, attempt: u64) -> bool {
        self.last_empty_attempt.load(Ordering::SeqCst) > attempt
    }

    /// Notes that the table may no longer equal the kernel's, and requests a dump.
    pub(super) fn invalidate(&self, state: &mut TrackerState) {
        state.invalidations += 1;
        state.invalidated_at = Instant::now();
        state.synced = false;
        self.update_complete(state);
        self.dump_request.set();
    }

    /// Takes the lock, unless another thread holds it.
    #[inline]
    pub(super) fn try_lock(&self) -> Option<Guard<'_>> {
        Some(Guard::new(self.state.try_lock()?, &self.stats))
    }

    /// Waits for the lock, and takes it.
    #[inline]
    pub(super) fn lock(&self) -> Guard<'_> {
        let mut guard = Guard::new(self.state.lock(), &self.stats);
        guard.begin_work();
        guard
    }

    /// Works through the table, one slice under each hold of the lock. Returns the
    /// sum of the counts that `work` returns.
    pub(super) fn in_slices(
        &self,
        mut work: impl FnMut(&mut TrackerState, Cursor, Stamp) -> (Option<Cursor>, usize),
    ) -> usize {
        let (mut cursor, mut sum) = (Some(Cursor::START), 0);
        while let Some(from) = cursor {
            let mut state = self.lock();
            let (next, count) = work(&mut state, from, self.clock.now());
            cursor = next;
            sum += count;
        }
        sum
    }
}
