//! The value after an equals sign: a text or a list, quoted or not, with an optional comment.
//!
//! A list has members that end with a comma, and can have a last member without one. A value without a
//! comma is a text. A quoted member ends at the first quote of its kind that lets the parser read the rest,
//! so `"a" "b"` is one text with quotes in it. A `#` outside quotes ends the last member, even without white
//! space before it. The other members cannot contain a `#`.

use std::fmt;

use super::tokens::{is_space, only_comment_from, skip_space, unquote};

/// A value as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) enum ConfigValue {
    /// A single text, which can be empty.
    Text(String),
    /// A value with a comma outside quotes. A comma alone is the empty list.
    List(Vec<String>),
}

/// The value as a file can have it, without quotes.
impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigValue::Text(text) => f.write_str(text),
            ConfigValue::List(members) if members.len() < 2 => write!(f, "{},", members.concat()),
            ConfigValue::List(members) => f.write_str(&members.join(", ")),
        }
    }
}

/// Reads a value that ends on its line. The error is the text that was expected.
pub(in crate::config) fn parse(text: &str) -> Result<ConfigValue, &'static str> {
    let chars: Vec<char> = text.chars().collect();
    let Some(last) = start_of_last(&chars) else {
        // A comma alone is the empty list: a member cannot be empty.
        let empty_list = chars.first() == Some(&',') && only_comment_from(&chars, 1);
        return if empty_list { Ok(ConfigValue::List(Vec::new())) } else { Err(mistake(&chars)) };
    };
    let end = end_of_last(&chars, last).unwrap_or(last);
    if last == 0 {
        return Ok(ConfigValue::Text(unquote(&chars[..end])));
    }
    let mut members = split(&chars[..last]).ok_or(EMPTY_MEMBER)?;
    if end > last {
        members.push(unquote(&chars[last..end]));
    }
    Ok(ConfigValue::List(members))
}

const EMPTY_MEMBER: &str = "a list member between two commas (\"\" for an empty text)";

/// The most likely reason why a value cannot be read.
fn mistake(chars: &[char]) -> &'static str {
    match chars.first() {
        Some(',') => EMPTY_MEMBER,
        Some('"' | '\'') => "the same quote at the end of the quoted text, then only a comma or a comment",
        _ if chars.iter().any(|c| *c == '"' || *c == '\'') => {
            "quotes around the complete list member, or no quotes"
        }
        _ => EMPTY_MEMBER,
    }
}

/// Finds where the last member begins. This can be the end of the text or a comment.
///
/// ConfigObj prefers as many members as possible, each as short as possible. If the rest then cannot be read,
/// it tries a longer member, or one that begins with white space. This search runs backwards. At each position
/// the result for the rest is known already, so no position is searched twice.
fn start_of_last(chars: &[char]) -> Option<usize> {
    // after[i]: where the last member begins if reading starts at i.
    let mut after: Vec<Option<usize>> = vec![None; chars.len() + 1];
    for start in (0..=chars.len()).rev() {
        let member = |comma: usize| {
            let next = skip_space(chars, comma + 1);
            (comma + 1..=next).rev().find_map(|next| after[next])
        };
        let with_member = match chars.get(start) {
            Some(quote @ ('"' | '\'')) => (start + 1..chars.len())
                .filter(|at| chars[*at] == *quote)
                .filter_map(|at| comma_at(chars, skip_space(chars, at + 1)))
                .find_map(member),
            None | Some(',' | '#') => None,
            Some(_) => {
                let stop = chars[start..].iter().position(|c| matches!(c, ',' | '#')).map(|n| start + n);
                stop.and_then(|at| comma_at(chars, at)).and_then(member)
            }
        };
        after[start] = with_member.or_else(|| end_of_last(chars, start).map(|_| start));
    }
    after[0]
}

fn comma_at(chars: &[char], at: usize) -> Option<usize> {
    (chars.get(at) == Some(&',')).then_some(at)
}

/// Where the last member ends that begins at `start`, if only a comment follows it.
fn end_of_last(chars: &[char], start: usize) -> Option<usize> {
    match chars.get(start) {
        Some(quote @ ('"' | '\'')) => (start + 1..chars.len())
            .filter(|at| chars[*at] == *quote)
            .map(|at| at + 1)
            .find(|end| only_comment_from(chars, *end)),
        Some(c) if !is_space(*c) && !matches!(c, ',' | '#') => {
            let stop = chars[start..].iter().position(|c| matches!(c, ',' | '#')).map(|n| start + n);
            let end = stop.unwrap_or(chars.len());
            if comma_at(chars, end).is_some() {
                return None;
            }
            Some(end - chars[start..end].iter().rev().take_while(|c| is_space(**c)).count())
        }
        _ => only_comment_from(chars, start).then_some(start),
    }
}

