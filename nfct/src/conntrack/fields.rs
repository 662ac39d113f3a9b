//! What most users want to know of an entry, in few words.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::attr::{self, Attribute};
use super::{Conntrack, ConntrackRef};
use crate::direction::Direction;
use crate::error::Error;
use crate::labels::Labels;
use crate::state::{DccpState, Layer3, SctpState, Status, TcpState};
use crate::tuple::{Layer4, Protocol, Tuple};

/// What passed in one direction, with `net.netfilter.nf_conntrack_acct=1`.
///
/// ```
/// assert_eq!(nfct::Counters::default().bytes, 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// Attributes that hold one tuple.
struct TupleAttributes {
    v4: (Attribute<std::net::Ipv4Addr>, Attribute<std::net::Ipv4Addr>),
    v6: (Attribute<std::net::Ipv6Addr>, Attribute<std::net::Ipv6Addr>),
    ports: (Attribute<u16>, Attribute<u16>),
    layer3: Attribute<Layer3>,
    layer4: Attribute<Protocol>,
    zone: Option<Attribute<u16>>,
}

const ORIGINAL: TupleAttributes = TupleAttributes {
    v4: (attr::ORIG_IPV4_SRC, attr::ORIG_IPV4_DST),
    v6: (attr::ORIG_IPV6_SRC, attr::ORIG_IPV6_DST),
    ports: (attr::ORIG_PORT_SRC, attr::ORIG_PORT_DST),
    layer3: attr::ORIG_L3PROTO,
    layer4: attr::ORIG_L4PROTO,
    zone: Some(attr::ORIG_ZONE),
};

const REPLY: TupleAttributes = TupleAttributes {
    v4: (attr::REPL_IPV4_SRC, attr::REPL_IPV4_DST),
    v6: (attr::REPL_IPV6_SRC, attr::REPL_IPV6_DST),
    ports: (attr::REPL_PORT_SRC, attr::REPL_PORT_DST),
    layer3: attr::REPL_L3PROTO,
    layer4: attr::REPL_L4PROTO,
    zone: Some(attr::REPL_ZONE),
};

const MASTER: TupleAttributes = TupleAttributes {
    v4: (attr::MASTER_IPV4_SRC, attr::MASTER_IPV4_DST),
    v6: (attr::MASTER_IPV6_SRC, attr::MASTER_IPV6_DST),
    ports: (attr::MASTER_PORT_SRC, attr::MASTER_PORT_DST),
    layer3: attr::MASTER_L3PROTO,
    layer4: attr::MASTER_L4PROTO,
    zone: None,
};

