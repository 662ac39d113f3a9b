//! Row 8: the memory of a mapping.

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load;
use crate::meter::{self, Listener};
use crate::report::{Row, Target};

/// Mappings that are added at each step.
const STEPS: [u32; 3] = [1_000_000, 2_000_000, 4_000_000];

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut samples = [const { Vec::new() }; 4];
    for _ in 0..bench.rounds(2) {
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
        assert_eq!(listener.dropped(), 0, "all were reported");
    }
    let of = |step: usize| bench.many(STEPS[step]);
    let [empty, one, two, four] = &samples;
    // The memory per mapping of the last two million, compared with the first two.
    let growth: Vec<f64> = two.iter().zip(four).map(|(two, four)| (2.0 * four - two) / two).collect();
    let row = Row::new("8", "resident memory for one mapping, the whole process")
        .target(format!("{} mappings", of(0)), "bytes", one, Target::AtMost(200.0))
        .figure(format!("{} mappings", of(1)), "bytes", two)
        .figure(format!("{} mappings", of(2)), "bytes", four)
        .target("a mapping of the second half, times one of the first", "×", &growth, Target::AtMost(1.1))
        .figure("the empty process", "MiB", empty);
    Ok(vec![row])
}
