//! One direction of a connection: addresses, protocol, ports and zone.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::error::Error;

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
    /// Any other protocol, by number. [`Protocol::from`] never returns this for a protocol above.
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

    /// The name that the C library prints, or `None` for a number without a name.
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

/// Writes the name, or the number if there is none.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.number().fmt(f),
        }
    }
}

/// The error for text that is neither the name of a protocol nor a number from 0 to 255.
///
/// ```
/// let error = "tpc".parse::<nfct::Protocol>().unwrap_err();
/// assert!(error.to_string().starts_with("found \"tpc\", expected a protocol"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{0}\", expected a protocol: tcp, udp, udplite, sctp, dccp, icmp, icmpv6, gre or a number up to 255"
)]
pub struct ParseProtocolError(String);

/// Parses a name, in upper or lower case, or a number.
impl std::str::FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMED.iter().find(|(_, _, name)| name.eq_ignore_ascii_case(text));
        match named {
            Some((protocol, ..)) => Ok(*protocol),
            None => text
                .parse::<u8>()
                .map(Protocol::from)
                .map_err(|_| ParseProtocolError(text.chars().take(40).collect())),
        }
    }
}

/// The transport layer's part of a tuple: ports, ICMP details or keys.
///
/// ```
/// use nfct::{Layer4, Tuple};
///
/// let echo = Tuple::icmp_echo([192, 168, 7, 2], [198, 51, 100, 1], 77);
/// match echo.layer4 {
///     Layer4::Icmp { id, .. } => assert_eq!(id, 77),
///     _ => unreachable!(),
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Layer4 {
    /// TCP, UDP, UDP-Lite, SCTP and DCCP. Host byte order.
    Ports {
        /// Source port.
        src: u16,
        /// Destination port.
        dst: u16,
    },
    /// ICMP and ICMPv6. In the reply tuple of an echo the identifier is the one after NAT.
    Icmp {
        /// Identifier, host byte order.
        id: u16,
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
    },
    /// GRE. The kernel's PPTP helper sets the keys; without it they are 0. Host byte order.
    Keys {
        /// Key of packets from the source.
        src: u16,
        /// Key of packets from the destination.
        dst: u16,
    },
    /// Protocols that the kernel tracks only by address.
    None,
}

/// One direction of a connection.
///
/// ```
/// use nfct::{Layer4, Protocol, Tuple};
///
/// let tuple = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 443));
/// assert_eq!(tuple.to_string(), "tcp 192.168.7.2:40001 -> 198.51.100.1:443");
/// // The same, field by field:
/// let fields = Tuple {
///     src: [192, 168, 7, 2].into(),
///     dst: [198, 51, 100, 1].into(),
///     protocol: Protocol::Tcp,
///     layer4: Layer4::Ports { src: 40001, dst: 443 },
///     zone: 0,
/// };
/// assert_eq!(tuple, fields);
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
    /// Ports, ICMP details or keys, depending on the protocol.
    pub layer4: Layer4,
    /// Conntrack zone of this direction; 0 is the default zone.
    pub zone: u16,
}

impl Tuple {
    /// A TCP connection in the default zone.
    ///
    /// ```
    /// let a: std::net::SocketAddr = "192.168.7.2:40001".parse().unwrap();
    /// let tuple = nfct::Tuple::tcp(a, ([198, 51, 100, 1], 443));
    /// assert_eq!((tuple.src, tuple.dst_port()), (a.ip(), Some(443)));
    /// ```
    pub fn tcp(src: impl Into<SocketAddr>, dst: impl Into<SocketAddr>) -> Self {
        Self::with_ports(Protocol::Tcp, src, dst)
    }

    /// A UDP connection in the default zone.
    ///
    /// ```
    /// let tuple = nfct::Tuple::udp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 53));
    /// assert_eq!(tuple.to_string(), "udp 192.168.7.2:40001 -> 198.51.100.1:53");
    /// ```
    pub fn udp(src: impl Into<SocketAddr>, dst: impl Into<SocketAddr>) -> Self {
        Self::with_ports(Protocol::Udp, src, dst)
    }

