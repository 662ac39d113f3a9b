//! One NAT mapping and its lifetime.

use std::net::IpAddr;
use std::ops::Deref;

pub use nfct::{Layer4, Protocol};

use crate::clock::Stamp;
use crate::tuples::{PublicEnd, Tuples};

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
    /// The connection mark at its end, from the DESTROY event. `None` while it is live,
    /// and if no event reported its end.
    pub mark: Option<u32>,
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

/// A mapping, and the mappings of the same connection further inside: those that
/// translated its packets before, on the same gateway. Usually there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// The mapping.
    pub mapping: Mapping,
    /// Those behind its source, from outside to inside.
    pub source: Vec<Mapping>,
    /// Those behind its destination, from outside to inside.
    pub destination: Vec<Mapping>,
}

/// A host at one end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its address.
    pub ip: IpAddr,
    /// Its port; the identifier of an ICMP echo.
    pub port: Option<u16>,
    /// The conntrack zone of the packets that it sends.
    pub zone: u16,
}

impl Traced {
    /// Whether there is no mapping further inside.
    pub fn is_alone(&self) -> bool {
        self.source.is_empty() && self.destination.is_empty()
    }

    /// The mapping and those further inside.
    pub fn all(&self) -> impl Iterator<Item = &Mapping> {
        std::iter::once(&self.mapping).chain(&self.source).chain(&self.destination)
    }

    /// The host that began the connection, as far inside as it is known.
    pub fn source_host(&self) -> Host {
        source_host(self.source.last().unwrap_or(&self.mapping))
    }

    /// The host that answers, as far inside as it is known.
    pub fn server_host(&self) -> Host {
        server_host(self.destination.last().unwrap_or(&self.mapping))
    }

    /// The host behind a public end of the mapping.
    pub fn inside_host(&self, end: &PublicEnd) -> Host {
        if end.is_source { self.source_host() } else { self.server_host() }
    }

    /// The addresses between the public end and the source host, from outside to
    /// inside.
    pub fn source_via(&self) -> impl Iterator<Item = Host> + '_ {
        let outer = self.source.len();
        std::iter::once(&self.mapping).chain(&self.source).take(outer).map(source_host)
    }

    /// The addresses between the public end and the server, from outside to inside.
    pub fn server_via(&self) -> impl Iterator<Item = Host> + '_ {
        let outer = self.destination.len();
        std::iter::once(&self.mapping).chain(&self.destination).take(outer).map(server_host)
    }
}

fn source_host(mapping: &Mapping) -> Host {
    Host { ip: mapping.src_ip(), port: mapping.src_port(), zone: mapping.original.zone }
}

fn server_host(mapping: &Mapping) -> Host {
    let end = mapping.destination_end();
    Host { ip: end.inside_ip, port: end.inside_port, zone: end.inside_zone }
}
