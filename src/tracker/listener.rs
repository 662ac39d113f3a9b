//! Listeners to the table's changes.
//!
//! The tracker only appends changes to a bounded list, under the lock that it holds anyway. A task moves this list
//! into one ring of fixed size a few milliseconds later. A listener is only a position in the ring, so neither the
//! number of listeners nor their speed affects the tracker or its memory. If the ring no longer has the next
//! changes of a listener, it has lost them and learns how many.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::mapping::{Mapping, Traced};
use crate::table::Change;

/// Changes in one batch. Its text, as listeners send it, has about 16 KiB.
pub(super) const BATCH: usize = 32;
/// Changes in the ring. With their texts they use up to 25 MiB.
const RING: usize = 16_384;

/// A change to the table that listeners receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeEvent {
    /// A mapping opened.
    Opened(Traced),
    /// A mapping closed.
    Closed(Traced),
    /// The kernel dropped this many events, and with them what they reported.
    Lost(u64),
}

impl ChangeEvent {
    /// The mapping that opened or closed.
    pub fn mapping(&self) -> Option<&Mapping> {
        match self {
            ChangeEvent::Opened(traced) | ChangeEvent::Closed(traced) => Some(&traced.mapping),
            ChangeEvent::Lost(_) => None,
        }
    }

    /// A change with its mapping traced.
    pub(super) fn new(change: &Change, traced: &mut impl Iterator<Item = Traced>) -> Option<Self> {
        Some(match change {
            Change::Opened(_) => ChangeEvent::Opened(traced.next()?),
            Change::Closed(_) => ChangeEvent::Closed(traced.next()?),
            Change::Lost(count) => ChangeEvent::Lost(*count),
        })
    }
}

/// A few consecutive changes.
#[derive(Debug)]
pub struct ChangeBatch {
    /// The number of the first change.
    first: u64,
    changes: Vec<ChangeEvent>,
    /// All changes as text, in each of four forms, for the listeners that send them all: made by the first one.
    pub texts: [OnceLock<Arc<[u8]>>; 4],
}

impl ChangeBatch {
    fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }
}

/// Passes changes on to listeners.
#[derive(Debug)]
pub(super) struct Publisher {
    ring: Arc<Mutex<Ring>>,
    /// The number of the next change that is published.
    head: watch::Sender<u64>,
    /// Wakes the task that passes changes on.
    pub(super) waiting: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Arc<ChangeBatch>>,
    /// The sum of their changes.
    changes: usize,
    /// The number of the next change.
    next: u64,
}

impl Ring {
    fn push(&mut self, batch: ChangeBatch) {
        self.next = batch.end();
        self.changes += batch.changes.len();
        self.batches.push_back(Arc::new(batch));
        while self.changes > RING {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.changes -= oldest.changes.len();
        }
    }

    /// What a listener whose next change is `expected` gets, if there is anything.
    fn after(&self, expected: u64) -> Option<Received> {
        let at = self.batches.partition_point(|batch| batch.end() <= expected);
        match self.batches.get(at) {
            Some(batch) => Some(Received {
                lost: batch.first.saturating_sub(expected),
                // Changes that were collected for others before this listener began are left out.
                skip: usize::try_from(expected.saturating_sub(batch.first)).unwrap_or(usize::MAX),
                batch: Some(batch.clone()),
            }),
            // Too many changes at once were not kept.
            None if self.next > expected => {
                Some(Received { lost: self.next - expected, skip: 0, batch: None })
            }
            None => None,
        }
    }
}

impl Publisher {
    pub(super) fn new() -> Self {
        Self { ring: Arc::default(), head: watch::Sender::new(0), waiting: Arc::default() }
    }

    /// A listener whose next change is `expected`.
    pub(super) fn listen_for_changes(&self, expected: u64) -> ChangeListener {
        let (ring, head) = (self.ring.clone(), self.head.subscribe());
        ChangeListener { ring, head, expected, _wake: WakeAtEnd(self.waiting.clone()) }
    }

    pub(super) fn has_listeners(&self) -> bool {
        self.head.receiver_count() > 0
    }

    /// Publishes consecutive changes, from number `first` on, at most [`BATCH`].
    pub(super) fn publish(&self, first: u64, changes: Vec<ChangeEvent>) {
        let batch = ChangeBatch { first, changes, texts: Default::default() };
        let next = batch.end();
        self.ring.lock().push(batch);
        self.head.send_replace(next);
    }

