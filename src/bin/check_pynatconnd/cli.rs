//! The command line. The build script makes the manual page and the shell
//! completions from this file, so it uses nothing but clap.

use clap::Parser;

/// Check a pynatconnd daemon for Nagios, Icinga and the like
///
/// Asks the daemon for its metrics, prints one line with performance data, and ends with the status that says
/// how it is. It must be asked from an address in its ip_acl.
///
/// Checked is whether it answers, whether its table equals the kernel's (WARNING while it does not), and how
/// full the fullest of these is, in percent: the kernel's connection tracking table, and the ports of each
/// outside address and protocol, of which the kernel gives out 64512.
#[derive(Debug, Clone, Parser)]
#[command(name = "check_pynatconnd", version, after_help = STATUS)]
pub(crate) struct Cli {
    /// Address or host name of the daemon
    #[arg(short = 'H', long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) hostname: String,

    /// Port of the daemon
    #[arg(short, long, value_name = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,

    /// WARNING where the fullest is outside this range of percent
    #[arg(short, long, value_name = "RANGE", default_value = "80", allow_hyphen_values = true)]
    pub(crate) warning: String,

    /// CRITICAL where the fullest is outside this range of percent
    #[arg(short, long, value_name = "RANGE", default_value = "90", allow_hyphen_values = true)]
    pub(crate) critical: String,

    /// CRITICAL where the whole check takes longer than so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: String,
}

const STATUS: &str = "\
Exit status: 0 OK; 1 WARNING; 2 CRITICAL, also when nobody answers in time; 3 UNKNOWN, also for --help, \
--version and options that make no sense";

/// Further sections of the manual page.
#[allow(dead_code, reason = "for the build script")]
pub(crate) const MANUAL: &[(&str, &[&str])] = &[
    (
        "EXIT STATUS",
        &[
            "0 is OK, 1 WARNING.",
            "2 is CRITICAL, also when nobody answers in time, or what answers is no daemon in order.",
            "3 is UNKNOWN: the daemon refuses this host (add it to ip_acl), or has no metrics (it is older than \
             1.0); also for --help, --version and options that make no sense.",
        ],
    ),
    (
        "RANGES",
        &[
            "As the monitoring plugins' guidelines define them: 80 is from 0 to 80, 10: is 10 and more, ~:80 is \
             80 and less, 10:80 is from 10 to 80; @ before it means inside instead of outside.",
        ],
    ),
    (
        "PERFORMANCE DATA",
        &[
            "usage (what the ranges are for), mappings (live ones), conntrack (entries of the kernel's table, with \
             their limit), ports (in use on the fullest address and protocol), overruns (times that events were \
             lost since the daemon's start), time (what the answer took).",
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
