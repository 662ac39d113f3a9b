//! The fields of a question about the past.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nathistory::log_time::{self, Reference};
use nathistory::{Millis, Question};
use natnames::Who;

use crate::http::v1::error::Failure;
use crate::http::v1::request::{digits, number, protocol, unknown, who, wrong};

/// The fields of a request.
const FIELDS: [&str; 14] = [
    "nat_ip", "nat_port", "protocol", "dst_ip", "dst_port", "src_ip", "src_port", "host", "mac", "zone",
    "at", "skew", "from", "to",
];
/// Milliseconds before and behind `at`.
const SKEW: Millis = 1000;
const LARGEST_SKEW: Millis = 3_600_000;

/// A question about the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) question: Question,
    /// Whose mappings are meant, if somebody's are.
    pub(super) who: Vec<Who>,
    /// The addresses that he has had, if the question names none.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether it is about a moment, and not about a span.
    pub(super) is_moment: bool,
}

/// The times of a request, as they are given.
#[derive(Default)]
struct Times {
    at: Option<Millis>,
    skew: Option<Millis>,
    from: Option<Millis>,
    to: Option<Millis>,
}

impl Asked {
    /// Whether it says of whom it is only by a name.
    pub(super) fn names_no_address(&self) -> bool {
        let Question { nat_ip, nat_port, src_ip, .. } = self.question;
        nat_ip.is_none() && nat_port.is_none() && src_ip.is_none()
    }

    /// Reads `nat_ip=203.0.113.5&nat_port=40001&at=2026-11-21T09:12:30Z`.
    pub(super) fn from_query(query: Option<&str>, reference: &Reference) -> Result<Self, Failure> {
        let mut question = Question::about(0, 0);
        let (mut times, mut who_is_meant) = (Times::default(), Vec::new());
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let known = FIELDS.iter().find(|field| **field == name);
            let known = *known.ok_or_else(|| unknown(&name, &FIELDS))?;
            if seen.contains(&known) {
                return Err(Failure::bad(format!("{known} is given twice"), "give each field once"));
            }
            seen.push(known);
            match known {
                "nat_ip" => question.nat_ip = Some(address(known, &value)?),
                "dst_ip" => question.dst_ip = Some(address(known, &value)?),
                "src_ip" => question.src_ip = Some(address(known, &value)?),
                "nat_port" => question.nat_port = Some(number(known, &value)?),
                "dst_port" => question.dst_port = Some(number(known, &value)?),
                "src_port" => question.src_port = Some(number(known, &value)?),
                "host" | "mac" => who_is_meant.push(who(known, &value)?),
                "zone" => question.zone = Some(number(known, &value)?),
                "protocol" => question.protocol = Some(protocol(known, &value)?.number()),
                "at" => times.at = Some(time(known, &value, reference)?),
                "from" => times.from = Some(time(known, &value, reference)?),
                "to" => times.to = Some(time(known, &value, reference)?),
                _ => times.skew = Some(skew(known, &value)?),
            }
        }
        let names_a_host = question.src_ip.is_some() || !who_is_meant.is_empty();
        if question.nat_ip.is_none() && question.nat_port.is_none() && !names_a_host {
            return Err(Failure::bad(
                "nat_ip, nat_port, src_ip, host and mac are missing",
                "give at least one of them: the public address or port, or the inside host",
            ));
        }
        let is_moment = times.at.is_some();
        (question.from, question.to) = times.span(reference.now())?;
        Ok(Self { question, who: who_is_meant, addresses: BTreeSet::new(), is_moment })
    }
}

