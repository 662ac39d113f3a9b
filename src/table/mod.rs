//! The table of NAT mappings, and its indexes.
//!
//! One entry is one life of one mapping. A live one is unique by reply tuple,
//! protocol and zone, as in the kernel; those that closed a moment ago stand
//! beside it until their time is over. The table knows nothing of netlink and
//! nothing of HTTP; whoever uses it guards it with a mutex, so every method
//! here takes a bounded, short time or works in slices.
//!
//! `slab` is the storage, `entry` what is stored, `index` how it is found.

mod entry;
mod index;
mod slab;

use std::collections::HashSet;
use std::time::Duration;

use nfct::{Flow, Protocol};

use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{KeyValue, Learnt, Mapping};
use crate::question::{Question, one_address};
use entry::{Entry, NONE, Packed, State};
use index::{By, Chains, Class, Identities, IndexKey};
use slab::Chunks;

/// Slots looked at under one hold of the lock; well below a millisecond.
const SLICE: u32 = 4096;
/// The longest chain that is walked in one go.
const LONGEST_WALK: usize = 4096;
/// Changes kept for listeners until they are taken.
const MOST_CHANGES: usize = 65_536;

/// Indexes that every table has.
const ALWAYS: [By; 4] = [By::NatPort, By::NatIpAndPort, By::SrcIp, By::SrcIpAndPort];

/// A change to the table that listeners may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A mapping began.
    Opened(Mapping),
    /// A mapping ended.
    Closed(Mapping),
}

