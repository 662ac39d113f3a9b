//! Row 11: the daemon's CPU time while nothing happens.

use std::thread;
use std::time::Duration;

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load;
use crate::meter::{self, Listener};
use crate::report::{Row, Target};

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let time = Duration::from_secs(if bench.quick { 2 } else { 20 });
    let gateway = Gateway::new();
    let daemon = gateway.daemon(CONFIG);
    load::make(gateway.netns(), 0..mappings);
    Listener::new(gateway.netns(), daemon.pid()).wait_drained();
    // Temporary threads have ended by then.
    thread::sleep(Duration::from_secs(1));
    let samples: Vec<f64> = (0..bench.rounds(3))
        .map(|_| {
            let before = meter::cpu(daemon.pid());
            thread::sleep(time);
            let spent = meter::cpu(daemon.pid()).saturating_sub(before);
            100.0 * spent.as_secs_f64() / time.as_secs_f64()
        })
        .collect();
    let row = Row::new("11", format!("CPU when idle with {mappings} mappings, between sweeps")).target(
        "pynatconnd",
        "% of a core",
        &samples,
        Target::AtMost(0.1),
    );
    Ok(vec![row])
}
