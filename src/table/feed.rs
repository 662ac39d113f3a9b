//! What a recorder is told: each begin and each end of a mapping, and when the table was not complete.
//!
//! The table puts these into a queue while the tracker's lock is held, and the recorder takes all of
//! them at once. So adding must be cheap: the queue consists of chunks, which the recorder gives
//! back, and never moves what it has. It is bounded. From the first item that finds no room until the
//! recorder takes the queue, all further ones are dropped, so what is missing is always at the end.

use std::collections::VecDeque;

use nfct::{Counters, Flow};

use crate::clock::Stamp;
use crate::tuples::Tuples;

/// Begins and ends that the queue keeps at most.
const MAX_ITEMS: usize = 524_288;
/// Items of one allocation: small, so that it does not hold the table's lock long.
const CHUNK: usize = 512;
/// Chunks that are kept to be filled again.
const MAX_SPARE: usize = 64;

/// How a begin is known. All times are in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeginKnown {
    /// The kernel's timestamp.
    Kernel,
    /// An event was received at that moment.
    Event,
    /// The same, but it can have waited in the socket since then.
    Late(u64),
    /// A dump or a query had it at that moment.
    Found,
    /// Only its end is known.
    Unknown,
}

/// How an end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKnown {
    /// The kernel's timestamp.
    Kernel,
    /// An event was received at that moment.
    Event,
    /// The same, but it can have waited in the socket since then.
    Late(u64),
    /// No event reported it: by that moment it had ended.
    Missed {
        /// When the kernel last told of it.
        told: u64,
        /// It cannot have expired before.
        lasted_until: u64,
        /// Whether an event would have reported its end, if none was lost.
        is_reported: bool,
    },
}

/// A mapping that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its tuples.
    pub tuples: Tuples,
    /// The kernel's conntrack id of this lifetime.
    pub id: u32,
    /// When it began, or was first known.
    pub at: u64,
    /// How that is known.
    pub known: BeginKnown,
}

/// A mapping that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What is known of its begin.
    pub begun: Begun,
    /// Whether the table had it as live. If not, no event and no dump has told of it before.
    pub was_live: bool,
    /// When it ended.
    pub at: u64,
    /// How that is known.
    pub known: EndKnown,
    /// The connection mark at its end, from the DESTROY event.
    pub mark: Option<u32>,
    /// Packets and bytes of the original and of the reply direction, from the DESTROY event.
    pub counters: Option<[Counters; 2]>,
}

/// Why the table was not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// Events were lost.
    Lost,
    /// The kernel does not report everything, or the table is full.
    Unreported,
    /// Another filter was coming into force.
    Filter,
}

/// One thing that a recorder is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedItem {
    /// A mapping began.
    Opened(Begun),
    /// A mapping that began earlier was found by a dump or a query.
    Found(Begun),
    /// A mapping ended, or is no longer followed.
    Closed(Ended),
    /// From `from` on the table may lack mappings.
    Gap {
        /// The last moment at which this was certainly not so.
        from: u64,
        /// Why.
        cause: GapCause,
        /// The reason, more exactly.
        why: &'static str,
    },
    /// A complete dump has been merged.
    Synced {
        /// When the dump began.
        begun: u64,
        /// When it was merged.
        at: u64,
    },
    /// The table equals the kernel's again: all gaps have ended.
    Complete {
        /// When.
        at: u64,
    },
}

/// Items that had no room in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedItems {
    /// How many.
    pub count: u64,
    /// When the first one was dropped.
    pub from: u64,
    /// The earliest moment at which one of them happened.
    pub earliest: u64,
}

/// What a recorder takes.
#[derive(Debug, Default)]
pub struct Fed {
    /// The items, in order.
    pub chunks: VecDeque<Vec<FeedItem>>,
    /// What is missing at their end.
    pub dropped: Option<DroppedItems>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Feed {
    chunks: VecDeque<Vec<FeedItem>>,
    /// Empty chunks.
    spare: Vec<Vec<FeedItem>>,
    items: usize,
    dropped: Option<DroppedItems>,
    /// Events that are applied now can have waited in the socket since then.
    waited_since: Option<u64>,
}

impl Begun {
    /// When the NEW event or the entry of a dump says that a connection began.
    pub(super) fn new(flow: &Flow, now: Stamp, otherwise: BeginKnown) -> Self {
        let (at, known) = match flow.start {
            Some(start) => (wall(start, now), BeginKnown::Kernel),
            None => (now.wall, otherwise),
        };
        Self { tuples: flow.into(), id: flow.id, at, known }
    }
}

impl FeedItem {
    /// The earliest moment at which it can have happened.
    pub fn at(&self) -> u64 {
        match self {
            FeedItem::Opened(begun) | FeedItem::Found(begun) => begun.at,
            FeedItem::Closed(ended) => match ended.known {
                EndKnown::Missed { told, .. } => told,
                _ => ended.at,
            },
            FeedItem::Gap { from: at, .. } | FeedItem::Synced { at, .. } | FeedItem::Complete { at } => *at,
        }
    }
}

impl Feed {
    pub(super) fn new() -> Self {
        Self {
            chunks: VecDeque::with_capacity(MAX_ITEMS / CHUNK + 1),
            spare: Vec::with_capacity(MAX_SPARE),
            items: 0,
            dropped: None,
            waited_since: None,
        }
    }

