//! A socket to which other programs write who has an address: a RADIUS server, the scripts of a PPPoE server.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::Source;
use super::follow::{Identity, at_path, identity};
use super::format::Parser;
use super::lines::{LONGEST_LINE, Line, Splitter};
use crate::claim::Report;
use crate::outlet::{Outlet, Stopped};

/// The most connections at a time.
const MOST_CONNECTIONS: usize = 64;
/// A connection without a valid line for this long is closed for a new one, if there are too many.
const IDLE: Duration = Duration::from_secs(5);
/// The pause after the system could not accept a connection.
const PAUSE: Duration = Duration::from_secs(1);
/// A warning of lines that were refused is logged once in this time.
const WARN_EACH: Duration = Duration::from_secs(60);
/// The kernel lets this many clients wait.
const BACKLOG: i32 = 128;
/// What is read of a connection before the others have their turn.
const PIECE: usize = 64 << 10;
/// The most bytes of the path of a socket: `struct sockaddr_un`, without the zero at its end.
const LONGEST_PATH: usize = 107;

/// Listens on a Unix stream socket, and takes the lines that clients write. doc/NAMES.md describes them.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    mode: u32,
    idle: Duration,
}

impl Socket {
    /// A socket at this path, with these permissions: `0o660` for the owner and the group.
    pub fn new(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self { path: path.into(), mode, idle: IDLE }
    }
}

impl Source for Socket {
    fn name(&self) -> &'static str {
        "socket"
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        let listening = Listening::open(&self.path, self.mode)?;
        // What clients said before holds until they say something else: an empty list would end it.
        outlet.say(Report::Followed)?;
        Server {
            listening,
            idle: self.idle,
            connections: Vec::new(),
            paused_until: None,
            warned: None,
            buffer: vec![0; PIECE].into_boxed_slice(),
        }
        .serve(outlet)
    }
}

/// A socket that listens. Its file is removed at the end.
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    file: Identity,
}

impl Listening {
    fn open(path: &Path, mode: u32) -> io::Result<Self> {
        let length = path.as_os_str().len();
        if length == 0 || length > LONGEST_PATH {
            let why = format!(
                "the path of a socket has at most {LONGEST_PATH} bytes, but this has {length}: choose another"
            );
            return Err(at_path(path, why));
        }
        let on_error = |error: Errno| at_path(path, explain(error));
        let address = SocketAddrUnix::new(path).map_err(on_error)?;
        let socket = open().map_err(on_error)?;
        // The file has the permissions of the socket, so that it never has more than these; umask can take some away.
        fchmod(&socket, Mode::from_raw_mode(mode & 0o777)).map_err(on_error)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&socket, &address).map_err(on_error)?;
            }
            bound => bound.map_err(on_error)?,
        }
        let metadata = fs::symlink_metadata(path).map_err(|error| at_path(path, error))?;
        let this =
            Self { listener: UnixListener::from(socket), path: path.to_owned(), file: identity(&metadata) };
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
            .map_err(|error| at_path(path, error))?;
        listen(&this.listener, BACKLOG).map_err(on_error)?;
        Ok(this)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Unless another daemon has replaced it.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open() -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn explain(error: Errno) -> String {
    match error {
        Errno::NOENT => "its folder does not exist: make it, or correct the path".to_owned(),
        Errno::ADDRINUSE => "another program has just begun to listen there".to_owned(),
        error => error.to_string(),
    }
}

/// Removes the file of a socket on which nobody listens any more.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path).map_err(|error| at_path(path, error))?;
    if !metadata.file_type().is_socket() {
        return Err(at_path(path, "there is something that is no socket: remove it, or choose another path"));
    }
    let socket = open().map_err(|error| at_path(path, error))?;
    match connect(&socket, address) {
        Err(Errno::CONNREFUSED) => {
            log::info!("names: {}: nobody listens there any more; it is replaced", path.display());
            fs::remove_file(path).map_err(|error| at_path(path, error))
        }
        _ => Err(at_path(path, "another program listens there: stop it, or choose another path")),
    }
}

struct Server {
    listening: Listening,
    idle: Duration,
    connections: Vec<Connection>,
    /// The system could not accept a connection.
    paused_until: Option<Instant>,
    warned: Option<Instant>,
    buffer: Box<[u8]>,
}

