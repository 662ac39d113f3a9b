//! A site behind a web server: the recipes, the programs, and the application.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::http::{Client, Response};
use lab::{Lab, Netns, traffic, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::blocks::blocks;
use crate::documents::read;

const PAGE: &str = "doc/RECIPES.md";

/// The daemon of the recipes: on the gateway, port 8080.
pub(super) const CONFIG: &str = "\
[filter]
nat_only = yes

[data]
key_name = nat_port

[http_server]
host = 0.0.0.0
port = 8080
ip_acl = 198.51.100.1, 127.0.0.1
";

/// Every connection gets a public port that differs from its inside port.
pub(super) const RANDOM: &str = "\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100
        ip saddr 192.168.7.0/24 oifname \"outside\" masquerade random
    }
}
";

/// The block of this language that contains a text.
pub(super) fn recipe(language: &str, part: &str) -> String {
    let all = blocks(PAGE, &read(PAGE));
    let mut fitting = all.into_iter().filter(|block| block.language == language && block.text.contains(part));
    let found = fitting.next().unwrap_or_else(|| panic!("{PAGE} has no block of {language} with {part:?}"));
    assert!(fitting.next().is_none(), "{PAGE} has several blocks of {language} with {part:?}");
    found.text
}

/// A recipe with one line, or several in a row, replaced.
pub(super) fn with_lines(recipe: &str, old: &str, new: &str) -> String {
    assert_eq!(recipe.matches(old).count(), 1, "{old:?} in:\n{recipe}");
    recipe.replace(old, new)
}

/// Whether the test can run: with a lab, and with this program. In CI, where it must run, it panics instead of
/// returning `false`.
pub(super) fn require(program: &str, package: &str) -> bool {
    if !lab::require() {
        return false;
    }
    let found =
        Command::new("sh").args(["-c", &format!("PATH=$PATH:/usr/sbin command -v {program}")]).output();
    if found.is_ok_and(|found| found.status.success()) {
        return true;
    }
    let lacking = format!("{program}, of the package {package}: `make setup test` installs it");
    assert!(std::env::var_os("CI").is_none(), "this test needs {lacking}");
    println!("skipped: needs {lacking}");
    false
}

/// A web server, with all its files in a temporary directory.
pub(super) struct WebServer {
    child: Child,
    directory: TempDir,
}

impl WebServer {
    /// The directory for its files.
    pub(super) fn directory() -> TempDir {
        TempDir::with_prefix("pynatconnd-recipes-").expect("a temporary directory can be created")
    }

    /// Starts a program that stays in the foreground, and waits until it listens.
    pub(super) fn start(
        netns: &Netns,
        directory: TempDir,
        program: &str,
        args: &[&str],
        address: SocketAddr,
    ) -> Self {
        let log = fs::File::create(directory.path().join("output")).expect("it can be created");
        let child = netns
            .command(program)
            .args(args)
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            // Caddy keeps files in its user's directories.
            .env("HOME", directory.path())
            .env("XDG_CONFIG_HOME", directory.path())
            .env("XDG_DATA_HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("it is open")))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap_or_else(|error| panic!("{program} can be started: {error}"));
        let mut server = Self { child, directory };
        wait_until(&format!("{program} listens"), || {
            let ended = server.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{program} ended ({ended:?}): {}", server.log());
            netns.enter(|| TcpStream::connect(address).is_ok())
        });
        server
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    fn log(&self) -> String {
        ["output", "error.log"]
            .map(|name| fs::read_to_string(self.directory.path().join(name)).unwrap_or_default())
            .concat()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the web server wrote:\n{}\n---", self.log());
        }
        // Workers end with their master on SIGTERM, but not when the master is killed.
        let master = Pid::from_raw(self.child.id().try_into().expect("a process id is positive"));
        let _ = kill(master, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The application behind the web server: responds to each request with the header it received.
pub(super) fn application(lab: &Lab) -> traffic::AcceptLoop {
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
pub(super) fn received_field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = answer.text().lines().filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = values.next();
    assert_eq!(values.next(), None, "{name} occurs twice: {}", answer.text());
    value
}

/// The inside address and port that the application received.
pub(super) fn inside(answer: &Response) -> Option<SocketAddr> {
    let Some(address) = received_field(answer, "X-Inside-IP") else {
        assert_eq!(received_field(answer, "X-Inside-Port"), None, "{}", answer.text());
        return None;
    };
    let address = address.parse::<IpAddr>().expect("an address");
    let port = received_field(answer, "X-Inside-Port").expect("a port").parse().expect("a port");
    Some((address, port).into())
}

/// What a client sends that claims to be another host.
pub(super) const FORGED: [(&str, &str); 2] = [("X-Inside-IP", "192.0.2.1"), ("X-Inside-Port", "1")];

/// A request of such a client.
pub(super) fn ask(client: &mut Client) -> Response {
    client.request("GET", "/", &FORGED, b"")
}
