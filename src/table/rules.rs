//! Putting other rules into force while the table is in use.

use super::ALWAYS;
use super::changes::Journal;
use super::entry::{Address, State};
use super::family::Family;
use super::index::{By, Chains};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Mapping;

impl<A: Address> Family<A> {
    pub(super) fn set_key(&mut self, key: Key) {
        let by = By::key(key);
        self.chains.retain(|chains| ALWAYS.contains(&chains.by) || chains.by == by);
        if self.chains(by).is_none() {
            self.chains.push(Chains::unbuilt(by));
        }
    }

    pub(super) fn build_index(&mut self) -> bool {
        for at in 0..self.chains.len() {
            if let Some(from) = self.chains[at].unbuilt_from() {
                let (slice, next) = self.slice(from);
                self.chains[at].build(slice.end, next.is_none(), &self.entries);
                return true;
            }
        }
        false
    }

    pub(super) fn retain(
        &mut self,
        slot: u32,
        now: Stamp,
        keep: impl Fn(&Mapping) -> bool,
        journal: &mut Journal,
    ) -> (Option<u32>, usize) {
        let (slice, next) = self.slice(slot);
        let mut dropped = 0;
        for slot in slice {
            let entry = self.entries.get(slot);
            if matches!(entry.state(), State::Free | State::Dropped) || keep(&entry.mapping()) {
                continue;
            }
            if entry.state() == State::Live {
                self.close_slot(slot, now, journal);
            }
            self.entries.get_mut(slot).set_state(State::Dropped);
            self.closed -= 1;
            dropped += 1;
        }
        (next, dropped)
    }
}
