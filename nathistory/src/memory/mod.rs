//! What is in memory: open mappings, and those that closed since the last seal.
//!
//! Both are indexed by public end, so a question about one end costs about the same however many mappings there are.
//! Open mappings with the same public end form a chain, so that tens of thousands behind one end cost no more than
//! any others.
//!
//! ```text
//! 4  memory           the rules by which entries change it
//! 3  open, closed     open mappings; closed ones
//! 2  gaps             gaps that last, and those that ended
//! 1  packed           a record in 56 bytes
//! 0  chunks, ends     a vector that grows without being copied; which places have a public end
//! ```

mod chunks;
mod closed;
mod ends;
mod gaps;
#[expect(clippy::module_inception, reason = "it is the memory")]
mod memory;
mod open;
mod packed;

pub(crate) use memory::{Memory, Sealed};
