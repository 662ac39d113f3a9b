//! Netlink messages of ctnetlink: read and written over byte slices.
//!
//! The C library can read them too, but loses what NAT does to an ICMP
//! identifier (it keeps one for both directions), and allocates an object for
//! every message. A test holds this reader against the library's for all that
//! both know. Layouts are those of `linux/netlink.h` and
//! `linux/netfilter/nfnetlink_conntrack.h`; lengths are checked before every
//! read, so that no message, whole or not, can make it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct_sys as sys;

use crate::flow::{Flow, Status};
use crate::tuple::{Layer4, Protocol, Tuple};

/// Size of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Size of `struct nfgenmsg`, which stands first in each message's payload.
const NFGENMSG: usize = 4;
/// Size of `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// Upper bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A length field points past the end, or is smaller than its own header.
    #[error("a length field does not fit the message")]
    Length,
    /// An attribute's payload is not of the size its type has.
    #[error("attribute {0} has the wrong size")]
    Size(u16),
    /// A tuple lacks an address, its protocol, or mixes families.
    #[error("attribute {0} is not a whole tuple")]
    Tuple(u16),
    /// An entry without one of its two tuples.
    #[error("an entry without both tuples")]
    NoTuple,
}

/// One netlink message: its header's fields and its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`: subsystem in the upper byte, message in the lower.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// Walks the messages of one datagram.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of `datagram`.
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }

    /// Bytes that are not walked yet.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = || {
            let header = self.rest.get(..HEADER)?;
            let length = u32_ne(header, 0) as usize;
            let message = self.rest.get(HEADER..length)?;
            Some((
                Message {
                    kind: u16_ne(header, 4),
                    flags: u16_ne(header, 6),
                    sequence: u32_ne(header, 8),
                    payload: message,
                },
                length,
            ))
        };
        match read() {
            Some((message, length)) => {
                self.rest = self.rest.get(align(length)..).unwrap_or_default();
                Some(Ok(message))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed::Length))
            }
        }
    }
}

impl Message<'_> {
    /// The error number of an `NLMSG_ERROR` (0 is an acknowledgement), or of an
    /// `NLMSG_DONE` that ends a dump with an error; positive as in `errno`.
    pub(crate) fn errno(&self) -> Option<i32> {
        let end = self.kind == sys::NLMSG_ERROR as u16 || self.kind == sys::NLMSG_DONE as u16;
        let code = self.payload.get(..4).map(|bytes| u32_ne(bytes, 0) as i32);
        end.then(|| code.unwrap_or(0).saturating_neg())
    }

    /// Reads a conntrack entry.
    ///
    /// # Errors
    /// [`Malformed`] where the message is cut short or lacks what every entry has.
    pub fn flow(&self) -> Result<Flow, Malformed> {
        let attributes = self.payload.get(NFGENMSG..).ok_or(Malformed::Length)?;
        let (mut original, mut reply, mut zone) = (None, None, None);
        let mut flow = PartialFlow::default();
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            match u32::from(kind) {
                sys::CTA_TUPLE_ORIG => original = Some(read_tuple(kind, value)?),
                sys::CTA_TUPLE_REPLY => reply = Some(read_tuple(kind, value)?),
                sys::CTA_ZONE => zone = Some(u16_be(kind, value)?),
                sys::CTA_ID => flow.id = u32_be(kind, value)?,
                sys::CTA_STATUS => flow.status = u32_be(kind, value)?,
                sys::CTA_MARK => flow.mark = u32_be(kind, value)?,
                sys::CTA_TIMEOUT => flow.timeout = Some(u32_be(kind, value)?),
                sys::CTA_TIMESTAMP => read_timestamp(value, &mut flow)?,
                _ => {}
            }
        }
        let (Some(mut original), Some(mut reply)) = (original, reply) else { return Err(Malformed::NoTuple) };
        // A zone for both directions stands beside the tuples, one for a single
        // direction inside its tuple.
        if let Some(zone) = zone {
            original.zone = zone;
            reply.zone = zone;
        }
        Ok(Flow {
            original,
            reply,
            id: flow.id,
            status: Status(flow.status),
            mark: flow.mark,
            timeout: flow.timeout,
            start: flow.start,
            stop: flow.stop,
        })
    }
}

