//! The kinds of sources.
//!
//! A source is followed in a thread of its own. It may block: neither the tracker nor an answer waits for it. It begins
//! with a whole list, then reports changes, and sends another list when it can have missed one. An error ends it; it is
//! started again after a pause, and until then what it said is not certain any more.

pub mod containers;
pub mod dhcpd;
mod dhcpd_blocks;
pub mod dnsmasq;
pub mod file;
mod follow;
mod format;
mod journal;
pub mod kea;
mod lines;
pub mod neighbours;
mod netlink;
pub mod socket;
#[expect(clippy::module_inception, reason = "it is what a source is")]
mod source;
mod tail;
mod unix_http;

pub use source::Source;
