//! The addresses that the network interfaces have, and notifications of their changes
//! (rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

// linux/netlink.h and linux/rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// The dump is not consistent, because something has changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `RTEXT_FILTER_SKIP_STATS`: the counters are most of a link's message.
const WITHOUT_COUNTERS: u32 = 1 << 3;
/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct ifinfomsg`
const LINK_HEADER: usize = 16;
/// `struct ifaddrmsg`
const ADDRESS_HEADER: usize = 8;

/// The kernel fills at most this much of a buffer with a part of a dump.
const BUFFER: usize = 32 * 1024;
/// Attempts at a dump during which nothing changes.
const ATTEMPTS: u32 = 16;

/// The addresses of each interface. Link-local addresses of IPv6 are left out: no public
/// address is one of them, and nearly every interface has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces(BTreeMap<String, BTreeSet<IpAddr>>);

impl Interfaces {
    /// The addresses of an interface; none if it does not exist.
    pub fn of(&self, name: &str) -> impl Iterator<Item = IpAddr> + use<'_> {
        self.0.get(name).into_iter().flatten().copied()
    }

    /// The addresses of all interfaces.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> + use<'_> {
        self.0.values().flatten().copied()
    }
}

impl<'a> FromIterator<(&'a str, IpAddr)> for Interfaces {
    fn from_iter<I: IntoIterator<Item = (&'a str, IpAddr)>>(addresses: I) -> Self {
        let mut interfaces = Self::default();
        for (name, address) in addresses {
            let is_link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            if !is_link_local {
                interfaces.0.entry(name.to_owned()).or_default().insert(address);
            }
        }
        interfaces
    }
}

/// Notifies of changes of addresses and of interfaces in the network namespace of the
/// thread that subscribed.
#[derive(Debug)]
pub struct AddressChanges {
    socket: OwnedFd,
}

impl AddressChanges {
    /// Subscribes. This needs no capability.
    ///
    /// # Errors
    /// The system's error.
    pub fn subscribe() -> io::Result<Self> {
        let socket = open()?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Waits until something may have changed, for at most `timeout`. Returns whether it may.
    ///
    /// # Errors
    /// The system's error. A signal ends the wait without an error.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        // A time that is too long for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all notifications from the socket.
    ///
    /// # Errors
    /// The system's error.
    pub fn clear(&self) -> io::Result<()> {
        let mut part = [0_u8; 16];
        loop {
            match recv(&self.socket, &mut part, RecvFlags::DONTWAIT) {
                // After an overrun there is nothing more to know: everything is read anew.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads the addresses of the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct AddressReader {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    sequence: u32,
}

impl AddressReader {
    /// Opens a socket. This needs no capability.
    ///
    /// # Errors
    /// The system's error.
    pub fn open() -> io::Result<Self> {
        let socket = open()?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; BUFFER].into_boxed_slice(), sequence: 0 })
    }

    /// The addresses of all interfaces at this moment. If they change all the time, they may
    /// be of different moments; then [`AddressChanges`] notifies of another change.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&mut self) -> io::Result<Interfaces> {
        let mut attempt = 1;
        loop {
            let (mut names, mut addresses) = (HashMap::new(), Vec::new());
            let is_stable = self.dump(RTM_GETLINK, &link_request(), |kind, body| {
                names.extend(link(body).filter(|_| kind == RTM_NEWLINK));
            })? && self.dump(RTM_GETADDR, &[0; ADDRESS_HEADER], |kind, body| {
                addresses.extend(address(body).filter(|_| kind == RTM_NEWADDR));
            })?;
            if is_stable || attempt == ATTEMPTS {
                let named = addresses.iter().filter_map(|(index, address)| {
                    let name: &String = names.get(index)?;
                    Some((name.as_str(), *address))
                });
                return Ok(named.collect());
            }
            attempt += 1;
        }
    }

    /// Passes the messages of a dump to `on`, as their types and what follows their headers.
    /// Returns false if the dump is not consistent.
    fn dump(&mut self, request: u16, body: &[u8], mut on: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(request.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut is_consistent = true;
        loop {
            let (_, length) = match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            let mut rest = self.buffer.get(..length).ok_or_else(malformed)?;
            while !rest.is_empty() {
                let message = Message::read(&mut rest).ok_or_else(malformed)?;
                // What is left of an earlier dump that failed.
                if message.sequence != self.sequence {
                    continue;
                }
                is_consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(is_consistent),
                    NLMSG_ERROR => {
                        let code = number(message.body, 0).ok_or_else(malformed)? as i32;
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    kind => on(kind, message.body),
                }
            }
        }
    }
}

/// A socket of NETLINK_ROUTE, which is protocol 0.
fn open() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's list of addresses cannot be parsed")
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes the first message off a buffer.
    fn read(buffer: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(number(buffer, 0)?).ok()?;
        let message = Self {
            kind: half(buffer, 4)?,
            flags: half(buffer, 6)?,
            sequence: number(buffer, 8)?,
            body: buffer.get(HEADER..length)?,
        };
        *buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// The value of an attribute.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(half(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if half(attributes, 2)? == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The request for the names of all interfaces, without their counters.
fn link_request() -> Vec<u8> {
    let mut body = vec![0; LINK_HEADER];
    body.extend(8_u16.to_ne_bytes());
    body.extend(IFLA_EXT_MASK.to_ne_bytes());
    body.extend(WITHOUT_COUNTERS.to_ne_bytes());
    body
}

/// The index and the name of an interface.
fn link(body: &[u8]) -> Option<(u32, String)> {
    let name = attribute(body.get(LINK_HEADER..)?, IFLA_IFNAME)?;
    Some((number(body, 4)?, std::str::from_utf8(name).ok()?.trim_end_matches('\0').to_owned()))
}

/// The index of an interface, and an address of it. On a point-to-point link `IFA_ADDRESS`
/// is the address of the other side.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let attributes = body.get(ADDRESS_HEADER..)?;
    let address = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    Some((number(body, 4)?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address() {
        let interfaces = AddressReader::open().unwrap().read().unwrap();
        assert!(interfaces.of("lo").any(|address| address.is_loopback()), "{interfaces:?}");
        assert_eq!(interfaces.of("no such one").count(), 0);
        let changes = AddressChanges::subscribe().unwrap();
        changes.clear().unwrap();
    }

    #[test]
    fn link_local_addresses_are_left_out() {
        let addresses = ["10.0.0.1", "fe80::1", "169.254.1.1", "2001:db8::1", "10.0.0.1"];
        let interfaces: Interfaces =
            addresses.into_iter().map(|address| ("ppp0", address.parse().unwrap())).collect();
        let left = interfaces.of("ppp0").map(|address| address.to_string());
        assert_eq!(left.collect::<Vec<_>>(), ["10.0.0.1", "169.254.1.1", "2001:db8::1"]);
    }

    #[test]
    fn messages_that_are_cut_short_are_not_read() {
        let mut message = Vec::new();
        message.extend(32_u32.to_ne_bytes());
        message.extend([0; 12]);
        assert!(Message::read(&mut &message[..]).is_none());
        assert_eq!(attribute(&[8, 0, 3, 0, 1, 2], 3), None);
        assert_eq!(attribute(&[0, 0, 9, 0], 3), None);
        assert_eq!(address(&[0; 8]), None);
    }
}
