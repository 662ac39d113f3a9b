//! The rules of entries, without any index and without files: what the history must answer.

use nathistory::{Entry, Gap, Known, Millis, Moment, Question, Reason, Record};

/// One lifetime, and the reconciliation in which it was last seen.
#[derive(Debug, Clone)]
struct Lifetime {
    record: Record,
    epoch: u32,
}

/// What is known.
#[derive(Debug, Clone)]
pub struct Model {
    first: Millis,
    lifetimes: Vec<Lifetime>,
    gaps: Vec<Gap>,
    epoch: u32,
    reconciling: Option<Millis>,
}

impl Model {
    pub fn new(first: Millis) -> Self {
        Self { first, lifetimes: Vec::new(), gaps: Vec::new(), epoch: 0, reconciling: None }
    }

    fn find_open(&mut self, record: &Record) -> Option<&mut Lifetime> {
        let mut open = self.lifetimes.iter_mut().filter(|lifetime| lifetime.record.closed.is_none());
        open.find(|lifetime| lifetime.record.is_same_connection(record))
    }

    pub fn open(&self) -> impl Iterator<Item = &Record> {
        self.lifetimes.iter().map(|lifetime| &lifetime.record).filter(|record| record.closed.is_none())
    }

    fn hidden_since(&self) -> Option<Millis> {
        use Reason::{EventsLost, NotReported, NotRunning, NotWritten, RecorderBehind};
        let hides = [EventsLost, NotReported, NotRunning, NotWritten, RecorderBehind];
        let lasting = self.gaps.iter().filter(|gap| gap.to.is_none() && hides.contains(&gap.reason));
        lasting.map(|gap| gap.from).chain(self.reconciling).min()
    }

    fn settled(&self, record: &Record) -> Record {
        match self.hidden_since() {
            Some(since) if record.opened.known == Known::Dump => {
                Record { opened: Moment::range(since, record.opened.at), ..*record }
            }
            _ => *record,
        }
    }

    fn close_unseen(&mut self, record: &Record) {
        let hidden = self.hidden_since();
        if let Some(lifetime) = self.find_open(record) {
            let opened = lifetime.record.opened.at;
            let since = open_until(&lifetime.record, hidden.unwrap_or(opened));
            lifetime.record.closed = Some(Moment::range(since, record.opened.at));
        }
    }

    fn begin(&mut self, record: &Record) {
        let record = Record { closed: None, counters: None, ..self.settled(record) };
        self.lifetimes.push(Lifetime { record, epoch: self.epoch });
    }

    /// Whether the entry would lead to two lifetimes that cannot be told apart.
    pub fn is_ambiguous(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Opened(record) | Entry::Seen(record) | Entry::Closed(record) => {
                let opened = self.settled(record).opened;
                self.lifetimes.iter().any(|lifetime| {
                    lifetime.record.is_same_connection(record) && lifetime.record.opened == opened
                })
            }
            Entry::Gap(gap) => {
                self.gaps.iter().any(|other| (other.from, other.reason) == (gap.from, gap.reason))
            }
            _ => false,
        }
    }

    pub fn apply(&mut self, entry: &Entry) {
        let epoch = self.epoch;
        match entry {
            Entry::Opened(record) => {
                self.close_unseen(record);
                self.begin(record);
            }
            Entry::Seen(record) => match self.find_open(record) {
                Some(lifetime) if is_later(&lifetime.record, record) => {
                    self.close_unseen(record);
                    self.begin(record);
                }
                Some(lifetime) => lifetime.epoch = epoch,
                None => self.begin(record),
            },
            Entry::Closed(record) => match self.find_open(record) {
                Some(lifetime) if !is_later(&lifetime.record, record) => {
                    lifetime.record.closed = record.closed;
                    lifetime.record.counters = record.counters;
                    lifetime.record.mark = record.mark.or(lifetime.record.mark);
                }
                _ => {
                    self.close_unseen(record);
                    let record = self.settled(record);
                    self.lifetimes.push(Lifetime { record, epoch });
                }
            },
            Entry::Reconcile { since } => {
                self.epoch += 1;
                self.reconciling = Some(self.hidden_since().map_or(*since, |before| before.min(*since)));
            }
            Entry::Reconciled { at } => {
                let Some(since) = self.reconciling.take() else { return };
                for lifetime in &mut self.lifetimes {
                    let record = &mut lifetime.record;
                    if record.closed.is_none() && lifetime.epoch != epoch {
                        record.closed = Some(Moment::range(open_until(record, since), *at));
                    }
                }
            }
            Entry::Gap(gap) => {
                let lasts = |other: &&Gap| other.to.is_none() && other.reason == gap.reason;
                match self.gaps.iter().find(lasts).map(|other| other.from) {
                    // The time before is a gap of its own.
                    Some(from) if gap.to.is_none() && gap.from < from => {
                        self.gaps.push(Gap { to: Some(from), ..gap.clone() });
                    }
                    Some(_) if gap.to.is_none() => {}
                    _ => self.gaps.push(gap.clone()),
                }
            }
            Entry::GapEnds { reason, at, detail } => {
                let mut gaps = self.gaps.iter_mut();
                if let Some(gap) = gaps.find(|gap| gap.to.is_none() && gap.reason == *reason) {
                    gap.to = Some((*at).max(gap.from));
                    gap.detail = detail.clone().or(gap.detail.take());
                }
            }
            // The library's own.
            Entry::Reconciling { .. } => {}
            Entry::Alive { .. } | Entry::Swept { .. } | Entry::Removed(_) => {}
        }
    }

    /// The records that fit.
    pub fn find(&self, question: &Question) -> Vec<Record> {
        let records = self.lifetimes.iter().map(|lifetime| lifetime.record);
        records.filter(|record| question.fits(record)).collect()
    }

    /// The gaps that touch the question.
    pub fn gaps(&self, question: &Question) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = self.gaps.clone();
        if question.from < self.first {
            let from = question.from.min(0);
            gaps.push(Gap { from, to: Some(self.first), reason: Reason::BeforeHistory, detail: None });
        }
        gaps.retain(|gap| gap.touches(question.from, question.to));
        gaps.sort();
        gaps
    }
}

/// Only of a mapping whose begin an event has reported would one have reported the end.
fn open_until(record: &Record, since: Millis) -> Millis {
    let opened = record.opened;
    if opened.known == Known::Event { since.max(opened.at) } else { opened.at }
}

fn is_later(known: &Record, record: &Record) -> bool {
    record.opened.known == Known::Kernel && record.opened.at > known.opened.at + 2
}
