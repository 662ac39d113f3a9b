//! Accepts connections. Their number, time and size are limited, and a transient error never ends the
//! loop.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::app::App;
use super::dispatch::{self, MAX_HEADER_BYTES, MAX_HEADERS};
use super::workers::Workers;
use crate::error::{Cause, Fatal};

/// A request header must arrive within this time; on a kept connection, the next one too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// hyper's own bounds on a request header. Beyond them hyper answers 431 without a body. Below them
/// `dispatch` applies its own, lower bounds, and its response explains the error.
const HYPER_MAX_HEADERS: usize = 4 * MAX_HEADERS;
const HYPER_MAX_HEADER_BYTES: usize = 2 * MAX_HEADER_BYTES;
/// Connections served at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of clients outside `ip_acl` that are served at a time; more are closed at once.
const MAX_REFUSED: usize = 64;
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
    limits: Limits,
    workers: Arc<Workers>,
    accepting: JoinSet<Infallible>,
}

/// Limits on connections. Clients outside `ip_acl` get a response too, so they have a limit of their own:
/// they must not use up the connections of allowed clients.
#[derive(Clone)]
struct Limits {
    allowed: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

impl Server {
    /// A server that does not accept anywhere yet. `workers` serve its connections.
    pub fn new(app: Arc<App>, workers: Arc<Workers>) -> Self {
        let limits = Limits {
            allowed: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            refused: Arc::new(Semaphore::new(MAX_REFUSED)),
        };
        Self { app, graceful: Arc::new(GracefulShutdown::new()), limits, workers, accepting: JoinSet::new() }
    }

    /// From now on, accepts connections only on these listeners. Existing connections stay open.
    pub async fn listen(&mut self, listeners: Vec<TcpListener>) {
        self.accepting.shutdown().await;
        for listener in listeners {
            let (app, graceful, limits) = (self.app.clone(), self.graceful.clone(), self.limits.clone());
            self.accepting.spawn(accept(listener, app, graceful, limits, self.workers.clone()));
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
    limits: Limits,
    workers: Arc<Workers>,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let permit = if app.rules().acl.allows(client.ip()) {
                    limits.allowed.clone().acquire_owned().await.ok()
                } else {
                    limits.refused.clone().try_acquire_owned().ok()
                };
                let Some(permit) = permit else { continue };
                let (app, watcher) = (app.clone(), graceful.watcher());
                // Another event loop serves the connection, so it must leave this one.
                let stream = stream.into_std();
                workers.next().spawn(async move {
                    let served = async {
                        let stream = TcpStream::from_std(stream?)?;
                        watcher.watch(connection(stream, client, app)).await.map_err(io::Error::other)
                    };
                    if let Err(error) = served.await {
                        log::debug!("{client}: {error}");
                    }
                    drop(permit);
                });
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
    app: Arc<App>,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    // Responses are short and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(dispatch::answer(app, client, request).await) }
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
