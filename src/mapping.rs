//! One NAT mapping and its life.
//!
//! The kernel describes a connection by two tuples. What the inside host sent
//! is the original tuple: `src` and `dst` come from it. What the outside must
//! answer to is the reply tuple: its destination is the public address and
//! port, `nat`; its source is the host that really answers, `server`, which
//! differs from `dst` where the destination was translated.

use std::net::IpAddr;

use nfct::{Layer4, Protocol, Tuple};

use crate::clock::Stamp;
use crate::config::Key;

/// How the daemon came to know a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Learnt {
    /// The kernel said so when it began.
    Event = 0,
    /// It was found in the kernel's table.
    Dump = 1,
    /// A look-up asked the kernel for it.
    Kernel = 2,
}

impl Learnt {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Learnt::Event => "event",
            Learnt::Dump => "dump",
            Learnt::Kernel => "kernel",
        }
    }
}

/// One life of one mapping, copied out of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The connection as the inside host began it.
    pub original: Tuple,
    /// The connection as the outside sees it, from the answering side.
    pub reply: Tuple,
    /// The kernel's id of this life.
    pub id: u32,
    /// The connection mark when it was last reported.
    pub mark: u32,
    /// When it began: the kernel's own time stamp where it keeps them, else
    /// when the daemon learnt of it.
    pub opened: Stamp,
    /// When it ended; `None` while it lives.
    pub closed: Option<Stamp>,
    /// How it was learnt.
    pub learnt: Learnt,
    /// Whether it may end without an event: it began when nobody listened, or
    /// when the kernel told of nothing. Before it is given as live the kernel
    /// is asked.
    pub silent: bool,
    /// Of mappings that opened in the same millisecond the later has the greater.
    pub sequence: u32,
}

/// The value of one of the six keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyValue {
    /// A port.
    Port(u16),
    /// An address.
    Ip(IpAddr),
}

impl Mapping {
    /// The inside host.
    pub fn src_ip(&self) -> IpAddr {
        self.original.src
    }

    /// The inside host's port; the identifier of an ICMP echo, the key of GRE.
    pub fn src_port(&self) -> Option<u16> {
        near_end(&self.original)
    }

    /// The address that the inside host asked for.
    pub fn dst_ip(&self) -> IpAddr {
        self.original.dst
    }

    /// The port that the inside host asked for.
    pub fn dst_port(&self) -> Option<u16> {
        far_end(&self.original)
    }

    /// The public address.
    pub fn nat_ip(&self) -> IpAddr {
        self.reply.dst
    }

    /// The public port; of an ICMP echo the identifier that the outside sees.
    pub fn nat_port(&self) -> Option<u16> {
        match self.reply.layer4 {
            Layer4::Icmp { id, .. } => Some(id),
            _ => far_end(&self.reply),
        }
    }

    /// The host that answers.
    pub fn server_ip(&self) -> IpAddr {
        self.reply.src
    }

    /// The answering host's port.
    pub fn server_port(&self) -> Option<u16> {
        match self.reply.layer4 {
            Layer4::Icmp { .. } => None,
            _ => near_end(&self.reply),
        }
    }

    /// Whether the source is translated, address or port.
    pub fn is_source_nat(&self) -> bool {
        self.nat_ip() != self.src_ip() || self.nat_port() != self.src_port()
    }

    /// Whether the destination is translated, address or port.
    pub fn is_destination_nat(&self) -> bool {
        self.server_ip() != self.dst_ip() || self.server_port() != self.dst_port()
    }

    /// Whether it still lives.
    pub fn is_live(&self) -> bool {
        self.closed.is_none()
    }

    /// The value of one of the six keys; `None` for the port of a protocol
    /// that has none.
    pub fn key(&self, key: Key) -> Option<KeyValue> {
        match key {
            Key::SrcIp => Some(KeyValue::Ip(self.src_ip())),
            Key::SrcPort => self.src_port().map(KeyValue::Port),
            Key::NatIp => Some(KeyValue::Ip(self.nat_ip())),
            Key::NatPort => self.nat_port().map(KeyValue::Port),
            Key::DstIp => Some(KeyValue::Ip(self.dst_ip())),
            Key::DstPort => self.dst_port().map(KeyValue::Port),
        }
    }

    /// Orders by age: the newest has the greatest.
    pub fn age_rank(&self) -> (u64, u32) {
        (self.opened.monotonic, self.sequence)
    }

    /// Orders answers to the same question: a live mapping before a closed one,
    /// TCP before UDP before the rest, one that is translated before one that
    /// is not (a connection to the gateway itself has a port there, but nobody
    /// behind it), then the newest. The greatest is best.
    pub fn rank(&self) -> (bool, u8, bool, (u64, u32)) {
        let protocol = match self.original.protocol {
            Protocol::Tcp => 2,
            Protocol::Udp => 1,
            _ => 0,
        };
        (self.is_live(), protocol, self.is_source_nat(), self.age_rank())
    }
}

/// What tells connections apart at the sender's end of a tuple.
fn near_end(tuple: &Tuple) -> Option<u16> {
    match tuple.layer4 {
        Layer4::Ports { src, .. } | Layer4::Keys { src, .. } => Some(src),
        Layer4::Icmp { id, .. } => Some(id),
        _ => None,
    }
}

/// What tells connections apart at the receiver's end of a tuple.
fn far_end(tuple: &Tuple) -> Option<u16> {
    match tuple.layer4 {
        Layer4::Ports { dst, .. } | Layer4::Keys { dst, .. } => Some(dst),
        _ => None,
    }
}
