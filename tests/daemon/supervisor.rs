//! The daemon's messages to systemd and the sockets that it takes from systemd, with a socket of the test in systemd's place.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use lab::http::{self, Client};
use lab::{Daemon, DaemonBuilder, Lab, PATIENCE, flows, traffic, wait_until};
use nfct::{Protocol, Query};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::binary::DAEMON;
use super::faults::Faults;

const CONFIG: &str = "[data]\nkey_name = nat_port\n";
/// The watchdog's timeout; the daemon feeds it twice in this time.
const WATCHDOG: Duration = Duration::from_secs(2);

/// systemd's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

type Message = HashMap<String, String>;

impl Manager {
    fn new() -> Self {
        let directory = TempDir::with_prefix("pynatconnd-").expect("a temporary directory can be created");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket can be bound");
        Self { socket, directory }
    }

    /// A daemon with this notification socket and a watchdog.
    fn builder(&self, config: &str) -> DaemonBuilder {
        DAEMON
            .builder(config)
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
    }

    /// The next message, if one comes in time.
    fn receive(&self, limit: Duration) -> Option<Message> {
        self.socket.set_read_timeout(Some(limit)).expect("a time that is not 0");
        let mut buffer = [0; 4096];
        let length = match traffic::uninterrupted(|| self.socket.recv(&mut buffer)) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        let text = std::str::from_utf8(&buffer[..length]).expect("text");
        let line = |line: &str| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?} is no assignment"));
            (name.to_owned(), value.to_owned())
        };
        Some(text.lines().map(line).collect())
    }

    /// Waits for a message with this assignment. Returns it and the messages before it.
    fn wait_for(&self, name: &str, value: &str) -> (Message, Vec<Message>) {
        let (mut before, end) = (Vec::new(), Instant::now() + PATIENCE);
        while let Some(message) =
            self.receive(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
        {
            if message.get(name).is_some_and(|found| found == value) {
                return (message, before);
            }
            before.push(message);
        }
        panic!("{name}={value} was not sent, but {before:?}");
    }

    /// How often the watchdog is fed in this time, not counting the messages already received.
    fn feedings_within(&self, time: Duration) -> usize {
        self.socket.set_nonblocking(true).expect("it is a socket");
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        self.socket.set_nonblocking(false).expect("it is a socket");
        let (mut feedings, end) = (0, Instant::now() + time);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let message = self.receive(left);
            feedings += usize::from(message.is_some_and(|message| message.contains_key("WATCHDOG")));
        }
        feedings
    }
}

/// A thread of a daemon, stopped as a debugger does while the other threads run.
pub(crate) struct Stopped(Pid);

impl Stopped {
    /// Stops one of the threads of this name.
    pub(crate) fn one(daemon: &Daemon, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
        let is_meant = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks.map(|task| task.expect("the daemon runs")).find(is_meant);
        let task = task.unwrap_or_else(|| panic!("there is no thread called {name}"));
        let thread = Pid::from_raw(task.file_name().to_string_lossy().parse().expect("a thread's id"));
        ptrace::seize(thread, ptrace::Options::empty()).expect("root can trace");
        ptrace::interrupt(thread).expect("it is traced");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
fn ready_is_sent_after_the_first_dump() {
    if !lab::require() {
        return;
    }
    const MANY: u16 = 20_000;
    let lab = Lab::builder().build();
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    for port in 1..=MANY {
        let (client, server, public) =
            (lab.client_at(0, port), lab.server_at(443), (lab.public(0), port).into());
        flows::create(&mut query, &flows::source_nat(Protocol::Tcp, client, server, public));
    }
    let manager = Manager::new();
    let daemon = manager.builder(CONFIG).start(lab.gateway());
    let (ready, before) = manager.wait_for("READY", "1");
    assert_eq!(ready["STATUS"], format!("{MANY} live mappings; the table equals the kernel's"));
    for message in before {
        assert!(message["STATUS"].ends_with("reading the kernel's table"), "{message:?}");
        // systemd waits as long as the daemon runs.
        assert!(message.contains_key("EXTEND_TIMEOUT_USEC"), "{message:?}");
    }
    let answer = http::get(lab.gateway(), daemon.local_addr(), "/readyz");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(http::get(lab.gateway(), daemon.local_addr(), &format!("/nat_port/{MANY}")).status, 200);
    // It is sent once.
    assert!(!manager.wait_for("WATCHDOG", "1").0.contains_key("READY"));
}

#[test]
fn ready_is_sent_when_the_kernel_reports_no_events() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "0");
    let manager = Manager::new();
    let _daemon = manager.builder(CONFIG).start(lab.gateway());
    let (ready, _) = manager.wait_for("READY", "1");
    assert!(ready["STATUS"].contains("net.netfilter.nf_conntrack_events is 0"), "{ready:?}");
}

