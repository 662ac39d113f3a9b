//! The command line. The build script compiles this file too, to make the
//! manual page and the shell completions, so it uses only clap.

use clap::Parser;

/// Check a pynatconnd daemon, as a plugin for Nagios, Icinga and similar systems
///
/// The check reads the daemon's metrics and prints one line with performance data. The exit status is the
/// result. The daemon must allow this host in ip_acl.
///
/// The result is CRITICAL if the daemon does not respond, and at least WARNING while its table is not complete.
/// It also depends on the usage in percent, which is the highest of: the kernel's connection tracking table,
/// and the ports of each public address and protocol (the kernel assigns 64512 of them).
#[derive(Debug, Clone, Parser)]
#[command(name = "check_pynatconnd", version, after_help = STATUS)]
pub(crate) struct Cli {
    /// Address or host name of the daemon
    #[arg(short = 'H', long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) hostname: String,

    /// Port of the daemon
    #[arg(short, long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,

    /// WARNING if the usage in percent is outside this range
    #[arg(short, long, value_name = "RANGE", default_value = "80", allow_hyphen_values = true)]
    pub(crate) warning: String,

    /// CRITICAL if the usage in percent is outside this range
    #[arg(short, long, value_name = "RANGE", default_value = "90", allow_hyphen_values = true)]
    pub(crate) critical: String,

    /// CRITICAL if the check takes longer than this
    #[arg(short, long, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: String,
}

const STATUS: &str = "\
Exit status: 0 OK; 1 WARNING; 2 CRITICAL, also if there is no response in time; 3 UNKNOWN, also for --help, \
--version and invalid options";

/// More sections of the manual page.
#[allow(dead_code, reason = "only the build script uses it")]
pub(crate) const MANUAL: &[(&str, &[&str])] = &[
    (
        "EXIT STATUS",
        &[
            "0 is OK, 1 WARNING.",
            "2 is CRITICAL, also if there is no response in time, or if the response is an error.",
            "3 is UNKNOWN: the daemon does not allow this host (add it to ip_acl), or has no metrics (it is older \
             than 1.0). The status is also 3 for --help, --version and invalid options.",
        ],
    ),
    (
        "RANGES",
        &[
            "Ranges follow the guidelines for monitoring plugins: 80 is 0 to 80, 10: is 10 or more, ~:80 is 80 or \
             less, 10:80 is 10 to 80. With @ in front, the alert is for values inside the range.",
        ],
    ),
    (
        "PERFORMANCE DATA",
        &[
            "usage (compared with the ranges), mappings (live mappings), conntrack (entries in the kernel's table, \
             with their limit), ports (in use on the address and protocol with most of them), overruns (number of \
             overruns since the daemon started), time (duration of the check).",
        ],
    ),
    (
        "EXAMPLES",
        &[
            "check_pynatconnd -H 100.64.2.1 -w 70 -c 85",
            "PYNATCONND OK: 2 mappings, connection tracking 0.0 % \
             full, ports of 100.64.2.1 tcp 0.0 % in use | usage=0.01%;70;85;0;100 mappings=2;;;0 \
             conntrack=26;;;0;262144 ports=2;;;0;64512 overruns=0c time=0.001209s;;;0",
        ],
    ),
    ("SEE ALSO", &["pynatconnd(8), pynatconnd.conf(5)"]),
];
