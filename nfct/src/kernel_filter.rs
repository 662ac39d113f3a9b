//! Filters that the kernel runs for a listener, so that an event of no
//! interest never wakes it.
//!
//! A filter is a program of classic BPF on the event socket. It finds its way
//! through the message by the kernel's netlink extensions
//! (`SKF_AD_NLATTR`, `SKF_AD_NLATTR_NEST` in `linux/filter.h`), which give the
//! place of an attribute, or 0 where there is none. The C library's own filter
//! (`nfct_filter`) knows neither ports nor the reply tuple, and before 1.1.0
//! may hold back an IPv6 address that is in the second of two networks.

use std::net::IpAddr;
use std::os::fd::AsFd;

use libc::sock_filter;
use nfct_sys as sys;

use crate::error::Error;
use crate::socket;
use crate::tuple::Protocol;

/// One of the two tuples of a connection.
///
/// ```
/// use nfct::{Direction, Selection};
/// let from = "192.168.7.2".parse().unwrap();
/// let opened_by = Selection::all().address(Direction::Original, nfct::End::Source, from);
/// # let _ = opened_by;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Direction {
    /// As the first packet had it.
    Original,
    /// As answers have it.
    Reply,
}

/// One end of a tuple.
///
/// ```
/// use nfct::{Direction, End, Selection};
/// let to = "198.51.100.1".parse().unwrap();
/// let opened_to = Selection::all().address(Direction::Original, End::Destination, to);
/// # let _ = opened_to;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where packets of this direction come from.
    Source,
    /// Where they go to.
    Destination,
}

/// Whether what is listed is wanted, or everything else.
///
/// ```
/// use nfct::{KernelFilter, Logic, Protocol};
/// let no_dns_or_quic = KernelFilter::new().protocols(Logic::Except, [Protocol::Udp]);
/// # let _ = no_dns_or_quic;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Logic {
    /// Only what is listed (`NFCT_FILTER_LOGIC_POSITIVE`).
    Only,
    /// All but what is listed (`NFCT_FILTER_LOGIC_NEGATIVE`).
    Except,
}

/// Conditions that must all hold for an event to be delivered.
///
/// The kernel may let more through, never less: a port condition does not hold
/// back protocols that have no ports.
///
/// ```no_run
/// # fn main() -> Result<(), nfct::Error> {
/// use nfct::{Direction, End, Events, Groups, KernelFilter, Logic, Protocol};
///
/// // Only what leaves through this public address, to port 443; no UDP.
/// let filter = KernelFilter::new()
///     .address(Direction::Reply, End::Destination, "100.64.2.1".parse().unwrap())
///     .port(Direction::Original, End::Destination, 443)
///     .protocols(Logic::Except, [Protocol::Udp]);
/// let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
/// events.set_filter(&filter)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelFilter {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Address(Direction, End, IpAddr),
    Port(Direction, End, u16),
    Networks(Direction, End, Logic, Vec<Network>),
    Protocols(Logic, Vec<Protocol>),
    States(Logic, Protocol, Vec<u8>),
    Marks(Logic, Vec<(u32, u32)>),
    Zones(Logic, Vec<u16>),
}

/// Words of an address, each with the mask that holds for it.
type Network = (bool, Vec<(u32, u32)>);

