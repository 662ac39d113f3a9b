//! Decodes a file: UTF-8 with or without a byte order mark, or UTF-16 with one.

use super::fault::Fault;

pub(super) fn decode(bytes: &[u8]) -> Result<String, Fault> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Fault> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.to_owned()),
        Err(error) => error,
    };
    let at = error.valid_up_to();
    let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    Err(Fault::new(line, &format!("the byte 0x{:02x}", bytes[at]), "text in UTF-8"))
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, Fault> {
    let (pairs, odd) = (bytes.chunks_exact(2), bytes.len() % 2 == 1);
    let mut text = String::new();
    for decoded in char::decode_utf16(pairs.map(|pair| unit([pair[0], pair[1]]))) {
        match decoded {
            Ok(c) => text.push(c),
            Err(error) => {
                let found = format!("the lone surrogate 0x{:04x}", error.unpaired_surrogate());
                return Err(Fault::new(
                    lines(&text),
                    &found,
                    "text in UTF-16, as the byte order mark announces",
                ));
            }
        }
    }
    if odd {
        return Err(Fault::new(lines(&text), "half a character at the end", "text in UTF-16"));
    }
    Ok(text)
}

/// The line on which a text ends.
fn lines(text: &str) -> usize {
    1 + text.matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_is_read_in_both_byte_orders() {
        assert_eq!(decode(b"\xff\xfea\0=\0\xe9\0").unwrap(), "a=\u{e9}");
        assert_eq!(decode(b"\xfe\xff\0a\0=\0\xe9").unwrap(), "a=\u{e9}");
    }

    #[test]
    fn a_fault_names_the_line_of_the_invalid_bytes() {
        let fault = decode(b"a = 1\nb = \xff\n").unwrap_err();
        assert_eq!((fault.line, fault.found.as_str()), (2, "the byte 0xff"));
        assert_eq!(decode(b"\xff\xfea\0\n\0=").unwrap_err().line, 2);
        assert_eq!(decode(b"\xff\xfe\x00\xd8").unwrap_err().found, "the lone surrogate 0xd800");
    }
}
