//! Connections that are translated twice on this gateway: lookups that name the host
//! furthest inside.

use nfct::{Error, Protocol};

use super::kernel_check::KernelCheck;
use super::read::{Answer, LOCK_ATTEMPTS};
use super::shared::Tracker;
use super::state::TrackerState;
use crate::config::Key;
use crate::mapping::{Mapping, Traced};
use crate::question::Question;
use crate::tuples::KeyValue;

/// Mappings that are traced under one hold of the lock.
const MAX_TRACED: usize = 64;

impl Tracker {
    /// [`best`](Self::best), traced to the host furthest inside.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn best_traced(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Answer<Option<Traced>>, Error> {
        let best = self.best(key, value, protocol).await?;
        let traced = self.trace_checked(best.value.as_slice(), best.complete).await?;
        Ok(Answer { value: traced.value.into_iter().next(), complete: traced.complete })
    }

    /// [`find`](Self::find), each traced to the host furthest inside.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn find_traced(&self, question: &Question, max: usize) -> Result<Answer<Vec<Traced>>, Error> {
        let found = self.find(question, max).await?;
        self.trace_checked(&found.value, found.complete).await
    }

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

    /// [`trace`](Self::trace) for at most a few hundred mappings, under one hold of
    /// the lock.
    pub fn trace_part(&self, mappings: &[Mapping]) -> Vec<Traced> {
        self.trace_in(&self.lock(), mappings).collect()
    }

    fn trace_in<'a>(
        &self,
        state: &'a TrackerState,
        mappings: &'a [Mapping],
    ) -> impl Iterator<Item = Traced> + use<'a> {
        let now = self.clock.now();
        mappings.iter().map(move |mapping| state.table.trace(*mapping, now))
    }

    /// Traces mappings. The mappings further inside are checked with the kernel like
    /// the others, and traced again if one of them has ended.
    async fn trace_checked(
        &self,
        mappings: &[Mapping],
        complete: bool,
    ) -> Result<Answer<Vec<Traced>>, Error> {
        let mut check = KernelCheck::default();
        loop {
            let value = self.trace(mappings).await;
            let inner: Vec<Mapping> = value
                .iter()
                .flat_map(|traced| traced.source.iter().chain(&traced.destination))
                .copied()
                .collect();
            if inner.is_empty()
                || !self.close_ended(&mut check, &Question::default(), &inner, complete).await?
            {
                return Ok(Answer { value, complete: complete && !check.failed });
            }
        }
    }
}
