//! The kernel's race between a listener that binds and another that unbinds. With `nf_conntrack_events` at 2 the kernel
//! notes whether anybody listens. A listener that binds sets this note and is then added to the list of listeners. One
//! that unbinds is taken off the list; if nobody is left on it, the note is deleted. So a listener that has set the note
//! and is not on the list yet can lose it to another, and then hears nothing of what begins.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, flows};
use nfct::{Events, Groups, Protocol, Query};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, socket,
};
use tempfile::TempDir;

use super::alone::{alone, amount};
use super::binary::DAEMON;
use super::scene::{PORT, Questions, UdpFlow, config, ctnetlink, set_events};

/// A listener without the library, so that nothing is between its two system calls and those of the other one.
struct Bare(OwnedFd);

impl Bare {
    /// The groups of connections that begin and end.
    const GROUPS: u32 = 1 | 4;

    fn unbound() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).expect("a netlink socket");
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).expect("a free port");
        Self(socket)
    }

    fn port(&self) -> u32 {
        getsockname::<NetlinkAddr>(self.0.as_raw_fd()).expect("it has a port").pid()
    }

    fn listen(&self, port: u32) {
        bind(self.0.as_raw_fd(), &NetlinkAddr::new(port, Self::GROUPS)).expect("it can listen");
    }

    /// Whether it hears of a connection that begins now.
    fn hears(&self, lab: &Lab, query: &mut Query) -> bool {
        let public = (lab.public(0), 1000).into();
        let entry = flows::source_nat(Protocol::Tcp, lab.client_at(0, 1000), lab.server_at(PORT), public);
        flows::create(query, &entry);
        let has_heard = recv(self.0.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok();
        flows::remove(query, &entry.0);
        while recv(self.0.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok() {}
        has_heard
    }
}

fn spin(nanoseconds: u32) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_nanos(nanoseconds.into()) {
        std::hint::spin_loop();
    }
}

/// Unbinds one listener while another one binds, on two processors. `trial` says how much later the one or the other is.
fn race(last: Bare, new: &Bare, trial: u32) {
    let port = new.port();
    let apart = trial / 2 % 32 * 100;
    let ready = AtomicU32::new(0);
    let meet = || {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            meet();
            spin(if trial % 2 == 0 { apart } else { 0 });
            drop(last);
        });
        meet();
        spin(if trial % 2 == 0 { 0 } else { apart });
        new.listen(port);
    });
}

#[test]
fn a_deaf_listener_hears_after_another_one_has_subscribed_for_a_moment() {
    let trials = amount(10_000, 300_000);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    set_events(&lab, "2");
    let (deaf, still_deaf) = lab.gateway().enter(|| {
        let (mut deaf, mut still_deaf) = (0, 0);
        let mut query = Query::open().expect("ctnetlink is available");
        for trial in 0..trials {
            let (last, new) = (Bare::unbound(), Bare::unbound());
            last.listen(last.port());
            race(last, &new, trial);
            if !new.hears(&lab, &mut query) {
                deaf += 1;
                drop(Events::subscribe(Groups::NEW | Groups::DESTROY));
                still_deaf += u32::from(!new.hears(&lab, &mut query));
            }
        }
        (deaf, still_deaf)
    });
    println!("bound while the last other listener unbound: {deaf} of {trials} deaf, {still_deaf} for good");
    assert_eq!(still_deaf, 0);
}

/// A library that stops a daemon before it binds.
struct Gate {
    directory: TempDir,
}

impl Gate {
    fn build() -> Self {
        let gate = Self { directory: TempDir::with_prefix("gate-").expect("a temporary directory") };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doubt/bind_gate.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(gate.library()).args([source, "-ldl"]);
        assert!(compiler.status().expect("there is a C compiler").success(), "{source} can be compiled");
        gate
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("gate.so")
    }

    fn socket(&self, number: u16) -> PathBuf {
        self.directory.path().join(number.to_string())
    }
}

#[test]
fn a_daemon_that_binds_while_the_last_other_listener_unbinds_hears() {
    let starts = amount(40, 1000);
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(PORT));
    set_events(&lab, "2");
    let gate = Gate::build();
    let mut query = ctnetlink(&lab);
    let (mut absent, mut otherwise) = (0, 0);
    for number in 0..starts {
        let waiting = UnixListener::bind(gate.socket(number)).expect("a fresh name");
        let builder = DAEMON.builder(config("")).env("LD_PRELOAD", gate.library());
        let mut daemon = builder.env("GATE", gate.socket(number)).spawn(lab.gateway());
        let (mut waits, _) = waiting.accept().expect("the daemon binds");
        let last = lab.gateway().enter(|| {
            let last = Bare::unbound();
            last.listen(last.port());
            last
        });
        waits.write_all(b"b").expect("the daemon reads it");
        // It takes some microseconds to wake up.
        spin(u32::from(number) % 40 * 1500);
        drop(last);
        daemon.wait_for_address();
        let mut questions = Questions::to(&lab, &daemon);
        questions.wait_ready();
        let flow = UdpFlow::begin(&lab, lab.client_at(0, 40_001 + number), &server);
        let answer = questions.look_up(&format!("nat_port={}&state=live", flow.public.port()));
        absent += u32::from(answer.live() != [flow.src]);
        otherwise += u32::from(answer.matches.iter().any(|one| one.learnt != "event"));
        flow.delete(&mut query);
    }
    println!("of {starts} daemons {absent} do not find what began afterwards, {otherwise} not by its event");
    assert_eq!((absent, otherwise), (0, 0));
}
