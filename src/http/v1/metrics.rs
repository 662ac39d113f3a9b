//! `/metrics`, in Prometheus' text format or in OpenMetrics.
//!
//! Each scrape reads all values: from `Stats` and `HttpCounters`, from the table, the kernel and `/proc`.
//! The values of all labels are known here, except the public addresses, of which at most
//! [`MAX_ADDRESSES`] are shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text;
use prometheus_client::registry::{Registry, Unit};

use super::error::Failure;
use super::exposition::{OPENMETRICS, PROMETHEUS, Page, to_prometheus, wants_openmetrics};
use natnames::{Names, Status};

use crate::http::app::App;
use crate::http::counters::{HttpCounters, LookupOutcome, Nobody, Responses};
use crate::http::kind::Kind;
use crate::http::response::{self, Response};
use crate::http::route::RouteLabel;
use crate::proc::{self, Process};
use crate::stats::{Histogram, HistoryStats, Stats};
use crate::tracker::{self, Incomplete, PortsInUse};

/// The maximum number of public addresses on the page: those with the most ports in use.
const MAX_ADDRESSES: usize = 100;

/// Only one scrape at a time walks through the table, however many clients there are.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// All metrics, as they are now.
pub(in crate::http) async fn answer(app: &App, headers: &HeaderMap) -> Result<Response, Failure> {
    let one_at_a_time = ONE_AT_A_TIME.lock().await;
    let ports = app.tracker.ports_in_use().await?;
    let counts = app.tracker.read(|table, _| (table.live(), table.closed())).await?;
    drop(one_at_a_time);
    let (live, closed) = counts.value;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        stats: app.stats.clone(),
        counters: app.counters.clone(),
        places: app.places.in_use(),
        started: app.started.wall as f64 / 1000.0,
        complete: counts.complete,
        incomplete: app.tracker.incomplete_because(),
        live,
        closed,
        ports,
        receive_buffer: app.tracker.receive_buffer(),
        drops: app.tracker.lost_events().ok(),
        entries: proc::conntrack_entries(),
        limit: proc::conntrack_limit(),
        process: Process::read(),
        names: app.names().map(SourcesSeen::new),
    }));
    let mut page = String::with_capacity(32 * 1024);
    // Writing to memory cannot fail.
    let _ = text::encode(&mut page, &registry);
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (content_type, page) = if wants_openmetrics(accept.flat_map(|value| value.split(','))) {
        (OPENMETRICS, page)
    } else {
        (PROMETHEUS, to_prometheus(&page))
    };
    let mut response = response::json_text(hyper::StatusCode::OK, page);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// What one scrape shows.
#[derive(Debug)]
struct Scrape {
    stats: Arc<Stats>,
    counters: Arc<HttpCounters>,
    places: [usize; Kind::ALL.len()],
    /// When the daemon started, in seconds since the Unix epoch.
    started: f64,
    complete: bool,
    incomplete: Vec<Incomplete>,
    live: usize,
    closed: usize,
    ports: Vec<PortsInUse>,
    receive_buffer: usize,
    drops: Option<u32>,
    entries: Option<u64>,
    limit: Option<u64>,
    process: Option<Process>,
    names: Option<SourcesSeen>,
}

/// What tells who the inside hosts are.
#[derive(Debug)]
struct SourcesSeen {
    sources: Vec<Status>,
    facts: usize,
    refused: u64,
}

impl SourcesSeen {
    fn new(names: &Names) -> Self {
        let sources = names.status();
        let book = names.book();
        Self { sources, facts: book.len(), refused: book.refused() }
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        self.write_daemon(&mut page)?;
        self.write_table(&mut page)?;
        self.write_kernel(&mut page)?;
        self.write_requests(&mut page)?;
        if self.stats.history.is_on.load(Ordering::Relaxed) {
            write_history(&self.stats.history, &mut page)?;
        }
        if let Some(names) = &self.names {
            write_names(names, &mut page)?;
        }
        match &self.process {
            Some(process) => write_process(process, &mut page),
            None => Ok(()),
        }
    }
}

