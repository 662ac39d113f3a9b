//! The table of NAT mappings, and its indexes.
//!
//! One entry is one life of one mapping. A live one is unique by reply tuple,
//! protocol and zone, as in the kernel; those that closed a moment ago stand
//! beside it until their time is over. The table knows nothing of netlink and
//! nothing of HTTP; whoever uses it guards it with a mutex, so every method
//! here takes a bounded, short time or works in slices.
//!
//! `slab` is the storage, `entry` what is stored, `index` how it is found. Here
//! mappings open, close and expire; `sync` merges dumps, `read` answers,
//! `changes` tells listeners, `rules` takes another configuration.

mod changes;
mod entry;
mod index;
mod read;
mod rules;
mod slab;
mod sync;

use std::time::Duration;

use nfct::Flow;

use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Learnt;
pub use changes::Change;
use entry::{Entry, NONE, Packed, State};
use index::{By, Chains, Class, Identities, IndexKey};
pub use read::TooMany;
use slab::Chunks;
use sync::Ended;

/// Slots looked at under one hold of the lock; well below a millisecond.
const SLICE: u32 = 4096;
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

/// See the module's text.
#[derive(Debug)]
pub struct Table {
    entries: Chunks<Entry>,
    /// The first of the free slots, which are linked, and the first that was
    /// never used.
    free: u32,
    unused: u32,
    /// How many were ever stored.
    placed: u32,
    live: usize,
    closed: usize,
    /// Closed entries are linked in the order in which they closed, which is
    /// the order in which their time is over.
    first_closed: u32,
    last_closed: u32,
    identities: Identities,
    chains: Vec<Chains>,
    /// How long a closed mapping is still answered.
    del_delay: Duration,
    /// Counts dumps; an entry carries the number of the last that saw it.
    epoch: u16,
    /// Lives that ended while a dump runs, which may show them all the same.
    ended_during_dump: Option<Ended>,
    /// Whether what the dump shows may end without an event.
    dump_is_silent: bool,
    /// How many changes there were; the number of the first that is kept, and
    /// those that are, if they are collected.
    sequence: u64,
    first_kept: u64,
    changes: Option<Vec<Change>>,
}

impl Table {
    /// An empty table. `key` is the key that the legacy interface answers to;
    /// it gets an index of its own where none of the usual ones serves it.
    pub fn new(key: Key, del_delay: Duration) -> Self {
        let mut by = ALWAYS.to_vec();
        if !by.contains(&By::key(key)) {
            by.push(By::key(key));
        }
        Self {
            entries: Chunks::new(),
            free: NONE,
            unused: 0,
            placed: 0,
            live: 0,
            closed: 0,
            first_closed: NONE,
            last_closed: NONE,
            identities: Identities::new(),
            chains: by.into_iter().map(Chains::new).collect(),
            del_delay,
            epoch: 0,
            ended_during_dump: None,
            dump_is_silent: false,
            sequence: 0,
            first_kept: 0,
            changes: None,
        }
    }

    /// Mappings that live.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Mappings that closed and are still kept.
    pub fn closed(&self) -> usize {
        self.closed
    }

    /// A connection began, or a look-up found it in the kernel. Returns whether
    /// it was not known as live before.
    pub fn open(&mut self, flow: &Flow, learnt: Learnt, now: Stamp) -> bool {
        let reply = Packed::from(&flow.reply);
        if let Some(slot) = self.identities.find(&reply, &self.entries) {
            let entry = self.entries.get_mut(slot);
            if entry.id == flow.id && entry.original == Packed::from(&flow.original) {
                entry.mark = flow.mark;
                entry.epoch = self.epoch;
                if learnt == Learnt::Event {
                    // Whose beginning is told, its end is told too.
                    entry.set_told();
                }
                return false;
            }
            // The kernel gives a reply tuple to one connection at a time: the
            // end of the one before was not told.
            self.close_slot(slot, now);
        } else if flow.status.is_dying() && self.knows_as_closed(flow) {
            // The word of its end overtook the word of its beginning.
            return false;
        }
        self.insert(Entry::new(flow, learnt, learnt == Learnt::Kernel, now));
        true
    }

