//! Passing the table's changes on to listeners.

use std::time::Duration;

use super::listener::ChangeListener;
use super::shared::Tracker;
use super::state::TrackerState;

/// How long changes are collected before they are passed on.
const COLLECT_TIME: Duration = Duration::from_millis(2);

impl Tracker {
    /// Wakes the publisher if the table has changes for it.
    pub(super) fn notify_changes(&self, state: &TrackerState) {
        if state.table.has_changes() {
            self.publisher.waiting.notify_one();
        }
    }

    /// Listens to all changes from now on.
    pub fn listen_for_changes(&self) -> ChangeListener {
        let mut state = self.lock();
        self.publisher.listen_for_changes(state.table.collect_changes(true))
    }

    /// Passes changes on to listeners; never returns.
    pub async fn publish(&self) {
        loop {
            self.publisher.waiting.notified().await;
            tokio::time::sleep(COLLECT_TIME).await;
            let mut state = self.lock();
            let changes = state.table.take_changes();
            // The lock is still held, so no listener can begin in between.
            if self.publisher.has_listeners() {
                self.publisher.send(changes);
            } else {
                state.table.collect_changes(false);
            }
        }
    }
}
