//! `/nagios`: the Python program's counters.

use std::collections::BTreeMap;

use serde::Serialize;

use super::broken;
use crate::http::App;
use crate::http::response::{self, Response};
use crate::stats::{Outcome, Route};

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

/// Its queue is the kernel's here, and empty:
/// it is drained before the answer is made. A part that dies ends the whole
/// process, so whoever reads this reads that all are alive.
pub(super) async fn answer(app: &App) -> Response {
    let size = match app.tracker.read(|table, _| table.live() + table.closed()).await {
        Ok(answer) => answer.value,
        Err(error) => return broken(&error),
    };
    let stats = &app.stats;
    let alive_time = app.clock.now().since(app.started).as_secs_f64();
    let parts = ["GarbageCollector", "HTTPServer", "NetFilter", "QueueWorker"];
    response::json(&Nagios {
        expired_data: stats.expired.get(),
        http_stat: HttpStat {
            // What is refused under /v1 is no request here either.
            bad_requests: [Route::Legacy, Route::Auth]
                .map(|route| stats.lookups.get(route, Outcome::Bad))
                .iter()
                .sum(),
            no_of_requests: stats.requests.get(),
            successful_replies: stats.lookups.sum(Outcome::Found),
            unauthorized_requests: stats.unauthorized.get(),
            unsuccessful_replies: stats.lookups.sum(Outcome::NotFound)
                + stats.lookups.sum(Outcome::Undecided),
        },
        number_of_created_items: stats.created_by_event.get() + stats.created_by_dump.get(),
        number_of_deleted_items: stats.deleted.get(),
        prgm_start_time: app.started.wall as f64 / 1000.0,
        queue_size: 0,
        shared_data_size: size,
        threads_stat: parts
            .into_iter()
            .map(|part| (part, ThreadStat { alive_time, is_alive: true }))
            .collect(),
    })
}
