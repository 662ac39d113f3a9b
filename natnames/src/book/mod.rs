//! The facts of all sources.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::Millis;
use crate::answer::{Answer, Found, Who};
use crate::claim::{Claim, Report};
use crate::fact::{Fact, Span};
use crate::host::Host;
use crate::mac::Mac;

/// A source that does not say when something began is told of it this much later at most.
const LATE: Millis = 1_000;
/// The gaps of a source that are kept.
const MOST_GAPS: usize = 1_000;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most facts. Beyond it, those that ended first are forgotten.
    pub facts: usize,
    /// For how long facts are kept after their end, in milliseconds.
    pub keep: Millis,
}

#[derive(Debug, Default)]
struct SourceState {
    name: String,
    /// Since when it is not followed.
    blind_since: Option<Millis>,
    /// Spans in which it was not followed.
    gaps: VecDeque<(Millis, Millis)>,
    /// Counts lists.
    list: u32,
    /// What is not in the list that is being read ended between this moment and its end.
    missed_since: Option<Millis>,
}

impl SourceState {
    fn is_blind_at(&self, at: Millis) -> bool {
        self.blind_since.is_some_and(|since| at >= since)
            || self.gaps.iter().any(|(from, to)| (*from..*to).contains(&at))
    }
}

#[derive(Debug)]
struct Entry {
    fact: Fact,
    /// The list in which it was last.
    list: u32,
    /// What the source last said of its begin.
    said_since: Option<Millis>,
}

/// The facts of all sources, by address, MAC address and name.
#[derive(Debug)]
pub struct Book {
    limits: Limits,
    sources: Vec<SourceState>,
    entries: HashMap<u64, Entry>,
    next: u64,
    by_net: HashMap<IpNetwork, Vec<u64>>,
    /// The lengths of prefixes that occur: of IPv4, and of IPv6.
    lengths: [BTreeSet<u8>; 2],
    by_mac: HashMap<Mac, Vec<u64>>,
    /// By name and by subscriber, in lower case.
    by_name: HashMap<String, Vec<u64>>,
    /// What a source said last of an address.
    current: HashMap<(u8, IpNetwork), u64>,
    refused: u64,
}

impl Book {
    /// A book for these sources, whose numbers are their places. None is followed yet.
    pub fn new(limits: Limits, sources: &[&str], now: Millis) -> Self {
        let state = |name: &&str| SourceState {
            name: (*name).to_owned(),
            blind_since: Some(now),
            ..SourceState::default()
        };
        Self {
            limits,
            sources: sources.iter().map(state).collect(),
            entries: HashMap::new(),
            next: 0,
            by_net: HashMap::new(),
            lengths: Default::default(),
            by_mac: HashMap::new(),
            by_name: HashMap::new(),
            current: HashMap::new(),
            refused: 0,
        }
    }

    /// The name of a source.
    pub fn source_name(&self, source: u8) -> &str {
        self.sources.get(usize::from(source)).map_or("", |state| &state.name)
    }

    /// The number of facts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no facts.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The claims that were not kept, because the book was full of facts that hold.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a source is followed now.
    pub fn is_followed(&self, source: u8) -> bool {
        self.sources.get(usize::from(source)).is_some_and(|state| state.blind_since.is_none())
    }

    /// Notes that a source is not followed any more.
    pub fn lose(&mut self, source: u8, now: Millis) {
        if let Some(state) = self.sources.get_mut(usize::from(source)) {
            state.blind_since.get_or_insert(now);
        }
    }

    /// Applies what a source reports at this moment.
    pub fn apply(&mut self, source: u8, report: Report, now: Millis) {
        if usize::from(source) >= self.sources.len() {
            return;
        }
        match report {
            Report::ListBegins { missed_since } => {
                let state = &mut self.sources[usize::from(source)];
                state.list = state.list.wrapping_add(1);
                state.missed_since = state.blind_since.into_iter().chain(missed_since).min();
            }
            Report::Holds(claim) => self.hold(source, claim, now),
            Report::Ends { net, at } => {
                if let Some(id) = self.current.remove(&(source, net)) {
                    self.end(id, Span::exactly(at.unwrap_or(now).min(now)));
                }
            }
            Report::ListEnds => self.end_list(source, now),
        }
    }

