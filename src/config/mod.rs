//! The configuration file: read once at the edge, checked, and turned into types.
//!
//! The file is the one of the Python program, in the dialect of its reader ConfigObj, and means the same
//! here. What that program let through though it could not work (a port of 70000, an unknown `key_name`)
//! is refused, and some things that it refused are taken because they are plainly what a user wants (one
//! `ip_acl` entry without a comma, IPv6). Names that nobody knows are warned about, never fatal.
//!
//! The cut: `dialect` turns bytes into sections and raw values, `table` has one row for each known key,
//! `values` and `acl` read and write the kinds of values that rows use, `read` walks the table over a
//! document and `names` over what is left, `write` turns a [`Config`] back into a file. The types with a
//! meaning of their own are in `key` and `level`, what can go wrong in `error`. `manual` is what the manual page
//! says of each key.

use std::{net::IpAddr, path::Path, time::Duration};

use ipnetwork::IpNetwork;

mod acl;
pub mod defaults;
mod dialect;
mod error;
mod key;
mod level;
pub mod manual;
mod names;
mod read;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod write;

pub use error::{Error, Unknown};
pub use key::Key;
pub use level::LogLevel;
pub use values::Bytes;

/// Where the file is looked for unless the command line names another.
pub const DEFAULT_PATH: &str = "/etc/pynatconnd.conf";

/// Everything that the file says, with defaults where it says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Set when the file has a `[syslog]` section, even an empty one.
    pub syslog: Option<Syslog>,
    /// `[syslog] debug_level`; the default without that section.
    pub log_level: LogLevel,
    /// Which flows are tracked.
    pub filter: Filter,
    /// What is kept of them, under which key and for how long.
    pub data: Data,
    /// How the kernel is followed.
    pub netlink: Netlink,
    /// `[threading] join_timeout`: how long shutting down may take.
    pub join_timeout: Duration,
    /// Where questions are taken, and from whom.
    pub http: Http,
}

/// The `[syslog]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syslog {
    /// 0 to 7, for the facilities LOCAL0 to LOCAL7.
    pub local_facility: u8,
}

/// The `[filter]` section: a flow is tracked when it meets every condition that is set, so none set means
/// all flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// The inside host, before translation.
    pub src_ip: Option<IpAddr>,
    /// The inside host's port (for TCP, UDP and the like).
    pub src_port: Option<u16>,
    /// The public address that the inside host appears with.
    pub nat_ip: Option<IpAddr>,
    /// The public port that the inside host appears with.
    pub nat_port: Option<u16>,
    /// The outside host.
    pub dst_ip: Option<IpAddr>,
    /// The outside host's port.
    pub dst_port: Option<u16>,
    /// Whether flows that are not translated at all are left out.
    pub nat_only: bool,
}

/// The `[data]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// What flows are asked for by.
    pub key_name: Key,
    /// How long a flow is still known after its end.
    pub del_delay: Duration,
    /// Time between two searches for flows older than `life_span`; one second at least.
    pub garbage_cleaner_interval: Duration,
    /// How old a flow that the kernel no longer has must be to be forgotten then.
    pub life_span: Duration,
    /// Time between two comparisons of the table with the kernel's; one second at least.
    pub sweep_interval: Duration,
}

/// The `[netlink]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netlink {
    /// The event socket's receive buffer to begin with.
    pub receive_buffer: Bytes,
    /// What it may grow to when it was too small.
    pub receive_buffer_max: Bytes,
    /// Whether the kernel is to hold packets back rather than to lose an event.
    pub reliable: bool,
}

/// The `[http_server]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The address, or the name of one, to listen on; IPv6 without brackets.
    pub host: String,
    /// The port to listen on; 0 lets the kernel choose one.
    pub port: u16,
    /// Who may ask, without host bits; nobody if empty.
    pub ip_acl: Vec<IpNetwork>,
}

impl Http {
    /// Sets the host as the file's key does; brackets around IPv6 are dropped.
    ///
    /// # Errors
    /// With what was expected.
    pub fn set_host(&mut self, host: &str) -> Result<(), String> {
        self.host = values::host(&dialect::Value::Text(host.to_owned()), &mut Vec::new())?;
        Ok(())
    }
}

/// A configuration that can be used, and what about its file may not be as meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// One line each, with file, line, section and key, in the order of the file.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it can't be read, isn't in the dialect, lacks `key_name`, or has a value that makes no sense.
    pub fn load(path: &Path) -> Result<Loaded, Error> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(text) => Config::parse(&text, &name),
            Err(cause) => Err(Error::Unreadable { file: name, cause }),
        }
    }

    /// Checks a file's bytes; `name` stands for the file in errors and warnings.
    ///
    /// ```
    /// use pynatconnd::config::{Config, Key};
    ///
    /// let loaded = Config::parse(b"[data]\nkey_name = nat_port # the public port", "example").unwrap();
    /// assert_eq!(loaded.config.data.key_name, Key::NatPort);
    /// assert_eq!(loaded.config.http.port, 8080);
    ///
    /// let error = Config::parse(b"[data]\nkey_name = port", "example").unwrap_err();
    /// assert!(error.to_string().starts_with("example:2: [data] key_name: found \"port\", expected "));
    /// ```
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &[u8], name: &str) -> Result<Loaded, Error> {
        read::read(text, name)
    }

    /// Writes what is in force as a file that reads back to an equal configuration.
    ///
    /// Without [`Config::syslog`] there is no `[syslog]` section, and so no place for a log level that
    /// didn't come from a file.
    pub fn to_ini(&self) -> String {
        write::write(self)
    }
}

/// Every key that a file may have, in the order of [`Config::to_ini`]: section, key, and the text that is
/// taken when it is left out, if there is one.
pub fn known_keys() -> impl Iterator<Item = (&'static str, &'static str, Option<&'static str>)> {
    table::ROWS.iter().map(|row| {
        let default = match row.default {
            table::Absent::Means(text) => Some(text),
            table::Absent::Unset | table::Absent::Refused(_) => None,
        };
        (row.section, row.key, default)
    })
}