#[test]
fn the_watchdog_is_not_fed_while_the_netlink_thread_hangs() {
    check_watchdog_without("netfilter");
}

#[test]
fn the_watchdog_is_not_fed_while_an_http_thread_hangs() {
    check_watchdog_without("http");
}

#[test]
fn the_watchdog_is_not_fed_while_the_main_thread_hangs() {
    check_watchdog_without("pynatconnd");
}

#[test]
fn the_watchdog_is_not_fed_while_the_resync_thread_hangs() {
    check_watchdog_without_progress("resync");
}

#[test]
fn the_watchdog_is_not_fed_while_the_verify_thread_hangs() {
    check_watchdog_without_progress("verify");
}

#[test]
fn the_watchdog_is_not_fed_while_the_rules_thread_hangs() {
    check_watchdog_without_progress("rules");
}

/// For a thread that may be blocked in the kernel for some time.
fn check_watchdog_without_progress(thread: &str) {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let manager = Manager::new();
    let daemon = manager.builder(CONFIG).start(lab.gateway());
    manager.wait_for("READY", "1");
    let stopped = Stopped::one(&daemon, thread);
    // For some seconds that is no hang.
    manager.wait_for("WATCHDOG", "1");
    manager.wait_for("WATCHDOG", "1");
    let line = format!("the thread {thread} has made no progress for ");
    lab::wait_within(6 * PATIENCE, &line, || daemon.stderr().contains(&line));
    assert_eq!(manager.feedings_within(3 * WATCHDOG), 0, "{thread} was stopped");
    drop(stopped);
    manager.wait_for("WATCHDOG", "1");
}

#[test]
fn a_daemon_that_can_bind_neither_address_says_so_and_tries_again() {
    if !lab::require() {
        return;
    }
    let (lab, faults) = (Lab::builder().build(), Faults::new());
    let manager = Manager::new();
    let config = |host: &str| format!("{CONFIG}[http_server]\nhost = {host}\n");
    let daemon = faults.in_daemon(manager.builder(&config("127.0.0.1"))).start(lab.gateway());
    manager.wait_for("READY", "1");
    let mut kept = Client::connect(lab.gateway(), daemon.addr());
    let mut metrics = || {
        let page = kept.get("/metrics").text().to_owned();
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.trim().parse::<u32>().expect("a number")
        };
        (value("pynatconnd_listening "), value("pynatconnd_bind_failures_total "))
    };
    assert_eq!(metrics(), (1, 0));

    // The new address excludes the old one, so the daemon must close the old one first.
    faults.begin("pynatconnd.bind", Errno::EADDRINUSE);
    daemon.rewrite_config(&config("0.0.0.0"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("listening nowhere: neither the new nor the old address can be bound");
    daemon.wait_for_line("listening nowhere, trying again in ");
    let (listening, failures) = metrics();
    assert!(listening == 0 && failures >= 3, "{listening}, {failures}");
    let is_told = |message: &Message| {
        message
            .get("STATUS")
            .is_some_and(|status| status.starts_with("listening nowhere, trying again: cannot listen on "))
            && message.contains_key("WATCHDOG")
    };
    wait_until("systemd is told, and the daemon is alive", || {
        manager.receive(Duration::from_secs(1)).as_ref().is_some_and(is_told)
    });

    assert!(Client::try_connect(lab.gateway(), daemon.addr()).is_err());
    faults.end("pynatconnd.bind");
    lab::wait_within(6 * PATIENCE, "the daemon listens again", || {
        Client::try_connect(lab.gateway(), daemon.addr()).is_ok()
    });
    assert_eq!(http::get(lab.gateway(), daemon.addr(), "/healthz").status, 200);
    let metrics = http::get(lab.gateway(), daemon.addr(), "/metrics");
    assert!(metrics.text().contains("pynatconnd_listening 1\n"), "{}", metrics.text());
    wait_until("systemd is told", || {
        let message = manager.receive(Duration::from_secs(1)).unwrap_or_default();
        message.get("STATUS").is_some_and(|status| status.ends_with("the table equals the kernel's"))
            && !message["STATUS"].contains("nowhere")
    });
}

fn check_watchdog_without(thread: &str) {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let manager = Manager::new();
    let daemon = manager.builder(CONFIG).start(lab.gateway());
    manager.wait_for("READY", "1");
    manager.wait_for("WATCHDOG", "1");
    manager.wait_for("WATCHDOG", "1");
    let stopped = Stopped::one(&daemon, thread);
    // Work from before the thread stopped may feed the watchdog once.
    let feedings = manager.feedings_within(3 * WATCHDOG);
    assert!(feedings <= 1, "the watchdog was fed {feedings} times while {thread} was stopped");
    drop(stopped);
    manager.wait_for("WATCHDOG", "1");
}

#[test]
fn a_reload_is_announced_and_its_end_too() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let manager = Manager::new();
    let mut daemon = manager.builder(CONFIG).start(lab.gateway());
    manager.wait_for("READY", "1");

    for (config, status) in [
        ("[data]\nkey_name = src_ip\n", "the new configuration is in force"),
        ("[data]\nkey_name = nothing\n", "reload failed, the old configuration stays in force: "),
    ] {
        daemon.rewrite_config(config);
        daemon.signal(Signal::SIGHUP);
        let (reloading, _) = manager.wait_for("RELOADING", "1");
        let begun: u64 = reloading["MONOTONIC_USEC"].parse().expect("microseconds");
        assert!(begun > 0);
        let (ready, _) = manager.wait_for("READY", "1");
        assert!(ready["STATUS"].starts_with(status), "{ready:?}");
    }
    daemon.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING", "1");
    assert!(daemon.wait().success());
}

