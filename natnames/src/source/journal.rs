//! What a log of leases says, in its order. The logs of Kea and of ISC dhcpd have the same sense.
//!
//! A file is read again when it was replaced, or after a failure. Then most of it was reported before, and what ended
//! since must not be reported as if it began now; so it is kept how far the history of each address was reported.

use std::collections::HashMap;

use ipnetwork::IpNetwork;

use crate::claim::{Claim, Report};
use crate::host::Host;
use crate::outlet::{Outlet, Stopped};
use crate::time::Millis;

/// The most addresses whose history is kept in mind, of about 50 bytes each. Of those beyond it, leases that ended can be
/// reported twice.
const MOST_ADDRESSES: usize = 900_000;
/// The most leases that are kept until the end of a list: see [`Journal::older`].
const MOST_OLDER: usize = 100_000;

/// A lease, as one entry of a log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The address, or the delegated prefix.
    pub(crate) net: IpNetwork,
    /// Who has or had it; empty if the entry does not say.
    pub(crate) host: Host,
    /// Since when, in whole seconds.
    pub(crate) since: Option<Millis>,
    /// When it ends or ended.
    pub(crate) until: Option<Millis>,
    /// Whether it is held; if not, it was until `until`, or until the moment of the entry.
    pub(crate) is_held: bool,
}

#[derive(Debug, Clone, Copy)]
struct Said {
    since: Millis,
    is_held: bool,
}

/// Reports the entries of a log.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    said: HashMap<IpNetwork, Said>,
    /// Leases that ended were forgotten, and there is no room nevertheless.
    is_full: bool,
    is_list: bool,
    /// Whether a whole list was reported before.
    has_listed: bool,
    /// The latest moment that entries of this list have named.
    clock: Millis,
    /// Entries that were reported before. One that is the last of its address nevertheless counts: an older copy of the
    /// file is back, or the clock was set back.
    older: HashMap<IpNetwork, Lease>,
}

impl Journal {
    /// A log is read from its begin.
    pub(crate) fn begin_list(&mut self, outlet: &Outlet) -> Result<(), Stopped> {
        self.is_list = true;
        self.is_full = false;
        self.clock = 0;
        self.older.clear();
        outlet.say(Report::ListBegins { missed_since: None })
    }

    /// Everything that there is was read: a list ends, if it is one.
    pub(crate) fn end_list(&mut self, outlet: &Outlet) -> Result<(), Stopped> {
        if std::mem::take(&mut self.is_list) {
            self.has_listed = true;
            for (net, lease) in std::mem::take(&mut self.older) {
                let was_held = self.said.get(&net).is_none_or(|said| said.is_held);
                if lease.is_held || was_held {
                    outlet.say(Report::Ends { net, at: None })?;
                    self.remember(net, Said { since: lease.since.unwrap_or(Millis::MIN), is_held: false });
                }
                if lease.is_held {
                    self.report(lease, outlet)?;
                }
            }
            outlet.say(Report::ListEnds)?;
        }
        Ok(())
    }

    /// Reports an entry.
    pub(crate) fn report(&mut self, lease: Lease, outlet: &Outlet) -> Result<(), Stopped> {
        let net = lease.net;
        let begun = lease.since.unwrap_or(Millis::MIN);
        let before = self.said.get(&net).copied();
        let was_said = self.is_list
            && self.has_listed
            && before.is_some_and(|said| begun < said.since || (begun == said.since && !said.is_held));
        self.older.remove(&net);
        if was_said {
            if self.older.len() < MOST_OLDER {
                self.older.insert(net, lease);
            }
            return Ok(());
        }
        let Lease { host, since, until, is_held, .. } = lease;
        self.clock = self.clock.max(begun);
        let at = match until {
            Some(until) => Some(until),
            None if self.is_list => Some(self.clock),
            None => None,
        };
        let claim = Claim { net, host, since, within: 999, until: if is_held { until } else { at } };
        if is_held {
            self.remember(net, Said { since: begun, is_held });
            return outlet.say(Report::Holds(claim));
        }
        // An entry that one which has ended is free now, and so on.
        let is_told = before.is_some_and(|said| !said.is_held && begun <= said.since);
        let is_missed = before.is_none_or(|said| said.since != begun) && since < at;
        if is_missed && !is_told && since.is_some() && !claim.host.is_empty() {
            outlet.say(Report::Holds(claim))?;
        }
        self.remember(net, Said { since: begun, is_held });
        if is_told { Ok(()) } else { outlet.say(Report::Ends { net, at }) }
    }

