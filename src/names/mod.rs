//! Who the inside hosts are: follows the sources that `[names]` sets, with the crate `natnames`, and keeps what they say
//! beside the history.
//!
//! The sources have threads of their own, and so has `keeping`, which writes. Nothing here is on the way of an event, and the
//! tracker does not know of it.

mod following;
mod keeping;
mod sources;

pub use following::{Following, start, warn_of_restart};
