//! The table's counters, lists and indexes agree, and lookups and scans equal each other, over long histories.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use nfct::{Flow, Protocol, Tuple};

use super::entry::SlotState;
use super::store::Limits;
use super::*;
use crate::clock::Stamp;
use crate::config::Key;
use crate::mapping::{Doubt, Mapping};
use crate::question::Question;
use crate::tuples::KeyValue;

fn stamp(milliseconds: u64) -> Stamp {
    Stamp { monotonic: 1_000_000 + milliseconds, wall: 1_700_000_000_000 + milliseconds }
}

fn flow(number: u32, id: u32) -> Flow {
    let protocol = if number % 3 == 0 { Protocol::Tcp } else { Protocol::Udp };
    let server = (Ipv4Addr::from(0x0a00_0000 + number), 443);
    let host = (number % 5) as u8;
    let port = (number % 7) as u16 + 1;
    let original = Tuple::with_ports(protocol, (Ipv4Addr::from([192, 168, 7, host]), 7), server);
    let reply = Tuple::with_ports(protocol, server, (Ipv4Addr::from([100, 64, 2, (number % 2) as u8]), port));
    let mut flow = Flow::new(original, reply);
    flow.id = id;
    flow.timeout = Some(100_000);
    flow
}

/// A scan: where it continues, how often it has passed each lifetime, and those that were live when it began.
type Scan = (Cursor, BTreeMap<(u32, u32), u32>, Vec<(u32, u32)>);

const ALL_KEYS: [Key; 6] = [Key::SrcIp, Key::SrcPort, Key::NatIp, Key::NatPort, Key::DstIp, Key::DstPort];

struct Random(u64);
impl Random {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(below)) as u32
    }
}

/// Checks everything, and returns the number of lookups that an index served.
fn check(table: &mut Table, now: Stamp, what: &str) -> usize {
    let family = &table.v4;
    let (mut live, mut closed, mut removed) = (0, 0, 0);
    for slot in 0..family.entries.len() as u32 {
        if !family.entries.has(super::chunks::chunk_of(slot)) {
            continue;
        }
        match family.entries.get(slot).state() {
            SlotState::Live => {
                live += 1;
                let reply = family.entries.get(slot).reply();
                assert_eq!(family.tuple_index.live(&reply, &family.entries), Some(slot));
            }
            SlotState::Closed => closed += 1,
            SlotState::Removed => removed += 1,
            SlotState::Free => {}
        }
        if family.entries.get(slot).state() != SlotState::Free {
            let reply = family.entries.get(slot).reply();
            assert!(family.tuple_index.all(&reply, &family.entries).any(|s| s == slot));
        }
    }
    assert_eq!((live, closed, closed + removed), (family.live, family.closed, family.kept), "{what}");
    let (mut from, mut queue) = (0, 0);
    while let Some((position, slot)) = family.closed_queue.from(from) {
        queue += 1;
        assert!(family.entries.get(slot).is_closed());
        from = position + 1;
    }
    assert_eq!(queue, family.kept);
    let mut all = Vec::new();
    let mut cursor = Some(Cursor::START);
    while let Some(from) = cursor {
        cursor = table.scan(from, now, |m| all.push(m));
    }
    let mut by_index = 0;
    for port in 1..9 {
        let inside = Ipv4Addr::from([192, 168, 7, port as u8]);
        let public = Ipv4Addr::from([100, 64, 2, (port % 2) as u8]);
        for key in ALL_KEYS {
            let value = match key {
                Key::NatPort | Key::SrcPort => KeyValue::Port(port),
                Key::DstPort => KeyValue::Port(436 + port),
                Key::NatIp => KeyValue::Ip(public.into()),
                Key::SrcIp => KeyValue::Ip(inside.into()),
                Key::DstIp => KeyValue::Ip(Ipv4Addr::from(0x0a00_0000 + u32::from(port)).into()),
            };
            if let Ok(best) = repeat(|| table.best(key, value, None, |_| true, now)) {
                let expected = all.iter().filter(|m| m.key(key) == Some(value)).map(Mapping::rank).max();
                assert_eq!(best.map(|b| b.rank()), expected, "{what} {key:?} {value:?}");
                by_index += 1;
            }
        }
        let address = |address: Ipv4Addr| Some(std::net::IpAddr::from(address).into());
        let questions = [
            Question { nat_port: Some(port), ..Question::default() },
            Question { nat_ip: address(public), nat_port: Some(port), ..Question::default() },
            Question { src_ip: address(inside), ..Question::default() },
            Question { src_ip: address(inside), src_port: Some(7), ..Question::default() },
        ];
        for question in questions {
            if let Ok(mut found) = repeat(|| table.find(&question, 10, now)) {
                let mut expected: Vec<Mapping> =
                    all.iter().filter(|m| question.matches(m)).copied().collect();
                let order = |m: &Mapping| std::cmp::Reverse((m.is_live(), m.age_rank()));
                expected.sort_by_key(order);
                found.sort_by_key(order);
                // Fewer neighbours make a mapping less doubtful: lookups have set closed ones aside.
                expected.iter_mut().chain(&mut found).for_each(|m| m.doubt = Doubt::None);
                expected.truncate(11);
                found.truncate(11);
                assert_eq!(found, expected, "{what}");
                by_index += 1;
            }
        }
    }
    by_index
}

