//! The kinds of values that keys have: a reader and a writer for each.
//!
//! A reader gets a value of the dialect and returns the typed value, or the invalid text. It adds a note for
//! each warning. Numbers have the syntax of Python's `int()` and `float()`.

use std::{net::Ipv6Addr, ops::RangeInclusive, time::Duration};

use super::{dialect::ConfigValue, key::Key, level::LogLevel};

/// What a reader found that is not valid.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) text: String,
    /// How to mend it, if the mistake is a known one.
    pub(super) hint: Option<String>,
}

impl From<String> for Found {
    fn from(text: String) -> Self {
        Self { text, hint: None }
    }
}

/// Warnings about a value that is valid. Each follows the key's location.
pub(super) type Notes = Vec<String>;

/// Longer times are reduced to this, about 31 years, so that adding one to a clock cannot overflow.
const MAX_TIME: Duration = Duration::from_secs(1_000_000_000);

/// Shorter intervals are raised to this. Reading the kernel's table more often would leave no time for other
/// work.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The text of a value that is not a list.
fn text(value: &ConfigValue) -> Result<&str, Found> {
    match value {
        ConfigValue::Text(text) => Ok(text),
        ConfigValue::List(_) => Err(value.to_string().into()),
    }
}

/// A value that `parse` accepts.
pub(super) fn parsed<T>(value: &ConfigValue, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Found> {
    let text = text(value)?;
    parse(text).ok_or_else(|| text.to_owned().into())
}

/// A whole number in a range.
fn whole_number<T: TryFrom<i64>>(value: &ConfigValue, range: RangeInclusive<i64>) -> Result<T, Found> {
    parsed(value, |text| {
        let number: i64 = without_underscores(text)?.parse().ok()?;
        range.contains(&number).then(|| T::try_from(number).ok()).flatten()
    })
}

/// A number without surrounding white space, and without underscores if each is between two digits.
pub(super) fn without_underscores(text: &str) -> Option<String> {
    let text = text.trim();
    let digit = |at: Option<usize>| at.and_then(|at| text.as_bytes().get(at)).is_some_and(u8::is_ascii_digit);
    let separates = |(at, _): (usize, &str)| digit(at.checked_sub(1)) && digit(Some(at + 1));
    text.match_indices('_').all(separates).then(|| text.replace('_', ""))
}

pub(super) fn facility(value: &ConfigValue, _: &mut Notes) -> Result<u8, Found> {
    whole_number(value, 0..=7)
}

pub(super) fn log_level(value: &ConfigValue, _: &mut Notes) -> Result<LogLevel, Found> {
    let step = whole_number(value, 0..=LogLevel::MAX.into())?;
    LogLevel::new(step).ok_or_else(|| step.to_string().into())
}

pub(super) fn port(value: &ConfigValue, _: &mut Notes) -> Result<u16, Found> {
    whole_number(value, 0..=65535)
}

/// A number of mappings.
pub(super) fn count(value: &ConfigValue, _: &mut Notes) -> Result<usize, Found> {
    whole_number(value, 1000..=1_000_000_000)
}

pub(super) fn connections(value: &ConfigValue, _: &mut Notes) -> Result<usize, Found> {
    whole_number(value, 16..=65536)
}

pub(super) fn streams(value: &ConfigValue, _: &mut Notes) -> Result<usize, Found> {
    whole_number(value, 1..=32768)
}

pub(super) fn key_name(value: &ConfigValue, _: &mut Notes) -> Result<Key, Found> {
    parsed(value, |text| text.parse().ok())
}

/// A name or an address. Brackets around IPv6 are removed, because no port follows here.
pub(super) fn host(value: &ConfigValue, _: &mut Notes) -> Result<String, Found> {
    let text = text(value)?;
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = inner.filter(|inner| inner.contains(':')).unwrap_or(text);
    if is_host(host) {
        return Ok(host.to_owned());
    }
    let hint = text.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let port: u16 = port.parse().ok()?;
        is_host(bare).then(|| format!("the port is a key of its own: write host = {bare} and port = {port}"))
    });
    Err(Found { text: text.to_owned(), hint })
}

