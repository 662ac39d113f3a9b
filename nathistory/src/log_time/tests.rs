//! What is a time, and which one.

use jiff::tz::TimeZone;

use super::parse::END;
use super::*;
use crate::time::Millis;

/// Saturday, 2026-11-21T09:12:30.385Z.
const NOW: Millis = 1_795_252_350_385;

fn berlin(now: Millis) -> Reference {
    Reference { now, zone: TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap() }
}

fn read(text: &str) -> String {
    match parse(text, &berlin(NOW)) {
        Ok(at) => jiff::Timestamp::from_millisecond(at).unwrap().to_string(),
        Err(error) => format!("{error}; {}", error.hint()),
    }
}

#[test]
fn every_form_of_one_moment_is_read() {
    for text in [
        "2026-11-21T09:12:30Z",
        "2026-11-21t09:12:30z",
        "2026-11-21T10:12:30+01:00",
        "2026-11-21T10:12:30 01:00",
        "2026-11-21T01:42:30-07:30",
        "2026-11-21 10:12:30+0100",
        "2026-11-21 10:12:30+01",
        "2026-11-21 09:12:30 UTC",
        "2026-11-21 09:12:30 GMT",
        "2026-11-21T10:12:30",
        "2026-11-21 10:12:30",
        " 2026-11-21  10:12:30\n",
        "2026/11/21 10:12:30",
        "21/Nov/2026:10:12:30 +0100",
        "[21/Nov/2026:10:12:30 +0100]",
        "[21/Nov/2026:10:12:30  0100]",
        "[21/Nov/2026:10:12:30 +0100",
        "21/Nov/2026:02:12:30 -0700",
        "21/Nov/2026:10:12:30",
        "Nov 21 10:12:30",
        "nov 21 10:12:30",
        "Nov 21 10:12:30 2026",
        "Sat Nov 21 10:12:30 2026",
        "[Sat Nov 21 10:12:30 2026]",
        "1795252350",
        "1795252350.",
        "1795252350.0",
        "1795252350000",
        "1795252350000000",
        "1795252350000000000",
    ] {
        match text {
            "1795252350." => assert!(parse(text, &berlin(NOW)).is_err()),
            _ => assert_eq!(read(text), "2026-11-21T09:12:30Z", "{text}"),
        }
    }
    assert_eq!(read("[10/Oct/2000:13:55:36 -0700]"), "2000-10-10T20:55:36Z");
}

#[test]
fn fractions_are_cut_to_milliseconds() {
    for text in [
        "2026-11-21T09:12:30.385Z",
        "2026-11-21T09:12:30.385999Z",
        "2026-11-21T10:12:30.385+01:00",
        "2026-11-21 10:12:30,385",
        "[Sat Nov 21 10:12:30.385012 2026]",
        "Nov 21 10:12:30.385",
        "1795252350.385",
        "1795252350.3859999999999999999999",
        "1795252350385",
        "1795252350385999",
        "1795252350385999999",
        "now",
        "NOW",
        "-0s",
    ] {
        assert_eq!(read(text), "2026-11-21T09:12:30.385Z", "{text}");
    }
    assert_eq!(read("2026-11-21T09:12:30.5Z"), "2026-11-21T09:12:30.5Z");
    // The leap second of 2016, and of a log that writes it in local time.
    assert_eq!(read("2016-12-31T23:59:60Z"), "2016-12-31T23:59:59.999Z");
    assert_eq!(read("2017-01-01 00:59:60.250"), "2016-12-31T23:59:59.999Z");
}

