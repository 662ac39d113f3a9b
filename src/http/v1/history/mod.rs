//! `/v1/history`: who was behind a public address and port in the past.
//!
//! `asked` reads the fields of a request, `answer` is the handler, `search` reads the history in a thread of its
//! own, `written` writes what it finds, and `trail` the lines that record who asks.

mod answer;
mod asked;
mod pieces;
mod search;
#[cfg(test)]
mod tests;
mod trail;
mod written;

pub(in crate::http) use answer::answer;
