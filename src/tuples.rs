//! The two tuples by which the kernel describes a connection. Together they show how
//! it is translated.
//!
//! The original tuple holds what the inside host sent: `src` and `dst` come from it.
//! The reply tuple holds what the answering host must send. Its destination is the
//! public address and port: `nat`. Its source is the host that really answers:
//! `server`, which differs from `dst` if the destination is translated.

use std::net::IpAddr;

use nfct::{Flow, Layer4, Tuple};

use crate::config::Key;

/// A connection's tuples in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuples {
    /// The connection as the inside host began it.
    pub original: Tuple,
    /// The connection as the answering side sees it.
    pub reply: Tuple,
}

/// The value of one of the six keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyValue {
    /// A port.
    Port(u16),
    /// An address.
    Ip(IpAddr),
}

impl From<&Flow> for Tuples {
    #[inline]
    fn from(flow: &Flow) -> Self {
        Self { original: flow.original, reply: flow.reply }
    }
}

impl Tuples {
    /// The inside host.
    pub fn src_ip(&self) -> IpAddr {
        self.original.src
    }

    /// The inside host's port; the identifier of an ICMP echo, the key of GRE.
    pub fn src_port(&self) -> Option<u16> {
        source_port(&self.original)
    }

    /// The address that the inside host connected to.
    pub fn dst_ip(&self) -> IpAddr {
        self.original.dst
    }

    /// The port that the inside host connected to.
    pub fn dst_port(&self) -> Option<u16> {
        destination_port(&self.original)
    }

    /// The public address.
    pub fn nat_ip(&self) -> IpAddr {
        self.reply.dst
    }

    /// The public port; the identifier of an ICMP echo after translation.
    pub fn nat_port(&self) -> Option<u16> {
        match self.reply.layer4 {
            Layer4::Icmp { id, .. } => Some(id),
            _ => destination_port(&self.reply),
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
            _ => source_port(&self.reply),
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

    /// The value of one of the six keys; `None` for the port of a protocol
    /// without ports.
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
}

/// The source port, the GRE key or the ICMP identifier.
fn source_port(tuple: &Tuple) -> Option<u16> {
    match tuple.layer4 {
        Layer4::Ports { src, .. } | Layer4::Keys { src, .. } => Some(src),
        Layer4::Icmp { id, .. } => Some(id),
        _ => None,
    }
}

/// The destination port or the GRE key.
fn destination_port(tuple: &Tuple) -> Option<u16> {
    match tuple.layer4 {
        Layer4::Ports { dst, .. } | Layer4::Keys { dst, .. } => Some(dst),
        _ => None,
    }
}
