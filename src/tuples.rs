//! The two tuples by which the kernel describes a connection. Together they show how
//! it is translated.
//!
//! The original tuple holds what the host that began the connection sent: `src` and
//! `dst` come from it. The reply tuple holds what the answering host must send. Its
//! destination is the public address and port of source NAT: `nat`. Its source is the
//! host that really answers: `server`, which differs from `dst` if the destination is
//! translated. Then `dst` is a public end too, and `server` is the host behind it.

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

/// An end of a connection as the far side sees it, and the host behind it. A
/// connection whose source is translated has one at the destination of its reply
/// tuple. A connection whose destination is translated (it began outside) has one at
/// the destination of its original tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicEnd {
    /// The public address.
    pub ip: IpAddr,
    /// The public port; the identifier of an ICMP echo.
    pub port: Option<u16>,
    /// The inside host: the address behind the public one. The two are equal if
    /// nothing is translated.
    pub inside_ip: IpAddr,
    /// The inside host's port.
    pub inside_port: Option<u16>,
    /// The conntrack zone of the packets that the inside host sends.
    pub inside_zone: u16,
    /// The far side: the host outside that sends to the public end.
    pub peer_ip: IpAddr,
    /// The far side's port.
    pub peer_port: Option<u16>,
    /// Whether it is the end of the host that began the connection.
    pub is_source: bool,
}

impl PublicEnd {
    /// Whether address or port are translated here.
    pub fn is_translated(&self) -> bool {
        self.ip != self.inside_ip || self.port != self.inside_port
    }
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

    /// The public ends: where the source is translated, where the destination is
    /// translated, or both. If neither is, the source's end, which is not translated,
    /// is the only one; otherwise it comes last. So the first end is the best guess
    /// if a lookup does not tell which one it means.
    pub fn public_ends(&self) -> impl Iterator<Item = PublicEnd> + use<> {
        let source = self.source_end();
        let destination = self.is_destination_nat().then(|| self.destination_end());
        let is_source_nat = self.is_source_nat();
        let (first, last) = if is_source_nat { (Some(source), None) } else { (None, Some(source)) };
        first.into_iter().chain(destination).chain(last)
    }

    /// The end at the destination of the reply tuple, translated or not.
    pub fn source_end(&self) -> PublicEnd {
        PublicEnd {
            ip: self.nat_ip(),
            port: self.nat_port(),
            inside_ip: self.src_ip(),
            inside_port: self.src_port(),
            inside_zone: self.original.zone,
            peer_ip: self.server_ip(),
            peer_port: self.server_port(),
            is_source: true,
        }
    }

    /// The end at the destination of the original tuple, translated or not.
    pub fn destination_end(&self) -> PublicEnd {
        let identifier = |tuple: &Tuple| match tuple.layer4 {
            Layer4::Icmp { id, .. } => Some(id),
            _ => None,
        };
        PublicEnd {
            ip: self.dst_ip(),
            port: self.dst_port().or(identifier(&self.original)),
            inside_ip: self.server_ip(),
            inside_port: self.server_port().or(identifier(&self.reply)),
            inside_zone: self.reply.zone,
            peer_ip: self.src_ip(),
            peer_port: match self.original.layer4 {
                Layer4::Icmp { .. } => None,
                _ => self.src_port(),
            },
            is_source: false,
        }
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
