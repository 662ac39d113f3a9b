//! `/metrics`: what Prometheus reads, in its own text format or in OpenMetrics.
//!
//! All is read when it is asked for. What each request and each event counts is
//! in `Stats`; the rest is asked of the table, of the kernel, and of `/proc`.
//! No label has more values than are known here, but for the outside addresses,
//! of which at most [`MOST_ADDRESSES`] are shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::{Failure, Response};
use crate::http::{App, response};
use crate::proc::{self, Process};
use crate::stats::{Outcome, Responses, Route, Stats, Times};
use crate::tracker::PortsInUse;

/// Outside addresses that are shown: those with the most ports in use.
const MOST_ADDRESSES: usize = 100;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// However many ask, one walk through the table at a time is enough.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(super) async fn answer(app: &App, headers: &HeaderMap) -> Result<Response, Failure> {
    let one_at_a_time = ONE_AT_A_TIME.lock().await;
    let ports = app.tracker.ports_in_use().await?;
    let counts = app.tracker.read(|table, _| (table.live(), table.closed())).await?;
    drop(one_at_a_time);
    let (live, closed) = counts.value;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot {
        stats: app.stats.clone(),
        started: app.started.wall as f64 / 1000.0,
        complete: counts.complete,
        live,
        closed,
        ports,
        receive_buffer: app.tracker.receive_buffer(),
        drops: app.tracker.lost_events().ok(),
        entries: proc::conntrack_entries(),
        limit: proc::conntrack_limit(),
        process: Process::read(),
    }));
    let mut page = String::with_capacity(32 * 1024);
    // Writing to memory can't fail; a page that breaks off would show if it did.
    let _ = text::encode(&mut page, &registry);
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (content_type, page) = match wants_openmetrics(accept.flat_map(|value| value.split(','))) {
        true => (OPENMETRICS, page),
        false => (PROMETHEUS, to_prometheus(&page)),
    };
    let mut answer = response::json_text(hyper::StatusCode::OK, page);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(answer)
}

/// Whether a client that accepts these would have OpenMetrics rather than
/// Prometheus' own format, which it gets if it says nothing.
fn wants_openmetrics<'a>(accepted: impl Iterator<Item = &'a str>) -> bool {
    let (mut openmetrics, mut prometheus) = (0.0, 0.0);
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let mut quality = 1.0_f64;
        let mut version = None;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match (media_type.to_ascii_lowercase().as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => openmetrics = quality.max(openmetrics),
            ("text/plain" | "text/*" | "*/*", None | Some("0.0.4")) => prometheus = quality.max(prometheus),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= prometheus
}

/// Prometheus' text format knows no units, no end and no type `info`, and has
/// a counter's suffix in its description too.
fn to_prometheus(openmetrics: &str) -> String {
    let mut page = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), text) => help = text.unwrap_or_default(),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                page += &format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n");
            }
            (Some("#"), ..) => {}
            _ => {
                page += line;
                page.push('\n');
            }
        }
    }
    page
}

