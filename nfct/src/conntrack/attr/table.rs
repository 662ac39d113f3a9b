//! The constants, one for each attribute, and the table of their names.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use nfct_sys as sys;

use super::codec;
use crate::conntrack::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::labels::Labels;
use crate::state::{DccpRole, DccpState, Layer3, SctpState, Status, TcpFlags, TcpState};
use crate::tuple::Protocol;

/// An attribute whose value is a `T`.
///
/// ```
/// use nfct::attr::{self, Attribute};
///
/// const MINE: Attribute<u32> = attr::MARK;
/// assert_eq!(MINE.id().name(), "ATTR_MARK");
/// ```
pub struct Attribute<T> {
    id: Id,
    read: fn(&ConntrackRef, u32) -> Option<T>,
    write: fn(&mut Conntrack, u32, T) -> Result<(), Error>,
}

impl<T> Attribute<T> {
    /// Which attribute it is, without its type.
    pub const fn id(self) -> Id {
        self.id
    }

    /// The value that is set in `entry`.
    pub(in crate::conntrack) fn read(self, entry: &ConntrackRef) -> Option<T> {
        (self.read)(entry, self.id.0)
    }

    /// Sets the value in `entry`. The library must know the attribute, its memory must be free, and a
    /// helper's data must not be set yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text or a helper's data that are too long; `entry` is unchanged then.
    pub(in crate::conntrack) fn write(self, entry: &mut Conntrack, value: T) -> Result<(), Error> {
        (self.write)(entry, self.id.0, value)
    }
}

impl<T> Clone for Attribute<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Attribute<T> {}

impl<T> fmt::Debug for Attribute<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// Which attribute it is, without its type.
///
/// ```
/// use nfct::attr;
///
/// assert!(attr::all().any(|id| id == attr::USE.id() && id.is_read_only()));
/// assert_eq!(attr::MARK.id().to_string(), "ATTR_MARK");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Id(u32);

impl Id {
    /// Its name in the C header.
    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.name)
    }

    /// The header's number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Whether only the kernel sets it.
    pub fn is_read_only(self) -> bool {
        self.row().is_some_and(|row| row.read_only)
    }

    /// Whether the installed library knows it: this crate knows attributes that are newer than
    /// version 1.0.9.
    pub fn is_known(self) -> bool {
        Conntrack::new().is_ok_and(|entry| entry.knows(self.0))
    }

    fn row(self) -> Option<&'static Row> {
        ROWS.get(self.0 as usize)
    }
}

