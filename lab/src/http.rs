//! A small blocking HTTP/1.1 client: one persistent connection from a given namespace, with a timeout on
//! everything. It is strict: an invalid HTTP/1.1 response is an error.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::netns::Netns;
use super::traffic;
use super::wait::PATIENCE;

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status, such as 200.
    pub status: u16,
    /// The header fields, in the order and spelling of the response.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer coding.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.header(name)
            .is_some_and(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(token)))
    }
}

/// Sends one GET request on a new connection.
pub fn get(netns: &Netns, address: SocketAddr, path: &str) -> Response {
    Client::connect(netns, address).request("GET", path, &[("Connection", "close")], b"")
}

/// A persistent connection to a server.
pub struct Client {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Client {
    /// Connects from a namespace; panics when the server cannot be reached.
    pub fn connect(netns: &Netns, address: SocketAddr) -> Self {
        Self::try_connect(netns, address)
            .unwrap_or_else(|error| panic!("cannot reach http://{address}: {error}"))
    }

    /// Connects from a namespace.
    pub fn try_connect(netns: &Netns, address: SocketAddr) -> io::Result<Self> {
        Self::over(netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?)
    }

    /// Uses an existing connection.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        traffic::bound(&stream)?;
        stream.set_nodelay(true)?;
        let address = stream.peer_addr()?;
        Ok(Self { stream: BufReader::new(stream), address })
    }

    /// Sends a GET request. Panics when no response comes.
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// Sends a request. Panics when no response comes.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.try_request(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} http://{}{path}: {error}", self.address))
    }

    /// Sends a request. Adds `Host` and, with a body, `Content-Length` to the headers.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.send(&[head.as_bytes(), b"\r\n", body].concat())?;
        self.read_response(method)
    }

    /// Requests a stream and returns its body, to be read line by line. Panics when the status is not 200.
    pub fn stream_lines(mut self, path: &str) -> BufReader<Chunked> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.send(head.as_bytes()).unwrap_or_else(|error| panic!("GET {path}: {error}"));
        let head = self.read_head("HTTP/1.1").unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert!(head.status == 200 && head.has_token("Transfer-Encoding", "chunked"), "{path}: {head:?}");
        BufReader::with_capacity(1 << 16, Chunked { client: self, left: 0, state: ChunkState::Before })
    }

    /// Requests a stream and calls `on` with each of its lines.
    pub fn get_lines(self, path: &str, mut on: impl FnMut(&str)) {
        let mut body = self.stream_lines(path);
        let mut line = String::new();
        while body.read_line(&mut line).unwrap_or_else(|error| panic!("GET {path}: {error}")) > 0 {
            on(line.trim_end());
            line.clear();
        }
    }

    /// Sends bytes unchanged, for invalid requests.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Waits for the server and returns whether it has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.stream.fill_buf() {
                Ok(rest) => return rest.is_empty(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// The socket, for a timeout of the test.
    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Reads the response to a request of this method and skips interim ones (1xx).
    pub fn read_response(&mut self, method: &str) -> io::Result<Response> {
        loop {
            let mut response = self.read_head("HTTP/1.1")?;
            if response.status < 200 {
                continue;
            }
            if method != "HEAD" && !matches!(response.status, 204 | 304) {
                response.body = self.read_body(&response)?;
            }
            return Ok(response);
        }
    }

    fn read_head(&mut self, version: &str) -> io::Result<Response> {
        let line = self.read_line()?;
        let status = line
            .strip_prefix(version)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| malformed("status line", &line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(Response { status, headers, body: Vec::new() });
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header", &line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response.has_token("Transfer-Encoding", "chunked") {
            loop {
                let line = self.read_line()?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))?;
                self.read_exactly(size, &mut body)?;
                // The last chunk is followed by trailers, which are skipped, and an empty line.
                while !self.read_line()?.is_empty() {
                    if size > 0 {
                        return Err(malformed("chunk", "longer than its size"));
                    }
                }
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match response.header("Content-Length") {
            Some(length) => {
                let length = length.parse().map_err(|_| malformed("Content-Length", length))?;
                self.read_exactly(length, &mut body)?;
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn read_exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let read = self.stream.by_ref().take(length as u64).read_to_end(body)?;
        if read == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(text) => Ok(text.to_owned()),
            None if line.is_empty() => {
                Err(Error::new(ErrorKind::UnexpectedEof, "the server closed the connection"))
            }
            None => Err(malformed("line", &line)),
        }
    }
}

/// A response without an end, read line by line.
pub struct Stream {
    /// The status and header fields.
    pub head: Response,
    lines: BufReader<TcpStream>,
}

impl Stream {
    /// Requests a stream over a new connection and returns when the response has begun. Uses HTTP/1.0, in which
    /// the lines are not divided into chunks.
    pub fn open(stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = Client::over(stream).expect("the connection is open");
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        client
            .send(format!("GET {path} HTTP/1.0\r\n{fields}\r\n").as_bytes())
            .expect("the request can be sent");
        let head = client.read_head("HTTP/1.0").unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { head, lines: client.stream }
    }

    /// Requests a stream from a namespace.
    pub fn connect(netns: &Netns, address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let stream = netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE));
        Self::open(stream.unwrap_or_else(|error| panic!("cannot reach {address}: {error}")), path, headers)
    }

    /// The next line without its line feed; `None` at the end of the stream. Panics when none comes within [`PATIENCE`].
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the stream continues");
        match line.strip_suffix('\n') {
            Some(text) => Some(text.to_owned()),
            None => {
                assert_eq!(line, "", "the stream breaks off in a line");
                None
            }
        }
    }

    /// The next line as JSON.
    pub fn next_json(&mut self) -> serde_json::Value {
        let line = self.next_line().expect("the stream continues");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }
}

/// The body of a stream, without its transfer coding.
pub struct Chunked {
    client: Client,
    /// Bytes left of this chunk.
    left: usize,
    state: ChunkState,
}

#[derive(PartialEq)]
enum ChunkState {
    Before,
    Within,
    Ended,
}

impl Chunked {
    fn next_chunk(&mut self) -> io::Result<()> {
        if self.state == ChunkState::Within && !self.client.read_line()?.is_empty() {
            return Err(malformed("chunk", "longer than its size"));
        }
        let line = self.client.read_line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        self.left = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))?;
        self.state = if self.left == 0 { ChunkState::Ended } else { ChunkState::Within };
        Ok(())
    }
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.state != ChunkState::Ended {
            self.next_chunk()?;
        }
        let limit = buffer.len().min(self.left);
        let read = self.client.stream.read(&mut buffer[..limit])?;
        if read == 0 && limit > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        Ok(read)
    }
}

fn malformed(what: &str, text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("malformed {what}: {text:?}"))
}
