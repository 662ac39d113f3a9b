//! The recorder as the rest of the daemon sees it.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use nathistory::disk::Directory;
use nathistory::{Completeness, Error, Gap, Millis, Options, Question, Reader, Reason, Record, Store};
use tokio::sync::oneshot;

use super::disk::CountedDirectory;
use super::sealing;
use super::shared::Shared;
use super::translate::millis;
use super::writing::Writing;
use crate::clock::Clock;
use crate::config::HistoryConfig;
use crate::error::{Cause, Fatal};
use crate::proc;
use crate::stats::Stats;
use crate::tracker::Tracker;

/// How long a query waits until the thread has appended everything. A disk that is slower makes its answer
/// incomplete.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// If the thread is this far behind, in milliseconds, answers say so. It is less than a query waits.
const MAX_BEHIND: Millis = 1_500;
/// How long the daemon waits for the disk when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A history that is open, and not yet fed.
pub struct Opened {
    store: Store,
    destinations: bool,
    sync_interval: Duration,
    stats: Arc<Stats>,
    clock: Arc<dyn Clock>,
}

/// Feeds the history, and answers questions about it.
pub struct Recorder {
    reader: Reader,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    stopping: Arc<AtomicBool>,
    seal: Thread,
    /// Receives something when the thread `history` has ended.
    ended: Mutex<mpsc::Receiver<Infallible>>,
}

impl Recorder {
    /// Opens the history, if `[history]` has a path.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(
        config: &HistoryConfig,
        clock: &Arc<dyn Clock>,
        stats: &Arc<Stats>,
    ) -> Result<Option<Opened>, Fatal> {
        let Some(path) = &config.path else { return Ok(None) };
        let gateway = config.gateway.clone().or_else(proc::host_name).unwrap_or_else(|| "gateway".to_owned());
        let options = Options {
            gateway: gateway.clone(),
            retention: config.retention_days.map(|days| DAY * days),
            retention_bytes: config.retention_bytes.map(|bytes| bytes.0 as u64),
            ..Options::default()
        };
        let directory = Directory::new(path)
            .map_err(|source| Error::Io { doing: format!("cannot use {}", path.display()), source });
        let opened = directory.and_then(|directory| {
            let disk = Arc::new(CountedDirectory { directory, stats: Arc::clone(stats) });
            nathistory::open(disk, options, millis(clock.now().wall))
        });
        let store = opened.map_err(cannot_open)?;
        stats.history.is_on.store(true, Ordering::Relaxed);
        log::info!("keeping a history of {gateway} in {}", path.display());
        Ok(Some(Opened {
            store,
            destinations: config.destinations,
            sync_interval: config.sync_interval,
            stats: Arc::clone(stats),
            clock: Arc::clone(clock),
        }))
    }

    /// The name of the gateway.
    pub fn gateway(&self) -> &str {
        self.reader.gateway()
    }

    /// Sets how long entries can wait until they are durable.
    pub fn set_sync_interval(&self, interval: Duration) {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.shared.sync_interval.store(interval, Ordering::Relaxed);
    }

    /// Waits until everything that has happened so far can be found, for two seconds at most. Returns until when
    /// everything can be found.
    pub async fn catch_up(&self) -> Millis {
        let (sender, caught_up) = oneshot::channel();
        self.shared.request(|requests| requests.waiting.push(sender));
        let _ = tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await;
        self.shared.recorded_until.load(Ordering::SeqCst)
    }

    /// Passes each mapping that fits to `on`, once, which can stop the search, as can `is_wanted` where nothing fits.
    /// The answer names the gap of what could not be written yet, too. Blocks while it reads.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn find(
        &self,
        question: &Question,
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        let unwritten = self.unwritten();
        let mut found = self.reader.find_while(question, is_wanted, on)?;
        if let Some(gap) = unwritten.filter(|gap| gap.touches(question.from, question.to)) {
            if !found.gaps.iter().any(|other| (other.reason, other.to) == (gap.reason, None)) {
                found.gaps.push(gap);
            }
        }
        Ok(found)
    }

    /// The time of which the history has nothing, because it cannot be written or because the disk is slow.
    fn unwritten(&self) -> Option<Gap> {
        let is_failing = self.shared.is_failing.load(Ordering::SeqCst);
        let from = self.shared.recorded_until.load(Ordering::SeqCst);
        let is_behind = millis(self.clock.now().wall).saturating_sub(from) > MAX_BEHIND;
        let reason = if is_failing { Reason::NotWritten } else { Reason::RecorderBehind };
        (is_failing || is_behind).then_some(Gap { from, to: None, reason, detail: None })
    }

    /// Appends what has happened so far, syncs it, and ends the threads. Blocks for some seconds at most.
    pub fn stop(&self) {
        self.shared.request(|requests| requests.stop = true);
        self.stopping.store(true, Ordering::Relaxed);
        self.seal.unpark();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(STOP_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            log::error!("the disk of the history does not respond: its end is not written");
        }
    }
}

