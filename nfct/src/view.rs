//! A conntrack object as plain data: to keep, to compare and, with the feature `serde`, to serialize.
//!
//! With `serde`, plain values have the following shapes. [`View`] and [`Expectation`] omit fields that are
//! not set, so they need a format that names fields, such as JSON. The others work with any format. In a
//! format that is not human-readable, names are numbers.
//!
//! | value | shape |
//! | --- | --- |
//! | [`Protocol`], [`TcpState`] and similar enumerations | `"tcp"`, `"ESTABLISHED"`, or the number if it has no name: `89` |
//! | [`Tuple`] | `{"src": "10.0.0.1", "dst": "192.0.2.1", "protocol": "udp", "layer4": {"ports": {"src": 40000, "dst": 53}}, "zone": 0}` |
//! | [`Layer4`] | `{"ports": {"src": 1, "dst": 2}}`, `{"icmp": {"id": 7, "kind": 8, "code": 0}}`, `{"keys": {"src": 1, "dst": 2}}`, `"none"` |
//! | [`Status`], [`TcpFlags`] | the bits as a number |
//! | [`Flow`], [`Event`], [`Expectation`], [`View`] | their fields; times in nanoseconds since the epoch, timeouts in seconds |
//!
//! [`Layer4`]: crate::Layer4
//! [`Flow`]: crate::Flow
//! [`Event`]: crate::Event
//! [`Expectation`]: crate::Expectation
//!
//! ```
//! # #[cfg(feature = "serde")] {
//! let mut entry = nfct::Conntrack::new()?;
//! entry.set_mark(7).set_tcp_state(nfct::TcpState::Established);
//! let text = serde_json::to_string(&entry.view())?;
//! assert_eq!(text, r#"{"mark":7,"tcp":{"state":"ESTABLISHED"}}"#);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::{Duration, SystemTime};

use crate::conntrack::ConntrackRef;
use crate::conntrack::attr::{self, Attribute};
use crate::direction::Direction;
use crate::flow::Counters;
use crate::state::{DccpRole, DccpState, SctpState, Status, TcpFlags, TcpState};
#[cfg(doc)]
use crate::tuple::Protocol;
use crate::tuple::Tuple;

/// A struct of options. `serde` omits those that are `None`.
macro_rules! views {
    ($(
        $(#[$about:meta])*
        $name:ident { $( $(#[$doc:meta])* $field:ident: $type:ty, )* }
    )*) => { $(
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default))]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[$doc])*
                #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
                pub $field: Option<$type>,
            )*
        }
    )* };
}

views! {
    /// Everything that is set in a conntrack object.
    ///
    /// ```
    /// use nfct::{Conntrack, View};
    ///
    /// let mut entry = Conntrack::new()?;
    /// assert_eq!(entry.view(), View::default());
    /// entry.set_helper("ftp")?;
    /// assert_eq!(entry.view().helper.as_deref(), Some("ftp"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    View {
        /// The original tuple, before NAT.
        original: Tuple,
        /// The reply tuple, of packets from the server.
        reply: Tuple,
        /// The original tuple of the connection whose helper expected this one.
        master: Tuple,
        /// The kernel's id of this lifetime of the connection.
        id: u32,
        /// State bits.
        status: Status,
        /// Seconds until the kernel removes the entry if it stays idle.
        timeout: u64,
        /// The connection mark.
        mark: u32,
        /// References that the kernel holds.
        references: u32,
        /// Packets and bytes of the original direction.
        counters_original: Counters,
        /// Packets and bytes of the reply direction.
        counters_reply: Counters,
        /// Start of the connection in nanoseconds since the epoch.
        start: u64,
        /// End of the connection in nanoseconds since the epoch.
        stop: u64,
        /// Time of the event in nanoseconds since the epoch.
        event: u64,
        /// TCP details.
        tcp: Tcp,
        /// SCTP details.
        sctp: Sctp,
        /// DCCP details.
        dccp: Dccp,
        /// How TCP sequence numbers of the original direction are adjusted.
        sequence_original: SequenceAdjustment,
        /// How TCP sequence numbers of the reply direction are adjusted.
        sequence_reply: SequenceAdjustment,
        /// The SYN proxy's data.
        syn_proxy: SynProxy,
        /// Name of the helper.
        helper: String,
        /// The helper's data.
        helper_info: Vec<u8>,
        /// Labels, by bit.
        labels: Vec<u16>,
        /// The security mark.
        secmark: u32,
        /// Security context, as SELinux writes it.
        security_context: String,
    }

    /// TCP details.
    ///
    /// ```
    /// use nfct::{Conntrack, TcpState};
    ///
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tcp_state(TcpState::Close);
    /// assert_eq!(entry.view().tcp.unwrap().state, Some(TcpState::Close));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    Tcp {
        /// The state.
        state: TcpState,
        /// Flags of the endpoint that sends in the original direction.
        flags_original: TcpFlags,
        /// Flags of the endpoint that sends in the reply direction.
        flags_reply: TcpFlags,
        /// Window scale of the original direction.
        window_scale_original: u8,
        /// Window scale of the reply direction.
        window_scale_reply: u8,
    }

    /// SCTP details.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::SCTP_VTAG_ORIG, 5)?;
    /// assert_eq!(entry.view().sctp.unwrap().vtag_original, Some(5));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    Sctp {
        /// The state.
        state: SctpState,
        /// Verification tag of the original direction.
        vtag_original: u32,
        /// Verification tag of the reply direction.
        vtag_reply: u32,
    }

    /// DCCP details.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::DCCP_HANDSHAKE_SEQ, 5)?;
    /// assert_eq!(entry.view().dccp.unwrap().handshake_sequence, Some(5));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    Dccp {
        /// The state.
        state: DccpState,
        /// Which endpoint sends in the original direction.
        role: DccpRole,
        /// Sequence number of the handshake.
        handshake_sequence: u64,
    }

    /// How TCP sequence numbers of one direction are adjusted, because NAT changed the length of the
    /// payload.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::ORIG_NAT_SEQ_OFFSET_AFTER, -3)?;
    /// assert_eq!(entry.view().sequence_original.unwrap().after, Some(-3));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    SequenceAdjustment {
        /// The sequence number up to which `before` applies, and after which `after` applies.
        position: u32,
        /// Offset up to the position.
        before: i32,
        /// Offset after the position.
        after: i32,
    }

    /// The SYN proxy's data on a connection.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::SYNPROXY_ISN, 5)?;
    /// assert_eq!(entry.view().syn_proxy.unwrap().initial_sequence, Some(5));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    SynProxy {
        /// Initial sequence number that the SYN proxy sent.
        initial_sequence: u32,
        /// Initial timestamp that the SYN proxy sent.
        initial_timestamp: u32,
        /// Offset of timestamps that pass it.
        timestamp_offset: u32,
    }
}