#[derive(Default)]
struct PartialFlow {
    id: u32,
    status: u32,
    mark: u32,
    timeout: Option<u32>,
    start: Option<u64>,
    stop: Option<u64>,
}

/// Walks the attributes of a payload: type without flags, and value.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Fewer bytes than a header are padding.
        let header = self.rest.get(..ATTRIBUTE)?;
        let length = usize::from(u16_ne(header, 0));
        let kind = u16_ne(header, 2) & TYPE_MASK;
        match self.rest.get(ATTRIBUTE..length) {
            Some(value) => {
                self.rest = self.rest.get(align(length)..).unwrap_or_default();
                Some(Ok((kind, value)))
            }
            None => {
                self.rest = &[];
                Some(Err(Malformed::Length))
            }
        }
    }
}

fn read_tuple(kind: u16, value: &[u8]) -> Result<Tuple, Malformed> {
    let (mut addresses, mut protocol, mut zone) = (None, None, 0);
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        match u32::from(inner) {
            sys::CTA_TUPLE_IP => addresses = read_addresses(value)?,
            sys::CTA_TUPLE_PROTO => protocol = Some(read_protocol(kind, value)?),
            sys::CTA_TUPLE_ZONE => zone = u16_be(inner, value)?,
            _ => {}
        }
    }
    match (addresses, protocol) {
        (Some((src, dst)), Some((protocol, layer4))) => Ok(Tuple { src, dst, protocol, layer4, zone }),
        _ => Err(Malformed::Tuple(kind)),
    }
}

fn read_addresses(value: &[u8]) -> Result<Option<(IpAddr, IpAddr)>, Malformed> {
    let (mut src, mut dst) = (None, None);
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        let wrong_size = Malformed::Size(inner);
        let v4 = || <[u8; 4]>::try_from(value).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
        let v6 = || <[u8; 16]>::try_from(value).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
        match u32::from(inner) {
            sys::CTA_IP_V4_SRC => src = Some(v4().map_err(|_| wrong_size)?),
            sys::CTA_IP_V4_DST => dst = Some(v4().map_err(|_| wrong_size)?),
            sys::CTA_IP_V6_SRC => src = Some(v6().map_err(|_| wrong_size)?),
            sys::CTA_IP_V6_DST => dst = Some(v6().map_err(|_| wrong_size)?),
            _ => {}
        }
    }
    Ok(src.zip(dst).filter(|(src, dst)| src.is_ipv4() == dst.is_ipv4()))
}

fn read_protocol(tuple: u16, value: &[u8]) -> Result<(Protocol, Layer4), Malformed> {
    let (mut number, mut src, mut dst) = (None, 0, 0);
    let (mut id, mut icmp_type, mut code) = (0, 0, 0);
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        match u32::from(inner) {
            sys::CTA_PROTO_NUM => number = Some(byte(inner, value)?),
            sys::CTA_PROTO_SRC_PORT => src = u16_be(inner, value)?,
            sys::CTA_PROTO_DST_PORT => dst = u16_be(inner, value)?,
            sys::CTA_PROTO_ICMP_ID | sys::CTA_PROTO_ICMPV6_ID => id = u16_be(inner, value)?,
            sys::CTA_PROTO_ICMP_TYPE | sys::CTA_PROTO_ICMPV6_TYPE => icmp_type = byte(inner, value)?,
            sys::CTA_PROTO_ICMP_CODE | sys::CTA_PROTO_ICMPV6_CODE => code = byte(inner, value)?,
            _ => {}
        }
    }
    let protocol = Protocol::from(number.ok_or(Malformed::Tuple(tuple))?);
    let layer4 = match protocol {
        Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id, kind: icmp_type, code },
        Protocol::Gre => Layer4::Keys { src, dst },
        Protocol::Other(_) => Layer4::None,
        _ => Layer4::Ports { src, dst },
    };
    Ok((protocol, layer4))
}

