//! The table compared with a simple model of it, over generated histories.

use std::time::Duration;

use nfct::{Flow, Layer4, Protocol, Status, Tuple};
use proptest::prelude::*;

use super::build::build_index;
use super::index::MAX_CHAIN_WALK;
use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::Mapping;
use crate::question::Question;
use crate::tuples::KeyValue;

const DEL_DELAY: u64 = 10_000;

fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

/// Few hosts and ports, so that everything collides; the third server has an IPv6
/// address.
fn flow(host: u8, port: u16, server: u8, udp: bool, id: u32) -> Flow {
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    let (inside, public) = match server {
        3 => (format!("fd00:7::{host}"), "2001:db8::2"),
        _ => (format!("192.168.7.{host}"), "100.64.2.1"),
    };
    let server = server_address(server);
    let tuple = |src, dst, layer4| Tuple { src, dst, protocol, layer4, zone: 0 };
    let mut flow = Flow::new(
        tuple(inside.parse().unwrap(), server, Layer4::Ports { src: port + 100 * u16::from(host), dst: 443 }),
        tuple(server, public.parse().unwrap(), Layer4::Ports { src: 443, dst: port }),
    );
    flow.id = id;
    flow
}

fn server_address(server: u8) -> std::net::IpAddr {
    let text = if server == 3 { "2001:db8::1".to_owned() } else { format!("198.51.100.{server}") };
    text.parse().unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Open(Flow),
    Close(Flow),
    Wait(u64),
    Expire(usize),
    /// A dump of exactly the live connections.
    Dump,
    /// A dump of the connections that were live before these events.
    LateDump(Vec<Step>),
}

/// Some have the kernel's timestamp of their beginning, in any order.
fn flows() -> impl Strategy<Value = Flow> {
    let start = prop::option::of((0..100_u64).prop_map(|earlier| (1_700_000_000_000 - earlier) * 1_000_000));
    (1..4_u8, 1..4_u16, 1..4_u8, any::<bool>(), 1..6_u32, start).prop_map(
        |(host, port, server, udp, id, start)| {
            let mut flow = flow(host, port, server, udp, id);
            flow.start = start;
            flow
        },
    )
}

fn events() -> impl Strategy<Value = Step> {
    prop_oneof![4 => flows().prop_map(Step::Open), 3 => flows().prop_map(Step::Close)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => events(),
        3 => (0..6_000_u64).prop_map(Step::Wait),
        1 => (1..4_usize).prop_map(Step::Expire),
        1 => Just(Step::Dump),
        1 => prop::collection::vec(events(), 0..6).prop_map(Step::LateDump),
    ];
    prop::collection::vec(step, 0..60)
}

/// The same history in plain lists: live flows, and closed ones with their times.
#[derive(Default)]
struct Model {
    /// With the time of the last NEW event.
    live: Vec<(Flow, u64)>,
    closed: Vec<(Flow, u64)>,
    /// Lifetimes whose DESTROY event came again.
    repeated: Vec<Flow>,
    /// The time in milliseconds; each step takes at least one.
    now: u64,
}

/// Whether two events name the same tuples and the same id.
fn is_same(one: &Flow, other: &Flow) -> bool {
    (one.id, one.original, one.reply) == (other.id, other.original, other.reply)
}

impl Model {
    fn open(&mut self, flow: Flow) {
        if let Some(at) = self.live.iter().position(|(known, _)| known.reply == flow.reply) {
            let (known, told) = self.live[at];
            let is_same_lifetime = is_same(&known, &flow)
                && match flow.start {
                    Some(start) => known.start.is_none_or(|known| start <= known),
                    None => self.now - told < 10_000,
                };
            if is_same_lifetime {
                self.live[at].1 = self.now;
                return;
            }
            self.live.remove(at);
            self.closed.push((known, self.now));
        }
        self.live.push((flow, self.now));
    }

