//! The kernel's neighbour table over rtnetlink(7): its messages, a list of all entries and notifications of changes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with,
};

use crate::mac::Mac;
use crate::outlet::Outlet;

// linux/netlink.h and linux/rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// A part of a dump has it, a notification has not.
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
/// The dump is not consistent, because something has changed meanwhile.
const NLM_F_DUMP_INTR: u16 = 0x10;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
/// `RTMGRP_NEIGH`
const GROUPS: u32 = 0x4;

// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NTF_PROXY: u8 = 1 << 3;
/// The states in which the kernel believes the link-layer address: `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`,
/// `NUD_PROBE` and `NUD_PERMANENT`.
const BELIEVED: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct ndmsg`
const NEIGHBOUR_HEADER: usize = 12;

/// The kernel fills at most this much of a buffer with a part of a dump.
const BUFFER: usize = 32 * 1024;
/// The kernel begins to answer at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a message says of an address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    /// The index of the interface.
    pub(crate) interface: u32,
    pub(crate) address: IpAddr,
    /// Who has it, as the kernel believes; `None` if it does not know, or the entry is gone.
    pub(crate) mac: Option<Mac>,
    /// For how long this has not been confirmed, in hundredths of a second.
    pub(crate) age: u32,
}

/// What the messages tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The list begins: what was told before is older than the list.
    ListBegins,
    /// An entry of the list, or a change.
    Says(Neighbour),
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A message, perhaps of several parts.
    Message,
    /// There is nothing to receive now.
    Nothing,
    /// Messages were lost, because the receive buffer was full.
    Overrun,
}

/// How the last dump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dump {
    Asked,
    Begun,
    Done,
    Failed(Errno),
}

/// How a list was read that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// It is consistent, and so are the changes.
    Good,
    /// The kernel's table was rebuilt meanwhile, so that the list may lack entries.
    Inconsistent,
    /// Changes were lost meanwhile.
    Overrun,
}

/// A subscription to changes of the neighbour table, of the network namespace of the thread that opened it. The list
/// comes over the same socket, so that what is read is in the order of time.
#[derive(Debug)]
pub(crate) struct Subscription {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    sequence: u32,
    dump: Dump,
    is_consistent: bool,
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Subscription {
    /// Subscribes. This needs no capability, but only with `CAP_NET_ADMIN` can the receive buffer be larger than
    /// `net.core.rmem_max`.
    pub(crate) fn open(receive_buffer: usize) -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        if set_socket_recv_buffer_size_force(&socket, receive_buffer).is_err() {
            set_socket_recv_buffer_size(&socket, receive_buffer)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            sequence: 0,
            dump: Dump::Done,
            is_consistent: true,
        })
    }

    /// Reads the whole table, and the changes meanwhile. `None` if the kernel had no room to answer.
    pub(crate) fn list(&mut self, outlet: &Outlet, tell: &mut dyn FnMut(News)) -> io::Result<Option<List>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + NEIGHBOUR_HEADER);
        message.extend(((HEADER + NEIGHBOUR_HEADER) as u32).to_ne_bytes());
        message.extend(RTM_GETNEIGH.to_ne_bytes());
        message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend([0; NEIGHBOUR_HEADER]);
        (self.dump, self.is_consistent) = (Dump::Asked, true);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut was_overrun = false;
        loop {
            match self.receive(tell)? {
                Received::Message => {}
                Received::Overrun => was_overrun = true,
                Received::Nothing => {
                    if !outlet.wait(&[&self.socket], Some(PATIENCE))? {
                        // In an overrun the answer can be lost too.
                        return if was_overrun { Ok(None) } else { Err(unanswered()) };
                    }
                }
            }
            match self.dump {
                Dump::Asked | Dump::Begun => {}
                Dump::Done if was_overrun => return Ok(Some(List::Overrun)),
                Dump::Done if !self.is_consistent => return Ok(Some(List::Inconsistent)),
                Dump::Done => return Ok(Some(List::Good)),
                Dump::Failed(Errno::NOBUFS) => return Ok(None),
                Dump::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Receives once, without waiting.
    pub(crate) fn receive(&mut self, tell: &mut dyn FnMut(News)) -> io::Result<Received> {
        let (length, sender) = match recvfrom(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
            Ok((_, length, sender)) => (length, sender),
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::INTR) => return Ok(Received::Message),
            Err(Errno::NOBUFS) => return Ok(Received::Overrun),
            Err(error) => return Err(error.into()),
        };
        let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
        if sender.is_none_or(|sender| sender.pid() != 0) {
            // Another process can write to this socket, but only the kernel knows.
            return Ok(Received::Message);
        }
        let mut rest = self.buffer.get(..length).ok_or_else(malformed)?;
        while !rest.is_empty() {
            let message = Message::read(&mut rest).ok_or_else(malformed)?;
            let is_running = matches!(self.dump, Dump::Asked | Dump::Begun);
            let is_answer = is_running && message.sequence == self.sequence;
            match message.kind {
                NLMSG_ERROR if is_answer => {
                    let code = number(message.body, 0).ok_or_else(malformed)? as i32;
                    self.dump = Dump::Failed(Errno::from_raw_os_error(code.wrapping_neg()));
                }
                NLMSG_DONE | RTM_NEWNEIGH if is_answer && message.flags & NLM_F_MULTI != 0 => {
                    if self.dump == Dump::Asked {
                        tell(News::ListBegins);
                    }
                    self.is_consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                    self.dump = if message.kind == NLMSG_DONE { Dump::Done } else { Dump::Begun };
                }
                _ => {}
            }
            if let Some(neighbour) = neighbour(message.kind, message.body) {
                tell(News::Says(neighbour));
            }
        }
        Ok(Received::Message)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's neighbour table cannot be parsed")
}

fn unanswered() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the kernel did not answer within {} s when asked for its neighbours", PATIENCE.as_secs()),
    )
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

/// What a message says. `None` if it is of something else: of a bridge, of a proxy, or of an address that no host
/// behind a gateway has.
fn neighbour(kind: u16, body: &[u8]) -> Option<Neighbour> {
    let is_gone = match kind {
        RTM_NEWNEIGH => false,
        RTM_DELNEIGH => true,
        _ => return None,
    };
    let attributes = body.get(NEIGHBOUR_HEADER..)?;
    let flags = *body.get(10)?;
    if flags & NTF_PROXY != 0 {
        return None;
    }
    let address = attribute(attributes, NDA_DST)?;
    let address = match *body.first()? {
        AF_INET => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        _ => return None,
    };
    if !is_of_a_host(address) {
        return None;
    }
    let is_believed = !is_gone && half(body, 8)? & BELIEVED != 0;
    let mac = attribute(attributes, NDA_LLADDR).and_then(Mac::from_bytes);
    // The lowest bit of the first byte marks a group: multicast, or broadcast.
    let mac = mac.filter(|mac| is_believed && mac.0[0] & 1 == 0);
    // struct nda_cacheinfo
    let age = attribute(attributes, NDA_CACHEINFO).and_then(|info| number(info, 0)).unwrap_or(0);
    Some(Neighbour { interface: number(body, 4)?, address, mac, age })
}

/// Link-local addresses of IPv6 are not routed, and mean another host on each interface.
fn is_of_a_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast() || v4.is_loopback() || v4.is_unspecified() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of a host, as the kernel tells it.
    fn body(family: u8, state: u16, flags: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(7_u32.to_ne_bytes());
        body.extend(state.to_ne_bytes());
        body.extend([flags, 1]);
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    #[test]
    fn an_entry_is_believed_in_some_states_only() {
        let attributes: [(u16, &[u8]); 2] = [(NDA_DST, &[10, 0, 0, 7]), (NDA_LLADDR, &[2, 0, 0, 0, 0, 1])];
        for (state, is_believed) in [
            (0x00, false),
            (0x01, false),
            (0x02, true),
            (0x04, true),
            (0x08, true),
            (0x10, true),
            (0x20, false),
            (0x40, false),
            (0x80, true),
        ] {
            let told = neighbour(RTM_NEWNEIGH, &body(AF_INET, state, 0, &attributes)).unwrap();
            assert_eq!(told.mac.is_some(), is_believed, "{state:#x}");
            assert_eq!((told.interface, told.address), (7, "10.0.0.7".parse().unwrap()));
        }
        let gone = neighbour(RTM_DELNEIGH, &body(AF_INET, 0x02, 0, &attributes)).unwrap();
        assert_eq!(gone.mac, None);
        assert_eq!(neighbour(RTM_NEWNEIGH, &body(AF_INET, 0x02, NTF_PROXY, &attributes)), None);
        // A bridge's entry for VXLAN has an address too: that of the other end of the tunnel.
        assert_eq!(neighbour(RTM_NEWNEIGH, &body(7, 0x80, 0, &attributes)), None);
        assert_eq!(neighbour(RTM_GETNEIGH, &body(AF_INET, 0x02, 0, &attributes)), None);
    }

    #[test]
    fn groups_and_tunnels_have_no_host() {
        let told = |family, address: &[u8], mac: &[u8]| {
            let attributes = [(NDA_DST, address), (NDA_LLADDR, mac)];
            neighbour(RTM_NEWNEIGH, &body(family, 0x02, 0, &attributes)).and_then(|told| told.mac)
        };
        let mac = [2, 0, 0, 0, 0, 1];
        assert!(told(AF_INET, &[10, 0, 0, 7], &mac).is_some());
        assert!(told(AF_INET6, &"fd00::7".parse::<std::net::Ipv6Addr>().unwrap().octets(), &mac).is_some());
        for address in ["224.0.0.1", "127.0.0.1", "0.0.0.0", "255.255.255.255"] {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            assert_eq!(told(AF_INET, &address.octets(), &mac), None, "{address}");
        }
        for address in ["ff02::1", "::1", "::", "fe80::1"] {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            assert_eq!(told(AF_INET6, &address.octets(), &mac), None, "{address}");
        }
        assert_eq!(told(AF_INET, &[10, 0, 0, 7], &[0xff; 6]), None);
        assert_eq!(told(AF_INET, &[10, 0, 0, 7], &[1, 0, 0x5e, 0, 0, 1]), None);
        assert_eq!(told(AF_INET, &[10, 0, 0, 7], &[0; 6]), None);
        // InfiniBand has 20 bytes, a tunnel has the other end's address of IPv4.
        assert_eq!(told(AF_INET, &[10, 0, 0, 7], &[2; 20]), None);
        assert_eq!(told(AF_INET, &[10, 0, 0, 7], &[2; 4]), None);
        assert_eq!(told(AF_INET, &[10, 0, 0, 7, 0], &mac), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8..40, 0..200)) {
            let mut rest = bytes.as_slice();
            while let Some(message) = Message::read(&mut rest) {
                let _ = neighbour(RTM_NEWNEIGH, message.body);
            }
            let _ = neighbour(RTM_DELNEIGH, &bytes);
        }
    }
}
