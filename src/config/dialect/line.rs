//! One line: a section header, or a key with the beginning of its value.

use super::tokens::{is_space, only_comment_from, skip_space, unquote};

/// A section header with the number of its brackets. The caller rejects numbers that differ.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) opened: usize,
    pub(super) closed: usize,
    pub(super) name: String,
}

/// Whether a line is empty or a comment. Only `#` begins a comment, `;` does not.
pub(super) fn is_blank_or_comment(line: &str) -> bool {
    matches!(line.chars().find(|c| !is_space(*c)), None | Some('#'))
}

/// Reads `[name]`, `[[name]]` and so on. `None` if the line is not a header; it can still be a key
/// (`[a] = b` is the key `[a]`).
pub(super) fn header(line: &str) -> Option<Header> {
    let chars: Vec<char> = line.chars().collect();
    let mut starts = Vec::new();
    let mut at = skip_space(&chars, 0);
    while chars.get(at) == Some(&'[') {
        at = skip_space(&chars, at + 1);
        starts.push(at);
    }
    // All brackets open the section, unless no name remains: `[[]` is a section called `[`.
    (1..=starts.len()).rev().find_map(|opened| {
        let start = starts[opened - 1];
        let (end, closed) = name_end(&chars, start)?;
        Some(Header { opened, closed, name: unquote(&chars[start..end]) })
    })
}

/// The end of the shortest name from `start` that only closing brackets and a comment follow, and the number
/// of these brackets.
fn name_end(chars: &[char], start: usize) -> Option<(usize, usize)> {
    let first = *chars.get(start)?;
    if first != '"' && first != '\'' {
        return (start + 1..chars.len()).find_map(|end| Some((end, closing_brackets(chars, end)?)));
    }
    let closing = (start + 1..chars.len()).filter(|at| chars[*at] == first);
    closing.filter(|at| !chars[start + 1..*at].iter().all(|c| is_space(*c))).find_map(|at| {
        let end = at + 1;
        Some((end, closing_brackets(chars, end)?))
    })
}

/// The number of closing brackets, if only brackets and a comment follow.
fn closing_brackets(chars: &[char], mut at: usize) -> Option<usize> {
    let mut count = 0;
    loop {
        at = skip_space(chars, at);
        if chars.get(at) != Some(&']') {
            break;
        }
        (at, count) = (at + 1, count + 1);
    }
    (count > 0 && only_comment_from(chars, at)).then_some(count)
}

/// Splits `key = value` at its equals sign: the key without quotes, and the value unchanged.
pub(super) fn key(line: &str) -> Option<(String, &str)> {
    let chars: Vec<char> = line.chars().collect();
    let indent = skip_space(&chars, 0);
    // White space before the name belongs to the name only if the name would be empty without it.
    let (name, equals) =
        name_from(&chars, indent).or_else(|| indent.checked_sub(1).and_then(|at| name_from(&chars, at)))?;
    let value = line.char_indices().nth(equals).map_or("", |(at, _)| &line[at + 1..]);
    Some((name, value.trim_start_matches(is_space)))
}

/// The key that begins at `start`, and the position of the equals sign after it.
fn name_from(chars: &[char], start: usize) -> Option<(String, usize)> {
    match *chars.get(start)? {
        '=' => None,
        quote @ ('"' | '\'') => {
            let mut closing = (start + 1..chars.len()).filter(|at| chars[*at] == quote);
            closing.find_map(|at| {
                let equals = skip_space(chars, at + 1);
                (chars.get(equals) == Some(&'=')).then(|| (unquote(&chars[start..=at]), equals))
            })
        }
        _ => {
            let equals = start + 1 + chars[start + 1..].iter().position(|c| *c == '=')?;
            let blank = chars[start + 1..equals].iter().rev().take_while(|c| is_space(**c)).count();
            Some((unquote(&chars[start..equals - blank]), equals))
        }
    }
}
