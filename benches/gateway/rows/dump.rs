//! Row 12: a dump of the complete table read into typed values, by nfct and by the C library's callback.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bench::{Bench, Gateway};
use crate::load;
use crate::machine;
use crate::peers::Peer;
use crate::report::{Row, Target, ratios};
use lab::Netns;

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let peer = compile()?;
    let gateway = Gateway::new();
    let netns = gateway.netns();
    let entries = bench.many(1_000_000);
    let few = entries / 10;
    load::make(netns, 0..few);
    let of_few = DumpFigures::by_nfct(netns)?.memory;
    load::make(netns, few..entries);

    let (mut ours, mut theirs, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    machine::on(&bench.cpus.measured, || {
        for round in 0..bench.rounds(5) {
            // The order alternates from round to round.
            if round % 2 == 0 {
                ours.push(DumpFigures::by_nfct(netns)?);
                theirs.push(DumpFigures::by_library(netns, &peer)?);
            } else {
                theirs.push(DumpFigures::by_library(netns, &peer)?);
                ours.push(DumpFigures::by_nfct(netns)?);
            }
            raw.push(unparsed(netns)?);
        }
        Ok::<_, String>(())
    })?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        if ours.entries != u64::from(entries) || (ours.entries, ours.sum) != (theirs.entries, theirs.sum) {
            return Err(format!("they did not read the same {entries} entries: {ours:?}, {theirs:?}"));
        }
    }
    let of =
        |reads: &[DumpFigures], field: fn(&DumpFigures) -> f64| reads.iter().map(field).collect::<Vec<_>>();
    let (our_time, their_time) = (of(&ours, |read| read.seconds), of(&theirs, |read| read.seconds));
    let memory = |read: &DumpFigures| read.memory;
    let row = Row::new("12", format!("a dump of {entries} entries read into typed values"))
        .figure("`Query::dump`", "s", &our_time)
        .figure("the C library's callback", "s", &their_time)
        .target("times the C library", "×", &ratios(&our_time, &their_time), Target::AtMost(0.6))
        .figure("raw dump, no parsing", "s", &raw)
        .figure("`Query::dump`, times the raw dump", "×", &ratios(&our_time, &raw))
        .figure("`Query::dump`, most memory", "KiB", &of(&ours, memory))
        .figure("the same with a tenth of the entries", "KiB", &[of_few])
        .figure("the C library, most memory", "KiB", &of(&theirs, memory));
    Ok(vec![row])
}

/// The seconds of a dump that is received and not parsed: what no reader can do without.
fn unparsed(netns: &Netns) -> Result<f64, String> {
    let output = Peer::Dump.start(netns).wait_with_output().map_err(|error| error.to_string())?.stdout;
    let output = String::from_utf8_lossy(&output);
    let seconds = output.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    seconds.ok_or_else(|| format!("found \"{output}\", expected entries and seconds"))
}

/// The output of a process that has read the table.
#[derive(Debug)]
struct DumpFigures {
    entries: u64,
    seconds: f64,
    sum: u64,
    /// `VmHWM`, KiB.
    memory: f64,
}

impl DumpFigures {
    fn by_nfct(netns: &Netns) -> Result<Self, String> {
        let child = Peer::Flows.start(netns);
        Self::parse(&child.wait_with_output().map_err(|error| error.to_string())?.stdout)
    }

    fn by_library(netns: &Netns, peer: &Path) -> Result<Self, String> {
        let output = netns.command(peer).output();
        Self::parse(&output.map_err(|error| format!("{} cannot be started: {error}", peer.display()))?.stdout)
    }

    fn parse(output: &[u8]) -> Result<Self, String> {
        let output = String::from_utf8_lossy(output);
        let mut words = output.split_whitespace();
        let mut read = || {
            Some(Self {
                entries: words.next()?.parse().ok()?,
                seconds: words.next()?.parse().ok()?,
                sum: words.next()?.parse().ok()?,
                memory: words.next()?.parse().ok()?,
            })
        };
        read().ok_or_else(|| format!("found \"{output}\", expected entries, seconds, a sum and KiB"))
    }
}

/// Builds the C side with the system's compiler.
fn compile() -> Result<PathBuf, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gateway/dump.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dump-c");
    let status = Command::new("cc")
        .args(["-O2", "-Wall", "-o"])
        .args([&program, &source])
        .args(["-lnetfilter_conntrack"])
        .status()
        .map_err(|error| format!("cc cannot be started: {error}"))?;
    if status.success() { Ok(program) } else { Err(format!("cc: {status}")) }
}
