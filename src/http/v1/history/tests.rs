//! Answers from a history that is a list.

use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use http_body_util::BodyExt;
use nathistory::log_time::Reference;
use nathistory::{Completeness, Error, Gap, Millis, Question, Reason, Record};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::asked::Asked;
use super::search::{Begin, Search};
use super::trail::Trail;
use super::written::tests::sample;
use crate::clock::Stamp;
use crate::config::Audit;
use crate::http::kind::Kind;
use crate::http::past::{History, Past};
use crate::http::places::{Limits, Places};
use crate::http::v1::host::Hosts;

const NOW: Millis = 1_795_252_350_385;

/// A history.
#[derive(Default)]
struct List {
    records: Vec<Record>,
    gaps: Vec<Gap>,
    is_damaged: bool,
    /// Whether it has many files in which nothing fits.
    is_endless: bool,
    /// How many records were passed.
    passed: Arc<AtomicUsize>,
}

impl Past for List {
    fn find(
        &self,
        question: &Question,
        is_wanted: &dyn Fn() -> bool,
        on: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Completeness, Error> {
        if self.is_endless {
            while is_wanted() {
                thread::yield_now();
            }
        }
        for record in self.records.iter().filter(|record| question.fits(record)) {
            self.passed.fetch_add(1, Ordering::Relaxed);
            if on(*record).is_break() {
                break;
            }
        }
        if self.is_damaged {
            return Err(Error::Damaged { file: "segment-1".to_owned(), what: "found nothing".to_owned() });
        }
        Ok(Completeness { gaps: self.gaps.clone() })
    }

    fn gateway(&self) -> String {
        "gw1".to_owned()
    }

    fn catch_up(&self) -> Pin<Box<dyn Future<Output = Millis> + Send + '_>> {
        Box::pin(async { NOW })
    }
}

struct Bench {
    history: Arc<History>,
    places: Arc<Places>,
    stop: watch::Sender<bool>,
}

impl Bench {
    fn new(list: List, audit: Option<&Path>) -> Self {
        let audit = audit.map(|path| Audit::File(path.to_owned()));
        Self {
            history: Arc::new(History::new(list, audit.as_ref())),
            places: Arc::new(Places::new(Limits::default(), Arc::default())),
            stop: watch::Sender::new(false),
        }
    }

    async fn begin(&self, query: &str) -> Option<Begin> {
        let client = std::net::IpAddr::from([192, 0, 2, 1]);
        let asked = Asked::from_query(Some(query), &Reference::local(NOW)).unwrap();
        let search = Search {
            known_until: None,
            gap: None,
            history: self.history.clone(),
            hosts: Hosts::default(),
            asked,
            trail: Trail::new(&self.history, client, query, Stamp { monotonic: 0, wall: 0 }),
            stopping: self.stop.subscribe(),
            place: self.places.take(Kind::History, client.into()).unwrap(),
        };
        search.start().unwrap().await.ok()
    }

    /// A short answer, and whether the status is 200.
    async fn whole(&self, query: &str) -> (Value, bool) {
        let Some(Begin::Whole { text, has_matches, complete }) = self.begin(query).await else {
            panic!("{query}")
        };
        let answer: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(answer["complete"], complete);
        (answer, has_matches)
    }

    async fn wait_for_places(&self) {
        while self.places.in_use() != [0; Kind::ALL.len()] {
            tokio::task::yield_now().await;
        }
    }
}

/// A mapping of the last octet, which was open for a second, so many seconds ago.
fn past(host: u8, ago: Millis) -> Record {
    let mut record = sample();
    record.src.ip = [192, 168, 7, host].into();
    record.opened.at = NOW - ago * 1000;
    record.closed.as_mut().unwrap().at = NOW - ago * 1000 + 1000;
    record
}

