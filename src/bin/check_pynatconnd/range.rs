//! Ranges, as the guidelines for monitoring plugins define them.

use std::fmt;
use std::str::FromStr;

/// The values that cause no alert; with `@`, the values that cause one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Range {
    start: f64,
    end: f64,
    inside: bool,
    text: String,
}

impl Range {
    /// Whether a value causes an alert.
    pub(crate) fn alerts(&self, value: f64) -> bool {
        (self.start..=self.end).contains(&value) == self.inside
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("found \"{text}\", expected a range such as 80, 10:, ~:80, 10:80 or @10:80");
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            number.filter(|_| text.ends_with(|last: char| last.is_ascii_digit())).ok_or_else(invalid)
        };
        let (inside, rest) = text.strip_prefix('@').map_or((false, text), |rest| (true, rest));
        let (start, end) = match rest.split_once(':') {
            Some(("~", end)) => (f64::NEG_INFINITY, end),
            Some(("", _)) => return Err(invalid()),
            Some((start, end)) => (number(start)?, end),
            None if rest.is_empty() => return Err(invalid()),
            None => (0.0, rest),
        };
        let end = if end.is_empty() { f64::INFINITY } else { number(end)? };
        if start > end {
            return Err(format!("found \"{text}\", expected a range that does not begin above its end"));
        }
        Ok(Self { start, end, inside, text: text.to_owned() })
    }
}

/// The range as the option has it.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_alert_as_in_the_guidelines() {
        for (text, quiet, loud) in [
            ("10", &[0.0, 10.0][..], &[-0.1, 10.1][..]),
            ("10:", &[10.0, 1e9], &[9.9, -1.0]),
            ("~:10", &[10.0, -1e9], &[10.1]),
            ("10:20", &[10.0, 20.0], &[9.9, 20.1]),
            ("@10:20", &[9.9, 20.1], &[10.0, 20.0]),
            ("@10", &[-0.1, 10.1], &[0.0, 10.0]),
            ("-2.5:2.5", &[-2.5, 2.5], &[-2.6, 2.6]),
            ("0", &[0.0], &[0.1]),
        ] {
            let range: Range = text.parse().unwrap();
            assert!(quiet.iter().all(|value| !range.alerts(*value)), "{text}");
            assert!(loud.iter().all(|value| range.alerts(*value)), "{text}");
            assert_eq!(range.to_string(), text);
        }
    }

    #[test]
    fn invalid_ranges_are_rejected() {
        for text in ["", "@", ":", ":10", "x", "10:x", "20:10", "1 0", "80%", "nan", "inf", "~", "1:2:3"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
