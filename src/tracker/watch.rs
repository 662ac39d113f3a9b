//! Watching for changes that match a question.
//!
//! The task that passes changes on compares them with the question of each watch. So a lookup that waits is not
//! woken by changes that do not match.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::listener::ChangeEvent;
use crate::mapping::Mapping;
use crate::question::Question;

/// Matching mappings that a watch remembers until they are taken.
const MAX_MATCHING: usize = 16;

/// The mappings of changes that match a question.
#[derive(Debug, Default)]
pub struct Matching {
    /// Those that are known.
    pub mappings: Vec<Mapping>,
    /// Whether there may be others: too many have matched, or changes were lost.
    pub is_unknown: bool,
}

impl Matching {
    /// Whether nothing can have matched.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty() && !self.is_unknown
    }
}

#[derive(Debug)]
struct Watched {
    question: Question,
    matching: Mutex<Matching>,
    changed: Notify,
}

/// Watches for changes that match a question, until it is dropped.
#[derive(Debug)]
pub struct ChangeWatch {
    watched: Arc<Watched>,
    all: Arc<Watches>,
}

impl ChangeWatch {
    /// Takes what has matched until now.
    pub fn take(&self) -> Matching {
        std::mem::take(&mut self.watched.matching.lock())
    }

    /// Waits until something matches, and takes it.
    pub async fn next(&self) -> Matching {
        loop {
            let matching = self.take();
            if !matching.is_empty() {
                return matching;
            }
            self.watched.changed.notified().await;
        }
    }
}

impl Drop for ChangeWatch {
    fn drop(&mut self) {
        self.all.list.lock().retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&self.watched)));
    }
}

/// All watches.
#[derive(Debug, Default)]
pub(super) struct Watches {
    list: Mutex<Vec<Weak<Watched>>>,
}

impl Watches {
    pub(super) fn add(self: &Arc<Self>, question: Question) -> ChangeWatch {
        let watched = Arc::new(Watched { question, matching: Mutex::default(), changed: Notify::new() });
        self.list.lock().push(Arc::downgrade(&watched));
        ChangeWatch { watched, all: self.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// Compares changes with the question of each watch. After lost events of the kernel, a resync finds what is
    /// missing, and its changes come too.
    pub(super) fn note(&self, changes: &[ChangeEvent]) {
        for watched in self.list.lock().iter().filter_map(Weak::upgrade) {
            let matches = |mapping: &&Mapping| watched.question.matches(mapping);
            let mut found = changes.iter().filter_map(ChangeEvent::mapping).filter(matches).peekable();
            if found.peek().is_none() {
                continue;
            }
            let mut matching = watched.matching.lock();
            let room = MAX_MATCHING.saturating_sub(matching.mappings.len());
            matching.mappings.extend(found.by_ref().take(room).copied());
            matching.is_unknown |= found.next().is_some();
            drop(matching);
            watched.changed.notify_one();
        }
    }

    /// Notes that changes were lost.
    pub(super) fn note_gap(&self) {
        for watched in self.list.lock().iter().filter_map(Weak::upgrade) {
            watched.matching.lock().is_unknown = true;
            watched.changed.notify_one();
        }
    }
}
