//! The assembler: turns conditions into a program of classic BPF.
//!
//! The program finds attributes in the message with the kernel's netlink extensions
//! (`SKF_AD_NLATTR`, `SKF_AD_NLATTR_NEST` in `linux/filter.h`). They return the
//! offset of an attribute, or 0 if there is none. Each condition is
//! a block that returns [`DROP`] if the event does not meet it, and otherwise continues
//! with the next block.

use libc::sock_filter;
use nfct_sys as sys;

use super::condition::Condition;
use super::endpoint_test::{EndpointTest, Values};
use crate::direction::{Direction, Endpoint, Logic};
use crate::error::Error;
use crate::network::Network;
use crate::tuple::Protocol;

pub(super) const ATTACHING: &str = "setting the event filter";

/// `BPF_MAXINSNS`: the longest program that the kernel accepts.
pub(super) const LONGEST: usize = 4096;

// linux/bpf_common.h: class | size | mode, or class | operation | source.
const LOAD_IMMEDIATE: u16 = 0x00;
const LOAD_X_IMMEDIATE: u16 = 0x01;
const LOAD_WORD: u16 = 0x20;
const LOAD_WORD_AT_X: u16 = 0x40;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_BYTE_AT_X: u16 = 0x50;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
/// Store to and load from the program's own memory.
const STORE: u16 = 0x02;
const LOAD_STORED: u16 = 0x60;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const COPY_TO_X: u16 = 0x07;
const RETURN: u16 = 0x06;

/// Verdict: deliver the message.
const DELIVER: u32 = u32::MAX;
/// Verdict: do not deliver the message.
const DROP: u32 = 0;

/// Loads the offset of the attribute X, searched from offset A onwards.
const FIND_ATTRIBUTE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32;
/// Loads the offset of the attribute X inside the attribute at offset A.
const FIND_NESTED: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_NLATTR_NEST) as u32;

/// Attributes begin after `struct nlmsghdr` and `struct nfgenmsg`.
const FIRST_ATTRIBUTE: u32 = 20;
/// An attribute's value begins after its `struct nlattr`.
const VALUE: u32 = 4;

/// The statements of one condition.
///
/// # Errors
/// [`Error::Invalid`] for states of a protocol that has none.
pub(super) fn assemble(condition: &Condition) -> Result<Vec<sock_filter>, Error> {
    let mut program = Vec::new();
    match condition {
        Condition::Any(tests) => check_any(&mut program, tests),
        Condition::Protocols(logic, protocols) => check_protocols(&mut program, *logic, protocols),
        Condition::States(logic, protocol, states) => check_states(&mut program, *logic, *protocol, states)?,
        Condition::Marks(logic, marks) => check_marks(&mut program, *logic, marks),
        Condition::Zones(logic, zones) => check_zones(&mut program, *logic, zones),
    }
    Ok(program)
}

/// The program that delivers the events that meet all conditions.
pub(super) fn join(programs: &[Vec<sock_filter>]) -> Vec<sock_filter> {
    let mut program = programs.concat();
    program.push(statement(RETURN, DELIVER));
    program
}

/// The error for a program that is too long for the kernel.
pub(super) fn too_long(length: usize) -> Error {
    Error::Invalid {
        doing: ATTACHING,
        found: format!("conditions that take {length} statements"),
        expected: "at most 4096: fewer or larger networks",
    }
}

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips the next statement unless the accumulator is `k`.
const fn skip_next_unless(k: u32) -> sock_filter {
    sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k }
}

/// Finds a part of a tuple. A message without it is delivered: the program cannot
/// decide about it.
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

/// A list of values, with which a value of the event is compared.
struct List<'a> {
    program: &'a mut Vec<sock_filter>,
    logic: Logic,
    /// Jumps to the end of the list, patched when the list is complete.
    found: Vec<usize>,
}

impl<'a> List<'a> {
    fn new(program: &'a mut Vec<sock_filter>, logic: Logic) -> Self {
        Self { program, logic, found: Vec::new() }
    }

    /// Adds the statements for a value that was found.
    fn found(&mut self) {
        match self.logic {
            Logic::Only => {
                self.found.push(self.program.len());
                self.program.push(statement(JUMP, 0));
            }
            Logic::Except => self.program.push(statement(RETURN, DROP)),
        }
    }

    /// Adds a comparison: the value was found if the accumulator is `value`.
    fn compare(&mut self, value: u32) {
        self.program.push(skip_next_unless(value));
        self.found();
    }

    /// Adds what `then` adds, which is skipped if the accumulator is 0: the attribute was
    /// not found.
    fn unless_zero(&mut self, then: impl FnOnce(&mut Self)) {
        // A conditional jump has only 8 bits, too few for a long list.
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
        let end = self.program.len();
        for jump in self.found {
            self.program[jump].k = (end - jump - 1) as u32;
        }
    }
}

