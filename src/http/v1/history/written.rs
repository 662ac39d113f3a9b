//! What is found in the history, as JSON.

use nathistory::{Gap, Known, Millis, Moment, PublicEnd, Question, Record};
use natnames::Span;

use crate::http::json;
use crate::http::v1::host::Hosts;
use crate::http::v1::mapping::{write_nat, write_protocol};
use crate::mapping::Protocol;

/// The public end that a question means: the first one that fits.
pub(super) fn meant_end(record: &Record, question: &Question) -> Option<PublicEnd> {
    record.public_ends().find(|end| question.fits_public(end.public))
}

/// Writes a mapping as a JSON object.
pub(super) fn record(out: &mut Vec<u8>, record: &Record, question: &Question, gateway: &str, hosts: &Hosts) {
    write_protocol(out, Protocol::from(record.protocol), record.src.ip);
    json::end(out, [r#""src_ip":""#, r#"","src_port":"#], record.src.ip, record.src.port);
    match record.dst {
        Some(dst) => json::end(out, [r#","dst_ip":""#, r#"","dst_port":"#], dst.ip, dst.port),
        None => json::text(out, r#","dst_ip":null,"dst_port":null"#),
    }
    json::end(out, [r#","nat_ip":""#, r#"","nat_port":"#], record.nat.ip, record.nat.port);
    match record.server {
        Some(server) => json::end(out, [r#","server_ip":""#, r#"","server_port":"#], server.ip, server.port),
        None => json::text(out, r#","server_ip":null,"server_port":null"#),
    }
    let end = meant_end(record, question);
    let is_source = end.is_none_or(|end| end.is_source);
    json::text(out, if is_source { r#","inside":"src","zone":"# } else { r#","inside":"server","zone":"# });
    json::number(out, record.zone);
    if record.reply_zone != record.zone {
        json::text(out, r#","reply_zone":"#);
        json::number(out, record.reply_zone);
    }
    json::text(out, r#","id":"#);
    match record.id {
        Some(id) => json::number(out, id),
        None => json::text(out, "null"),
    }
    if let Some(mark) = record.mark {
        json::text(out, r#","mark":"#);
        json::number(out, mark);
    }
    if let Some(counters) = &record.counters {
        both(out, r#","packets":{"original":"#, counters.packets);
        both(out, r#","bytes":{"original":"#, counters.bytes);
    }
    write_nat(out, record.is_source_nat(), record.is_destination_nat());
    json::text(out, if record.closed.is_none() { r#""live""# } else { r#""closed""# });
    moment(out, [r#","opened":"#, r#","opened_known":""#, r#"","opened_after":"#], &record.opened);
    match &record.closed {
        Some(closed) => {
            moment(out, [r#","closed":"#, r#","closed_known":""#, r#"","closed_after":"#], closed)
        }
        None => json::text(out, r#","closed":null,"closed_known":null"#),
    }
    json::text(out, r#","gateway":"#);
    json::value(out, &gateway);
    hosts.write(out, end.map_or(record.src, |end| end.inside).ip, opened(record), false);
    json::text(out, "}");
}

/// When a mapping can have opened. A dump tells only that it was no later.
pub(super) fn opened(record: &Record) -> Span {
    let Moment { at, known, since } = record.opened;
    let earliest = match known {
        Known::Kernel | Known::Event => at,
        Known::Dump => Millis::MIN,
        Known::Range => since.unwrap_or(Millis::MIN),
    };
    Span { earliest, latest: at }
}

/// A value of each direction.
fn both(out: &mut Vec<u8>, begin: &str, [original, reply]: [u64; 2]) {
    json::text(out, begin);
    json::number(out, original);
    json::text(out, r#","reply":"#);
    json::number(out, reply);
    json::text(out, "}");
}

/// A moment, how it is known, and the other end if it is a range: `names` are what precedes these.
fn moment(out: &mut Vec<u8>, names: [&str; 3], moment: &Moment) {
    json::text(out, names[0]);
    time(out, moment.at);
    json::text(out, names[1]);
    json::text(out, moment.known.as_str());
    match moment.since.filter(|_| moment.known == Known::Range) {
        Some(since) => {
            json::text(out, names[2]);
            time(out, since);
        }
        None => json::text(out, r#"""#),
    }
}

/// Writes a gap as a JSON object.
pub(super) fn gap(out: &mut Vec<u8>, gap: &Gap) {
    json::text(out, r#"{"from":"#);
    time(out, gap.from);
    json::text(out, r#","to":"#);
    match gap.to {
        Some(to) => time(out, to),
        None => json::text(out, "null"),
    }
    json::text(out, r#","reason":""#);
    json::text(out, gap.reason.as_str());
    json::text(out, r#"""#);
    if let Some(detail) = &gap.detail {
        json::text(out, r#","detail":"#);
        json::value(out, detail);
    }
    json::text(out, "}");
}

/// A moment. A gap from the beginning of time is one from 1970 on.
pub(super) fn time(out: &mut Vec<u8>, at: Millis) {
    json::time(out, u64::try_from(at).unwrap_or(0));
}

#[cfg(test)]
pub(super) mod tests {
    use nathistory::{Counters, End, Reason};

    use super::*;

    const AT: Millis = 1_795_246_463_007;

    fn end(ip: [u8; 4], port: u16) -> End {
        End { ip: ip.into(), port: Some(port) }
    }

    /// A connection of 192.168.7.2, open for 53 seconds.
    pub(in crate::http::v1::history) fn sample() -> Record {
        Record {
            protocol: 6,
            zone: 0,
            reply_zone: 0,
            src: end([192, 168, 7, 2], 40_000),
            dst: Some(end([198, 51, 100, 1], 443)),
            nat: end([203, 0, 113, 9], 51_000),
            server: Some(end([198, 51, 100, 1], 443)),
            id: Some(4_119_167_841),
            mark: None,
            opened: Moment::kernel(AT),
            closed: Some(Moment::event(AT + 53_000)),
            counters: None,
        }
    }

    fn written(found: &Record, question: &Question) -> String {
        let mut out = Vec::new();
        record(&mut out, found, question, "gw\"1", &Hosts::default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_has_the_documented_members() {
        assert_eq!(
            written(&sample(), &Question::about(0, 0)),
            concat!(
                r#"{"protocol":"tcp","l3":"ipv4","src_ip":"192.168.7.2","src_port":40000,"#,
                r#""dst_ip":"198.51.100.1","dst_port":443,"nat_ip":"203.0.113.9","nat_port":51000,"#,
                r#""server_ip":"198.51.100.1","server_port":443,"inside":"src","zone":0,"id":4119167841,"#,
                r#""nat":["src"],"state":"closed","opened":"2026-11-21T07:34:23.007Z","opened_known":"kernel","#,
                r#""closed":"2026-11-21T07:35:16.007Z","closed_known":"event","gateway":"gw\"1"}"#
            )
        );
    }

    #[test]
    fn what_is_rare_is_written_too() {
        let web = end([192, 168, 7, 80], 8080);
        let forwarded = Record {
            protocol: 99,
            zone: 3,
            reply_zone: 4,
            nat: sample().src,
            server: Some(web),
            mark: Some(5),
            opened: Moment::range(AT - 5000, AT),
            closed: None,
            counters: Some(Counters { packets: [1, 2], bytes: [3, u64::MAX] }),
            ..sample()
        };
        let question = Question { nat_ip: Some([198, 51, 100, 1].into()), ..Question::about(0, 0) };
        assert_eq!(
            written(&forwarded, &question),
            concat!(
                r#"{"protocol":"99","l3":"ipv4","src_ip":"192.168.7.2","src_port":40000,"#,
                r#""dst_ip":"198.51.100.1","dst_port":443,"nat_ip":"192.168.7.2","nat_port":40000,"#,
                r#""server_ip":"192.168.7.80","server_port":8080,"inside":"server","zone":3,"reply_zone":4,"#,
                r#""id":4119167841,"mark":5,"packets":{"original":1,"reply":2},"#,
                r#""bytes":{"original":3,"reply":18446744073709551615},"nat":["dst"],"state":"live","#,
                r#""opened":"2026-11-21T07:34:23.007Z","opened_known":"range","#,
                r#""opened_after":"2026-11-21T07:34:18.007Z","closed":null,"closed_known":null,"#,
                r#""gateway":"gw\"1"}"#
            )
        );
        let text = written(&sample().without_destination(), &Question::about(0, 0));
        assert!(text.contains(r#""dst_ip":null,"dst_port":null,"nat_ip""#), "{text}");
        assert!(text.contains(r#""server_ip":null,"server_port":null,"inside":"src""#), "{text}");
    }

    #[test]
    fn gaps_are_written() {
        let text = |written: &Gap| {
            let mut out = Vec::new();
            gap(&mut out, written);
            String::from_utf8(out).unwrap()
        };
        let lasting =
            Gap { from: i64::MIN, to: None, reason: Reason::NotWritten, detail: Some("no \"space\"".into()) };
        assert_eq!(
            text(&lasting),
            r#"{"from":"1970-01-01T00:00:00.000Z","to":null,"reason":"not_written","detail":"no \"space\""}"#
        );
        assert_eq!(
            text(&Gap { from: AT, to: Some(AT + 1), reason: Reason::EventsLost, detail: None }),
            r#"{"from":"2026-11-21T07:34:23.007Z","to":"2026-11-21T07:34:23.008Z","reason":"events_lost"}"#
        );
    }
}
