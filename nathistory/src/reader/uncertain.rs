//! Mappings that may or may not have been open at the time asked about.

use crate::gap::{Gap, Reason};
use crate::question::Question;
use crate::reader::completeness::Completeness;
use crate::record::{Moment, Record};
use crate::time::Millis;

/// So many times are told apart; then they are joined.
const MOST: usize = 64;

/// The ranges of mappings that a search passed, where they touch the question.
#[derive(Debug)]
pub(super) struct Uncertain {
    from: Millis,
    to: Millis,
    ranges: Vec<(Millis, Millis)>,
}

impl Uncertain {
    pub(super) fn new(question: &Question) -> Self {
        Self { from: question.from, to: question.to, ranges: Vec::new() }
    }

    /// Notes when a mapping opened and closed, if that is a range.
    pub(super) fn note(&mut self, record: &Record) {
        // At the end of its range it was certainly open, or may still have been.
        let opened = Some(record.opened).filter(|opened| opened.at > self.from);
        let closed = record.closed.filter(|closed| closed.at >= self.from);
        for Moment { at, since, .. } in opened.into_iter().chain(closed) {
            let range = since.map(|since| (since.min(at), at));
            if let Some(range) = range.filter(|(since, _)| *since <= self.to) {
                self.add(range);
            }
        }
    }

    fn add(&mut self, (from, to): (Millis, Millis)) {
        let touching = self.ranges.iter().position(|range| range.0 <= to && range.1 >= from);
        if let Some(range) = touching.and_then(|at| self.ranges.get_mut(at)) {
            *range = (range.0.min(from), range.1.max(to));
        } else if self.ranges.len() < MOST {
            self.ranges.push((from, to));
        } else {
            let join = |joined: (Millis, Millis), range: &(Millis, Millis)| {
                (joined.0.min(range.0), joined.1.max(range.1))
            };
            self.ranges = vec![self.ranges.iter().fold((from, to), join)];
        }
    }

    /// Adds a gap for each time that is not in one already.
    pub(super) fn complete(mut self, mut completeness: Completeness) -> Completeness {
        self.ranges.sort_unstable();
        for (from, to) in self.ranges {
            let has = |gap: &Gap| gap.from <= from && gap.to.is_none_or(|end| end >= to);
            if !completeness.gaps.iter().any(has) {
                let detail = Some("a mapping opened or closed at some moment of this time".to_owned());
                completeness.gaps.push(Gap { from, to: Some(to), reason: Reason::NotReported, detail });
            }
        }
        completeness.gaps.sort();
        completeness
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::record::End;

    fn record(opened: Moment, closed: Option<Moment>) -> Record {
        let end = End { ip: Ipv4Addr::LOCALHOST.into(), port: None };
        Record {
            protocol: 6,
            zone: 0,
            reply_zone: 0,
            src: end,
            dst: None,
            nat: end,
            server: None,
            id: Some(1),
            mark: None,
            opened,
            closed,
            counters: None,
        }
    }

    fn gaps(records: &[Record], known: &[(Millis, Millis)]) -> Vec<(Millis, Option<Millis>)> {
        let mut uncertain = Uncertain::new(&Question::about(100, 200));
        records.iter().for_each(|record| uncertain.note(record));
        let gap = |(from, to): &(Millis, Millis)| Gap {
            from: *from,
            to: Some(*to),
            reason: Reason::NotRunning,
            detail: None,
        };
        let gaps = known.iter().map(gap).collect();
        let complete = uncertain.complete(Completeness { gaps });
        complete.gaps.iter().map(|gap| (gap.from, gap.to)).collect()
    }

    #[test]
    fn what_is_not_known_exactly_is_a_gap_where_it_matters() {
        let closed = |since, at| record(Moment::event(10), Some(Moment::range(since, at)));
        assert_eq!(gaps(&[closed(50, 99), closed(201, 300)], &[]), []);
        assert_eq!(gaps(&[closed(50, 100)], &[]), [(50, Some(100))]);
        assert_eq!(gaps(&[record(Moment::range(50, 100), None)], &[]), []);
        assert_eq!(gaps(&[closed(50, 101), closed(199, 300)], &[]), [(50, Some(101)), (199, Some(300))]);
        assert_eq!(gaps(&[closed(50, 150), closed(140, 160)], &[]), [(50, Some(160))]);
        assert_eq!(gaps(&[closed(50, 150)], &[(40, 150)]), [(40, Some(150))]);
        assert_eq!(gaps(&[closed(50, 150)], &[(60, 150)]), [(50, Some(150)), (60, Some(150))]);
        assert_eq!(gaps(&[record(Moment::range(150, 180), None)], &[]), [(150, Some(180))]);
        assert_eq!(gaps(&[record(Moment::dump(150), Some(Moment::event(160)))], &[]), []);
        let many: Vec<_> = (0..500).map(|at| closed(101 + at % 90, 101 + at % 90)).collect();
        assert!(gaps(&many, &[]).len() <= MOST);
    }
}
