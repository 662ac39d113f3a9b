//! The log: what was appended and is not yet in a segment.
//!
//! A file for each seal, `0000000007.log`, has the entries of which segment 7 will be made. It is a row of
//! frames. Each has a checksum, so a write that was cut off by a crash is recognized, and a frame whose bytes
//! changed costs that frame alone: the next one is found by its mark.
//!
//! ```text
//! 2  file, replay    appends to a file; reads one
//! 1  frame, codec    a frame; entries as bytes
//! 0  name            names of files
//! ```

mod codec;
mod file;
pub(crate) mod frame;
mod name;
mod replay;

pub(crate) use file::{AppendError, BeginError, LogFile};
pub(crate) use name::{log_name, parse_log_name};
pub(crate) use replay::{Header, LogEnd, Part, read_header, replay};
