//! Events that are applied together.

use nfct::{Event, EventKind};

use super::heads::WARMED;
use super::packed::PackedFlow;
use super::report::CloseResult;
use super::store::Table;
use crate::clock::Stamp;

/// Events that were received together, in the order in which they came.
#[derive(Debug, Default)]
pub struct Batch {
    events: Vec<Event>,
    packed: Vec<PackedFlow>,
}

impl Batch {
    /// Adds an event.
    #[inline]
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Applies the NEW and DESTROY events to a table, and becomes empty. `now` is called once, if there
    /// are any. Returns the number of mappings that were created.
    pub fn apply(&mut self, table: &mut Table, now: impl FnOnce() -> Stamp) -> usize {
        if self.events.is_empty() {
            return 0;
        }
        let now = now();
        let mut created = 0;
        for events in self.events.chunks(WARMED) {
            table.prepare(events.iter().map(|event| &event.flow), &mut self.packed);
            for (event, packed) in events.iter().zip(&self.packed) {
                created += usize::from(match event.kind {
                    EventKind::New => table.open_packed(&event.flow, packed, now),
                    EventKind::Destroy => {
                        table.close_packed(&event.flow, packed, now) == CloseResult::WasUnknown
                    }
                    EventKind::Update => false,
                });
            }
        }
        self.events.clear();
        created
    }
}