/// Jumps whose targets are not known yet.
#[derive(Default)]
struct Jumps(Vec<usize>);

impl Jumps {
    fn add(&mut self, program: &mut Vec<sock_filter>) {
        self.0.push(program.len());
        program.push(statement(JUMP, 0));
    }

    /// Lets them all jump to the next statement that is added.
    fn end_here(self, program: &mut [sock_filter]) {
        for jump in self.0 {
            program[jump].k = (program.len() - jump - 1) as u32;
        }
    }
}

/// One of the tests must be met. Each test jumps to the end as soon as it is met, and
/// otherwise to the next test. After the last one the event is dropped.
fn check_any(program: &mut Vec<sock_filter>, tests: &[EndpointTest]) {
    let mut met = Jumps::default();
    for test in tests {
        // Where a value of the list leads to.
        let mut listed = Jumps::default();
        match &test.values {
            Values::Networks(networks) => compare_networks(program, test, networks, &mut listed),
            Values::Ports(ranges) => compare_ports(program, test, ranges, &mut listed, &mut met),
        }
        match test.logic {
            Logic::Only => met.0.append(&mut listed.0),
            Logic::Except => {
                met.add(program);
                listed.end_here(program);
            }
        }
    }
    program.push(statement(RETURN, DROP));
    met.end_here(program);
}

/// Compares an address of the event with networks. An event of the other family has no
/// such attribute, and is in no network.
fn compare_networks(
    program: &mut Vec<sock_filter>,
    test: &EndpointTest,
    networks: &[Network],
    listed: &mut Jumps,
) {
    for v4 in [true, false] {
        let mut of_family = networks.iter().filter(|network| network.is_ipv4 == v4).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        let attribute = match (v4, test.endpoint) {
            (true, Endpoint::Source) => sys::CTA_IP_V4_SRC,
            (true, Endpoint::Destination) => sys::CTA_IP_V4_DST,
            (false, Endpoint::Source) => sys::CTA_IP_V6_SRC,
            (false, Endpoint::Destination) => sys::CTA_IP_V6_DST,
        };
        find_part(program, test.direction, sys::CTA_TUPLE_IP);
        program.extend([
            statement(LOAD_X_IMMEDIATE, attribute),
            statement(LOAD_WORD, FIND_NESTED),
            skip_next_unless(0),
        ]);
        // A conditional jump has only 8 bits, too few for a long list.
        let mut absent = Jumps::default();
        absent.add(program);
        program.push(statement(COPY_TO_X, 0));
        for Network { words, .. } in of_family {
            for (at, (word, mask)) in words.iter().enumerate() {
                // Jumps to the end of this network: past three statements for each further word and one for the verdict.
                let rest = (3 * (words.len() - at - 1) + 1) as u8;
                program.extend([
                    statement(LOAD_WORD_AT_X, VALUE + 4 * at as u32),
                    statement(AND, *mask),
                    sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: rest, k: *word },
                ]);
            }
            listed.add(program);
        }
        absent.end_here(program);
    }
}

/// Compares a port of the event with ranges. An event without a port meets the condition,
/// so the listener must decide.
fn compare_ports(
    program: &mut Vec<sock_filter>,
    test: &EndpointTest,
    ranges: &[(u16, u16)],
    listed: &mut Jumps,
    met: &mut Jumps,
) {
    let attribute = match test.endpoint {
        Endpoint::Source => sys::CTA_PROTO_SRC_PORT,
        Endpoint::Destination => sys::CTA_PROTO_DST_PORT,
    };
    find_part(program, test.direction, sys::CTA_TUPLE_PROTO);
    program.extend([
        statement(LOAD_X_IMMEDIATE, attribute),
        statement(LOAD_WORD, FIND_NESTED),
        skip_next_unless(0),
    ]);
    met.add(program);
    program.extend([statement(COPY_TO_X, 0), statement(LOAD_HALF_AT_X, VALUE)]);
    for (first, last) in ranges {
        program.extend([
            // Less than the first, or greater than the last: not in this range.
            sock_filter { code: JUMP_IF_NOT_LESS, jt: 0, jf: 2, k: (*first).into() },
            sock_filter { code: JUMP_IF_GREATER, jt: 1, jf: 0, k: (*last).into() },
        ]);
        listed.add(program);
    }
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
                // Not in the list. This is in the inner block, so an event without a state passes.
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
    // The kernel does not send a mark of 0: the accumulator is then 0, as the mark.
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
    /// The memory cell for whether the event has any zone.
    const ANY: u32 = 0;
    let mut list = List::new(program, logic);
    list.program.extend([statement(LOAD_IMMEDIATE, 0), statement(STORE, ANY)]);
    // A zone of both directions is next to the tuples, a zone of one direction is inside its tuple.
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
