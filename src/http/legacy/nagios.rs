//! `/nagios`: the Python program's counters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::tracker_failed;
use crate::http::app::App;
use crate::http::counters::LookupOutcome;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;

#[derive(Serialize)]
struct Nagios {
    expired_data: u64,
    http_stat: HttpStat,
    number_of_created_items: u64,
    number_of_deleted_items: u64,
    prgm_start_time: f64,
    queue_size: u64,
    shared_data_size: usize,
    threads_stat: BTreeMap<&'static str, ThreadStat>,
}

#[derive(Serialize)]
struct HttpStat {
    bad_requests: u64,
    no_of_requests: u64,
    successful_replies: u64,
    unauthorized_requests: u64,
    unsuccessful_replies: u64,
}

#[derive(Serialize)]
struct ThreadStat {
    alive_time: f64,
    is_alive: bool,
}

/// The counters of the daemon under the names of the Python program.
///
/// `queue_size` is 0: the only queue is the event socket, and it is drained first. `is_alive` is true: if
/// a thread ends, the process exits.
pub(in crate::http) async fn answer(app: &App) -> Response {
    let size = match app.tracker.read(|table, _| table.live() + table.closed()).await {
        Ok(answer) => answer.value,
        Err(error) => return tracker_failed(&error),
    };
    let (stats, counters) = (&app.stats, &app.counters);
    let lookups = |outcome| counters.sum(|counters| counters.lookups.sum(outcome));
    let alive_time = app.clock.now().since(app.started).as_secs_f64();
    let parts = ["GarbageCollector", "HTTPServer", "NetFilter", "QueueWorker"];
    response::json(&Nagios {
        expired_data: stats.removed_after_life_span.get(),
        http_stat: HttpStat {
            // `no_of_requests` does not count bad requests of /v1/lookup, so this does not either.
            bad_requests: [RouteLabel::Legacy, RouteLabel::Auth]
                .map(|route| counters.sum(|counters| counters.lookups.get(route, LookupOutcome::Bad)))
                .iter()
                .sum(),
            no_of_requests: counters.sum(|counters| counters.requests.get()),
            successful_replies: lookups(LookupOutcome::Found),
            unauthorized_requests: counters.sum(|counters| counters.refused.get()),
            unsuccessful_replies: lookups(LookupOutcome::NotFound) + lookups(LookupOutcome::Undecided),
        },
        number_of_created_items: stats.created_by_event.get() + stats.created_by_dump.get(),
        number_of_deleted_items: stats.removed_after_del_delay.get(),
        prgm_start_time: app.started.wall as f64 / 1000.0,
        queue_size: 0,
        shared_data_size: size,
        threads_stat: parts
            .into_iter()
            .map(|part| (part, ThreadStat { alive_time, is_alive: true }))
            .collect(),
    })
}
