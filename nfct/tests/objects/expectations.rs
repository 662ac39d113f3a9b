//! Expectations: round trips through the C library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lab::samples::{tcp, with};
use nfct::wire::Messages;
use nfct::{
    Compare, Direction, EventKind, Expect, ExpectAttribute, ExpectEvents, ExpectFlags, ExpectNat,
    Expectation, Layer4, Output, Protocol, Tuple,
};
use proptest::prelude::*;

/// Everything that an expectation can hold.
fn samples() -> Vec<Expectation> {
    let control = tcp("192.168.7.2", 40001, "198.51.100.1", 21);
    let plain = Expectation::new(control, tcp("192.168.7.2", 0, "198.51.100.1", 50000));
    let full = with(Expectation::new(control, tcp("198.51.100.1", 0, "100.64.2.1", 50000)), |it| {
        it.nat =
            Some(ExpectNat { tuple: tcp("192.168.7.2", 50000, "0.0.0.0", 0), direction: Direction::Reply });
        it.timeout = Some(u32::MAX);
        it.zone = 65535;
        it.flags = ExpectFlags::PERMANENT | ExpectFlags::INACTIVE | ExpectFlags::USERSPACE;
        it.class = u32::MAX;
        it.helper = Some("fifteen-letters".to_owned());
        it.function = Some("twenty-three-letters-xx".to_owned());
    });
    let v6 = with(
        Expectation::new(
            tcp("fd00:7::2", 65535, "2001:db8::1", 21),
            Tuple { protocol: Protocol::Udp, ..tcp("::", 0, "2001:db8::1", 65535) },
        ),
        |it| {
            it.nat = Some(ExpectNat { tuple: tcp("fd00:7::2", 1, "::", 0), direction: Direction::Original });
            it.timeout = Some(0);
        },
    );
    vec![plain, full, v6]
}

#[test]
fn attributes_are_read_back_as_they_were_set_and_can_be_unset() {
    for sample in samples() {
        let mut expect = Expect::from_expectation(&sample).unwrap();
        assert_eq!(expect.to_expectation(), Some(sample.clone()));
        let copy = expect.clone();
        for attribute in ExpectAttribute::ALL {
            expect.unset(attribute);
            assert!(!expect.is_set(attribute), "{attribute:?}");
        }
        assert_eq!((expect.master(), expect.nat(), expect.helper()), (None, None, None));
        assert_eq!((expect.timeout(), expect.zone(), expect.class()), (None, None, None));
        assert_eq!(copy.to_expectation(), Some(sample), "a copy is its own");
    }
}

fn any_expectation() -> impl Strategy<Value = Expectation> {
    let address = |v4: bool| match v4 {
        true => any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed(),
        false => any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed(),
    };
    let tuple = move |v4| {
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
        (address(v4), address(v4), protocol, any::<(u16, u16)>()).prop_map(
            |(src, dst, protocol, (from, to))| Tuple {
                src,
                dst,
                protocol,
                layer4: Layer4::Ports { src: from, dst: to },
                zone: 0,
            },
        )
    };
    let tuples = any::<bool>().prop_flat_map(move |v4| (tuple(v4), tuple(v4), tuple(v4), tuple(v4)));
    let nat = prop_oneof![Just(None), Just(Some(Direction::Original)), Just(Some(Direction::Reply))];
    let names = (proptest::option::of("[!-~]{1,15}"), proptest::option::of("[!-~]{1,23}"));
    let numbers = any::<(Option<u32>, u16, u32, u32)>();
    (tuples, nat, names, numbers).prop_map(
        |((master, expected, mask, to), nat, (helper, function), (timeout, zone, flags, class))| {
            with(Expectation::new(master, expected), |it| {
                it.mask = mask;
                it.nat = nat.map(|direction| ExpectNat { tuple: to, direction });
                it.timeout = timeout;
                it.zone = zone;
                it.flags = ExpectFlags(flags);
                it.class = class;
                it.helper = helper;
                it.function = function;
            })
        },
    )
}

/// The content of an element of the library's XML.
fn inside<'a>(xml: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{element}>"))?;
    rest.split_once(&format!("</{element}>")).map(|(inside, _)| inside)
}