    /// Sets since when the events that are applied next can have waited in the socket, if that is long.
    pub(super) fn set_waited_since(&mut self, since: Option<u64>) {
        self.waited_since = since;
    }

    /// How a begin is known that a NEW event reports now.
    pub(super) fn begin_by_event(&self) -> BeginKnown {
        self.waited_since.map_or(BeginKnown::Event, BeginKnown::Late)
    }

    /// How an end is known that a DESTROY event reports now.
    pub(super) fn end_by_event(&self) -> EndKnown {
        self.waited_since.map_or(EndKnown::Event, EndKnown::Late)
    }

    /// Adds a begin or an end at the moment `now`, if there is room.
    #[inline]
    pub(super) fn push(&mut self, item: FeedItem, now: Stamp) {
        if self.items >= MAX_ITEMS || self.dropped.is_some() {
            self.drop_item(&item, now);
        } else {
            self.items += 1;
            self.append(item);
        }
    }

    /// Adds an item for which there is always room, because there are few of them.
    pub(super) fn push_always(&mut self, item: FeedItem) {
        self.append(item);
    }

    fn append(&mut self, item: FeedItem) {
        if self.chunks.back().is_none_or(|chunk| chunk.len() == CHUNK) {
            let chunk = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
            self.chunks.push_back(chunk);
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push(item);
        }
    }

    #[cold]
    fn drop_item(&mut self, item: &FeedItem, now: Stamp) {
        let dropped =
            self.dropped.get_or_insert(DroppedItems { count: 0, from: now.wall, earliest: now.wall });
        dropped.count += 1;
        dropped.earliest = dropped.earliest.min(item.at());
    }

    /// Takes everything, and keeps empty chunks to fill them again.
    pub(super) fn take(&mut self, empty: &mut Vec<Vec<FeedItem>>) -> Fed {
        while self.spare.len() < MAX_SPARE {
            let Some(chunk) = empty.pop() else { break };
            self.spare.push(chunk);
        }
        self.items = 0;
        // The capacity must stay: growing under the lock takes time.
        let next = VecDeque::with_capacity(self.chunks.capacity());
        Fed { chunks: std::mem::replace(&mut self.chunks, next), dropped: self.dropped.take() }
    }
}

/// One of the kernel's timestamps in milliseconds, not later than `now`.
pub(super) fn wall(nanoseconds: u64, now: Stamp) -> u64 {
    (nanoseconds / 1_000_000).min(now.wall)
}

#[cfg(test)]
mod tests {
    use nfct::Tuple;

    use super::*;

    fn item(at: u64) -> FeedItem {
        let tuple = Tuple::udp(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2));
        let tuples = Tuples { original: tuple, reply: tuple.reversed() };
        FeedItem::Opened(Begun { tuples, id: 1, at, known: BeginKnown::Event })
    }

    fn now(wall: u64) -> Stamp {
        Stamp { monotonic: wall, wall }
    }

    fn items(fed: &Fed) -> Vec<FeedItem> {
        fed.chunks.iter().flatten().copied().collect()
    }

    #[test]
    fn items_come_out_in_order_and_chunks_are_used_again() {
        let mut feed = Feed::new();
        let mut empty = Vec::new();
        for round in 0..3 {
            let expected: Vec<_> = (0..2000).map(|at| item(round * 10_000 + at)).collect();
            expected.iter().for_each(|item| feed.push(*item, now(0)));
            let mut fed = feed.take(&mut empty);
            assert_eq!(items(&fed), expected);
            assert_eq!(fed.dropped, None);
            fed.chunks.iter_mut().for_each(Vec::clear);
            empty.extend(fed.chunks);
        }
        assert!(feed.take(&mut empty).chunks.is_empty());
        assert_eq!(feed.spare.len(), 8, "those that were filled while others were read");
    }

    #[test]
    fn what_has_no_room_is_counted_and_only_the_end_is_missing() {
        let mut feed = Feed::new();
        (0..MAX_ITEMS as u64).for_each(|at| feed.push(item(at), now(at)));
        let full = MAX_ITEMS as u64;
        feed.push(item(full + 5), now(full + 5));
        // The kernel's timestamp can be older than the event.
        feed.push(item(full - 7), now(full + 6));
        let complete = FeedItem::Complete { at: full + 7 };
        feed.push_always(complete);
        let fed = feed.take(&mut Vec::new());
        assert_eq!(fed.chunks.iter().map(Vec::len).sum::<usize>(), MAX_ITEMS + 1);
        assert_eq!(fed.chunks.back().and_then(|chunk| chunk.last()), Some(&complete));
        let dropped = DroppedItems { count: 2, from: full + 5, earliest: full - 7 };
        assert_eq!(fed.dropped, Some(dropped));
        feed.push(item(1), now(1));
        let fed = feed.take(&mut Vec::new());
        assert_eq!((items(&fed), fed.dropped), (vec![item(1)], None));
    }

    #[test]
    fn an_item_is_small_enough_to_be_copied_under_the_lock() {
        assert!(size_of::<FeedItem>() <= 256, "{}", size_of::<FeedItem>());
    }
}
