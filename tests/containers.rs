//! Names of containers, through the daemon: of connections that begin with a container's first packets too. Podman runs in
//! namespaces of its own, and so does the daemon. Skipped where Podman is missing or cannot run a container.

#[path = "../natnames/tests/podman/engine.rs"]
#[allow(unreachable_pub, dead_code, reason = "the tests of natnames have the engine too")]
mod engine;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use engine::{Podman, succeeded};

/// Containers that begin with a packet.
const CONTAINERS: u32 = 12;

/// What the engine's network needs so that packets leave it, and the kernel tells when connections begin.
const NETWORK: &str = "ip link add out type veth peer name far && ip address add 198.51.100.2/24 dev out \
     && ip link set out up && ip link set far up \
     && ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev out nud permanent \
     && echo 1 > /proc/sys/net/netfilter/nf_conntrack_timestamp && echo 1 > /proc/sys/net/netfilter/nf_conntrack_events";

/// A daemon in the engine's network.
struct Daemon {
    process: Child,
    network: File,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    fn start(podman: &Podman, directory: &std::path::Path) -> Self {
        let pid = first_child(podman.service.id());
        let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let inside = |program: &str| {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
            command
        };
        // The settings exist once something tracks connections there.
        let rules = "add table ip t\nadd chain ip t c { type filter hook output priority 0; }\nadd rule ip t c ct state new\n";
        let mut nft = inside("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
        assert!(inside("sh").args(["-c", NETWORK]).status().unwrap().success());
        let config = directory.join("pynatconnd.conf");
        let text = format!(
            "[filter]\ndst_ip = 198.51.100.9\n[data]\nkey_name = src_ip\ndel_delay = 600\nlife_span = 600\n[http_server]\n\
             port = 8765\n[history]\npath = {}\n[names]\npodman = {}\n",
            directory.join("history").display(),
            podman.socket().display()
        );
        fs::write(&config, text).unwrap();
        let log = File::create(directory.join("log")).unwrap();
        let process =
            inside(env!("CARGO_BIN_EXE_pynatconnd")).arg("-c").arg(&config).stderr(log).spawn().unwrap();
        let this = Self { process, network };
        wait_until("the daemon is ready", || {
            let log = fs::read_to_string(directory.join("log")).unwrap();
            log.contains("podman is followed") && log.contains("equals the kernel's")
        });
        this
    }

    fn get(&self, path: &str) -> Value {
        let text = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                setns(&self.network, CloneFlags::CLONE_NEWNET).unwrap();
                let mut stream = TcpStream::connect(("127.0.0.1", 8765)).unwrap();
                write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                text
            });
            asking.join().unwrap()
        });
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }
}

fn first_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().unwrap_or_else(|| panic!("{pid} has no child")).parse().unwrap()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_connection_of_a_containers_first_packet_has_its_name() {
    let podman = match Podman::start() {
        Ok(podman) => podman,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&podman, directory.path());
    podman.must(&["network", "create", "--subnet", "10.213.9.0/24", "n"]);
    let (mut certain, mut early) = (0, 0);
    for number in 0..CONTAINERS {
        let name = format!("c{number}");
        // Of these, each second one ends right after its first packet. The others stay, so that addresses change hands.
        let port = 20_000 + number;
        let lasts = if number % 2 == 0 { "" } else { "; sleep 1000" };
        let script = format!("echo x | busybox nc -w 1 198.51.100.9 {port}{lasts}");
        let options = ["-d", "--name", &name, "--network", "n"];
        succeeded(&podman.run_container(&options, &["sh", "-c", &script]));
        let path = format!("/v1/lookup?dst_port={port}");
        let mut last = Value::Null;
        let deadline = Instant::now() + Duration::from_secs(20);
        while last["matches"][0]["host"]["name"] != name.as_str() {
            if Instant::now() > deadline {
                let log = podman.run(&["logs", &name]);
                let daemon = fs::read_to_string(directory.path().join("log")).unwrap();
                panic!("{name} is not known: {last} {} {daemon}", String::from_utf8_lossy(&log.stderr));
            }
            last = daemon.get(&path);
            thread::sleep(Duration::from_millis(20));
        }
        let found = daemon.get(&path)["matches"][0].clone();
        let started = podman.inspect(&name).time("StartedAt");
        let past = daemon.get(&format!("/v1/history?host={name}&from=-1h"));
        assert_eq!(past["matches"].as_array().map(Vec::len), Some(1), "{past}");
        assert_eq!(past["matches"][0]["host"], found["host"], "{past}");
        certain += usize::from(found["host"]["certain"] == true);
        let opened: jiff::Timestamp = found["opened"].as_str().unwrap().parse().unwrap();
        early += usize::from(opened.as_millisecond() < started);
    }
    println!("{CONTAINERS} containers: {certain} certain, {early} before the start that Podman notes");
}
