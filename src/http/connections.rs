//! The open connections: which are admitted, and which are closed for others.
//!
//! A connection is idle while it has no request: it is new, its header is arriving, or its client keeps it. When
//! a client, or the daemon, has as many connections as it can have, the oldest idle one is closed for the new
//! one. If all of them have requests, the new one is spare: it gets the answers of health and metrics only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::counters::HttpCounters;
use super::kind::Kind;
use super::places::{Client, Place, Places};

/// A connection has a request.
const BUSY: u64 = 0;
/// A connection is being closed for another one.
const EVICTED: u64 = u64::MAX;

/// One connection, as its requests and the listener see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Whether only health and metrics are answered.
    pub(super) is_spare: bool,
    /// [`BUSY`], [`EVICTED`], or since when it is idle: milliseconds since `epoch`, from 1 on.
    idle_since: AtomicU64,
    /// [`BUSY`] while the client does not read what is sent; else when it last began to read again, in the same unit.
    sent_at: AtomicU64,
    epoch: Instant,
}

impl Connection {
    fn new(client: Client, is_spare: bool, epoch: Instant) -> Self {
        let new = || AtomicU64::new(BUSY);
        let connection = Self { client, is_spare, idle_since: new(), sent_at: new(), epoch };
        let now = Instant::now();
        connection.end_request(now);
        connection.end_sending(now);
        connection
    }

    /// Notes that a request has arrived.
    pub(super) fn begin_request(&self) {
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// Notes that the response is complete, apart from sending it.
    pub(super) fn end_request(&self, now: Instant) {
        self.idle_since.store(self.milliseconds(now), Ordering::Relaxed);
    }

    /// Notes that the client does not read what is sent.
    pub(super) fn begin_sending(&self) {
        self.sent_at.store(BUSY, Ordering::Relaxed);
    }

    /// Notes that it reads again.
    pub(super) fn end_sending(&self, now: Instant) {
        self.sent_at.store(self.milliseconds(now), Ordering::Relaxed);
    }

    /// Since when it waits for a request; `None` if it does not.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let idle_since = self.idle_since()?;
        let sent_at = Some(self.sent_at.load(Ordering::Relaxed)).filter(|at| *at != BUSY)?;
        self.epoch.checked_add(Duration::from_millis(idle_since.max(sent_at) - 1))
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(since).unwrap_or(EVICTED - 2) + 1
    }

    fn idle_since(&self) -> Option<u64> {
        Some(self.idle_since.load(Ordering::Relaxed)).filter(|since| !matches!(*since, BUSY | EVICTED))
    }

    /// Marks it as being closed, unless a request has arrived meanwhile.
    fn evict(&self, since: u64) -> bool {
        self.idle_since.compare_exchange(since, EVICTED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Ends the request of a connection when it is dropped.
#[derive(Debug)]
pub(super) struct Ending(pub(super) Arc<Connection>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end_request(Instant::now());
    }
}

/// All open connections of allowed clients.
#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Places>,
    counters: Arc<HttpCounters>,
    epoch: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    last_number: u64,
    by_number: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    connection: Arc<Connection>,
    _place: Place,
    /// Closes the connection. `None` until its task has begun.
    task: Option<AbortHandle>,
}

/// Admission of one connection, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Arc<Connections>,
    number: u64,
    pub(super) connection: Arc<Connection>,
}

impl Connections {
    pub(super) fn new(places: Arc<Places>, counters: Arc<HttpCounters>) -> Self {
        Self { places, counters, epoch: Instant::now(), open: Mutex::default() }
    }

    /// Admits a connection. `None` if it must be closed: even the spare places are in use.
    pub(super) fn admit(self: &Arc<Self>, client: Client) -> Option<Admission> {
        let mut open = self.open();
        let mut take = |kind| loop {
            match self.places.try_take(kind, client) {
                Ok(place) => return Some((kind, place)),
                Err(busy) => match open.evict_oldest(kind, busy.is_own.then_some(client)) {
                    // Its place is free at once.
                    Some(evicted) => {
                        self.counters.here().evicted.increment();
                        drop(evicted);
                    }
                    None => {
                        self.places.count(busy);
                        return None;
                    }
                },
            }
        };
        let (kind, place) = take(Kind::Connection).or_else(|| take(Kind::Spare))?;
        let connection = Arc::new(Connection::new(client, kind == Kind::Spare, self.epoch));
        open.last_number += 1;
        let number = open.last_number;
        open.by_number.insert(number, Entry { connection: connection.clone(), _place: place, task: None });
        Some(Admission { connections: self.clone(), number, connection })
    }

    /// A connection of a client that is not allowed: it has no place here.
    pub(super) fn refused(&self, client: Client) -> Connection {
        Connection::new(client, false, self.epoch)
    }