fn read_timestamp(value: &[u8], flow: &mut PartialFlow) -> Result<(), Malformed> {
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        match u32::from(inner) {
            sys::CTA_TIMESTAMP_START => flow.start = Some(u64_be(inner, value)?),
            sys::CTA_TIMESTAMP_STOP => flow.stop = Some(u64_be(inner, value)?),
            _ => {}
        }
    }
    Ok(())
}

/// Builds one request.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message for the conntrack subsystem; `family` is `AF_INET`,
    /// `AF_INET6` or `AF_UNSPEC`.
    pub(crate) fn new(message: u32, flags: u32, sequence: u32, family: u8) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&message_kind(message).to_ne_bytes());
        bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        // struct nfgenmsg: family, version 0, resource id 0.
        bytes.extend_from_slice(&[family, 0, 0, 0]);
        Self { bytes }
    }

    /// Adds an attribute of plain bytes (at most 65,531 of them).
    pub(crate) fn attribute(&mut self, kind: u32, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad()
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(crate) fn nested(&mut self, kind: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | u32::from(NESTED), &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds a tuple, with its zone beside it.
    pub(crate) fn tuple(&mut self, kind: u32, tuple: &Tuple) -> &mut Self {
        self.nested(kind, |request| {
            request.nested(sys::CTA_TUPLE_IP, |request| match (tuple.src, tuple.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    request.attribute(sys::CTA_IP_V4_SRC, &src.octets());
                    request.attribute(sys::CTA_IP_V4_DST, &dst.octets());
                }
                (src, dst) => {
                    request.attribute(sys::CTA_IP_V6_SRC, &as_v6(src).octets());
                    request.attribute(sys::CTA_IP_V6_DST, &as_v6(dst).octets());
                }
            });
            request.nested(sys::CTA_TUPLE_PROTO, |request| {
                request.attribute(sys::CTA_PROTO_NUM, &[tuple.protocol.number()]);
                match tuple.layer4 {
                    Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => {
                        request.attribute(sys::CTA_PROTO_SRC_PORT, &src.to_be_bytes());
                        request.attribute(sys::CTA_PROTO_DST_PORT, &dst.to_be_bytes());
                    }
                    Layer4::Icmp { id, kind, code } => {
                        let [id_kind, type_kind, code_kind] = icmp_attributes(tuple.protocol);
                        request.attribute(id_kind, &id.to_be_bytes());
                        request.attribute(type_kind, &[kind]);
                        request.attribute(code_kind, &[code]);
                    }
                    Layer4::None => {}
                }
            });
        });
        match tuple.zone {
            0 => self,
            zone => self.attribute(sys::CTA_ZONE, &zone.to_be_bytes()),
        }
    }

    /// The finished message.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() as u32).to_ne_bytes();
        self.bytes[..4].copy_from_slice(&length);
        self.bytes
    }

    fn pad(&mut self) -> &mut Self {
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }
}

/// `nlmsg_type` of a conntrack message.
pub(crate) fn message_kind(message: u32) -> u16 {
    ((sys::NFNL_SUBSYS_CTNETLINK << 8) | message) as u16
}

fn icmp_attributes(protocol: Protocol) -> [u32; 3] {
    match protocol {
        Protocol::Icmpv6 => {
            [sys::CTA_PROTO_ICMPV6_ID, sys::CTA_PROTO_ICMPV6_TYPE, sys::CTA_PROTO_ICMPV6_CODE]
        }
        _ => [sys::CTA_PROTO_ICMP_ID, sys::CTA_PROTO_ICMP_TYPE, sys::CTA_PROTO_ICMP_CODE],
    }
}

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Messages and attributes begin at multiples of four bytes.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

