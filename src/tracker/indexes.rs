//! Indexes that exist only while lookups use them.
//!
//! Each index costs memory for every mapping and time for every event, and most gateways are asked by
//! public port, or by public address and port, alone. So the others are built when a lookup
//! first needs one. Until it exists, such lookups scan the table. One that no lookup has used for
//! an hour is removed.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use nfct::Error;

use super::pulse::MAX_REST;
use super::shared::Tracker;
use crate::table::{IndexBuild, IndexedBy};

/// How long an index stays that no lookup uses.
const KEPT_UNUSED: Duration = Duration::from_secs(3600);

impl Tracker {
    /// Builds the indexes that lookups need, and removes those that they do not; never returns.
    pub(super) fn maintain_indexes(&self) -> Result<Infallible, Error> {
        loop {
            self.pulses.indexes.beat();
            if let Some(by) = self.index_requests.wait(MAX_REST) {
                self.build_index(by);
                self.index_requests.remove(by);
            }
            // Declared before the lock is taken, so that it is dropped after the release.
            let _unused;
            let mut state = self.lock();
            let used_since = self.clock.now().monotonic.saturating_sub(KEPT_UNUSED.as_millis() as u64);
            _unused = state.table.remove_indexes(used_since);
            drop(state);
        }
    }

    /// Builds an index in steps, unless it exists. Events and lookups go on meanwhile.
    pub(super) fn build_index(&self, by: IndexedBy) {
        let _build = self.index_requests.build.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut build) = IndexBuild::begin(&mut self.lock().table, by, self.clock.now()) else { return };
        loop {
            self.pulses.indexes.beat();
            build.prepare();
            if build.step(&mut self.lock().table) {
                break;
            }
        }
        log::debug!("the index by {by} is built");
    }
}
