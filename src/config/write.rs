//! Writes a configuration as a file, from the table of known keys.

use ini::{EscapePolicy, Ini, LineSeparator, WriteOption};

use super::{Config, table::ROWS};

pub(super) fn write(config: &Config) -> String {
    let mut ini = Ini::new();
    for row in ROWS {
        if let Some(value) = (row.write)(config) {
            ini.with_section(Some(row.section)).set(row.key, value);
        }
    }
    let options = WriteOption {
        // The dialect knows no escapes; what is written here needs none.
        escape_policy: EscapePolicy::Nothing,
        // The name is misleading: this ends lines with a line feed.
        line_separator: LineSeparator::CR,
        kv_separator: " = ",
    };
    let mut text = Vec::new();
    ini.write_to_opt(&mut text, options).expect("a vector takes all that is written");
    String::from_utf8_lossy(&text).into_owned()
}
