//! Reading the kernel's whole table: at the start, after a loss, and from time
//! to time, because a connection may end without a word (the kernel tells of
//! the end only of those that began while somebody listened).
//!
//! The order is what makes it exact. The socket is read empty first: after an
//! overrun the kernel drops all further events until then. Then the dump
//! runs, while events go on. What began meanwhile is not closed for being
//! missing in it, what ended meanwhile is not opened by it. If the socket
//! overran again while it ran, it proves nothing and is done again.
//!
//! A dump of a million entries takes seconds. One that was disturbed goes on
//! while the burst does, for what it still finds; once the burst is over it is
//! cut short, so that the table is whole after one dump and not after two.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nfct::{Error, Family, Piece, Query};

use super::{Settings, State, Tracker};
use crate::clock::Stamp;
use crate::filter::Filter;
use crate::proc;
use crate::table::Place;

/// After a loss the next dump begins no sooner after the last one than this;
/// and while losses go on, no sooner than that one took.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// A burst is over when nothing was lost for so long.
const CALM: Duration = Duration::from_millis(100);
/// So many dumps in a row are cut short; the next one is read to its end, for
/// what is in it, whatever comes.
const MOST_CUT_SHORT: u32 = 3;
/// Entries of a piece of a dump, about.
const A_PIECE: usize = 256;
/// Pieces that are merged together, some thousand entries: to wake a thread for
/// each takes a part of the time in which the kernel makes it.
const A_LOAD: usize = 8;
/// Loads that are read before they are merged: four megabytes.
const READ_AHEAD: usize = 8;
/// Entries merged under one hold of the lock.
const MERGED_AT_ONCE: usize = 128;

/// While the kernel tells of nothing, its table is read this often.
const DEAF_INTERVAL: Duration = Duration::from_secs(5);

/// What one dump was like.
#[derive(Debug, Default)]
struct Dumped {
    entries: usize,
    malformed: usize,
    /// The kernel says that the dump may lack entries.
    interrupted: bool,
    /// It was disturbed, and not read to its end.
    cut_short: bool,
}

/// What a dump was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The table equals the kernel's.
    Whole,
    /// Events were lost meanwhile.
    Disturbed,
    /// So they were, and the rest was left unread.
    CutShort,
}

