//! Netlink messages of ctnetlink: read and written over byte slices.
//!
//! The C library can read them too, but loses what NAT does to an ICMP
//! identifier (it keeps one for both directions), and allocates an object for
//! every message. A test holds this reader against the library's for all that
//! both know. Layouts are those of `linux/netlink.h` and
//! `linux/netfilter/nfnetlink_conntrack.h`; lengths are checked before every
//! read, so that no message, whole or not, can make it panic.

mod expectation;
mod request;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct_sys as sys;

use crate::flow::Flow;
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
pub(crate) use expectation::{
    name_expectation, plain_tuple, write_expectation, write_expectation_message, write_text, write_zone,
};
pub use request::write_event;
pub(crate) use request::{Request, expectation_kind, message_kind};

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
///
/// ```
/// use nfct::wire::{Malformed, Messages};
/// assert_eq!(Messages::new(&[1, 2, 3]).next(), Some(Err(Malformed::Length)));
/// ```
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
    /// The C library makes nothing of it.
    #[error("the C library can't read it")]
    Library,
}

/// One netlink message: its header's fields and its payload.
///
/// ```
/// use nfct::wire::Message;
///
/// fn is_acknowledgement(message: &Message<'_>) -> bool {
///     message.kind == 2 && message.payload.starts_with(&[0; 4])
/// }
/// ```
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
    /// Header and payload.
    bytes: &'a [u8],
}

/// Walks the messages of one datagram.
///
/// ```no_run
/// use nfct::wire::{Messages, write_event};
/// # let flow: nfct::Flow = unimplemented!();
/// let bytes = write_event(&nfct::Event::new(nfct::EventKind::New, flow));
/// for message in Messages::new(&bytes) {
///     assert_eq!(message?.flow()?, flow);
/// }
/// # Ok::<_, nfct::wire::Malformed>(())
/// ```
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages of `datagram`.
    ///
    /// ```
    /// assert_eq!(nfct::wire::Messages::new(&[]).count(), 0);
    /// ```
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
            let payload = self.rest.get(HEADER..length)?;
            let bytes = self.rest.get(..length)?;
            let (kind, flags, sequence) = (u16_ne(header, 4), u16_ne(header, 6), u32_ne(header, 8));
            Some((Message { kind, flags, sequence, payload, bytes }, length))
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

impl<'a> Message<'a> {
    /// The whole message, header included.
    ///
    /// ```
    /// # use nfct::wire::Messages;
    /// let bytes = [16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8];
    /// # #[cfg(target_endian = "little")]
    /// assert_eq!(Messages::new(&bytes).next().unwrap()?.as_bytes(), bytes);
    /// # Ok::<_, nfct::wire::Malformed>(())
    /// ```
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes behind the `struct nfgenmsg` that every message of the
    /// conntrack subsystems has.
    pub(crate) fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        self.payload.get(NFGENMSG..).map(Attributes::new).ok_or(Malformed::Length)
    }

    /// `res_id` of the `struct nfgenmsg`.
    pub(crate) fn resource(&self) -> Result<u16, Malformed> {
        self.payload.get(2..NFGENMSG).map_or(Err(Malformed::Length), |bytes| u16_be(0, bytes))
    }

    /// The error number of an `NLMSG_ERROR` (0 is an acknowledgement), or of an
    /// `NLMSG_DONE` that ends a dump with an error; positive as in `errno`.
    pub(crate) fn errno(&self) -> Option<i32> {
        let end = self.kind == sys::NLMSG_ERROR as u16 || self.kind == sys::NLMSG_DONE as u16;
        let code = self.payload.get(..4).map(|bytes| u32_ne(bytes, 0) as i32);
        end.then(|| code.unwrap_or(0).saturating_neg())
    }

    /// Reads a conntrack entry.
    ///
    /// ```no_run
    /// use nfct::wire::{Messages, write_event};
    /// # let flow: nfct::Flow = unimplemented!();
    /// let bytes = write_event(&nfct::Event::new(nfct::EventKind::New, flow));
    /// for message in Messages::new(&bytes) {
    ///     assert_eq!(message?.flow()?, flow);
    /// }
    /// # Ok::<_, nfct::wire::Malformed>(())
    /// ```
    ///
    /// # Errors
    /// [`Malformed`] where the message is cut short or lacks what every entry has.
    pub fn flow(&self) -> Result<Flow, Malformed> {
        let (mut original, mut reply, mut zone) = (None, None, None);
        let mut flow = PartialFlow::default();
        for attribute in self.attributes()? {
            let (kind, value) = attribute?;
            match u32::from(kind) {
                sys::CTA_TUPLE_ORIG => original = Some(value),
                sys::CTA_TUPLE_REPLY => reply = Some(value),
                sys::CTA_ZONE => zone = Some(u16_be(kind, value)?),
                sys::CTA_ID => flow.id = u32_be(kind, value)?,
                sys::CTA_STATUS => flow.status = u32_be(kind, value)?,
                sys::CTA_MARK => flow.mark = u32_be(kind, value)?,
                sys::CTA_TIMEOUT => flow.timeout = Some(u32_be(kind, value)?),
                sys::CTA_TIMESTAMP => read_timestamp(value, &mut flow)?,
                _ => {}
            }
        }
        // Of an attribute that stands twice the last one holds, as for the C library.
        let (Some(original), Some(reply)) = (original, reply) else { return Err(Malformed::NoTuple) };
        let mut original = read_tuple(sys::CTA_TUPLE_ORIG as u16, original)?;
        let mut reply = read_tuple(sys::CTA_TUPLE_REPLY as u16, reply)?;
        if original.src.is_ipv4() != reply.src.is_ipv4() {
            return Err(Malformed::Tuple(sys::CTA_TUPLE_REPLY as u16));
        }
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
            sys::CTA_TUPLE_IP => addresses = Some(value),
            sys::CTA_TUPLE_PROTO => protocol = Some(value),
            sys::CTA_TUPLE_ZONE => zone = u16_be(inner, value)?,
            _ => {}
        }
    }
    let not_whole = Malformed::Tuple(kind);
    let (src, dst) = read_addresses(addresses.ok_or(not_whole)?)?.ok_or(not_whole)?;
    let (protocol, layer4) = read_protocol(kind, protocol.ok_or(not_whole)?)?;
    Ok(Tuple { src, dst, protocol, layer4, zone })
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
    (flow.start, flow.stop) = (None, None);
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

pub(crate) fn u16_be(kind: u16, value: &[u8]) -> Result<u16, Malformed> {
    value.try_into().map(u16::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

pub(crate) fn u32_be(kind: u16, value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

fn u64_be(kind: u16, value: &[u8]) -> Result<u64, Malformed> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| Malformed::Size(kind))
}

#[cfg(test)]
mod tests;
