//! `nathistory`: reads a history of NAT mappings without a daemon.
//!
//! `cli` is the command line. Each command has a file: `verify`, `stats`, `export` and `who`. `words` says what is
//! found in words.

mod cli;
mod export;
mod failure;
mod stats;
mod verify;
mod who;
mod words;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use nathistory::Millis;
use nathistory::log_time::Reference;

use cli::{Cli, Command};
use failure::Failure;

/// The status when something is wrong with the command line or the directory.
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let reference = Reference::local(Millis::try_from(now.as_millis()).unwrap_or(Millis::MAX));
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match &cli.command {
        Command::Verify { directory } => verify::run(directory, &mut out),
        Command::Stats { directory } => stats::run(directory, &reference, &mut out),
        Command::Export(options) => export::run(options, &reference, &mut out),
        Command::Who(options) => who::run(options, &reference, &mut out),
    };
    let done = done.and_then(|is_fine| out.flush().map(|()| is_fine).map_err(Failure::from));
    match done {
        Ok(is_fine) => ExitCode::from(u8::from(!is_fine)),
        // The reader of the output has enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed so far comes first.
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "nathistory: {failure}");
            ExitCode::from(ERROR)
        }
    }
}
