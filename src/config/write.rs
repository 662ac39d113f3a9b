//! Writes a configuration as a file, with the crate `ini`.

use ini::{EscapePolicy, Ini, WriteOption};

use super::{
    table::{SYSLOG, keys},
    types::Config,
};

impl Config {
    /// Writes the configuration as a file. Reading the file gives an equal configuration.
    ///
    /// Without `[syslog]` the file has no place for a log level that the command line set.
    pub fn to_ini(&self) -> String {
        let mut ini = Ini::new();
        for (section, key) in keys().filter(|(section, _)| section.name != SYSLOG || self.syslog.enabled) {
            if let Some(value) = (key.field.write)(self) {
                ini.with_section(Some(section.name)).set(key.name, value);
            }
        }
        // The dialect has no escapes, and no value that is written here needs one.
        let options = WriteOption {
            escape_policy: EscapePolicy::Nothing,
            kv_separator: " = ",
            ..WriteOption::default()
        };
        let mut text = Vec::new();
        ini.write_to_opt(&mut text, options).expect("a vector accepts every write");
        String::from_utf8_lossy(&text).into_owned()
    }
}
