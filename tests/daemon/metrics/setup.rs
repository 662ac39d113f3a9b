//! A daemon whose responses are counted.

use std::collections::{BTreeMap, BTreeSet};

use lab::http::{Client, Response};
use lab::{Daemon, Lab};
use nfct::Query;

use super::page::{Format, Samples, read};
use crate::binary::DAEMON;

pub(super) const CONFIG: &str = "\
[filter]
dst_port = 443

[data]
key_name = nat_port
del_delay = 3600

[http_server]
host = 0.0.0.0
ip_acl = 127.0.0.1
";

/// A daemon in a lab, and an HTTP connection to it.
pub(super) struct Bench {
    pub(super) lab: Lab,
    pub(super) daemon: Daemon,
    pub(super) client: Client,
    pub(super) query: Query,
    /// The responses of this test, counted by route and status.
    pub(super) answers: BTreeMap<(&'static str, u16), u64>,
}

impl Bench {
    pub(super) fn new(lab: Lab, config: &str) -> Self {
        let daemon = DAEMON.start(lab.gateway(), config);
        daemon.wait_for_line("equals the kernel's");
        let client = Client::connect(lab.gateway(), daemon.local_addr());
        let query = lab.gateway().enter(Query::open).expect("ctnetlink is available");
        Self { lab, daemon, client, query, answers: BTreeMap::new() }
    }

    pub(super) fn count(&mut self, route: &'static str, answer: Response) -> Response {
        *self.answers.entry((route, answer.status)).or_default() += 1;
        answer
    }

    pub(super) fn ask(&mut self, route: &'static str, method: &str, path: &str, body: &str) -> Response {
        let answer = self.client.request(method, path, &[], body.as_bytes());
        self.count(route, answer)
    }

    /// The daemon's current metrics.
    pub(super) fn metrics(&mut self) -> Samples {
        let answer = self.ask("metrics", "GET", "/metrics", "");
        assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        read(answer.text(), Format::Prometheus)
    }

    /// Compares the metrics with the expected ones. Other series of the same names must be 0.
    pub(super) fn expect(&mut self, expected: &[(&str, f64)]) -> Samples {
        let samples = self.metrics();
        for (series, value) in expected {
            assert_eq!(samples.get(*series), Some(value), "{series} of {samples:#?}");
        }
        let of = |series: &str| series.split('{').next().unwrap_or_default().to_owned();
        let names: BTreeSet<_> = expected.iter().map(|(series, _)| of(series)).collect();
        for (series, value) in &samples {
            let meant = expected.iter().any(|(expected, _)| expected == series);
            assert!(meant || !names.contains(&of(series)) || *value == 0.0, "{series} is {value}");
        }
        samples
    }
}
