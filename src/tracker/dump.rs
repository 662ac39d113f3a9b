//! Reading one dump of the kernel's table and merging it.
//!
//! The kernel produces a dump while the daemon reads it, and this takes most of the
//! time. So one thread only reads, and another one merges.

use std::sync::mpsc;
use std::thread;

use nfct::{Error, Family, Piece, Query, Tuple};

use super::shared::Tracker;
use super::state::TrackerState;
use crate::clock::Stamp;
use crate::filter::Filter;
use crate::table::{Asked, WARMED};

/// The approximate number of entries in a piece of a dump.
const ENTRIES_PER_PIECE: usize = 256;
/// Pieces that the merging thread gets together: about 2,000 entries. Waking that
/// thread for each piece would take a large part of the time in which the kernel
/// produces the piece.
const PIECES_PER_BATCH: usize = 8;
/// Batches that can wait for the merging thread: about four megabytes.
const MAX_BATCHES_AHEAD: usize = 8;
/// Entries that the table lacked and that the summary names.
const MAX_UNKNOWN: usize = 1024;
/// Entries merged under one hold of the lock: what is [prepared](crate::table::Table::prepare) together.
const MERGES_PER_HOLD: usize = WARMED;

/// What a dump contained, and how it ended.
#[derive(Debug, Default)]
pub(super) struct DumpSummary {
    pub(super) entries: usize,
    /// Entries that could not be parsed.
    pub(super) malformed: usize,
    /// Whether the kernel reported that the dump may lack entries.
    pub(super) interrupted: bool,
    /// Whether the rest was not read, because the dump had become useless.
    pub(super) cut_short: bool,
    /// Some of the reply tuples that the table lacked, and the moments after they were merged.
    pub(super) unknown: Vec<(Tuple, Asked)>,
}

impl Tracker {
    /// Reads a dump and merges it into the table, until `is_useless` says that the
    /// rest is not needed.
    pub(super) fn merge_dump(
        &self,
        query: &mut Query,
        filter: &Filter,
        invalidations: u64,
        is_useless: impl Fn(&TrackerState) -> bool + Send,
    ) -> Result<DumpSummary, Error> {
        let (full, batches) = mpsc::sync_channel::<(Stamp, Vec<Piece>)>(MAX_BATCHES_AHEAD);
        // Batches go back to be filled again.
        let (merged, empty) = mpsc::channel();
        thread::scope(|scope| {
            let merge = move || {
                let mut summary = DumpSummary::default();
                for (read, batch) in batches {
                    if is_useless(&self.lock()) {
                        summary.cut_short = true;
                        break;
                    }
                    for piece in &batch {
                        self.merge_piece(piece, read, filter, invalidations, &mut summary);
                    }
                    // Fails at the end of the dump, when the reader needs no more
                    // batches.
                    let _ = merged.send(batch);
                }
                summary
            };
            let merging = thread::Builder::new().name("merge".to_owned()).spawn_scoped(scope, merge);
            let merging = merging.map_err(|source| Error::new("starting a thread", source))?;
            let mut dump = query.dump(Family::Any)?;
            loop {
                self.pulses.resync.beat();
                let mut batch: Vec<Piece> = empty.try_recv().unwrap_or_default();
                batch.resize_with(PIECES_PER_BATCH, Piece::default);
                let read = self.clock.now();
                let mut filled = 0;
                while filled < PIECES_PER_BATCH && dump.read_piece(&mut batch[filled])? {
                    filled += 1;
                }
                batch.truncate(filled);
                // Sending fails if the merging thread stopped; its summary says why.
                if full.send((read, batch)).is_err() || filled < PIECES_PER_BATCH {
                    break;
                }
            }
            drop(full);
            let summary = merging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let interrupted = dump.was_interrupted();
            if summary.cut_short {
                dump.abandon();
            }
            Ok(DumpSummary { interrupted, ..summary })
        })
    }

    /// Merges the entries that `filter` accepts, and the filter in force, if it is another one
    /// since the number of `invalidations`. They were read at the moment `read` or later.
    fn merge_piece(
        &self,
        piece: &Piece,
        read: Stamp,
        filter: &Filter,
        invalidations: u64,
        summary: &mut DumpSummary,
    ) {
        let mut flows = Vec::with_capacity(ENTRIES_PER_PIECE);
        for flow in piece.flows() {
            match flow {
                Ok(flow) => {
                    summary.entries += 1;
                    flows.extend(Some(flow).filter(|flow| filter.matches_flow(flow)));
                }
                Err(_) => summary.malformed += 1,
            }
        }
        let mut packed = Vec::with_capacity(MERGES_PER_HOLD);
        for flows in flows.chunks(MERGES_PER_HOLD) {
            let mut state = self.lock();
            let now = self.clock.now();
            let is_same_filter = state.invalidations == invalidations;
            let mut created = 0;
            state.table.prepare(flows.iter(), &mut packed);
            for (flow, packed) in flows.iter().zip(&packed) {
                if (is_same_filter || state.settings.filter.matches_flow(flow))
                    && state.table.merge_packed(flow, packed, read, now)
                {
                    created += 1;
                    if summary.unknown.len() < MAX_UNKNOWN {
                        summary.unknown.push((flow.reply, state.table.asked(now)));
                    }
                }
            }
            self.stats.created_by_dump.add(created);
            self.note_dropped(&mut state);
            self.notify_changes(&state);
        }
    }
}