impl Scrape {
    fn write_daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        page.info(
            "pynatconnd_build",
            "Versions of the daemon and of the C library that it was built against",
            [
                ("version", env!("CARGO_PKG_VERSION")),
                ("libnetfilter_conntrack_version", tracker::LIBRARY_VERSION),
            ],
        )?;
        page.gauge(
            "process_start_time",
            "When the process started, since the Unix epoch",
            Some(&Unit::Seconds),
            self.started,
        )?;
        page.gauge(
            "pynatconnd_config_last_reload_successful",
            "Whether the last reload of the configuration succeeded",
            None,
            i64::from(!self.stats.reload_failed.load(Ordering::Relaxed)),
        )?;
        page.gauge(
            "pynatconnd_config_last_reload_success_timestamp",
            "When the configuration in force was loaded, since the Unix epoch",
            Some(&Unit::Seconds),
            self.stats.configured_at.load(Ordering::Relaxed) as f64 / 1000.0,
        )?;
        page.gauge(
            "pynatconnd_listening",
            "Whether new connections are accepted; 0 if a reload could bind neither the new nor the old addresses",
            None,
            i64::from(!self.stats.listens_nowhere.load(Ordering::Relaxed)),
        )?;
        page.counter(
            "pynatconnd_bind_failures",
            "Attempts to bind the addresses to listen on that failed",
            None,
            self.stats.bind_failures.get(),
        )
    }

    fn write_table(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        page.gauge(
            "pynatconnd_table_complete",
            "Whether the table is known to equal the kernel's",
            None,
            i64::from(self.complete),
        )?;
        page.gauges(
            "pynatconnd_table_incomplete",
            "Whether the table is incomplete for this reason",
            Incomplete::ALL
                .into_iter()
                .map(|reason| ([("reason", reason.as_str())], u64::from(self.incomplete.contains(&reason)))),
        )?;
        page.gauges(
            "pynatconnd_mappings",
            "Mappings in the table: live ones, and closed ones that can still be looked up",
            [([("state", "live")], self.live as u64), ([("state", "closed")], self.closed as u64)],
        )?;
        page.counters(
            "pynatconnd_mappings_created",
            "Mappings added to the table, by an event, by a dump or by a query to the kernel",
            [
                ([("learnt", "event")], stats.created_by_event.get()),
                ([("learnt", "dump")], stats.created_by_dump.get()),
                ([("learnt", "kernel")], stats.created_by_query.get()),
            ],
        )?;
        page.counter(
            "pynatconnd_mappings_deleted",
            "Closed mappings removed after del_delay",
            None,
            stats.removed_after_del_delay.get(),
        )?;
        page.counter(
            "pynatconnd_mappings_expired",
            "Closed mappings removed because they were older than life_span",
            None,
            stats.removed_after_life_span.get(),
        )?;
        page.counter(
            "pynatconnd_mappings_forgotten",
            "Closed mappings removed before del_delay was over, because of max_closed or max_mappings",
            None,
            stats.forgotten.get(),
        )?;
        page.counter(
            "pynatconnd_mappings_refused",
            "Connections that were not tracked because of max_mappings",
            None,
            stats.refused.get(),
        )?;
        page.gauge(
            "pynatconnd_outside_addresses",
            "Public addresses that live TCP and UDP mappings are translated to",
            None,
            self.ports.len() as u64,
        )?;
        page.gauges(
            "pynatconnd_ports_in_use",
            "Ports of a public address that live mappings use, for the addresses with the most ports in use",
            self.ports.iter().take(MAX_ADDRESSES).flat_map(|used| {
                let address = used.address.to_string();
                [
                    ([("address", address.clone()), ("protocol", "tcp".to_owned())], u64::from(used.tcp)),
                    ([("address", address), ("protocol", "udp".to_owned())], u64::from(used.udp)),
                ]
            }),
        )?;
        page.histogram(
            "pynatconnd_table_lock_hold",
            "Duration of each hold of the table's lock",
            &Histogram::sum(stats.lock_holds.all()),
        )?;
        page.gauge(
            "pynatconnd_table_lock_hold_longest",
            "Longest hold of the table's lock",
            Some(&Unit::Seconds),
            stats.longest_lock_hold.get().as_secs_f64(),
        )
    }

    fn write_kernel(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        page.counters(
            "pynatconnd_events",
            "Conntrack events received, by type",
            [
                ([("type", "new")], stats.events_new.get()),
                ([("type", "destroy")], stats.events_destroy.get()),
            ],
        )?;
        page.counter(
            "pynatconnd_overruns",
            "Overruns: times that the receive buffer was full and events were lost",
            None,
            stats.overruns.get(),
        )?;
        if let Some(drops) = self.drops {
            page.counter(
                "pynatconnd_socket_drops",
                "Events lost because the receive buffer was full",
                None,
                u64::from(drops),
            )?;
        }
        page.gauge(
            "pynatconnd_receive_buffer",
            "Size of the receive buffer for events, as the kernel counts it",
            Some(&Unit::Bytes),
            self.receive_buffer as u64,
        )?;
        page.counter(
            "pynatconnd_malformed_messages",
            "Messages from the kernel that could not be parsed",
            None,
            stats.malformed.get(),
        )?;
        page.counters(
            "pynatconnd_resyncs",
            "Dumps of the kernel's table: complete ones, and incomplete ones that were repeated",
            [
                ([("outcome", "whole")], stats.complete_dumps.get()),
                ([("outcome", "disturbed")], stats.incomplete_dumps.get()),
            ],
        )?;
        page.histogram(
            "pynatconnd_resync_duration",
            "Duration of dumps of the kernel's table",
            &stats.resync_time.get(),
        )?;
        page.counter(
            "pynatconnd_sweep_corrections",
            "Mappings closed because they had ended without a DESTROY event",
            None,
            stats.closed_by_dump.get(),
        )?;
        page.counters(
            "pynatconnd_unreported",
            "Connections that began (new) or ended (destroy) without an event although the kernel seemed to \
             report everything",
            [
                ([("kind", "new")], stats.missing_new_events.get()),
                ([("kind", "destroy")], stats.missing_destroy_events.get()),
            ],
        )?;
        page.counter(
            "pynatconnd_kernel_questions",
            "Queries to the kernel about single connections",
            None,
            stats.kernel_queries.get(),
        )?;
        if let Some(entries) = self.entries {
            page.gauge(
                "pynatconnd_conntrack_entries",
                "Entries of the kernel's table in this network namespace",
                None,
                entries,
            )?;
        }
        if let Some(limit) = self.limit {
            page.gauge(
                "pynatconnd_conntrack_entries_limit",
                "Limit on entries of the kernel's table",
                None,
                limit,
            )?;
        }
        Ok(())
    }

    fn write_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let counters = &self.counters;
        let lookups = RouteLabel::lookups().flat_map(|route| {
            LookupOutcome::ALL.into_iter().map(move |outcome| {
                let labels = [("route", route.as_str()), ("result", outcome.as_str())];
                (labels, counters.sum(|counters| counters.lookups.get(route, outcome)))
            })
        });
        page.counters("pynatconnd_lookups", "Lookups, by route and result", lookups)?;
        page.counters(
            "pynatconnd_auth_not_found",
            "Lookups of /v1/auth that found no inside host, by reason",
            Nobody::ALL.into_iter().map(|reason| {
                ([("reason", reason.as_str())], counters.sum(|counters| counters.nobody.get(reason)))
            }),
        )?;
        page.counter(
            "pynatconnd_http_refused",
            "Requests from clients outside ip_acl",
            None,
            counters.sum(|counters| counters.refused.get()),
        )?;
        let by_kind =
            |count: &dyn Fn(Kind) -> u64| Kind::ALL.map(|kind| ([("kind", kind.as_str())], count(kind)));
        page.gauges(
            "pynatconnd_http_places",
            "Connections and lasting requests that are served, by kind",
            by_kind(&|kind| self.places[kind as usize] as u64),
        )?;
        page.counters(
            "pynatconnd_http_places_refused",
            "Connections and requests that got no place because too many were served, by kind",
            by_kind(&|kind| counters.sum(|counters| counters.refused_places[kind as usize].get())),
        )?;
        page.counter(
            "pynatconnd_http_evicted",
            "Idle connections that were closed for new ones",
            None,
            counters.sum(|counters| counters.evicted.get()),
        )?;
        let known = |(status, count): (u16, u64)| match status {
            0 if count == 0 => None,
            0 => Some(([("status", "other".to_owned())], count)),
            _ => Some(([("status", status.to_string())], count)),
        };
        let responses = Responses::STATUSES.into_iter().enumerate();
        let responses =
            responses.map(|(at, status)| (status, counters.sum(|counters| counters.responses.get(at))));
        let responses = responses.filter_map(known);
        debug_assert_eq!(Responses::STATUSES[0], 0);
        page.counters("pynatconnd_http_responses", "Responses, by HTTP status", responses)?;
        page.histograms(
            "pynatconnd_http_request_duration",
            "Time to make a response, or to begin a stream, by route",
            RouteLabel::ALL
                .into_iter()
                .map(|route| ([("route", route.as_str())], counters.response_times(route))),
        )
    }
}

