//! One NAT mapping and its lifetime.

use std::ops::Deref;

pub use nfct::{Layer4, Protocol};

use crate::clock::Stamp;
use crate::tuples::Tuples;

/// How the daemon learned of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// From the kernel's NEW event.
    Event = 0,
    /// From a dump of the kernel's table.
    Dump = 1,
    /// From a query to the kernel that a lookup made.
    Kernel = 2,
}

impl Source {
    /// Its name in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Event => "event",
            Source::Dump => "dump",
            Source::Kernel => "kernel",
        }
    }
}

/// How far a live mapping can be trusted without the kernel. `doc/EXACTNESS.md` has the
/// rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Nothing can have ended it without an event.
    None,
    /// A packet may have shortened its timeout since the kernel last told of it.
    Aged,
    /// It may have ended: verify it.
    Doubtful,
    /// Its end may never be reported: verify it each time.
    Unreported,
}

/// One lifetime of one mapping, copied out of the table. It dereferences to its
/// [`Tuples`], so their accessors are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The connection's tuples.
    pub tuples: Tuples,
    /// The kernel's conntrack id, which names this lifetime.
    pub id: u32,
    /// The connection mark when it was last reported.
    pub mark: u32,
    /// When it opened: the kernel's own timestamp if it keeps them, else the
    /// time at which the daemon learned of the mapping.
    pub opened: Stamp,
    /// When it closed; `None` while it is live.
    pub closed: Option<Stamp>,
    /// How the daemon learned of it.
    pub source: Source,
    /// Whether it must be verified with the kernel before it is reported as live.
    pub doubt: Doubt,
    /// Orders mappings that opened in the same millisecond: the later one has
    /// the greater number.
    pub sequence: u32,
}

impl Deref for Mapping {
    type Target = Tuples;

    #[inline]
    fn deref(&self) -> &Tuples {
        &self.tuples
    }
}

impl Mapping {
    /// Whether it is live.
    pub fn is_live(&self) -> bool {
        self.closed.is_none()
    }

    /// Orders mappings by age; the newest has the greatest rank.
    pub fn age_rank(&self) -> (u64, u32) {
        (self.opened.monotonic, self.sequence)
    }

    /// Orders the mappings that match one lookup; the greatest is the best.
    /// Live comes before closed, TCP before UDP before the rest, and translated
    /// before untranslated: a connection to the gateway itself has a port there
    /// too, but no inside host. Among equals the newest is best.
    pub fn rank(&self) -> (bool, u8, bool, (u64, u32)) {
        let protocol = match self.original.protocol {
            Protocol::Tcp => 2,
            Protocol::Udp => 1,
            _ => 0,
        };
        (self.is_live(), protocol, self.is_source_nat(), self.age_rank())
    }
}
