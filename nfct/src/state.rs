//! What the kernel records about a connection: protocol states, roles, flags and status bits.

use std::fmt;

use nfct_sys as sys;

/// An enumeration of the kernel with names. It also has values without a name, for newer kernels.
macro_rules! numbered {
    (
        $(#[$about:meta])*
        $name:ident { $( $(#[$doc:meta])* $variant:ident = $number:expr, $text:literal; )* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$doc])* $variant, )*
            /// Any other number. `from` never returns this for a number that has a name above.
            Other(u8),
        }

        impl $name {
            /// The kernel's number.
            pub const fn number(self) -> u8 {
                match self {
                    $( $name::$variant => $number as u8, )*
                    $name::Other(number) => number,
                }
            }

            /// The name that the C library prints, or `None` for a number without a name.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $( $name::$variant => Some($text), )*
                    $name::Other(_) => None,
                }
            }
        }

        impl From<u8> for $name {
            fn from(number: u8) -> Self {
                $( if number == $number as u8 { return $name::$variant; } )*
                $name::Other(number)
            }
        }

        /// Writes the name, or the number if there is none.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => self.number().fmt(f),
                }
            }
        }
    };
}

numbered! {
    /// A network protocol, by its address family.
    ///
    /// ```
    /// assert_eq!(nfct::Layer3::from(2), nfct::Layer3::Ipv4);
    /// ```
    Layer3 {
        /// IPv4.
        Ipv4 = libc::AF_INET, "ipv4";
        /// IPv6.
        Ipv6 = libc::AF_INET6, "ipv6";
    }
}

numbered! {
    /// The state of a TCP connection (`enum tcp_conntrack`).
    ///
    /// ```
    /// use nfct::TcpState;
    ///
    /// assert_eq!(TcpState::from(3), TcpState::Established);
    /// assert_eq!(TcpState::Established.to_string(), "ESTABLISHED");
    /// assert_eq!(TcpState::from(200).number(), 200);
    /// ```
    TcpState {
        /// No packet that sets a state was seen.
        None = sys::TCP_CONNTRACK_NONE, "NONE";
        /// SYN seen.
        SynSent = sys::TCP_CONNTRACK_SYN_SENT, "SYN_SENT";
        /// SYN and SYN-ACK seen.
        SynRecv = sys::TCP_CONNTRACK_SYN_RECV, "SYN_RECV";
        /// The handshake is done.
        Established = sys::TCP_CONNTRACK_ESTABLISHED, "ESTABLISHED";
        /// The first FIN was seen.
        FinWait = sys::TCP_CONNTRACK_FIN_WAIT, "FIN_WAIT";
        /// The first FIN was acknowledged.
        CloseWait = sys::TCP_CONNTRACK_CLOSE_WAIT, "CLOSE_WAIT";
        /// The second FIN was seen.
        LastAck = sys::TCP_CONNTRACK_LAST_ACK, "LAST_ACK";
        /// The second FIN was acknowledged: the connection is closed.
        TimeWait = sys::TCP_CONNTRACK_TIME_WAIT, "TIME_WAIT";
        /// A reset was seen.
        Close = sys::TCP_CONNTRACK_CLOSE, "CLOSE";
        /// Both endpoints sent a SYN.
        SynSent2 = sys::TCP_CONNTRACK_LISTEN, "SYN_SENT2";
    }
}

