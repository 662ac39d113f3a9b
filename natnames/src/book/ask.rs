//! Questions.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::answer::{Answer, Found, Who};
use crate::book::book::Book;
use crate::fact::{Fact, Span};
use crate::mac::Mac;
use crate::time::Millis;

impl Book {
    /// The facts of this address, and of networks that contain it; longer prefixes come first.
    fn facts_of(&self, address: IpAddr) -> impl Iterator<Item = &Fact> {
        let lengths = self.lengths[usize::from(address.is_ipv6())].iter().rev();
        let nets = lengths.filter_map(move |length| {
            let net = IpNetwork::new(address, *length).ok()?;
            IpNetwork::new(net.network(), *length).ok()
        });
        let ids = nets.filter_map(|net| self.by_net.get(&net)).flatten();
        ids.filter_map(|id| self.entries.get(id)).map(|entry| &entry.fact)
    }

    /// Whether a fact held at a moment, and whether that is certain.
    fn holds(&self, fact: &Fact, at: Millis) -> Option<bool> {
        let holds = fact.holds(at)?;
        Some(holds && !self.sources[usize::from(fact.source)].is_blind_at(at))
    }

    /// Who had an address at a moment.
    pub fn at(&self, address: IpAddr, at: Millis) -> Answer<'_> {
        let gaps =
            (0..).zip(&self.sources).filter(|(_, state)| state.is_blind_at(at)).map(|(place, _)| place);
        let gaps = gaps.collect();
        let mut facts: Vec<(bool, &Fact)> =
            self.facts_of(address).filter_map(|fact| Some((self.holds(fact, at)?, fact))).collect();
        // What is certain precedes what is not, an address its network, and an earlier source a later one. Where one host
        // follows another, the first one is known to have been there.
        facts.sort_by_key(|(is_certain, fact)| {
            (!is_certain, 128 - fact.net.prefix(), fact.source, fact.began.latest)
        });
        let Some(&(is_certain, first)) = facts.first() else { return Answer { found: None, gaps } };
        let mut found = Found::new(first, is_certain);
        for (is_certain_too, fact) in &facts[1..] {
            if found.agrees(&fact.host) {
                found.complete_with(&fact.host);
            } else if *is_certain_too >= is_certain {
                found.others.push(fact);
            }
        }
        if let (None, Some(mac)) = (found.name, found.mac) {
            if let Some(fact) = self.named_by_mac(mac, at) {
                found.complete_with(&fact.host);
            }
        }
        Answer { found: Some(found), gaps }
    }

    /// What names a device by another of its addresses: a lease of IPv4 names the device that has made itself addresses
    /// of IPv6.
    fn named_by_mac(&self, mac: Mac, at: Millis) -> Option<&Fact> {
        let ids = self.by_mac.get(&mac)?.iter();
        let facts = ids.filter_map(|id| self.entries.get(id)).map(|entry| &entry.fact);
        let named = facts.filter(|fact| fact.host.name.is_some() && self.holds(fact, at) == Some(true));
        named.min_by_key(|fact| (fact.source, std::cmp::Reverse(fact.began.latest)))
    }

    /// The addresses of a device from `from` to `to`, with the span in which it can have had each. Other addresses
    /// with one of its MAC addresses are its own too.
    pub fn addresses_of(&self, who: &Who, from: Millis, to: Millis) -> Vec<(IpNetwork, Span)> {
        let find = |ids: Option<&Vec<u64>>| -> Vec<&Fact> {
            let facts =
                ids.into_iter().flatten().filter_map(|id| self.entries.get(id)).map(|entry| &entry.fact);
            facts.filter(|fact| fact.touches(from, to)).collect()
        };
        let mut facts = match who {
            Who::Mac(mac) => find(self.by_mac.get(mac)),
            Who::Name(name) => find(self.by_name.get(&name.to_lowercase())),
        };
        let mut seen: HashSet<Mac> = HashSet::new();
        for fact in facts.clone() {
            let Some(mac) = fact.host.mac.filter(|mac| matches!(who, Who::Name(_)) && seen.insert(*mac))
            else {
                continue;
            };
            let (from, to) = (fact.began.earliest.max(from), fact.end().latest.min(to));
            let same = find(self.by_mac.get(&mac)).into_iter();
            facts.extend(same.filter(|other| other.host.name.is_none() && other.touches(from, to)));
        }
        facts
            .iter()
            .map(|fact| {
                let (from, to) = (fact.began.earliest.max(from), fact.end().latest.min(to));
                (fact.net, Span { earliest: from, latest: to })
            })
            .collect()
    }
}
