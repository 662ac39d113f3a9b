//! The conditions, as the daemon and as the kernel checks them, against the file's lists.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;

use nfct::{Event, EventKind, Flow, Layer4, Protocol, Tuple};
use proptest::prelude::*;

use super::Filter;
use crate::addresses::Interfaces;
use crate::config::{AddressSet, Condition, FilterConfig, PortRange};
use crate::tuples::Tuples;

const V4: &[&str] = &["10.0.0.1", "10.0.0.2", "10.0.0.5", "255.255.255.255"];
const V6: &[&str] = &["fd00::1", "fd00::2", "fd00::1:0:5", "::ffff:10.0.0.1"];
const NETWORKS: &[&str] = &[
    "10.0.0.0/30",
    "10.0.0.0/31",
    "10.0.0.4/30",
    "0.0.0.0/0",
    "192.168.0.0/16",
    "fd00::/126",
    "fd00::/64",
    "::/0",
    "::/80",
    "fd00::1:0:0/112",
];

fn interfaces() -> Interfaces {
    ["10.0.0.2", "fd00::2"].into_iter().map(|address| ("ppp0", address.parse().unwrap())).collect()
}

/// Few addresses and ports, so that conditions often match.
fn tuple(v6: bool) -> impl Strategy<Value = Tuple> {
    let addresses = move || {
        let some = if v6 { V6 } else { V4 };
        prop::sample::select(some).prop_map(|text| text.parse::<IpAddr>().unwrap())
    };
    let protocols = prop::sample::select(vec![1_u8, 6, 17, 33, 47, 58, 132, 136, 0, 50, 255]);
    let ports = || prop::sample::select(vec![0_u16, 1, 443, 8000, 65535]);
    (addresses(), addresses(), protocols, ports(), ports(), 0..3_u16).prop_map(
        |(src, dst, protocol, src_port, dst_port, zone)| {
            let protocol = Protocol::from(protocol);
            let layer4 = match protocol {
                Protocol::Icmp | Protocol::Icmpv6 => {
                    Layer4::Icmp { id: src_port, kind: dst_port as u8, code: 0 }
                }
                Protocol::Gre => Layer4::Keys { src: src_port, dst: dst_port },
                Protocol::Other(_) => Layer4::None,
                _ => Layer4::Ports { src: src_port, dst: dst_port },
            };
            Tuple { src, dst, protocol, layer4, zone }
        },
    )
}

fn pick<T>(same: bool, inverted: T, other: T) -> T {
    if same { inverted } else { other }
}

/// Both tuples have the same protocol, and often the same addresses and ports, as without NAT.
fn pairs() -> impl Strategy<Value = (Tuple, Tuple)> {
    (any::<bool>(), any::<[bool; 4]>()).prop_flat_map(|(v6, same)| {
        (tuple(v6), tuple(v6)).prop_map(move |(original, other)| {
            let ports = |tuple: &Tuple| match tuple.layer4 {
                Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => (src, dst),
                _ => (443, 443),
            };
            let ((src, dst), (other_src, other_dst)) = (ports(&original), ports(&other));
            let (reply_src, reply_dst) = (pick(same[2], dst, other_src), pick(same[3], src, other_dst));
            let layer4 = match original.layer4 {
                Layer4::Ports { .. } => Layer4::Ports { src: reply_src, dst: reply_dst },
                Layer4::Keys { .. } => Layer4::Keys { src: reply_src, dst: reply_dst },
                layer4 => layer4,
            };
            let reply = Tuple {
                src: pick(same[0], original.dst, other.src),
                dst: pick(same[1], original.src, other.dst),
                layer4,
                ..original
            };
            (original, reply)
        })
    })
}

