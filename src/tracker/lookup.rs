//! Lookups: the best mapping, all that match a question, or every mapping.

use std::time::Duration;

use nfct::{Error, Protocol};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::check::{KernelCheck, Reading, is_lifetime};
use super::read::Answer;
use super::shared::Tracker;
use super::state::TrackerState;
use super::via::MAX_TRACED;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping, Traced};
use crate::question::{Question, StateFilter};
use crate::table::{Asked, Cursor, Unfinished};
use crate::tuples::KeyValue;

/// The time for a lookup by a scan of the table, with the time that it waits for other scans.
const SCAN_TIME: Duration = Duration::from_secs(5);

/// Why a lookup has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The daemon can no longer follow the kernel.
    #[error(transparent)]
    Failed(#[from] Error),
    /// No index serves the lookup, and the table could not be scanned in time.
    #[error("the table could not be scanned within {} s", SCAN_TIME.as_secs())]
    TooSlow,
}

/// A lookup's turn to scan the table.
struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    /// Until when it must have ended.
    deadline: Instant,
}

/// What one reading of the table for a lookup has given.
struct Looked<T> {
    found: T,
    known: Known,
    /// This moment, before queries to the kernel.
    asked: Asked,
}

/// What the table is known to have.
#[derive(Clone, Copy)]
struct Known {
    /// Whether it is known to equal the kernel's.
    complete: bool,
    /// Whether it has every mapping that has closed and can still be looked up.
    closed: bool,
    /// Whether it lacks some of them because events or mappings were lost.
    lost_closed: bool,
}

impl Known {
    fn of(state: &TrackerState, now: Stamp) -> Self {
        let closed = state.knows_closed(now);
        Self { complete: state.complete, closed, lost_closed: state.has_lost_events && !closed }
    }

    /// What is known of the result of work that has ended only now. Closed mappings may have been
    /// removed meanwhile because they were too many.
    fn and(self, now: Self) -> Self {
        Self {
            complete: self.complete && now.complete,
            closed: self.closed && now.closed,
            lost_closed: self.lost_closed || now.lost_closed,
        }
    }
}

