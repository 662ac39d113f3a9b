//! The mappings of one address family: IPv4's entries are half as large as IPv6's.

use std::time::Duration;

use nfct::Flow;

use super::changes::{Change, Journal};
use super::entry::{Address, Entry, NONE, State, Tuples};
use super::index::{By, Chains, Class, Identities, IndexKey};
use super::slab::Chunks;
use super::sync::Ended;
use super::{ALWAYS, End, LONGEST_WALK, SLICE};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Learnt;

#[derive(Debug)]
pub(super) struct Family<A> {
    pub(super) entries: Chunks<Entry<A>>,
    /// The first of the free slots, which are linked, and the first that was
    /// never used.
    free: u32,
    pub(super) unused: u32,
    pub(super) live: usize,
    pub(super) closed: usize,
    /// Closed entries are linked in the order in which they closed, which is
    /// the order in which their time is over.
    first_closed: u32,
    last_closed: u32,
    pub(super) identities: Identities,
    pub(super) chains: Vec<Chains>,
    /// When the newest of all entries there were began, by the monotonic clock.
    newest: u64,
    /// How long a closed mapping is still answered.
    pub(super) del_delay: Duration,
    /// Counts dumps; an entry carries the number of the last that saw it.
    pub(super) epoch: u16,
    /// Lives that ended while a dump runs, which may show them all the same.
    pub(super) ended_during_dump: Option<Ended>,
    /// Whether what the dump shows may end without an event.
    pub(super) dump_is_silent: bool,
}

impl<A: Address> Family<A> {
    pub(super) fn new(key: Key, del_delay: Duration) -> Self {
        let mut by = ALWAYS.to_vec();
        if !by.contains(&By::key(key)) {
            by.push(By::key(key));
        }
        Self {
            entries: Chunks::new(),
            free: NONE,
            unused: 0,
            live: 0,
            closed: 0,
            first_closed: NONE,
            last_closed: NONE,
            identities: Identities::new(),
            chains: by.into_iter().map(Chains::new).collect(),
            newest: 0,
            del_delay,
            epoch: 0,
            ended_during_dump: None,
            dump_is_silent: false,
        }
    }

    pub(super) fn open(&mut self, flow: &Flow, learnt: Learnt, now: Stamp, journal: &mut Journal) -> bool {
        let Some(tuples) = Tuples::of(flow) else { return false };
        if let Some(slot) = self.identities.find(&tuples.reply, &self.entries) {
            let entry = self.entries.get_mut(slot);
            if entry.id == flow.id && entry.original == tuples.original {
                entry.mark = flow.mark;
                entry.epoch = self.epoch;
                if learnt == Learnt::Event {
                    // Whose beginning is told, its end is told too.
                    entry.set_told();
                    // It may be another life all the same: an id may come back.
                    self.enter(slot, journal, true);
                }
                return false;
            }
            // The kernel gives a reply tuple to one connection at a time: the
            // end of the one before was not told.
            self.close_slot(slot, now, journal);
        } else if flow.status.is_dying() && self.knows_as_closed(&tuples, flow) {
            // The word of its end overtook the word of its beginning.
            return false;
        }
        self.insert(Entry::new(&tuples, flow, learnt, learnt == Learnt::Kernel, now), journal);
        true
    }

    pub(super) fn close(&mut self, flow: &Flow, now: Stamp, journal: &mut Journal) -> End {
        let Some(tuples) = Tuples::of(flow) else { return End::Stale };
        if let Some(ended) = &mut self.ended_during_dump {
            ended.insert(self.identities.hash(&tuples.reply), flow.id);
        }
        match self.identities.find(&tuples.reply, &self.entries) {
            Some(slot) if self.entries.get(slot).id == flow.id => {
                self.close_slot(slot, now, journal);
                End::OfKnown
            }
            _ if self.knows_as_closed(&tuples, flow) => End::Stale,
            _ => {
                let slot = self.place(Entry::new(&tuples, flow, Learnt::Event, false, now), journal);
                self.queue_closed(slot, now);
                End::OfUnknown
            }
        }
    }

    pub(super) fn expire(&mut self, now: Stamp, most: usize) -> usize {
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

    pub(super) fn next_expiry(&self, now: Stamp) -> Option<Duration> {
        let first = (self.first_closed != NONE).then(|| self.entries.get(self.first_closed))?;
        Some(self.del_delay.saturating_sub(now.since(first.closed.into())))
    }

    pub(super) fn chains(&self, by: By) -> Option<&Chains> {
        self.chains.iter().find(|chains| chains.by == by)
    }

    pub(super) fn slice(&self, from: u32) -> (std::ops::Range<u32>, Option<u32>) {
        let end = from.saturating_add(SLICE).min(self.unused);
        (from..end, (end < self.unused).then_some(end))
    }

    /// Whether a closed entry is this very life.
    fn knows_as_closed(&self, tuples: &Tuples<A>, flow: &Flow) -> bool {
        let class = Class::of(flow.original.protocol);
        let key = IndexKey::new(Some(flow.reply.dst), Some(tuples.reply.nat_port()), class);
        let chain = self.chains(By::NatIpAndPort).zip(key);
        chain.is_some_and(|(chains, key)| {
            chains.walk(key, &self.entries).take(LONGEST_WALK).any(|slot| {
                let entry = self.entries.get(slot);
                entry.state() == State::Closed && entry.id == flow.id && entry.reply == tuples.reply
            })
        })
    }

    pub(super) fn insert(&mut self, entry: Entry<A>, journal: &mut Journal) {
        let slot = self.place(entry, journal);
        let entry = *self.entries.get(slot);
        self.identities.insert(slot, &self.entries);
        self.live += 1;
        journal.note(|| Change::Opened(entry.mapping()));
    }

    /// Stores an entry and enters it into the chains.
    fn place(&mut self, entry: Entry<A>, journal: &mut Journal) -> u32 {
        let slot = if self.free == NONE {
            self.unused += 1;
            self.unused - 1
        } else {
            self.free
        };
        self.entries.reach(slot, Entry::FREE);
        self.free = self.entries.get(slot).next;
        *self.entries.get_mut(slot) = Entry { epoch: self.epoch, ..entry };
        self.enter(slot, journal, false);
        slot
    }

    /// Numbers an entry and puts it in front of the chains, where it may stand
    /// already: they are in the order of these numbers.
    fn enter(&mut self, slot: u32, journal: &mut Journal, again: bool) {
        if again {
            for chains in &mut self.chains {
                chains.remove(slot, &self.entries);
            }
        }
        let entry = self.entries.get_mut(slot);
        entry.sequence = journal.number_entry();
        let opened = Stamp::from(entry.opened).monotonic;
        entry.set_was_newest(opened >= self.newest);
        self.newest = self.newest.max(opened);
        for chains in &mut self.chains {
            chains.insert(slot, &self.entries);
        }
    }

    pub(super) fn close_slot(&mut self, slot: u32, now: Stamp, journal: &mut Journal) {
        self.identities.remove(slot, &self.entries);
        self.live -= 1;
        self.queue_closed(slot, now);
        let entry = *self.entries.get(slot);
        journal.note(|| Change::Closed(entry.mapping()));
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
