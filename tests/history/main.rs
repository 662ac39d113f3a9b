//! The history is true: a generator knows who held each public address and port, and when. Ports are reused as
//! fast as the kernel allows, while the daemon is reloaded, restarted, killed, and stopped until events are lost.
//! Then the history is asked about random moments. It never names a wrong host, and whatever it does not know
//! lies in a gap that its answer names.
//!
//! Needs root; without it each test prints a message and does nothing. `PYNATCONND_LONG=1` runs the full numbers.

mod disturbances;
mod generator;
mod judge;
mod life;
mod lossless;

use std::time::Duration;

use disturbances::Disturbances;
use generator::generate;
use judge::{Judge, wait_recorded};
use lab::{DaemonBinary, Lab};

const DAEMON: DaemonBinary = DaemonBinary::at(env!("CARGO_BIN_EXE_pynatconnd"));

/// Whether the full numbers are wanted.
fn is_long() -> bool {
    std::env::var_os("PYNATCONND_LONG").is_some()
}

fn amount<T>(usual: T, long: T) -> T {
    if is_long() { long } else { usual }
}

/// A run with the kernel's timestamps on or off. Returns what the judge found.
fn run(has_timestamps: bool) {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().ipv6().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_timestamp", if has_timestamps { "1" } else { "0" });
    let directory = tempfile::tempdir().expect("a temporary directory can be created");
    let flows = amount(20_000, 1_000_000);
    let rounds = amount(4, 60);
    let mut disturbances = Disturbances::start(&lab, directory.path());
    let lives = std::thread::scope(|scope| {
        let generated = scope.spawn(|| generate(&lab, flows, amount(2_000, 30_000)));
        for round in 0..rounds {
            if generated.is_finished() {
                break;
            }
            disturbances.disturb(round);
            std::thread::sleep(Duration::from_millis(300));
        }
        generated.join().expect("the flows were generated")
    });
    let (daemon, lost) = disturbances.finish();
    wait_recorded(&lab, &daemon);
    let questions = amount(2_000, 100_000);
    Judge::new(&lab, &daemon, &lives, has_timestamps).judge(questions, &lost);
}

#[test]
fn with_the_kernels_timestamps_each_answer_is_right_to_the_millisecond() {
    run(true);
}

#[test]
fn without_timestamps_each_answer_is_right_within_the_skew() {
    run(false);
}
