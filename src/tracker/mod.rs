//! Keeps the table equal to the kernel.
//!
//! The kernel queues the event of a new connection on the listening socket
//! before the connection's first packet leaves the gateway. So whoever asks
//! first drains that queue, under the lock that guards the table, and reads
//! then: the answer is never older than the question. [`Tracker::ask`] is the
//! one way to read the table, so that nobody can forget.
//!
//! Two threads work beside the questions: `pump` drains the socket while
//! nobody asks, `resync` reads the kernel's whole table at the start, after a
//! loss and from time to time.

mod pump;
mod resync;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nfct::{Error, Events, Groups};
use tokio::sync::watch;

use crate::clock::{Clock, Stamp};
use crate::config::Key;
use crate::filter::Filter;
use crate::mapping::Mapping;
use crate::stats::Stats;
use crate::table::Table;
use resync::Requests;

/// Receive buffer of the event socket: room for some hundred thousand events.
/// Only what waits in it costs memory.
const RECEIVE_BUFFER: usize = 64 << 20;

/// What the tracker needs to know of the configuration.
#[derive(Debug, Clone)]
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
}

/// See the module's text.
pub struct Tracker {
    state: Mutex<State>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    requests: Requests,
    /// Whether the table is known to equal the kernel's.
    complete: watch::Sender<bool>,
    /// The receive buffer in force, in bytes as the kernel counts them.
    receive_buffer: usize,
}

/// What the mutex guards: the table, and the socket that feeds it.
struct State {
    events: Events,
    table: Table,
    /// How often the socket was seen empty.
    drained: u64,
    /// How often it had overrun.
    overruns: u64,
    /// Bytes read from it.
    bytes: u64,
    complete: bool,
}

/// What a question gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was read from the table.
    pub value: T,
    /// Whether the table was known to equal the kernel's.
    pub complete: bool,
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
        let receive_buffer = events.set_receive_buffer(RECEIVE_BUFFER)?;
        let waiter = events.waiter()?;
        // Opened here, in the caller's network namespace.
        let query = nfct::Query::open()?;
        let state = State {
            events,
            table: Table::new(settings.key, settings.del_delay),
            drained: 0,
            overruns: 0,
            bytes: 0,
            complete: false,
        };
        let tracker = Arc::new(Self {
            state: Mutex::new(state),
            settings,
            clock,
            stats,
            requests: Requests::default(),
            complete: watch::Sender::new(false),
            receive_buffer,
        });
        let failed: Arc<dyn Fn(Error) + Send + Sync> = Arc::new(failed);
        tracker.spawn("netfilter", failed.clone(), move |tracker| tracker.pump_forever(&waiter))?;
        tracker.spawn("resync", failed, move |tracker| tracker.resync_forever(query))?;
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
            let Err(error) = work(&tracker);
            failed(error);
        };
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(thread);
        started.map(|_| ()).map_err(|source| Error::System { doing: "starting a thread", source })
    }

    /// The receive buffer of the event socket, in bytes as the kernel counts
    /// them: more than a kilobyte an event.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// Reads the table as it is now: first takes in what the kernel has queued
    /// until this moment.
    ///
    /// A flood of new events can't hold the answer up: it comes when the socket
    /// was seen empty after the question, or when as much was read as its
    /// buffer can hold.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn ask<T>(&self, read: impl FnOnce(&mut Table, Stamp) -> T) -> Result<Answer<T>, Error> {
        let mut start = None;
        loop {
            {
                let mut state = self.lock();
                let (drained, bytes) = *start.get_or_insert((state.drained, state.bytes));
                self.pump(&mut state)?;
                if state.drained > drained || state.bytes - bytes > self.receive_buffer as u64 {
                    let value = read(&mut state.table, self.clock.now());
                    return Ok(Answer { value, complete: state.complete });
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Hands every mapping to `on`, a slice of the table under each hold of the
    /// lock. Mappings that live all the while show exactly once.
    ///
    /// # Errors
    /// When the kernel can't be followed any more.
    pub async fn scan(&self, mut on: impl FnMut(Mapping)) -> Result<(), Error> {
        let mut next = self.ask(|table, now| table.scan(0, now, &mut on)).await?.value;
        while let Some(slot) = next {
            tokio::task::yield_now().await;
            next = self.lock().table.scan(slot, self.clock.now(), &mut on);
        }
        Ok(())
    }

    /// Waits until the table equals the kernel's, or for at most `timeout`;
    /// returns whether it does.
    pub async fn wait_complete(&self, timeout: Duration) -> bool {
        let mut complete = self.complete.subscribe();
        let reached = tokio::time::timeout(timeout, complete.wait_for(|complete| *complete)).await;
        reached.is_ok_and(|state| state.is_ok())
    }

    /// The guard of the table. A thread that panicked while it held it may have
    /// left the table half-changed; nothing must be answered from it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|_| {
            log::error!("a thread died while it changed the table: ending");
            std::process::abort()
        })
    }
}
