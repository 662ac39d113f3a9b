//! Values as JSON, written without `serde` where a response has a million of them or its time counts: nothing is formatted through
//! `core::fmt`, and no text that cannot need it is searched for characters to escape.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;

use serde::Serialize;

const DAY: u64 = 24 * 60 * 60 * 1000;
/// 9999-01-01T00:00:00Z in milliseconds: a year has four digits before that, and the last moments of that year
/// cannot be written.
const LAST_YEAR: u64 = 253_370_764_800_000;

thread_local! {
    /// A day since the Unix epoch, and its date: nearly all times of a response are of few days.
    static LAST_DATE: Cell<(u64, [u8; 10])> = const { Cell::new((0, *b"1970-01-01")) };
}

/// Text that is JSON already.
#[inline]
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

#[inline]
pub(super) fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    text(out, itoa::Buffer::new().format(number));
}

#[inline]
pub(super) fn number_or_null(out: &mut Vec<u8>, value: Option<u16>) {
    match value {
        Some(value) => short_number(out, value),
        None => text(out, "null"),
    }
}

/// A port, or a part of an address.
#[inline]
fn short_number(out: &mut Vec<u8>, number: u16) {
    let digit = |divisor| b'0' + (number / divisor % 10) as u8;
    let digits = [digit(10_000), digit(1_000), digit(100), digit(10), digit(1), 0, 0, 0];
    let first = digits[..4].iter().position(|digit| *digit != b'0').unwrap_or(4);
    // Of a fixed length, it is written at once.
    let length = out.len() + 5 - first;
    out.extend_from_slice(&(u64::from_le_bytes(digits) >> (8 * first)).to_le_bytes());
    out.truncate(length);
}

/// An address, without quotes.
pub(super) fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            short_number(out, a.into());
            for octet in [b, c, d] {
                out.push(b'.');
                short_number(out, octet.into());
            }
        }
        // Writing to memory cannot fail.
        IpAddr::V6(address) => drop(write!(out, "{address}")),
    }
}

/// An address and a port: `names` are what precedes them.
#[inline]
pub(super) fn end(out: &mut Vec<u8>, names: [&str; 2], ip: IpAddr, port: Option<u16>) {
    text(out, names[0]);
    address(out, ip);
    text(out, names[1]);
    number_or_null(out, port);
}

/// A value of any kind.
pub(super) fn value(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing plain data to memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// Milliseconds since the Unix epoch, as RFC 3339 in UTC, in quotes.
pub(super) fn time(out: &mut Vec<u8>, milliseconds: u64) {
    if milliseconds >= LAST_YEAR {
        let time = timestamp(milliseconds);
        drop(write!(out, "\"{time:.3}\""));
        return;
    }
    let (day, of_day) = (milliseconds / DAY, (milliseconds % DAY) as u32);
    let two = |number: u32| [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8];
    let (seconds, thousandths) = (of_day / 1000, of_day % 1000);
    let ([h, i], [m, n], [s, t]) = (two(seconds / 3600), two(seconds / 60 % 60), two(seconds % 60));
    let (x, [y, z]) = (b'0' + (thousandths / 100) as u8, two(thousandths % 100));
    out.push(b'"');
    out.extend_from_slice(&date(day));
    out.extend_from_slice(&[b'T', h, i, b':', m, n, b':', s, t, b'.', x, y, z, b'Z', b'"']);
}

/// The date of a day since the Unix epoch, before [`LAST_YEAR`].
fn date(day: u64) -> [u8; 10] {
    let (last, date) = LAST_DATE.get();
    if last == day {
        return date;
    }
    let text = timestamp(day * DAY).to_string();
    let date = text.as_bytes().first_chunk().copied().unwrap_or(date);
    LAST_DATE.set((day, date));
    date
}

fn timestamp(milliseconds: u64) -> jiff::Timestamp {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<T>(write: impl Fn(&mut Vec<u8>, T), value: T) -> String {
        let mut out = Vec::new();
        write(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_in_utc_with_milliseconds() {
        assert_eq!(written(time, 1_795_246_463_007), r#""2026-11-21T07:34:23.007Z""#);
        assert_eq!(written(time, 0), r#""1970-01-01T00:00:00.000Z""#);
        assert_eq!(written(time, u64::MAX), format!("\"{:.3}\"", jiff::Timestamp::MAX));
    }

    proptest::proptest! {
        #[test]
        fn times_are_written_as_jiff_writes_them(milliseconds in 0..=LAST_YEAR + 2 * 366 * DAY) {
            let expected = format!("\"{:.3}\"", timestamp(milliseconds));
            proptest::prop_assert_eq!(written(time, milliseconds), expected);
        }

        #[test]
        fn addresses_and_numbers_are_written_as_serde_writes_them(ip: IpAddr, port: Option<u16>, id: u64) {
            let quoted = format!("\"{}\"", written(address, ip));
            proptest::prop_assert_eq!(quoted, serde_json::to_string(&ip).unwrap());
            proptest::prop_assert_eq!(written(number_or_null, port), serde_json::to_string(&port).unwrap());
            proptest::prop_assert_eq!(written(|out, id: u64| number(out, id), id), id.to_string());
        }
    }
}
