//! Which lifetimes ended while a dump runs.

use std::collections::HashSet;

use super::shards::CellHash;

/// Sets by which the lifetimes are divided, so that none takes long to grow.
const SHARDS: usize = 256;

/// Lifetimes that ended while a dump runs, by hash of the reply tuple and by
/// conntrack id.
#[derive(Debug)]
pub(super) struct EndedLifetimes {
    shards: Vec<HashSet<(CellHash, u32)>>,
}

impl EndedLifetimes {
    pub(super) fn new() -> Self {
        Self { shards: vec![HashSet::new(); SHARDS] }
    }

    pub(super) fn insert(&mut self, hash: CellHash, id: u32) {
        self.shards[hash.part(SHARDS)].insert((hash, id));
    }

    pub(super) fn contains(&self, hash: CellHash, id: u32) -> bool {
        self.shards[hash.part(SHARDS)].contains(&(hash, id))
    }
}
