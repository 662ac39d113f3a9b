//! Sends every request whose response was recorded from the Python program, with connections like those of the
//! recording. Every response is identical to the byte, except for the intended differences in [`INTENDED`].

use std::time::SystemTime;

use jiff::tz::{Offset, TimeZone};
use lab::http::{Client, Response};
use lab::{Daemon, Lab};
use serde::Deserialize;
use serde_json::Value;

use super::binary::DAEMON;

/// An intended difference from the recording.
enum Deviation {
    /// 400 with one line that names the invalid value.
    RefusedWithOneLine(&'static str),
    /// The response to a GET of the same path, without its body.
    HeadOfGet,
    /// The recorded response to another request.
    ReplyTo(&'static str),
    /// The same layout with the actual numbers.
    TrueNumbers,
}

/// By label.
const INTENDED: [(&str, Deviation); 4] = [
    ("value is no integer", Deviation::RefusedWithOneLine("abc")),
    ("HEAD", Deviation::HeadOfGet),
    ("the path that the original's README shows", Deviation::ReplyTo("GET /nat_port/40001")),
    ("statistics", Deviation::TrueNumbers),
];

/// The label of requests from an address outside `ip_acl`.
const REFUSED: &str = "client outside ip_acl";

/// Requests from the gateway itself are connections too; the filter excludes them.
const CONFIG: &str = "\
[filter]
dst_ip = 198.51.100.1
[data]
key_name = nat_port
[http_server]
host = 0.0.0.0
port = 0
ip_acl = 127.0.0.1,
";

/// A time zone that no machine uses.
const ZONE: (&str, i32) = ("XYZ-5:31", (5 * 60 + 31) * 60);

#[derive(Deserialize)]
struct Recorded {
    label: String,
    request: String,
    #[serde(flatten)]
    answer: Reply,
}

/// The compared parts of a response.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Reply {
    status: u16,
    content_type: Option<String>,
    allow: Option<String>,
    body: String,
}

impl From<&Response> for Reply {
    fn from(response: &Response) -> Self {
        Reply {
            status: response.status,
            content_type: response.header("Content-Type").map(str::to_owned),
            allow: response.header("Allow").map(str::to_owned),
            body: response.text().to_owned(),
        }
    }
}

/// The daemon with its traffic, and the times of both.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    before_start: f64,
    after_start: f64,
    before_traffic: String,
}

impl Scene {
    fn ask(&self, request: &str, refused: bool) -> Response {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let mut client = match refused {
            true => Client::connect(self.lab.server(), self.daemon.addr_on(self.lab.public(0))),
            false => Client::connect(self.lab.gateway(), self.daemon.local_addr()),
        };
        client.request(method, path, &[], b"")
    }

    /// The text with its times replaced by those of `body`, each of which must be a time at which a connection
    /// of this scene can have begun.
    fn with_times_of(&self, body: &str, text: &str) -> String {
        const BEFORE: &str = "\"time\": \"";
        let mut times = body.split(BEFORE).skip(1).map(|rest| rest.split('"').next().unwrap_or_default());
        let mut pieces = text.split(BEFORE);
        let mut replaced = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let time = times.next().unwrap_or("none");
            let form = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", time);
            assert!(form.is_ok() && time.len() == 19, "{time}: {form:?}");
            // The textual order of this format is the order in time.
            assert!(*self.before_traffic <= *time && *time <= *local_time(), "{time} at {}", local_time());
            replaced += BEFORE;
            replaced += time;
            replaced += &piece[piece.find('"').expect("a recorded time ends")..];
        }
        replaced
    }
}

