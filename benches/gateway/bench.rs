//! What all rows share: the settings of a run, and a gateway with the daemon.

use std::thread;
use std::time::{Duration, Instant};

use lab::http::Client;
use lab::{Daemon, DaemonBinary, Lab, Netns};

use super::load;
use super::machine::Cpus;

/// The measured daemon.
pub const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Tracks everything and accepts requests from this machine and the server.
pub const CONFIG: &str = "\
[data]
key_name = nat_port

[http_server]
host = 0.0.0.0
port = 8080
ip_acl = 127.0.0.0/8, 198.51.100.0/24
";

/// The limit for reading the kernel's table.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The settings of a run.
pub struct Bench {
    pub quick: bool,
    pub rounds: Option<usize>,
    pub cpus: Cpus,
}

impl Bench {
    /// The number of rounds: `usual`, unless the environment sets it.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { usual })
    }

    /// This number, or a tenth of it for a quick run.
    pub fn many(&self, many: u32) -> u32 {
        if self.quick { many / 10 } else { many }
    }
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

/// A gateway whose table is flushed on drop; otherwise the kernel would do it during the next row.
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

    /// A daemon that has read its table.
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
