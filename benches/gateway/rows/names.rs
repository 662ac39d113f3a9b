//! Row 16: what the names of 100,000 hosts cost.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path as File;

use super::events::{Burst, Origin, send};
use super::http::{load_on, serving_as};
use crate::bench::{Bench, CONFIG, Gateway};
use crate::load::LASTING;
use crate::machine;
use crate::meter;
use crate::report::{Row, Target, ratios};
use crate::web::Path;
use lab::http::Client;

/// The hosts that have a name. A million connections are those of 10,000 of them.
const HOSTS: u32 = 100_000;
/// By public address and port: each lookup finds one mapping, of another host.
const LOOKUP: &str = "/v1/lookup?nat_ip=100.65.0.*&nat_port=";

/// Names each inside host in a file.
fn write_names(path: &File) -> std::io::Result<()> {
    let mut text = String::new();
    for number in 0..HOSTS {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + number);
        let [_, _, a, b] = number.to_be_bytes();
        let mac = format!("02:00:00:{:02x}:{a:02x}:{b:02x}", number >> 16);
        writeln!(text, "{address},host-{number},{mac},customer-{number}").expect("memory takes all");
    }
    fs::write(path, text)
}

pub fn measure(bench: &Bench) -> Result<Vec<Row>, String> {
    let mappings = bench.many(1_000_000);
    let directory = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"))?;
    let file = directory.path().join("names");
    write_names(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let configs = [CONFIG.to_owned(), format!("{CONFIG}[names]\nfile = {}\n", file.display())];
    // Those public addresses of which each port has a mapping.
    let lookup = Path(LOOKUP, (mappings / LASTING.ports().len() as u32).max(1));
    let (mut served, mut resident) = (<[Vec<f64>; 2]>::default(), <[Vec<f64>; 2]>::default());
    let mut bursts = <[Vec<Burst>; 2]>::default();
    for _ in 0..bench.rounds(5) {
        for (with, config) in configs.iter().enumerate() {
            let gateway = Gateway::new();
            let daemon = machine::on(&bench.cpus.measured, || gateway.daemon(config));
            if with == 1 {
                daemon.wait_for_line("names: file is followed");
            }
            resident[with].push(meter::resident(daemon.pid()) as f64);
            bursts[with].push(send(bench, &gateway, daemon.pid(), Origin::Entries, true));
            drop(daemon);
            drop(gateway);

            let (gateway, daemon) = serving_as(bench, mappings, config);
            let one = format!("{}1024", LOOKUP.replace('*', "1"));
            let answer = Client::connect(gateway.netns(), daemon.local_addr()).get(&one);
            assert_eq!(
                (answer.status, answer.text().contains("host-0")),
                (200, with == 1),
                "{}",
                answer.text()
            );
            served[with].push(load_on(bench, &gateway, daemon.local_addr(), &lookup)?.rate);
        }
    }
    let [without, with] = &served;
    let row = Row::new("16", format!("lookups with {mappings} mappings and the names of {HOSTS} hosts"))
        .figure("with names", "a second", with)
        .figure("without", "a second", without)
        .target("times without", "×", &ratios(with, without), Target::AtLeast(0.9));
    let each = |bursts: &[Burst]| bursts.iter().map(Burst::each).collect::<Vec<f64>>();
    let [without, with] = [each(&bursts[0]), each(&bursts[1])];
    let dropped: u64 = bursts.iter().flatten().map(|burst| burst.dropped).sum();
    let events = Row::new("16", "CPU for one event")
        .figure("with names", "µs", &with)
        .figure("without", "µs", &without)
        .figure("times without", "×", &ratios(&with, &without))
        .note(format!("dropped events: {dropped}"));
    let each: Vec<f64> = resident[1]
        .iter()
        .zip(&resident[0])
        .map(|(with, without)| (with - without) / f64::from(HOSTS))
        .collect();
    let memory = Row::new("16", "resident memory for one named host").figure("pynatconnd", "bytes", &each);
    Ok(vec![row, events, memory])
}
