//! `nathistory export`: all mappings of a span.

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::ControlFlow;

use nathistory::log_time::Reference;
use nathistory::{Millis, Moment, Question, Record};
use serde::Serialize;

use crate::cli::{Export, Format};
use crate::failure::{Failure, reader, time};
use crate::words;

/// The columns, in the order of the fields of [`Row`].
const HEADER: &str = "protocol,zone,reply_zone,src_ip,src_port,dst_ip,dst_port,nat_ip,nat_port,server_ip,\
server_port,id,mark,opened,opened_known,opened_after,closed,closed_known,closed_after,packets_original,\
packets_reply,bytes_original,bytes_reply,gateway";

/// A mapping as it is exported.
#[derive(Debug, Serialize)]
struct Row<'a> {
    protocol: String,
    zone: u16,
    reply_zone: u16,
    src_ip: IpAddr,
    src_port: Option<u16>,
    dst_ip: Option<IpAddr>,
    dst_port: Option<u16>,
    nat_ip: IpAddr,
    nat_port: Option<u16>,
    server_ip: Option<IpAddr>,
    server_port: Option<u16>,
    id: Option<u32>,
    mark: Option<u32>,
    opened: String,
    opened_known: &'a str,
    opened_after: Option<String>,
    closed: Option<String>,
    closed_known: Option<&'a str>,
    closed_after: Option<String>,
    packets_original: Option<u64>,
    packets_reply: Option<u64>,
    bytes_original: Option<u64>,
    bytes_reply: Option<u64>,
    gateway: &'a str,
}

/// Prints them; what is not known is printed as errors.
pub(crate) fn run(options: &Export, reference: &Reference, out: &mut dyn Write) -> Result<bool, Failure> {
    let optional =
        |name, value: &Option<String>| value.as_deref().map(|value| time(name, value, reference)).transpose();
    let (from, to) = (optional("--from", &options.from)?, optional("--to", &options.to)?);
    let reader = reader(&options.directory)?;
    let begin = || reader.span().map_or(0, |(begin, _)| begin);
    let (from, to) = (from.unwrap_or_else(begin), to.unwrap_or_else(|| reference.now()));
    if to < from {
        return Err(Failure::option("--to", "it is before --from", "give the earlier time as --from"));
    }
    if options.format == Format::Csv {
        writeln!(out, "{HEADER}")?;
    }
    let gateway = reader.gateway();
    let quoted = quoted(gateway);
    let mut written = Ok(());
    let found = reader.find(&Question::about(from, to), &mut |record| {
        written = match options.format {
            Format::Csv => csv(out, &Row::new(&record, &quoted)),
            Format::Ndjson => ndjson(out, &Row::new(&record, gateway)),
        };
        if written.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    written?;
    if !found.gaps.is_empty() {
        out.flush()?;
        let mut errors = io::stderr().lock();
        // The output is complete, whether or not anybody reads this.
        let _ = writeln!(errors, "nathistory: not everything is known:");
        let _ = words::gaps(&mut errors, &found.gaps, reference);
    }
    Ok(true)
}

impl<'a> Row<'a> {
    fn new(record: &Record, gateway: &'a str) -> Self {
        let after = |moment: &Moment| moment.since.map(utc);
        let counted = record.counters;
        Self {
            protocol: words::protocol(record.protocol),
            zone: record.zone,
            reply_zone: record.reply_zone,
            src_ip: record.src.ip,
            src_port: record.src.port,
            dst_ip: record.dst.map(|dst| dst.ip),
            dst_port: record.dst.and_then(|dst| dst.port),
            nat_ip: record.nat.ip,
            nat_port: record.nat.port,
            server_ip: record.server.map(|server| server.ip),
            server_port: record.server.and_then(|server| server.port),
            id: record.id,
            mark: record.mark,
            opened: utc(record.opened.at),
            opened_known: record.opened.known.as_str(),
            opened_after: after(&record.opened),
            closed: record.closed.map(|closed| utc(closed.at)),
            closed_known: record.closed.map(|closed| closed.known.as_str()),
            closed_after: record.closed.as_ref().and_then(after),
            packets_original: counted.map(|counted| counted.packets[0]),
            packets_reply: counted.map(|counted| counted.packets[1]),
            bytes_original: counted.map(|counted| counted.bytes[0]),
            bytes_reply: counted.map(|counted| counted.bytes[1]),
            gateway,
        }
    }
}

fn utc(at: Millis) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(at).unwrap_or_default())
}

fn ndjson(out: &mut dyn Write, row: &Row<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    writeln!(out)
}

/// Writes a line. Only the gateway's name can have characters that are special.
fn csv(out: &mut dyn Write, row: &Row<'_>) -> io::Result<()> {
    let Row { protocol, zone, reply_zone, src_ip, nat_ip, opened, opened_known, .. } = row;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let [src_port, dst_port, nat_port, server_port] =
        [row.src_port, row.dst_port, row.nat_port, row.server_port].map(number);
    let [dst_ip, server_ip] = [row.dst_ip, row.server_ip].map(number);
    let [packets, packets_reply, bytes, bytes_reply] =
        [row.packets_original, row.packets_reply, row.bytes_original, row.bytes_reply].map(number);
    let [id, mark] = [row.id, row.mark].map(number);
    let [opened_after, closed, closed_after] =
        [text(&row.opened_after), text(&row.closed), text(&row.closed_after)];
    let closed_known = row.closed_known.unwrap_or_default();
    write!(
        out,
        "{protocol},{zone},{reply_zone},{src_ip},{src_port},{dst_ip},{dst_port},{nat_ip},{nat_port},"
    )?;
    write!(out, "{server_ip},{server_port},{id},{mark},{opened},{opened_known},{opened_after},{closed},")?;
    write!(out, "{closed_known},{closed_after},{packets},{packets_reply},{bytes},{bytes_reply},")?;
    writeln!(out, "{}", row.gateway)
}

fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Text as CSV has it.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use nathistory::{Counters, End};

    use super::*;

    #[test]
    fn both_formats_have_the_same_columns() {
        let end = |ip: [u8; 4], port| End { ip: ip.into(), port: Some(port) };
        let record = Record {
            protocol: 6,
            zone: 0,
            reply_zone: 1,
            src: end([192, 168, 7, 2], 40000),
            dst: None,
            nat: end([203, 0, 113, 9], 51000),
            server: None,
            id: Some(7),
            mark: None,
            opened: Moment::range(0, 1_000),
            closed: None,
            counters: Some(Counters { packets: [1, 2], bytes: [3, 4] }),
        };
        let mut line = Vec::new();
        csv(&mut line, &Row::new(&record, &quoted("a,\"b\""))).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "tcp,0,1,192.168.7.2,40000,,,203.0.113.9,51000,,,7,,1970-01-01T00:00:01.000Z,range,\
             1970-01-01T00:00:00.000Z,,,,1,2,3,4,\"a,\"\"b\"\"\"\n"
        );
        let mut line = Vec::new();
        ndjson(&mut line, &Row::new(&record, "gw")).unwrap();
        let line = String::from_utf8(line).unwrap();
        // In order: each name follows the one before.
        let mut rest = &*line;
        for column in HEADER.split(',') {
            let name = format!("\"{column}\":");
            rest = &rest[rest.find(&name).unwrap_or_else(|| panic!("{column} in {line}")) + name.len()..];
        }
        assert!(rest.ends_with("\"gw\"}\n"), "{line}");
    }
}
