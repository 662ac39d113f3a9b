//! Makes what packages ship beside the binaries, from the definitions that the
//! programs themselves use: manual pages and shell completions. They land in
//! `share/` under the build script's output folder.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

#[allow(dead_code, unreachable_pub)]
#[path = "src/bin/check_pynatconnd/cli.rs"]
mod check;
#[allow(dead_code, unreachable_pub)]
#[path = "src/cli.rs"]
mod cli;
#[allow(dead_code, unreachable_pub)]
#[path = "src/config/manual.rs"]
mod manual;

/// When the pages were changed last.
const DATE: &str = "2026-11-21";
/// What the pages' footers name.
const SOURCE: &str = concat!("pynatconnd ", env!("CARGO_PKG_VERSION"));

fn main() -> io::Result<()> {
    for input in ["build.rs", "src/cli.rs", "src/bin/check_pynatconnd/cli.rs", "src/config/manual.rs"] {
        println!("cargo:rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("share");
    fs::create_dir_all(&out)?;
    program(cli::Cli::command(), "8", "System Manager's Manual", cli::MANUAL, &out)?;
    program(check::Cli::command(), "1", "User Commands", check::MANUAL, &out)?;
    fs::write(out.join("pynatconnd.conf.5"), configuration())
}

/// The page and the completions of a program.
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

/// pynatconnd.conf(5).
fn configuration() -> String {
    let mut page = Roff::new();
    page.control("TH", ["pynatconnd.conf", "5", DATE, SOURCE, "File Formats Manual"]);
    page.control("SH", ["NAME"]).text([roman("pynatconnd.conf - configuration of pynatconnd")]);
    page.control("SH", ["SYNOPSIS"]).text([italic("/etc/pynatconnd.conf")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The file has sections and keys, in the dialect of ConfigObj, which the Python program used. \
         A section begins with its name in brackets, a key is written as name = value.",
    )]);
    for paragraph in [
        "# begins a comment, ; does not. Values may be in single or double quotes, or over several lines in \
         triple quotes. Commas make a list: quote one that is meant. %(name)s is replaced by the value of that \
         key in the same section, its [[DEFAULT]], or the ones around it. A key that stands twice is an error. Unknown names are warned about and ignored.",
        "pynatconnd --check-config prints what is in force. SIGHUP reloads the file; one that can't be used \
         changes nothing, and the log says what is wrong with it.",
    ] {
        page.control("PP", []).text([roman(paragraph)]);
    }
    for section in manual::SECTIONS {
        page.control("SH", [format!("[{}]", section.name).as_str()]).text([roman(section.text)]);
        for key in section.keys {
            page.control("TP", []);
            page.text([bold(key.name), roman(" = "), italic(key.kind)]).text([roman(key.text)]);
            let default: Vec<Inline> = match key.default {
                manual::Absent::Is(text) => vec![roman("Default: "), bold(text), roman(".")],
                manual::Absent::Unset => vec![roman("Default: no condition.")],
                manual::Absent::Required => vec![roman("Required.")],
            };
            page.control("IP", []).text(default);
            page.control("IP", [])
                .text([roman("Example: "), bold(format!("{} = {}", key.name, key.example))]);
            page.control("IP", []).text([roman("Reload: "), roman(key.reload)]);
        }
    }
    page.control("SH", ["EXAMPLES"]);
    page.text([roman("Answers the server 198.51.100.1 for connections to its port 443:")]);
    page.control("PP", []).control("nf", []);
    for line in EXAMPLE.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []).control("SH", ["FILES"]).control("TP", []);
    page.text([italic("/etc/pynatconnd.conf")])
        .text([roman("Where the file is unless --config names another.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("pynatconnd"), roman("(8), "), bold("check_pynatconnd"), roman("(1)")]);
    page.render()
}

/// A file as most gateways need it.
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
