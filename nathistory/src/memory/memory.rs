//! The rules by which entries change what is in memory.

use crate::entry::Entry;
use crate::gap::{Gap, Reason};
use crate::memory::closed::ClosedList;
use crate::memory::gaps::Gaps;
use crate::memory::open::{OpenCopy, OpenTable};
use crate::record::{End, Known, Moment, Record};
use crate::removal::Removal;
use crate::time::Millis;

/// By how much the kernel's begin of a mapping must be later than the known one to be that of another lifetime.
/// Both come from the same clock, but are rounded differently.
const ROUNDING: Millis = 2;
/// Moments that are later than the clock by more than this are not taken for the end of a span.
const AHEAD: Millis = 1_000;

/// What is known and not yet in a segment.
#[derive(Debug)]
pub(crate) struct Memory {
    open: OpenTable,
    closed: ClosedList,
    gaps: Gaps,
    removed: Vec<Removal>,
    /// The number of the last reconciliation. Each open mapping has that of the last one in which it was seen.
    epoch: u32,
    /// While a reconciliation lasts: the last moment before it at which everything was known.
    reconciling: Option<Millis>,
    last_alive: Option<Millis>,
    /// When the kernel's table was last read, or was when the last segment was made.
    swept: Option<Millis>,
    /// The begin of the history.
    first: Millis,
    /// The begin of this span, as it follows from the end of the one before.
    from: Millis,
    /// The earliest moment at which something of this span can have happened. It precedes `from` if an event
    /// was received before the span and appended in it, and if the wall clock was set back.
    earliest: Millis,
    latest: Millis,
}

/// What a segment is made of.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) from: Millis,
    pub(crate) to: Millis,
    pub(crate) closed: ClosedList,
    pub(crate) open: OpenCopy,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) removed: Vec<Removal>,
    pub(crate) swept: Option<Millis>,
    /// The end of the span before, which can be later than `from`.
    pub(crate) begins: Millis,
}

impl Sealed {
    /// The number of its mappings.
    pub(crate) fn len(&self) -> usize {
        self.closed.len() + self.open.len()
    }
}

impl Memory {
    /// The memory of a history that begins at `first`, for a span that begins at `from`.
    pub(crate) fn new(first: Millis, from: Millis) -> Self {
        Self {
            open: OpenTable::default(),
            closed: ClosedList::default(),
            gaps: Gaps::default(),
            removed: Vec::new(),
            epoch: 0,
            reconciling: None,
            last_alive: None,
            swept: None,
            first,
            from,
            earliest: from,
            latest: from,
        }
    }

    /// Everything is known until the end of the last segment.
    pub(crate) fn begin_alive(&mut self, at: Option<Millis>) {
        self.last_alive = at;
    }

    /// The kernel's table was read at this moment, when the last segment was made.
    pub(crate) fn begin_swept(&mut self, at: Option<Millis>) {
        self.swept = at;
    }

    /// Adds a mapping that was open at the end of the last segment.
    pub(crate) fn carry(&mut self, record: &Record) {
        // A mapping with two public ends has two rows.
        if self.open.find(record).is_none() {
            self.open.insert(record, self.epoch);
        }
    }

    /// All that were open at the end of the last segment have been added.
    pub(crate) fn end_carrying(&mut self) {
        self.open.begin_span();
    }

    /// Adds a gap that lasted at the end of the last segment, or that was found when files were read.
    pub(crate) fn add_gap(&mut self, gap: Gap) {
        self.gaps.add(gap);
    }

