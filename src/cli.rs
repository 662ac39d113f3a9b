//! The command line. The build script makes the manual page and the shell
//! completions from this file, so it uses nothing but clap.

use std::path::PathBuf;

use clap::Parser;

/// Answer over HTTP which inside host is behind this NAT gateway's public address and port
#[derive(Debug, Clone, Parser)]
#[command(name = "pynatconnd", disable_version_flag = true)]
pub struct Cli {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = "/etc/pynatconnd.conf")]
    pub config: PathBuf,

    /// How much to log: 0 to 10, or error, warn, info, debug, trace; overrides the file
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Address or host name to listen on; overrides the file
    #[arg(short, long, value_name = "ADDRESS")]
    pub ip: Option<String>,

    /// Port to listen on; overrides the file
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<u16>,

    /// Read the file, print what is in force, and end: 0 if it is good, 78 if not
    #[arg(long)]
    pub check_config: bool,

    /// Print the version, and that of the C library it was built against
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// Further sections of the manual page.
pub const MANUAL: &[(&str, &[&str])] = &[
    (
        "SIGNALS",
        &[
            "SIGHUP puts the file as it is now into force; the table and open connections stay. A file that can't \
             be used changes nothing.",
            "SIGTERM and SIGINT end the daemon; requests under way may finish within join_timeout.",
        ],
    ),
    (
        "EXIT STATUS",
        &[
            "0: told to end, or --check-config was content.",
            "64: the command line makes no sense.",
            "69: the kernel's conntrack netlink interface is missing (modprobe nf_conntrack_netlink).",
            "70: the kernel can't be followed any more.",
            "71: the system refused, mostly to bind the address.",
            "77: CAP_NET_ADMIN is missing.",
            "78: the configuration is missing or wrong.",
        ],
    ),
    ("FILES", &["/etc/pynatconnd.conf"]),
    ("SEE ALSO", &["pynatconnd.conf(5), check_pynatconnd(1), conntrack(8)"]),
];