fn condition<T: std::fmt::Debug + Clone>(
    members: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = Condition<T>> {
    let lists = (prop::collection::vec(members.clone(), 0..4), prop::collection::vec(members, 0..3));
    let lists = lists.prop_map(|(only, except)| Condition { only, except });
    prop_oneof![2 => Just(Condition::default()), 1 => lists]
}

fn filters() -> impl Strategy<Value = FilterConfig> {
    let single =
        prop::sample::select([V4, V6].concat()).prop_map(|text| text.parse::<IpAddr>().unwrap().into());
    let networks = prop::sample::select(NETWORKS).prop_map(|text| AddressSet::Network(text.parse().unwrap()));
    let of_interface =
        prop::sample::select(vec!["ppp0", "ppp1"]).prop_map(|name| AddressSet::Interface(name.to_owned()));
    let address =
        || condition(prop_oneof![4 => single.clone(), 4 => networks.clone(), 1 => of_interface.clone()]);
    let ranges = prop::sample::select(vec![
        (0, 0),
        (1, 1),
        (443, 443),
        (80, 8000),
        (8000, 8000),
        (444, 65535),
        (0, 65535),
    ]);
    let port = || condition(ranges.clone().prop_map(|(first, last)| PortRange { first, last }));
    let protocol =
        condition(prop::sample::select(vec![1_u8, 6, 17, 47, 50, 132, 255]).prop_map(Protocol::from));
    (address(), port(), address(), port(), address(), port(), protocol, any::<bool>()).prop_map(
        |(src_ip, src_port, nat_ip, nat_port, dst_ip, dst_port, protocol, nat_only)| FilterConfig {
            src_ip,
            src_port,
            nat_ip,
            nat_port,
            dst_ip,
            dst_port,
            protocol,
            nat_only,
        },
    )
}

/// Whether a list has a value; a list without members has every one.
fn lists<T>(members: &[T], is_in: impl Fn(&T) -> bool) -> bool {
    members.is_empty() || members.iter().any(is_in)
}

fn has_address(address: IpAddr) -> impl Fn(&AddressSet) -> bool {
    move |set| match set {
        AddressSet::Network(network) => network.contains(address),
        AddressSet::Interface(name) => interfaces().of(name).any(|other| other == address),
    }
}

/// A connection without a port has it in no range.
fn has_port(port: Option<u16>) -> impl Fn(&PortRange) -> bool {
    move |range| port.is_some_and(|port| (range.first..=range.last).contains(&port))
}

fn accepts<T>(condition: &Condition<T>, is_in: impl Fn(&T) -> bool) -> bool {
    lists(&condition.only, &is_in) && !condition.except.iter().any(is_in)
}

/// What the documents say, from the lists of the file.
fn is_tracked(config: &FilterConfig, tuples: &Tuples) -> bool {
    let (snat, dnat) = (tuples.is_source_nat(), tuples.is_destination_nat());
    let ends = [(true, tuples.source_end()), (dnat, tuples.destination_end())];
    let public = [(snat || !dnat, tuples.source_end()), (dnat, tuples.destination_end())];
    let is_listed = ends.iter().any(|(is_end, end)| {
        *is_end
            && lists(&config.nat_ip.only, has_address(end.ip))
            && lists(&config.nat_port.only, has_port(end.port))
    });
    let is_excepted = public.iter().any(|(is_public, end)| {
        *is_public
            && (config.nat_ip.except.iter().any(has_address(end.ip))
                || config.nat_port.except.iter().any(has_port(end.port)))
    });
    accepts(&config.src_ip, has_address(tuples.src_ip()))
        && accepts(&config.src_port, has_port(tuples.src_port()))
        && accepts(&config.dst_ip, has_address(tuples.dst_ip()))
        && accepts(&config.dst_port, has_port(tuples.dst_port()))
        && accepts(&config.protocol, |protocol| *protocol == tuples.original.protocol)
        && (!config.nat_only || snat || dnat)
        && is_listed
        && !is_excepted
}

/// The ports of a tuple that the kernel's filter sees.
fn ports(tuple: &Tuple) -> Option<(u16, u16)> {
    match tuple.layer4 {
        Layer4::Ports { src, dst } | Layer4::Keys { src, dst } => Some((src, dst)),
        _ => None,
    }
}

/// What the kernel's filter is documented to pass: it checks everything, except whether a public address or port
/// is of the same end and whether that end is translated, ports of protocols without ports, and `nat_only`.
fn passes_kernel(config: &FilterConfig, original: &Tuple, reply: &Tuple) -> bool {
    let of_addresses = accepts(&config.src_ip, has_address(original.src))
        && accepts(&config.dst_ip, has_address(original.dst))
        && accepts(&config.protocol, |protocol| *protocol == original.protocol)
        && [reply.dst, original.dst]
            .into_iter()
            .any(|public| lists(&config.nat_ip.only, has_address(public)))
        && [(reply.dst, original.src), (original.dst, reply.src)].into_iter().all(|(public, behind)| {
            let excepts = |address| config.nat_ip.except.iter().any(has_address(address));
            !excepts(public) || excepts(behind)
        });
    let of_ports = ports(original).zip(ports(reply)).is_none_or(|((src, dst), (server, nat))| {
        accepts(&config.src_port, has_port(Some(src)))
            && accepts(&config.dst_port, has_port(Some(dst)))
            && [nat, dst].into_iter().any(|public| lists(&config.nat_port.only, has_port(Some(public))))
            && [(nat, src), (dst, server)].into_iter().all(|(public, behind)| {
                let excepts = |port| config.nat_port.except.iter().any(has_port(Some(port)));
                !excepts(public) || excepts(behind)
            })
    });
    of_addresses && of_ports
}

/// A pair of sockets of which the second has the filter. A socket filter works on any kind of socket.
fn delivers(filter: &Filter, flow: Flow, kind: EventKind) -> bool {
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    assert_eq!(filter.kernel_filter().attach_what_fits(&receiver).unwrap(), 0);
    receiver.set_nonblocking(true).unwrap();
    let _ = sender.send(&nfct::wire::write_event(&Event::new(kind, flow)));
    match receiver.recv(&mut [0; 4096]) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]
    #[test]
    fn the_kernel_checks_lists_networks_ranges_exceptions_and_protocols(
        config in filters(),
        (original, reply) in pairs(),
        new in any::<bool>(),
    ) {
        let mut flow = Flow::new(original, reply);
        flow.id = 1;
        let filter = Filter::new(&config, &interfaces());
        let matches = filter.matches_flow(&flow);
        prop_assert_eq!(matches, is_tracked(&config, &Tuples::from(&flow)));
        let delivered = delivers(&filter, flow, if new { EventKind::New } else { EventKind::Destroy });
        prop_assert!(delivered || !matches, "a tracked connection must pass");
        prop_assert_eq!(delivered, passes_kernel(&config, &original, &reply));
        let is_exact = !config.nat_only && config.nat_ip.is_empty() && config.nat_port.is_empty();
        if is_exact && ports(&original).is_some() {
            prop_assert_eq!(delivered, matches);
        }
    }

    #[test]
    fn a_part_is_known_only_if_one_value_is_accepted(config in filters(), address in prop::sample::select([V4, V6].concat())) {
        let filter = Filter::new(&config, &interfaces());
        let address: IpAddr = address.parse().unwrap();
        for (known, condition) in
            [(filter.src_ip(), &config.src_ip), (filter.nat_ip(), &config.nat_ip), (filter.dst_ip(), &config.dst_ip)]
        {
            if known.is_some_and(|known| known != address) {
                prop_assert!(!accepts(condition, has_address(address)));
            }
        }
        for (known, condition) in
            [(filter.src_port(), &config.src_port), (filter.nat_port(), &config.nat_port), (filter.dst_port(), &config.dst_port)]
        {
            for port in [0, 1, 443, 444, 8000, 8001, 65535] {
                if known.is_some_and(|known| known != port) {
                    prop_assert!(!accepts(condition, has_port(Some(port))));
                }
            }
        }
    }
}

