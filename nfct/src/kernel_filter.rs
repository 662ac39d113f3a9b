//! Filters that the kernel runs for a listener, so that an event of no
//! interest never wakes it.
//!
//! A filter is a program of classic BPF on the event socket. It finds its way
//! through the message by the kernel's netlink extensions
//! (`SKF_AD_NLATTR`, `SKF_AD_NLATTR_NEST` in `linux/filter.h`), which give the
//! place of an attribute, or 0 where there is none. The C library's own filter
//! knows neither ports nor the reply tuple.

use std::net::IpAddr;
use std::os::fd::AsFd;

use libc::sock_filter;
use nfct_sys as sys;

use crate::error::Error;
use crate::socket;

/// One of the two tuples of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// As the first packet had it.
    Original,
    /// As answers have it.
    Reply,
}

/// One end of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where packets of this direction come from.
    Source,
    /// Where they go to.
    Destination,
}

/// Conditions that must all hold for an event to be delivered.
///
/// The kernel may let more through, never less: a port condition does not hold
/// back protocols that have no ports.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Direction, End, Events, Groups, KernelFilter};
///
/// // Only what leaves through this public address, to port 443.
/// let filter = KernelFilter::new()
///     .address(Direction::Reply, End::Destination, "100.64.2.1".parse().unwrap())
///     .port(Direction::Original, End::Destination, 443);
/// let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
/// events.set_filter(&filter)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Address(Direction, End, IpAddr),
    Port(Direction, End, u16),
}

impl KernelFilter {
    /// A filter that lets everything through.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: this end of this tuple has this address.
    #[must_use]
    pub fn address(mut self, direction: Direction, end: End, address: IpAddr) -> Self {
        self.conditions.push(Condition::Address(direction, end, address));
        self
    }

    /// Adds: this end of this tuple has this port, or its protocol has none.
    #[must_use]
    pub fn port(mut self, direction: Direction, end: End, port: u16) -> Self {
        self.conditions.push(Condition::Port(direction, end, port));
        self
    }

    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Puts it on a socket, in place of the one before.
    ///
    /// # Errors
    /// As the system says.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), Error> {
        let result = if self.is_empty() {
            socket::detach_filter(socket.as_fd())
        } else {
            socket::attach_filter(socket.as_fd(), &self.program())
        };
        result.map_err(|source| Error::from_io("setting the event filter", source))
    }

    fn program(&self) -> Vec<sock_filter> {
        let mut program = Vec::new();
        for condition in &self.conditions {
            match *condition {
                Condition::Address(direction, end, address) => {
                    check_address(&mut program, direction, end, address)
                }
                Condition::Port(direction, end, port) => check_port(&mut program, direction, end, port),
            }
        }
        program.push(statement(RETURN, DELIVER));
        program
    }
}

// linux/bpf_common.h: class | size | mode, or class | operation | source.
const LOAD_IMMEDIATE: u16 = 0x00;
const LOAD_X_IMMEDIATE: u16 = 0x01;
const LOAD_WORD: u16 = 0x20;
const LOAD_WORD_AT_X: u16 = 0x40;
const LOAD_HALF_AT_X: u16 = 0x48;
const JUMP_IF_EQUAL: u16 = 0x15;
const COPY_TO_X: u16 = 0x07;
const RETURN: u16 = 0x06;

/// Verdicts: how many bytes of the message are delivered.
const DELIVER: u32 = u32::MAX;
const DROP: u32 = 0;

/// Loads the place of the attribute X that stands at or behind place A.
const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
/// Loads the place of the attribute X inside the attribute at place A.
const FIND_NESTED: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR_NEST) as u32;

/// Attributes begin behind `struct nlmsghdr` and `struct nfgenmsg`.
const FIRST_ATTRIBUTE: u32 = 20;
/// An attribute's value begins behind its `struct nlattr`.
const VALUE: u32 = 4;

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Goes on behind the next statement if the accumulator is `k`.
const fn skip_next_if(k: u32) -> sock_filter {
    sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k }
}

/// Goes on behind the next statement unless the accumulator is `k`.
const fn skip_next_unless(k: u32) -> sock_filter {
    sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k }
}

/// Finds a part of a tuple. A message without it is none that this program
/// understands: it is delivered.
fn find_part(program: &mut Vec<sock_filter>, direction: Direction, part: u32) {
    let tuple = match direction {
        Direction::Original => sys::CTA_TUPLE_ORIG,
        Direction::Reply => sys::CTA_TUPLE_REPLY,
    };
    program.extend([
        statement(LOAD_IMMEDIATE, FIRST_ATTRIBUTE),
        statement(LOAD_X_IMMEDIATE, tuple),
        statement(LOAD_WORD, FIND_ATTRIBUTE),
        skip_next_unless(0),
        statement(RETURN, DELIVER),
        statement(LOAD_X_IMMEDIATE, part),
        statement(LOAD_WORD, FIND_NESTED),
        skip_next_unless(0),
        statement(RETURN, DELIVER),
    ]);
}

