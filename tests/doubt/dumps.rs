//! Dumps that do not show the whole table: the kernel's hash table is resized meanwhile, or another filter comes into
//! force.

use std::fs;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::http::Stream;
use lab::{Lab, StopOnDrop, flows, wait_within};
use nfct::{Family, Protocol, Tuple};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::alone::{Changed, alone};
use super::binary::DAEMON;
use super::scene::{Questions, RESYNC, config, ctnetlink, resize_there_and_back};

/// Living entries.
const ENTRIES: u32 = 100_000;

/// Entry number `number`. Every other one is to port 444.
fn numbered(lab: &Lab, number: u32) -> (Tuple, Tuple) {
    const PORTS: u32 = 60_000;
    let port = 1024 + u16::try_from(number % PORTS).expect("a port");
    let [high, low] = u16::try_from(number / PORTS).expect("it is small").to_be_bytes();
    let server = lab.server_at(443 + u16::try_from(number % 2).expect("a bit"));
    let nat = (Ipv4Addr::new(100, 64, 8 + high, low), port).into();
    flows::source_nat(Protocol::Tcp, (Ipv4Addr::new(10, 0, high, low), port).into(), server, nat)
}

/// Room for the entries in the kernel's table, which all namespaces share, until this is dropped.
fn make_room() -> Vec<Changed> {
    const ROOM: u32 = 262_144;
    let is_small = |name: &&str| {
        let value = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok();
        value.and_then(|value| value.trim().parse::<u32>().ok()).is_some_and(|value| value < ROOM)
    };
    let small = ["nf_conntrack_buckets", "nf_conntrack_max"].into_iter().filter(is_small);
    small.filter_map(|name| Changed::to(name, ROOM)).collect()
}

fn fill(lab: &Lab, numbers: Range<u32>) {
    const THREADS: u32 = 2;
    thread::scope(|scope| {
        for part in 0..THREADS {
            let numbers = numbers.clone();
            scope.spawn(move || {
                let mut query = ctnetlink(lab);
                let mine = numbers.filter(|number| number % THREADS == part);
                mine.for_each(|number| flows::create(&mut query, &numbered(lab, number)));
            });
        }
    });
}

/// The number of mappings that are listed.
fn count(lab: &Lab, address: std::net::SocketAddr, fields: &str) -> usize {
    let mut number = 0;
    let client = lab::http::Client::connect(lab.gateway(), address);
    client.get_lines(&format!("/v1/mappings?{fields}"), |line| number += usize::from(!line.is_empty()));
    number
}

