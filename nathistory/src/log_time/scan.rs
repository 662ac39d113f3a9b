//! Finds the parts of a written time.

use jiff::tz::Offset;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The parts of a time as they are written. They may be too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// `None` in syslog.
    pub(super) year: Option<i16>,
    pub(super) month: i8,
    pub(super) day: i8,
    pub(super) hour: i8,
    pub(super) minute: i8,
    pub(super) second: i8,
    pub(super) thousandth: i16,
    /// `None` for local time.
    pub(super) offset: Option<Offset>,
}

/// The thousandths of a second of digits behind a decimal point. What is smaller is cut off.
pub(super) fn thousandths(digits: &str) -> i16 {
    let digit = |at: usize| digits.as_bytes().get(at).map_or(0, |digit| i16::from(digit - b'0'));
    digit(0) * 100 + digit(1) * 10 + digit(2)
}

/// The text that is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    /// A date and a time of day, and nothing behind them.
    pub(super) fn time(mut self) -> Option<Written> {
        match self.rest.bytes().take_while(u8::is_ascii_digit).count() {
            4 => self.year_first(),
            1 | 2 => self.day_first(),
            0 => self.month_first(),
            _ => None,
        }
    }

    /// `2026-11-21T09:12:30.385Z`, `2026/11/21 09:12:30`.
    fn year_first(&mut self) -> Option<Written> {
        let year = self.number(4, 4)?;
        let separator = ['-', '/'].into_iter().find(|separator| self.skip(*separator))?;
        let month = self.small(2, 2)?;
        let day = self.skip(separator).then(|| self.small(2, 2)).flatten()?;
        if !self.skip('T') && !self.skip('t') && !self.spaces() {
            return None;
        }
        let time = self.time_of_day()?;
        let offset = self.offset()?;
        Some(Written { year: Some(year), month, day, offset, ..time })
    }

    /// `21/Nov/2026:10:12:30 +0100`.
    fn day_first(&mut self) -> Option<Written> {
        let day = self.small(1, 2)?;
        let month = self.skip('/').then(|| self.name(&MONTHS)).flatten()?;
        let year = self.skip('/').then(|| self.number(4, 4)).flatten()?;
        if !self.skip(':') && !self.spaces() {
            return None;
        }
        let time = self.time_of_day()?;
        let offset = self.offset()?;
        Some(Written { year: Some(year), month: month + 1, day, offset, ..time })
    }

    /// `Nov 21 10:12:30`, `Sat Nov 21 10:12:30.385012 2026`.
    fn month_first(&mut self) -> Option<Written> {
        if self.name(&WEEKDAYS).is_some() && !self.spaces() {
            return None;
        }
        let month = self.name(&MONTHS)?;
        let day = self.spaces().then(|| self.small(1, 2)).flatten()?;
        if !self.spaces() {
            return None;
        }
        let time = self.time_of_day()?;
        // Four digits can be a year or an offset whose plus has become a space. No offset is as large as a year.
        let mut behind = *self;
        let year = behind.spaces().then(|| behind.number(4, 4)).flatten().filter(|year| *year >= 1970);
        if year.is_some() {
            *self = behind;
        }
        let offset = self.offset()?;
        Some(Written { year, month: month + 1, day, offset, ..time })
    }

    /// `09:12:30`, with or without a fraction.
    fn time_of_day(&mut self) -> Option<Written> {
        let hour = self.small(2, 2)?;
        let minute = self.skip(':').then(|| self.small(2, 2)).flatten()?;
        let second = self.skip(':').then(|| self.small(2, 2)).flatten()?;
        let thousandth = match self.skip('.') || self.skip(',') {
            true => thousandths(self.digits(1, usize::MAX)?),
            false => 0,
        };
        Some(Written { year: None, month: 0, day: 0, hour, minute, second, thousandth, offset: None })
    }

    /// The offset at the end of the text: none, `Z`, `UTC`, `+0100`, `-07:00`, `+01`, or the same with a space for the
    /// plus.
    fn offset(&mut self) -> Option<Option<Offset>> {
        let has_space = self.spaces();
        if self.rest.is_empty() {
            return Some(None);
        }
        if ["z", "utc", "gmt"].iter().any(|name| self.rest.eq_ignore_ascii_case(name)) {
            return Some(Some(Offset::UTC));
        }
        let sign = match (self.skip('-'), self.skip('+')) {
            (true, false) => -1,
            (false, true) => 1,
            (false, false) if has_space => 1,
            _ => return None,
        };
        let hours: i32 = self.small(2, 2)?.into();
        self.skip(':');
        let minutes: i32 = if self.rest.is_empty() { 0 } else { self.small(2, 2)?.into() };
        if !self.rest.is_empty() || hours > 15 || minutes > 59 {
            return None;
        }
        Offset::from_seconds(sign * (hours * 60 + minutes) * 60).ok().map(Some)
    }

    fn skip(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Skips spaces; returns whether there were any.
    fn spaces(&mut self) -> bool {
        let rest = self.rest.trim_start_matches(' ');
        let has_any = rest.len() < self.rest.len();
        self.rest = rest;
        has_any
    }

    /// The number of a name of three letters.
    fn name(&mut self, names: &[&str]) -> Option<i8> {
        let (name, rest) = self.rest.split_at_checked(3)?;
        let at = names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        self.rest = rest;
        i8::try_from(at).ok()
    }

    fn digits(&mut self, least: usize, most: usize) -> Option<&'a str> {
        let count = self.rest.bytes().take_while(u8::is_ascii_digit).take(most).count();
        let (digits, rest) = self.rest.split_at_checked(count).filter(|_| count >= least)?;
        self.rest = rest;
        Some(digits)
    }

    fn number(&mut self, least: usize, most: usize) -> Option<i16> {
        self.digits(least, most)?.parse().ok()
    }

    fn small(&mut self, least: usize, most: usize) -> Option<i8> {
        self.digits(least, most)?.parse().ok()
    }
}