    fn end_list(&mut self, source: u8, now: Millis) {
        let state = &mut self.sources[usize::from(source)];
        let list = state.list;
        let ended = Span { earliest: state.missed_since.take().unwrap_or(now).min(now), latest: now };
        if let Some(since) = state.blind_since.take().filter(|since| *since < now) {
            state.gaps.push_back((since, now));
            if state.gaps.len() > MOST_GAPS {
                state.gaps.pop_front();
            }
        }
        let entries = &self.entries;
        let is_gone = |(owner, _): &(u8, IpNetwork), id: &u64| {
            *owner == source && entries.get(id).is_none_or(|entry| entry.list != list)
        };
        let gone: Vec<((u8, IpNetwork), u64)> =
            self.current.iter().filter(|(key, id)| is_gone(key, id)).map(|(key, id)| (*key, *id)).collect();
        for (key, id) in gone {
            self.current.remove(&key);
            self.end(id, ended);
        }
    }

    fn end(&mut self, id: u64, ended: Span) {
        if let Some(Entry { fact, .. }) = self.entries.get_mut(&id) {
            // What is over is over.
            if fact.end().latest > ended.earliest {
                let earliest = ended.earliest.max(fact.began.earliest);
                fact.ended = Some(Span { earliest, latest: ended.latest.max(earliest) });
            }
        }
    }

    fn hold(&mut self, source: u8, claim: Claim, now: Millis) {
        let Claim { net, host, since, within, until } = claim;
        let host = host.cleaned();
        let list = self.sources[usize::from(source)].list;
        let mut began = match since {
            Some(since) => {
                Span { earliest: since, latest: since.saturating_add(within.max(0)).min(now.max(since)) }
            }
            None => Span { earliest: now.saturating_sub(LATE), latest: now },
        };
        let key = (source, net);
        if let Some(&id) = self.current.get(&key) {
            if let Some(entry) = self.entries.get_mut(&id) {
                let end = entry.fact.end();
                let is_same = *entry.fact.host == host;
                // A lease that was renewed after its end is another one.
                let goes_on = end.latest >= began.earliest;
                if is_same && goes_on {
                    entry.list = list;
                    entry.said_since = since;
                    entry.fact.until = until;
                    return;
                }
                let is_renamed =
                    goes_on && since == entry.said_since && is_one_device(&entry.fact.host, &host);
                if is_renamed {
                    began = Span::exactly(now);
                }
                began.earliest = began.earliest.max(entry.fact.began.latest);
                began.latest = began.latest.max(began.earliest);
                self.end(id, began);
            }
        }
        // Nobody has an address before the one before has lost it.
        if let Some(ended) = self.last_end(key) {
            began.earliest = began.earliest.max(ended.earliest.min(began.latest));
        }
        if host.is_empty() || !self.has_room(now) {
            self.refused += u64::from(!host.is_empty());
            self.current.remove(&key);
            return;
        }
        let fact = Fact { net, host: Arc::new(host), source, began, learnt: now, ended: None, until };
        let id = self.insert(Entry { fact, list, said_since: since });
        self.current.insert(key, id);
    }

    /// When the last fact of a source about an address ended.
    fn last_end(&self, (source, net): (u8, IpNetwork)) -> Option<Span> {
        let facts = self.by_net.get(&net)?.iter().rev().filter_map(|id| self.entries.get(id));
        let last = facts.map(|entry| &entry.fact).find(|fact| fact.source == source)?;
        Some(last.end())
    }

    fn insert(&mut self, entry: Entry) -> u64 {
        let id = self.next;
        self.next += 1;
        let net = entry.fact.net;
        self.by_net.entry(net).or_default().push(id);
        self.lengths[usize::from(net.is_ipv6())].insert(net.prefix());
        let host = &entry.fact.host;
        if let Some(mac) = host.mac {
            self.by_mac.entry(mac).or_default().push(id);
        }
        for name in names_of(host) {
            self.by_name.entry(name).or_default().push(id);
        }
        self.entries.insert(id, entry);
        id
    }

