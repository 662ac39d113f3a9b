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
//! 6  writer, keeper, reader, check     append entries; seal, merge and remove; answer; verify files
//! 5  catalog, start                    the segments that there are; what is there at the start
//! 4  memory                            open mappings, and those that closed since the last seal
//! 3  log, segment                      the two kinds of file
//! 2  entry, row, question              what is appended, a line of a segment, what is asked
//! 1  record, gap, removal              one mapping; a time of which something is not known
//! 0  time, disk, error
//! ```
//!
//! A module uses those of lower layers. `writer` appends, and freezes what a segment can be made
//! of; `keeper` makes the segments, in a thread of its own if the caller wants that; any number of
//! `reader`s answer meanwhile.
#![forbid(unsafe_code)]
#![allow(dead_code)]

pub mod disk;
mod entry;
mod error;
mod gap;
mod question;
mod reader;
mod record;
mod removal;
mod row;
pub mod time;

pub use entry::Entry;
pub use error::Error;
pub use gap::{Gap, Reason};
pub use question::Question;
pub use reader::{Completeness, Reader};
pub use record::{Counters, End, Known, Moment, PublicEnd, Record};
pub use removal::Removal;
pub use time::Millis;
