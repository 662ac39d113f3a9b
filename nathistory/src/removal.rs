//! A segment that was removed on purpose.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// What is left of a removed segment: that and when it was removed, and its place in the chain of hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The number of its first seal.
    pub first: u64,
    /// The number of its last seal.
    pub last: u64,
    /// The begin of its span.
    pub from: Millis,
    /// The end of its span.
    pub to: Millis,
    /// Its hash, and those of the segments for which it stood: 64 hexadecimal digits each.
    pub hashes: Vec<String>,
    /// When it was removed.
    pub at: Millis,
}