proptest! {
    #[test]
    fn any_expectation_is_read_back_and_the_librarys_xml_agrees(sample in any_expectation()) {
        let expect = Expect::from_expectation(&sample).unwrap();
        prop_assert_eq!(expect.to_expectation(), Some(sample.clone()));
        let message = sample.to_message();
        prop_assert_eq!(Messages::new(&message).next().unwrap().unwrap().expectation(), Ok(sample.clone()));
        let parsed = Expect::parse(&message).unwrap();
        prop_assert_eq!(parsed.to_expectation(), Some(sample.clone()));
        prop_assert!(parsed.compare(&expect, Compare::STRICT) && expect.clone().compare(&expect, Compare::STRICT));

        let xml = expect.print(&Output::xml());
        let (layer3, layer4) = (inside(&xml, "expected").unwrap(), xml.split("<layer4").nth(1).unwrap());
        prop_assert_eq!(inside(layer3, "src").unwrap().parse(), Ok(sample.expected.src));
        prop_assert_eq!(inside(layer3, "dst").unwrap().parse(), Ok(sample.expected.dst));
        let of_master = inside(&xml, "master").unwrap();
        prop_assert_eq!(inside(of_master, "dst").unwrap().parse(), Ok(sample.master.dst));
        let ports = |text| Layer4::Ports {
            src: inside(text, "sport").unwrap().parse().unwrap(),
            dst: inside(text, "dport").unwrap().parse().unwrap(),
        };
        prop_assert_eq!(ports(inside(layer4, "expected").unwrap()), sample.expected.layer4);
        prop_assert_eq!(ports(inside(layer4, "mask").unwrap()), sample.mask.layer4);
        prop_assert_eq!(ports(inside(layer4, "master").unwrap()), sample.master.layer4);
        prop_assert_eq!(inside(&xml, "timeout").map(str::to_owned), sample.timeout.map(|time| time.to_string()));
        prop_assert_eq!(inside(&xml, "helper-name").map(str::to_owned), sample.helper.clone());
        prop_assert_eq!(inside(&xml, "class").map(str::to_owned), Some(sample.class.to_string()));
        prop_assert_eq!(inside(&xml, "zone").unwrap_or("0"), sample.zone.to_string());
        prop_assert_eq!(xml.contains("<permanent/>"), sample.flags.is_permanent());
        prop_assert_eq!(xml.contains("<inactive/>"), sample.flags.is_inactive());
    }
}

#[cfg(feature = "serde")]
#[test]
fn values_are_serialized_and_read_back() {
    for sample in samples() {
        let text = serde_json::to_string(&sample).unwrap();
        assert_eq!(serde_json::from_str::<Expectation>(&text).unwrap(), sample);
    }
    let plain = serde_json::to_value(&samples()[0]).unwrap();
    assert_eq!((&plain["flags"], plain.get("helper")), (&serde_json::json!(0), None));
    assert_eq!(plain["expected"]["dst"], "198.51.100.1");
}

#[test]
fn objects_compare_as_the_library_does() {
    let [plain, full, v6] = [0, 1, 2].map(|at| Expect::from_expectation(&samples()[at]).unwrap());
    assert!(plain.compare(&plain.clone(), Compare::STRICT));
    assert!(!plain.compare(&full, Compare::ALL) && !full.compare(&v6, Compare::ALL));
    // Timeouts are not compared.
    let mut other = full.clone();
    other.set_timeout(Duration::ZERO);
    assert!(full.compare(&other, Compare::STRICT));
    for attribute in ExpectAttribute::ALL {
        let mut less = full.clone();
        less.unset(attribute);
        let counts = attribute != ExpectAttribute::Timeout;
        assert!(full.compare(&less, Compare::ALL), "{attribute:?}");
        assert_eq!(full.compare(&less, Compare::MASK), !counts, "{attribute:?}");
        assert!(less.compare(&full, Compare::MASK), "{attribute:?}");
        assert_eq!(less.compare(&full, Compare::STRICT), !counts, "{attribute:?}");
    }
    other.set_expected(&tcp("198.51.100.1", 0, "100.64.2.1", 50001)).unwrap();
    assert!(!full.compare(&other, Compare::ALL));
}

