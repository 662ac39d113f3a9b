//! Who the inside hosts of a NAT gateway are, now and then.
//!
//! An address has a name for some time: a lease ends, another device gets the address. So what a source says of an
//! address is a [`Fact`] with a begin and an end. Sources are followed as they change; the [`Book`] keeps what they
//! said, and tells who had an address at some moment, or that this is not known.
//!
//! ```text
//! 5  run                      a thread for each source, which is restarted when it fails
//! 4  source                   one module for each kind of source
//! 3  book                     the facts of all sources, by address, MAC address and name
//! 2  answer                   who had an address
//! 1  claim, fact, outlet      what a source says; what is kept of it; where a source says it
//! 0  host, mac, text, time    a host, as a source names it
//! ```
//!
//! The kernel's neighbour table, lease files and containers say different things of one address. Each fact keeps its
//! source, and none hides another.

#![forbid(unsafe_code)]

mod answer;
mod book;
mod claim;
mod fact;
mod host;
mod mac;
mod outlet;
mod run;
pub mod source;
mod text;
mod time;

pub use answer::{Answer, Found, Who};
pub use book::{Book, Changes, Limits};
pub use claim::{Claim, Report};
pub use fact::{Fact, Span};
pub use host::Host;
pub use mac::Mac;
pub use outlet::{Outlet, Stopped};
pub use run::{Names, Status};
pub use text::clean;
pub use time::{Millis, wall_clock};
