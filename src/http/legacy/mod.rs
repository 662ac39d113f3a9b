//! The routes of the Python program, byte for byte: `/{key_name}/{value}`, `/debug` and `/nagios`; and
//! `/{value}`, which its README shows.
//!
//! The intended differences are listed in doc/OPERATIONS.md: a value that is not valid gets 400 and a
//! line that says so, HEAD works, and a lookup that cannot be decided because the table is incomplete
//! gets 503.
//!
//! `lookup`, `debug` and `nagios` each serve the routes of that name, `mapping` writes a mapping, and
//! `error` writes errors.

pub(super) mod debug;
pub(super) mod error;
pub(super) mod lookup;
mod mapping;
pub(super) mod nagios;
