//! Blocks that are not run: `sh` blocks, whose commands need a separate machine, and `text` blocks, which are not
//! commands. Each is in a table here, with what is checked instead. One that is not in a table fails the test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use lab::Lab;
use tempfile::TempDir;

use super::blocks::{Block, is_shown_as};
use super::documents::{CONFIG_PATH, DAEMON, ROOT, exists, of_language, read, readme_config};

/// The check of a line that is not run, or of a text.
type Check<T> = fn(&T);

/// Lines of `sh` blocks that are not run: their beginning, the reason, and the check.
#[rustfmt::skip]
const NOT_RUN: &[(&str, &str, Check<str>)] = &[
    ("make ", "builds for minutes, or is what runs this", names_a_target_and_its_package),
    ("sudo apt install ", "changes the machine", names_a_package),
    ("sudo dnf install ", "changes a machine of another distribution", names_a_package),
    ("sudo systemctl ", "needs systemd and the package installed", names_the_unit),
    ("systemctl status ", "needs systemd and the package installed", names_the_unit),
    ("journalctl -u ", "needs systemd and the package installed", names_the_unit),
    ("sudoedit ", "waits for somebody who types", names_the_file),
    ("docker run ", "needs an image; its capabilities are tried without", runs_with_the_capabilities),
    ("podman run ", "needs an image; its capabilities are tried without", runs_with_the_capabilities),
    ("setpriv ", "runs until a signal ends it", runs_the_daemon),
    ("ip netns exec gateway ", "runs until a signal ends it", runs_the_daemon),
];

/// `text` blocks: a part of their text, and the check.
const TEXTS: &[(&str, Check<Block>)] = &[
    ("Which host is it? The server looks it up at the gateway:", is_what_the_demo_prints),
    ("src/daemon.rs", names_what_exists),
    ("define command {", has_options_that_exist),
    ("object CheckCommand", has_options_that_exist),
];

#[test]
fn commands_that_are_not_run_are_listed_and_checked() {
    if !lab::require() {
        return;
    }
    for block in of_language("sh") {
        for line in block.text.lines() {
            let listed = NOT_RUN.iter().find(|(begin, ..)| line.starts_with(begin));
            let (_, why, check) = listed.unwrap_or_else(|| {
                panic!("{}: \"{line}\" is not listed: use a console block, or add it to NOT_RUN in tests/docs/listed.rs", block.place)
            });
            check(line);
            println!("not run: {line} ({why})");
        }
    }
}

fn names_a_target_and_its_package(line: &str) {
    let target = line.split_whitespace().nth(1).expect("make has a target");
    let makefile = read("Makefile");
    assert!(makefile.lines().any(|rule| rule.starts_with(&format!("{target}:"))), "no target {target}");
    if line.contains("target/package") {
        names_a_package(line);
    }
}

fn names_a_package(line: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let spec = read("pynatconnd.spec");
    assert!(read("debian/changelog").starts_with(&format!("pynatconnd ({version}) ")), "debian/changelog");
    assert!(spec.contains(&format!("Version:        {version}\n")) && spec.contains("Release:        1%"));
    let packages = [format!("pynatconnd_{version}_amd64.deb"), format!("pynatconnd-{version}-1.x86_64.rpm")];
    let named = packages.iter().any(|name| line.contains(&format!(" ./target/package/{name}")));
    assert!(named, "{line}: expected one of {packages:?}");
}

fn names_the_unit(line: &str) {
    assert!(line.split_whitespace().any(|word| word == "pynatconnd"), "{line}");
    let unit = read("systemd/pynatconnd.service");
    assert!(unit.contains("ExecStart=/usr/bin/pynatconnd\n"), "{unit}");
    // In this order the daemon learns of an invalid file, and so do the metrics and the alert.
    let reload: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix("ExecReload=")).collect();
    assert_eq!(reload, ["/bin/kill -HUP $MAINPID", "/usr/bin/pynatconnd --check-config"]);
}

fn names_the_file(line: &str) {
    assert!(line.contains(CONFIG_PATH) && exists("pynatconnd.conf"), "{line}");
    assert!(
        read("Makefile").contains("/etc/pynatconnd.conf")
            || read("pynatconnd.spec").contains("pynatconnd.conf")
    );
}

/// Starts the daemon with the words before `pynatconnd -c`.
fn runs_the_daemon(line: &str) {
    let before = line.strip_suffix(&format!(" pynatconnd -c {CONFIG_PATH}")).expect("it starts the daemon");
    let lab = Lab::builder().build();
    // The built binary may be in a directory that only its owner can enter. A separate process makes the copy: a
    // child of another test could inherit a descriptor that is open for writing, and the copy could not be executed.
    let directory = TempDir::with_prefix("pynatconnd-docs-").expect("a temporary directory can be created");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))
        .expect("the directory belongs to this user");
    let copy = directory.path().join("pynatconnd");
    let copied = Command::new("install").args(["-m", "755", DAEMON.path()]).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program can be copied");
    let gateway = lab.gateway().name().to_owned();
    let words = before.split_whitespace().map(|word| if word == "gateway" { &gateway } else { word });
    let words: Vec<_> = words.map(str::to_owned).collect();
    let builder = DAEMON.builder(readme_config()).program(copy).under(words);
    // `ip netns exec` must enter the namespace itself.
    let started_from = if line.starts_with("ip netns") { lab.client() } else { lab.gateway() };
    let daemon = builder.start(started_from);
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let _open = lab.connect_to(&server, lab.client_at(0, 40001));
    let answer = lab::http::get(lab.server(), daemon.addr_on(lab.public(0)), "/nat_port/40001");
    assert_eq!(answer.json()["src_ip"], "192.168.7.2", "{line}");
}

/// Root with no capability except the added one.
fn runs_with_the_capabilities(line: &str) {
    for part in ["--network host", "--cap-drop all", "--cap-add NET_ADMIN", CONFIG_PATH] {
        assert!(line.contains(part), "{line}: no {part}");
    }
    runs_the_daemon(&format!(
        "setpriv --bounding-set=-all,+net_admin --inh-caps=-all pynatconnd -c {CONFIG_PATH}"
    ));
}

#[test]
fn texts_are_true() {
    if !lab::require() {
        return;
    }
    for block in of_language("text") {
        let known = TEXTS.iter().find(|(part, _)| block.text.contains(part));
        let (_, check) = known.unwrap_or_else(|| {
            panic!("{}: a text without a check: add it to TEXTS, or make it a console block", block.place)
        });
        check(&block);
    }
}

fn is_what_the_demo_prints(block: &Block) {
    let output = Command::new(Path::new(ROOT).join("demo/run.sh")).args(["--built", DAEMON.path()]).output();
    let output = output.expect("the demo can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_shown_as(&printed, &block.text), "{}: the demo prints:\n{printed}", block.place);
}

fn names_what_exists(block: &Block) {
    for line in block.text.lines() {
        for name in line.split_whitespace().take_while(|name| name.contains(['/', '.'])) {
            assert!(exists(name), "{}: there is no {name}", block.place);
        }
    }
}

fn has_options_that_exist(block: &Block) {
    let help = Command::new(env!("CARGO_BIN_EXE_check_pynatconnd")).arg("--help").output();
    let help = String::from_utf8(help.expect("it can be started").stdout).expect("it is text");
    assert!(block.text.contains("/usr/bin/check_pynatconnd"), "{}", block.place);
    let words = block.text.split([' ', '"', '\n']);
    for option in words.filter(|word| word.len() == 2 && word.starts_with('-')) {
        assert!(help.contains(&format!("  {option}, ")), "{}: there is no option {option}", block.place);
    }
}
