//! Follows a service that answers as Docker 24 and Podman 4.3 do, and one that does not behave.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use serde_json::json;

use super::pending::MOST_PENDING;
use super::*;
use crate::outlet::Stop;
use crate::outlet::testing::Heard;

/// 2026-11-28T00:10:00Z.
const START: i64 = 1_795_824_600_000_000_000;

/// What the service answers.
#[derive(Default)]
struct Answers {
    /// What is inspected, by id, and whether it is listed.
    containers: BTreeMap<String, (bool, String)>,
    list: Option<String>,
    events: Option<UnixStream>,
    inspected: usize,
    /// Requests whose target ends so are not answered.
    held: Option<String>,
}

/// A service on a socket in a directory of its own.
struct Service {
    directory: tempfile::TempDir,
    /// The bytes of a chunk of HTTP, each of which is written on its own.
    chunk: usize,
    answers: Mutex<Answers>,
    changed: Condvar,
}

impl Service {
    fn start(chunk: usize) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let this = Arc::new(Self { directory, chunk, answers: Mutex::default(), changed: Condvar::new() });
        let service = this.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let service = service.clone();
                thread::spawn(move || service.answer(stream.unwrap()));
            }
        });
        this
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// Answers one request. If the client has gone, that is its matter.
    fn answer(&self, mut stream: UnixStream) -> Option<()> {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).ok()?;
        let target = line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1\r\n")?;
        let mut answers = self.answers.lock();
        let id = target.strip_prefix("/containers/").and_then(|rest| rest.strip_suffix("/json"));
        answers.inspected += usize::from(id.is_some());
        self.changed.notify_all();
        while answers.held.as_ref().is_some_and(|held| target.ends_with(held)) {
            self.changed.wait(&mut answers);
        }
        let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\n";
        if target.starts_with("/events?") {
            write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n").ok()?;
            answers.events = Some(stream);
            self.changed.notify_all();
            return Some(());
        }
        if target == "/containers/json" {
            let ids = answers.containers.iter().filter(|(_, (is_listed, _))| *is_listed);
            let list: Vec<_> = ids.map(|(id, _)| json!({"Id": id, "State": "running"})).collect();
            let body = answers.list.clone().unwrap_or_else(|| json!(list).to_string());
            drop(answers);
            return write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).ok();
        }
        let id = id?;
        let body = answers.containers.get(id).map(|(_, body)| body.clone());
        drop(answers);
        let Some(body) = body else {
            let body = json!({"message": format!("No such container: {id}")}).to_string();
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                .ok();
        };
        write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n").ok()?;
        self.write_chunks(&mut stream, body.as_bytes())?;
        stream.write_all(b"0\r\n\r\n").ok()
    }

    fn write_chunks(&self, stream: &mut UnixStream, bytes: &[u8]) -> Option<()> {
        bytes.chunks(self.chunk).try_for_each(|chunk| {
            write!(stream, "{:x}\r\n", chunk.len()).ok()?;
            stream.write_all(chunk).ok()?;
            stream.write_all(b"\r\n").ok()
        })
    }

    fn change(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock());
        self.changed.notify_all();
    }

    /// Waits until so many containers were asked for.
    fn wait_for_inspections(&self, count: usize) {
        let mut answers = self.answers.lock();
        while answers.inspected < count {
            self.changed.wait(&mut answers);
        }
    }

    fn put(&self, id: &str, is_listed: bool, body: &serde_json::Value) {
        self.change(|answers| drop(answers.containers.insert(id.to_owned(), (is_listed, body.to_string()))));
    }

    /// Sends lines as events, once the client listens.
    fn send(&self, lines: &[u8]) {
        let mut answers = self.answers.lock();
        while answers.events.is_none() {
            self.changed.wait(&mut answers);
        }
        let mut stream = answers.events.as_ref().unwrap().try_clone().unwrap();
        drop(answers);
        // A client that has ended does not read it.
        let _ = self.write_chunks(&mut stream, lines);
    }

    /// Sends an event of a container, as Docker does.
    fn send_event(&self, action: &str, id: &str, at: i64) {
        self.send(event(action, id, at).as_bytes());
    }
}

