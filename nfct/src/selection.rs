//! Which entries of the table a dump or a flush is about.

use std::net::IpAddr;

use nfct_sys as sys;

use crate::flow::Flow;
use crate::kernel_filter::{Direction, End};
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
use crate::wire::Request;

/// Which entries, by network layer.
///
/// ```no_run
/// let mut query = nfct::Query::open()?;
/// println!("{} over IPv6", query.dump(nfct::Family::Ipv6)?.count());
/// # Ok::<_, nfct::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// IPv4 and IPv6.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        let number = match self {
            Family::Any => libc::AF_UNSPEC,
            Family::Ipv4 => libc::AF_INET,
            Family::Ipv6 => libc::AF_INET6,
        };
        number as u8
    }

    /// The family that an address belongs to.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    fn has(self, address: IpAddr) -> bool {
        self == Family::Any || self == Family::of(address)
    }
}

/// Conditions on entries, which must all hold.
///
/// The kernel is told all of them that it may understand, and skips entries
/// without sending them; which ones it does understand depends on its version
/// (mark: long since; IPv4 addresses, protocol and ports: 5.8; status: 5.15; a zone
/// other than 0: 6.8). What it sends is checked again here, so that the answer is the
/// same on every kernel.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Direction, End, Protocol, Query, Selection, Status};
///
/// // UDP to any name server, of connections that were answered.
/// let questions = Selection::all()
///     .protocol(Protocol::Udp)
///     .port(Direction::Original, End::Destination, 53)
///     .status(Status::SEEN_REPLY, Status::SEEN_REPLY);
/// for flow in Query::open()?.dump(questions)? {
///     println!("{}", flow?.original);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    family: Family,
    mark: Option<Bits>,
    status: Option<Bits>,
    zone: Option<u16>,
    protocol: Option<Protocol>,
    original: Ends,
    reply: Ends,
}

/// A value that some bits must have.
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

/// What the ends of one tuple must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ends {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    src_port: Option<u16>,
    dst_port: Option<u16>,
}

/// The conditions of a [`Selection`] that the C library knows.
pub(crate) struct Parts {
    pub(crate) family: Family,
    pub(crate) mark: Option<(u32, u32)>,
    pub(crate) status: Option<(u32, u32)>,
    pub(crate) zone: Option<u16>,
    pub(crate) others: bool,
}

// net/netfilter/nf_conntrack_netlink.c; not in the installed headers.
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_SRC_PORT: u32 = 1 << 4;
const FILTER_DST_PORT: u32 = 1 << 5;

impl Ends {
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

    /// What of them the kernel is told: it compares IPv6 addresses the wrong way
    /// round and sends what is not selected (seen on 6.18).
    fn for_kernel(self) -> Self {
        let v4 = |address: Option<IpAddr>| address.filter(IpAddr::is_ipv4);
        Self { src: v4(self.src), dst: v4(self.dst), ..self }
    }

    /// What of a tuple the kernel is to look at. It compares ports only
    /// together with a protocol that has some.
    fn flags(&self, protocol: Option<Protocol>) -> u32 {
        let flag = |wanted: bool, flag| if wanted { flag } else { 0 };
        let ports = protocol.is_some_and(has_ports);
        flag(self.src.is_some(), FILTER_IP_SRC)
            | flag(self.dst.is_some(), FILTER_IP_DST)
            | flag(protocol.is_some(), FILTER_PROTO_NUM)
            | flag(ports && self.src_port.is_some(), FILTER_SRC_PORT)
            | flag(ports && self.dst_port.is_some(), FILTER_DST_PORT)
    }

    fn write(&self, request: &mut Request, tuple: u32, flags: u32, protocol: Option<Protocol>) {
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

    /// Adds: of this family.
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

    /// Adds: those bits of the connection mark that are set in `mask` are as in
    /// `value`.
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

    /// Adds: those state bits that are set in `mask` are as in `value`.
    ///
    /// ```
    /// use nfct::{Selection, Status};
    /// // Never answered.
    /// let selection = Selection::all().status(Status(0), Status::SEEN_REPLY);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn status(mut self, value: Status, mask: Status) -> Self {
        self.status = Some(Bits { value: value.0, mask: mask.0 });
        self
    }

    /// Adds: in this zone, in one direction at least; 0 is the default zone,
    /// where an entry is that has no other zone in either direction.
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

    /// Adds: of this protocol.
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

