//! The targets of the log: standard error by level, syslog, and the priorities for journald.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use lab::http::{self, Client};
use lab::{DaemonBuilder, Lab, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::binary::DAEMON;
use super::usual::{TestConfig, USUAL, directory_with, status};

#[test]
fn the_log_follows_the_level() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let unknown = TestConfig { more: "[threading]\njoin_timeuot = 1", ..USUAL }.ini();
    let start = |level: &str| {
        let builder = DAEMON.builder(&unknown);
        if level.is_empty() { builder } else { builder.arg("-l").arg(level) }
    };
    const WARNING: &str = "[threading] join_timeuot: unknown key, ignored; did you mean join_timeout?";

    let daemon = start("").start(lab.gateway());
    daemon.wait_for_line(WARNING);
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
    assert!(!daemon.stderr().contains("requests GET"), "{}", daemon.stderr());

    for level in ["debug", "6"] {
        let daemon = start(level).start(lab.gateway());
        assert_eq!(status(&lab, &daemon, "/debug"), 200);
        let line = daemon.wait_for_line("requests GET /debug");
        assert!(line.contains("127.0.0.1"), "{line}");
    }

    // Without the log line about the listener, the test must choose the port.
    for (level, warns) in [("warn", true), ("1", true), ("error", false), ("0", false)] {
        let mut daemon = start(level).arg("-p").arg("8765").spawn(lab.gateway());
        let address = "127.0.0.1:8765".parse().unwrap();
        wait_until("it responds", || Client::try_connect(lab.gateway(), address).is_ok());
        assert_eq!(http::get(lab.gateway(), address, "/debug").status, 200);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        let written = daemon.stderr();
        assert_eq!(
            (written.contains(WARNING), written.lines().count()),
            (warns, usize::from(warns)),
            "{written}"
        );
    }
}

/// Starts the daemon with another directory as /dev, in a private mount namespace.
fn with_dev(builder: DaemonBuilder, directory: &Path) -> DaemonBuilder {
    let script = "mount --bind \"$0\" /dev && exec \"$@\"";
    builder.under(["unshare", "--mount", "sh", "-c", script, directory.to_str().unwrap()])
}

#[test]
fn syslog_gets_the_lines_too() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let dev = TempDir::with_prefix("pynatconnd-").unwrap();
    let bind = || {
        let socket = UnixDatagram::bind(dev.path().join("log")).unwrap();
        socket.set_read_timeout(Some(lab::PATIENCE)).unwrap();
        socket
    };
    let receive = |socket: &UnixDatagram, text: &str| loop {
        let mut buffer = [0; 4096];
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
        let line = std::str::from_utf8(&buffer[..length]).unwrap();
        if line.contains(text) {
            return line.to_owned();
        }
    };

    let socket = bind();
    let more = "[syslog]\nlocal_facility = 3\ndebug_level = 6\n[threading]\nnonsense = 1";
    let ini = TestConfig { more, acl: "192.168.7.0/24", ..USUAL }.ini();
    let daemon = with_dev(DAEMON.builder(ini), dev.path()).start(lab.gateway());
    // Facility 16 + 3, eight severities each.
    for (priority, text) in [(19 * 8 + 4, "nonsense: unknown key"), (19 * 8 + 6, "listening on http://")] {
        let line = receive(&socket, text);
        assert!(line.starts_with(&format!("<{priority}>")), "{line}");
        assert!(line.contains(&format!("pynatconnd[{}]: ", daemon.pid())), "{line}");
        daemon.wait_for_line(text);
    }
    assert_eq!(status(&lab, &daemon, "/debug"), 403);
    assert!(receive(&socket, "refused 127.0.0.1 /debug").starts_with("<156>"));

    // The syslog daemon stops and starts again.
    drop(socket);
    fs::remove_file(dev.path().join("log")).unwrap();
    assert_eq!(status(&lab, &daemon, "/nagios"), 403);
    let socket = bind();
    assert_eq!(status(&lab, &daemon, "/1"), 403);
    // Of the refusals within one second, all but the first are logged at debug level.
    let line = receive(&socket, "refused 127.0.0.1 /1");
    assert!(line.starts_with("<156>") || line.starts_with("<159>"), "{line}");
}

#[test]
fn without_a_log_socket_the_daemon_warns_and_runs() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let empty = TempDir::with_prefix("pynatconnd-").unwrap();
    let ini = TestConfig { more: "[syslog]", ..USUAL }.ini();
    let daemon = with_dev(DAEMON.builder(ini), empty.path()).start(lab.gateway());
    daemon.wait_for_line("[syslog] is set, but there is no /dev/log");
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn journald_gets_priorities() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let ini = TestConfig { more: "[extra]", host: "203.0.113.9", ..USUAL }.ini();
    let (directory, path) = directory_with(&ini);
    // It ends at once, because the address does not exist.
    let written = |name: &str, stream: &dyn Fn(&File) -> String| {
        let log = File::create(directory.path().join(name)).unwrap();
        let command =
            lab.gateway().command(DAEMON.path()).args(["-c", &path]).env("JOURNAL_STREAM", stream(&log));
        assert_eq!(command.stderr(log.into()).status().unwrap().code(), Some(71));
        fs::read_to_string(directory.path().join(name)).unwrap()
    };
    let matching = written("matching", &|log| {
        let metadata = log.metadata().unwrap();
        format!("{}:{}", metadata.dev(), metadata.ino())
    });
    let lines: Vec<_> = matching.lines().collect();
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("<4>") && line.ends_with("[extra]: unknown section, ignored"))
    );
    assert!(lines.iter().any(|line| line.starts_with("<6>pynatconnd ")), "{matching}");
    // Not the file that systemd passed.
    let other = written("other", &|_| "1:1".to_owned());
    assert!(!other.lines().any(|line| line.starts_with('<')) && other.contains(" WARN "), "{other}");
}
