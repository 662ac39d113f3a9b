//! Who the inside hosts of a NAT gateway are, now and then.
//!
//! An address has a name for some time: a lease ends, another device gets the address. So what a source says of an
//! address is a [`Fact`] with a begin and an end. Sources are followed as they change; the [`Book`] keeps what they
//! said, and tells who had an address at some moment, or that this is not known.
//!
//! ```text
//! 4  run                      a thread for each source, which is restarted when it fails
//! 3  source/…                 one module for each kind of source
//! 2  book                     the facts of all sources, by address, MAC address and name
//! 1  claim, fact, outlet      what a source says; what is kept of it; where a source says it
//! 0  host, mac, text, time    a host, as a source names it
//! ```
//!
//! The kernel's neighbour table, lease files and containers say different things of one address. Each fact keeps its
//! source, and none hides another.

#![forbid(unsafe_code)]

mod book;
mod claim;
mod fact;
mod host;
mod mac;
mod outlet;
mod run;
pub mod source;
mod text;

/// Milliseconds of the wall clock since 1970-01-01T00:00:00Z.
pub type Millis = i64;

pub use book::{Answer, Book, Found, Limits, Who};
pub use claim::{Claim, Report};
pub use fact::{Fact, Span};
pub use host::Host;
pub use mac::Mac;
pub use outlet::{Outlet, Stopped};
pub use run::{Names, Status};
pub use text::clean;
