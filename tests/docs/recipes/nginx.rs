//! nginx: the recipe, and its variants for HTTP/2, HTTP/3, the PROXY protocol and DNAT.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use lab::flows::{create, source_nat};
use lab::http::{self, Client, Response};
use lab::{Lab, Netns, wait_until};

use super::check::{check, lab};
use super::site::{
    CONFIG, RANDOM, WebServer, application, ask, inside, received_field, recipe, require, with_lines,
};
use crate::documents::DAEMON;

/// The recipe as the page has it.
fn site() -> String {
    recipe("nginx", "auth_request ")
}

const LISTEN: &str = "    listen 198.51.100.1:80;\n";
const SERVER_HEADERS: &str = "        proxy_set_header X-Dst-IP       $server_addr;
        proxy_set_header X-Dst-Port     $server_port;
";

/// The recipe, which tells the application one more header of the daemon.
fn telling(site: &str, name: &str) -> String {
    let request = "        auth_request     /_inside;\n";
    let pass = "        proxy_pass http://127.0.0.1:9000;\n";
    let variable = name.to_lowercase().replace('-', "_");
    let set = format!("{request}        auth_request_set $told_{variable} $upstream_http_{variable};\n");
    let site = with_lines(site, request, &set);
    with_lines(&site, pass, &format!("        proxy_set_header {name} $told_{variable};\n{pass}"))
}

fn start(netns: &Netns, site: &str, address: SocketAddr) -> WebServer {
    let directory = WebServer::directory();
    let path = directory.path().display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {path}/{name};\n"))
        .concat();
    let config = format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid {path}/pid;\nerror_log {path}/error.log;\n\
         events {{}}\nhttp {{\n    access_log off;\n{temporary}{site}\n}}\n"
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, config).expect("the configuration can be written");
    let (log, file) = (format!("{path}/error.log"), file.display().to_string());
    WebServer::start(netns, directory, "nginx", &["-e", &log, "-p", &path, "-c", &file], address)
}

#[test]
fn the_application_gets_the_inside_address_and_the_site_works_without_the_daemon() {
    const CLIENTS: u16 = 200;
    if !require("nginx", "nginx") {
        return;
    }
    let lab = Lab::builder().clients(4).ruleset(RANDOM).build();
    let address = lab.server_at(80);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let application = application(&lab);
    let nginx = start(lab.server(), &site(), address);

    // Two requests on each connection from behind the NAT: both show its inside address and port.
    let mut kept = Vec::new();
    for number in 0..CLIENTS {
        let from = lab.client_at((number % 4) as u8, 40000 + number);
        let mut client = Client::over(lab.connect(from, address)).expect("it is open");
        for _ in 0..2 {
            let answer = ask(&mut client);
            assert_eq!(inside(&answer), Some(from), "{}", answer.text());
        }
        kept.push((client, from));
    }
    let table =
        http::get(lab.server(), daemon.addr_on(lab.public(0)), "/v1/mappings?dst_port=80&nat_ip=100.64.2.1");
    let mappings =
        table.text().lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let other_ports = mappings.filter(|mapping| mapping["nat_port"] != mapping["src_port"]).count();
    assert!(other_ports > usize::from(CLIENTS) / 2, "the NAT left the ports as they were: {other_ports}");

    // With a body in either form, and with more headers than the daemon accepts.
    let (client, from) = &mut kept[0];
    let answer = client.request("POST", "/", &[], &[b'x'; 20_000]);
    assert_eq!((inside(&answer), received_field(&answer, "Body")), (Some(*from), Some("20000")));
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .unwrap();
    let answer = client.read_response("POST").unwrap();
    assert_eq!((inside(&answer), received_field(&answer, "Body")), (Some(*from), Some("5")));
    let names: Vec<String> = (0..60).map(|number| format!("X-Field-{number}")).collect();
    let value = "x".repeat(300);
    let fields: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    assert_eq!(inside(&client.request("GET", "/", &fields, b"")), Some(*from));

    // A client that is not behind the gateway, and the daemon's route as seen from outside.
    let mut direct = Client::connect(lab.server(), address);
    let answer = ask(&mut direct);
    assert_eq!(
        (inside(&answer), received_field(&answer, "X-Inside-Port")),
        (None, None),
        "{}",
        answer.text()
    );
    assert_eq!(direct.get("/_inside").status, 404);

    // The gateway drops packets for the daemon: the site works after the recipe's timeout of half a second.
    let (client, from) = &mut kept[1];
    lab.gateway().nft(
        "table ip mute {\n chain input {\n type filter hook input priority 0\n tcp dport 8080 drop\n }\n}\n",
    );
    assert_eq!(inside(&ask(client)), None);
    assert_eq!(inside(&ask(&mut direct)), None);
    lab.gateway().nft("delete table ip mute\n");
    wait_until("the gateway answers again", || inside(&ask(client)) == Some(*from));

    // The daemon stops, then refuses the server, then works again.
    drop(daemon);
    for (client, _) in &mut kept[..10] {
        assert_eq!(inside(&ask(client)), None);
    }
    let refusing = DAEMON.start(lab.gateway(), CONFIG.replace("198.51.100.1", "198.51.100.99"));
    let (client, from) = &mut kept[2];
    assert_eq!(inside(&ask(client)), None);
    refusing.wait_for_line("refused 198.51.100.1");
    drop(refusing);
    let _daemon = DAEMON.start(lab.gateway(), CONFIG);
    assert_eq!(inside(&ask(client)), Some(*from));
    println!("{CLIENTS} connections through the NAT, {} requests: 0 wrong, 0 missing", 2 * CLIENTS);
    drop((nginx, application));
}

