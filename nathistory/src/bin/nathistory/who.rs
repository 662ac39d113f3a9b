//! `nathistory who`: who was behind a public address and port.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use nathistory::log_time::Reference;
use nathistory::{Millis, Question, Record};

use crate::cli::Who;
use crate::failure::{Failure, reader, time};
use crate::words;

/// The most mappings that are printed.
const MOST: usize = 1000;
const LARGEST_SKEW: f64 = 3600.0;

/// Prints who it was; returns whether somebody is found.
pub(crate) fn run(options: &Who, reference: &Reference, out: &mut dyn Write) -> Result<bool, Failure> {
    let at = time("--at", &options.at, reference)?;
    let skew = skew(&options.skew)?;
    let mut question = question(&options.end)?;
    (question.from, question.to) = ((at - skew).max(0), at + skew);
    let reader = reader(&options.directory)?;
    let mut records = Vec::new();
    let found = reader.find(&question, &mut |record| {
        records.push(record);
        if records.len() > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let is_truncated = records.len() > MOST;
    records.truncate(MOST);
    records.sort_by_key(|record| std::cmp::Reverse((record.closed.is_none(), record.opened.at)));
    let (from, to) = (reference.write(question.from), reference.write(question.to));
    writeln!(out, "{} on {}, from {from} to {to}:\n", options.end, reader.gateway())?;
    for record in &records {
        mapping(out, record, &question, reference)?;
    }
    let hosts: BTreeSet<_> = records.iter().flat_map(|record| hosts(record, &question)).collect();
    match hosts.len() {
        0 => writeln!(out, "Nobody is found.")?,
        1 => {}
        _ => writeln!(out, "These are {} hosts: a smaller --skew may tell which one it was.", hosts.len())?,
    }
    if is_truncated {
        writeln!(out, "There are more than {MOST} mappings; these are some of them.")?;
    }
    words::completeness(out, &found, reference)?;
    Ok(!records.is_empty())
}

/// The hosts behind the public ends that are meant, each with its zone.
fn hosts(record: &Record, question: &Question) -> impl Iterator<Item = (IpAddr, u16)> {
    let ends = record.public_ends().filter(|end| question.fits_public(end.public));
    ends.map(|end| (end.inside.ip, if end.is_source { record.zone } else { record.reply_zone }))
}

fn mapping(
    out: &mut dyn Write,
    record: &Record,
    question: &Question,
    reference: &Reference,
) -> std::io::Result<()> {
    let protocol = words::protocol(record.protocol);
    for end in record.public_ends().filter(|end| question.fits_public(end.public)) {
        let inside = words::end(end.inside);
        let zone = if end.is_source { record.zone } else { record.reply_zone };
        let zone = if zone == 0 { String::new() } else { format!(" in zone {zone}") };
        match (end.is_source, record.dst) {
            (true, Some(dst)) => {
                writeln!(out, "{inside}{zone}, which connected to {} ({protocol})", words::end(dst))?
            }
            (true, None) => writeln!(out, "{inside}{zone} ({protocol}; destinations are not recorded)")?,
            (false, _) => {
                writeln!(out, "{inside}{zone}, to which {} connected ({protocol})", words::end(record.src))?;
            }
        }
    }
    writeln!(out, "    opened {}", words::moment(&record.opened, reference))?;
    match &record.closed {
        Some(closed) => writeln!(out, "    closed {}\n", words::moment(closed, reference)),
        None => writeln!(out, "    was open when the history last knew of it\n"),
    }
}

/// What is asked: an address, a port and a protocol.
fn question(text: &str) -> Result<Question, Failure> {
    let failure = || {
        Failure::option(
            "ADDRESS:PORT/PROTOCOL",
            format!("found \"{text}\""),
            "expected 203.0.113.5:40001, [2001:db8::5]:40001/udp or 203.0.113.5/icmp",
        )
    };
    let (end, protocol) = match text.split_once('/') {
        Some((end, name)) => (end, Some(words::protocol_number(name).ok_or_else(failure)?)),
        None => (text, None),
    };
    let whole = end.parse::<SocketAddr>().map(|end| (end.ip(), Some(end.port())));
    let address = || end.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().map(|ip| (ip, None));
    let (ip, port) = whole.or_else(|_| address()).map_err(|_| failure())?;
    Ok(Question { nat_ip: Some(ip.to_canonical()), nat_port: port, protocol, ..Question::about(0, 0) })
}

/// Seconds.
fn skew(text: &str) -> Result<Millis, Failure> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=LARGEST_SKEW).contains(seconds));
    let seconds = seconds.ok_or_else(|| {
        Failure::option(
            "--skew",
            format!("found \"{text}\""),
            "expected seconds, 0 to 3600, such as 1 or 0.5",
        )
    })?;
    Ok((seconds * 1000.0).round() as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_end_is_an_address_with_or_without_port_and_protocol() {
        let read = |text: &str| {
            question(text)
                .ok()
                .map(|found| (found.nat_ip.unwrap().to_string(), found.nat_port, found.protocol))
        };
        let v4 = || "203.0.113.5".to_owned();
        assert_eq!(read("203.0.113.5:40001"), Some((v4(), Some(40001), None)));
        assert_eq!(read("203.0.113.5:40001/UDP"), Some((v4(), Some(40001), Some(17))));
        assert_eq!(read("203.0.113.5/99"), Some((v4(), None, Some(99))));
        assert_eq!(read("[::ffff:203.0.113.5]:7"), Some((v4(), Some(7), None)));
        for text in ["2001:db8::5", "[2001:db8::5]"] {
            assert_eq!(read(text), Some(("2001:db8::5".to_owned(), None, None)));
        }
        for text in
            ["", ":40001", "203.0.113.5:", "203.0.113.5:65536", "203.0.113.5/", "203.0.113.5:1/tpc", "host:1"]
        {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(skew("0.5").ok(), Some(500));
        for text in ["", "-1", "3601", "NaN", "inf", "x"] {
            assert!(skew(text).is_err(), "{text}");
        }
    }
}