/// Whether a text can be a name or an address. Only an IPv6 address has a colon.
fn is_host(text: &str) -> bool {
    // The zone of a link-local address.
    let (address, zone) = text.split_once('%').unwrap_or((text, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%');
    if address.contains(':') {
        address.parse::<Ipv6Addr>().is_ok() && zone.chars().all(allowed)
    } else {
        !text.is_empty() && text.chars().all(allowed)
    }
}

pub(super) fn seconds(value: &ConfigValue, notes: &mut Notes) -> Result<Duration, Found> {
    let number = parsed(value, |text| {
        let number: f64 = without_underscores(text)?.parse().ok()?;
        (number.is_finite() && number >= 0.0).then_some(number)
    })?;
    if number > MAX_TIME.as_secs_f64() {
        notes.push(format!("reduced to {} seconds, the maximum", MAX_TIME.as_secs()));
        return Ok(MAX_TIME);
    }
    Ok(Duration::from_secs_f64(number))
}

pub(super) fn interval(value: &ConfigValue, notes: &mut Notes) -> Result<Duration, Found> {
    let interval = seconds(value, notes)?;
    if interval < MIN_INTERVAL {
        notes.push("raised to 1 second, the minimum".to_owned());
    }
    Ok(interval.max(MIN_INTERVAL))
}

/// Yes or no, in all words that ConfigObj accepts.
pub(super) fn boolean(value: &ConfigValue, _: &mut Notes) -> Result<bool, Found> {
    parsed(value, |text| match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Some(true),
        "no" | "false" | "off" | "0" => Some(false),
        _ => None,
    })
}

/// A number of bytes. `Display` writes it with `K`, `M` or `G` if that is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl std::fmt::Display for ByteSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            bytes if bytes >= GIBI && bytes % GIBI == 0 => write!(f, "{}G", bytes / GIBI),
            bytes if bytes >= MEBI && bytes % MEBI == 0 => write!(f, "{}M", bytes / MEBI),
            bytes if bytes >= KIBI && bytes % KIBI == 0 => write!(f, "{}K", bytes / KIBI),
            bytes => bytes.fmt(f),
        }
    }
}

const KIBI: usize = 1 << 10;
const MEBI: usize = 1 << 20;
const GIBI: usize = 1 << 30;
/// The kernel doubles the size and stores it in a signed integer.
const MAX_BUFFER: usize = MEBI * 1023;

pub(super) fn buffer(value: &ConfigValue, _: &mut Notes) -> Result<ByteSize, Found> {
    parsed(value, |text| bytes(text, &[('K', KIBI), ('M', MEBI)], 4 * KIBI..=MAX_BUFFER))
}

/// A number of bytes on a disk.
pub(super) fn disk_size(value: &ConfigValue, _: &mut Notes) -> Result<ByteSize, Found> {
    let units = [('K', KIBI), ('M', MEBI), ('G', GIBI)];
    parsed(value, |text| bytes(text, &units, MEBI..=GIBI * MEBI))
}

/// A number of bytes in a range, in one of these units or without a unit.
fn bytes(text: &str, units: &[(char, usize)], range: RangeInclusive<usize>) -> Option<ByteSize> {
    let text = text.trim();
    let in_unit = units
        .iter()
        .find_map(|(unit, bytes)| Some((text.strip_suffix([*unit, unit.to_ascii_lowercase()])?, *bytes)));
    let (number, unit) = in_unit.unwrap_or((text, 1));
    let bytes = without_underscores(number)?.parse::<usize>().ok()?.checked_mul(unit)?;
    range.contains(&bytes).then_some(ByteSize(bytes))
}

/// A number of days.
pub(super) fn days(value: &ConfigValue, _: &mut Notes) -> Result<u32, Found> {
    whole_number(value, 1..=36_500)
}

/// A value that can be written to a file.
pub(super) trait Written {
    /// The value as a file has it, or `None` if the file must not set the key.
    fn written(&self) -> Option<String>;
}