impl<T> From<Attribute<T>> for Id {
    fn from(attribute: Attribute<T>) -> Self {
        attribute.id
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All attributes, in the order of the header.
///
/// ```
/// assert_eq!(nfct::attr::all().next(), Some(nfct::attr::ORIG_IPV4_SRC.id()));
/// ```
pub fn all() -> impl Iterator<Item = Id> {
    (0..ROWS.len() as u32).map(Id)
}

struct Row {
    name: &'static str,
    read_only: bool,
    show: fn(&ConntrackRef) -> Option<Box<dyn fmt::Debug>>,
}

/// The attributes that are set in `entry`, with their values, for `Debug`.
pub(in crate::conntrack) fn show(entry: &ConntrackRef) -> impl Iterator<Item = (Id, Box<dyn fmt::Debug>)> {
    all().zip(ROWS).filter_map(|(id, row)| Some((id, (row.show)(entry)?)))
}

macro_rules! example {
    (settable $name:ident, $sample:literal) => {
        concat!(
            "```\n# use std::net::{Ipv4Addr, Ipv6Addr};\n# use std::time::{Duration, SystemTime};\n",
            "use nfct::*;\n\nlet mut entry = Conntrack::new()?;\n",
            "entry.set(attr::",
            stringify!($name),
            ", ",
            $sample,
            ")?;\n",
            "assert_eq!(entry.get(attr::",
            stringify!($name),
            "), Some(",
            $sample,
            "));\n",
            "# Ok::<(), Error>(())\n```"
        )
    };
    (read_only $name:ident, $sample:literal) => {
        concat!(
            "Read-only.\n```\n# use std::time::SystemTime;\nuse nfct::*;\n\n",
            "let mut entry = Conntrack::new()?;\n",
            "assert_eq!(entry.get(attr::",
            stringify!($name),
            "), None);\n",
            "assert!(entry.set(attr::",
            stringify!($name),
            ", ",
            $sample,
            ").is_err());\n",
            "# Ok::<(), Error>(())\n```"
        )
    };
}

macro_rules! attributes {
    ($( $(#[$doc:meta])* $access:ident $name:ident = $number:expr, $type:ty, $codec:ident, $sample:literal; )*) => {
        $(
            $(#[$doc])*
            ///
            #[doc = example!($access $name, $sample)]
            pub const $name: Attribute<$type> =
                Attribute { id: Id($number), read: codec::$codec::read, write: codec::$codec::write };
        )*

        const ROWS: &[Row] = &[$(
            Row {
                name: concat!("ATTR_", stringify!($name)),
                read_only: attributes!(@$access),
                show: |entry| Some(Box::new($name.read(entry)?)),
            },
        )*];

        /// The constants' numbers, in the order of their rows.
        #[cfg(test)]
        const NUMBERS: &[u32] = &[$( $number, )*];
    };
    (@read_only) => { true };
    (@settable) => { false };
}

// In the order of the header: an attribute's number is its position here.
attributes! {
    /// Source address of the original tuple.
    settable ORIG_IPV4_SRC = sys::ATTR_ORIG_IPV4_SRC, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Destination address of the original tuple.
    settable ORIG_IPV4_DST = sys::ATTR_ORIG_IPV4_DST, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Source address of the reply tuple.
    settable REPL_IPV4_SRC = sys::ATTR_REPL_IPV4_SRC, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Destination address of the reply tuple.
    settable REPL_IPV4_DST = sys::ATTR_REPL_IPV4_DST, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Source address of the original tuple.
    settable ORIG_IPV6_SRC = sys::ATTR_ORIG_IPV6_SRC, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Destination address of the original tuple.
    settable ORIG_IPV6_DST = sys::ATTR_ORIG_IPV6_DST, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Source address of the reply tuple.
    settable REPL_IPV6_SRC = sys::ATTR_REPL_IPV6_SRC, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Destination address of the reply tuple.
    settable REPL_IPV6_DST = sys::ATTR_REPL_IPV6_DST, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Source port of the original tuple, host byte order; for GRE the key.
    settable ORIG_PORT_SRC = sys::ATTR_ORIG_PORT_SRC, u16, port, "443";
    /// Destination port of the original tuple, host byte order; for GRE the key.
    settable ORIG_PORT_DST = sys::ATTR_ORIG_PORT_DST, u16, port, "443";
    /// Source port of the reply tuple, host byte order; for GRE the key.
    settable REPL_PORT_SRC = sys::ATTR_REPL_PORT_SRC, u16, port, "443";
    /// Destination port of the reply tuple, host byte order; for GRE the key.
    settable REPL_PORT_DST = sys::ATTR_REPL_PORT_DST, u16, port, "443";
    /// ICMP type of the original tuple; the library derives the reply's from it.
    settable ICMP_TYPE = sys::ATTR_ICMP_TYPE, u8, u8, "8";
    /// ICMP code.
    settable ICMP_CODE = sys::ATTR_ICMP_CODE, u8, u8, "0";
    /// ICMP identifier of the original tuple, host byte order.
    settable ICMP_ID = sys::ATTR_ICMP_ID, u16, port, "77";
    /// Network protocol of the original tuple.
    settable ORIG_L3PROTO = sys::ATTR_ORIG_L3PROTO, Layer3, layer3, "Layer3::Ipv6";
    /// Network protocol of the reply tuple.
    settable REPL_L3PROTO = sys::ATTR_REPL_L3PROTO, Layer3, layer3, "Layer3::Ipv6";
    /// Transport protocol of the original tuple.
    settable ORIG_L4PROTO = sys::ATTR_ORIG_L4PROTO, Protocol, protocol, "Protocol::Udp";
    /// Transport protocol of the reply tuple.
    settable REPL_L4PROTO = sys::ATTR_REPL_L4PROTO, Protocol, protocol, "Protocol::Udp";
    /// TCP state.
    settable TCP_STATE = sys::ATTR_TCP_STATE, TcpState, tcp_state, "TcpState::Established";
    /// Address to which the kernel translates the source of a new entry.
    settable SNAT_IPV4 = sys::ATTR_SNAT_IPV4, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Address to which the kernel translates the destination of a new entry.
    settable DNAT_IPV4 = sys::ATTR_DNAT_IPV4, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Port to which the kernel translates the source of a new entry, host byte order.
    settable SNAT_PORT = sys::ATTR_SNAT_PORT, u16, port, "40000";
    /// Port to which the kernel translates the destination of a new entry, host byte order.
    settable DNAT_PORT = sys::ATTR_DNAT_PORT, u16, port, "40000";
    /// How long the kernel keeps the idle entry, in whole seconds, at most `u32::MAX`.
    settable TIMEOUT = sys::ATTR_TIMEOUT, Duration, seconds, "Duration::from_secs(300)";
    /// The connection mark.
    settable MARK = sys::ATTR_MARK, u32, u32, "7";
    /// Packets seen in the original direction, with `nf_conntrack_acct`.
    read_only ORIG_COUNTER_PACKETS = sys::ATTR_ORIG_COUNTER_PACKETS, u64, u64, "1";
    /// Packets seen in the reply direction, with `nf_conntrack_acct`.
    read_only REPL_COUNTER_PACKETS = sys::ATTR_REPL_COUNTER_PACKETS, u64, u64, "1";
    /// Bytes seen in the original direction, with `nf_conntrack_acct`.
    read_only ORIG_COUNTER_BYTES = sys::ATTR_ORIG_COUNTER_BYTES, u64, u64, "1";
    /// Bytes seen in the reply direction, with `nf_conntrack_acct`.
    read_only REPL_COUNTER_BYTES = sys::ATTR_REPL_COUNTER_BYTES, u64, u64, "1";
    /// References that the kernel holds on the entry.
    read_only USE = sys::ATTR_USE, u32, u32, "1";
    /// The kernel's id of this lifetime of the connection.
    settable ID = sys::ATTR_ID, u32, u32, "1";
    /// State bits.
    settable STATUS = sys::ATTR_STATUS, Status, status, "Status::ASSURED";
    /// Flags of the TCP endpoint that sends in the original direction. The kernel changes only those in
    /// the mask.
    settable TCP_FLAGS_ORIG = sys::ATTR_TCP_FLAGS_ORIG, TcpFlags, tcp_flags, "TcpFlags::BE_LIBERAL";
    /// Flags of the TCP endpoint that sends in the reply direction. The kernel changes only those in the
    /// mask.
    settable TCP_FLAGS_REPL = sys::ATTR_TCP_FLAGS_REPL, TcpFlags, tcp_flags, "TcpFlags::BE_LIBERAL";
    /// Which flags of the original direction the kernel changes.
    settable TCP_MASK_ORIG = sys::ATTR_TCP_MASK_ORIG, TcpFlags, tcp_flags, "TcpFlags::BE_LIBERAL";
    /// Which flags of the reply direction the kernel changes.
    settable TCP_MASK_REPL = sys::ATTR_TCP_MASK_REPL, TcpFlags, tcp_flags, "TcpFlags::BE_LIBERAL";
    /// Source address of the connection whose helper expected this one.
    settable MASTER_IPV4_SRC = sys::ATTR_MASTER_IPV4_SRC, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Destination address of the connection whose helper expected this one.
    settable MASTER_IPV4_DST = sys::ATTR_MASTER_IPV4_DST, Ipv4Addr, ipv4, "Ipv4Addr::new(192, 0, 2, 1)";
    /// Source address of the connection whose helper expected this one.
    settable MASTER_IPV6_SRC = sys::ATTR_MASTER_IPV6_SRC, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Destination address of the connection whose helper expected this one.
    settable MASTER_IPV6_DST = sys::ATTR_MASTER_IPV6_DST, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Source port of the connection whose helper expected this one, host byte order.
    settable MASTER_PORT_SRC = sys::ATTR_MASTER_PORT_SRC, u16, port, "21";
    /// Destination port of the connection whose helper expected this one, host byte order.
    settable MASTER_PORT_DST = sys::ATTR_MASTER_PORT_DST, u16, port, "21";
    /// Network protocol of the connection whose helper expected this one.
    settable MASTER_L3PROTO = sys::ATTR_MASTER_L3PROTO, Layer3, layer3, "Layer3::Ipv4";
    /// Transport protocol of the connection whose helper expected this one.
    settable MASTER_L4PROTO = sys::ATTR_MASTER_L4PROTO, Protocol, protocol, "Protocol::Tcp";
    /// The security mark.
    settable SECMARK = sys::ATTR_SECMARK, u32, u32, "7";
    /// TCP sequence number, in the original direction, after which the second offset applies.
    settable ORIG_NAT_SEQ_CORRECTION_POS = sys::ATTR_ORIG_NAT_SEQ_CORRECTION_POS, u32, u32, "1000";
    /// Offset of sequence numbers in the original direction up to that position.
    settable ORIG_NAT_SEQ_OFFSET_BEFORE = sys::ATTR_ORIG_NAT_SEQ_OFFSET_BEFORE, i32, i32, "-3";
    /// Offset of sequence numbers in the original direction after that position.
    settable ORIG_NAT_SEQ_OFFSET_AFTER = sys::ATTR_ORIG_NAT_SEQ_OFFSET_AFTER, i32, i32, "5";
    /// TCP sequence number, in the reply direction, after which the second offset applies.
    settable REPL_NAT_SEQ_CORRECTION_POS = sys::ATTR_REPL_NAT_SEQ_CORRECTION_POS, u32, u32, "1000";
    /// Offset of sequence numbers in the reply direction up to that position.
    settable REPL_NAT_SEQ_OFFSET_BEFORE = sys::ATTR_REPL_NAT_SEQ_OFFSET_BEFORE, i32, i32, "-3";
    /// Offset of sequence numbers in the reply direction after that position.
    settable REPL_NAT_SEQ_OFFSET_AFTER = sys::ATTR_REPL_NAT_SEQ_OFFSET_AFTER, i32, i32, "5";
    /// SCTP state.
    settable SCTP_STATE = sys::ATTR_SCTP_STATE, SctpState, sctp_state, "SctpState::Established";
    /// Verification tag of the original direction.
    settable SCTP_VTAG_ORIG = sys::ATTR_SCTP_VTAG_ORIG, u32, u32, "0xdead_beef";
    /// Verification tag of the reply direction.
    settable SCTP_VTAG_REPL = sys::ATTR_SCTP_VTAG_REPL, u32, u32, "0xdead_beef";
    /// Name of the helper, at most 15 bytes.
    settable HELPER_NAME = sys::ATTR_HELPER_NAME, String, text, r#""ftp".to_owned()"#;
    /// DCCP state.
    settable DCCP_STATE = sys::ATTR_DCCP_STATE, DccpState, dccp_state, "DccpState::Open";
    /// Which DCCP endpoint sends in the original direction.
    settable DCCP_ROLE = sys::ATTR_DCCP_ROLE, DccpRole, dccp_role, "DccpRole::Server";
    /// DCCP sequence number of the handshake.
    settable DCCP_HANDSHAKE_SEQ = sys::ATTR_DCCP_HANDSHAKE_SEQ, u64, u64, "1";
    /// Window scale that the sender of the original direction announced.
    settable TCP_WSCALE_ORIG = sys::ATTR_TCP_WSCALE_ORIG, u8, u8, "7";
    /// Window scale that the sender of the reply direction announced.
    settable TCP_WSCALE_REPL = sys::ATTR_TCP_WSCALE_REPL, u8, u8, "7";
    /// Zone of both directions.
    settable ZONE = sys::ATTR_ZONE, u16, u16, "5";
    /// Security context, as SELinux writes it.
    read_only SECCTX = sys::ATTR_SECCTX, String, text, "String::new()";
    /// When the connection began, with `nf_conntrack_timestamp`.
    read_only TIMESTAMP_START = sys::ATTR_TIMESTAMP_START, SystemTime, time, "SystemTime::UNIX_EPOCH";
    /// When the connection ended, with `nf_conntrack_timestamp`.
    read_only TIMESTAMP_STOP = sys::ATTR_TIMESTAMP_STOP, SystemTime, time, "SystemTime::UNIX_EPOCH";
    /// The helper's data on the connection, at most 65000 bytes (the kernel keeps 32).
    settable HELPER_INFO = sys::ATTR_HELPER_INFO, Vec<u8>, info, "vec![1, 2, 3]";
    /// Connection labels; the kernel keeps 128.
    settable CONNLABELS = sys::ATTR_CONNLABELS, Labels, labels, "Labels::new(127)?";
    /// Which labels an update changes; must have the size of the labels.
    settable CONNLABELS_MASK = sys::ATTR_CONNLABELS_MASK, Labels, labels, "Labels::new(127)?";
    /// Zone of only the original direction.
    settable ORIG_ZONE = sys::ATTR_ORIG_ZONE, u16, u16, "5";
    /// Zone of only the reply direction.
    settable REPL_ZONE = sys::ATTR_REPL_ZONE, u16, u16, "5";
    /// Address to which the kernel translates the source of a new entry.
    settable SNAT_IPV6 = sys::ATTR_SNAT_IPV6, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Address to which the kernel translates the destination of a new entry.
    settable DNAT_IPV6 = sys::ATTR_DNAT_IPV6, Ipv6Addr, ipv6, "Ipv6Addr::LOCALHOST";
    /// Initial sequence number that the SYN proxy sent.
    settable SYNPROXY_ISN = sys::ATTR_SYNPROXY_ISN, u32, u32, "1";
    /// Initial timestamp that the SYN proxy sent.
    settable SYNPROXY_ITS = sys::ATTR_SYNPROXY_ITS, u32, u32, "1";
    /// Offset of timestamps that pass the SYN proxy.
    settable SYNPROXY_TSOFF = sys::ATTR_SYNPROXY_TSOFF, u32, u32, "1";
    /// When the event happened, with `nf_conntrack_timestamp`, Linux 6.14 or newer and
    /// libnetfilter_conntrack 1.1.1 or newer.
    read_only TIMESTAMP_EVENT = 75, SystemTime, time, "SystemTime::UNIX_EPOCH";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_numbers_and_none_of_the_header_is_missing() {
        assert!(NUMBERS.iter().copied().eq(0..ROWS.len() as u32));
        assert!(ROWS.len() as u32 >= sys::ATTR_MAX, "the header has an attribute that is not here");
        let entry = Conntrack::new().unwrap();
        for id in all() {
            assert_eq!(id.is_known(), entry.knows(id.number()));
            assert!(id.is_known() || id == TIMESTAMP_EVENT.id(), "{id}");
        }
    }
}
