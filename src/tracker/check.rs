//! Verifying what a lookup has found before it reports it, and searching the kernel's table
//! for what it has not found.

use std::collections::HashSet;

use nfct::{Error, Found, Protocol, Query, Tuple};

use super::shared::Tracker;
use super::verifier::{Answered, MAX_TOGETHER};
use super::verify::living;
use crate::mapping::{Doubt, Mapping, Traced};
use crate::question::{Question, StateFilter};
use crate::table::Asked;

/// Rounds of verification of one lookup. Each round closes or adds a mapping.
const MAX_ROUNDS: u32 = 64;
/// Zones other than zone 0 in which a connection is searched.
const MAX_ZONES: usize = 16;

/// What one lookup has learned from the kernel.
#[derive(Default)]
pub(super) struct KernelCheck {
    /// Lifetimes that the kernel has, by conntrack id and sequence number.
    confirmed: HashSet<(u32, u32)>,
    /// Lifetimes that the kernel does not have.
    ended: HashSet<(u32, u32)>,
    /// Whether the kernel was searched for connections that the table lacks.
    searched: bool,
    rounds: u32,
    /// Whether a query failed, so that the lookup's result is uncertain.
    pub(super) failed: bool,
}

impl KernelCheck {
    /// `failed` says whether a query of this lookup has failed before.
    pub(super) fn after_failure(failed: bool) -> Self {
        Self { failed, ..Self::default() }
    }

    /// Whether a mapping was live in the table, but not in the kernel's.
    pub(super) fn has_ended(&self, mapping: &Mapping) -> bool {
        mapping.is_live() && self.ended.contains(&(mapping.id, mapping.sequence))
    }
}

/// What a lookup has read from the table.
pub(super) struct Reading<'a> {
    pub(super) found: &'a [Traced],
    pub(super) complete: bool,
    /// [`asked`](crate::table::Table::asked) at that moment.
    pub(super) asked: Asked,
    /// Mappings with at least this doubt are verified.
    pub(super) verified_from: Doubt,
}

impl Tracker {
    /// Verifies the doubtful ones of the mappings that a lookup has found. Returns whether the
    /// table must be read again, because it has changed.
    pub(super) async fn verify(&self, check: &mut KernelCheck, read: &Reading<'_>) -> Result<bool, Error> {
        if check.failed {
            return Ok(false);
        }
        let doubtful = |mapping: &&Mapping| {
            mapping.is_live()
                && (mapping.doubt >= read.verified_from || !read.complete)
                && !check.confirmed.contains(&(mapping.id, mapping.sequence))
        };
        let doubtful: Vec<&Mapping> = read.found.iter().flat_map(Traced::all).filter(doubtful).collect();
        if doubtful.is_empty() {
            return Ok(false);
        }
        check.rounds += 1;
        if check.rounds > MAX_ROUNDS {
            check.failed = true;
            return Ok(false);
        }
        let mut is_changed = false;
        for part in doubtful.chunks(MAX_TOGETHER) {
            let Some(has_ended) = self.verify_part(check, part, read.asked).await? else {
                // Nor would it reply in time about the next part.
                check.failed = true;
                break;
            };
            is_changed |= has_ended;
        }
        Ok(is_changed)
    }

    /// Verifies mappings. Returns whether one has ended; `None` if the kernel did not reply in
    /// time.
    async fn verify_part(
        &self,
        check: &mut KernelCheck,
        doubtful: &[&Mapping],
        asked: Asked,
    ) -> Result<Option<bool>, Error> {
        let tuples: Vec<Tuple> = doubtful.iter().map(|mapping| mapping.reply).collect();
        let answered = self.verifier.query(&tuples).await;
        let Some(replies) = answered.replies() else { return Ok(None) };
        let (mut is_changed, mut is_told) = (false, false);
        for (mapping, found) in doubtful.iter().zip(replies) {
            match found {
                found if is_lifetime(found, mapping) => {
                    check.confirmed.insert((mapping.id, mapping.sequence));
                    is_told |= mapping.doubt != Doubt::Unreported;
                }
                Found::Flow(..) | Found::Nothing => {
                    check.ended.insert((mapping.id, mapping.sequence));
                    is_changed = true;
                }
                _ => check.failed = true,
            }
        }
        if is_changed {
            self.apply_drained(&tuples, &answered, asked).await?;
        } else if is_told {
            // They are trusted again for some time.
            self.apply(&mut self.lock(), &tuples, replies, asked);
        }
        Ok(Some(is_changed))
    }

    /// Searches the kernel's table for connections that match and that the table lacks, if the
    /// question and the filter name all parts of a tuple. Returns whether the table must be
    /// read again.
    pub(super) async fn search_kernel(
        &self,
        check: &mut KernelCheck,
        question: &Question,
        asked: Asked,
    ) -> Result<bool, Error> {
        if check.searched || check.failed || question.state == StateFilter::Closed {
            return Ok(false);
        }
        check.searched = true;
        let tuples = {
            let state = self.lock();
            let mut zones = state.table.zones(MAX_ZONES + 1);
            let has_more = question.zone.is_none() && zones.len() > MAX_ZONES;
            zones.truncate(MAX_ZONES);
            let tuples = question.outside_tuples(&state.settings.filter, &zones);
            // A lookup that names no tuple searches no zone.
            check.failed |= has_more && !tuples.is_empty();
            tuples
        };
        let mut may_have_changed = false;
        if !tuples.is_empty() {
            let answered = self.verifier.query(&tuples).await;
            match answered.replies() {
                Some(replies) => {
                    let is_found = |found: &Found| matches!(found, Found::Flow(..));
                    may_have_changed = replies.iter().any(is_found);
                    // A protocol that the kernel does not look up is not an uncertain result.
                    self.apply_drained(&tuples, &answered, asked).await?;
                }
                None => check.failed = true,
            }
        }
        if may_be_udp(question) && !self.clashes.check(self.clock.now()) {
            match self.verifier.run(Query::clashes).await {
                Some(count) => self.clashes.note(count, self.clock.now()),
                None => check.failed = true,
            }
        }
        Ok(may_have_changed)
    }

    /// Drains the socket, then applies the kernel's replies.
    async fn apply_drained(&self, tuples: &[Tuple], answered: &Answered, asked: Asked) -> Result<(), Error> {
        let Some(replies) = answered.replies() else { return Ok(()) };
        self.drain_then(|state, _| self.apply(state, tuples, replies, asked)).await?;
        Ok(())
    }

    /// Whether a question and the filter name all parts of a tuple.
    pub(super) fn names_a_tuple(&self, question: &Question) -> bool {
        !question.outside_tuples(&self.lock().settings.filter, &[]).is_empty()
    }

    /// Whether an entry of a clash may match a question although the table lacks it.
    pub(super) fn may_lack_clash(&self, question: &Question) -> bool {
        may_be_udp(question) && self.clashes.are_recent(self.clock.now())
    }
}

/// Whether the kernel has the connection of a mapping.
pub(super) fn is_lifetime(found: &Found, mapping: &Mapping) -> bool {
    matches!(found, Found::Flow(_, flow)
        if living(flow).is_some() && (flow.id, &flow.original) == (mapping.id, &mapping.original))
}

fn may_be_udp(question: &Question) -> bool {
    question.protocol.is_none_or(|protocol| protocol == Protocol::Udp)
}
