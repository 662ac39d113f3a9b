//! The C library's conntrack object: created by the program to be sent to the kernel, read from a message,
//! or lent to a callback.
//!
//! The library does not check its callers. A getter or setter of the wrong width reads or writes past a
//! value. Setting a read-only attribute marks it as set without a value. New data of a helper keeps the
//! length of the previous data. Attributes can share memory. The files build on each other in this order:
//!
//! - `object`: the object itself, with its attributes by number;
//! - `memory`: attributes that share memory or depend on each other;
//! - `helper_info`: a helper's data and their length;
//! - [`attr`]: every attribute and group with the type of its value;
//! - `copy`, `access`: copying, reading and setting attributes;
//! - `tuples`, `fields`, `nat`: methods for the attributes that most users need;
//! - `compare`, `output`: comparing two objects, and printing one;
//! - `parse`: messages, checked before the library reads them, because some make it end the process.

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
