//! Expectations: round trips through the C library, and the real kernel, each
//! test in network namespaces of its own.
//!
//! What asks the kernel needs root and nft; elsewhere those tests say so and do
//! nothing.

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use lab::in_fresh_namespace;
use lab::netns::{Netns, ip, nft, wait_for_links};
use nfct::wire::Messages;
use nfct::{
    Compare, Direction, EventKind, Expect, ExpectAttribute, ExpectEvent, ExpectEvents, ExpectFlags,
    ExpectGroups, ExpectHandle, ExpectNat, ExpectRef, ExpectRequest, Expectation, Family, Layer4, Next,
    Notification, Output, Protocol, Query, Tuple,
};
use proptest::prelude::*;

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

fn tcp(src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
    let layer4 = Layer4::Ports { src: sport, dst: dport };
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol: Protocol::Tcp, layer4, zone: 0 }
}

/// The expectation after a change.
fn with(mut expectation: Expectation, change: impl FnOnce(&mut Expectation)) -> Expectation {
    change(&mut expectation);
    expectation
}

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
fn attributes_come_back_as_they_were_set_and_can_be_unset() {
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

/// What an element of the library's XML holds.
fn inside<'a>(xml: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{element}>"))?;
    rest.split_once(&format!("</{element}>")).map(|(inside, _)| inside)
}

