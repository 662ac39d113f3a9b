//! Questions.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::answer::{Answer, Found, Who};
use crate::book::book::Book;
use crate::fact::{Fact, Span};
use crate::mac::Mac;
use crate::time::Millis;

/// The end of a lease is written down without the part of its second.
const WHOLE_SECOND: Millis = 999;
/// So many facts of one MAC address are looked at for a name, the newest ones.
const MOST_OF_ONE_MAC: usize = 10_000;

/// What decides: an address before its network, and an earlier source before a later one.
fn rank(fact: &Fact) -> (u8, u8) {
    (128 - fact.net.prefix(), fact.source)
}

impl Book {
    /// The spans in which a source was not followed, or of which it is not known what it said, that touch a span: with the
    /// source's number.
    pub fn gaps(&self, from: Millis, to: Millis) -> Vec<(u8, Millis, Option<Millis>)> {
        let mut gaps = Vec::new();
        for (number, state) in (0..).zip(&self.sources).filter(|(_, state)| !state.is_retired) {
            let ended = state.gaps.iter().map(|(from, to)| (*from, Some(*to)));
            let all = ended.chain(state.blind_since.map(|since| (since, None)));
            let touching = all.filter(|(begin, end)| *begin <= to && end.is_none_or(|end| end > from));
            gaps.extend(touching.map(|(begin, end)| (number, begin, end)));
        }
        gaps
    }

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
        Some(holds && !self.sources[usize::from(fact.source)].is_unsure_at(at))
    }

    /// Who had an address at a moment.
    pub fn at(&self, address: IpAddr, at: Millis) -> Answer<'_> {
        let blind = (0..).zip(&self.sources).filter(|(_, state)| !state.is_retired && state.is_blind_at(at));
        let gaps: Vec<u8> = blind.map(|(place, _)| place).collect();
        let held: Vec<(bool, &Fact)> =
            self.facts_of(address).filter_map(|fact| Some((self.holds(fact, at)?, fact))).collect();
        let is_certain = |is_certain, fact| is_certain && !self.is_in_doubt(fact, &held, at);
        let mut facts: Vec<(bool, &Fact)> =
            held.iter().map(|(holds, fact)| (is_certain(*holds, fact), *fact)).collect();
        // What is certain precedes what is not. Where one host follows another, the first one is known to have been there.
        facts.sort_by_key(|(is_certain, fact)| (!is_certain, rank(fact), fact.began.latest));
        let Some(&(is_certain, first)) = facts.first() else { return Answer { found: None, gaps } };
        let mut found = Found::new(first, is_certain);
        for (is_certain_too, fact) in &facts[1..] {
            if found.agrees(&fact.host) {
                let is_new = found.complete_with(&fact.host);
                found.is_certain &= !is_new || *is_certain_too;
            } else {
                found.others.push(fact);
            }
        }
        if let (None, Some(mac)) = (found.name, found.mac) {
            for fact in self.named_by_mac(mac, at) {
                if found.agrees(&fact.host) {
                    found.complete_with(&fact.host);
                } else if !found.others.contains(&fact) {
                    found.others.push(fact);
                }
            }
        }
        Answer { found: Some(found), gaps }
    }

    /// Who had an address at some moment of this span. It is certain only if the same host had it in the whole span.
    pub fn during(&self, address: IpAddr, span: Span) -> Answer<'_> {
        let Span { earliest, latest } = span;
        let mut answer = self.at(address, latest);
        let Some(found) = answer.found.as_mut().filter(|found| found.is_certain && earliest < latest) else {
            return answer;
        };
        let before = self.at(address, earliest).found;
        let is_same = before.is_some_and(|before| {
            before.is_certain && std::ptr::eq(before.fact, found.fact) && before.name == found.name
        });
        let deciding = &self.sources[..=usize::from(found.fact.source)];
        found.is_certain = is_same && !deciding.iter().any(|state| state.was_unsure(earliest, latest));
        answer
    }

    /// Whether an earlier source can know better. What it is not certain of leaves later ones in doubt. A device that lost
    /// its lease stays in the neighbour table for long, so what began before that end is old.
    fn is_in_doubt(&self, fact: &Fact, held: &[(bool, &Fact)], at: Millis) -> bool {
        let earlier = &self.sources[..usize::from(fact.source)];
        let may_be_another = |(is_certain, other): &(bool, &Fact)| !is_certain && rank(other) < rank(fact);
        let oldest = fact.began.earliest.saturating_sub(WHOLE_SECOND);
        let was_outlived = |other: &Fact| {
            other.source < fact.source
                && other.host.mac.is_some()
                && (oldest..=at).contains(&other.end().latest)
        };
        let of_address = || self.by_net.get(&fact.net).into_iter().flatten();
        let mut others = of_address().filter_map(|id| self.entries.get(id)).map(|entry| &entry.fact);
        earlier.iter().any(|state| !state.is_retired && state.is_unsure_at(at))
            || held.iter().any(may_be_another)
            || (fact.until.is_none() && fact.source > 0 && others.any(was_outlived))
    }

    /// What names a device by another of its addresses: a lease of IPv4 names the device that has made itself addresses
    /// of IPv6. In the order of their sources, and the newest first.
    fn named_by_mac(&self, mac: Mac, at: Millis) -> Vec<&Fact> {
        // A device that makes itself addresses without end is not looked at for ever.
        let ids = self.by_mac.get(&mac).into_iter().flatten().rev().take(MOST_OF_ONE_MAC);
        let facts = ids.filter_map(|id| self.entries.get(id)).map(|entry| &entry.fact);
        let named = facts.filter(|fact| fact.host.name.is_some() && self.holds(fact, at) == Some(true));
        let mut named: Vec<&Fact> = named.collect();
        named.sort_by_key(|fact| (fact.source, std::cmp::Reverse(fact.began.latest)));
        named
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
        // Other addresses of the same device, at the times at which it had this name.
        let mut spans: HashMap<Mac, Vec<(Millis, Millis)>> = HashMap::new();
        for fact in facts.iter().filter(|_| matches!(who, Who::Name(_))) {
            let span = (fact.began.earliest.max(from), fact.end().latest.min(to));
            fact.host.mac.into_iter().for_each(|mac| spans.entry(mac).or_default().push(span));
        }
        for (mac, spans) in spans {
            let is_then = |other: &&Fact| spans.iter().any(|(from, to)| other.touches(*from, *to));
            let unnamed = find(self.by_mac.get(&mac)).into_iter().filter(|other| other.host.name.is_none());
            facts.extend(unnamed.filter(is_then));
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
