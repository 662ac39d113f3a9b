//! Making the table equal to a dump of the kernel's, while events go on.

use std::collections::HashSet;
use std::time::Duration;

use nfct::Flow;

use super::changes::Journal;
use super::entry::{Address, Entry, Packed, State, Tuples};
use super::family::Family;
use crate::clock::Stamp;
use crate::mapping::{Learnt, Mapping};

impl<A: Address> Family<A> {
    pub(super) fn begin_dump(&mut self, silent: bool) {
        self.dump_is_silent = silent;
        self.epoch = self.epoch.wrapping_add(1);
        self.ended_during_dump = Some(Ended::new());
    }

    pub(super) fn merge(&mut self, flow: &Flow, now: Stamp, journal: &mut Journal) -> bool {
        if flow.status.is_dying() {
            return false;
        }
        let Some(tuples) = Tuples::of(flow) else { return false };
        if let Some(slot) = self.identities.find(&tuples.reply, &self.entries) {
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
            self.close_slot(slot, now, journal);
        }
        let hash = self.identities.hash(&tuples.reply);
        if self.ended_during_dump.as_ref().is_some_and(|ended| ended.contains(hash, flow.id)) {
            return false;
        }
        self.insert(Entry::new(&tuples, flow, Learnt::Dump, self.dump_is_silent, now), journal);
        true
    }

    pub(super) fn close_life(&mut self, mapping: &Mapping, now: Stamp, journal: &mut Journal) {
        let Some(reply) = Packed::of(&mapping.reply) else { return };
        let found = self.identities.find(&reply, &self.entries);
        if let Some(slot) = found.filter(|slot| {
            let entry = self.entries.get(*slot);
            (entry.id, entry.sequence) == (mapping.id, mapping.sequence)
        }) {
            self.close_slot(slot, now, journal);
        }
    }

    pub(super) fn close_unseen(
        &mut self,
        slot: u32,
        now: Stamp,
        journal: &mut Journal,
    ) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(slot);
        let mut gone = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if entry.state() == State::Live && entry.epoch != self.epoch {
                self.close_slot(slot, now, journal);
                gone += 1;
            }
        }
        (next, gone)
    }

    pub(super) fn end_dump(&mut self) -> Option<Ended> {
        self.ended_during_dump.take()
    }

    pub(super) fn drop_old(&mut self, slot: u32, life_span: Duration, now: Stamp) -> (Option<u32>, usize) {
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