proptest! {
    #[test]
    fn any_expectation_comes_back_and_the_librarys_xml_says_the_same(sample in any_expectation()) {
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
fn values_are_written_down_and_read_back() {
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
    // Time-outs do not count.
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
fn text_and_xml_are_the_librarys() {
    let [plain, full, v6] = [0, 1, 2].map(|at| Expect::from_expectation(&samples()[at]).unwrap());
    assert_eq!(
        plain.to_string(),
        "proto=6 src=192.168.7.2 dst=198.51.100.1 sport=0 dport=50000 mask-src=255.255.255.255 \
         mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.7.2 master-dst=198.51.100.1 \
         sport=40001 dport=21 class=0"
    );
    let told = full.print(&Output::plain().kind(EventKind::Destroy));
    assert!(told.starts_with("[DESTROY] 4294967295 proto=6 src=198.51.100.1"), "{told}");
    assert!(
        told.ends_with("zone=65535 PERMANENT,INACTIVE,USERSPACE class=4294967295 helper=fifteen-letters")
    );
    let xml = v6.print(&Output::xml().kind(EventKind::New));
    assert!(xml.starts_with("<flow type=\"new\"><layer3 protonum=\"10\" protoname=\"ipv6\">"), "{xml}");
    assert!(xml.contains("<dst>2001:db8::1</dst>") && xml.ends_with("</flow>"), "{xml}");
    assert!(!xml.contains("<when>") && v6.print(&Output::xml().time()).contains("<when>"));
    // Longer than any other, and whole.
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
fn the_c_librarys_parser_reads_the_same() {
    for sample in samples() {
        let message = sample.to_message();
        let theirs = Expect::parse(&message).unwrap();
        assert_eq!(theirs.to_expectation(), Some(with(sample, |it| it.id = None)));
    }
}

#[test]
fn no_cut_and_no_changed_byte_reaches_the_librarys_parser_unread() {
    // The library ends the process, or reads past the message, where lengths do not fit.
    let (mut read, mut refused) = (0, 0);
    for sample in samples() {
        let whole = sample.to_message();
        for end in 0..whole.len() {
            assert!(Expect::parse(&whole[..end]).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
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
fn types_that_the_librarys_parser_has_no_room_for_never_reach_it() {
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

/// A connection to port 21 over the loopback, with the kernel's FTP helper.
struct Control {
    _ends: (TcpStream, TcpStream),
    tuple: Tuple,
}

const HELPER: &str = "\
table inet filter {
    ct helper ftp-standard {
        type \"ftp\" protocol tcp
        l3proto ip
    }
    chain output {
        type filter hook output priority 0
        tcp dport 21 ct helper set \"ftp-standard\"
    }
    chain postrouting {
        type nat hook postrouting priority 100
    }
}
";

fn listen_with_helper() -> TcpListener {
    ip("link set lo up");
    nft(HELPER);
    TcpListener::bind("127.0.0.1:21").unwrap()
}

fn connect(listener: &TcpListener) -> Control {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, peer) = listener.accept().unwrap();
    Control { tuple: tcp("127.0.0.1", peer.port(), "127.0.0.1", 21), _ends: (client, server) }
}

/// What a client of `control` would be expected to do for `PORT`.
fn expectation(control: &Control, port: u16) -> Expectation {
    Expectation::new(control.tuple, tcp("127.0.0.1", 0, "127.0.0.1", port))
}

fn all(query: &mut Query) -> Vec<Expectation> {
    query.dump_expectations(Family::Any).unwrap().collect::<Result<_, _>>().unwrap()
}

fn next(events: &mut ExpectEvents) -> ExpectEvent {
    match events.next_within(PATIENCE).unwrap() {
        Some(Notification::Event(event)) => event,
        other => panic!("expected an event, found {other:?}"),
    }
}

#[test]
fn an_expectation_is_made_found_changed_and_removed_and_each_is_told() {
    in_fresh_namespace(|| {
        let mut events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        assert_eq!(all(&mut query), []);

        let made = expectation(&control, 50000);
        query.create_expectation(&made).unwrap();
        assert_eq!(query.create_expectation(&made).unwrap_err().errno(), Some(libc::EEXIST));
        let found = query.get_expectation(&made.expected).unwrap().unwrap();
        assert_eq!((found.master, found.expected, found.mask), (made.master, made.expected, made.mask));
        // The helper's own time, five minutes.
        assert!((290..=300).contains(&found.timeout.unwrap()), "{found:?}");
        assert!(found.id.is_some());
        // A second may pass between two answers.
        let timeless = |expectation: &Expectation| with(expectation.clone(), |it| it.timeout = None);
        let listed: Vec<_> = all(&mut query).iter().map(timeless).collect();
        assert_eq!(listed, [timeless(&found)]);

        let told = next(&mut events);
        assert_eq!((told.kind, timeless(&told.expectation)), (EventKind::New, timeless(&found)));

        query.update_expectation(&with(found.clone(), |it| it.timeout = Some(60))).unwrap();
        let changed = query.get_expectation(&made.expected).unwrap().unwrap();
        assert!((50..=60).contains(&changed.timeout.unwrap()), "{changed:?}");

        let other_life = with(found.clone(), |it| it.id = found.id.map(|id| id ^ 1));
        assert!(!query.delete_expectation(&other_life).unwrap());
        assert!(query.delete_expectation(&found).unwrap());
        assert_eq!(query.get_expectation(&made.expected).unwrap(), None);
        assert!(!query.delete_expectation(&found).unwrap());
        let told = next(&mut events);
        assert_eq!((told.kind, told.expectation.id), (EventKind::Destroy, found.id));
        assert_eq!(events.try_next().unwrap(), None);
    });
}

#[test]
fn nat_flags_class_and_function_reach_the_kernel() {
    in_fresh_namespace(|| {
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        let made = with(expectation(&control, 50000), |it| {
            it.nat =
                Some(ExpectNat { tuple: tcp("127.0.0.9", 50009, "0.0.0.0", 0), direction: Direction::Reply });
            it.flags = ExpectFlags::PERMANENT;
            it.helper = Some("ftp".to_owned());
            it.function = Some("nat-follow-master".to_owned());
        });
        query.create_expectation(&made).unwrap();
        let found = query.get_expectation(&made.expected).unwrap().unwrap();
        assert_eq!(found.nat.unwrap().direction, Direction::Reply);
        let nat = found.nat.unwrap().tuple;
        assert_eq!((nat.src, nat.protocol), ("127.0.0.9".parse().unwrap(), Protocol::Tcp));
        assert!(matches!(nat.layer4, Layer4::Ports { src: 50009, .. }), "{nat}");
        assert!(found.flags.is_permanent() && !found.flags.is_inactive());
        assert_eq!(found.helper.as_deref(), Some("ftp"));
        assert_eq!(found.function.as_deref(), Some("nat-follow-master"));

        // One that is not there yet is made by an update, with the helper's time.
        let other = with(expectation(&control, 50002), |it| it.timeout = Some(60));
        query.update_expectation(&other).unwrap();
        let found = query.get_expectation(&other.expected).unwrap().unwrap();
        assert!((290..=300).contains(&found.timeout.unwrap()), "{found:?}");

        // What the kernel refuses is told: FTP has one class, 0.
        let other_class = with(made.clone(), |it| it.class = 1);
        let other_class = with(other_class, |it| it.expected = tcp("127.0.0.1", 0, "127.0.0.1", 50001));
        assert_eq!(query.create_expectation(&other_class).unwrap_err().errno(), Some(libc::EINVAL));
        let unknown = with(expectation(&control, 50001), |it| it.function = Some("no-such".to_owned()));
        assert_eq!(query.create_expectation(&unknown).unwrap_err().errno(), Some(libc::EINVAL));
        let stranger = with(unknown, |it| it.master = tcp("127.0.0.1", 1, "127.0.0.1", 21));
        assert_eq!(query.create_expectation(&stranger).unwrap_err().errno(), Some(libc::ENOENT));
        let mixed = with(expectation(&control, 1), |it| it.expected = tcp("::1", 0, "::1", 1));
        assert!(query.create_expectation(&mixed).unwrap_err().to_string().contains("one family"));
    });
}

#[test]
fn an_expectation_is_found_in_its_masters_zone_only() {
    in_fresh_namespace(|| {
        ip("link set lo up");
        nft(
            "table inet zones {\n chain output {\n type filter hook output priority -300\n ct zone set 7\n }\n chain prerouting {\n type filter hook prerouting priority -300\n ct zone set 7\n }\n}\n",
        );
        nft(HELPER);
        let listener = TcpListener::bind("127.0.0.1:21").unwrap();
        let control = connect(&listener);
        let zoned = |tuple: Tuple| Tuple { zone: 7, ..tuple };
        let mut query = Query::open().unwrap();
        let elsewhere = expectation(&control, 50000);
        assert_eq!(query.create_expectation(&elsewhere).unwrap_err().errno(), Some(libc::ENOENT));

        let made = Expectation::new(zoned(control.tuple), elsewhere.expected);
        assert_eq!(made.zone, 7);
        query.create_expectation(&made).unwrap();
        assert_eq!(query.get_expectation(&made.expected).unwrap(), None);
        let found = query.get_expectation(&zoned(made.expected)).unwrap().unwrap();
        let of = query.dump_expectations_of(&zoned(control.tuple)).unwrap();
        assert_eq!(of.map(|one| one.unwrap().id).collect::<Vec<_>>(), [found.id]);
        assert!(query.delete_expectation(&with(found, |it| it.zone = 7)).unwrap());
        assert_eq!(all(&mut query), []);
    });
}

#[test]
fn a_dump_shows_many_and_the_c_library_agrees() {
    in_fresh_namespace(|| {
        let listener = listen_with_helper();
        let mut query = Query::open().unwrap();
        let mut controls = Vec::new();
        // The helper lets each master expect one at a time. So many do not fit one datagram of 32 KiB, and the
        // smallest machine expects 256.
        for port in 0..240 {
            let control = connect(&listener);
            query.create_expectation(&expectation(&control, 50000 + port)).unwrap();
            controls.push(control);
        }
        let mut ours = all(&mut query);
        assert_eq!(ours.len(), controls.len());
        let mut theirs = Vec::new();
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        handle
            .query(ExpectRequest::Dump(Family::Any), |_, expect| {
                theirs.extend(expect.to_expectation());
                Next::Continue
            })
            .unwrap();
        handle.query(ExpectRequest::Dump(Family::Ipv6), |_, _| panic!("there is none")).unwrap();
        for list in [&mut ours, &mut theirs] {
            list.sort_by_key(|expectation| format!("{}", expectation.expected));
            for expectation in list.iter_mut() {
                // Theirs has no place for the id; a second may pass between the two.
                (expectation.id, expectation.timeout) = (None, None);
            }
        }
        assert_eq!(ours, theirs);
        assert_eq!(query.dump_expectations(Family::Ipv6).unwrap().count(), 0);

        // Those of one master.
        let mut of = |control: &Control| {
            let dump = query.dump_expectations_of(&control.tuple).unwrap();
            dump.collect::<Result<Vec<_>, _>>()
        };
        let one = of(&controls[7]).unwrap();
        assert_eq!(one.iter().map(|one| one.master).collect::<Vec<_>>(), [controls[7].tuple]);
        let stranger = Control { tuple: tcp("127.0.0.1", 1, "127.0.0.1", 21), ..connect(&listener) };
        assert_eq!(of(&stranger).unwrap_err().errno(), Some(libc::ENOENT));

        // A dump that is left early does not disturb the next question.
        let first = query.dump_expectations(Family::Any).unwrap().next().unwrap().unwrap();
        assert_eq!(query.get_expectation(&first.expected).unwrap().unwrap().id, first.id);

        assert!(query.delete_expectation(&first).unwrap());
        assert_eq!(query.dump_expectations_of(&first.master).unwrap().count(), 0);
        query.flush_expectations_of("tftp").unwrap();
        assert_eq!(all(&mut query).len(), controls.len() - 1);
        query.flush_expectations_of("ftp").unwrap();
        assert_eq!(all(&mut query).len(), 0);
        query.create_expectation(&expectation(&controls[0], 50000)).unwrap();
        query.flush_expectations().unwrap();
        assert_eq!(all(&mut query).len(), 0);
    });
}

#[test]
fn the_c_librarys_own_requests_work() {
    use ExpectRequest::{Create, CreateOrUpdate, Delete, Flush, Get};

    in_fresh_namespace(|| {
        let mut events = ExpectHandle::open(ExpectGroups::NEW | ExpectGroups::DESTROY).unwrap();
        let control = connect(&listen_with_helper());
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        let mut ask = |request: ExpectRequest<'_>| {
            let mut answer = Vec::new();
            let keep = |_: EventKind, expect: &ExpectRef| {
                answer.push(expect.to_owned());
                Next::Continue
            };
            handle.query(request, keep).map(|()| answer).map_err(|error| error.errno())
        };
        let expect = Expect::from_expectation(&expectation(&control, 50000)).unwrap();

        assert_eq!(ask(Get(&expect)).unwrap_err(), Some(libc::ENOENT));
        assert!(ask(Create(&expect)).unwrap().is_empty());
        assert_eq!(ask(Create(&expect)).unwrap_err(), Some(libc::EEXIST));
        let mut longer = expect.clone();
        longer.set_timeout(Duration::from_secs(900));
        ask(CreateOrUpdate(&longer)).unwrap();
        let found = ask(Get(&expect)).unwrap();
        assert_eq!((found[0].master(), found[0].expected()), (Some(control.tuple), expect.expected()));
        assert!(found[0].timeout().unwrap() > Duration::from_secs(800));

        // Nothing to go by: the library would have removed every expectation.
        assert!(ask(Delete(&Expect::new().unwrap())).is_err());
        assert_eq!(ask(Get(&expect)).unwrap().len(), 1);
        ask(Delete(&expect)).unwrap();
        ask(Create(&expect)).unwrap();
        ask(Flush).unwrap();
        assert_eq!(ask(Get(&expect)).unwrap_err(), Some(libc::ENOENT));

        let mut told = Vec::new();
        events
            .catch_messages(|message, kind, expect| {
                assert_eq!(message.expectation().unwrap().expected, expect.expected().unwrap());
                told.push(kind);
                if told.len() == 4 { Next::Stop } else { Next::Continue }
            })
            .unwrap();
        let twice = [EventKind::New, EventKind::Destroy, EventKind::New, EventKind::Destroy];
        assert_eq!(told, twice);
    });
}

#[test]
fn an_answer_is_caught_without_waiting_for_it() {
    in_fresh_namespace(|| {
        let control = connect(&listen_with_helper());
        Query::open().unwrap().create_expectation(&expectation(&control, 50000)).unwrap();
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        for request in [ExpectRequest::Dump(Family::Any), ExpectRequest::Dump(Family::Ipv4)] {
            handle.send(request).unwrap();
            let mut caught = Vec::new();
            handle
                .catch(|_, expect| {
                    caught.extend(expect.expected());
                    Next::Continue
                })
                .unwrap();
            assert_eq!(caught, [tcp("127.0.0.1", 0, "127.0.0.1", 50000)]);
        }
    });
}

#[test]
fn a_panic_or_a_stop_ends_a_query_and_the_handle_goes_on() {
    in_fresh_namespace(|| {
        let listener = listen_with_helper();
        let mut query = Query::open().unwrap();
        let controls: Vec<Control> = (0..20).map(|_| connect(&listener)).collect();
        for (port, control) in (50000..).zip(&controls) {
            query.create_expectation(&expectation(control, port)).unwrap();
        }
        let mut handle = ExpectHandle::open(ExpectGroups::NONE).unwrap();
        let dump = ExpectRequest::Dump(Family::Any);
        let mut seen = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            handle.query(dump, |_, _| {
                seen += 1;
                assert!(seen < 10, "enough");
                Next::Continue
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(seen, 10);

        let mut seen = 0;
        let third = |_: EventKind, _: &ExpectRef| {
            seen += 1;
            if seen == 3 { Next::Stop } else { Next::Continue }
        };
        handle.query(dump, third).unwrap();
        assert_eq!(seen, 3);

        let mut seen = 0;
        let all = |_: EventKind, _: &ExpectRef| {
            seen += 1;
            Next::Continue
        };
        handle.query(dump, all).unwrap();
        assert_eq!(seen, controls.len());
    });
}

#[test]
fn a_full_buffer_is_told_and_events_go_on_after_it() {
    in_fresh_namespace(|| {
        let mut events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
        events.set_receive_buffer(4096).unwrap();
        let control = connect(&listen_with_helper());
        let mut query = Query::open().unwrap();
        for port in 1..=500 {
            // Each takes the place of the one before, as the helper's limit has it.
            query.create_expectation(&expectation(&control, 50000 + port)).unwrap();
        }
        assert!(events.wait(Some(Duration::ZERO)).unwrap());
        let (mut overruns, mut recovered, mut heard) = (0, Vec::new(), 0);
        while let Some(notification) = events.try_next().unwrap() {
            match notification {
                Notification::Overrun => overruns += 1,
                Notification::Recovered { lost } => recovered.push(lost),
                _ => heard += 1,
            }
        }
        assert_eq!(overruns, 1);
        // Each of the 500 but the first has ended the one before.
        assert_eq!(recovered, [999 - heard]);
        assert_eq!(events.waiter().unwrap().drops().unwrap(), recovered[0]);
        assert!(!events.wait(Some(Duration::ZERO)).unwrap());
        query.flush_expectations().unwrap();
        assert_eq!(next(&mut events).kind, EventKind::Destroy);
        assert!(events.set_receive_buffer(1 << 20).unwrap() >= 1 << 20);
    });
}

#[cfg(feature = "tokio")]
#[test]
fn a_stream_tells_of_expectations_without_holding_the_thread() {
    in_fresh_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let events = ExpectEvents::subscribe(ExpectGroups::ALL).unwrap();
            let mut stream = nfct::EventStream::expectations(events).unwrap();
            let control = connect(&listen_with_helper());
            // Nothing yet: the thread that waits is the one that makes the event.
            let early = tokio::time::timeout(Duration::from_millis(20), stream.next()).await;
            assert!(early.is_err());
            let mut query = Query::open().unwrap();
            query.create_expectation(&expectation(&control, 50000)).unwrap();
            query.flush_expectations().unwrap();
            for kind in [EventKind::New, EventKind::Destroy] {
                match tokio::time::timeout(PATIENCE, stream.next()).await.unwrap() {
                    Some(Ok(Notification::Event(event))) => {
                        assert_eq!((event.kind, event.expectation.master), (kind, control.tuple));
                    }
                    other => panic!("expected {kind:?}, found {other:?}"),
                }
            }
        });
    });
}

#[test]
fn an_object_and_events_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Expect>();
    is_sync::<Expect>();
    is_send::<ExpectEvents>();
    is_send::<Expectation>();
}

/// A client behind a NAT gateway that has the FTP helper, and an FTP server.
struct Gateway {
    client: Netns,
    gateway: Netns,
    server: Netns,
}

const CLIENT: &str = "192.168.7.2";
const PUBLIC: &str = "100.64.2.1";
const SERVER: &str = "198.51.100.1";

const GATEWAY_RULES: &str = "\
table ip nat {
    ct helper ftp-standard {
        type \"ftp\" protocol tcp
    }
    chain prerouting {
        type filter hook prerouting priority -150
        tcp dport 21 ct helper set \"ftp-standard\"
    }
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade
    }
}
";

impl Gateway {
    fn new() -> Option<Self> {
        let lab = Self { client: Netns::new()?, gateway: Netns::new()?, server: Netns::new()? };
        lab.gateway.enter(|| {
            // Indexes that differ: the kernel takes equal ones for a device without a peer.
            let (client, server) = (lab.client.path(), lab.server.path());
            ip(&format!("link add inside index 11 type veth peer name eth0 index 21 netns {client}"));
            ip(&format!("link add outside index 12 type veth peer name eth0 index 22 netns {server}"));
            ip("address add 192.168.7.1/24 dev inside");
            ip("address add 100.64.2.1/24 dev outside");
            ip("link set inside up");
            ip("link set outside up");
            ip("route add 198.51.100.0/24 dev outside");
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            nft(GATEWAY_RULES);
        });
        lab.client.enter(|| {
            ip("address add 192.168.7.2/24 dev eth0");
            ip("link set eth0 up");
            ip("route add default via 192.168.7.1");
        });
        lab.server.enter(|| {
            ip("address add 198.51.100.1/24 dev eth0");
            ip("link set eth0 up");
            ip("route add 100.64.2.0/24 dev eth0");
        });
        for netns in [&lab.client, &lab.gateway, &lab.server] {
            netns.enter(wait_for_links);
        }
        Some(lab)
    }

    /// The control connection: the client's end, the server's, and the original tuple.
    fn control(&self) -> (Line, Line, Tuple) {
        let listener = listen(&self.server, SERVER, 21);
        let client = connect_from(&self.client, listener.local_addr().unwrap());
        let (server, _) = listener.accept().unwrap();
        let port = client.local_addr().unwrap().port();
        let (mut client, mut server) = (Line::new(client), Line::new(server));
        // The helper reads a line only after it has seen one end, each way.
        server.say("220 ready");
        assert_eq!(client.hear(), "220 ready");
        client.say("USER anonymous");
        assert_eq!(server.hear(), "USER anonymous");
        server.say("230 logged in");
        assert_eq!(client.hear(), "230 logged in");
        (client, server, tcp(CLIENT, port, SERVER, 21))
    }
}

fn listen(netns: &Netns, address: &str, port: u16) -> TcpListener {
    let address: Ipv4Addr = address.parse().unwrap();
    netns.enter(|| TcpListener::bind((address, port)).unwrap())
}

fn connect_from(netns: &Netns, to: SocketAddr) -> TcpStream {
    let stream = netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One end of a control connection, spoken in lines.
struct Line(BufReader<TcpStream>);

impl Line {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// `192,168,7,2,195,80`, as FTP has it.
fn to_ftp(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    format!("{a},{b},{c},{d},{high},{low}")
}

fn from_ftp(text: &str) -> SocketAddr {
    let numbers: Vec<u8> = text.split(',').map(|number| number.parse().unwrap()).collect();
    let [a, b, c, d, high, low] = numbers[..] else { panic!("{text}") };
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

/// Sends some bytes over a data connection and looks that they arrive.
fn transfer(mut from: TcpStream, mut to: TcpStream) {
    let sent: Vec<u8> = (0..20_000_u32).map(|at| (at % 251) as u8).collect();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.write_all(&sent).unwrap();
    from.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    to.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} of {} bytes arrived as they were", received.len(), sent.len());
}

/// The expectation that the kernel has just told of, which must be the only one
/// that it lists, and belong to `control`.
fn the_one(events: &mut ExpectEvents, query: &mut Query, control: Tuple) -> Expectation {
    let told = next(events);
    assert_eq!((told.kind, told.expectation.master), (EventKind::New, control));
    let listed = all(query);
    let ids: Vec<_> = listed.iter().map(|expectation| expectation.id).collect();
    assert_eq!(ids, [told.expectation.id]);
    let found = query.get_expectation(&told.expectation.expected).unwrap().unwrap();
    assert_eq!((found.id, &found.nat), (told.expectation.id, &told.expectation.nat));
    println!("{found}");
    found
}

/// Waits for the end of `expectation`, which its connection brings about, and
/// looks that nothing is expected any more.
fn fulfilled(events: &mut ExpectEvents, query: &mut Query, expectation: &Expectation) {
    let told = next(events);
    assert_eq!((told.kind, told.expectation.id), (EventKind::Destroy, expectation.id));
    assert_eq!(all(query), []);
}

#[test]
fn an_active_ftp_transfer_through_nat_is_listed_and_watched() {
    let Some(lab) = Gateway::new() else { return };
    let (mut events, mut query) =
        lab.gateway.enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = lab.control();

    // The client names its inside address; the gateway puts the public one in its place.
    let listener = listen(&lab.client, CLIENT, 0);
    let inside = listener.local_addr().unwrap();
    client.say(&format!("PORT {}", to_ftp(inside)));
    let heard = server.hear();
    let outside = from_ftp(heard.strip_prefix("PORT ").unwrap());
    assert_eq!(outside.ip().to_string(), PUBLIC);
    server.say("200 PORT command successful");
    assert_eq!(client.hear(), "200 PORT command successful");

    let expectation = the_one(&mut events, &mut query, control);
    assert_eq!(expectation.expected, tcp(SERVER, 0, PUBLIC, outside.port()));
    assert_eq!(expectation.mask, tcp("255.255.255.255", 0, "255.255.255.255", 0xffff));
    let nat = expectation.nat.unwrap();
    // The port is the one inside; the address is the master's.
    assert_eq!((nat.tuple.src.is_unspecified(), nat.direction), (true, Direction::Reply));
    assert!(matches!(nat.tuple.layer4, Layer4::Ports { src, .. } if src == inside.port()), "{nat:?}");
    assert_eq!(expectation.function.as_deref(), Some("nat-follow-master"));

    // The data connection comes to the public address, and goes to the client.
    let data = connect_from(&lab.server, outside);
    let from = data.local_addr().unwrap();
    let (received, peer) = listener.accept().unwrap();
    assert_eq!(peer, from);
    fulfilled(&mut events, &mut query, &expectation);
    let flow = query.get_by_original(&tcp(SERVER, from.port(), PUBLIC, outside.port())).unwrap().unwrap();
    assert!(flow.status.is_expected() && flow.status.is_destination_nat(), "{flow:?}");
    assert_eq!(flow.reply, tcp(CLIENT, inside.port(), SERVER, from.port()));
    let entry = query.get(Direction::Original, &flow.original).unwrap().unwrap();
    assert_eq!(entry.master(), Some(control), "the kernel knows whose data connection it is");
    transfer(data, received);
}

#[test]
fn a_passive_ftp_transfer_through_nat_is_listed_and_watched() {
    let Some(lab) = Gateway::new() else { return };
    let (mut events, mut query) =
        lab.gateway.enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = lab.control();

    client.say("PASV");
    assert_eq!(server.hear(), "PASV");
    let listener = listen(&lab.server, SERVER, 0);
    let outside = listener.local_addr().unwrap();
    server.say(&format!("227 Entering Passive Mode ({})", to_ftp(outside)));
    let heard = client.hear();
    let told = heard.split(['(', ')']).nth(1).unwrap();
    assert_eq!(from_ftp(told), outside);

    let expectation = the_one(&mut events, &mut query, control);
    assert_eq!(expectation.expected, tcp(CLIENT, 0, SERVER, outside.port()));

    let data = connect_from(&lab.client, outside);
    let from = data.local_addr().unwrap();
    let (sending, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), PUBLIC);
    fulfilled(&mut events, &mut query, &expectation);
    let flow = query.get_by_original(&tcp(CLIENT, from.port(), SERVER, outside.port())).unwrap().unwrap();
    assert!(flow.status.is_expected() && flow.status.is_source_nat(), "{flow:?}");
    assert_eq!(flow.reply, tcp(SERVER, outside.port(), PUBLIC, peer.port()));
    let entry = query.get(Direction::Original, &flow.original).unwrap().unwrap();
    assert_eq!(entry.master(), Some(control), "the kernel knows whose data connection it is");
    transfer(sending, data);
}

#[test]
fn an_expectation_that_nothing_fulfils_ends_with_its_master() {
    let Some(lab) = Gateway::new() else { return };
    let (mut events, mut query) =
        lab.gateway.enter(|| (ExpectEvents::subscribe(ExpectGroups::ALL).unwrap(), Query::open().unwrap()));
    let (mut client, mut server, control) = lab.control();
    client.say(&format!("PORT {}", to_ftp((Ipv4Addr::new(192, 168, 7, 2), 50000).into())));
    server.hear();
    let expectation = the_one(&mut events, &mut query, control);
    let start = Instant::now();
    query.flush(Family::Any).unwrap();
    fulfilled(&mut events, &mut query, &expectation);
    assert!(start.elapsed() < PATIENCE);
}
