//! Reading netlink messages into an object.
//!
//! The library's parser does not check its input. An attribute of a wrong size makes it end the process
//! ("ctnetlink kernel ABI is broken"), and it reads text up to the next zero byte, even past the end of the
//! message. So this module first checks a message against the sizes that the parser expects.

use nfct_sys as sys;

use super::helper_info::MOST_BYTES;
use super::object::Conntrack;
use crate::error::Error;
use crate::family::Family;
use crate::wire::{Attributes, Malformed, Messages};

/// Size of `struct nfgenmsg`, the start of each message's payload.
const NFGENMSG: usize = 4;

/// The library keeps at most 65,536 labels.
const MOST_LABELS: usize = 65_536;

impl Conntrack {
    /// Makes the library read one netlink message, header included.
    ///
    /// ```
    /// use nfct::{Conntrack, Layer3, Protocol, attr};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set(attr::ORIG_L3PROTO, Layer3::Ipv4)?.set(attr::ORIG_IPV4_SRC, [10, 0, 0, 1].into())?;
    /// let message = entry.to_message()?;
    /// assert_eq!(Conntrack::parse(&message)?.get(attr::ORIG_IPV4_SRC), Some([10, 0, 0, 1].into()));
    /// assert!(Conntrack::parse(&message[..message.len() - 1]).is_err());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`] if a length or the size of an attribute does not fit.
    pub fn parse(message: &[u8]) -> Result<Self, Error> {
        const DOING: &str = "reading a conntrack message";
        let malformed = |source| Error::Malformed { doing: DOING, source };
        let first = Messages::new(message).next().unwrap_or(Err(Malformed::Length)).map_err(malformed)?;
        let attributes = first.payload.get(NFGENMSG..).ok_or(Malformed::Length).map_err(malformed)?;
        let family = first.payload.first().copied().unwrap_or(0);
        Self::read(attributes, family, DOING)
    }

    /// Makes the library read the attributes of a message, without the header and the `struct nfgenmsg`.
    /// `family` is the family of the tuples.
    ///
    /// ```
    /// # fn main() -> Result<(), nfct::Error> {
    /// # use nfct::{Conntrack, Family};
    /// // CTA_MARK, 7
    /// let mark = [8_u16.to_ne_bytes(), 8_u16.to_ne_bytes(), [0, 0], [0, 7]].concat();
    /// assert_eq!(Conntrack::parse_attributes(&mark, Family::Ipv4)?.mark(), Some(7));
    /// assert!(Conntrack::parse_attributes(&mark[..6], Family::Ipv4).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`] if a length or the size of an attribute does not fit.
    pub fn parse_attributes(attributes: &[u8], family: Family) -> Result<Self, Error> {
        Self::read(attributes, family.number(), "reading conntrack attributes")
    }

    fn read(attributes: &[u8], family: u8, doing: &'static str) -> Result<Self, Error> {
        check(attributes, ENTRY).map_err(|source| Error::Malformed { doing, source })?;
        let mut entry = Self::new()?;
        // SAFETY: the attributes were checked to lie within the slice and to have the expected sizes.
        unsafe { entry.read_attributes(attributes, family, doing)? };
        Ok(entry)
    }
}

