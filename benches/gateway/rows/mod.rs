//! The rows of the table, a file each or a file for those that share a set-up.

mod answer;
pub mod dump;
mod events;
mod http;
mod idle;
mod lock;
mod memory;
mod start;

use std::thread;
use std::time::{Duration, Instant};

use crate::load;
use crate::machine::Cpus;
use crate::report::Row;
use lab::http::Client;
use lab::{Daemon, DaemonBinary, Lab, Netns};

/// The daemon that is measured.
const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Tracks everything and answers this machine and the server.
pub const CONFIG: &str = "\
[data]
key_name = nat_port

[http_server]
host = 0.0.0.0
port = 8080
ip_acl = 127.0.0.0/8, 198.51.100.0/24
";

/// How long the kernel's table may take to be read.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to measure.
pub struct Bench {
    pub quick: bool,
    pub rounds: Option<usize>,
    pub cpus: Cpus,
}

impl Bench {
    /// How often each thing is measured: `usual` times, unless said otherwise.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { usual })
    }

    /// So many, or a tenth of it for a rehearsal.
    pub fn many(&self, many: u32) -> u32 {
        if self.quick { many / 10 } else { many }
    }
}

/// What can be chosen: rows that are measured together.
pub struct Measurement {
    pub name: &'static str,
    numbers: &'static [&'static str],
    pub what: &'static str,
    /// Measures, or says what this machine lacks for it.
    pub measure: fn(&Bench) -> Result<Vec<Row>, String>,
}

pub const ROWS: [Measurement; 12] = [
    Measurement {
        name: "events",
        numbers: &["1"],
        what: "CPU for one event, against recvmmsg",
        measure: events::against_the_limit,
    },
    Measurement {
        name: "events-tool",
        numbers: &["2"],
        what: "CPU for one event, against conntrack -E",
        measure: events::against_conntrack,
    },
    Measurement {
        name: "filter",
        numbers: &["3"],
        what: "CPU for events that do not match [filter]",
        measure: events::filtered,
    },
    Measurement {
        name: "burst",
        numbers: &["4"],
        what: "a burst of NEW and DESTROY at full speed, without loss",
        measure: events::burst,
    },
    Measurement {
        name: "start",
        numbers: &["5"],
        what: "start on a full table, against a raw dump and conntrack -L",
        measure: start::measure,
    },
    Measurement {
        name: "http",
        numbers: &["6"],
        what: "look-ups a second, against nginx",
        measure: http::at_rest,
    },
    Measurement {
        name: "http-load",
        numbers: &["7"],
        what: "look-ups a second while flows arrive",
        measure: http::under_load,
    },
    Measurement {
        name: "memory",
        numbers: &["8"],
        what: "resident memory for one mapping",
        measure: memory::measure,
    },
    Measurement {
        name: "answer",
        numbers: &["9"],
        what: "from a packet's arrival to the answer, through real NAT",
        measure: answer::measure,
    },
    Measurement {
        name: "lock",
        numbers: &["10"],
        what: "the longest look-up while the table works",
        measure: lock::measure,
    },
    Measurement { name: "idle", numbers: &["11"], what: "CPU when nothing happens", measure: idle::measure },
    Measurement {
        name: "dump",
        numbers: &["12"],
        what: "a dump read into typed values, against the C library's callback",
        measure: dump::measure,
    },
];

/// The rows that a list names, all for an empty one; or the name that nobody knows.
pub fn choose(list: &str) -> Result<Vec<&'static Measurement>, String> {
    let asked: Vec<&str> = list.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    let names = |row: &Measurement, name: &str| row.name == name || row.numbers.contains(&name);
    if let Some(unknown) = asked.iter().find(|name| !ROWS.iter().any(|row| names(row, name))) {
        return Err((*unknown).to_owned());
    }
    Ok(ROWS.iter().filter(|row| asked.is_empty() || asked.iter().any(|name| names(row, name))).collect())
}

/// Waits until a daemon has read the kernel's table.
pub fn wait_ready(netns: &Netns, daemon: &Daemon) {
    let mut client = Client::connect(netns, daemon.local_addr());
    let start = Instant::now();
    while client.get("/readyz").status != 200 {
        assert!(start.elapsed() < PATIENCE, "the daemon does not get ready");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A gateway whose table is emptied before it goes, which would else be done behind the next row's back.
pub struct Gateway(Lab);

impl Gateway {
    pub fn new() -> Self {
        Self(Lab::builder().clients(4).build())
    }

    pub fn lab(&self) -> &Lab {
        &self.0
    }

    pub fn netns(&self) -> &Netns {
        self.0.gateway()
    }

    /// A daemon that follows it, and has read the kernel's table.
    pub fn daemon(&self, config: &str) -> Daemon {
        let daemon = DAEMON.start(self.netns(), config);
        wait_ready(self.netns(), &daemon);
        daemon
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        load::flush(self.netns());
    }
}
