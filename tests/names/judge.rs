//! Compares what the daemon answers with the truth.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::Millis;
use crate::scene::Opened;
use crate::truth::{Hold, Session};

/// A DHCP client's script, and a source's notification, can be that late on a busy machine.
const LATE: Millis = 1_500;

/// A source was not followed.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) sources: Vec<&'static str>,
    /// It could be followed no longer,
    pub(crate) from: Millis,
    /// it certainly was not,
    pub(crate) surely_from: Millis,
    /// and could be again.
    pub(crate) surely_to: Millis,
    /// It was again.
    pub(crate) to: Millis,
}

/// What was asked, and what the answer was.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The place of the connection in the list.
    pub(crate) opened: usize,
    pub(crate) path: String,
    /// The mapping; `None` if it was not known.
    pub(crate) mapping: Option<Value>,
}

pub(crate) struct Judge<'a> {
    pub(crate) macs: &'a [String],
    pub(crate) sessions: &'a [Session],
    pub(crate) holds: BTreeMap<IpAddr, Vec<&'a Hold>>,
    pub(crate) outages: &'a [Outage],
    /// How exact the source's times are.
    pub(crate) exactness: Millis,
    pub(crate) counts: BTreeMap<&'static str, usize>,
    pub(crate) wrong: Vec<String>,
    pub(crate) unexplained: Vec<String>,
}

impl Judge<'_> {
    /// Judges an answer, and returns whether it was certain.
    pub(crate) fn judge(&mut self, asked: &Asked, opened: &Opened) -> bool {
        let Some(mapping) = &asked.mapping else {
            let is_lookup = asked.path.starts_with("/v1/lookup");
            self.count(if is_lookup { "not live any more" } else { "not in the history" });
            return false;
        };
        let host = &mapping["host"];
        let at = mapping["opened"].as_str().map_or(opened.after, time);
        let (from, to) = (opened.before, opened.after.max(at));
        let is_certain = host["certain"] == true;
        let gaps: Vec<&str> =
            host["gaps"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for outage in self.outages {
            if outage.surely_from <= from && at < outage.surely_to {
                let is_named = outage.sources.iter().all(|source| gaps.contains(source));
                let is_claimed =
                    is_certain && host["source"].as_str().is_some_and(|own| outage.sources.contains(&own));
                if !is_named || is_claimed {
                    self.wrong.push(format!("in a gap {outage:?}: {}", self.context(asked, opened)));
                }
            }
        }
        if is_certain {
            self.judge_certain(asked, opened, host, from, to);
        } else {
            self.explain(asked, opened, (from, to), !gaps.is_empty());
        }
        is_certain
    }

    fn judge_certain(&mut self, asked: &Asked, opened: &Opened, host: &Value, from: Millis, to: Millis) {
        let (name, mac) = (host["name"].as_str(), host["mac"].as_str());
        let is_meant =
            |hold: &Hold| mac == Some(&*self.macs[hold.device]) && name.is_none_or(|name| name == hold.name);
        let is_sender = |session: &Session| {
            mac == Some(&*self.macs[session.device]) && name.is_none_or(|name| name == session.name)
        };
        let is_held = self.holds_of(opened.address).any(|hold| is_meant(hold) && hold.may_touch(from, to));
        let is_right = match opened.sender {
            Some(session) => is_sender(&self.sessions[session]) && is_held,
            None => is_held,
        };
        let is_empty = !self.holds_of(opened.address).any(|hold| hold.may_touch(from, to));
        if is_right {
            self.count(if name.is_some() { "right" } else { "right, without a name" });
        } else if opened.sender.is_none() && is_empty && host["source"] == "neighbours" {
            // Nobody can have sent anything, and the neighbour table still has the last one who did.
            self.count("nobody, and the neighbour table has one that was there");
        } else {
            self.wrong.push(self.context(asked, opened));
        }
    }

    /// Finds the reason why an answer was not certain.
    fn explain(&mut self, asked: &Asked, opened: &Opened, (from, to): (Millis, Millis), has_gaps: bool) {
        let mapping = asked.mapping.as_ref().expect("the mapping is known");
        let in_outage =
            self.outages.iter().any(|outage| outage.from - LATE <= to && from <= outage.to + LATE);
        let known = mapping["opened_known"].as_str().or(mapping["learnt"].as_str()).unwrap_or_default();
        let near = |slack: Millis| {
            let (from, to) = (from - slack, to + slack);
            self.holds_of(opened.address).any(|hold| {
                (hold.earliest.max(hold.from - slack) <= to && from <= hold.from)
                    || (hold.to <= to && from <= hold.to.max(hold.latest.min(hold.to + slack)))
                    || (hold.latest - slack <= to && from <= hold.latest)
            })
        };
        let held = self.holds_of(opened.address).any(|hold| hold.covers(from, to));
        let may_be_held = self.holds_of(opened.address).any(|hold| hold.may_touch(from, to));
        let cause = if has_gaps && in_outage {
            "unknown: in a gap"
        } else if known != "event" || mapping["opened"] == mapping["closed"] {
            "unknown: found in the kernel's table, opened before"
        } else if !may_be_held {
            "unknown: nobody had the address"
        } else if near(self.exactness + 100) {
            "unknown: within the slack of a change"
        } else if near(self.exactness + LATE) {
            "unknown: a change was told late"
        } else if !held {
            "unknown: a device that has vanished"
        } else {
            self.unexplained.push(self.context(asked, opened));
            return;
        };
        self.count(cause);
    }

    fn holds_of(&self, address: IpAddr) -> impl Iterator<Item = &Hold> {
        self.holds.get(&address).into_iter().flatten().copied()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn context(&self, asked: &Asked, opened: &Opened) -> String {
        let near = self
            .holds_of(opened.address)
            .filter(|hold| hold.earliest - 10_000 <= opened.after && opened.before <= hold.latest + 10_000);
        let told: Vec<String> = near
            .map(|hold| {
                let times = [hold.earliest, hold.from, hold.to, hold.latest].map(|at| at - opened.before);
                format!("{} {} {times:?}", hold.name, self.macs[hold.device])
            })
            .collect();
        let sender = opened.sender.map(|session| &self.sessions[session].name);
        format!(
            "{}: {} asked about {opened:?} of {sender:?}; the address was held, relative to before, by {told:#?}",
            asked.path,
            asked.mapping.as_ref().map(Value::to_string).unwrap_or_default()
        )
    }
}

/// RFC 3339 in UTC, as milliseconds since 1970.
pub(crate) fn time(text: &str) -> Millis {
    let stamp: jiff::Timestamp = text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    stamp.as_millisecond()
}
