//! Who had an inside address: a table of its own, in a directory of its own.
//!
//! What is known of an address is a fact with a begin and an end. Facts are few, so this is simple: a log gets each fact
//! as it begins and whenever more is known of it. From time to time those that have ended become a Parquet file,
//! and a new log begins with the others. All facts are read when the table is opened; whoever asks keeps
//! them in memory.
//!
//! ```text
//! 2  store      opens the table, appends, seals
//! 1  log, file  frames of JSON; Parquet
//! 0  fact       a line of the table
//! ```

mod fact;
mod file;
mod log;
mod store;
#[cfg(test)]
mod tests;

pub use fact::{NameEntry, NameFact, NameGap};
pub use store::{NameStore, StoredNames};
