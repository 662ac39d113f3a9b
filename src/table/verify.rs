//! Verifying doubtful mappings with the kernel's answers.

use std::cmp::Ordering;
use std::time::Duration;

use nfct::{Flow, Protocol};

use super::entry::{PackedMapping, SlotState};
use super::family::FamilyTable;
use super::heads::IndexedBy;
use super::journal::Journal;
use super::packed::{Address, PackedTuple};
use crate::clock::Stamp;
use crate::mapping::{Doubt, Source};

/// Entries that share a public address and port and are compared at most.
const MAX_COMPARED: usize = 64;
/// The shortest timeout of SCTP or DCCP in a state that a packet can bring about.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a query to the kernel has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// The kernel has the connection of the live mapping.
    Live,
    /// The live mapping has ended.
    Ended,
    /// The kernel has a connection that the table lacked. It is in the table now.
    Added,
    /// Neither has one, or the table has newer information than the query.
    Nothing,
}

/// The moment before a query to the kernel. What has changed in the table since then is newer
/// than the kernel's answer.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The number of the entry that was stored last.
    pub(super) entry: u32,
    /// The number of the last closing.
    pub(super) closing: u16,
    pub(super) at: Stamp,
}

/// Whether an entry with this number was stored after the entry `than`. Numbers wrap around; those that
/// were given since then end with `last`.
pub(super) fn is_later(number: u32, than: u32, last: u32) -> bool {
    (1..=last.wrapping_sub(than)).contains(&number.wrapping_sub(than))
}

impl Asked {
    /// Whether an entry with this number was stored later. `last` is the number of the last entry now.
    pub(super) fn is_before(&self, number: u32, last: u32) -> bool {
        is_later(number, self.entry, last)
    }
}

impl<A: Address> FamilyTable<A> {
    /// Whether the mapping of a live slot must be verified.
    pub(super) fn doubt(&self, slot: u32, now: Stamp) -> Doubt {
        let entry = self.entries.get(slot);
        if entry.is_unreported() {
            return Doubt::Unreported;
        }
        let (since, timeout) = entry.told(now);
        if entry.is_suspect() || since >= timeout || (entry.shares_port() && self.has_rival(slot)) {
            return Doubt::Doubtful;
        }
        let Some(closing) = self.shortest_timeout(entry.protocol()) else { return Doubt::None };
        if u128::from(since) >= closing.as_millis() { Doubt::Aged } else { Doubt::None }
    }

    /// The shortest timeout that a packet can give to a connection; `None` if packets only extend it.
    pub(super) fn shortest_timeout(&self, protocol: Protocol) -> Option<Duration> {
        match protocol {
            Protocol::Tcp => Some(self.closing_timeout),
            Protocol::Sctp | Protocol::Dccp => Some(SHORT_TIMEOUT),
            _ => None,
        }
    }

    /// Whether a live mapping of another inside address and port has the same public address,
    /// port and protocol.
    fn has_rival(&self, slot: u32) -> bool {
        let Some(index) = self.index(IndexedBy::NatIpAndPort) else { return true };
        let inside = |entry: &PackedMapping<A>| {
            let original = entry.original();
            (original.src, original.src_port(), original.zone(), original.protocol())
        };
        let mut compared = 0;
        let is_rival = |other: u32| {
            compared += 1;
            let (this, other) = (self.entries.get(slot), self.entries.get(other));
            compared > MAX_COMPARED
                || (other.state() == SlotState::Live
                    && other.protocol() == this.protocol()
                    && inside(this) != inside(other))
        };
        index.newer(slot).chain(index.older(slot)).any(is_rival)
    }

    /// Marks a live mapping for verification, and requests it. A query that was made before does
    /// not verify it.
    pub(super) fn suspect(&mut self, slot: u32, journal: &mut Journal) {
        let entry = self.entries.get_mut(slot);
        entry.next = journal.number_entry();
        if !entry.is_suspect() {
            entry.set_suspect(true);
            journal.request_verification(entry.reply().unpack());
        }
    }