impl KernelFilter {
    /// A filter that lets everything through.
    ///
    /// ```
    /// assert!(nfct::KernelFilter::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: this end of this tuple is in one of these networks, given by an
    /// address and the number of its bits that count; or in none of them.
    ///
    /// ```
    /// use nfct::{Direction, End, KernelFilter, Logic};
    /// let loopback = [("127.0.0.0".parse().unwrap(), 8), ("::1".parse().unwrap(), 128)];
    /// let filter = KernelFilter::new()
    ///     .networks(Direction::Original, End::Source, Logic::Except, loopback);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn networks(
        mut self,
        direction: Direction,
        end: End,
        logic: Logic,
        networks: impl IntoIterator<Item = (IpAddr, u8)>,
    ) -> Self {
        let networks = networks.into_iter().map(|(address, bits)| network(address, bits)).collect();
        self.conditions.push(Condition::Networks(direction, end, logic, networks));
        self
    }

    /// Adds: of one of these protocols, or of none of them.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic, Protocol};
    /// let filter = KernelFilter::new().protocols(Logic::Only, [Protocol::Tcp, Protocol::Sctp]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn protocols(mut self, logic: Logic, protocols: impl IntoIterator<Item = Protocol>) -> Self {
        self.conditions.push(Condition::Protocols(logic, protocols.into_iter().collect()));
        self
    }

    /// Adds: where it is of this protocol, in one of these states, or in none
    /// of them; other protocols are let through. TCP, SCTP and DCCP have states.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic, Protocol, TcpState};
    /// let established = [TcpState::Established.number()];
    /// let filter = KernelFilter::new().states(Logic::Only, Protocol::Tcp, established);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn states(mut self, logic: Logic, protocol: Protocol, states: impl IntoIterator<Item = u8>) -> Self {
        self.conditions.push(Condition::States(logic, protocol, states.into_iter().collect()));
        self
    }

    /// Adds: the bits of the connection mark that are set in a mask are as in
    /// the value beside it, for one of these (value, mask), or for none.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic};
    /// let filter = KernelFilter::new().marks(Logic::Except, [(0, u32::MAX)]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn marks(mut self, logic: Logic, marks: impl IntoIterator<Item = (u32, u32)>) -> Self {
        self.conditions.push(Condition::Marks(logic, marks.into_iter().collect()));
        self
    }

    /// Adds: in one of these zones, in either direction, or in none of them; 0
    /// is where no zone is set.
    ///
    /// ```
    /// use nfct::{KernelFilter, Logic};
    /// let filter = KernelFilter::new().zones(Logic::Only, [7, 8]);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn zones(mut self, logic: Logic, zones: impl IntoIterator<Item = u16>) -> Self {
        self.conditions.push(Condition::Zones(logic, zones.into_iter().collect()));
        self
    }

    /// Adds: this end of this tuple has this address.
    ///
    /// ```
    /// use nfct::{Direction, End, KernelFilter};
    /// let filter =
    ///     KernelFilter::new().address(Direction::Reply, End::Destination, "100.64.2.1".parse().unwrap());
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn address(mut self, direction: Direction, end: End, address: IpAddr) -> Self {
        self.conditions.push(Condition::Address(direction, end, address));
        self
    }

    /// Adds: this end of this tuple has this port, or its protocol has none.
    ///
    /// ```
    /// use nfct::{Direction, End, KernelFilter};
    /// let filter = KernelFilter::new().port(Direction::Original, End::Destination, 443);
    /// # let _ = filter;
    /// ```
    #[must_use]
    pub fn port(mut self, direction: Direction, end: End, port: u16) -> Self {
        self.conditions.push(Condition::Port(direction, end, port));
        self
    }

    /// Whether there is no condition.
    ///
    /// ```
    /// assert!(!nfct::KernelFilter::new().zones(nfct::Logic::Only, [0]).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Puts it on a socket, in place of the one before: of [`Events`](crate::Events),
    /// or of a [`Handle`](crate::Handle).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), nfct::Error> {
    /// use nfct::{Groups, Handle, KernelFilter, Logic, Protocol};
    /// let handle = Handle::open(Groups::ALL)?;
    /// KernelFilter::new().protocols(Logic::Only, [Protocol::Icmp]).attach(&handle)?;
    /// KernelFilter::new().attach(&handle)?; // everything again
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for conditions that make the program too long for the
    /// kernel (some hundred networks), or states of a protocol that has none;
    /// else as the system says.
    pub fn attach(&self, socket: impl AsFd) -> Result<(), Error> {
        let result = if self.is_empty() {
            socket::detach_filter(socket.as_fd())
        } else {
            socket::attach_filter(socket.as_fd(), &self.program()?)
        };
        result.map_err(|source| Error::from_io(ATTACHING, source))
    }

    fn program(&self) -> Result<Vec<sock_filter>, Error> {
        let mut program = Vec::new();
        for condition in &self.conditions {
            match condition {
                Condition::Address(direction, end, address) => {
                    check_address(&mut program, *direction, *end, *address)
                }
                Condition::Port(direction, end, port) => check_port(&mut program, *direction, *end, *port),
                Condition::Networks(direction, end, logic, networks) => {
                    check_networks(&mut program, *direction, *end, *logic, networks)
                }
                Condition::Protocols(logic, protocols) => check_protocols(&mut program, *logic, protocols),
                Condition::States(logic, protocol, states) => {
                    check_states(&mut program, *logic, *protocol, states)?
                }
                Condition::Marks(logic, marks) => check_marks(&mut program, *logic, marks),
                Condition::Zones(logic, zones) => check_zones(&mut program, *logic, zones),
            }
        }
        program.push(statement(RETURN, DELIVER));
        if program.len() > LONGEST {
            return Err(Error::Invalid {
                doing: ATTACHING,
                found: format!("conditions that take {} statements", program.len()),
                expected: "at most 4096",
            });
        }
        Ok(program)
    }
}

