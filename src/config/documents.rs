//! The committed documents that come from the table: the sample file and the table in the operator's guide.
//!
//! The tests compare them with the table. `UPDATE=1 cargo test --lib config::documents` rewrites them.

use std::{env, fmt::Write, fs, path::Path};

use super::table::{KeyDefault, KnownKey, SECTIONS, Sample};

/// Columns of the sample file.
const WIDTH: usize = 78;

/// Lines that begin with this and continue with a space are prose, all others are settings.
const COMMENT: char = '#';

const INTRODUCTION: &str = "Configuration of pynatconnd. Lines that begin with # are comments. A setting that is \
    commented out shows its default, or an example if it has no default. To change a setting, remove the # in \
    front of it. Then check the file with \"pynatconnd --check-config\" and reload it with \"systemctl reload \
    pynatconnd\". pynatconnd.conf(5) has more about each setting.";

/// `pynatconnd.conf`.
pub(super) fn sample() -> String {
    let mut text = String::new();
    write_prose(&mut text, INTRODUCTION);
    for section in SECTIONS {
        text.push('\n');
        write_prose(&mut text, section.help);
        write_setting(&mut text, &format!("[{}]", section.name), section.sample != Sample::Nothing);
        for key in section.keys {
            let (note, value, is_set) = match key.default {
                KeyDefault::Is(default) => ("", default, section.sample == Sample::Keys),
                KeyDefault::Unset => (" No default.", key.example, false),
                KeyDefault::Required => (" Required.", key.example, true),
            };
            text.push('\n');
            write_prose(&mut text, &format!("{}{note}", key.help));
            write_prose(&mut text, &format!("Value: {}", key.expects));
            write_setting(&mut text, &format!("{} = {value}", key.name), is_set);
        }
    }
    text
}

/// Adds a comment, with line breaks between words.
fn write_prose(text: &mut String, prose: &str) {
    let mut line = String::from(COMMENT);
    for word in prose.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from(COMMENT);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

fn write_setting(text: &mut String, setting: &str, is_set: bool) {
    if !is_set {
        text.push(COMMENT);
    }
    text.push_str(setting);
    text.push('\n');
}

/// The table in `doc/OPERATIONS.md`.
fn guide_table() -> String {
    let mut text = "| section, key | default | meaning | value |\n| --- | --- | --- | --- |\n".to_owned();
    for section in SECTIONS {
        writeln!(text, "| **`[{}]`** | | {} | |", section.name, section.help).expect("a string accepts text");
        for KnownKey { name, expects, default, help, .. } in section.keys {
            let default = match default {
                KeyDefault::Is(default) => default,
                KeyDefault::Unset => "none",
                KeyDefault::Required => "required",
            };
            writeln!(text, "| `{name}` | {default} | {help} | {expects} |").expect("a string accepts text");
        }
    }
    text
}

/// The lines of the guide that enclose the table.
const BEGIN: &str = "<!-- begin: made from src/config/table.rs, see CONTRIBUTING.md -->\n";
const END: &str = "<!-- end -->\n";

/// Compares a committed file with what `change` makes of it, or rewrites the file.
fn check(name: &str, change: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let committed = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let current = change(&committed);
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, current).unwrap_or_else(|error| panic!("{name}: {error}"));
    } else {
        assert!(
            committed == current,
            "{name} differs from src/config/table.rs: `UPDATE=1 cargo test --lib config::documents` updates it"
        );
    }
}

#[test]
fn the_sample_file_equals_the_table() {
    check("pynatconnd.conf", |_| sample());
}

#[test]
fn the_guide_equals_the_table() {
    check("doc/OPERATIONS.md", |guide| {
        let (before, rest) = guide.split_once(BEGIN).expect("the guide has the begin marker");
        let (_, after) = rest.split_once(END).expect("the guide has the end marker");
        format!("{before}{BEGIN}{}{END}{after}", guide_table())
    });
}
