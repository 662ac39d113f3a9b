//! What a gateway appends to its history.

use crate::gap::{Gap, Reason};
use crate::record::Record;
use crate::removal::Removal;
use crate::time::Millis;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A mapping opened. If one with the same tuples and id is open, that one ended unseen.
    Opened(Record),
    /// A mapping closed: its `closed` is set. If the history has it as open, it keeps the begin that the
    /// history knows, unless no segment has that yet and the kernel tells this one. Otherwise the record's own
    /// begin is used.
    Closed(Record),
    /// A mapping is open. If the history has it as open, nothing changes.
    Seen(Record),
    /// All mappings that are open now are followed by [`Seen`](Self::Seen), [`Opened`](Self::Opened) or
    /// [`Closed`](Self::Closed). What closed or opened since `since` may have gone unseen.
    Reconcile {
        /// The last moment at which the history knew everything.
        since: Millis,
    },
    /// Like [`Reconcile`](Self::Reconcile), at the begin of a log: what began before it goes on. Gaps that last now do not
    /// widen it.
    Reconciling {
        /// As it was.
        since: Millis,
    },
    /// The mappings that are open have all followed. Those that the history had as open when this began,
    /// and that did not follow, closed at some moment from `since` to `at`. An event would have reported the
    /// end of one whose begin an event has reported. Another can have closed at any moment since
    /// [`Swept`](Self::Swept).
    Reconciled {
        /// When the last of them was open.
        at: Millis,
    },
    /// A gap begins, or a gap of the past is recorded whole.
    Gap(Gap),
    /// The gap with this reason that has no end yet ends.
    GapEnds {
        /// Its reason.
        reason: Reason,
        /// Its end.
        at: Millis,
        /// More about it, known only now.
        detail: Option<String>,
    },
    /// Nothing happened until this moment that the history does not know. What follows it can be lost if the
    /// process ends, so it is appended with what it speaks of.
    Alive {
        /// The moment.
        at: Millis,
    },
    /// All mappings that are open were open at this moment: the kernel's table was read.
    Swept {
        /// The moment.
        at: Millis,
    },
    /// A segment was removed.
    Removed(Removal),
}
