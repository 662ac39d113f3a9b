//! The configuration file: read and checked once, then available as types.
//!
//! The file has the format and the meaning that it had for the Python program. Some values that the Python
//! program accepted by mistake are errors here (a port of 70000, an unknown `key_name`). Some that it rejected
//! are accepted (an `ip_acl` with one entry and no comma, IPv6). Unknown names cause warnings, never errors.
//!
//! `table` has one row for each key; `field` connects a row to a field of the `types`, through the readers and
//! writers in `values`, `acl`, `conditions` and `history`. `dialect` parses the file. `load` goes through the table to read a
//! configuration, `names` warns about all other names, `contradictions` about values that do not go together, and `write` goes through the table to write one.
//! `key` and `level` are types that other modules use too, and `error` has the errors.

mod acl;
mod conditions;
mod contradictions;
mod dialect;
#[cfg(test)]
mod documents;
mod error;
mod field;
mod history;
mod key;
mod level;
mod load;
mod names;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod values;
mod write;

pub use conditions::{AddressSet, Condition, PortRange};
pub use error::{ConfigError, KeyLocation, Unknown};
pub use key::Key;
pub use level::LogLevel;
pub use types::{
    Audit, Config, DataConfig, FilterConfig, HistoryConfig, HttpConfig, Loaded, NamesConfig, NetlinkConfig,
    Paths, SyslogConfig,
};
pub use values::ByteSize;