/// Everything that is shown, at one moment.
#[derive(Debug)]
struct Snapshot {
    stats: Arc<Stats>,
    /// When the daemon started, in seconds since the Unix epoch.
    started: f64,
    complete: bool,
    live: usize,
    closed: usize,
    ports: Vec<PortsInUse>,
    receive_buffer: usize,
    drops: Option<u32>,
    entries: Option<u64>,
    limit: Option<u64>,
    process: Option<Process>,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.about_the_daemon(&mut page)?;
        self.about_the_table(&mut page)?;
        self.about_the_kernel(&mut page)?;
        self.about_requests(&mut page)?;
        match &self.process {
            Some(process) => about_the_process(process, &mut page),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    fn about_the_daemon(&self, page: &mut Page<'_>) -> fmt::Result {
        page.info(
            "pynatconnd_build",
            "Versions of the daemon and of the C library that it was built against",
            [
                ("version", env!("CARGO_PKG_VERSION")),
                ("libnetfilter_conntrack_version", nfct::LIBRARY_VERSION),
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
            "When the configuration in force was put into force, since the Unix epoch",
            Some(&Unit::Seconds),
            self.stats.configured_at.load(Ordering::Relaxed) as f64 / 1000.0,
        )
    }

    fn about_the_table(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        page.gauge(
            "pynatconnd_table_complete",
            "Whether the table is known to equal the kernel's",
            None,
            i64::from(self.complete),
        )?;
        page.gauges(
            "pynatconnd_mappings",
            "Mappings in the table: live ones, and closed ones that are still answered",
            [([("state", "live")], self.live as u64), ([("state", "closed")], self.closed as u64)],
        )?;
        page.counters(
            "pynatconnd_mappings_created",
            "Mappings that were put into the table, by what told of them",
            [
                ([("learnt", "event")], stats.created_by_event.get()),
                ([("learnt", "dump")], stats.created_by_dump.get()),
            ],
        )?;
        page.counter(
            "pynatconnd_mappings_deleted",
            "Closed mappings that were removed when their time was over",
            None,
            stats.deleted.get(),
        )?;
        page.counter(
            "pynatconnd_mappings_expired",
            "Closed mappings that a cleaning dropped for their age",
            None,
            stats.expired.get(),
        )?;
        page.gauge(
            "pynatconnd_outside_addresses",
            "Outside addresses that live TCP and UDP mappings are translated to",
            None,
            self.ports.len() as u64,
        )?;
        page.gauges(
            "pynatconnd_ports_in_use",
            "Ports of an outside address that live mappings use, for the addresses with the most of them",
            self.ports.iter().take(MOST_ADDRESSES).flat_map(|used| {
                let address = used.address.to_string();
                [
                    ([("address", address.clone()), ("protocol", "tcp".to_owned())], u64::from(used.tcp)),
                    ([("address", address), ("protocol", "udp".to_owned())], u64::from(used.udp)),
                ]
            }),
        )?;
        page.histogram(
            "pynatconnd_table_lock_hold",
            "How long the lock of the table was held at once",
            &stats.lock_time.get(),
        )?;
        page.gauge(
            "pynatconnd_table_lock_hold_longest",
            "The longest that the lock of the table was held at once",
            Some(&Unit::Seconds),
            stats.lock_held.get().as_secs_f64(),
        )
    }

    fn about_the_kernel(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        page.counters(
            "pynatconnd_events",
            "Events of the kernel that were read, by type",
            [
                ([("type", "new")], stats.events_new.get()),
                ([("type", "destroy")], stats.events_destroy.get()),
            ],
        )?;
        page.counter(
            "pynatconnd_overruns",
            "Times that events were lost because they were not read fast enough",
            None,
            stats.overruns.get(),
        )?;
        if let Some(drops) = self.drops {
            page.counter(
                "pynatconnd_socket_drops",
                "Events that the kernel dropped because the receive buffer was full",
                None,
                u64::from(drops),
            )?;
        }
        page.gauge(
            "pynatconnd_receive_buffer",
            "Room for events that are not read yet, as the kernel counts it",
            Some(&Unit::Bytes),
            self.receive_buffer as u64,
        )?;
        page.counter(
            "pynatconnd_malformed_messages",
            "Messages of the kernel that could not be read",
            None,
            stats.malformed.get(),
        )?;
        page.counters(
            "pynatconnd_resyncs",
            "Times that the table of the kernel was read whole, and times that something disturbed it",
            [
                ([("outcome", "whole")], stats.dumps.get()),
                ([("outcome", "disturbed")], stats.disturbed_dumps.get()),
            ],
        )?;
        page.histogram(
            "pynatconnd_resync_duration",
            "How long it took to read the table of the kernel",
            &stats.resync_time.get(),
        )?;
        page.counter(
            "pynatconnd_sweep_corrections",
            "Mappings that were closed because the table of the kernel no longer had them",
            None,
            stats.swept.get(),
        )?;
        page.counter(
            "pynatconnd_kernel_questions",
            "Single connections that the kernel was asked for",
            None,
            stats.kernel_questions.get(),
        )?;
        if let Some(entries) = self.entries {
            page.gauge(
                "pynatconnd_conntrack_entries",
                "Connections that the kernel tracks in this network namespace",
                None,
                entries,
            )?;
        }
        if let Some(limit) = self.limit {
            page.gauge(
                "pynatconnd_conntrack_entries_limit",
                "Connections that the kernel tracks at most",
                None,
                limit,
            )?;
        }
        Ok(())
    }

    fn about_requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let stats = &self.stats;
        let lookups = Route::LOOKUPS.into_iter().flat_map(|route| {
            Outcome::ALL.into_iter().map(move |outcome| {
                ([("route", route.as_str()), ("result", outcome.as_str())], stats.lookups.get(route, outcome))
            })
        });
        page.counters("pynatconnd_lookups", "Look-ups by route, and what came of them", lookups)?;
        page.counter(
            "pynatconnd_http_refused",
            "Requests from clients outside ip_acl",
            None,
            stats.unauthorized.get(),
        )?;
        let known = |(status, count): (u16, u64)| match status {
            0 if count == 0 => None,
            0 => Some(([("status", "other".to_owned())], count)),
            _ => Some(([("status", status.to_string())], count)),
        };
        let responses = stats.responses.get().filter_map(known);
        debug_assert_eq!(Responses::STATUSES[0], 0);
        page.counters("pynatconnd_http_responses", "Answers to requests, by HTTP status", responses)?;
        page.histograms(
            "pynatconnd_http_request_duration",
            "How long answers took to make, or streams to begin, by route",
            Route::ALL
                .into_iter()
                .map(|route| ([("route", route.as_str())], stats.http_time[route as usize].get())),
        )
    }
}

/// What Prometheus' own libraries say of every process.
fn about_the_process(process: &Process, page: &mut Page<'_>) -> fmt::Result {
    page.counter("process_cpu", "User and system CPU time", Some(&Unit::Seconds), process.cpu.as_secs_f64())?;
    page.gauge("process_resident_memory", "Resident memory", Some(&Unit::Bytes), process.resident)?;
    page.gauge("process_virtual_memory", "Virtual memory", Some(&Unit::Bytes), process.virtual_memory)?;
    page.gauge("process_open_fds", "Open file descriptors", None, process.open_files)?;
    page.gauge("process_max_fds", "File descriptors that may be open", None, process.max_open_files)
}

/// Labels of a sample, with names and values.
type Labels<const N: usize, V> = [(&'static str, V); N];

/// The page that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn info<const N: usize>(&mut self, name: &str, help: &str, labels: Labels<N, &str>) -> fmt::Result {
        self.0.encode_descriptor(name, &sentence(help), None, MetricType::Info)?.encode_info(&labels)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, &sentence(help), unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N, V>, u64)>,
    ) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self.0.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self.0.encode_descriptor(name, &help, unit, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N, V>, u64)>,
    ) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self.0.encode_descriptor(name, &help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, times: &Times) -> fmt::Result {
        let help = sentence(help);
        let mut metric =
            self.0.encode_descriptor(name, &help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.buckets, None)
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<N, &'static str>, Times)>,
    ) -> fmt::Result {
        let help = sentence(help);
        let mut metric =
            self.0.encode_descriptor(name, &help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, times) in samples {
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.buckets, None)?;
        }
        Ok(())
    }
}

