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
mod tail;
mod unix_http;

use std::io;

use crate::outlet::Outlet;

/// Follows what a system says of addresses.
pub trait Source: Send {
    /// Its name in answers, metrics and log lines, such as `dnsmasq`.
    fn name(&self) -> &'static str;

    /// Where it is, for log lines: a path, for instance.
    fn place(&self) -> String;

    /// Follows it until an error, or until the outlet is stopped.
    ///
    /// # Errors
    /// What hindered it, so that an operator knows what to mend; [`Stopped`](crate::Stopped) if the outlet was stopped.
    fn follow(&mut self, outlet: &Outlet) -> io::Result<()>;
}
