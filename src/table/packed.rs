//! Addresses and tuples as entries and index keys store them: of one family, without padding.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct::{Flow, Layer4, Protocol, Tuple};

use super::shards::CellHash;

/// An address of one family, as entries and index keys store it.
pub(super) trait Address: Copy + Ord + Hash + std::fmt::Debug + Into<IpAddr> {
    /// Aligns entries with these addresses, so that they lie in as few lines of the processor's cache as
    /// possible.
    type Alignment: Copy + std::fmt::Debug;

    /// Whether these are IPv4 addresses.
    const IS_V4: bool;

    /// What index keys without an address store.
    const UNSET: Self;

    /// The highest address.
    const LAST: Self;

    /// `None` for an address of the other family.
    fn from_ip(address: IpAddr) -> Option<Self>;

    /// Its bits, the highest ones 0 if it has fewer.
    fn bits(self) -> u128;
}

/// A line of the processor's cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct CacheLine;

/// A quarter of a line of the processor's cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(16))]
pub(super) struct QuarterLine;

impl Address for Ipv4Addr {
    type Alignment = CacheLine;

    const IS_V4: bool = true;
    const UNSET: Self = Ipv4Addr::UNSPECIFIED;
    const LAST: Self = Ipv4Addr::BROADCAST;

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn bits(self) -> u128 {
        self.to_bits().into()
    }
}

impl Address for Ipv6Addr {
    type Alignment = QuarterLine;

    const IS_V4: bool = false;
    const UNSET: Self = Ipv6Addr::UNSPECIFIED;
    const LAST: Self = Ipv6Addr::from_bits(u128::MAX);

    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    fn bits(self) -> u128 {
        self.to_bits()
    }
}

/// A [`Tuple`] without padding: 16 bytes with IPv4 addresses, 40 with IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedTuple<A> {
    pub(super) src: A,
    pub(super) dst: A,
    /// Source port, source key or ICMP identifier.
    src_l4: u16,
    /// Destination port, destination key, or ICMP type and code.
    dst_l4: u16,
    zone: u16,
    protocol: u8,
}

/// In few steps: it is hashed for each event.
impl<A: Address> Hash for PackedTuple<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { src, dst, src_l4, dst_l4, zone, protocol } = *self;
        let layer4 =
            u64::from(src_l4) | u64::from(dst_l4) << 16 | u64::from(zone) << 32 | u64::from(protocol) << 48;
        if A::IS_V4 {
            state.write_u64((src.bits() | dst.bits() << 32) as u64);
        } else {
            state.write_u128(src.bits());
            state.write_u128(dst.bits());
        }
        state.write_u64(layer4);
    }
}

impl<A: Address> PackedTuple<A> {
    /// A tuple of its parts; see [`layer4`](Self::layer4).
    #[inline]
    pub(super) fn new(src: A, dst: A, [src_l4, dst_l4]: [u16; 2], zone: u16, protocol: u8) -> Self {
        Self { src, dst, src_l4, dst_l4, zone, protocol }
    }

    /// What it has of the transport protocol's header: source and destination port or key, or ICMP's
    /// identifier, and its type and code.
    pub(super) fn layer4(&self) -> [u16; 2] {
        [self.src_l4, self.dst_l4]
    }

    /// `None` if an address is of the other family.
    #[inline]
    pub(super) fn pack(tuple: &Tuple) -> Option<Self> {
        let (src_l4, dst_l4) = match tuple.layer4 {
            Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => (src, dst),
            Layer4::Icmp { id, kind, code } => (id, u16::from_be_bytes([kind, code])),
            _ => (0, 0),
        };
        Some(PackedTuple {
            src: A::from_ip(tuple.src)?,
            dst: A::from_ip(tuple.dst)?,
            src_l4,
            dst_l4,
            zone: tuple.zone,
            protocol: tuple.protocol.number(),
        })
    }

