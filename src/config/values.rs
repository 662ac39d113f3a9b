//! The kinds of values that keys have: how each is read from the file, and written back.
//!
//! A reader takes a value as the dialect left it, pushes what is worth a warning, and returns either the
//! typed value or what it would have expected. Numbers are read as Python's `int()` and `float()` do.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{Key, LogLevel, dialect::Value};

/// What a reader expected instead of what it found.
pub(super) type Expected = String;

/// What a reader wants said about a value that it took, each to follow the key's place.
pub(super) type Notes = Vec<String>;

/// Time spans are cut to this, some 31 years: nothing can tell more from forever, and less than 2^63
/// nanoseconds can be added to any clock.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

/// Reading the whole table more often than this would leave time for nothing else.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// The one text of a value that is no list.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        Value::List(_) => None,
    }
}

/// A whole number in a range that its type can hold.
fn whole<T: TryFrom<i64>>(value: &Value, range: RangeInclusive<i64>) -> Option<T> {
    let number: i64 = without_underscores(text(value)?)?.parse().ok()?;
    range.contains(&number).then(|| T::try_from(number).ok()).flatten()
}

/// A number's text without surrounding white space, and without underscores if each is between digits.
fn without_underscores(text: &str) -> Option<String> {
    let text = text.trim();
    let digit = |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    let separates = |(at, _): (usize, &str)| digit(at.checked_sub(1)) && digit(Some(at + 1));
    text.match_indices('_').all(separates).then(|| text.replace('_', ""))
}

pub(super) fn facility(value: &Value, _: &mut Notes) -> Result<u8, Expected> {
    whole(value, 0..=7).ok_or_else(|| "a whole number from 0 to 7, for LOCAL0 to LOCAL7".to_owned())
}

pub(super) fn log_level(value: &Value, _: &mut Notes) -> Result<LogLevel, Expected> {
    let level = whole(value, 0..=LogLevel::MAX.into()).and_then(LogLevel::new);
    level.ok_or_else(|| format!("a whole number from 0 to {}", LogLevel::MAX))
}

pub(super) fn port(value: &Value, _: &mut Notes) -> Result<u16, Expected> {
    whole(value, 0..=65535).ok_or_else(|| "a port, a whole number from 0 to 65535".to_owned())
}

pub(super) fn listening_port(value: &Value, notes: &mut Notes) -> Result<u16, Expected> {
    port(value, notes).map_err(|_| "a port from 1 to 65535, or 0 to let the kernel choose".to_owned())
}

pub(super) fn address(value: &Value, _: &mut Notes) -> Result<IpAddr, Expected> {
    text(value)
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| "an IPv4 address with all four numbers, or an IPv6 address".to_owned())
}

pub(super) fn key_name(value: &Value, _: &mut Notes) -> Result<Key, Expected> {
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| Key::EXPECTED.to_owned())
}

/// A name or an address; brackets around IPv6 are dropped, as no port follows here.
pub(super) fn host(value: &Value, _: &mut Notes) -> Result<String, Expected> {
    let expected = || "one host name or IP address".to_owned();
    let host = text(value).ok_or_else(expected)?;
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = inner.filter(|inner| inner.contains(':')).unwrap_or(host);
    // '%' is for the zone of a link-local address.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(allowed) { Err(expected()) } else { Ok(host.to_owned()) }
}

pub(super) fn seconds(value: &Value, notes: &mut Notes) -> Result<Duration, Expected> {
    let expected = || "a number of seconds, 0 or more and finite".to_owned();
    let number = text(value).and_then(without_underscores).ok_or_else(expected)?;
    let number: f64 = number.parse().map_err(|_| expected())?;
    if !number.is_finite() || number < 0.0 {
        return Err(expected());
    }
    if number > LONGEST.as_secs_f64() {
        notes.push(format!("read as {} seconds, the longest time there is", LONGEST.as_secs()));
        return Ok(LONGEST);
    }
    Ok(Duration::from_secs_f64(number))
}

pub(super) fn interval(value: &Value, notes: &mut Notes) -> Result<Duration, Expected> {
    let interval = seconds(value, notes)?;
    if interval < SHORTEST_INTERVAL {
        notes.push("read as 1 second, the shortest interval there is".to_owned());
    }
    Ok(interval.max(SHORTEST_INTERVAL))
}

/// A yes or no in the words that the Python program's reader knows.
pub(super) fn boolean(value: &Value, _: &mut Notes) -> Result<bool, Expected> {
    match text(value).unwrap_or_default().to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err("yes or no".to_owned()),
    }
}

/// A number of bytes, written with `K` or `M` where it is whole ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= MEBI && bytes % MEBI == 0 => write!(f, "{}M", bytes / MEBI),
            bytes if bytes >= KIBI && bytes % KIBI == 0 => write!(f, "{}K", bytes / KIBI),
            bytes => bytes.fmt(f),
        }
    }
}

const KIBI: usize = 1 << 10;
const MEBI: usize = 1 << 20;
/// The kernel counts buffers in a signed integer, and doubles what it is given.
const LARGEST_BUFFER: usize = MEBI * 1023;

pub(super) fn buffer(value: &Value, _: &mut Notes) -> Result<Bytes, Expected> {
    let expected = || "a number of bytes from 4K to 1023M, such as 8388608, 8192K or 8M".to_owned();
    let text = text(value).ok_or_else(expected)?.trim();
    let (number, unit) = match text.strip_suffix(['K', 'k']) {
        Some(number) => (number, KIBI),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |number| (number, MEBI)),
    };
    let number: usize =
        without_underscores(number).and_then(|number| number.parse().ok()).ok_or_else(expected)?;
    let bytes = number.checked_mul(unit).filter(|bytes| (4 * KIBI..=LARGEST_BUFFER).contains(bytes));
    bytes.map(Bytes).ok_or_else(expected)
}

