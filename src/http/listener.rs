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
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::App;

/// A request's header must be there within this time, and so must the next one
/// on a connection that is kept.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Lines of a request's header.
const MOST_HEADERS: usize = 32;
/// Bytes of a request's header.
const MOST_HEADER_BYTES: usize = 16 * 1024;
/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 1024;
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

/// Serves until `stop` says so, then lets connections finish what they are at,
/// for at most `patience`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    patience: Duration,
) {
    let graceful = Arc::new(GracefulShutdown::new());
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(accept(listener, app.clone(), graceful.clone(), permits.clone())))
        .collect();
    let _ = stop.wait_for(|stop| *stop).await;
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(patience, graceful.shutdown()).await;
    }
}

async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    graceful: Arc<GracefulShutdown>,
    permits: Arc<Semaphore>,
) {
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let connection = graceful.watch(connection(stream, client, app.clone()));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        log::debug!("{client}: {error}");
                    }
                    drop(permit);
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
        .max_headers(MOST_HEADERS)
        .max_buf_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}
