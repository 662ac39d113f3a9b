//! Conntrack entries as the kernel sends them, read into plain values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nfct_sys as sys;

use super::attributes::{self, ATTRIBUTE, Attributes, byte, u16_be, u32_be, u32_ne, u64_be};
use super::message::Message;
use crate::flow::{Counters, Flow};
use crate::malformed::Malformed;
use crate::state::{Status, TcpState};
use crate::tuple::{Layer4, Protocol, Tuple};

impl Message<'_> {
    /// Reads a conntrack entry.
    ///
    /// ```
    /// use nfct::wire::{Messages, write_event};
    /// # let flow = nfct::Flow::new(
    /// #     nfct::Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53)),
    /// #     nfct::Tuple::udp(([198, 51, 100, 1], 53), ([203, 0, 113, 9], 51000)),
    /// # );
    /// let bytes = write_event(&nfct::Event::new(nfct::EventKind::New, flow));
    /// for message in Messages::new(&bytes) {
    ///     assert_eq!(message?.flow()?, flow);
    /// }
    /// # Ok::<_, nfct::wire::Malformed>(())
    /// ```
    ///
    /// # Errors
    /// [`Malformed`] if the message is truncated, or lacks a part that every entry has.
    pub fn flow(&self) -> Result<Flow, Malformed> {
        let (mut original, mut reply, mut zone) = (None, None, None);
        let (mut id, mut status, mut mark, mut timeout) = (0, 0, 0, None);
        let (mut start_stop, mut tcp_state) = ((None, None), None);
        let (mut counters_original, mut counters_reply) = (None, None);
        // Of several attributes with the same type the last one counts, as in the C library.
        for attribute in self.attributes()? {
            let (kind, value) = attribute?;
            match u32::from(kind) {
                sys::CTA_TUPLE_ORIG => original = Some(value),
                sys::CTA_TUPLE_REPLY => reply = Some(value),
                sys::CTA_ZONE => zone = Some(u16_be(kind, value)?),
                sys::CTA_ID => id = u32_be(kind, value)?,
                sys::CTA_STATUS => status = u32_be(kind, value)?,
                sys::CTA_MARK => mark = u32_be(kind, value)?,
                sys::CTA_TIMEOUT => timeout = Some(u32_be(kind, value)?),
                sys::CTA_TIMESTAMP => start_stop = read_timestamp(value)?,
                sys::CTA_PROTOINFO => tcp_state = read_tcp_state(value)?,
                sys::CTA_COUNTERS_ORIG => counters_original = read_counters(value)?,
                sys::CTA_COUNTERS_REPLY => counters_reply = read_counters(value)?,
                _ => {}
            }
        }
        let (Some(original), Some(reply)) = (original, reply) else { return Err(Malformed::NoTuple) };
        let mut original = read_tuple(sys::CTA_TUPLE_ORIG as u16, original)?;
        let mut reply = read_tuple(sys::CTA_TUPLE_REPLY as u16, reply)?;
        if original.src.is_ipv4() != reply.src.is_ipv4() {
            return Err(Malformed::Tuple(sys::CTA_TUPLE_REPLY as u16));
        }
        // A zone of both directions is next to the tuples, a zone of one direction is in its tuple.
        if let Some(zone) = zone {
            original.zone = zone;
            reply.zone = zone;
        }
        let (start, stop) = start_stop;
        let status = Status(status);
        Ok(Flow {
            original,
            reply,
            id,
            status,
            mark,
            timeout,
            start,
            stop,
            tcp_state,
            counters_original,
            counters_reply,
        })
    }
}

pub(super) fn read_tuple(kind: u16, value: &[u8]) -> Result<Tuple, Malformed> {
    if let Some(tuple) = value.try_into().ok().and_then(v4_with_ports) {
        return Ok(tuple);
    }
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
    let incomplete = Malformed::Tuple(kind);
    let (src, dst) = read_addresses(addresses.ok_or(incomplete)?)?.ok_or(incomplete)?;
    let (protocol, layer4) = read_protocol(kind, protocol.ok_or(incomplete)?)?;
    Ok(Tuple { src, dst, protocol, layer4, zone })
}

/// The header of an attribute with `size` bytes, as it is in memory.
const fn header(kind: u32, size: u16) -> u32 {
    let ([l0, l1], [k0, k1]) = ((ATTRIBUTE as u16 + size).to_ne_bytes(), (kind as u16).to_ne_bytes());
    u32::from_ne_bytes([l0, l1, k0, k1])
}

