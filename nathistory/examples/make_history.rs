//! Makes a history of the last three days, as a gateway with few public ports writes it:
//! `cargo run -p nathistory --example make_history -- DIRECTORY`. Other programs' tests read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nathistory::disk::Directory;
use nathistory::{Counters, End, Entry, Millis, Moment, Options, Record};

/// Mappings in all.
const NUMBER: usize = 60_000;
/// The time in which they open.
const SPAN: Millis = 3 * 24 * 3_600_000;
/// Public ports, each of which many mappings have one after the other or together.
const PORTS: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: make_history DIRECTORY")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as Millis;
    let begin = now - SPAN - 60_000;
    let options = Options { gateway: "gw1".to_owned(), seal_records: 2_000, ..Options::default() };
    let mut store = nathistory::open(Arc::new(Directory::new(path)?), options, begin)?;
    let mut random = 0x2545_f491_4f6c_dd1d;
    let mut open: Vec<(Millis, Record)> = Vec::new();
    for number in 0..NUMBER {
        let at = begin + SPAN / NUMBER as Millis * number as Millis;
        open.sort_by_key(|(closes, _)| std::cmp::Reverse(*closes));
        while open.last().is_some_and(|(closes, _)| *closes <= at) {
            let Some((closes, record)) = open.pop() else { break };
            let closed = Some(if number % 3 == 0 { Moment::kernel(closes) } else { Moment::event(closes) });
            store.writer.append(&[Entry::Closed(Record { closed, ..record })], closes)?;
        }
        let record = record(number, at, &mut random);
        // Most for seconds or minutes, some for a day.
        let longest = [5_000, 120_000, 3_600_000, 90_000_000][(next(&mut random) % 16).min(3) as usize];
        open.push((at + (next(&mut random) % longest) as Millis, record));
        store.writer.append(&[Entry::Opened(record)], at)?;
        if store.writer.is_seal_due(at) {
            store.writer.rotate(at)?;
            while store.keeper.run_due(at)? {}
        }
    }
    for (_, record) in open {
        let closed = Some(Moment::event(now));
        store.writer.append(&[Entry::Closed(Record { closed, ..record })], now)?;
    }
    store.writer.rotate(now)?;
    while store.keeper.run_due(now)? {}
    Ok(())
}

fn record(number: usize, at: Millis, random: &mut u64) -> Record {
    let end = |ip: IpAddr, port: u64| End { ip, port: Some(port as u16) };
    let (host, far) = (next(random) % 250, next(random) % 200);
    let is_v6 = next(random) % 5 == 0;
    let address = |v4: [u8; 4], v6: u16, last: u64| -> IpAddr {
        if is_v6 {
            Ipv6Addr::new(v6, 0, 0, 0, 0, 0, 0, last as u16).into()
        } else {
            Ipv4Addr::new(v4[0], v4[1], v4[2], last as u8).into()
        }
    };
    let src = end(address([192, 168, 7, 0], 0xfd00, host + 2), 1_024 + next(random) % 60_000);
    let nat = end(address([203, 0, 113, 0], 0x2001, 5 + next(random) % 2), 40_000 + next(random) % PORTS);
    let dst = end(address([198, 51, 100, 0], 0x2002, far + 1), 443);
    let counters = Counters { packets: [number as u64, 2], bytes: [next(random) % 1_000_000, 80] };
    Record {
        protocol: if next(random) % 3 == 0 { 17 } else { 6 },
        zone: 0,
        reply_zone: 0,
        src,
        dst: Some(dst),
        nat,
        server: Some(dst),
        id: Some(next(random) as u32),
        mark: None,
        opened: Moment::event(at),
        closed: None,
        counters: (number % 4 == 0).then_some(counters),
    }
}

/// The next number of a xorshift generator.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random >> 16
}
