//! Turns what the tracker tells into entries of the history.

use std::collections::{HashMap, VecDeque};

use nathistory::{Counters, End, Entry, Gap, Millis, Moment, Reason, Record};
use nfct::Tuple;

use crate::table::{BeginKnown, Begun, EndKnown, Ended, FeedItem, GapCause};
use crate::tuples::Tuples;

/// The kernel sends the DESTROY event of an entry that expired by this many milliseconds later.
const MAX_LATENESS: Millis = 20_000;
/// A DESTROY event is no news if another reason has ended its mapping no longer ago than this, in milliseconds.
const REMEMBERED: Millis = 60_000;
/// Ends that are remembered for this at most.
const MAX_REMEMBERED: usize = 65_536;

/// Makes entries.
#[derive(Debug)]
pub(super) struct Translator {
    with_destinations: bool,
    /// The gap that lasts until the first complete dump, and whether what was open before must be compared with that.
    start: Option<(Reason, bool)>,
    /// Everything was known then: the begin of the last complete dump, or the end of the history so far.
    known_at: Option<Millis>,
    /// The begins of the tracker's gaps that have not ended.
    gaps: [Option<Millis>; 3],
    missed: MissedEnds,
}

/// Lifetimes that no event has ended. Their DESTROY event can come later.
#[derive(Debug, Default)]
struct MissedEnds {
    ended: HashMap<(Tuple, Tuple, u32), Millis>,
    order: VecDeque<((Tuple, Tuple, u32), Millis)>,
}

impl Translator {
    /// Makes the first entries, too. `last_alive` is the end of the history so far.
    pub(super) fn new(
        with_destinations: bool,
        last_alive: Option<Millis>,
        now: Millis,
        entries: &mut Vec<Entry>,
    ) -> Self {
        let begin = last_alive.map_or(now, |alive| alive.min(now));
        if last_alive.is_some() {
            entries.push(Entry::Reconcile { since: begin });
        }
        // Those that lasted when the daemon ended are part of the one that begins now.
        entries.extend(Reason::ALL.map(|reason| Entry::GapEnds { reason, at: begin, detail: None }));
        let reason = if last_alive.is_some() { Reason::NotRunning } else { Reason::BeforeHistory };
        entries.push(Entry::Gap(Gap { from: begin, to: None, reason, detail: None }));
        Self {
            with_destinations,
            start: Some((reason, last_alive.is_some())),
            known_at: last_alive,
            gaps: [None; 3],
            missed: MissedEnds::default(),
        }
    }

    /// Whether no complete dump has been merged yet.
    pub(super) fn is_starting(&self) -> bool {
        self.start.is_some()
    }

    /// The reasons of the tracker's gaps that have not ended.
    pub(super) fn open_gaps(&self) -> usize {
        self.gaps.iter().flatten().count() + usize::from(self.is_starting())
    }

    /// Adds the entries for an item. `is_mending` says that the history is being compared with the table
    /// for another reason.
    pub(super) fn translate(&mut self, item: &FeedItem, is_mending: bool, entries: &mut Vec<Entry>) {
        match *item {
            FeedItem::Opened(begun) => entries.push(Entry::Opened(self.opened(&begun))),
            FeedItem::Found(begun) => entries.push(Entry::Seen(self.opened(&begun))),
            FeedItem::Closed(ended) => entries.extend(self.closed(&ended).map(Entry::Closed)),
            FeedItem::Gap { from, cause, why } => {
                let from = millis(from);
                self.gaps[cause as usize] = Some(from);
                let detail = Some(why.to_owned());
                entries.push(Entry::Gap(Gap { from, to: None, reason: reason(cause), detail }));
            }
            FeedItem::Synced { begun, at } => {
                let (begun, at) = (millis(begun), millis(at));
                self.known_at = Some(begun);
                if let Some((reason, is_reconciling)) = self.start.take() {
                    if is_reconciling && !is_mending {
                        entries.push(Entry::Reconciled { at });
                    }
                    entries.push(Entry::GapEnds { reason, at, detail: None });
                }
                entries.push(Entry::Swept { at: begun });
            }
            FeedItem::Complete { at } => {
                for cause in [GapCause::Lost, GapCause::Unreported, GapCause::Filter] {
                    if self.gaps[cause as usize].take().is_some() {
                        let reason = reason(cause);
                        entries.push(Entry::GapEnds { reason, at: millis(at), detail: None });
                    }
                }
            }
        }
    }

    /// The record of a mapping that is open.
    pub(super) fn opened(&self, begun: &Begun) -> Record {
        self.record(begun, begin(begun).unwrap_or(Moment::dump(millis(begun.at))))
    }

