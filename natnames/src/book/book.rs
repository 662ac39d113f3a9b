//! What sources say, as facts.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::book::changes::Journal;
use crate::claim::{Claim, Report};
use crate::fact::{Fact, Span};
use crate::host::Host;
use crate::mac::Mac;
use crate::time::Millis;

/// A source that does not say when something began is told of it this much later at most, in milliseconds.
const LATE: Millis = 100;
/// While all facts hold, and there is no room, this is how long no room is looked for, in milliseconds.
const LOOK_AGAIN: Millis = 1_000;
/// The gaps of a source that are told apart.
const MOST_GAPS: usize = 1_000;
/// When there is no room, the facts of a MAC address that has more than this part of all are forgotten first.
const MOST_SHARE: usize = 20;
/// How often facts that ended longer ago than they are to be kept are forgotten, in milliseconds.
const FORGET_EACH: Millis = 60 * 60 * 1_000;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most facts. Beyond it, those that ended first are forgotten.
    pub facts: usize,
    /// For how long facts are kept after their end, in milliseconds.
    pub keep: Millis,
}

#[derive(Debug, Default)]
pub(super) struct SourceState {
    pub(super) name: String,
    pub(super) place: String,
    /// Since when it is not followed.
    pub(super) blind_since: Option<Millis>,
    /// Whether this book knows of an earlier one what it said, and it has not sent its first list.
    pub(super) is_restored: bool,
    /// What it says now can have happened since this moment.
    pub(super) late_since: Option<Millis>,
    /// Spans in which it was not followed, in their order.
    pub(super) gaps: VecDeque<(Millis, Millis)>,
    /// Counts lists.
    pub(super) list: u32,
    /// What is not in the list that is being read ended between this moment and its end, and what is new began then.
    pub(super) missed_since: Option<Millis>,
    /// Whether it is not followed any more at all, and only its past is known.
    pub(super) is_retired: bool,
}

impl SourceState {
    pub(super) fn is_blind_at(&self, at: Millis) -> bool {
        self.blind_since.is_some_and(|since| at >= since)
            // The first one can be that of the beginning, and reach over later ones.
            || self.gaps.front().is_some_and(|(from, to)| (*from..*to).contains(&at))
            || self.gaps.iter().rev().take_while(|(_, to)| *to > at).any(|(from, _)| *from <= at)
    }

    /// Whether what it says of a moment can be out of date: it was not followed, or is yet to read what has changed.
    pub(super) fn is_unsure_at(&self, at: Millis) -> bool {
        self.is_blind_at(at) || self.late_since.is_some_and(|since| at >= since.saturating_sub(LATE))
    }

    /// Whether that was so at some moment of this span.
    pub(super) fn was_unsure(&self, from: Millis, to: Millis) -> bool {
        self.is_unsure_at(to) || self.gaps.iter().any(|(begin, end)| *begin <= to && from < *end)
    }

    /// When that can have happened which it reports now, without its time.
    fn just_now(&self, now: Millis) -> Span {
        let since = self.late_since.unwrap_or(now).min(now).saturating_sub(LATE);
        Span { earliest: since, latest: now }
    }

    /// Notes a span in which it was not followed. With many, the oldest become one.
    pub(super) fn add_gap(&mut self, from: Millis, to: Millis) {
        self.gaps.push_back((from, to));
        if self.gaps.len() > MOST_GAPS {
            if let Some((from, _)) = self.gaps.pop_front() {
                if let Some(next) = self.gaps.front_mut() {
                    next.0 = from.min(next.0);
                }
            }
        }
    }

    /// Notes that nothing is known of the time before a moment.
    pub(super) fn forget_until(&mut self, until: Millis) {
        match self.gaps.front_mut().filter(|(from, _)| *from == BEGINNING) {
            Some((_, to)) => *to = until.max(*to),
            None => self.gaps.push_front((BEGINNING, until)),
        }
    }
}

/// The beginning of time.
pub(super) const BEGINNING: Millis = 0;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) fact: Fact,
    /// The list in which it was last.
    pub(super) list: u32,
    /// What the source last said of its begin.
    pub(super) said_since: Option<Millis>,
    /// When the source said it last, or could have said something else instead.
    pub(super) said_at: Millis,
}