/// The daemon's local time.
fn local_time() -> String {
    let zone = TimeZone::fixed(Offset::from_seconds(ZONE.1).unwrap());
    jiff::Timestamp::now().to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn recorded_requests_are_answered_as_recorded() {
    if !lab::require() {
        return;
    }
    let recorded: Vec<Recorded> = serde_json::from_str(include_str!("../data/http-recorded.json")).unwrap();
    for (label, _) in &INTENDED {
        assert_eq!(recorded.iter().filter(|recorded| recorded.label == *label).count(), 1, "{label}");
    }

    let lab = Lab::builder().build();
    let before_start = unix_time();
    let daemon = DAEMON.builder(CONFIG).env("TZ", ZONE.0).start(lab.gateway());
    let (after_start, before_traffic) = (unix_time(), local_time());
    let server = lab.listen(lab.server_at(443));
    let _open = [9, 40001].map(|port| {
        let connection = lab.connect_to(&server, lab.client_at(0, port));
        assert_eq!(connection.peer, (lab.public(0), port).into());
        connection
    });
    let scene = Scene { lab, daemon, before_start, after_start, before_traffic };

    let (mut equal, mut different) = (0, 0);
    for Recorded { label, request, answer } in &recorded {
        let response = scene.ask(request, label.starts_with(REFUSED));
        let given = Reply::from(&response);
        let expected = |answer: &Reply| {
            let body = scene.with_times_of(&given.body, &answer.body);
            Reply { body, ..answer.clone() }
        };
        let Some((_, wanted)) = INTENDED.iter().find(|(other, _)| other == label) else {
            assert_eq!(given, expected(answer), "{label}: {request}");
            equal += 1;
            continue;
        };
        different += 1;
        match wanted {
            Deviation::RefusedWithOneLine(found) => {
                assert_eq!((given.status, &given.allow), (400, &None), "{label}");
                assert!(given.content_type.unwrap().starts_with("text/plain"), "{label}");
                let line = given.body.strip_suffix('\n').expect("the line ends");
                assert!(line.contains(found) && !line.contains('\n'), "{label}: {line}");
            }
            Deviation::HeadOfGet => {
                let get = scene.ask(&request.replace("HEAD", "GET"), false);
                let head_of = |response: &Response| {
                    let mut headers = response.headers.clone();
                    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Date"));
                    (response.status, headers)
                };
                assert_eq!(head_of(&response), head_of(&get), "{label}");
                assert_eq!((get.status, &*given.body), (200, ""), "{label}");
                assert_eq!(get.header("Content-Length"), Some(&*get.body.len().to_string()), "{label}");
            }
            Deviation::ReplyTo(other) => {
                let other = recorded.iter().find(|recorded| recorded.request == *other).unwrap();
                assert_eq!(given, expected(&other.answer), "{label}: {request}");
            }
            Deviation::TrueNumbers => {
                assert_eq!(masked(&given), masked(answer), "{label}");
                // Six lookups came before it: one found, three not found, another key's name, and an invalid number.
                let counters = [("bad_requests", 2), ("no_of_requests", 6), ("successful_replies", 1)];
                let counters = [&counters[..], &[("unauthorized_requests", 0), ("unsuccessful_replies", 3)]];
                statistics_are_true(&scene, &response.json(), &counters.concat(), [2, 0]);
            }
        }
    }
    println!("{} recorded requests: {equal} equal, {different} differ as wanted", recorded.len());
    assert_eq!((recorded.len(), different), (19, INTENDED.len()));

    // The lookups since, including the one for HEAD, and the four refused requests.
    let counters = [
        ("bad_requests", 2),
        ("no_of_requests", 14),
        ("successful_replies", 5),
        ("unauthorized_requests", 4),
        ("unsuccessful_replies", 3),
    ];
    statistics_are_true(&scene, &scene.ask("GET /nagios", false).json(), &counters, [2, 0]);
}

/// A response with its numbers replaced by their types.
fn masked(answer: &Reply) -> Reply {
    let mut body = String::new();
    let mut rest = &*answer.body;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit() || c == '-') {
        let number = &rest[start..];
        let end = number.find(|c| !matches!(c, '0'..='9' | '-' | '.' | 'e')).unwrap_or(number.len());
        body += &rest[..start];
        body += if number[..end].contains(['.', 'e']) { "float" } else { "integer" };
        rest = &number[end..];
    }
    Reply { body: body + rest, ..answer.clone() }
}

/// Checks all of `/nagios` while all connections are open: the counters of requests, and of created and
/// deleted mappings.
fn statistics_are_true(scene: &Scene, given: &Value, requests: &[(&str, u64)], items: [u64; 2]) {
    let [created, deleted] = items;
    for (name, count) in requests {
        assert_eq!(given["http_stat"][name], *count, "{name}: {given:#}");
    }
    assert_eq!(given["http_stat"].as_object().unwrap().len(), requests.len());
    assert_eq!(given["number_of_created_items"], created);
    assert_eq!(given["number_of_deleted_items"], deleted);
    assert_eq!(given["shared_data_size"], created - deleted);
    assert_eq!(given["expired_data"], 0);
    assert_eq!(given["queue_size"], 0, "all events are read before the answer is made");
    // Times are given in milliseconds.
    let started = given["prgm_start_time"].as_f64().unwrap() + 0.001;
    assert!(scene.before_start <= started && started <= scene.after_start + 0.002, "{started}");
    for (part, state) in given["threads_stat"].as_object().unwrap() {
        let alive = state["alive_time"].as_f64().unwrap();
        assert!(alive >= 0.0 && alive <= unix_time() - scene.before_start, "{part}: {alive}");
        assert_eq!(state["is_alive"], true, "{part}");
    }
}
