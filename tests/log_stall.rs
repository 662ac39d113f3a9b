//! A reader of the log that stops reading does not delay responses.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use lab::{Lab, flows};
use log::{LevelFilter, Log, Metadata, Record};
use nfct::{Protocol, Query};
use pynatconnd::clock::SystemClock;
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

/// A log whose reader has stopped: it blocks the writer of the line about lost events.
struct Stalled {
    held: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Log for Stalled {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.args().to_string().contains("conntrack events lost") {
            self.held.lock().unwrap().send(()).unwrap();
            let _ = self.go_on.lock().unwrap().recv();
        }
    }

    fn flush(&self) {}
}

#[test]
fn a_log_that_nobody_reads_delays_no_response() {
    static LOG: OnceLock<Stalled> = OnceLock::new();
    if !lab::require() {
        return;
    }
    let (held, is_held) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let log = LOG.get_or_init(|| Stalled { held: Mutex::new(held), go_on: Mutex::new(may_go_on) });
    log::set_logger(log).expect("it is the only one");
    log::set_max_level(LevelFilter::Info);

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
    while is_held.try_recv().is_err() {
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
    drop(go_on);
    assert_eq!(found, Ok(Some(expected)));
}
