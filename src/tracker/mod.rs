//! Keeps the table equal to the kernel.
//!
//! The kernel queues the event of a new connection on the listening socket
//! before the connection's first packet leaves the gateway. So whoever asks
//! first drains that queue, under the lock that guards the table, and reads
//! then: the answer is never older than the question. `caught_up` is the one
//! way to the table for a question, so that nobody can forget.
//!
//! Two threads work beside the questions: `pump` drains the socket while
//! nobody asks, `resync` reads the kernel's whole table at the start, after a
//! loss and from time to time. `lookup` is what can be asked, `changes` what
//! can be listened to, `ports` how full the outside addresses are, `reload` puts
//! another configuration into force.

mod changes;
mod lookup;
mod ports;
mod pump;
mod reload;
mod resync;

use std::convert::Infallible;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, Events, Groups, Query, Waiter};
// One that lets waiting threads in: whoever works through the table slice by
// slice takes the lock again at once.
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::clock::{self, Clock};
use crate::config::{Config, Key, Netlink};
use crate::filter::Filter;
use crate::stats::Stats;
use crate::table::Table;
pub use changes::{Batch, Listener};
pub use lookup::Answer;
pub use ports::PortsInUse;

/// What the tracker needs to know of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is tracked.
    pub filter: Filter,
    /// The key that the legacy interface answers to.
    pub key: Key,
    /// How long a closed mapping is still answered.
    pub del_delay: Duration,
    /// How often old mappings are dropped.
    pub garbage_cleaner_interval: Duration,
    /// How old they must be.
    pub life_span: Duration,
    /// How often the table is compared with the kernel's.
    pub sweep_interval: Duration,
    /// How the kernel is followed.
    pub netlink: Netlink,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            filter: Filter::new(&config.filter),
            key: config.data.key_name,
            del_delay: config.data.del_delay,
            garbage_cleaner_interval: config.data.garbage_cleaner_interval,
            life_span: config.data.life_span,
            sweep_interval: config.data.sweep_interval,
            netlink: config.netlink.clone(),
        }
    }
}

/// See the module's text.
pub struct Tracker {
    state: Mutex<State>,
    /// The event socket, for what needs no lock.
    socket: Waiter,
    /// Counts attempts to receive from it; each is counted before it is made.
    attempts: AtomicU64,
    /// The last attempt that found it empty. Who sees that and takes the lock
    /// then finds all in the table that was queued before that attempt: it was
    /// received under the lock, which is kept until it is in the table.
    drained: AtomicU64,
    /// For questions about single connections; never waited for with the other lock held.
    query: Arc<tokio::sync::Mutex<Query>>,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    requests: resync::Requests,
    /// Whether the table is known to equal the kernel's.
    complete: watch::Sender<bool>,
    /// Whether the kernel's table was read whole since the start.
    loaded: AtomicBool,
    /// How often the thread that drains the socket has come round to it.
    rounds: AtomicU64,
    changes: changes::Publisher,
}

/// What the mutex guards: the table, and the socket that feeds it.
struct State {
    events: Events,
    table: Table,
    settings: Settings,
    /// Messages read from it.
    messages: u64,
    /// Its receive buffer in force, as the kernel counts it.
    receive_buffer: usize,
    /// Counts what makes a dump that runs meanwhile worthless: events lost,
    /// another filter.
    disturbances: u64,
    /// When there was one last.
    disturbed: Instant,
    complete: bool,
    /// When events were lost, if the table was not read whole since.
    lost: Option<Instant>,
    /// Drops that were told of in the log.
    drops_told: u32,
    /// What the log is told once the lock is given back: whoever reads the log
    /// may not be reading.
    to_log: Vec<(Level, String)>,
}

impl State {
    /// Has a line logged once the lock is given back.
    fn log(&mut self, level: Level, line: impl Into<String>) {
        self.to_log.push((level, line.into()));
    }
}