fn event(action: &str, id: &str, at: i64) -> String {
    let mut event = json!({
        "status": action, "id": id, "from": "nginx:1.25", "Type": "container", "Action": action,
        "Actor": {"ID": id, "Attributes": {"image": "nginx:1.25", "name": "web", "tier": "front"}},
        "scope": "local", "time": at / 1_000_000_000, "timeNano": at,
    });
    if matches!(action, "connect" | "disconnect") {
        event["Type"] = json!("network");
        event["Actor"] =
            json!({"ID": id_of(999), "Attributes": {"container": id, "name": "n", "type": "bridge"}});
    }
    format!("{event}\n")
}

fn id_of(number: usize) -> String {
    format!("{number:064x}")
}

/// What Docker says of a container that was started so many nanoseconds after [`START`].
fn inspected(id: &str, name: &str, after: i64, addresses: &[&str]) -> serde_json::Value {
    assert!((0..1_000_000_000).contains(&after));
    let networks: serde_json::Map<String, serde_json::Value> = addresses
        .iter()
        .map(|address| {
            let endpoint = json!({
                "IPAMConfig": null, "Links": null, "Aliases": null, "NetworkID": id_of(999), "EndpointID": id_of(998),
                "Gateway": "172.17.0.1", "IPAddress": address, "IPPrefixLen": 16, "IPv6Gateway": "",
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "02:42:ac:11:00:02", "DriverOpts": null
            });
            (format!("net-{address}"), endpoint)
        })
        .collect();
    json!({
        "Id": id, "Created": "2026-11-28T00:09:59.9Z", "Path": "nginx", "Args": [], "Name": format!("/{name}"),
        "State": {"Status": "running", "Running": true, "Paused": false, "Restarting": false, "OOMKilled": false,
            "Dead": false, "Pid": 4711, "ExitCode": 0, "Error": "",
            "StartedAt": format!("2026-11-28T00:10:00.{after:09}Z"), "FinishedAt": "0001-01-01T00:00:00Z"},
        "HostConfig": {"NetworkMode": "default"},
        "Config": {"Image": "nginx:1.25", "Labels": {"tier": "front"}},
        "NetworkSettings": {"Bridge": "", "Networks": networks},
    })
}

struct Following {
    heard: Arc<Heard>,
    stop: Arc<Stop>,
    thread: JoinHandle<io::Error>,
}

fn follow(path: PathBuf) -> Following {
    let heard = Arc::<Heard>::default();
    let (outlet, stop) = heard.outlet();
    let thread = thread::spawn(move || Containers::docker(path).follow(&outlet).unwrap_err());
    Following { heard, stop, thread }
}

impl Following {
    /// Waits until the last report is one of this address that holds or ends, and returns all since the last time.
    fn until(&self, address: &str, holds: bool) -> Vec<String> {
        let is_it = |report: &Report| match report {
            Report::Holds(claim) => holds && claim.net.ip().to_string() == address,
            Report::Ends { net, .. } => !holds && net.ip().to_string() == address,
            _ => false,
        };
        let what = format!("{address} {holds}");
        self.heard.wait_until(&what, |reports| reports.iter().any(is_it));
        self.heard.take_all().iter().map(written).collect()
    }

    fn until_list(&self) -> Vec<String> {
        self.heard.wait_until("a list", |reports| reports.contains(&Report::ListEnds));
        self.heard.take_all().iter().map(written).collect()
    }

    fn stop(self) {
        self.stop.stop();
        assert_eq!(self.thread.join().unwrap().to_string(), "the source was stopped");
    }
}

/// A report in short, with its time in milliseconds after [`START`].
fn written(report: &Report) -> String {
    let after = |at: Option<Millis>| at.map_or("?".to_owned(), |at| (at - to_millis(START)).to_string());
    match report {
        Report::ListBegins { missed_since } => format!("list {}", after(*missed_since)),
        Report::ListEnds | Report::Followed => "end of list".to_owned(),
        Report::Ends { net, at } => format!("{} ends {}", net.ip(), after(*at)),
        Report::Stops { .. } => unreachable!("no lease says so"),
        Report::Holds(claim) => {
            assert!(claim.within > EARLY && claim.until.is_none());
            assert_eq!(claim.host.labels.get("image").map(String::as_str), Some("nginx:1.25"));
            let name = claim.host.name.clone().unwrap_or_default();
            format!("{} is {name} since {}", claim.net.ip(), after(claim.since.map(|since| since + EARLY)))
        }
    }
}