#[test]
fn the_reason_for_a_failed_start_is_sent() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let manager = Manager::new();
    let config = format!("{CONFIG}[http_server]\nhost = 203.0.113.9\n");
    let mut daemon = manager.builder(&config).spawn(lab.gateway());
    let (stopping, _) = manager.wait_for("STOPPING", "1");
    assert!(stopping["STATUS"].starts_with("cannot listen on 203.0.113.9 port 8080: "), "{stopping:?}");
    assert_eq!(daemon.wait().code(), Some(71));
}

/// Executes the command that follows, with a socket passed as systemd does.
fn passing(socket: &str) -> [String; 3] {
    let script = format!(
        "import os, socket, sys\n\
         {socket}\n\
         s.fileno() == 3 or os.dup2(s.fileno(), 3)\n\
         os.set_inheritable(3, True)\n\
         os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n\
         os.execvp(sys.argv[1], sys.argv[1:])"
    );
    ["python3".to_owned(), "-c".to_owned(), script]
}

#[test]
fn the_daemon_listens_on_a_socket_from_systemd() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    let config = |host: &str| format!("{CONFIG}[http_server]\nhost = {host}\nport = 8081\n");
    let daemon = DAEMON
        .builder(config("127.0.0.1"))
        .under(passing("s = socket.create_server(('127.0.0.2', 80))"))
        .start(lab.gateway());
    assert_eq!(daemon.addr().to_string(), "127.0.0.2:80");
    daemon.wait_for_line("host and port of [http_server] are not used");
    let mut client = Client::connect(lab.gateway(), daemon.addr());
    assert_eq!(client.get("/nat_port/1").status, 404);

    daemon.rewrite_config(&config("127.0.0.3"));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("is in force");
    wait_until("it still listens", || http::get(lab.gateway(), daemon.addr(), "/healthz").status == 200);
    for host in ["127.0.0.1", "127.0.0.3"] {
        let other = format!("{host}:8081").parse().expect("an address");
        assert!(Client::try_connect(lab.gateway(), other).is_err(), "{other} is listened on too");
    }
    assert!(!daemon.stderr().contains(":8081"), "{}", daemon.stderr());
}

#[test]
fn an_unusable_socket_from_systemd_is_refused() {
    if !lab::require() {
        return;
    }
    let lab = Lab::builder().build();
    for (socket, found) in [
        ("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "is not a valid tcp socket"),
        ("s = socket.socket()", "a socket that does not listen"),
        ("s = open('/dev/null')", "is not a socket"),
    ] {
        let mut daemon = DAEMON.builder(CONFIG).under(passing(socket)).spawn(lab.gateway());
        assert_eq!(daemon.wait().code(), Some(71), "{socket}");
        let log = daemon.stderr();
        assert!(log.contains(found) && log.contains("ListenStream="), "{log}");
    }
}
