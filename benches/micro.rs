//! Single parts of the daemon, in memory, without a kernel and without root:
//! `cargo bench --bench micro`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use divan::{Bencher, black_box};
use nfct::wire::{Messages, write_event};
use nfct::{Event, EventKind, Flow, Layer4, Status, Tuple};
use pynatconnd::addresses::Interfaces;
use pynatconnd::clock::Stamp;
use pynatconnd::config::{Config, Key};
use pynatconnd::filter::Filter;
use pynatconnd::http::counters::{HttpCounters, LookupOutcome};
use pynatconnd::http::route;
use pynatconnd::question::Question;
use pynatconnd::table::{Batch, Cursor, Table};
use pynatconnd::tuples::KeyValue;

/// What finding its route and counting cost a request, on one thread.
#[divan::bench(sample_count = 100, sample_size = 1000)]
fn count_response(bencher: Bencher<'_, '_>) {
    let counters = HttpCounters::default();
    bencher.bench_local(|| {
        let route = route::find(black_box("/nat_port/40001")).label;
        counters.here().count_response(route, black_box(200), black_box(Duration::from_micros(20)));
        counters.here().lookups.count(route, LookupOutcome::Found);
    });
}

/// The pass for `/metrics` through a full table, slice by slice.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn scan_ports(bencher: Bencher<'_, '_>) {
    let table = full();
    bencher.bench_local(|| {
        let (mut ports, mut next) = (0, Some(Cursor::START));
        while let Some(cursor) = next {
            next = table.scan_ports(cursor, |_, _| ports += 1);
        }
        assert_eq!(ports, MANY);
    });
}

fn main() {
    divan::main();
}

/// Mappings in a full table.
const MANY: u32 = 1_000_000;
/// Public ports, so that sixteen mappings share each.
const PORTS: u32 = 60_000;

const NOW: Stamp = Stamp { monotonic: 4_000_000_000_000, wall: 1_800_000_000_000 };
const DEL_DELAY: Duration = Duration::from_secs(10);

fn flow(number: u32) -> Flow {
    let address =
        |first: [u8; 4], behind: u32| IpAddr::V4((u32::from(Ipv4Addr::from(first)) + behind).into());
    let server = (Ipv4Addr::new(198, 51, 100, 1), 443);
    let inside_port = 20_000 + (number % 100) as u16;
    let nat_port = 1024 + (number % PORTS) as u16;
    let mut flow = Flow::new(
        Tuple::tcp((address([10, 0, 0, 1], number / 100), inside_port), server),
        Tuple::tcp(server, (address([100, 65, 0, 1], number / PORTS), nat_port)),
    );
    flow.id = number.wrapping_mul(2_654_435_761);
    flow.status = Status(2 | 4 | 8);
    flow.timeout = Some(3600);
    flow
}

fn full() -> Table {
    let mut table = Table::new(Key::NatPort, DEL_DELAY);
    for first in (0..MANY).step_by(BATCH as usize) {
        let mut batch = batch(EventKind::New, first..first + BATCH);
        assert_eq!(batch.apply(&mut table, || NOW), BATCH as usize);
    }
    table
}

/// Numbers in an order that defeats caches.
fn shuffled() -> impl Iterator<Item = u32> {
    let mut number = 0;
    std::iter::repeat_with(move || {
        number = (number + 618_033) % MANY;
        number
    })
}

/// Adds a mapping to a full table and removes another, repeatedly.
#[divan::bench(sample_count = 200, sample_size = 1000)]
fn open_and_close(bencher: Bencher<'_, '_>) {
    let mut table = full();
    let mut next = MANY;
    bencher.bench_local(|| {
        table.open(&flow(next), NOW);
        table.close(&flow(next), NOW);
        table.expire(Stamp { monotonic: NOW.monotonic + 20_000, wall: NOW.wall }, usize::MAX);
        next += 1;
    });
}

#[divan::bench(sample_count = 200, sample_size = 1000)]
fn open(bencher: Bencher<'_, '_>) {
    let mut table = full();
    let mut next = MANY;
    bencher.bench_local(|| {
        next += 1;
        table.open(&flow(next), NOW)
    });
}

#[divan::bench(sample_count = 200, sample_size = 1000)]
fn close(bencher: Bencher<'_, '_>) {
    let mut table = full();
    let mut numbers = shuffled();
    bencher.bench_local(|| table.close(&flow(numbers.next().unwrap_or_default()), NOW));
}

/// The legacy lookup: the best of sixteen mappings with the same public port.
#[divan::bench(sample_count = 200, sample_size = 1000)]
fn look_up_by_public_port(bencher: Bencher<'_, '_>) {
    let mut table = full();
    let mut numbers = shuffled();
    bencher.bench_local(|| {
        let port = KeyValue::Port(1024 + (numbers.next().unwrap_or_default() % PORTS) as u16);
        table.best(Key::NatPort, port, None, |_| true, NOW)
    });
}

