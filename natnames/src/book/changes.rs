//! What has changed in a book.

use std::collections::HashSet;

use crate::fact::Fact;
use crate::time::Millis;

/// What has changed in a book.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Facts that are new, or of which more is known, with their numbers.
    pub facts: Vec<(u64, Fact)>,
    /// Spans in which a source was not followed. One that lasts ends now.
    pub gaps: Vec<(u8, Millis, Millis)>,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) changed: HashSet<u64>,
    /// Facts that were forgotten before their change was taken.
    pub(super) forgotten: Vec<(u64, Fact)>,
    pub(super) gaps: Vec<(u8, Millis, Millis)>,
}