#[test]
fn text_and_xml_are_those_of_the_library() {
    let [plain, full, v6] = [0, 1, 2].map(|at| Expect::from_expectation(&samples()[at]).unwrap());
    assert_eq!(
        plain.to_string(),
        "proto=6 src=192.168.7.2 dst=198.51.100.1 sport=0 dport=50000 mask-src=255.255.255.255 \
         mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.7.2 master-dst=198.51.100.1 \
         sport=40001 dport=21 class=0"
    );
    let reported = full.print(&Output::plain().kind(EventKind::Destroy));
    assert!(reported.starts_with("[DESTROY] 4294967295 proto=6 src=198.51.100.1"), "{reported}");
    assert!(
        reported.ends_with("zone=65535 PERMANENT,INACTIVE,USERSPACE class=4294967295 helper=fifteen-letters")
    );
    let xml = v6.print(&Output::xml().kind(EventKind::New));
    assert!(xml.starts_with("<flow type=\"new\"><layer3 protonum=\"10\" protoname=\"ipv6\">"), "{xml}");
    assert!(xml.contains("<dst>2001:db8::1</dst>") && xml.ends_with("</flow>"), "{xml}");
    assert!(!xml.contains("<when>") && v6.print(&Output::xml().time()).contains("<when>"));
    // Longer than any other, and complete.
    let long = with(
        Expectation::new(
            tcp(
                "2001:db8:1111:2222:3333:4444:5555:6666",
                65535,
                "2001:db8:1111:2222:3333:4444:5555:6667",
                65535,
            ),
            tcp(
                "2001:db8:1111:2222:3333:4444:5555:6668",
                65535,
                "2001:db8:1111:2222:3333:4444:5555:6669",
                65535,
            ),
        ),
        |it| {
            it.helper = Some("fifteen-letters".to_owned());
            it.flags = ExpectFlags(7);
            it.zone = u16::MAX;
        },
    );
    let long = Expect::from_expectation(&long).unwrap().print(&Output::xml().time());
    assert!(long.len() > 800 && long.ends_with("</meta></flow>"), "{}: {long}", long.len());
    assert!(!Expect::new().unwrap().print(&Output::xml()).is_empty());
}

#[test]
fn the_c_librarys_parser_agrees() {
    for sample in samples() {
        let message = sample.to_message();
        let theirs = Expect::parse(&message).unwrap();
        assert_eq!(theirs.to_expectation(), Some(with(sample, |it| it.id = None)));
    }
}

#[test]
fn no_damaged_message_reaches_the_librarys_parser_unchecked() {
    // The library aborts the process, or reads past the message, when lengths are wrong.
    let (mut read, mut refused) = (0, 0);
    for sample in samples() {
        let complete = sample.to_message();
        for end in 0..complete.len() {
            assert!(Expect::parse(&complete[..end]).is_err(), "truncated at {end}");
        }
        for at in 0..complete.len() {
            for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                let mut bytes = complete.clone();
                bytes[at] = value;
                match Expect::parse(&bytes) {
                    Ok(expect) => read += usize::from(expect.to_expectation().is_some()),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn types_too_large_for_the_librarys_parser_never_reach_it() {
    const CTA_EXPECT_NAT: u16 = 10;
    for kind in 3..=26_u16 {
        let mut message = samples()[0].to_message();
        for half in [8, CTA_EXPECT_NAT, 4, kind] {
            message.extend(half.to_ne_bytes());
        }
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
        assert_eq!(Expect::parse(&message).unwrap().to_expectation(), Some(samples()[0].clone()));
    }
}

#[test]
fn names_that_do_not_fit_are_refused() {
    let mut expect = Expect::new().unwrap();
    for name in ["", "sixteen-letters-", "with\0zero"] {
        let error = expect.set_helper(name).err().unwrap().to_string();
        assert!(error.contains("expected a helper's name of 1 to 15 bytes"), "{error}");
    }
    assert!(expect.set_function("twenty-four-letters-xxxx").is_err());
    assert_eq!((expect.helper(), expect.function()), (None, None));
}

#[test]
fn an_object_and_events_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Expect>();
    is_sync::<Expect>();
    is_send::<ExpectEvents>();
    is_send::<Expectation>();
}