macro_rules! written_as_displayed {
    ($($kind:ty),*) => {$(
        impl Written for $kind {
            fn written(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}
written_as_displayed!(u8, u16, u32, usize, LogLevel, Key, String, ByteSize);

impl Written for bool {
    fn written(&self) -> Option<String> {
        Some(if *self { "yes" } else { "no" }.to_owned())
    }
}

impl<T: Written> Written for Option<T> {
    fn written(&self) -> Option<String> {
        self.as_ref().and_then(T::written)
    }
}

impl Written for Duration {
    fn written(&self) -> Option<String> {
        Some(self.as_secs_f64().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> ConfigValue {
        ConfigValue::Text(text.to_owned())
    }

    #[test]
    fn whole_numbers_have_the_syntax_of_python() {
        let port = |text: &str| port(&value(text), &mut Notes::new()).ok();
        for (text, number) in [("443", 443), (" +443\t", 443), ("0443", 443), ("4_4_3", 443), ("-0", 0)] {
            assert_eq!(port(text), Some(number), "{text:?}");
        }
        let rejected =
            ["", "+", "4 43", "+ 443", "_443", "443_", "4__3", "0x1bb", "443.0", "1e2", "65536", "-1"];
        for text in rejected.into_iter().chain(["99999999999999999999999999", "None"]) {
            assert_eq!(port(text), None, "{text:?}");
        }
        assert!(super::port(&ConfigValue::List(vec!["443".to_owned()]), &mut Notes::new()).is_err());
    }

    #[test]
    fn times_have_the_syntax_of_python_floats() {
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
    fn very_long_times_are_reduced() {
        let mut notes = Notes::new();
        assert_eq!(seconds(&value("1e300"), &mut notes), Ok(MAX_TIME));
        assert_eq!(notes, ["reduced to 1000000000 seconds, the maximum"]);
    }

    #[test]
    fn intervals_are_at_least_one_second() {
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
            assert_eq!(buffer(text), Some(ByteSize(bytes)), "{text:?}");
            assert_eq!(ByteSize(bytes).to_string(), written);
        }
        for text in
            ["", "M", "-1", "4095", "1024M", "1G", "8 MB", "99999999999999999999M", "18446744073709551615K"]
        {
            assert_eq!(buffer(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_on_a_disk_can_be_large() {
        let size = |text: &str| disk_size(&value(text), &mut Notes::new()).ok();
        for (text, bytes, written) in [
            ("1M", 1 << 20, "1M"),
            ("200g", 200 << 30, "200G"),
            ("2048M", 2 << 30, "2G"),
            ("1048577", (1 << 20) + 1, "1048577"),
        ] {
            assert_eq!(size(text), Some(ByteSize(bytes)), "{text:?}");
            assert_eq!(ByteSize(bytes).to_string(), written);
        }
        for text in ["", "G", "1023K", "-1G", "1T", "99999999999999999999G"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn yes_and_no_can_be_written_in_many_ways() {
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
    fn hosts_are_names_or_addresses() {
        let host = |text: &str| host(&value(text), &mut Notes::new()).ok();
        for text in ["localhost", "nat-1.example", "0.0.0.0", "::", "fe80::1%eth0"] {
            assert_eq!(host(text).as_deref(), Some(text));
        }
        assert_eq!(host("[::1]").as_deref(), Some("::1"));
        for (text, hint) in [
            ("0.0.0.0:8080", "write host = 0.0.0.0 and port = 8080"),
            ("[::1]:8080", "write host = ::1 and port = 8080"),
            ("[::]:80", "write host = :: and port = 80"),
            ("localhost:0", "write host = localhost and port = 0"),
        ] {
            let found = super::host(&value(text), &mut Notes::new()).unwrap_err();
            assert!(found.text == text && found.hint.as_ref().unwrap().ends_with(hint), "{found:?}");
        }
        for text in ["a:b", ":8080", "1:2:3", "::1:99999", "[::1", "::1]:80", "host:65536"] {
            let found = super::host(&value(text), &mut Notes::new()).unwrap_err();
            assert_eq!(found, text.to_owned().into());
        }
        for text in ["", " ", "a b", "[name]", "[]", "*", "http://x", "a,b", "a\nb"] {
            assert_eq!(host(text), None, "{text:?}");
        }
    }
}
