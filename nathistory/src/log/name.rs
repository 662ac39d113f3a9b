//! The name of a log.

const EXTENSION: &str = ".log";

/// The name of the log of which the segment with this number will be made.
pub(crate) fn log_name(number: u64) -> String {
    format!("{number:010}{EXTENSION}")
}

/// The number in a name; `None` if it is not that of a log.
pub(crate) fn parse_log_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(EXTENSION)?.parse().ok()?;
    (log_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_as_it_is_written() {
        assert_eq!(log_name(7), "0000000007.log");
        assert_eq!(parse_log_name("0000000007.log"), Some(7));
        for other in ["7.log", "+000000007.log", "0000000007", "x.log", ""] {
            assert_eq!(parse_log_name(other), None, "{other}");
        }
    }
}
