//! The files that the build creates with the binaries: manual pages without complaints from mandoc, and shell
//! completions, none missing or empty.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The build script's output directory.
const SHARE: &str = concat!(env!("OUT_DIR"), "/share");
const PAGES: [&str; 3] = ["check_pynatconnd.1", "pynatconnd.8", "pynatconnd.conf.5"];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(SHARE).join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn the_manual_pages_are_valid() {
    for page in PAGES {
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning", page]).current_dir(SHARE).output();
        let output = output
            .unwrap_or_else(|error| panic!("this test needs mandoc: {error}: `make setup test` installs it"));
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{page}: {said}");
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "EXIT STATUS", "SEE ALSO"] {
            let meant = match heading {
                "FILES" => page != "check_pynatconnd.1",
                "EXAMPLES" => page != "pynatconnd.8",
                "EXIT STATUS" => page != "pynatconnd.conf.5",
                _ => true,
            };
            let there = read(page).contains(&format!(".SH {heading}\n"))
                || read(page).contains(&format!(".SH \"{heading}\"\n"));
            assert_eq!(there, meant, "{page} {heading}");
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
        for script in [format!("{program}.bash"), format!("{program}.fish"), format!("_{program}")] {
            let text = read(&script);
            for option in &options {
                assert!(text.contains(option), "{script} lacks --{option}");
            }
        }
    }
}