    fn record(&self, begun: &Begun, opened: Moment) -> Record {
        let Tuples { original, reply } = begun.tuples;
        let end = |ip, port| End { ip, port };
        let tuples = &begun.tuples;
        let record = Record {
            protocol: original.protocol.number(),
            zone: original.zone,
            reply_zone: reply.zone,
            src: end(tuples.src_ip(), tuples.src_port()),
            dst: Some(end(tuples.dst_ip(), tuples.dst_port())),
            nat: end(tuples.nat_ip(), tuples.nat_port()),
            server: Some(end(tuples.server_ip(), tuples.server_port())),
            id: Some(begun.id),
            mark: None,
            opened,
            closed: None,
            counters: None,
        };
        if self.with_destinations { record } else { record.without_destination() }
    }

    /// The record of a mapping that has closed; `None` if the history has it already.
    fn closed(&mut self, ended: &Ended) -> Option<Record> {
        let at = millis(ended.at);
        let closed = match ended.known {
            EndKnown::Kernel => Moment::kernel(at),
            EndKnown::Event => Moment::event(at),
            EndKnown::Late(since) => Moment::range(millis(since), at),
            EndKnown::Missed { told, lasted_until, is_reported } => {
                let told = millis(told);
                let since = match self.known_until().filter(|_| is_reported) {
                    // Its DESTROY event would have been received.
                    Some(known) if millis(lasted_until) >= known => told.max(known),
                    Some(known) => told.max(known - MAX_LATENESS),
                    None => told,
                };
                Moment::range(since, at)
            }
        };
        let begun = &ended.begun;
        let key = (begun.tuples.original, begun.tuples.reply, begun.id);
        if matches!(ended.known, EndKnown::Missed { .. }) {
            self.missed.add(key, at);
        } else if !ended.was_live && self.missed.is_end_of(key, begun, at) {
            return None;
        }
        let opened = begin(begun).unwrap_or_else(|| self.unknown_begin(closed.at));
        let counters = ended.counters.map(|both| Counters {
            packets: both.map(|direction| direction.packets),
            bytes: both.map(|direction| direction.bytes),
        });
        Some(Record { closed: Some(closed), mark: ended.mark, counters, ..self.record(begun, opened) })
    }

    /// While a gap lasts, the last moment at which the table was complete.
    fn known_until(&self) -> Option<Millis> {
        self.gaps.iter().flatten().min().copied()
    }

    /// The begin of a mapping of which only the end is known. It was not in the table when that was last compared
    /// with the kernel's, unless the kernel hid it: it does so after a clash of UDP packets.
    fn unknown_begin(&self, closed: Millis) -> Moment {
        match self.known_until().or(self.known_at) {
            Some(known) => Moment::range(known.min(closed - MAX_LATENESS), closed),
            None => Moment::dump(closed),
        }
    }
}

impl MissedEnds {
    fn add(&mut self, key: (Tuple, Tuple, u32), at: Millis) {
        while self.order.front().is_some_and(|(_, old)| at - old > REMEMBERED)
            || self.order.len() >= MAX_REMEMBERED
        {
            let Some((key, old)) = self.order.pop_front() else { break };
            if self.ended.get(&key) == Some(&old) {
                self.ended.remove(&key);
            }
        }
        self.ended.insert(key, at);
        self.order.push_back((key, at));
    }

    /// Whether a DESTROY event is that of a lifetime that has ended already.
    fn is_end_of(&mut self, key: (Tuple, Tuple, u32), begun: &Begun, at: Millis) -> bool {
        let Some(ended) = self.ended.get(&key).copied() else { return false };
        let is_later = begun.known == BeginKnown::Kernel && millis(begun.at) > ended;
        if is_later || at - ended > REMEMBERED {
            return false;
        }
        self.ended.remove(&key);
        true
    }
}

/// The begin of a mapping, if something is known of it.
fn begin(begun: &Begun) -> Option<Moment> {
    let at = millis(begun.at);
    match begun.known {
        BeginKnown::Kernel => Some(Moment::kernel(at)),
        BeginKnown::Event => Some(Moment::event(at)),
        BeginKnown::Late(since) => Some(Moment::range(millis(since), at)),
        BeginKnown::Found => Some(Moment::dump(at)),
        BeginKnown::Unknown => None,
    }
}

fn reason(cause: GapCause) -> Reason {
    match cause {
        GapCause::Lost => Reason::EventsLost,
        GapCause::Unreported => Reason::NotReported,
        GapCause::Filter => Reason::FilterChanged,
    }
}