    /// A connection of a protocol with ports (TCP, UDP, UDP-Lite, SCTP or DCCP) in the default zone.
    ///
    /// ```
    /// use nfct::{Protocol, Tuple};
    ///
    /// let tuple = Tuple::with_ports(Protocol::Sctp, ([192, 168, 7, 2], 5060), ([198, 51, 100, 1], 5060));
    /// assert_eq!(tuple.to_string(), "sctp 192.168.7.2:5060 -> 198.51.100.1:5060");
    /// ```
    pub fn with_ports(protocol: Protocol, src: impl Into<SocketAddr>, dst: impl Into<SocketAddr>) -> Self {
        let (src, dst) = (src.into(), dst.into());
        let layer4 = Layer4::Ports { src: src.port(), dst: dst.port() };
        Self { src: src.ip(), dst: dst.ip(), protocol, layer4, zone: 0 }
    }

    /// Echo requests (`ping`) in the default zone: ICMP for an IPv4 source, ICMPv6 for an IPv6 source.
    ///
    /// ```
    /// let echo = nfct::Tuple::icmp_echo([192, 168, 7, 2], [198, 51, 100, 1], 77);
    /// assert_eq!(echo.to_string(), "icmp 192.168.7.2 -> 198.51.100.1 id 77 type 8 code 0");
    /// ```
    pub fn icmp_echo(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, id: u16) -> Self {
        let (src, dst) = (src.into(), dst.into());
        let (protocol, kind) = if src.is_ipv4() { (Protocol::Icmp, 8) } else { (Protocol::Icmpv6, 128) };
        Self { src, dst, protocol, layer4: Layer4::Icmp { id, kind, code: 0 }, zone: 0 }
    }

    /// The tuple of packets in the other direction, without NAT: addresses, ports and keys are swapped, an
    /// ICMP request becomes its reply and a reply its request. Other ICMP types and the zone do not
    /// change.
    ///
    /// ```
    /// use nfct::Tuple;
    ///
    /// let tuple = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 443));
    /// assert_eq!(tuple.reversed().to_string(), "tcp 198.51.100.1:443 -> 192.168.7.2:40001");
    /// let echo = Tuple::icmp_echo([192, 168, 7, 2], [198, 51, 100, 1], 77);
    /// assert_eq!(echo.reversed().to_string(), "icmp 198.51.100.1 -> 192.168.7.2 id 77 type 0 code 0");
    /// ```
    #[must_use]
    pub fn reversed(self) -> Self {
        let layer4 = match self.layer4 {
            Layer4::Ports { src, dst } => Layer4::Ports { src: dst, dst: src },
            Layer4::Keys { src, dst } => Layer4::Keys { src: dst, dst: src },
            Layer4::Icmp { id, kind, code } => {
                Layer4::Icmp { id, kind: other_icmp_type(self.protocol, kind), code }
            }
            Layer4::None => Layer4::None,
        };
        Self { src: self.dst, dst: self.src, layer4, ..self }
    }

    /// The source port. `None` for ICMP, which has an identifier, for GRE, which has keys, and for protocols
    /// without ports. [`layer4`](Self::layer4) has the details of all protocols.
    ///
    /// ```
    /// use nfct::Tuple;
    ///
    /// let tuple = Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 443));
    /// assert_eq!(tuple.src_port(), Some(40001));
    /// assert_eq!(Tuple::icmp_echo([192, 168, 7, 2], [198, 51, 100, 1], 77).src_port(), None);
    /// ```
    pub fn src_port(&self) -> Option<u16> {
        match self.layer4 {
            Layer4::Ports { src, .. } => Some(src),
            _ => None,
        }
    }

    /// The destination port. In the reply tuple of a source NAT this is the public port. `None` if
    /// [`src_port`](Self::src_port) is `None`.
    ///
    /// ```
    /// let tuple = nfct::Tuple::tcp(([192, 168, 7, 2], 40001), ([198, 51, 100, 1], 443));
    /// assert_eq!(tuple.dst_port(), Some(443));
    /// ```
    pub fn dst_port(&self) -> Option<u16> {
        match self.layer4 {
            Layer4::Ports { dst, .. } => Some(dst),
            _ => None,
        }
    }

