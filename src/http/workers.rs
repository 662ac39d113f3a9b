//! The threads that serve connections.
//!
//! Each has its own event loop. A connection stays with one thread, so serving it passes nothing between
//! threads.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};

use crate::error::{Cause, Fatal};
use crate::stats;

/// Tasks that run before the thread looks for requests that have arrived meanwhile. With fewer tasks than requests,
/// those that arrived together would not be served together.
const TASKS_PER_WAKE_UP: u32 = 256;

/// One thread for each processor that this process may use.
pub struct Workers {
    loops: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts the threads, which run as long as the process does. One that ends nevertheless calls
    /// `on_failure`: clients get no response from then on.
    ///
    /// # Errors
    /// When the system cannot start one.
    pub fn start(on_failure: impl Fn(Fatal) + Send + Sync + 'static) -> io::Result<Self> {
        let on_failure = Arc::new(on_failure);
        let count = thread::available_parallelism().map_or(1, usize::from);
        let loops =
            (1..=count).map(|number| start_one(number, on_failure.clone())).collect::<io::Result<_>>()?;
        Ok(Self { loops, next: AtomicUsize::new(0) })
    }

    /// Waits until every thread has run a task.
    pub async fn all_respond(&self) {
        for worker in &self.loops {
            // Even a panicked task proves that the thread runs.
            let _ = worker.spawn(async {}).await;
        }
    }

    /// The thread that gets the next connection.
    pub(super) fn next(&self) -> &Handle {
        &self.loops[self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len()]
    }
}

fn start_one(number: usize, on_failure: Arc<impl Fn(Fatal) + Send + Sync + 'static>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().event_interval(TASKS_PER_WAKE_UP).enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        stats::count_at(number);
        let served = catch_unwind(AssertUnwindSafe(|| runtime.block_on(pending::<Infallible>())));
        if served.is_err() {
            on_failure(Fatal::new(Cause::Software, "a thread that serves connections panicked"));
        }
    })?;
    Ok(handle)
}