/// The facts of all sources, by address, MAC address and name.
#[derive(Debug)]
pub struct Book {
    pub(super) limits: Limits,
    pub(super) sources: Vec<SourceState>,
    pub(super) entries: HashMap<u64, Entry>,
    pub(super) next: u64,
    pub(super) by_net: HashMap<IpNetwork, Vec<u64>>,
    /// The lengths of prefixes that occur: of IPv4, and of IPv6.
    pub(super) lengths: [BTreeSet<u8>; 2],
    pub(super) by_mac: HashMap<Mac, Vec<u64>>,
    /// By name and by subscriber, in lower case.
    pub(super) by_name: HashMap<String, Vec<u64>>,
    /// What a source said last of an address.
    pub(super) current: HashMap<(u8, IpNetwork), u64>,
    pub(super) refused: u64,
    /// Until then there is no room.
    pub(super) full_until: Millis,
    /// When facts that ended long ago are forgotten next.
    pub(super) forget_at: Millis,
    /// What has changed, if that is wanted.
    pub(super) journal: Option<Journal>,
}

impl Book {
    /// A book for these sources: a name and where it is. Their numbers are their places in this list. None is followed
    /// yet.
    pub fn new(limits: Limits, sources: &[(&str, &str)], now: Millis) -> Self {
        let state = |(name, place): &(&str, &str)| SourceState {
            name: (*name).to_owned(),
            place: (*place).to_owned(),
            blind_since: Some(BEGINNING),
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
            full_until: Millis::MIN,
            forget_at: now,
            journal: None,
        }
    }

