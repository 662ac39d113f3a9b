//! A strict parser of both formats of `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// The value of each series of a page, with the series written as on the page.
pub(super) type Samples = BTreeMap<String, f64>;

/// The format of a page.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Splits a series into its name and labels.
pub(super) fn pieces(series: &str) -> (&str, Vec<(&str, &str)>) {
    let Some((name, rest)) = series.split_once('{') else { return (series, Vec::new()) };
    let labels = rest.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {series}"));
    let labels = labels.split(',').map(|pair| {
        let (name, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("no label: {series}"));
        let value = value.strip_suffix('"').unwrap_or_else(|| panic!("no label: {series}"));
        assert!(is_name(name) && !value.contains(['"', '\\', '\n']), "{series}");
        (name, value)
    });
    (name, labels.collect())
}

/// Parses a page and panics at anything invalid.
pub(super) fn read(page: &str, format: Format) -> Samples {
    let body = match format {
        Format::OpenMetrics => page.strip_suffix("# EOF\n").expect("OpenMetrics has an end"),
        Format::Prometheus => page,
    };
    assert!(body.ends_with('\n') && !body.contains("# EOF") && !body.contains("\n\n"), "{body}");
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let (mut family, mut kind, mut described) = (String::new(), String::new(), Vec::new());
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name, text) =
                (words.next().unwrap(), words.next().unwrap().to_owned(), words.next().unwrap());
            assert!(is_name(&name), "{line}");
            match word {
                "HELP" => {
                    assert!(families.insert(name.clone()), "{name} occurs twice");
                    assert!(text.ends_with('.') && text.len() > 5 && !text.contains(['"', '\\']), "{line}");
                    (family, described) = (name, vec!["HELP"]);
                    continue;
                }
                "TYPE" => {
                    assert_eq!(described, ["HELP"], "{line}");
                    kind = text.to_owned();
                    let known = ["counter", "gauge", "histogram"];
                    let info = format == Format::OpenMetrics && kind == "info";
                    assert!(known.contains(&text) || info, "{line}");
                    let total = name.ends_with("_total");
                    assert_eq!(total, format == Format::Prometheus && kind == "counter", "{line}");
                }
                "UNIT" => {
                    assert!(format == Format::OpenMetrics, "{line}");
                    assert!(family.ends_with(&format!("_{text}")), "{line}");
                }
                _ => panic!("what is {line:?}?"),
            }
            assert_eq!(name, family, "{line}");
            described.push(if word == "TYPE" { "TYPE" } else { "UNIT" });
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = pieces(series);
        assert!(described.contains(&"TYPE") && is_name(name), "{line}");
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in {family}"));
        let allowed: &[&str] = match (kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => &["_total"],
            ("info", _) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(allowed.contains(&suffix), "{line} in the {kind} {family}");
        assert_eq!(suffix == "_bucket", labels.iter().any(|(name, _)| *name == "le"), "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && (kind == "gauge" || value >= 0.0), "{line}");
        assert!(samples.insert(series.to_owned(), value).is_none(), "{series} occurs twice");
    }
    check_histograms(&samples);
    samples
}

/// The buckets are cumulative, and the last equals the count.
pub(super) fn check_histograms(samples: &Samples) {
    let mut histograms: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, value) in samples {
        let (name, labels) = pieces(series);
        let Some(name) = name.strip_suffix("_bucket") else { continue };
        let le = labels.iter().find(|(name, _)| *name == "le").expect("a bucket has a bound").1;
        let le = if le == "+Inf" { f64::INFINITY } else { le.parse().expect("a bound is a number") };
        let rest: Vec<_> = labels
            .iter()
            .filter(|(name, _)| *name != "le")
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let rest = if rest.is_empty() { String::new() } else { format!("{{{}}}", rest.join(",")) };
        histograms.entry(format!("{name}_count{rest}")).or_default().push((le, *value));
    }
    assert!(histograms.len() > 2, "{histograms:?}");
    for (count, mut buckets) in histograms {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{count}: {buckets:?}");
        let last = buckets.last().expect("there is at least one");
        assert!(last.0.is_infinite(), "{count}: {buckets:?}");
        assert_eq!(last.1, samples[&count], "{count}");
    }
}