impl Times {
    /// The span that is asked about. Of the future nothing is known, so it ends now at the latest.
    fn span(self, now: Millis) -> Result<(Millis, Millis), Failure> {
        let (name, from, to) = match self {
            Times { at: Some(at), skew, from: None, to: None } => {
                let skew = skew.unwrap_or(SKEW);
                ("at", (at - skew).max(0), at + skew)
            }
            Times { at: Some(_), .. } => {
                return Err(Failure::bad(
                    "at is given together with from or to",
                    "give at for a moment, or from and to for a span",
                ));
            }
            Times { skew: Some(_), .. } => {
                return Err(Failure::bad(
                    "skew is given without at",
                    "leave it out, or give at for a moment",
                ));
            }
            Times { from: Some(from), to, .. } => ("from", from, to.unwrap_or(now)),
            Times { to: Some(_), .. } => {
                return Err(Failure::bad("to is given without from", "give from too, or at for a moment"));
            }
            _ => {
                return Err(Failure::bad(
                    "at and from are missing",
                    "give at for a moment, such as at=2026-11-21T09:12:30Z, or from and to for a span",
                ));
            }
        };
        if from > now {
            return Err(Failure::bad(
                format!("{name} is in the future: {}", utc(from)),
                format!("the clock of this gateway shows {}", utc(now)),
            ));
        }
        if to < from {
            return Err(Failure::bad(
                format!("to is before from: from {} to {}", utc(from), utc(to)),
                "give the earlier time as from",
            ));
        }
        Ok((from, to.min(now)))
    }
}

fn utc(at: Millis) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MAX))
}

fn time(name: &str, value: &str, reference: &Reference) -> Result<Millis, Failure> {
    log_time::parse(value, reference).map_err(|error| Failure::bad(format!("{name}: {error}"), error.hint()))
}

/// An address. An IPv4-mapped IPv6 address counts as IPv4.
fn address(name: &str, value: &str) -> Result<IpAddr, Failure> {
    let address = value.parse::<IpAddr>().map_err(|_| wrong(name, value, "an IP address"))?;
    Ok(address.to_canonical())
}

