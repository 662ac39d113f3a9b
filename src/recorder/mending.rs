//! Comparing the history with the table after entries were lost.

use std::sync::atomic::Ordering;
use std::time::Instant;

use nathistory::{Entry, Error, Gap};

use super::translate::millis;
use super::writing::{Hole, Writing};
use crate::table::{Begun, Cursor};

impl Writing {
    /// Records the gap of entries that are missing, and then compares the history with the table. If
    /// something fails, it is tried again later.
    pub(super) fn mend(&mut self, is_last: bool) {
        let is_early = self.retry_at.is_some_and(|at| Instant::now() < at);
        if self.hole.is_none() || (is_early && !is_last) {
            return;
        }
        if let Err(error) = self.try_to_mend() {
            self.entries.clear();
            self.fail(&error);
        }
    }

    /// Records the gap of a hole that is new, before anything is answered about it.
    pub(super) fn note_new_hole(&mut self) {
        if self.retry_at.is_none() {
            if let Err(error) = self.note_hole() {
                self.fail(&error);
            }
        }
    }

    fn try_to_mend(&mut self) -> Result<(), Error> {
        self.note_hole()?;
        // Until the first complete dump, the table lacks mappings that are open.
        if self.translator.is_starting() {
            return Ok(());
        }
        let Some(hole) = self.hole.take() else { return Ok(()) };
        let compared = self.compare(&hole);
        // What came meanwhile and is missing makes another hole.
        let another = self.hole.take();
        match (compared, another) {
            (Ok(()), None) => self.end_hole(&hole),
            (compared, another) => {
                let (dropped, since) =
                    another.map_or((0, hole.since), |another| (another.dropped, another.since));
                let is_noted = hole.is_noted && since >= hole.since;
                let since = since.min(hole.since);
                self.hole = Some(Hole { since, dropped: hole.dropped + dropped, is_noted, ..hole });
                compared
            }
        }
    }

    /// Records the gap, and what is known of others.
    fn note_hole(&mut self) -> Result<(), Error> {
        let Some(hole) = &mut self.hole else { return Ok(()) };
        if hole.is_noted && self.retry_at.is_none() {
            return Ok(());
        }
        let gap = Gap { from: hole.since, to: None, reason: hole.reason, detail: None };
        let mut entries = vec![Entry::Gap(gap)];
        entries.extend(self.held.iter().cloned());
        self.writer.append(&entries, millis(self.clock.now().wall))?;
        self.sync()?;
        if let Some(hole) = &mut self.hole {
            hole.is_noted = true;
        }
        self.stats.history.entries.add(entries.len());
        self.held.clear();
        self.retry_at = None;
        Ok(())
    }

    /// Passes all live mappings to the history, so that it learns which have ended.
    fn compare(&mut self, hole: &Hole) -> Result<(), Error> {
        self.entries.push(Entry::Reconcile { since: hole.since });
        let (mut cursor, mut live) = (Some(Cursor::START), Vec::<Begun>::new());
        while let Some(from) = cursor {
            let (taken, next) = self.tracker.take_feed_and_live(from, &mut self.empty, &mut live);
            cursor = next;
            self.append()?;
            let until = millis(taken.until.wall);
            self.record(taken);
            self.advance(until);
            let seen = live.drain(..).map(|begun| Entry::Seen(self.translator.opened(&begun)));
            self.entries.extend(seen);
            self.append()?;
            self.sync_if_due(false);
            if self.retry_at.is_some() || self.hole.is_some() {
                // Another comparison follows.
                self.entries.clear();
                return Ok(());
            }
        }
        Ok(())
    }

    /// Records that nothing is missing any more.
    fn end_hole(&mut self, hole: &Hole) -> Result<(), Error> {
        let at = millis(self.clock.now().wall);
        let detail = Some(format!("{} entries", hole.dropped));
        let entries = [Entry::Reconciled { at }, Entry::GapEnds { reason: hole.reason, at, detail }];
        let written = self.writer.append(&entries, at).and_then(|()| self.sync());
        if let Err(error) = written {
            self.hole = Some(hole.clone());
            return Err(error);
        }
        self.stats.history.entries.add(entries.len());
        self.shared.is_failing.store(false, Ordering::SeqCst);
        log::info!(
            "the history is complete again, {} ms after entries were lost; {} are missing",
            at.saturating_sub(hole.since),
            hole.dropped
        );
        Ok(())
    }
}
