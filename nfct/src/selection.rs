//! The selection of entries for a dump or a flush.

use std::net::IpAddr;

use nfct_sys as sys;

use crate::direction::{Direction, Endpoint, Logic};
use crate::family::Family;
use crate::flow::Flow;
use crate::network::Network;
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
use crate::wire::MessageWriter;

/// Conditions on entries. An entry is selected if it meets all of them.
///
/// The result is the same on every kernel. The kernel applies the conditions that its
/// version supports, so it sends fewer entries (mark: all versions; IPv4 addresses,
/// protocol and ports: from 5.8; status: from 5.15; a zone other than 0: from 6.8;
/// networks: none). This crate then checks every condition again.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Direction, Endpoint, Protocol, Query, Selection, Status};
///
/// // DNS over UDP, only connections with a reply.
/// let dns = Selection::all()
///     .protocol(Protocol::Udp)
///     .port(Direction::Original, Endpoint::Destination, 53)
///     .status(Status::SEEN_REPLY, Status::SEEN_REPLY);
/// for flow in Query::open()?.dump(dns)? {
///     println!("{}", flow?.original);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    family: Family,
    mark: Option<Bits>,
    status: Option<Bits>,
    zone: Option<u16>,
    protocol: Option<Protocol>,
    original: Endpoints,
    reply: Endpoints,
    networks: Vec<NetworkCondition>,
}

/// The value of the bits that a mask selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits {
    value: u32,
    mask: u32,
}

impl Bits {
    fn match_in(self, bits: u32) -> bool {
        bits & self.mask == self.value & self.mask
    }
}

/// An endpoint that is in one of some networks, or in none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NetworkCondition {
    direction: Direction,
    endpoint: Endpoint,
    logic: Logic,
    networks: Vec<Network>,
}

impl NetworkCondition {
    fn match_in(&self, flow: &Flow) -> bool {
        let tuple = match self.direction {
            Direction::Original => &flow.original,
            Direction::Reply => &flow.reply,
        };
        let address = match self.endpoint {
            Endpoint::Source => tuple.src,
            Endpoint::Destination => tuple.dst,
        };
        let listed = self.networks.iter().any(|network| network.contains(address));
        listed == (self.logic == Logic::Only)
    }
}

/// Conditions on the endpoints of one tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Endpoints {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    src_port: Option<u16>,
    dst_port: Option<u16>,
}

/// The conditions of a [`Selection`] that the C library supports.
pub(crate) struct SelectionFields {
    pub(crate) family: Family,
    pub(crate) mark: Option<(u32, u32)>,
    pub(crate) status: Option<(u32, u32)>,
    pub(crate) zone: Option<u16>,
    /// Whether there are conditions that the C library does not support.
    pub(crate) others: bool,
}

// From net/netfilter/nf_conntrack_netlink.c; the installed headers do not have them.
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_SRC_PORT: u32 = 1 << 4;
const FILTER_DST_PORT: u32 = 1 << 5;

impl Endpoints {
    fn match_in(&self, tuple: &Tuple) -> bool {
        let is = |wanted: Option<IpAddr>, address| wanted.is_none_or(|wanted| wanted == address);
        let (src_port, dst_port) = match tuple.layer4 {
            Layer4::Ports { src, dst } => (Some(src), Some(dst)),
            _ => (None, None),
        };
        is(self.src, tuple.src)
            && is(self.dst, tuple.dst)
            && (self.src_port.is_none() || self.src_port == src_port)
            && (self.dst_port.is_none() || self.dst_port == dst_port)
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.src.into_iter().chain(self.dst)
    }

    /// The conditions to send. IPv6 addresses are not sent: the kernel compares them in
    /// the wrong byte order and returns other entries (seen on 6.18).
    fn for_kernel(self) -> Self {
        let v4 = |address: Option<IpAddr>| address.filter(IpAddr::is_ipv4);
        Self { src: v4(self.src), dst: v4(self.dst), ..self }
    }

    /// The fields of a tuple that the kernel compares. It compares ports only
    /// together with a protocol that has ports.
    fn flags(&self, protocol: Option<Protocol>) -> u32 {
        let flag = |wanted: bool, flag| if wanted { flag } else { 0 };
        let ports = protocol.is_some_and(has_ports);
        flag(self.src.is_some(), FILTER_IP_SRC)
            | flag(self.dst.is_some(), FILTER_IP_DST)
            | flag(protocol.is_some(), FILTER_PROTO_NUM)
            | flag(ports && self.src_port.is_some(), FILTER_SRC_PORT)
            | flag(ports && self.dst_port.is_some(), FILTER_DST_PORT)
    }