impl Tracker {
    /// The best mapping for one key, traced to the host furthest inside; see
    /// [`Table::best`](crate::table::Table::best). Without a live mapping, the answer is
    /// complete if there is none, and if none that closed is missing because events were
    /// lost.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn best(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Answer<Option<Traced>>, LookupError> {
        let look = |state: &mut TrackerState, now| {
            let TrackerState { table, settings, .. } = state;
            let accept = |mapping: &Mapping| settings.filter.is_for_legacy(mapping);
            let best = table.best(key, value, protocol, accept, now)?;
            Ok(best.map(|best| table.trace(best, now)))
        };
        // Written in place, because a mapping has many bytes to move.
        let mut found = Ok(None);
        let looked = self.look(|state, now| found = look(state, now)).await?;
        // Most lookups end here.
        let is_certain = match &found {
            Ok(Some(best)) if looked.known.complete => self.is_certainly_live(best).await,
            _ => Some(false),
        };
        if is_certain == Some(true) {
            return Ok(Answer { value: found.unwrap_or_default(), complete: true });
        }
        let looked = Looked { found, known: looked.known, asked: looked.asked };
        // A kernel that has not replied in time is not waited for again.
        let check = KernelCheck::after_failure(is_certain.is_none());
        // Each connection has memory for this; so what is rare is boxed.
        Box::pin(self.best_checked(key, value, protocol, look, looked, check)).await
    }

    /// [`best`](Self::best), after the table was read for the first time.
    async fn best_checked(
        &self,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
        look: impl Fn(&mut TrackerState, Stamp) -> Result<Option<Traced>, Unfinished> + Copy,
        mut looked: Looked<Result<Option<Traced>, Unfinished>>,
        mut check: KernelCheck,
    ) -> Result<Answer<Option<Traced>>, LookupError> {
        let question = Question::by_key(key, value, protocol);
        loop {
            let mut known = looked.known;
            let best = match looked.found {
                Ok(best) => best,
                Err(Unfinished::Again) => {
                    looked = self.look(look).await?;
                    continue;
                }
                Err(unfinished) => {
                    let Some(turn) = self.turn_to_scan(unfinished).await? else {
                        looked = self.look(look).await?;
                        continue;
                    };
                    let best = self.best_by_scan(turn, key, value, protocol).await?;
                    known = known.and(self.known_now());
                    self.trace(best.as_slice()).await.pop()
                }
            };
            let read = Reading {
                found: best.as_slice(),
                complete: known.complete,
                asked: looked.asked,
                verified_from: Doubt::Doubtful,
            };
            if self.verify(&mut check, &read).await? {
                looked = self.look(look).await?;
                continue;
            }
            if best.as_ref().is_some_and(|best| best.mapping.is_live()) {
                return Ok(Answer { value: best, complete: known.complete && !check.failed });
            }
            let is_noticed = self.check_reporting().await?;
            if self.search_kernel(&mut check, &question, looked.asked).await? {
                looked = self.look(look).await?;
                continue;
            }
            let complete = known.complete
                && is_noticed
                && self.is_complete()
                && !check.failed
                && !known.lost_closed
                && !self.may_lack_clash(&question);
            return Ok(Answer { value: best, complete });
        }
    }

    /// Whether a mapping of a complete table is live, and needs no other step than one query
    /// at most. `None` if the kernel did not reply in time.
    async fn is_certainly_live(&self, found: &Traced) -> Option<bool> {
        let mapping = &found.mapping;
        if !mapping.is_live() || !found.is_alone() {
            return Some(false);
        }
        match mapping.doubt {
            Doubt::None | Doubt::Aged => Some(true),
            Doubt::Doubtful => Some(false),
            Doubt::Unreported => {
                let answered = self.verifier.query(std::slice::from_ref(&mapping.reply)).await;
                Some(answered.replies()?.first().is_some_and(|found| is_lifetime(found, mapping)))
            }
        }
    }

    /// [`best`](Self::best) by a scan of the table, without an index.
    async fn best_by_scan(
        &self,
        turn: Turn<'_>,
        key: Key,
        value: KeyValue,
        protocol: Option<Protocol>,
    ) -> Result<Option<Mapping>, LookupError> {
        let filter = self.filter();
        let mut best: Option<Mapping> = None;
        self.scan(turn, |mapping| {
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

    /// The newest mappings that match a question, newest first, each traced to the host
    /// furthest inside: `max` of them, and one more if there are more. The answer is complete
    /// if no live mapping is missing and, if no live one is found, no closed one either.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn find(&self, question: &Question, max: usize) -> Result<Answer<Vec<Traced>>, LookupError> {
        let mut check = KernelCheck::default();
        let is_noticed = self.check_reporting().await?;
        loop {
            let looked = self
                .look(|state, now| {
                    let mut found = state.table.find(question, max, now)?;
                    keep_newest(&mut found, max + 1);
                    // Others are traced without this hold of the lock.
                    let traced = |found: Vec<Mapping>| {
                        found.into_iter().map(|mapping| state.table.trace(mapping, now)).collect()
                    };
                    Ok(if found.len() <= MAX_TRACED { Ok(traced(found)) } else { Err(found) })
                })
                .await?;
            let mut known = looked.known;
            let found: Vec<Traced> = match looked.found {
                Ok(Ok(traced)) => traced,
                Ok(Err(found)) => self.trace(&found).await,
                Err(Unfinished::Again) => continue,
                Err(unfinished) => {
                    let Some(turn) = self.turn_to_scan(unfinished).await? else { continue };
                    let mut found = self.find_by_scan(turn, question, max).await?;
                    known = known.and(self.known_now());
                    keep_newest(&mut found, max + 1);
                    self.trace(&found).await
                }
            };
            // Of several live ones, one may have ended.
            let live = found.iter().filter(|traced| traced.mapping.is_live()).count();
            let read = Reading {
                found: &found,
                complete: known.complete,
                asked: looked.asked,
                verified_from: if (2..=MAX_TRACED).contains(&live) { Doubt::None } else { Doubt::Aged },
            };
            if self.verify(&mut check, &read).await? {
                continue;
            }
            let mut complete = known.complete && is_noticed;
            if live == 0 {
                if self.search_kernel(&mut check, question, looked.asked).await? {
                    continue;
                }
                let needs_closed = question.state != StateFilter::Live;
                complete &= known.closed || !needs_closed;
            }
            // An entry of a clash can share its public port with what was found, but not its tuple.
            let may_lack_clash = question.state != StateFilter::Closed
                && self.may_lack_clash(question)
                && !(live > 0 && self.names_a_tuple(question));
            complete &= !may_lack_clash;
            complete &= !check.failed;
            return Ok(Answer { value: found, complete });
        }
    }

    /// Reads the table once for a lookup.
    async fn look<T>(&self, look: impl FnOnce(&mut TrackerState, Stamp) -> T) -> Result<Looked<T>, Error> {
        let read = self.drain_then(|state, now| Looked {
            found: look(state, now),
            known: Known::of(state, now),
            asked: state.table.asked(now),
        });
        Ok(read.await?.value)
    }

    /// Waits for a turn to scan the table: few lookups scan at the same time. Requests the index that
    /// the lookup lacks. `None` if that exists when it is this lookup's turn.
    async fn turn_to_scan(&self, unfinished: Unfinished) -> Result<Option<Turn<'_>>, LookupError> {
        if let Unfinished::NoIndex(by) = unfinished {
            self.index_requests.push(by);
        }
        let deadline = Instant::now() + SCAN_TIME;
        let turn = timeout_at(deadline, self.lookup_scans.acquire()).await;
        let turn = Turn { _permit: turn.map_err(|_| LookupError::TooSlow)?.ok(), deadline };
        let is_needed = match unfinished {
            Unfinished::NoIndex(by) => !self.lock().table.has_index(by),
            Unfinished::TooMany | Unfinished::Again => true,
        };
        Ok(is_needed.then_some(turn))
    }

    fn known_now(&self) -> Known {
        Known::of(&self.lock(), self.clock.now())
    }

    /// [`find`](Self::find) by a scan of the table, without an index: unsorted, and
    /// with some older mappings too.
    async fn find_by_scan(
        &self,
        turn: Turn<'_>,
        question: &Question,
        max: usize,
    ) -> Result<Vec<Mapping>, LookupError> {
        let mut found = Vec::new();
        self.scan(turn, |mapping| {
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

    /// Passes every mapping to `on`, unverified, one slice of the table under each hold of
    /// the lock. A mapping that stays live throughout the scan is passed exactly once.
    async fn scan(&self, turn: Turn<'_>, mut on: impl FnMut(Mapping)) -> Result<(), LookupError> {
        let scan = async {
            let mut next = Some(Cursor::START);
            while let Some(from) = next {
                let on = |mapping| {
                    on(mapping);
                    false
                };
                next = self.read_slice(from, usize::MAX, on).await?.0;
            }
            Ok(())
        };
        timeout_at(turn.deadline, scan).await.unwrap_or(Err(LookupError::TooSlow))
    }

    /// The mappings of one slice of the table that `wanted` accepts, at most `max`; the slice begins
    /// at [`Cursor::START`], or where the last one says. The live ones are verified if they are
    /// doubtful, and left out if they have ended. A mapping that stays live throughout the
    /// scan is passed exactly once.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub async fn scan_slice(
        &self,
        from: Cursor,
        max: usize,
        wanted: impl Fn(&Mapping) -> bool,
    ) -> Result<(Vec<Traced>, Option<Cursor>), Error> {
        let mut found = Vec::new();
        let (next, complete, asked) = {
            // However many streams there are, few of them read the table at the same time.
            let _turn = self.stream_scans.acquire().await;
            let keep = |mapping| {
                let is_wanted = wanted(&mapping);
                if is_wanted {
                    found.push(mapping);
                }
                is_wanted
            };
            self.read_slice(from, max, keep).await?
        };
        let mut check = KernelCheck::default();
        let found = self.trace(&found).await;
        let read = Reading { found: &found, complete, asked, verified_from: Doubt::Aged };
        let found = if self.verify(&mut check, &read).await? {
            // An inner mapping may have ended too.
            let live =
                found.into_iter().map(|traced| traced.mapping).filter(|mapping| !check.has_ended(mapping));
            self.trace(&live.collect::<Vec<_>>()).await
        } else {
            found
        };
        Ok((found, next))
    }

    /// Passes the mappings of one slice to `on`, which ends it after `max` for which `on` returns
    /// true. Returns where to continue, whether the table is complete, and this moment, before
    /// queries to the kernel.
    async fn read_slice(
        &self,
        from: Cursor,
        max: usize,
        mut on: impl FnMut(Mapping) -> bool,
    ) -> Result<(Option<Cursor>, bool, Asked), Error> {
        let mut read = |state: &TrackerState, now| {
            (state.table.scan_some(from, max, now, &mut on), state.complete, state.table.asked(now))
        };
        if from == Cursor::START {
            return Ok(self.drain_then(|state, now| read(state, now)).await?.value);
        }
        tokio::task::yield_now().await;
        Ok(read(&self.lock(), self.clock.now()))
    }
}

/// Sorts mappings, newest first, and keeps at most `max`: closed ones only if there
/// is place after the live ones.
fn keep_newest(mappings: &mut Vec<Mapping>, max: usize) {
    if mappings.len() > max {
        mappings.sort_unstable_by_key(|mapping| std::cmp::Reverse((mapping.is_live(), mapping.age_rank())));
        mappings.truncate(max);
        mappings.shrink_to_fit();
    }
    mappings.sort_unstable_by_key(|mapping| std::cmp::Reverse(mapping.age_rank()));
}
