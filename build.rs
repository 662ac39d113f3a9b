//! Makes the manual pages and the shell completions from the definitions that
//! the programs use. Packages take them from `share/` in the build script's
//! output directory.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use table::{KeyDefault, SECTIONS};

#[allow(dead_code, unreachable_pub)]
#[path = "src/bin/check_pynatconnd/cli.rs"]
mod check;
#[allow(dead_code, unreachable_pub)]
#[path = "src/cli.rs"]
mod cli;
#[allow(dead_code, unreachable_pub)]
#[path = "nathistory/src/bin/nathistory/cli.rs"]
mod history;
#[path = "src/config/table.rs"]
mod table;

/// A stub for the module with which the table reads and writes values.
mod field {
    pub(crate) struct Field;
    macro_rules! field {
        ($($reader_and_field:tt)*) => {
            crate::field::Field
        };
    }
    pub(crate) use field;
}

/// Date of the last change of the manual pages.
const DATE: &str = "2026-11-26";
/// Name and version in the footers of the manual pages.
const SOURCE: &str = concat!("pynatconnd ", env!("CARGO_PKG_VERSION"));

fn main() -> io::Result<()> {
    for input in [
        "build.rs",
        "src/cli.rs",
        "src/bin/check_pynatconnd/cli.rs",
        "nathistory/src/bin/nathistory/cli.rs",
        "src/config/table.rs",
    ] {
        println!("cargo:rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("share");
    fs::create_dir_all(&out)?;
    program(cli::Cli::command(), "8", "System Manager's Manual", cli::MANUAL, &out)?;
    program(check::Cli::command(), "1", "User Commands", check::MANUAL, &out)?;
    program(history::Cli::command(), "1", "User Commands", history::MANUAL, &out)?;
    fs::write(out.join("pynatconnd.conf.5"), configuration())
}

/// The manual page and the completions of a program.
fn program(
    mut command: Command,
    section: &str,
    manual: &str,
    further: &[(&str, &[&str])],
    out: &Path,
) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, &name, out)?;
    }
    let page = Man::new(command).section(section).date(DATE).source(SOURCE).manual(manual);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    let mut rest = Roff::new();
    for (heading, paragraphs) in further {
        rest.control("SH", [*heading]);
        for (at, paragraph) in paragraphs.iter().enumerate() {
            if at > 0 {
                rest.control("PP", []);
            }
            rest.text([roman(*paragraph)]);
        }
    }
    rest.to_writer(&mut text)?;
    fs::write(out.join(format!("{name}.{section}")), text)
}

/// pynatconnd.conf(5), from the table of configuration keys.
fn configuration() -> String {
    let mut page = Roff::new();
    page.control("TH", ["pynatconnd.conf", "5", DATE, SOURCE, "File Formats Manual"]);
    page.control("SH", ["NAME"]).text([roman("pynatconnd.conf - configuration of pynatconnd")]);
    page.control("SH", ["SYNOPSIS"]).text([italic("/etc/pynatconnd.conf")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The file has sections and keys. A section begins with its name in brackets. A key has a line of the form \
         name = value. The format is that of ConfigObj, which the Python program used.",
    )]);
    for paragraph in [
        "# begins a comment; a semicolon does not. A value can be in single or double quotes, or in triple quotes \
         over several lines. Commas separate the members of a list; put a value that contains a comma in quotes. \
         %(name)s stands for the value of the key name in the same section, in its [[DEFAULT]] subsection, or in \
         an enclosing section. A key that occurs twice is an error. An unknown name causes a warning and is \
         ignored.",
        "pynatconnd --check-config checks the file and prints all keys that have a value, defaults included. \
         SIGHUP reloads the file. If the new file is not valid, nothing changes, and the log names the error.",
    ] {
        page.control("PP", []).text([roman(paragraph)]);
    }
    for section in SECTIONS {
        page.control("SH", [format!("[{}]", section.name).as_str()]).text([roman(section.help)]);
        for key in section.keys {
            page.control("TP", []).text([bold(key.name)]).text([roman(key.help)]);
            let default = match key.default {
                KeyDefault::Is(text) => vec![roman("Default: "), bold(text)],
                KeyDefault::Unset => vec![roman("Default: none")],
                KeyDefault::Required => vec![roman("Required")],
            };
            let example = vec![roman("Example: "), bold(format!("{} = {}", key.name, key.example))];
            let value = vec![roman("Value: "), roman(key.expects)];
            let reload = vec![roman("Reload: "), roman(key.reload)];
            for line in [value, default, example, reload] {
                page.control("IP", []).text(line);
            }
        }
    }
    page.control("SH", ["EXAMPLES"]);
    page.text([roman(
        "This file serves lookups from the server 198.51.100.1 for connections to its port 443:",
    )]);
    page.control("PP", []).control("nf", []);
    for line in EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []).control("SH", ["FILES"]).control("TP", []);
    page.text([italic("/etc/pynatconnd.conf")])
        .text([roman("The configuration file, unless --config names another one.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("pynatconnd"), roman("(8), "), bold("check_pynatconnd"), roman("(1)")]);
    page.render()
}

/// A file that fits most gateways.
const EXAMPLE: &str = "\
[filter]
nat_ip = 100.64.2.1
dst_ip = 198.51.100.1
dst_port = 443
[data]
key_name = nat_port
[http_server]
host = 0.0.0.0
ip_acl = 198.51.100.1, 127.0.0.1
";
