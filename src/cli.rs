//! The command line. The build script compiles this file too, to make the
//! manual page and the shell completions, so it uses only clap.

use std::path::PathBuf;

use clap::Parser;

/// HTTP service that finds the inside host behind a public address and port of this NAT gateway
///
/// pynatconnd follows the kernel's connection tracking on a NAT gateway and serves lookups over HTTP: from a
/// public address or port to the inside host that uses it. It requires CAP_NET_ADMIN and runs in the
/// foreground. It logs to standard error, and to syslog if the configuration has a [syslog] section.
#[derive(Debug, Clone, Parser)]
#[command(name = "pynatconnd", disable_version_flag = true)]
pub struct Cli {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/pynatconnd.conf")]
    pub config: PathBuf,

    /// Log level, 0 to 10 or error, warn, info, debug or trace; overrides the file
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Address or host name to listen on; overrides the file
    #[arg(short, long, value_name = "ADDRESS")]
    pub ip: Option<String>,

    /// Port to listen on; overrides the file
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Check the file, print the configuration with all defaults, and exit: 0 if it is valid, 78 if not
    #[arg(long)]
    pub check_config: bool,

    /// Print the version, and the version of libnetfilter_conntrack that it was built with
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// More sections of the manual page.
pub const MANUAL: &[(&str, &[&str])] = &[
    (
        "SIGNALS",
        &[
            "SIGHUP reloads the configuration file. The table and open connections stay. If the file is not \
             valid, nothing changes.",
            "SIGTERM and SIGINT stop the daemon. Open requests have join_timeout to finish.",
        ],
    ),
    (
        "EXIT STATUS",
        &[
            "0: stopped by a signal, or the file is valid (--check-config).",
            "64: the command line is not valid.",
            "69: the kernel's conntrack netlink interface is missing (modprobe nf_conntrack_netlink).",
            "70: the daemon can no longer follow the kernel's connection tracking.",
            "71: a system call failed; in most cases the address or port is not available.",
            "77: CAP_NET_ADMIN is missing.",
            "78: the configuration file is missing or not valid.",
        ],
    ),
    ("FILES", &["/etc/pynatconnd.conf"]),
    ("SEE ALSO", &["pynatconnd.conf(5), check_pynatconnd(1), conntrack(8)"]),
];