/// More mappings share a value than are looked at in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

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

    /// Whether changes are collected for [`take_changes`](Self::take_changes).
    /// Returns the number of the next change.
    pub fn collect_changes(&mut self, collect: bool) -> u64 {
        if collect != self.changes.is_some() {
            self.changes = collect.then(Vec::new);
        }
        self.sequence
    }

    /// Whether changes wait to be taken.
    pub fn has_changes(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.is_empty())
    }

    /// The changes since the last call, and the number of the first of them.
    /// Those that were too many to keep are missing at their end, which the
    /// next one's number shows.
    pub fn take_changes(&mut self) -> (u64, Vec<Change>) {
        let changes = self.changes.as_mut().map(std::mem::take).unwrap_or_default();
        (self.first_kept, changes)
    }

    fn note(&mut self, change: impl FnOnce() -> Change) {
        if let Some(changes) = &mut self.changes {
            if changes.is_empty() {
                self.first_kept = self.sequence;
            }
            // Only changes without a gap before them are kept.
            if changes.len() < MOST_CHANGES && self.first_kept + changes.len() as u64 == self.sequence {
                changes.push(change());
            }
        }
        self.sequence += 1;
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
                // Whose beginning is told, its end is told too.
                entry.silent = false;
                return false;
            }
            // The kernel gives a reply tuple to one connection at a time: the
            // end of the one before was not told.
            self.close_slot(slot, now);
        } else if flow.status.is_dying() && self.knows_as_closed(flow) {
            // The word of its end overtook the word of its beginning.
            return false;
        }
        let entry = Entry::new(flow, learnt, self.epoch, now);
        self.insert(Entry { silent: learnt == Learnt::Kernel, ..entry });
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
                let slot = self.place(Entry::new(flow, Learnt::Event, self.epoch, now));
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
            if entry.state == State::Closed {
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

    /// A dump of the kernel's table begins: from now on the table remembers
    /// what it must not believe the dump about. `silent` says that what it shows
    /// may end without an event.
    pub fn begin_dump(&mut self, silent: bool) {
        self.dump_is_silent = silent;
        self.epoch = self.epoch.wrapping_add(1);
        self.ended_during_dump = Some(Ended::new());
    }

    /// The dump shows a connection. Returns whether it was not known.
    pub fn merge(&mut self, flow: &Flow, now: Stamp) -> bool {
        if flow.status.is_dying() {
            return false;
        }
        let reply = Packed::from(&flow.reply);
        if let Some(slot) = self.identities.find(&reply, &self.entries) {
            let entry = self.entries.get_mut(slot);
            if entry.id == flow.id {
                entry.mark = flow.mark;
                entry.epoch = self.epoch;
                return false;
            }
            if entry.epoch == self.epoch {
                // It began while the dump ran: the dump shows the life before.
                return false;
            }
            self.close_slot(slot, now);
        }
        let hash = self.identities.hash(&reply);
        if self.ended_during_dump.as_ref().is_some_and(|ended| ended.contains(hash, flow.id)) {
            return false;
        }
        let entry = Entry::new(flow, Learnt::Dump, self.epoch, now);
        self.insert(Entry { silent: self.dump_is_silent, ..entry });
        true
    }

    /// The kernel no longer has the life that `mapping` is.
    pub fn close_life(&mut self, mapping: &Mapping, now: Stamp) {
        let found = self.identities.find(&Packed::from(&mapping.reply), &self.entries);
        if let Some(slot) = found.filter(|slot| self.entries.get(*slot).id == mapping.id) {
            self.close_slot(slot, now);
        }
    }

    /// The dump is whole: closes live mappings that it did not show and that
    /// did not begin meanwhile. Works from `slot` on, a slice at a time; returns
    /// where to go on, or `None` at the end, and how many were closed.
    pub fn close_unseen(&mut self, slot: u32, now: Stamp) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(slot);
        let mut gone = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state == State::Live && entry.epoch != self.epoch {
                self.close_slot(slot, now);
                gone += 1;
            }
        }
        (next, gone)
    }

    /// The dump is over, whole or not.
    pub fn end_dump(&mut self) {
        self.ended_during_dump = None;
    }

    /// Drops closed mappings that opened more than `life_span` ago, from `slot`
    /// on, a slice at a time, as [`close_unseen`](Self::close_unseen) does.
    pub fn drop_old(&mut self, slot: u32, life_span: Duration, now: Stamp) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(slot);
        let mut dropped = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state == State::Closed && now.since(entry.opened.into()) > life_span {
                self.entries.get_mut(slot).state = State::Dropped;
                self.closed -= 1;
                dropped += 1;
            }
        }
        (next, dropped)
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
        let Some(chains) = self.chains(By::key(key)) else { return Err(TooMany) };
        let mut best: Option<Mapping> = None;
        for class in Class::all_of(protocol).filter(|class| *class != Class::Other) {
            let mut walked = 0;
            let better = chains
                .walk(IndexKey::of_value(value, class), &self.entries)
                .take(LONGEST_WALK)
                .inspect(|_| walked += 1)
                .filter_map(|slot| self.visible(slot, now))
                .filter(|mapping| mapping.key(key) == Some(value))
                .chain(best)
                .reduce(|best, other| if other.rank() > best.rank() { other } else { best });
            best = better;
            let surely = best.is_some_and(|best| best.is_live() && best.is_source_nat());
            if surely {
                // What was not walked began earlier, or is of a class that ranks lower.
                break;
            }
            if walked == LONGEST_WALK {
                return Err(TooMany);
            }
        }
        Ok(best)
    }

    /// The answers to a question that an index serves (by public port, by
    /// public address and port, by inside address, by inside address and port),
    /// newest first. `None` where no index does, or where the answer is too
    /// long to be collected in one go: [`scan`](Self::scan) then.
    pub fn find(&self, question: &Question, now: Stamp) -> Option<Vec<Mapping>> {
        let (nat_ip, src_ip) = (one_address(question.nat_ip), one_address(question.src_ip));
        let (by, address, port) = match (nat_ip, question.nat_port, src_ip, question.src_port) {
            (Some(_), Some(_), ..) => (By::NatIpAndPort, nat_ip, question.nat_port),
            (_, _, Some(_), Some(_)) => (By::SrcIpAndPort, src_ip, question.src_port),
            (_, Some(_), ..) => (By::NatPort, None, question.nat_port),
            (_, _, Some(_), _) => (By::SrcIp, src_ip, None),
            _ => return None,
        };
        let chains = self.chains(by)?;
        let mut walked = 0;
        let found = Class::all_of(question.protocol)
            .flat_map(|class| chains.walk(IndexKey::new(address, port, class), &self.entries))
            .take(LONGEST_WALK)
            .inspect(|_| walked += 1)
            .filter_map(|slot| self.visible(slot, now))
            .filter(|mapping| question.matches(mapping))
            .collect();
        (walked < LONGEST_WALK).then_some(found)
    }

    /// Makes the legacy interface's key another one: from now on it has an
    /// index, which [`build_index`](Self::build_index) fills.
    pub fn set_key(&mut self, key: Key) {
        let by = By::key(key);
        self.chains.retain(|chains| ALWAYS.contains(&chains.by) || chains.by == by);
        if self.chains(by).is_none() {
            self.chains.push(Chains::unbuilt(by));
        }
    }

    /// Fills an index that was added, a slice at a time. Returns whether there
    /// is more to do.
    pub fn build_index(&mut self) -> bool {
        for at in 0..self.chains.len() {
            if let Some(from) = self.chains[at].unbuilt_from() {
                let (slice, next) = self.slice(from);
                self.chains[at].build(slice.end, next.is_none(), &self.entries);
                return true;
            }
        }
        false
    }

    /// Sets how long a closed mapping is still answered.
    pub fn set_del_delay(&mut self, del_delay: Duration) {
        self.del_delay = del_delay;
    }

    /// Drops mappings that `keep` does not want, live ones too, from `slot` on,
    /// a slice at a time, as [`close_unseen`](Self::close_unseen) does.
    pub fn retain(&mut self, slot: u32, now: Stamp, keep: impl Fn(&Mapping) -> bool) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(slot);
        let mut dropped = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if matches!(entry.state, State::Free | State::Dropped) || keep(&entry.mapping()) {
                continue;
            }
            if entry.state == State::Live {
                self.close_slot(slot, now);
            }
            self.entries.get_mut(slot).state = State::Dropped;
            self.closed -= 1;
            dropped += 1;
        }
        (next, dropped)
    }

    /// The mappings from `slot` on, a slice at a time: where to go on, or
    /// `None` at the end. Mappings that live all the while show exactly once.
    pub fn scan(&self, slot: u32, now: Stamp, mut on: impl FnMut(Mapping)) -> Option<u32> {
        let (slice, next) = self.slice(slot);
        slice.filter_map(|slot| self.visible(slot, now)).for_each(&mut on);
        next
    }

    fn chains(&self, by: By) -> Option<&Chains> {
        self.chains.iter().find(|chains| chains.by == by)
    }

    fn slice(&self, from: u32) -> (std::ops::Range<u32>, Option<u32>) {
        let end = from.saturating_add(SLICE).min(self.unused);
        (from..end, (end < self.unused).then_some(end))
    }

    /// A mapping, unless the slot is free or its time is over.
    fn visible(&self, slot: u32, now: Stamp) -> Option<Mapping> {
        let entry = self.entries.get(slot);
        let shown = match entry.state {
            State::Live => true,
            State::Closed => now.since(entry.closed.into()) < self.del_delay,
            State::Free | State::Dropped => false,
        };
        shown.then(|| entry.mapping())
    }

    /// Whether a closed entry is this very life.
    fn knows_as_closed(&self, flow: &Flow) -> bool {
        let reply = Packed::from(&flow.reply);
        let entry = Entry::new(flow, Learnt::Event, 0, NEVER);
        let class = Class::of(entry.protocol());
        let key = IndexKey::new(Some(flow.reply.dst), Some(entry.nat_port()), class);
        self.chains(By::NatIpAndPort).is_some_and(|chains| {
            chains.walk(key, &self.entries).take(LONGEST_WALK).any(|slot| {
                let entry = self.entries.get(slot);
                entry.state == State::Closed && entry.id == flow.id && entry.reply == reply
            })
        })
    }

    fn insert(&mut self, entry: Entry) {
        let slot = self.place(entry);
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
        *self.entries.get_mut(slot) = entry;
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
        entry.state = State::Closed;
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

/// Lives that ended while a dump runs, by hash of the reply tuple and id; cut
/// into parts, so that none takes long to grow.
#[derive(Debug)]
struct Ended {
    parts: Vec<HashSet<(u64, u32)>>,
}

impl Ended {
    fn new() -> Self {
        Self { parts: vec![HashSet::new(); 256] }
    }

    fn insert(&mut self, hash: u64, id: u32) {
        self.parts[hash as usize % 256].insert((hash, id));
    }

    fn contains(&self, hash: u64, id: u32) -> bool {
        self.parts[hash as usize % 256].contains(&(hash, id))
    }
}

const NEVER: Stamp = Stamp { monotonic: 0, wall: 0 };

#[cfg(test)]
mod tests;
