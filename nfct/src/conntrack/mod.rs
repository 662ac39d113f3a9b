//! The C library's conntrack object: built by hand to be sent to the kernel, read from a message, or
//! lent to a callback.
//!
//! The library trusts its callers. A getter or setter of the wrong width reads or writes past a value,
//! and setting a read-only attribute marks it as set without a value. A helper's data keep the length of
//! the data before them, and two attributes can share memory. The files build on each other in this order:
//!
//! - `object`: the object itself, with its attributes by number;
//! - `memory`: attributes that share memory or depend on each other;
//! - `helper_info`: a helper's data and their length;
//! - [`attr`]: every attribute and group with the type of its value;
//! - `copy`, `access`: copying, reading and setting attributes;
//! - `tuples`, `fields`, `nat`: what most users need of an entry, by name;
//! - `compare`, `output`: comparing two objects, and printing one;
//! - `parse`: messages, checked before the library reads them, because it ends the process over some.

mod access;
pub mod attr;
mod compare;
mod copy;
mod fields;
mod helper_info;
mod memory;
mod nat;
mod object;
mod output;
mod parse;
mod tuples;

pub use compare::Compare;
pub use copy::CopyParts;
pub use object::{Conntrack, ConntrackRef};
pub use output::Output;
pub(crate) use output::printed;
