//! Addresses and times as text.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use crate::time::{DAY, HOUR, Millis};

/// 0000-01-01T00:00:00Z.
const FIRST: Millis = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const LAST: Millis = 253_402_300_799_999;
/// Days of 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// The place of each octet's decimal digits in the order of bytes: 0, 1, 10, 100, 101, …
const RANKS: [u8; 256] = ranks();

/// Compares the texts of two addresses byte by byte, as Parquet's statistics do: 10.0.0.10 precedes 10.0.0.9.
#[inline]
pub(crate) fn address_order(a: IpAddr, b: IpAddr) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ranked(a).cmp(&ranked(b)),
        _ => a.to_string().cmp(&b.to_string()),
    }
}

/// A number that orders addresses of version 4 as their text does. A dot and the end precede digits, so the
/// first octet that differs decides.
fn ranked(address: Ipv4Addr) -> u32 {
    let [a, b, c, d] = address.octets();
    let rank = |octet: u8| RANKS[usize::from(octet)];
    u32::from_be_bytes([rank(a), rank(b), rank(c), rank(d)])
}

const fn ranks() -> [u8; 256] {
    let mut ranks = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        let mut other = 0;
        while other < 256 {
            // Shifted to the left end of three digits, and then by length.
            if digits_key(other) < digits_key(octet) {
                ranks[octet as usize] += 1;
            }
            other += 1;
        }
        octet += 1;
    }
    ranks
}

const fn digits_key(octet: u32) -> u32 {
    match octet {
        0..10 => octet * 1_000,
        10..100 => octet * 100 + 1,
        _ => octet * 10 + 2,
    }
}

/// A time for names of files: `20261127T140512.313Z`. What is outside the years 0 to 9999 becomes their end.
pub(crate) fn compact_time(time: Millis) -> String {
    let time = time.clamp(FIRST, LAST);
    let (day, of_day) = (time.div_euclid(DAY), time.rem_euclid(DAY));
    // Years that begin in March have their leap day at the end.
    let days = day + EPOCH;
    let (era, of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, of_hour) = (of_day / HOUR, of_day % HOUR);
    let (minute, of_minute) = (of_hour / 60_000, of_hour % 60_000);
    let (second, millis) = (of_minute / 1_000, of_minute % 1_000);
    format!("{year:04}{month:02}{day_of_month:02}T{hour:02}{minute:02}{second:02}.{millis:03}Z")
}

/// The time that [`compact_time`] wrote so.
pub(crate) fn parse_compact_time(text: &str) -> Option<Millis> {
    let bytes = text.as_bytes();
    if bytes.len() != 20 || bytes[8] != b'T' || bytes[15] != b'.' || bytes[19] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = (month + 9) % 12;
    let of_era =
        year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5 + day - 1;
    let days = era * ERA + of_era - EPOCH;
    let time = days * DAY
        + number(9, 11)? * HOUR
        + number(11, 13)? * 60_000
        + number(13, 15)? * 1_000
        + number(16, 19)?;
    // This also refuses a thirteenth month and a sixtieth minute.
    (compact_time(time) == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_and_read() {
        for (time, text) in [
            (0, "19700101T000000.000Z"),
            (1_795_788_312_313, "20261127T140512.313Z"),
            (951_782_400_000, "20000229T000000.000Z"),
            (FIRST, "00000101T000000.000Z"),
            (LAST, "99991231T235959.999Z"),
        ] {
            assert_eq!(compact_time(time), text);
            assert_eq!(parse_compact_time(text), Some(time));
        }
        assert_eq!(compact_time(Millis::MAX), compact_time(LAST));
        for text in ["", "20261327T140512.313Z", "20260230T140512.313Z", "2026112+T140512.313Z"] {
            assert_eq!(parse_compact_time(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn each_time_is_read_as_written(time in FIRST..=LAST) {
            prop_assert_eq!(parse_compact_time(&compact_time(time)), Some(time));
        }

        #[test]
        fn addresses_have_the_order_of_their_text(a in any::<IpAddr>(), b in any::<IpAddr>()) {
            prop_assert_eq!(address_order(a, b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn near_addresses_have_the_order_of_their_text(a in any::<[u8; 4]>(), i in 0..4usize, octet: u8) {
            let mut b = a;
            b[i] = octet;
            let (a, b) = (IpAddr::from(a), IpAddr::from(b));
            prop_assert_eq!(address_order(a, b), a.to_string().cmp(&b.to_string()));
        }
    }
}
