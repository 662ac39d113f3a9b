//! Accepting connections: bounded in number, time and size, and never ended by
//! an error that passes.

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

use super::workers::Workers;
use super::{App, MOST_HEADER_BYTES, MOST_HEADERS};
use crate::error::{Cause, Fatal};

/// A request's header must be there within this time, and so must the next one
/// on a connection that is kept.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// What hyper takes of a request's header. Above the bounds that `App` holds,
/// and answers with words; past these hyper says 431 without any.
const HARD_MOST_HEADERS: usize = 4 * MOST_HEADERS;
const HARD_MOST_HEADER_BYTES: usize = 2 * MOST_HEADER_BYTES;
/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 1024;
/// Connections at a time of clients outside `ip_acl`; more are closed at once.
const MOST_STRANGERS: usize = 64;
/// A client must take something of its answer within this time.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds every address that `host` stands for.
///
/// # Errors
/// When the name stands for none, or one can't be bound.
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

/// Accepts on any number of addresses, which may change while it runs.
pub struct Server {
    app: Arc<App>,
    graceful: Arc<GracefulShutdown>,
    places: Places,
    workers: Arc<Workers>,
    accepting: JoinSet<Infallible>,
}

/// Who may connect is known before the request is, who may not gets a refusal
/// all the same; it must not cost those who may their place.
#[derive(Clone)]
struct Places {
    clients: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Server {
    /// A server that accepts nowhere yet. These serve what it will accept.
    pub fn new(app: Arc<App>, workers: Arc<Workers>) -> Self {
        let places = Places {
            clients: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            strangers: Arc::new(Semaphore::new(MOST_STRANGERS)),
        };
        Self { app, graceful: Arc::new(GracefulShutdown::new()), places, workers, accepting: JoinSet::new() }
    }

    /// Accepts on these from now on, and nowhere else. Connections stay.
    pub async fn listen(&mut self, listeners: Vec<TcpListener>) {
        self.accepting.shutdown().await;
        for listener in listeners {
            let (app, graceful, places) = (self.app.clone(), self.graceful.clone(), self.places.clone());
            self.accepting.spawn(accept(listener, app, graceful, places, self.workers.clone()));
        }
    }

    /// Whether it accepts anywhere.
    pub fn is_accepting(&self) -> bool {
        !self.accepting.is_empty()
    }

    /// Accepts no more, and lets connections finish what they are at, for at
    /// most `patience`.
    pub async fn shut_down(mut self, patience: Duration) {
        self.accepting.shutdown().await;
        if let Some(graceful) = Arc::into_inner(self.graceful) {
            let _ = tokio::time::timeout(patience, graceful.shutdown()).await;
        }
    }

    /// Waits until something that accepts has died: nobody might be answered
    /// from then on.
    pub async fn failure(&mut self) -> Fatal {
        match self.accepting.join_next().await {
            Some(Err(error)) => {
                Fatal::new(Cause::Software, format!("accepting connections: {error}")).with_source(error)
            }
            // Nothing accepts in the middle of a reload alone.
            None => std::future::pending().await,
        }
    }
}

async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    graceful: Arc<GracefulShutdown>,
    places: Places,
    workers: Arc<Workers>,
) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let place = if app.rules().acl.allows(client.ip()) {
                    places.clients.clone().acquire_owned().await.ok()
                } else {
                    places.strangers.clone().try_acquire_owned().ok()
                };
                let Some(place) = place else { continue };
                let (app, watcher) = (app.clone(), graceful.watcher());
                // From here on it belongs to another event loop.
                let stream = stream.into_std();
                workers.next().spawn(async move {
                    let served = async {
                        let stream = TcpStream::from_std(stream?)?;
                        watcher.watch(connection(stream, client, app)).await.map_err(io::Error::other)
                    };
                    if let Err(error) = served.await {
                        log::debug!("{client}: {error}");
                    }
                    drop(place);
                });
            }
            // The client went away before it was accepted: nothing is amiss.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                log::warn!(
                    "cannot accept a connection: {error}; going on in {} ms",
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
    // Answers are short and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(client, request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(HARD_MOST_HEADERS)
        .max_buf_size(HARD_MOST_HEADER_BYTES)
        // An answer is small: one piece of memory costs less than a list of two.
        .writev(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
