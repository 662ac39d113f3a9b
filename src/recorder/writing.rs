//! The thread that appends to the history.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nathistory::{Entry, Error, Millis, Reason, Writer};

use super::clock_steps::ClockSteps;
use super::shared::Shared;
use super::translate::{Translator, is_about_gaps, millis};
use crate::clock::Clock;
use crate::stats::Stats;
use crate::table::FeedItem;
use crate::tracker::{self, Taken, Tracker};

/// The time between two looks into the queue while there are entries, and while there are none.
const BUSY_REST: Duration = Duration::from_millis(50);
const IDLE_REST: Duration = Duration::from_millis(200);
/// How often the history notes that nothing is missing.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// If that is all that is new, it is synced this often.
const IDLE_SYNC_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two attempts to write after one has failed.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Empty chunks of the queue that are kept: as many as the queue keeps itself.
const MAX_EMPTY: usize = 64;
/// Gaps that are kept until they can be written, at most.
const MAX_HELD: usize = 4096;

/// Entries that are missing.
#[derive(Debug, Clone)]
pub(super) struct Hole {
    pub(super) reason: Reason,
    /// Everything before is in the history.
    pub(super) since: Millis,
    pub(super) dropped: u64,
    /// Whether the history has the gap already.
    pub(super) is_noted: bool,
}

/// The thread's state.
pub(super) struct Writing {
    pub(super) tracker: Arc<Tracker>,
    pub(super) writer: Writer,
    pub(super) shared: Arc<Shared>,
    pub(super) stats: Arc<Stats>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) translator: Translator,
    steps: ClockSteps,
    /// Entries that are appended next.
    pub(super) entries: Vec<Entry>,
    /// Chunks of the queue that can be filled again.
    pub(super) empty: Vec<Vec<FeedItem>>,
    /// Since when there are entries that are not durable, and since when there are any.
    unsynced: Option<Instant>,
    unsynced_alive: Option<Instant>,
    alive_at: Instant,
    /// Everything before is appended; everything before is durable.
    appended_until: Millis,
    synced_until: Millis,
    pub(super) hole: Option<Hole>,
    /// While writing fails: when it is tried again.
    pub(super) retry_at: Option<Instant>,
    /// Gaps that began or ended while writing failed.
    pub(super) held: Vec<Entry>,
    /// When the log may be rotated again after that has failed.
    rotate_at: Instant,
    is_busy: bool,
}

impl Writing {
    pub(super) fn new(
        tracker: Arc<Tracker>,
        (writer, last_alive, with_destinations): (Writer, Option<Millis>, bool),
        shared: Arc<Shared>,
        stats: Arc<Stats>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.now();
        let mut entries = Vec::new();
        let translator = Translator::new(with_destinations, last_alive, millis(now.wall), &mut entries);
        let until = last_alive.unwrap_or_else(|| millis(now.wall));
        Self {
            tracker,
            writer,
            shared,
            stats,
            clock,
            translator,
            steps: ClockSteps::new(now),
            entries,
            empty: Vec::new(),
            unsynced: None,
            unsynced_alive: None,
            alive_at: Instant::now(),
            appended_until: until,
            synced_until: until,
            hole: None,
            retry_at: None,
            held: Vec::new(),
            rotate_at: Instant::now(),
            is_busy: false,
        }
    }

    /// Appends what happens until the daemon stops.
    ///
    /// # Errors
    /// When the daemon can no longer follow the kernel.
    pub(super) fn run(mut self) -> Result<(), tracker::Error> {
        // What the translator says about the time before.
        self.append_or_fail();
        loop {
            let requests = self.shared.wait(if self.is_busy { BUSY_REST } else { IDLE_REST });
            let is_alive_due = self.alive_at.elapsed() >= ALIVE_INTERVAL;
            let taken = if is_alive_due || requests.stop || !requests.waiting.is_empty() {
                self.tracker.drain_feed(&mut self.empty)?
            } else {
                self.tracker.take_feed(&mut self.empty)
            };
            let until = millis(taken.until.wall);
            self.record(taken);
            self.note_new_hole();
            self.advance(until);
            if is_alive_due || requests.stop || self.is_busy {
                self.note_alive(until);
            }
            if is_alive_due {
                self.alive_at = Instant::now();
            }
            // It fails for those that wait no longer.
            for waiting in requests.waiting {
                let _ = waiting.send(());
            }
            self.mend(requests.stop);
            self.sync_if_due(requests.stop);
            self.rotate_if_due();
            self.count_gaps();
            if requests.stop {
                self.log_end();
                return Ok(());
            }
        }
    }

