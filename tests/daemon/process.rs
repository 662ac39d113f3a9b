//! The process: how it reads its command line and configuration, starts and ends.

use std::fs::{self};
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::http::Client;
use nix::sys::signal::Signal;

use super::binary::DAEMON;
use super::usual::{
    TestConfig, USUAL, directory_with, fill, inside_host, shrink_buffers, stalled_client, status,
};

/// Runs the daemon to its end without a lab, for what it does before it uses the network.
fn run(args: &[&str]) -> (i32, String, String) {
    outcome(Command::new(DAEMON.path()).args(args).output().unwrap())
}

/// Exit status, standard output and standard error.
fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap_or_else(|| panic!("{}", output.status));
    (status, text(output.stdout), text(output.stderr))
}

#[test]
fn an_invalid_configuration_is_refused_with_place_and_reason() {
    for (ini, complaint) in [
        ("[data]\nkey_name = port\n", ":2: [data] key_name: found \"port\", expected one of "),
        ("[data]\nkey_name = nat_port\ndel_delay = soon\n", ":3: [data] del_delay: found \"soon\", "),
        ("[data]\n", ":1: [data] key_name: found nothing, expected "),
        ("", ": [data] key_name: found nothing, expected "),
        ("[data\nkey_name = nat_port\n", ":1: found \"[data\", expected "),
    ] {
        let (_directory, path) = directory_with(ini);
        for args in [&["-c", &path][..], &["--config", &path, "--check-config"]] {
            let (status, stdout, stderr) = run(args);
            assert_eq!((status, &*stdout), (78, ""), "{ini:?}: {stderr}");
            assert!(stderr.starts_with(&format!("pynatconnd: {path}{complaint}")), "{ini:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
    for args in [&["-c", "/nonexistent/x.conf"][..], &["-c", "/nonexistent/x.conf", "--check-config"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, &*stdout), (78, ""), "{stderr}");
        assert!(stderr.starts_with("pynatconnd: /nonexistent/x.conf: cannot be read: "), "{stderr}");
    }
}

#[test]
fn a_closed_output_is_no_error() {
    let config = ["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/pynatconnd.conf"), "--check-config"];
    for arguments in [&config[..], &["--version"], &["--help"], &["--nonsense"]] {
        let (unread, output) = UnixStream::pair().unwrap();
        drop(unread);
        let output = OwnedFd::from(output);
        let mut command = Command::new(DAEMON.path());
        command.args(arguments).stdout(output.try_clone().unwrap()).stderr(output);
        let status = command.status().unwrap();
        assert_eq!(status.code(), Some(if arguments == ["--nonsense"] { 64 } else { 0 }), "{arguments:?}");
    }
}

#[test]
fn check_config_prints_the_values_in_force() {
    let ini = "\
[syslog]
local_facility = 3
debug_level = 2
[filter]
dst_ip = 2001:db8::1
dst_port = 0443
[data]
key_name = src_ip
del_delay = 2.5
del_dealy = 3
[http_server]
ip_acl = 127.0.0.1/8, ::1
[extra]
";
    let (_directory, path) = directory_with(ini);
    let (status, shown, stderr) = run(&["-c", &path, "--check-config"]);
    assert_eq!(status, 0, "{stderr}");
    for line in [
        "local_facility = 3",
        "debug_level = 2",
        "dst_ip = 2001:db8::1",
        "dst_port = 443",
        "key_name = src_ip",
        "del_delay = 2.5",
        "garbage_cleaner_interval = 3600",
        "life_span = 3600",
        "join_timeout = 5",
        "host = 127.0.0.1",
        "port = 8080",
        "ip_acl = 127.0.0.0/8, ::1/128",
    ] {
        assert_eq!(shown.lines().filter(|shown| *shown == line).count(), 1, "{line}: {shown}");
    }
    assert!(!shown.contains("src_port") && !shown.contains("del_dealy"), "{shown}");
    let warnings: Vec<_> = stderr.lines().collect();
    assert_eq!(warnings.len(), 3, "{stderr}");
    let expected = [
        ":10: [data] del_dealy: unknown key, ignored; did you mean del_delay?",
        ":12: [http_server] ip_acl: \"127.0.0.1/8\" has host bits, read as 127.0.0.0/8",
        ":13: [extra]: unknown section, ignored",
    ];
    for (warning, expected) in warnings.iter().zip(expected) {
        assert_eq!(*warning, format!("warning: {path}{expected}"));
    }

    // The output is a file with the same meaning and without warnings.
    let (_directory, again) = directory_with(&shown);
    assert_eq!(run(&["-c", &again, "--check-config"]), (0, shown.clone(), String::new()));
    // The command line is applied too.
    let (status, overridden, _) = run(&["-c", &path, "--check-config", "-l9", "-i", "::1", "-p", "81"]);
    assert_eq!(status, 0);
    let expected = shown
        .replace("debug_level = 2", "debug_level = 9")
        .replace("host = 127.0.0.1", "host = ::1")
        .replace("port = 8080", "port = 81");
    assert_eq!(overridden, expected);
}

#[test]
fn the_command_line_explains_errors_and_options() {
    for args in [&["--nonsense"][..], &["extra"], &["-p", "70000"], &["-p"], &["-c"]] {
        let (status, stdout, stderr) = run(args);
        assert_eq!((status, &*stdout), (64, ""), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    }
    let (_directory, path) = directory_with(&USUAL.ini());
    let (status, _, stderr) = run(&["-c", &path, "-l", "loud"]);
    assert_eq!(status, 64, "{stderr}");
    assert!(stderr.starts_with("pynatconnd: --log-level: found \"loud\", expected "), "{stderr}");

    let version = format!(
        "pynatconnd {} (libnetfilter_conntrack {})\n",
        env!("CARGO_PKG_VERSION"),
        nfct::LIBRARY_VERSION
    );
    for flag in ["-V", "--version"] {
        assert_eq!(run(&[flag]), (0, version.clone(), String::new()));
    }
    for flag in ["-h", "--help"] {
        let (status, stdout, stderr) = run(&[flag]);
        assert_eq!((status, &*stderr), (0, ""));
        for option in
            ["-c, --config", "-l, --log-level", "-i, --ip", "-p, --port", "--check-config", "-V, --version"]
        {
            assert!(stdout.contains(option), "{option}: {stdout}");
        }
    }
}

#[test]
fn an_address_that_cannot_be_bound_ends_the_daemon() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let ends_with = |args: &[&str], place: &str| {
        let (_directory, path) = directory_with(&USUAL.ini());
        let (status, _, stderr) =
            outcome(lab.gateway().command(DAEMON.path()).args(["-c", &path]).args(args).output().unwrap());
        assert_eq!(status, 71, "{stderr}");
        let line = stderr.lines().last().unwrap();
        assert!(line.contains(&format!("ERROR pynatconnd::daemon] cannot listen on {place}: ")), "{stderr}");
    };
    ends_with(&["-i", "203.0.113.9", "-p", "8080"], "203.0.113.9 port 8080");
    let taken = lab.gateway().enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    ends_with(&["-p", &port], &format!("127.0.0.1 port {port}"));
    drop(taken);
    // The port is free again, and the command line overrides the file.
    let ini = TestConfig { host: "203.0.113.9", ..USUAL }.ini();
    let daemon = DAEMON.builder(ini).arg("-i").arg("127.0.0.2").arg("--port").arg(&port).start(lab.gateway());
    assert_eq!(daemon.addr().to_string(), format!("127.0.0.2:{port}"));
    assert_eq!(status(&lab, &daemon, "/debug"), 200);
}

#[test]
fn cap_net_admin_is_required_and_sufficient() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let (directory, path) = directory_with(&USUAL.ini());
    let copy = directory.path().join("pynatconnd");
    // The built binary may be in a directory that only its owner can enter. A separate process makes the copy: a
    // child of another test could inherit a descriptor that is open for writing, and the copy could not be executed.
    let copied = Command::new("install").args(["-m", "755", DAEMON.path()]).arg(&copy).status();
    assert!(copied.unwrap().success());
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];

    let command = lab.gateway().command("setpriv").args(nobody).arg(&copy).args(["-c", &path]);
    let (status_without, _, stderr) = outcome(command.output().unwrap());
    assert_eq!(status_without, 77, "{stderr}");
    let line = stderr.lines().last().unwrap();
    assert!(line.contains("ERROR") && line.contains("CAP_NET_ADMIN"), "{stderr}");

    let with = ["setpriv", "--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--no-new-privs"];
    let daemon =
        DAEMON.builder(USUAL.ini()).program(&copy).under(with.into_iter().chain(nobody)).start(lab.gateway());
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let _open = lab.connect_to(&server, lab.client_at(0, 40001));
    assert_eq!(inside_host(&lab, &daemon, "/nat_port/40001"), "192.168.7.2 40001");
    assert_eq!(fs::metadata(format!("/proc/{}", daemon.pid())).unwrap().uid(), 65534);
}