    /// Applies an entry that is appended at `now`.
    pub(crate) fn apply(&mut self, entry: &Entry, now: Millis) {
        self.earliest = self.earliest.min(now);
        self.latest = self.latest.max(now);
        match entry {
            Entry::Opened(record) => self.apply_opened(record, now),
            Entry::Seen(record) => self.apply_seen(record, now),
            Entry::Closed(record) => self.apply_closed(record, now),
            // If the reconciliation before was not finished, or a gap lasts, that time is not known either.
            Entry::Reconcile { since } => {
                self.begin_reconciliation(self.hidden_since().map_or(*since, |before| before.min(*since)));
            }
            Entry::Reconciling { since } => self.begin_reconciliation(*since),
            Entry::Reconciled { at } => self.end_reconciliation(*at, now),
            Entry::Gap(gap) => {
                if gap.reason == Reason::ClockStepped {
                    // What was known before has moments of another clock.
                    self.last_alive = Some(now);
                } else {
                    self.note_alive(gap.to.unwrap_or(gap.from), now);
                }
                self.earliest = self.earliest.min(gap.from.max(self.first));
                self.gaps.add(gap.clone());
            }
            Entry::GapEnds { reason, at, detail } => {
                self.note_alive(*at, now);
                self.gaps.end(*reason, *at, detail.clone());
            }
            // It alone can be earlier than what was there before: the clock was set back.
            Entry::Alive { at } => self.last_alive = Some((*at).min(now)),
            Entry::Swept { at } => self.swept = Some((*at).min(now)),
            Entry::Removed(removal) => {
                if !self.removed.contains(removal) {
                    self.removed.push(removal.clone());
                }
            }
        }
    }

    fn note_alive(&mut self, at: Millis, now: Millis) {
        self.last_alive = self.last_alive.max(Some(at.min(now)));
    }

    /// Widens the span by the begin of a lifetime that no segment has yet.
    fn note_begin(&mut self, record: &Record) {
        self.earliest = self.earliest.min(record.earliest().max(self.first));
    }

    /// Widens the span by a moment at which a lifetime began or ended.
    fn note(&mut self, at: Millis, now: Millis) {
        self.latest = self.latest.max(at.min(now.saturating_add(AHEAD)));
    }

    fn apply_opened(&mut self, record: &Record, now: Millis) {
        if let Some(slot) = self.open.find(record) {
            if self.open.opened(slot) == self.settled(record).opened {
                self.open.set_epoch(slot, self.epoch);
                return;
            }
            self.end_unseen(slot, record.opened.at);
        }
        self.open_new(record, now);
    }

    fn apply_seen(&mut self, record: &Record, now: Millis) {
        match self.open.find(record) {
            Some(slot) if self.is_later_lifetime(slot, record) => {
                self.end_unseen(slot, record.opened.at);
                self.open_new(record, now);
            }
            Some(slot) => self.open.set_epoch(slot, self.epoch),
            None => self.open_new(record, now),
        }
    }

    fn apply_closed(&mut self, record: &Record, now: Millis) {
        let closed = record.closed.unwrap_or(Moment::event(now));
        let mut whole = self.settled(record);
        let (mut was_at, mut is_begin_known) = (None, false);
        if let Some(slot) = self.open.find(record) {
            if self.is_later_lifetime(slot, record) {
                self.end_unseen(slot, record.opened.at);
            } else {
                let is_new = self.open.is_new(slot);
                let known = self.open.remove(slot);
                was_at = Some(slot);
                // A NEW event has no timestamp, a DESTROY event has both. A begin that a segment has stays: by it
                // the lifetime is known again in the next one.
                is_begin_known = !(is_new && record.opened.known == Known::Kernel);
                if is_begin_known {
                    whole.opened = known.opened;
                }
                whole.mark = record.mark.or(known.mark);
            }
        }
        if !is_begin_known {
            self.note_begin(&whole);
        }
        whole.closed = Some(closed);
        self.note(closed.at, now);
        self.closed.push(&whole, closed, was_at);
    }

    fn open_new(&mut self, record: &Record, now: Millis) {
        let record = Record { closed: None, counters: None, ..self.settled(record) };
        self.note_begin(&record);
        self.note(record.opened.at, now);
        self.open.insert(&record, self.epoch);
    }

    /// Whether the kernel says that this lifetime began after the one that is known.
    fn is_later_lifetime(&self, slot: u32, record: &Record) -> bool {
        let opened = record.opened;
        opened.known == Known::Kernel && opened.at > self.open.opened(slot).at + ROUNDING
    }

    /// A mapping that a dump has, and that is not known, opened at some moment since everything was known.
    fn settled(&self, record: &Record) -> Record {
        match self.hidden_since() {
            Some(since) if record.opened.known == Known::Dump => {
                Record { opened: Moment::range(since, record.opened.at), ..*record }
            }
            _ => *record,
        }
    }

    /// The last moment at which everything was known, while something is not.
    fn hidden_since(&self) -> Option<Millis> {
        self.reconciling.into_iter().chain(self.gaps.hidden_since()).min()
    }

