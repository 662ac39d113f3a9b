//! The reason why a text is not in the dialect.

/// An error of the parser: where it stopped, what it found and what it expected.
#[derive(Debug, PartialEq)]
pub(in crate::config) struct Fault {
    /// Counted from 1.
    pub(in crate::config) line: usize,
    pub(in crate::config) found: String,
    pub(in crate::config) expected: String,
}

impl Fault {
    pub(super) fn new(line: usize, found: &str, expected: impl Into<String>) -> Fault {
        Fault { line, found: found.trim().to_owned(), expected: expected.into() }
    }
}