fn check_address(program: &mut Vec<sock_filter>, direction: Direction, end: End, address: IpAddr) {
    let attribute = match (address, end) {
        (IpAddr::V4(_), End::Source) => sys::CTA_IP_V4_SRC,
        (IpAddr::V4(_), End::Destination) => sys::CTA_IP_V4_DST,
        (IpAddr::V6(_), End::Source) => sys::CTA_IP_V6_SRC,
        (IpAddr::V6(_), End::Destination) => sys::CTA_IP_V6_DST,
    };
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    find_part(program, direction, sys::CTA_TUPLE_IP);
    program.extend([
        statement(LOAD_X_IMMEDIATE, attribute),
        statement(LOAD_WORD, FIND_NESTED),
        // Not there: a connection of the other family.
        skip_next_unless(0),
        statement(RETURN, DROP),
        statement(COPY_TO_X, 0),
    ]);
    for (at, word) in octets.chunks_exact(4).enumerate() {
        let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
        program.extend([
            statement(LOAD_WORD_AT_X, VALUE + 4 * at as u32),
            skip_next_if(word),
            statement(RETURN, DROP),
        ]);
    }
}

fn check_port(program: &mut Vec<sock_filter>, direction: Direction, end: End, port: u16) {
    let attribute = match end {
        End::Source => sys::CTA_PROTO_SRC_PORT,
        End::Destination => sys::CTA_PROTO_DST_PORT,
    };
    find_part(program, direction, sys::CTA_TUPLE_PROTO);
    program.extend([
        statement(LOAD_X_IMMEDIATE, attribute),
        statement(LOAD_WORD, FIND_NESTED),
        // Not there: a protocol without ports, about which only the listener can tell.
        sock_filter { code: JUMP_IF_EQUAL, jt: 4, jf: 0, k: 0 },
        statement(COPY_TO_X, 0),
        statement(LOAD_HALF_AT_X, VALUE),
        skip_next_if(port.into()),
        statement(RETURN, DROP),
    ]);
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::tuple::{Layer4, Protocol, Tuple};
    use crate::wire::Request;

    /// Whether the kernel delivers a message through the filter: sockets of any
    /// kind can carry one.
    fn delivers(filter: &KernelFilter, message: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        filter.attach(&receiver).unwrap();
        receiver.set_nonblocking(true).unwrap();
        // A filter's refusal shows as an error to the sender of a local socket.
        let _ = sender.send(message);
        match receiver.recv(&mut [0; 4096]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn message(original: &Tuple, reply: &Tuple) -> Vec<u8> {
        let mut request = Request::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
        request.attribute(sys::CTA_ID, &[0, 0, 0, 1]);
        request.tuple(sys::CTA_TUPLE_ORIG, original).tuple(sys::CTA_TUPLE_REPLY, reply);
        request.finish()
    }

    fn tuples(protocol: Protocol, layer4: fn(u16, u16) -> Layer4, v6: bool) -> (Tuple, Tuple) {
        let address = |v4: &str, six: &str| if v6 { six.parse().unwrap() } else { v4.parse().unwrap() };
        let (inside, outside) = (address("192.168.7.2", "fd00:7::2"), address("198.51.100.1", "2001:db8::1"));
        let public = address("100.64.2.1", "2001:db8::2");
        let tuple = |src, dst, layer4| Tuple { src, dst, protocol, layer4, zone: 0 };
        (tuple(inside, outside, layer4(40001, 443)), tuple(outside, public, layer4(443, 50001)))
    }

    #[test]
    fn each_field_of_both_tuples_is_told_apart() {
        for v6 in [false, true] {
            let (original, reply) = tuples(Protocol::Tcp, |src, dst| Layer4::Ports { src, dst }, v6);
            let message = message(&original, &reply);
            for (direction, tuple) in [(Direction::Original, original), (Direction::Reply, reply)] {
                for (end, address, other) in
                    [(End::Source, tuple.src, tuple.dst), (End::Destination, tuple.dst, tuple.src)]
                {
                    assert!(delivers(&KernelFilter::new().address(direction, end, address), &message));
                    assert!(!delivers(&KernelFilter::new().address(direction, end, other), &message));
                }
                let Layer4::Ports { src, dst } = tuple.layer4 else { unreachable!() };
                for (end, port) in [(End::Source, src), (End::Destination, dst)] {
                    assert!(delivers(&KernelFilter::new().port(direction, end, port), &message));
                    assert!(!delivers(&KernelFilter::new().port(direction, end, port ^ 1), &message));
                }
            }
            let all = KernelFilter::new()
                .address(Direction::Original, End::Source, original.src)
                .port(Direction::Original, End::Source, 40001)
                .address(Direction::Reply, End::Destination, reply.dst)
                .port(Direction::Reply, End::Destination, 50001)
                .address(Direction::Original, End::Destination, original.dst)
                .port(Direction::Original, End::Destination, 443);
            assert!(delivers(&all, &message));
            assert!(!delivers(&all.port(Direction::Reply, End::Source, 444), &message), "all must hold");
            let other_family = if v6 { "192.168.7.2" } else { "fd00:7::2" };
            let filter =
                KernelFilter::new().address(Direction::Original, End::Source, other_family.parse().unwrap());
            assert!(!delivers(&filter, &message));
        }
    }

    #[test]
    fn what_it_does_not_understand_is_delivered() {
        let (original, reply) = tuples(Protocol::Icmp, |id, _| Layer4::Icmp { id, kind: 8, code: 0 }, false);
        let icmp = message(&original, &reply);
        let filter = KernelFilter::new().port(Direction::Reply, End::Destination, 1);
        assert!(delivers(&filter, &icmp), "a protocol without ports");
        let both = filter.clone().address(Direction::Reply, End::Destination, "10.0.0.1".parse().unwrap());
        assert!(!delivers(&both, &icmp), "its address tells all the same");
        assert!(delivers(&filter, &Request::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0).finish()), "no tuple");
        assert!(delivers(&KernelFilter::new(), &icmp), "no condition");
    }
}
