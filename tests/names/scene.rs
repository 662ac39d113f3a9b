//! The gateway with its daemon, and the connections through it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use lab::flows::{create, source_nat};
use lab::http::{Client, Response};
use lab::{Daemon, Lab};
use nfct::{Protocol, Query};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use socket2::{Domain, Socket, Type};

use crate::{DAEMON, Millis, now};

/// A connection, or an entry of the gateway's table that nobody sent anything for.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// The public port, which no other has.
    pub(crate) port: u16,
    pub(crate) address: IpAddr,
    /// The session of the device that opened it.
    pub(crate) sender: Option<usize>,
    /// It opened between these.
    pub(crate) before: Millis,
    pub(crate) after: Millis,
}

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) opened: Vec<Opened>,
    query: Query,
    next_port: u16,
    config: String,
    daemon: Option<Daemon>,
    asking: Option<Client>,
}

impl Scene {
    /// A gateway, whose daemon is yet to be started, with these lines in `[names]`.
    pub(crate) fn new(lab: Lab, folder: &Path, names: &str) -> Self {
        lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        let config = format!(
            "[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\n[http_server]\nhost = ::\nport = 0\nip_acl = \
             ::1,\n[history]\npath = {}\n[names]\n{names}\n",
            folder.join("history").display()
        );
        Self { lab, opened: Vec::new(), query, next_port: 2_000, config, daemon: None, asking: None }
    }

    pub(crate) fn start_daemon(&mut self) {
        self.daemon = Some(DAEMON.start(self.lab.gateway(), self.config.clone()));
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    pub(crate) fn is_followed(&self, source: &str) -> bool {
        self.daemon().stderr().contains(&format!("names: {source} is followed"))
    }

    pub(crate) fn kill_daemon(&mut self) {
        self.asking = None;
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
        }
    }

    /// Asks the daemon.
    pub(crate) fn get(&mut self, path: &str) -> Response {
        let (daemon, lab) = (self.daemon.as_ref().expect("the daemon runs"), &self.lab);
        let client = self.asking.get_or_insert_with(|| Client::connect(lab.gateway(), daemon.local_addr()));
        client.get(path)
    }

    /// Opens a connection of a device, unless its address is gone.
    pub(crate) fn connect(&mut self, interface: &str, address: IpAddr, session: usize) {
        let port = self.take_port();
        let server = match address {
            IpAddr::V4(_) => self.lab.server_at(443),
            IpAddr::V6(_) => self.lab.server6_at(443),
        };
        let before = now();
        let sent = self.lab.client().enter(|| send(interface, (address, port).into(), server, port % 4 == 0));
        if sent.is_ok() {
            self.opened.push(Opened { port, address, sender: Some(session), before, after: now() });
        }
    }

    /// Makes an entry as if this address had opened a connection, whoever has it.
    pub(crate) fn pretend(&mut self, address: IpAddr) {
        let port = self.take_port();
        let before = now();
        let flow = source_nat(
            Protocol::Udp,
            (address, port).into(),
            self.lab.server_at(443),
            (self.lab.public(0), port).into(),
        );
        create(&mut self.query, &flow);
        self.opened.push(Opened { port, address, sender: None, before, after: now() });
    }

    /// What the daemon has heard of up to now is in its history after this.
    pub(crate) fn settle(&mut self) {
        self.pretend(self.lab.client_at(0, 0).ip());
        let last = self.next_port;
        let path = format!("/v1/history?nat_port={last}&from=-1h");
        for _ in 0..500 {
            if self.get(&path).status == 200 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{path} is not known");
    }

    fn take_port(&mut self) -> u16 {
        self.next_port += 1;
        assert!(self.next_port < 60_000, "there are ports left");
        self.next_port
    }
}

fn send(interface: &str, from: SocketAddr, to: SocketAddr, is_tcp: bool) -> io::Result<()> {
    let kind = if is_tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(from), kind.nonblocking(), None)?;
    setsockopt(&socket, BindToDevice, &interface.into())?;
    socket.bind(&from.into())?;
    if is_tcp {
        return match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(()),
        };
    }
    socket.send_to(b"x", &to.into()).map(drop)
}
