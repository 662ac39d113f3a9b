//! System calls that fail for a moment, for want of memory for example, end nothing, and a reload that meets one
//! changes nothing. A small library makes them fail: it is loaded into the daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lab::http::{self, Client};
use lab::{Daemon, DaemonBuilder, Lab, flows, wait_until};
use nfct::{Protocol, Query};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::binary::DAEMON;

const CONFIG: &str = "[data]\nkey_name = nat_port\nsweep_interval = 1\n";

/// The library, and the files that tell it which calls fail.
pub(super) struct Faults(TempDir);

impl Faults {
    pub(super) fn new() -> Self {
        let directory =
            TempDir::with_prefix("pynatconnd-faults-").expect("a temporary directory can be created");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/daemon/faults.c");
        let library = directory.path().join("faults.so");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "cc builds {source}");
        Self(directory)
    }

    /// A daemon whose calls can be made to fail.
    pub(super) fn in_daemon(&self, builder: DaemonBuilder) -> DaemonBuilder {
        builder.env("LD_PRELOAD", self.file("faults.so")).env("FAULTS", self.0.path())
    }

    fn start(&self, lab: &Lab, config: &str) -> Daemon {
        self.in_daemon(DAEMON.builder(config)).start(lab.gateway())
    }

    fn file(&self, call: &str) -> PathBuf {
        self.0.path().join(call)
    }

    /// From now on this call fails.
    pub(super) fn begin(&self, call: &str, error: Errno) {
        // The library must never read half a file.
        let new = self.file("new");
        fs::write(&new, (error as i32).to_string()).expect("the directory can be written");
        fs::rename(new, self.file(call)).expect("the directory can be written");
    }

    pub(super) fn end(&self, call: &str) {
        fs::remove_file(self.file(call)).expect("it is there");
    }
}

#[test]
fn a_dump_that_fails_for_want_of_memory_is_repeated() {
    if !lab::require() {
        return;
    }
    let (lab, faults) = (Lab::builder().build(), Faults::new());
    let server = lab.listen(lab.server_at(443));
    let open = lab.connect_to(&server, lab.client_at(0, 40_000));
    let mut daemon = None;
    for (round, error) in [Errno::ENOBUFS, Errno::ENOMEM].into_iter().enumerate() {
        faults.begin("resync.recvfrom", error);
        // In the first round at the start, then in a sweep.
        let daemon = daemon.get_or_insert_with(|| faults.start(&lab, CONFIG));
        let failures =
            |daemon: &Daemon| daemon.stderr().matches("reading the kernel's table again in").count();
        let before = failures(daemon);
        wait_until("two dumps have failed", || failures(daemon) >= before + 2);
        let metrics = http::get(lab.gateway(), daemon.local_addr(), "/metrics");
        let complete = format!("pynatconnd_table_complete {round}\n");
        assert!(metrics.text().contains(&complete), "{}", metrics.text());
        faults.end("resync.recvfrom");
        daemon.wait_for_line("the table equals the kernel's");
        assert_eq!(http::get(lab.gateway(), daemon.local_addr(), "/nat_port/40000").status, 200);
    }
    drop(open);
}