/// # What it is
///
/// ```
/// use nfct::{Conntrack, Layer4, Protocol, Tuple};
///
/// let ports = |src, dst| Layer4::Ports { src, dst };
/// let original = Tuple {
///     src: "192.168.7.2".parse()?,
///     dst: "198.51.100.1".parse()?,
///     protocol: Protocol::Tcp,
///     layer4: ports(40000, 443),
///     zone: 0,
/// };
/// let reply = Tuple {
///     src: original.dst,
///     dst: "203.0.113.9".parse()?,
///     layer4: ports(443, 51000),
///     ..original
/// };
/// let mut entry = Conntrack::new()?;
/// entry.set_tuples(&original, &reply).set_mark(7);
/// assert_eq!((entry.original(), entry.reply()), (Some(original), Some(reply)));
/// assert_eq!(entry.mark(), Some(7));
/// assert!(entry.is_source_nat());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl ConntrackRef {
    /// The connection before NAT, or `None` while it is not whole.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&original);
    /// assert_eq!(entry.original(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn original(&self) -> Option<Tuple> {
        self.tuple(&ORIGINAL)
    }

    /// What the other side's packets carry, or `None` while it is not whole.
    ///
    /// The library hands out the original's ICMP identifier, type and code only;
    /// the reply's own ones are in [`Flow::reply`](crate::Flow::reply).
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&reply);
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn reply(&self) -> Option<Tuple> {
        self.tuple(&REPLY)
    }

    /// The original tuple of the connection whose helper expected this one.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_master(&original);
    /// assert_eq!(entry.master(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn master(&self) -> Option<Tuple> {
        self.tuple(&MASTER)
    }

    /// The kernel's id of this life of the connection.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(nfct::attr::ID, 7)?;
    /// assert_eq!(entry.id(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn id(&self) -> Option<u32> {
        self.get(attr::ID)
    }

    /// The connection mark.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_mark(7);
    /// assert_eq!(entry.mark(), Some(7));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn mark(&self) -> Option<u32> {
        self.get(attr::MARK)
    }

    /// State bits.
    ///
    /// ```
    /// # use nfct::Status;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_status(Status::ASSURED);
    /// assert!(entry.status().is_some_and(Status::is_assured));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn status(&self) -> Option<Status> {
        self.get(attr::STATUS)
    }

    /// How long until the kernel forgets the idle entry, in whole seconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_timeout(Duration::from_secs(300));
    /// assert_eq!(entry.timeout(), Some(Duration::from_secs(300)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn timeout(&self) -> Option<Duration> {
        self.get(attr::TIMEOUT)
    }

    /// TCP state.
    ///
    /// ```
    /// # use nfct::TcpState;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_tcp_state(TcpState::Established);
    /// assert_eq!(entry.tcp_state(), Some(TcpState::Established));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn tcp_state(&self) -> Option<TcpState> {
        self.get(attr::TCP_STATE)
    }

    /// SCTP state.
    ///
    /// ```
    /// # use nfct::{SctpState, attr};
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(attr::SCTP_STATE, SctpState::Established)?;
    /// assert_eq!(entry.sctp_state(), Some(SctpState::Established));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn sctp_state(&self) -> Option<SctpState> {
        self.get(attr::SCTP_STATE)
    }

    /// DCCP state.
    ///
    /// ```
    /// # use nfct::{DccpState, attr};
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set(attr::DCCP_STATE, DccpState::Open)?;
    /// assert_eq!(entry.dccp_state(), Some(DccpState::Open));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn dccp_state(&self) -> Option<DccpState> {
        self.get(attr::DCCP_STATE)
    }

    /// What passed in one direction, where the kernel counts.
    ///
    /// ```
    /// # use nfct::Direction;
    /// let entry = nfct::Conntrack::new()?;
    /// let bytes = entry.counters(Direction::Reply).map_or(0, |counters| counters.bytes);
    /// assert_eq!(bytes, 0);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn counters(&self, direction: Direction) -> Option<Counters> {
        self.get_group(match direction {
            Direction::Original => attr::Group::ORIG_COUNTERS,
            Direction::Reply => attr::Group::REPL_COUNTERS,
        })
    }

    /// When it began, if the kernel keeps time stamps.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// let age = entry.started().and_then(|time| time.elapsed().ok());
    /// assert_eq!(age, None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn started(&self) -> Option<SystemTime> {
        self.get(attr::TIMESTAMP_START)
    }

    /// When it ended, if the kernel keeps time stamps.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// assert_eq!(entry.stopped(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn stopped(&self) -> Option<SystemTime> {
        self.get(attr::TIMESTAMP_STOP)
    }

    /// Name of its helper.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_helper("ftp")?;
    /// assert_eq!(entry.helper().as_deref(), Some("ftp"));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn helper(&self) -> Option<String> {
        self.get(attr::HELPER_NAME)
    }

    /// The zone that holds for both directions.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_zone(5);
    /// assert_eq!(entry.zone(), Some(5));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn zone(&self) -> Option<u16> {
        self.get(attr::ZONE)
    }

    /// Its labels.
    ///
    /// ```
    /// # use nfct::Labels;
    /// let mut entry = nfct::Conntrack::new()?;
    /// let mut labels = Labels::new(127)?;
    /// labels.set(3)?;
    /// entry.set_labels(labels);
    /// assert!(entry.labels().is_some_and(|labels| labels.contains(3)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn labels(&self) -> Option<Labels> {
        self.get(attr::CONNLABELS)
    }

    /// Security context, as SELinux writes it.
    ///
    /// ```
    /// let entry = nfct::Conntrack::new()?;
    /// assert_eq!(entry.security_context(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn security_context(&self) -> Option<String> {
        self.get(attr::SECCTX)
    }

    fn tuple(&self, of: &TupleAttributes) -> Option<Tuple> {
        let protocol = self.get(of.layer4)?;
        let (src, dst) = match self.get(of.layer3)? {
            Layer3::Ipv4 => (self.get(of.v4.0)?.into(), self.get(of.v4.1)?.into()),
            Layer3::Ipv6 => (self.get(of.v6.0)?.into(), self.get(of.v6.1)?.into()),
            Layer3::Other(_) => return None,
        };
        let ports = || (self.get(of.ports.0).unwrap_or(0), self.get(of.ports.1).unwrap_or(0));
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp {
                id: self.get(attr::ICMP_ID).unwrap_or(0),
                kind: self.get(attr::ICMP_TYPE).unwrap_or(0),
                code: self.get(attr::ICMP_CODE).unwrap_or(0),
            },
            Protocol::Gre => {
                let (src, dst) = ports();
                Layer4::Keys { src, dst }
            }
            Protocol::Other(_) => Layer4::None,
            _ => {
                let (src, dst) = ports();
                Layer4::Ports { src, dst }
            }
        };
        let own_zone = || of.zone.and_then(|zone| self.get(zone));
        let zone = self.zone().or_else(own_zone).unwrap_or(0);
        Some(Tuple { src, dst, protocol, layer4, zone })
    }
}

