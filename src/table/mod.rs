//! The table of NAT mappings, and its indexes.
//!
//! One entry is one life of one mapping. A live one is unique by reply tuple,
//! protocol and zone, as in the kernel; those that closed a moment ago stand
//! beside it until their time is over. The table knows nothing of netlink and
//! nothing of HTTP; whoever uses it guards it with a mutex, so every method
//! here takes a bounded, short time or works in slices.
//!
//! `slab` is the storage, `entry` what is stored, `index` how it is found.
//! `family` holds the mappings of IPv4 or of IPv6, where they open, close and
//! expire; `sync` merges dumps into it, `read` answers from it, `rules` takes
//! another configuration. `changes` is what listeners are told. Here both
//! families are made one.

mod changes;
mod entry;
mod family;
mod index;
mod read;
mod rules;
mod slab;
mod sync;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nfct::{Flow, Protocol};

use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{KeyValue, Learnt, Mapping};
use crate::question::Question;
use changes::Journal;
pub use changes::{Change, Taken};
use family::Family;
use index::By;
pub use read::TooMany;

/// Slots looked at under one hold of the lock; well below a millisecond.
const SLICE: u32 = 1024;
/// The longest chain that is walked in one go.
const LONGEST_WALK: usize = 4096;
/// Indexes that every table has.
const ALWAYS: [By; 4] = [By::NatPort, By::NatIpAndPort, By::SrcIp, By::SrcIpAndPort];

/// What an end was to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The end of a mapping that lived.
    OfKnown,
    /// The first word of a mapping, kept as closed.
    OfUnknown,
    /// No news.
    Stale,
}

/// The protocols whose ports can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A place in the table, for work that goes through it slice by slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    family: Which,
    slot: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    V4,
    V6,
}

impl Place {
    /// Where such work begins.
    pub const START: Place = Place { family: Which::V4, slot: 0 };