/// Seconds, whole ones or with a fraction.
fn skew(name: &str, value: &str) -> Result<Millis, Failure> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let read = || {
        let whole = digits(whole).filter(|_| !whole.is_empty())?;
        let fraction =
            (1..=3).contains(&fraction.len()).then(|| digits(&format!("{fraction:0<3}"))).flatten()?;
        let milliseconds = i64::try_from(whole.checked_mul(1000)?.checked_add(fraction)?).ok()?;
        (milliseconds <= LARGEST_SKEW).then_some(milliseconds)
    };
    read().ok_or_else(|| wrong(name, value, "seconds, 0 to 3600, such as 1 or 0.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T09:12:30.385Z.
    const NOW: Millis = 1_795_252_350_385;

    fn read(query: &str) -> Result<Asked, Failure> {
        Asked::from_query(Some(query), &Reference::local(NOW))
    }

    fn span(query: &str) -> (Millis, Millis) {
        let Question { from, to, .. } = read(query).unwrap().question;
        (from - NOW, to - NOW)
    }

    #[test]
    fn a_question_has_fields_and_a_time() {
        let query = "nat_ip=203.0.113.5&nat_port=40001&protocol=TCP&dst_ip=%3A%3Affff%3A198.51.100.1&dst_port=443\
            &src_ip=fd00::1&src_port=7&zone=3&at=2026-11-21T10%3A12%3A00.385%2B01:00&skew=2.5";
        let Asked { question, is_moment, .. } = read(query).unwrap();
        let expected = Question {
            nat_ip: Some([203, 0, 113, 5].into()),
            nat_port: Some(40001),
            protocol: Some(6),
            dst_ip: Some([198, 51, 100, 1].into()),
            dst_port: Some(443),
            src_ip: Some("fd00::1".parse().unwrap()),
            src_port: Some(7),
            zone: Some(3),
            from: NOW - 32_500,
            to: NOW - 27_500,
        };
        assert_eq!((question, is_moment), (expected, true));
        // Neither is encoded, so the plus arrives as a space.
        assert_eq!(span("nat_port=1&at=2026-11-21T10:12:00.385+01:00"), (-31_000, -29_000));
        assert_eq!(span("nat_port=1&at=[21/Nov/2026:10:12:00 +0100]"), (-31_385, -29_385));
    }

    #[test]
    fn a_time_is_a_moment_with_some_skew_or_a_span_until_now_at_the_latest() {
        assert_eq!(span("nat_port=1&at=-1m"), (-61_000, -59_000));
        assert_eq!(span("nat_port=1&at=-1m&skew=0"), (-60_000, -60_000));
        assert_eq!(span("nat_port=1&at=-1m&skew=0.05"), (-60_050, -59_950));
        assert_eq!(span("nat_port=1&at=now"), (-1000, 0));
        assert_eq!(span("src_ip=10.0.0.1&from=-1m"), (-60_000, 0));
        assert_eq!(span("src_ip=10.0.0.1&from=-1m&to=-1m"), (-60_000, -60_000));
        assert_eq!(span("src_ip=10.0.0.1&from=-1m&to=2099-01-01T00:00:00Z"), (-60_000, 0));
        // The clock of the log is slightly ahead.
        assert_eq!(span("nat_port=1&at=2026-11-21T09:12:31Z"), (-385, 0));
        assert_eq!(read("nat_port=1&at=0&skew=3600").unwrap().question.from, 0);
        assert!(!read("src_ip=10.0.0.1&from=-1m").unwrap().is_moment);
    }

    #[test]
    fn other_questions_are_refused_with_what_is_expected() {
        for (query, error, hint) in [
            (
                "at=now",
                "nat_ip, nat_port, src_ip, host and mac are missing",
                "give at least one of them: the public",
            ),
            ("dst_ip=10.0.0.1&at=now", "nat_ip, nat_port, src_ip, host and mac are missing", "give at least"),
            (
                "nat_port=1",
                "at and from are missing",
                "give at for a moment, such as at=2026-11-21T09:12:30Z, or",
            ),
            (
                "nat_port=1&at=now&from=-1m",
                "at is given together with from or to",
                "give at for a moment, or",
            ),
            ("nat_port=1&at=now&to=now", "at is given together with from or to", "give at for a moment, or"),
            ("nat_port=1&to=now", "to is given without from", "give from too"),
            ("nat_port=1&from=-1m&skew=1", "skew is given without at", "leave it out"),
            (
                "nat_port=1&from=-1m&to=-2m",
                "to is before from: from 2026-11-21T09:11:30.385Z to 2026-11-21T09:10:30.385Z",
                "give the earlier time as from",
            ),
            (
                "nat_port=1&at=2026-11-21T09:12:32Z",
                "at is in the future: 2026-11-21T09:12:31.000Z",
                "the clock of this gateway shows 2026-11-21T09:12:30.385Z",
            ),
            ("nat_port=1&from=2099-01-01T00:00:00Z", "from is in the future", "the clock"),
            (
                "nat_port=1&at=yesterday",
                "at: found \"yesterday\", which is no time",
                "expected a time to the second",
            ),
            ("nat_port=1&at=now&at=now", "at is given twice", "give each field once"),
            ("nat_port=1&att=now", "unknown field \"att\"", "did you mean at?"),
            (
                "nat_port=1&wait=5&at=now",
                "unknown field \"wait\"",
                "the fields are nat_ip, nat_port, protocol,",
            ),
            ("nat_ip=10.0.0.0/8&at=now", "nat_ip: found \"10.0.0.0/8\"", "expected an IP address"),
            ("nat_port=65536&at=now", "nat_port: found \"65536\"", "expected a whole number from 0 to 65535"),
            ("nat_port=1&protocol=tpc&at=now", "protocol: found \"tpc\"", "expected tcp, udp,"),
        ] {
            let failure = read(query).unwrap_err();
            assert_eq!(failure.status, hyper::StatusCode::BAD_REQUEST, "{query}");
            assert!(failure.error.starts_with(error), "{query}: {}", failure.error);
            assert!(failure.hint.starts_with(hint), "{query}: {}", failure.hint);
        }
        for skew in ["", ".5", "1.", "-1", "+1", "3600.001", "3601", "1.0001", "1e3", "99999999999999999999"]
        {
            let failure = read(&format!("nat_port=1&at=now&skew={}", skew.replace('+', "%2B"))).unwrap_err();
            assert_eq!(failure.hint, "expected seconds, 0 to 3600, such as 1 or 0.5", "{skew}");
        }
    }
}
