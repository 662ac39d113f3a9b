//! Names from outside: whoever asks for a lease chooses its name.

/// The most characters of a name. DNS has at most 253.
const LONGEST: usize = 255;

/// A text without what a terminal or a reader would take for something else: control characters and those that
/// change the direction of writing become U+FFFD. It is cut after 255 characters. `None` if nothing is left.
pub fn clean(text: &str) -> Option<String> {
    let text = text.trim();
    let is_harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let cleaned: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    (!cleaned.is_empty()).then_some(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmful_characters_are_replaced_and_long_names_cut() {
        assert_eq!(clean(" phone-7 "), Some("phone-7".to_owned()));
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{202e}"), Some("a\u{fffd}[2Jb\u{fffd}c\u{fffd}".to_owned()));
        assert_eq!(clean("Grüße"), Some("Grüße".to_owned()));
        assert_eq!(clean(" \t"), None);
        assert_eq!(clean(&"é".repeat(300)).unwrap().chars().count(), 255);
    }
}