    /// Where it goes on, when a slice of the family ended at `next`.
    fn after(self, next: Option<u32>) -> Option<Self> {
        match (self.family, next) {
            (family, Some(slot)) => Some(Self { family, slot }),
            (Which::V4, None) => Some(Self { family: Which::V6, slot: 0 }),
            (Which::V6, None) => None,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Table {
    v4: Family<Ipv4Addr>,
    v6: Family<Ipv6Addr>,
    journal: Journal,
}

/// Does the same work in one family or the other.
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
    /// An empty table. `key` is the key that the legacy interface answers to;
    /// it gets an index of its own where none of the usual ones serves it.
    pub fn new(key: Key, del_delay: Duration) -> Self {
        Self { v4: Family::new(key, del_delay), v6: Family::new(key, del_delay), journal: Journal::default() }
    }

    /// Mappings that live.
    pub fn live(&self) -> usize {
        self.v4.live + self.v6.live
    }

    /// Mappings that closed and are still kept.
    pub fn closed(&self) -> usize {
        self.v4.closed + self.v6.closed
    }

    /// Whether changes are collected for [`take_changes`](Self::take_changes).
    /// Returns the number of the next change.
    pub fn collect_changes(&mut self, collect: bool) -> u64 {
        self.journal.collect(collect)
    }

    /// Whether changes wait to be taken.
    pub fn has_changes(&self) -> bool {
        self.journal.has_changes()
    }

    /// The changes since the last call, if they are collected.
    pub fn take_changes(&mut self) -> Taken {
        self.journal.take()
    }

    /// A connection began, or a look-up found it in the kernel. Returns whether
    /// it was not known as live before.
    pub fn open(&mut self, flow: &Flow, learnt: Learnt, now: Stamp) -> bool {
        in_family!(self, flow.original.src.is_ipv4(), family => family.open(flow, learnt, now, &mut self.journal))
    }

    /// A connection ended. Closes the life that it names and no other; one that
    /// was never heard of is kept as closed all the same.
    pub fn close(&mut self, flow: &Flow, now: Stamp) -> End {
        in_family!(self, flow.original.src.is_ipv4(), family => family.close(flow, now, &mut self.journal))
    }

    /// The kernel no longer has the life that `mapping` is. Nothing happens where
    /// there was news of it since it was read.
    pub fn close_life(&mut self, mapping: &Mapping, now: Stamp) {
        in_family!(self, mapping.src_ip().is_ipv4(), family => family.close_life(mapping, now, &mut self.journal));
    }

    /// Removes closed mappings whose time is over, about `most` of them, and
    /// returns how many. Look-ups never see them, removed or not.
    pub fn expire(&mut self, now: Stamp, most: usize) -> usize {
        let removed = self.v4.expire(now, most);
        removed + self.v6.expire(now, most - removed.min(most))
    }

    /// How long until [`expire`](Self::expire) has something to do.
    pub fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        self.v4.next_expiry(now).into_iter().chain(self.v6.next_expiry(now)).min()
    }

    /// A dump of the kernel's table begins: from now on the table remembers
    /// what it must not believe the dump about. `silent` says that what it shows
    /// may end without an event.
    pub fn begin_dump(&mut self, silent: bool) {
        self.v4.begin_dump(silent);
        self.v6.begin_dump(silent);
    }

    /// The dump shows a connection. Returns whether it was not known.
    pub fn merge(&mut self, flow: &Flow, now: Stamp) -> bool {
        in_family!(self, flow.original.src.is_ipv4(), family => family.merge(flow, now, &mut self.journal))
    }

    /// The dump is whole: closes live mappings that it did not show and that
    /// did not begin meanwhile. Works from `place` on, a slice at a time;
    /// returns where to go on, or `None` at the end, and how many were closed.
    pub fn close_unseen(&mut self, place: Place, now: Stamp) -> (Option<Place>, usize) {
        let (next, gone) = in_family!(self, place.family == Which::V4, family => {
            family.close_unseen(place.slot, now, &mut self.journal)
        });
        (place.after(next), gone)
    }

    /// The dump is over, whole or not. What is returned takes its time to be
    /// dropped, and is best dropped with no lock held.
    pub fn end_dump(&mut self) -> impl Sized + use<> {
        (self.v4.end_dump(), self.v6.end_dump())
    }

    /// Drops closed mappings that opened more than `life_span` ago, a slice at
    /// a time, as [`close_unseen`](Self::close_unseen) does.
    pub fn drop_old(&mut self, place: Place, life_span: Duration, now: Stamp) -> (Option<Place>, usize) {
        let (next, dropped) = in_family!(self, place.family == Which::V4, family => {
            family.drop_old(place.slot, life_span, now)
        });
        (place.after(next), dropped)
    }

    /// Drops mappings that `keep` does not want, live ones too, a slice at a
    /// time, as [`close_unseen`](Self::close_unseen) does.
    pub fn retain(
        &mut self,
        place: Place,
        now: Stamp,
        keep: impl Fn(&Mapping) -> bool,
    ) -> (Option<Place>, usize) {
        let (next, dropped) = in_family!(self, place.family == Which::V4, family => {
            family.retain(place.slot, now, keep, &mut self.journal)
        });
        (place.after(next), dropped)
    }

    /// The mappings from `place` on, a slice at a time: where to go on, or
    /// `None` at the end. Mappings that live all the while show exactly once.
    pub fn scan(&self, place: Place, now: Stamp, on: impl FnMut(Mapping)) -> Option<Place> {
        place.after(match place.family {
            Which::V4 => self.v4.scan(place.slot, now, on),
            Which::V6 => self.v6.scan(place.slot, now, on),
        })
    }

    /// Hands over each outside address and port that live TCP or UDP mappings
    /// are translated to, once; from `place` on, a slice at a time, as
    /// [`close_unseen`](Self::close_unseen) does. Where the address stays the
    /// same nothing is taken of an outside address.
    pub fn scan_ports(&self, place: Place, on: impl FnMut(IpAddr, Transport)) -> Option<Place> {
        place.after(match place.family {
            Which::V4 => self.v4.scan_ports(place.slot, on),
            Which::V6 => self.v6.scan_ports(place.slot, on),
        })
    }

    /// The best answer to a question by one key, as [`Mapping::rank`] has it.
    /// `protocol` narrows it; other protocols than TCP and UDP are no answer.
    ///
    /// # Errors
    /// When so many mappings share the value that the best can't be told in one
    /// go: [`scan`](Self::scan) tells then.
    pub fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        now: Stamp,
    ) -> Result<Option<Mapping>, TooMany> {
        let v4 = self.v4.best(key, value, protocol, now)?;
        let v6 = self.v6.best(key, value, protocol, now)?;
        Ok(v4.into_iter().chain(v6).max_by_key(Mapping::rank))
    }

    /// The answers to a question that an index serves (by public port, by
    /// public address and port, by inside address, by inside address and port).
    /// `None` where no index does, or where the answer is too long to be
    /// collected in one go: [`scan`](Self::scan) then.
    pub fn find(&self, question: &Question, now: Stamp) -> Option<Vec<Mapping>> {
        let mut found = self.v4.find(question, now)?;
        found.extend(self.v6.find(question, now)?);
        Some(found)
    }

    /// Makes the legacy interface's key another one: from now on it has an
    /// index, which [`build_index`](Self::build_index) fills.
    pub fn set_key(&mut self, key: Key) {
        self.v4.set_key(key);
        self.v6.set_key(key);
    }

    /// Fills an index that was added, a slice at a time. Returns whether there
    /// is more to do.
    pub fn build_index(&mut self) -> bool {
        self.v4.build_index() || self.v6.build_index()
    }

    /// Sets how long a closed mapping is still answered.
    pub fn set_del_delay(&mut self, del_delay: Duration) {
        self.v4.del_delay = del_delay;
        self.v6.del_delay = del_delay;
    }
}
