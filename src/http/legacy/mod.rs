//! The routes of the Python program, byte for byte: `/{key_name}/{value}`, `/debug` and `/nagios`; and
//! `/{value}`, which its README shows.
//!
//! doc/OPERATIONS.md lists the intended differences: an invalid value gets 400 and one line of text, HEAD
//! works, and a lookup that finds nothing in an incomplete table gets 503.
//!
//! `lookup`, `debug` and `nagios` each serve the routes of that name, `mapping` writes a mapping, `time` its
//! time, and `error` writes errors.

pub(super) mod debug;
pub(super) mod error;
pub(super) mod lookup;
mod mapping;
pub(super) mod nagios;
mod time;