impl ConntrackRef {
    /// Everything that is set, as plain data.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_mark(7);
    /// assert_eq!(entry.view().mark, Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn view(&self) -> View {
        let nanoseconds = |attribute: Attribute<SystemTime>| {
            let since = self.get(attribute)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            u64::try_from(since.as_nanos()).ok()
        };
        let sequence = |position, before, after| {
            if_set(SequenceAdjustment {
                position: self.get(position),
                before: self.get(before),
                after: self.get(after),
            })
        };
        View {
            original: self.original(),
            reply: self.reply(),
            master: self.master(),
            id: self.id(),
            status: self.status(),
            timeout: self.timeout().as_ref().map(Duration::as_secs),
            mark: self.mark(),
            references: self.get(attr::USE),
            counters_original: self.counters(Direction::Original),
            counters_reply: self.counters(Direction::Reply),
            start: nanoseconds(attr::TIMESTAMP_START),
            stop: nanoseconds(attr::TIMESTAMP_STOP),
            event: nanoseconds(attr::TIMESTAMP_EVENT),
            tcp: if_set(Tcp {
                state: self.tcp_state(),
                flags_original: self.get(attr::TCP_FLAGS_ORIG),
                flags_reply: self.get(attr::TCP_FLAGS_REPL),
                window_scale_original: self.get(attr::TCP_WSCALE_ORIG),
                window_scale_reply: self.get(attr::TCP_WSCALE_REPL),
            }),
            sctp: if_set(Sctp {
                state: self.sctp_state(),
                vtag_original: self.get(attr::SCTP_VTAG_ORIG),
                vtag_reply: self.get(attr::SCTP_VTAG_REPL),
            }),
            dccp: if_set(Dccp {
                state: self.dccp_state(),
                role: self.get(attr::DCCP_ROLE),
                handshake_sequence: self.get(attr::DCCP_HANDSHAKE_SEQ),
            }),
            sequence_original: sequence(
                attr::ORIG_NAT_SEQ_CORRECTION_POS,
                attr::ORIG_NAT_SEQ_OFFSET_BEFORE,
                attr::ORIG_NAT_SEQ_OFFSET_AFTER,
            ),
            sequence_reply: sequence(
                attr::REPL_NAT_SEQ_CORRECTION_POS,
                attr::REPL_NAT_SEQ_OFFSET_BEFORE,
                attr::REPL_NAT_SEQ_OFFSET_AFTER,
            ),
            syn_proxy: if_set(SynProxy {
                initial_sequence: self.get(attr::SYNPROXY_ISN),
                initial_timestamp: self.get(attr::SYNPROXY_ITS),
                timestamp_offset: self.get(attr::SYNPROXY_TSOFF),
            }),
            helper: self.helper(),
            helper_info: self.get(attr::HELPER_INFO),
            labels: self.labels().map(|labels| labels.iter().collect()),
            secmark: self.get(attr::SECMARK),
            security_context: self.security_context(),
        }
    }
}

/// `None` if nothing is set.
fn if_set<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

/// Enumerations: the name if there is one, or the number.
#[cfg(feature = "serde")]
mod as_name {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
    use serde::ser::{Serialize, Serializer};

    use crate::state::{DccpRole, DccpState, Layer3, SctpState, TcpState};
    use crate::tuple::Protocol;

    struct NameOrNumber<T>(PhantomData<T>, fn(&str) -> Option<T>);

    impl<T: From<u8>> Visitor<'_> for NameOrNumber<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name, or a number from 0 to 255")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
            let invalid = |_| E::invalid_value(Unexpected::Unsigned(number), &self);
            u8::try_from(number).map(T::from).map_err(invalid)
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
            (self.1)(name).ok_or_else(|| E::invalid_value(Unexpected::Str(name), &self))
        }
    }

    macro_rules! as_name {
        ($($name:ident),*) => { $(
            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    match self.name().filter(|_| serializer.is_human_readable()) {
                        Some(name) => serializer.serialize_str(name),
                        None => serializer.serialize_u8(self.number()),
                    }
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    if !deserializer.is_human_readable() {
                        return u8::deserialize(deserializer).map($name::from);
                    }
                    let named = |name: &str| (0..=u8::MAX).map($name::from).find(|it| it.name() == Some(name));
                    deserializer.deserialize_any(NameOrNumber(PhantomData, named))
                }
            }
        )* };
    }

    as_name!(Protocol, Layer3, TcpState, SctpState, DccpState, DccpRole);
}