    /// Whether the table may remember the lifetime although it is removed.
    fn may_be_remembered(&self, flow: &Flow) -> bool {
        let is_over = |(known, closed): &(Flow, u64)| {
            (known.reply, known.id) == (flow.reply, flow.id) && self.now - closed >= DEL_DELAY
        };
        !self.repeated.is_empty() && self.closed.iter().any(is_over)
    }

    /// A dump from this time has the flow.
    fn tell(&mut self, flow: &Flow, at: u64) {
        let is_same_lifetime = |known: &Flow| {
            is_same(known, flow)
                && (flow.start.is_none() || known.start.is_none() || flow.start <= known.start)
        };
        if let Some((_, told)) = self.live.iter_mut().find(|(known, _)| is_same_lifetime(known)) {
            *told = at.max(*told);
        }
    }

    fn close(&mut self, flow: Flow) {
        let is_repeated = self.repeated.iter().any(|known| (known.reply, known.id) == (flow.reply, flow.id));
        let live = self.live.iter().position(|(known, _)| is_same(known, &flow));
        let is_closed =
            self.closed.iter().any(|(known, closed)| is_same(known, &flow) && self.now - closed < DEL_DELAY);
        match live {
            Some(_) if is_repeated => {}
            Some(at) => {
                let (known, _) = self.live.remove(at);
                self.closed.push((known, self.now));
            }
            None if is_closed => self.repeated.push(flow),
            None if is_repeated => {}
            None => self.closed.push((flow, self.now)),
        }
    }

    fn visible(&self) -> Vec<(Flow, bool)> {
        let live = self.live.iter().map(|(flow, _)| (*flow, true));
        let closed = self.closed.iter().filter(|(_, closed)| self.now - closed < DEL_DELAY);
        live.chain(closed.map(|(flow, ..)| (*flow, false))).collect()
    }
}

fn apply(table: &mut Table, model: &mut Model, step: &Step) {
    // Each step takes a millisecond, so that no two lifetimes begin at the same time.
    model.now += 1;
    let now = stamp(model.now);
    match step {
        Step::Open(flow) => {
            model.open(*flow);
            table.open(flow, now);
        }
        // While events are repeated, it matters when exactly a mapping is removed.
        Step::Close(flow) if model.may_be_remembered(flow) => {}
        Step::Close(flow) => {
            // A late DESTROY event of an expired entry must count as unknown.
            table.expire(now, usize::MAX);
            model.close(*flow);
            table.close(flow, now);
        }
        Step::Wait(milliseconds) => model.now += milliseconds,
        Step::Expire(most) => {
            table.expire(now, *most);
        }
        Step::Dump | Step::LateDump(_) => {
            table.begin_dump();
            let dumped: Vec<Flow> = model.live.iter().map(|(flow, _)| *flow).collect();
            if let Step::LateDump(meanwhile) = step {
                for step in meanwhile {
                    apply(table, model, step);
                }
            }
            for flow in &dumped {
                table.merge(flow, now, now);
                model.tell(flow, now.monotonic - stamp(0).monotonic);
            }
            for reply in unseen(table) {
                let found = model.live.iter().map(|(flow, _)| flow).find(|flow| flow.reply == reply);
                table.verified(&reply, found, table.asked(now), now);
            }
            drop(table.end_dump());
        }
    }
}

