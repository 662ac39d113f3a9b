//! Checking single mappings with the kernel before a lookup reports them.

use std::collections::HashSet;
use std::time::Duration;

use nfct::{Error, Flow, Tuple};

use super::shared::Tracker;
use crate::mapping::{Mapping, Source};
use crate::question::Question;
use crate::tuples::Tuples;

/// The maximum number of mappings that are checked at once.
const MAX_CHECKED: usize = 64;
/// How long a lookup waits for the kernel's reply.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(1);

/// What one lookup has learned from the kernel.
#[derive(Default)]
pub(super) struct KernelCheck {
    /// Lifetimes that the kernel has, by conntrack id and sequence number.
    confirmed: HashSet<(u32, u32)>,
    /// Matching connections that the kernel has and the table does not.
    pub(super) unknown: Vec<Mapping>,
    /// Whether a query failed, so that the lookup's result is uncertain.
    pub(super) failed: bool,
}

impl Tracker {
    /// Checks mappings that may have ended without a DESTROY event, and closes
    /// those that the kernel no longer has. While the table is incomplete, that may
    /// be any mapping. If the kernel now has another lifetime with the same reply
    /// tuple, that one is added to the result; the next dump adds it to the table.
    /// Returns whether the table must be read again, because a mapping was closed
    /// or because some are not checked yet.
    pub(super) async fn close_ended(
        &self,
        check: &mut KernelCheck,
        question: &Question,
        mappings: &[Mapping],
        complete: bool,
    ) -> Result<bool, Error> {
        let is_unconfirmed = |mapping: &&Mapping| {
            mapping.is_live()
                && (mapping.may_end_silently || !complete)
                && !check.confirmed.contains(&(mapping.id, mapping.sequence))
        };
        let unconfirmed: Vec<Mapping> =
            mappings.iter().filter(is_unconfirmed).take(MAX_CHECKED).copied().collect();
        if unconfirmed.is_empty() || check.failed {
            return Ok(false);
        }
        let Some(flows) = self.query_kernel(unconfirmed.iter().map(|mapping| mapping.reply).collect()).await
        else {
            check.failed = true;
            return Ok(false);
        };
        let mut ended = Vec::new();
        for (mapping, flow) in unconfirmed.iter().zip(flows) {
            match flow {
                Some(flow) if flow.id == mapping.id => {
                    check.confirmed.insert((mapping.id, mapping.sequence));
                }
                other => {
                    ended.push(*mapping);
                    self.add_unknown(check, question, other);
                }
            }
        }
        if ended.is_empty() {
            return Ok(unconfirmed.len() == MAX_CHECKED);
        }
        self.drain_then(|state, now| {
            ended.iter().for_each(|mapping| state.table.close_lifetime(mapping, now));
            self.notify_changes(state);
        })
        .await?;
        Ok(true)
    }

    /// Queries the kernel for a connection that the table does not have, if the
    /// question and the filter name all parts of its reply tuple. The connection is
    /// not added to the table, because its end would not be noticed there.
    pub(super) async fn find_in_kernel(&self, check: &mut KernelCheck, question: &Question) {
        let replies = question.outside_tuples(&self.lock().settings.filter, &[]);
        if replies.is_empty() || check.failed {
            return;
        }
        match self.query_kernel(replies).await {
            Some(flows) => flows.into_iter().for_each(|flow| self.add_unknown(check, question, flow)),
            None => check.failed = true,
        }
    }

    /// Adds a connection that the kernel has and the table does not to the result,
    /// if it is tracked and matches.
    fn add_unknown(&self, check: &mut KernelCheck, question: &Question, flow: Option<Flow>) {
        let Some(flow) = flow.filter(|flow| self.lock().settings.filter.matches_flow(flow)) else { return };
        let now = self.clock.now();
        let mapping = Mapping {
            tuples: Tuples::from(&flow),
            id: flow.id,
            mark: None,
            opened: flow.start.map_or(now, |nanoseconds| now.back_to_wall(nanoseconds / 1_000_000)),
            closed: None,
            source: Source::Kernel,
            may_end_silently: true,
            sequence: u32::MAX,
        };
        let is_added = check.unknown.iter().any(|other| other.reply == mapping.reply);
        if !is_added && question.matches(&mapping) {
            check.unknown.push(mapping);
        }
    }

    /// The kernel's entry for each of these reply tuples, except entries that it is
    /// removing. `None` if the kernel does not reply in time: a query waits for a
    /// lock in the kernel, which a flush of the kernel's table holds for seconds.
    /// Meanwhile this daemon locks nothing except the socket for such queries.
    async fn query_kernel(&self, replies: Vec<Tuple>) -> Option<Vec<Option<Flow>>> {
        self.stats.kernel_queries.add(replies.len());
        let reply = async {
            let mut query = self.query.clone().lock_owned().await;
            // A connection that began outside has the tuple in the original direction.
            let get = move |tuple: &Tuple| match query.get_by_reply(tuple) {
                Ok(None) => query.get_by_original(tuple),
                found => found,
            };
            let run = move || replies.iter().map(get).collect::<Result<Vec<_>, _>>();
            tokio::task::spawn_blocking(run).await
        };
        match tokio::time::timeout(KERNEL_TIMEOUT, reply).await {
            Ok(Ok(Ok(flows))) => {
                Some(flows.into_iter().map(|flow| flow.filter(|flow| !flow.status.is_dying())).collect())
            }
            Ok(Ok(Err(error))) => {
                log::debug!("{error}");
                None
            }
            Ok(Err(_)) | Err(_) => {
                log::debug!("no reply from the kernel in time: cannot tell whether a connection is live");
                None
            }
        }
    }
}
