//! Follows the rules of nftables that suppress conntrack events (`ct event set`, and `-j CT
//! --ctevents` of iptables-nft).

use std::convert::Infallible;

use log::Level;
use nfct::{Error, Query, RuleChanges};

use super::shared::Tracker;

/// Rules that are named in the log; others are counted.
const MAX_NAMED: usize = 3;

impl Tracker {
    /// Reads the rules whenever they change; never returns except for an error.
    pub(super) fn follow_rules(&self, changes: &RuleChanges, mut query: Query) -> Result<Infallible, Error> {
        loop {
            changes.wait()?;
            if !changes.has_changed()? {
                continue;
            }
            // Until they are read, each may suppress events.
            self.change_reporting(&mut self.lock(), |reporting| reporting.are_rules_unread = true);
            let suppressing = read(&mut query);
            self.note_rules(suppressing);
        }
    }

    /// Notes which rules suppress events.
    pub(super) fn note_rules(&self, suppressing: Option<String>) {
        let mut state = self.lock();
        match (&state.reporting.masked_by, &suppressing) {
            (_, Some(rules)) if state.reporting.masked_by != suppressing => {
                let line = format!(
                    "rules suppress conntrack events: {rules}. The table is incomplete, and live mappings are \
                     verified with the kernel, until these rules are removed or let new, related and destroy pass"
                );
                state.log(Level::Warn, line);
            }
            (Some(_), None) => state.log(Level::Info, "no rule suppresses conntrack events any more"),
            _ => {}
        }
        self.change_reporting(&mut state, |reporting| {
            reporting.are_rules_unread = false;
            reporting.masked_by = suppressing;
        });
    }
}

/// The rules that suppress events, in words; `None` if there are none, or if this kernel has no
/// nftables.
pub(super) fn read(query: &mut Query) -> Option<String> {
    let masks = query.event_masks().inspect_err(|error| log::warn!("{error}")).ok()?;
    let suppressing: Vec<_> = masks.iter().filter(|mask| !mask.lets_through_begin_and_end()).collect();
    if suppressing.is_empty() {
        return None;
    }
    let named: Vec<_> = suppressing.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let others = suppressing.len() - named.len();
    let rest = if others > 0 { format!(" and {others} more") } else { String::new() };
    Some(named.join(", ") + &rest)
}
