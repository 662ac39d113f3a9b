//! The conditions that the kernel applies itself, and dumps that it interrupts.

mod clash;

use std::collections::HashSet;
use std::time::Duration;

use nfct_sys as sys;

use super::Query;
use crate::conntrack::Conntrack;
use crate::direction::{Direction, Endpoint};
use crate::dump::Dump;
use crate::family::Family;
use crate::flow::Flow;
use crate::found::Found;
use crate::selection::Selection;
use crate::socket;
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
use crate::wire::MessageWriter;

/// Skips a test for which something is missing.
fn lacks(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must have {what}");
    println!("skipped: needs {what}");
}

/// Runs `test` in a fresh network namespace. Skips it where none can be
/// created and `CI` is not set.
fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome =
        std::thread::spawn(move || match nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
            Ok(()) => test(),
            Err(error) => assert!(
                std::env::var_os("CI").is_none(),
                "CI must be able to create a network namespace: {error}"
            ),
        });
    outcome.join().unwrap();
}

fn create(query: &mut Query, number: u16, zone: u16) {
    let tuple = |src: &str, dst: &str, ports: (u16, u16)| Tuple {
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        protocol: Protocol::Udp,
        layer4: Layer4::Ports { src: ports.0, dst: ports.1 },
        zone,
    };
    let public = if number == 0 { "100.64.2.1" } else { "100.64.2.2" };
    let original = tuple("192.168.7.2", "198.51.100.1", (number, 53));
    let reply = tuple("198.51.100.1", public, (53, number));
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&original, &reply).unwrap().set_timeout(Duration::from_secs(100));
    let status = if number == 0 { Status::SEEN_REPLY } else { Status(0) };
    entry.set_mark(number.into()).set_status(Status::CONFIRMED | status);
    query.create(&entry).unwrap();
}

#[test]
fn the_kernel_applies_the_conditions_that_its_version_supports() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (0..5).for_each(|number| create(&mut query, number, number));
        let public = "100.64.2.1".parse().unwrap();
        let all = Selection::all;
        let udp = || all().protocol(Protocol::Udp);
        for (since, selection) in [
            ((4, 0), all().mark(3, u32::MAX)),
            ((4, 0), all().mark(0, u32::MAX)),
            ((5, 8), all().address(Direction::Reply, Endpoint::Destination, public)),
            ((5, 8), udp().family(Family::Ipv4).port(Direction::Original, Endpoint::Source, 2)),
            ((5, 8), udp().family(Family::Ipv4).port(Direction::Reply, Endpoint::Destination, 2)),
            ((5, 15), all().status(Status::SEEN_REPLY, Status::SEEN_REPLY)),
            ((6, 8), all().zone(4)),
        ] {
            let mut dump = query.dump(&selection).unwrap();
            dump.without_selection();
            // While the kernel resizes its hash table, a dump can have an entry twice.
            let sent = dump.map(|flow| flow.unwrap().id).collect::<HashSet<_>>().len();
            let expected = if socket::kernel_version() >= since { 1 } else { 5 };
            assert_eq!(sent, expected, "{selection:?}");
        }
    });
}

/// Both tuples of the entries that [`create`] makes with these numbers.
fn both_tuples(query: &mut Query) -> Vec<Tuple> {
    query.dump(Family::Any).unwrap().flatten().flat_map(|flow| [flow.original, flow.reply]).collect()
}

