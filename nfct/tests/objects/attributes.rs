//! Attributes and groups: values that are set are read back, copied, compared and written into messages.

use std::cmp::Ordering;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nfct::attr::{self, Group, Id};
use nfct::{Compare, Conntrack, CopyParts, Labels, Layer3, Layer4, Protocol, Status};
use proptest::prelude::*;

use super::assignments::{apply, assert_holds, assignments, cases, ports, several, tuple};

#[test]
fn the_property_tests_cover_every_attribute() {
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

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn what_was_set_is_read_back_whatever_else_is_set(assignments in several()) {
        let (entry, held) = apply(&assignments);
        assert_holds(&entry, &held);
        assert_holds(&entry.clone(), &held);

        let mut copy = Conntrack::new().unwrap();
        assert_holds(copy.copy_from(&entry, CopyParts::ALL), &held);
        // Copied into an object with other values, some of them longer.
        copy.set(attr::HELPER_INFO, vec![9; 300]).unwrap().set(attr::HELPER_NAME, "other".to_owned()).unwrap();
        copy.set_labels(Labels::new(9).unwrap()).copy_from(&entry, CopyParts::ALL);
        prop_assert!(held.values().all(|assignment| (assignment.holds)(&copy)));
        prop_assert!(copy.clone().compare(&copy, Compare::STRICT));
        prop_assert!(entry.compare(&entry, Compare::ALL) && entry.compare(&entry.clone(), Compare::STRICT));

        // Unset one by one.
        let mut rest = held.clone();
        let mut entry = entry;
        for id in held.keys() {
            entry.unset(*id);
            rest.remove(id);
            assert_holds(&entry, &rest);
        }
    }

    #[test]
    fn a_message_carries_what_the_kernel_accepts(
        assignments in several(),
        protocol in prop::sample::select(&[Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Sctp, Protocol::Dccp][..]),
    ) {
        let (mut entry, _) = apply(&assignments);
        // An entry with a NAT address of the other family cannot be written.
        entry.unset(attr::SNAT_IPV6).unset(attr::DNAT_IPV6);
        // The library writes complete tuples, whatever is set.
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
        // The library writes complete words of labels.
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
    fn groups_are_read_back_and_equal_their_attributes(
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
    fn timeouts_are_compared_as_the_flags_say(a in 0..5_u64, b in 0..5_u64) {
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
