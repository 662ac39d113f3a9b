//! The table: one part per address family, and one journal for both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nfct::{Flow, Protocol};

use super::cursor::Cursor;
use super::family::{CloseResult, FamilyTable};
use super::journal::{Changes, Journal};
use super::queries::{TooMany, Transport};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Mapping, Source};
use crate::question::Question;
use crate::tuples::KeyValue;

/// The mappings of both address families.
#[derive(Debug)]
pub struct Table {
    pub(super) v4: FamilyTable<Ipv4Addr>,
    pub(super) v6: FamilyTable<Ipv6Addr>,
    journal: Journal,
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

impl Table {
    /// An empty table. `key` is the key of the legacy routes; it gets an index of
    /// its own if no standard index serves it.
    pub fn new(key: Key, del_delay: Duration) -> Self {
        Self {
            v4: FamilyTable::new(key, del_delay),
            v6: FamilyTable::new(key, del_delay),
            journal: Journal::default(),
        }
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

    /// Opens the mapping of a connection that began, or that a query to the
    /// kernel found. Returns whether it was not yet live in the table.
    pub fn open(&mut self, flow: &Flow, source: Source, now: Stamp) -> bool {
        in_family!(self, flow.original.src.is_ipv4(), family => family.open(flow, source, now, &mut self.journal))
    }

    /// Closes the mapping of a connection that ended: the lifetime with this
    /// conntrack id and no other. An unknown lifetime is stored as closed.
    pub fn close(&mut self, flow: &Flow, now: Stamp) -> CloseResult {
        in_family!(self, flow.original.src.is_ipv4(), family => family.close(flow, now, &mut self.journal))
    }

    /// Closes a lifetime that the kernel no longer has. Does nothing if the table
    /// has changed it since `mapping` was read.
    pub fn close_lifetime(&mut self, mapping: &Mapping, now: Stamp) {
        in_family!(self, mapping.src_ip().is_ipv4(), family => {
            family.close_lifetime(mapping, now, &mut self.journal);
        });
    }

    /// Removes about `max` closed mappings whose `del_delay` is over, and returns
    /// how many. Lookups do not see such mappings, whether removed or not.
    pub fn expire(&mut self, now: Stamp, max: usize) -> usize {
        let removed = self.v4.expire(now, max);
        removed + self.v6.expire(now, max - removed.min(max))
    }

    /// The time until [`expire`](Self::expire) has something to do.
    pub fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        self.v4.next_expiry(now).into_iter().chain(self.v6.next_expiry(now)).min()
    }

    /// Begins to merge a dump of the kernel's table: from now on the table notes
    /// the lifetimes that end, because the dump may still contain them. The
    /// mappings that the dump adds are marked with `may_end_silently`.
    pub fn begin_dump(&mut self, may_end_silently: bool) {
        self.v4.begin_dump(may_end_silently);
        self.v6.begin_dump(may_end_silently);
    }

    /// Merges a connection of the dump. Returns whether it was unknown.
    pub fn merge(&mut self, flow: &Flow, now: Stamp) -> bool {
        in_family!(self, flow.original.src.is_ipv4(), family => family.merge(flow, now, &mut self.journal))
    }

    /// Closes, after a complete dump, the live mappings that it did not contain and
    /// that did not open while it ran. Works on one slice from `cursor` on. Returns
    /// where to continue, or `None` at the end, and how many were closed.
    pub fn close_unseen(&mut self, cursor: Cursor, now: Stamp) -> (Option<Cursor>, usize) {
        let (next, closed) = in_family!(self, cursor.is_v4, family => {
            family.close_unseen(cursor.slot, now, &mut self.journal)
        });
        (cursor.after(next), closed)
    }

    /// Ends a dump, complete or not. The returned value takes some time to drop:
    /// drop it without the lock.
    pub fn end_dump(&mut self) -> impl Sized + use<> {
        (self.v4.end_dump(), self.v6.end_dump())
    }

    /// Removes closed mappings that opened more than `life_span` ago, one slice
    /// at a time, as [`close_unseen`](Self::close_unseen) does.
    pub fn remove_old(&mut self, cursor: Cursor, life_span: Duration, now: Stamp) -> (Option<Cursor>, usize) {
        let (next, removed) = in_family!(self, cursor.is_v4, family => {
            family.remove_old(cursor.slot, life_span, now)
        });
        (cursor.after(next), removed)
    }

    /// Removes mappings, also live ones, for which `keep` returns false; one slice
    /// at a time, as [`close_unseen`](Self::close_unseen) does.
    pub fn retain(
        &mut self,
        cursor: Cursor,
        now: Stamp,
        keep: impl Fn(&Mapping) -> bool,
    ) -> (Option<Cursor>, usize) {
        let (next, removed) = in_family!(self, cursor.is_v4, family => {
            family.retain(cursor.slot, now, keep, &mut self.journal)
        });
        (cursor.after(next), removed)
    }

    /// Passes one slice of the mappings, from `cursor` on, to `on`. Returns where to
    /// continue, or `None` at the end. A mapping that stays live throughout the scan
    /// is passed exactly once.
    pub fn scan(&self, cursor: Cursor, now: Stamp, on: impl FnMut(Mapping)) -> Option<Cursor> {
        cursor.after(if cursor.is_v4 {
            self.v4.scan(cursor.slot, now, on)
        } else {
            self.v6.scan(cursor.slot, now, on)
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
    /// When too many mappings share the value to find the best in one call.
    /// Use [`scan`](Self::scan) then.
    pub fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        accept: impl Fn(&Mapping) -> bool,
        now: Stamp,
    ) -> Result<Option<Mapping>, TooMany> {
        let v4 = self.v4.best(key, value, protocol, &accept, now)?;
        let v6 = self.v6.best(key, value, protocol, &accept, now)?;
        Ok(v4.into_iter().chain(v6).max_by_key(Mapping::rank))
    }

    /// The mappings that match a question, if an index serves it: by public port,
    /// public address and port, inside address, or inside address and port. `None` if
    /// none does, or if too many entries share the value to collect them in one call.
    /// Use [`scan`](Self::scan) then.
    pub fn find(&self, question: &Question, now: Stamp) -> Option<Vec<Mapping>> {
        let mut found = self.v4.find(question, now)?;
        found.extend(self.v6.find(question, now)?);
        Some(found)
    }

    /// Changes the key of the legacy routes. Its index is filled by
    /// [`build_index`](Self::build_index).
    pub fn set_key(&mut self, key: Key) {
        self.v4.set_key(key);
        self.v6.set_key(key);
    }

    /// Fills one slice of an added index. Returns whether there is more to do.
    pub fn build_index(&mut self) -> bool {
        self.v4.build_index() || self.v6.build_index()
    }

    /// Sets how long lookups still find a closed mapping.
    pub fn set_del_delay(&mut self, del_delay: Duration) {
        self.v4.del_delay = del_delay;
        self.v6.del_delay = del_delay;
    }
}