/// The reply tuples of live mappings that the dump did not have.
fn unseen(table: &Table) -> Vec<Tuple> {
    let (mut unseen, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = cursor {
        cursor = table.unseen(from, |reply| unseen.push(reply));
    }
    unseen
}

fn all(table: &Table, now: Stamp) -> Vec<Mapping> {
    let (mut all, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = cursor {
        cursor = table.scan(from, now, |mapping| all.push(mapping));
    }
    all
}

/// The address of each public port in use, and whether the port is of UDP.
fn ports(table: &Table) -> Vec<(std::net::IpAddr, bool)> {
    let (mut ports, mut cursor) = (Vec::new(), Some(Cursor::START));
    while let Some(from) = cursor {
        cursor =
            table.scan_ports(from, |address, transport| ports.push((address, transport == Transport::Udp)));
    }
    ports.sort();
    ports
}

proptest! {
    #[test]
    fn the_table_equals_the_model(steps in steps()) {
        let mut table = Table::new(Key::DstIp, Duration::from_millis(DEL_DELAY));
        build_index(&mut table, IndexedBy::NatPort, stamp(0));
        let mut model = Model::default();
        for step in &steps {
            apply(&mut table, &mut model, step);
            let now = stamp(model.now);
            prop_assert_eq!(table.live(), model.live.len());

            let sorted = |mut rows: Vec<(String, u32, bool)>| { rows.sort(); rows };
            let theirs = sorted(all(&table, now).iter()
                .map(|mapping| (mapping.original.to_string() + &mapping.reply.to_string(), mapping.id, mapping.is_live()))
                .collect());
            let ours = sorted(model.visible().iter()
                .map(|(flow, live)| (flow.original.to_string() + &flow.reply.to_string(), flow.id, *live))
                .collect());
            prop_assert_eq!(theirs, ours);

            let mut expected: Vec<_> = model.live.iter()
                .map(|(flow, _)| {
                    let Layer4::Ports { dst, .. } = flow.reply.layer4 else { unreachable!() };
                    (flow.reply.dst, flow.original.protocol == Protocol::Udp, dst)
                })
                .collect();
            expected.sort();
            expected.dedup();
            let expected: Vec<_> = expected.into_iter().map(|(address, udp, _)| (address, udp)).collect();
            prop_assert_eq!(ports(&table), expected);

            for port in 1..4 {
                let best = table.best(Key::NatPort, KeyValue::Port(port), None, |_| true, now).unwrap();
                let expected = all(&table, now).into_iter()
                    .filter(|mapping| mapping.nat_port() == Some(port))
                    .map(|mapping| mapping.rank()).max();
                prop_assert_eq!(best.map(|mapping| mapping.rank()), expected);
            }
            for server in 1..4 {
                let address = server_address(server);
                let best = table.best(Key::DstIp, KeyValue::Ip(address), Some(Protocol::Udp), |_| true, now).unwrap();
                let expected = all(&table, now).into_iter()
                    .filter(|mapping| mapping.dst_ip() == address && mapping.original.protocol == Protocol::Udp)
                    .map(|mapping| mapping.rank()).max();
                prop_assert_eq!(best.map(|mapping| mapping.rank()), expected);
            }
        }
    }
}

#[test]
fn a_closed_mapping_is_found_for_del_delay_and_no_longer() {
    let mut table = Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY));
    let flow = flow(2, 1, 1, false, 7);
    table.open(&flow, stamp(0));
    table.close(&flow, stamp(5));
    let best = |table: &mut Table, at| {
        table.best(Key::NatPort, KeyValue::Port(1), None, |_| true, stamp(at)).unwrap()
    };
    assert!(best(&mut table, 5 + DEL_DELAY - 1).is_some_and(|mapping| !mapping.is_live()));
    assert_eq!(best(&mut table, 5 + DEL_DELAY), None, "whether it is removed yet or not");
    assert_eq!(table.next_expiry(stamp(6)), Some(Duration::from_millis(DEL_DELAY - 1)));
    assert_eq!(table.expire(stamp(5 + DEL_DELAY), 10), 1);
    assert_eq!((table.live(), table.closed(), table.next_expiry(stamp(0))), (0, 0, None));
}

#[test]
fn the_end_of_an_older_lifetime_does_not_close_the_newer_one() {
    let mut table = Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY));
    let (old, new) = (flow(2, 1, 1, false, 7), flow(3, 1, 1, false, 8));
    table.open(&old, stamp(0));
    table.open(&new, stamp(1));
    table.close(&old, stamp(2));
    let best = table.best(Key::NatPort, KeyValue::Port(1), None, |_| true, stamp(3)).unwrap().unwrap();
    assert_eq!((best.src_ip(), best.is_live()), (new.original.src, true));
}