    fn remove(&mut self, id: u64) {
        fn drop_from<K: std::hash::Hash + Eq>(index: &mut HashMap<K, Vec<u64>>, key: &K, id: u64) {
            if let Some(ids) = index.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    index.remove(key);
                }
            }
        }
        let Some(Entry { fact, .. }) = self.entries.remove(&id) else { return };
        drop_from(&mut self.by_net, &fact.net, id);
        if let Some(mac) = &fact.host.mac {
            drop_from(&mut self.by_mac, mac, id);
        }
        for name in names_of(&fact.host) {
            drop_from(&mut self.by_name, &name, id);
        }
        let key = (fact.source, fact.net);
        if self.current.get(&key) == Some(&id) {
            self.current.remove(&key);
        }
    }

    /// Whether there is room for one more, after those that ended long ago, and then those that ended first, are
    /// forgotten.
    fn has_room(&mut self, now: Millis) -> bool {
        if self.entries.len() < self.limits.facts {
            return true;
        }
        let mut ended: Vec<(Millis, u64)> = self
            .entries
            .iter()
            .map(|(id, entry)| (entry.fact.end().latest, *id))
            .filter(|(end, _)| *end <= now)
            .collect();
        ended.sort_unstable();
        let old = ended.partition_point(|(end, _)| *end < now.saturating_sub(self.limits.keep));
        // Some more, so that this is rare.
        let many = old.max(self.limits.facts / 10).max(1).min(ended.len());
        ended[..many].iter().for_each(|(_, id)| self.remove(*id));
        self.entries.len() < self.limits.facts
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
        Some(holds && !self.sources[usize::from(fact.source)].is_blind_at(at))
    }

    /// Who had an address at a moment.
    pub fn at(&self, address: IpAddr, at: Millis) -> Answer<'_> {
        let gaps =
            (0..).zip(&self.sources).filter(|(_, state)| state.is_blind_at(at)).map(|(place, _)| place);
        let gaps = gaps.collect();
        let mut facts: Vec<(bool, &Fact)> =
            self.facts_of(address).filter_map(|fact| Some((self.holds(fact, at)?, fact))).collect();
        // What is certain precedes what is not, an address its network, and an earlier source a later one. What one
        // source says last counts.
        facts.sort_by_key(|(is_certain, fact)| {
            (!is_certain, 128 - fact.net.prefix(), fact.source, std::cmp::Reverse(fact.began.latest))
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

fn names_of(host: &Host) -> impl Iterator<Item = String> + use<> {
    let names: BTreeSet<String> =
        [&host.name, &host.subscriber].into_iter().flatten().map(|name| name.to_lowercase()).collect();
    names.into_iter()
}

/// Whether both are certainly the same device, whatever its name.
fn is_one_device(host: &Host, other: &Host) -> bool {
    (host.mac.is_some() || host.client_id.is_some())
        && host.mac == other.mac
        && host.client_id == other.client_id
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { facts: 1000, keep: 1_000_000 };

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    fn device(name: &str, mac: u8) -> Host {
        Host { mac: Mac::from_bytes(&[2, 0, 0, 0, 0, mac]), ..Host::named(name) }
    }

    fn claim(text: &str, host: Host, since: Option<Millis>, until: Option<Millis>) -> Report {
        Report::Holds(Claim { net: net(text), host, since, within: 0, until })
    }

    /// A book whose sources are followed from the moment 0 on.
    fn book(sources: &[&str]) -> Book {
        let mut book = Book::new(LIMITS, sources, 0);
        for source in 0..sources.len() as u8 {
            book.apply(source, Report::ListBegins { missed_since: None }, 0);
            book.apply(source, Report::ListEnds, 0);
        }
        book
    }

    /// The name that an address had, with a question mark if it is not certain.
    fn name(book: &Book, address: &str, at: Millis) -> String {
        let answer = book.at(address.parse().unwrap(), at);
        let found = answer.found.map(|found| {
            let name = found.name.unwrap_or("unnamed").to_owned();
            if found.is_certain { name } else { name + "?" }
        });
        found.unwrap_or_else(|| "nobody".to_owned())
    }

    #[test]
    fn an_address_passes_from_host_to_host() {
        let mut book = book(&["leases"]);
        book.apply(0, claim("192.168.7.23", device("phone", 1), Some(1_000), Some(9_000)), 1_000);
        book.apply(0, Report::Ends { net: net("192.168.7.23"), at: Some(5_000) }, 5_000);
        book.apply(0, claim("192.168.7.23", device("laptop", 2), Some(5_400), Some(9_400)), 5_400);
        let names =
            [999, 1_000, 4_999, 5_000, 5_399, 5_400, 9_399, 9_400].map(|at| name(&book, "192.168.7.23", at));
        assert_eq!(names, ["nobody", "phone", "phone", "nobody", "nobody", "laptop", "laptop", "nobody"]);
        // Renewed, and renamed.
        book.apply(0, claim("192.168.7.23", device("laptop", 2), Some(7_000), Some(11_000)), 7_000);
        book.apply(0, claim("192.168.7.23", device("work", 2), Some(7_000), Some(11_000)), 8_000);
        let names = [7_999, 8_000, 10_999].map(|at| name(&book, "192.168.7.23", at));
        assert_eq!(names, ["laptop", "work", "work"]);
        // One that takes over without a word of the end.
        book.apply(0, claim("192.168.7.23", device("tablet", 3), Some(10_000), Some(14_000)), 10_001);
        assert_eq!([9_999, 10_000].map(|at| name(&book, "192.168.7.23", at)), ["work", "tablet"]);
    }

    #[test]
    fn whole_seconds_of_a_source_are_not_taken_for_more() {
        let mut book = book(&["leases"]);
        let within = |address, host, since, now| {
            (
                Report::Holds(Claim {
                    net: net(address),
                    host,
                    since: Some(since),
                    within: 999,
                    until: None,
                }),
                now,
            )
        };
        let (report, now) = within("10.0.0.1", device("a", 1), 10_000, 10_300);
        book.apply(0, report, now);
        book.apply(0, Report::Ends { net: net("10.0.0.1"), at: None }, 10_600);
        let (report, now) = within("10.0.0.1", device("b", 2), 10_000, 10_800);
        book.apply(0, report, now);
        let at = |at| name(&book, "10.0.0.1", at);
        assert_eq!([10_100, 10_300, 10_599].map(at), ["a?", "a", "a"]);
        assert_eq!(name(&book, "10.0.0.1", 10_800), "b");
        assert_ne!(name(&book, "10.0.0.1", 10_700), "b");
    }

    #[test]
    fn while_a_source_is_not_followed_nothing_is_certain() {
        let mut book = book(&["leases"]);
        book.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 100);
        book.apply(0, claim("10.0.0.2", device("b", 2), Some(100), None), 100);
        book.lose(0, 1_000);
        assert_eq!([999, 1_000, 5_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "a?"]);
        assert_eq!(book.at("10.0.0.9".parse().unwrap(), 5_000).gaps, [0]);
        book.apply(0, Report::ListBegins { missed_since: None }, 2_000);
        book.apply(0, claim("10.0.0.1", device("a", 1), Some(100), None), 2_000);
        book.apply(0, Report::ListEnds, 2_000);
        assert_eq!([999, 1_000, 1_999, 2_000].map(|at| name(&book, "10.0.0.1", at)), ["a", "a?", "a?", "a"]);
        // It ended at some moment in between.
        assert_eq!([999, 1_999, 2_000].map(|at| name(&book, "10.0.0.2", at)), ["b", "b?", "nobody"]);
        assert_eq!(book.at("10.0.0.9".parse().unwrap(), 2_000).gaps, [] as [u8; 0]);
    }

    #[test]
    fn a_lease_names_the_other_addresses_of_its_device() {
        let mut book = book(&["leases", "neighbours"]);
        book.apply(0, claim("192.168.7.23", device("phone", 1), Some(0), Some(9_000)), 10);
        let unnamed = |mac| Host { name: None, ..device("", mac) };
        book.apply(1, claim("fd00::1:2", unnamed(1), None, None), 1_500);
        assert_eq!(
            [400, 600, 1_500, 8_999].map(|at| name(&book, "fd00::1:2", at)),
            ["nobody", "phone?", "phone", "phone"]
        );
        assert_eq!(name(&book, "fd00::1:2", 9_000), "unnamed");
        let addresses = book.addresses_of(&Who::Name("PHONE".to_owned()), 0, 20_000);
        assert_eq!(addresses.len(), 2);
        assert_eq!(addresses[1].0, net("fd00::1:2"));
        // The neighbour table has another device at the leased address: both are said.
        book.apply(1, claim("192.168.7.23", unnamed(9), None, None), 3_000);
        let found = book.at("192.168.7.23".parse().unwrap(), 4_000).found.unwrap();
        assert_eq!((found.name, found.others.len()), (Some("phone"), 1));
        assert!(found.is(&Who::Name("Phone".to_owned())) && found.is(&Who::Mac(device("", 1).mac.unwrap())));
    }

    #[test]
    fn the_longest_prefix_and_the_first_source_decide() {
        let mut book = book(&["file", "leases"]);
        book.apply(0, claim("10.0.0.0/8", Host::named("office"), Some(0), None), 0);
        book.apply(0, claim("10.1.0.0/16", Host::named("lab"), Some(0), None), 0);
        book.apply(1, claim("10.1.2.3", Host::named("printer"), Some(0), None), 0);
        let names = ["10.1.2.3", "10.1.2.4", "10.2.0.0", "11.0.0.0"].map(|address| name(&book, address, 5));
        assert_eq!(names, ["printer", "lab", "office", "nobody"]);
    }

    #[test]
    fn memory_is_bounded_and_what_holds_is_kept() {
        let mut book = book(&["leases"]);
        book.limits = Limits { facts: 100, keep: 1_000 };
        for at in 0..10_000 {
            let address = IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
            let host = device(&format!("host{at}"), 1);
            book.apply(0, claim(&address.to_string(), host, Some(at), Some(at + 50)), at);
            assert!(book.len() <= 100);
        }
        assert_eq!((name(&book, "10.0.39.15", 9_999), book.refused()), ("host9999".to_owned(), 0));
        for at in 0..200 {
            book.apply(0, claim(&format!("10.9.9.{at}"), Host::named("x"), Some(10_000), None), 10_000);
        }
        assert!(book.len() <= 100 && book.refused() >= 100);
    }
}
