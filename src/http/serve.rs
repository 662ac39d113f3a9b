//! Serves one connection with hyper, in limited time.
//!
//! hyper would make a timer for each request. Here a connection has one, which is set again only when it has
//! elapsed; and one waiter for the end of the daemon. Both wake the connection's task, so they are polled once.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep};

use super::connections::Connection;
use super::dispatch::{self, MAX_FORWARDED_HEADERS, MAX_HEADER_BYTES, Visitor};

/// A request header must arrive within this time, from the moment that the connection waits for it; on a kept
/// connection, the next one too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A client must read some of the response within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// hyper's own bounds on a request header. Beyond them hyper answers 431 without a body. Below them
/// `dispatch` applies its own, lower bounds, and its response explains the error. For more header lines than a
/// hundred, hyper would allocate memory for each request.
const HYPER_MAX_HEADERS: usize = MAX_FORWARDED_HEADERS;
const HYPER_MAX_HEADER_BYTES: usize = 2 * MAX_HEADER_BYTES;

/// Serves a connection to its end. When `stopping` becomes true, it ends after the request that is being answered.
pub(super) fn serve(
    stream: TcpStream,
    visitor: Visitor,
    mut stopping: watch::Receiver<bool>,
) -> impl Future<Output = io::Result<()>> + Send {
    // Responses are short and complete: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let visitor = Arc::new(visitor);
    let state = visitor.connection.clone();
    let stream = Sending { stream, state: state.clone(), timeout: None };
    let service = service_fn(move |request| {
        let response = dispatch::answer(&visitor, request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut connection = Box::pin(
        http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(HYPER_MAX_HEADERS)
            .max_buf_size(HYPER_MAX_HEADER_BYTES)
            // Responses are small: one buffer costs less than a list of two.
            .writev(false)
            .serve_connection(TokioIo::new(stream), service),
    );
    let stops = stopping.clone();
    let mut stop = Box::pin(unconstrained(async move { drop(stopping.changed().await) }));
    let mut timer = Box::pin(sleep(HEADER_TIMEOUT));
    let (mut is_stopping, mut awaits_stop, mut awaits_timer) = (false, false, false);
    poll_fn(move |context| {
        loop {
            if let Poll::Ready(served) = connection.as_mut().poll(context) {
                return Poll::Ready(served.map_err(io::Error::other));
            }
            if timer.is_elapsed() {
                let now = Instant::now();
                let due = state.waiting_since().map(|since| Instant::from_std(since) + HEADER_TIMEOUT);
                if due.is_some_and(|due| due <= now) {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request in time")));
                }
                timer.as_mut().reset(due.unwrap_or(now + HEADER_TIMEOUT));
                awaits_timer = false;
            }
            // Without a limit of their own, they do not put off what they are polled for here.
            if !awaits_timer && pin!(unconstrained(timer.as_mut())).poll(context).is_ready() {
                continue;
            }
            awaits_timer = true;
            let stops_now = !is_stopping
                && (stops.has_changed().unwrap_or(true)
                    || !awaits_stop && stop.as_mut().poll(context).is_ready());
            awaits_stop = true;
            if !stops_now {
                return Poll::Pending;
            }
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
    })
}

/// A connection whose client must read in time what is sent.
struct Sending {
    stream: TcpStream,
    state: Arc<Connection>,
    /// While the client does not read.
    timeout: Option<Pin<Box<Sleep>>>,
}

impl Sending {
    fn limit<T>(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            if self.timeout.take().is_some() {
                self.state.end_sending(Instant::now().into_std());
            }
            return sent;
        }
        let timeout = self.timeout.get_or_insert_with(|| {
            self.state.begin_sending();
            Box::pin(sleep(WRITE_TIMEOUT))
        });
        timeout.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Sending {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Sending {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
