//! Lookups: the best mapping, all that match a question, or every mapping.

use nfct::{Error, Protocol};

use super::kernel_check::KernelCheck;
use super::read::Answer;
use super::shared::Tracker;
use crate::config::Key;
use crate::mapping::Mapping;
use crate::question::Question;
use crate::table::{Cursor, TooMany};
use crate::tuples::KeyValue;

impl Tracker {
    /// The best mapping for one key; see [`Table::best`](crate::table::Table::best).
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Answer<Option<Mapping>>, Error> {
        let question = Question::by_key(key, value, protocol);
        let mut check = KernelCheck::default();
        let Answer { value: best, mut complete } = loop {
            let best = self
                .drain_then(|state, now| {
                    let accept = |mapping: &Mapping| state.settings.filter.is_for_legacy(mapping);
                    state.table.best(key, value, protocol, accept, now)
                })
                .await?;
            let found = best.value.unwrap_or_default();
            if !self.close_ended(&mut check, &question, found.as_slice(), best.complete).await? {
                break best;
            }
        };
        let mut best = match best {
            Ok(best) => best,
            Err(TooMany) => self.best_by_scan(key, value, protocol).await?,
        };
        if best.is_none() && check.unknown.is_empty() {
            self.find_in_kernel(&mut check, &question).await;
        }
        // The question's public end is either end, the key's is the source's.
        check.unknown.retain(|mapping| mapping.key(key) == Some(value));
        best = best.into_iter().chain(check.unknown).max_by_key(Mapping::rank);
        complete &= !check.failed;
        Ok(Answer { value: best, complete })
    }

    /// [`best`](Self::best) by a scan of the table, without an index.
    async fn best_by_scan(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Option<Mapping>, Error> {
        let filter = self.filter();
        let mut best: Option<Mapping> = None;
        self.scan(|mapping| {
            let is_protocol = match protocol {
                Some(protocol) => mapping.original.protocol == protocol,
                None => matches!(mapping.original.protocol, Protocol::Tcp | Protocol::Udp),
            };
            if is_protocol
                && mapping.key(key) == Some(value)
                && filter.is_for_legacy(&mapping)
                && best.is_none_or(|best| mapping.rank() > best.rank())
            {
                best = Some(mapping);
            }
        })
        .await?;
        Ok(best)
    }

    /// The newest mappings that match a question, newest first: `max` of them, and
    /// one more if there are more.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn find(&self, question: &Question, max: usize) -> Result<Answer<Vec<Mapping>>, Error> {
        let mut check = KernelCheck::default();
        let Answer { value, mut complete } = loop {
            let found = self.read(|table, now| table.find(question, now)).await?;
            let mappings = found.value.as_deref().unwrap_or_default();
            if !self.close_ended(&mut check, question, mappings, found.complete).await? {
                break found;
            }
        };
        let mut found = match value {
            Some(found) => found,
            None => self.find_by_scan(question, max).await?,
        };
        if check.unknown.is_empty()
            && (found.is_empty() || (!complete && !found.iter().any(Mapping::is_live)))
        {
            self.find_in_kernel(&mut check, question).await;
        }
        complete &= !check.failed;
        check
            .unknown
            .retain(|mapping| !found.iter().any(|known| known.is_live() && known.reply == mapping.reply));
        found.extend(check.unknown);
        keep_newest(&mut found, max + 1);
        Ok(Answer { value: found, complete })
    }

    /// [`find`](Self::find) by a scan of the table, without an index: unsorted, and
    /// with some older mappings too.
    async fn find_by_scan(&self, question: &Question, max: usize) -> Result<Vec<Mapping>, Error> {
        let mut found = Vec::new();
        self.scan(|mapping| {
            if question.matches(&mapping) {
                found.push(mapping);
                if found.len() > 2 * max {
                    keep_newest(&mut found, max + 1);
                }
            }
        })
        .await?;
        Ok(found)
    }

    /// Passes every mapping to `on`, one slice of the table under each hold of the
    /// lock. A mapping that stays live throughout the scan is passed exactly once.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn scan(&self, mut on: impl FnMut(Mapping)) -> Result<(), Error> {
        let mut next = Some(Cursor::START);
        while let Some(from) = next {
            next = self.scan_slice(from, &mut on).await?;
        }
        Ok(())
    }

    /// One slice of [`scan`](Self::scan), which begins at [`Cursor::START`]; returns
    /// where to continue.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn scan_slice(
        &self,
        from: Cursor,
        mut on: impl FnMut(Mapping),
    ) -> Result<Option<Cursor>, Error> {
        if from == Cursor::START {
            return Ok(self.read(|table, now| table.scan(from, now, &mut on)).await?.value);
        }
        tokio::task::yield_now().await;
        Ok(self.lock().table.scan(from, self.clock.now(), &mut on))
    }
}

/// Sorts mappings, newest first, and keeps at most `max`: closed ones only if there
/// is place after the live ones.
fn keep_newest(mappings: &mut Vec<Mapping>, max: usize) {
    if mappings.len() > max {
        mappings.sort_unstable_by_key(|mapping| std::cmp::Reverse((mapping.is_live(), mapping.age_rank())));
        mappings.truncate(max);
    }
    mappings.sort_unstable_by_key(|mapping| std::cmp::Reverse(mapping.age_rank()));
}
