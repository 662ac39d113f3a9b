//! The threads that serve connections.
//!
//! Each has an event loop of its own, and a connection stays with the thread
//! it was given to: nothing is handed from thread to thread while it lives.

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
    /// When the system can't start one.
    pub fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let loops = (0..count).map(|_| start_one()).collect::<io::Result<_>>()?;
        Ok(Self { loops, next: AtomicUsize::new(0) })
    }

    /// Waits until each has done something.
    pub async fn all_turn(&self) {
        for one in &self.loops {
            // That the task died would show that the thread lives.
            let _ = one.spawn(async {}).await;
        }
    }

    /// The one whose turn it is to get a connection.
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