/// Splits members that each end with a comma. `None` if a member is empty.
///
/// A quote without a closing quote before a comma is an ordinary character, as in `a, 5", b`.
fn split(row: &[char]) -> Option<Vec<String>> {
    let mut members = Vec::new();
    let mut start = 0;
    while start < row.len() {
        let quoted = match row[start] {
            quote @ ('"' | '\'') => (start + 1..row.len())
                .filter(|at| row[*at] == quote)
                .map(|at| at + 1)
                .find_map(|end| Some((end, comma_at(row, skip_space(row, end))?))),
            _ => None,
        };
        let plain = || {
            let comma = start + row[start..].iter().position(|c| *c == ',')?;
            let blank = row[start..comma].iter().rev().take_while(|c| is_space(**c)).count();
            Some((comma - blank, comma))
        };
        let Some((end, comma)) = quoted.or_else(plain) else { break };
        if end == start {
            return None;
        }
        members.push(unquote(&row[start..end]));
        start = skip_space(row, comma + 1);
    }
    Some(members)
}

/// Reads a value between triple quotes, which can continue on the following lines. Returns the text and the
/// number of following lines that belong to it, or `None` if the value does not begin with triple quotes.
pub(super) fn triple_quoted(text: &str, following: &[&str]) -> Option<Result<(String, usize), &'static str>> {
    let quotes = ["\"\"\"", "'''"].into_iter().find(|quotes| text.starts_with(quotes))?;
    let first = &text[quotes.len()..];
    if let Some(inner) = before_closing(first, quotes) {
        return Some(Ok((inner.to_owned(), 0)));
    }
    const ONLY_COMMENT: &str = "only a comment after the closing triple quotes";
    if first.contains(quotes) {
        return Some(Err(ONLY_COMMENT));
    }
    let Some(last) = following.iter().position(|line| line.contains(quotes)) else {
        return Some(Err("closing triple quotes before the end of the file"));
    };
    Some(match before_closing(following[last], quotes) {
        None => Err(ONLY_COMMENT),
        Some(inner) => {
            let mut lines = vec![first];
            lines.extend(&following[..last]);
            lines.push(inner);
            Ok((lines.join("\n"), last + 1))
        }
    })
}

/// The text before the first closing quotes that only a comment follows.
fn before_closing<'a>(line: &'a str, quotes: &str) -> Option<&'a str> {
    let starts = line.char_indices().map(|(at, _)| at);
    let mut closing = starts.filter(|at| line[*at..].starts_with(quotes));
    let end = closing.find(|at| {
        let rest = line[at + quotes.len()..].trim_start_matches(is_space);
        rest.is_empty() || rest.starts_with('#')
    })?;
    Some(&line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(members: &[&str]) -> Result<ConfigValue, &'static str> {
        Ok(ConfigValue::List(members.iter().map(|member| (*member).to_owned()).collect()))
    }

    fn text(text: &str) -> Result<ConfigValue, &'static str> {
        Ok(ConfigValue::Text(text.to_owned()))
    }

    #[test]
    fn a_comment_ends_a_value_unless_it_is_quoted() {
        assert_eq!(parse("a#b"), text("a"));
        assert_eq!(parse("'a#b' # c"), text("a#b"));
        assert_eq!(parse("# a"), text(""));
        assert_eq!(parse("a, b # c, d"), list(&["a", "b"]));
        assert_eq!(parse("a # b, c"), text("a"));
    }

    #[test]
    fn commas_separate_list_members() {
        assert_eq!(parse(","), list(&[]));
        assert_eq!(parse("a,"), list(&["a"]));
        assert_eq!(parse("\"a, b\", ''"), list(&["a, b", ""]));
        assert_eq!(parse("a,,b"), Err(EMPTY_MEMBER));
        assert_eq!(parse(",a"), Err(EMPTY_MEMBER));
    }

    #[test]
    fn a_long_list_does_not_overflow_the_stack() {
        let Ok(ConfigValue::List(members)) = parse(&"a, ".repeat(50_000)) else {
            panic!("this must be a list")
        };
        assert_eq!(members.len(), 50_000);
    }
}
