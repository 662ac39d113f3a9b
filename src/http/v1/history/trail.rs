//! The lines that record who asks, and what they got.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

use crate::clock::Stamp;
use crate::http::past::History;

/// A question, as the lines record it.
#[derive(Debug)]
pub(super) struct Trail {
    number: u64,
    client: IpAddr,
    query: String,
    asked: Stamp,
    begun: Instant,
}

/// What a line records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// The whole answer, which is sent next.
    Answer,
    /// An answer that is long begins to be sent.
    Begin,
    /// A long answer has been read to its end, and the rest of it is sent next.
    End,
    /// A long answer ended early: the client was gone, or the daemon stops.
    Stop,
    /// The history could not be read.
    Error,
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    question: u64,
    step: Step,
    client: IpAddr,
    query: &'a str,
    /// How many mappings were found; of a long answer that begins, how many so far.
    answers: u64,
    /// Whether the answer is complete, once that is known.
    complete: Option<bool>,
    milliseconds: u64,
}

impl Trail {
    pub(super) fn new(history: &History, client: IpAddr, query: &str, asked: Stamp) -> Self {
        let (client, query) = (client.to_canonical(), query.to_owned());
        Self { number: history.count(), client, query, asked, begun: Instant::now() }
    }

    /// Writes a line, if lines are written at all.
    pub(super) fn write(
        &self,
        history: &History,
        step: Step,
        answers: u64,
        complete: Option<bool>,
    ) -> io::Result<()> {
        let Some(audit) = history.audit() else { return Ok(()) };
        let written = audit.write(&self.line(step, answers, complete));
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", audit.name())))
    }

    fn line(&self, step: Step, answers: u64, complete: Option<bool>) -> String {
        let milliseconds = i64::try_from(self.asked.wall).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
        let line = Line {
            time: &format!("{time:.3}"),
            question: self.number,
            step,
            client: self.client,
            query: &self.query,
            answers,
            complete,
            milliseconds: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        serde_json::to_string(&line).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_and_stays_one_line() {
        let trail = Trail {
            number: 7,
            client: [192, 0, 2, 1].into(),
            query: "nat_port=1&at=\"now\"\n".to_owned(),
            asked: Stamp { monotonic: 1, wall: 1_795_246_463_007 },
            begun: Instant::now(),
        };
        let line = trail.line(Step::Answer, 3, Some(true));
        let begin = r#"{"time":"2026-11-21T07:34:23.007Z","question":7,"step":"answer","client":"192.0.2.1","query":"nat_port=1&at=\"now\"\n","answers":3,"complete":true,"milliseconds":"#;
        assert!(line.starts_with(begin), "{line}");
        assert!(trail.line(Step::Begin, 3, None).contains(r#""step":"begin""#));
    }
}
