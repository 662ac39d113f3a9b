//! What a recorder is told: the begins and ends that the table puts into its feed, and since when
//! the table may have lacked something. The recorder takes it from here.

use nfct::Error;

use super::reporting::Incomplete;
use super::shared::Tracker;
use super::state::TrackerState;
use crate::clock::Stamp;
use crate::mapping::Source;
use crate::table::{BeginKnown, Begun, Cursor, Fed, FeedItem, GapCause};

/// What a recorder takes, and this moment.
#[derive(Debug)]
pub struct Taken {
    /// What has happened since the last time.
    pub fed: Fed,
    /// Everything that happened before this is in `fed`, or in what was taken before.
    pub until: Stamp,
    /// When it was taken.
    pub now: Stamp,
}

impl Tracker {
    /// Tells the recorder which gaps have begun, or that the table is complete.
    pub(super) fn record_completeness(&self, state: &mut TrackerState) {
        let unreported = Some(Incomplete::Full).filter(|_| state.is_full);
        let unreported = unreported.or_else(|| state.reporting.reasons().next());
        let Some(recording) = &mut state.recording else { return };
        let filter = state.changes_filter.then_some((recording.checked_at, "another filter"));
        let lost = recording.has_lost.then_some((recording.sound_at, "overrun"));
        let unreported = unreported.map(|reason| (recording.known_until(reason), reason.as_str()));
        for (cause, begin) in
            [(GapCause::Filter, filter), (GapCause::Lost, lost), (GapCause::Unreported, unreported)]
        {
            let Some((from, why)) = begin else { continue };
            if !std::mem::replace(&mut recording.open[cause as usize], true) {
                state.table.feed_always(FeedItem::Gap { from: from.wall, cause, why });
            }
        }
        if state.complete {
            let had_gap = std::mem::take(&mut recording.open) != [false; 3];
            if had_gap {
                state.table.feed_always(FeedItem::Complete { at: self.clock.now().wall });
            }
        }
    }

    /// Tells the recorder that a complete dump, which began at this moment, has been merged.
    pub(super) fn record_sync(&self, state: &mut TrackerState, begun: Stamp) {
        let Some(recording) = &mut state.recording else { return };
        recording.has_lost = false;
        recording.dumped_at = begun;
        state.table.feed_always(FeedItem::Synced { begun: begun.wall, at: self.clock.now().wall });
    }

    /// Makes a check that finds what suppresses events. If there is nothing, a gap that begins later begins
    /// after it.
    pub(super) fn check_for_recorder(&self, check: impl FnOnce()) {
        let before = self.clock.now();
        check();
        // An error that stays ends the daemon elsewhere.
        if self.has_recorder && self.has_noticed_changes().unwrap_or(false) {
            if let Some(recording) = &mut self.lock().recording {
                recording.checked_at = before;
            }
        }
    }

    /// Takes what has happened since the last time, without waiting for anything.
    pub fn take_feed(&self, empty: &mut Vec<Vec<FeedItem>>) -> Taken {
        let before = self.clock.now();
        // An error that stays ends the daemon elsewhere.
        let is_empty = self.is_socket_empty().unwrap_or(false);
        let mut state = self.lock();
        if let Some(recording) = state.recording.as_mut().filter(|_| is_empty) {
            recording.note_empty(before);
        }
        self.take_feed_from(&mut state, empty)
    }

    fn take_feed_from(&self, state: &mut TrackerState, empty: &mut Vec<Vec<FeedItem>>) -> Taken {
        let now = self.clock.now();
        let until = state.recording.as_ref().map_or(now, |recording| recording.drained_at);
        Taken { fed: state.table.take_feed(empty), until, now }
    }

    /// Drains the event socket, and takes what has happened since the last time.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub fn drain_feed(&self, empty: &mut Vec<Vec<FeedItem>>) -> Result<Taken, Error> {
        let until = self.clock.now();
        self.catch_up(|state| Taken { fed: state.table.take_feed(empty), until, now: self.clock.now() })
    }

    /// Takes what has happened since the last time, and with it the live mappings of one slice of the
    /// table. What happens to these later comes later. Returns where to continue.
    pub fn take_feed_and_live(
        &self,
        from: Cursor,
        empty: &mut Vec<Vec<FeedItem>>,
        live: &mut Vec<Begun>,
    ) -> (Taken, Option<Cursor>) {
        let mut state = self.lock();
        let taken = self.take_feed_from(&mut state, empty);
        let next = state.table.scan(from, taken.now, |mapping| {
            if mapping.is_live() {
                let is_event = mapping.source == Source::Event;
                let known = if is_event { BeginKnown::Event } else { BeginKnown::Found };
                live.push(Begun { tuples: mapping.tuples, id: mapping.id, at: mapping.opened.wall, known });
            }
        });
        (taken, next)
    }
}
