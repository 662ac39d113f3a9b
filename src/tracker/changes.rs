//! Telling listeners of mappings that open and close.
//!
//! The tracker only appends to a bounded list under the lock that it holds
//! anyway; a task passes the list on some milliseconds later, whole. So
//! neither the number of listeners nor their pace touches the tracker. Each
//! batch carries the number of its first change: whoever reads a greater one
//! than expected has lost those between.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{State, Tracker};
use crate::table::{Change, Taken};

/// How long changes are gathered before they are passed on.
const GATHERED_FOR: Duration = Duration::from_millis(2);
/// Batches that a slow listener may be behind.
const MOST_BATCHES: usize = 64;

/// Changes one after the other.
#[derive(Debug)]
pub struct Batch {
    /// The number of the first.
    first: u64,
    changes: Vec<Change>,
}

#[derive(Debug)]
pub(super) struct Publisher {
    batches: broadcast::Sender<Arc<Batch>>,
    waiting: Notify,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self { batches: broadcast::Sender::new(MOST_BATCHES), waiting: Notify::new() }
    }
}

impl Tracker {
    /// After the table may have changed.
    pub(super) fn note_changes(&self, state: &State) {
        if state.table.has_changes() {
            self.changes.waiting.notify_one();
        }
    }

    /// Listens to what changes from now on.
    pub fn listen(&self) -> Listener {
        let mut state = self.lock();
        let batches = self.changes.batches.subscribe();
        Listener { batches, expected: state.table.collect_changes(true) }
    }

    /// Passes changes on to listeners, for ever.
    pub async fn publish(&self) {
        loop {
            self.changes.waiting.notified().await;
            tokio::time::sleep(GATHERED_FOR).await;
            let mut state = self.lock();
            let Taken { first, changes, next } = state.table.take_changes();
            // Under the lock, as `listen` is: nobody begins to listen between.
            if self.changes.batches.receiver_count() == 0 {
                state.table.collect_changes(false);
            } else if !changes.is_empty() {
                let whole = first + changes.len() as u64 == next;
                let _ = self.changes.batches.send(Arc::new(Batch { first, changes }));
                if !whole {
                    // Says at once that some were too many.
                    let _ = self.changes.batches.send(Arc::new(Batch { first: next, changes: Vec::new() }));
                }
            }
        }
    }
}

/// Receives changes.
#[derive(Debug)]
pub struct Listener {
    batches: broadcast::Receiver<Arc<Batch>>,
    /// The number of the next change.
    expected: u64,
}

impl Listener {
    /// Waits for changes; returns them with the number of those that were lost
    /// before them. `None` when the tracker is gone.
    pub async fn next(&mut self) -> Option<(u64, impl Iterator<Item = Change> + use<>)> {
        let batch = loop {
            match self.batches.recv().await {
                Ok(batch) => break batch,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        };
        // What was gathered for others before this one listened is left out.
        let old = usize::try_from(self.expected.saturating_sub(batch.first)).unwrap_or(usize::MAX);
        let lost = batch.first.saturating_sub(self.expected);
        self.expected = self.expected.max(batch.first + batch.changes.len() as u64);
        let range = old.min(batch.changes.len())..batch.changes.len();
        Some((lost, range.map(move |at| batch.changes[at])))
    }
}
