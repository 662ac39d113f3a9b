//! Conntrack objects: every attribute and group by property test, held against
//! the C library's own XML, and what is made of hostile bytes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use nfct::attr::{self, Attribute, Group, Icmp, Id, Pair};
use nfct::{
    Compare, Conntrack, ConntrackRef, CopyParts, Counters, DccpRole, DccpState, Direction, Error, EventKind,
    Family, LabelMap, Labels, Layer3, Layer4, Output, Protocol, SctpState, Status, TcpFlags, TcpState, Tuple,
};
use proptest::prelude::*;

/// One attribute and a value for it.
struct Assignment {
    id: Id,
    text: String,
    set: Box<dyn Fn(&mut Conntrack)>,
    holds: Box<dyn Fn(&ConntrackRef) -> bool>,
}

impl Debug for Assignment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.id, self.text)
    }
}

fn with<T: Clone + Debug + PartialEq + 'static>(
    attribute: Attribute<T>,
    values: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Assignment> {
    let assignment = move |value: T| {
        let (wanted, text) = (value.clone(), format!("{value:?}"));
        Assignment {
            id: attribute.id(),
            text,
            set: Box::new(move |entry| {
                entry.set(attribute, value.clone()).unwrap();
            }),
            holds: Box::new(move |entry| entry.get(attribute).as_ref() == Some(&wanted)),
        }
    };
    values.prop_map(assignment).boxed()
}

fn numbered<T: From<u8> + Debug>() -> impl Strategy<Value = T> {
    any::<u8>().prop_map(T::from)
}

fn labels() -> impl Strategy<Value = Labels> {
    (any::<u16>(), prop::collection::vec(any::<u16>(), 0..6)).prop_map(|(highest, bits)| {
        let mut labels = Labels::new(highest).unwrap();
        for bit in bits {
            labels.set(bit % highest.max(1)).unwrap();
        }
        labels
    })
}

/// Every attribute that can be set, with every value that it can have.
fn assignments() -> Vec<BoxedStrategy<Assignment>> {
    use attr::*;
    let seconds = || any::<u32>().prop_map(|seconds| Duration::from_secs(seconds.into()));
    let flags = || any::<u8>().prop_map(TcpFlags);
    let mut all = Vec::new();
    for attribute in [
        ORIG_IPV4_SRC,
        ORIG_IPV4_DST,
        REPL_IPV4_SRC,
        REPL_IPV4_DST,
        MASTER_IPV4_SRC,
        MASTER_IPV4_DST,
        SNAT_IPV4,
        DNAT_IPV4,
    ] {
        all.push(with(attribute, any::<Ipv4Addr>()));
    }
    for attribute in [
        ORIG_IPV6_SRC,
        ORIG_IPV6_DST,
        REPL_IPV6_SRC,
        REPL_IPV6_DST,
        MASTER_IPV6_SRC,
        MASTER_IPV6_DST,
        SNAT_IPV6,
        DNAT_IPV6,
    ] {
        all.push(with(attribute, any::<Ipv6Addr>()));
    }
    for attribute in [
        ORIG_PORT_SRC,
        ORIG_PORT_DST,
        REPL_PORT_SRC,
        REPL_PORT_DST,
        MASTER_PORT_SRC,
        MASTER_PORT_DST,
        ICMP_ID,
        SNAT_PORT,
        DNAT_PORT,
        ZONE,
        ORIG_ZONE,
        REPL_ZONE,
    ] {
        all.push(with(attribute, any::<u16>()));
    }
    for attribute in [ORIG_L3PROTO, REPL_L3PROTO, MASTER_L3PROTO] {
        all.push(with(attribute, numbered::<Layer3>()));
    }
    for attribute in [ORIG_L4PROTO, REPL_L4PROTO, MASTER_L4PROTO] {
        all.push(with(attribute, numbered::<Protocol>()));
    }
    for attribute in [ICMP_TYPE, ICMP_CODE, TCP_WSCALE_ORIG, TCP_WSCALE_REPL] {
        all.push(with(attribute, any::<u8>()));
    }
    for attribute in [TCP_FLAGS_ORIG, TCP_FLAGS_REPL, TCP_MASK_ORIG, TCP_MASK_REPL] {
        all.push(with(attribute, flags()));
    }
    for attribute in [
        MARK,
        SECMARK,
        ID,
        SCTP_VTAG_ORIG,
        SCTP_VTAG_REPL,
        ORIG_NAT_SEQ_CORRECTION_POS,
        REPL_NAT_SEQ_CORRECTION_POS,
        SYNPROXY_ISN,
        SYNPROXY_ITS,
        SYNPROXY_TSOFF,
    ] {
        all.push(with(attribute, any::<u32>()));
    }
    for attribute in [
        ORIG_NAT_SEQ_OFFSET_BEFORE,
        ORIG_NAT_SEQ_OFFSET_AFTER,
        REPL_NAT_SEQ_OFFSET_BEFORE,
        REPL_NAT_SEQ_OFFSET_AFTER,
    ] {
        all.push(with(attribute, any::<i32>()));
    }
    for attribute in [CONNLABELS, CONNLABELS_MASK] {
        all.push(with(attribute, labels()));
    }
    all.extend([
        with(TCP_STATE, numbered::<TcpState>()),
        with(SCTP_STATE, numbered::<SctpState>()),
        with(DCCP_STATE, numbered::<DccpState>()),
        with(DCCP_ROLE, numbered::<DccpRole>()),
        with(DCCP_HANDSHAKE_SEQ, any::<u64>()),
        with(TIMEOUT, seconds()),
        with(STATUS, any::<u32>().prop_map(Status)),
        with(HELPER_NAME, "[a-zA-Z0-9.<&-]{0,15}"),
        with(HELPER_INFO, prop::collection::vec(any::<u8>(), 0..100)),
    ]);
    all
}

