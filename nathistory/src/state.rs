//! What writer, keeper and readers share.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::catalog::{Catalog, SegmentFile};
use crate::disk::Disk;
use crate::error::Error;
use crate::memory::{Memory, Sealed};
use crate::removal::Removal;
use crate::segment::Segment;
use crate::time::Millis;

/// Segments that stay open, so that the next question about them need not read their footers.
const OPEN_SEGMENTS: usize = 8;

/// What is shared. Its locks are held for moments only, and never while a file is read or written.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) gateway: String,
    state: RwLock<State>,
    removals: Mutex<Removals>,
    open_segments: Mutex<Vec<Arc<Segment>>>,
}

/// What is known at a moment: each lifetime is in `memory` or `frozen` once, or in segments of the catalog.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) memory: Memory,
    /// What is to become segments, the oldest first.
    pub(crate) frozen: Vec<Arc<Frozen>>,
    pub(crate) catalog: Arc<Catalog>,
    /// How often memory was frozen.
    pub(crate) rotations: u64,
    /// The size of the newest log in bytes.
    pub(crate) log_bytes: u64,
    /// The files end here, because nobody writes to them, or somebody else does.
    pub(crate) ends_at: Option<Millis>,
}

/// What is to become a segment.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Its number.
    pub(crate) number: u64,
    pub(crate) sealed: Sealed,
    /// The size of its log in bytes.
    pub(crate) log_bytes: u64,
}

/// Removals of segments. The keeper removes a file only after the writer has logged that durably: a crash in
/// between leaves a file too many, never a segment that is missing without a reason.
#[derive(Debug, Default)]
pub(crate) struct Removals {
    /// To be logged.
    pub(crate) wanted: Vec<Removal>,
    /// Logged and durable.
    pub(crate) logged: Vec<Removal>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, gateway: String, state: State) -> Self {
        Self {
            disk,
            gateway,
            state: RwLock::new(state),
            removals: Mutex::default(),
            open_segments: Mutex::default(),
        }
    }

    // A thread that panicked while it held a lock leaves what it had finished, which the others go on with.

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_segments(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.open_segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment, to read it.
    ///
    /// # Errors
    /// Those of the disk; `Damaged` if it is not what was written.
    pub(crate) fn open_segment(&self, disk: &dyn Disk, file: &SegmentFile) -> Result<Arc<Segment>, Error> {
        let known = {
            let mut open = self.open_segments();
            let place = open.iter().position(|segment| segment.name() == file.file);
            place.map(|place| {
                let segment = open.remove(place);
                open.push(Arc::clone(&segment));
                segment
            })
        };
        if let Some(segment) = known {
            return Ok(segment);
        }
        let segment = Arc::new(Segment::open(disk, &file.file)?);
        let mut open = self.open_segments();
        if open.len() >= OPEN_SEGMENTS {
            // The one that was not used for longest.
            open.remove(0);
        }
        open.push(Arc::clone(&segment));
        Ok(segment)
    }

    /// Closes a segment whose file is removed.
    pub(crate) fn close_segment(&self, file: &str) {
        self.open_segments().retain(|segment| segment.name() != file);
    }
}