numbered! {
    /// The state of an SCTP association (`enum sctp_conntrack`).
    ///
    /// ```
    /// assert_eq!(nfct::SctpState::from(4), nfct::SctpState::Established);
    /// ```
    SctpState {
        /// No packet that sets a state was seen.
        None = sys::SCTP_CONNTRACK_NONE, "NONE";
        /// Ended.
        Closed = sys::SCTP_CONNTRACK_CLOSED, "CLOSED";
        /// INIT seen.
        CookieWait = sys::SCTP_CONNTRACK_COOKIE_WAIT, "COOKIE_WAIT";
        /// COOKIE-ECHO seen.
        CookieEchoed = sys::SCTP_CONNTRACK_COOKIE_ECHOED, "COOKIE_ECHOED";
        /// COOKIE-ACK seen.
        Established = sys::SCTP_CONNTRACK_ESTABLISHED, "ESTABLISHED";
        /// SHUTDOWN seen in the original direction.
        ShutdownSent = sys::SCTP_CONNTRACK_SHUTDOWN_SENT, "SHUTDOWN_SENT";
        /// SHUTDOWN seen in the reply direction.
        ShutdownReceived = sys::SCTP_CONNTRACK_SHUTDOWN_RECD, "SHUTDOWN_RECD";
        /// SHUTDOWN-ACK seen.
        ShutdownAckSent = sys::SCTP_CONNTRACK_SHUTDOWN_ACK_SENT, "SHUTDOWN_ACK_SENT";
        /// HEARTBEAT seen on a path that is not known yet.
        HeartbeatSent = sys::SCTP_CONNTRACK_HEARTBEAT_SENT, "HEARTBEAT_SENT";
        /// HEARTBEAT-ACK seen on such a path. Kernels since 6.2 do not have this state.
        HeartbeatAcked = sys::SCTP_CONNTRACK_HEARTBEAT_ACKED, "HEARTBEAT_ACKED";
    }
}

numbered! {
    /// The state of a DCCP connection (`enum ct_dccp_states`).
    ///
    /// ```
    /// assert_eq!(nfct::DccpState::from(4), nfct::DccpState::Open);
    /// ```
    DccpState {
        /// No packet that sets a state was seen.
        None = sys::DCCP_CONNTRACK_NONE, "NONE";
        /// REQUEST seen.
        Request = sys::DCCP_CONNTRACK_REQUEST, "REQUEST";
        /// RESPONSE seen.
        Respond = sys::DCCP_CONNTRACK_RESPOND, "RESPOND";
        /// The RESPONSE was acknowledged.
        PartOpen = sys::DCCP_CONNTRACK_PARTOPEN, "PARTOPEN";
        /// The handshake is done.
        Open = sys::DCCP_CONNTRACK_OPEN, "OPEN";
        /// CLOSEREQ seen.
        CloseReq = sys::DCCP_CONNTRACK_CLOSEREQ, "CLOSEREQ";
        /// CLOSE seen.
        Closing = sys::DCCP_CONNTRACK_CLOSING, "CLOSING";
        /// RESET seen.
        TimeWait = sys::DCCP_CONNTRACK_TIMEWAIT, "TIMEWAIT";
        /// Never the state of an entry: the kernel uses it for a packet to ignore.
        Ignore = sys::DCCP_CONNTRACK_IGNORE, "IGNORE";
        /// Never the state of an entry: the kernel uses it for an invalid packet.
        Invalid = sys::DCCP_CONNTRACK_INVALID, "INVALID";
    }
}

numbered! {
    /// Which endpoint of a DCCP connection sends in the original direction (`enum ct_dccp_roles`).
    ///
    /// ```
    /// assert_eq!(nfct::DccpRole::from(0), nfct::DccpRole::Client);
    /// ```
    DccpRole {
        /// The client.
        Client = sys::DCCP_CONNTRACK_ROLE_CLIENT, "CLIENT";
        /// The server.
        Server = sys::DCCP_CONNTRACK_ROLE_SERVER, "SERVER";
    }
}