    pub(super) fn unpack(&self) -> Tuple {
        let protocol = self.protocol();
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => {
                let [kind, code] = self.dst_l4.to_be_bytes();
                Layer4::Icmp { id: self.src_l4, kind, code }
            }
            Protocol::Gre => Layer4::Keys { src: self.src_l4, dst: self.dst_l4 },
            Protocol::Other(_) => Layer4::None,
            _ => Layer4::Ports { src: self.src_l4, dst: self.dst_l4 },
        };
        Tuple { src: self.src.into(), dst: self.dst.into(), protocol, layer4, zone: self.zone }
    }

    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from(self.protocol)
    }

    pub(super) fn zone(&self) -> u16 {
        self.zone
    }

    /// The source port, or the ICMP identifier.
    pub(super) fn src_port(&self) -> u16 {
        self.src_l4
    }

    /// The destination port; 0 for ICMP, which has none.
    pub(super) fn dst_port(&self) -> u16 {
        if self.is_icmp() { 0 } else { self.dst_l4 }
    }

    /// The port of a public end, which is the tuple's destination, or the ICMP
    /// identifier.
    pub(super) fn nat_port(&self) -> u16 {
        if self.is_icmp() { self.src_l4 } else { self.dst_l4 }
    }

    /// A tuple with ports, in zone 0, of no protocol.
    pub(super) fn with_ports(src: (A, u16), dst: (A, u16)) -> Self {
        PackedTuple { src: src.0, dst: dst.0, src_l4: src.1, dst_l4: dst.1, zone: 0, protocol: 0 }
    }

    /// The same tuple of a protocol.
    pub(super) fn of_protocol(&self, protocol: Protocol) -> Self {
        Self { protocol: protocol.number(), ..*self }
    }

    /// The same tuple in a zone.
    pub(super) fn in_zone(&self, zone: u16) -> Self {
        Self { zone, ..*self }
    }

    /// Whether it is the same tuple, in this or another zone.
    pub(super) fn is_equal_in_another_zone(&self, other: &Self) -> bool {
        self.in_zone(other.zone) == *other
    }

    /// The source port; 0 for ICMP, which has none.
    pub(super) fn peer_port(&self) -> u16 {
        if self.is_icmp() { 0 } else { self.src_l4 }
    }

    fn is_icmp(&self) -> bool {
        matches!(self.protocol(), Protocol::Icmp | Protocol::Icmpv6)
    }
}

/// Both tuples of a flow, packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedTuples<A> {
    pub(super) original: PackedTuple<A>,
    pub(super) reply: PackedTuple<A>,
    /// That of the reply tuple.
    pub(super) hash: CellHash,
}

impl<A: Address> PackedTuples<A> {
    /// Those of no flow in particular.
    pub(super) const NONE: Self = {
        let tuple = PackedTuple { src: A::UNSET, dst: A::UNSET, src_l4: 0, dst_l4: 0, zone: 0, protocol: 0 };
        Self { original: tuple, reply: tuple, hash: CellHash::ZERO }
    };

    /// The same as [`Tuples::is_source_nat`](crate::tuples::Tuples::is_source_nat).
    pub(super) fn is_source_nat(&self) -> bool {
        is_source_nat(&self.original, &self.reply)
    }

    /// `None` if an address is of the other family.
    #[inline]
    pub(super) fn pack(flow: &Flow, hash: impl Fn(&PackedTuple<A>) -> CellHash) -> Option<Self> {
        let (original, reply) = (PackedTuple::pack(&flow.original)?, PackedTuple::pack(&flow.reply)?);
        Some(Self { original, reply, hash: hash(&reply) })
    }
}

/// The tuples of a flow as one table stores them.
#[derive(Debug, Clone, Copy)]
pub struct PackedFlow(pub(super) Packed);

#[derive(Debug, Clone, Copy)]
pub(super) enum Packed {
    V4(PackedTuples<Ipv4Addr>),
    V6(PackedTuples<Ipv6Addr>),
    /// Its tuples are of different families.
    Mixed,
}

/// Whether the source address or port of connections with these tuples is translated.
pub(super) fn is_source_nat<A: Address>(original: &PackedTuple<A>, reply: &PackedTuple<A>) -> bool {
    original.src != reply.dst || original.src_port() != reply.nat_port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_survive_packing() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (src, dst) in [("10.0.0.1", "255.255.255.255"), ("::1", "ffff::"), ("::ffff:10.0.0.1", "::")] {
            for protocol in 0..=255_u8 {
                let protocol = Protocol::from(protocol);
                let layer4 = match protocol {
                    Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id: 65535, kind: 8, code: 255 },
                    Protocol::Gre => Layer4::Keys { src: 1, dst: 65535 },
                    Protocol::Other(_) => Layer4::None,
                    _ => Layer4::Ports { src: 65535, dst: 1 },
                };
                let tuple = Tuple { src: address(src), dst: address(dst), protocol, layer4, zone: 65535 };
                let (v4, v6) = (PackedTuple::<Ipv4Addr>::pack(&tuple), PackedTuple::<Ipv6Addr>::pack(&tuple));
                assert_eq!(v4.is_some(), tuple.src.is_ipv4());
                assert_eq!(
                    v4.map(|packed| packed.unpack()).or(v6.map(|packed| packed.unpack())),
                    Some(tuple)
                );
            }
        }
        assert_eq!((size_of::<PackedTuple<Ipv4Addr>>(), size_of::<PackedTuple<Ipv6Addr>>()), (16, 40));
    }
}