#[test]
fn a_destroy_event_that_overtakes_the_new_event_wins() {
    let mut table = Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY));
    let live = flow(2, 1, 1, false, 7);
    // IPS_DYING is bit 9 in the kernel.
    let mut dying = live;
    dying.status = Status(1 << 9);
    table.close(&dying, stamp(0));
    assert!(!table.open(&dying, stamp(1)));
    assert_eq!(table.live(), 0);
    assert!(table.open(&live, stamp(2)), "the kernel may reuse an id");
    assert_eq!(table.take_requested(9), [live.reply], "but it may also be the same lifetime");
}

#[test]
fn a_dump_neither_reopens_what_ended_nor_closes_what_began_meanwhile() {
    let mut table = Table::new(Key::NatPort, Duration::ZERO);
    let (ended, began) = (flow(2, 1, 1, false, 7), flow(2, 2, 1, false, 8));
    table.open(&ended, stamp(0));
    table.begin_dump();
    table.close(&ended, stamp(1));
    table.expire(stamp(1), 10);
    table.open(&began, stamp(2));
    assert!(!table.merge(&ended, stamp(3), stamp(3)));
    assert_eq!(unseen(&table), []);
    assert_eq!(table.take_requested(9), [ended.reply], "it may be a new lifetime with the same id");
    drop(table.end_dump());
    assert_eq!(table.live(), 1);
}

#[test]
fn thousands_of_udp_flows_do_not_hide_the_tcp_connection_on_their_port() {
    let mut table = Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY));
    let tcp = flow(2, 7, 1, false, 1);
    table.open(&tcp, stamp(0));
    for number in 0..10_000_u32 {
        let mut udp = flow(3, 7, 2, true, number + 10);
        udp.reply.src = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
        table.open(&udp, stamp(1));
    }
    let mut best = |protocol| table.best(Key::NatPort, KeyValue::Port(7), protocol, |_| true, stamp(2));
    assert_eq!(best(None).unwrap().unwrap().original, tcp.original);
    assert_eq!(best(Some(Protocol::Tcp)).unwrap().unwrap().original, tcp.original);
    assert_eq!(best(Some(Protocol::Udp)).unwrap().unwrap().original.protocol, Protocol::Udp);
    let question = Question { nat_port: Some(7), ..Question::default() };
    let newest = table.find(&question, 100, stamp(2)).unwrap();
    assert!(newest.len() > 100 && newest.len() < 200, "{}", newest.len());
    let all = table.find(&question, 20_000, stamp(2));
    assert_eq!(all, Err(Unfinished::TooMany), "too many for one hold of the lock");
}

#[test]
fn a_port_with_many_closed_mappings_takes_several_slices_and_counts_once() {
    let mut table = Table::new(Key::NatPort, Duration::from_millis(DEL_DELAY));
    let numbered = |number: u32| {
        let mut flow = flow(2, 1 + (number % 2) as u16, 1, true, number);
        let server = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
        (flow.original.dst, flow.reply.src) = (server, server);
        flow
    };
    table.open(&numbered(0), stamp(0));
    table.open(&numbered(1), stamp(0));
    // Not translated: it uses no public port.
    let mut plain = flow(3, 1, 1, false, 1);
    plain.reply.dst = plain.original.src;
    table.open(&plain, stamp(0));
    for number in 2..MAX_CHAIN_WALK as u32 + 10 {
        table.open(&numbered(number), stamp(0));
        table.close(&numbered(number), stamp(1));
    }
    let both = [("100.64.2.1".parse().unwrap(), true); 2];
    assert_eq!(ports(&table), both);
    let slices = |slice: &dyn Fn(Cursor) -> Option<Cursor>| {
        std::iter::successors(Some(Cursor::START), |from| slice(*from)).count()
    };
    let usual = slices(&|from| table.scan(from, stamp(1), |_| ()));
    assert_eq!(slices(&|from| table.scan_ports(from, |_, _| ())), usual + 1);
    for number in MAX_CHAIN_WALK as u32 + 10..MAX_CHAIN_WALK as u32 + 20 {
        table.open(&numbered(number), stamp(2));
    }
    assert_eq!(ports(&table), both);
}
