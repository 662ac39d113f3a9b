//! Times as the Python program wrote them: in the system's time zone.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

/// How often the system is asked for its time zone.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time zone of the system, and an offset between two changes of it: almost all lookups find mappings that are
/// younger than the last change.
struct Zone {
    zone: TimeZone,
    asked: Instant,
    offset: Offset,
    since: Timestamp,
    until: Timestamp,
}

thread_local! {
    static ZONE: RefCell<Option<Zone>> = const { RefCell::new(None) };
}

/// Writes milliseconds since the Unix epoch as `2026-11-21 07:34:27`. `now` decides whether the system is asked.
pub(super) fn write_local(milliseconds: u64, now: Instant, text: &mut Vec<u8>) {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let offset = ZONE.with_borrow_mut(|zone| match zone {
        Some(zone) if now.saturating_duration_since(zone.asked) < INTERVAL => zone.offset_at(time),
        _ => zone.insert(Zone::new(TimeZone::system(), now, time)).offset,
    });
    write(offset.to_datetime(time), text);
}

impl Zone {
    fn new(zone: TimeZone, asked: Instant, time: Timestamp) -> Self {
        let mut this =
            Self { zone, asked, offset: Offset::UTC, since: Timestamp::MAX, until: Timestamp::MIN };
        this.offset_at(time);
        this
    }

    fn offset_at(&mut self, time: Timestamp) -> Offset {
        if time < self.since || time >= self.until {
            self.offset = self.zone.to_offset(time);
            let change =
                |change: Option<jiff::tz::TimeZoneTransition<'_>>| change.map(|change| change.timestamp());
            self.until = change(self.zone.following(time).next()).unwrap_or(Timestamp::MAX);
            // A change at this very moment precedes the next nanosecond only.
            let next = time.checked_add(Duration::from_nanos(1)).unwrap_or(time);
            self.since = change(self.zone.preceding(next).next()).unwrap_or(Timestamp::MIN);
        }
        self.offset
    }
}

fn write(time: DateTime, text: &mut Vec<u8>) {
    let mut digits = *b"0000-00-00 00:00:00";
    let mut put = |at: usize, number: i8| {
        digits[at] += number.unsigned_abs() / 10;
        digits[at + 1] += number.unsigned_abs() % 10;
    };
    // It is not negative and has four digits: a timestamp cannot be later.
    let year = time.year();
    put(0, (year / 100) as i8);
    put(2, (year % 100) as i8);
    put(5, time.month());
    put(8, time.day());
    put(11, time.hour());
    put(14, time.minute());
    put(17, time.second());
    text.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_strftime_does() {
        for name in ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"] {
            let Ok(zone) = TimeZone::get(name) else { continue };
            let start = Timestamp::from_second(1_700_000_000).unwrap();
            let mut known = Zone::new(zone.clone(), Instant::now(), start);
            // Seconds before, at and after changes, forwards and backwards.
            let changes: Vec<_> = zone.following(start).take(6).map(|change| change.timestamp()).collect();
            let mut times = vec![Timestamp::UNIX_EPOCH, start];
            for change in changes.iter().chain(changes.iter().rev()) {
                for seconds in [-1, 0, 1, 86_400] {
                    times.push(*change + jiff::SignedDuration::from_secs(seconds));
                }
            }
            for time in times {
                let mut text = Vec::new();
                write(known.offset_at(time).to_datetime(time), &mut text);
                let expected = time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
                assert_eq!(String::from_utf8(text).unwrap(), expected, "{name}");
            }
        }
    }
}