#[test]
fn containers_are_followed_from_the_list_through_each_event() {
    for chunk in [1, 2, 3, 64, 100_000] {
        let service = Service::start(chunk);
        let (web, db) = (id_of(1), id_of(2));
        service.put(&web, true, &inspected(&web, "web", 5_999_999, &["172.17.0.2", "172.18.0.2"]));
        let following = follow(service.path());
        assert_eq!(
            following.until_list(),
            ["list ?", "172.17.0.2 is web since 5", "172.18.0.2 is web since 5", "end of list"]
        );
        service.put(&db, true, &inspected(&db, "db", 100_000_000, &["172.17.0.3"]));
        service.send_event("create", &db, START + 99_000_000);
        service.send_event("start", &db, START + 100_500_000);
        assert_eq!(following.until("172.17.0.3", true), ["172.17.0.3 is db since 100"]);
        service.put(&db, true, &inspected(&db, "database", 100_000_000, &["172.17.0.3"]));
        service.send_event("rename", &db, START + 200_000_000);
        assert_eq!(following.until("172.17.0.3", true), ["172.17.0.3 is database since 100"]);
        // What is connected later is had since then only.
        service.put(&db, true, &inspected(&db, "database", 100_000_000, &["172.17.0.3", "172.19.0.3"]));
        service.send_event("connect", &db, START + 300_000_000);
        let both = ["172.17.0.3 is database since 100", "172.19.0.3 is database since 300"];
        assert_eq!(following.until("172.19.0.3", true), both);
        service.put(&db, true, &inspected(&db, "database", 100_000_000, &["172.19.0.3"]));
        service.send_event("disconnect", &db, START + 400_000_000);
        let rest = ["172.17.0.3 ends 400", "172.19.0.3 is database since 300"];
        assert_eq!(following.until("172.19.0.3", true), rest);
        // Neither a pause nor a signal ends a container.
        for action in ["pause", "unpause", "kill", "exec_die", "health_status: healthy"] {
            service.send_event(action, &web, START + 500_000_000);
        }
        service.send_event("die", &web, START + 600_000_000);
        let ends = following.until("172.18.0.2", false);
        assert_eq!(ends, ["172.17.0.2 ends 600", "172.18.0.2 ends 600"]);
        // A restart: what followed the first end is nothing new.
        service.put(&web, true, &inspected(&web, "web", 700_000_000, &["172.17.0.2"]));
        for (action, after) in [("stop", 650), ("start", 701), ("restart", 702)] {
            service.send_event(action, &web, START + after * 1_000_000);
        }
        assert_eq!(following.until("172.17.0.2", true), ["172.17.0.2 is web since 700"]);
        // A late end of the run before is not one of this.
        service.send_event("stop", &web, START + 650_000_000);
        service.send_event("destroy", &db, START + 800_000_000);
        assert_eq!(following.until("172.19.0.3", false), ["172.19.0.3 ends 800"]);
        following.stop();
    }
}

/// An event as Podman 4.3 writes it; older versions say `died`.
fn podman_event(kind: &str, action: &str, id: &str, at: i64) -> String {
    let attributes = json!({"containerExitCode": "0", "image": "nginx:1.25", "name": "web", "podId": ""});
    let event = json!({
        "status": action, "id": id, "from": "nginx:1.25", "Type": kind, "Action": action,
        "Actor": {"ID": id, "Attributes": attributes},
        "scope": "local", "time": at / 1_000_000_000, "timeNano": at,
    });
    format!("{event}\n")
}