const ATTACHING: &str = "setting the event filter";

/// `BPF_MAXINSNS`: what the kernel takes.
const LONGEST: usize = 4096;

/// The words of an address, and which of their bits count.
fn network(address: IpAddr, bits: u8) -> Network {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = octets.chunks_exact(4).zip((0..).step_by(32)).map(|(word, before)| {
        let counting = u32::from(bits).saturating_sub(before).min(32);
        let mask = u32::MAX.checked_shl(32 - counting).unwrap_or(0);
        (u32::from_be_bytes([word[0], word[1], word[2], word[3]]) & mask, mask)
    });
    // Words without a bit that counts need no look.
    (address.is_ipv4(), words.filter(|(_, mask)| *mask != 0).collect())
}

// linux/bpf_common.h: class | size | mode, or class | operation | source.
const LOAD_IMMEDIATE: u16 = 0x00;
const LOAD_X_IMMEDIATE: u16 = 0x01;
const LOAD_WORD: u16 = 0x20;
const LOAD_WORD_AT_X: u16 = 0x40;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_BYTE_AT_X: u16 = 0x50;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
/// To and from the program's own memory.
const STORE: u16 = 0x02;
const LOAD_STORED: u16 = 0x60;
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

/// A list of values to find one of in the event, and what follows.
struct List<'a> {
    program: &'a mut Vec<sock_filter>,
    logic: Logic,
    /// Jumps to behind the list, which are patched when it ends.
    found: Vec<usize>,
}

impl<'a> List<'a> {
    fn new(program: &'a mut Vec<sock_filter>, logic: Logic) -> Self {
        Self { program, logic, found: Vec::new() }
    }

    /// What is done where a value was found.
    fn found(&mut self) {
        match self.logic {
            Logic::Only => {
                self.found.push(self.program.len());
                self.program.push(statement(JUMP, 0));
            }
            Logic::Except => self.program.push(statement(RETURN, DROP)),
        }
    }

    /// If the accumulator is `value`, it is found.
    fn compare(&mut self, value: u32) {
        self.program.push(skip_next_unless(value));
        self.found();
    }

    /// Goes on behind what `then` adds if the accumulator is 0, as it is where
    /// an attribute was not found.
    fn unless_zero(&mut self, then: impl FnOnce(&mut Self)) {
        // The 8 bits of a conditional jump are too few for a long list.
        self.program.push(skip_next_unless(0));
        let jump = self.program.len();
        self.program.push(statement(JUMP, 0));
        then(self);
        self.program[jump].k = (self.program.len() - jump - 1) as u32;
    }

    fn end(self) {
        if self.logic == Logic::Only {
            self.program.push(statement(RETURN, DROP));
        }
        let behind = self.program.len();
        for jump in self.found {
            self.program[jump].k = (behind - jump - 1) as u32;
        }
    }
}