    /// Appends what was taken from the queue.
    pub(super) fn record(&mut self, taken: Taken) {
        if let Some(gap) = self.steps.check(taken.now) {
            log::warn!("the history has a gap: {}", gap.detail.as_deref().unwrap_or_default());
            self.entries.push(Entry::Gap(gap));
            self.append_or_fail();
        }
        self.is_busy = !taken.fed.chunks.is_empty();
        for mut chunk in taken.fed.chunks {
            let is_mending = self.hole.is_some();
            for item in &chunk {
                self.translator.translate(item, is_mending, &mut self.entries);
            }
            self.append_or_fail();
            if self.retry_at.is_some() {
                let earliest = chunk.iter().map(|item| millis(item.at())).min();
                self.widen_hole(earliest);
            }
            chunk.clear();
            // After a burst, the rest is not needed.
            if self.empty.len() < MAX_EMPTY {
                self.empty.push(chunk);
            }
        }
        if let Some(dropped) = taken.fed.dropped {
            self.stats.history.dropped.add(dropped.count as usize);
            let since = millis(dropped.earliest.min(dropped.from));
            if self.hole.is_none() {
                log::warn!(
                    "the history: entries came faster than they could be written, {} are missing; comparing it \
                     with the table",
                    dropped.count
                );
            }
            let reason = Reason::RecorderBehind;
            let hole = self.hole.get_or_insert(Hole { reason, since, dropped: 0, is_noted: false });
            hole.dropped += dropped.count;
            self.widen_hole(Some(since));
        }
    }

    /// Everything that happened before this moment is in the history, or in a gap that it has.
    pub(super) fn advance(&mut self, until: Millis) {
        if self.is_sound() {
            self.appended_until = until;
            self.shared.recorded_until.store(until, Ordering::SeqCst);
        }
    }

    /// Whether nothing is missing of which the history does not know.
    fn is_sound(&self) -> bool {
        self.retry_at.is_none() && self.hole.as_ref().is_none_or(|hole| hole.is_noted)
    }

    fn widen_hole(&mut self, since: Option<Millis>) {
        if let (Some(hole), Some(since)) = (&mut self.hole, since) {
            hole.since = hole.since.min(since);
        }
    }

    /// Notes that everything before this moment is known, or in a gap.
    fn note_alive(&mut self, at: Millis) {
        if self.is_sound() {
            match self.writer.append(&[Entry::Alive { at }], millis(self.clock.now().wall)) {
                Ok(()) => {
                    self.unsynced_alive.get_or_insert_with(Instant::now);
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Appends the entries, or drops them while writing fails.
    pub(super) fn append_or_fail(&mut self) {
        if let Err(error) = self.append() {
            self.fail(&error);
        }
        if self.retry_at.is_some() {
            self.drop_entries();
        }
    }

    /// Appends the entries, unless writing fails already.
    pub(super) fn append(&mut self) -> Result<(), Error> {
        if self.retry_at.is_some() || self.entries.is_empty() {
            return Ok(());
        }
        self.writer.append(&self.entries, millis(self.clock.now().wall))?;
        self.stats.history.entries.add(self.entries.len());
        self.unsynced.get_or_insert_with(Instant::now);
        self.entries.clear();
        Ok(())
    }

    /// Drops the entries, apart from those about gaps: these are written later.
    fn drop_entries(&mut self) {
        let mut dropped = 0;
        for entry in self.entries.drain(..) {
            if is_about_gaps(&entry) && self.held.len() < MAX_HELD {
                self.held.push(entry);
            } else {
                dropped += 1;
            }
        }
        self.stats.history.dropped.add(dropped);
        if let Some(hole) = &mut self.hole {
            hole.dropped += dropped as u64;
        }
    }

    /// Notes that writing has failed. It is tried again later.
    pub(super) fn fail(&mut self, error: &Error) {
        self.stats.history.write_errors.increment();
        if self.retry_at.is_none() && !self.shared.is_failing.swap(true, Ordering::SeqCst) {
            log::error!("the history cannot be written, trying again every second: {error}");
        }
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
        let since = self.appended_until;
        let hole =
            self.hole.get_or_insert(Hole { reason: Reason::NotWritten, since, dropped: 0, is_noted: false });
        hole.since = hole.since.min(since);
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.writer.sync()?;
        (self.unsynced, self.unsynced_alive) = (None, None);
        self.synced_until = self.appended_until;
        Ok(())
    }

    /// Makes durable what has waited for long enough.
    pub(super) fn sync_if_due(&mut self, is_last: bool) {
        if self.retry_at.is_some() {
            return;
        }
        let interval = Duration::from_millis(self.shared.sync_interval.load(Ordering::Relaxed));
        let interval = interval.saturating_sub(IDLE_REST);
        let waits = |since: Option<Instant>, interval| since.is_some_and(|at| at.elapsed() >= interval);
        if !is_last && !waits(self.unsynced, interval) && !waits(self.unsynced_alive, IDLE_SYNC_INTERVAL) {
            return;
        }
        if let Err(error) = self.sync() {
            // What was appended since the last sync can be lost.
            self.appended_until = self.synced_until;
            self.fail(&error);
        }
    }

    fn rotate_if_due(&mut self) {
        let now = millis(self.clock.now().wall);
        if self.retry_at.is_some() || Instant::now() < self.rotate_at || !self.writer.is_seal_due(now) {
            return;
        }
        if let Err(error) = self.writer.rotate(now) {
            self.stats.history.write_errors.increment();
            self.rotate_at = Instant::now() + RETRY_PAUSE;
            log::debug!("the log of the history cannot be changed for another one: {error}");
        }
    }

    fn count_gaps(&self) {
        let gaps = self.translator.open_gaps() + usize::from(self.hole.is_some());
        self.stats.history.open_gaps.store(gaps as u64, Ordering::Relaxed);
    }

    fn log_end(&self) {
        if let Some(hole) = &self.hole {
            log::error!("the history lacks {} entries at its end, which could not be written", hole.dropped);
        }
    }
}