#[test]
fn events_of_podman_are_followed() {
    for chunk in [1, 1_000] {
        let service = Service::start(chunk);
        let following = follow(service.path());
        following.until_list();
        let id = id_of(1);
        let send = |kind: &str, action: &str, after: i64| {
            service.send(podman_event(kind, action, &id, START + after * 1_000_000).as_bytes());
        };
        service.put(&id, true, &inspected(&id, "web", 2_000_000, &["10.88.0.2"]));
        [("create", 1), ("init", 2), ("start", 3)]
            .into_iter()
            .for_each(|(action, at)| send("container", action, at));
        assert_eq!(following.until("10.88.0.2", true), ["10.88.0.2 is web since 2"]);
        service.put(&id, true, &inspected(&id, "web", 2_000_000, &["10.88.0.2", "10.89.0.2"]));
        send("network", "connect", 10);
        let both = ["10.88.0.2 is web since 2", "10.89.0.2 is web since 10"];
        assert_eq!(following.until("10.89.0.2", true), both);
        // It says of a container that pauses that it does not run.
        let mut paused = inspected(&id, "web", 2_000_000, &["10.88.0.2"]);
        paused["State"]["Running"] = json!(false);
        paused["State"]["Paused"] = json!(true);
        service.put(&id, true, &paused);
        [("sync", 15), ("pause", 16)].into_iter().for_each(|(action, at)| send("container", action, at));
        send("network", "disconnect", 20);
        let rest = ["10.89.0.2 ends 20", "10.88.0.2 is web since 2"];
        assert_eq!(following.until("10.88.0.2", true), rest);
        // `restart` is written before the end of the first run.
        service.put(&id, true, &inspected(&id, "web", 40_000_000, &["10.88.0.7"]));
        [("kill", 21), ("restart", 22), ("died", 30), ("cleanup", 31), ("init", 40), ("start", 41)]
            .into_iter()
            .for_each(|(action, at)| send("container", action, at));
        let again = ["10.88.0.2 ends 30", "10.88.0.7 is web since 40"];
        assert_eq!(following.until("10.88.0.7", true), again);
        send("container", "remove", 50);
        assert_eq!(following.until("10.88.0.7", false), ["10.88.0.7 ends 50"]);
        following.stop();
    }
}

#[test]
fn the_end_of_a_container_does_not_end_its_successor() {
    let service = Service::start(100);
    let (first, second) = (id_of(1), id_of(2));
    service.put(&first, true, &inspected(&first, "first", 0, &["10.0.0.2"]));
    let following = follow(service.path());
    following.until_list();
    service.put(&second, true, &inspected(&second, "second", 5_000_000, &["10.0.0.2", "10.0.0.3"]));
    service.send_event("start", &second, START + 6_000_000);
    following.until("10.0.0.3", true);
    service.send_event("die", &first, START + 4_000_000);
    service.send_event("die", &second, START + 9_000_000);
    assert_eq!(following.until("10.0.0.3", false), ["10.0.0.2 ends 9", "10.0.0.3 ends 9"]);
    following.stop();
}

#[test]
fn a_container_that_ends_while_it_is_inspected_has_its_time() {
    let service = Service::start(100);
    let following = follow(service.path());
    following.until_list();
    let (short, gone, next) = (id_of(1), id_of(2), id_of(3));
    service.change(|answers| answers.held = Some(format!("{short}/json")));
    service.put(&short, false, &inspected(&short, "short", 1_000_000, &["10.0.0.2"]));
    service.put(&next, false, &inspected(&next, "next", 9_000_000, &["10.0.0.3"]));
    service.send_event("start", &short, START + 2_000_000);
    service.wait_for_inspections(1);
    for (action, id, after) in [("start", &gone, 3), ("die", &short, 5), ("start", &next, 10)] {
        service.send_event(action, id, START + after * 1_000_000);
    }
    service.change(|answers| answers.held = None);
    let reports = following.until("10.0.0.3", true);
    assert_eq!(reports, ["10.0.0.2 is short since 1", "10.0.0.2 ends 5", "10.0.0.3 is next since 9"]);
    following.stop();
}

#[test]
fn thousands_of_short_lives_do_not_delay_the_next_one() {
    let service = Service::start(4_096);
    let following = follow(service.path());
    following.until_list();
    let begun = Instant::now();
    for round in 0..300 {
        // 1,000 pairs a second.
        let due = Duration::from_millis(10) * round;
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let pairs = (0..10).map(|n| {
            let id = id_of(1_000 + round as usize * 10 + n);
            event("start", &id, START) + &event("die", &id, START + 1)
        });
        service.send(pairs.collect::<String>().as_bytes());
    }
    let last = id_of(1);
    service.put(&last, false, &inspected(&last, "last", 0, &["10.0.0.2"]));
    let sent = Instant::now();
    service.send_event("start", &last, START);
    assert_eq!(following.until("10.0.0.2", true), ["10.0.0.2 is last since 0"]);
    assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
    following.stop();
}

