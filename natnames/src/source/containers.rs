//! Containers of Docker and Podman, by the HTTP API that both have on a Unix socket.
//!
//! The stream of events is opened first, then all containers are listed, so that nothing falls between. An event says
//! which container has changed, but not its addresses: for these it is inspected. Ends need no such question and are
//! reported at once, with the event's own time. While an answer is awaited, events are read on, because the service
//! silently drops events that are not read.
//!
//! ```text
//! containers      follows the events, and keeps which container has which address
//! pending         the containers that are to be inspected
//! event, inspect  what the API writes
//! timestamp       times as Go writes them
//! ```

mod event;
mod inspect;
mod pending;
mod timestamp;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use self::event::{Change, Event, Stream};
use self::inspect::Running;
use self::pending::{Cause, Pending};
use super::Source;
use super::unix_http::{self, Get};
use crate::claim::{Claim, Report};
use crate::outlet::Outlet;
use crate::time::Millis;

/// A container can have sent its first packets this long before the moment at which its engine notes that it has
/// started, in milliseconds.
const EARLY: Millis = 1_000;
/// The largest answer about one container.
const LARGEST_INSPECT: usize = 16 << 20;
/// The largest list of containers. Docker writes about 1 KiB for each.
const LARGEST_LIST: usize = 128 << 20;
/// The most containers that are followed.
const MOST_CONTAINERS: usize = 100_000;
/// Podman before version 4 sends the head of the answer with the first event, so it is not awaited for longer.
const HEAD_PATIENCE: Duration = Duration::from_secs(1);
/// The shortest time between two lists that are read because events were dropped.
const LIST_PAUSE: Duration = Duration::from_secs(10);
/// Events are read so often before a container is inspected: what ends meanwhile needs no inspection.
const READS: usize = 16;
/// Events of containers and networks: `{"type":["container","network"]}`.
const FILTERS: &str = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// Follows containers.
#[derive(Debug)]
pub struct Containers {
    name: &'static str,
    path: PathBuf,
}

impl Containers {
    /// Follows Docker at this socket; by default it is `/var/run/docker.sock`.
    pub fn docker(path: PathBuf) -> Self {
        Self { name: "docker", path }
    }

    /// Follows Podman at this socket; by default it is `/run/podman/podman.sock`.
    pub fn podman(path: PathBuf) -> Self {
        Self { name: "podman", path }
    }
}

impl Source for Containers {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn follow(&mut self, outlet: &Outlet) -> io::Result<()> {
        let mut follower = Follower::open(&self.path, outlet)?;
        follower.list(None)?;
        follower.follow()
    }
}

/// A container that runs, as it was reported.
#[derive(Debug, Default)]
struct Known {
    /// When it was started, in nanoseconds since 1970.
    started: Option<i64>,
    /// The list in which it was last.
    list: u32,
    /// Its addresses, and since when it has them.
    addresses: BTreeMap<IpAddr, Option<i64>>,
}

/// The container that is being inspected.
#[derive(Debug)]
struct InFlight {
    id: String,
    /// When it ended meanwhile.
    ended: Option<i64>,
    /// Whether that end was reported.
    is_reported: bool,
}

struct Follower<'a> {
    path: &'a Path,
    outlet: &'a Outlet,
    stream: Stream,
    known: HashMap<String, Known>,
    /// Who had an address last: another container can have got it before the end of the first one is read.
    owners: HashMap<IpAddr, String>,
    pending: Pending,
    in_flight: Option<InFlight>,
    /// Counts lists.
    list: u32,
    /// When the first event was that could not be taken.
    missed_since: Option<Millis>,
    /// When the list was last read because of such an event.
    relisted: Option<Instant>,
    /// Whether a container could not be read: one whose service fails fills no log.
    has_warned: bool,
}

impl<'a> Follower<'a> {
    /// Asks for events and waits until they can come.
    fn open(path: &'a Path, outlet: &'a Outlet) -> io::Result<Self> {
        // Docker answers before it subscribes, so what happens until then is asked for too.
        let now = outlet.now();
        let (seconds, millis) = (now.div_euclid(1_000), now.rem_euclid(1_000));
        let target = format!("/events?since={seconds}.{millis:03}000000&filters={FILTERS}");
        let get = Get::send(path, &target, &mut |stream, left| wait(outlet, &[stream], Some(left)))?;
        let mut this = Self {
            path,
            outlet,
            stream: Stream::new(get),
            known: HashMap::new(),
            owners: HashMap::new(),
            pending: Pending::default(),
            in_flight: None,
            list: 0,
            missed_since: None,
            relisted: None,
            has_warned: false,
        };
        let deadline = Instant::now() + HEAD_PATIENCE;
        while this.stream.get().status().is_none() && Instant::now() < deadline {
            this.pause(None, deadline.saturating_duration_since(Instant::now()))?;
        }
        Ok(this)
    }

