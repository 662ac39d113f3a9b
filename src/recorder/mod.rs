//! Keeps a history of the table: each begin and each end of a mapping, and every time of which something is
//! not known. `[history]` turns this on.
//!
//! The table puts what happens into a queue, the tracker's feed. The thread `history` (`writing`) takes it from there every
//! few milliseconds, `translate`s it, and appends it to the files of the crate `nathistory`; `clock_steps` notices
//! that the wall clock was set. When entries are missing, because they came too fast or could not be written, the thread
//! compares the history with the table (`mending`). The thread `seal` (`sealing`) makes segments, merges and
//! removes them. Neither holds the tracker's lock while it waits for a disk, so a slow disk slows down only
//! the history.
//!
//! `handle` starts the threads and stops them; the rest of the daemon sees only that. `shared` is what it shares with the
//! thread. `disk` counts what is written.

mod clock_steps;
mod disk;
mod handle;
mod mending;
mod sealing;
mod shared;
mod translate;
mod writing;

pub use handle::{Opened, Recorder, warn_of_restart};
