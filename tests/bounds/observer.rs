//! Another client, which looks up a mapping all the time while there is a load, and the daemon's memory meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::StopOnDrop;
use lab::http::{Client, Response};

use super::scene::{Scene, is_long};

/// The number of the other client.
const OTHER: u8 = 200;
/// How long its lookups are measured without the load.
const USUAL: Duration = Duration::from_millis(500);
/// The pause between its lookups.
const PAUSE: Duration = Duration::from_millis(2);

/// Runs a load. Meanwhile the lookups of another client, on a kept connection and on new ones, must have the right
/// answer, and the health routes must respond. Returns the most memory of the daemon in bytes, and what the load
/// returned.
pub(crate) fn observe<T>(scene: &Scene, path: &str, src_ip: &str, load: impl FnOnce() -> T) -> (u64, T) {
    let usual = measure(scene, path, src_ip, || thread::sleep(USUAL)).0;
    let (times, most, value) = measure(scene, path, src_ip, load);
    report(usual, times);
    (most, value)
}

/// [`observe`], compared with the times of the same lookups during another load.
pub(crate) fn observe_after<T>(
    scene: &Scene,
    path: &str,
    src_ip: &str,
    usual: Vec<Duration>,
    load: impl FnOnce() -> T,
) -> (u64, T) {
    let (times, most, value) = measure(scene, path, src_ip, load);
    report(usual, times);
    (most, value)
}

/// Runs a load. Returns the times of the other client's lookups too.
pub(crate) fn measure<T>(
    scene: &Scene,
    path: &str,
    src_ip: &str,
    load: impl FnOnce() -> T,
) -> (Vec<Duration>, u64, T) {
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(scene.resident()));
    let (times, value) = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(scene.resident(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        let lookups = scope.spawn(|| look_up(scene, path, src_ip, &stop));
        let stopped = StopOnDrop(&stop);
        let value = load();
        drop(stopped);
        (lookups.join().expect("the other client gets its answers"), value)
    });
    (times, most.into_inner(), value)
}

/// Prints the times. With the full numbers, the 99th percentile must be short, unless the machine is so busy with
/// other work that it is long without the load too.
fn report(mut usual: Vec<Duration>, mut times: Vec<Duration>) {
    let p99 = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        (times[times.len() * 99 / 100], times[times.len() - 1])
    };
    let (usual_p99, _) = p99(&mut usual);
    let ((p99, longest), count) = (p99(&mut times), times.len());
    println!(
        "{count} lookups of another client: p99 {p99:?}, longest {longest:?}; p99 without the load {usual_p99:?}"
    );
    if is_long() {
        assert!(p99 < (2 * usual_p99).max(Duration::from_millis(10)), "p99 {p99:?}");
    }
}

fn look_up(scene: &Scene, path: &str, src_ip: &str, stop: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut client = scene.client(OTHER);
    for round in 0.. {
        if round % 64 == 0 {
            client = scene.client(OTHER);
            for path in ["/healthz", "/readyz", "/metrics"] {
                assert_eq!(ask(scene, &mut client, path).status, 200, "{path}");
            }
        }
        let begun = Instant::now();
        let response = ask(scene, &mut client, path);
        times.push(begun.elapsed());
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.json()["matches"][0]["src_ip"], src_ip);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
    }
    times
}

/// A connection that is idle for long is closed, also if this client is slow.
fn ask(scene: &Scene, client: &mut Client, path: &str) -> Response {
    client.try_request("GET", path, &[], b"").unwrap_or_else(|error: io::Error| {
        println!("{path}: {error}, once more");
        *client = scene.client(OTHER);
        client.get(path)
    })
}
