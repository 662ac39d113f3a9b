//! The name of a segment.

use crate::segment::info::Info;
use crate::text::{compact_time, parse_compact_time};
use crate::time::Millis;

/// The name of a segment that is being made of a log.
pub(crate) const SEALING: &str = "segment.tmp";
/// The name of a segment that is being merged from others.
pub(crate) const MERGING: &str = "merge.tmp";
/// The names of segments that are not finished.
pub(crate) const UNFINISHED: [&str; 2] = [SEALING, MERGING];

const EXTENSION: &str = ".parquet";
/// The hexadecimal digits of the check.
pub(super) const CHECK_DIGITS: usize = 16;

/// What the name of a segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    /// The number of its first seal.
    pub(crate) first: u64,
    /// The number of its last seal.
    pub(crate) last: u64,
    /// The begin of its span.
    pub(crate) from: Millis,
    /// The end of its span.
    pub(crate) to: Millis,
    /// The first digits of the SHA-256 of its footer.
    pub(crate) check: String,
}

impl Name {
    pub(super) fn new(info: &Info, hash_of_footer: &str) -> Self {
        let check = hash_of_footer.get(..CHECK_DIGITS).unwrap_or(hash_of_footer).to_owned();
        Self { first: info.first, last: info.last, from: info.from, to: info.to, check }
    }

    /// The file's name.
    pub(crate) fn text(&self) -> String {
        let Self { first, last, from, to, check } = self;
        let (from, to) = (compact_time(*from), compact_time(*to));
        format!("{first:010}-{last:010}_{from}_{to}_{check}{EXTENSION}")
    }

    /// What this name says; `None` if it is not that of a segment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(EXTENSION)?.split('_');
        let (first, last) = parts.next()?.split_once('-')?;
        let name = Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            from: parse_compact_time(parts.next()?)?,
            to: parse_compact_time(parts.next()?)?,
            check: parts.next()?.to_owned(),
        };
        // Each segment has one name only.
        (name.text() == text && name.check.len() == CHECK_DIGITS && name.first <= name.last).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_as_it_is_written() {
        let info = Info::new("gateway", 7, 0, 1_795_788_312_313);
        let name = Name::new(&info, "0123456789abcdef0123");
        let text = "0000000007-0000000007_19700101T000000.000Z_20261127T140512.313Z_0123456789abcdef.parquet";
        assert_eq!(name.text(), text);
        assert_eq!(Name::parse(text), Some(name));
        for other in [SEALING, "x.parquet", &text.replace("07-", "08-"), &text.replace("-00", "-0"), ""] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
