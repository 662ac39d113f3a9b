//! The C library's conntrack object: built by hand to be sent to the kernel,
//! or lent to a callback.

use std::cell::UnsafeCell;
use std::marker::PhantomPinned;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::time::Duration;

use libc::c_void;
use nfct_sys as sys;

use crate::error::Error;
use crate::flow::Status;
use crate::tuple::{Layer4, Protocol, Tuple};

/// An object of the library that someone else owns.
#[repr(transparent)]
pub struct ConntrackRef {
    _opaque: UnsafeCell<[u8; 0]>,
    _pinned: PhantomPinned,
}

/// Attributes that hold one direction of a connection.
struct Direction {
    v4: (u32, u32),
    v6: (u32, u32),
    ports: (u32, u32),
    l3: u32,
    l4: u32,
    zone: u32,
}

const ORIGINAL: Direction = Direction {
    v4: (sys::ATTR_ORIG_IPV4_SRC, sys::ATTR_ORIG_IPV4_DST),
    v6: (sys::ATTR_ORIG_IPV6_SRC, sys::ATTR_ORIG_IPV6_DST),
    ports: (sys::ATTR_ORIG_PORT_SRC, sys::ATTR_ORIG_PORT_DST),
    l3: sys::ATTR_ORIG_L3PROTO,
    l4: sys::ATTR_ORIG_L4PROTO,
    zone: sys::ATTR_ORIG_ZONE,
};

const REPLY: Direction = Direction {
    v4: (sys::ATTR_REPL_IPV4_SRC, sys::ATTR_REPL_IPV4_DST),
    v6: (sys::ATTR_REPL_IPV6_SRC, sys::ATTR_REPL_IPV6_DST),
    ports: (sys::ATTR_REPL_PORT_SRC, sys::ATTR_REPL_PORT_DST),
    l3: sys::ATTR_REPL_L3PROTO,
    l4: sys::ATTR_REPL_L4PROTO,
    zone: sys::ATTR_REPL_ZONE,
};