    fn follow(&mut self) -> io::Result<()> {
        loop {
            for _ in 0..READS {
                if !self.read_events()? {
                    break;
                }
            }
            let until_list =
                self.relisted.map_or(Duration::ZERO, |at| LIST_PAUSE.saturating_sub(at.elapsed()));
            if self.missed_since.is_some() && until_list.is_zero() {
                self.relisted = Some(Instant::now());
                let missed_since = self.missed_since.take();
                self.list(missed_since)?;
            } else if let Some((id, cause)) = self.pending.take() {
                match self.inspect(&id)? {
                    Ok(Some(running)) => self.apply(id, running, Some(cause))?,
                    Ok(None) => {}
                    Err(error) if self.has_warned => {
                        log::debug!("names: a container cannot be read: {error}")
                    }
                    Err(error) => {
                        self.has_warned = true;
                        log::warn!("names: a container cannot be read, others are logged as debug: {error}");
                    }
                }
            } else {
                let timeout = self.missed_since.map(|_| until_list);
                wait(self.outlet, &[Some(self.stream.get().stream())], timeout)?;
            }
        }
    }

    /// Waits for an answer, and reads events meanwhile.
    fn pause(&mut self, answer: Option<&UnixStream>, left: Duration) -> io::Result<()> {
        wait(self.outlet, &[answer, Some(self.stream.get().stream())], Some(left))?;
        self.read_events()?;
        Ok(())
    }

    fn ask(&mut self, target: &str, most: usize) -> io::Result<(u16, Vec<u8>)> {
        unix_http::get(self.path, target, most, &mut |stream, left| self.pause(stream, left))
    }

    /// Reads all containers anew.
    fn list(&mut self, missed_since: Option<Millis>) -> io::Result<()> {
        // The list has them, unless they change after this moment.
        self.pending.clear();
        let ids = self.running_containers()?;
        self.list = self.list.wrapping_add(1);
        self.outlet.say(Report::ListBegins { missed_since })?;
        let (mut unreadable, mut first) = (0_usize, None);
        for id in ids {
            match self.inspect(&id)? {
                Ok(Some(running)) => self.apply(id, running, None)?,
                Ok(None) => {}
                Err(error) => {
                    unreadable += 1;
                    first.get_or_insert(error);
                }
            }
        }
        if let Some(first) = first {
            log::warn!("names: {unreadable} containers cannot be read, the first: {first}");
        }
        self.known.retain(|_, known| known.list == self.list);
        self.owners.retain(|_, id| self.known.contains_key(id));
        self.outlet.say(Report::ListEnds)?;
        Ok(())
    }

