//! The threads that serve connections.
//!
//! Each has its own event loop. A connection stays with one thread, so serving it passes nothing between
//! threads.

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};

/// One thread for each processor that this process may use.
pub struct Workers {
    loops: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts the threads, which run as long as the process does.
    ///
    /// # Errors
    /// When the system cannot start one.
    pub fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let loops = (0..count).map(|_| start_one()).collect::<io::Result<_>>()?;
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

fn start_one() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("http".to_owned()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}
