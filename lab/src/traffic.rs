//! Connections through the gateway: TCP and UDP from chosen inside addresses and ports to servers outside.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::gateway::Lab;
use super::wait::PATIENCE;

/// Both sockets of a TCP connection.
pub struct Connection {
    /// The inside socket; its `local_addr` is the inside address and port.
    pub client: TcpStream,
    /// The socket outside.
    pub server: TcpStream,
    /// What the server sees: the public address and port.
    pub peer: SocketAddr,
}

impl Connection {
    /// Closes it with a reset, which leaves neither side waiting.
    pub fn reset(self) {
        SockRef::from(&self.client).set_linger(Some(std::time::Duration::ZERO)).expect("the socket is open");
    }
}

/// Connects in the namespace of the calling thread, from an address and port to another, within
/// [`PATIENCE`]. The kernel chooses a port for port 0.
pub fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    bound(&stream)?;
    Ok(stream)
}

/// Makes reads and writes of a stream end within [`PATIENCE`].
pub fn bound(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Repeats a wait that a signal interrupted: the kernel does not restart one that has a timeout.
pub fn uninterrupted<T>(mut wait: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

impl Lab {
    /// Listens for TCP outside, on one of the server's addresses.
    pub fn listen(&self, address: SocketAddr) -> TcpServer {
        let listener = self.server().enter(|| TcpListener::bind(address));
        let listener =
            listener.unwrap_or_else(|error| panic!("the server cannot listen on {address}: {error}"));
        // Another thread may accept the connection that poll reported.
        listener.set_nonblocking(true).expect("the listener is open");
        TcpServer { listener, address }
    }

    /// Connects from an inside address and port; panics when that fails.
    pub fn connect(&self, from: SocketAddr, to: SocketAddr) -> TcpStream {
        self.client()
            .enter(|| connect(from, to))
            .unwrap_or_else(|error| panic!("cannot connect from {from} to {to}: {error}"))
    }

    /// Connects from an inside address and port to a server that has no other clients meanwhile, and
    /// returns both sockets.
    pub fn connect_to(&self, server: &TcpServer, from: SocketAddr) -> Connection {
        let client = self.connect(from, server.address());
        let (server, peer) = server.accept();
        Connection { client, server, peer }
    }

    /// A UDP socket inside.
    pub fn udp_client(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.client().enter(|| UdpSocket::bind(address));
        bounded_udp(socket, address)
    }

    /// A UDP socket outside.
    pub fn udp_server(&self, address: SocketAddr) -> UdpSocket {
        let socket = self.server().enter(|| UdpSocket::bind(address));
        bounded_udp(socket, address)
    }
}

fn bounded_udp(socket: io::Result<UdpSocket>, address: SocketAddr) -> UdpSocket {
    let socket = socket.unwrap_or_else(|error| panic!("cannot bind UDP {address}: {error}"));
    socket.set_read_timeout(Some(PATIENCE)).expect("the socket is open");
    socket
}

/// Sends a datagram from inside to outside and one back. Returns the public address and port that the
/// server saw.
pub fn udp_exchange(client: &UdpSocket, server: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 16];
    let to = server.local_addr().expect("the server is bound");
    client.send_to(b"ask", to).unwrap_or_else(|error| panic!("cannot send to {to}: {error}"));
    let (_, peer) = uninterrupted(|| server.recv_from(&mut buffer))
        .unwrap_or_else(|error| panic!("nothing came to {to}: {error}"));
    server.send_to(b"answer", peer).unwrap_or_else(|error| panic!("cannot reply to {peer}: {error}"));
    uninterrupted(|| client.recv_from(&mut buffer))
        .unwrap_or_else(|error| panic!("no reply from {to}: {error}"));
    peer
}

/// A TCP listener outside.
pub struct TcpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpServer {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, with its public address and port. Panics when none comes within
    /// [`PATIENCE`].
    pub fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            let mut ready = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(PATIENCE).expect("it is short enough");
            let events =
                uninterrupted(|| Ok(poll(&mut ready, patience)?)).expect("the listener can be polled");
            assert!(events > 0, "no connection came to {}", self.address);
            if let Some(connection) = self.accept_ready() {
                return connection;
            }
        }
    }

    /// Passes every connection to `take` in a separate thread, until the loop is dropped. A connection that `take`
    /// does not keep is closed.
    pub fn accept_loop(self, mut take: impl FnMut(TcpStream, SocketAddr) + Send + 'static) -> AcceptLoop {
        let (stop, stopped) = UnixStream::pair().expect("a pair of sockets can be created");
        let address = self.address;
        let thread = thread::spawn(move || {
            loop {
                let mut ready = [
                    PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                ];
                uninterrupted(|| Ok(poll(&mut ready, PollTimeout::NONE)?))
                    .expect("the listener can be polled");
                if ready[1].any().unwrap_or(true) {
                    return;
                }
                while let Some((stream, peer)) = self.accept_ready() {
                    take(stream, peer);
                }
            }
        });
        AcceptLoop { address, stop: Some(stop), thread: Some(thread) }
    }

    fn accept_ready(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.listener.accept() {
            Ok((stream, peer)) => {
                bound(&stream).expect("the connection is open");
                Some((stream, peer))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                None
            }
            Err(error) => panic!("cannot accept on {}: {error}", self.address),
        }
    }
}

/// A server that accepts in a separate thread. Dropping it ends the thread.
pub struct AcceptLoop {
    address: SocketAddr,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl AcceptLoop {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AcceptLoop {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}