impl Opened {
    /// Begins to record what this tracker tells. A thread that panics calls `on_failure`.
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(
        self,
        tracker: &Arc<Tracker>,
        on_failure: impl Fn(Fatal) + Send + Sync + 'static,
    ) -> Result<Recorder, Fatal> {
        let Self { store, destinations, sync_interval, stats, clock } = self;
        let Store { writer, keeper, reader, last_alive } = store;
        let until = last_alive.unwrap_or_else(|| millis(clock.now().wall));
        let shared = Arc::new(Shared::new(until));
        let on_failure = Arc::new(on_failure);
        let (alive, ended) = mpsc::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let store = (writer, last_alive, destinations);
        let (shared_too, stats_too, clock_too) = (shared.clone(), stats.clone(), clock.clone());
        let writing = Writing::new(Arc::clone(tracker), store, shared_too, stats_too, clock_too);
        let failed = Arc::clone(&on_failure);
        spawn("history", move || {
            let _alive: mpsc::Sender<Infallible> = alive;
            match catch_unwind(AssertUnwindSafe(|| writing.run())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed(Fatal::from(error)),
                Err(_) => failed(Fatal::new(Cause::Software, "the thread history panicked")),
            }
        })?;
        let (stop_seal, seal_clock, figures) = (Arc::clone(&stopping), Arc::clone(&clock), reader.clone());
        let seal = spawn("seal", move || {
            let run = || sealing::run(keeper, &figures, &seal_clock, &stats, &stop_seal);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                on_failure(Fatal::new(Cause::Software, "the thread seal panicked"));
            }
        })?;
        let recorder = Recorder { reader, shared, clock, stopping, seal, ended: Mutex::new(ended) };
        recorder.set_sync_interval(sync_interval);
        Ok(recorder)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<Thread, Fatal> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    let started = started.map_err(|error| {
        Fatal::new(Cause::System, format!("cannot start the thread {name}: {error}")).with_source(error)
    })?;
    Ok(started.thread().clone())
}

/// Why a history cannot be used, and what to do.
fn cannot_open(error: Error) -> Fatal {
    let (cause, hint) = match &error {
        Error::NotAHistory { .. } | Error::Newer { .. } => (Cause::Configuration, String::new()),
        Error::Io { source, .. } if is_forbidden(source.kind()) => (
            Cause::Configuration,
            ("; expected a directory that the daemon's user owns. The service can write only below \
                 /var/lib/pynatconnd, and to what ReadWritePaths= in the unit names")
                .to_owned(),
        ),
        _ => (Cause::System, String::new()),
    };
    Fatal::new(cause, format!("[history] path: {error}{hint}")).with_source(error)
}

fn is_forbidden(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, AlreadyExists | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
}

/// Warns of the keys that differ and take effect only after a restart.
pub fn warn_of_restart(old: &HistoryConfig, new: &HistoryConfig) {
    if old.path.is_none() && new.path.is_none() {
        return;
    }
    let changed = [
        ("path", old.path != new.path),
        ("retention_days", old.retention_days != new.retention_days),
        ("retention_bytes", old.retention_bytes != new.retention_bytes),
        ("destinations", old.destinations != new.destinations),
        ("gateway", old.gateway != new.gateway),
    ];
    for (key, _) in changed.iter().filter(|(_, is_changed)| *is_changed) {
        log::warn!("[history] {key}: another value takes effect after a restart");
    }
}
