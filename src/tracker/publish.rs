//! Passing the table's changes on to listeners.

use std::time::Duration;

use super::listener::{BATCH, ChangeEvent, ChangeListener};
use super::shared::Tracker;
use super::state::TrackerState;
use super::watch::ChangeWatch;
use crate::mapping::Mapping;
use crate::question::Question;
use crate::table::{Change, Changes};

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

    /// Watches for changes that match a question from now on.
    pub fn watch_changes(&self, question: Question) -> ChangeWatch {
        let mut state = self.lock();
        state.table.collect_changes(true);
        self.watches.add(question)
    }

    /// Passes changes on to listeners; never returns.
    pub async fn publish(&self) {
        loop {
            self.publisher.waiting.notified().await;
            tokio::time::sleep(COLLECT_TIME).await;
            if let Some(changes) = self.take_changes() {
                self.publish_changes(changes).await;
            }
        }
    }

    /// The changes since the last call, if anybody listens.
    fn take_changes(&self) -> Option<Changes> {
        let mut state = self.lock();
        let changes = state.table.take_changes();
        // The lock is still held, so no listener can begin in between.
        if self.publisher.has_listeners() || !self.watches.is_empty() {
            return Some(changes);
        }
        state.table.collect_changes(false);
        drop(state);
        self.publisher.clear();
        None
    }

    async fn publish_changes(&self, Changes { mut first, changes, next }: Changes) {
        if changes.is_empty() {
            return;
        }
        for part in changes.chunks(BATCH) {
            let mappings: Vec<Mapping> = part
                .iter()
                .filter_map(|change| match change {
                    Change::Opened(mapping) | Change::Closed(mapping) => Some(*mapping),
                    Change::Lost(_) => None,
                })
                .collect();
            // Once for all listeners.
            let mut traced = self.trace(&mappings).await.into_iter();
            let events = part.iter().filter_map(|change| ChangeEvent::new(change, &mut traced));
            let events: Vec<ChangeEvent> = events.collect();
            self.watches.note(&events);
            // A listener that begins now wants later ones only.
            if self.publisher.has_listeners() {
                self.publisher.publish(first, events);
            }
            first += part.len() as u64;
        }
        if first < next {
            self.watches.note_gap();
            self.publisher.publish_gap(next);
        }
    }
}