#[test]
fn the_protocol_tells_hosts_with_the_same_public_port_apart() {
    if !require("nginx", "nginx") {
        return;
    }
    let lab = Lab::builder().clients(2).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let application = application(&lab);
    // The recipe, with HTTP/2 as well, and with what the daemon says of other hosts.
    let config = with_lines(&site(), LISTEN, &format!("{LISTEN}    listen 198.51.100.1:81 http2;\n"));
    let nginx = start(lab.server(), &telling(&config, "X-Nat-Ambiguous"), lab.server_at(80));

    // Another host has the same public port over UDP, as a client that uses HTTP/3.
    let mut query = lab.gateway().enter(nfct::Query::open).expect("ctnetlink is available");
    let mut other = |port, to: SocketAddr| {
        let (from, nat) = (lab.client_at(1, 50_000), SocketAddr::new(lab.public(0), port));
        create(&mut query, &source_nat(nfct::Protocol::Udp, from, to, nat));
    };
    let from = lab.client_at(0, 40_001);
    let ambiguous = |answer: &Response| received_field(answer, "X-Nat-Ambiguous").map(str::to_owned);

    let site = lab.server_at(80);
    other(40_001, site);
    let mut client = Client::over(lab.connect(from, site)).expect("it is open");
    let answer = ask(&mut client);
    assert_eq!(
        (inside(&answer), ambiguous(&answer)),
        (Some(from), Some("0".to_owned())),
        "{}",
        answer.text()
    );

    let site = lab.server_at(81);
    other(40_002, site);
    let url = format!("http://{site}/");
    let answer = lab.client().run(
        "curl",
        &["-sS", "--http2-prior-knowledge", "--interface", "192.168.7.2", "--local-port", "40002", &url],
    );
    for line in ["X-Inside-IP: 192.168.7.2\r\n", "X-Inside-Port: 40002\r\n", "X-Nat-Ambiguous: 0\r\n"] {
        assert!(answer.contains(line), "{answer}");
    }
    // Without the protocol it could be either.
    let headers = [
        ("X-Real-IP", "100.64.2.1"),
        ("X-Real-Port", "40001"),
        ("X-Dst-IP", "198.51.100.1"),
        ("X-Dst-Port", "80"),
    ];
    let answer = Client::connect(lab.server(), daemon.addr_on(lab.public(0)))
        .request("GET", "/v1/auth", &headers, b"");
    assert_eq!(answer.header("X-Nat-Ambiguous"), Some("1"));
    drop((nginx, application));
}