#[test]
fn more_starts_than_can_be_kept_make_a_new_list() {
    let service = Service::start(1 << 16);
    let following = follow(service.path());
    following.until_list();
    let survivor = id_of(1);
    service.put(&survivor, true, &inspected(&survivor, "survivor", 0, &["10.0.0.2"]));
    let held = id_of(100_000);
    service.change(|answers| answers.held = Some(format!("{held}/json")));
    service.send_event("start", &held, START);
    service.wait_for_inspections(1);
    // While one is inspected, 200 more than fit are started.
    for n in 1..=MOST_PENDING + 200 {
        service.send_event("start", &id_of(100_000 + n), START + n as i64 * 1_000_000);
    }
    service.change(|answers| answers.held = None);
    let reports = following.until_list();
    let first_dropped = format!("list {}", MOST_PENDING + 1);
    assert_eq!(reports, [first_dropped.as_str(), "10.0.0.2 is survivor since 0", "end of list"]);
    assert!(service.answers.lock().inspected < 100);
    following.stop();
}

#[test]
fn what_is_no_event_makes_a_new_list() {
    for garbage in [b"\x00\xff{]\n".to_vec(), [vec![b'x'; 3 << 20], b"\n".to_vec()].concat()] {
        let service = Service::start(8_192);
        let following = follow(service.path());
        following.until_list();
        let id = id_of(1);
        service.put(&id, true, &inspected(&id, "web", 0, &["10.0.0.2"]));
        service.send(&garbage);
        let reports = following.until_list();
        assert!(reports[0] != "list ?" && reports[1..] == ["10.0.0.2 is web since 0", "end of list"]);
        service.send_event("die", &id, START + 1_000_000);
        assert_eq!(following.until("10.0.0.2", false), ["10.0.0.2 ends 1"]);
        following.stop();
    }
}

#[test]
fn a_container_that_cannot_be_read_does_not_hide_the_others() {
    let service = Service::start(1 << 16);
    let (odd, large, good) = (id_of(1), id_of(2), id_of(3));
    service.put(&odd, true, &json!({"Id": 7}));
    service.put(&large, true, &json!({"Id": large, "Name": "x".repeat(LARGEST_INSPECT)}));
    service.put(&good, true, &inspected(&good, "good", 0, &["10.0.0.2"]));
    let following = follow(service.path());
    assert_eq!(following.until_list(), ["list ?", "10.0.0.2 is good since 0", "end of list"]);
    following.stop();
}

#[test]
fn a_stream_that_ends_is_an_error() {
    let service = Service::start(100);
    let following = follow(service.path());
    following.until_list();
    let events = service.answers.lock().events.as_ref().unwrap().try_clone().unwrap();
    (&events).write_all(b"0\r\n\r\n").unwrap();
    let error = following.thread.join().unwrap().to_string();
    assert_eq!(error, "the stream of events ended: was the service stopped or restarted?");
    let service = Service::start(100);
    let following = follow(service.path());
    following.until_list();
    service.answers.lock().events.as_ref().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
    let error = following.thread.join().unwrap().to_string();
    assert_eq!(error, "the stream of events broke: the connection was closed amid an answer");
}

#[test]
fn what_cannot_be_followed_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.sock");
    let error = follow(missing.clone()).thread.join().unwrap().to_string();
    assert!(
        error.contains(&missing.display().to_string()) && error.contains("installed and running"),
        "{error}"
    );
    for (list, expected) in [("{", "no list of containers"), (r#"{"message":"x"}"#, "no list of containers")]
    {
        let service = Service::start(100);
        service.change(|answers| answers.list = Some(list.to_owned()));
        let error = follow(service.path()).thread.join().unwrap().to_string();
        assert!(error.starts_with("GET /containers/json: ") && error.contains(expected), "{error}");
    }
    // Another service: it answers nothing that is HTTP.
    let path = directory.path().join("other.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let other = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n\r\n").unwrap();
        stream
    });
    let error = follow(path).thread.join().unwrap().to_string();
    drop(other.join().unwrap());
    let expected = "the stream of events broke: not an answer of HTTP/1.1: it begins with \"220 mail.example";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_service_that_hangs_is_given_up_and_can_be_left() {
    let service = Service::start(100);
    service.change(|answers| answers.held = Some("/containers/json".to_owned()));
    let following = follow(service.path());
    let other = Service::start(100);
    other.change(|answers| answers.held = Some("/containers/json".to_owned()));
    let left = follow(other.path());
    // It is left amid its request, or before.
    other.send(b"\n");
    let begun = Instant::now();
    left.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
    let error = following.thread.join().unwrap().to_string();
    assert_eq!(error, "no whole answer to GET /containers/json within 10 s");
    // Nobody accepts: the queue of the socket is filled.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let _waits = UnixStream::connect(&path).unwrap();
    let following = follow(path);
    let begun = Instant::now();
    following.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
}
