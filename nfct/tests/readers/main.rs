//! This crate's reader and the C library's agree on any message: real ones, real
//! ones with changes, and trees of attributes that no kernel sends.
//! `fuzz/` compares them for any length of time.

use std::fmt::Write;

use proptest::prelude::*;
use proptest::sample::Index;

mod differential;

use differential::{Verdict, compare};

/// Messages of a real kernel, one per line, in hexadecimal; `capture` below writes them.
const MESSAGES: &str = include_str!("../data/messages.hex");

fn messages() -> Vec<Vec<u8>> {
    let lines = MESSAGES.lines().filter(|line| !line.starts_with('#'));
    let byte = |line: &str, at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal digits");
    lines.map(|line| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect()).collect()
}

#[test]
fn both_read_what_the_kernel_sends() {
    let messages = messages();
    assert!(messages.len() > 20);
    for message in &messages {
        assert_eq!(compare(message), Verdict::Same, "{message:02x?}");
    }
    // The messages have every field of a flow.
    let read = |message: &Vec<u8>| nfct::wire::Messages::new(message).next()?.ok()?.flow().ok();
    let flows: Vec<nfct::Flow> = messages.iter().filter_map(read).collect();
    assert!(flows.iter().any(|flow| flow.timeout.is_some() && flow.start.is_some()));
    assert!(flows.iter().any(|flow| flow.stop.is_some() && flow.mark != 0));
    assert!(flows.iter().any(|flow| flow.tcp_state == Some(nfct::TcpState::Established)));
    assert!(flows.iter().any(|flow| flow.counters_original.is_some_and(|seen| seen.bytes > 0)));
    assert!(flows.iter().any(|flow| flow.counters_reply.is_some_and(|seen| seen.packets > 0)));
}

/// A change of a message.
#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    /// Writes a 16-bit number where attributes have their length and type.
    Half(Index, u16),
    Remove(Index, u8),
    /// Copies bytes from the first position to the second.
    Copy(Index, Index, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, value)| Change::Byte(at, value)),
        (index(), prop_oneof![0_u16..40, any::<u16>()]).prop_map(|(at, value)| Change::Half(at, value)),
        (index(), 1_u8..40).prop_map(|(at, length)| Change::Remove(at, length)),
        (index(), index(), 1_u8..60).prop_map(|(from, to, length)| Change::Copy(from, to, length)),
    ]
}

fn apply(message: &mut Vec<u8>, change: &Change) {
    const HEAD: usize = 16;
    let aligned = |at: &Index, length: usize| at.index(length.max(1)) / 4 * 4;
    let length = message.len();
    match change {
        Change::Byte(at, value) => {
            if let Some(byte) = message.get_mut(at.index(length.max(1))) {
                *byte = *value;
            }
        }
        Change::Half(at, value) => {
            let at = at.index(length.max(1)) / 2 * 2;
            if let Some(place) = message.get_mut(at..at + 2) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        Change::Remove(at, count) => {
            let at = aligned(at, length);
            message.drain(at..(at + usize::from(*count)).min(length));
        }
        Change::Copy(from, to, count) => {
            let (from, to) = (aligned(from, length), aligned(to, length));
            let copied = message[from..(from + usize::from(*count)).min(length)].to_vec();
            message.splice(to..to, copied);
        }
    }
    // Otherwise the header would reveal most changes.
    if message.len() >= HEAD {
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
    }
}

/// A tree of attributes with real types and sizes.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![Just(1_usize), Just(2), Just(4), Just(8), Just(16), 0_usize..40];
    let value = size.prop_flat_map(|size| proptest::collection::vec(any::<u8>(), size));
    let attribute = |(kind, value): (u16, Vec<u8>)| {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let leaf = (1_u16..12, value).prop_map(attribute);
    leaf.prop_recursive(3, 24, 6, move |inner| {
        let kind =
            prop_oneof![4 => 1_u16..4, 1 => 1_u16..30, 1 => (1_u16..30).prop_map(|kind| kind | 0x8000)];
        (kind, proptest::collection::vec(inner, 1..6).prop_map(|parts| parts.concat())).prop_map(attribute)
    })
}

/// The number of cases: `PROPTEST_CASES`, for a slow checker, or `usual`.
fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(usual))
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn both_agree_on_changed_messages(
        which in any::<Index>(),
        changes in proptest::collection::vec(change(), 0..6),
    ) {
        let messages = messages();
        let mut message = which.get(&messages).clone();
        changes.iter().for_each(|change| apply(&mut message, change));
        compare(&message);
    }

    #[test]
    fn both_agree_on_any_attributes(
        family in prop_oneof![Just(2_u8), Just(10), any::<u8>()],
        parts in proptest::collection::vec(attributes(), 0..8),
    ) {
        let mut message = vec![0; 16];
        message[5] = 1;
        message.extend([family, 0, 0, 0]);
        message.extend(parts.concat());
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
        compare(&message);
    }
}

