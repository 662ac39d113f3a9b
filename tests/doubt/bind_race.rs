//! The kernel's race between a listener that binds and another that unbinds. With `nf_conntrack_events` at 2 the kernel
//! notes whether anybody listens. A listener that binds sets this note and is then added to the list of listeners. One
//! that unbinds is taken off the list; if nobody is left on it, the note is deleted. So a listener that has set the note
//! and waits to be added can lose it to another, and then hears nothing.
//!
//! To be added, and to be taken off, each waits for the kernel's netlink table. A broadcast to netlink sockets of any
//! protocol holds this table. A listener that binds waits for it twice: once before it sets the note, and once before
//! it is added. So while broadcasts hold the table nearly all the time, one listener binds, and then another unbinds.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use lab::{Lab, Netns, PATIENCE};
use nfct::{Events, Groups};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, sendto, socket,
};
use nix::unistd::gettid;
use tempfile::TempDir;

use super::alone::{StopOnDrop, alone, amount};
use super::binary::DAEMON;
use super::scene::{PORT, Questions, UdpFlow, config, ctnetlink, set_events};

/// Receivers of a broadcast, which nobody reads: the more, the longer it holds the table. A thousand take a quarter of a
/// millisecond.
const RECEIVERS: usize = 6000;
/// The group of netlink's protocol for user space that the broadcast goes to.
const GROUP: u32 = 1;

fn user_socket(groups: u32) -> OwnedFd {
    let protocol = SockProtocol::NetlinkUserSock;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).expect("a netlink socket");
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups)).expect("a free port");
    socket
}

/// What can hold the kernel's netlink table, in a namespace that has no part in the race.
struct Holder {
    sender: OwnedFd,
    _receivers: Vec<OwnedFd>,
    /// Broadcasts so far.
    held: AtomicU32,
}

impl Holder {
    fn new(bystander: &Netns) -> Self {
        let allowed = rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files can be read");
        let number = RECEIVERS.min(usize::try_from(allowed).unwrap_or(usize::MAX) / 2);
        bystander.enter(|| Self {
            sender: user_socket(0),
            _receivers: (0..number).map(|_| user_socket(GROUP)).collect(),
            held: AtomicU32::new(0),
        })
    }

    /// Holds the table, nearly all the time, until `end` is set.
    fn hold(&self, end: &AtomicBool) {
        while !end.load(Ordering::Relaxed) {
            // Nobody has the port number 0, which is an error after the broadcast.
            let to = NetlinkAddr::new(0, GROUP);
            let _ = sendto(self.sender.as_raw_fd(), b"held", &to, MsgFlags::empty());
            self.held.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Spins until a condition holds: for what lasts less than a millisecond.
fn spin_until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

/// Whether a thread of a process waits for something that no signal interrupts (`man 5 proc`).
fn is_any_blocked(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().any(|thread| is_blocked(&thread.path()))
}

fn is_blocked(thread: &Path) -> bool {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}

fn listen() -> Events {
    Events::subscribe(Groups::NEW | Groups::DESTROY).expect("ctnetlink reports events")
}

/// Calls `bind`, and unbinds the last other listener while `is_waiting` says that the new one waits. `is_bound` says that
/// it does no more.
fn race(
    lab: &Lab,
    holder: &Holder,
    bind: impl FnOnce(),
    is_waiting: impl Fn() -> bool,
    is_bound: impl Fn() -> bool,
) {
    let last = lab.gateway().enter(listen);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = StopOnDrop(&end);
        let before = holder.held.load(Ordering::Relaxed);
        scope.spawn(|| holder.hold(&end));
        spin_until("the table is held", || holder.held.load(Ordering::Relaxed) > before + 2);
        bind();
        spin_until("the new listener waits", || is_waiting() || is_bound());
        drop(last);
        spin_until("the new listener is bound", is_bound);
    });
}

/// Whether a listener hears of a flow that begins now.
fn hears(events: &mut Events, lab: &Lab, number: u16, server: &UdpSocket) -> bool {
    let flow = UdpFlow::begin(lab, lab.client_at(0, number), server);
    let has_heard = events.try_next().expect("it can be read").is_some();
    flow.delete(&mut ctnetlink(lab));
    has_heard
}

/// Whether a program of this machine listens, in any namespace: then nobody is the last listener.
fn does_anybody_listen(lab: &Lab, server: &UdpSocket) -> bool {
    // The entry of a flow has an event to send at its end only if somebody listened at its beginning.
    let flow = UdpFlow::begin(lab, lab.client_at(0, 30_000), server);
    let mut events = lab.gateway().enter(listen);
    flow.delete(&mut ctnetlink(lab));
    events.try_next().expect("it can be read").is_some()
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
fn a_daemon_that_binds_while_the_last_other_listener_unbinds_is_not_deaf() {
    let (bare, starts) = (amount(20, 200), amount(20, 200));
    if !lab::require() {
        return;
    }
    let _alone = alone();
    let lab = Lab::builder().build();
    let server = lab.udp_server(lab.server_at(PORT));
    set_events(&lab, "2");
    let holder = Holder::new(lab.client());
    // A bare listener shows how often the race is lost.
    let (mut deaf, mut unheard) = (0, 0);
    for number in 0..bare {
        let thread = AtomicI32::new(0);
        let bound = OnceLock::new();
        unheard += u32::from(!does_anybody_listen(&lab, &server));
        thread::scope(|scope| {
            let bind = || {
                scope.spawn(|| {
                    lab.gateway().enter(|| {
                        thread.store(gettid().as_raw(), Ordering::SeqCst);
                        assert!(bound.set(Mutex::new(listen())).is_ok(), "it binds once");
                    });
                });
            };
            let path = || PathBuf::from(format!("/proc/self/task/{}", thread.load(Ordering::SeqCst)));
            race(&lab, &holder, bind, || is_blocked(&path()), || bound.get().is_some());
        });
        let events = bound.into_inner().expect("it is bound");
        let mut events = events.into_inner().expect("nothing panicked");
        deaf += u32::from(!hears(&mut events, &lab, 30_001 + number, &server));
    }
    let gate = Gate::build();
    let (mut absent, mut otherwise) = (0, 0);
    for number in 0..starts {
        unheard += u32::from(!does_anybody_listen(&lab, &server));
        let waiting = UnixListener::bind(gate.socket(number)).expect("a fresh name");
        let builder = DAEMON.builder(config("")).env("LD_PRELOAD", gate.library());
        let mut daemon = builder.env("GATE", gate.socket(number)).spawn(lab.gateway());
        let (mut daemon_waits, _) = waiting.accept().expect("the daemon binds");
        let bind = || daemon_waits.write_all(b"b").expect("the daemon reads it");
        let is_bound = || daemon.stderr().contains("subscribed to conntrack events");
        race(&lab, &holder, bind, || is_any_blocked(daemon.pid()), is_bound);
        daemon.wait_for_address();
        let mut questions = Questions::to(&lab, &daemon);
        questions.wait_ready();
        let flow = UdpFlow::begin(&lab, lab.client_at(0, 40_001 + number), &server);
        let answer = questions.look_up(&format!("nat_port={}&state=live", flow.public.port()));
        absent += u32::from(answer.live() != [flow.src]);
        otherwise += u32::from(answer.matches.iter().any(|one| one.learnt != "event"));
    }
    println!(
        "bound while the last other listener unbound: {deaf} of {bare} bare listeners are deaf; of \
         {starts} daemons {absent} do not find what began afterwards, {otherwise} learnt of it otherwise than by an event; {unheard} times nobody else listened"
    );
    assert_eq!((absent, otherwise), (0, 0));
}