    /// Ends a mapping whose end was not seen, but which can have been open until `at` at most.
    fn end_unseen(&mut self, slot: u32, at: Millis) {
        let opened = self.open.opened(slot).at;
        let since = self.hidden_since().unwrap_or(opened);
        self.end_between(slot, self.open_until(slot, since), at);
    }

    /// The last moment at which a mapping was certainly open. An event would have reported its end until `since`, if
    /// one has reported its begin: the kernel reports either both or none.
    fn open_until(&self, slot: u32, since: Millis) -> Millis {
        let opened = self.open.opened(slot);
        let known = match opened.known {
            Known::Event => since,
            _ => self.swept.unwrap_or(opened.at).min(since),
        };
        known.max(opened.at)
    }

    fn end_between(&mut self, slot: u32, since: Millis, at: Millis) {
        let record = self.open.remove(slot);
        let closed = Moment::range(since, at);
        self.latest = self.latest.max(at);
        self.closed.push(&Record { closed: Some(closed), ..record }, closed, Some(slot));
    }

    fn begin_reconciliation(&mut self, since: Millis) {
        self.epoch = (self.epoch + 1) % u32::MAX;
        self.reconciling = Some(since);
    }

    fn end_reconciliation(&mut self, at: Millis, now: Millis) {
        self.note_alive(at, now);
        let Some(since) = self.reconciling.take() else { return };
        for slot in self.open.unseen(self.epoch) {
            self.end_between(slot, self.open_until(slot, since), at);
        }
    }

    /// The begin of this span.
    pub(crate) fn from(&self) -> Millis {
        self.from
    }

    /// From when to when something can have happened that is here and in no segment.
    pub(crate) fn span(&self) -> (Millis, Millis) {
        (self.earliest, self.latest)
    }

    /// The last moment of which everything is known.
    pub(crate) fn last_alive(&self) -> Option<Millis> {
        self.last_alive
    }

    /// The number of open mappings.
    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// The number of slots of open mappings, for [`each_open`](Self::each_open).
    pub(crate) fn open_slots(&self) -> usize {
        self.open.slots()
    }

    /// What closed since the last seal.
    pub(crate) fn closed(&self) -> &ClosedList {
        &self.closed
    }

    /// The gaps of this span.
    pub(crate) fn gaps(&self) -> &Gaps {
        &self.gaps
    }

    /// The open mappings with a public end, and few others.
    pub(crate) fn open_at_end(&self, end: End, on: &mut dyn FnMut(Record)) {
        self.open.at_end(end, on);
    }

    /// The open mappings in a range of slots.
    pub(crate) fn each_open(&self, slots: std::ops::Range<usize>, on: &mut dyn FnMut(Record)) {
        self.open.each(slots, on);
    }

    /// Whether this lifetime is open.
    pub(crate) fn has_open(&self, record: &Record) -> bool {
        let open = self.open.find(record).map(|slot| self.open.record(slot));
        open.is_some_and(|open| open.is_same_lifetime(record))
    }

    /// Copies the open mappings, for [`seal`](Self::seal).
    pub(crate) fn copy_open(&self) -> OpenCopy {
        self.open.copy()
    }

    /// The entries with which a log must begin so that, after the segment before it, it leads to this memory.
    pub(crate) fn preamble(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.gaps.ongoing().iter().cloned().map(Entry::Gap).collect();
        if let Some(since) = self.reconciling {
            entries.push(Entry::Reconciling { since });
            entries.extend(self.open.seen(self.epoch).map(Entry::Seen));
        }
        entries.extend(self.last_alive.map(|at| Entry::Alive { at }));
        entries
    }

    /// Takes what a segment is made of, and begins the next span.
    pub(crate) fn seal(&mut self, open: OpenCopy, now: Millis) -> Sealed {
        let closed = std::mem::take(&mut self.closed);
        let sealed = Sealed {
            from: self.earliest.min(now),
            to: self.latest.max(now),
            closed,
            open,
            gaps: self.gaps.take(self.latest.max(now)),
            removed: std::mem::take(&mut self.removed),
            swept: self.swept,
            begins: self.from,
        };
        self.open.begin_span();
        (self.from, self.earliest, self.latest) = (now, now, now);
        sealed
    }
}