#[test]
fn an_event_or_a_query_that_cannot_be_read_for_a_moment_ends_nothing() {
    if !lab::require() {
        return;
    }
    let (lab, faults) = (Lab::builder().build(), Faults::new());
    let daemon = faults.start(&lab, CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let calls = ["netfilter.recvmmsg", "verify.recvmmsg", "verify.recvfrom", "rules.recvfrom"];
    calls.iter().for_each(|call| faults.begin(call, Errno::ENOMEM));
    let mut open: Vec<_> =
        (40_000..40_010).map(|port| lab.connect_to(&server, lab.client_at(0, port))).collect();
    lab.gateway().nft("table ip other {\n}\n");
    daemon.wait_for_line("receiving conntrack events: Cannot allocate memory");
    daemon.wait_for_line("rules of nftables: Cannot allocate memory");
    calls.iter().for_each(|call| faults.end(call));
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    let ended = open.pop().expect("there are some");
    let from = ended.client.local_addr().expect("it is connected");
    ended.reset();
    assert!(flows::remove(&mut query, &flows::tuple(Protocol::Tcp, from, server.address())));
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    wait_until("the table is complete", || client.get("/readyz").status == 200);
    for port in 40_000..40_010 {
        let found = client.get(&format!("/v1/lookup?nat_port={port}&protocol=tcp"));
        let state = if port == 40_009 { "closed" } else { "live" };
        assert_eq!(found.json()["matches"][0]["state"], state, "{}", found.text());
    }
}

#[test]
fn a_reload_that_cannot_set_an_option_puts_no_filter_into_force() {
    if !lab::require() {
        return;
    }
    let (lab, faults) = (Lab::builder().build(), Faults::new());
    let daemon = faults.start(&lab, CONFIG);
    daemon.wait_for_line("the table equals the kernel's");
    let server = lab.listen(lab.server_at(443));
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    let narrow = format!("{CONFIG}[filter]\ndst_port = 80\n[netlink]\nreceive_buffer = 1M\nreliable = yes\n");
    // SOL_NETLINK and NETLINK_BROADCAST_ERROR; SOL_SOCKET and SO_RCVBUFFORCE, SO_RCVBUF; SO_ATTACH_FILTER.
    // For want of memory the kernel would get a shorter filter.
    let failing = [
        (&["any.270.4"][..], Errno::ENOMEM),
        (&["any.1.33", "any.1.8"], Errno::ENOMEM),
        (&["any.1.26"], Errno::EPERM),
    ];
    for (port, (calls, error)) in (40_000..).zip(failing) {
        calls.iter().for_each(|call| faults.begin(call, error));
        daemon.rewrite_config(&narrow);
        daemon.signal(Signal::SIGHUP);
        let failures = |daemon: &Daemon| daemon.stderr().matches("reload failed").count();
        wait_until("the reload has failed", || failures(&daemon) == usize::from(port - 39_999));
        calls.iter().for_each(|call| faults.end(call));
        let open = lab.connect_to(&server, lab.client_at(0, port));
        let found = client.get(&format!("/v1/lookup?nat_port={port}&state=live"));
        // A new filter in the kernel would hold back the event, and a dump or a query would find the connection.
        assert_eq!(found.json()["matches"][0]["learnt"], "event", "{}: {}", calls[0], found.text());
        drop(open);
    }
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_line("is in force");
}

#[test]
fn a_filter_that_the_kernel_refuses_after_a_change_of_addresses_is_tried_again() {
    if !lab::require() {
        return;
    }
    let (lab, faults) = (Lab::builder().public_addresses(2).build(), Faults::new());
    lab.gateway().run("ip", &["address", "delete", "100.64.2.2/24", "dev", "outside"]);
    let daemon = faults.start(&lab, &format!("{CONFIG}[filter]\nnat_ip = @outside\n"));
    daemon.wait_for_line("the table equals the kernel's");
    let mut client = Client::connect(lab.gateway(), daemon.local_addr());
    let mut query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
    // SOL_SOCKET and SO_ATTACH_FILTER.
    faults.begin("any.1.26", Errno::EPERM);
    lab.gateway().run("ip", &["address", "add", "100.64.2.2/24", "dev", "outside"]);
    let public = (lab.public(1), 40_000).into();
    let tuples = flows::source_nat(Protocol::Tcp, lab.client_at(0, 40_000), lab.server_at(443), public);
    flows::create(&mut query, &tuples);
    daemon.wait_for_line("the addresses have changed, but setting the event filter");
    for _ in 0..3 {
        let found = client.get("/v1/lookup?nat_ip=100.64.2.2&nat_port=40000&state=live").json();
        assert_eq!(
            (found["complete"].as_bool(), found["matches"].as_array().map(Vec::len)),
            (Some(false), Some(0))
        );
        assert!(
            client.get("/readyz").text().contains("the addresses of an interface in [filter] have changed")
        );
    }
    faults.end("any.1.26");
    wait_until("the table is complete", || client.get("/readyz").status == 200);
    let found = client.get("/v1/lookup?nat_ip=100.64.2.2&nat_port=40000&state=live").json();
    assert_eq!(found["matches"][0]["src_port"], 40_000, "{found}");
    assert_eq!(daemon.stderr().matches("the addresses have changed, but").count(), 1);
}
