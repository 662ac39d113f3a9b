//! Follows the rules of nftables that suppress conntrack events (`ct event set`, and `-j CT
//! --ctevents` of iptables-nft).

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::Level;
use nfct::{Error, EventMask, Query, RuleChange, RuleChanges};

use super::pulse::MAX_REST;
use super::pump::pause_after;
use super::shared::Tracker;

/// After this time, rules that could not be read are read again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Rules that are named in the log; others are counted.
const MAX_NAMED: usize = 3;

impl Tracker {
    /// Follows the rules as they change; never returns except for an error. `is_read` says
    /// whether they could be read before.
    pub(super) fn follow_rules(
        &self,
        changes: &mut RuleChanges,
        mut query: Query,
        mut is_read: bool,
    ) -> Result<Infallible, Error> {
        loop {
            self.pulses.rules.beat();
            self.reads_rules.store(false, Ordering::SeqCst);
            let rest = if is_read { MAX_REST } else { RETRY_INTERVAL };
            let has_changed = match self.rule_changes.wait(Some(rest)) {
                Ok(has_changed) => has_changed,
                Err(error) => {
                    pause_after(error)?;
                    continue;
                }
            };
            if is_read && !has_changed {
                continue;
            }
            // Lookups must not find the socket empty before this is set.
            self.reads_rules.store(true, Ordering::SeqCst);
            let change = if has_changed { self.read_change(changes)? } else { RuleChange::default() };
            if change.added_masks.iter().any(is_suppressing) {
                self.note_rules(describe(&change.added_masks));
            }
            // Rules that are gone matter only if they suppressed events.
            let is_less = change.removed && self.lock().reporting.masked_by.is_some();
            if change.lost || is_less || !is_read {
                is_read = self.note_read(query.event_masks());
            }
        }
    }

    /// What has changed. If the system lacks memory, that may be anything.
    fn read_change(&self, changes: &mut RuleChanges) -> Result<RuleChange, Error> {
        changes.read().or_else(|error| {
            pause_after(error)?;
            let mut change = RuleChange::default();
            change.lost = true;
            Ok(change)
        })
    }

    /// Notes the masks that all rules set. Returns whether they could be read.
    pub(super) fn note_read(&self, masks: Result<Vec<EventMask>, Error>) -> bool {
        let is_read = masks.is_ok();
        self.note_rules(match masks {
            Ok(masks) => describe(&masks),
            // They may suppress anything.
            Err(error) => Some(format!("unknown ones ({error})")),
        });
        is_read
    }

    /// Notes which rules suppress events.
    fn note_rules(&self, suppressing: Option<String>) {
        let mut state = self.lock();
        match (&state.reporting.masked_by, &suppressing) {
            (_, Some(rules)) if state.reporting.masked_by != suppressing => {
                let rules = rules.clone();
                state.log(
                    Level::Warn,
                    format!("rules suppress conntrack events, so the table is incomplete: {rules}"),
                );
            }
            (Some(_), None) => state.log(Level::Info, "no rule suppresses conntrack events any more"),
            _ => {}
        }
        self.change_reporting(&mut state, |reporting| reporting.masked_by = suppressing);
    }
}

fn is_suppressing(mask: &EventMask) -> bool {
    !mask.lets_through_begin_and_end()
}

/// The rules that suppress events, in words; `None` if there are none.
fn describe(masks: &[EventMask]) -> Option<String> {
    let suppressing: Vec<_> = masks.iter().filter(|mask| is_suppressing(mask)).collect();
    if suppressing.is_empty() {
        return None;
    }
    let named: Vec<_> = suppressing.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let others = suppressing.len() - named.len();
    let rest = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(named.join(", ") + &rest)
}