    /// Applies the kernel's answer to a query for `reply`, which was made after `asked`.
    pub(super) fn verified(
        &mut self,
        reply: &PackedTuple<A>,
        found: Option<&Flow>,
        asked: Asked,
        now: Stamp,
        journal: &mut Journal,
    ) -> Verified {
        let live = self.tuple_index.live(reply, &self.entries);
        let Some(slot) = live else {
            return if found.is_some_and(|flow| self.adopt_unless_closed(flow, asked, now, journal)) {
                Verified::Added
            } else {
                Verified::Nothing
            };
        };
        let is_later = found.is_some_and(|flow| self.is_before(slot, flow, now) == Some(true));
        let entry = self.entries.get_mut(slot);
        if asked.is_before(entry.sequence, journal.last_entry()) {
            if entry.is_suspect() {
                journal.request_verification(reply.unpack());
            }
            return Verified::Nothing;
        }
        let is_this = |flow: &&Flow| {
            flow.id == entry.id && PackedTuple::pack(&flow.original) == Some(entry.original()) && !is_later
        };
        match found {
            Some(flow) if is_this(&flow) => {
                if entry.is_suspect() && asked.is_before(entry.next, journal.last_entry()) {
                    // It may have ended since.
                    journal.request_verification(reply.unpack());
                } else {
                    entry.set_suspect(false);
                }
                // The reply may have come some time ago.
                entry.set_told_if_newer(flow, asked.at);
                Verified::Live
            }
            Some(flow) => {
                self.close_unreported(slot, now, journal);
                self.adopt(flow, now, journal);
                Verified::Added
            }
            None => {
                self.close_unreported(slot, now, journal);
                Verified::Ended
            }
        }
    }

    /// Closes a live mapping whose end the kernel has not reported.
    fn close_unreported(&mut self, slot: u32, now: Stamp, journal: &mut Journal) {
        let entry = self.entries.get(slot);
        let is_missing = self.expects_ends && !entry.is_unreported() && !entry.is_suspect();
        self.close_slot(slot, now, journal);
        let entry = self.entries.get_mut(slot);
        entry.set_unreported(true);
        entry.set_suspect(is_missing);
        self.missing_ends += usize::from(is_missing);
    }

    /// Adds a connection that a query found, unless its lifetime has closed since then.
    fn adopt_unless_closed(&mut self, flow: &Flow, asked: Asked, now: Stamp, journal: &mut Journal) -> bool {
        let closed = self.pack(flow).and_then(|tuples| self.find_closed(&tuples, flow.id));
        let is_later = |slot| {
            let entry = self.entries.get(slot);
            // The numbers order the closings of one millisecond.
            match entry.closed().monotonic().cmp(&asked.at.monotonic) {
                Ordering::Less => false,
                Ordering::Equal => {
                    (1..=u16::MAX / 2).contains(&entry.dump_number.wrapping_sub(asked.closing))
                }
                Ordering::Greater => true,
            }
        };
        if closed.is_some_and(is_later) {
            // Or it is a new lifetime with the same id.
            journal.request_verification(flow.reply);
            return false;
        }
        self.adopt(flow, now, journal)
    }

    /// Adds a connection that a query found.
    fn adopt(&mut self, flow: &Flow, now: Stamp, journal: &mut Journal) -> bool {
        let Some(tuples) = self.pack(flow) else { return false };
        if self.tuple_index.live(&tuples.reply, &self.entries).is_some() || !self.has_room(journal) {
            return false;
        }
        self.insert(&tuples, flow, Source::Kernel, false, now, journal);
        true
    }

    /// Marks the live mappings of a slice as such that may end without a DESTROY event.
    /// Returns where to continue.
    pub(super) fn distrust(&mut self, from: u32) -> Option<u32> {
        let (slice, next) = self.slice(from);
        for slot in slice {
            let entry = self.entries.get_mut(slot);
            if entry.state() == SlotState::Live && !entry.is_unreported() {
                entry.set_unreported(true);
                self.unreported += 1;
            }
        }
        next
    }

    /// Passes the reply tuples of the live mappings of a slice that may end without a DESTROY
    /// event to `on`, at most `max`. Returns where to continue.
    pub(super) fn unreported_in(
        &self,
        from: u32,
        max: usize,
        mut on: impl FnMut(nfct::Tuple),
    ) -> Option<u32> {
        let (slice, next) = self.slice(from);
        let mut left = max;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state() != SlotState::Live || !entry.is_unreported() {
                continue;
            }
            if left == 0 {
                return Some(slot);
            }
            left -= 1;
            on(entry.reply().unpack());
        }
        next
    }
}
