//! A server of nothing but hyper and tokio: what remains of the daemon's work when it need not know anything.
//!
//! Versions, threads, event loops and settings are those of the daemon (`src/http/listener.rs`, `src/http/workers.rs`).
//! Every request gets the same body, from a service that looks at no request.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

/// Where it listens.
pub const ADDRESS: &str = "127.0.0.1:8082";
/// As the daemon's.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves this body until the process is killed.
pub fn serve(body: String) -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, usize::from);
    let workers = (0..count).map(|_| start_worker()).collect::<io::Result<Vec<_>>>()?;
    let body = Bytes::from(body);
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(ADDRESS).await?;
        for worker in workers.iter().cycle() {
            let stream = listener.accept().await?.0.into_std()?;
            worker.spawn(connection(stream, body.clone()));
        }
        Ok(())
    })
}

fn start_worker() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().spawn(move || runtime.block_on(pending::<Infallible>()))?;
    Ok(handle)
}

async fn connection(stream: std::net::TcpStream, body: Bytes) {
    let stream = TcpStream::from_std(stream).expect("it came from tokio");
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |_| {
        let mut response = Response::new(Full::new(body.clone()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .writev(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
