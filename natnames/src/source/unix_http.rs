//! A small HTTP/1.1 client over a Unix socket: it sends a GET, and reads the answer in pieces without blocking.
//!
//! Whoever calls it decides how to wait, so that one thread can follow an endless answer while it asks for others.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// The longest time until a connection is made, and until an answer is whole.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The largest head of an answer, and the largest trailer.
const LARGEST_HEAD: usize = 64 << 10;
/// The most fields of a head.
const MOST_FIELDS: usize = 128;
/// The longest line with the size of a chunk; it can have extensions.
const LONGEST_SIZE: usize = 4 << 10;
/// What is read at once.
const PIECE: usize = 64 << 10;
/// The pause before a socket whose queue of connections is full is tried again: the kernel does not say when it has
/// room.
const RETRY: Duration = Duration::from_millis(50);

/// Waits until the socket, if there is one, can be read, or for this time. It can return earlier.
pub(super) type Pause<'a> = dyn FnMut(Option<&UnixStream>, Duration) -> io::Result<()> + 'a;

/// How far an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing can be read now.
    Blocked,
    /// Something was read.
    More,
    /// The answer is whole.
    Done,
}

/// A GET that was sent, and its answer.
#[derive(Debug)]
pub(super) struct Get {
    stream: UnixStream,
    decoder: Decoder,
}

impl Get {
    /// Connects to a socket and asks for a target, which is a path with its query.
    pub(super) fn send(path: &Path, target: &str, pause: &mut Pause<'_>) -> io::Result<Self> {
        let mut stream = connect_to(path, pause)?;
        let fields = "Host: localhost\r\nAccept: application/json\r\nConnection: close";
        // The buffer of a new socket has room for it.
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())
            .map_err(|error| about(target, &error))?;
        Ok(Self { stream, decoder: Decoder::default() })
    }

    /// Reads once, and appends what belongs to the body.
    pub(super) fn read(&mut self, body: &mut Vec<u8>) -> io::Result<Progress> {
        let mut piece = [0; PIECE];
        let count = match self.stream.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Progress::More),
            Err(error) => return Err(error),
        };
        if count == 0 {
            return self.decoder.end().map(|()| Progress::Done);
        }
        self.decoder.decode(piece.get(..count).unwrap_or_default(), body)?;
        Ok(if self.decoder.state == State::Done { Progress::Done } else { Progress::More })
    }

    /// The status, once the head was read.
    pub(super) fn status(&self) -> Option<u16> {
        self.decoder.status
    }

    /// What to wait for.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

/// Asks for a target and returns the status and the body of the answer.
///
/// # Errors
/// Those of `pause`; if the answer is no HTTP, or takes longer than [`PATIENCE`]; of the kind
/// [`io::ErrorKind::FileTooLarge`] if it has more than `most` bytes.
pub(super) fn get(
    path: &Path,
    target: &str,
    most: usize,
    pause: &mut Pause<'_>,
) -> io::Result<(u16, Vec<u8>)> {
    let deadline = Instant::now() + PATIENCE;
    let mut get = Get::send(path, target, pause)?;
    let mut body = Vec::new();
    loop {
        let progress = get.read(&mut body).map_err(|error| about(target, &error))?;
        if body.len() > most {
            let text = format!("GET {}: an answer of more than {most} bytes", path_of(target));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        if progress == Progress::Done {
            return Ok((get.status().unwrap_or_default(), body));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("no whole answer to GET {} within {} s", path_of(target), PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        pause(Some(&get.stream), left)?;
    }
}

/// A target without its query: that can have a time in it, and then no two errors are the same.
fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

fn about(target: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("GET {}: {error}", path_of(target)))
}

fn connect_to(path: &Path, pause: &mut Pause<'_>) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => pause(None, RETRY)?,
            Err(error) => {
                let hint = match error {
                    Errno::AGAIN => "its service does not accept connections: does it hang?",
                    Errno::NOENT => "is the service installed and running, and is this its socket?",
                    Errno::CONNREFUSED => "its service does not run; start it",
                    Errno::ACCESS => "run as root, or in the group of the socket",
                    _ => "expected the Unix socket of an HTTP service",
                };
                let (path, error) = (path.display(), io::Error::from(error));
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot connect to {path}: {error}: {hint}"),
                ));
            }
        }
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of the body are left.
    Sized(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The end of line behind a chunk.
    ChunkEnd,
    /// The lines behind the last chunk; so many bytes of them were read.
    Trailer(usize),
    /// The body ends with the connection.
    UntilClosed,
    Done,
}

/// Finds the body in an answer that comes in pieces.
#[derive(Debug, Default)]
struct Decoder {
    state: State,
    status: Option<u16>,
    /// The head, or a line, that is not whole yet.
    partial: Vec<u8>,
}

