//! Events of containers, and the stream in which they come.

use std::io;

use serde::Deserialize;

use crate::source::unix_http::{Get, Progress};

/// The longest event.
const LONGEST: usize = 1 << 20;

/// What an event means for the addresses of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It runs.
    Start,
    /// It does not run any more.
    End,
    /// Its name or its networks have changed.
    Other,
}

/// An event that can change the addresses of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// The container.
    pub(super) id: String,
    pub(super) change: Change,
    /// When it was, in nanoseconds since 1970.
    pub(super) at: Option<i64>,
}

#[derive(Deserialize)]
struct Message {
    // The names of versions of the API before 1.22. Podman writes both.
    status: Option<String>,
    id: Option<String>,
    #[serde(rename = "Type")]
    kind: Option<String>,
    #[serde(rename = "Action")]
    action: Option<String>,
    #[serde(rename = "Actor", default)]
    actor: Actor,
    time: Option<i64>,
    #[serde(rename = "timeNano")]
    time_nano: Option<i64>,
}

#[derive(Deserialize, Default)]
struct Actor {
    #[serde(rename = "ID")]
    id: Option<String>,
    #[serde(rename = "Attributes")]
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct Attributes {
    container: Option<String>,
}

/// Reads an event. `Ok(None)` is one that means nothing for addresses.
fn parse(line: &[u8]) -> Result<Option<Event>, ()> {
    let message: Message = serde_json::from_slice(line).map_err(|_| ())?;
    let Some(action) = message.action.or(message.status) else { return Err(()) };
    let kind = message.kind.as_deref().unwrap_or("container");
    // `kill` is a signal, and many programs read their configuration anew at SIGHUP. If it ends the container, `die`
    // follows.
    let change = match (kind, action.as_str()) {
        ("container", "start") => Change::Start,
        ("container", "die" | "died" | "stop" | "destroy" | "remove") => Change::End,
        ("container", "rename") | ("network", "connect" | "disconnect") => Change::Other,
        _ => return Ok(None),
    };
    let actor = message.actor.id.or(message.id);
    let id = if kind == "network" {
        // Docker's actor is the network. Podman's is the container, and it has no such attribute.
        message.actor.attributes.and_then(|attributes| attributes.container).or(actor)
    } else {
        actor
    };
    let id = id.filter(|id| is_id(id)).ok_or(())?;
    let at = message.time_nano.or_else(|| message.time?.checked_mul(1_000_000_000)).filter(|at| *at > 0);
    Ok(Some(Event { id, change, at }))
}

/// Whether this is an id of a container. It becomes a part of a target, so it is nothing else.
pub(super) fn is_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Events as they come, one a line.
#[derive(Debug)]
pub(super) struct Stream {
    get: Get,
    /// What was read and is not parsed yet.
    buffer: Vec<u8>,
    /// So many bytes of it have no end of line.
    searched: usize,
    /// The line that is being read is too long.
    is_too_long: bool,
    /// Lines that were no events.
    pub(super) unreadable: u64,
}

impl Stream {
    pub(super) fn new(get: Get) -> Self {
        Self { get, buffer: Vec::new(), searched: 0, is_too_long: false, unreadable: 0 }
    }

    pub(super) fn get(&self) -> &Get {
        &self.get
    }

