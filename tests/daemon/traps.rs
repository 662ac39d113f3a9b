//! Configurations that look right and are not: refused, warned about, or read as they are meant.

use std::process::{Command, Output};

use lab::Lab;

use super::binary::DAEMON;
use super::usual::{TestConfig, USUAL, directory_with, status};

/// Runs the program, which must end by itself, and returns its exit status and what it writes to standard error.
fn run(ini: &str, options: &[&str]) -> (Option<i32>, String) {
    let (_directory, path) = directory_with(ini);
    let output = Command::new(DAEMON.path()).args(["-c", &path]).args(options).output();
    let Output { status, stderr, .. } = output.expect("it can be started");
    (status.code(), String::from_utf8(stderr).expect("it is text"))
}

#[test]
fn a_port_in_host_is_refused_with_the_two_keys() {
    for (host, keys) in [
        ("0.0.0.0:8080", "host = 0.0.0.0 and port = 8080"),
        ("[::1]:8080", "host = ::1 and port = 8080"),
        ("localhost:80", "host = localhost and port = 80"),
    ] {
        let ini = format!("[data]\nkey_name = nat_port\n[http_server]\nhost = {host}\n");
        for options in [&["--check-config"][..], &[]] {
            let (status, text) = run(&ini, options);
            assert!(status == Some(78) && text.trim_end().ends_with(&format!("write {keys}")), "{text}");
        }
        let (status, text) = run("[data]\nkey_name = nat_port\n", &["--check-config", "--ip", host]);
        assert!(status == Some(64) && text.trim_end().ends_with(&format!("write {keys}")), "{text}");
    }
}

#[test]
fn values_that_do_not_go_together_are_warned_about() {
    if !lab::require() {
        return;
    }
    for (filter, data, warning) in [
        (
            "",
            "del_delay = 600\nlife_span = 60",
            "del_delay (600) is more than life_span (60), so a cleanup removes",
        ),
        (
            "src_ip = 10.0.0.0/8\ndst_ip = 2001:db8::/32",
            "",
            "src_ip accepts only IPv4 and dst_ip only IPv6, so",
        ),
        (
            "nat_ip = 100.64.2.1, !100.64.0.0/16",
            "",
            "the exceptions leave no value, so no connection is tracked",
        ),
    ] {
        let config = TestConfig { filter, data, ..USUAL };
        let (status, text) = run(&config.ini(), &["--check-config"]);
        assert!(status == Some(0) && text.starts_with("warning: ") && text.contains(warning), "{text}");
        let lab = Lab::builder().build();
        config.start(&lab).wait_for_line(warning);
    }
}

#[test]
fn ipv4_that_is_written_as_ipv6_is_ipv4() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let server = lab.listen(lab.server_at(443));
    let acl = "::ffff:127.0.0.0/104";
    let daemon = TestConfig { filter: "nat_ip = ::ffff:100.64.2.1", acl, ..USUAL }.start(&lab);
    let connection = lab.connect_to(&server, lab.client_at(0, 40_001));
    assert_eq!(status(&lab, &daemon, &format!("/nat_port/{}", connection.peer.port())), 200);

    let ini = TestConfig { acl: "::ffff:127.0.0.0/90", ..USUAL }.ini();
    let (status, text) = run(&ini, &["--check-config"]);
    assert!(status == Some(78) && text.contains("has a prefix from 96 to 128"), "{text}");
}
