//! The manual pages and the shell completions that the build makes: mandoc accepts each page, and the
//! completions have every option.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The output directory of the build script.
const SHARE: &str = concat!(env!("OUT_DIR"), "/share");
const PAGES: [&str; 4] = ["check_pynatconnd.1", "nathistory.1", "pynatconnd.8", "pynatconnd.conf.5"];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(SHARE).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn mandoc_accepts_every_page_and_all_sections_are_there() {
    for page in PAGES {
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning", page]).current_dir(SHARE).output();
        let output = output
            .unwrap_or_else(|error| panic!("this test needs mandoc: {error}: `make setup test` installs it"));
        let findings = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && findings.is_empty(), "{page}: {findings}");
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "EXIT STATUS", "SEE ALSO"] {
            let expected = match heading {
                "FILES" => page != "check_pynatconnd.1",
                "EXAMPLES" => page != "pynatconnd.8",
                "EXIT STATUS" => page != "pynatconnd.conf.5",
                _ => true,
            };
            let found = read(page).contains(&format!(".SH {heading}\n"))
                || read(page).contains(&format!(".SH \"{heading}\"\n"));
            assert_eq!(found, expected, "{page} {heading}");
        }
    }
}

#[test]
fn every_shell_completes_every_option() {
    for program in ["pynatconnd", "check_pynatconnd"] {
        let help = Command::new(match program {
            "pynatconnd" => env!("CARGO_BIN_EXE_pynatconnd"),
            _ => env!("CARGO_BIN_EXE_check_pynatconnd"),
        })
        .arg("--help")
        .output()
        .expect("the program can be started");
        let help = String::from_utf8(help.stdout).expect("it is text");
        let options: Vec<_> = help
            .lines()
            .filter(|line| line.trim_start().starts_with('-'))
            .filter_map(|line| line.split([' ', ',']).find_map(|word| word.strip_prefix("--")))
            .collect();
        assert!(options.len() > 4 && options.contains(&"help"), "{options:?}");
        check_completions(program, &options);
    }
    check_completions("nathistory", &["from", "to", "format", "ndjson", "at", "skew", "help", "version"]);
}

fn check_completions(program: &str, options: &[&str]) {
    for script in [format!("{program}.bash"), format!("{program}.fish"), format!("_{program}")] {
        let text = read(&script);
        for option in options {
            assert!(text.contains(option), "{script} lacks --{option}");
        }
    }
}
