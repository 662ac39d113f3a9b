//! The wall clock jumps by a day, forward and back, while the tracker runs. Durations are not affected, and
//! timestamps are those of the clock at that moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lab::traffic::Connection;
use lab::{Lab, flows, wait_until};
use nfct::{Protocol, Query};
use pynatconnd::clock::{Clock, Stamp, SystemClock};
use pynatconnd::config::{Config, Key};
use pynatconnd::mapping::Mapping;
use pynatconnd::question::Question;
use pynatconnd::stats::Stats;
use pynatconnd::tracker::Tracker;
use pynatconnd::tuples::KeyValue;
use tokio::runtime::Runtime;

const DAY: i64 = 24 * 3600 * 1000;
const DEL_DELAY: Duration = Duration::from_secs(2);
/// Connections of each kind.
const NUMBER: u16 = 10;

/// Everything that depends on time, often: expiry and sweeps once per second.
const CONFIG: &[u8] = b"\
[filter]
dst_ip = 198.51.100.1
dst_port = 443

[data]
key_name = nat_port
del_delay = 2
garbage_cleaner_interval = 1
life_span = 3600
sweep_interval = 1
";

/// The system's clocks, with an adjustable offset of the wall clock.
#[derive(Default)]
pub(crate) struct Moved {
    system: SystemClock,
    pub(crate) by: AtomicI64,
}

impl Clock for Moved {
    fn now(&self) -> Stamp {
        let Stamp { monotonic, wall } = self.system.now();
        Stamp { monotonic, wall: wall.checked_add_signed(self.by.load(Ordering::SeqCst)).expect("a time") }
    }
}

/// A lab with a tracker.
struct Bench {
    lab: Lab,
    clock: Arc<Moved>,
    stats: Arc<Stats>,
    tracker: Arc<Tracker>,
    runtime: Runtime,
    query: Query,
    server: lab::traffic::TcpServer,
}

/// A connection, and the interval in which it was opened.
struct Open {
    connection: Connection,
    from: Stamp,
    to: Stamp,
}

/// A closed connection, and the interval in which it was closed.
struct Ended {
    opened: (Stamp, Stamp),
    from: Stamp,
    to: Stamp,
    inside: SocketAddr,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::builder().clients(3).build();
        let config = Config::parse(CONFIG, "test").expect("the configuration is valid").config;
        let clock = Arc::<Moved>::default();
        let stats = Arc::<Stats>::default();
        let start =
            || Tracker::start((&config).into(), clock.clone(), stats.clone(), |error| panic!("{error}"));
        let tracker = lab.gateway().enter(start).expect("the kernel can be followed");
        let runtime = Runtime::new().expect("threads can be created");
        assert!(runtime.block_on(tracker.wait_complete(lab::PATIENCE)));
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        let server = lab.listen(lab.server_at(443));
        Self { lab, clock, stats, tracker, runtime, query, server }
    }

    fn open(&self, host: u8, port: u16) -> Open {
        let from = self.clock.now();
        let connection = self.lab.connect_to(&self.server, self.lab.client_at(host, port));
        assert_eq!(connection.peer.port(), port, "the public port is free");
        // Looked up once, so that the tracker has it before the clock jumps.
        assert_eq!(self.find(port).iter().filter(|mapping| mapping.is_live()).count(), 1);
        Open { connection, from, to: self.clock.now() }
    }

    fn end(&mut self, open: Open) -> Ended {
        let Open { connection, from, to } = open;
        let opened = (from, to);
        let inside = connection.client.local_addr().expect("connected");
        let from = self.clock.now();
        connection.reset();
        assert!(flows::remove(&mut self.query, &flows::tuple(Protocol::Tcp, inside, self.server.address())));
        assert!(self.find(inside.port()).iter().all(|mapping| !mapping.is_live()));
        Ended { opened, from, to: self.clock.now(), inside }
    }

    fn find(&self, port: u16) -> Vec<Mapping> {
        let question = Question { nat_port: Some(port), ..Question::default() };
        let answer = self.runtime.block_on(self.tracker.find(&question, 10)).expect("the tracker runs");
        let found: Vec<_> = answer.value.into_iter().map(|traced| traced.mapping).collect();
        // What closed just before the tracker began is not known.
        assert!(answer.complete || !found.iter().any(Mapping::is_live));
        found
    }

    fn best(&self, port: u16) -> Option<Mapping> {
        let value = KeyValue::Port(port);
        let answer = self.runtime.block_on(self.tracker.best(Key::NatPort, value, None));
        answer.expect("the tracker runs").value.map(|traced| traced.mapping)
    }

    fn check_open(&self, open: &Open) {
        let port = open.connection.peer.port();
        let found = self.best(port).unwrap_or_else(|| panic!("port {port} is gone"));
        assert!(found.is_live(), "{found:?}");
        assert_eq!(found.src_ip(), open.connection.client.local_addr().expect("connected").ip());
        assert_between(found.opened, open.from, open.to);
    }

    /// Looks up a closed connection, which must be found for exactly `DEL_DELAY`. Returns whether it was found.
    fn check_ended(&self, ended: &Ended) -> bool {
        let before = self.clock.now();
        let found = self.find(ended.inside.port());
        let after = self.clock.now();
        match found.iter().find(|mapping| mapping.src_ip() == ended.inside.ip()) {
            Some(mapping) => {
                let closed = mapping.closed.expect("it is closed");
                assert_between(mapping.opened, ended.opened.0, ended.opened.1);
                assert_between(closed, ended.from, ended.to);
                assert!(before.since(closed) < DEL_DELAY, "it is still there: {mapping:?}");
                true
            }
            None => {
                assert!(after.since(ended.from) >= DEL_DELAY, "{} is gone too soon", ended.inside);
                false
            }
        }
    }
}

