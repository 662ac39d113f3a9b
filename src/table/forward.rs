//! Finds mappings by the public end of a translated destination: those of
//! connections that began outside.
//!
//! Only mappings whose destination is translated are here, so the others use no
//! memory for it. A load balancer can have a million mappings with the same public
//! address and port, so the far side is part of the key: a lookup that names it finds
//! its mapping without a walk.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::heads::ProtocolClass;
use super::packed::{Address, PackedTuple, PackedTuples};

/// The public port and address, the far side's address and port, and the slot.
type Key<A> = (ProtocolClass, u16, A, A, u16, u32);

/// The mappings whose destination is translated, by their public end.
#[derive(Debug)]
pub(super) struct ForwardIndex<A> {
    keys: BTreeSet<Key<A>>,
}

impl<A: Address> ForwardIndex<A> {
    pub(super) const fn new() -> Self {
        Self { keys: BTreeSet::new() }
    }

    /// Adds a slot, if its mapping's destination is translated.
    #[inline]
    pub(super) fn insert(&mut self, slot: u32, tuples: &PackedTuples<A>) {
        if let Some(key) = key_of(slot, &tuples.original, &tuples.reply) {
            self.keys.insert(key);
        }
    }

    /// Removes a slot, if it is here.
    #[inline]
    pub(super) fn remove(&mut self, slot: u32, original: &PackedTuple<A>, reply: &PackedTuple<A>) {
        if let Some(key) = key_of(slot, original, reply) {
            self.keys.remove(&key);
        }
    }

    /// The slots with a public port, and with a public address, a far side's address
    /// and a far side's port where they are given. They are in no particular order.
    /// Parts after one that is not given only narrow down the walk's result, not the
    /// walk.
    pub(super) fn walk(
        &self,
        class: ProtocolClass,
        port: u16,
        address: Option<A>,
        peer: Option<A>,
        peer_port: Option<u16>,
    ) -> impl Iterator<Item = u32> + '_ {
        self.keys.range(range(class, port, address, peer, peer_port)).map(|(.., slot)| *slot)
    }
}

fn range<A: Address>(
    class: ProtocolClass,
    port: u16,
    address: Option<A>,
    peer: Option<A>,
    peer_port: Option<u16>,
) -> RangeInclusive<Key<A>> {
    let peer = address.and(peer);
    let peer_port = peer.and(peer_port);
    let bound = |outer: A, outer_port, slot| {
        let (address, peer) = (address.unwrap_or(outer), peer.unwrap_or(outer));
        (class, port, address, peer, peer_port.unwrap_or(outer_port), slot)
    };
    bound(A::UNSET, 0, 0)..=bound(A::LAST, u16::MAX, u32::MAX)
}