    /// Reads once, without blocking. Returns the events, or `None` if nothing can be read now.
    ///
    /// # Errors
    /// If the stream ends or breaks, or if the answer is not a stream of events.
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<Event>>> {
        let progress = self
            .get
            .read(&mut self.buffer)
            .map_err(|error| io::Error::new(error.kind(), format!("the stream of events broke: {error}")))?;
        if let Some(status) = self.get.status().filter(|status| *status != 200) {
            let text = format!("GET /events was answered with status {status}, expected 200");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match progress {
            Progress::Blocked => Ok(None),
            Progress::More => Ok(Some(self.take_events())),
            Progress::Done => {
                let text = "the stream of events ended: was the service stopped or restarted?";
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
        }
    }

    fn take_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) =
            self.buffer.get(self.searched..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let end = self.searched + length;
            let line = self.buffer.get(begin..end).unwrap_or_default().trim_ascii();
            let is_too_long = std::mem::take(&mut self.is_too_long) || line.len() > LONGEST;
            (begin, self.searched) = (end + 1, end + 1);
            if is_too_long {
                note_unreadable(&mut self.unreadable, b"a line of more than 1 MiB");
            } else if !line.is_empty() {
                match parse(line) {
                    Ok(event) => events.extend(event),
                    Err(()) => note_unreadable(&mut self.unreadable, line),
                }
            }
        }
        self.buffer.drain(..begin);
        if self.buffer.len() > LONGEST {
            self.is_too_long = true;
            self.buffer = Vec::new();
        }
        self.searched = self.buffer.len();
        events
    }
}

/// Counts a line that is no event; the first of a stream is logged.
fn note_unreadable(count: &mut u64, line: &[u8]) {
    *count += 1;
    if *count == 1 {
        let start: String = String::from_utf8_lossy(line).chars().take(80).collect();
        log::warn!("names: not an event of a container, the list is read anew: {start:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3efd85120690cb388130209ce8a65743a514f9ae41df3d556055b4151f0e9f32";
    const OTHER: &str = "9b7c1d2e3f405162738495a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f80";

    fn read(line: &str) -> Result<Option<Event>, ()> {
        parse(line.replace("ID1", ID).replace("ID2", OTHER).as_bytes())
    }

    #[test]
    fn events_of_docker_and_podman_are_told_apart_by_their_meaning() {
        let event = |change, at| Ok(Some(Event { id: ID.to_owned(), change, at: Some(at) }));
        let docker = r#"{"status":"start","id":"ID1","from":"nginx","Type":"container","Action":"start","Actor":{"ID":"ID1","Attributes":{"image":"nginx","name":"web","container":"x"}},"scope":"local","time":1683194400,"timeNano":1683194400123456789}"#;
        assert_eq!(read(docker), event(Change::Start, 1_683_194_400_123_456_789));
        // Docker 29 has no `status` and `id`.
        let newest = r#"{"Type":"container","Action":"die","Actor":{"ID":"ID1","Attributes":{"exitCode":"0"}},"scope":"local","time":1683194400,"timeNano":7}"#;
        assert_eq!(read(newest), event(Change::End, 7));
        let oldest = r#"{"status":"destroy","id":"ID1","from":"nginx","time":1683194400}"#;
        assert_eq!(read(oldest), event(Change::End, 1_683_194_400_000_000_000));
        let podman = r#"{"status":"died","id":"ID1","Type":"container","Action":"died","Actor":{"ID":"ID1","Attributes":{"podId":""}},"scope":"local","time":1,"timeNano":9}"#;
        assert_eq!(read(podman), event(Change::End, 9));
        let connect = r#"{"Type":"network","Action":"connect","Actor":{"ID":"ID2","Attributes":{"container":"ID1","name":"n1","type":"bridge"}},"timeNano":5}"#;
        assert_eq!(read(connect), event(Change::Other, 5));
        let connect = r#"{"status":"connect","id":"ID1","Type":"network","Action":"connect","Actor":{"ID":"ID1","Attributes":{"containerExitCode":"0","image":"","name":"web","podId":""}},"timeNano":6}"#;
        assert_eq!(read(connect), event(Change::Other, 6));
        for action in ["kill", "pause", "unpause", "init", "restart", "health_status: healthy", "exec_die"] {
            let line = format!(r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"ID1"}}}}"#);
            assert_eq!(read(&line), Ok(None), "{action}");
        }
        for line in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"Type":"container","Action":"start"}"#,
            r#"{"Type":"container","Action":"start","Actor":{"ID":"../../images/json?a=b"}}"#,
            r#"{"Type":"container","Action":"start","Actor":{"ID":"0123456789a\r\nHost: x"}}"#,
            r#"{"Type":"container","Action":"start","Actor":{"ID":7}}"#,
        ] {
            assert_eq!(read(line), Err(()), "{line}");
        }
    }
}
