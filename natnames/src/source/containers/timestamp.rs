//! Timestamps as Go writes them: RFC 3339 with up to nine digits of a second.

/// Nanoseconds since 1970. `None` if it is no timestamp, or lies before 1970 as Go's zero does, or after 2262.
pub(super) fn parse_nanoseconds(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at_checked(zone)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.split(':');
    let (hour, minute, second) =
        (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    let is_real =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if date.next().is_some() || time.next().is_some() || !is_real {
        return None;
    }
    let digits = fraction.len();
    let fraction = number(fraction, digits).filter(|_| (1..=9).contains(&digits))?;
    let nanoseconds = fraction * 10_i64.pow(9 - u32::try_from(digits).ok()?);
    let seconds =
        days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset(zone)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds).filter(|at| *at >= 0)
}

/// A number of so many decimal digits; at most 9, so that it fits.
fn number(text: &str, digits: usize) -> Option<i64> {
    let is_number = text.len() == digits && digits <= 9 && text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Seconds east of Greenwich.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (number(hours, 2)? * 3_600 + number(minutes, 2)? * 60))
}

/// Days of the Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // A year that begins in March has its leap day at its end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From 0000-03-01 to 1970-01-01 there are 719,468 days.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_of_docker_and_podman_are_read() {
        for (text, nanoseconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-05-04T10:00:00.123456789Z", 1_683_194_400_123_456_789),
            ("2023-05-04T12:00:00.1234567+02:00", 1_683_194_400_123_456_700),
            ("2023-05-04T04:30:00-05:30", 1_683_194_400_000_000_000),
            ("2024-02-29T23:59:60Z", 1_709_251_200_000_000_000),
            ("2026-11-28T00:10:05.728944232Z", 1_795_824_605_728_944_232),
        ] {
            assert_eq!(parse_nanoseconds(text), Some(nanoseconds), "{text}");
        }
        for text in [
            "",
            "0001-01-01T00:00:00Z",
            "9999-01-01T00:00:00Z",
            "2023-05-04",
            "2023-05-04T10:00:00",
            "2023-05-04T10:00Z",
            "2023-13-04T10:00:00Z",
            "2023-05-04T10:00:00.Z",
            "2023-05-04T10:00:00.1234567890Z",
            "2023-05-04T10:00:00+1",
            "+023-05-04T10:00:00Z",
            "2023-05-04T10:00:00é",
            "2023-05-04T10:00:00Zé",
        ] {
            assert_eq!(parse_nanoseconds(text), None, "{text}");
        }
    }
}