/// Checks both clocks; the wall clock does not jump between `from` and `to`.
fn assert_between(stamp: Stamp, from: Stamp, to: Stamp) {
    assert!((from.monotonic..=to.monotonic).contains(&stamp.monotonic), "{stamp:?}: {from:?} to {to:?}");
    assert!((from.wall..=to.wall).contains(&stamp.wall), "{stamp:?}: {from:?} to {to:?}");
}

#[test]
fn a_jump_of_the_wall_clock_neither_closes_nor_revives_a_mapping() {
    if !lab::require() {
        return;
    }
    let mut bench = Bench::new();
    let (mut lookups, mut kept) = (0, 0);
    // A day ahead of the real time, then a day behind it, then back.
    for (round, by) in (0..).zip([DAY, -DAY, 0]) {
        let first = 40_000 + round * 1000;
        let lasting: Vec<_> = (0..NUMBER).map(|index| bench.open(0, first + index)).collect();
        let ended_after: Vec<_> = (100..100 + NUMBER).map(|index| bench.open(0, first + index)).collect();
        let ended_before: Vec<_> = (200..200 + NUMBER)
            .map(|index| {
                let open = bench.open(0, first + index);
                bench.end(open)
            })
            .collect();

        bench.clock.by.store(by, Ordering::SeqCst);

        kept += ended_before.iter().filter(|ended| bench.check_ended(ended)).count();
        lasting.iter().chain(&ended_after).for_each(|open| bench.check_open(open));
        let mut ended: Vec<_> = ended_after.into_iter().map(|open| bench.end(open)).collect();
        // The next host uses the ports that the first host has just closed.
        let mut reused: Vec<_> = (100..100 + NUMBER).map(|index| bench.open(1, first + index)).collect();
        reused.iter().for_each(|open| bench.check_open(open));
        // Closed too: of two closed mappings the later one is found, as long as it exists.
        let last = reused.pop().expect("there are some");
        let last = bench.end(last);
        let found = bench.best(last.inside.port());
        if bench.check_ended(&last) {
            assert_eq!(found.expect("it is still there").src_ip(), last.inside.ip());
        }

        ended.extend(ended_before);
        let mut left: Vec<_> = ended.iter().collect();
        wait_until("the closed mappings are gone", || {
            lookups += left.len();
            left.retain(|ended| bench.check_ended(ended));
            lasting.iter().chain(&reused).for_each(|open| bench.check_open(open));
            left.is_empty()
        });
        wait_until("the last closed mapping is gone", || !bench.check_ended(&last));
        // After two more dumps, no closed mapping has come back.
        let dumps = bench.stats.complete_dumps.get();
        wait_until("the kernel's table has been read again", || {
            bench.stats.complete_dumps.get() >= dumps + 2
        });
        assert!(!ended.iter().any(|ended| bench.check_ended(ended)), "a closed mapping came back");
        lasting.iter().for_each(|open| bench.check_open(open));
    }
    println!(
        "clock: moved by a day, forward and back: {} mappings stayed live, {} ended around it ({kept} \
         still found after it), looked up {lookups} times until they were gone: none too early, too late, or again",
        3 * 2 * NUMBER,
        3 * (2 * NUMBER + 1)
    );
}
