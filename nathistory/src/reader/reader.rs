//! The public face of reading.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::Disk;
use crate::error::Error;
use crate::marker;
use crate::question::Question;
use crate::reader::completeness::Completeness;
use crate::reader::held::Held;
use crate::reader::search::Search;
use crate::reader::snapshot::Snapshot;
use crate::reader::uncertain::Uncertain;
use crate::record::Record;
use crate::start;
use crate::state::Shared;
use crate::time::Millis;

/// How often files that another process removed meanwhile are searched for anew.
const ATTEMPTS: usize = 10;

/// Answers questions. Clones share one history.
#[derive(Debug, Clone)]
pub struct Reader {
    gateway: Arc<str>,
    history: History,
}

#[derive(Debug, Clone)]
enum History {
    /// The one that the writer of this process appends to.
    Own(Arc<Shared>),
    /// Files of which nothing more is known. What they had when they were last read.
    Files(Arc<Mutex<Arc<Shared>>>),
}

/// How much a history has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Segments.
    pub segments: usize,
    /// The bytes of all segments.
    pub segment_bytes: u64,
    /// The bytes of the logs that are not yet sealed.
    pub log_bytes: u64,
    /// Open mappings.
    pub open: usize,
    /// Mappings that closed and are not yet in a segment.
    pub closed: usize,
    /// Segments that wait for the keeper.
    pub waiting: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { gateway: shared.gateway.as_str().into(), history: History::Own(shared) }
    }

    /// A reader of the files of a directory: of a copy, or while a gateway writes to it. It changes nothing. Of
    /// what is appended after this call it knows nothing.
    ///
    /// # Errors
    /// `NotAHistory` and `Newer` if the directory belongs to something else, and those of the disk.
    pub fn of_files(disk: Arc<dyn Disk>) -> Result<Self, Error> {
        let shared = read_files(&disk)?;
        let gateway = shared.gateway.as_str().into();
        Ok(Self { gateway, history: History::Files(Arc::new(Mutex::new(Arc::new(shared)))) })
    }

    /// Passes each mapping that fits to `on`, once, which can stop the search. Segments are searched from the
    /// oldest to the newest, then memory; in each, mappings come in the order of public address (as text), port,
    /// protocol and begin.
    ///
    /// # Errors
    /// Those of the disk. A damaged segment is no error, but a gap of the answer.
    pub fn find(
        &self,
        question: &Question,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        self.find_while(question, &|| true, on)
    }

    /// [`find`](Self::find), for as long as `is_wanted` says so: it is called before each segment, because many
    /// of them may have nothing that fits.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub fn find_while(
        &self,
        question: &Question,
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        let mut uncertain = Uncertain::new(question);
        let mut on = |record: Record| {
            uncertain.note(&record);
            on(record)
        };
        let completeness = match &self.history {
            History::Own(shared) => {
                let snapshot = Snapshot::take(shared, question);
                Search::new(shared, &*shared.disk, question, &mut on).run(snapshot, is_wanted)
            }
            History::Files(files) => {
                let (shared, held, snapshot) = hold(files, question)?;
                Search::new(&shared, &held, question, &mut on).run(snapshot, is_wanted)
            }
        };
        completeness.map(|completeness| uncertain.complete(completeness))
    }

    /// The name of the gateway.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// The time from which to which the history has records; `None` while it has none.
    pub fn span(&self) -> Option<(Millis, Millis)> {
        let shared = self.shared();
        let state = shared.read();
        let from = state.catalog.first().map(|first| first.name.from);
        let frozen = state.frozen.first().map(|frozen| frozen.sealed.from);
        let has_records = from.or(frozen).is_some() || state.memory.span().0 < state.memory.span().1;
        let to = state.memory.last_alive().or(has_records.then_some(state.memory.span().1))?;
        let from = from.or(frozen).unwrap_or(state.memory.span().0);
        Some((from.min(to), to))
    }

    /// How much the history has.
    pub fn figures(&self) -> Figures {
        let shared = self.shared();
        let state = shared.read();
        let frozen = &state.frozen;
        Figures {
            segments: state.catalog.segments().len(),
            segment_bytes: state.catalog.bytes(),
            log_bytes: state.log_bytes + frozen.iter().map(|frozen| frozen.log_bytes).sum::<u64>(),
            open: state.memory.open_count(),
            closed: state.memory.closed().len()
                + frozen.iter().map(|frozen| frozen.sealed.closed.len()).sum::<usize>(),
            waiting: frozen.len(),
        }
    }

    fn shared(&self) -> Arc<Shared> {
        match &self.history {
            History::Own(shared) => Arc::clone(shared),
            History::Files(files) => Arc::clone(&files.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Opens all files that a question needs, so that the process that writes them can replace them.
fn hold(files: &Mutex<Arc<Shared>>, question: &Question) -> Result<(Arc<Shared>, Held, Snapshot), Error> {
    let mut attempt = 0;
    loop {
        let shared = Arc::clone(&files.lock().unwrap_or_else(PoisonError::into_inner));
        let snapshot = Snapshot::take(&shared, question);
        let segments = snapshot.catalog.segments();
        let touched = segments.iter().filter(|file| file.touches(question.from, question.to));
        // The one after the last has the ends of mappings that were open.
        let last = segments.iter().rposition(|file| file.touches(question.from, question.to));
        let next = last.and_then(|last| segments.get(last + 1));
        let names = touched.chain(next).map(|file| file.file.as_str());
        match Held::new(&shared.disk, names) {
            Ok(held) => return Ok((shared, held, snapshot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => {
                attempt += 1;
                let again = Arc::new(read_files(&shared.disk)?);
                *files.lock().unwrap_or_else(PoisonError::into_inner) = again;
            }
            Err(error) => return Err(Error::io(format!("reading {}", shared.disk.name()), error)),
        }
    }
}

fn read_files(disk: &Arc<dyn Disk>) -> Result<Shared, Error> {
    let mut attempt = 0;
    loop {
        let files = disk.list().map_err(|error| Error::io(format!("reading {}", disk.name()), error))?;
        marker::check(&**disk, &files)?;
        match start::find(&**disk, &files, 0) {
            // It became a segment, or was merged.
            Err(Error::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error),
            Ok(found) => {
                let mut state = found.state;
                state.ends_at = Some(state.memory.last_alive().unwrap_or(state.memory.from()));
                return Ok(Shared::new(Arc::clone(disk), found.gateway.unwrap_or_default(), state));
            }
        }
    }
}
