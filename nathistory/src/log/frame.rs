//! One frame of a log: a mark, the payload's length, a number, a checksum, and the payload.

/// Where a frame begins. After damaged bytes, the next frame is searched by it.
const MARK: [u8; 4] = *b"NHf\x01";
/// The bytes before the payload.
pub(crate) const HEAD: usize = 16;
/// The longest payload in bytes. A length above it is damaged.
pub(crate) const LONGEST: usize = 16 << 20;

/// A frame that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Its number in the file, from 0 on.
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Begins a frame at the end of `out`. What follows, until [`finish`], is its payload.
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    start
}

/// Writes the head of the frame that begins at `start`.
pub(crate) fn finish(out: &mut [u8], start: usize, sequence: u32) {
    let frame = &mut out[start..];
    let length = u32::try_from(frame.len() - HEAD).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&MARK);
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..12].copy_from_slice(&sequence.to_le_bytes());
    let checksum = checksum(frame);
    frame[12..16].copy_from_slice(&checksum.to_le_bytes());
}

/// The CRC32C of length, number and payload.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[4..12]), &frame[HEAD..])
}

/// The frame at the begin of `bytes`, if there is a whole one.
pub(crate) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if !bytes.starts_with(&MARK) {
        return None;
    }
    let (length, sequence, expected) = (number(4)? as usize, number(8)?, number(12)?);
    if length > LONGEST {
        return None;
    }
    let frame = bytes.get(..HEAD + length)?;
    (checksum(frame) == expected).then_some(Frame { sequence, payload: &frame[HEAD..] })
}

/// The offset, from `from` on, of the next whole frame with a number of at least `sequence`.
pub(crate) fn find(bytes: &[u8], from: usize, sequence: u32) -> Option<usize> {
    let mut at = from;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEAD) {
        at += rest.windows(MARK.len()).position(|window| window == MARK)?;
        if read(&bytes[at..]).is_some_and(|frame| frame.sequence >= sequence) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for sequence in 0..3 {
            let start = begin(&mut bytes);
            bytes.extend_from_slice(&[7; 20][..(sequence as usize + 1) * 5]);
            finish(&mut bytes, start, sequence);
            starts.push(start);
        }
        (bytes, starts)
    }

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let (bytes, starts) = frames();
        assert_eq!(read(&bytes[starts[1]..]).unwrap(), Frame { sequence: 1, payload: &[7; 10] });
        for at in starts[1]..starts[2] {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(read(&changed[starts[1]..]), None, "{at} {bit}");
                assert_eq!(find(&changed, starts[1], 1), Some(starts[2]));
            }
        }
        for length in 0..bytes.len() - starts[2] {
            assert_eq!(read(&bytes[starts[2]..starts[2] + length]), None);
        }
        // A frame that was read before is not read again.
        assert_eq!(find(&bytes, 0, 2), Some(starts[2]));
        assert_eq!(find(&bytes, 0, 3), None);
    }
}