#[tokio::test]
async fn several_hosts_are_ambiguous_and_one_host_is_not() {
    let mut zoned = past(2, 60);
    zoned.zone = 7;
    let records = vec![past(2, 100), past(2, 98), past(3, 80), past(4, 79), zoned, past(2, 60)];
    let bench = Bench::new(List { records, ..List::default() }, None);
    let asked = |query: &str| format!("nat_ip=203.0.113.9&nat_port=51000&{query}");
    for (query, hosts, ambiguous) in [
        ("at=-100s", &["192.168.7.2"][..], false),
        ("at=-99s", &["192.168.7.2", "192.168.7.2"], false),
        ("at=-79s&skew=0", &["192.168.7.4", "192.168.7.3"], true),
        ("at=-78s&skew=0", &["192.168.7.4"], false),
        ("at=-60s", &["192.168.7.2", "192.168.7.2"], true),
        ("at=-60s&zone=0", &["192.168.7.2"], false),
        ("at=-70s", &[], false),
        ("from=-101s&to=-97s", &["192.168.7.2", "192.168.7.2"], false),
        (
            "from=-101s",
            &["192.168.7.2", "192.168.7.2", "192.168.7.3", "192.168.7.4", "192.168.7.2", "192.168.7.2"],
            true,
        ),
    ] {
        let (answer, has_matches) = bench.whole(&asked(query)).await;
        // The zone fits in either direction.
        if query.ends_with("zone=0") {
            assert_eq!(answer["matches"].as_array().unwrap().len(), 2);
            continue;
        }
        let found: Vec<_> = answer["matches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|found| found["src_ip"].as_str().unwrap())
            .collect();
        assert_eq!(
            (&found[..], &answer["ambiguous"], has_matches),
            (hosts, &json!(ambiguous), !hosts.is_empty()),
            "{query}"
        );
        assert_eq!((&answer["complete"], &answer["gaps"]), (&json!(true), &json!([])), "{query}");
    }
    // What one host did.
    let (answer, _) = bench.whole("src_ip=192.168.7.3&from=-1h").await;
    assert_eq!(answer["matches"].as_array().unwrap().len(), 1);
    assert_eq!(answer["from"], "2026-11-21T08:12:30.385Z");
    assert_eq!(answer["to"], "2026-11-21T09:12:30.385Z");
    bench.wait_for_places().await;
}

#[tokio::test]
async fn gaps_make_an_answer_incomplete() {
    let gap =
        Gap { from: NOW - 1000, to: None, reason: Reason::EventsLost, detail: Some("812 events".to_owned()) };
    let bench = Bench::new(List { gaps: vec![gap.clone(), gap], ..List::default() }, None);
    let (answer, has_matches) = bench.whole("nat_port=1&at=now").await;
    let expected = json!({"from": "2026-11-21T09:12:29.385Z", "to": null, "reason": "events_lost", "detail": "812 events"});
    assert_eq!((&answer["gaps"], has_matches), (&json!([expected, expected]), false));
    assert_eq!(answer["complete"], false);
}

#[tokio::test]
async fn a_moment_has_at_most_a_thousand_matches_the_newest_first() {
    let records: Vec<_> = (0..1500).map(|number| past(2, 2000 - number)).collect();
    let list = List { records, ..List::default() };
    let bench = Bench::new(list, None);
    let Some(Begin::Long(body)) = bench.begin("nat_port=51000&at=-1h&skew=3600").await else { panic!() };
    let answer: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let matches = answer["matches"].as_array().unwrap();
    assert_eq!(
        (matches.len(), &answer["truncated"], &answer["ambiguous"]),
        (1000, &json!(true), &json!(true))
    );
    assert!(matches[0]["opened"].as_str() > matches[999]["opened"].as_str());
    bench.wait_for_places().await;
}

#[tokio::test]
async fn a_long_answer_is_sent_while_it_is_read_and_ends_with_its_client() {
    let records: Vec<_> = (0..5000).map(|number| past(2, 6000 - number)).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit");
    let list = List { records, ..List::default() };
    let passed = list.passed.clone();
    let bench = Bench::new(list, Some(&path));
    let Some(Begin::Long(mut body)) = bench.begin("src_ip=192.168.7.2&from=-1w").await else { panic!() };
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.len() < 40_000, "{}", first.len());
    // It waits for its client.
    thread::sleep(Duration::from_millis(50));
    let so_far = passed.load(Ordering::Relaxed);
    assert!(so_far < 300, "{so_far}");
    let mut text = first.to_vec();
    text.extend(body.collect().await.unwrap().to_bytes());
    let answer: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(answer["matches"].as_array().unwrap().len(), 5000);
    assert_eq!((&answer["ambiguous"], &answer["complete"]), (&json!(false), &json!(true)));
    bench.wait_for_places().await;

    passed.store(0, Ordering::Relaxed);
    let Some(Begin::Long(body)) = bench.begin("src_ip=192.168.7.2&from=-1w").await else { panic!() };
    drop(body);
    bench.wait_for_places().await;
    assert!(passed.load(Ordering::Relaxed) < 300);

    // So does a daemon that stops; the client sees that the rest is missing.
    let Some(Begin::Long(body)) = bench.begin("src_ip=192.168.7.2&from=-1w").await else { panic!() };
    bench.stop.send_replace(true);
    assert!(body.collect().await.is_err());
    bench.wait_for_places().await;

    let lines = std::fs::read_to_string(&path).unwrap();
    let steps: Vec<(Value, Value, Value)> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["question"].clone(), line["step"].clone(), line["complete"].clone()))
        .collect();
    let expected = [
        (1, "begin", json!(null)),
        (1, "end", json!(true)),
        (2, "begin", json!(null)),
        (2, "stop", json!(null)),
        (3, "begin", json!(null)),
        (3, "stop", json!(null)),
    ];
    assert_eq!(steps, expected.map(|(number, step, complete)| (json!(number), json!(step), complete)));
}

#[tokio::test]
async fn a_search_without_matches_ends_with_its_client() {
    let bench = Bench::new(List { is_endless: true, ..List::default() }, None);
    let abandoned = tokio::time::timeout(Duration::from_millis(50), bench.begin("nat_port=1&from=-1w")).await;
    assert!(abandoned.is_err());
    bench.wait_for_places().await;
    let (begun, _) = tokio::join!(bench.begin("nat_port=1&at=-1w"), async {
        bench.stop.send_replace(true);
    });
    assert!(begun.is_none(), "{begun:?}");
    bench.wait_for_places().await;
}

#[tokio::test]
async fn a_question_that_cannot_be_recorded_gets_no_answer() {
    for records in [vec![past(2, 60)], (0..5000).map(|number| past(2, number)).collect()] {
        let bench = Bench::new(List { records, ..List::default() }, Some(Path::new("/dev/full")));
        let begun = bench.begin("src_ip=192.168.7.2&from=-1w").await;
        assert!(matches!(begun, Some(Begin::Unrecorded(_))), "{begun:?}");
        bench.wait_for_places().await;
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_an_error() {
    let bench = Bench::new(List { is_damaged: true, ..List::default() }, None);
    let begun = bench.begin("src_ip=192.168.7.2&from=-1w").await;
    assert!(matches!(begun, Some(Begin::Unreadable(_))), "{begun:?}");
    // Later, the client sees that the rest is missing.
    let records = (0..5000).map(|number| past(2, 6000 - number)).collect();
    let bench = Bench::new(List { is_damaged: true, records, ..List::default() }, None);
    let Some(Begin::Long(body)) = bench.begin("src_ip=192.168.7.2&from=-1w").await else { panic!() };
    assert!(body.collect().await.is_err());
}