/// The attributes of which one can be set, told by their names: what the kernel has for one entry
/// in one place.
fn exclude_each_other(a: Id, b: Id) -> bool {
    fn kind(id: Id) -> (&'static str, String) {
        let name = id.name().trim_start_matches("ATTR_");
        for family in ["_IPV4", "_IPV6"] {
            if name.contains(family) {
                return (family, name.replace(family, ""));
            }
        }
        let tuple_port = name.starts_with("ORIG_PORT") || name.starts_with("REPL_PORT");
        match name.split('_').next() {
            _ if tuple_port => ("ports", "layer4".to_owned()),
            Some("ICMP") => ("icmp", "layer4".to_owned()),
            Some(protocol @ ("TCP" | "SCTP" | "DCCP")) => (protocol, "state".to_owned()),
            _ => ("", name.to_owned()),
        }
    }
    let ((kind_a, place_a), (kind_b, place_b)) = (kind(a), kind(b));
    place_a == place_b && kind_a != kind_b
}

fn several() -> impl Strategy<Value = Vec<Assignment>> {
    prop::collection::vec(prop::strategy::Union::new(assignments()), 1..60)
}

/// Sets them all, and tells which of them hold after the others.
fn apply(assignments: &[Assignment]) -> (Conntrack, BTreeMap<Id, &Assignment>) {
    let mut entry = Conntrack::new().unwrap();
    let mut held = BTreeMap::new();
    for assignment in assignments {
        (assignment.set)(&mut entry);
        held.retain(|id, _| !exclude_each_other(*id, assignment.id));
        held.insert(assignment.id, assignment);
    }
    (entry, held)
}

fn assert_holds(entry: &ConntrackRef, held: &BTreeMap<Id, &Assignment>) {
    assert!(entry.attributes().eq(held.keys().copied()), "{entry:?} is to have {held:?}");
    for assignment in held.values() {
        assert!((assignment.holds)(entry), "{entry:?} is to have {assignment:?}");
    }
    assert!(entry.are_set(&held.keys().copied().collect::<Vec<_>>()));
}

#[test]
fn the_property_tests_leave_no_attribute_out() {
    let mut settable: Vec<Id> = assignments()
        .iter()
        .map(|values| {
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            values.new_tree(&mut runner).unwrap().current().id
        })
        .collect();
    settable.sort();
    assert!(attr::all().filter(|id| !id.is_read_only()).eq(settable));
}

