//! What a client of `/v1/events` hears.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use lab::{Daemon, Lab, flows, wait_until};
use nfct::{Protocol, Query};
use serde_json::Value;

use super::lookups::Match;

/// One line about a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// `opened` or `closed`.
    pub(crate) event: String,
    pub(crate) mapping: Match,
    /// When it was read.
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Lines {
    mappings: Vec<Line>,
    /// Lines that say that lines are missing.
    lost: usize,
}

/// A client that reads `/v1/events` in a thread of its own.
pub(crate) struct Heard {
    lines: Arc<Mutex<Lines>>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
    markers: u16,
}

impl Heard {
    /// Listens to every mapping from now on.
    pub(crate) fn listen(lab: &Lab, daemon: &Daemon) -> Self {
        let address = daemon.local_addr();
        let stream = lab.gateway().enter(|| TcpStream::connect_timeout(&address, lab::PATIENCE));
        let mut stream = stream.unwrap_or_else(|error| panic!("cannot reach {address}: {error}"));
        stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").expect("the request can be sent");
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor can be duplicated"));
        let mut head = String::new();
        while reader.read_line(&mut head).expect("the response begins") > 2 {}
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        let lines = Arc::new(Mutex::new(Lines::default()));
        let writer = Arc::clone(&lines);
        let thread = std::thread::spawn(move || read(reader, &writer));
        Self { lines, stream, thread: Some(thread), markers: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines about mappings so far that `meant` chooses.
    pub(crate) fn lines(&self, meant: impl Fn(&Match) -> bool) -> Vec<Line> {
        let lines = self.lock();
        assert_eq!(lines.lost, 0, "the client missed lines");
        lines.mappings.iter().filter(|line| meant(&line.mapping)).cloned().collect()
    }

    /// The names of these lines, in order.
    pub(crate) fn names(&self, meant: impl Fn(&Match) -> bool) -> Vec<String> {
        self.lines(meant).into_iter().map(|line| line.event).collect()
    }

    /// Waits until the client has heard of everything that has happened so far: until it hears of the end of a
    /// connection that begins and ends now.
    pub(crate) fn catch_up(&mut self, lab: &Lab, query: &mut Query) {
        let inside: SocketAddr = ([10, 255, 255, 1], 1024 + self.markers).into();
        self.markers += 1;
        let public = (lab.public(0), inside.port() + 1).into();
        let marker = flows::source_nat(Protocol::Udp, inside, lab.server_at(443), public);
        flows::create(query, &marker);
        assert!(flows::remove(query, &marker.0));
        wait_until("the client hears of the last mapping", || {
            self.names(|mapping| mapping.inside() == inside).contains(&"closed".to_owned())
        });
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the listening thread panicked");
        }
    }
}

/// Reads until the stream ends.
fn read(mut from: impl BufRead, lines: &Mutex<Lines>) {
    let mut text = String::new();
    while from.read_line(&mut text).is_ok_and(|length| length > 0) && text.ends_with('\n') {
        let at = Instant::now();
        let mut line: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        let event = line["event"].as_str().expect("each line has it").to_owned();
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        match event.as_str() {
            "opened" | "closed" => {
                let mapping = serde_json::from_value(line["mapping"].take());
                let mapping = mapping.unwrap_or_else(|error| panic!("{error} in {text:?}"));
                lines.mappings.push(Line { event, mapping, at });
            }
            "lost" => lines.lost += 1,
            _ => {}
        }
        text.clear();
    }
}