/// `/v1/lookup` by public address and port, with one match.
#[divan::bench(sample_count = 200, sample_size = 1000)]
fn look_up_by_public_address_and_port(bencher: Bencher<'_, '_>) {
    let mut table = full();
    let mut numbers = shuffled();
    bencher.bench_local(|| {
        let reply = flow(numbers.next().unwrap_or_default()).reply;
        let Layer4::Ports { dst, .. } = reply.layer4 else { unreachable!("TCP has ports") };
        let query = Question { nat_ip: Some(reply.dst.into()), nat_port: Some(dst), ..Question::default() };
        table.find(&query, 1000, NOW)
    });
}

#[divan::bench]
fn read_a_message(bencher: Bencher<'_, '_>) {
    let datagram = write_event(&Event::new(EventKind::New, flow(1)));
    bencher.bench(|| {
        let message = Messages::new(black_box(&datagram)).next().and_then(Result::ok);
        message.map(|message| message.flow())
    });
}

#[divan::bench(args = ["none", "nat_ip", "three", "nat_only"])]
fn match_a_filter(bencher: Bencher<'_, '_>, which: &str) {
    let conditions = match which {
        "nat_ip" => "nat_ip = 100.65.0.1",
        "three" => "src_ip = 10.0.0.1\nnat_ip = 100.65.0.1\ndst_port = 443",
        "nat_only" => "nat_only = yes",
        _ => "",
    };
    let text = format!("[filter]\n{conditions}\n[data]\nkey_name = nat_port\n");
    let config = Config::parse(text.as_bytes(), "bench").expect("it is a configuration").config;
    let filter = Filter::new(&config.filter, &Interfaces::default());
    let flow = flow(1);
    assert!(filter.matches_flow(&flow));
    bencher.bench(|| filter.matches_flow(black_box(&flow)));
}

/// The local time in a response. The code that builds responses is private to the daemon; these two do the same.
#[divan::bench]
fn write_a_time() -> String {
    let time = jiff::Timestamp::from_millisecond(black_box(1_800_000_000_000)).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The rest of the response.
#[divan::bench]
fn write_json(bencher: Bencher<'_, '_>) {
    #[derive(serde::Serialize)]
    struct LegacyBody {
        dst_ip: IpAddr,
        dst_port: Option<u16>,
        nat_ip: IpAddr,
        nat_port: Option<u16>,
        protocol: [&'static str; 2],
        sig_type: &'static str,
        src_ip: IpAddr,
        src_port: Option<u16>,
        time: &'static str,
    }
    let flow = flow(1);
    let body = LegacyBody {
        dst_ip: flow.original.dst,
        dst_port: Some(443),
        nat_ip: flow.reply.dst,
        nat_port: Some(40001),
        protocol: ["ipv4", "tcp"],
        sig_type: "new",
        src_ip: flow.original.src,
        src_port: Some(20001),
        time: "2026-11-21 08:54:22",
    };
    bencher.bench(|| {
        let mut text = Vec::with_capacity(512);
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(black_box(&body), &mut serializer).map(|()| text)
    });
}

/// Events of one batch, as they are received together.
const BATCH: u32 = 64;

fn batch(kind: EventKind, numbers: impl Iterator<Item = u32>) -> Batch {
    let mut batch = Batch::default();
    numbers.for_each(|number| batch.push(Event::new(kind, flow(number))));
    batch
}

/// Adds the mappings of a batch of events to a full table, which grows.
#[divan::bench(sample_count = 200, sample_size = 50)]
fn open_64(bencher: Bencher<'_, '_>) {
    let (mut table, mut numbers) = (full(), shuffled());
    bencher.bench_local(|| {
        let numbers = numbers.by_ref().take(BATCH as usize).map(|number| MANY + number);
        batch(EventKind::New, numbers).apply(&mut table, || NOW)
    });
}

/// Closes the mappings of a batch of events of a full table.
#[divan::bench(sample_count = 200, sample_size = 50)]
fn close_64(bencher: Bencher<'_, '_>) {
    let (mut table, mut numbers) = (full(), shuffled());
    bencher.bench_local(|| {
        batch(EventKind::Destroy, numbers.by_ref().take(BATCH as usize)).apply(&mut table, || NOW)
    });
}

/// Adds the mappings of a batch of events to a full table and removes as many others: the size of the table
/// does not change. A recorder takes the begins and ends after each.
#[divan::bench(sample_count = 200, sample_size = 50, args = ["alone", "with_recorder"])]
fn open_and_close_64(bencher: Bencher<'_, '_>, recorder: &str) {
    let (mut table, mut numbers) = (full(), shuffled());
    if recorder == "with_recorder" {
        table.begin_feed();
    }
    let mut empty = Vec::new();
    let later = Stamp { monotonic: NOW.monotonic + 20_000, wall: NOW.wall };
    bencher.bench_local(|| {
        let old: Vec<u32> = numbers.by_ref().take(BATCH as usize).collect();
        batch(EventKind::New, old.iter().map(|number| MANY + number)).apply(&mut table, || NOW);
        batch(EventKind::Destroy, old.into_iter()).apply(&mut table, || NOW);
        table.expire(later, usize::MAX);
        for mut chunk in table.take_feed(&mut empty).chunks {
            chunk.clear();
            empty.push(chunk);
        }
    });
}