/// # What the kernel is told of it
///
/// ```
/// use std::time::Duration;
/// use nfct::{Conntrack, Labels, Status, TcpState};
///
/// let mut entry = Conntrack::new()?;
/// entry.set_timeout(Duration::from_secs(300)).set_status(Status::ASSURED);
/// entry.set_tcp_state(TcpState::Established).set_zone(5);
/// entry.set_helper("ftp")?.set_labels(Labels::new(127)?);
/// entry.set_source_nat("203.0.113.9".parse()?, Some(51000));
/// assert_eq!(entry.helper().as_deref(), Some("ftp"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Conntrack {
    /// Sets both directions, addresses, protocol, ports and zones. Of ICMP
    /// details the library takes the original's and derives the reply's.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&original, &reply);
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_tuples(&mut self, original: &Tuple, reply: &Tuple) -> &mut Self {
        self.set_tuple(&ORIGINAL, original);
        self.set_tuple(&REPLY, reply);
        if original.zone == reply.zone {
            if original.zone != 0 {
                self.set_zone(original.zone);
            }
        } else {
            // Of one direction only: the kernel refuses an entry that names a zone for both.
            for (attribute, zone) in [(attr::ORIG_ZONE, original.zone), (attr::REPL_ZONE, reply.zone)] {
                if zone != 0 {
                    self.put(attribute, zone);
                }
            }
        }
        self
    }

    /// Sets the original direction alone, its zone for both; [`Conntrack::setup_reply`] makes the
    /// reply from it.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&original).setup_reply()?;
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_original(&mut self, original: &Tuple) -> &mut Self {
        self.set_tuple(&ORIGINAL, original);
        self.set_zone_of(original)
    }

    /// Sets the original direction alone, without its zone, for an expectation's tuple.
    pub(crate) fn set_original_tuple(&mut self, original: &Tuple) {
        self.set_tuple(&ORIGINAL, original);
    }

    /// Sets the reply direction alone, its zone for both; [`Conntrack::setup_original`] makes the
    /// original from it. ICMP details are those of the original.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&reply).setup_original()?;
    /// assert_eq!(entry.original(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_reply(&mut self, reply: &Tuple) -> &mut Self {
        self.set_tuple(&REPLY, reply);
        self.set_zone_of(reply)
    }

    /// Sets the original tuple of the connection whose helper expected this one; the kernel looks
    /// for it in the entry's own zone.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple};
    /// # let (a, b) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    /// # let tuple = |src, dst| Tuple { src, dst, protocol: Protocol::Udp, layer4: Layer4::None, zone: 0 };
    /// # let tuple = |src, dst, from, to| Tuple { layer4: Layer4::Ports { src: from, dst: to }, ..tuple(src, dst) };
    /// # let (original, reply) = (tuple(a, b, 40000, 53), tuple(b, a, 53, 40000));
    /// let mut entry = Conntrack::new()?;
    /// entry.set_master(&original);
    /// assert_eq!(entry.master(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_master(&mut self, master: &Tuple) -> &mut Self {
        self.set_tuple(&MASTER, master);
        self
    }

    /// Sets the connection mark.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_mark(0x17);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.put(attr::MARK, mark)
    }

    /// Sets how long the kernel keeps the idle entry, in whole seconds; more than fit 32 bits
    /// become the most.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_timeout(std::time::Duration::from_secs(300));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.put(attr::TIMEOUT, timeout)
    }

    /// Sets state bits.
    ///
    /// ```
    /// # use nfct::Status;
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_status(Status::ASSURED | Status::SEEN_REPLY);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_status(&mut self, status: Status) -> &mut Self {
        self.put(attr::STATUS, status)
    }

    /// Sets the TCP state.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_tcp_state(nfct::TcpState::Established);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_tcp_state(&mut self, state: impl Into<TcpState>) -> &mut Self {
        self.put(attr::TCP_STATE, state.into())
    }

    /// Sets the zone that holds for both directions.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_zone(5);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_zone(&mut self, zone: u16) -> &mut Self {
        self.put(attr::ZONE, zone)
    }

    /// Sets the helper by name; an empty one takes the helper away in an update.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_helper("ftp")?;
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 15 bytes.
    pub fn set_helper(&mut self, name: &str) -> Result<&mut Self, Error> {
        self.set(attr::HELPER_NAME, name.to_owned())
    }

    /// Sets the labels; [`attr::CONNLABELS_MASK`] says which ones are to be
    /// changed, all without it.
    ///
    /// ```
    /// let mut labels = nfct::Labels::new(127)?;
    /// labels.set(3)?;
    /// nfct::Conntrack::new()?.set_labels(labels);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_labels(&mut self, labels: Labels) -> &mut Self {
        self.put(attr::CONNLABELS, labels)
    }

    /// Has the kernel translate the source of a new entry, which is then made
    /// with a reply tuple that knows nothing of it.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_source_nat("203.0.113.9".parse().unwrap(), Some(51000));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_source_nat(&mut self, address: IpAddr, port: Option<u16>) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.put(attr::SNAT_IPV4, address),
            IpAddr::V6(address) => self.put(attr::SNAT_IPV6, address),
        };
        match port {
            Some(port) => self.put(attr::SNAT_PORT, port),
            None => self.unset(attr::SNAT_PORT),
        }
    }

    /// Has the kernel translate the destination of a new entry, which is then
    /// made with a reply tuple that knows nothing of it.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_destination_nat("192.168.7.2".parse().unwrap(), None);
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn set_destination_nat(&mut self, address: IpAddr, port: Option<u16>) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.put(attr::DNAT_IPV4, address),
            IpAddr::V6(address) => self.put(attr::DNAT_IPV6, address),
        };
        match port {
            Some(port) => self.put(attr::DNAT_PORT, port),
            None => self.unset(attr::DNAT_PORT),
        }
    }

    fn set_zone_of(&mut self, tuple: &Tuple) -> &mut Self {
        if tuple.zone == 0 { self } else { self.set_zone(tuple.zone) }
    }

    fn set_tuple(&mut self, of: &TupleAttributes, tuple: &Tuple) {
        let (v4, v6) = (of.v4, of.v6);
        for (address, v4, v6) in [(tuple.src, v4.0, v6.0), (tuple.dst, v4.1, v6.1)] {
            match address {
                IpAddr::V4(address) => self.put(v4, address),
                IpAddr::V6(address) => self.put(v6, address),
            };
        }
        self.put(of.layer3, if tuple.src.is_ipv4() { Layer3::Ipv4 } else { Layer3::Ipv6 });
        self.put(of.layer4, tuple.protocol);
        match tuple.layer4 {
            Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => {
                self.put(of.ports.0, src);
                self.put(of.ports.1, dst);
            }
            // One attribute for all tuples: the library derives the reply's
            // type from the original's.
            Layer4::Icmp { id, kind, code } if of.layer4.id() == attr::ORIG_L4PROTO.id() => {
                self.put(attr::ICMP_ID, id);
                self.put(attr::ICMP_TYPE, kind);
                self.put(attr::ICMP_CODE, code);
            }
            Layer4::Icmp { .. } | Layer4::None => {}
        }
    }
}
