//! The table of known keys. Reading a file, suggesting names and writing a file all walk it, so that a new
//! key is a row here, a field in its section's type, and a reader in `values` if its kind is new.

use std::time::Duration;

use super::{
    Config, Data, Filter, Http, Key, LogLevel, Netlink,
    acl::networks,
    defaults,
    dialect::Value,
    values::{
        Bytes, Expected, Notes, Written, address, boolean, buffer, facility, host, interval, key_name,
        listening_port, log_level, port, seconds,
    },
};

/// One known key.
pub(super) struct Row {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    pub(super) default: Absent,
    /// Reads a value into its field.
    pub(super) read: fn(&mut Config, &Value, &mut Notes) -> Result<(), Expected>,
    /// The field as a file has it; `None` where the file is to leave it out.
    pub(super) write: fn(&Config) -> Option<String>,
}

/// What it means when a file leaves a key out.
pub(super) enum Absent {
    /// The same as this text.
    Means(&'static str),
    /// The field stays empty.
    Unset,
    /// The file can't be used; this is what it should have had.
    Refused(&'static str),
}

use Absent::{Means, Refused, Unset};

/// `"section" "key" (if left out) = reader => field`
macro_rules! row {
    ($section:literal $key:literal ($default:expr) = $reader:ident => $($field:ident).+) => {
        Row {
            section: $section,
            key: $key,
            default: $default,
            read: |config, value, notes| {
                config.$($field).+ = $reader(value, notes)?.into();
                Ok(())
            },
            write: |config| config.$($field).+.written(),
        }
    };
}

/// All known keys, in the order that they are written.
pub(super) const ROWS: &[Row] = &[
    Row {
        section: SYSLOG,
        key: "local_facility",
        default: Means(defaults::LOCAL_FACILITY),
        read: |config, value, notes| {
            let read = facility(value, notes)?;
            if let Some(syslog) = &mut config.syslog {
                syslog.local_facility = read;
            }
            Ok(())
        },
        write: |config| config.syslog.and_then(|syslog| syslog.local_facility.written()),
    },
    Row {
        // Written only with the section, as its mere presence turns syslog on.
        write: |config| config.syslog.and_then(|_| config.log_level.written()),
        ..row!("syslog" "debug_level" (Means(defaults::DEBUG_LEVEL)) = log_level => log_level)
    },
    row!("filter" "src_ip" (Unset) = address => filter.src_ip),
    row!("filter" "src_port" (Unset) = port => filter.src_port),
    row!("filter" "nat_ip" (Unset) = address => filter.nat_ip),
    row!("filter" "nat_port" (Unset) = port => filter.nat_port),
    row!("filter" "dst_ip" (Unset) = address => filter.dst_ip),
    row!("filter" "dst_port" (Unset) = port => filter.dst_port),
    row!("filter" "nat_only" (Means(defaults::NAT_ONLY)) = boolean => filter.nat_only),
    row!("data" "key_name" (Refused(Key::EXPECTED)) = key_name => data.key_name),
    row!("data" "del_delay" (Means(defaults::DEL_DELAY)) = seconds => data.del_delay),
    row!("data" "garbage_cleaner_interval" (Means(defaults::GARBAGE_CLEANER_INTERVAL))
        = interval => data.garbage_cleaner_interval),
    row!("data" "life_span" (Means(defaults::LIFE_SPAN)) = seconds => data.life_span),
    row!("data" "sweep_interval" (Means(defaults::SWEEP_INTERVAL)) = interval => data.sweep_interval),
    row!("netlink" "receive_buffer" (Means(defaults::RECEIVE_BUFFER)) = buffer => netlink.receive_buffer),
    row!("netlink" "receive_buffer_max" (Means(defaults::RECEIVE_BUFFER_MAX))
        = buffer => netlink.receive_buffer_max),
    row!("netlink" "reliable" (Means(defaults::RELIABLE)) = boolean => netlink.reliable),
    row!("threading" "join_timeout" (Means(defaults::JOIN_TIMEOUT)) = seconds => join_timeout),
    row!("http_server" "host" (Means(defaults::HOST)) = host => http.host),
    row!("http_server" "port" (Means(defaults::PORT)) = listening_port => http.port),
    row!("http_server" "ip_acl" (Means(defaults::IP_ACL)) = networks => http.ip_acl),
];

/// The section whose presence has a meaning of its own.
pub(super) const SYSLOG: &str = "syslog";

/// The known sections, in the order that they are written.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let starts = |at: &usize| *at == 0 || ROWS[at - 1].section != ROWS[*at].section;
    (0..ROWS.len()).filter(starts).map(|at| ROWS[at].section)
}

/// A configuration for the rows to fill: none of its values is meant.
pub(super) fn blank() -> Config {
    Config {
        syslog: None,
        log_level: LogLevel::ERRORS_ONLY,
        filter: Filter::default(),
        data: Data {
            key_name: Key::SrcIp,
            del_delay: Duration::ZERO,
            garbage_cleaner_interval: Duration::ZERO,
            life_span: Duration::ZERO,
            sweep_interval: Duration::ZERO,
        },
        netlink: Netlink { receive_buffer: Bytes(0), receive_buffer_max: Bytes(0), reliable: false },
        join_timeout: Duration::ZERO,
        http: Http { host: String::new(), port: 0, ip_acl: Vec::new() },
    }
}