#[test]
fn behind_a_balancer_the_proxy_protocol_names_the_client() {
    if !require("nginx", "nginx") || !require("haproxy", "haproxy") {
        return;
    }
    let lab = lab();
    let headers = "        proxy_set_header X-Real-IP      $remote_addr;
        proxy_set_header X-Real-Port    $remote_port;
";
    let config = with_lines(&site(), LISTEN, &recipe("nginx", "8081 proxy_protocol"));
    let config =
        with_lines(&config, &[headers, SERVER_HEADERS].concat(), &recipe("nginx", "$proxy_protocol_port"));
    check(&lab, lab.server_at(80), || {
        let nginx = start(lab.server(), &config, ([127, 0, 0, 1], 8081).into());
        let directory = WebServer::directory();
        let path = directory.path().join("haproxy.cfg");
        let balancer = "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                        listen site\n bind 198.51.100.1:80\n server nginx 127.0.0.1:8081 send-proxy-v2\n";
        fs::write(&path, balancer).expect("it can be written");
        let args = ["-W", "-f", &path.display().to_string()];
        (WebServer::start(lab.server(), directory, "haproxy", &args, lab.server_at(80)), nginx)
    });
}

#[test]
fn behind_dnat_the_recipe_names_the_address_that_clients_connect_to() {
    if !require("nginx", "nginx") {
        return;
    }
    let lab = lab();
    let public: SocketAddr = ([203, 0, 113, 10], 80).into();
    lab.gateway().run("ip", &["route", "add", "203.0.113.10/32", "via", "198.51.100.1"]);
    lab.server().nft(
        "table ip site {\n chain prerouting {\n type nat hook prerouting priority -100\n \
         ip daddr 203.0.113.10 tcp dport 80 dnat to 198.51.100.1:80\n }\n}\n",
    );
    // With the server's own address nobody is found, and the daemon says why.
    {
        let application = application(&lab);
        let daemon = DAEMON.start(lab.gateway(), CONFIG);
        let nginx = start(lab.server(), &telling(&site(), "X-Nat-Reason"), lab.server_at(80));
        let mut client = Client::over(lab.connect(lab.client_at(0, 39_999), public)).expect("it is open");
        let answer = ask(&mut client);
        let told = (inside(&answer), received_field(&answer, "X-Nat-Reason"));
        assert_eq!(told, (None, Some("other_server")), "{}", answer.text());
        let metrics = http::get(lab.gateway(), daemon.local_addr(), "/metrics");
        let counted = "pynatconnd_auth_not_found_total{reason=\"other_server\"} 1\n";
        assert!(metrics.text().contains(counted), "{}", metrics.text());
        drop((nginx, application));
    }
    let config = with_lines(&site(), SERVER_HEADERS, &recipe("nginx", "203.0.113.10"));
    check(&lab, public, || start(lab.server(), &config, lab.server_at(80)));
}

#[test]
fn with_http3_the_udp_connection_is_found() {
    if !require("nginx", "nginx") {
        return;
    }
    let shows = |program: &str, arg: &str, word: &str| {
        let output = Command::new(program).arg(arg).output().expect("it can be started");
        [output.stdout, output.stderr].iter().any(|text| String::from_utf8_lossy(text).contains(word))
    };
    for (program, arg, word) in [("nginx", "-V", "http_v3_module"), ("curl", "-V", "HTTP3")] {
        if !shows(program, arg, word) {
            println!("skipped: this {program} was built without HTTP/3");
            return;
        }
    }
    let lab = lab();
    let application = application(&lab);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let keys = WebServer::directory();
    let (key, certificate) = (keys.path().join("site.key"), keys.path().join("site.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=site", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    assert!(made.is_ok_and(|output| output.status.success()), "openssl makes a certificate");
    let listen = recipe("nginx", "quic reuseport")
        .replace("/etc/ssl/site.pem", &certificate.display().to_string())
        .replace("/etc/ssl/site.key", &key.display().to_string());
    let config = with_lines(&site(), LISTEN, &format!("{LISTEN}{listen}"));
    let nginx = start(lab.server(), &config, lab.server_at(80));
    let url = format!("https://{}/", lab.server_at(443));
    for port in 40_000..40_010_u16 {
        let local = port.to_string();
        let args = ["-sSk", "--http3-only", "--interface", "192.168.7.2", "--local-port", &local, &url];
        let answer = lab.client().run("curl", &args);
        for line in ["X-Inside-IP: 192.168.7.2\r\n".to_owned(), format!("X-Inside-Port: {port}\r\n")] {
            assert!(answer.contains(&line), "{answer}");
        }
    }
    drop((nginx, application));
}