/// What the recorder of the history does.
fn write_history(history: &HistoryStats, page: &mut Page<'_>) -> fmt::Result {
    page.counter(
        "pynatconnd_history_entries",
        "Entries appended to the history: begins and ends of mappings, gaps",
        None,
        history.entries.get(),
    )?;
    page.counter(
        "pynatconnd_history_written",
        "Bytes written to the history's files",
        Some(&Unit::Bytes),
        history.bytes.get(),
    )?;
    page.counter(
        "pynatconnd_history_dropped_entries",
        "Entries that the history lacks, because they came too fast or could not be written",
        None,
        history.dropped.get(),
    )?;
    page.counter(
        "pynatconnd_history_write_errors",
        "Attempts to write to the history that failed",
        None,
        history.write_errors.get(),
    )?;
    page.histogram(
        "pynatconnd_history_sync_duration",
        "Duration of each sync of a file of the history",
        &history.syncs.get(),
    )?;
    page.gauge(
        "pynatconnd_history_segments",
        "Segments of the history",
        None,
        history.segments.load(Ordering::Relaxed),
    )?;
    page.gauge(
        "pynatconnd_history_size",
        "Size of the history's files",
        Some(&Unit::Bytes),
        history.bytes_on_disk.load(Ordering::Relaxed),
    )?;
    page.gauge(
        "pynatconnd_history_open_gaps",
        "Gaps of the history that have not ended: what happens now may be missing",
        None,
        history.open_gaps.load(Ordering::Relaxed),
    )
}

