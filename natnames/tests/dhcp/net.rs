//! A bridge in a namespace for the server, and a namespace for each client.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use natnames::Millis;

use crate::{LONGEST, is_there, now, run};

/// What udhcpc runs on each event: it sets the address, and writes down when it did.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig) ip address flush dev "$interface" ;;
bound) ip address replace "$ip/24" dev "$interface" ;;
esac
echo "$(date +%s%3N) $1 $ip" >> "$TRUTH"
"#;

/// Waits until a condition holds, and returns what it found.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONGEST;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What hinders a test that needs these programs, and root.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if let Some(program) = programs.iter().find(|program| !is_there(program)) {
        return Some(format!("{program} is not installed"));
    }
    let name = format!("nn{}{}probe", std::process::id(), programs.last().unwrap_or(&""));
    let probe = |verb| Command::new("ip").args(["netns", verb, &name]).output();
    let is_root = probe("add").is_ok_and(|output| output.status.success());
    let _ = probe("del");
    (!is_root).then(|| "network namespaces cannot be made; run it as root".to_owned())
}

/// Namespaces and processes, which end with it.
pub(crate) struct Net {
    namespaces: Vec<String>,
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Net {
    /// A namespace for the server, and some for clients.
    pub(crate) fn new(name: &str, clients: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut this = Self { namespaces: Vec::new(), children: Vec::new(), folder };
        for number in 0..=clients {
            let namespace = format!("nn{}{name}{number}", std::process::id());
            run("ip", &["netns", "add", &namespace]);
            this.namespaces.push(namespace.clone());
            run("ip", &["-n", &namespace, "link", "set", "lo", "up"]);
        }
        let server = this.namespaces[0].clone();
        run("ip", &["-n", &server, "link", "add", "br0", "type", "bridge"]);
        run("ip", &["-n", &server, "address", "add", "10.77.0.1/24", "dev", "br0"]);
        run("ip", &["-n", &server, "link", "set", "br0", "up"]);
        for (number, client) in this.namespaces.iter().enumerate().skip(1) {
            let (port, mac) = (format!("port{number}"), format!("02:00:00:00:77:0{number}"));
            let veth = ["type", "veth", "peer", "name", "eth0", "address", &mac, "netns", client];
            run("ip", &[&["-n", &server, "link", "add", &port], &veth[..]].concat());
            run("ip", &["-n", &server, "link", "set", &port, "master", "br0", "up"]);
            run("ip", &["-n", client, "link", "set", "eth0", "up"]);
        }
        let script = this.folder().join("script");
        fs::write(&script, SCRIPT).unwrap();
        run("chmod", &["755", script.to_str().unwrap()]);
        this
    }

    /// Where the files of the test are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command in a namespace.
    pub(crate) fn command(&self, namespace: usize, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespaces[namespace], program]);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", path + ":/usr/sbin:/sbin").stdin(Stdio::null());
        command
    }

    /// Starts a process, and returns its number.
    pub(crate) fn spawn(&mut self, command: &mut Command) -> usize {
        self.children.push(command.spawn().unwrap());
        self.children.len() - 1
    }

    /// Ends a process at once.
    pub(crate) fn kill(&mut self, child: usize) {
        let child = &mut self.children[child];
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        (0..self.children.len()).for_each(|child| self.kill(child));
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// A DHCP client.
pub(crate) struct Client {
    child: usize,
    truth: std::path::PathBuf,
}

impl Client {
    /// Starts a client that names itself so.
    pub(crate) fn start(net: &mut Net, namespace: usize, name: &str) -> Self {
        let truth = net.folder().join(name);
        fs::write(&truth, "").unwrap();
        let mut command = net.command(namespace, "udhcpc");
        command
            .args([
                "-f",
                "-i",
                "eth0",
                "-t",
                "10",
                "-T",
                "1",
                "-A",
                "1",
                "-x",
                &format!("hostname:{name}"),
                "-s",
            ])
            .arg(net.folder().join("script"))
            .env("TRUTH", &truth)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { child: net.spawn(&mut command), truth }
    }

    /// Waits until an event has happened to it, and returns its address and when that was.
    pub(crate) fn wait_for(&self, event: &str) -> (IpAddr, Millis) {
        let (address, at) = wait_for(&format!("{event} of {}", self.truth.display()), || {
            let truth = fs::read_to_string(&self.truth).unwrap();
            truth.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let is_it = fields.get(1) == Some(&event);
                Some((fields.get(2)?.parse().ok()?, fields.first()?.parse().ok()?)).filter(|_| is_it)
            })
        });
        assert!(at <= now());
        (address, at)
    }

    /// Waits until it has released its address, and returns when that was.
    pub(crate) fn wait_for_release(&self) -> Millis {
        wait_for("release", || {
            let truth = fs::read_to_string(&self.truth).unwrap();
            let last = truth.lines().last().filter(|_| truth.lines().count() > 1)?;
            let (at, event) = last.split_once(' ')?;
            event.starts_with("deconfig").then(|| at.parse().unwrap())
        })
    }

    /// Sends it a signal: `USR1` to renew, `USR2` to release.
    pub(crate) fn signal(&self, net: &Net, signal: &str) {
        run("sh", &["-c", &format!("kill -{signal} {}", net.children[self.child].id())]);
    }

    /// Ends it at once, so that it does not release its address.
    pub(crate) fn kill(&self, net: &mut Net) {
        net.kill(self.child);
    }
}