/// Asks the thread for a dump.
#[derive(Debug, Default)]
pub(super) struct Requests {
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Requests {
    /// The kernel's table is to be read as soon as may be.
    pub(super) fn soon(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// A dump that begins now covers what was asked for.
    fn clear(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits until one is wanted (true) or the time has come (false).
    fn wait_until(&self, deadline: Instant) -> bool {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if *wanted || left.is_zero() {
                return *wanted;
            }
            wanted = self.changed.wait_timeout(wanted, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Tracker {
    /// Reads the kernel's table whenever there is a reason to.
    pub(super) fn resync_forever(&self, mut query: Query) -> Result<Infallible, Error> {
        let mut cleaned = Instant::now();
        let mut first = true;
        let mut cut_short = 0;
        loop {
            let begun = Instant::now();
            // Connections that began before the daemon listened, or while the
            // kernel told of none, end without a word.
            let deaf = proc::conntrack_events() == Some(0);
            let silent = first || deaf;
            let outcome = self.resync(&mut query, silent, cut_short < MOST_CUT_SHORT)?;
            let whole = outcome == Outcome::Whole;
            cut_short = if outcome == Outcome::CutShort { cut_short + 1 } else { 0 };
            first &= !whole;
            let ended = Instant::now();
            let Settings { garbage_cleaner_interval, sweep_interval, .. } = self.lock().settings;
            if whole && ended >= cleaned + garbage_cleaner_interval {
                self.clean();
                cleaned = ended;
            }
            let sweep_interval = if deaf { DEAF_INTERVAL.min(sweep_interval) } else { sweep_interval };
            let next = (cleaned + garbage_cleaner_interval).min(ended + sweep_interval);
            if !whole || self.requests.wait_until(next) {
                self.pause(ended, ended - begun);
            }
        }
    }

    /// Waits after a dump that ended at `ended` until another may begin.
    fn pause(&self, ended: Instant, took: Duration) {
        let latest = ended + SHORTEST_PAUSE.max(took);
        loop {
            let calm = self.lock().disturbed + CALM;
            let left = latest.min(calm.max(ended + SHORTEST_PAUSE)).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left);
        }
    }

    /// Makes the table equal to the kernel's, unless events are lost again
    /// meanwhile.
    fn resync(&self, query: &mut Query, silent: bool, may_cut: bool) -> Result<Outcome, Error> {
        let begun = Instant::now();
        let buckets = proc::conntrack_buckets();
        let (disturbances, filter, nothing) = self.drain(|state| {
            self.requests.clear();
            state.table.begin_dump(silent);
            (state.disturbances, state.settings.filter.clone(), state.table.live() == 0)
        })?;
        let is_over = |state: &State| {
            may_cut && state.disturbances != disturbances && state.disturbed.elapsed() >= CALM
        };
        let dump = self.merge_dump(query, &filter, is_over);
        // While the kernel resizes its table a dump may miss entries.
        let resized = proc::conntrack_buckets() != buckets;
        let whole = matches!(dump, Ok(Dumped { interrupted: false, cut_short: false, .. }))
            && !resized
            && self.drain(|state| state.disturbances)? == disturbances;
        // An entry that can't be read may be any: nothing is closed for missing.
        // Where nothing was there, nothing can be missing.
        let readable = matches!(dump, Ok(Dumped { malformed: 0, .. }));
        let gone = if whole && readable && !nothing {
            self.in_slices(|state, slot, now| state.table.close_unseen(slot, now))
        } else {
            0
        };
        // Dropped after the lock is.
        let _ended;
        let mut state = self.lock();
        _ended = state.table.end_dump();
        let Dumped { entries, malformed, cut_short, .. } = dump?;
        self.stats.resync_time.record(begun.elapsed());
        self.stats.swept.add(gone);
        self.stats.malformed.add(malformed);
        self.note_changes(&state);
        if malformed > 0 {
            state.log(Level::Warn, format!("{malformed} of the kernel's connections can't be read"));
        }
        if !whole || state.disturbances != disturbances {
            self.stats.disturbed_dumps.increment();
            return Ok(if cut_short { Outcome::CutShort } else { Outcome::Disturbed });
        }
        self.loaded.store(true, Ordering::Relaxed);
        self.stats.dumps.increment();
        let was_complete = state.complete;
        if proc::conntrack_events() == Some(0) {
            // Nobody tells of what begins from now on.
            state.complete = false;
            self.complete.send_replace(false);
        } else if !state.complete {
            state.complete = true;
            self.complete.send_replace(true);
        }
        let (live, took) = (state.table.live(), begun.elapsed().as_millis());
        let read = format!("{live} mappings of {entries} connections, read in {took} ms");
        let line = if let Some(lost) = state.lost.take() {
            let drops = self.drops().unwrap_or(state.drops_told);
            let told = std::mem::replace(&mut state.drops_told, drops);
            Some(format!(
                "the table equals the kernel's again, {} ms after the loss: {read}; {} events were lost, \
                 the receive buffer is {} KiB",
                lost.elapsed().as_millis(),
                drops.wrapping_sub(told),
                state.receive_buffer >> 10
            ))
        } else if state.complete && !was_complete {
            Some(format!("the table equals the kernel's: {read}"))
        } else if gone > 0 && state.complete {
            Some(format!("closed {gone} mappings that had ended without an event"))
        } else {
            None
        };
        if let Some(line) = line {
            state.log(Level::Info, line);
        }
        Ok(Outcome::Whole)
    }

    /// Reads a dump into the table, until `is_over` says that the rest is of no
    /// use. A thread of its own merges what is read: the kernel makes a dump as
    /// it is read, which takes longer than all the rest.
    fn merge_dump(
        &self,
        query: &mut Query,
        filter: &Filter,
        is_over: impl Fn(&State) -> bool + Send,
    ) -> Result<Dumped, Error> {
        let (full, loads) = mpsc::sync_channel::<Vec<Piece>>(READ_AHEAD);
        let (emptied, empty) = mpsc::channel();
        thread::scope(|scope| {
            let merge = move || {
                let mut merged = Dumped::default();
                for load in loads {
                    if is_over(&self.lock()) {
                        merged.cut_short = true;
                        break;
                    }
                    load.iter().for_each(|piece| self.merge_piece(piece, filter, &mut merged));
                    // Nobody wants it any more at the dump's end.
                    let _ = emptied.send(load);
                }
                merged
            };
            let merging = thread::Builder::new().name("merge".to_owned()).spawn_scoped(scope, merge);
            let merging = merging.map_err(|source| Error::new("starting a thread", source))?;
            let mut dump = query.dump(Family::Any)?;
            loop {
                let mut load: Vec<Piece> = empty.try_recv().unwrap_or_default();
                load.resize_with(A_LOAD, Piece::default);
                let mut filled = 0;
                while filled < A_LOAD && dump.read_piece(&mut load[filled])? {
                    filled += 1;
                }
                load.truncate(filled);
                // The other thread takes no more where the dump is over; why, it says below.
                if full.send(load).is_err() || filled < A_LOAD {
                    break;
                }
            }
            drop(full);
            let merged = merging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let interrupted = dump.was_interrupted();
            if merged.cut_short {
                dump.abandon();
            }
            Ok(Dumped { interrupted, ..merged })
        })
    }

    fn merge_piece(&self, piece: &Piece, filter: &Filter, merged: &mut Dumped) {
        let mut flows = Vec::with_capacity(A_PIECE);
        for flow in piece.flows() {
            match flow {
                Ok(flow) => {
                    merged.entries += 1;
                    flows.extend(Some(flow).filter(|flow| filter.matches(flow)));
                }
                Err(_) => merged.malformed += 1,
            }
        }
        for flows in flows.chunks(MERGED_AT_ONCE) {
            let mut state = self.lock();
            let now = self.clock.now();
            let created = flows.iter().filter(|flow| state.table.merge(flow, now)).count();
            self.stats.created_by_dump.add(created);
            self.note_changes(&state);
        }
    }

    /// Drops old mappings that the kernel no longer has.
    fn clean(&self) {
        let life_span = self.lock().settings.life_span;
        let dropped = self.in_slices(|state, slot, now| state.table.drop_old(slot, life_span, now));
        self.stats.expired.add(dropped);
    }

    /// Reads the socket empty, then does `then` before anything else can come.
    fn drain<T>(&self, then: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        loop {
            let mut state = self.lock();
            if self.pump(&mut state)? {
                return Ok(then(&mut state));
            }
        }
    }

    /// Works through the whole table, a slice under each hold of the lock, and
    /// adds up what the slices count.
    pub(super) fn in_slices(
        &self,
        mut work: impl FnMut(&mut State, Place, Stamp) -> (Option<Place>, usize),
    ) -> usize {
        let (mut slot, mut sum) = (Some(Place::START), 0);
        while let Some(from) = slot {
            let mut state = self.lock();
            let (next, count) = work(&mut state, from, self.clock.now());
            slot = next;
            sum += count;
        }
        sum
    }
}
