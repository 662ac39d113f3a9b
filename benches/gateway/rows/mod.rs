//! The rows of the table, a file each or a file for those that share a set-up; `list` names them all.

mod answer;
mod dump;
mod events;
mod http;
mod idle;
mod list;
mod lock;
mod memory;
mod start;

pub use list::{ROWS, choose};