/// A set of bits with names; `|` combines two.
macro_rules! bits {
    (
        $(#[$about:meta])*
        $name:ident($inner:ty) { $( $(#[$doc:meta])* $constant:ident = $value:expr, $text:literal; )* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(
            /// All bits, as the kernel numbers them.
            pub $inner,
        );

        impl $name {
            $( $(#[$doc])* pub const $constant: $name = $name($value as $inner); )*

            const NAMED: &'static [($name, &'static str)] = &[$( ($name::$constant, $text), )*];

            /// Whether all bits of `other` are set here.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = $name;

            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        /// Names joined by `|`, bits without a name in hexadecimal, and `0` if no bit is set.
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut rest = self.0;
                let mut between = "";
                for (bits, name) in Self::NAMED {
                    if self.contains(*bits) {
                        write!(f, "{between}{name}")?;
                        (rest, between) = (rest & !bits.0, "|");
                    }
                }
                match (rest, between) {
                    (0, "") => f.write_str("0"),
                    (0, _) => Ok(()),
                    (rest, between) => write!(f, "{between}{rest:#x}"),
                }
            }
        }
    };
}

pub(crate) use bits;

bits! {
    /// What the kernel has recorded about one endpoint of a TCP connection; combine flags with `|`.
    ///
    /// ```
    /// use nfct::TcpFlags;
    ///
    /// let flags = TcpFlags::WINDOW_SCALE | TcpFlags::SACK_PERMITTED;
    /// assert!(flags.contains(TcpFlags::SACK_PERMITTED));
    /// assert_eq!(flags.to_string(), "WINDOW_SCALE|SACK_PERMITTED");
    /// ```
    TcpFlags(u8) {
        /// The endpoint offered window scaling.
        WINDOW_SCALE = sys::IP_CT_TCP_FLAG_WINDOW_SCALE, "WINDOW_SCALE";
        /// The endpoint permits selective acknowledgements.
        SACK_PERMITTED = sys::IP_CT_TCP_FLAG_SACK_PERM, "SACK_PERMITTED";
        /// The endpoint sent the first FIN.
        CLOSE_INIT = sys::IP_CT_TCP_FLAG_CLOSE_INIT, "CLOSE_INIT";
        /// The kernel does not check this endpoint's sequence numbers.
        BE_LIBERAL = sys::IP_CT_TCP_FLAG_BE_LIBERAL, "BE_LIBERAL";
        // The library's header ends here. The rest is from `linux/netfilter/nf_conntrack_tcp.h`.
        /// Some data has not been acknowledged yet.
        DATA_UNACKNOWLEDGED = 0x10, "DATA_UNACKNOWLEDGED";
        /// The highest acknowledgement of the endpoint is known.
        MAX_ACK_SET = 0x20, "MAX_ACK_SET";
        /// A challenge ACK is expected.
        EXPECT_CHALLENGE_ACK = 0x40, "EXPECT_CHALLENGE_ACK";
        /// Both endpoints opened the connection at the same time.
        SIMULTANEOUS_OPEN = 0x80, "SIMULTANEOUS_OPEN";
    }
}

bits! {
    /// State bits of an entry (`enum ip_conntrack_status`); combine them with `|`.
    ///
    /// ```
    /// use nfct::Status;
    ///
    /// let status = Status::SEEN_REPLY | Status::ASSURED | Status::CONFIRMED;
    /// assert_eq!(status, Status(14));
    /// assert!(status.is_assured() && !status.is_source_nat());
    /// assert_eq!(status.to_string(), "SEEN_REPLY|ASSURED|CONFIRMED");
    /// ```
    Status(u32) {
        /// The entry came from an expectation (a helper's data connection).
        EXPECTED = sys::IPS_EXPECTED, "EXPECTED";
        /// Packets were seen in both directions.
        SEEN_REPLY = sys::IPS_SEEN_REPLY, "SEEN_REPLY";
        /// The kernel keeps the entry when the table is full.
        ASSURED = sys::IPS_ASSURED, "ASSURED";
        /// The first packet has passed the gateway: the entry is in the table.
        CONFIRMED = sys::IPS_CONFIRMED, "CONFIRMED";
        /// The source is translated.
        SRC_NAT = sys::IPS_SRC_NAT, "SRC_NAT";
        /// The destination is translated.
        DST_NAT = sys::IPS_DST_NAT, "DST_NAT";
        /// TCP sequence numbers are adjusted, because NAT changed the length of the payload.
        SEQUENCE_ADJUSTED = sys::IPS_SEQ_ADJUST, "SEQUENCE_ADJUSTED";
        /// The kernel has decided whether to translate the source.
        SRC_NAT_DONE = sys::IPS_SRC_NAT_DONE, "SRC_NAT_DONE";
        /// The kernel has decided whether to translate the destination.
        DST_NAT_DONE = sys::IPS_DST_NAT_DONE, "DST_NAT_DONE";
        /// The kernel is removing the entry: a dump can still contain it.
        DYING = sys::IPS_DYING, "DYING";
        /// Packets do not renew the timeout.
        FIXED_TIMEOUT = sys::IPS_FIXED_TIMEOUT, "FIXED_TIMEOUT";
        /// A template of a rule, not a connection.
        TEMPLATE = sys::IPS_TEMPLATE, "TEMPLATE";
        /// Up to Linux 4.11: the mark of untracked packets. Later kernels: see
        /// [`NAT_CLASH`](Self::NAT_CLASH), which is the same bit.
        UNTRACKED = sys::IPS_UNTRACKED, "UNTRACKED";
        /// A rule assigned the helper.
        HELPER = sys::IPS_HELPER, "HELPER";
        /// A flow table forwards its packets.
        OFFLOADED = sys::IPS_OFFLOAD, "OFFLOADED";
        /// Hardware forwards its packets.
        HARDWARE_OFFLOADED = sys::IPS_HW_OFFLOAD, "HARDWARE_OFFLOADED";
    }
}

impl Status {
    /// The entry lost a clash: the kernel processed two packets of one new connection at
    /// the same time, and gave them different translations. This entry exists so that the
    /// reply to its packet is translated back. The kernel sends no NEW event for it, lists
    /// it in no dump, finds it by its reply tuple alone, and removes it after a second or
    /// with the first reply. Its DESTROY event has the original tuple of the connection,
    /// which continues, but another id. The entry has
    /// [`FIXED_TIMEOUT`](Self::FIXED_TIMEOUT) too. The same bit as
    /// [`UNTRACKED`](Self::UNTRACKED).
    ///
    /// ```
    /// use nfct::Status;
    /// let status = Status::CONFIRMED | Status::FIXED_TIMEOUT | Status::NAT_CLASH;
    /// assert!(status.contains(Status::NAT_CLASH));
    /// ```
    pub const NAT_CLASH: Status = Status::UNTRACKED;

    /// Whether the entry came from an expectation (a helper's data connection).
    pub fn is_expected(self) -> bool {
        self.contains(Status::EXPECTED)
    }

    /// Whether packets were seen in both directions.
    pub fn has_seen_reply(self) -> bool {
        self.contains(Status::SEEN_REPLY)
    }

    /// Whether the kernel keeps the entry when the table is full.
    pub fn is_assured(self) -> bool {
        self.contains(Status::ASSURED)
    }

    /// Whether the source is translated.
    pub fn is_source_nat(self) -> bool {
        self.contains(Status::SRC_NAT)
    }

    /// Whether the destination is translated.
    pub fn is_destination_nat(self) -> bool {
        self.contains(Status::DST_NAT)
    }

    /// Whether the kernel is removing the entry: a dump can still contain it.
    pub fn is_dying(self) -> bool {
        self.contains(Status::DYING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_round_trip() {
        for number in 0..=u8::MAX {
            assert_eq!(TcpState::from(number).number(), number);
            assert_eq!(SctpState::from(number).number(), number);
            assert_eq!(DccpState::from(number).number(), number);
            assert_eq!(DccpRole::from(number).number(), number);
        }
        assert_eq!(TcpState::from(99).to_string(), "99");
    }

    #[test]
    fn bits_are_written_by_name_and_the_rest_as_a_number() {
        assert_eq!(Status(0).to_string(), "0");
        assert_eq!(Status(2 | 1 << 30).to_string(), "SEEN_REPLY|0x40000000");
        assert_eq!(
            (0..16).fold(Status(0), |all, bit| all | Status(1 << bit)).to_string().matches('|').count(),
            15
        );
        assert_eq!(Status::NAT_CLASH, Status(1 << 12), "IPS_NAT_CLASH_BIT");
        assert_eq!(TcpFlags(255).to_string().matches('|').count(), 7);
    }
}
