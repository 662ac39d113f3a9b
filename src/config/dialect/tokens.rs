//! White space, comments and quotes, which section headers, keys and values share.

/// Whether Python counts the character as white space: as Unicode does, plus four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The first position at or after `at` without white space.
pub(super) fn skip_space(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| !is_space(*c)).map_or(chars.len(), |n| at + n)
}

/// Whether only white space and a comment follow.
pub(super) fn only_comment_from(chars: &[char], at: usize) -> bool {
    matches!(chars.get(skip_space(chars, at)), None | Some('#'))
}

/// Removes the quotes from a text that begins and ends with the same quote. A lone quote becomes an empty text.
pub(super) fn unquote(chars: &[char]) -> String {
    match chars {
        ['"'] | ['\''] => String::new(),
        [first @ ('"' | '\''), inner @ .., last] if first == last => inner.iter().collect(),
        _ => chars.iter().collect(),
    }
}
