//! The library's set-up options: making one direction from the other, and
//! telling and undoing NAT.

use nfct_sys as sys;

use super::attr::{self, Id};
use super::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::tuple::{Layer4, Tuple};

/// # What NAT did to it
///
/// Where the status is set, an entry whose NAT was not decided yet has none.
///
/// ```
/// let entry = nfct::Conntrack::new()?;
/// assert!(!entry.is_source_nat() && !entry.is_destination_nat());
/// assert!(!entry.is_source_port_nat() && !entry.is_destination_port_nat());
/// # Ok::<(), nfct::Error>(())
/// ```
impl ConntrackRef {
    /// Whether the source address is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("10.0.0.1", "192.0.2.1", 1, 2), &tuple("192.0.2.1", "203.0.113.9", 2, 1));
    /// assert!(entry.is_source_nat() && !entry.is_source_port_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_source_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_SNAT)
    }

    /// Whether the destination address is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("192.0.2.1", "203.0.113.9", 1, 2), &tuple("10.0.0.1", "192.0.2.1", 2, 1));
    /// assert!(entry.is_destination_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_destination_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_DNAT)
    }

    /// Whether the source port is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("10.0.0.1", "192.0.2.1", 1, 2), &tuple("192.0.2.1", "203.0.113.9", 2, 9));
    /// assert!(entry.is_source_port_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_source_port_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_SPAT)
    }

    /// Whether the destination port is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("192.0.2.1", "203.0.113.9", 1, 80), &tuple("10.0.0.1", "192.0.2.1", 8080, 1));
    /// assert!(entry.is_destination_port_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_destination_port_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_DPAT)
    }

    fn option(&self, option: u32) -> bool {
        // SAFETY: a live object, which is only read.
        unsafe { sys::nfct_getobjopt(self.as_ptr(), option) > 0 }
    }
}

