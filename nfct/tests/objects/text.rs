//! Text and XML: the library prints what was set.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use nfct::attr::{self};
use nfct::{
    Conntrack, Counters, Direction, EventKind, Family, LabelMap, Labels, Layer4, Output, Protocol, Status,
    TcpState, Tuple,
};
use proptest::prelude::*;

use super::assignments::{apply, cases, ports, several, tuple};
use super::messages::read_only_attributes;

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

proptest! {
    #![proptest_config(cases(300))]

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
    fn the_librarys_xml_has_what_was_set(
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
        // Attributes that only the kernel sets come in its message.
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
        let text_of = |within: roxmltree::Node<'_, '_>, tag: &str| {
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
            prop_assert_eq!(text_of(meta, "src").unwrap().parse::<IpAddr>(), Ok(tuple.src));
            prop_assert_eq!(text_of(meta, "dst").unwrap().parse::<IpAddr>(), Ok(tuple.dst));
            match tuple.layer4 {
                Layer4::Ports { src, dst } => {
                    prop_assert_eq!(text_of(meta, "sport"), Some(src.to_string()));
                    prop_assert_eq!(text_of(meta, "dport"), Some(dst.to_string()));
                }
                Layer4::Keys { src, dst } => {
                    prop_assert_eq!(text_of(meta, "srckey"), Some(format!("{src:#x}")));
                    prop_assert_eq!(text_of(meta, "dstkey"), Some(format!("{dst:#x}")));
                }
                _ => prop_assert_eq!(text_of(meta, "sport"), None),
            }
            let Counters { packets, bytes } = counters.unwrap();
            prop_assert_eq!(text_of(meta, "packets"), Some(packets.to_string()));
            prop_assert_eq!(text_of(meta, "bytes"), Some(bytes.to_string()));
            prop_assert_eq!(text_of(meta, "zone"), own_zone.map(|zone| zone.to_string()));
        }
        let rest = meta("independent");
        let by_name = |name: Option<&'static str>| name.unwrap_or("NONE");
        let own_name = match protocol {
            Protocol::Tcp => entry.tcp_state().map(|state| by_name(state.name())),
            Protocol::Sctp => entry.sctp_state().map(|state| by_name(state.name())),
            Protocol::Dccp => entry.dccp_state().map(|state| by_name(state.name())),
            _ => None,
        };
        // In XML, but not in text, the library uses the names of TCP's states for all protocols.
        let tcp_name = own_name.map(|_| by_name(TcpState::from(state).name()).to_owned());
        let xml_name = text_of(rest, "state");
        prop_assert!(xml_name == own_name.map(str::to_owned) || xml_name == tcp_name, "{}", text);
        let plain = entry.print(&Output::plain()).unwrap();
        if let Some(name) = own_name {
            prop_assert_eq!(plain.split_whitespace().nth(3), Some(name));
        }
        let number = |tag: &str| text_of(rest, tag).and_then(|text| text.parse::<u64>().ok());
        prop_assert_eq!(number("timeout"), entry.timeout().map(|timeout| timeout.as_secs()));
        prop_assert_eq!(number("mark"), entry.mark().map(u64::from));
        prop_assert_eq!(number("secmark"), entry.get(attr::SECMARK).map(u64::from));
        prop_assert_eq!(number("zone"), entry.zone().map(u64::from));
        prop_assert_eq!(number("use"), entry.get(attr::USE).map(u64::from));
        prop_assert_eq!(number("id"), entry.id().map(u64::from));
        prop_assert_eq!(text_of(rest, "secctx"), entry.security_context());
        let nanoseconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        prop_assert_eq!(number("start").map(u128::from), entry.started().map(nanoseconds));
        prop_assert_eq!(number("stop").map(u128::from), entry.stopped().map(nanoseconds));
        let status = entry.status().unwrap();
        prop_assert_eq!(text_of(rest, "assured").is_some(), status.is_assured());
        prop_assert_eq!(text_of(rest, "unreplied").is_some(), !status.has_seen_reply());
        let named = |node: &roxmltree::Node<'_, '_>| node.has_tag_name("label");
        let named = rest.descendants().filter(named).map(|node| map.bit(node.text().unwrap()).unwrap());
        prop_assert!(named.eq(bits), "{}", text);
        prop_assert_eq!(text_of(document.root(), "helper"), entry.helper());
    }
}

#[test]
fn text_of_any_length_is_complete() {
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
        let listed = text.split_once("labels=").unwrap().1;
        assert!(
            listed.split(',').map(str::trim_end).eq((0..=bit).map(|bit| name(bit).trim_end().to_owned())),
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