    /// Notes the task that serves a connection.
    pub(super) fn set_task(&self, number: u64, task: AbortHandle) {
        // The task may have ended already.
        if let Some(entry) = self.open().by_number.get_mut(&number) {
            entry.task = Some(task);
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Closes the connection that has been idle for the longest time: of this client, or of the client with the
    /// most idle ones. Returns it, without its place being returned yet.
    fn evict_oldest(&mut self, kind: Kind, client: Option<Client>) -> Option<Entry> {
        let idle = || {
            self.by_number.iter().filter_map(move |(number, entry)| {
                let connection = &entry.connection;
                let is_wanted = connection.is_spare == (kind == Kind::Spare) && entry.task.is_some();
                let since = connection.idle_since().filter(|_| is_wanted)?;
                Some((since, *number, connection.client))
            })
        };
        let client = client.or_else(|| {
            let mut counts: HashMap<Client, usize> = HashMap::new();
            idle().for_each(|(.., client)| *counts.entry(client).or_default() += 1);
            counts.into_iter().max_by_key(|(_, count)| *count).map(|(client, _)| client)
        })?;
        let mut candidates: Vec<_> = idle().filter(|(.., owner)| *owner == client).collect();
        candidates.sort_unstable_by_key(|(since, number, _)| (*since, *number));
        let (_, number, _) = candidates.into_iter().find(|(since, number, _)| {
            // A request may arrive at this moment; then it is the next one's turn.
            self.by_number.get(number).is_some_and(|entry| entry.connection.evict(*since))
        })?;
        let entry = self.by_number.remove(&number)?;
        entry.task.iter().for_each(AbortHandle::abort);
        Some(entry)
    }
}

impl Admission {
    /// Its number, for [`Connections::set_task`].
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let entry = self.connections.open().by_number.remove(&self.number);
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::IpAddr;

    use super::*;
    use crate::http::places::Limits;

    struct Scene {
        connections: Arc<Connections>,
        admitted: Vec<Admission>,
    }

    impl Scene {
        fn new(connections: usize) -> Self {
            let counters = Arc::<HttpCounters>::default();
            let limits = Limits { connections, streams: 4 };
            let places = Arc::new(Places::new(limits, counters.clone()));
            Self { connections: Arc::new(Connections::new(places, counters)), admitted: Vec::new() }
        }

        /// Admits a connection of this client, and returns it.
        fn admit(&mut self, client: u8) -> Option<Arc<Connection>> {
            let admission = self.connections.admit(IpAddr::from([192, 0, 2, client]).into())?;
            let task = tokio::spawn(pending::<()>()).abort_handle();
            self.connections.set_task(admission.number(), task);
            let connection = admission.connection.clone();
            self.admitted.push(admission);
            Some(connection)
        }
    }

    fn is_evicted(connection: &Connection) -> bool {
        connection.idle_since.load(Ordering::Relaxed) == EVICTED
    }

    #[tokio::test]
    async fn the_oldest_idle_connection_of_the_same_client_is_closed() {
        let mut scene = Scene::new(8);
        let first: Vec<_> = (0..6).map(|_| scene.admit(1).unwrap()).collect();
        first[0].begin_request();
        let seventh = scene.admit(1).unwrap();
        assert!(!seventh.is_spare && !is_evicted(&first[0]) && is_evicted(&first[1]));
        assert_eq!(scene.connections.counters.sum(|counters| counters.evicted.get()), 1);
        // Another client has a reserve.
        assert!((0..2).all(|_| !scene.admit(2).unwrap().is_spare));
        assert!(!is_evicted(&first[2]));
        // When all places are in use, the client with the most idle connections loses one.
        assert!(!scene.admit(3).unwrap().is_spare && is_evicted(&first[2]));
    }

    #[tokio::test]
    async fn without_an_idle_connection_a_new_one_is_spare() {
        let mut scene = Scene::new(8);
        let busy: Vec<_> = (0..6).map(|_| scene.admit(1).unwrap()).collect();
        busy.iter().for_each(|connection| connection.begin_request());
        let spare = scene.admit(1).unwrap();
        assert!(spare.is_spare && !busy.iter().any(|connection| is_evicted(connection)));
        assert!(!scene.admit(2).unwrap().is_spare);
        // Spare ones are limited too, and the oldest idle one is closed.
        let more: Vec<_> = (0..48).map(|_| scene.admit(1).unwrap()).collect();
        assert!(more.iter().all(|connection| connection.is_spare));
        assert!(is_evicted(&spare) && !is_evicted(&more[0]));
        more.iter().for_each(|connection| connection.begin_request());
        assert!(scene.admit(1).is_none());
        // A request that has ended makes its connection idle again.
        busy[3].end_request(Instant::now());
        assert!(!scene.admit(1).unwrap().is_spare && is_evicted(&busy[3]));
    }

    #[tokio::test]
    async fn a_closed_connection_returns_its_place_once() {
        let mut scene = Scene::new(4);
        (0..20).for_each(|_| assert!(scene.admit(1).is_some()));
        scene.admitted.clear();
        assert_eq!(scene.connections.places.in_use()[Kind::Connection as usize], 0);
        assert!(scene.connections.open().by_number.is_empty());
    }
}
