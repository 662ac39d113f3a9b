//! The two text formats of `/metrics`: chooses the format for a client, and writes metrics.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::stats::Times;

/// The media type of OpenMetrics.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of Prometheus' text format.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a client that accepts these media types prefers OpenMetrics to Prometheus' own format, which
/// is the default.
pub(super) fn wants_openmetrics<'a>(accepted: impl Iterator<Item = &'a str>) -> bool {
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

/// Converts a page to Prometheus' text format. This has no units, no end marker and no type `info`, and
/// the description of a counter has its suffix too.
pub(super) fn to_prometheus(openmetrics: &str) -> String {
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

/// The labels of a sample: names and values.
pub(super) type SampleLabels<const N: usize, V> = [(&'static str, V); N];

/// A page, while it is written.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: SampleLabels<N, &str>,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, &sentence(help), None, MetricType::Info)?.encode_info(&labels)
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, &sentence(help), unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauges<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (SampleLabels<N, V>, u64)>,
    ) -> fmt::Result {
        self.samples(name, help, MetricType::Gauge, samples, |mut sample, value| sample.encode_gauge(&value))
    }

    pub(super) fn counter(
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

    pub(super) fn counters<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (SampleLabels<N, V>, u64)>,
    ) -> fmt::Result {
        self.samples(name, help, MetricType::Counter, samples, |mut sample, value| {
            sample.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn samples<const N: usize, V: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (SampleLabels<N, V>, u64)>,
        write: impl Fn(MetricEncoder<'_>, u64) -> fmt::Result,
    ) -> fmt::Result {
        let help = sentence(help);
        let mut metric = self.0.encode_descriptor(name, &help, None, kind)?;
        for (labels, value) in samples {
            let labels = labels.each_ref().map(|(name, value)| (*name, value.as_ref()));
            write(metric.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, times: &Times) -> fmt::Result {
        let help = sentence(help);
        let mut metric =
            self.0.encode_descriptor(name, &help, Some(&Unit::Seconds), MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.buckets, None)
    }

    pub(super) fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (SampleLabels<N, &'static str>, Times)>,
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
    fn clients_get_the_format_that_they_prefer() {
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
    fn the_older_format_has_other_descriptions() {
        let openmetrics = "# HELP a_seconds Text with words.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total 1.5\n# HELP b .\n# TYPE b info\nb_info{c=\"# d e\"} 1\n# HELP e F.\n# TYPE e gauge\n\
            e 2\n# EOF\n";
        let prometheus = "# HELP a_seconds_total Text with words.\n# TYPE a_seconds_total counter\n\
            a_seconds_total 1.5\n# HELP b_info .\n# TYPE b_info gauge\nb_info{c=\"# d e\"} 1\n# HELP e F.\n\
            # TYPE e gauge\ne 2\n";
        assert_eq!(to_prometheus(openmetrics), prometheus);
    }
}