fn check_networks(
    program: &mut Vec<sock_filter>,
    direction: Direction,
    end: End,
    logic: Logic,
    networks: &[Network],
) {
    let mut list = List::new(program, logic);
    for v4 in [true, false] {
        let mut of_family = networks.iter().filter(|(is_v4, _)| *is_v4 == v4).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        let attribute = match (v4, end) {
            (true, End::Source) => sys::CTA_IP_V4_SRC,
            (true, End::Destination) => sys::CTA_IP_V4_DST,
            (false, End::Source) => sys::CTA_IP_V6_SRC,
            (false, End::Destination) => sys::CTA_IP_V6_DST,
        };
        find_part(list.program, direction, sys::CTA_TUPLE_IP);
        list.program.extend([statement(LOAD_X_IMMEDIATE, attribute), statement(LOAD_WORD, FIND_NESTED)]);
        list.unless_zero(|list| {
            list.program.push(statement(COPY_TO_X, 0));
            for (_, words) in of_family {
                for (at, (word, mask)) in words.iter().enumerate() {
                    // Behind this network: three statements for each word after this one, and one for the verdict.
                    let behind = (3 * (words.len() - at - 1) + 1) as u8;
                    list.program.extend([
                        statement(LOAD_WORD_AT_X, VALUE + 4 * at as u32),
                        statement(AND, *mask),
                        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: behind, k: *word },
                    ]);
                }
                list.found();
            }
        });
    }
    list.end();
}

fn check_protocols(program: &mut Vec<sock_filter>, logic: Logic, protocols: &[Protocol]) {
    find_part(program, Direction::Original, sys::CTA_TUPLE_PROTO);
    program.extend([
        statement(LOAD_X_IMMEDIATE, sys::CTA_PROTO_NUM),
        statement(LOAD_WORD, FIND_NESTED),
        skip_next_unless(0),
        statement(RETURN, DELIVER),
        statement(COPY_TO_X, 0),
        statement(LOAD_BYTE_AT_X, VALUE),
    ]);
    let mut list = List::new(program, logic);
    protocols.iter().for_each(|protocol| list.compare(protocol.number().into()));
    list.end();
}

fn check_states(
    program: &mut Vec<sock_filter>,
    logic: Logic,
    protocol: Protocol,
    states: &[u8],
) -> Result<(), Error> {
    let (details, state) = match protocol {
        Protocol::Tcp => (sys::CTA_PROTOINFO_TCP, sys::CTA_PROTOINFO_TCP_STATE),
        Protocol::Sctp => (sys::CTA_PROTOINFO_SCTP, sys::CTA_PROTOINFO_SCTP_STATE),
        Protocol::Dccp => (sys::CTA_PROTOINFO_DCCP, sys::CTA_PROTOINFO_DCCP_STATE),
        other => {
            let expected = "tcp, sctp or dccp, which have states";
            return Err(Error::Invalid { doing: ATTACHING, found: format!("states of {other}"), expected });
        }
    };
    program.extend([
        statement(LOAD_IMMEDIATE, FIRST_ATTRIBUTE),
        statement(LOAD_X_IMMEDIATE, sys::CTA_PROTOINFO),
        statement(LOAD_WORD, FIND_ATTRIBUTE),
    ]);
    let mut list = List::new(program, logic);
    list.unless_zero(|outer| {
        outer.program.extend([statement(LOAD_X_IMMEDIATE, details), statement(LOAD_WORD, FIND_NESTED)]);
        outer.unless_zero(|inner| {
            inner.program.extend([statement(LOAD_X_IMMEDIATE, state), statement(LOAD_WORD, FIND_NESTED)]);
            inner.unless_zero(|here| {
                here.program.extend([statement(COPY_TO_X, 0), statement(LOAD_BYTE_AT_X, VALUE)]);
                states.iter().for_each(|state| here.compare((*state).into()));
                // Not among them: an event without a state is not held back, so that this stands inside.
                if here.logic == Logic::Only {
                    here.program.push(statement(RETURN, DROP));
                }
            });
        });
    });
    list.logic = Logic::Except;
    list.end();
    Ok(())
}

