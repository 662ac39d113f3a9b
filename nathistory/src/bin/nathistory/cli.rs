//! The command line. A build script compiles this file too, to make the manual page and the shell completions,
//! so it uses only clap.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Read a history of NAT mappings
///
/// The program reads the directory that pynatconnd keeps its history in ([history] path), or a copy of it. It
/// needs no daemon, and changes nothing. While a daemon writes to the directory, what it has not
/// yet written down is not found.
#[derive(Debug, Clone, Parser)]
#[command(name = "nathistory", version, after_help = STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Check all files, and name each that is damaged, missing or was changed
    Verify {
        /// Directory of the history
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print how much there is, and what is not known
    Stats {
        /// Directory of the history
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print all mappings that were open during a span
    Export(Export),
    /// Print who was behind a public address and port
    Who(Who),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Export {
    /// Directory of the history
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Begin of the span, if not the begin of the history
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) from: Option<String>,

    /// End of the span, if not now
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) to: Option<String>,

    /// Format
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    pub(crate) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values, with a header
    Csv,
    /// One JSON object per line
    Ndjson,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Who {
    /// Directory of the history
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Public address and port: 203.0.113.5:40001, [2001:db8::5]:40001/udp; the port and the protocol can be missing
    #[arg(value_name = "ADDRESS:PORT/PROTOCOL")]
    pub(crate) end: String,

    /// The moment
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) at: String,

    /// How many seconds earlier or later it can have been
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub(crate) skew: String,
}

const STATUS: &str = "\
A TIME is 2026-11-21T09:13:00Z, 1795252380, '21/Nov/2026:10:13:00 +0100', '2026/11/21 10:13:00', \
'Nov 21 10:13:00', now or -5m, for example. Without an offset it is local time.

Exit status: 0 done, or somebody is found; 1 there are problems (verify), or nobody is found (who); 2 an error";

/// More sections of the manual page.
#[allow(dead_code, reason = "only a build script uses it")]
pub(crate) const MANUAL: &[(&str, &[&str])] = &[
    (
        "COMMANDS",
        &[
            "verify DIR: checks all files, and names each that is damaged, missing or was changed.",
            "stats DIR: prints how much there is, and what is not known. It reads all files.",
            "export DIR [--from TIME] [--to TIME] [--format csv|ndjson]: prints all mappings that were open during \
             the span, by default during all of the history. What is not known goes to standard error.",
            "who DIR ADDRESS[:PORT][/PROTOCOL] --at TIME [--skew SECONDS]: prints who was behind a public address \
             and port, from SECONDS before to SECONDS after TIME; 1 by default, up to 3600.",
        ],
    ),
    (
        "TIMES",
        &[
            "RFC 3339: 2026-11-21T09:13:00.385Z, 2026-11-21T10:13:00+01:00.",
            "A number since 1970: seconds, with or without a fraction; from 12 digits on milliseconds, from 15 \
             microseconds, from 18 nanoseconds.",
            "As logs write it: 21/Nov/2026:10:13:00 +0100 (access log of nginx and Apache), 2026/11/21 10:13:00 \
             (error log of nginx), Sat Nov 21 10:13:00.385 2026 (error log of Apache), 2026-11-21 10:13:00,385, \
             Nov 21 10:13:00 (syslog: the newest such moment).",
            "now, or before now: -90s, -5m, -2h, -3d, -1w.",
            "A time without an offset is in local time; the variable TZ names another zone.",
        ],
    ),
    (
        "EXIT STATUS",
        &[
            "0: done. For who: somebody is found.",
            "1: verify names problems; who finds nobody, which is certain only if it also prints that the history \
             is complete.",
            "2: the command line is not valid, or the directory cannot be read.",
        ],
    ),
    (
        "EXAMPLES",
        &[
            "nathistory verify /var/lib/pynatconnd/history",
            "nathistory who /var/lib/pynatconnd/history 203.0.113.5:40001/tcp --at '21/Nov/2026:10:13:00 +0100'",
        ],
    ),
    ("FILES", &["The directory that path in the section [history] of /etc/pynatconnd.conf names."]),
    ("SEE ALSO", &["pynatconnd(8), pynatconnd.conf(5)"]),
];
