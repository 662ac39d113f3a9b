//! The table: one part per address family, and one journal for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nfct::{Flow, Protocol, Tuple};

use super::cursor::Cursor;
use super::family::FamilyTable;
use super::feed::{Fed, Feed, FeedItem};
use super::heads::{IndexedBy, WARMED};
use super::index::Unfinished;
use super::journal::{Change, Changes, Dropped, Journal};
use super::packed::{Packed, PackedFlow, PackedTuple};
use super::queries::Transport;
use super::report::CloseResult;
use super::verify::{Asked, Verified};

use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Mapping;
use crate::question::Question;
use crate::tuples::{KeyValue, Tuples};

/// The mappings of both address families.
#[derive(Debug)]
pub struct Table {
    pub(super) v4: FamilyTable<Ipv4Addr>,
    pub(super) v6: FamilyTable<Ipv6Addr>,
    journal: Journal,
    limits: Limits,
}

/// Mappings that one event, or one reply of the kernel, adds at most.
const STORED_AT_ONCE: usize = 2;
/// How many times as many closed mappings as otherwise are kept while events wait.
const BURST: usize = 4;

/// How many mappings a table stores at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Closed mappings. Those that closed first are removed first.
    pub closed: usize,
    /// Live and closed mappings. Closed ones are removed first; then further ones are refused.
    pub all: usize,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { closed: usize::MAX, all: usize::MAX };
}

/// Does the work in the part of IPv4 or of IPv6.
macro_rules! in_family {
    ($table:expr, $v4:expr, $family:ident => $work:expr) => {
        if $v4 {
            let $family = &mut $table.v4;
            $work
        } else {
            let $family = &mut $table.v6;
            $work
        }
    };
}

/// Does the work in the part of a packed flow's family, which may store what there is room for.
/// `otherwise` is the result for tuples of two families.
macro_rules! store_packed {
    ($table:expr, $packed:expr, $now:expr, $otherwise:expr, ($family:ident, $tuples:ident) => $work:expr) => {{
        let room = $table.room();
        let result = match &$packed.0 {
            Packed::V4($tuples) => {
                let $family = &mut $table.v4;
                $family.room = room;
                $work
            }
            Packed::V6($tuples) => {
                let $family = &mut $table.v6;
                $family.room = room;
                $work
            }
            Packed::Mixed => $otherwise,
        };
        $table.make_room($now);
        result
    }};
}

impl Table {
    /// An empty table. `key` is the key of the legacy routes, whose index exists always.
    pub fn new(key: Key, del_delay: Duration) -> Self {
        Self {
            v4: FamilyTable::new(key, del_delay),
            v6: FamilyTable::new(key, del_delay),
            journal: Journal::default(),
            limits: Limits::NONE,
        }
    }