    fn remember(&mut self, net: IpNetwork, said: Said) {
        if self.said.len() >= MOST_ADDRESSES && !self.is_full {
            self.said.retain(|_, said| said.is_held);
            // It pays only if many were forgotten.
            self.is_full = self.said.len() > MOST_ADDRESSES - MOST_ADDRESSES / 10;
        }
        if self.said.len() < MOST_ADDRESSES || self.said.contains_key(&net) {
            self.said.insert(net, said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outlet::testing::Heard;
    use std::sync::Arc;

    fn lease(name: &str, since: Millis, until: Millis, is_held: bool) -> Lease {
        let net = "10.0.0.5/32".parse().unwrap();
        Lease { net, host: Host::named(name), since: Some(since), until: Some(until), is_held }
    }

    /// What is said of these entries, in short.
    fn say(journal: &mut Journal, is_list: bool, entries: &[Lease]) -> Vec<String> {
        let heard = Arc::<Heard>::default();
        let (outlet, _stop) = heard.outlet();
        if is_list {
            journal.begin_list(&outlet).unwrap();
        }
        for entry in entries {
            journal.report(entry.clone(), &outlet).unwrap();
        }
        journal.end_list(&outlet).unwrap();
        let short = |report| match report {
            Report::ListBegins { missed_since } => format!("list {missed_since:?}"),
            Report::ListEnds | Report::Followed => "end of list".to_owned(),
            Report::Ends { at, .. } => format!("ends {at:?}"),
            Report::Stops { .. } => unreachable!("no lease says so"),
            Report::Holds(Claim { host, since, until, .. }) => {
                format!("{} {}-{}", host.name.unwrap(), since.unwrap(), until.unwrap())
            }
        };
        heard.take_all().into_iter().map(short).collect()
    }

    #[test]
    fn history_is_reported_once() {
        let mut journal = Journal::default();
        let entries = [
            lease("a", 100, 200, true),
            lease("a", 100, 150, false),
            // Released, then free.
            lease("a", 100, 150, false),
            lease("b", 300, 400, true),
        ];
        let first = say(&mut journal, true, &entries);
        assert_eq!(first, ["list None", "a 100-200", "ends Some(150)", "b 300-400", "end of list"]);
        assert_eq!(say(&mut journal, true, &entries), ["list None", "b 300-400", "end of list"]);
        // What was missed meanwhile comes with its own times.
        let missed = [&entries[..], &[lease("c", 500, 600, false), lease("d", 700, 900, true)]].concat();
        let again = say(&mut journal, true, &missed);
        assert_eq!(
            again,
            ["list None", "b 300-400", "c 500-600", "ends Some(600)", "d 700-900", "end of list"]
        );
        assert_eq!(say(&mut journal, false, &[lease("d", 700, 800, false)]), ["ends Some(800)"]);
        assert_eq!(say(&mut journal, false, &[lease("d", 700, 800, false)]), [] as [&str; 0]);
    }

    #[test]
    fn an_older_copy_of_the_log_counts() {
        let mut journal = Journal::default();
        say(&mut journal, true, &[lease("a", 100, 900, true), lease("b", 300, 900, true)]);
        let again = say(&mut journal, true, &[lease("a", 100, 900, true)]);
        assert_eq!(again, ["list None", "ends None", "a 100-900", "end of list"]);
    }
}
