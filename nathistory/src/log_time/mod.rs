//! Times as people, programs and logs write them.
//!
//! Questions about the past come from logs: of web servers, of firewalls, of a court. Whoever copies a time out of
//! one of them should not have to rewrite it, and must never get the answer for another moment. `scan`
//! finds the parts of a written time, `parse` the moment that they mean, and `error` says why there is none.

mod error;
mod parse;
mod scan;
#[cfg(test)]
mod tests;

pub use error::TimeError;
pub use parse::{Reference, parse};