impl Decoder {
    fn decode(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> io::Result<()> {
        while !input.is_empty() {
            match self.state {
                State::Head => input = self.head(input)?,
                State::Sized(left) => {
                    let (now, rest) = cut(input, left);
                    body.extend_from_slice(now);
                    let left = left - now.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Sized(left) };
                    input = rest;
                }
                State::ChunkSize => {
                    let Some(rest) = self.line(input, LONGEST_SIZE)? else { return Ok(()) };
                    let size = match httparse::parse_chunk_size(&self.partial) {
                        Ok(httparse::Status::Complete((_, size))) => size,
                        _ => return Err(invalid("a chunk without its size, where HTTP/1.1 has one")),
                    };
                    self.partial.clear();
                    self.state = if size == 0 { State::Trailer(0) } else { State::Chunk(size) };
                    input = rest;
                }
                State::Chunk(left) => {
                    let (now, rest) = cut(input, left);
                    body.extend_from_slice(now);
                    let left = left - now.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    input = rest;
                }
                State::ChunkEnd => {
                    let Some(rest) = self.line(input, 2)? else { return Ok(()) };
                    if self.partial != b"\r\n" {
                        return Err(invalid("a chunk that is longer than its size says"));
                    }
                    self.partial.clear();
                    self.state = State::ChunkSize;
                    input = rest;
                }
                State::Trailer(before) => {
                    let Some(rest) = self.line(input, LARGEST_HEAD - before)? else { return Ok(()) };
                    let is_last = self.partial == b"\r\n" || self.partial == b"\n";
                    self.state =
                        if is_last { State::Done } else { State::Trailer(before + self.partial.len()) };
                    self.partial.clear();
                    input = rest;
                }
                State::UntilClosed => {
                    body.extend_from_slice(input);
                    return Ok(());
                }
                // The connection is used once, so what follows means nothing.
                State::Done => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes the head, and returns what follows it.
    fn head<'a>(&mut self, input: &'a [u8]) -> io::Result<&'a [u8]> {
        let mut input = input;
        // Line by line, so that the head is parsed once.
        while let Some(rest) = self.line(input, LARGEST_HEAD)? {
            input = rest;
            if self.partial.ends_with(b"\r\n\r\n") || self.partial.ends_with(b"\n\n") {
                let (status, state) = parse_head(&self.partial)?;
                self.partial.clear();
                // 100 Continue and the like precede the answer.
                if !(100..200).contains(&status) {
                    (self.status, self.state) = (Some(status), state);
                    return Ok(input);
                }
            }
        }
        Ok(&[])
    }

    /// Appends a line to what there is of it, and returns what follows it; `None` if its end was not read yet.
    fn line<'a>(&mut self, input: &'a [u8], most: usize) -> io::Result<Option<&'a [u8]>> {
        let end = input.iter().position(|byte| *byte == b'\n').map(|place| place + 1);
        let (now, rest) = input.split_at_checked(end.unwrap_or(input.len())).unwrap_or((input, &[]));
        if self.partial.len() + now.len() > most {
            return Err(invalid("not an answer of HTTP/1.1: a head or a chunk's size that does not end"));
        }
        self.partial.extend_from_slice(now);
        Ok(end.map(|_| rest))
    }

    /// The connection was closed.
    fn end(&mut self) -> io::Result<()> {
        match self.state {
            State::UntilClosed | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            State::Head if self.partial.is_empty() => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed without an answer",
            )),
            _ => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed amid an answer"))
            }
        }
    }
}

fn cut(input: &[u8], left: u64) -> (&[u8], &[u8]) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    input.split_at_checked(length).unwrap_or((input, &[]))
}

/// The status, and how the body is framed: see RFC 9112, section 6.3.
fn parse_head(head: &[u8]) -> io::Result<(u16, State)> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let is_whole = response.parse(head).is_ok_and(|status| status.is_complete());
    let Some(status) = response.code.filter(|_| is_whole) else {
        let start: String = String::from_utf8_lossy(head).chars().take(80).collect();
        return Err(invalid(format!("not an answer of HTTP/1.1: it begins with {start:?}")));
    };
    if matches!(status, 204 | 304) {
        return Ok((status, State::Done));
    }
    let values = |name: &'static str| {
        let named = response.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
    };
    let codings: Vec<String> = values("transfer-encoding").collect();
    if !codings.is_empty() {
        if codings != ["chunked"] {
            return Err(invalid(format!(
                "the transfer coding {codings:?}, where only \"chunked\" can be read"
            )));
        }
        return Ok((status, State::ChunkSize));
    }
    let mut lengths = values("content-length");
    let Some(first) = lengths.next() else { return Ok((status, State::UntilClosed)) };
    let is_number = !first.is_empty() && first.bytes().all(|digit| digit.is_ascii_digit());
    match first.parse() {
        Ok(length) if is_number && lengths.all(|other| other == first) => {
            Ok((status, if length == 0 { State::Done } else { State::Sized(length) }))
        }
        _ => Err(invalid("a Content-Length that is no number, or several that differ")),
    }
}

#[cfg(test)]
#[path = "unix_http_tests.rs"]
mod tests;
