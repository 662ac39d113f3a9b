//! Resync: a snapshot of the kernel's table that events continue exactly.
//!
//! The order makes it exact. First the socket is drained, because after an overrun
//! the kernel drops all events until then. Then the dump runs while events continue
//! to arrive, and these events are applied to it in the order in which they
//! happened. If events were lost again, or if the kernel reports that the dump may
//! be incomplete, all this is repeated.

use std::collections::HashMap;
use std::io;

use crate::dump::Piece;
use crate::error::Error;
use crate::event::{Event, EventKind};
use crate::events::Events;
use crate::flow::Flow;
use crate::notification::Received;
use crate::query::Query;
use crate::selection::Selection;
use crate::tuple::Tuple;

const DOING: &str = "reading a snapshot of the conntrack table";
/// The number of dumps before this fails.
const ATTEMPTS: usize = 10;

impl Events {
    /// Reads all entries, or those of a [`Family`](crate::Family) or [`Selection`],
    /// as they are after the last event received so far. Later events continue this
    /// snapshot. A program that keeps a table replaces it with a snapshot at the start
    /// and at each [`Recovered`](crate::Notification::Recovered), and applies every
    /// event in between.
    ///
    /// The subscription must include [`Groups::NEW`](crate::Groups::NEW) and
    /// [`Groups::DESTROY`](crate::Groups::DESTROY), and
    /// [`Groups::UPDATE`](crate::Groups::UPDATE) for fields that change. Events that
    /// wait when this is called, and those that arrive during the dump, are part of the
    /// snapshot and are not returned again.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use std::collections::HashMap;
    /// use nfct::{EventKind, Events, Family, Flow, Groups, Notification, Query, Tuple};
    ///
    /// let mut query = Query::open()?;
    /// let mut events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
    /// let by_tuple = |flows: Vec<Flow>| flows.into_iter().map(|flow| (flow.original, flow)).collect();
    /// let mut table: HashMap<Tuple, Flow> = by_tuple(events.resync(&mut query, Family::Any)?);
    /// while let Some(notification) = events.next() {
    ///     match notification? {
    ///         Notification::Event(event) if event.kind == EventKind::Destroy => {
    ///             table.remove(&event.flow.original);
    ///         }
    ///         Notification::Event(event) => {
    ///             table.insert(event.flow.original, event.flow);
    ///         }
    ///         Notification::Recovered { lost } => {
    ///             eprintln!("{lost} events lost, resyncing");
    ///             table = by_tuple(events.resync(&mut query, Family::Any)?);
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Query::dump`]. After ten attempts: `ENOBUFS` if events were lost during the
    /// last dump, `EINTR` if the kernel reported that the dump may be incomplete.
    pub fn resync(&mut self, query: &mut Query, selection: impl Into<Selection>) -> Result<Vec<Flow>, Error> {
        let selection = selection.into();
        let mut failure = libc::ENOBUFS;
        for _ in 0..ATTEMPTS {
            // The dump already contains what happened before it.
            self.drain(|_| ())?;
            let mut snapshot = Snapshot::default();
            let mut overrun = false;
            let mut dump = query.dump(&selection)?;
            let mut piece = Piece::default();
            while dump.read_piece(&mut piece)? {
                for flow in piece.flows() {
                    snapshot.add(flow?);
                }
                // Keeps the receive buffer from becoming full during the dump.
                overrun |= self.drain(|event| snapshot.note(event))?;
            }
            let interrupted = dump.was_interrupted();
            drop(dump);
            overrun |= self.drain(|event| snapshot.note(event))?;
            if !overrun && !interrupted {
                return Ok(snapshot.finish(&selection));
            }
            failure = if overrun { libc::ENOBUFS } else { libc::EINTR };
        }
        let hint = match failure {
            libc::ENOBUFS => "events were lost during the dump; enlarge the receive buffer",
            _ => "the table changed too much during the dump; try again",
        };
        Err(Error::system(DOING, io::Error::from_raw_os_error(failure), hint))
    }

    /// Drains the socket. Returns whether events were lost.
    fn drain(&mut self, mut on: impl FnMut(Event)) -> Result<bool, Error> {
        let mut overrun = false;
        loop {
            match self.receive(&mut on)? {
                Received::Some { .. } => {}
                Received::Nothing => return Ok(overrun),
                Received::Overrun | Received::Recovered { .. } => overrun = true,
            }
        }
    }
}

/// The entries of a dump, and the last event of each connection since the dump began.
#[derive(Default)]
struct Snapshot {
    entries: HashMap<Tuple, Flow>,
    events: HashMap<Tuple, Event>,
}

impl Snapshot {
    fn add(&mut self, flow: Flow) {
        // The kernel sends the DESTROY event before it removes the entry.
        if !flow.status.is_dying() {
            self.entries.insert(flow.original, flow);
        }
    }

    fn note(&mut self, event: Event) {
        self.events.insert(event.flow.original, event);
    }

    fn finish(mut self, selection: &Selection) -> Vec<Flow> {
        for (original, event) in self.events {
            let is_other_lifetime = |flow: &Flow| flow.id != event.flow.id;
            match event.kind {
                // The dump has a later lifetime, whose NEW event is about to arrive.
                EventKind::Destroy if self.entries.get(&original).is_some_and(is_other_lifetime) => {}
                EventKind::New | EventKind::Update if selection.matches(&event.flow) => {
                    self.entries.insert(original, event.flow);
                }
                _ => drop(self.entries.remove(&original)),
            }
        }
        self.entries.into_values().collect()
    }
}
