//! Compares this crate's reader of conntrack messages with the C library's, on any bytes.
//! Shared by a property test and the fuzz target.
#![allow(dead_code, unreachable_pub)]

use nfct::wire::{Malformed, Messages};
use nfct::{Conntrack, Direction, Flow, Layer4, Protocol, Tuple};

/// Offset of `nfgen_family`, the first field after `struct nlmsghdr`.
const FAMILY: usize = 16;
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEAD: usize = 20;

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both agree.
    Same,
    /// Both rejected the message, or ours did because the entry is incomplete.
    Refused,
    /// The library rejected an attribute that ours does not read.
    LibraryRefused,
    /// The message has attributes that exclude each other, of which each reader uses a different one.
    Ambiguous,
}

/// Compares the results of both readers for the first message of `bytes`.
///
/// # Panics
/// If they differ.
pub fn compare(bytes: &[u8]) -> Verdict {
    // None of this may panic, on any message.
    for message in Messages::new(bytes).flatten() {
        let _ = message.flow();
        let _ = message.expectation();
    }
    let Some(Ok(message)) = Messages::new(bytes).next() else {
        assert!(Conntrack::parse(bytes).is_err(), "the library reads what is cut short");
        return Verdict::Refused;
    };
    let ours = message.flow();
    // The library uses the family of the message, ours the addresses.
    let mut bytes = message.as_bytes().to_vec();
    if let (Ok(flow), true) = (&ours, bytes.len() > FAMILY) {
        bytes[FAMILY] = if flow.original.src.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    }
    if is_ambiguous(&bytes) {
        let _ = Conntrack::parse(&bytes);
        return Verdict::Ambiguous;
    }
    match (ours, Conntrack::parse(&bytes)) {
        (Ok(ours), Ok(theirs)) => {
            assert_same(&ours, &theirs);
            // Any parsed value can be printed, and written so that it is parsed again.
            let _ = theirs.to_string();
            let again = theirs.to_message().and_then(|message| Conntrack::parse(&message));
            let again = again.expect("what the library writes it reads");
            assert_eq!((again.original(), again.mark()), (theirs.original(), theirs.mark()));
            Verdict::Same
        }
        (Ok(_), Err(_)) => Verdict::LibraryRefused,
        (Err(Malformed::NoTuple | Malformed::Tuple(_)), Ok(theirs)) => {
            let complete = theirs.original().zip(theirs.reply());
            assert_eq!(complete, None, "ours finds no complete tuples");
            Verdict::Refused
        }
        (Err(error), Ok(_)) => panic!("the library reads it, ours does not: {error}"),
        (Err(_), Err(_)) => Verdict::Refused,
    }
}

fn assert_same(ours: &Flow, theirs: &Conntrack) {
    assert_eq!(theirs.original(), Some(ours.original));
    // The library has only the ICMP details of the original direction.
    let without_icmp = |tuple: Tuple| match tuple.protocol {
        Protocol::Icmp | Protocol::Icmpv6 => Tuple { layer4: Layer4::None, ..tuple },
        _ => tuple,
    };
    assert_eq!(theirs.reply().map(without_icmp), Some(without_icmp(ours.reply)));
    assert_eq!(theirs.id().unwrap_or(0), ours.id);
    assert_eq!(theirs.status().map_or(0, |status| status.0), ours.status.0);
    assert_eq!(theirs.mark().unwrap_or(0), ours.mark);
    assert_eq!(theirs.timeout().map(|timeout| timeout.as_secs()), ours.timeout.map(u64::from));
    assert_eq!(theirs.get(nfct::attr::TIMESTAMP_START), ours.started());
    assert_eq!(theirs.get(nfct::attr::TIMESTAMP_STOP), ours.stopped());
    assert_eq!(theirs.tcp_state(), ours.tcp_state);
    assert_eq!(theirs.counters(Direction::Original), ours.counters_original);
    assert_eq!(theirs.counters(Direction::Reply), ours.counters_reply);
}

/// Whether a tuple has addresses of both families or details of another protocol, or an entry has the states
/// of several protocols: the library stores these in the same memory. Also whether there are 32-bit
/// counters, which are unused according to the kernel's header and which only the library reads.
fn is_ambiguous(message: &[u8]) -> bool {
    const TUPLES: [u16; 2] = [1, 2];
    const PROTOCOL_INFO: u16 = 4;
    const COUNTERS: [u16; 2] = [9, 10];
    let all = || attributes(message.get(HEAD..).unwrap_or_default());
    let kinds_in = |value| attributes(value).map(|(kind, _)| kind).collect::<Vec<u16>>();
    if all().any(|(kind, value)| {
        let kinds = kinds_in(value);
        let has = |wanted: &[u16]| kinds.iter().any(|kind| wanted.contains(kind));
        (kind == PROTOCOL_INFO && has(&[1]) && has(&[2, 3])) || (COUNTERS.contains(&kind) && has(&[3, 4]))
    }) {
        return true;
    }
    let tuples =
        attributes(message.get(HEAD..).unwrap_or_default()).filter(|(kind, _)| TUPLES.contains(kind));
    tuples.into_iter().any(|(_, tuple)| {
        attributes(tuple).any(|(part, value)| {
            let kinds: Vec<u16> = attributes(value).map(|(kind, _)| kind).collect();
            let has = |wanted: &[u16]| kinds.iter().any(|kind| wanted.contains(kind));
            match part {
                1 => has(&[1, 2]) && has(&[3, 4]),
                2 => {
                    let number = attributes(value).filter(|(kind, _)| *kind == 1).last();
                    let is_icmp = number.is_some_and(|(_, number)| matches!(number, [1 | 58]));
                    let both_icmp = has(&[4, 5, 6]) && has(&[7, 8, 9]);
                    if is_icmp { has(&[2, 3]) || both_icmp } else { has(&[4, 5, 6, 7, 8, 9]) }
                }
                _ => false,
            }
        })
    })
}

/// Types and values of attributes, up to the first invalid length.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}