#[test]
fn a_full_receive_buffer_loses_and_mixes_no_answer() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (0..70).for_each(|number| create(&mut query, number, 0));
        let mut tuples = both_tuples(&mut query);
        assert_eq!(tuples.len(), 140);
        // Every third one is not found.
        tuples.iter_mut().step_by(3).for_each(|tuple| tuple.zone = 9);
        // For some answers; the kernel raises a smaller size to this one.
        socket::set_receive_buffer(query.channel.as_fd(), 1).unwrap();
        let lost = socket::drops(query.channel.as_fd()).unwrap();
        for round in 0..3 {
            let found = query.find_each(&tuples).unwrap();
            for (at, (tuple, found)) in tuples.iter().zip(&found).enumerate() {
                match found {
                    Found::Nothing => assert_eq!(at % 3, 0, "{tuple} in round {round}"),
                    Found::Flow(Direction::Original, flow) => assert_eq!(flow.original, *tuple),
                    Found::Flow(Direction::Reply, flow) => assert_eq!(flow.reply, *tuple),
                    Found::Failed(error) => panic!("{tuple}: {error}"),
                }
                assert!(at % 3 == 0 || matches!(found, Found::Flow(..)), "{tuple}");
            }
            assert_eq!(query.count().unwrap().entries, 70, "the socket has no answer left");
        }
        assert!(socket::drops(query.channel.as_fd()).unwrap() > lost, "the receive buffer was full");
    });
}

#[test]
fn the_answers_to_earlier_queries_are_ignored() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        (0..3).for_each(|number| create(&mut query, number, 0));
        let tuples = both_tuples(&mut query);
        // Nobody reads the answer to this one: it is a datagram of a dump, too large for an answer.
        let sequence = query.channel.next_sequence();
        let flags = sys::NLM_F_REQUEST | sys::NLM_F_DUMP;
        let request = MessageWriter::new(sys::IPCTNL_MSG_CT_GET, flags, sequence, 0);
        query.channel.send(&request.finish()).unwrap();
        for _ in 0..2 {
            let found = query.find_each(&tuples).unwrap();
            for (tuple, found) in tuples.iter().zip(&found) {
                let Found::Flow(_, flow) = found else { panic!("{tuple}: {found:?}") };
                assert!([flow.original, flow.reply].contains(tuple));
            }
        }
    });
}

#[test]
fn an_interrupted_dump_is_reported_and_a_malformed_message_does_not_end_it() {
    let mut query = Query::open().unwrap();
    let message = |sequence, flags| {
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, flags, sequence, libc::AF_INET as u8);
        let address = "10.0.0.1".parse().unwrap();
        let layer4 = Layer4::Ports { src: 1, dst: 2 };
        let tuple = Tuple { src: address, dst: address, protocol: Protocol::Udp, layer4, zone: 0 };
        request.tuple(sys::CTA_TUPLE_ORIG, &tuple);
        (request, tuple)
    };
    let whole = |sequence, flags| {
        let (mut request, tuple) = message(sequence, flags);
        request.tuple(sys::CTA_TUPLE_REPLY, &tuple);
        request.finish()
    };
    let done = |flags| MessageWriter::of_kind(sys::NLMSG_DONE as u16, flags, 1, 0).finish();
    let interrupted = sys::NLM_F_DUMP_INTR;
    for (messages, is_interrupted) in [
        ([whole(1, 0), whole(1, 0), done(0)], false),
        ([whole(1, 0), whole(1, interrupted), done(0)], true),
        ([whole(1, 0), whole(1, 0), done(interrupted)], true),
    ] {
        let bytes = [whole(9, interrupted), messages.concat()].concat();
        query.channel.buffer[..bytes.len()].copy_from_slice(&bytes);
        let mut dump: Dump<'_> = Dump::over(&mut query.channel, 1, bytes.len());
        assert_eq!(
            dump.by_ref().filter(Result::is_ok).count(),
            2,
            "the answer to another request is ignored"
        );
        assert_eq!(dump.was_interrupted(), is_interrupted);
    }
    let bytes = [message(1, 0).0.finish(), whole(1, 0), done(0)].concat();
    query.channel.buffer[..bytes.len()].copy_from_slice(&bytes);
    let read: Vec<_> =
        Dump::<'_, Flow>::over(&mut query.channel, 1, bytes.len()).map(|entry| entry.is_ok()).collect();
    assert_eq!(read, [false, true]);
}
