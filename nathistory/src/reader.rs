//! Answers questions from the segments and the memory.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::gap::Gap;
use crate::question::Question;
use crate::record::Record;
use crate::time::Millis;

/// Answers questions. Clones share one history.
#[derive(Debug, Clone)]
pub struct Reader {}

/// What is known about the completeness of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// The gaps that touch the time asked about, the oldest first. If there are none, the answer is complete.
    pub gaps: Vec<Gap>,
}

impl Reader {
    /// Passes each mapping that fits to `on`, once, which can stop the search. Segments are searched from the
    /// oldest to the newest; in each, mappings come in the order of public address, port, protocol and begin.
    ///
    /// # Errors
    /// Those of the disk. A damaged segment is no error, but a gap of the answer.
    pub fn find(
        &self,
        question: &Question,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        let _ = (question, on);
        Ok(Completeness::default())
    }

    /// The name of the gateway.
    pub fn gateway(&self) -> &str {
        ""
    }

    /// The time from which to which the history has records; `None` while it has none.
    pub fn span(&self) -> Option<(Millis, Millis)> {
        None
    }
}