/// # Setting up NAT
///
/// ```
/// use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
///
/// let original = Tuple {
///     src: "192.168.7.2".parse()?,
///     dst: "198.51.100.1".parse()?,
///     protocol: Protocol::Udp,
///     layer4: Layer4::Ports { src: 40000, dst: 53 },
///     zone: 0,
/// };
/// let mut entry = Conntrack::new()?;
/// entry.set_original(&original).setup_reply()?;
/// assert_eq!(entry.get(attr::REPL_PORT_DST), Some(40000));
///
/// // An entry that was translated, as it is to be made again by NAT itself:
/// entry.set(attr::REPL_IPV4_DST, [203, 0, 113, 9].into())?;
/// assert!(entry.is_source_nat());
/// entry.undo_source_nat();
/// assert_eq!(entry.get(attr::SNAT_IPV4), Some([203, 0, 113, 9].into()));
/// assert_eq!(entry.get(attr::REPL_IPV4_DST), Some([192, 168, 7, 2].into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Conntrack {
    /// Makes the original tuple the reverse of the reply.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&tuple("192.0.2.1", "10.0.0.1", 2, 1)).setup_original()?;
    /// assert_eq!(entry.original(), Some(tuple("10.0.0.1", "192.0.2.1", 1, 2)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the reply is whole: addresses, network and transport protocol.
    pub fn setup_original(&mut self) -> Result<&mut Self, Error> {
        let reply = self.reply();
        self.setup(reply, sys::NFCT_SOPT_SETUP_ORIGINAL)
    }

    /// Makes the reply tuple the reverse of the original.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&tuple("10.0.0.1", "192.0.2.1", 1, 2)).setup_reply()?;
    /// assert_eq!(entry.reply(), Some(tuple("192.0.2.1", "10.0.0.1", 2, 1)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the original is whole: addresses, network and transport protocol.
    pub fn setup_reply(&mut self) -> Result<&mut Self, Error> {
        let original = self.original();
        self.setup(original, sys::NFCT_SOPT_SETUP_REPLY)
    }

    /// Makes the reply's destination address that of the original's source, and what it was the
    /// address to translate the source to.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("10.0.0.1", "192.0.2.1", 1, 2), &tuple("192.0.2.1", "203.0.113.9", 2, 1));
    /// entry.undo_source_nat();
    /// assert_eq!(entry.get(attr::SNAT_IPV4), Some([203, 0, 113, 9].into()));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn undo_source_nat(&mut self) -> &mut Self {
        self.set_option(sys::NFCT_SOPT_UNDO_SNAT)
    }

    /// Makes the reply's source address that of the original's destination, and what it was the
    /// address to translate the destination to.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("192.0.2.1", "203.0.113.9", 1, 2), &tuple("10.0.0.1", "192.0.2.1", 2, 1));
    /// entry.undo_destination_nat();
    /// assert_eq!(entry.get(attr::DNAT_IPV4), Some([10, 0, 0, 1].into()));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn undo_destination_nat(&mut self) -> &mut Self {
        self.set_option(sys::NFCT_SOPT_UNDO_DNAT)
    }

    /// As [`Conntrack::undo_source_nat`], for the port.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("10.0.0.1", "192.0.2.1", 1, 2), &tuple("192.0.2.1", "203.0.113.9", 2, 9));
    /// entry.undo_source_port_nat();
    /// assert_eq!(entry.get(attr::SNAT_PORT), Some(9));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn undo_source_port_nat(&mut self) -> &mut Self {
        self.set_option(sys::NFCT_SOPT_UNDO_SPAT)
    }

    /// As [`Conntrack::undo_destination_nat`], for the port.
    ///
    /// ```
    /// # use nfct::{Conntrack, Layer4, Protocol, Tuple, attr};
    /// # let tuple = |src: &str, dst: &str, from, to| Tuple {
    /// #     src: src.parse().unwrap(), dst: dst.parse().unwrap(),
    /// #     protocol: Protocol::Tcp, layer4: Layer4::Ports { src: from, dst: to }, zone: 0,
    /// # };
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple("192.0.2.1", "203.0.113.9", 1, 80), &tuple("10.0.0.1", "192.0.2.1", 8080, 1));
    /// entry.undo_destination_port_nat();
    /// assert_eq!(entry.get(attr::DNAT_PORT), Some(8080));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn undo_destination_port_nat(&mut self) -> &mut Self {
        self.set_option(sys::NFCT_SOPT_UNDO_DPAT)
    }

    fn set_option(&mut self, option: u32) -> &mut Self {
        // SAFETY: a live object that is borrowed for writing; the options are those of the header.
        unsafe { sys::nfct_setobjopt(self.as_ptr(), option) };
        self
    }

    fn setup(&mut self, from: Option<Tuple>, option: u32) -> Result<&mut Self, Error> {
        let Some(from) = from else {
            return Err(Error::Invalid {
                doing: "making one tuple from the other",
                found: "a tuple that is not whole".to_owned(),
                expected: "addresses, a network and a transport protocol",
            });
        };
        self.set_option(option);
        // The library marks every attribute of both tuples as set, those of the other family and of
        // other protocols too.
        let (icmp, ports) = match from.layer4 {
            Layer4::Icmp { .. } => (true, false),
            Layer4::Ports { .. } | Layer4::Keys { .. } => (false, true),
            Layer4::None => (false, false),
        };
        let v4 = from.src.is_ipv4();
        for (keep, attributes) in [(v4, &IPV4[..]), (!v4, &IPV6), (ports, &PORTS), (icmp, &ICMP)] {
            for id in attributes.iter().filter(|_| !keep) {
                self.unset(*id);
            }
        }
        Ok(self)
    }
}

const IPV4: [Id; 4] =
    [attr::ORIG_IPV4_SRC.id(), attr::ORIG_IPV4_DST.id(), attr::REPL_IPV4_SRC.id(), attr::REPL_IPV4_DST.id()];
const IPV6: [Id; 4] =
    [attr::ORIG_IPV6_SRC.id(), attr::ORIG_IPV6_DST.id(), attr::REPL_IPV6_SRC.id(), attr::REPL_IPV6_DST.id()];
const PORTS: [Id; 4] =
    [attr::ORIG_PORT_SRC.id(), attr::ORIG_PORT_DST.id(), attr::REPL_PORT_SRC.id(), attr::REPL_PORT_DST.id()];
const ICMP: [Id; 3] = [attr::ICMP_TYPE.id(), attr::ICMP_CODE.id(), attr::ICMP_ID.id()];
