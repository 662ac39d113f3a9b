//! Apache: the application and the log ask.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use lab::http::Client;
use lab::{Lab, wait_until};

use super::check::lab;
use super::site::{CONFIG, WebServer, application, ask, inside, received_field, recipe, require, with_lines};
use crate::documents::DAEMON;

const MODULES: [&str; 5] = ["mpm_event", "authz_core", "headers", "proxy", "proxy_http"];

fn start(lab: &Lab, site: SocketAddr) -> WebServer {
    let directory = WebServer::directory();
    let path = directory.path().display().to_string();
    let program = directory.path().join("log-inside");
    fs::write(&program, recipe("python3", "x-nat-src-ip")).expect("it can be written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let modules =
        MODULES.map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
    let site_config = with_lines(
        &recipe("apache", "CustomLog"),
        "/usr/local/bin/log-inside /var/log/apache2/inside.log",
        &format!("{path}/log-inside {path}/inside.log"),
    );
    let config = format!(
        "ServerRoot {path}\nPidFile {path}/pid\nErrorLog {path}/error.log\nServerName site\nUser www-data\nGroup www-data\n\
         DefaultRuntimeDir {path}\n{}{site_config}",
        modules.concat()
    );
    let file = directory.path().join("apache2.conf");
    fs::write(&file, config).expect("it can be written");
    let args = ["-d", &path, "-f", &file.display().to_string(), "-DFOREGROUND"];
    WebServer::start(lab.server(), directory, "apache2", &args, site)
}

#[test]
fn apache_passes_the_address_and_port_and_its_log_has_the_inside_address() {
    const CLIENTS: u16 = 50;
    if !require("apache2", "apache2") {
        return;
    }
    let lab = lab();
    let site = lab.server_at(80);
    let application = application(&lab);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let apache = start(&lab, site);
    for number in 0..CLIENTS {
        let from = lab.client_at((number % 4) as u8, 40000 + number);
        let mut client = Client::over(lab.connect(from, site)).expect("it is open");
        let forged = [("X-Real-IP", "192.0.2.1"), ("X-Real-Port", "1"), ("X-Inside-IP", "192.0.2.1")];
        let answer = client.request("GET", &format!("/from/{from}"), &forged, b"");
        assert_eq!((inside(&answer), received_field(&answer, "X-Real-IP")), (None, Some("100.64.2.1")));
        // The application asks.
        let port = received_field(&answer, "X-Real-Port").expect("Apache sends it");
        let mut asking = Client::connect(lab.server(), daemon.addr_on(lab.public(0)));
        let found = asking.get(&format!("/nat_port/{port}?protocol=tcp"));
        assert_eq!(found.json()["src_ip"], from.ip().to_string(), "{}", found.text());
    }
    let mut direct = Client::connect(lab.server(), site);
    assert_eq!(received_field(&ask(&mut direct), "X-Real-IP"), Some("198.51.100.1"));

    // The log asks.
    let log = || fs::read_to_string(apache.path().join("inside.log")).unwrap_or_default();
    wait_until("the log has all requests", || log().matches("GET /from/").count() == usize::from(CLIENTS));
    for line in log().lines().filter(|line| line.contains("GET /from/")) {
        let inside = line.split(' ').next().expect("it has words");
        assert!(line.contains(&format!("GET /from/{inside}:")), "{line}");
    }
    wait_until("the log has the client that is not behind the gateway", || {
        log().lines().any(|line| line.starts_with("- 198.51.100.1 "))
    });
    // Without the daemon the site works.
    drop(daemon);
    assert_eq!(received_field(&ask(&mut direct), "X-Real-IP"), Some("198.51.100.1"));
    wait_until("the log says so", || log().lines().any(|line| line.starts_with("? 198.51.100.1 ")));
    drop((apache, application));
}