fn sentence(text: &str) -> String {
    format!("{text}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_format_that_they_would_have() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("text/html", false),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=1.0.0; q=0.5, text/plain; q=0.4", true),
            ("application/openmetrics-text;version=\"1.0.0\";q=0.4,text/plain;version=0.0.4;q=0.5", false),
            // Prometheus 2.42 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2",
                true,
            ),
            ("application/openmetrics-text;version=0.0.1,*/*;q=0.1", false),
            ("application/openmetrics-text;q=0,*/*", false),
            ("application/openmetrics-text;q=x", false),
        ] {
            assert_eq!(wants_openmetrics(accept.split(',')), expected, "{accept}");
        }
    }

    #[test]
    fn the_older_format_differs_in_what_describes() {
        let openmetrics = "# HELP a_seconds Text with words.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total 1.5\n# HELP b .\n# TYPE b info\nb_info{c=\"# d e\"} 1\n# HELP e F.\n# TYPE e gauge\n\
            e 2\n# EOF\n";
        let prometheus = "# HELP a_seconds_total Text with words.\n# TYPE a_seconds_total counter\n\
            a_seconds_total 1.5\n# HELP b_info .\n# TYPE b_info gauge\nb_info{c=\"# d e\"} 1\n# HELP e F.\n\
            # TYPE e gauge\ne 2\n";
        assert_eq!(to_prometheus(openmetrics), prometheus);
    }
}
