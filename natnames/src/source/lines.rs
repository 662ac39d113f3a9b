//! Lines of a file, in bounded memory.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// A longer line is not read.
pub(crate) const LONGEST_LINE: usize = 64 << 10;
/// What is shown of a line.
const SHOWN: usize = 80;

/// A line, without its line feed and a carriage return before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A whole line.
    Whole(&'a [u8]),
    /// The last line has no line feed: its writer may not have finished it.
    Unfinished(&'a [u8]),
    /// The begin of a line that is longer than [`LONGEST_LINE`]; the rest is skipped.
    TooLong(&'a [u8]),
}

/// Puts lines together from pieces.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    line: Vec<u8>,
    is_done: bool,
    is_too_long: bool,
}

impl Splitter {
    /// Takes bytes up to the end of a line. Returns how many it took, and whether the line is whole:
    /// [`Splitter::line`] has it until the next call.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        if std::mem::take(&mut self.is_done) {
            self.line.clear();
            self.is_too_long = false;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (content, taken) = end.map_or((bytes, bytes.len()), |end| (&bytes[..end], end + 1));
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.is_too_long |= content.len() > room;
        self.line.extend_from_slice(&content[..content.len().min(room)]);
        self.is_done = end.is_some();
        (taken, self.is_done)
    }

    /// The line.
    pub(crate) fn line(&self) -> Line<'_> {
        match () {
            () if self.is_too_long => Line::TooLong(&self.line),
            () if self.is_done => Line::Whole(self.line.strip_suffix(b"\r").unwrap_or(&self.line)),
            () => Line::Unfinished(&self.line),
        }
    }

    /// Forgets an unfinished line.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn is_empty(&self) -> bool {
        self.is_done || (self.line.is_empty() && !self.is_too_long)
    }
}

/// The lines of something that is read once.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    splitter: Splitter,
}

impl<R: Read> Lines<R> {
    /// The lines of this.
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(LONGEST_LINE, reader), splitter: Splitter::default() }
    }

    /// The next line; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                if self.splitter.is_empty() {
                    return Ok(None);
                }
                // A second call is the end.
                let line = std::mem::take(&mut self.splitter.line);
                let is_too_long = self.splitter.is_too_long;
                self.splitter = Splitter { line, is_done: true, is_too_long };
                let line = &self.splitter.line;
                return Ok(Some(if is_too_long { Line::TooLong(line) } else { Line::Unfinished(line) }));
            }
            let (taken, is_whole) = self.splitter.take(bytes);
            self.reader.consume(taken);
            if is_whole {
                return Ok(Some(self.splitter.line()));
            }
        }
    }
}

/// Counts lines that could not be read, for one warning each time that a file is read.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    lines: u64,
    first: Option<String>,
    has_warned: bool,
}

impl Unreadable {
    /// Counts a line.
    pub(crate) fn note(&mut self, line: &[u8]) {
        self.lines += 1;
        if self.first.is_none() {
            let line = String::from_utf8_lossy(&line[..line.len().min(4 * SHOWN)]);
            self.first = Some(line.chars().take(SHOWN).collect());
        }
    }

    /// Logs a warning if there were some, unless it did already: whoever can cause one such line can cause many.
    pub(crate) fn warn(&mut self, path: &Path) {
        if self.lines > 0 && !std::mem::replace(&mut self.has_warned, true) {
            log::warn!("names: {}: {self}", path.display());
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first.as_deref().unwrap_or_default();
        write!(f, "{} lines cannot be read and are skipped; the first is {first:?}", self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_in_pieces_and_long_ones_skipped() {
        let mut text = b"one\r\n\ntwo\n".to_vec();
        text.resize(text.len() + LONGEST_LINE, b'x');
        text.push(b'\n');
        text.resize(text.len() + 5 * LONGEST_LINE, b'y');
        text.extend_from_slice(b"\nthree");
        let mut lines = Lines::new(text.as_slice());
        let mut next = || {
            lines.next().unwrap().map(|line| match line {
                Line::Whole(line) => ("whole", line.len(), line.first().copied()),
                Line::Unfinished(line) => ("unfinished", line.len(), line.first().copied()),
                Line::TooLong(line) => ("too long", line.len(), line.first().copied()),
            })
        };
        assert_eq!(next(), Some(("whole", 3, Some(b'o'))));
        assert_eq!(next(), Some(("whole", 0, None)));
        assert_eq!(next(), Some(("whole", 3, Some(b't'))));
        assert_eq!(next(), Some(("whole", LONGEST_LINE, Some(b'x'))));
        assert_eq!(next(), Some(("too long", LONGEST_LINE, Some(b'y'))));
        assert_eq!(next(), Some(("unfinished", 5, Some(b't'))));
        assert_eq!(next(), None);
        assert_eq!(next(), None);
    }

    #[test]
    fn the_first_unreadable_line_is_shown_harmlessly() {
        let mut unreadable = Unreadable::default();
        unreadable.note(&[b"a\x1b\xff".as_slice(), &[b'z'; 500]].concat());
        unreadable.note(b"second");
        let text = unreadable.to_string();
        assert!(
            text.starts_with("2 lines cannot be read") && text.contains("\"a\\u{1b}\u{fffd}zz"),
            "{text}"
        );
        assert!(text.len() < 200 && unreadable.lines == 2);
    }
}