/// Repeats a lookup while it gets further.
fn repeat<T>(mut lookup: impl FnMut() -> Result<T, Unfinished>) -> Result<T, Unfinished> {
    loop {
        match lookup() {
            Err(Unfinished::Again) => {}
            other => return other,
        }
    }
}

/// One step of building an index.
fn step_build(building: &mut Option<IndexBuild>, table: &mut Table) {
    let is_complete = building.as_mut().is_some_and(|build| {
        build.prepare();
        build.step(table)
    });
    if is_complete {
        *building = None;
    }
}

#[test]
fn the_indexes_agree_over_long_histories() {
    let (mut scans, mut stayed, mut checked) = (0, 0, 0);
    for seed in 0..8_u64 {
        let mut random = Random(seed * 7919 + 1);
        let delay = [1, 500, 3000, 20_000][seed as usize % 4];
        let mut table =
            Table::new(if seed % 2 == 0 { Key::NatIp } else { Key::NatPort }, Duration::from_millis(delay));
        if seed % 3 == 0 {
            table.set_limits(Limits { closed: 1500, all: 5000 });
        }
        let mut now = 0_u64;
        let mut scan: Option<Scan> = None;
        let mut old: Option<Cursor> = None;
        let mut building: Option<IndexBuild> = None;
        let mut lives: BTreeMap<u32, (u32, u64)> = BTreeMap::new(); // number -> id, since
        let mut id = 0;
        for step in 0..60_000_u32 {
            let n = random.next(6000);
            let phase = (step / 6000) % 2; // grow, shrink
            let at = stamp(now);
            match random.next(100) {
                0..=39 if phase == 0 => {
                    id += 1;
                    table.open(&flow(n, id), at);
                    lives.insert(n, (id, now));
                }
                40..=54 if phase == 0 => {
                    if let Some((i, _)) = lives.remove(&n) {
                        table.close(&flow(n, i), at);
                    }
                }
                0..=9 if phase == 1 => {
                    id += 1;
                    table.open(&flow(n, id), at);
                    lives.insert(n, (id, now));
                }
                10..=54 if phase == 1 => {
                    if let Some((&n, &(i, _))) = lives.range(n..).next() {
                        lives.remove(&n);
                        table.close(&flow(n, i), at);
                    }
                }
                55..=59 => {
                    id += 1;
                    table.close(&flow(n, id), at);
                }
                60..=64 => {
                    if let Some((i, _)) = lives.get(&n) {
                        table.open(&flow(n, *i), at);
                    }
                }
                65..=74 => {
                    table.expire(at, random.next(60) as usize);
                }
                75..=79 => {
                    table.forget_surplus(at, 5);
                }
                80 => {
                    let value = KeyValue::Port(random.next(7) as u16 + 1);
                    let _ = table.best(Key::NatPort, value, None, |_| true, at);
                    let q = Question {
                        src_ip: Some(std::net::IpAddr::from([192, 168, 7, random.next(5) as u8]).into()),
                        ..Question::default()
                    };
                    let _ = table.find(&q, 10, at);
                }
                81 => {
                    old = match old.or(Some(Cursor::START)) {
                        Some(from) => {
                            table.remove_old(from, Duration::from_millis(random.next(2000) as u64), at).0
                        }
                        None => None,
                    };
                }
                82 if building.is_some() => step_build(&mut building, &mut table),
                83 if building.is_none() && random.next(10) == 0 => {
                    let key = ALL_KEYS[random.next(6) as usize];
                    match random.next(3) {
                        0 => table.set_key(key),
                        1 => drop(table.remove_indexes(u64::MAX)),
                        _ => {}
                    }
                    let by = [IndexedBy::key(key), IndexedBy::SrcIpAndPort][random.next(2) as usize];
                    building = IndexBuild::begin(&mut table, by, at);
                }
                84 if random.next(400) == 0 => {
                    let mut cursor = Some(Cursor::START);
                    let except = random.next(5);
                    while let Some(from) = cursor {
                        cursor = table
                            .retain(from, at, |t| {
                                t.original.dst != Ipv4Addr::from(0x0a00_0000 + except)
                                    && (n % 50 != 0 || t.src_ip() != std::net::IpAddr::from([192, 168, 7, 3]))
                            })
                            .0;
                    }
                    lives.retain(|n2, _| *n2 != except && (n % 50 != 0 || n2 % 5 != 3));
                    scan = None;
                }
                85 if random.next(10) == 0 => {
                    table.set_del_delay(Duration::from_millis(
                        [1, 500, 3000, 20_000][random.next(4) as usize],
                    ));
                }
                86..=88 => {
                    scan = match scan.take() {
                        None => Some((
                            Cursor::START,
                            BTreeMap::new(),
                            lives.iter().map(|(n, (i, _))| (*n, *i)).collect(),
                        )),
                        Some((from, mut seen, begun)) => {
                            let next = table.scan(from, at, |m| {
                                if m.is_live() {
                                    let std::net::IpAddr::V4(dst) = m.dst_ip() else { unreachable!() };
                                    *seen.entry((dst.to_bits() - 0x0a00_0000, m.id)).or_default() += 1;
                                }
                            });
                            match next {
                                Some(next) => Some((next, seen, begun)),
                                None => {
                                    assert!(seen.values().all(|count| *count == 1));
                                    if seed % 3 != 0 {
                                        let stay: Vec<_> = begun
                                            .iter()
                                            .filter(|(n, i)| lives.get(n).is_some_and(|l| l.0 == *i))
                                            .collect();
                                        scans += 1;
                                        stayed += stay.len();
                                        assert!(stay.iter().all(|k| seen.contains_key(k)), "seed {seed}");
                                    }
                                    None
                                }
                            }
                        }
                    };
                }
                _ => now += u64::from(random.next(4)),
            }
            if step % 3000 == 2999 {
                if step % 6000 == 5999 {
                    while building.is_some() {
                        step_build(&mut building, &mut table);
                    }
                }
                let what = format!("seed {seed} step {step} building {building:?}");
                checked += check(&mut table, stamp(now), &what);
            }
        }
    }
    assert!(scans > 20 && stayed > 1000, "{scans} scans, {stayed} stayed");
    assert!(checked > 1000, "{checked} lookups by an index");
}
