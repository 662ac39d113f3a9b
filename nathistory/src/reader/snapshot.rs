//! What memory has for a question, with the catalog of the same moment.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::gap::Gap;
use crate::question::Question;
use crate::record::{End, Record};
use crate::row::Row;
use crate::state::{Frozen, Shared, State};
use crate::time::Millis;

/// Mappings that are looked at before the writer gets its turn.
const PIECE: usize = 4_096;

/// What memory has for a question. Together with the segments of its catalog it is what was known at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) catalog: Arc<Catalog>,
    /// The mappings that fit, in the order of a segment.
    pub(super) records: Vec<Record>,
    /// The gaps that are in no segment.
    pub(super) gaps: Vec<Gap>,
    /// The begin of what is in no segment.
    pub(super) from: Millis,
    /// Where the files end, if nobody appends to them here.
    pub(super) ends_at: Option<Millis>,
}

impl Snapshot {
    pub(super) fn take(shared: &Shared, question: &Question) -> Self {
        loop {
            let taken = match (question.nat_ip, question.nat_port) {
                (Some(ip), port @ Some(_)) => Some(Self::of_end(shared, question, End { ip, port })),
                _ => Self::of_all(shared, question),
            };
            if let Some(mut snapshot) = taken {
                snapshot.sort(question);
                return snapshot;
            }
        }
    }

    fn begin(state: &State) -> Self {
        let frozen = state.frozen.iter().flat_map(|frozen| &frozen.sealed.gaps);
        Self {
            catalog: Arc::clone(&state.catalog),
            records: Vec::new(),
            gaps: frozen.chain(state.memory.gaps().iter()).cloned().collect(),
            from: state.frozen.first().map_or(state.memory.span().0, |oldest| oldest.sealed.from),
            ends_at: state.ends_at,
        }
    }

    fn of_end(shared: &Shared, question: &Question, end: End) -> Self {
        let state = shared.read();
        let mut snapshot = Self::begin(&state);
        let mut add = |record: Record| snapshot.records.extend(question.fits(&record).then_some(record));
        for frozen in &state.frozen {
            frozen.sealed.closed.at_end(end, &mut add);
        }
        state.memory.closed().at_end(end, &mut add);
        state.memory.open_at_end(end, &mut add);
        snapshot
    }

    /// Looks at all mappings, in pieces. A mapping that closes meanwhile was looked at when it was open, unless it
    /// was not yet; then it is among those that closed since. `None` if memory is frozen in between.
    fn of_all(shared: &Shared, question: &Question) -> Option<Self> {
        let (mut snapshot, frozen, rotations, before) = {
            let state = shared.read();
            (Self::begin(&state), state.frozen.clone(), state.rotations, state.memory.closed().len())
        };
        let mut add = |record: Record| snapshot.records.extend(question.fits(&record).then_some(record));
        for frozen in &frozen {
            add_closed(frozen, &mut add);
        }
        for place in (0..before).step_by(PIECE) {
            let state = shared.read();
            if state.rotations != rotations {
                return None;
            }
            let places = place..before.min(place + PIECE);
            places.filter_map(|place| state.memory.closed().get(place)).for_each(&mut add);
        }
        let (mut slot, mut closed) = (0, before);
        loop {
            let state = shared.read();
            if state.rotations != rotations {
                return None;
            }
            // In one hold of the lock: what closed since the last piece and was not looked at as open, and the
            // next piece of those that are open.
            let now_closed = state.memory.closed().len();
            for (record, was_at) in
                (closed..now_closed).filter_map(|place| state.memory.closed().get_with_slot(place))
            {
                if was_at.is_none_or(|was_at| was_at as usize >= slot) {
                    add(record);
                }
            }
            closed = now_closed;
            if slot >= state.memory.open_slots() {
                return Some(snapshot);
            }
            state.memory.each_open(slot..slot + PIECE, &mut add);
            slot += PIECE;
        }
    }

    fn sort(&mut self, question: &Question) {
        let row = |record: Record| Row::of(record).find(|row| question.fits_public(row.public));
        let mut rows: Vec<Row> = std::mem::take(&mut self.records).into_iter().filter_map(row).collect();
        rows.sort_unstable_by(Row::order);
        self.records = rows.into_iter().map(|row| row.record).collect();
    }
}

fn add_closed(frozen: &Frozen, add: &mut dyn FnMut(Record)) {
    let closed = &frozen.sealed.closed;
    (0..closed.len()).filter_map(|place| closed.get(place)).for_each(add);
}