fn configured(lines: &str) -> Filter {
    let text = format!("[filter]\n{lines}\n[data]\nkey_name = nat_port\n");
    let loaded = crate::config::Config::parse(text.as_bytes(), "f").unwrap();
    Filter::new(&loaded.config.filter, &interfaces())
}

#[test]
fn filters_are_logged_in_words() {
    for (lines, words) in [
        ("", "all connections"),
        ("nat_only = yes", "all translated connections"),
        ("dst_ip = 198.51.100.1\ndst_port = 443", "connections with dst_ip 198.51.100.1, dst_port 443"),
        (
            "nat_ip = 203.0.113.0/28, 198.51.100.7\nprotocol = tcp, udp\nnat_only = yes",
            "connections with nat_ip 203.0.113.0/28 or 198.51.100.7, protocol tcp or udp that are translated",
        ),
        (
            "src_ip = 10.0.0.0/8, !10.9.0.0/16\nnat_ip = @ppp0\nsrc_port = !0-1023",
            "connections with src_ip 10.0.0.0/8 but not 10.9.0.0/16, nat_ip @ppp0, src_port not 0-1023",
        ),
        (
            "dst_port = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
            "connections with dst_port 1 or 2 or 3 or 4 or 5 or 6 or 7 or 8 or 2 more",
        ),
    ] {
        assert_eq!(configured(lines).to_string(), words, "{lines}");
    }
}

#[test]
fn an_interface_stands_for_the_addresses_that_it_has() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let gone = configured("nat_ip = @ppp1");
    assert_eq!((gone.nat_ip(), gone.interfaces().collect::<Vec<_>>()), (None, vec!["ppp1"]));
    let up: Interfaces = [("ppp1", address("100.64.2.1"))].into_iter().collect();
    let there = gone.with_addresses(&up);
    assert_eq!(there.nat_ip(), Some(address("100.64.2.1")));
    assert_ne!(there, gone);
    assert_eq!(there.with_addresses(&interfaces()), gone);
    assert_eq!(configured("nat_ip = @ppp0").nat_ip(), None, "it has two");
    assert_eq!(configured("nat_ip = @ppp0, !fd00::/16").nat_ip(), None);
    // A public address that no interface has.
    assert_eq!(gone.foreign_public_address(&interfaces()).as_deref(), Some("@ppp1"));
    assert_eq!(there.foreign_public_address(&up), None);
    let list = configured("nat_ip = 10.0.0.0/30, 192.0.2.0/24, !10.0.0.2");
    assert_eq!(
        list.foreign_public_address(&interfaces()).as_deref(),
        Some("10.0.0.0/30 or 192.0.2.0/24 but not 10.0.0.2")
    );
    assert_eq!(configured("nat_ip = 10.0.0.0/30").foreign_public_address(&interfaces()), None);
    assert_eq!(configured("nat_ip = !10.0.0.0/30").foreign_public_address(&interfaces()), None);
    assert_eq!(configured("src_ip = 192.0.2.1").foreign_public_address(&interfaces()), None);
}
