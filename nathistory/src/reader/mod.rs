//! Answers questions from the segments and the memory.
//!
//! Each lifetime is passed once. In memory it is once. In segments it is carried from one into the next while it
//! is open, so a row that is open at the end of its segment is passed only if neither the next segment nor memory
//! is searched for the same question, and with the end that those know.
//!
//! ```text
//! 3  reader               the public face
//! 2  search               walks the segments
//! 1  snapshot, ends       what memory has; the ends of mappings that are open at the end of a segment
//! 0  completeness, held, uncertain
//!                         gaps; files that are held open; mappings whose begin or end is not known exactly
//! ```

mod completeness;
mod ends;
mod held;
#[expect(clippy::module_inception, reason = "it is the reader")]
mod reader;
mod search;
mod snapshot;
mod uncertain;

pub use completeness::Completeness;
pub use reader::{Figures, Reader};
