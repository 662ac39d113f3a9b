//! A history of NAT mappings: who held this public address and port at that moment?
//!
//! A gateway appends what happens to its mappings: one opened, one closed, events were lost.
//! This crate keeps it in one directory for as long as configured, and answers questions about any
//! moment of it. Each answer says whether it is complete, and names the [`Gap`]s that touch the
//! moment asked about. It knows neither netlink nor HTTP, so anyone with a NAT log to keep can
//! use it. `doc/HISTORY.md` describes the files.
//!
//! Entries go through a log of checksummed frames, which is synced often. The log is sealed into
//! segments: Parquet files, sorted by public address, port, protocol and time, which are merged
//! into hours and hours into days. Mappings that are open at the end of a segment are carried into
//! the next one, so one segment answers for every moment of its span.
//!
//! ```text
//! 8  store, names                      opens a history; who had an inside address, a table of its own
//! 7  writer, keeper, reader, check     append entries; seal, merge and remove; answer; verify files
//! 6  start                             what is there when a history is opened
//! 5  state, marker                     what writer, keeper and readers share; the format of a directory
//! 4  memory, catalog                   open mappings, and those that closed since the last seal; segments
//! 3  log, segment                      the two kinds of file
//! 2  entry, row, question              what is appended, a line of a segment, what is asked
//! 1  record, gap, removal, log_time    one mapping; a time of which something is not known; written times
//! 0  time, text, disk, error
//! ```
//!
//! A module uses those of lower layers. `writer` appends, and freezes what a segment can be made
//! of; `keeper` makes the segments, in a thread of its own if the caller wants that; any number of
//! `reader`s answer meanwhile.
#![forbid(unsafe_code)]

mod catalog;
mod check;
pub mod disk;
mod entry;
mod error;
mod gap;
mod keeper;
mod log;
pub mod log_time;
mod marker;
mod memory;
mod names;
mod question;
mod reader;
mod record;
mod removal;
mod row;
mod segment;
mod start;
mod state;
mod store;
mod text;
pub mod time;
mod writer;

pub use check::{Problem, Report, check};
pub use entry::Entry;
pub use error::Error;
pub use gap::{Gap, Reason};
pub use keeper::Keeper;
pub use names::{NameEntry, NameFact, NameGap, NameStore, StoredNames};
pub use question::Question;
pub use reader::{Completeness, Figures, Reader};
pub use record::{Counters, End, Known, Moment, PublicEnd, Record};
pub use removal::Removal;
pub use store::{Options, Store, open};
pub use time::Millis;
pub use writer::Writer;