#[test]
fn a_time_can_be_relative_to_now() {
    for (text, expected) in [
        ("-90s", "2026-11-21T09:11:00.385Z"),
        ("-5m", "2026-11-21T09:07:30.385Z"),
        ("-2h", "2026-11-21T07:12:30.385Z"),
        ("-3d", "2026-11-18T09:12:30.385Z"),
        ("-1w", "2026-11-14T09:12:30.385Z"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
    for text in ["-99999999999999999999d", "-9999999999w"] {
        assert!(matches!(parse(text, &berlin(NOW)), Err(TimeError::OutOfRange { .. })), "{text}");
    }
}

#[test]
fn without_a_year_the_newest_such_moment_is_meant() {
    let read_at = |now: &str, text: &str| {
        let now: jiff::Timestamp = now.parse().unwrap();
        let at = parse(text, &berlin(now.as_millisecond())).unwrap();
        jiff::Timestamp::from_millisecond(at).unwrap().to_string()
    };
    assert_eq!(read("Oct 11 22:14:15"), "2026-10-11T20:14:15Z");
    assert_eq!(read("Oct  1 22:14:15"), "2026-10-01T20:14:15Z");
    assert_eq!(read("Nov 21 10:14:15"), "2025-11-21T09:14:15Z");
    // The clock of the host that wrote the log may be slightly ahead.
    assert_eq!(read("Nov 21 10:12:45"), "2026-11-21T09:12:45Z");
    assert_eq!(read_at("2026-12-31T22:59:50Z", "Jan  1 00:00:05"), "2026-12-31T23:00:05Z");
    assert_eq!(read_at("2026-12-31T23:00:10Z", "Dec 31 23:59:59"), "2026-12-31T22:59:59Z");
    assert_eq!(read_at("2026-11-21T00:00:00Z", "Feb 29 12:00:00"), "2024-02-29T11:00:00Z");
    assert!(read("Feb 30 12:00:00").starts_with("found \"Feb 30 12:00:00\": there is not such a date; "));
}

#[test]
fn summer_time_makes_local_times_ambiguous_or_skips_them() {
    assert_eq!(
        read("2026-10-25 02:30:00.5"),
        "found \"2026-10-25 02:30:00.5\", a local time that was there twice, because clocks were set back; \
         write it with its offset: 2026-10-25T02:30:00.5+02:00 or 2026-10-25T02:30:00.5+01:00"
    );
    assert_eq!(
        read("Mar 29 02:30:00"),
        "found \"Mar 29 02:30:00\", a local time that never was, because clocks were set forward; write it \
         with the offset of the clock that showed it: 2026-03-29T02:30:00+01:00 or 2026-03-29T02:30:00+02:00"
    );
    for reading in ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "25/Oct/2026:02:30:00 +0100"] {
        assert!(parse(reading, &berlin(NOW)).is_ok(), "{reading}");
    }
    assert_eq!(read("2026-10-25 03:00:00"), "2026-10-25T02:00:00Z");
    assert_eq!(read("2026-07-01 12:00:00"), "2026-07-01T10:00:00Z");
}

#[test]
fn other_text_is_no_time() {
    for text in [
        "",
        " ",
        "yesterday",
        "12:30",
        "2026-11-21",
        "2026-11-21T10:12",
        "2026-11-21T10:12:3",
        "2026-11/21 10:12:30",
        "2026-11-2110:12:30",
        "20261121T101230Z",
        "2026-11-21T10:12:30.Z",
        "2026-11-21T10:12:30+16:00",
        "2026-11-21T10:12:30+01:60",
        "2026-11-21T10:12:30+-01:00",
        "2026-11-21T10:12:30 CET",
        "2026-11-21T10:12:30Z x",
        "21/XYZ/2026:10:12:30 +0100",
        "21/Nov/26:10:12:30 +0100",
        "Nov 21",
        "Sat Nov",
        "Sat21 10:12:30",
        "-5",
        "-m",
        "--5m",
        "-5y",
        "+5m",
        "1e9",
        "0x10",
        "-1",
        ".5",
        "５",
        "é21 10:12:30",
        "Noé 21 10:12:30",
    ] {
        assert!(matches!(parse(text, &berlin(NOW)), Err(TimeError::NoTime { .. })), "{text}: {}", read(text));
    }
    for text in
        ["2026-13-01T00:00:00Z", "2026-02-29 00:00:00", "2026-11-21T24:00:00Z", "2026-11-21T10:12:61Z"]
    {
        assert!(
            matches!(parse(text, &berlin(NOW)), Err(TimeError::Invalid { .. })),
            "{text}: {}",
            read(text)
        );
    }
    for text in
        ["1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "99999999999999999999999999999999999999999999999"]
    {
        assert!(
            matches!(parse(text, &berlin(NOW)), Err(TimeError::OutOfRange { .. })),
            "{text}: {}",
            read(text)
        );
    }
    let long = "x".repeat(10_000);
    assert!(read(&long).len() < 400);
    assert!(read("a\r\nb").starts_with("found \"ab\", which is no time; expected"));
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text: String, now in 0..END) {
        let _ = parse(&text, &berlin(now));
    }

    #[test]
    fn text_like_a_time_does_not_panic(text in "[0-9TZ:+./ -]{0,40}") {
        let _ = parse(&text, &berlin(NOW));
    }

    #[test]
    fn what_jiff_writes_is_read(at in 0..END) {
        let written = jiff::Timestamp::from_millisecond(at).unwrap().to_string();
        proptest::prop_assert_eq!(parse(&written, &berlin(NOW)), Ok(at));
        let millis = at.to_string();
        if (12..15).contains(&millis.len()) {
            proptest::prop_assert_eq!(parse(&millis, &berlin(NOW)), Ok(at));
        }
        let local = berlin(NOW).write(at);
        let (date_and_time, offset) = local.rsplit_once(' ').unwrap();
        proptest::prop_assert_eq!(parse(&format!("{date_and_time}{offset}"), &berlin(NOW)), Ok(at));
    }
}