/// What the parser expects of an attribute.
#[derive(Clone, Copy)]
enum Shape {
    /// Exactly this many bytes.
    Bytes(usize),
    /// At most this many bytes.
    AtMost(usize),
    /// Text with a zero byte in it, where the parser stops.
    Text,
    /// Attributes.
    Nested(&'static [(u32, Shape)]),
    /// Never valid: the parser's table has no entry for it, and the parser would write past its end.
    Never,
}

use Shape::{AtMost, Bytes, Nested, Never, Text};

const TUPLE: &[(u32, Shape)] = &[
    (
        sys::CTA_TUPLE_IP,
        Nested(&[
            (sys::CTA_IP_V4_SRC, Bytes(4)),
            (sys::CTA_IP_V4_DST, Bytes(4)),
            (sys::CTA_IP_V6_SRC, Bytes(16)),
            (sys::CTA_IP_V6_DST, Bytes(16)),
        ]),
    ),
    (
        sys::CTA_TUPLE_PROTO,
        Nested(&[
            (sys::CTA_PROTO_NUM, Bytes(1)),
            (sys::CTA_PROTO_SRC_PORT, Bytes(2)),
            (sys::CTA_PROTO_DST_PORT, Bytes(2)),
            (sys::CTA_PROTO_ICMP_ID, Bytes(2)),
            (sys::CTA_PROTO_ICMP_TYPE, Bytes(1)),
            (sys::CTA_PROTO_ICMP_CODE, Bytes(1)),
            (sys::CTA_PROTO_ICMPV6_ID, Bytes(2)),
            (sys::CTA_PROTO_ICMPV6_TYPE, Bytes(1)),
            (sys::CTA_PROTO_ICMPV6_CODE, Bytes(1)),
        ]),
    ),
    (sys::CTA_TUPLE_ZONE, Bytes(2)),
];

const PROTOCOL_INFO: &[(u32, Shape)] = &[
    (
        sys::CTA_PROTOINFO_TCP,
        Nested(&[
            (sys::CTA_PROTOINFO_TCP_STATE, Bytes(1)),
            (sys::CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, Bytes(1)),
            (sys::CTA_PROTOINFO_TCP_WSCALE_REPLY, Bytes(1)),
            (sys::CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, Bytes(2)),
            (sys::CTA_PROTOINFO_TCP_FLAGS_REPLY, Bytes(2)),
        ]),
    ),
    (
        sys::CTA_PROTOINFO_SCTP,
        Nested(&[
            (sys::CTA_PROTOINFO_SCTP_STATE, Bytes(1)),
            (sys::CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, Bytes(4)),
            (sys::CTA_PROTOINFO_SCTP_VTAG_REPLY, Bytes(4)),
        ]),
    ),
    (
        sys::CTA_PROTOINFO_DCCP,
        Nested(&[
            (sys::CTA_PROTOINFO_DCCP_STATE, Bytes(1)),
            (sys::CTA_PROTOINFO_DCCP_ROLE, Bytes(1)),
            (sys::CTA_PROTOINFO_DCCP_HANDSHAKE_SEQ, Bytes(8)),
        ]),
    ),
    // The parser accepts types up to the last of TCP's details here.
    (sys::__CTA_PROTOINFO_MAX, Never),
    (sys::__CTA_PROTOINFO_TCP_MAX - 1, Never),
];

const COUNTERS: &[(u32, Shape)] = &[
    (sys::CTA_COUNTERS_PACKETS, Bytes(8)),
    (sys::CTA_COUNTERS_BYTES, Bytes(8)),
    (sys::CTA_COUNTERS32_PACKETS, Bytes(4)),
    (sys::CTA_COUNTERS32_BYTES, Bytes(4)),
];

const SEQUENCE: &[(u32, Shape)] = &[
    (sys::CTA_NAT_SEQ_CORRECTION_POS, Bytes(4)),
    (sys::CTA_NAT_SEQ_OFFSET_BEFORE, Bytes(4)),
    (sys::CTA_NAT_SEQ_OFFSET_AFTER, Bytes(4)),
];

/// `CTA_TIMESTAMP_EVENT`, which the header of 1.0.9 does not have.
const TIMESTAMP_EVENT: u32 = 27;

const ENTRY: &[(u32, Shape)] = &[
    (sys::CTA_TUPLE_ORIG, Nested(TUPLE)),
    (sys::CTA_TUPLE_REPLY, Nested(TUPLE)),
    (sys::CTA_TUPLE_MASTER, Nested(TUPLE)),
    (sys::CTA_NAT_SEQ_ADJ_ORIG, Nested(SEQUENCE)),
    (sys::CTA_NAT_SEQ_ADJ_REPLY, Nested(SEQUENCE)),
    (sys::CTA_PROTOINFO, Nested(PROTOCOL_INFO)),
    (sys::CTA_COUNTERS_ORIG, Nested(COUNTERS)),
    (sys::CTA_COUNTERS_REPLY, Nested(COUNTERS)),
    (sys::CTA_HELP, Nested(&[(sys::CTA_HELP_NAME, Text), (sys::CTA_HELP_INFO, AtMost(MOST_BYTES))])),
    (sys::CTA_SECCTX, Nested(&[(sys::CTA_SECCTX_NAME, Text)])),
    (
        sys::CTA_TIMESTAMP,
        Nested(&[(sys::CTA_TIMESTAMP_START, Bytes(8)), (sys::CTA_TIMESTAMP_STOP, Bytes(8))]),
    ),
    (
        sys::CTA_SYNPROXY,
        Nested(&[
            (sys::CTA_SYNPROXY_ISN, Bytes(4)),
            (sys::CTA_SYNPROXY_ITS, Bytes(4)),
            (sys::CTA_SYNPROXY_TSOFF, Bytes(4)),
        ]),
    ),
    (sys::CTA_STATUS, Bytes(4)),
    (sys::CTA_TIMEOUT, Bytes(4)),
    (sys::CTA_MARK, Bytes(4)),
    (sys::CTA_SECMARK, Bytes(4)),
    (sys::CTA_USE, Bytes(4)),
    (sys::CTA_ID, Bytes(4)),
    (sys::CTA_ZONE, Bytes(2)),
    (sys::CTA_LABELS, AtMost(MOST_LABELS / 8)),
    (TIMESTAMP_EVENT, Bytes(8)),
];

/// Checks that all attributes that the parser reads have the shape that it expects.
///
/// # Errors
/// [`Malformed`], with the type of the first attribute that has another shape.
fn check(attributes: &[u8], shapes: &[(u32, Shape)]) -> Result<(), Malformed> {
    for attribute in Attributes::new(attributes) {
        let (kind, value) = attribute?;
        let Some((_, shape)) = shapes.iter().find(|(known, _)| *known == u32::from(kind)) else { continue };
        let fits = match shape {
            Bytes(size) => value.len() == *size,
            AtMost(size) => value.len() <= *size,
            Text => value.contains(&0),
            Nested(shapes) => {
                check(value, shapes)?;
                // The parser accepts no bytes, or at least the header of an attribute.
                value.is_empty() || value.len() >= 4
            }
            Never => false,
        };
        if !fits {
            return Err(Malformed::Size(kind));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_past_the_end_of_the_parsers_table_never_reach_it() {
        // CTA_PROTOINFO with one attribute inside, without a value.
        let protocol_info = |kind: u32| {
            let head = |length: u16, kind: u32| [length.to_ne_bytes(), (kind as u16).to_ne_bytes()].concat();
            [head(8, sys::CTA_PROTOINFO), head(4, kind)].concat()
        };
        let read = |kind| Conntrack::parse_attributes(&protocol_info(kind), Family::Ipv4);
        // From the end of its table to the last type that it accepts.
        for kind in sys::__CTA_PROTOINFO_MAX..sys::__CTA_PROTOINFO_TCP_MAX {
            assert!(matches!(read(kind), Err(Error::Malformed { .. })), "{kind}");
        }
        assert!(read(sys::CTA_PROTOINFO_TCP).is_ok() && read(sys::__CTA_PROTOINFO_TCP_MAX).is_ok());
    }
}
