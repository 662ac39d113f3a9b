//! check_pynatconnd: a monitoring plugin for Nagios, Icinga and similar systems.
//!
//! `cli` has the options, `range` the thresholds, and `metrics` reads the metrics
//! from the daemon. This file computes the result. The plugin always prints one line
//! and ends with one of the four statuses.
#![forbid(unsafe_code)]

mod cli;
mod metrics;
mod range;

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use cli::Cli;
use metrics::{Metrics, label};
use range::Range;

/// Number of public ports that the kernel assigns to connections from ports above 1023.
const PORTS: f64 = 64512.0;

/// The results of a plugin, with their exit statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ServiceState {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

/// Why the check has no metrics to evaluate.
#[derive(Debug)]
struct CheckError {
    state: ServiceState,
    text: String,
}

impl CheckError {
    fn unknown(text: String) -> Self {
        Self { state: ServiceState::Unknown, text }
    }
}

fn main() -> ExitCode {
    let (state, text) = match Cli::try_parse() {
        Ok(cli) => match check(cli) {
            Ok(outcome) => outcome,
            Err(trouble) => (trouble.state, trouble.text),
        },
        Err(help) if matches!(help.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = help.print();
            return ExitCode::from(ServiceState::Unknown as u8);
        }
        Err(usage) => {
            (ServiceState::Unknown, usage.to_string().trim_start_matches("error: ").trim_end().to_owned())
        }
    };
    let word = format!("{state:?}").to_uppercase();
    // If standard output is closed, the exit status still has the result.
    let _ = writeln!(std::io::stdout(), "PYNATCONND {word}: {text}");
    ExitCode::from(state as u8)
}

fn check(cli: Cli) -> Result<(ServiceState, String), CheckError> {
    let range = |option, text: &str| {
        text.parse::<Range>().map_err(|error| CheckError::unknown(format!("{option}: {error}")))
    };
    let (warning, critical) = (range("--warning", &cli.warning)?, range("--critical", &cli.critical)?);
    let seconds = cli.timeout.parse().ok().filter(|seconds| (0.001..=3600.0).contains(seconds));
    let seconds: f64 = seconds.ok_or_else(|| {
        let found = &cli.timeout;
        CheckError::unknown(format!(
            "--timeout: found \"{found}\", expected seconds, more than 0 and at most 3600"
        ))
    })?;

    let host = cli.hostname.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = host.unwrap_or(&cli.hostname).to_owned();
    let begun = Instant::now();
    // A separate thread, so that the timeout covers every step, the resolution of the name included.
    let (sender, metrics) = mpsc::channel();
    let address = host.clone();
    thread::spawn(move || sender.send(Metrics::request(&address, cli.port)));
    let metrics = metrics.recv_timeout(Duration::from_secs_f64(seconds));
    let metrics = metrics.unwrap_or_else(|_| {
        let text = format!("no response from {host} port {} within {seconds} s", cli.port);
        Err(CheckError { state: ServiceState::Critical, text })
    })?;
    Ok(judge(&metrics, &warning, &critical, begun.elapsed()))
}

/// The result for these metrics, and the line that explains it.
fn judge(metrics: &Metrics, warning: &Range, critical: &Range, took: Duration) -> (ServiceState, String) {
    let complete = metrics.value("pynatconnd_table_complete") == Some(1.0);
    let live = metrics.samples("pynatconnd_mappings").find(|(labels, _)| label(labels, "state") == "live");
    let live = live.map_or(0.0, |(_, value)| value);
    let tracked = metrics.value("pynatconnd_conntrack_entries");
    let limit = metrics.value("pynatconnd_conntrack_entries_limit").filter(|limit| *limit > 0.0);
    let tracked = tracked.zip(limit);
    let ports = metrics.samples("pynatconnd_ports_in_use").max_by(|one, other| one.1.total_cmp(&other.1));

    let of_table = tracked.map(|(entries, limit)| entries / limit * 100.0);
    let of_ports = ports.map(|(_, used)| (used / PORTS * 100.0).min(100.0));
    let usage = of_table.into_iter().chain(of_ports).fold(0.0, f64::max);
    let state = if critical.alerts(usage) {
        ServiceState::Critical
    } else if warning.alerts(usage) || !complete {
        ServiceState::Warning
    } else {
        ServiceState::Ok
    };

    let mut text = format!("{live} mappings");
    if !complete {
        text += ", the table is not complete: a resync is in progress, or nf_conntrack_events is 0";
    }
    if let Some(of_table) = of_table {
        text += &format!(", connection tracking {of_table:.1} % full");
    }
    if let (Some((labels, _)), Some(of_ports)) = (ports, of_ports) {
        let (address, protocol) = (label(labels, "address"), label(labels, "protocol"));
        text += &format!(", ports of {address} {protocol} {of_ports:.1} % in use");
    }
    text += &format!(" | usage={usage:.2}%;{warning};{critical};0;100 mappings={live};;;0");
    if let Some((entries, limit)) = tracked {
        text += &format!(" conntrack={entries};;;0;{limit}");
    }
    let used = ports.map_or(0.0, |(_, used)| used);
    let overruns = metrics.value("pynatconnd_overruns_total").unwrap_or(0.0);
    text += &format!(" ports={used};;;0;{PORTS} overruns={overruns}c time={:.6}s;;;0", took.as_secs_f64());
    (state, text)
}
