//! Accepts connections. Their number, time and size are limited, and a transient error never ends the
//! loop, nor does it wait for a client.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::app::App;
use super::connections::{Admission, Connection, Connections};
use super::dispatch::Visitor;
use super::places::Client;
use super::serve::serve;
use super::workers::Workers;
use crate::error::{Cause, Fatal};

/// Connections of clients outside `ip_acl` that are served at a time; more are closed at once.
const MAX_REFUSED: usize = 64;
/// The send buffer of a connection in the kernel, in bytes; the kernel doubles it. A client that does not read
/// cannot make the kernel keep more.
const SEND_BUFFER: usize = 64 * 1024;
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
    stopping: Arc<watch::Sender<bool>>,
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
        Self { app, stopping: Arc::default(), doors, workers, accepting: JoinSet::new() }
    }

    /// From now on, accepts connections only on these listeners. Existing connections stay open.
    pub async fn listen(&mut self, listeners: Vec<TcpListener>) {
        self.accepting.shutdown().await;
        for listener in listeners {
            // Connections inherit it.
            if let Err(error) = SockRef::from(&listener).set_send_buffer_size(SEND_BUFFER) {
                log::debug!("cannot limit the send buffers of connections: {error}");
            }
            let (app, stopping, doors) = (self.app.clone(), self.stopping.clone(), self.doors.clone());
            self.accepting.spawn(accept(listener, app, stopping, doors, self.workers.clone()));
        }
    }

    /// Whether it accepts anywhere.
    pub fn is_accepting(&self) -> bool {
        !self.accepting.is_empty()
    }

    /// Stops accepting, and waits at most `timeout` for the requests that are being answered.
    pub async fn shut_down(mut self, timeout: Duration) {
        self.accepting.shutdown().await;
        self.stopping.send_replace(true);
        let _ = tokio::time::timeout(timeout, self.stopping.closed()).await;
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
    stopping: Arc<watch::Sender<bool>>,
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
                let (app, stopping) = (app.clone(), stopping.subscribe());
                // Another event loop serves the connection, so it must leave this one.
                let stream = stream.into_std();
                let task = workers.next().spawn(async move {
                    let (rules, connection) = (app.known_rules(), permit.connection());
                    let visitor = Visitor { app, rules, address: client, connection };
                    let served = async { serve(TcpStream::from_std(stream?)?, visitor, stopping).await };
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
