//! Addresses and times as text.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr};

use jiff::SignedDuration;
use jiff::civil::{DateTime, date};

use crate::time::Millis;

/// 0000-01-01T00:00:00Z.
const FIRST: Millis = -62_167_219_200_000;
/// 9999-12-31T23:59:59.999Z.
const LAST: Millis = 253_402_300_799_999;
/// 1970-01-01T00:00:00Z. A civil time reaches further than jiff's timestamps.
const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
const COMPACT: &str = "%Y%m%dT%H%M%S%.3fZ";

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
    let since = SignedDuration::from_millis(time.clamp(FIRST, LAST));
    EPOCH.saturating_add(since).strftime(COMPACT).to_string()
}

/// The time that [`compact_time`] wrote so.
pub(crate) fn parse_compact_time(text: &str) -> Option<Millis> {
    let time = DateTime::strptime(COMPACT, text).ok()?.duration_since(EPOCH);
    let time = Millis::try_from(time.as_millis()).ok()?;
    // Each time has one name only.
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