/// As many cases as `PROPTEST_CASES` says, for a slow checker, or as usual.
fn cases(usual: u32) -> ProptestConfig {
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|number| number.parse().ok());
    ProptestConfig::with_cases(said.unwrap_or(usual))
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn what_was_set_is_read_back_whatever_else_is_set(assignments in several()) {
        let (entry, held) = apply(&assignments);
        assert_holds(&entry, &held);
        assert_holds(&entry.clone(), &held);

        let mut copy = Conntrack::new().unwrap();
        assert_holds(copy.copy_from(&entry, CopyParts::ALL), &held);
        // Into an object that has other values, some of them longer.
        copy.set(attr::HELPER_INFO, vec![9; 300]).unwrap().set(attr::HELPER_NAME, "other".to_owned()).unwrap();
        copy.set_labels(Labels::new(9).unwrap()).copy_from(&entry, CopyParts::ALL);
        prop_assert!(held.values().all(|assignment| (assignment.holds)(&copy)));
        prop_assert!(copy.clone().compare(&copy, Compare::STRICT));
        prop_assert!(entry.compare(&entry, Compare::ALL) && entry.compare(&entry.clone(), Compare::STRICT));

        // One by one out again.
        let mut rest = held.clone();
        let mut entry = entry;
        for id in held.keys() {
            entry.unset(*id);
            rest.remove(id);
            assert_holds(&entry, &rest);
        }
    }

    #[test]
    fn a_message_carries_what_the_kernel_takes(
        assignments in several(),
        protocol in prop::sample::select(&[Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Sctp, Protocol::Dccp][..]),
    ) {
        let (mut entry, _) = apply(&assignments);
        // NAT to an address of the other family is refused.
        entry.unset(attr::SNAT_IPV6).unset(attr::DNAT_IPV6);
        // The library writes tuples whole, set or not.
        let layer4 = match protocol {
            Protocol::Icmp => Layer4::Icmp { id: 7, kind: 8, code: 0 },
            _ => ports(1, 2),
        };
        let reply = tuple("10.0.0.2", "10.0.0.1", protocol, layer4, 0);
        let master = tuple("10.0.0.3", "10.0.0.4", Protocol::Tcp, ports(3, 21), 0);
        let original = tuple("10.0.0.1", "10.0.0.2", protocol, layer4, 0);
        entry.set_master(&master).unwrap().set_tuples(&original, &reply).unwrap();
        let bytes = entry.to_message().unwrap();
        let mut copy = Conntrack::new().unwrap();
        prop_assert_eq!(&copy.copy_from(&entry, CopyParts::ALL).to_message().unwrap(), &bytes);
        prop_assert_eq!(&entry.clone().to_message().unwrap(), &bytes);
        let read = Conntrack::parse(&bytes).unwrap();
        for id in [attr::MARK.id(), attr::TIMEOUT.id(), attr::ZONE.id(), attr::SECMARK.id()] {
            prop_assert_eq!(read.is_set(id), entry.is_set(id), "{}", id);
        }
        prop_assert_eq!(read.mark(), entry.mark());
        prop_assert_eq!(read.timeout(), entry.timeout());
        prop_assert_eq!(read.zone(), entry.zone());
        prop_assert_eq!(read.get_group(Group::ORIG_IPV4), entry.get_group(Group::ORIG_IPV4));
        prop_assert_eq!(read.get_group(Group::MASTER_IPV4), entry.get_group(Group::MASTER_IPV4));
        // The library writes whole words of labels.
        let bits = |entry: &Conntrack| entry.labels().map(|labels| labels.iter().collect::<Vec<_>>());
        prop_assert_eq!(bits(&read), bits(&entry));
        prop_assert_eq!(read.helper(), entry.helper());
        if entry.is_set(attr::HELPER_NAME) {
            prop_assert_eq!(read.get(attr::HELPER_INFO), entry.get(attr::HELPER_INFO));
        }
        // The library adds CONFIRMED to what it writes.
        prop_assert_eq!(read.status(), entry.status().map(|status| status | Status::CONFIRMED));
        if entry.get(attr::ORIG_L4PROTO) == Some(Protocol::Tcp) {
            prop_assert_eq!(read.tcp_state(), entry.tcp_state());
        }
    }

    #[test]
    fn whatever_is_set_is_printed(assignments in several()) {
        let (entry, _) = apply(&assignments);
        let plain = entry.print(&Output::plain());
        prop_assert_eq!(plain.is_ok(), entry.is_set(attr::ORIG_L4PROTO));
        prop_assert!(!entry.to_string().is_empty());
        let all = Output::xml().kind(EventKind::Destroy).layer3().time().id().timestamps();
        let text = entry.print(&all).unwrap();
        prop_assert!(text.starts_with("<flow type=\"destroy\">") && text.ends_with("</flow>"), "{}", text);
        let _ = (format!("{entry:?}"), entry.view());
    }

    #[test]
    fn what_the_library_says_in_xml_is_what_was_set(
        v6 in any::<bool>(),
        protocol in prop::sample::select(vec![6_u8, 17, 33, 47, 132, 136, 1, 58, 89]),
        octets in any::<[[u8; 16]; 4]>(),
        ports in any::<[u16; 4]>(),
        (state, status, numbers) in (0..12_u8, any::<u32>(), any::<[u32; 4]>()),
        (zone, zones) in (any::<u16>(), any::<Option<[u16; 2]>>()),
        read_only in any::<[u64; 6]>(),
        bits in prop::collection::btree_set(0..128_u16, 0..5),
    ) {
        let protocol = Protocol::from(protocol);
        let address = |octets: [u8; 16]| match v6 {
            true => IpAddr::from(octets),
            false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
        };
        let tuple = |at: usize| {
            let (src, dst) = (ports[at], ports[at + 1]);
            let layer4 = match protocol {
                Protocol::Gre => Layer4::Keys { src, dst },
                Protocol::Icmp | Protocol::Icmpv6 => Layer4::Icmp { id: src, kind: 8, code: 0 },
                Protocol::Other(_) => Layer4::None,
                _ => Layer4::Ports { src, dst },
            };
            Tuple { src: address(octets[at]), dst: address(octets[at + 1]), protocol, layer4, zone: 0 }
        };
        let (original, reply) = (tuple(0), tuple(2));
        // What only the kernel sets comes in its message.
        let mut entry = Conntrack::parse_attributes(&read_only_attributes(&read_only), Family::Any).unwrap();
        entry.set_tuples(&original, &reply).unwrap().set_status(Status(status)).set_mark(numbers[0]).set_zone(zone);
        entry.set_timeout(Duration::from_secs(numbers[1].into())).set_helper("ftp-21").unwrap();
        entry.set(attr::SECMARK, numbers[2]).unwrap().set(attr::ID, numbers[3]).unwrap();
        match protocol {
            Protocol::Tcp => entry.set_tcp_state(state),
            Protocol::Sctp => entry.set(attr::SCTP_STATE, state.into()).unwrap(),
            Protocol::Dccp => entry.set(attr::DCCP_STATE, state.into()).unwrap(),
            _ => &mut entry,
        };
        if let Some([original, reply]) = zones {
            entry.set(attr::ORIG_ZONE, original).unwrap().set(attr::REPL_ZONE, reply).unwrap();
        }
        let map = label_map();
        let mut labels = Labels::new(127).unwrap();
        for bit in &bits {
            labels.set(*bit).unwrap();
        }
        entry.set_labels(labels);
        prop_assert_eq!(entry.original().map(|tuple| tuple.zone), Some(zone));

        let text = entry.print(&Output::xml().timestamps().labels(&map)).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let meta = |direction: &str| {
            let is_it = |node: &roxmltree::Node<'_, '_>| node.attribute("direction") == Some(direction);
            document.descendants().find(is_it).unwrap()
        };
        let said = |within: roxmltree::Node<'_, '_>, tag: &str| {
            let node = within.descendants().find(|node| node.has_tag_name(tag));
            node.map(|node| node.text().unwrap_or_default().to_owned())
        };
        for (direction, tuple, counters, own_zone) in [
            ("original", original, entry.counters(Direction::Original), entry.get(attr::ORIG_ZONE)),
            ("reply", reply, entry.counters(Direction::Reply), entry.get(attr::REPL_ZONE)),
        ] {
            let meta = meta(direction);
            let protonum = |tag: &str| {
                let node = meta.descendants().find(|node| node.has_tag_name(tag)).unwrap();
                node.attribute("protonum").unwrap().parse::<u8>().unwrap()
            };
            prop_assert_eq!(protonum("layer3"), if v6 { 10 } else { 2 });
            prop_assert_eq!(Protocol::from(protonum("layer4")), tuple.protocol);
            prop_assert_eq!(said(meta, "src").unwrap().parse::<IpAddr>(), Ok(tuple.src));
            prop_assert_eq!(said(meta, "dst").unwrap().parse::<IpAddr>(), Ok(tuple.dst));
            match tuple.layer4 {
                Layer4::Ports { src, dst } => {
                    prop_assert_eq!(said(meta, "sport"), Some(src.to_string()));
                    prop_assert_eq!(said(meta, "dport"), Some(dst.to_string()));
                }
                Layer4::Keys { src, dst } => {
                    prop_assert_eq!(said(meta, "srckey"), Some(format!("{src:#x}")));
                    prop_assert_eq!(said(meta, "dstkey"), Some(format!("{dst:#x}")));
                }
                _ => prop_assert_eq!(said(meta, "sport"), None),
            }
            let Counters { packets, bytes } = counters.unwrap();
            prop_assert_eq!(said(meta, "packets"), Some(packets.to_string()));
            prop_assert_eq!(said(meta, "bytes"), Some(bytes.to_string()));
            prop_assert_eq!(said(meta, "zone"), own_zone.map(|zone| zone.to_string()));
        }
        let rest = meta("independent");
        let by_name = |name: Option<&'static str>| name.unwrap_or("NONE");
        let own_name = match protocol {
            Protocol::Tcp => entry.tcp_state().map(|state| by_name(state.name())),
            Protocol::Sctp => entry.sctp_state().map(|state| by_name(state.name())),
            Protocol::Dccp => entry.dccp_state().map(|state| by_name(state.name())),
            _ => None,
        };
        // In XML, not in text, the library names all states as TCP's are named.
        let tcp_name = own_name.map(|_| by_name(TcpState::from(state).name()).to_owned());
        let xml_name = said(rest, "state");
        prop_assert!(xml_name == own_name.map(str::to_owned) || xml_name == tcp_name, "{}", text);
        let plain = entry.print(&Output::plain()).unwrap();
        if let Some(name) = own_name {
            prop_assert_eq!(plain.split_whitespace().nth(3), Some(name));
        }
        let number = |tag: &str| said(rest, tag).and_then(|text| text.parse::<u64>().ok());
        prop_assert_eq!(number("timeout"), entry.timeout().map(|timeout| timeout.as_secs()));
        prop_assert_eq!(number("mark"), entry.mark().map(u64::from));
        prop_assert_eq!(number("secmark"), entry.get(attr::SECMARK).map(u64::from));
        prop_assert_eq!(number("zone"), entry.zone().map(u64::from));
        prop_assert_eq!(number("use"), entry.get(attr::USE).map(u64::from));
        prop_assert_eq!(number("id"), entry.id().map(u64::from));
        prop_assert_eq!(said(rest, "secctx"), entry.security_context());
        let nanoseconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        prop_assert_eq!(number("start").map(u128::from), entry.started().map(nanoseconds));
        prop_assert_eq!(number("stop").map(u128::from), entry.stopped().map(nanoseconds));
        let status = entry.status().unwrap();
        prop_assert_eq!(said(rest, "assured").is_some(), status.is_assured());
        prop_assert_eq!(said(rest, "unreplied").is_some(), !status.has_seen_reply());
        let named = |node: &roxmltree::Node<'_, '_>| node.has_tag_name("label");
        let named = rest.descendants().filter(named).map(|node| map.bit(node.text().unwrap()).unwrap());
        prop_assert!(named.eq(bits), "{}", text);
        prop_assert_eq!(said(document.root(), "helper"), entry.helper());
    }

    #[test]
    fn no_bytes_end_the_process(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Conntrack::parse(&bytes);
        let _ = Conntrack::parse_attributes(&bytes, Family::Ipv4);
        let mut message = vec![0; 20];
        message.extend(&bytes);
        let length = (message.len() as u32).to_ne_bytes();
        message[..4].copy_from_slice(&length);
        let _ = Conntrack::parse(&message);
    }

    #[test]
    fn no_damage_to_a_message_ends_the_process(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = full_attributes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(entry) = Conntrack::parse_attributes(bytes, Family::Ipv4) {
                // What was read can be copied, printed, written and read again.
                let copy = entry.clone();
                assert!(copy.attributes().eq(entry.attributes()));
                let _ = (entry.print(&Output::plain().timestamps()), entry.print(&Output::xml()));
                let _ = (entry.view(), format!("{entry:?}"));
                let mut other = Conntrack::new().unwrap();
                other.copy_from(&entry, CopyParts::ALL);
                if let Ok(message) = other.to_message() {
                    Conntrack::parse(&message).unwrap();
                }
            }
        }
    }

    #[test]
    fn groups_are_read_back_and_are_their_attributes(
        v4 in any::<[Ipv4Addr; 2]>(), v6 in any::<[Ipv6Addr; 2]>(), ports in any::<[u16; 2]>(),
        (id, kind, code) in any::<(u16, u8, u8)>(),
    ) {
        use attr::*;
        let mut entry = Conntrack::new().unwrap();
        let [src, dst] = v4;
        for (group, layer3, attributes) in [
            (Group::ORIG_IPV4, ORIG_L3PROTO, (ORIG_IPV4_SRC, ORIG_IPV4_DST)),
            (Group::REPL_IPV4, REPL_L3PROTO, (REPL_IPV4_SRC, REPL_IPV4_DST)),
            (Group::MASTER_IPV4, MASTER_L3PROTO, (MASTER_IPV4_SRC, MASTER_IPV4_DST)),
        ] {
            prop_assert_eq!(entry.get_group(group), None);
            entry.set_group(group, Pair { src, dst }).unwrap();
            prop_assert_eq!(entry.get_group(group), Some(Pair { src, dst }));
            prop_assert_eq!((entry.get(attributes.0), entry.get(attributes.1)), (Some(src), Some(dst)));
            prop_assert_eq!(entry.get(layer3), Some(Layer3::Ipv4));
        }
        let addresses = [
            (Group::ORIG_ADDR_SRC, 0), (Group::ORIG_ADDR_DST, 1), (Group::REPL_ADDR_SRC, 0), (Group::REPL_ADDR_DST, 1),
        ];
        for (group, end) in addresses {
            prop_assert_eq!(entry.get_group(group), Some(v4[end].into()));
            prop_assert!(group.is_read_only() && entry.set_group(group, v4[end].into()).is_err());
        }
        let [src, dst] = v6;
        for (group, layer3, attributes) in [
            (Group::ORIG_IPV6, ORIG_L3PROTO, (ORIG_IPV6_SRC, ORIG_IPV6_DST)),
            (Group::REPL_IPV6, REPL_L3PROTO, (REPL_IPV6_SRC, REPL_IPV6_DST)),
            (Group::MASTER_IPV6, MASTER_L3PROTO, (MASTER_IPV6_SRC, MASTER_IPV6_DST)),
        ] {
            entry.set_group(group, Pair { src, dst }).unwrap();
            prop_assert_eq!(entry.get_group(group), Some(Pair { src, dst }));
            prop_assert_eq!((entry.get(attributes.0), entry.get(attributes.1)), (Some(src), Some(dst)));
            prop_assert_eq!(entry.get(layer3), Some(Layer3::Ipv6));
        }
        prop_assert!(![Group::ORIG_IPV4, Group::REPL_IPV4, Group::MASTER_IPV4].iter().any(|it| entry.is_group_set(*it)));
        for (group, end) in addresses {
            prop_assert_eq!(entry.get_group(group), Some(v6[end].into()));
        }
        let [src, dst] = ports;
        for (group, layer4, attributes) in [
            (Group::ORIG_PORT, ORIG_L4PROTO, (ORIG_PORT_SRC, ORIG_PORT_DST)),
            (Group::REPL_PORT, REPL_L4PROTO, (REPL_PORT_SRC, REPL_PORT_DST)),
            (Group::MASTER_PORT, MASTER_L4PROTO, (MASTER_PORT_SRC, MASTER_PORT_DST)),
        ] {
            prop_assert!(entry.set_group(group, Pair { src, dst }).is_err(), "no protocol yet");
            prop_assert!(!entry.is_set(layer4) && !entry.is_set(attributes.0));
            entry.set(layer4, Protocol::Udp).unwrap().set_group(group, Pair { src, dst }).unwrap();
            prop_assert_eq!(entry.get_group(group), Some(Pair { src, dst }));
            prop_assert_eq!((entry.get(attributes.0), entry.get(attributes.1)), (Some(src), Some(dst)));
            entry.unset_group(group);
            prop_assert_eq!((entry.get_group(group), entry.get(layer4)), (None, None));
        }
        let icmp = Icmp { id, kind, code };
        entry.set_group(Group::ICMP, icmp).unwrap();
        prop_assert_eq!(entry.get_group(Group::ICMP), Some(icmp));
        prop_assert_eq!((entry.get(ICMP_ID), entry.get(ICMP_TYPE), entry.get(ICMP_CODE)), (Some(id), Some(kind), Some(code)));
    }

    #[test]
    fn time_outs_are_compared_as_the_flags_say(a in 0..5_u64, b in 0..5_u64) {
        let with = |seconds| {
            let mut entry = Conntrack::new().unwrap();
            entry.set_timeout(Duration::from_secs(seconds));
            entry
        };
        let (one, other) = (with(a), with(b));
        let order = a.cmp(&b);
        let (less, equal, more) = (Compare::TIMEOUT_SHORTER, Compare::TIMEOUT_EQUAL, Compare::TIMEOUT_LONGER);
        prop_assert_eq!(one.compare(&other, less), order == Ordering::Less);
        prop_assert_eq!(one.compare(&other, equal), order == Ordering::Equal);
        prop_assert_eq!(one.compare(&other, more), order == Ordering::Greater);
        prop_assert_eq!(one.compare(&other, less | equal), order != Ordering::Greater);
        prop_assert_eq!(one.compare(&other, more | equal), order != Ordering::Less);
        prop_assert_eq!(one.compare(&other, Compare::ALL), order == Ordering::Equal);
    }
}