fn u16_ne(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_ne(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn byte(kind: u16, value: &[u8]) -> Result<u8, Malformed> {
    match value {
        [byte] => Ok(*byte),
        _ => Err(Malformed::Size(kind)),
    }
}

fn u16_be(kind: u16, value: &[u8]) -> Result<u16, Malformed> {
    value.try_into().map(u16::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

fn u32_be(kind: u16, value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

fn u64_be(kind: u16, value: &[u8]) -> Result<u64, Malformed> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuples() -> Vec<Tuple> {
        let v4 = |text: &str| text.parse::<IpAddr>().unwrap();
        let (a, b) = (v4("192.168.7.2"), v4("198.51.100.1"));
        let (c, d) = (v4("fd00:7::2"), v4("2001:db8::1"));
        vec![
            Tuple {
                src: a,
                dst: b,
                protocol: Protocol::Tcp,
                layer4: Layer4::Ports { src: 65535, dst: 1 },
                zone: 0,
            },
            Tuple {
                src: c,
                dst: d,
                protocol: Protocol::Udp,
                layer4: Layer4::Ports { src: 0, dst: 53 },
                zone: 65535,
            },
            Tuple {
                src: a,
                dst: b,
                protocol: Protocol::Icmp,
                layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 },
                zone: 3,
            },
            Tuple {
                src: c,
                dst: d,
                protocol: Protocol::Icmpv6,
                layer4: Layer4::Icmp { id: 65535, kind: 128, code: 255 },
                zone: 0,
            },
            Tuple {
                src: a,
                dst: b,
                protocol: Protocol::Gre,
                layer4: Layer4::Keys { src: 1, dst: 2 },
                zone: 0,
            },
            Tuple { src: a, dst: b, protocol: Protocol::Other(50), layer4: Layer4::None, zone: 0 },
        ]
    }

    fn message(original: &Tuple, reply: &Tuple) -> Vec<u8> {
        // The C library takes the family from the message, not from the tuple.
        let family = if original.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut request = Request::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, family as u8);
        request.tuple(sys::CTA_TUPLE_ORIG, original).tuple(sys::CTA_TUPLE_REPLY, reply);
        request.attribute(sys::CTA_ID, &0xdead_beef_u32.to_be_bytes());
        request.attribute(sys::CTA_MARK, &7_u32.to_be_bytes());
        request.nested(sys::CTA_TIMESTAMP, |request| {
            request.attribute(sys::CTA_TIMESTAMP_START, &u64::MAX.to_be_bytes());
        });
        request.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for tuple in tuples() {
            let bytes = message(&tuple, &tuple);
            let message = Messages::new(&bytes).next().unwrap().unwrap();
            assert_eq!(message.kind, message_kind(sys::IPCTNL_MSG_CT_NEW));
            let flow = message.flow().unwrap();
            assert_eq!((flow.original, flow.reply), (tuple, tuple));
            assert_eq!((flow.id, flow.mark, flow.start), (0xdead_beef, 7, Some(u64::MAX)));
        }
    }

    #[test]
    fn the_c_library_reads_the_same() {
        for tuple in tuples() {
            let bytes = message(&tuple, &tuple);
            let theirs = crate::Conntrack::parse(&bytes).unwrap();
            let ours = Messages::new(&bytes).next().unwrap().unwrap().flow().unwrap();
            assert_eq!((theirs.original(), theirs.reply()), (Some(ours.original), Some(ours.reply)));
            assert_eq!((theirs.id(), theirs.mark()), (Some(ours.id), Some(ours.mark)));
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_it_panic() {
        for tuple in tuples() {
            let whole = message(&tuple, &tuple);
            for end in 0..whole.len() {
                for message in Messages::new(&whole[..end]).flatten() {
                    let _ = message.flow();
                }
            }
            for at in 0..whole.len() {
                for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                    let mut bytes = whole.clone();
                    bytes[at] = value;
                    for message in Messages::new(&bytes).flatten() {
                        let _ = message.flow();
                        let _ = message.errno();
                    }
                }
            }
        }
    }

    #[test]
    fn a_message_cut_short_is_an_error_and_not_an_entry() {
        let tuple = tuples()[0];
        let whole = message(&tuple, &tuple);
        assert_eq!(Messages::new(&whole[..whole.len() - 4]).next(), Some(Err(Malformed::Length)));
        let mut request = Request::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, libc::AF_INET as u8);
        request.tuple(sys::CTA_TUPLE_ORIG, &tuple);
        let bytes = request.finish();
        assert_eq!(Messages::new(&bytes).next().unwrap().unwrap().flow(), Err(Malformed::NoTuple));
    }
}
