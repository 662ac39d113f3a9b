//! Compares the history's answers with what the generator knows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use lab::http::Client;
use lab::{Daemon, Lab, wait_within};
use serde::Deserialize;

use super::disturbances::Lost;
use super::life::{Life, Random, now};

#[derive(Debug, Deserialize)]
struct Answer {
    matches: Vec<Match>,
    complete: bool,
    gaps: Vec<Gap>,
}

#[derive(Debug, Deserialize)]
struct Match {
    src_ip: IpAddr,
    server_ip: Option<IpAddr>,
    inside: String,
    opened: String,
    opened_after: Option<String>,
    closed: Option<String>,
    closed_known: Option<String>,
    closed_after: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Gap {
    from: String,
    to: Option<String>,
    reason: String,
}

impl Match {
    fn host(&self) -> IpAddr {
        match self.inside.as_str() {
            "src" => self.src_ip,
            _ => self.server_ip.expect("the server is the inside host"),
        }
    }

    /// Whether it opened or closed at some moment of a range that touches this time.
    fn is_uncertain(&self, from: i64, to: i64) -> bool {
        let touches = |begin: &Option<String>, end: Option<&str>| {
            let range = begin.as_deref().zip(end);
            range.is_some_and(|(begin, end)| time(begin) <= to && time(end) >= from)
        };
        touches(&self.opened_after, Some(&self.opened)) || touches(&self.closed_after, self.closed.as_deref())
    }
}

/// A moment that an event tells is at most so late, in milliseconds; otherwise it is a range.
const LATENESS: i64 = 600;

/// The flows of one public address, port and protocol.
type Holders<'a> = HashMap<(IpAddr, u16, &'static str), Vec<&'a Life>>;

pub(crate) struct Judge<'a> {
    client: Client,
    lives: &'a [Life],
    holders: Holders<'a>,
    has_timestamps: bool,
    random: Random,
}

#[derive(Debug, Default)]
struct Counts {
    found: usize,
    in_gaps: usize,
    nobody: usize,
    uncertain: usize,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(lab: &Lab, daemon: &Daemon, lives: &'a [Life], has_timestamps: bool) -> Self {
        let mut holders = Holders::new();
        for life in lives {
            holders.entry((life.public.0, life.public.1, life.protocol)).or_default().push(life);
        }
        let client = Client::connect(lab.gateway(), daemon.local_addr());
        Self { client, lives, holders, has_timestamps, random: Random(88_172_645_463_325_252) }
    }

    /// Asks about random moments of random flows, and about all gaps.
    pub(crate) fn judge(mut self, questions: usize, lost: &Lost) {
        let mut counts = Counts::default();
        for _ in 0..questions {
            let life = &self.lives[self.random.next() as usize % self.lives.len()];
            let end = life.ended.map_or_else(now, |ended| ended.to);
            // Often within its time, sometimes a little before or after it.
            let length = (end - life.begun.from).max(1) as u64;
            let at = life.begun.from - 20 + (self.random.next() % (length + 40)) as i64;
            let at = at.min(now() - 10);
            self.ask(life, at, &mut counts);
        }
        println!("{questions} questions about {} flows: {counts:?}; lost {lost:?}", self.lives.len());
        assert!(counts.found > questions / 10, "{counts:?}");
        self.check_gaps(lost);
    }

    fn ask(&mut self, life: &Life, at: i64, counts: &mut Counts) {
        // The daemon notes when it received an event, which can be later than the flow began or ended.
        let (skew, exact) = if self.has_timestamps { (0, 2) } else { (1_000, LATENESS) };
        let (ip, port) = life.public;
        let path = format!(
            "/v1/history?nat_ip={ip}&nat_port={port}&protocol={}&zone={}&at={}.{:03}&skew={}",
            life.protocol,
            life.zone,
            at / 1000,
            at % 1000,
            skew / 1000
        );
        let response = self.client.get(&path);
        let answer: Answer = serde_json::from_str(response.text())
            .unwrap_or_else(|error| panic!("{path}: {error} in {}", response.text()));
        let all = &self.holders[&(ip, port, life.protocol)];
        let mut all: Vec<&&Life> = all.iter().collect();
        all.sort_by_key(|life| (life.begun.from - at).abs());
        let near = &all[..all.len().min(6)];
        let context =
            || format!("{path}: {}\nof those who held it, nearest to {at}: {near:#?}", response.text());
        for found in &answer.matches {
            // The kernel gives no time for an end that overtook its begin.
            let is_event = found.closed_known.as_deref() == Some("event");
            let exact = if is_event { LATENESS } else { exact };
            let (from, to) = (at - skew - exact, at + skew + exact);
            let held = |life: &&&&Life| life.inside == found.host() && life.may_have_been_there(from, to);
            if all.iter().find(held).is_none() {
                // It is not known when exactly it opened or closed, and the answer says so.
                assert!(found.is_uncertain(from, to), "a wrong host, {}: {}", found.host(), context());
                assert!(!answer.complete && !answer.gaps.is_empty(), "no gap: {}", context());
                counts.uncertain += 1;
            }
        }
        // A NEW event has no timestamp, so a begin is known exactly only once the end is.
        let certain = all.iter().filter(|life| life.was_there(at - LATENESS, at + exact));
        let mut is_held = false;
        for life in certain {
            is_held = true;
            if answer.matches.iter().any(|found| found.host() == life.inside) {
                counts.found += 1;
            } else {
                assert!(
                    !answer.complete && !answer.gaps.is_empty(),
                    "missing {}: {}",
                    life.inside,
                    context()
                );
                counts.in_gaps += 1;
            }
        }
        counts.nobody += usize::from(!is_held);
    }

    /// All gaps together are no longer than what was lost, plus two seconds each.
    fn check_gaps(&mut self, lost: &Lost) {
        let first = self.lives.iter().map(|life| life.begun.from).min().expect("there are flows");
        let path = format!("/v1/history?src_ip=192.0.2.1&from={}&to={}", first / 1000, now() / 1000 + 1);
        let response = self.client.get(&path);
        let answer: Answer = serde_json::from_str(response.text()).expect("it is an answer");
        let mut spans: Vec<(i64, i64)> = answer
            .gaps
            .iter()
            .filter(|gap| gap.reason != "before_history")
            .map(|gap| (time(&gap.from), gap.to.as_deref().map_or_else(now, time)))
            .collect();
        spans.sort_unstable();
        // Those that overlap count once.
        let (mut total, mut until) = (0, i64::MIN);
        for (from, to) in spans {
            total += (to - from.max(until)).max(0);
            until = until.max(to);
        }
        println!("{} gaps, {total} ms; lost {lost:?}", answer.gaps.len());
        assert!(!answer.complete && !answer.gaps.is_empty(), "{}", response.text());
        assert!(total <= lost.total + 2_000 * lost.times, "{total} ms: {:#?}", answer.gaps);
    }
}

/// Milliseconds since the Unix epoch.
fn time(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("a time").as_millisecond()
}

/// Waits until the history has everything that happened.
pub(crate) fn wait_recorded(lab: &Lab, daemon: &Daemon) {
    let path = format!("/v1/history?src_ip=192.0.2.1&from={}", now() / 1000);
    wait_within(Duration::from_secs(30), "the history answers", || {
        let status = lab::http::get(lab.gateway(), daemon.local_addr(), &path).status;
        status == 200 || status == 404
    });
}