/// A value as a file has it.
pub(super) trait Written {
    /// `None` where the file is to say nothing.
    fn written(&self) -> Option<String>;
}

macro_rules! written_as_shown {
    ($($kind:ty),*) => {$(
        impl Written for $kind {
            fn written(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
written_as_shown!(u8, u16, LogLevel, IpAddr, Key, String, Bytes);

impl Written for bool {
    fn written(&self) -> Option<String> {
        Some(if *self { "yes" } else { "no" }.to_owned())
    }
}

impl Written for Duration {
    fn written(&self) -> Option<String> {
        Some(self.as_secs_f64().to_string())
    }
}

impl<T: Written> Written for Option<T> {
    fn written(&self) -> Option<String> {
        self.as_ref().and_then(T::written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn whole_numbers_are_read_as_python_reads_them() {
        let port = |text: &str| port(&value(text), &mut Notes::new()).ok();
        for (text, number) in [("443", 443), (" +443\t", 443), ("0443", 443), ("4_4_3", 443), ("-0", 0)] {
            assert_eq!(port(text), Some(number), "{text:?}");
        }
        let refused =
            ["", "+", "4 43", "+ 443", "_443", "443_", "4__3", "0x1bb", "443.0", "1e2", "65536", "-1"];
        for text in refused.into_iter().chain(["99999999999999999999999999", "None"]) {
            assert_eq!(port(text), None, "{text:?}");
        }
        assert!(super::port(&Value::List(vec!["443".to_owned()]), &mut Notes::new()).is_err());
    }

    #[test]
    fn times_are_read_as_python_reads_floats() {
        let millis = |text: &str| seconds(&value(text), &mut Notes::new()).ok().map(|time| time.as_millis());
        for (text, expected) in
            [("10", 10_000), (" 2.5 ", 2500), (".5", 500), ("5.", 5000), ("1_0.0e-1", 1000), ("+1E1", 10_000)]
        {
            assert_eq!(millis(text), Some(expected), "{text:?}");
        }
        assert_eq!(millis("-0.0"), Some(0));
        for text in
            ["", ".", "e5", "1e", "10s", "1,5", "inf", "-inf", "nan", "Infinity", "1e400", "-3", "1_.5"]
        {
            assert_eq!(millis(text), None, "{text:?}");
        }
    }

    #[test]
    fn forever_has_an_end() {
        let mut notes = Notes::new();
        assert_eq!(seconds(&value("1e300"), &mut notes), Ok(LONGEST));
        assert_eq!(notes, ["read as 1000000000 seconds, the longest time there is"]);
    }

    #[test]
    fn intervals_are_a_second_at_least() {
        let mut notes = Notes::new();
        assert_eq!(interval(&value("0"), &mut notes), Ok(Duration::from_secs(1)));
        assert_eq!(notes.len(), 1);
        assert_eq!(interval(&value("1"), &mut notes), Ok(Duration::from_secs(1)));
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn buffers_have_units_and_bounds() {
        let buffer = |text: &str| buffer(&value(text), &mut Notes::new()).ok();
        for (text, bytes, written) in [
            ("64M", 64 << 20, "64M"),
            (" 8192k ", 8 << 20, "8M"),
            ("4096", 4096, "4K"),
            ("4_097", 4097, "4097"),
        ] {
            assert_eq!(buffer(text), Some(Bytes(bytes)), "{text:?}");
            assert_eq!(Bytes(bytes).to_string(), written);
        }
        for text in
            ["", "M", "-1", "4095", "1024M", "1G", "8 MB", "99999999999999999999M", "18446744073709551615K"]
        {
            assert_eq!(buffer(text), None, "{text:?}");
        }
    }

    #[test]
    fn yes_and_no_have_many_names() {
        let boolean = |text: &str| boolean(&value(text), &mut Notes::new()).ok();
        for (text, meant) in
            [("yes", true), ("On", true), ("TRUE", true), ("1", true), ("no", false), ("0", false)]
        {
            assert_eq!(boolean(text), Some(meant), "{text:?}");
        }
        assert_eq!(boolean("maybe"), None);
        assert_eq!(boolean(""), None);
    }

    #[test]
    fn addresses_are_whole() {
        let address = |text: &str| address(&value(text), &mut Notes::new()).ok();
        assert_eq!(address(" 10.0.0.1 "), Some([10, 0, 0, 1].into()));
        assert_eq!(address("2001:db8::1"), Some("2001:db8::1".parse().unwrap()));
        for text in ["", "10.1", "10", "010.0.0.1", "10.0.0.1 x", "10.0.0.1/32", "[::1]", "fe80::1%eth0"] {
            assert_eq!(address(text), None, "{text:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let host = |text: &str| host(&value(text), &mut Notes::new()).ok();
        for text in ["localhost", "nat-1.example", "0.0.0.0", "::", "fe80::1%eth0"] {
            assert_eq!(host(text).as_deref(), Some(text));
        }
        assert_eq!(host("[::1]").as_deref(), Some("::1"));
        for text in ["", " ", "a b", "[name]", "[]", "*", "http://x", "a,b", "a\nb"] {
            assert_eq!(host(text), None, "{text:?}");
        }
    }
}
