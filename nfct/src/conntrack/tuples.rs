//! The tuples of an entry: original, reply and master.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attr::{self, Attribute};
use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::state::Layer3;
use crate::tuple::{Layer4, Protocol, Tuple};

/// The attributes of one tuple.
struct TupleAttributes {
    v4: (Attribute<Ipv4Addr>, Attribute<Ipv4Addr>),
    v6: (Attribute<Ipv6Addr>, Attribute<Ipv6Addr>),
    ports: (Attribute<u16>, Attribute<u16>),
    layer3: Attribute<Layer3>,
    layer4: Attribute<Protocol>,
    zone: Option<Attribute<u16>>,
}

const SETTING: &str = "setting a tuple";

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

/// # Tuples
///
/// ```
/// use nfct::{Conntrack, Tuple};
///
/// let original = Tuple::tcp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 443));
/// let reply = Tuple::tcp(([198, 51, 100, 1], 443), ([203, 0, 113, 9], 51000));
/// let mut entry = Conntrack::new()?;
/// entry.set_tuples(&original, &reply)?;
/// assert_eq!((entry.original(), entry.reply()), (Some(original), Some(reply)));
/// assert!(entry.is_source_nat());
/// # Ok::<(), nfct::Error>(())
/// ```
impl ConntrackRef {
    /// The original tuple, before NAT. `None` if it is incomplete.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&original)?;
    /// assert_eq!(entry.original(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn original(&self) -> Option<Tuple> {
        self.tuple(&ORIGINAL)
    }

    /// The reply tuple, of the packets from the server. `None` if it is incomplete.
    ///
    /// The library has only the original's ICMP identifier, type and code. The reply's own are in
    /// [`Flow::reply`](crate::Flow::reply).
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&reply)?;
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn reply(&self) -> Option<Tuple> {
        self.tuple(&REPLY)
    }

    /// The original tuple of the connection whose helper expected this one.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_master(&original)?;
    /// assert_eq!(entry.master(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn master(&self) -> Option<Tuple> {
        self.tuple(&MASTER)
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

/// # Setting tuples
///
/// A tuple must have two addresses of one family, and the [`Layer4`] of its protocol.
///
/// ```
/// use nfct::{Conntrack, Layer4, Tuple};
///
/// let original = Tuple::tcp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 443));
/// let wrong = Tuple { layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 }, ..original };
/// let error = Conntrack::new()?.set_original(&wrong).map(drop).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "setting a tuple: found a tuple of tcp with Icmp { id: 7, kind: 8, code: 0 }, \
///      expected Layer4::Ports for a protocol with ports"
/// );
/// # Ok::<(), nfct::Error>(())
/// ```
impl Conntrack {
    /// Sets both directions: addresses, protocol, ports and zones. For ICMP the library uses the
    /// details of the original and derives those of the reply.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&original, &reply)?;
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_tuples(&mut self, original: &Tuple, reply: &Tuple) -> Result<&mut Self, Error> {
        reply.check(SETTING)?;
        self.set_tuple(&ORIGINAL, original)?;
        self.set_tuple(&REPLY, reply)?;
        if original.zone == reply.zone {
            if original.zone != 0 {
                self.set_zone(original.zone);
            }
        } else {
            // One zone for each direction: the kernel rejects an entry that also has one for both.
            for (attribute, zone) in [(attr::ORIG_ZONE, original.zone), (attr::REPL_ZONE, reply.zone)] {
                if zone != 0 {
                    self.put(attribute, zone);
                }
            }
        }
        Ok(self)
    }

    /// Sets the original direction alone, and its zone for both; [`Conntrack::setup_reply`] sets the reply
    /// from it.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&original)?.setup_reply()?;
    /// assert_eq!(entry.reply(), Some(reply));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_original(&mut self, original: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(&ORIGINAL, original)?;
        Ok(self.set_zone_of(original))
    }

    /// Sets the original direction alone, without its zone, for an expectation's tuple.
    ///
    /// # Errors
    /// As [`Conntrack::set_original`].
    pub(crate) fn set_original_tuple(&mut self, original: &Tuple) -> Result<(), Error> {
        self.set_tuple(&ORIGINAL, original)
    }

    /// Sets the reply direction alone, and its zone for both; [`Conntrack::setup_original`] sets the
    /// original from it. The ICMP details of the reply are not used: an entry has those of its original.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&reply)?.setup_original()?;
    /// assert_eq!(entry.original(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tuple with addresses of two families or details of another protocol.
    pub fn set_reply(&mut self, reply: &Tuple) -> Result<&mut Self, Error> {
        self.set_tuple(&REPLY, reply)?;
        Ok(self.set_zone_of(reply))
    }

    /// Sets the original tuple of the connection whose helper expected this one. The kernel looks it up
    /// in the entry's own zone.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple};
    /// # let original = Tuple::udp(([192, 0, 2, 1], 40000), ([198, 51, 100, 1], 53));
    /// # let reply = original.reversed();
    /// let mut entry = Conntrack::new()?;
    /// entry.set_master(&original)?;
    /// assert_eq!(entry.master(), Some(original));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Conntrack::set_original`]. Also [`Error::Invalid`] for a master of ICMP: the library stores ICMP
    /// details only for the entry itself.
    pub fn set_master(&mut self, master: &Tuple) -> Result<&mut Self, Error> {
        if let Layer4::Icmp { .. } = master.layer4 {
            return Err(Error::Invalid {
                doing: SETTING,
                found: format!("a master of {}", master.protocol),
                expected: "a master of another protocol, such as TCP or UDP",
            });
        }
        self.set_tuple(&MASTER, master)?;
        Ok(self)
    }

    fn set_zone_of(&mut self, tuple: &Tuple) -> &mut Self {
        if tuple.zone == 0 { self } else { self.set_zone(tuple.zone) }
    }

    fn set_tuple(&mut self, of: &TupleAttributes, tuple: &Tuple) -> Result<(), Error> {
        tuple.check(SETTING)?;
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
            // One attribute for all tuples: the library derives the reply's type from the original's.
            Layer4::Icmp { id, kind, code } if of.layer4.id() == attr::ORIG_L4PROTO.id() => {
                self.put(attr::ICMP_ID, id);
                self.put(attr::ICMP_TYPE, kind);
                self.put(attr::ICMP_CODE, code);
            }
            Layer4::Icmp { .. } | Layer4::None => {}
        }
        Ok(())
    }
}
