//! One direction of a connection, as the kernel names it.

use std::fmt;
use std::net::IpAddr;

/// A transport protocol by its IP protocol number.
///
/// ```
/// use nfct::Protocol;
/// assert_eq!(Protocol::from(17), Protocol::Udp);
/// assert_eq!("tcp".parse(), Ok(Protocol::Tcp));
/// assert_eq!(Protocol::Other(50).to_string(), "50");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Protocol {
    /// 1
    Icmp,
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 33
    Dccp,
    /// 47
    Gre,
    /// 58
    Icmpv6,
    /// 132
    Sctp,
    /// 136
    UdpLite,
    /// Any other protocol, by number. [`Protocol::from`] never makes this of a
    /// number that has a name above.
    Other(u8),
}

impl Protocol {
    const NAMED: [(Protocol, u8, &'static str); 8] = [
        (Protocol::Icmp, 1, "icmp"),
        (Protocol::Tcp, 6, "tcp"),
        (Protocol::Udp, 17, "udp"),
        (Protocol::Dccp, 33, "dccp"),
        (Protocol::Gre, 47, "gre"),
        (Protocol::Icmpv6, 58, "icmpv6"),
        (Protocol::Sctp, 132, "sctp"),
        (Protocol::UdpLite, 136, "udplite"),
    ];

    /// The IP protocol number.
    ///
    /// ```
    /// assert_eq!(nfct::Protocol::Sctp.number(), 132);
    /// ```
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Icmp => 1,
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Dccp => 33,
            Protocol::Gre => 47,
            Protocol::Icmpv6 => 58,
            Protocol::Sctp => 132,
            Protocol::UdpLite => 136,
            Protocol::Other(number) => number,
        }
    }

    /// The name that the C library prints, or none for a bare number.
    ///
    /// ```
    /// assert_eq!(nfct::Protocol::Icmpv6.name(), Some("icmpv6"));
    /// assert_eq!(nfct::Protocol::from(50).name(), None);
    /// ```
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(protocol, ..)| *protocol == self).map(|(_, _, name)| *name)
    }
}

impl From<u8> for Protocol {
    fn from(number: u8) -> Self {
        match number {
            1 => Protocol::Icmp,
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            33 => Protocol::Dccp,
            47 => Protocol::Gre,
            58 => Protocol::Icmpv6,
            132 => Protocol::Sctp,
            136 => Protocol::UdpLite,
            other => Protocol::Other(other),
        }
    }
}

/// Writes the name, or the number where there is none.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.number().fmt(f),
        }
    }
}

/// Not the name of a protocol, nor a number from 0 to 255.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{0}\", expected a protocol: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre or a number up to 255"
)]
///
/// ```
/// let error = "tpc".parse::<nfct::Protocol>().unwrap_err();
/// assert!(error.to_string().starts_with("found \"tpc\", expected a protocol"));
/// ```
pub struct UnknownProtocol(String);

/// Reads a name (in any case) or a number.
impl std::str::FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMED.iter().find(|(_, _, name)| name.eq_ignore_ascii_case(text));
        match named {
            Some((protocol, ..)) => Ok(*protocol),
            None => text
                .parse::<u8>()
                .map(Protocol::from)
                .map_err(|_| UnknownProtocol(text.chars().take(40).collect())),
        }
    }
}

/// What tells connections between the same two hosts apart.
///
/// ```
/// use nfct::{Layer4, Tuple};
///
/// fn public_port(reply: &Tuple) -> Option<u16> {
///     match reply.layer4 {
///         Layer4::Ports { dst, .. } => Some(dst),
///         _ => None,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Layer4 {
    /// TCP, UDP, UDP-Lite, SCTP, DCCP. Host byte order.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP and ICMPv6. In the reply tuple of an echo the id is the one after NAT.
    Icmp {
        /// Identifier, host byte order.
        id: u16,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
    /// GRE, where the kernel's PPTP helper sets the keys (0 otherwise). Host byte order.
    Keys {
        /// Key of packets from the source.
        src: u16,
        /// Key of packets from the destination.
        dst: u16,
    },
    /// Protocols that the kernel tracks by address alone.
    None,
}

/// One direction of a connection.
///
/// ```
/// use nfct::{Layer4, Protocol, Tuple};
/// let tuple = Tuple {
///     src: "192.168.7.2".parse().unwrap(),
///     dst: "198.51.100.1".parse().unwrap(),
///     protocol: Protocol::Tcp,
///     layer4: Layer4::Ports { src: 40001, dst: 443 },
///     zone: 0,
/// };
/// assert_eq!(tuple.to_string(), "tcp 192.168.7.2:40001 -> 198.51.100.1:443");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports, ICMP details or keys.
    pub layer4: Layer4,
    /// Conntrack zone that holds for this direction; 0 is the default zone.
    pub zone: u16,
}

/// `tcp 192.168.7.2:40001 -> 198.51.100.1:443`
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bracket = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        match self.layer4 {
            Layer4::Ports { src, dst } => {
                write!(f, "{} {}:{src} -> {}:{dst}", self.protocol, bracket(self.src), bracket(self.dst))?
            }
            Layer4::Icmp { id, kind, code } => {
                write!(f, "{} {} -> {} id {id} type {kind} code {code}", self.protocol, self.src, self.dst)?
            }
            Layer4::Keys { src, dst } => {
                write!(f, "{} {} -> {} key {src:#x} and {dst:#x}", self.protocol, self.src, self.dst)?
            }
            Layer4::None => write!(f, "{} {} -> {}", self.protocol, self.src, self.dst)?,
        }
        match self.zone {
            0 => Ok(()),
            zone => write!(f, " zone {zone}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_number_survives_the_round_trip() {
        for number in 0..=u8::MAX {
            let protocol = Protocol::from(number);
            assert_eq!(protocol.number(), number);
            assert_eq!(protocol.to_string().parse::<Protocol>().unwrap(), protocol);
        }
        assert_eq!("TCP".parse(), Ok(Protocol::Tcp));
        assert!("256".parse::<Protocol>().is_err());
        assert!("".parse::<Protocol>().is_err());
    }
}