/// Whether a value has these headers at these places. One comparison then replaces the iteration over the
/// attributes: the kernel nearly always writes the same ones in the same order.
#[inline]
fn has_form<const SIZE: usize, const HEADERS: usize>(
    value: &[u8; SIZE],
    headers: &[(usize, u32); HEADERS],
) -> bool {
    headers.iter().fold(0, |different, (at, header)| different | (u32_ne(value, *at) ^ header)) == 0
}

const NESTED: u32 = attributes::NESTED as u32;

/// A tuple in the form in which the kernel writes IPv4 with ports: most tuples.
#[inline]
fn v4_with_ports(value: &[u8; 48]) -> Option<Tuple> {
    const FORM: [(usize, u32); 7] = [
        (0, header(sys::CTA_TUPLE_IP | NESTED, 16)),
        (4, header(sys::CTA_IP_V4_SRC, 4)),
        (12, header(sys::CTA_IP_V4_DST, 4)),
        (20, header(sys::CTA_TUPLE_PROTO | NESTED, 24)),
        (24, header(sys::CTA_PROTO_NUM, 1)),
        (32, header(sys::CTA_PROTO_SRC_PORT, 2)),
        (40, header(sys::CTA_PROTO_DST_PORT, 2)),
    ];
    if !has_form(value, &FORM) {
        return None;
    }
    let address = |at: usize| Ipv4Addr::new(value[at], value[at + 1], value[at + 2], value[at + 3]).into();
    let port = |at: usize| u16::from_be_bytes([value[at], value[at + 1]]);
    let protocol = Protocol::from(value[28]);
    let layer4 = layer4(protocol, [port(36), port(44)], (0, 0, 0));
    Some(Tuple { src: address(8), dst: address(16), protocol, layer4, zone: 0 })
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
    Ok((protocol, layer4(protocol, [src, dst], (id, icmp_type, code))))
}

/// The part of a tuple that this protocol has: of ports, or of identifier, type and code.
#[inline]
fn layer4(protocol: Protocol, [src, dst]: [u16; 2], (id, kind, code): (u16, u8, u8)) -> Layer4 {
    match protocol {
        Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id, kind, code },
        Protocol::Gre => Layer4::Keys { src, dst },
        Protocol::Other(_) => Layer4::None,
        _ => Layer4::Ports { src, dst },
    }
}

/// Start and end of the connection.
fn read_timestamp(value: &[u8]) -> Result<(Option<u64>, Option<u64>), Malformed> {
    let (mut start, mut stop) = (None, None);
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        match u32::from(inner) {
            sys::CTA_TIMESTAMP_START => start = Some(u64_be(inner, value)?),
            sys::CTA_TIMESTAMP_STOP => stop = Some(u64_be(inner, value)?),
            _ => {}
        }
    }
    Ok((start, stop))
}

/// The state of a TCP connection in the form in which the kernel writes it, except in DESTROY events.
#[inline]
fn tcp_state(value: &[u8; 44]) -> Option<TcpState> {
    const FORM: [(usize, u32); 6] = [
        (0, header(sys::CTA_PROTOINFO_TCP | NESTED, 40)),
        (4, header(sys::CTA_PROTOINFO_TCP_STATE, 1)),
        (12, header(sys::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, 1)),
        (20, header(sys::CTA_PROTOINFO_TCP_WSCALE_REPLY, 1)),
        (28, header(sys::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, 2)),
        (36, header(sys::CTA_PROTOINFO_TCP_FLAGS_REPLY, 2)),
    ];
    has_form(value, &FORM).then(|| value[8].into())
}

/// The state of a TCP connection; `None` for other protocols.
fn read_tcp_state(value: &[u8]) -> Result<Option<TcpState>, Malformed> {
    if let Some(state) = value.try_into().ok().and_then(tcp_state) {
        return Ok(Some(state));
    }
    let mut state = None;
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        if u32::from(inner) != sys::CTA_PROTOINFO_TCP {
            continue;
        }
        state = None;
        for attribute in Attributes::new(value) {
            let (inner, value) = attribute?;
            if u32::from(inner) == sys::CTA_PROTOINFO_TCP_STATE {
                state = Some(byte(inner, value)?);
            }
        }
    }
    Ok(state.map(TcpState::from))
}

/// Packets and bytes of one direction; `None` if one of them is missing.
fn read_counters(value: &[u8]) -> Result<Option<Counters>, Malformed> {
    let (mut packets, mut bytes) = (None, None);
    for attribute in Attributes::new(value) {
        let (inner, value) = attribute?;
        match u32::from(inner) {
            sys::CTA_COUNTERS_PACKETS => packets = Some(u64_be(inner, value)?),
            sys::CTA_COUNTERS_BYTES => bytes = Some(u64_be(inner, value)?),
            _ => {}
        }
    }
    Ok(packets.zip(bytes).map(|(packets, bytes)| Counters { packets, bytes }))
}