impl ConntrackRef {
    /// # Safety
    /// `raw` is a live object of the library and stays so for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(raw: NonNull<sys::nf_conntrack>) -> &'a Self {
        // SAFETY: the caller vouches for the object; this type has no size and
        // no alignment of its own, and only its address is ever used.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::nf_conntrack {
        self._opaque.get().cast::<sys::nf_conntrack>()
    }

    /// The connection before NAT, or `None` while it is not whole.
    pub fn original(&self) -> Option<Tuple> {
        self.tuple(&ORIGINAL)
    }

    /// What the other side's packets carry, or `None` while it is not whole.
    ///
    /// The library hands out the original's ICMP identifier, type and code only;
    /// the reply's own ones are in [`Flow::reply`](crate::Flow::reply).
    pub fn reply(&self) -> Option<Tuple> {
        self.tuple(&REPLY)
    }

    /// The kernel's id of this life of the connection.
    pub fn id(&self) -> Option<u32> {
        self.get_u32(sys::ATTR_ID)
    }

    /// The connection mark.
    pub fn mark(&self) -> Option<u32> {
        self.get_u32(sys::ATTR_MARK)
    }

    /// State bits.
    pub fn status(&self) -> Option<Status> {
        self.get_u32(sys::ATTR_STATUS).map(Status)
    }

    /// Seconds until the kernel forgets the idle entry.
    pub fn timeout(&self) -> Option<Duration> {
        self.get_u32(sys::ATTR_TIMEOUT).map(|seconds| Duration::from_secs(seconds.into()))
    }

    fn tuple(&self, direction: &Direction) -> Option<Tuple> {
        let protocol = Protocol::from(self.get_u8(direction.l4)?);
        let addresses = match i32::from(self.get_u8(direction.l3)?) {
            libc::AF_INET => (self.get_v4(direction.v4.0)?, self.get_v4(direction.v4.1)?),
            libc::AF_INET6 => (self.get_v6(direction.v6.0)?, self.get_v6(direction.v6.1)?),
            _ => return None,
        };
        let ports = || (self.get_port(direction.ports.0), self.get_port(direction.ports.1));
        let layer4 = match protocol {
            Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp {
                id: self.get_port(sys::ATTR_ICMP_ID),
                kind: self.get_u8(sys::ATTR_ICMP_TYPE).unwrap_or(0),
                code: self.get_u8(sys::ATTR_ICMP_CODE).unwrap_or(0),
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
        let zone = self.get_u16(sys::ATTR_ZONE).or_else(|| self.get_u16(direction.zone)).unwrap_or(0);
        Some(Tuple { src: addresses.0, dst: addresses.1, protocol, layer4, zone })
    }

    fn is_set(&self, attribute: u32) -> bool {
        // SAFETY: a live object; an attribute past the library's last is refused.
        unsafe { sys::nfct_attr_is_set(self.as_ptr(), attribute) > 0 }
    }

    fn get_u8(&self, attribute: u32) -> Option<u8> {
        // SAFETY: a live object, and an attribute of eight bits.
        self.is_set(attribute).then(|| unsafe { sys::nfct_get_attr_u8(self.as_ptr(), attribute) })
    }

    fn get_u16(&self, attribute: u32) -> Option<u16> {
        // SAFETY: a live object, and an attribute of sixteen bits.
        self.is_set(attribute).then(|| unsafe { sys::nfct_get_attr_u16(self.as_ptr(), attribute) })
    }

    fn get_u32(&self, attribute: u32) -> Option<u32> {
        // SAFETY: a live object, and an attribute of 32 bits.
        self.is_set(attribute).then(|| unsafe { sys::nfct_get_attr_u32(self.as_ptr(), attribute) })
    }

    /// Ports and ICMP ids are in network byte order; 0 where not set.
    fn get_port(&self, attribute: u32) -> u16 {
        u16::from_be(self.get_u16(attribute).unwrap_or(0))
    }

    fn get_v4(&self, attribute: u32) -> Option<IpAddr> {
        self.get_u32(attribute).map(|raw| IpAddr::V4(Ipv4Addr::from(raw.to_ne_bytes())))
    }

    fn get_v6(&self, attribute: u32) -> Option<IpAddr> {
        // SAFETY: a live object; NULL when the attribute is not set.
        let value = unsafe { sys::nfct_get_attr(self.as_ptr(), attribute) };
        // SAFETY: an IPv6 attribute points to 16 bytes inside the object, which
        // is not changed while it is borrowed.
        let octets = unsafe { value.cast::<[u8; 16]>().as_ref() };
        octets.map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)))
    }

    /// Sets both directions, addresses, protocol, ports and zones. Of ICMP
    /// details the library takes the original's and derives the reply's.
    pub fn set_tuples(&mut self, original: &Tuple, reply: &Tuple) -> &mut Self {
        self.set_tuple(&ORIGINAL, original);
        self.set_tuple(&REPLY, reply);
        if original.zone == reply.zone {
            if original.zone != 0 {
                self.set_u16(sys::ATTR_ZONE, original.zone);
            }
        } else {
            // Of one direction only: the kernel refuses an entry that names a zone for both.
            for (attribute, zone) in [(sys::ATTR_ORIG_ZONE, original.zone), (sys::ATTR_REPL_ZONE, reply.zone)]
            {
                if zone != 0 {
                    self.set_u16(attribute, zone);
                }
            }
        }
        self
    }

    /// Sets the original direction alone, for an expectation's tuple.
    pub(crate) fn set_original_tuple(&mut self, tuple: &Tuple) {
        self.set_tuple(&ORIGINAL, tuple);
    }

    /// Sets the connection mark.
    pub fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.set_u32(sys::ATTR_MARK, mark);
        self
    }

    /// Sets how long the kernel keeps the idle entry, in whole seconds.
    pub fn set_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.set_u32(sys::ATTR_TIMEOUT, u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
        self
    }

    /// Sets state bits.
    pub fn set_status(&mut self, status: Status) -> &mut Self {
        self.set_u32(sys::ATTR_STATUS, status.0);
        self
    }

    /// Sets the TCP state, a value of `enum tcp_conntrack` (3 is ESTABLISHED).
    pub fn set_tcp_state(&mut self, state: u8) -> &mut Self {
        self.set_u8(sys::ATTR_TCP_STATE, state);
        self
    }

    fn set_tuple(&mut self, direction: &Direction, tuple: &Tuple) {
        let mut set_address = |address: IpAddr, v4: u32, v6: u32| match address {
            IpAddr::V4(address) => self.set_u32(v4, u32::from_ne_bytes(address.octets())),
            IpAddr::V6(address) => self.set_bytes(v6, &address.octets()),
        };
        set_address(tuple.src, direction.v4.0, direction.v6.0);
        set_address(tuple.dst, direction.v4.1, direction.v6.1);
        let family = if tuple.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        self.set_u8(direction.l3, family as u8);
        self.set_u8(direction.l4, tuple.protocol.number());
        match tuple.layer4 {
            Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => {
                self.set_u16(direction.ports.0, src.to_be());
                self.set_u16(direction.ports.1, dst.to_be());
            }
            // One attribute for both directions: the library derives the reply's
            // type from the original's.
            Layer4::Icmp { .. } if direction.l4 == sys::ATTR_REPL_L4PROTO => {}
            Layer4::Icmp { id, kind, code } => {
                self.set_u16(sys::ATTR_ICMP_ID, id.to_be());
                self.set_u8(sys::ATTR_ICMP_TYPE, kind);
                self.set_u8(sys::ATTR_ICMP_CODE, code);
            }
            Layer4::None => {}
        }
    }

    fn set_u8(&mut self, attribute: u32, value: u8) {
        // SAFETY: a live object that is borrowed for writing, and an attribute of eight bits.
        unsafe { sys::nfct_set_attr_u8(self.as_ptr(), attribute, value) }
    }

    fn set_u16(&mut self, attribute: u32, value: u16) {
        // SAFETY: a live object that is borrowed for writing, and an attribute of sixteen bits.
        unsafe { sys::nfct_set_attr_u16(self.as_ptr(), attribute, value) }
    }

    fn set_u32(&mut self, attribute: u32, value: u32) {
        // SAFETY: a live object that is borrowed for writing, and an attribute of 32 bits.
        unsafe { sys::nfct_set_attr_u32(self.as_ptr(), attribute, value) }
    }

    fn set_bytes(&mut self, attribute: u32, value: &[u8; 16]) {
        // SAFETY: a live object that is borrowed for writing; the library copies
        // the 16 bytes that an IPv6 attribute has.
        unsafe { sys::nfct_set_attr(self.as_ptr(), attribute, value.as_ptr().cast::<c_void>()) }
    }
}

