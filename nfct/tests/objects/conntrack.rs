//! Conntrack objects: tuples, NAT, copies, and errors.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use nfct::attr::{self, Group, Icmp, Pair};
use nfct::{
    Conntrack, CopyParts, Counters, Direction, Error, Family, LabelMap, Labels, Layer4, Output, Protocol,
    Status, TcpState, Tuple,
};

use super::assignments::{ports, tuple};
use super::messages::{attribute, full_attributes, kernel};

#[test]
fn objects_can_be_shared_between_threads() {
    fn both<T: Send + Sync>() {}
    both::<Conntrack>();
    both::<Labels>();
    both::<LabelMap>();
    both::<Output<'_>>();
    both::<nfct::View>();
}

#[test]
fn extreme_tuples_are_read_back_as_they_were_set() {
    let cases = [
        tuple("255.255.255.255", "0.0.0.0", Protocol::Tcp, ports(65535, 0), 0),
        tuple("ffff::ffff", "::", Protocol::Udp, ports(0, 65535), 65535),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Gre, Layer4::Keys { src: 65535, dst: 1 }, 1),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Icmp, Layer4::Icmp { id: 65535, kind: 8, code: 255 }, 0),
        tuple("10.0.0.1", "10.0.0.2", Protocol::Other(255), Layer4::None, 0),
    ];
    for case in cases {
        let mut entry = Conntrack::new().unwrap();
        assert_eq!(entry.original(), None);
        let master = Tuple { protocol: Protocol::Tcp, layer4: ports(3, 21), ..case };
        entry.set_master(&master).unwrap().set_tuples(&case, &case).unwrap();
        assert_eq!((entry.original(), entry.reply()), (Some(case), Some(case)));
        assert_eq!(entry.master(), Some(master));
        let mut alone = Conntrack::new().unwrap();
        assert_eq!(alone.set_original(&case).unwrap().original(), Some(case));
        assert_eq!(alone.reply(), None);
        entry.set_timeout(Duration::MAX).set_tcp_state(255);
        assert_eq!(entry.timeout(), Some(Duration::from_secs(u32::MAX.into())));
        assert_eq!(entry.tcp_state(), Some(TcpState::Other(255)));
    }
}

#[test]
fn a_zone_of_one_direction_stays_in_that_direction() {
    let original = tuple("10.0.0.1", "10.0.0.2", Protocol::Udp, ports(1, 2), 9);
    let reply = Tuple { zone: 0, ..original };
    let mut entry = Conntrack::new().unwrap();
    entry.set_tuples(&original, &reply).unwrap();
    assert_eq!((entry.original().unwrap().zone, entry.reply().unwrap().zone), (9, 0));
}