    /// Sets how many mappings are stored at most. Stored ones are removed later, by
    /// [`forget_surplus`](Self::forget_surplus).
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What the limits have cost since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        self.journal.take_dropped()
    }

    /// Whether there is room again for a good number of live mappings.
    pub fn has_room_again(&self) -> bool {
        self.live() < self.limits.all - self.limits.all / 10
    }

    /// How many more live mappings may be stored.
    fn room(&self) -> usize {
        self.limits.all.saturating_sub(self.live())
    }

    /// Removes closed mappings that are too many, at most `max`, and returns how many. Those that
    /// closed first are removed first. Call it when no events wait: removing takes longer than
    /// closing, and a burst must not fill the receive buffer.
    pub fn forget_surplus(&mut self, now: Stamp, max: usize) -> usize {
        self.forget_beyond(self.limits.closed, now, max)
    }

    /// Removes as many closed mappings as one event can have added, if there is no room for them even
    /// in a burst.
    fn make_room(&mut self, now: Stamp) {
        self.forget_beyond(self.limits.closed.saturating_mul(BURST), now, STORED_AT_ONCE);
    }

    fn forget_beyond(&mut self, closed: usize, now: Stamp, max: usize) -> usize {
        for removed in 0..max {
            let kept = self.v4.kept + self.v6.kept;
            if kept == 0 || (kept <= closed && self.live() + kept <= self.limits.all) {
                return removed;
            }
            let closed_at = |stamp: Option<Stamp>| stamp.map_or(u64::MAX, |stamp| stamp.monotonic);
            if closed_at(self.v4.oldest_closed()) <= closed_at(self.v6.oldest_closed()) {
                self.v4.forget_oldest(now, &mut self.journal);
            } else {
                self.v6.forget_oldest(now, &mut self.journal);
            }
        }
        max
    }

    /// The number of live mappings.
    pub fn live(&self) -> usize {
        self.v4.live + self.v6.live
    }

    /// The number of closed mappings that are still kept.
    pub fn closed(&self) -> usize {
        self.v4.closed + self.v6.closed
    }

    /// Sets whether changes are collected for
    /// [`take_changes`](Self::take_changes). Returns the number of the next
    /// change.
    pub fn collect_changes(&mut self, collect: bool) -> u64 {
        self.journal.collect(collect)
    }

    /// Whether there are changes to take.
    pub fn has_changes(&self) -> bool {
        self.journal.has_changes()
    }

    /// The changes since the last call, if they are collected.
    pub fn take_changes(&mut self) -> Changes {
        self.journal.take()
    }

    /// Begins to tell a recorder of each begin and each end of a mapping.
    pub fn begin_feed(&mut self) {
        self.journal.feed = Some(Box::new(Feed::new()));
    }

    /// Whether a recorder is told.
    #[inline]
    pub fn has_feed(&self) -> bool {
        self.journal.feed.is_some()
    }

    /// Tells the recorder something about the whole table.
    pub fn feed_always(&mut self, item: FeedItem) {
        if let Some(feed) = &mut self.journal.feed {
            feed.push_always(item);
        }
    }

    /// Sets since when the events that are applied next can have waited in the socket, if that is long.
    pub fn set_waited_since(&mut self, since: Option<u64>) {
        if let Some(feed) = &mut self.journal.feed {
            feed.set_waited_since(since);
        }
    }

    /// Takes what the recorder is told, and `empty` chunks to be filled again.
    pub fn take_feed(&mut self, empty: &mut Vec<Vec<FeedItem>>) -> Fed {
        self.journal.take_feed(empty)
    }

    /// Packs the tuples of flows, and loads what their events or entries need into the processor's cache.
    /// Changes nothing in the table. [`WARMED`] flows are as many as fit.
    pub fn prepare<'a>(&self, flows: impl Iterator<Item = &'a Flow>, packed: &mut Vec<PackedFlow>) {
        packed.clear();
        packed.extend(flows.map(|flow| self.pack(flow)));
        packed.chunks(WARMED).for_each(|packed| self.warm(packed));
    }

    /// Packs the tuples of a flow.
    #[inline]
    fn pack(&self, flow: &Flow) -> PackedFlow {
        PackedFlow(if flow.original.src.is_ipv4() {
            self.v4.pack(flow).map_or(Packed::Mixed, Packed::V4)
        } else {
            self.v6.pack(flow).map_or(Packed::Mixed, Packed::V6)
        })
    }

    fn warm(&self, flows: &[PackedFlow]) {
        let v4 = |flow: &'_ PackedFlow| if let Packed::V4(tuples) = flow.0 { Some(tuples) } else { None };
        self.v4.warm(flows.iter().filter_map(v4));
        let v6 = |flow: &'_ PackedFlow| if let Packed::V6(tuples) = flow.0 { Some(tuples) } else { None };
        self.v6.warm(flows.iter().filter_map(v6));
    }

    /// Applies a NEW event. Returns whether it opened a mapping.
    pub fn open(&mut self, flow: &Flow, now: Stamp) -> bool {
        self.open_packed(flow, &self.pack(flow), now)
    }

    /// [`open`](Self::open), with the flow [packed](Self::pack).
    pub(super) fn open_packed(&mut self, flow: &Flow, packed: &PackedFlow, now: Stamp) -> bool {
        store_packed!(self, packed, now, false, (family, tuples) => {
            family.open(tuples, flow, now, &mut self.journal)
        })
    }

    /// Applies a DESTROY event: closes the lifetime that it names and no other. An
    /// unknown lifetime is stored as closed.
    pub fn close(&mut self, flow: &Flow, now: Stamp) -> CloseResult {
        self.close_packed(flow, &self.pack(flow), now)
    }

    /// [`close`](Self::close), with the flow [packed](Self::pack).
    pub(super) fn close_packed(&mut self, flow: &Flow, packed: &PackedFlow, now: Stamp) -> CloseResult {
        store_packed!(self, packed, now, CloseResult::Stale, (family, tuples) => {
            family.close(tuples, flow, now, &mut self.journal)
        })
    }

    /// This moment, before a query to the kernel, for [`verified`](Self::verified).
    pub fn asked(&self, now: Stamp) -> Asked {
        Asked { entry: self.journal.last_entry(), closing: self.journal.last_closing(), at: now }
    }

    /// Applies the kernel's answer to a query for this reply tuple: the connection that has
    /// it, if there is one that is not dying. `asked` is [`asked`](Self::asked) before the query;
    /// a mapping that was stored since then does not change.
    pub fn verified(&mut self, reply: &Tuple, found: Option<&Flow>, asked: Asked, now: Stamp) -> Verified {
        let room = self.room();
        let result = in_family!(self, reply.src.is_ipv4(), family => {
            family.room = room;
            let Some(reply) = PackedTuple::pack(reply) else { return Verified::Nothing };
            family.verified(&reply, found, asked, now, &mut self.journal)
        });
        self.make_room(now);
        result
    }

    /// The reply tuples of mappings that must be verified soon, at most `max`.
    pub fn take_requested(&mut self, max: usize) -> Vec<Tuple> {
        self.journal.take_requested(max)
    }

    /// Requests again what could not be verified.
    pub fn request_again(&mut self, replies: &[Tuple]) {
        replies.iter().for_each(|reply| self.journal.request_verification(*reply));
    }

    /// Whether there are mappings that must be verified soon.
    pub fn has_requested(&self) -> bool {
        self.journal.has_requested()
    }

    /// The number of live mappings that may end without a DESTROY event.
    pub fn unreported(&self) -> usize {
        self.v4.unreported + self.v6.unreported
    }

    /// Passes the reply tuples of live mappings that may end without a DESTROY event to
    /// `on`, at most `max`; works on one slice from `cursor` on, as [`scan`](Self::scan) does.
    pub fn unreported_in(&self, cursor: Cursor, max: usize, on: impl FnMut(Tuple)) -> Option<Cursor> {
        cursor.after(if cursor.is_v4 {
            self.v4.unreported_in(cursor.slot, max, on)
        } else {
            self.v6.unreported_in(cursor.slot, max, on)
        })
    }

    /// Whether the kernel reports the end of each connection whose NEW event it sends. If
    /// not, mappings that open from now on may end without a DESTROY event.
    pub fn set_trusts_events(&mut self, trusts_events: bool) {
        self.v4.trusts_events = trusts_events;
        self.v6.trusts_events = trusts_events;
    }

    /// Marks the live mappings of one slice from `cursor` on as such that may end without a
    /// DESTROY event. Returns where to continue, or `None` at the end.
    pub fn distrust(&mut self, cursor: Cursor) -> Option<Cursor> {
        let next = in_family!(self, cursor.is_v4, family => family.distrust(cursor.slot));
        cursor.after(next)
    }

    /// Sets the shortest timeout of a TCP connection that closes.
    pub fn set_closing_timeout(&mut self, timeout: Duration) {
        self.v4.closing_timeout = timeout;
        self.v6.closing_timeout = timeout;
    }

    /// Zones that the table has had, except zone 0: the lowest, `max` at most.
    pub fn zones(&self, max: usize) -> Vec<u16> {
        self.v4.zones.union(&self.v6.zones).copied().take(max).collect()
    }

    /// Whether no event has been lost, so that an end without one is evidence of missing events.
    pub fn set_expects_ends(&mut self, expects_ends: bool) {
        for (expects, missing) in [
            (&mut self.v4.expects_ends, &mut self.v4.missing_ends),
            (&mut self.v6.expects_ends, &mut self.v6.missing_ends),
        ] {
            *expects = expects_ends;
            *missing = if expects_ends { *missing } else { 0 };
        }
    }

    /// The number of mappings that ended, as a query has shown, although their DESTROY event
    /// has not come yet.
    pub fn missing_ends(&self) -> usize {
        self.v4.missing_ends + self.v6.missing_ends
    }

    /// Takes this number: from now on it begins at 0.
    pub fn take_missing_ends(&mut self) -> usize {
        std::mem::take(&mut self.v4.missing_ends) + std::mem::take(&mut self.v6.missing_ends)
    }

    /// Tells listeners that the kernel dropped this many events.
    pub fn record_loss(&mut self, events: u64) {
        self.journal.record(|| Change::Lost(events));
    }

    /// Removes about `max` closed mappings whose `del_delay` is over, and returns
    /// how many. Lookups do not see such mappings, whether removed or not.
    pub fn expire(&mut self, now: Stamp, max: usize) -> usize {
        let removed = self.v4.expire(now, max);
        removed + self.v6.expire(now, max.saturating_sub(removed))
    }

    /// The time until [`expire`](Self::expire) has something to do.
    pub fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        self.v4.next_expiry(now).into_iter().chain(self.v6.next_expiry(now)).min()
    }

    /// Begins to merge a dump of the kernel's table: from now on the table notes
    /// the lifetimes that end, because the dump may still contain them.
    pub fn begin_dump(&mut self) {
        self.v4.begin_dump();
        self.v6.begin_dump();
    }

    /// Merges a connection of the dump, which the kernel had at the moment `read`. Returns
    /// whether it was unknown.
    pub fn merge(&mut self, flow: &Flow, read: Stamp, now: Stamp) -> bool {
        self.merge_packed(flow, &self.pack(flow), read, now)
    }

    /// [`merge`](Self::merge), with the flow [prepared](Self::prepare).
    pub fn merge_packed(&mut self, flow: &Flow, packed: &PackedFlow, read: Stamp, now: Stamp) -> bool {
        store_packed!(self, packed, now, false, (family, tuples) => {
            family.merge(tuples, flow, read, now, &mut self.journal)
        })
    }

    /// Passes the reply tuples of the live mappings that the dump did not contain, and
    /// that did not open while it ran, to `on`; works on one slice from `cursor` on, as
    /// [`scan`](Self::scan) does.
    pub fn unseen(&self, cursor: Cursor, on: impl FnMut(Tuple)) -> Option<Cursor> {
        cursor.after(if cursor.is_v4 {
            self.v4.unseen(cursor.slot, on)
        } else {
            self.v6.unseen(cursor.slot, on)
        })
    }

    /// Whether the live mapping with this reply tuple came from a dump, and no event has
    /// reported it since. `merged` is [`asked`](Self::asked) after it was merged.
    pub fn is_only_dumped(&mut self, reply: &Tuple, merged: Asked) -> bool {
        let last = self.journal.last_entry();
        in_family!(self, reply.src.is_ipv4(), family => {
            PackedTuple::pack(reply).is_some_and(|reply| family.is_only_dumped(&reply, merged, last))
        })
    }

    /// Ends a dump, complete or not. The returned value takes some time to drop:
    /// drop it without the lock.
    pub fn end_dump(&mut self) -> impl Sized + use<> {
        (self.v4.end_dump(), self.v6.end_dump())
    }

    /// Removes closed mappings that opened more than `life_span` ago, one slice
    /// at a time, as [`scan`](Self::scan) does.
    pub fn remove_old(&mut self, cursor: Cursor, life_span: Duration, now: Stamp) -> (Option<Cursor>, usize) {
        let (next, removed) = in_family!(self, cursor.is_v4, family => {
            family.remove_old(cursor.slot, life_span, now)
        });
        (cursor.after(next), removed)
    }

    /// Removes mappings, also live ones, for which `keep` returns false; one slice
    /// at a time, as [`scan`](Self::scan) does.
    pub fn retain(
        &mut self,
        cursor: Cursor,
        now: Stamp,
        keep: impl Fn(&Tuples) -> bool,
    ) -> (Option<Cursor>, usize) {
        let (next, removed) = in_family!(self, cursor.is_v4, family => {
            family.retain(cursor.slot, now, keep, &mut self.journal)
        });
        (cursor.after(next), removed)
    }

    /// Passes one slice of the mappings, from `cursor` on, to `on`. Returns where to
    /// continue, or `None` at the end. A mapping that stays live throughout the scan
    /// is passed exactly once.
    pub fn scan(&self, cursor: Cursor, now: Stamp, mut on: impl FnMut(Mapping)) -> Option<Cursor> {
        self.scan_some(cursor, usize::MAX, now, |mapping| {
            on(mapping);
            false
        })
    }

    /// [`scan`](Self::scan), but the slice ends after `max` mappings for which `on` returns true.
    pub fn scan_some(
        &self,
        cursor: Cursor,
        max: usize,
        now: Stamp,
        on: impl FnMut(Mapping) -> bool,
    ) -> Option<Cursor> {
        cursor.after(if cursor.is_v4 {
            self.v4.scan_some(cursor.slot, max, now, on)
        } else {
            self.v6.scan_some(cursor.slot, max, now, on)
        })
    }

    /// Passes each public address and port that live TCP or UDP mappings use to `on`,
    /// once. Works on one slice from `cursor` on, as [`scan`](Self::scan) does. A
    /// mapping that keeps its address uses no public port.
    pub fn scan_ports(&self, cursor: Cursor, on: impl FnMut(IpAddr, Transport)) -> Option<Cursor> {
        cursor.after(if cursor.is_v4 {
            self.v4.scan_ports(cursor.slot, on)
        } else {
            self.v6.scan_ports(cursor.slot, on)
        })
    }

    /// The best mapping for one key, by [`Mapping::rank`], of those that `accept`
    /// returns true for. Only TCP and UDP mappings match; `protocol` narrows that to
    /// one of them.
    ///
    /// # Errors
    /// When one call was not enough to find the best.
    pub fn best(
        &mut self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        accept: impl Fn(&Mapping) -> bool,
        now: Stamp,
    ) -> Result<Option<Mapping>, Unfinished> {
        let v4 = self.v4.best(key, value, protocol, &accept, now)?;
        let v6 = self.v6.best(key, value, protocol, &accept, now)?;
        Ok(v4.into_iter().chain(v6).max_by_key(Mapping::rank))
    }

    /// The mappings that match a question, if an index serves it: by both ends of the connection,
    /// public port, public address and port, inside address, or inside address and port. Two of these indexes
    /// exist always, the others once they are [built](super::IndexBuild). These are all
    /// that match, or at least the newest `max` if more than these are live.
    ///
    /// # Errors
    /// When one call was not enough to collect them.
    pub fn find(&mut self, question: &Question, max: usize, now: Stamp) -> Result<Vec<Mapping>, Unfinished> {
        let mut found = self.v4.find(question, max, now)?;
        found.extend(self.v6.find(question, max, now)?);
        Ok(found)
    }

    /// Whether a source may have been translated to this address since the start. False only if
    /// none was.
    pub fn may_be_public(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.publics.may_contain(address),
            IpAddr::V6(address) => self.v6.publics.may_contain(address),
        }
    }

    /// Changes the key of the legacy routes. Its index must be [built](super::IndexBuild); until then
    /// lookups by it do not find one.
    pub fn set_key(&mut self, key: Key) {
        self.v4.set_key(key);
        self.v6.set_key(key);
    }

    /// Numbers as many entries as if they had been stored and removed.
    #[cfg(test)]
    pub(super) fn skip_numbers(&mut self, count: u32) {
        self.journal.skip_numbers(count);
    }

    /// The number of the entry that was stored last.
    pub(super) fn last_entry(&self) -> u32 {
        self.journal.last_entry()
    }

    /// Whether an index has all entries.
    pub fn has_index(&self, by: IndexedBy) -> bool {
        self.v4.index(by).is_some() && self.v6.index(by).is_some()
    }

    /// Removes the indexes that no lookup has used since `used_since`, in milliseconds of the monotonic
    /// clock, apart from those that exist always. The result takes some time to drop: drop it without the
    /// lock.
    pub fn remove_indexes(&mut self, used_since: u64) -> impl Sized + use<> {
        // A lookup may need only one family, and the next one the other.
        for v4 in &mut self.v4.indexes {
            for v6 in self.v6.indexes.iter_mut().filter(|v6| v6.by == v4.by) {
                let used_at = v4.used_at.max(v6.used_at);
                (v4.used_at, v6.used_at) = (used_at, used_at);
            }
        }
        (self.v4.remove_indexes(used_since), self.v6.remove_indexes(used_since))
    }

    /// Sets how long lookups still find a closed mapping.
    pub fn set_del_delay(&mut self, del_delay: Duration) {
        self.v4.del_delay = del_delay;
        self.v6.del_delay = del_delay;
    }
}
