//! `/v1/mappings` and `/debug`: readers that are slow.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::observer::observe;
use super::scene::{Scene, amount, numbered, statuses};

const LOOKUP: &str = "/v1/lookup?nat_ip=100.64.8.0&nat_port=10007";

/// Reads a little of each, so that the daemon does not disconnect them, for some time.
fn read_slowly(streams: &[TcpStream], time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        for mut stream in streams {
            stream.set_nonblocking(true).unwrap();
            let _ = stream.read(&mut [0; 512]);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn count(statuses: &[Option<u16>], wanted: u16) -> usize {
    statuses.iter().filter(|status| **status == Some(wanted)).count()
}

#[test]
fn slow_readers_of_the_mappings_cost_little_memory() {
    let Some(scene) = Scene::new("nat_port") else { return };
    let readers = amount(250, 1000);
    scene.fill(numbered, 0..amount(20_000, 300_000));
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, streams) = observe(&scene, LOOKUP, "10.0.0.7", || {
        let streams = scene.silent(1, readers, "GET /v1/mappings HTTP/1.1\r\nHost: a\r\n\r\n");
        let opened = statuses(&streams, Duration::from_secs(10));
        println!("{readers} readers: {} served, {} refused", count(&opened, 200), count(&opened, 503));
        assert_eq!((count(&opened, 200), count(&opened, 503)), (192, readers - 192));
        // Another client has a reserve.
        assert_eq!(scene.client(2).get("/v1/mappings?nat_port=10007").status, 200);
        read_slowly(&streams, amount(Duration::from_secs(2), Duration::from_secs(20)));
        streams
    });
    drop(streams);
    scene.check_memory(before, most, 0);
    scene.check_losses(lost);
}

#[test]
fn slow_readers_of_debug_cost_little_memory_and_get_the_same_bytes() {
    let Some(scene) = Scene::new("src_ip") else { return };
    let values: u32 = amount(40_000, 500_000);
    scene.fill(numbered, 0..values);
    let (before, lost) = (scene.resident(), scene.losses());
    let (most, streams) = observe(&scene, LOOKUP, "10.0.0.7", || {
        let streams = scene.silent(1, 20, "GET /debug HTTP/1.1\r\nHost: a\r\n\r\n");
        let opened = statuses(&streams, Duration::from_secs(30));
        println!("20 readers: {} served, {} refused", count(&opened, 200), count(&opened, 503));
        assert_eq!((count(&opened, 200), count(&opened, 503)), (12, 8));
        read_slowly(&streams, amount(Duration::from_secs(2), Duration::from_secs(20)));
        streams
    });
    drop(streams);
    scene.check_memory(before, most, 0);

    // All values are there, each once, in order.
    let body = scene.client(2).get("/debug");
    let text = body.text();
    let addresses = text.lines().filter_map(|line| line.strip_prefix("    \"")?.strip_suffix("\": {"));
    let addresses: Vec<std::net::Ipv4Addr> = addresses.map(|address| address.parse().unwrap()).collect();
    assert_eq!(addresses.len(), values as usize);
    assert!(addresses.is_sorted() && addresses.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(body.json().as_object().unwrap().len(), values as usize);
    drop(body);
    scene.check_losses(lost);
}
