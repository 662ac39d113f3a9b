//! What the tracker logs: a reader of the log that stops reading does not delay responses, and a filter with which
//! nothing is seen causes a hint. The log belongs to the whole process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use lab::{Lab, flows, wait_until};
use log::{LevelFilter, Log, Metadata, Record};
use nfct::{Protocol, Query};
use pynatconnd::clock::{Clock, Stamp, SystemClock};
use pynatconnd::config::{Config, Key};
use pynatconnd::stats::Stats;
use pynatconnd::tracker::Tracker;
use pynatconnd::tuples::KeyValue;

const CONFIG: &[u8] = b"\
[data]
key_name = nat_port

[netlink]
receive_buffer = 4K
receive_buffer_max = 4K
";

/// A log that keeps its lines, and whose reader has stopped: it blocks the writer of the line about lost events.
struct TestLog {
    lines: Mutex<Vec<String>>,
    held: Sender<()>,
    is_held: Mutex<Receiver<()>>,
    /// Each line about lost events takes one item from it, and waits without one.
    go_on: Mutex<Receiver<()>>,
    may_go_on: Mutex<Option<Sender<()>>>,
}

impl TestLog {
    /// The log of this process.
    fn get() -> &'static TestLog {
        static LOG: OnceLock<TestLog> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let ((held, is_held), (may_go_on, go_on)) = (mpsc::channel(), mpsc::channel());
            TestLog {
                lines: Mutex::default(),
                held,
                is_held: Mutex::new(is_held),
                go_on: Mutex::new(go_on),
                may_go_on: Mutex::new(Some(may_go_on)),
            }
        });
        // Another test may have set it.
        let _ = log::set_logger(log);
        log::set_max_level(LevelFilter::Info);
        log
    }

    /// The lines with this text.
    fn lines(&self, text: &str) -> Vec<String> {
        self.lines.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }
}

impl Log for TestLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        let is_overrun = line.contains("conntrack events lost");
        self.lines.lock().unwrap().push(line);
        if is_overrun {
            self.held.send(()).unwrap();
            let _ = self.go_on.lock().unwrap().recv();
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_log_that_nobody_reads_delays_no_response() {
    if !lab::require() {
        return;
    }
    let log = TestLog::get();

    let lab = Lab::builder().build();
    let config = Config::parse(CONFIG, "test").expect("the configuration is valid").config;
    let stats = Arc::<Stats>::default();
    let start = || {
        Tracker::start((&config).into(), Arc::<SystemClock>::default(), stats.clone(), |error| {
            panic!("{error}")
        })
    };
    let tracker = lab.gateway().enter(start).expect("the kernel can be followed");
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let mut make = |port: u16| {
        let (src, nat) = (lab.client_at(0, port), (lab.public(0), port).into());
        flows::create(&mut query, &flows::source_nat(Protocol::Tcp, src, lab.server_at(443), nat));
    };

    // A buffer of 4 KiB holds a few events; this many overrun it.
    let mut port = 2000..60_000;
    while log.is_held.lock().unwrap().try_recv().is_err() {
        port.by_ref().take(500).for_each(&mut make);
    }

    let (answered, answer) = mpsc::channel();
    let queried = tracker.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("threads can be created");
        let found = runtime.block_on(queried.best(Key::NatPort, KeyValue::Port(2000), None));
        answered.send(found.expect("the tracker runs").value.map(|found| found.mapping.src_ip())).unwrap();
    });
    let found = answer.recv_timeout(lab::PATIENCE);
    let expected = lab.client_at(0, 2000).ip();
    drop(log.may_go_on.lock().unwrap().take());
    assert_eq!(found, Ok(Some(expected)));
}

/// The system's clocks, of which the monotonic one can be moved forward.
#[derive(Default)]
struct Moved {
    system: SystemClock,
    by: AtomicU64,
}

impl Clock for Moved {
    fn now(&self) -> Stamp {
        let Stamp { monotonic, wall } = self.system.now();
        Stamp { monotonic: monotonic + self.by.load(Ordering::SeqCst), wall }
    }
}

#[test]
fn a_filter_on_a_foreign_address_with_nothing_seen_causes_one_hint() {
    const HINT: &str = "no connection has matched [filter] for 60 seconds";
    if !lab::require() {
        return;
    }
    let log = TestLog::get();
    let lab = Lab::builder().build();
    let clock = Arc::<Moved>::default();
    let start = |filter: &str| {
        let text = format!("[filter]\n{filter}\n[data]\nkey_name = nat_port\n");
        let config = Config::parse(text.as_bytes(), "test").expect("the configuration is valid").config;
        let start = || {
            Tracker::start((&config).into(), clock.clone(), Arc::<Stats>::default(), |error| {
                panic!("{error}")
            })
        };
        lab.gateway().enter(start).expect("the kernel can be followed")
    };
    // An own address, a routed one on which there is a connection, and no list of public addresses.
    let silent =
        ["nat_ip = 100.64.2.0/28, 203.0.113.1", "nat_ip = 203.0.113.2", "src_ip = 203.0.113.3"].map(start);
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let routed = "203.0.113.2:1000".parse().expect("an address");
    let tuples = flows::source_nat(Protocol::Tcp, lab.client_at(0, 1000), lab.server_at(443), routed);
    flows::create(&mut query, &tuples);
    let advance = |seconds: u64| clock.by.fetch_add(seconds * 1000, Ordering::SeqCst);
    advance(59);
    // The others look whether the time has passed as often as this one, so they have done so when it has.
    let hinted = start("nat_ip = 203.0.113.4, 2001:db8::/32, !2001:db8:1::/48");
    advance(61);
    wait_until("there is a hint", || !log.lines(HINT).is_empty());
    let last = start("nat_ip = @ppp0");
    advance(61);
    wait_until("there is another hint", || log.lines(HINT).len() > 1);
    let lines = log.lines(HINT);
    let is_named = |at: usize, addresses: &str| {
        let text = format!("no interface has an address of nat_ip: {addresses}. Is this right?");
        assert!(lines[at].contains(&text) && lines[at].contains("192.168.7.1"), "{lines:?}");
    };
    assert_eq!(lines.len(), 2, "{lines:?}");
    is_named(0, "203.0.113.4 or 2001:db8::/32 but not 2001:db8:1::/48");
    is_named(1, "@ppp0");
    drop((silent, hinted, last));
}