    /// Where a source is.
    pub fn source_place(&self, source: u8) -> &str {
        self.sources.get(usize::from(source)).map_or("", |state| &state.place)
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

    /// Notes that what a source reports can have happened since this moment, or that it reports it at once again.
    pub fn note_delay(&mut self, source: u8, since: Option<Millis>) {
        if let Some(state) = self.sources.get_mut(usize::from(source)) {
            state.late_since = since;
        }
    }

    /// Applies what a source reports at this moment.
    pub fn apply(&mut self, source: u8, report: Report, now: Millis) {
        if usize::from(source) >= self.sources.len() {
            return;
        }
        if now >= self.forget_at {
            self.forget_at = now.saturating_add(FORGET_EACH);
            self.forget(now);
        }
        match report {
            Report::ListBegins { missed_since } => {
                let state = &mut self.sources[usize::from(source)];
                state.list = state.list.wrapping_add(1);
                state.missed_since = state.blind_since.into_iter().chain(missed_since).min();
            }
            Report::Holds(claim) => self.hold(source, claim, now),
            // The past, said again after a restart.
            Report::Ends { net, at: Some(at) } if self.is_old(source, net, at) => {}
            Report::Ends { net, at } => {
                if let Some(id) = self.current.remove(&(source, net)) {
                    let just_now = self.sources[usize::from(source)].just_now(now);
                    self.end(id, at.map_or(just_now, |at| Span::exactly(at.min(now))));
                }
            }
            Report::Stops { net, at } => {
                let began = self.current_fact((source, net)).map(|fact| fact.began.earliest);
                if began.is_some_and(|began| began <= at) {
                    self.apply(source, Report::Ends { net, at: Some(at) }, now);
                }
            }
            Report::ListEnds => self.end_list(source, now),
            Report::Followed => self.end_blindness(source, now),
        }
    }

    fn end_list(&mut self, source: u8, now: Millis) {
        let state = &mut self.sources[usize::from(source)];
        let list = state.list;
        let mut ended = state.just_now(now);
        ended.earliest = ended.earliest.min(state.missed_since.take().unwrap_or(now));
        self.end_blindness(source, now);
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

    fn end_blindness(&mut self, source: u8, now: Millis) {
        let state = &mut self.sources[usize::from(source)];
        state.is_restored = false;
        if let Some(since) = state.blind_since.take().filter(|since| *since < now) {
            state.add_gap(since, now);
            if let Some(journal) = &mut self.journal {
                journal.gaps.push((source, since, now));
            }
        }
    }

    /// Whether a source says something of a time before what it said in an earlier run.
    fn is_old(&self, source: u8, net: IpNetwork, at: Millis) -> bool {
        let is_before = |fact: &Fact| at < fact.began.earliest;
        self.sources[usize::from(source)].is_restored
            && self.current_fact((source, net)).is_some_and(is_before)
    }

    pub(super) fn end(&mut self, id: u64, ended: Span) {
        if let Some(Entry { fact, .. }) = self.entries.get_mut(&id) {
            // What is over is over.
            if fact.end().latest > ended.earliest {
                let earliest = ended.earliest.max(fact.began.earliest);
                fact.ended = Some(Span { earliest, latest: ended.latest.max(earliest) });
                self.note_change(id);
            }
        }
    }

    fn hold(&mut self, source: u8, claim: Claim, now: Millis) {
        let Claim { net, host, since, within, until } = claim;
        let host = host.cleaned();
        let state = &self.sources[usize::from(source)];
        let (list, just_now, blind_since) = (state.list, state.just_now(now), state.blind_since);
        // What a list has that begins after a time of which something was missed can have begun in that time. Of a time
        // before anything was known, nothing is said.
        let missed = state.missed_since.filter(|since| *since > BEGINNING);
        let mut began = match since {
            Some(since) => {
                Span { earliest: since, latest: since.saturating_add(within.max(0)).min(now.max(since)) }
            }
            None => Span { earliest: missed.unwrap_or(now).min(just_now.earliest), latest: now },
        };
        let key = (source, net);
        if since.is_some_and(|since| self.is_old(source, net, since)) {
            // A source that keeps the past says it again after a restart. What holds is said too, if it began a little
            // later than the source says, because somebody else still had the address.
            if let Some(entry) = self.current.get(&key).and_then(|id| self.entries.get_mut(id)) {
                if *entry.fact.host == host {
                    (entry.list, entry.said_at) = (list, just_now.earliest);
                    if until.is_none_or(|until| entry.fact.until.is_some_and(|known| known < until)) {
                        entry.fact.until = until;
                    }
                }
            }
            return;
        }
        if since.is_some_and(|since| self.is_over(source, net, &host, since)) {
            return;
        }
        if let Some(&id) = self.current.get(&key) {
            if let Some(entry) = self.entries.get_mut(&id) {
                let end = entry.fact.end();
                let is_same = *entry.fact.host == host;
                // A lease that was renewed after its end is another one.
                let goes_on = end.latest >= began.earliest;
                if is_same && goes_on {
                    (entry.list, entry.said_since, entry.said_at) = (list, since, just_now.earliest);
                    if entry.fact.until != until {
                        entry.fact.until = until;
                        self.note_change(id);
                    }
                    return;
                }
                let is_renamed =
                    goes_on && since == entry.said_since && is_one_device(&entry.fact.host, &host);
                if is_renamed {
                    // One that is known since before a gap was renamed in it.
                    let earliest = match blind_since {
                        Some(blind) if entry.fact.learnt <= blind => blind,
                        Some(_) => began.earliest,
                        None => just_now.earliest,
                    };
                    began = Span { earliest: earliest.min(now), latest: now };
                }
                began.earliest = began.earliest.max(entry.fact.began.latest);
                if !is_renamed && began.latest > entry.said_at {
                    // The one before had it when the source last said so.
                    began.earliest = began.earliest.max(entry.said_at.min(end.earliest));
                }
                began.latest = began.latest.max(began.earliest);
                self.end(id, began);
            }
        }
        // Nobody has an address before the one before has lost it.
        if let Some(ended) = self.last_fact(key).map(Fact::end) {
            began.earliest = began.earliest.max(ended.earliest.min(began.latest));
        }
        if host.is_empty() || !self.has_room(now) {
            self.refused += u64::from(!host.is_empty());
            self.current.remove(&key);
            return;
        }
        let fact = Fact { net, host: Arc::new(host), source, began, learnt: now, ended: None, until };
        let id = self.insert(Entry { fact, list, said_since: since, said_at: just_now.earliest });
        self.current.insert(key, id);
    }

    /// What a source says of an address now.
    pub(super) fn current_fact(&self, key: (u8, IpNetwork)) -> Option<&Fact> {
        self.entries.get(self.current.get(&key)?).map(|entry| &entry.fact)
    }

    /// The last fact of a source about an address.
    fn last_fact(&self, (source, net): (u8, IpNetwork)) -> Option<&Fact> {
        let facts = self.by_net.get(&net)?.iter().rev().filter_map(|id| self.entries.get(id));
        facts.map(|entry| &entry.fact).find(|fact| fact.source == source)
    }

    /// Whether a source says again what is over since before a restart.
    fn is_over(&self, source: u8, net: IpNetwork, host: &Host, since: Millis) -> bool {
        let key = (source, net);
        let is_known =
            |last: &Fact| since < last.began.earliest || (*last.host == *host && since < last.end().earliest);
        self.sources[usize::from(source)].is_restored
            && !self.current.contains_key(&key)
            && self.last_fact(key).is_some_and(is_known)
    }

    fn insert(&mut self, entry: Entry) -> u64 {
        let id = self.next;
        self.next += 1;
        self.insert_as(id, entry);
        self.note_change(id);
        id
    }

    pub(super) fn insert_as(&mut self, id: u64, entry: Entry) {
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
    }

    /// Forgets facts, and that anything was known of the time until their ends.
    fn remove(&mut self, ids: &HashSet<u64>, now: Millis) {
        fn drop_from<K>(index: &mut HashMap<K, Vec<u64>>, ids: &HashSet<u64>) {
            index.retain(|_, of| {
                of.retain(|id| !ids.contains(id));
                !of.is_empty()
            });
        }
        if ids.is_empty() {
            return;
        }
        drop_from(&mut self.by_net, ids);
        drop_from(&mut self.by_mac, ids);
        drop_from(&mut self.by_name, ids);
        self.current.retain(|_, id| !ids.contains(id));
        for id in ids {
            let Some(Entry { fact, .. }) = self.entries.remove(id) else { continue };
            if let Some(state) = self.sources.get_mut(usize::from(fact.source)) {
                state.forget_until(fact.end().latest.min(now));
            }
            if let Some(journal) = self.journal.as_mut().filter(|journal| journal.changed.contains(id)) {
                journal.changed.remove(id);
                journal.forgotten.push((*id, fact));
            }
        }
    }

    /// Forgets what ended longer ago than it is to be kept.
    pub(super) fn forget(&mut self, now: Millis) {
        let oldest = now.saturating_sub(self.limits.keep);
        let old = self.entries.iter().filter(|(_, entry)| entry.fact.end().latest < oldest);
        let old: HashSet<u64> = old.map(|(id, _)| *id).collect();
        self.remove(&old, now);
    }

    /// Those of these facts that ended first, `most` at most.
    fn ended_first(&self, ids: impl Iterator<Item = u64>, now: Millis, most: usize) -> HashSet<u64> {
        let ends = ids.filter_map(|id| Some((self.entries.get(&id)?.fact.end().latest, id)));
        let mut ended: Vec<(Millis, u64)> = ends.filter(|(end, _)| *end <= now).collect();
        ended.sort_unstable();
        ended.into_iter().take(most).map(|(_, id)| id).collect()
    }

    /// Whether there is room for one more, after those that ended first are forgotten.
    fn has_room(&mut self, now: Millis) -> bool {
        if self.entries.len() < self.limits.facts {
            return true;
        }
        // A source that claims millions of addresses does not make this look at all facts each time.
        if now < self.full_until {
            return false;
        }
        // Some more than one, so that this is rare.
        let many = (self.limits.facts / 10).max(1);
        // A device that gives itself addresses without end loses its own past first.
        let most = (self.limits.facts / MOST_SHARE).max(1);
        let of_crowds = self.by_mac.values().filter(|ids| ids.len() > most).flatten().copied();
        let mut first = self.ended_first(of_crowds, now, many);
        if first.is_empty() {
            first = self.ended_first(self.entries.keys().copied(), now, many);
        }
        self.remove(&first, now);
        let has_room = self.entries.len() < self.limits.facts;
        if !has_room {
            self.full_until = now.saturating_add(LOOK_AGAIN);
        }
        has_room
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