    /// Rejects a tuple that the kernel would receive as a different one: with addresses of two families, or
    /// with details of another protocol (a TCP tuple with ICMP details would have port 0).
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn check(&self, doing: &'static str) -> Result<(), Error> {
        if self.src.is_ipv4() != self.dst.is_ipv4() {
            return Err(Error::Invalid {
                doing,
                found: format!("a tuple from {} to {}", self.src, self.dst),
                expected: "two addresses of one family",
            });
        }
        let (fits, expected) = match (self.protocol, self.layer4) {
            (Protocol::Icmp | Protocol::Icmpv6, layer4) => {
                (matches!(layer4, Layer4::Icmp { .. }), "Layer4::Icmp for ICMP")
            }
            (Protocol::Gre, layer4) => (matches!(layer4, Layer4::Keys { .. }), "Layer4::Keys for GRE"),
            (Protocol::Other(_), layer4) => (
                matches!(layer4, Layer4::None),
                "Layer4::None for a protocol that the kernel tracks only by address",
            ),
            (_, layer4) => {
                (matches!(layer4, Layer4::Ports { .. }), "Layer4::Ports for a protocol with ports")
            }
        };
        match fits {
            true => Ok(()),
            false => Err(Error::Invalid {
                doing,
                found: format!("a tuple of {} with {:?}", self.protocol, self.layer4),
                expected,
            }),
        }
    }
}

/// The type of the reply to an ICMP request, and of the request to a reply.
fn other_icmp_type(protocol: Protocol, kind: u8) -> u8 {
    // Echo, timestamp, information and address mask; for ICMPv6 echo and node information.
    const ICMP: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
    const ICMPV6: [(u8, u8); 2] = [(128, 129), (139, 140)];
    let pairs = if protocol == Protocol::Icmpv6 { &ICMPV6[..] } else { &ICMP };
    let other = pairs.iter().find_map(|(request, reply)| match kind {
        _ if kind == *request => Some(*reply),
        _ if kind == *reply => Some(*request),
        _ => None,
    });
    other.unwrap_or(kind)
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

    #[test]
    fn reversing_twice_gives_the_tuple_back() {
        let (a, b) = (([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 443));
        let gre = Tuple {
            protocol: Protocol::Gre,
            layer4: Layer4::Keys { src: 1, dst: 2 },
            zone: 7,
            ..Tuple::udp(a, b)
        };
        assert_eq!(gre.reversed().layer4, Layer4::Keys { src: 2, dst: 1 });
        let esp = Tuple { protocol: Protocol::Other(50), layer4: Layer4::None, ..gre };
        let mut tuples = vec![Tuple::tcp(a, b), gre, esp];
        for kind in 0..=u8::MAX {
            for protocol in [Protocol::Icmp, Protocol::Icmpv6] {
                tuples.push(Tuple { protocol, layer4: Layer4::Icmp { id: 77, kind, code: 3 }, ..gre });
            }
        }
        for tuple in tuples {
            let reversed = tuple.reversed();
            assert_eq!((reversed.src, reversed.dst, reversed.zone), (tuple.dst, tuple.src, tuple.zone));
            assert_eq!(reversed.reversed(), tuple);
        }
        let echo = Tuple::icmp_echo([0_u16, 0, 0, 0, 0, 0, 0, 1], [0_u16, 0, 0, 0, 0, 0, 0, 2], 77);
        assert_eq!(echo.reversed().layer4, Layer4::Icmp { id: 77, kind: 129, code: 0 });
    }

    #[test]
    fn a_tuple_with_details_of_another_protocol_is_refused_and_says_what_is_expected() {
        let tcp = Tuple::tcp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 443));
        assert!(tcp.check("testing").is_ok());
        let error =
            Tuple { layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 }, ..tcp }.check("testing").unwrap_err();
        assert_eq!(
            error.to_string(),
            "testing: found a tuple of tcp with Icmp { id: 7, kind: 8, code: 0 }, \
             expected Layer4::Ports for a protocol with ports"
        );
        let details = [
            Layer4::Ports { src: 1, dst: 2 },
            Layer4::Icmp { id: 7, kind: 8, code: 0 },
            Layer4::Keys { src: 1, dst: 2 },
            Layer4::None,
        ];
        for (protocol, fitting) in [
            (Protocol::UdpLite, 0),
            (Protocol::Icmp, 1),
            (Protocol::Icmpv6, 1),
            (Protocol::Gre, 2),
            (Protocol::Other(50), 3),
        ] {
            for (at, layer4) in details.into_iter().enumerate() {
                let result = Tuple { protocol, layer4, ..tcp }.check("testing");
                assert_eq!(result.is_ok(), at == fitting, "{protocol} with {layer4:?}");
            }
        }
        let mixed = Tuple { dst: "2001:db8::1".parse().unwrap(), ..tcp };
        assert!(mixed.check("testing").unwrap_err().to_string().contains("two addresses of one family"));
    }
}
