//! Places: how much lasting work there is at a time, in all and for one client.
//!
//! A stream, a lookup that waits and other work that lasts takes a place of its [`Kind`] and returns it at the
//! end. One client can have three quarters of the places of a kind, so the others always have a reserve. Usual
//! lookups take no place: they cost nothing here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::counters::HttpCounters;
use super::kind::Kind;

/// How long a request waits for a place of a kind that others leave soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// The limits that the configuration sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections served at a time.
    pub connections: usize,
    /// Streams served at a time, at most half of the connections.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: Kind::Connection.limit(), streams: Kind::Stream.limit() }
    }
}

/// A client: an IPv4 address, or the 64 bits of an IPv6 address that name its network. One host has all
/// addresses of such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
            address => address,
        })
    }
}

/// The places in use. Clones of its `Arc` share them.
#[derive(Debug)]
pub(super) struct Places {
    limits: [AtomicUsize; Kind::ALL.len()],
    taken: Mutex<Taken>,
    /// Notified when a place was returned.
    returned: Notify,
    counters: Arc<HttpCounters>,
}

#[derive(Debug, Default)]
struct Taken {
    all: [usize; Kind::ALL.len()],
    /// Only clients that have a place.
    by_client: HashMap<Client, [usize; Kind::ALL.len()]>,
}

/// A place; it is returned when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: Client,
    kind: Kind,
}

impl Places {
    pub(super) fn new(limits: Limits, counters: Arc<HttpCounters>) -> Self {
        let places = Self {
            limits: Kind::ALL.map(|kind| AtomicUsize::new(kind.limit())),
            taken: Mutex::default(),
            returned: Notify::new(),
            counters,
        };
        places.set_limits(limits);
        places
    }

    /// Puts other limits into force. Places in use stay.
    pub(super) fn set_limits(&self, limits: Limits) {
        let set = |kind: Kind, limit: usize| self.limits[kind as usize].store(limit, Ordering::Relaxed);
        let half = limits.connections / 2;
        set(Kind::Connection, limits.connections);
        set(Kind::Stream, limits.streams.min(half));
        set(Kind::Wait, Kind::Wait.limit().min(half));
        set(Kind::Incomplete, Kind::Incomplete.limit().min(half));
    }

    /// The number of places of a kind.
    pub(super) fn limit(&self, kind: Kind) -> usize {
        self.limits[kind as usize].load(Ordering::Relaxed)
    }

    /// The number of places of a kind that one client can have.
    pub(super) fn client_limit(&self, kind: Kind) -> usize {
        let limit = self.limit(kind);
        limit - limit / 4
    }

    /// The number of places of each kind that are in use.
    pub(super) fn in_use(&self) -> [usize; Kind::ALL.len()] {
        self.taken().all
    }

    /// Takes a place, or refuses: if the client has as many as it can have, or all are in use.
    pub(super) fn take(self: &Arc<Self>, kind: Kind, client: Client) -> Result<Place, Busy> {
        self.try_take(kind, client).inspect_err(|busy| self.count(*busy))
    }

    /// Counts a refusal.
    pub(super) fn count(&self, busy: Busy) {
        self.counters.here().refused_places[busy.kind as usize].increment();
    }

    /// [`take`](Self::take), but waits some time for others to return theirs.
    pub(super) async fn take_soon(self: &Arc<Self>, kind: Kind, client: Client) -> Result<Place, Busy> {
        self.take_until(kind, client, Instant::now() + PATIENCE).await
    }

    /// [`take`](Self::take), but waits until the deadline for others to return theirs.
    pub(super) async fn take_until(
        self: &Arc<Self>,
        kind: Kind,
        client: Client,
        deadline: Instant,
    ) -> Result<Place, Busy> {
        loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            // Before the attempt, so that no return in between is missed.
            returned.as_mut().enable();
            if let Ok(place) = self.try_take(kind, client) {
                return Ok(place);
            }
            if timeout_at(deadline, returned).await.is_err() {
                return self.take(kind, client);
            }
        }
    }

    /// [`take`](Self::take), without counting a refusal.
    pub(super) fn try_take(self: &Arc<Self>, kind: Kind, client: Client) -> Result<Place, Busy> {
        let (limit, client_limit) = (self.limit(kind), self.client_limit(kind));
        let mut taken = self.taken();
        let own = taken.by_client.get(&client).map_or(0, |own| own[kind as usize]);
        if own >= client_limit {
            return Err(Busy { kind, limit: client_limit, is_own: true });
        }
        if taken.all[kind as usize] >= limit {
            return Err(Busy { kind, limit, is_own: false });
        }
        taken.all[kind as usize] += 1;
        taken.by_client.entry(client).or_default()[kind as usize] += 1;
        Ok(Place { places: self.clone(), client, kind })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all[self.kind as usize] -= 1;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            own[self.kind as usize] -= 1;
            if own.iter().all(|count| *count == 0) {
                taken.by_client.remove(&self.client);
                if taken.by_client.is_empty() {
                    taken.by_client.shrink_to_fit();
                }
            }
        }
        drop(taken);
        self.places.returned.notify_waiters();
    }
}

/// Why a place was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy {
    pub(super) kind: Kind,
    pub(super) limit: usize,
    /// Whether the client itself has this many.
    pub(super) is_own: bool,
}

impl Busy {
    /// The text of the error, in one line.
    pub(super) fn error(&self) -> String {
        let whose = if self.is_own { "this client already has" } else { "the daemon already serves" };
        format!("{whose} {} {}, the maximum", self.limit, self.kind.plural())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limits: Limits) -> Arc<Places> {
        Arc::new(Places::new(limits, Arc::default()))
    }

    fn client(address: &str) -> Client {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn one_client_leaves_a_reserve_and_returned_places_are_free() {
        let places = places(Limits { connections: 1024, streams: 8 });
        let [greedy, other, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(client);
        let mut taken: Vec<_> = (0..6).map(|_| places.take(Kind::Stream, greedy).unwrap()).collect();
        let own = places.take(Kind::Stream, greedy).unwrap_err();
        assert_eq!(own.error(), "this client already has 6 streams, the maximum");
        taken.extend((0..2).map(|_| places.take(Kind::Stream, other).unwrap()));
        let all = places.take(Kind::Stream, third).unwrap_err();
        assert_eq!(all.error(), "the daemon already serves 8 streams, the maximum");
        // Other kinds are not concerned.
        drop(places.take(Kind::Wait, greedy).unwrap());
        drop(taken.pop());
        taken.push(places.take(Kind::Stream, third).unwrap());
        assert_eq!(places.in_use()[Kind::Stream as usize], 8);
        drop(taken);
        assert_eq!(places.in_use(), [0; Kind::ALL.len()]);
        assert!(places.taken().by_client.is_empty());
        assert_eq!(places.counters.sum(|counters| counters.refused_places[Kind::Stream as usize].get()), 2);
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[test]
    fn streams_take_at_most_half_of_the_connections() {
        let places = places(Limits { connections: 40, streams: 256 });
        let limits = [Kind::Connection, Kind::Stream, Kind::Wait, Kind::Post].map(|kind| places.limit(kind));
        assert_eq!(limits, [40, 20, 20, 32]);
    }

    #[tokio::test]
    async fn a_request_waits_for_a_place_that_is_returned_soon() {
        let places = places(Limits::default());
        let here = client("192.0.2.1");
        let mut taken: Vec<_> = (0..6).map(|_| places.take(Kind::Scan, here).unwrap()).collect();
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.take_soon(Kind::Scan, here).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(taken.pop());
        assert!(waiting.await.unwrap());
    }
}
