//! The kernel's neighbour table: which MAC address has which address in the networks next to the gateway, as ARP and
//! neighbour discovery found it.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Source;
use super::netlink::{List, Neighbour, News, Received, Subscription};
use crate::claim::{Claim, Report};
use crate::host::Host;
use crate::mac::Mac;
use crate::outlet::Outlet;
use crate::time::Millis;

/// Room for the changes of some thousand neighbours at once.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Attempts at a list during which the table is not rebuilt, and no change is lost.
const ATTEMPTS: u32 = 16;
/// The pause between such attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// A warning of lost changes is logged once in this time.
const WARN_EACH: Duration = Duration::from_secs(60);

/// Follows the kernel's neighbour table, in the network namespace of the thread that follows it.
#[derive(Debug)]
pub struct Neighbours {
    table: Table,
    /// Until when no change was lost.
    seen_until: Option<Millis>,
    receive_buffer: usize,
    warned: Option<Instant>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self::new()
    }
}

impl Neighbours {
    /// The table of the network namespace of the thread that will follow it.
    pub fn new() -> Self {
        Self { table: Table::new(), seen_until: None, receive_buffer: RECEIVE_BUFFER, warned: None }
    }

    /// Reads everything anew, and reports it as a list.
    fn list(&mut self, outlet: &Outlet) -> io::Result<(Subscription, List)> {
        let mut attempt = 1;
        let (subscription, table, list, begun) = loop {
            let begun = outlet.now();
            // A new socket: what is left in the old one is older than this list.
            let mut subscription = Subscription::open(self.receive_buffer)?;
            let mut table = Table::new();
            let list = subscription.list(outlet, &mut |news| match news {
                News::ListBegins => table = Table::new(),
                News::Says(neighbour) => {
                    table.apply(neighbour);
                }
            })?;
            match list {
                Some(List::Good) => break (subscription, table, List::Good, begun),
                Some(list) if attempt == ATTEMPTS => break (subscription, table, list, begun),
                None if attempt == ATTEMPTS => {
                    let why = "the kernel has no room to answer: raise net.core.rmem_max";
                    return Err(io::Error::other(why));
                }
                _ => attempt += 1,
            }
            outlet.wait(&[], Some(PAUSE))?;
        };
        let now = outlet.now();
        let missed_since = self.seen_until;
        outlet.say(Report::ListBegins { missed_since })?;
        for (address, mac) in table.holders() {
            let mut claim = claim(address, mac);
            if let Some(missed_since) = missed_since.filter(|_| self.table.holder(address) != Some(mac)) {
                claim.since = Some(missed_since);
                claim.within = now.saturating_sub(missed_since).max(0);
            }
            outlet.say(Report::Holds(claim))?;
        }
        outlet.say(Report::ListEnds)?;
        self.table = table;
        self.seen_until = Some(if list == List::Overrun { begun } else { now });
        Ok((subscription, list))
    }

    /// Reports changes until some were lost.
    fn follow_changes(&mut self, subscription: &mut Subscription, outlet: &Outlet) -> io::Result<()> {
        // What is queued is reported after an overrun too, but not for ever: new changes can come all the time.
        let mut left_after_overrun: Option<u32> = None;
        loop {
            let (table, mut said) = (&mut self.table, Ok(()));
            let received = subscription.receive(&mut |news| {
                if let News::Says(neighbour) = news {
                    if let (Some(report), Ok(())) = (table.apply(neighbour), said) {
                        said = outlet.say(report);
                    }
                }
            })?;
            said.map_err(io::Error::from)?;
            match (received, &mut left_after_overrun) {
                (Received::Overrun, None) => left_after_overrun = Some(10_000),
                (Received::Overrun, Some(_)) => {}
                (Received::Message, None) => self.seen_until = Some(outlet.now()),
                (Received::Message, Some(0)) | (Received::Nothing, Some(_)) => return Ok(()),
                (Received::Message, Some(left)) => *left -= 1,
                (Received::Nothing, None) => {
                    self.seen_until = Some(outlet.now());
                    outlet.wait(&[&*subscription], None)?;
                }
            }
        }
    }

    fn warn_of_overrun(&mut self) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EACH) {
            self.warned = Some(Instant::now());
            log::warn!("names: changes of neighbours were lost (receive buffer full), all are read anew");
        }
    }
}

impl Source for Neighbours {
    fn name(&self) -> &'static str {
        "neighbours"
    }

    fn place(&self) -> String {
        "the kernel's neighbour table".to_owned()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        loop {
            let (mut subscription, list) = self.list(outlet)?;
            if list != List::Overrun {
                self.follow_changes(&mut subscription, outlet)?;
            }
            self.warn_of_overrun();
        }
    }
}

fn claim(address: IpAddr, mac: Mac) -> Claim {
    Claim::of(address, Host { mac: Some(mac), ..Host::default() })
}

/// Who has an address on an interface.
#[derive(Debug, Clone, Copy)]
struct Entry {
    interface: u32,
    mac: Mac,
    /// When that was confirmed last, in hundredths of a second.
    confirmed: i64,
}

/// The neighbours. The kernel bounds their number (`gc_thresh3`).
#[derive(Debug)]
struct Table {
    /// What was told last comes last.
    entries: HashMap<IpAddr, Vec<Entry>>,
    begun: Instant,
}

impl Table {
    fn new() -> Self {
        Self { entries: HashMap::new(), begun: Instant::now() }
    }

    /// Takes a message. Returns what it changes.
    fn apply(&mut self, neighbour: Neighbour) -> Option<Report> {
        let now = i64::try_from(self.begun.elapsed().as_millis() / 10).unwrap_or(i64::MAX);
        self.apply_at(neighbour, now)
    }

    fn apply_at(&mut self, neighbour: Neighbour, now: i64) -> Option<Report> {
        let Neighbour { interface, address, mac, age } = neighbour;
        let before = self.holder(address);
        let entries = self.entries.entry(address).or_default();
        entries.retain(|entry| entry.interface != interface);
        if let Some(mac) = mac {
            entries.push(Entry { interface, mac, confirmed: now - i64::from(age) });
        }
        if entries.is_empty() {
            self.entries.remove(&address);
        }
        match self.holder(address) {
            after if after == before => None,
            Some(mac) => Some(Report::Holds(claim(address, mac))),
            None => Some(Report::Ends { net: address.into(), at: None }),
        }
    }

    /// Who has an address: the one that was confirmed last, if it is on several interfaces.
    fn holder(&self, address: IpAddr) -> Option<Mac> {
        // Of equal ones this is the last.
        self.entries.get(&address)?.iter().max_by_key(|entry| entry.confirmed).map(|entry| entry.mac)
    }

    fn holders(&self) -> impl Iterator<Item = (IpAddr, Mac)> + use<'_> {
        self.entries.keys().filter_map(|address| Some((*address, self.holder(*address)?)))
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
