//! Netlink messages of ctnetlink, read and written in safe code over byte slices.
//!
//! The C library can read them too, but it allocates an object for every message, and it has only one ICMP
//! identifier for both directions, so it loses the identifier after NAT. A test compares this reader with
//! the library's. Layouts are those of `linux/netlink.h` and `linux/netfilter/nfnetlink_conntrack.h`. Each
//! length is checked before it is used, so no message can make the reader panic.
//!
//! `message` iterates over the messages of a datagram, `attributes` over the attributes of a message. `flow` and
//! `expectation` read plain values from them. `request` builds messages, and `event` writes an event as
//! the kernel does.

mod attributes;
mod event;
mod expectation;
mod flow;
mod message;
mod request;

pub use crate::malformed::Malformed;
pub(crate) use attributes::{Attributes, u32_be, u32_ne, u64_be};
pub use event::write_event;
pub(crate) use expectation::{name_expectation, plain_tuple, write_expectation, write_text, write_zone};
pub(crate) use message::HEADER;
pub use message::{Message, Messages};
pub(crate) use request::{MessageWriter, expectation_kind, message_kind};

#[cfg(test)]
mod tests;
