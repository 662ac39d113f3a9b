//! The nginx recipe of doc/OPERATIONS.md, verbatim, on a real nginx: the application behind it gets the inside
//! address of every client behind the NAT, and the site keeps working when the daemon does not respond.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use lab::flows::{create, source_nat};
use lab::http::{self, Client, Response};
use lab::{Lab, Netns, traffic, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::documents::DAEMON;

const GUIDE: &str = include_str!("../../doc/OPERATIONS.md");

/// The daemon of the recipe: on the gateway, port 8080.
const CONFIG: &str = "\
[filter]
nat_only = yes

[data]
key_name = nat_port

[http_server]
host = 0.0.0.0
port = 8080
ip_acl = 198.51.100.1
";

/// Every connection gets a public port that differs from its inside port.
const RANDOM: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade random
    }
}
";

/// The recipe as the guide has it.
fn recipe() -> &'static str {
    let (_, rest) = GUIDE.split_once("```nginx\n").expect("the guide has a block of nginx");
    let (recipe, _) = rest.split_once("```").expect("the block ends");
    assert!(recipe.contains("auth_request "), "{recipe}");
    recipe
}

/// Whether the test can run. Panics instead of returning `false` where it must run.
fn require() -> bool {
    if !lab::require() {
        return false;
    }
    let found = Command::new("nginx").arg("-v").stderr(Stdio::null()).status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "this test needs nginx, of the package nginx: `make setup test` installs it"
    );
    true
}

/// An nginx in the server's namespace, with all its files in a temporary directory.
struct Nginx {
    child: Child,
    directory: TempDir,
}

impl Nginx {
    fn start(netns: &Netns, site: &str) -> Self {
        let directory =
            TempDir::with_prefix("pynatconnd-nginx-").expect("a temporary directory can be created");
        let path = directory.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {path}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nuser root;\nworker_processes 2;\npid {path}/pid;\nerror_log {path}/error.log;\n\
             events {{}}\nhttp {{\n    access_log off;\n{temporary}{site}\n}}\n"
        );
        let config_path = directory.path().join("nginx.conf");
        fs::write(&config_path, config).expect("the configuration can be written");
        let child = netns
            .command("nginx")
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&config_path)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx can be started");
        let mut nginx = Self { child, directory };
        wait_until("nginx runs", || {
            let ended = nginx.child.try_wait().expect("nginx is our child");
            assert!(ended.is_none(), "nginx ended ({ended:?}): {}", nginx.log());
            nginx.directory.path().join("pid").exists()
        });
        nginx
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- nginx wrote:\n{}\n---", self.log());
        }
        // The workers end with the master on SIGTERM, but not when the master is killed.
        let master = Pid::from_raw(self.child.id().try_into().expect("a process id is positive"));
        let _ = kill(master, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The application behind nginx: responds to each request with the header it received.
fn application(lab: &Lab) -> traffic::AcceptLoop {
    lab.listen(([127, 0, 0, 1], 9000).into()).accept_loop(|stream, _| {
        std::thread::spawn(|| tell_header(stream));
    })
}

fn tell_header(stream: TcpStream) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut header = String::new();
    while stream.read_line(&mut header).ok()? > 2 {}
    let length = header
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    header += &format!("Body: {length}\r\n");
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", header.len());
    stream.get_mut().write_all((head + &header).as_bytes()).ok()
}

/// A field of the header that the application received.
fn received_field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = answer.text().lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = values.next();
    assert_eq!(values.next(), None, "{name} occurs twice: {}", answer.text());
    value
}

/// The inside address and port that the application received.
fn inside(answer: &Response) -> Option<SocketAddr> {
    let address = received_field(answer, "X-Inside-IP")?.parse::<std::net::IpAddr>().expect("an address");
    let port = received_field(answer, "X-Inside-Port").expect("a port").parse().expect("a port");
    Some((address, port).into())
}

/// A request of a client that sends forged X-Nat headers.
fn ask(client: &mut Client) -> Response {
    client.request("GET", "/", &[("X-Inside-IP", "192.0.2.1"), ("X-Inside-Port", "1")], b"")
}

#[test]
fn the_application_gets_the_inside_address_and_the_site_works_without_the_daemon() {
    const CLIENTS: u16 = 200;
    if !require() {
        return;
    }
    let lab = Lab::builder().clients(4).ruleset(RANDOM).build();
    let site = lab.server_at(80);
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let application = application(&lab);
    let nginx = Nginx::start(lab.server(), recipe());

    // Two requests on each connection from behind the NAT: both show its inside address and port.
    let mut kept = Vec::new();
    for number in 0..CLIENTS {
        let from = lab.client_at((number % 4) as u8, 40000 + number);
        let mut client = Client::over(lab.connect(from, site)).expect("it is open");
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
    let mut direct = Client::connect(lab.server(), site);
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
    if !require() {
        return;
    }
    let lab = Lab::builder().clients(2).build();
    let daemon = DAEMON.start(lab.gateway(), CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let application = application(&lab);
    // The recipe, with HTTP/2 as well, and with what the daemon says of other hosts.
    let listen = "    listen 198.51.100.1:80;\n";
    let request = "        auth_request     /_inside;\n";
    let pass = "        proxy_pass http://127.0.0.1:9000;\n";
    let site = [
        (listen, format!("{listen}    listen 198.51.100.1:81 http2;\n")),
        (request, format!("{request}        auth_request_set $ambiguous $upstream_http_x_nat_ambiguous;\n")),
        (pass, format!("        proxy_set_header X-Ambiguous $ambiguous;\n{pass}")),
    ]
    .iter()
    .fold(recipe().to_owned(), |site, (line, lines)| {
        assert!(site.contains(line), "the recipe has no line {line:?}");
        site.replace(line, lines)
    });
    let nginx = Nginx::start(lab.server(), &site);

    // Another host has the same public port over UDP, as a client that uses HTTP/3.
    let mut query = lab.gateway().enter(nfct::Query::open).expect("ctnetlink is available");
    let mut other = |port, to: SocketAddr| {
        let (from, nat) = (lab.client_at(1, 50_000), SocketAddr::new(lab.public(0), port));
        create(&mut query, &source_nat(nfct::Protocol::Udp, from, to, nat));
    };
    let from = lab.client_at(0, 40_001);
    let ambiguous = |answer: &Response| received_field(answer, "X-Ambiguous").map(str::to_owned);

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
    for line in ["X-Inside-IP: 192.168.7.2\r\n", "X-Inside-Port: 40002\r\n", "X-Ambiguous: 0\r\n"] {
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
