//! NAT of an entry: detection, set-up and undoing.

use std::net::IpAddr;

use nfct_sys as sys;

use super::attr::{self, Id};
use super::object::{Conntrack, ConntrackRef};
use crate::error::Error;
use crate::tuple::{Layer4, Tuple};

/// # Whether an entry is translated
///
/// All of these are false while the status of an entry shows that the kernel has not decided about NAT yet.
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
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2), &tuple([192, 0, 2, 1], [203, 0, 113, 9], 2, 1))?;
    /// assert!(entry.is_source_nat() && !entry.is_source_port_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_source_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_SNAT)
    }

    /// Whether the destination address is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([192, 0, 2, 1], [203, 0, 113, 9], 1, 2), &tuple([10, 0, 0, 1], [192, 0, 2, 1], 2, 1))?;
    /// assert!(entry.is_destination_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_destination_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_DNAT)
    }

    /// Whether the source port is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2), &tuple([192, 0, 2, 1], [203, 0, 113, 9], 2, 9))?;
    /// assert!(entry.is_source_port_nat());
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn is_source_port_nat(&self) -> bool {
        self.option(sys::NFCT_GOPT_IS_SPAT)
    }

    /// Whether the destination port is translated.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([192, 0, 2, 1], [203, 0, 113, 9], 1, 80), &tuple([10, 0, 0, 1], [192, 0, 2, 1], 8080, 1))?;
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
/// use nfct::{Conntrack, Tuple, attr};
///
/// let original = Tuple::udp(([192, 168, 7, 2], 40000), ([198, 51, 100, 1], 53));
/// let mut entry = Conntrack::new()?;
/// entry.set_original(&original)?.setup_reply()?;
/// assert_eq!(entry.get(attr::REPL_PORT_DST), Some(40000));
/// // The kernel translates the source of the new entry:
/// entry.set_source_nat([203, 0, 113, 9].into(), Some(51000));
///
/// // To create a translated entry again, undo its NAT first: the kernel translates it again.
/// let mut entry = Conntrack::new()?;
/// entry.set_original(&original)?.setup_reply()?;
/// entry.set(attr::REPL_IPV4_DST, [203, 0, 113, 9].into())?;
/// assert!(entry.is_source_nat());
/// entry.undo_source_nat();
/// assert_eq!(entry.get(attr::SNAT_IPV4), Some([203, 0, 113, 9].into()));
/// assert_eq!(entry.get(attr::REPL_IPV4_DST), Some([192, 168, 7, 2].into()));
/// # Ok::<(), nfct::Error>(())
/// ```
impl Conntrack {
    /// Sets the original tuple to the reverse of the reply.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_reply(&tuple([192, 0, 2, 1], [10, 0, 0, 1], 2, 1))?.setup_original()?;
    /// assert_eq!(entry.original(), Some(tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if the reply is incomplete. It needs addresses, network and transport protocol.
    pub fn setup_original(&mut self) -> Result<&mut Self, Error> {
        let reply = self.reply();
        self.setup(reply, sys::NFCT_SOPT_SETUP_ORIGINAL)
    }

    /// Sets the reply tuple to the reverse of the original.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_original(&tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2))?.setup_reply()?;
    /// assert_eq!(entry.reply(), Some(tuple([192, 0, 2, 1], [10, 0, 0, 1], 2, 1)));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if the original is incomplete. It needs addresses, network and transport protocol.
    pub fn setup_reply(&mut self) -> Result<&mut Self, Error> {
        let original = self.original();
        self.setup(original, sys::NFCT_SOPT_SETUP_REPLY)
    }

    /// Makes the kernel translate the source of a new entry. The entry's reply tuple must be the reverse of
    /// its original, without NAT.
    ///
    /// If the address is not of the family of the tuples, sending the entry fails with [`Error::Invalid`]:
    /// the kernel would translate only the port.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_source_nat([203, 0, 113, 9].into(), Some(51000));
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

    /// Makes the kernel translate the destination of a new entry, as [`Conntrack::set_source_nat`] does for
    /// the source.
    ///
    /// ```
    /// let mut entry = nfct::Conntrack::new()?;
    /// entry.set_destination_nat([192, 168, 7, 2].into(), None);
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

    /// Turns the NAT of the reply tuple into a request for the same NAT: the reply's destination address
    /// becomes the address for source NAT, and the original's source address takes its place.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2), &tuple([192, 0, 2, 1], [203, 0, 113, 9], 2, 1))?;
    /// entry.undo_source_nat();
    /// assert_eq!(entry.get(attr::SNAT_IPV4), Some([203, 0, 113, 9].into()));
    /// # Ok::<(), nfct::Error>(())
    /// ```
    pub fn undo_source_nat(&mut self) -> &mut Self {
        self.set_option(sys::NFCT_SOPT_UNDO_SNAT)
    }

    /// Turns the NAT of the reply tuple into a request for the same NAT: the reply's source address becomes
    /// the address for destination NAT, and the original's destination address takes its place.
    ///
    /// ```
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([192, 0, 2, 1], [203, 0, 113, 9], 1, 2), &tuple([10, 0, 0, 1], [192, 0, 2, 1], 2, 1))?;
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
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([10, 0, 0, 1], [192, 0, 2, 1], 1, 2), &tuple([192, 0, 2, 1], [203, 0, 113, 9], 2, 9))?;
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
    /// # use nfct::{Conntrack, Tuple, attr};
    /// # fn tuple(src: [u8; 4], dst: [u8; 4], from: u16, to: u16) -> Tuple { Tuple::tcp((src, from), (dst, to)) }
    /// let mut entry = Conntrack::new()?;
    /// entry.set_tuples(&tuple([192, 0, 2, 1], [203, 0, 113, 9], 1, 80), &tuple([10, 0, 0, 1], [192, 0, 2, 1], 8080, 1))?;
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
                doing: "setting one tuple from the other",
                found: "an incomplete tuple".to_owned(),
                expected: "addresses, a network protocol and a transport protocol",
            });
        };
        self.set_option(option);
        // The library marks every attribute of both tuples as set, even those of the other family and of
        // other protocols.
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
