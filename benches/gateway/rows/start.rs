//! Row 5: from the start of the process until the table is complete.

use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

use crate::bench::{Bench, CONFIG, Gateway};
use crate::load;
use crate::peers::Peer;
use crate::report::{Row, Target, ratios};

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let entries = bench.many(1_000_000);
    load::make(netns, 0..entries);
    let (mut ours, mut raw, mut tool) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        let start = Instant::now();
        let mut dump = Peer::Dump.start(netns);
        let mut output = String::new();
        dump.stdout.take().expect("it is a pipe").read_to_string(&mut output).expect("its output is text");
        raw.push(start.elapsed().as_secs_f64());
        dump.wait().expect("it is our child");
        // Connections to the daemon are mappings too.
        assert!(
            output
                .split(' ')
                .next()
                .and_then(|dumped| dumped.parse().ok())
                .is_some_and(|dumped: u32| dumped >= entries),
            "a dump of {output} entries"
        );

        let start = Instant::now();
        let daemon = gateway.daemon(CONFIG);
        ours.push(start.elapsed().as_secs_f64());
        drop(daemon);

        let start = Instant::now();
        let command = netns.command("conntrack").arg("-L").stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|error| format!("conntrack cannot be started: {error}"))?;
        tool.push(start.elapsed().as_secs_f64());
        assert!(status.success(), "conntrack -L: {status}");
    }
    let row = Row::new("5", format!("start with {entries} entries until `/readyz` says yes"))
        .figure("pynatconnd", "s", &ours)
        .figure("raw dump, no parsing", "s", &raw)
        .target("times the raw dump", "×", &ratios(&ours, &raw), Target::AtMost(1.1))
        .figure("`conntrack -L`", "s", &tool)
        .target("times `conntrack -L`", "×", &ratios(&ours, &tool), Target::AtMost(0.6));
    Ok(vec![row])
}