    /// Adds: this end of this tuple has this address.
    ///
    /// ```
    /// use nfct::{Direction, End, Selection};
    /// // What leaves through this public address.
    /// let public = "100.64.2.1".parse().unwrap();
    /// let selection = Selection::all().address(Direction::Reply, End::Destination, public);
    /// # let _ = selection;
    /// ```
    #[must_use]
    pub fn address(mut self, direction: Direction, end: End, address: IpAddr) -> Self {
        let ends = self.ends(direction);
        match end {
            End::Source => ends.src = Some(address),
            End::Destination => ends.dst = Some(address),
        }
        self
    }

    /// Adds: this end of this tuple has this port. Protocols without ports are
    /// left out. The kernel skips others only when it is told the protocol too.
    ///
    /// ```
    /// use nfct::{Direction, End, Protocol, Selection};
    /// let web = Selection::all()
    ///     .protocol(Protocol::Tcp)
    ///     .port(Direction::Original, End::Destination, 443);
    /// # let _ = web;
    /// ```
    #[must_use]
    pub fn port(mut self, direction: Direction, end: End, port: u16) -> Self {
        let ends = self.ends(direction);
        match end {
            End::Source => ends.src_port = Some(port),
            End::Destination => ends.dst_port = Some(port),
        }
        self
    }

    /// Whether an entry meets every condition; of use for events too.
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
    }

    /// Whether there is no condition but the family, which every kernel minds in a dump.
    pub(crate) fn is_family_only(&self) -> bool {
        *self == Self::from(self.family)
    }

    /// The family that the kernel is told: an address says it too, and the
    /// kernel compares addresses only when it is told a family.
    pub(crate) fn wire_family(&self) -> Family {
        let address = self.original.addresses().chain(self.reply.addresses()).next();
        match self.family {
            Family::Any => address.map_or(Family::Any, Family::of),
            family => family,
        }
    }

    /// Whether a kernel of version 6.8 or later, told to remove what is
    /// selected, removes nothing else.
    pub(crate) fn is_whole_for_flush(&self) -> bool {
        let only_known = Self { mark: None, status: None, zone: None, ..*self }.is_family_only();
        // The first kernels that knew zones took zone 0 for every zone; a mask of 0 is refused.
        only_known && self.zone != Some(0) && self.status.is_none_or(|status| status.mask != 0)
    }

    /// Family, mark, status and zone, as far as there is such a condition (values
    /// with their masks), and whether there are others.
    pub(crate) fn parts(&self) -> Parts {
        let bits = |bits: Option<Bits>| bits.map(|Bits { value, mask }| (value, mask));
        let plain = Self { mark: None, status: None, zone: None, ..*self };
        Parts {
            family: self.family,
            mark: bits(self.mark),
            status: bits(self.status),
            zone: self.zone,
            others: !plain.is_family_only(),
        }
    }

    /// Tells the kernel.
    pub(crate) fn write(&self, request: &mut Request) {
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

    fn write_tuples(&self, request: &mut Request) {
        let family = self.wire_family();
        let all_of_family =
            self.original.addresses().chain(self.reply.addresses()).all(|address| family.has(address));
        // Mixed families match nothing, which the check of each entry sees to.
        if family == Family::Any || !all_of_family {
            return;
        }
        let (original_ends, reply_ends) = (self.original.for_kernel(), self.reply.for_kernel());
        let original = original_ends.flags(self.protocol);
        let reply = reply_ends.flags(self.protocol.filter(|_| reply_ends != Ends::default()));
        if original | reply == 0 {
            return;
        }
        request.nested(sys::CTA_FILTER, |request| {
            request.attribute(sys::CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
            request.attribute(sys::CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes());
        });
        for (ends, kind, flags) in
            [(original_ends, sys::CTA_TUPLE_ORIG, original), (reply_ends, sys::CTA_TUPLE_REPLY, reply)]
        {
            if flags != 0 {
                let protocol = self.protocol.filter(|_| flags & FILTER_PROTO_NUM != 0);
                ends.write(request, kind, flags, protocol);
            }
        }
    }

    fn ends(&mut self, direction: Direction) -> &mut Ends {
        match direction {
            Direction::Original => &mut self.original,
            Direction::Reply => &mut self.reply,
        }
    }
}

/// Everything of one family.
impl From<Family> for Selection {
    fn from(family: Family) -> Self {
        Self::all().family(family)
    }
}

impl From<&Selection> for Selection {
    fn from(selection: &Selection) -> Self {
        *selection
    }
}
