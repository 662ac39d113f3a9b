//! Putting other rules into force while the table is in use.

use std::time::Duration;

use super::entry::State;
use super::index::{By, Chains};
use super::{ALWAYS, Table};
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Mapping;

impl Table {
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
            if matches!(entry.state(), State::Free | State::Dropped) || keep(&entry.mapping()) {
                continue;
            }
            if entry.state() == State::Live {
                self.close_slot(slot, now);
            }
            self.entries.get_mut(slot).set_state(State::Dropped);
            self.closed -= 1;
            dropped += 1;
        }
        (next, dropped)
    }
}