    fn write(&self, request: &mut MessageWriter, tuple: u32, flags: u32, protocol: Option<Protocol>) {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        request.nested(tuple, |request| {
            if self.addresses().next().is_some() {
                request.nested(sys::CTA_TUPLE_IP, |request| {
                    let kinds =
                        [(sys::CTA_IP_V4_SRC, sys::CTA_IP_V6_SRC), (sys::CTA_IP_V4_DST, sys::CTA_IP_V6_DST)];
                    for (address, (v4, v6)) in [self.src, self.dst].into_iter().zip(kinds) {
                        if let Some(address) = address {
                            request.attribute(if address.is_ipv4() { v4 } else { v6 }, &octets(address));
                        }
                    }
                });
            }
            if let Some(protocol) = protocol {
                request.nested(sys::CTA_TUPLE_PROTO, |request| {
                    request.attribute(sys::CTA_PROTO_NUM, &[protocol.number()]);
                    for (flag, kind, port) in [
                        (FILTER_SRC_PORT, sys::CTA_PROTO_SRC_PORT, self.src_port),
                        (FILTER_DST_PORT, sys::CTA_PROTO_DST_PORT, self.dst_port),
                    ] {
                        if let Some(port) = port.filter(|_| flags & flag != 0) {
                            request.attribute(kind, &port.to_be_bytes());
                        }
                    }
                });
            }
        });
    }
}

fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Tcp | Protocol::Udp | Protocol::UdpLite | Protocol::Sctp | Protocol::Dccp)
}

impl Selection {
    /// Every entry.
    ///
    /// ```
    /// use nfct::{Family, Selection};
    /// assert_eq!(Selection::all(), Selection::from(Family::Any));
    /// ```
    pub fn all() -> Self {
        Self::default()
    }

