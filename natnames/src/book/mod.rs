//! The facts of all sources. `book` has what they say, `ask` the questions, and `journal` what an earlier book leaves to a
//! later one.

mod ask;
#[expect(clippy::module_inception, reason = "it is the book")]
mod book;
mod changes;
mod journal;
#[cfg(test)]
mod tests;

pub use book::{Book, Limits};
pub use changes::Changes;