/// A time of the daemon as one of the history.
pub(super) fn millis(time: u64) -> Millis {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// Whether an entry says something about a gap.
pub(super) fn is_about_gaps(entry: &Entry) -> bool {
    matches!(entry, Entry::Gap(_) | Entry::GapEnds { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_000_000;

    fn begun(port: u16, at: u64, known: BeginKnown) -> Begun {
        let server = ([198, 51, 100, 1], 443);
        let original = Tuple::tcp(([192, 168, 7, 2], port), server);
        let reply = Tuple::tcp(server, ([203, 0, 113, 9], port));
        Begun { tuples: Tuples { original, reply }, id: 7, at, known }
    }

    fn ended(begun: Begun, at: u64, known: EndKnown) -> Ended {
        Ended { begun, was_live: true, at, known, mark: None, counters: None }
    }

    fn missed(told: u64, lasted_until: u64, is_reported: bool) -> EndKnown {
        EndKnown::Missed { told, lasted_until, is_reported }
    }

    fn started(last_alive: Option<Millis>) -> (Translator, Vec<Entry>) {
        let mut entries = Vec::new();
        let translator = Translator::new(true, last_alive, NOW, &mut entries);
        (translator, entries)
    }

    fn translated(translator: &mut Translator, items: &[FeedItem]) -> Vec<Entry> {
        let mut entries = Vec::new();
        items.iter().for_each(|item| translator.translate(item, false, &mut entries));
        entries
    }

    fn closed(translator: &mut Translator, ended: Ended) -> Option<Record> {
        match translated(translator, &[FeedItem::Closed(ended)])[..] {
            [Entry::Closed(record)] => Some(record),
            [] => None,
            ref other => panic!("{other:?}"),
        }
    }

    fn ends(entries: &[Entry]) -> Vec<(Reason, Millis)> {
        let end = |entry: &Entry| match entry {
            Entry::GapEnds { reason, at, .. } => Some((*reason, *at)),
            _ => None,
        };
        entries.iter().filter_map(end).collect()
    }

    #[test]
    fn the_time_in_which_the_daemon_did_not_run_ends_with_the_first_complete_dump() {
        let (mut translator, entries) = started(Some(NOW - 500));
        assert!(ends(&entries).contains(&(Reason::EventsLost, NOW - 500)), "what lasted then has ended");
        let gap = Gap { from: NOW - 500, to: None, reason: Reason::NotRunning, detail: None };
        // While the gaps of before last: a mapping can have ended since the first of them.
        assert_eq!(entries[0], Entry::Reconcile { since: NOW - 500 });
        assert_eq!(entries[Reason::ALL.len() + 1..], [Entry::Gap(gap)]);
        assert!(translator.is_starting());
        let synced = FeedItem::Synced { begun: 1_000_100, at: 1_000_200 };
        let entries = translated(&mut translator, &[synced]);
        let at = 1_000_200;
        let ends = Entry::GapEnds { reason: Reason::NotRunning, at, detail: None };
        let swept = Entry::Swept { at: 1_000_100 };
        assert_eq!(entries, [Entry::Reconciled { at }, ends, swept.clone()]);
        assert_eq!(translated(&mut translator, &[synced]), std::slice::from_ref(&swept), "once");
        // The first history begins with the first complete dump, and has nothing to compare.
        let (mut translator, entries) = started(None);
        let gap = Gap { from: NOW, to: None, reason: Reason::BeforeHistory, detail: None };
        assert_eq!(entries[Reason::ALL.len()..], [Entry::Gap(gap)]);
        let ends = Entry::GapEnds { reason: Reason::BeforeHistory, at, detail: None };
        assert_eq!(translated(&mut translator, &[synced]), [ends, swept]);
    }

    #[test]
    fn a_gap_of_the_tracker_ends_when_the_table_is_complete() {
        let (mut translator, _) = started(None);
        translated(&mut translator, &[FeedItem::Synced { begun: 1, at: 2 }]);
        let gap = |cause, from| FeedItem::Gap { from, cause, why: "overrun" };
        let entries =
            translated(&mut translator, &[gap(GapCause::Lost, 5_000), gap(GapCause::Filter, 5_100)]);
        let detail = Some("overrun".to_owned());
        let lost = Gap { from: 5_000, to: None, reason: Reason::EventsLost, detail: detail.clone() };
        let filter = Gap { from: 5_100, to: None, reason: Reason::FilterChanged, detail };
        assert_eq!(entries, [Entry::Gap(lost), Entry::Gap(filter)]);
        assert_eq!(translator.open_gaps(), 2);
        let entries = translated(&mut translator, &[FeedItem::Complete { at: 5_900 }]);
        assert_eq!(ends(&entries), [(Reason::EventsLost, 5_900), (Reason::FilterChanged, 5_900)]);
        assert_eq!(translator.open_gaps(), 0);
    }

    #[test]
    fn moments_say_how_they_are_known() {
        let (mut translator, _) = started(None);
        let begin = |known| translator.opened(&begun(1, 50, known)).opened;
        assert_eq!(begin(BeginKnown::Kernel), Moment::kernel(50));
        assert_eq!(begin(BeginKnown::Event), Moment::event(50));
        assert_eq!(begin(BeginKnown::Late(20)), Moment::range(20, 50));
        assert_eq!(begin(BeginKnown::Found), Moment::dump(50));
        let mut end = |known| {
            let ended = ended(begun(1, 50, BeginKnown::Event), 90, known);
            closed(&mut translator, ended).and_then(|record| record.closed)
        };
        assert_eq!(end(EndKnown::Kernel), Some(Moment::kernel(90)));
        assert_eq!(end(EndKnown::Event), Some(Moment::event(90)));
        assert_eq!(end(EndKnown::Late(60)), Some(Moment::range(60, 90)));
        assert_eq!(end(missed(70, 80, true)), Some(Moment::range(70, 90)));
    }

    #[test]
    fn an_end_that_was_lost_lies_in_the_gap_unless_it_can_have_expired_before() {
        let (mut translator, _) = started(None);
        let lost = FeedItem::Gap { from: 500_000, cause: GapCause::Lost, why: "overrun" };
        translated(&mut translator, &[lost]);
        let mut since = |known| {
            let ended = ended(begun(1, 50, BeginKnown::Event), 501_000, known);
            closed(&mut translator, ended).and_then(|record| record.closed?.since)
        };
        assert_eq!(since(missed(100, 600_000, true)), Some(500_000));
        assert_eq!(since(missed(100, 400_000, true)), Some(480_000), "the kernel reports it later");
        assert_eq!(since(missed(500_500, 600_000, true)), Some(500_500));
        assert_eq!(since(missed(100, 600_000, false)), Some(100), "no event would have told");
    }

    #[test]
    fn a_begin_that_is_unknown_lies_after_the_last_complete_dump() {
        let opened = |translator: &mut Translator, at: u64| {
            let ended = ended(begun(1, at, BeginKnown::Unknown), at, EndKnown::Event);
            closed(translator, Ended { was_live: false, ..ended }).map(|record| record.opened)
        };
        let (mut translator, _) = started(None);
        assert_eq!(opened(&mut translator, 1_000_010), Some(Moment::dump(1_000_010)), "nothing is known");
        translated(&mut translator, &[FeedItem::Synced { begun: 1_000_100, at: 1_000_200 }]);
        assert_eq!(opened(&mut translator, 1_300_000), Some(Moment::range(1_000_100, 1_300_000)));
        assert_eq!(opened(&mut translator, 1_001_000), Some(Moment::range(981_000, 1_001_000)), "a clash");
        let gap = FeedItem::Gap { from: 1_400_000, cause: GapCause::Lost, why: "overrun" };
        translated(&mut translator, &[gap]);
        assert_eq!(opened(&mut translator, 1_450_000), Some(Moment::range(1_400_000, 1_450_000)));
        let (mut translator, _) = started(Some(NOW - 100_000));
        assert_eq!(opened(&mut translator, 1_000_010), Some(Moment::range(900_000, 1_000_010)));
    }

    #[test]
    fn an_event_that_comes_after_its_mapping_has_ended_makes_no_second_record() {
        let (mut translator, _) = started(None);
        let mapping = begun(1, 50, BeginKnown::Event);
        assert!(closed(&mut translator, ended(mapping, 10_000, missed(60, 60, true))).is_some());
        let late = |at, known| {
            let begun = Begun { at, known, ..mapping };
            Ended { was_live: false, ..ended(begun, 22_000, EndKnown::Event) }
        };
        assert!(closed(&mut translator, late(15_000, BeginKnown::Kernel)).is_some(), "a later lifetime");
        assert!(closed(&mut translator, late(22_000, BeginKnown::Unknown)).is_none());
        assert!(closed(&mut translator, late(22_000, BeginKnown::Unknown)).is_some(), "once");
        // What is remembered is bounded.
        for port in 0..=u16::MAX {
            let mapping = begun(port, 50, BeginKnown::Event);
            closed(&mut translator, ended(mapping, 30_000, missed(60, 60, true)));
        }
        closed(&mut translator, ended(begun(9, 50, BeginKnown::Event), 30_001, missed(60, 60, true)));
        assert!(translator.missed.order.len() <= MAX_REMEMBERED);
        assert!(translator.missed.ended.len() <= MAX_REMEMBERED);
    }

    #[test]
    fn without_destinations_only_those_that_are_translated_stay() {
        let mut entries = Vec::new();
        let translator = Translator::new(false, None, NOW, &mut entries);
        let record = translator.opened(&begun(40_000, 50, BeginKnown::Event));
        assert_eq!((record.dst, record.server), (None, None));
        assert_eq!((record.src.port, record.nat.port), (Some(40_000), Some(40_000)));
        let (translator, _) = started(None);
        let record = translator.opened(&begun(40_000, 50, BeginKnown::Event));
        assert_eq!(record.dst, record.server);
        assert_eq!(record.dst.and_then(|end| end.port), Some(443));
    }
}