    /// Adds a condition: entries of this family.
    ///
    /// ```
    /// use nfct::{Family, Selection};
    /// assert_eq!(Selection::all().family(Family::Ipv6), Selection::from(Family::Ipv6));
    /// ```
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// Adds a condition: the connection mark equals `value` in all bits of `mask`.
    ///
    /// ```
    /// // Marks 0x10 to 0x1f.
    /// let selection = nfct::Selection::all().mark(0x10, 0xffff_fff0);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn mark(mut self, value: u32, mask: u32) -> Self {
        self.mark = Some(Bits { value, mask });
        self
    }

    /// Adds a condition: the status equals `value` in all bits of `mask`.
    ///
    /// ```
    /// use nfct::{Selection, Status};
    /// // Without a reply so far.
    /// let selection = Selection::all().status(Status(0), Status::SEEN_REPLY);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn status(mut self, value: Status, mask: Status) -> Self {
        self.status = Some(Bits { value: value.0, mask: mask.0 });
        self
    }

    /// Adds a condition: the entry is in this zone in at least one direction. Zone 0, the
    /// default zone, selects entries that are in no other zone in either direction.
    ///
    /// ```
    /// let selection = nfct::Selection::all().zone(7);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn zone(mut self, zone: u16) -> Self {
        self.zone = Some(zone);
        self
    }

    /// Adds a condition: entries of this protocol.
    ///
    /// ```
    /// let selection = nfct::Selection::all().protocol(nfct::Protocol::Tcp);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Adds a condition: this endpoint of this tuple has this address.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, Selection};
    /// // Connections that leave through this public address.
    /// let public = "100.64.2.1".parse().unwrap();
    /// let selection = Selection::all().address(Direction::Reply, Endpoint::Destination, public);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn address(mut self, direction: Direction, endpoint: Endpoint, address: IpAddr) -> Self {
        let endpoints = self.endpoints(direction);
        match endpoint {
            Endpoint::Source => endpoints.src = Some(address),
            Endpoint::Destination => endpoints.dst = Some(address),
        }
        self
    }

    /// Adds a condition: this endpoint of this tuple has this port. Entries of
    /// protocols without ports do not match. The kernel applies it only together
    /// with [`protocol`](Self::protocol).
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, Protocol, Selection};
    /// let web = Selection::all()
    ///     .protocol(Protocol::Tcp)
    ///     .port(Direction::Original, Endpoint::Destination, 443);
    /// # let _ = web;
    /// ```
    #[must_use]
    pub fn port(mut self, direction: Direction, endpoint: Endpoint, port: u16) -> Self {
        let endpoints = self.endpoints(direction);
        match endpoint {
            Endpoint::Source => endpoints.src_port = Some(port),
            Endpoint::Destination => endpoints.dst_port = Some(port),
        }
        self
    }

    /// Adds a condition: this endpoint of this tuple is in one of these networks,
    /// or in none of them. A network is an address and the number of its leading
    /// bits that count.
    ///
    /// ```
    /// use nfct::{Direction, Endpoint, Logic, Selection};
    /// let inside = [("192.168.0.0".parse().unwrap(), 16), ("fd00::".parse().unwrap(), 8)];
    /// let selection =
    ///     Selection::all().networks(Direction::Original, Endpoint::Source, Logic::Only, inside);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn networks(
        mut self,
        direction: Direction,
        endpoint: Endpoint,
        logic: Logic,
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Self {
        let networks = networks.into_iter().map(|(address, bits)| Network::new(address, bits)).collect();
        self.networks.push(NetworkCondition { direction, endpoint, logic, networks });
        self
    }

    /// Whether an entry meets every condition. It can also check the flow of an event.
    ///
    /// ```
    /// use nfct::{Event, Selection};
    /// fn concerns(event: &Event, selection: &Selection) -> bool {
    ///     selection.matches(&event.flow)
    /// }
    /// ```
    pub fn matches(&self, flow: &Flow) -> bool {
        let in_zone = |zone| match zone {
            0 => flow.original.zone == 0 && flow.reply.zone == 0,
            zone => flow.original.zone == zone || flow.reply.zone == zone,
        };
        self.family.has(flow.original.src)
            && self.mark.is_none_or(|mark| mark.match_in(flow.mark))
            && self.status.is_none_or(|status| status.match_in(flow.status.0))
            && self.zone.is_none_or(in_zone)
            && self.protocol.is_none_or(|protocol| protocol == flow.original.protocol)
            && self.original.match_in(&flow.original)
            && self.reply.match_in(&flow.reply)
            && self.networks.iter().all(|condition| condition.match_in(flow))
    }

    /// Whether the family is the only condition. Every kernel applies it to a dump.
    pub(crate) fn is_family_only(&self) -> bool {
        *self == Self::from(self.family)
    }

    /// The family of the request. An address implies it: the kernel compares addresses
    /// only if the request has a family.
    pub(crate) fn wire_family(&self) -> Family {
        let address = self.original.addresses().chain(self.reply.addresses()).next();
        match self.family {
            Family::Any => address.map_or(Family::Any, Family::of),
            family => family,
        }
    }

    /// Whether a kernel of version 6.8 or later removes only selected entries when it
    /// gets this selection in one request.
    pub(crate) fn is_complete_for_flush(&self) -> bool {
        // The first kernels that select by zone treat zone 0 as every zone, and they reject a mask of 0.
        !self.fields().others && self.zone != Some(0) && self.status.is_none_or(|status| status.mask != 0)
    }

    /// The conditions that the C library supports, and whether there are others.
    pub(crate) fn fields(&self) -> SelectionFields {
        let bits = |bits: Option<Bits>| bits.map(|Bits { value, mask }| (value, mask));
        let plain = Self { mark: None, status: None, zone: None, ..self.clone() };
        SelectionFields {
            family: self.family,
            mark: bits(self.mark),
            status: bits(self.status),
            zone: self.zone,
            others: !plain.is_family_only(),
        }
    }

    /// Writes the conditions into a request.
    pub(crate) fn write(&self, request: &mut MessageWriter) {
        if let Some(Bits { value, mask }) = self.mark {
            request.attribute(sys::CTA_MARK, &(value & mask).to_be_bytes());
            request.attribute(sys::CTA_MARK_MASK, &mask.to_be_bytes());
        }
        if let Some(Bits { value, mask }) = self.status.filter(|status| status.mask != 0) {
            request.attribute(sys::CTA_STATUS, &(value & mask).to_be_bytes());
            request.attribute(sys::CTA_STATUS_MASK, &mask.to_be_bytes());
        }
        if let Some(zone) = self.zone {
            request.attribute(sys::CTA_ZONE, &zone.to_be_bytes());
        }
        self.write_tuples(request);
    }

    fn write_tuples(&self, request: &mut MessageWriter) {
        let family = self.wire_family();
        let all_of_family =
            self.original.addresses().chain(self.reply.addresses()).all(|address| family.has(address));
        // Addresses of two families match no entry. The check of each entry handles this.
        if family == Family::Any || !all_of_family {
            return;
        }
        let (in_original, in_reply) = (self.original.for_kernel(), self.reply.for_kernel());
        let original = in_original.flags(self.protocol);
        let reply = in_reply.flags(self.protocol.filter(|_| in_reply != Endpoints::default()));
        if original | reply == 0 {
            return;
        }
        request.nested(sys::CTA_FILTER, |request| {
            request.attribute(sys::CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
            request.attribute(sys::CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
        });
        for (endpoints, kind, flags) in
            [(in_original, sys::CTA_TUPLE_ORIG, original), (in_reply, sys::CTA_TUPLE_REPLY, reply)]
        {
            if flags != 0 {
                let protocol = self.protocol.filter(|_| flags & FILTER_PROTO_NUM != 0);
                endpoints.write(request, kind, flags, protocol);
            }
        }
    }

    fn endpoints(&mut self, direction: Direction) -> &mut Endpoints {
        match direction {
            Direction::Original => &mut self.original,
            Direction::Reply => &mut self.reply,
        }
    }
}

/// All entries of one family.
impl From<Family> for Selection {
    fn from(family: Family) -> Self {
        Self::all().family(family)
    }
}

impl From<&Selection> for Selection {
    fn from(selection: &Selection) -> Self {
        selection.clone()
    }
}
