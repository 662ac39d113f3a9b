//! A gateway whose daemon keeps a history, and what is in the files.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lab::flows::{self, create, remove};
use lab::http::get;
use lab::traffic::{Connection, TcpServer};
use lab::{Daemon, DaemonBuilder, Lab};
use nathistory::disk::Directory;
use nathistory::{Gap, Known, Millis, Moment, Question, Reader, Reason, Record};
use nfct::{Protocol, Query, Tuple};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::binary::DAEMON;

/// What clocks and rounding may differ by, in milliseconds.
pub(super) const ROUNDING: Millis = 5;
/// How late the daemon can read an event on a machine that is busy, in milliseconds.
pub(super) const LATE: Millis = 500;

/// The longest that a lookup may take on a machine that is busy, in milliseconds.
const PROMPT: Millis = 500;

pub(super) fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    Millis::try_from(now.as_millis()).expect("a time")
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) records: Vec<Record>,
    pub(super) gaps: Vec<Gap>,
}

impl Past {
    pub(super) fn read(path: &Path) -> Self {
        let directory = Directory::existing(path).expect("the directory exists");
        let reader = Reader::of_files(Arc::new(directory)).expect("it is a history");
        let mut records = Vec::new();
        let question = Question::about(0, 2 * now());
        let found = reader.find(&question, &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        });
        let mut gaps = found.expect("the files can be read").gaps;
        // The time after the end of the files.
        gaps.retain(|gap| gap.detail.as_deref() != Some("the files end here"));
        records.sort_by_key(|record| record.opened.at);
        Self { records, gaps }
    }

    /// The lifetimes with this inside port.
    pub(super) fn of(&self, port: u16) -> Vec<Record> {
        self.records.iter().filter(|record| record.src.port == Some(port)).copied().collect()
    }

    /// The only one.
    pub(super) fn only(&self, port: u16) -> Record {
        let records = self.of(port);
        assert_eq!(records.len(), 1, "{records:#?}\n{:#?}", self.gaps);
        records[0]
    }

    /// The last gap with this reason.
    pub(super) fn gap(&self, reason: Reason) -> (Millis, Millis) {
        let gap = self.gaps.iter().rfind(|gap| gap.reason == reason);
        let gap = gap.unwrap_or_else(|| panic!("no {reason:?}: {:#?}", self.gaps));
        (gap.from, gap.to.unwrap_or_else(|| panic!("it has ended: {gap:?}")))
    }
}

/// A gateway whose daemon keeps a history.
pub(super) struct Bench {
    pub(super) lab: Lab,
    pub(super) server: TcpServer,
    pub(super) query: Query,
    pub(super) directory: TempDir,
    pub(super) rest: String,
}

impl Bench {
    pub(super) fn new() -> Self {
        let lab = Lab::builder().clients(2).build();
        lab.gateway().sysctl("net.netfilter.nf_conntrack_events", "1");
        let server = lab.listen(lab.server_at(443));
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        let directory = TempDir::with_prefix("pynatconnd-history-").expect("a directory can be made");
        Self { lab, server, query, directory, rest: String::new() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("history")
    }

    pub(super) fn config(&self) -> String {
        format!(
            "[filter]\nnat_only = yes\n[data]\nkey_name = nat_port\ndel_delay = 2\n[history]\npath = {}\n{}",
            self.path().display(),
            self.rest
        )
    }

    pub(super) fn builder(&self) -> DaemonBuilder {
        DAEMON.builder(self.config())
    }

    pub(super) fn start(&self) -> Daemon {
        let daemon = self.builder().start(self.lab.gateway());
        daemon.wait_for_line("equals the kernel's");
        daemon
    }

    pub(super) fn open(&self, port: u16) -> Connection {
        self.lab.connect_to(&self.server, self.lab.client_at(0, port))
    }

    pub(super) fn end(&mut self, connection: Connection) {
        let from = connection.client.local_addr().expect("connected");
        connection.reset();
        // A reset leaves the entry for some seconds.
        assert!(remove(&mut self.query, &flows::tuple(Protocol::Tcp, from, self.server.address())));
    }

    /// A connection without packets.
    pub(super) fn flow(&self, port: u16) -> (Tuple, Tuple) {
        let (inside, public) = (self.lab.client_at(1, port), (self.lab.public(0), port).into());
        flows::source_nat(Protocol::Tcp, inside, self.lab.server_at(443), public)
    }

    pub(super) fn create(&mut self, ports: impl Iterator<Item = u16>) {
        ports.for_each(|port| {
            let flow = self.flow(port);
            create(&mut self.query, &flow);
        });
    }

    pub(super) fn remove(&mut self, ports: impl Iterator<Item = u16>) {
        ports.for_each(|port| {
            let (original, _) = self.flow(port);
            assert!(remove(&mut self.query, &original));
        });
    }

    /// New connections are found at once, whatever the disk does.
    pub(super) fn assert_prompt(&self, daemon: &Daemon, ports: Range<u16>) {
        for port in ports {
            let begun = now();
            let path = format!("/v1/lookup?nat_port={port}");
            let answer = get(self.lab.gateway(), daemon.local_addr(), &path);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(now() - begun < PROMPT, "a lookup waits");
        }
    }

    pub(super) fn past(&self) -> Past {
        Past::read(&self.path())
    }
}

pub(super) fn terminate(mut daemon: Daemon) -> String {
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success(), "{}", daemon.stderr());
    daemon.stderr()
}

pub(super) fn assert_within(moment: Moment, known: Known, from: Millis, to: Millis) {
    assert_eq!(moment.known, known, "{moment:?}");
    assert!((from - ROUNDING..=to + ROUNDING).contains(&moment.at), "{moment:?} is not in {from}..{to}");
}

pub(super) fn end_of(address: std::net::SocketAddr) -> nathistory::End {
    nathistory::End { ip: address.ip(), port: Some(address.port()) }
}

pub(super) fn daemon_live(bench: &Bench, daemon: &Daemon) -> usize {
    let answer = get(bench.lab.gateway(), daemon.local_addr(), "/v1/mappings?state=live");
    answer.text().lines().filter(|line| !line.is_empty()).count()
}
