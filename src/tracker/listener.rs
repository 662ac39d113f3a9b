//! Listeners to the table's changes.
//!
//! The tracker only appends changes to a bounded list, under the lock that it holds
//! anyway. A task passes the complete list on a few milliseconds later, so neither
//! the number of listeners nor their speed affects the tracker. Each batch has the
//! number of its first change. If that number is greater than the listener expects,
//! the listener has lost the changes between.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::table::{Change, Changes};

/// Batches by which a slow listener can lag behind.
const MAX_BATCHES: usize = 64;

/// Consecutive changes.
#[derive(Debug)]
pub(super) struct ChangeBatch {
    /// The number of the first change.
    first: u64,
    changes: Vec<Change>,
}

/// Passes changes on to listeners.
#[derive(Debug)]
pub(super) struct Publisher {
    batches: broadcast::Sender<Arc<ChangeBatch>>,
    /// Wakes the task that passes changes on.
    pub(super) waiting: Notify,
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self { batches: broadcast::Sender::new(MAX_BATCHES), waiting: Notify::new() }
    }

    /// A listener whose next change is `expected`.
    pub(super) fn listen_for_changes(&self, expected: u64) -> ChangeListener {
        ChangeListener { batches: self.batches.subscribe(), expected }
    }

    pub(super) fn has_listeners(&self) -> bool {
        self.batches.receiver_count() > 0
    }

    pub(super) fn send(&self, Changes { first, changes, next }: Changes) {
        if changes.is_empty() {
            return;
        }
        let is_complete = first + changes.len() as u64 == next;
        let _ = self.batches.send(Arc::new(ChangeBatch { first, changes }));
        if !is_complete {
            // Shows listeners at once that changes were lost.
            let _ = self.batches.send(Arc::new(ChangeBatch { first: next, changes: Vec::new() }));
        }
    }
}

/// Receives changes.
#[derive(Debug)]
pub struct ChangeListener {
    batches: broadcast::Receiver<Arc<ChangeBatch>>,
    /// The number of the next change.
    expected: u64,
}

impl ChangeListener {
    /// Waits for changes; returns them with the number of changes that were lost
    /// before them. `None` when the tracker is gone.
    pub async fn next(&mut self) -> Option<(u64, impl Iterator<Item = Change> + use<>)> {
        let batch = loop {
            match self.batches.recv().await {
                Ok(batch) => break batch,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        };
        // Changes that were collected for others before this listener began are
        // left out.
        let old = usize::try_from(self.expected.saturating_sub(batch.first)).unwrap_or(usize::MAX);
        let lost = batch.first.saturating_sub(self.expected);
        self.expected = self.expected.max(batch.first + batch.changes.len() as u64);
        let range = old.min(batch.changes.len())..batch.changes.len();
        Some((lost, range.map(move |at| batch.changes[at])))
    }
}