    fn running_containers(&mut self) -> io::Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(rename = "Id")]
            id: String,
        }
        let (status, body) = self.ask("/containers/json", LARGEST_LIST)?;
        let invalid = |text: String| {
            io::Error::new(io::ErrorKind::InvalidData, format!("GET /containers/json: {text}"))
        };
        if status != 200 {
            return Err(invalid(format!("status {status}, expected 200; is this the socket of its API?")));
        }
        let listed: Vec<Listed> = serde_json::from_slice(&body)
            .map_err(|error| invalid(format!("no list of containers: {error}")))?;
        if listed.len() > MOST_CONTAINERS {
            return Err(invalid(format!("{} containers, expected at most {MOST_CONTAINERS}", listed.len())));
        }
        Ok(listed.into_iter().map(|container| container.id).filter(|id| event::is_id(id)).collect())
    }

    /// Asks for a container. `Ok(Ok(None))` if it does not run; an inner error if only this one cannot be read.
    fn inspect(&mut self, id: &str) -> io::Result<Result<Option<Running>, String>> {
        self.in_flight = Some(InFlight { id: id.to_owned(), ended: None, is_reported: false });
        let target = format!("/containers/{id}/json");
        let (status, body) = match self.ask(&target, LARGEST_INSPECT) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        Ok(match status {
            200 => inspect::parse(&body).map_err(|error| format!("GET {target}: {error}")),
            404 => Ok(None),
            status => Err(format!("GET {target}: status {status}, expected 200")),
        })
    }

    /// Reads events once. Returns whether there was something to read.
    fn read_events(&mut self) -> io::Result<bool> {
        let unreadable = self.stream.unreadable;
        let Some(events) = self.stream.read()? else { return Ok(false) };
        for event in events {
            self.note(event)?;
        }
        if self.stream.unreadable > unreadable {
            self.missed_since.get_or_insert(self.outlet.now());
        }
        Ok(true)
    }

    fn note(&mut self, Event { id, change, at }: Event) -> io::Result<()> {
        if change == Change::End {
            let at = at.unwrap_or_else(|| self.outlet.now().saturating_mul(1_000_000));
            return self.note_end(&id, at);
        }
        if !self.pending.add(&id, Cause { is_start: change == Change::Start, at }) {
            self.missed_since.get_or_insert(at.map_or_else(|| self.outlet.now(), to_millis));
        }
        Ok(())
    }

    fn note_end(&mut self, id: &str, at: i64) -> io::Result<()> {
        let known = self.known.get(id);
        if known.and_then(|known| known.started).is_some_and(|started| at < started) {
            // This is the end of an earlier run.
            return Ok(());
        }
        self.pending.end(id, at);
        if let Some(in_flight) = self.in_flight.as_mut().filter(|in_flight| in_flight.id == id) {
            in_flight.ended = Some(at);
            in_flight.is_reported |= known.is_some();
        }
        let Some(known) = self.known.remove(id) else { return Ok(()) };
        known.addresses.keys().try_for_each(|address| self.end_address(id, *address, Some(at)))
    }

    /// Reports what a container has. Without a cause it is a part of a list.
    fn apply(&mut self, id: String, running: Running, cause: Option<Cause>) -> io::Result<()> {
        let Running { started, hosts } = running;
        let in_flight = self.in_flight.take();
        // An end of an earlier run says nothing of this one.
        let ended =
            in_flight.as_ref().and_then(|in_flight| in_flight.ended).filter(|ended| Some(*ended) >= started);
        if ended.is_some() && in_flight.is_some_and(|in_flight| in_flight.is_reported) {
            return Ok(());
        }
        let is_start = cause.is_none_or(|cause| cause.is_start);
        let is_list = cause.is_none();
        let mut before = self.known.remove(&id);
        if let Some(known) = before.take_if(|known| known.started != started) {
            if !is_start {
                // It was restarted, and the events that say so are about to be read.
                self.known.insert(id, known);
                return Ok(());
            }
            known.addresses.keys().try_for_each(|address| self.end_address(&id, *address, started))?;
        }
        let changed = cause.filter(|cause| !cause.is_start).and_then(|cause| cause.at);
        // What a container gets while it runs it has not had since its start.
        let connected = if before.is_some() { changed.max(started) } else { started };
        let before = before.map(|known| known.addresses).unwrap_or_default();
        for address in before.keys().filter(|address| !hosts.contains_key(address)) {
            self.end_address(&id, *address, changed)?;
        }
        let mut known = Known { started, list: self.list, addresses: BTreeMap::new() };
        for (address, host) in hosts {
            let known_since = before.get(&address).copied();
            let since = known_since.unwrap_or(connected);
            known.addresses.insert(address, since);
            self.owners.insert(address, id.clone());
            let since = since.map(|since| to_millis(since) - EARLY);
            // A list does not tell whether it was connected to this network at its start, or later.
            let within = match since {
                Some(since) if is_list && known_since.is_none() => self.outlet.now().saturating_sub(since),
                _ => EARLY + 1,
            };
            self.outlet.say(Report::Holds(Claim { since, within, ..Claim::of(address, host) }))?;
        }
        if self.known.len() >= MOST_CONTAINERS {
            let text = format!("more than {MOST_CONTAINERS} containers run");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.known.insert(id.clone(), known);
        ended.map_or(Ok(()), |ended| self.note_end(&id, ended))
    }

    /// Reports the end of an address, unless another container has it.
    fn end_address(&mut self, id: &str, address: IpAddr, at: Option<i64>) -> io::Result<()> {
        if self.owners.get(&address).is_some_and(|owner| owner == id) {
            self.owners.remove(&address);
            self.outlet.say(Report::Ends { net: address.into(), at: at.map(to_millis) })?;
        }
        Ok(())
    }
}

fn to_millis(nanoseconds: i64) -> Millis {
    nanoseconds.div_euclid(1_000_000)
}

fn wait(outlet: &Outlet, streams: &[Option<&UnixStream>], timeout: Option<Duration>) -> io::Result<()> {
    let readable: Vec<&dyn AsFd> = streams.iter().flatten().map(|stream| *stream as &dyn AsFd).collect();
    outlet.wait(&readable, timeout).map(|_| ())
}

#[cfg(test)]
mod tests;
