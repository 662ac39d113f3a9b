//! Row 8: the memory of a mapping.

use std::time::{Duration, Instant};

use crate::bench::{Bench, CONFIG, Gateway, PATIENCE};
use crate::load::{self, LASTING_V6};
use crate::meter::{self, Listener};
use crate::report::{Row, Target};
use lab::http::Client;
use lab::{Daemon, Netns};

/// Mappings that are added at each step.
const STEPS: [u32; 3] = [1_000_000, 2_000_000, 4_000_000];

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut samples = [const { Vec::new() }; 4];
    let (mut v6, mut indexed) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        let gateway = Gateway::new();
        let daemon = gateway.daemon(CONFIG);
        let listener = Listener::new(gateway.netns(), daemon.pid());
        samples[0].push(meter::resident(daemon.pid()) as f64 / f64::from(1 << 20));
        let mut made = 0;
        for (step, samples) in STEPS.iter().zip(&mut samples[1..]) {
            let mappings = bench.many(*step);
            load::make(gateway.netns(), made..mappings);
            listener.wait_drained();
            made = mappings;
            samples.push(meter::resident(daemon.pid()) as f64 / f64::from(mappings));
        }
        build_indexes(gateway.netns(), &daemon);
        indexed.push(meter::resident(daemon.pid()) as f64 / f64::from(made));
        assert_eq!(listener.dropped(), 0, "all were reported");
        drop(daemon);
        drop(gateway);

        let gateway = Gateway::new();
        let daemon = gateway.daemon(CONFIG);
        let listener = Listener::new(gateway.netns(), daemon.pid());
        let mappings = bench.many(STEPS[0]);
        load::make_of(&LASTING_V6, gateway.netns(), 0..mappings);
        listener.wait_drained();
        v6.push(meter::resident(daemon.pid()) as f64 / f64::from(mappings));
        assert_eq!(listener.dropped(), 0, "all were reported");
    }
    let of = |step: usize| bench.many(STEPS[step]);
    let [empty, one, two, four] = &samples;
    // The memory per mapping of the last two million, compared with the first two.
    let growth: Vec<f64> = two.iter().zip(four).map(|(two, four)| (2.0 * four - two) / two).collect();
    let row = Row::new("8", "resident memory for one mapping, the whole process")
        .target(format!("{} mappings", of(0)), "bytes", one, Target::AtMost(120.0))
        .target(format!("{} mappings of IPv6", of(0)), "bytes", &v6, Target::AtMost(180.0))
        .figure(format!("{} mappings", of(1)), "bytes", two)
        .figure(format!("{} mappings", of(2)), "bytes", four)
        .target("a mapping of the second half, times one of the first", "×", &growth, Target::AtMost(1.1))
        .figure(format!("{} mappings, after lookups by inside address and port", of(2)), "bytes", &indexed)
        .figure("the empty process", "MiB", empty);
    Ok(vec![row])
}

/// Looks up by inside address, and by inside address and port, until the daemon has the indexes for that.
fn build_indexes(netns: &Netns, daemon: &Daemon) {
    let mut client = Client::connect(netns, daemon.local_addr());
    for question in ["src_ip=10.0.0.1", "src_ip=10.0.0.1&src_port=20001"] {
        let deadline = Instant::now() + PATIENCE;
        // A lookup without an index scans the table, which takes much longer.
        let mut quick = 0;
        while quick < 5 {
            assert!(Instant::now() < deadline, "the index for {question} is not built");
            let begun = Instant::now();
            assert_eq!(client.get(&format!("/v1/lookup?{question}")).status, 200);
            quick = if begun.elapsed() < Duration::from_millis(5) { quick + 1 } else { 0 };
        }
    }
}
