//! The configuration as types: one for each section, with a field for each key.
//!
//! `Default` leaves every field empty or zero, for the rows of the table to fill. It is not a configuration to
//! run with: the defaults are in the table.

use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::IpNetwork;
use nfct::Protocol;

use super::{
    conditions::{AddressSet, Condition, PortRange},
    key::Key,
    level::LogLevel,
    values::ByteSize,
};

/// All settings: those of the file, and defaults for the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Logging to syslog.
    pub syslog: SyslogConfig,
    /// `[syslog] debug_level`, which applies to standard error too.
    pub log_level: LogLevel,
    /// Which connections are tracked.
    pub filter: FilterConfig,
    /// The lookup key, and how long mappings are kept.
    pub data: DataConfig,
    /// How events are received.
    pub netlink: NetlinkConfig,
    /// `[threading] join_timeout`: how long the daemon waits for open requests when it stops.
    pub join_timeout: Duration,
    /// Where the daemon listens, and which clients it serves.
    pub http: HttpConfig,
    /// Whether a history of mappings is kept, and where.
    pub history: HistoryConfig,
    /// What tells who the inside hosts are.
    pub names: NamesConfig,
}

/// The `[syslog]` section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyslogConfig {
    /// Whether the file has the section, even an empty one.
    pub enabled: bool,
    /// 0 to 7, for the facilities local0 to local7.
    pub local_facility: u8,
}

/// The `[filter]` section: a connection is tracked if it meets all conditions that are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterConfig {
    /// Address of the inside host, before translation.
    pub src_ip: Condition<AddressSet>,
    /// Port of the inside host, before translation.
    pub src_port: Condition<PortRange>,
    /// Public address, after translation.
    pub nat_ip: Condition<AddressSet>,
    /// Public port, after translation.
    pub nat_port: Condition<PortRange>,
    /// Address that the inside host connects to.
    pub dst_ip: Condition<AddressSet>,
    /// Port that the inside host connects to.
    pub dst_port: Condition<PortRange>,
    /// Transport protocol.
    pub protocol: Condition<Protocol>,
    /// Whether only translated connections are tracked.
    pub nat_only: bool,
}

/// The `[data]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataConfig {
    /// Key of the routes of the Python program.
    pub key_name: Key,
    /// How long a closed mapping is still reported.
    pub del_delay: Duration,
    /// Time between two cleanups, at least one second.
    pub garbage_cleaner_interval: Duration,
    /// Age at which a cleanup removes a closed mapping.
    pub life_span: Duration,
    /// Time between two comparisons of the table with the kernel's, at least one second.
    pub sweep_interval: Duration,
    /// The maximum number of closed mappings.
    pub max_closed: usize,
    /// The maximum number of live and closed mappings.
    pub max_mappings: usize,
}

/// The `[netlink]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetlinkConfig {
    /// Size of the receive buffer at the start.
    pub receive_buffer: ByteSize,
    /// Size to which overruns can increase it.
    pub receive_buffer_max: ByteSize,
    /// Whether the kernel drops packets instead of events when the receive buffer is full.
    pub reliable: bool,
}

/// The `[http_server]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// The address or host name to listen on. IPv6 addresses have no brackets.
    pub host: String,
    /// The port to listen on; with 0 the kernel chooses one.
    pub port: u16,
    /// The clients that are served, without host bits. An empty list allows no client.
    pub ip_acl: Vec<IpNetwork>,
    /// Connections served at a time.
    pub max_connections: usize,
    /// Streams served at a time.
    pub max_streams: usize,
}

/// The `[history]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryConfig {
    /// The directory. Without it no history is kept.
    pub path: Option<PathBuf>,
    /// How long entries can wait until they are durable, at least one second.
    pub sync_interval: Duration,
    /// After how many days history is removed; never without it.
    pub retention_days: Option<u32>,
    /// How large the history becomes before its oldest part is removed; any size without it.
    pub retention_bytes: Option<ByteSize>,
    /// Whether the history contains what inside hosts connected to.
    pub destinations: bool,
    /// The gateway's name in the history; the host name without it.
    pub gateway: Option<String>,
    /// Where queries of the history are noted; nowhere without it.
    pub audit: Option<Audit>,
}

/// Where queries of the history are noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// In syslog.
    Syslog,
    /// In this file.
    File(PathBuf),
}

/// The `[names]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamesConfig {
    /// The operator's own file.
    pub file: Option<PathBuf>,
    /// The Unix socket that takes lines such as those of the file.
    pub socket: Option<PathBuf>,
    /// Podman's Unix socket.
    pub podman: Option<PathBuf>,
    /// Docker's Unix socket.
    pub docker: Option<PathBuf>,
    /// The lease file of dnsmasq.
    pub dnsmasq: Option<PathBuf>,
    /// The lease files of Kea.
    pub kea: Paths,
    /// The lease files of ISC dhcpd.
    pub dhcpd: Paths,
    /// Whether the kernel's neighbour table is read.
    pub neighbours: bool,
    /// The clients that see names, without host bits. An empty list allows no client.
    pub acl: Vec<IpNetwork>,
    /// For how many days names of the past are kept; as long as the history without it.
    pub keep_days: Option<u32>,
    /// The most facts in memory.
    pub max_facts: usize,
}

/// Some paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths(pub Vec<PathBuf>);

/// A valid configuration, with warnings about its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// One line each, with file, line, section and key, in the order of the file.
    pub warnings: Vec<String>,
}
