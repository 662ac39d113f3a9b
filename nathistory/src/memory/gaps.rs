//! Gaps that last, and those that ended since the last seal.

use crate::gap::{Gap, Reason};
use crate::time::Millis;

/// The gaps of a span.
#[derive(Debug, Default, Clone)]
pub(crate) struct Gaps {
    /// Those that have an end.
    ended: Vec<Gap>,
    /// Those that last, at most one of each reason.
    ongoing: Vec<Gap>,
}

/// Whether mappings can open and close unseen during such a gap, and are found open after it.
fn hides_events(reason: Reason) -> bool {
    use Reason::{EventsLost, NotReported, NotRunning, NotWritten, RecorderBehind};
    matches!(reason, EventsLost | NotReported | RecorderBehind | NotWritten | NotRunning)
}

impl Gaps {
    /// Records a gap. One that begins while another with its reason lasts is a part of that; if it begins before that,
    /// the time before it is a gap of its own, because a segment can have the begin of the other one already.
    pub(crate) fn add(&mut self, gap: Gap) {
        if gap.to.is_some() {
            // The newest log repeats what lasted when it was begun, and can be read after the one before it.
            if !self.ended.contains(&gap) {
                self.ended.push(gap);
            }
            return;
        }
        match self.ongoing.iter().find(|ongoing| ongoing.reason == gap.reason).map(|ongoing| ongoing.from) {
            Some(from) if gap.from < from => self.add(Gap { to: Some(from), ..gap }),
            Some(_) => {}
            None => self.ongoing.push(gap),
        }
    }

    /// Ends the gap with this reason, if one lasts.
    pub(crate) fn end(&mut self, reason: Reason, at: Millis, detail: Option<String>) {
        if let Some(place) = self.ongoing.iter().position(|gap| gap.reason == reason) {
            let gap = self.ongoing.swap_remove(place);
            let to = Some(at.max(gap.from));
            self.ended.push(Gap { to, detail: detail.or(gap.detail), ..gap });
        }
    }

    /// Those that last.
    pub(crate) fn ongoing(&self) -> &[Gap] {
        &self.ongoing
    }

    /// The begin of the first gap that lasts and in which events are missed.
    pub(super) fn hidden_since(&self) -> Option<Millis> {
        self.ongoing.iter().filter(|gap| hides_events(gap.reason)).map(|gap| gap.from).min()
    }

    /// All.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.ended.iter().chain(&self.ongoing)
    }

    /// Takes all for a segment that ends at this moment. Those that last stay, and those that end later, as the one
    /// of a clock that was set back does: the segments until then have these too.
    pub(super) fn take(&mut self, at: Millis) -> Vec<Gap> {
        let mut gaps = std::mem::take(&mut self.ended);
        self.ended = gaps.iter().filter(|gap| gap.ends_after(at)).cloned().collect();
        gaps.extend(self.ongoing.iter().cloned());
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_ends_once() {
        let gap = |from, to, reason| Gap { from, to, reason, detail: None };
        let mut gaps = Gaps::default();
        gaps.add(gap(1, None, Reason::EventsLost));
        gaps.add(gap(2, None, Reason::EventsLost));
        gaps.add(gap(0, None, Reason::FilterChanged));
        assert_eq!(gaps.hidden_since(), Some(1));
        gaps.add(gap(-3, None, Reason::EventsLost));
        let earlier = gap(-3, Some(1), Reason::EventsLost);
        assert_eq!(
            gaps.take(5),
            [earlier, gap(1, None, Reason::EventsLost), gap(0, None, Reason::FilterChanged)]
        );
        assert_eq!(gaps.take(5).len(), 2);
        gaps.end(Reason::EventsLost, 9, Some("7".into()));
        gaps.end(Reason::EventsLost, 10, None);
        assert_eq!(gaps.hidden_since(), None);
        let ended = Gap { detail: Some("7".into()), ..gap(1, Some(9), Reason::EventsLost) };
        let lasting = gap(0, None, Reason::FilterChanged);
        assert_eq!(gaps.take(8), [ended.clone(), lasting.clone()]);
        assert_eq!(gaps.take(9), [ended, lasting.clone()]);
        assert_eq!(gaps.take(10), [lasting]);
    }
}
