//! Follows the rules of nftables that suppress conntrack events (`ct event set`, and `-j CT
//! --ctevents` of iptables-nft).

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use log::Level;
use nfct::{Error, EventMask, Query, RuleChanges};

use super::shared::Tracker;

/// Rules that are named in the log; others are counted.
const MAX_NAMED: usize = 3;

impl Tracker {
    /// Follows the rules as they change; never returns except for an error.
    pub(super) fn follow_rules(
        &self,
        changes: &mut RuleChanges,
        mut query: Query,
    ) -> Result<Infallible, Error> {
        loop {
            self.reads_rules.store(false, Ordering::SeqCst);
            changes.wait()?;
            // Lookups must not find the socket empty before this is set.
            self.reads_rules.store(true, Ordering::SeqCst);
            let change = changes.read()?;
            if change.added_masks.iter().any(is_suppressing) {
                self.note_rules(describe(&change.added_masks));
            }
            // Rules that are gone matter only if they suppressed events.
            if change.lost || (change.removed && self.lock().reporting.masked_by.is_some()) {
                self.note_rules(read(&mut query));
            }
        }
    }

    /// Notes which rules suppress events.
    pub(super) fn note_rules(&self, suppressing: Option<String>) {
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

/// The rules that suppress events, in words; `None` if there are none, or if this kernel has no
/// nftables.
pub(super) fn read(query: &mut Query) -> Option<String> {
    match query.event_masks() {
        Ok(masks) => describe(&masks),
        // They may suppress anything.
        Err(error) => Some(format!("unknown ones ({error})")),
    }
}

fn is_suppressing(mask: &EventMask) -> bool {
    !mask.lets_through_begin_and_end()
}

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