#[test]
fn what_cannot_be_set_says_why_and_changes_nothing() {
    let mut entry = Conntrack::new().unwrap();
    let refused = |error: Result<&mut Conntrack, Error>, text: &str| {
        let error = error.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(entry.set(attr::USE, 1), "ATTR_USE: it is read-only");
    refused(entry.set(attr::SECCTX, "a".to_owned()), "ATTR_SECCTX: it is read-only");
    refused(
        entry.set_group(Group::REPL_COUNTERS, Counters::default()),
        "ATTR_GRP_REPL_COUNTERS: it is read-only",
    );
    refused(entry.set_helper("sixteen-bytes-ar"), "found a name of 16 bytes, expected at most 15 bytes");
    refused(entry.set_helper("a\0b"), "none of them zero");
    refused(entry.set(attr::HELPER_INFO, vec![0; 65_001]), "found 65001 bytes");
    refused(entry.setup_reply(), "found an incomplete tuple");
    let tcp = tuple("10.0.0.1", "10.0.0.2", Protocol::Tcp, ports(1, 2), 0);
    let echo = Tuple { layer4: Layer4::Icmp { id: 7, kind: 8, code: 0 }, ..tcp };
    let expected = "expected Layer4::Ports for a protocol with ports";
    refused(entry.set_original(&echo), "found a tuple of tcp with Icmp { id: 7, kind: 8, code: 0 }");
    refused(entry.set_tuples(&tcp, &echo), expected);
    refused(entry.set_tuples(&echo, &tcp), expected);
    refused(
        entry.set_reply(&Tuple { dst: "fd00::1".parse().unwrap(), ..tcp }),
        "two addresses of one family",
    );
    refused(entry.set_master(&Tuple { protocol: Protocol::Icmp, ..echo }), "found a master of icmp");
    let event = entry.set(attr::TIMESTAMP_EVENT, SystemTime::UNIX_EPOCH).map(|_| ()).unwrap_err();
    match attr::TIMESTAMP_EVENT.id().is_known() {
        true => assert!(matches!(event, Error::ReadOnly { .. })),
        false => {
            assert!(event.to_string().contains("needs libnetfilter_conntrack 1.1.1 or newer"), "{event}")
        }
    }
    assert!(!entry.unset(attr::TIMESTAMP_EVENT).is_set(attr::TIMESTAMP_EVENT));
    assert_eq!(entry.attributes().count(), 0, "{entry:?}");
}

#[test]
fn helper_data_keep_their_length() {
    let mut entry = Conntrack::new().unwrap();
    for length in [0, 1, 65_000, 7, 32] {
        let info: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        entry.set(attr::HELPER_INFO, info.clone()).unwrap();
        assert_eq!(entry.get(attr::HELPER_INFO).as_ref(), Some(&info));
        assert_eq!(entry.clone().get(attr::HELPER_INFO), Some(info));
        assert_eq!(entry.helper(), None);
    }
    entry.set_original(&tuple("10.0.0.1", "10.0.0.2", Protocol::Tcp, ports(1, 21), 0)).unwrap();
    entry.set_helper("ftp").unwrap();
    assert_eq!(
        Conntrack::parse(&entry.to_message().unwrap()).unwrap().get(attr::HELPER_INFO).unwrap().len(),
        32
    );
    entry.unset(attr::HELPER_INFO);
    assert_eq!((entry.get(attr::HELPER_INFO), entry.helper().as_deref()), (None, Some("ftp")));
    assert_eq!(Conntrack::parse(&entry.to_message().unwrap()).unwrap().get(attr::HELPER_INFO), None);
}

#[test]
fn the_type_of_an_icmp_reply_does_not_depend_on_the_order_of_setting() {
    let mut entry = Conntrack::new().unwrap();
    let icmp = Icmp { id: 7, kind: 8, code: 0 };
    entry.set_group(Group::ICMP, icmp).unwrap();
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    entry.set_group(Group::ORIG_IPV4, Pair { src, dst }).unwrap();
    entry.set(attr::ORIG_L4PROTO, Protocol::Icmp).unwrap().setup_reply().unwrap();
    let text = entry.to_string();
    assert!(text.ends_with("src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7"), "{text}");
    assert_eq!(entry.get_group(Group::ICMP), Some(icmp));
    assert!(!entry.is_set(attr::ORIG_PORT_SRC) && !entry.is_set(attr::REPL_IPV6_SRC));
}

#[test]
fn one_tuple_is_derived_from_the_other_and_nat_is_detected_and_undone() {
    for (inside, outside, server) in
        [("192.168.7.2", "203.0.113.9", "198.51.100.1"), ("fd00::2", "2001:db8::9", "2001:db8::1")]
    {
        let original = tuple(inside, server, Protocol::Tcp, ports(40000, 443), 0);
        let reversed = tuple(server, inside, Protocol::Tcp, ports(443, 40000), 0);
        let mut entry = Conntrack::new().unwrap();
        assert_eq!(entry.set_original(&original).unwrap().setup_reply().unwrap().reply(), Some(reversed));
        let mut entry = Conntrack::new().unwrap();
        assert_eq!(entry.set_reply(&reversed).unwrap().setup_original().unwrap().original(), Some(original));
        let nat = |entry: &Conntrack| {
            let addresses = (entry.is_source_nat(), entry.is_destination_nat());
            (addresses, (entry.is_source_port_nat(), entry.is_destination_port_nat()))
        };
        assert_eq!(nat(&entry), ((false, false), (false, false)));

        entry.set_tuples(&original, &tuple(server, outside, Protocol::Tcp, ports(443, 50000), 0)).unwrap();
        assert_eq!(nat(&entry), ((true, false), (true, false)));
        assert_eq!(nat(entry.clone().set_status(Status(0))), ((false, false), (false, false)), "not decided");
        entry.undo_source_nat().undo_source_port_nat();
        assert_eq!((entry.reply(), entry.get(attr::SNAT_PORT)), (Some(reversed), Some(50000)));
        let snat =
            entry.get(attr::SNAT_IPV4).map(IpAddr::from).or(entry.get(attr::SNAT_IPV6).map(IpAddr::from));
        assert_eq!(snat, Some(outside.parse().unwrap()));

        entry.set_tuples(&original, &tuple(outside, inside, Protocol::Tcp, ports(8443, 40000), 0)).unwrap();
        assert_eq!(nat(&entry), ((false, true), (false, true)));
        entry.undo_destination_nat().undo_destination_port_nat();
        assert_eq!((entry.reply(), entry.get(attr::DNAT_PORT)), (Some(reversed), Some(8443)));
        let dnat =
            entry.get(attr::DNAT_IPV4).map(IpAddr::from).or(entry.get(attr::DNAT_IPV6).map(IpAddr::from));
        assert_eq!(dnat, Some(outside.parse().unwrap()));
    }
}

#[test]
fn parts_are_copied_as_the_library_names_them() {
    let from = Conntrack::parse_attributes(&full_attributes(), Family::Ipv4).unwrap();
    let of = |parts| {
        let mut to = Conntrack::new().unwrap();
        to.copy_from(&from, parts);
        to
    };
    assert_eq!(
        of(CopyParts::ORIGINAL).original().map(|tuple| tuple.src),
        from.original().map(|tuple| tuple.src)
    );
    assert_eq!((of(CopyParts::ORIGINAL).reply(), of(CopyParts::ORIGINAL).mark()), (None, None));
    assert_eq!((of(CopyParts::REPLY).original(), of(CopyParts::REPLY).mark()), (None, None));
    assert!(of(CopyParts::REPLY).reply().is_some());
    assert_eq!((of(CopyParts::META).original(), of(CopyParts::META).master()), (None, from.master()));
    let all = of(CopyParts::ORIGINAL | CopyParts::REPLY | CopyParts::META);
    assert_eq!(all.view(), from.view());
    assert_eq!(all.counters(Direction::Reply), Some(Counters { packets: 3, bytes: 4 }));
}

/// Only libraries since 1.1.1 have this attribute, and they cannot copy it.
#[test]
fn the_time_of_an_event_is_read_where_the_library_knows_it() {
    let nanoseconds = 1_700_000_000_123_456_789_u64;
    let bytes = attribute(kernel::TIMESTAMP_EVENT, &nanoseconds.to_be_bytes());
    let entry = Conntrack::parse_attributes(&bytes, Family::Ipv4).unwrap();
    let known = attr::TIMESTAMP_EVENT.id().is_known();
    assert_eq!(entry.view().event, known.then_some(nanoseconds));
    assert_eq!(entry.clone().view(), entry.view());
    let mut copy = Conntrack::new().unwrap();
    assert_eq!(copy.copy_from(&entry, CopyParts::ALL).attributes().count(), 0);
    assert!(copy.copy(&entry, attr::TIMESTAMP_EVENT).get(attr::TIMESTAMP_EVENT).is_none());
}