fn key_of<A: Address>(slot: u32, original: &PackedTuple<A>, reply: &PackedTuple<A>) -> Option<Key<A>> {
    (original.dst != reply.src || original.dst_port() != reply.peer_port()).then(|| {
        let class = ProtocolClass::of(original.protocol());
        (class, original.nat_port(), original.dst, original.src, original.peer_port(), slot)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nfct::{Flow, Layer4, Protocol, Tuple};
    use proptest::prelude::*;

    use crate::clock::Stamp;
    use crate::config::Key;
    use crate::mapping::Mapping;
    use crate::question::Question;
    use crate::table::{Cursor, Table, Unfinished};

    fn stamp(milliseconds: u64) -> Stamp {
        Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
    }

    fn address(v6: bool, host: u8) -> std::net::IpAddr {
        let text = if v6 { format!("2001:db8::{host}") } else { format!("198.51.100.{host}") };
        text.parse().unwrap()
    }

    /// Few addresses and ports for each part, so that any of them can be translated.
    fn flows() -> impl Strategy<Value = Flow> {
        let end = || (1..4_u8, 1..3_u16);
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Icmp]);
        (end(), end(), end(), end(), protocol, any::<bool>(), 1..9_u32).prop_map(
            |(src, dst, server, nat, protocol, v6, id)| {
                let protocol = if v6 && protocol == Protocol::Icmp { Protocol::Icmpv6 } else { protocol };
                let tuple = |from: (u8, u16), to: (u8, u16), kind| Tuple {
                    src: address(v6, from.0),
                    dst: address(v6, to.0),
                    protocol,
                    layer4: match protocol {
                        Protocol::Tcp | Protocol::Udp => Layer4::Ports { src: from.1, dst: to.1 },
                        _ => Layer4::Icmp { id: from.1, kind, code: 0 },
                    },
                    zone: 0,
                };
                let mut flow = Flow::new(tuple(src, dst, 8), tuple(server, nat, 0));
                flow.id = id;
                flow
            },
        )
    }

    fn questions() -> impl Strategy<Value = Question> {
        let host =
            || prop::option::of((any::<bool>(), 1..4_u8).prop_map(|(v6, host)| address(v6, host).into()));
        let port = || prop::option::of(1..3_u16);
        (host(), 1..3_u16, host(), port(), port()).prop_map(
            |(nat_ip, nat_port, peer_ip, peer_port, dst_port)| Question {
                nat_ip,
                nat_port: Some(nat_port),
                peer_ip,
                peer_port,
                dst_port,
                ..Question::default()
            },
        )
    }

    proptest! {
        #[test]
        fn every_mapping_is_found_by_either_of_its_public_ends(
            steps in prop::collection::vec((flows(), any::<bool>()), 0..60),
            question in questions(),
        ) {
            let mut table = Table::new(Key::NatPort, Duration::from_millis(20));
            for (at, (flow, opens)) in steps.iter().enumerate() {
                let now = stamp(at as u64);
                if *opens {
                    table.open(flow, now);
                } else {
                    table.close(flow, now);
                }
                table.expire(now, usize::MAX);
            }
            let now = stamp(steps.len() as u64);
            let (mut expected, mut cursor) = (Vec::new(), Some(Cursor::START));
            while let Some(from) = cursor {
                cursor = table.scan(from, now, |mapping| expected.push(mapping));
            }
            expected.retain(|mapping| question.matches(mapping));
            let mut found = table.find(&question, 1000, now).expect("an index serves it");
            expected.sort_by_key(Mapping::age_rank);
            found.sort_by_key(Mapping::age_rank);
            prop_assert_eq!(found, expected);
            let ports = |protocol| Question { protocol: Some(protocol), ..question.clone() };
            let tcp = table.find(&ports(Protocol::Tcp), 1000, now).expect("an index serves it");
            prop_assert!(tcp.iter().all(|mapping| mapping.original.protocol == Protocol::Tcp));
        }
    }

    #[test]
    fn one_of_many_connections_to_a_load_balancer_is_found_by_its_far_side() {
        let mut table = Table::new(Key::NatPort, Duration::from_secs(10));
        let tuple = |src: (std::net::Ipv4Addr, u16), dst: ([u8; 4], u16)| Tuple::tcp(src, dst);
        let far = |number: u32| {
            (std::net::Ipv4Addr::from(0x0a00_0000 + number / 10), 40_000 + (number % 10) as u16)
        };
        for number in 0..50_000 {
            let server = ([192, 168, 7, 1 + (number % 4) as u8], 8443);
            let reply = tuple(far(number), server).reversed();
            let mut flow = Flow::new(tuple(far(number), ([100, 64, 2, 1], 443)), reply);
            flow.id = number;
            table.open(&flow, stamp(1));
        }
        let public = Question {
            nat_ip: Some("100.64.2.1".parse().unwrap()),
            nat_port: Some(443),
            ..Question::default()
        };
        assert_eq!(
            table.find(&public, 1000, stamp(2)),
            Err(Unfinished::TooMany),
            "too many for one hold of the lock"
        );
        for number in [0, 4711, 49_999] {
            let (ip, port) = far(number);
            let peer_ip = Some(std::net::IpAddr::from(ip).into());
            let question = Question { peer_ip, peer_port: Some(port), ..public.clone() };
            let found = table.find(&question, 1000, stamp(2)).expect("there is an index");
            assert_eq!(found.iter().map(|mapping| mapping.id).collect::<Vec<_>>(), [number]);
        }
    }
}
