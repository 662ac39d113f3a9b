//! Making the table equal to a dump of the kernel's, while events go on.

use std::collections::HashSet;
use std::time::Duration;

use nfct::Flow;

use super::Table;
use super::entry::{Entry, Packed, State};
use crate::clock::Stamp;
use crate::mapping::{Learnt, Mapping};

impl Table {
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
        self.insert(Entry::new(flow, Learnt::Dump, self.dump_is_silent, now));
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
            if entry.state() == State::Live && entry.epoch != self.epoch {
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
            if entry.state() == State::Closed && now.since(entry.opened.into()) > life_span {
                self.entries.get_mut(slot).set_state(State::Dropped);
                self.closed -= 1;
                dropped += 1;
            }
        }
        (next, dropped)
    }
}

/// Lives that ended while a dump runs, by hash of the reply tuple and id; cut
/// into parts, so that none takes long to grow.
#[derive(Debug)]
pub(super) struct Ended {
    parts: Vec<HashSet<(u64, u32)>>,
}

impl Ended {
    fn new() -> Self {
        Self { parts: vec![HashSet::new(); 256] }
    }

    pub(super) fn insert(&mut self, hash: u64, id: u32) {
        self.parts[hash as usize % 256].insert((hash, id));
    }

    fn contains(&self, hash: u64, id: u32) -> bool {
        self.parts[hash as usize % 256].contains(&(hash, id))
    }
}
