//! The rows of the table, one file per row or per group of rows with the same setup; `list` has them all.

mod answer;
mod dump;
mod events;
mod http;
mod idle;
mod list;
mod lock;
mod mappings;
mod memory;
mod names;
mod start;

pub use list::{ROWS, choose};
