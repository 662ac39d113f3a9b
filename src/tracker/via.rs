//! Connections that are translated twice on this gateway: the host furthest inside.

use super::read::LOCK_ATTEMPTS;
use super::shared::Tracker;
use super::state::TrackerState;
use crate::mapping::{Mapping, Traced};

/// Mappings that are traced under one hold of the lock.
pub(super) const MAX_TRACED: usize = 64;

impl Tracker {
    /// Traces mappings, without a check with the kernel.
    pub async fn trace(&self, mappings: &[Mapping]) -> Vec<Traced> {
        let (mut traced, mut rest, mut lock_attempts) = (Vec::with_capacity(mappings.len()), mappings, 0);
        while !rest.is_empty() {
            lock_attempts += 1;
            if let Some(state) =
                if lock_attempts <= LOCK_ATTEMPTS { self.try_lock() } else { Some(self.lock()) }
            {
                let (part, further) = rest.split_at(rest.len().min(MAX_TRACED));
                traced.extend(self.trace_in(&state, part));
                (rest, lock_attempts) = (further, 0);
            }
            if !rest.is_empty() {
                tokio::task::yield_now().await;
            }
        }
        traced
    }

    fn trace_in<'a>(
        &self,
        state: &'a TrackerState,
        mappings: &'a [Mapping],
    ) -> impl Iterator<Item = Traced> + use<'a> {
        let now = self.clock.now();
        mappings.iter().map(move |mapping| state.table.trace(*mapping, now))
    }
}