impl Tracker {
    /// Subscribes to the kernel's events in the network namespace of this
    /// thread, and starts the threads. `failed` is called, from one of them,
    /// when the kernel can't be followed any more: from then on the table is
    /// stale and the process should end.
    ///
    /// # Errors
    /// As [`Events::subscribe`]; and when the system can't start a thread.
    pub fn start(
        settings: Settings,
        clock: Arc<dyn Clock>,
        stats: Arc<Stats>,
        failed: impl Fn(Error) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
        let receive_buffer = events.set_receive_buffer(settings.netlink.receive_buffer.0)?;
        events.set_reliable(settings.netlink.reliable)?;
        events.set_filter(&settings.filter.kernel_filter())?;
        let (waiter, socket) = (events.waiter()?, events.waiter()?);
        // Opened here, in the caller's network namespace.
        let dumps = Query::open()?;
        let state = State {
            events,
            table: Table::new(settings.key, settings.del_delay),
            settings,
            messages: 0,
            receive_buffer,
            disturbances: 0,
            disturbed: Instant::now(),
            complete: false,
            lost: None,
            drops_told: 0,
            to_log: Vec::new(),
        };
        let tracker = Arc::new(Self {
            state: Mutex::new(state),
            socket,
            attempts: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            query: Arc::new(tokio::sync::Mutex::new(Query::open()?)),
            clock,
            stats,
            requests: resync::Requests::default(),
            complete: watch::Sender::new(false),
            loaded: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            changes: changes::Publisher::new(),
        });
        let failed: Arc<dyn Fn(Error) + Send + Sync> = Arc::new(failed);
        tracker.spawn("netfilter", failed.clone(), move |tracker| tracker.pump_forever(&waiter))?;
        tracker.spawn("resync", failed, move |tracker| tracker.resync_forever(dumps))?;
        Ok(tracker)
    }

    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        failed: Arc<dyn Fn(Error) + Send + Sync>,
        work: impl FnOnce(&Self) -> Result<Infallible, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let tracker = Arc::clone(self);
        let thread = move || {
            let ended = catch_unwind(AssertUnwindSafe(|| work(&tracker)));
            failed(match ended {
                Ok(Err(error)) => error,
                Err(_) => Error::new(name, std::io::Error::other("the thread died")),
            });
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(thread);
        started.map(|_| ()).map_err(|source| Error::new("starting a thread", source))
    }

    /// The receive buffer of the event socket, in bytes as the kernel counts
    /// them: more than a kilobyte an event.
    pub fn receive_buffer(&self) -> usize {
        self.lock().receive_buffer
    }

    /// How many events the kernel dropped because they were not read fast enough.
    ///
    /// # Errors
    /// As the system says.
    pub fn drops(&self) -> Result<u32, Error> {
        self.socket.drops()
    }

    /// Whether the table is known to equal the kernel's.
    pub fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Notes each time that the table may have become equal to the kernel's, or
    /// ceased to be.
    pub fn watch_complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }

    /// Whether the kernel's table was read whole since the start. It need not
    /// be complete then: the kernel may tell of nothing.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Relaxed)
    }

    /// How often the thread that drains the socket has come round to it: it does
    /// at least once in a second, or hangs.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Whether the socket was seen empty by an attempt after this one, by
    /// whichever thread.
    fn is_drained(&self, after: u64) -> bool {
        self.drained.load(Ordering::SeqCst) > after
    }

    /// Waits until the table equals the kernel's, or for at most `timeout`;
    /// returns whether it does.
    pub async fn wait_complete(&self, timeout: Duration) -> bool {
        let mut complete = self.complete.subscribe();
        let reached = tokio::time::timeout(timeout, complete.wait_for(|complete| *complete)).await;
        reached.is_ok_and(|state| state.is_ok())
    }

    /// Something made the table unequal to the kernel's: says so, and asks for
    /// a dump.
    fn disturb(&self, state: &mut State) {
        state.disturbances += 1;
        state.disturbed = Instant::now();
        state.complete = false;
        self.complete.send_replace(false);
        self.requests.soon();
    }

    /// The guard of the table, unless another thread has it.
    fn try_lock(&self) -> Option<Guard<'_>> {
        let state = self.state.try_lock()?;
        Some(Guard { state, since: Instant::now(), worked_from: None, stats: &self.stats })
    }

    /// The guard of the table. A thread that panicked while it held it may have
    /// left the table half-changed; nothing must be answered from it.
    fn lock(&self) -> Guard<'_> {
        let state = self.state.lock();
        let mut guard = Guard { state, since: Instant::now(), worked_from: None, stats: &self.stats };
        guard.begin_work();
        guard
    }
}

/// The lock, which notes how long it was held.
struct Guard<'a> {
    state: MutexGuard<'a, State>,
    since: Instant,
    /// What the thread's time was when it began to do more than to answer.
    worked_from: Option<Duration>,
    stats: &'a Stats,
}

impl Guard<'_> {
    /// From here on more is done than to answer. To note it takes as long as a
    /// few answers.
    fn begin_work(&mut self) {
        self.worked_from.get_or_insert_with(clock::thread_time);
    }
}

impl Deref for Guard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let held = self.since.elapsed();
        self.stats.lock_held.record(held);
        self.stats.lock_time.record(held);
        if let Some(from) = self.worked_from {
            self.stats.lock_worked.record(clock::thread_time().saturating_sub(from));
        }
        if std::thread::panicking() {
            log::error!("a thread died while it changed the table: ending");
            std::process::abort();
        }
        if !self.state.to_log.is_empty() {
            let lines = std::mem::take(&mut self.state.to_log);
            MutexGuard::unlocked(&mut self.state, || {
                lines.iter().for_each(|(level, line)| log::log!(*level, "{line}"));
            });
        }
    }
}
