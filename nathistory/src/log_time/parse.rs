//! The moment that a written time means.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::error::{self, TimeError};
use super::scan::{self, Scan, Written};
use crate::time::{DAY, HOUR, Millis};

/// A log without years may be of a host whose clock is this far ahead.
const AHEAD: Millis = 60_000;
/// From one 29 February to the next: eight years, if there is none at the end of a century.
const YEARS: i16 = 8;
/// The first moment after year 9999, whose last day cannot be written in every zone.
pub(super) const END: Millis = 253_402_214_400_000;

/// What times without a date, a year or an offset refer to.
#[derive(Debug, Clone)]
pub struct Reference {
    pub(super) now: Millis,
    pub(super) zone: TimeZone,
}

impl Reference {
    /// The moment that is now, and the local time zone of the system.
    pub fn local(now: Millis) -> Self {
        Self { now, zone: TimeZone::system() }
    }

    /// The moment that is now.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// A moment in local time, with its offset.
    pub fn write(&self, at: Millis) -> String {
        let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default().to_zoned(self.zone.clone());
        at.strftime("%Y-%m-%d %H:%M:%S.%3f %:z").to_string()
    }
}

/// Reads a time, to the millisecond:
///
/// | form | example |
/// | --- | --- |
/// | RFC 3339, RFC 5424 | `2026-11-21T09:12:30.385Z`, `2026-11-21T10:12:30+01:00` |
/// | seconds since 1970; from 12 digits on milliseconds, from 15 microseconds, from 18 nanoseconds | `1795252350.385`, `1795252350385` |
/// | access log of nginx and Apache | `[21/Nov/2026:10:12:30 +0100]` |
/// | error log of nginx | `2026/11/21 10:12:30` |
/// | error log of Apache | `[Sat Nov 21 10:12:30.385012 2026]` |
/// | many programs | `2026-11-21 10:12:30,385` |
/// | syslog (RFC 3164): the newest such moment | `Nov 21 10:12:30` |
/// | before now: seconds, minutes, hours, days, weeks | `now`, `-90s`, `-5m`, `-2h`, `-3d`, `-1w` |
///
/// A time without an offset is in local time. A space at the place of a `+` counts as one, because
/// query strings turn one into the other. A leap second is the last millisecond before it.
///
/// # Errors
/// When the text is no time, or not one time only: where clocks are set back, an hour has every local
/// time twice.
pub fn parse(text: &str, reference: &Reference) -> Result<Millis, TimeError> {
    let found = error::short(text);
    let text = text.trim_matches(|character: char| character.is_whitespace() || "[]".contains(character));
    let at = match relative(text).map(|age| reference.now.checked_sub(age)).or_else(|| epoch(text).map(Some))
    {
        Some(at) => at,
        None => {
            let written = Scan::new(text).time().ok_or_else(|| TimeError::NoTime { found: found.clone() })?;
            Some(resolve(&written, &found, reference)?)
        }
    };
    at.filter(|at| (0..END).contains(at)).ok_or(TimeError::OutOfRange { found })
}

/// How long before now a relative time is.
fn relative(text: &str) -> Option<Millis> {
    if text.eq_ignore_ascii_case("now") {
        return Some(0);
    }
    let text = text.strip_prefix('-')?;
    let unit = match text.chars().next_back()? {
        's' => 1000,
        'm' => HOUR / 60,
        'h' => HOUR,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return None,
    };
    let count = &text[..text.len() - 1];
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    // What is too large is before 1970.
    is_number.then(|| count.parse::<Millis>().unwrap_or(Millis::MAX).saturating_mul(unit))
}

/// A number since 1970. Its length tells the unit: seconds have 12 digits from the year 5138 on, and milliseconds
/// until 1973 only.
fn epoch(text: &str) -> Option<Millis> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let number = whole.parse().unwrap_or(i128::MAX);
    let thousandths = scan::thousandths(fraction);
    let at = match number {
        0..100_000_000_000 => number * 1000 + i128::from(thousandths),
        100_000_000_000..100_000_000_000_000 => number,
        100_000_000_000_000..100_000_000_000_000_000 => number / 1000,
        _ => number / 1_000_000,
    };
    Some(Millis::try_from(at).unwrap_or(Millis::MAX))
}

/// The moment that a date and time mean.
fn resolve(written: &Written, found: &str, reference: &Reference) -> Result<Millis, TimeError> {
    if let Some(year) = written.year {
        let at =
            date_time(written, year).map_err(|what| TimeError::Invalid { found: found.to_owned(), what })?;
        return match written.offset {
            Some(offset) => {
                moment(at, offset).ok_or_else(|| TimeError::OutOfRange { found: found.to_owned() })
            }
            None => local(at, found, reference),
        };
    }
    let latest = reference.now.saturating_add(AHEAD);
    let this_year = jiff::Timestamp::from_millisecond(latest).unwrap_or_default();
    let this_year = this_year.to_zoned(reference.zone.clone()).year();
    let mut last_error = "such a date";
    for year in (this_year.saturating_sub(YEARS)..=this_year).rev() {
        let at = match date_time(written, year) {
            Ok(at) => at,
            Err(what) => {
                last_error = what;
                continue;
            }
        };
        let earliest = match written.offset {
            Some(offset) => moment(at, offset),
            None => reference.zone.to_ambiguous_timestamp(at).earlier().ok().map(|at| at.as_millisecond()),
        };
        if earliest.is_none_or(|earliest| earliest <= latest) {
            return match written.offset {
                Some(_) => earliest.ok_or_else(|| TimeError::OutOfRange { found: found.to_owned() }),
                None => local(at, found, reference),
            };
        }
    }
    Err(TimeError::Invalid { found: found.to_owned(), what: last_error })
}

/// A moment in local time, if there is exactly one.
fn local(at: DateTime, found: &str, reference: &Reference) -> Result<Millis, TimeError> {
    let both = |before: Offset, after: Offset| {
        [before, after]
            .map(|offset| format!("{}{}", at.strftime("%Y-%m-%dT%H:%M:%S%.f"), error::offset(offset)))
    };
    match reference.zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => {
            moment(at, offset).ok_or_else(|| TimeError::OutOfRange { found: found.to_owned() })
        }
        AmbiguousOffset::Fold { before, after } => {
            Err(TimeError::Twice { found: found.to_owned(), readings: both(before, after) })
        }
        AmbiguousOffset::Gap { before, after } => {
            Err(TimeError::Never { found: found.to_owned(), readings: both(before, after) })
        }
    }
}

fn moment(at: DateTime, offset: Offset) -> Option<Millis> {
    offset.to_timestamp(at).ok().map(|at| at.as_millisecond())
}

/// The date and time; otherwise what is not valid.
fn date_time(written: &Written, year: i16) -> Result<DateTime, &'static str> {
    let Written { month, day, hour, minute, second, thousandth, .. } = *written;
    let date = Date::new(year, month, day).map_err(|_| "such a date")?;
    let (second, thousandth) = if second == 60 { (59, 999) } else { (second, thousandth) };
    if hour > 23 || minute > 59 || second > 59 {
        return Err("such a time of day");
    }
    Ok(date.at(hour, minute, second, i32::from(thousandth) * 1_000_000))
}