    /// Shows listeners that all changes before number `next` that they have not got are lost.
    pub(super) fn publish_gap(&self, next: u64) {
        let mut ring = self.ring.lock();
        ring.next = ring.next.max(next);
        drop(ring);
        self.head.send_replace(next);
    }

    /// Empties the ring, because nobody listens.
    pub(super) fn clear(&self) {
        let mut ring = self.ring.lock();
        let next = ring.next;
        let old = std::mem::replace(&mut *ring, Ring { next, ..Ring::default() });
        drop(ring);
        drop(old);
    }
}

/// Receives changes.
#[derive(Debug)]
pub struct ChangeListener {
    ring: Arc<Mutex<Ring>>,
    head: watch::Receiver<u64>,
    /// The number of the next change.
    expected: u64,
    /// Dropped after `head`, so that the task sees whether anybody still listens.
    _wake: WakeAtEnd,
}

/// Wakes the task that passes changes on.
#[derive(Debug)]
struct WakeAtEnd(Arc<Notify>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// What a listener has received.
#[derive(Debug, Default)]
pub struct Received {
    /// The number of changes that were lost before these.
    pub lost: u64,
    skip: usize,
    batch: Option<Arc<ChangeBatch>>,
}

impl Received {
    /// The changes.
    pub fn changes(&self) -> &[ChangeEvent] {
        let changes = self.batch.as_deref().map_or(&[][..], |batch| &batch.changes);
        changes.get(self.skip..).unwrap_or_default()
    }

    /// The batch that [`changes`](Self::changes) are all of.
    pub fn whole_batch(&self) -> Option<&ChangeBatch> {
        self.batch.as_deref().filter(|_| self.skip == 0)
    }
}

impl ChangeListener {
    /// Waits for changes. `None` when the tracker is gone.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            // Before the ring is read, so that no change in between is missed.
            self.head.borrow_and_update();
            let received = self.ring.lock().after(self.expected);
            if let Some(received) = received {
                self.expected += received.lost + received.changes().len() as u64;
                return Some(received);
            }
            self.head.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(publisher: &Publisher, first: u64, count: u64) {
        publisher.publish(first, (first..first + count).map(ChangeEvent::Lost).collect());
    }

    /// The numbers that a listener receives until it would wait, and how many it has lost.
    async fn drain(listener: &mut ChangeListener) -> (Vec<u64>, u64) {
        let (mut numbers, mut lost) = (Vec::new(), 0);
        while listener.ring.lock().next > listener.expected {
            let received = listener.next().await.unwrap();
            lost += received.lost;
            numbers.extend(received.changes().iter().map(|change| match change {
                ChangeEvent::Lost(number) => *number,
                other => panic!("{other:?}"),
            }));
        }
        (numbers, lost)
    }

    #[tokio::test]
    async fn each_listener_gets_all_changes_from_its_beginning() {
        let publisher = Publisher::new();
        let mut early = publisher.listen_for_changes(10);
        // The first batch was collected for others.
        publish(&publisher, 7, 5);
        let mut late = publisher.listen_for_changes(12);
        publish(&publisher, 12, 3);
        assert_eq!(drain(&mut early).await, ((10..15).collect(), 0));
        assert_eq!(drain(&mut late).await, ((12..15).collect(), 0));
    }

    #[tokio::test]
    async fn a_slow_listener_learns_how_much_it_has_lost_and_the_ring_stays_small() {
        let publisher = Publisher::new();
        let mut slow = publisher.listen_for_changes(0);
        let batches = 3 * RING as u64 / BATCH as u64;
        (0..batches).for_each(|batch| publish(&publisher, batch * BATCH as u64, BATCH as u64));
        assert_eq!(publisher.ring.lock().changes, RING);
        let all = 3 * RING as u64;
        assert_eq!(drain(&mut slow).await, ((all - RING as u64..all).collect(), 2 * RING as u64));
        drop(slow);
        assert!(!publisher.has_listeners());
        publisher.clear();
        assert_eq!(publisher.ring.lock().batches.capacity(), 0);
    }

    #[tokio::test]
    async fn changes_that_were_never_published_are_lost_too() {
        let publisher = Publisher::new();
        let mut listener = publisher.listen_for_changes(0);
        publish(&publisher, 0, 2);
        publisher.publish_gap(100);
        assert_eq!(drain(&mut listener).await, (vec![0, 1], 98));
        publisher.publish_gap(110);
        publish(&publisher, 110, 1);
        assert_eq!(drain(&mut listener).await, (vec![110], 10));
    }
}