/// The sources of names.
fn write_names(names: &SourcesSeen, page: &mut Page<'_>) -> fmt::Result {
    let each = |value: fn(&Status) -> u64| {
        names.sources.iter().map(move |status| {
            ([("source", status.name.to_owned()), ("place", status.place.clone())], value(status))
        })
    };
    page.gauges(
        "pynatconnd_names_followed",
        "Whether a source of names is followed, by source and place",
        each(|status| u64::from(status.is_followed)),
    )?;
    page.counters(
        "pynatconnd_names_failures",
        "How often following a source of names has failed, by source and place",
        each(|status| status.failures),
    )?;
    page.counters(
        "pynatconnd_names_reports",
        "What sources of names have reported, by source and place",
        each(|status| status.reports),
    )?;
    page.gauge(
        "pynatconnd_names_facts",
        "Names in memory, with their times",
        None,
        u64::try_from(names.facts).unwrap_or(u64::MAX),
    )?;
    page.counter(
        "pynatconnd_names_refused",
        "Names that were not kept, because max_facts was reached by those that hold now",
        None,
        names.refused,
    )
}

/// The metrics that Prometheus' client libraries have for every process.
fn write_process(process: &Process, page: &mut Page<'_>) -> fmt::Result {
    page.counter("process_cpu", "User and system CPU time", Some(&Unit::Seconds), process.cpu.as_secs_f64())?;
    page.gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), process.resident)?;
    page.gauge("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), process.virtual_memory)?;
    page.gauge("process_open_fds", "Open file descriptors", None, process.open_files)?;
    page.gauge("process_max_fds", "Limit on open file descriptors", None, process.max_open_files)
}
