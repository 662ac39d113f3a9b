//! Names are never wrong: DHCP servers give addresses to devices behind a real NAT, and take them back, while the daemon
//! follows. What a device's own DHCP client says is the truth. Each host that an answer calls certain must be it.
//!
//! Needs root, `ip`, `nft`, `bash`, `udhcpc` and a DHCP server; what is missing is skipped with a printed line.
//! `PYNATCONND_LONG=1` runs the full numbers.

mod clients;
mod devices;
mod judge;
mod privacy;
mod scene;
mod server;
mod story;
mod truth;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use lab::DaemonBinary;

use server::{DHCPD, DNSMASQ, KEA, Server};

pub(crate) const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Milliseconds since 1970.
pub(crate) type Millis = i64;

/// The wall clock.
pub(crate) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    since.as_millis() as Millis
}

/// A xorshift generator: the same numbers in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below this one.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}

fn is_long() -> bool {
    std::env::var_os("PYNATCONND_LONG").is_some()
}

pub(crate) fn amount<T>(usual: T, long: T) -> T {
    if is_long() { long } else { usual }
}

/// Whether the test can run here.
pub(crate) fn has(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let is_there = |program: &&&str| path.split(':').any(|folder| Path::new(folder).join(program).exists());
    if let Some(missing) = programs.iter().find(|program| !is_there(program)) {
        println!("skipped: {missing} is not installed");
        return false;
    }
    lab::require()
}

#[test]
fn dnsmasq() {
    run(&DNSMASQ);
}

#[test]
fn kea() {
    run(&KEA);
}

#[test]
fn dhcpd() {
    run(&DHCPD);
}

/// The devices of one server are enough for a machine with two processors.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn run(server: &'static Server) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if has(&["bash", "udhcpc", server.program]) {
        story::tell(server);
    }
}