    /// A connection ended. Closes the life that it names and no other; one that
    /// was never heard of is kept as closed all the same.
    pub fn close(&mut self, flow: &Flow, now: Stamp) -> End {
        let reply = Packed::from(&flow.reply);
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.identities.hash(&reply), flow.id);
        }
        match self.identities.find(&reply, &self.entries) {
            Some(slot) if self.entries.get(slot).id == flow.id => {
                self.close_slot(slot, now);
                End::OfKnown
            }
            _ if self.knows_as_closed(flow) => End::Stale,
            _ => {
                let slot = self.place(Entry::new(flow, Learnt::Event, false, now));
                self.queue_closed(slot, now);
                End::OfUnknown
            }
        }
    }

    /// Removes closed mappings whose time is over, at most `most` of them, and
    /// returns how many. Look-ups never see them, removed or not.
    pub fn expire(&mut self, now: Stamp, most: usize) -> usize {
        let mut removed = 0;
        for _ in 0..most {
            if self.first_closed == NONE {
                break;
            }
            let slot = self.first_closed;
            let entry = self.entries.get(slot);
            if now.since(entry.closed.into()) < self.del_delay {
                break;
            }
            if entry.state() == State::Closed {
                self.closed -= 1;
                removed += 1;
            }
            self.first_closed = entry.next;
            if self.first_closed == NONE {
                self.last_closed = NONE;
            }
            self.free_slot(slot);
        }
        removed
    }

    /// How long until [`expire`](Self::expire) has something to do.
    pub fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        let first = (self.first_closed != NONE).then(|| self.entries.get(self.first_closed))?;
        Some(self.del_delay.saturating_sub(now.since(first.closed.into())))
    }

    fn chains(&self, by: By) -> Option<&Chains> {
        self.chains.iter().find(|chains| chains.by == by)
    }

    fn slice(&self, from: u32) -> (std::ops::Range<u32>, Option<u32>) {
        let end = from.saturating_add(SLICE).min(self.unused);
        (from..end, (end < self.unused).then_some(end))
    }

    /// Whether a closed entry is this very life.
    fn knows_as_closed(&self, flow: &Flow) -> bool {
        let reply = Packed::from(&flow.reply);
        let entry = Entry::new(flow, Learnt::Event, false, NEVER);
        let class = Class::of(entry.protocol());
        let key = IndexKey::new(Some(flow.reply.dst), Some(entry.nat_port()), class);
        self.chains(By::NatIpAndPort).is_some_and(|chains| {
            chains.walk(key, &self.entries).take(LONGEST_WALK).any(|slot| {
                let entry = self.entries.get(slot);
                entry.state() == State::Closed && entry.id == flow.id && entry.reply == reply
            })
        })
    }

    fn insert(&mut self, entry: Entry) {
        let slot = self.place(entry);
        let entry = *self.entries.get(slot);
        self.identities.insert(slot, &self.entries);
        self.live += 1;
        self.note(|| Change::Opened(entry.mapping()));
    }

    /// Stores an entry and enters it into the chains.
    fn place(&mut self, entry: Entry) -> u32 {
        let slot = if self.free == NONE {
            self.unused += 1;
            self.unused - 1
        } else {
            self.free
        };
        self.entries.reach(slot, Entry::FREE);
        self.free = self.entries.get(slot).next;
        self.placed = self.placed.wrapping_add(1);
        *self.entries.get_mut(slot) = Entry { sequence: self.placed, epoch: self.epoch, ..entry };
        for chains in &mut self.chains {
            chains.insert(slot, &self.entries);
        }
        slot
    }

    fn close_slot(&mut self, slot: u32, now: Stamp) {
        self.identities.remove(slot, &self.entries);
        self.live -= 1;
        self.queue_closed(slot, now);
        let entry = *self.entries.get(slot);
        self.note(|| Change::Closed(entry.mapping()));
    }

    fn queue_closed(&mut self, slot: u32, now: Stamp) {
        let entry = self.entries.get_mut(slot);
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.identities.hash(&entry.reply), entry.id);
        }
        entry.set_state(State::Closed);
        entry.closed = now.into();
        entry.next = NONE;
        self.closed += 1;
        match self.last_closed {
            NONE => self.first_closed = slot,
            last => self.entries.get_mut(last).next = slot,
        }
        self.last_closed = slot;
    }

    fn free_slot(&mut self, slot: u32) {
        for chains in &mut self.chains {
            chains.remove(slot, &self.entries);
        }
        *self.entries.get_mut(slot) = Entry { next: self.free, ..Entry::FREE };
        self.free = slot;
    }
}

const NEVER: Stamp = Stamp { monotonic: 0, wall: 0 };

#[cfg(test)]
mod tests;