/// An object of the library that is ours.
pub struct Conntrack {
    raw: NonNull<sys::nf_conntrack>,
}

// SAFETY: an object holds its own memory and the library shares none between
// objects; `&self` only reads it and `&mut self` is needed to write.
unsafe impl Send for Conntrack {}
// SAFETY: as above: every method that takes `&self` only reads.
unsafe impl Sync for Conntrack {}

impl Conntrack {
    /// An empty object.
    ///
    /// # Errors
    /// Only when memory runs out.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: takes nothing; NULL means no memory and is checked next.
        let raw = unsafe { sys::nfct_new() };
        NonNull::new(raw).map(|raw| Self { raw }).ok_or_else(|| Error::last("making a conntrack object"))
    }

    /// What the library makes of one netlink message, header included.
    ///
    /// # Errors
    /// As the library says, and `EINVAL` where the header's length does not fit.
    pub fn parse(message: &[u8]) -> Result<Self, Error> {
        const DOING: &str = "reading a conntrack message";
        // The library expects a header aligned to four bytes, and believes its length.
        let mut aligned = vec![0_u32; message.len().div_ceil(4)];
        for (word, bytes) in aligned.iter_mut().zip(message.chunks(4)) {
            let mut padded = [0; 4];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(padded);
        }
        let length = aligned.first().map_or(0, |length| *length as usize);
        if length < crate::wire::HEADER + 4 || length > message.len() {
            return Err(Error::from_io(DOING, std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let entry = Self::new()?;
        // SAFETY: an aligned header, whose length was checked to lie within the
        // buffer, and a live object to fill.
        let result =
            unsafe { sys::nfct_nlmsg_parse(aligned.as_ptr().cast::<sys::nlmsghdr>(), entry.raw.as_ptr()) };
        if result < 0 { Err(Error::last(DOING)) } else { Ok(entry) }
    }
}

impl Deref for Conntrack {
    type Target = ConntrackRef;

    fn deref(&self) -> &ConntrackRef {
        // SAFETY: the object is live as long as `self` is.
        unsafe { ConntrackRef::from_ptr(self.raw) }
    }
}

impl DerefMut for Conntrack {
    fn deref_mut(&mut self) -> &mut ConntrackRef {
        // SAFETY: the object is live and ours alone; ConntrackRef has no size,
        // so that no byte is aliased.
        unsafe { self.raw.cast::<ConntrackRef>().as_mut() }
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        // SAFETY: the object came from nfct_new and is never used again.
        unsafe { sys::nfct_destroy(self.raw.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(src: &str, dst: &str, protocol: Protocol, layer4: Layer4, zone: u16) -> Tuple {
        Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone }
    }

    #[test]
    fn huge_and_odd_values_come_back_as_they_were_set() {
        let ports = |src, dst| Layer4::Ports { src, dst };
        let cases = [
            tuple("255.255.255.255", "0.0.0.0", Protocol::Tcp, ports(65535, 0), 0),
            tuple("ffff::ffff", "::", Protocol::Udp, ports(0, 65535), 65535),
            tuple("10.0.0.1", "10.0.0.2", Protocol::Gre, Layer4::Keys { src: 65535, dst: 1 }, 1),
            tuple("10.0.0.1", "10.0.0.2", Protocol::Icmp, Layer4::Icmp { id: 65535, kind: 8, code: 255 }, 0),
            tuple("10.0.0.1", "10.0.0.2", Protocol::Other(255), Layer4::None, 0),
        ];
        for case in cases {
            let mut entry = Conntrack::new().unwrap();
            assert_eq!(entry.original(), None);
            entry.set_tuples(&case, &case).set_mark(u32::MAX).set_status(Status(u32::MAX));
            entry.set_timeout(Duration::MAX).set_tcp_state(255);
            assert_eq!(entry.original(), Some(case));
            assert_eq!(entry.reply(), Some(case));
            assert_eq!(entry.mark(), Some(u32::MAX));
            assert_eq!(entry.timeout(), Some(Duration::from_secs(u32::MAX.into())));
            assert!(entry.status().unwrap().is_dying());
        }
    }

    #[test]
    fn a_zone_of_one_direction_stays_there() {
        let original = tuple("10.0.0.1", "10.0.0.2", Protocol::Udp, Layer4::Ports { src: 1, dst: 2 }, 9);
        let reply = Tuple { zone: 0, ..original };
        let mut entry = Conntrack::new().unwrap();
        entry.set_tuples(&original, &reply);
        assert_eq!((entry.original().unwrap().zone, entry.reply().unwrap().zone), (9, 0));
    }

    #[test]
    fn a_message_with_a_wrong_length_never_reaches_the_library() {
        assert!(Conntrack::parse(&[]).is_err());
        assert!(Conntrack::parse(&[255; 19]).is_err());
        let mut long = [0_u8; 64];
        long[..4].copy_from_slice(&65_u32.to_ne_bytes());
        assert!(Conntrack::parse(&long).is_err());
    }
}