#[test]
fn a_dump_during_which_the_hash_table_is_resized_closes_nothing() {
    const TIME: Duration = Duration::from_secs(12);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    if !resize_there_and_back() {
        println!("skipped: needs the first network namespace, to resize the hash table");
        return;
    }
    let _room = make_room();
    let lab = Lab::builder().build();
    let daemon = DAEMON.start(lab.gateway(), config("sweep_interval = 1\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    fill(&lab, 0..ENTRIES);
    questions.wait_ready();
    let address = daemon.local_addr();
    assert_eq!(count(&lab, address, "state=live"), ENTRIES as usize);

    // Other entries end in each round, so that the stream is never silent for long. The last one marks its end.
    const NOT_LAST: u16 = 9998;
    const LAST: u16 = 9999;
    let mark = |port: u16| {
        let public = (lab.public(0), port).into();
        let entry = flows::source_nat(Protocol::Tcp, lab.client_at(0, port), lab.server_at(port), public);
        let mut query = ctnetlink(&lab);
        flows::create(&mut query, &entry);
        flows::remove(&mut query, &entry.0);
    };
    let mut events = Stream::connect(lab.gateway(), address, "/v1/events", &[]);
    let listener = thread::spawn(move || {
        let mut closed = 0_u32;
        loop {
            let line: Value = events.next_json();
            match line["event"].as_str() {
                Some("closed") if line["mapping"]["dst_port"] == LAST => return closed,
                Some("closed") if line["mapping"]["dst_port"] == NOT_LAST => {}
                Some("closed") => closed += 1,
                _ => {}
            }
        }
    });
    let end = AtomicBool::new(false);
    let resized = AtomicU32::new(0);
    let (mut dumps, mut fewest) = (0, usize::MAX);
    thread::scope(|scope| {
        let stop = StopOnDrop(&end);
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                resize_there_and_back();
                resized.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < TIME {
            // Each of these is read in a new dump.
            daemon.rewrite_config(&config(&format!("sweep_interval = 1\ndel_delay = {}\n", 10 + dumps % 2)));
            daemon.signal(Signal::SIGHUP);
            dumps += 1;
            mark(NOT_LAST);
            fewest = fewest.min(count(&lab, address, "state=live"));
        }
        drop(stop);
    });
    let mut query = ctnetlink(&lab);
    let kernel = query.dump(Family::Any).expect("the table can be read").filter(|flow| {
        flow.as_ref()
            .is_ok_and(|flow| flow.original.protocol == Protocol::Tcp && flow.reply.dst != flow.original.src)
    });
    let kernel = kernel.count();
    questions.wait_ready();
    let last = count(&lab, address, "state=live");
    mark(LAST);
    let closed = listener.join().expect("the listener finished");
    println!(
        "{ENTRIES} living entries ({kernel} at the end), {dumps} resyncs forced in {TIME:.0?}, resized {} times there and back: \
         {closed} reported as closed, {fewest} listed at the fewest, {last} at the end",
        resized.load(Ordering::Relaxed)
    );
    assert_eq!(kernel, ENTRIES as usize);
    assert!(resized.load(Ordering::Relaxed) > 5, "the table was hardly resized");
    assert_eq!((closed, fewest, last), (0, kernel, kernel));
}

#[test]
fn a_narrower_filter_during_a_dump_leaves_nothing_that_it_excludes() {
    const ROUNDS: u32 = 12;
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let _room = make_room();
    let lab = Lab::builder().build();
    fill(&lab, 0..ENTRIES);
    let filter = |filter: &str| format!("[filter]\nnat_only = yes\n{filter}[data]\nkey_name = nat_port\n");
    let daemon = DAEMON.start(lab.gateway(), filter("dst_port = 443\n"));
    let mut questions = Questions::to(&lab, &daemon);
    questions.wait_ready();
    let address = daemon.local_addr();
    let reload = |config: &str| {
        let number = daemon.stderr().matches("configuration reloaded").count();
        daemon.rewrite_config(config);
        daemon.signal(Signal::SIGHUP);
        wait_within(RESYNC, "the configuration is in force", || {
            daemon.stderr().matches("configuration reloaded").count() > number
        });
    };
    let (mut excluded, mut answered) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        reload(&filter(""));
        // Another part of the dump has been merged in each round.
        let merged = ENTRIES / 2 + ENTRIES / 2 * round / ROUNDS;
        wait_within(RESYNC, "a part of the dump has been merged", || {
            questions.metric("pynatconnd_mappings{state=\"live\"}").expect("a gauge") >= f64::from(merged)
        });
        reload(&filter("dst_port = 443\n"));
        questions.wait_ready();
        excluded.push(count(&lab, address, "dst_port=444"));
        answered += (1..2000)
            .step_by(2)
            .filter(|number| {
                let (_, reply) = numbered(&lab, *number);
                let nfct::Layer4::Ports { dst, .. } = reply.layer4 else { unreachable!("TCP has ports") };
                let fields = format!("nat_ip={}&nat_port={dst}&dst_port=444", reply.dst);
                !questions.look_up(&fields).matches.is_empty()
            })
            .count();
        assert_eq!(count(&lab, address, "state=live&dst_port=443"), ENTRIES as usize / 2);
    }
    println!(
        "a narrower filter in {ROUNDS} dumps of {ENTRIES}: excluded mappings that are listed {excluded:?}, {answered} answered"
    );
    assert!(excluded.iter().all(|number| *number == 0) && answered == 0);
}
