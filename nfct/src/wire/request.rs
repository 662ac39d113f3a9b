//! Requests to the kernel, and the tuples in them.

use std::net::{IpAddr, Ipv6Addr};

use nfct_sys as sys;

use super::attributes::{ATTRIBUTE, NESTED, align};
use super::message::HEADER;
use crate::tuple::{Layer4, Protocol, Tuple};

/// Builds one netlink message, most often a request.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    bytes: Vec<u8>,
    /// Where the message begins: after the messages that precede it in the same datagram.
    start: usize,
}

impl MessageWriter {
    /// A message for the conntrack subsystem; `family` is `AF_INET`,
    /// `AF_INET6` or `AF_UNSPEC`.
    pub(crate) fn new(message: u32, flags: u32, sequence: u32, family: u8) -> Self {
        Self::of_kind(message_kind(message), flags, sequence, family)
    }

    /// A message for either subsystem; `kind` is its `nlmsg_type`.
    pub(crate) fn of_kind(kind: u16, flags: u32, sequence: u32, family: u8) -> Self {
        Self::after(Vec::with_capacity(128), kind, flags, sequence, family)
    }

    /// A message after those that `bytes` contains, in the same memory. The kernel handles all messages of
    /// a datagram, in their order.
    pub(crate) fn after(mut bytes: Vec<u8>, kind: u16, flags: u32, sequence: u32, family: u8) -> Self {
        let start = bytes.len();
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        // struct nfgenmsg: family, version 0, resource id 0.
        bytes.extend_from_slice(&[family, 0, 0, 0]);
        Self { bytes, start }
    }

    /// Sets version 1 of `struct nfgenmsg`. Only with it does the kernel (from 5.3 on) use the family of a
    /// request that removes many entries.
    pub(crate) fn use_family(&mut self) -> &mut Self {
        self.bytes[self.start + HEADER + 1] = 1;
        self
    }

    /// Adds an attribute with these bytes (at most 65,531).
    pub(crate) fn attribute(&mut self, kind: u32, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&(kind as u16).to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad()
    }

    /// Adds an attribute that contains what `fill` adds.
    pub(crate) fn nested(&mut self, kind: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | u32::from(NESTED), &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Adds a tuple and, next to it, its zone as the zone of both directions.
    pub(crate) fn tuple(&mut self, kind: u32, tuple: &Tuple) -> &mut Self {
        self.nested(kind, |request| request.tuple_parts(tuple));
        match tuple.zone {
            0 => self,
            zone => self.attribute(sys::CTA_ZONE, &zone.to_be_bytes()),
        }
    }

    /// Adds a tuple with its zone inside, as the zone of this direction alone.
    pub(super) fn zoned_tuple(&mut self, kind: u32, tuple: &Tuple) {
        self.nested(kind, |request| {
            request.tuple_parts(tuple);
            if tuple.zone != 0 {
                request.attribute(sys::CTA_TUPLE_ZONE, &tuple.zone.to_be_bytes());
            }
        });
    }

    fn tuple_parts(&mut self, tuple: &Tuple) {
        self.nested(sys::CTA_TUPLE_IP, |request| match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                request.attribute(sys::CTA_IP_V4_SRC, &src.octets());
                request.attribute(sys::CTA_IP_V4_DST, &dst.octets());
            }
            (src, dst) => {
                request.attribute(sys::CTA_IP_V6_SRC, &as_v6(src).octets());
                request.attribute(sys::CTA_IP_V6_DST, &as_v6(dst).octets());
            }
        });
        self.nested(sys::CTA_TUPLE_PROTO, |request| {
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
    }

    /// The finished message, after those that preceded it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = ((self.bytes.len() - self.start) as u32).to_ne_bytes();
        self.bytes[self.start..self.start + 4].copy_from_slice(&length);
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

/// `nlmsg_type` of an expectation message.
pub(crate) fn expectation_kind(message: u32) -> u16 {
    ((sys::NFNL_SUBSYS_CTNETLINK_EXP << 8) | message) as u16
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