impl Server {
    fn serve(&mut self, outlet: &Outlet) -> io::Result<()> {
        loop {
            let now = Instant::now();
            let timeout = self.accepts_from(now).map(|from| from.saturating_duration_since(now));
            let mut watched: Vec<&dyn AsFd> = Vec::with_capacity(self.connections.len() + 1);
            watched.extend(self.connections.iter().map(|connection| connection as &dyn AsFd));
            if timeout.is_none() {
                watched.push(&self.listening.listener);
            }
            if let Err(error) = outlet.wait(&watched, timeout) {
                drop(watched);
                // If this ended, what comes meanwhile would be lost. It is the system's, such as too little memory.
                if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) {
                    return Err(error);
                }
                self.warn(&format!("clients cannot be waited for: {error}"));
                outlet.wait(&[], Some(PAUSE))?;
            }
            self.read(outlet)?;
            self.accept();
        }
    }

    /// When the next connection can be accepted; `None` is now.
    fn accepts_from(&self, now: Instant) -> Option<Instant> {
        let is_full = self.connections.len() >= MOST_CONNECTIONS;
        let oldest = self.connections.iter().map(|connection| connection.used).min();
        let evicts_from = oldest.filter(|_| is_full).map(|used| used + self.idle);
        evicts_from.max(self.paused_until).filter(|from| *from > now)
    }

    /// Reads what has come. Each connection has its turn.
    fn read(&mut self, outlet: &Outlet) -> Result<(), Stopped> {
        let mut place = 0;
        while let Some(connection) = self.connections.get_mut(place) {
            if connection.read(&mut self.buffer, outlet)? {
                place += 1;
                continue;
            }
            let connection = self.connections.swap_remove(place);
            self.end(connection, None);
        }
        Ok(())
    }

    fn accept(&mut self) {
        while self.accepts_from(Instant::now()).is_none() {
            let stream = match self.listening.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    self.paused_until = Some(Instant::now() + PAUSE);
                    self.warn(&format!("a connection cannot be accepted: {error}"));
                    return;
                }
            };
            if self.connections.len() >= MOST_CONNECTIONS {
                self.evict();
            }
            // It is only an error if the descriptor is none.
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection::new(stream));
            }
        }
    }

    /// Closes the connection that has been idle for the longest time.
    fn evict(&mut self) {
        let oldest = (0..).zip(&self.connections).min_by_key(|(_, connection)| connection.used);
        if let Some((place, _)) = oldest {
            let connection = self.connections.swap_remove(place);
            let why = format!("it was idle, and at most {MOST_CONNECTIONS} clients can be connected");
            self.end(connection, Some(why));
        }
    }

    /// Answers a client whose connection is at its end.
    fn end(&mut self, mut connection: Connection, why: Option<String>) {
        if let Some(why) = why {
            connection.refuse(why);
        }
        let answer = connection.answer();
        // The client need not wait for it.
        let _ = connection.stream.write(answer.as_bytes());
        if connection.first_error.is_some() {
            self.warn(&format!("a client was answered: {}", answer.trim_end()));
        }
    }

    fn warn(&mut self, what: &str) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EACH) {
            self.warned = Some(Instant::now());
            log::warn!("names: {}: {what}", self.listening.path.display());
        }
    }
}

struct Connection {
    stream: UnixStream,
    splitter: Splitter,
    parser: Parser,
    /// The lines until now, those that say nothing included.
    lines: u64,
    applied: u64,
    refused: u64,
    first_error: Option<(u64, String)>,
    /// When a valid line came last.
    used: Instant,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            splitter: Splitter::default(),
            parser: Parser::default(),
            lines: 0,
            applied: 0,
            refused: 0,
            first_error: None,
            used: Instant::now(),
        }
    }

    /// Reads a piece, and reports what it says. Returns false at the end of the connection.
    fn read(&mut self, buffer: &mut [u8], outlet: &Outlet) -> Result<bool, Stopped> {
        let length = match self.stream.read(buffer) {
            Ok(0) => {
                self.take_line(outlet, true)?;
                return Ok(false);
            }
            Ok(length) => length,
            Err(error) => {
                let can_go_on =
                    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
                return Ok(can_go_on);
            }
        };
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let (taken, is_whole) = self.splitter.take(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if is_whole {
                self.take_line(outlet, false)?;
            }
        }
        Ok(true)
    }

    /// Reports what a line says. At the end, that is a line without a line feed.
    fn take_line(&mut self, outlet: &Outlet, is_end: bool) -> Result<(), Stopped> {
        let record = match self.splitter.line() {
            Line::Whole(_) | Line::Unfinished([]) if is_end => return Ok(()),
            Line::TooLong(_) => Err(format!("it is longer than {} KiB", LONGEST_LINE >> 10)),
            Line::Whole(line) | Line::Unfinished(line) => self.parser.read(line),
        };
        self.lines += 1;
        match record {
            Ok(Some(record)) => {
                self.applied += 1;
                self.used = Instant::now();
                outlet.say(record.into())?;
            }
            Ok(None) => {}
            Err(why) => self.refuse(why),
        }
        Ok(())
    }

    fn refuse(&mut self, why: String) {
        self.refused += 1;
        self.first_error.get_or_insert((self.lines, why));
    }

    /// The answer line.
    fn answer(&self) -> String {
        let Self { applied, refused, first_error, .. } = self;
        match first_error {
            None => format!("ok {applied}\n"),
            Some((line, why)) => {
                format!("error line {line}: {why} (lines applied: {applied}, not applied: {refused})\n")
            }
        }
    }
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