fn check_marks(program: &mut Vec<sock_filter>, logic: Logic, marks: &[(u32, u32)]) {
    // The kernel leaves a mark of 0 out, and the accumulator is 0 then.
    program.extend([
        statement(LOAD_IMMEDIATE, FIRST_ATTRIBUTE),
        statement(LOAD_X_IMMEDIATE, sys::CTA_MARK),
        statement(LOAD_WORD, FIND_ATTRIBUTE),
        sock_filter { code: JUMP_IF_EQUAL, jt: 2, jf: 0, k: 0 },
        statement(COPY_TO_X, 0),
        statement(LOAD_WORD_AT_X, VALUE),
        statement(STORE, 0),
    ]);
    let mut list = List::new(program, logic);
    for (value, mask) in marks {
        list.program.extend([statement(LOAD_STORED, 0), statement(AND, *mask)]);
        list.compare(value & mask);
    }
    list.end();
}

fn check_zones(program: &mut Vec<sock_filter>, logic: Logic, zones: &[u16]) {
    /// Where it stands whether there was a zone at all.
    const ANY: u32 = 0;
    let mut list = List::new(program, logic);
    list.program.extend([statement(LOAD_IMMEDIATE, 0), statement(STORE, ANY)]);
    // For both directions beside the tuples, or for one inside of its tuple.
    for tuple in [None, Some(sys::CTA_TUPLE_ORIG), Some(sys::CTA_TUPLE_REPLY)] {
        list.program.push(statement(LOAD_IMMEDIATE, FIRST_ATTRIBUTE));
        let compare = |list: &mut List<'_>| {
            list.program.extend([
                statement(COPY_TO_X, 0),
                statement(LOAD_IMMEDIATE, 1),
                statement(STORE, ANY),
                statement(LOAD_HALF_AT_X, VALUE),
            ]);
            zones.iter().filter(|zone| **zone != 0).for_each(|zone| list.compare((*zone).into()));
        };
        let find = |list: &mut List<'_>, attribute, how| {
            list.program.extend([statement(LOAD_X_IMMEDIATE, attribute), statement(LOAD_WORD, how)]);
        };
        match tuple {
            None => {
                find(&mut list, sys::CTA_ZONE, FIND_ATTRIBUTE);
                list.unless_zero(compare);
            }
            Some(tuple) => {
                find(&mut list, tuple, FIND_ATTRIBUTE);
                list.unless_zero(|list| {
                    find(list, sys::CTA_TUPLE_ZONE, FIND_NESTED);
                    list.unless_zero(compare);
                });
            }
        }
    }
    if zones.contains(&0) {
        list.program.push(statement(LOAD_STORED, ANY));
        list.compare(0);
    }
    list.end();
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::tuple::{Layer4, Tuple};
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

    /// An event with details, as the kernel sends it.
    fn detailed(protocol: Protocol, v6: bool, zones: (u16, u16), mark: u32, state: Option<u8>) -> Vec<u8> {
        let (original, reply) = tuples(protocol, |src, dst| Layer4::Ports { src, dst }, v6);
        let flow = crate::Flow {
            original: Tuple { zone: zones.0, ..original },
            reply: Tuple { zone: zones.1, ..reply },
            id: 1,
            status: crate::Status(8),
            mark,
            timeout: Some(100),
            ..crate::Flow::new(original, reply)
        };
        let mut message = crate::wire::write_event(&crate::Event { kind: crate::EventKind::Update, flow });
        if let Some(state) = state {
            let mut request = Request::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
            request.nested(sys::CTA_PROTOINFO, |request| {
                request.nested(sys::CTA_PROTOINFO_TCP, |request| {
                    request.attribute(sys::CTA_PROTOINFO_TCP_STATE, &[state]);
                });
            });
            message.extend_from_slice(&request.finish()[20..]);
            let length = (message.len() as u32).to_ne_bytes();
            message[..4].copy_from_slice(&length);
        }
        message
    }

    #[test]
    fn what_is_listed_is_wanted_or_everything_else() {
        let tcp = detailed(Protocol::Tcp, false, (0, 0), 0x12, Some(3));
        let v6 = detailed(Protocol::Udp, true, (7, 7), 0, None);
        let one_way = detailed(Protocol::Sctp, false, (9, 0), 0, None);
        type Build = fn(Logic) -> KernelFilter;
        // Which of the three it lists.
        let cases: [(Build, [bool; 3]); 15] = [
            (|logic| KernelFilter::new().protocols(logic, [Protocol::Tcp]), [true, false, false]),
            (
                |logic| KernelFilter::new().protocols(logic, [Protocol::Udp, Protocol::Sctp]),
                [false, true, true],
            ),
            (|logic| KernelFilter::new().protocols(logic, []), [false, false, false]),
            (|logic| KernelFilter::new().protocols(logic, (0..=255).map(Protocol::from)), [true, true, true]),
            (|logic| KernelFilter::new().marks(logic, [(0x12, u32::MAX)]), [true, false, false]),
            (
                |logic| KernelFilter::new().marks(logic, [(0x99, u32::MAX), (0x10, 0x10)]),
                [true, false, false],
            ),
            (|logic| KernelFilter::new().marks(logic, [(0, u32::MAX)]), [false, true, true]),
            (|logic| KernelFilter::new().zones(logic, [0]), [true, false, false]),
            (|logic| KernelFilter::new().zones(logic, [7]), [false, true, false]),
            (|logic| KernelFilter::new().zones(logic, [1, 9, 7]), [false, true, true]),
            (|logic| networks(logic, End::Source, &["192.168.0.0/16"]), [true, false, true]),
            (|logic| networks(logic, End::Source, &["192.168.7.2/32", "10.0.0.0/8"]), [true, false, true]),
            (
                |logic| networks(logic, End::Source, &["10.0.0.0/8", "fd00::/9", "192.168.0.0/22"]),
                [false, true, false],
            ),
            (
                |logic| networks(logic, End::Destination, &["2001:db8::1/128", "2001:db8::8/127"]),
                [false, true, false],
            ),
            (|logic| networks(logic, End::Destination, &["::/0", "198.51.100.0/25"]), [true, true, true]),
        ];
        for (at, (build, listed)) in cases.iter().enumerate() {
            for (event, listed) in [&tcp, &v6, &one_way].into_iter().zip(listed) {
                assert_eq!(delivers(&build(Logic::Only), event), *listed, "case {at}: only");
                assert_eq!(delivers(&build(Logic::Except), event), !listed, "case {at}: except");
            }
        }
        let both = |state| {
            KernelFilter::new().states(Logic::Only, Protocol::Tcp, [1, state]).marks(Logic::Except, [(1, 1)])
        };
        assert!(delivers(&both(3), &tcp) && !delivers(&both(4), &tcp));
        assert!(delivers(&both(4), &v6), "another protocol");
        let except = KernelFilter::new().states(Logic::Except, Protocol::Tcp, [3]);
        assert!(!delivers(&except, &tcp) && delivers(&except, &v6));
    }

    fn networks(logic: Logic, end: End, networks: &[&str]) -> KernelFilter {
        let networks = networks.iter().map(|text| {
            let (address, bits) = text.split_once('/').unwrap();
            (address.parse().unwrap(), bits.parse().unwrap())
        });
        KernelFilter::new().networks(Direction::Original, end, logic, networks)
    }

    #[test]
    fn long_lists_work_and_longer_ones_are_told() {
        let event = detailed(Protocol::Tcp, true, (0, 0), 0, None);
        let many = |count: u32| {
            let other =
                (0..count).map(|number| (IpAddr::from([0x2001_u16, 0, 0, 0, 0, 0, 0, number as u16]), 128));
            let wanted = [("fd00:7::2".parse().unwrap(), 128)];
            KernelFilter::new().networks(Direction::Original, End::Source, Logic::Only, other.chain(wanted))
        };
        assert!(delivers(&many(250), &event));
        let (_, receiver) = UnixDatagram::pair().unwrap();
        let error = many(400).attach(&receiver).unwrap_err();
        assert!(error.to_string().contains("at most 4096"), "{error}");
        let stateless = KernelFilter::new().states(Logic::Only, Protocol::Udp, [1]).attach(&receiver);
        assert!(stateless.unwrap_err().to_string().contains("tcp, sctp or dccp"));
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