fn tuple(src: &str, dst: &str, protocol: Protocol, layer4: Layer4, zone: u16) -> Tuple {
    Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, layer4, zone }
}

const fn ports(src: u16, dst: u16) -> Layer4 {
    Layer4::Ports { src, dst }
}

#[test]
fn objects_are_shared_between_threads_and_what_is_lent_is_not() {
    fn both<T: Send + Sync>() {}
    both::<Conntrack>();
    both::<Labels>();
    both::<LabelMap>();
    both::<Output<'_>>();
    both::<nfct::View>();
}

#[test]
fn huge_and_odd_tuples_come_back_as_they_were_set() {
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
fn a_zone_of_one_direction_stays_there() {
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
fn a_helpers_data_keep_their_length() {
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
fn a_wrong_length_or_size_is_malformed() {
    assert!(Conntrack::parse(&[]).is_err());
    assert!(Conntrack::parse(&[255; 19]).is_err());
    let mut long = [0_u8; 64];
    long[..4].copy_from_slice(&65_u32.to_ne_bytes());
    assert!(Conntrack::parse(&long).is_err());
    let read = |bytes: &[u8]| Conntrack::parse_attributes(bytes, Family::Ipv4).map(|_| ());
    for bad in [
        attribute(kernel::USE, &[1, 2, 3]),
        attribute(kernel::COUNTERS_ORIG, &attribute(1, &[1; 7])),
        attribute(kernel::SECCTX, &attribute(1, b"no zero at its end")),
        attribute(kernel::HELP, &attribute(1, b"")),
        attribute(kernel::LABELS, &vec![0; 8193]),
    ] {
        assert!(matches!(read(&bad), Err(Error::Malformed { .. })), "{bad:?}");
    }
    read(&attribute(kernel::LABELS, &[255; 8192])).unwrap();
    read(&full_attributes()).unwrap();
}

#[test]
fn the_type_of_an_icmp_answer_does_not_depend_on_the_order_of_setting() {
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
fn one_tuple_is_made_from_the_other_and_nat_is_told_and_undone() {
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

/// Only libraries since 1.1.1 know it, and they can't copy it.
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

#[test]
fn text_of_any_length_is_whole() {
    let name = |bit: u16| format!("label {bit} {}", "x".repeat(usize::from(bit % 97)));
    let path = std::env::temp_dir().join(format!("nfct-{}-long", std::process::id()));
    std::fs::write(&path, (0..1024).map(|bit| format!("{bit} {}\n", name(bit))).collect::<String>()).unwrap();
    let map = LabelMap::open(&path);
    std::fs::remove_file(&path).unwrap();
    let map = map.unwrap();
    let mut entry = Conntrack::new().unwrap();
    entry
        .set_original(&tuple("10.0.0.1", "10.0.0.2", Protocol::Udp, ports(1, 2), 0))
        .unwrap()
        .setup_reply()
        .unwrap();
    let mut labels = Labels::new(1023).unwrap();
    for bit in 0..1024 {
        labels.set(bit).unwrap();
        entry.set_labels(labels.clone());
        let text = entry.print(&Output::plain().labels(&map)).unwrap();
        let said = text.split_once("labels=").unwrap().1;
        assert!(
            said.split(',').map(str::trim_end).eq((0..=bit).map(|bit| name(bit).trim_end().to_owned())),
            "{text}"
        );
        let text = entry.print(&Output::xml().labels(&map)).unwrap();
        assert_eq!(text.matches("<label>").count(), usize::from(bit) + 1);
        assert!(text.ends_with("</labels></meta></flow>"));
    }
}

#[test]
fn threads_that_print_at_once_do_not_mix_their_texts() {
    let threads: Vec<_> = (1..=4_u16)
        .map(|number| {
            std::thread::spawn(move || {
                let address = format!("2001:db8::{number}");
                let mut entry =
                    Conntrack::parse_attributes(&read_only_attributes(&[0; 6]), Family::Ipv6).unwrap();
                entry.set_original(&tuple(&address, &address, Protocol::Udp, ports(1, 2), 0)).unwrap();
                entry.setup_reply().unwrap();
                for _ in 0..500 {
                    let text = entry.print(&Output::xml()).unwrap();
                    assert_eq!(text.matches(&format!(">{address}<")).count(), 4, "{text}");
                    let text = entry.print(&Output::plain().timestamps()).unwrap();
                    assert_eq!(text.matches(" 1970]").count(), 2, "{text}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// One attribute of a netlink message.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The kernel's numbers, `enum ctattr_type` and what nests in it.
mod kernel {
    pub(super) const COUNTERS_ORIG: u16 = 9;
    pub(super) const COUNTERS_REPLY: u16 = 10;
    pub(super) const USE: u16 = 11;
    pub(super) const SECCTX: u16 = 19;
    pub(super) const TIMESTAMP: u16 = 20;
    pub(super) const HELP: u16 = 5;
    pub(super) const LABELS: u16 = 22;
    pub(super) const TIMESTAMP_EVENT: u16 = 27;
}

fn read_only_attributes(values: &[u64; 6]) -> Vec<u8> {
    let number = |kind, value: u64| attribute(kind, &value.to_be_bytes());
    let two = |a, b| [number(1, a), number(2, b)].concat();
    [
        attribute(kernel::COUNTERS_ORIG, &two(values[0], values[1])),
        attribute(kernel::COUNTERS_REPLY, &two(values[2], values[3])),
        attribute(kernel::USE, &(values[4] as u32).to_be_bytes()),
        attribute(kernel::SECCTX, &attribute(1, b"system_u:object_r:unlabeled_t\0")),
        // The library takes times for signed.
        attribute(kernel::TIMESTAMP, &two(values[5] >> 1, values[4] >> 1)),
    ]
    .concat()
}

/// Attributes of all kinds that there are.
fn full_attributes() -> Vec<u8> {
    let mut entry = Conntrack::new().unwrap();
    let ports = |src, dst| Layer4::Ports { src, dst };
    let tuple = |layer4| Tuple {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        protocol: Protocol::Tcp,
        layer4,
        zone: 0,
    };
    entry.set_tuples(&tuple(ports(1, 2)), &tuple(ports(2, 1))).unwrap();
    entry.set_master(&tuple(ports(3, 21))).unwrap();
    entry.set_status(Status::ASSURED).set_timeout(Duration::from_secs(5)).set_mark(6).set_zone(7);
    entry.set_tcp_state(TcpState::Established).set_helper("ftp").unwrap();
    let mut labels = Labels::new(127).unwrap();
    labels.set(3).unwrap();
    entry.set_labels(labels);
    entry.set(attr::HELPER_INFO, vec![1; 32]).unwrap();
    for attribute in [attr::SYNPROXY_ISN, attr::SYNPROXY_ITS, attr::SYNPROXY_TSOFF, attr::SECMARK] {
        entry.set(attribute, 9).unwrap();
    }
    entry.set(attr::ORIG_NAT_SEQ_CORRECTION_POS, 1).unwrap();
    for attribute in [attr::ORIG_NAT_SEQ_OFFSET_BEFORE, attr::ORIG_NAT_SEQ_OFFSET_AFTER] {
        entry.set(attribute, -1).unwrap();
    }
    let mut bytes = entry.to_message().unwrap().split_off(20);
    bytes.extend(read_only_attributes(&[1, 2, 3, 4, 5, 6]));
    bytes
}

/// Names for the bits 0 to 127.
fn label_map() -> LabelMap {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("nfct-{}-{}-labels", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let lines: String = (0..128).map(|bit| format!("{bit} label-{bit}-of-the-test\n")).collect();
    std::fs::write(&path, lines).unwrap();
    let map = LabelMap::open(&path);
    std::fs::remove_file(&path).unwrap();
    map.unwrap()
}
