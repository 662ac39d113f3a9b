//! The filter as the kernel runs it, on local sockets.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

use nfct_sys as sys;

use super::{EndpointTest, KernelFilter};
use crate::direction::{Direction, Endpoint, Logic};
use crate::event::{Event, EventKind};
use crate::flow::Flow;
use crate::state::Status;
use crate::tuple::{Layer4, Protocol, Tuple};
use crate::wire::MessageWriter;

/// Whether the kernel delivers a message through the filter. Sockets of any
/// kind can have one.
fn delivers(filter: &KernelFilter, message: &[u8]) -> bool {
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    filter.attach(&receiver).unwrap();
    receiver.set_nonblocking(true).unwrap();
    // The sender on a local socket gets an error when the filter drops the message.
    let _ = sender.send(message);
    match receiver.recv(&mut [0; 4096]) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn message(original: &Tuple, reply: &Tuple) -> Vec<u8> {
    let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
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
fn each_field_of_both_tuples_is_distinguished() {
    for v6 in [false, true] {
        let (original, reply) = tuples(Protocol::Tcp, |src, dst| Layer4::Ports { src, dst }, v6);
        let message = message(&original, &reply);
        for (direction, tuple) in [(Direction::Original, original), (Direction::Reply, reply)] {
            for (endpoint, address, other) in
                [(Endpoint::Source, tuple.src, tuple.dst), (Endpoint::Destination, tuple.dst, tuple.src)]
            {
                assert!(delivers(&KernelFilter::new().address(direction, endpoint, address), &message));
                assert!(!delivers(&KernelFilter::new().address(direction, endpoint, other), &message));
            }
            let Layer4::Ports { src, dst } = tuple.layer4 else { unreachable!() };
            for (endpoint, port) in [(Endpoint::Source, src), (Endpoint::Destination, dst)] {
                assert!(delivers(&KernelFilter::new().port(direction, endpoint, port), &message));
                assert!(!delivers(&KernelFilter::new().port(direction, endpoint, port ^ 1), &message));
            }
        }
        let all = KernelFilter::new()
            .address(Direction::Original, Endpoint::Source, original.src)
            .port(Direction::Original, Endpoint::Source, 40001)
            .address(Direction::Reply, Endpoint::Destination, reply.dst)
            .port(Direction::Reply, Endpoint::Destination, 50001)
            .address(Direction::Original, Endpoint::Destination, original.dst)
            .port(Direction::Original, Endpoint::Destination, 443);
        assert!(delivers(&all, &message));
        assert!(!delivers(&all.port(Direction::Reply, Endpoint::Source, 444), &message), "all must hold");
        let other_family = if v6 { "192.168.7.2" } else { "fd00:7::2" };
        let filter =
            KernelFilter::new().address(Direction::Original, Endpoint::Source, other_family.parse().unwrap());
        assert!(!delivers(&filter, &message));
    }
}

#[test]
fn a_value_in_one_of_several_places_is_enough() {
    let places = [
        (Direction::Original, Endpoint::Source),
        (Direction::Original, Endpoint::Destination),
        (Direction::Reply, Endpoint::Source),
        (Direction::Reply, Endpoint::Destination),
    ];
    for v6 in [false, true] {
        let (original, reply) = tuples(Protocol::Sctp, |src, dst| Layer4::Ports { src, dst }, v6);
        let event = message(&original, &reply);
        let at = |(direction, endpoint): (Direction, Endpoint)| {
            let tuple = if direction == Direction::Original { original } else { reply };
            match endpoint {
                Endpoint::Source => (tuple.src, tuple.src_port().unwrap()),
                Endpoint::Destination => (tuple.dst, tuple.dst_port().unwrap()),
            }
        };
        // Each selection of places, with each address and port of the event and some that it lacks.
        let other: (IpAddr, u16) = (if v6 { "192.168.7.2" } else { "fd00:7::2" }.parse().unwrap(), 9);
        let near: (IpAddr, u16) = (if v6 { "2001:db8::3" } else { "100.64.2.3" }.parse().unwrap(), 50000);
        for selected in 0..16_usize {
            let selected = (0..4).filter(|bit| selected >> bit & 1 == 1).map(|bit| places[bit]);
            for (address, port) in places.map(at).into_iter().chain([other, near]) {
                let has_address = selected.clone().any(|place| at(place).0 == address);
                let has_port = selected.clone().any(|place| at(place).1 == port);
                let by_address = KernelFilter::new().address_in(selected.clone(), address);
                let by_port = KernelFilter::new().port_in(selected.clone(), port);
                assert_eq!(delivers(&by_address, &event), has_address, "{by_address:?}");
                assert_eq!(delivers(&by_port, &event), has_port, "{by_port:?}");
                // Other conditions before and after it still apply.
                let both = by_port.clone().address_in(selected.clone(), address);
                assert_eq!(delivers(&both, &event), has_address && has_port, "{both:?}");
                let both = by_address.clone().port_in(selected.clone(), port);
                assert_eq!(delivers(&both, &event), has_address && has_port, "{both:?}");
                let tcp = by_address.port_in(selected.clone(), port).protocols(Logic::Only, [Protocol::Tcp]);
                assert!(!delivers(&tcp, &event), "{tcp:?}");
            }
        }
    }
}

#[test]
fn a_place_that_an_event_lacks_does_not_hide_the_event() {
    let (original, reply) = tuples(Protocol::Icmp, |id, _| Layer4::Icmp { id, kind: 8, code: 0 }, false);
    let public = [(Direction::Reply, Endpoint::Destination), (Direction::Original, Endpoint::Destination)];
    let by_port = KernelFilter::new().port_in(public, 1);
    let icmp = message(&original, &reply);
    assert!(delivers(&by_port, &icmp), "a protocol without ports");
    let elsewhere = by_port.clone().address_in(public, "10.0.0.1".parse().unwrap());
    assert!(!delivers(&elsewhere, &icmp), "its address does not match");
    assert!(delivers(&by_port.clone().address_in(public, reply.dst), &icmp));
    assert!(delivers(&by_port.clone().address_in(public, original.dst), &icmp));
    // Without one tuple the filter cannot decide.
    let (original, reply) = tuples(Protocol::Tcp, |src, dst| Layer4::Ports { src, dst }, true);
    for (kind, tuple) in [(sys::CTA_TUPLE_ORIG, original), (sys::CTA_TUPLE_REPLY, reply)] {
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
        request.tuple(kind, &tuple);
        let half = request.finish();
        assert!(delivers(&by_port, &half));
        assert!(delivers(&KernelFilter::new().address_in(public, "fd00::1".parse().unwrap()), &half));
    }
    // A tuple without addresses or ports.
    let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
    for kind in [sys::CTA_TUPLE_ORIG, sys::CTA_TUPLE_REPLY] {
        request.nested(kind, |_| ());
    }
    let empty = request.finish();
    assert!(delivers(&by_port.address_in(public, "fd00::1".parse().unwrap()), &empty));
}

/// An event with details, as the kernel sends it.
fn detailed(protocol: Protocol, v6: bool, zones: (u16, u16), mark: u32, state: Option<u8>) -> Vec<u8> {
    let (original, reply) = tuples(protocol, |src, dst| Layer4::Ports { src, dst }, v6);
    let flow = Flow {
        original: Tuple { zone: zones.0, ..original },
        reply: Tuple { zone: zones.1, ..reply },
        id: 1,
        status: Status(8),
        mark,
        timeout: Some(100),
        ..Flow::new(original, reply)
    };
    let mut message = crate::wire::write_event(&Event::new(EventKind::Update, flow));
    if let Some(state) = state {
        let mut request = MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0);
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
fn a_list_selects_its_values_or_everything_else() {
    let tcp = detailed(Protocol::Tcp, false, (0, 0), 0x12, Some(3));
    let v6 = detailed(Protocol::Udp, true, (7, 7), 0, None);
    let one_way = detailed(Protocol::Sctp, false, (9, 0), 0, None);
    type Build = fn(Logic) -> KernelFilter;
    // Whether the list has a value of each of the three events.
    let cases: [(Build, [bool; 3]); 15] = [
        (|logic| KernelFilter::new().protocols(logic, [Protocol::Tcp]), [true, false, false]),
        (|logic| KernelFilter::new().protocols(logic, [Protocol::Udp, Protocol::Sctp]), [false, true, true]),
        (|logic| KernelFilter::new().protocols(logic, []), [false, false, false]),
        (|logic| KernelFilter::new().protocols(logic, (0..=255).map(Protocol::from)), [true, true, true]),
        (|logic| KernelFilter::new().marks(logic, [(0x12, u32::MAX)]), [true, false, false]),
        (|logic| KernelFilter::new().marks(logic, [(0x99, u32::MAX), (0x10, 0x10)]), [true, false, false]),
        (|logic| KernelFilter::new().marks(logic, [(0, u32::MAX)]), [false, true, true]),
        (|logic| KernelFilter::new().zones(logic, [0]), [true, false, false]),
        (|logic| KernelFilter::new().zones(logic, [7]), [false, true, false]),
        (|logic| KernelFilter::new().zones(logic, [1, 9, 7]), [false, true, true]),
        (|logic| networks(logic, Endpoint::Source, &["192.168.0.0/16"]), [true, false, true]),
        (|logic| networks(logic, Endpoint::Source, &["192.168.7.2/32", "10.0.0.0/8"]), [true, false, true]),
        (
            |logic| networks(logic, Endpoint::Source, &["10.0.0.0/8", "fd00::/9", "192.168.0.0/22"]),
            [false, true, false],
        ),
        (
            |logic| networks(logic, Endpoint::Destination, &["2001:db8::1/128", "2001:db8::8/127"]),
            [false, true, false],
        ),
        (|logic| networks(logic, Endpoint::Destination, &["::/0", "198.51.100.0/25"]), [true, true, true]),
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

fn networks(logic: Logic, endpoint: Endpoint, networks: &[&str]) -> KernelFilter {
    let networks = networks.iter().map(|text| {
        let (address, bits) = text.split_once('/').unwrap();
        (address.parse().unwrap(), bits.parse().unwrap())
    });
    KernelFilter::new().networks(Direction::Original, endpoint, logic, networks)
}

#[test]
fn long_lists_work_and_too_long_ones_are_an_error() {
    let event = detailed(Protocol::Tcp, true, (0, 0), 0, None);
    let many = |count: u32| {
        let other =
            (0..count).map(|number| (IpAddr::from([0x2001_u16, 0, 0, 0, 0, 0, 0, number as u16]), 128));
        let wanted = [("fd00:7::2".parse().unwrap(), 128)];
        KernelFilter::new().networks(Direction::Original, Endpoint::Source, Logic::Only, other.chain(wanted))
    };
    assert!(delivers(&many(250), &event));
    let (_, receiver) = UnixDatagram::pair().unwrap();
    let error = many(400).attach(&receiver).unwrap_err();
    assert!(error.to_string().contains("at most 4096"), "{error}");
    let stateless = KernelFilter::new().states(Logic::Only, Protocol::Udp, [1]).attach(&receiver);
    assert!(stateless.unwrap_err().to_string().contains("tcp, sctp or dccp"));
}

#[test]
fn a_filter_that_is_too_long_is_attached_without_its_longest_conditions() {
    let event = detailed(Protocol::Tcp, false, (0, 0), 0, None);
    let hosts = |count: u32| (0..count).map(|host| (IpAddr::from((10 << 24 | host).to_be_bytes()), 32));
    let port = |port| KernelFilter::new().port(Direction::Original, Endpoint::Destination, port);
    let with = |filter: KernelFilter, count| {
        filter.networks(Direction::Original, Endpoint::Source, Logic::Only, hosts(count))
    };
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    receiver.set_nonblocking(true).unwrap();
    let delivers = |filter: &KernelFilter, left_out| {
        assert_eq!(filter.attach_what_fits(&receiver).unwrap(), left_out);
        let _ = sender.send(&event);
        receiver.recv(&mut [0; 4096]).is_ok()
    };
    assert!(!delivers(&with(port(443), 900), 0), "another source");
    assert!(delivers(&with(port(443), 1100), 1), "without the sources");
    assert!(!delivers(&with(port(80), 1100), 1), "the port still counts");
    // Each is short enough, but not both.
    assert!(!delivers(&with(with(port(443), 600), 500), 1));
    assert!(delivers(&with(KernelFilter::new(), 2000), 1), "no condition is left");
    assert!(!delivers(&with(port(443), 900), 0));
    let stateless = KernelFilter::new().states(Logic::Only, Protocol::Udp, [1]);
    assert!(stateless.attach_what_fits(&receiver).is_err());
}

#[test]
fn ranges_and_alternatives_are_distinguished() {
    let tcp = detailed(Protocol::Tcp, false, (0, 0), 0, None);
    let icmp = {
        let (original, reply) = tuples(Protocol::Icmp, |id, _| Layer4::Icmp { id, kind: 8, code: 0 }, false);
        message(&original, &reply)
    };
    let ports = |logic, ranges: &[std::ops::RangeInclusive<u16>]| {
        EndpointTest::ports(Direction::Reply, Endpoint::Destination, logic, ranges.iter().cloned())
    };
    // The public port is 50001.
    for (ranges, listed) in [
        (&[50001..=50001][..], true),
        (&[50000..=50001], true),
        (&[50001..=65535], true),
        (&[0..=65535], true),
        (&[0..=50000, 50002..=65535], false),
        (&[80..=80, 443..=443, 50001..=50002], true),
        (&[], false),
    ] {
        for (logic, expected) in [(Logic::Only, listed), (Logic::Except, !listed)] {
            let filter = KernelFilter::new().any_of([ports(logic, ranges)]);
            assert_eq!(delivers(&filter, &tcp), expected, "{filter:?}");
            assert!(delivers(&filter, &icmp), "no ports: {filter:?}");
        }
    }
    let source = |logic, network: &str| {
        let network = [(network.parse().unwrap(), 24)];
        EndpointTest::networks(Direction::Original, Endpoint::Source, logic, network)
    };
    // The source is 192.168.7.2.
    let [in_it, elsewhere] = ["192.168.7.0", "192.168.8.0"];
    for (tests, expected) in [
        (vec![], false),
        (vec![source(Logic::Only, elsewhere), source(Logic::Except, in_it)], false),
        (vec![source(Logic::Except, in_it), source(Logic::Only, in_it)], true),
        (vec![source(Logic::Except, elsewhere), source(Logic::Only, elsewhere)], true),
        (vec![source(Logic::Only, elsewhere), ports(Logic::Except, &[50001..=50001])], false),
        (vec![ports(Logic::Except, &[50001..=50001]), source(Logic::Only, in_it)], true),
        (vec![ports(Logic::Only, &[1..=2, 50001..=50001]), source(Logic::Only, elsewhere)], true),
    ] {
        let filter = KernelFilter::new().any_of(tests);
        assert_eq!(delivers(&filter, &tcp), expected, "{filter:?}");
        let other = filter.port(Direction::Original, Endpoint::Destination, 80);
        assert!(!delivers(&other, &tcp), "{other:?}");
    }
}

#[test]
fn a_message_that_the_filter_does_not_understand_is_delivered() {
    let (original, reply) = tuples(Protocol::Icmp, |id, _| Layer4::Icmp { id, kind: 8, code: 0 }, false);
    let icmp = message(&original, &reply);
    let filter = KernelFilter::new().port(Direction::Reply, Endpoint::Destination, 1);
    assert!(delivers(&filter, &icmp), "a protocol without ports");
    let both = filter.clone().address(Direction::Reply, Endpoint::Destination, "10.0.0.1".parse().unwrap());
    assert!(!delivers(&both, &icmp), "its address does not match");
    assert!(delivers(&filter, &MessageWriter::new(sys::IPCTNL_MSG_CT_NEW, 0, 1, 0).finish()), "no tuple");
    assert!(delivers(&KernelFilter::new(), &icmp), "no condition");
}
