//! Benchmarks of the whole daemon, on gateways in network namespaces: `make bench`.
//!
//! Each row of the table is measured several times, the daemon and its peers in turn (A B A B), so that
//! other work of the machine affects both. doc/BENCHMARKS.md explains each row. Needs root.
//!
//! ```text
//! ROWS=events,http   only these rows, by name or number
//! QUICK=1            small numbers: to test that it works, not how fast it is
//! ROUNDS=7           number of rounds
//! ```
//!
//! `rows` has the measurements, `bench` what they share, `load` the load, `meter` the instruments, `peers`, `bare` and
//! `web` what the daemon is compared with, `machine` the machine, `report` the table.

#![allow(unreachable_pub, reason = "in a program, pub is for its other modules")]

mod bare;
mod bench;
mod load;
mod machine;
mod meter;
mod peers;
mod report;
mod rows;
mod web;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use bench::Bench;
use machine::{Cpus, KernelSettings};
use report::Report;
use rows::ROWS;

fn main() -> ExitCode {
    if let Some(code) = peers::run_if_asked() {
        return code;
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let quick = variable("QUICK").is_some_and(|value| value != "0");
    let rounds = variable("ROUNDS").and_then(|value| value.parse().ok()).filter(|rounds| *rounds > 0);
    let wanted = match rows::choose(&variable("ROWS").unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(unknown) => {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            eprintln!("ROWS: found \"{unknown}\", expected some of {}", known.join(", "));
            return ExitCode::from(64);
        }
    };

    machine::clean_up_on_signals();
    if let Some(lacking) = lab::requirements() {
        eprintln!("the benchmark needs {lacking}");
        return ExitCode::FAILURE;
    }
    // Only now: the settings exist once the rules of a gateway have loaded connection tracking.
    let settings = match KernelSettings::raise() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };

    let load = machine::load_average();
    if load > 0.5 {
        println!("The load average is {load}: something else runs here, and the figures will show it.");
    }
    let bench = Bench { quick, rounds, cpus: Cpus::split() };
    let mut report = Report::new(machine::describe(), quick);
    for row in wanted {
        println!("{}: {}", row.name, row.what);
        match catch_unwind(AssertUnwindSafe(|| (row.measure)(&bench))) {
            Ok(Ok(measured)) => report.add(measured),
            Ok(Err(lacking)) => report.fail(format!("{}: {lacking}", row.name)),
            Err(_) => report.fail(format!("{}: it failed, see above", row.name)),
        }
    }
    drop(settings);

    println!("\nThe table is in {}, figures.md and figures.json.", Report::directory().display());
    for missed in report.missed() {
        println!("missed: {missed}");
    }
    if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