#[test]
fn signals_end_the_daemon_whatever_clients_do() {
    if !lab::require() {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let lab = Lab::builder().build();
        shrink_buffers(&lab);
        let mut daemon = TestConfig { more: "[threading]\njoin_timeout = 1", ..USUAL }.start(&lab);
        fill(&lab, 3000);
        let mut idle = Client::connect(lab.gateway(), daemon.local_addr());
        assert_eq!(idle.get("/nat_port/1").status, 200);
        let silent = Client::connect(lab.gateway(), daemon.local_addr());
        let stuck = stalled_client(&lab, &daemon);

        let start = Instant::now();
        daemon.signal(signal);
        assert!(idle.is_closed());
        assert_eq!(daemon.wait().code(), Some(0), "{signal}");
        // Long before the timeout of the client that does not read.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(7), "{signal}: {took:?}");
        daemon.wait_for_line(&format!("{signal} received, stopping"));
        assert!(Client::try_connect(lab.gateway(), daemon.local_addr()).is_err());
        drop((silent, stuck));
    }
}

#[test]
fn a_response_in_progress_is_finished() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    shrink_buffers(&lab);
    let mut daemon = TestConfig { more: "[threading]\njoin_timeout = 60", ..USUAL }.start(&lab);
    fill(&lab, 3000);
    let mut reader = stalled_client(&lab, &daemon);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_line("SIGTERM received, stopping");
    // A slow reader, so that the daemon has something to wait for.
    let mut text = Vec::new();
    while (&mut reader).take(4096).read_to_end(&mut text).unwrap() > 0 {
        thread::sleep(Duration::from_millis(2));
    }
    assert!(text.ends_with(b"\n}\r\n0\r\n\r\n"), "{} bytes", text.len());
    assert_eq!(daemon.wait().code(), Some(0));
}