/// Creates connections of every kind in a fresh namespace and writes the kernel's messages about them.
#[test]
#[ignore = "writes tests/data/messages.hex again; needs root"]
fn capture() {
    use std::collections::BTreeMap;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use lab::in_fresh_namespace;
    use lab::samples::{create, entry, masqueraded, over_ipv6, tuple, zoned};
    use lab::{ip, nft};
    use nfct::wire::Messages;
    use nfct::{Family, Groups, Handle, Labels, Layer4, Next, Protocol, Query, Request, Tuple, attr};

    in_fresh_namespace(|| {
        let set = |name: &str, value: &str| {
            std::fs::write(format!("/proc/sys/net/netfilter/{name}"), value).expect("a namespace's own");
        };
        set("nf_conntrack_acct", "1");
        set("nf_conntrack_timestamp", "1");
        ip("link set lo up");
        nft("table inet t {\n\
             ct helper ftp { type \"ftp\" protocol tcp; }\n\
             chain out { type filter hook output priority -200; ct label set 3; ct mark set 0x55; \
                 tcp dport 21 ct helper set \"ftp\"; }\n\
             chain nat { type nat hook output priority -100; ip daddr 127.0.0.9 dnat ip to 127.0.0.1; }\n\
             }\n");
        let mut events = Handle::open(Groups::ALL).unwrap();
        // Real traffic.
        let listener = TcpListener::bind("127.0.0.1:21").unwrap();
        let client = TcpStream::connect("127.0.0.9:21").unwrap();
        let (server, _) = listener.accept().unwrap();
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        socket.send_to(b"new", "[::1]:9").unwrap();
        drop((client, server));
        // Entries that no traffic creates here.
        let mut query = Query::open().unwrap();
        let ports = |src, dst| Layer4::Ports { src, dst };
        for protocol in
            [Protocol::Sctp, Protocol::Dccp, Protocol::UdpLite, Protocol::Gre, Protocol::Other(50)]
        {
            let layer4 = |src, dst| match protocol {
                Protocol::Gre => Layer4::Keys { src, dst },
                Protocol::Other(_) => Layer4::None,
                _ => ports(src, dst),
            };
            let made = (
                tuple(protocol, "10.0.0.1", "10.0.0.2", layer4(1, 2)),
                tuple(protocol, "10.0.0.2", "10.0.0.1", layer4(2, 1)),
            );
            if let Err(error) = query.create(&entry(made)) {
                eprintln!("{protocol}: {error}");
            }
        }
        let echo = |kind| Layer4::Icmp { id: 77, kind, code: 0 };
        let icmp = tuple(Protocol::Icmp, "10.0.0.1", "10.0.0.2", echo(8));
        create(&mut query, (icmp, tuple(Protocol::Icmp, "10.0.0.2", "100.64.2.1", echo(0))));
        let icmp = tuple(Protocol::Icmpv6, "fd00::1", "fd00::2", echo(128));
        create(&mut query, (icmp, tuple(Protocol::Icmpv6, "fd00::2", "fd00::1", echo(129))));
        create(&mut query, over_ipv6(5));
        create(&mut query, zoned(7, masqueraded(1)));
        let (original, reply) = masqueraded(2);
        create(&mut query, (Tuple { zone: 9, ..original }, reply));
        let (original, reply) = masqueraded(3);
        create(&mut query, (original, Tuple { zone: 8, ..reply }));
        let mut labelled = entry(masqueraded(4));
        let mut labels = Labels::new(127).unwrap();
        labels.set(100).unwrap();
        labelled.set(attr::CONNLABELS, labels).unwrap();
        query.create(&labelled).unwrap();

        // One message per shape, which is the types and sizes of its attributes.
        let mut shapes = BTreeMap::new();
        let mut keep = |bytes: &[u8]| {
            let Some(Ok(message)) = Messages::new(bytes).next() else { return };
            let shape: Vec<_> = differential::attributes(&message.payload[4..])
                .map(|(kind, value)| (kind, value.len(), value.get(..2).map(<[u8]>::to_vec)))
                .map(|(kind, length, start)| (kind, length, start.filter(|_| length > 16)))
                .collect();
            shapes.insert((message.kind, message.flags, shape), bytes.to_vec());
        };
        let mut dump = Handle::open(Groups::NONE).unwrap();
        dump.send(Request::Dump(Family::Any)).unwrap();
        dump.catch_messages(|message, _, _| {
            keep(message.as_bytes());
            Next::Continue
        })
        .unwrap();
        query.flush(Family::Any).unwrap();
        let mut ended = 0;
        events
            .catch_messages(|message, kind, _| {
                keep(message.as_bytes());
                ended += u32::from(kind == nfct::EventKind::Destroy);
                if ended < 12 { Next::Continue } else { Next::Stop }
            })
            .unwrap();
        let mut text = "# Made by `cargo test -p nfct --test readers -- --ignored capture`.\n".to_owned();
        for bytes in shapes.into_values() {
            bytes.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a String takes all"));
            text.push('\n');
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/messages.hex");
        std::fs::write(path, text).expect("the file can be written");
    });
}
