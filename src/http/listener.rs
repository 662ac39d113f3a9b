//! Accepts connections. Their number, time and size are limited, and a transient error never ends the
//! loop, nor does it wait for a client.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::app::App;
use super::connections::{Admission, Connection, Connections};
use super::dispatch::{self, MAX_HEADER_BYTES, MAX_HEADERS};
use super::places::Client;
use super::workers::Workers;
use crate::error::{Cause, Fatal};

/// A request header must arrive within this time, from its first byte or from the moment that the connection
/// waits for it; on a kept connection, the next one too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// hyper's own bounds on a request header. Beyond them hyper answers 431 without a body. Below them
/// `dispatch` applies its own, lower bounds, and its response explains the error.
const HYPER_MAX_HEADERS: usize = 4 * MAX_HEADERS;
const HYPER_MAX_HEADER_BYTES: usize = 2 * MAX_HEADER_BYTES;
/// Connections of clients outside `ip_acl` that are served at a time; more are closed at once.
const MAX_REFUSED: usize = 64;
/// The send buffer of a connection in the kernel, in bytes; the kernel doubles it. A client that does not read
/// cannot make the kernel keep more.
const SEND_BUFFER: usize = 64 * 1024;
/// A client must read some of the response within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after an error of `accept`, for example when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds every address of `host`.
///
/// # Errors
/// When the name has no address, or an address cannot be bound.
pub async fn bind(host: &str, port: u16) -> io::Result<Vec<TcpListener>> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    addresses.dedup();
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let bound = TcpListener::bind(address).await;
        listeners.push(bound.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?);
    }
    match listeners.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address")),
        false => Ok(listeners),
    }
}

/// Accepts on any number of addresses, which can change while it runs.
pub struct Server {
    app: Arc<App>,
    graceful: Arc<GracefulShutdown>,
    doors: Doors,
    workers: Arc<Workers>,
    accepting: JoinSet<Infallible>,
}

/// Who may connect. Clients outside `ip_acl` get a response too, so they have a limit of their own:
/// they must not use up the connections of allowed clients.
#[derive(Clone)]
struct Doors {
    allowed: Arc<Connections>,
    refused: Arc<Semaphore>,
}

/// What a connection holds while it is open.
enum Permit {
    Allowed(Admission),
    Refused(Arc<Connection>, #[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
}

impl Permit {
    fn connection(&self) -> Arc<Connection> {
        match self {
            Permit::Allowed(admission) => admission.connection.clone(),
            Permit::Refused(connection, _) => connection.clone(),
        }
    }
}

impl Doors {
    fn admit(&self, client: Client, is_allowed: bool) -> Option<Permit> {
        if is_allowed {
            return self.allowed.admit(client).map(Permit::Allowed);
        }
        let permit = self.refused.clone().try_acquire_owned().ok()?;
        Some(Permit::Refused(Arc::new(self.allowed.refused(client)), permit))
    }
}

impl Server {
    /// A server that does not accept anywhere yet. `workers` serve its connections.
    pub fn new(app: Arc<App>, workers: Arc<Workers>) -> Self {
        let doors = Doors {
            allowed: Arc::new(Connections::new(app.places.clone(), app.counters.clone())),
            refused: Arc::new(Semaphore::new(MAX_REFUSED)),
        };
        Self { app, graceful: Arc::new(GracefulShutdown::new()), doors, workers, accepting: JoinSet::new() }
    }

    /// From now on, accepts connections only on these listeners. Existing connections stay open.
    pub async fn listen(&mut self, listeners: Vec<TcpListener>) {
        self.accepting.shutdown().await;
        for listener in listeners {
            // Connections inherit it.
            if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
                log::debug!("cannot limit the send buffers of connections: {error}");
            }
            let (app, graceful, doors) = (self.app.clone(), self.graceful.clone(), self.doors.clone());
            self.accepting.spawn(accept(listener, app, graceful, doors, self.workers.clone()));
        }
    }

    /// Whether it accepts anywhere.
    pub fn is_accepting(&self) -> bool {
        !self.accepting.is_empty()
    }

    /// Stops accepting, and waits at most `timeout` for the requests that are being answered.
    pub async fn shut_down(mut self, timeout: Duration) {
        self.accepting.shutdown().await;
        if let Some(graceful) = Arc::into_inner(self.graceful) {
            let _ = tokio::time::timeout(timeout, graceful.shutdown()).await;
        }
    }

    /// Waits until a task that accepts connections has died: clients may get no response from then on.
    pub async fn failure(&mut self) -> Fatal {
        match self.accepting.join_next().await {
            Some(Err(error)) => {
                Fatal::new(Cause::Software, format!("a task that accepts connections died: {error}"))
            }
            // There is no such task during a reload, or if a reload could bind neither the new nor the
            // old address.
            None => std::future::pending().await,
        }
    }
}

async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    graceful: Arc<GracefulShutdown>,
    doors: Doors,
    workers: Arc<Workers>,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let is_allowed = app.rules().acl.allows(client.ip());
                let Some(permit) = doors.admit(client.ip().into(), is_allowed) else { continue };
                let number = match &permit {
                    Permit::Allowed(admission) => Some(admission.number()),
                    Permit::Refused(..) => None,
                };
                let (app, watcher) = (app.clone(), graceful.watcher());
                // Another event loop serves the connection, so it must leave this one.
                let stream = stream.into_std();
                let task = workers.next().spawn(async move {
                    let state = permit.connection();
                    let served = async {
                        let stream = TcpStream::from_std(stream?)?;
                        watcher.watch(connection(stream, client, state, app)).await.map_err(io::Error::other)
                    };
                    if let Err(error) = served.await {
                        log::debug!("{client}: {error}");
                    }
                    drop(permit);
                });
                if let Some(number) = number {
                    doors.allowed.set_task(number, task.abort_handle());
                }
            }
            // The client left before its connection was accepted.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!(
                    "cannot accept a connection: {error}; retrying in {} ms",
                    ACCEPT_PAUSE.as_millis()
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    stream: TcpStream,
    client: SocketAddr,
    state: Arc<Connection>,
    app: Arc<App>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    // Responses are short and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = service_fn(move |request| {
        let (app, state) = (app.clone(), state.clone());
        async move { Ok::<_, Infallible>(dispatch::answer(app, client, state, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HYPER_MAX_HEADERS)
        .max_buf_size(HYPER_MAX_HEADER_BYTES)
        // Responses are small: one buffer costs less than a list of two.
        .writev(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
