//! Which closed mappings had a public end.
//!
//! A hash table of millions of ends is larger than the processor's caches, and each mapping that closes would wait for
//! memory. So ends are collected, and sorted once there are enough for a block. A question looks into each block.

/// The entries of a block: sorting it fits into the processor's caches, and takes less than a millisecond.
const BLOCK: usize = 1 << 14;
/// An entry is hardly ever further from where its fingerprint belongs than that: fingerprints are spread evenly.
const WINDOW: usize = 256;

/// Places, by the fingerprint of a public end. An entry has the fingerprint in its upper half.
#[derive(Debug, Default)]
pub(super) struct Ends {
    blocks: Vec<Vec<u64>>,
    /// Not sorted yet.
    last: Vec<u64>,
}

impl Ends {
    pub(super) fn push(&mut self, fingerprint: u32, place: u32) {
        self.last.push(u64::from(fingerprint) << 32 | u64::from(place));
        if self.last.len() == BLOCK {
            self.last.sort_unstable();
            self.blocks.push(std::mem::replace(&mut self.last, Vec::with_capacity(BLOCK)));
        }
    }

    /// The places with this fingerprint.
    pub(super) fn places(&self, fingerprint: u32) -> impl Iterator<Item = u32> {
        let is_equal = move |entry: &&u64| **entry >> 32 == u64::from(fingerprint);
        let sorted = self
            .blocks
            .iter()
            .flat_map(move |block| block[first(block, fingerprint)..].iter().take_while(is_equal));
        sorted.chain(self.last.iter().filter(is_equal)).map(|entry| *entry as u32)
    }
}

/// Where the entries with this fingerprint begin, or would.
fn first(block: &[u64], fingerprint: u32) -> usize {
    let least = u64::from(fingerprint) << 32;
    let guess = ((u64::from(fingerprint) * block.len() as u64) >> 32) as usize;
    let (from, to) = (guess.saturating_sub(WINDOW), (guess + WINDOW).min(block.len()));
    let is_before = |entry: &u64| *entry < least;
    let is_inside =
        (from == 0 || is_before(&block[from - 1])) && block.get(to).is_none_or(|entry| !is_before(entry));
    let (from, to) = if is_inside { (from, to) } else { (0, block.len()) };
    from + block[from..to].partition_point(is_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_found_by_its_fingerprint() {
        // Spread evenly, all low, and many that are equal.
        let spreads: [fn(u32) -> u32; 3] =
            [|at| at.wrapping_mul(0x9e37_79b9), |at| at / 3, |at| (at % 5).wrapping_neg()];
        for fingerprint in spreads {
            let mut ends = Ends::default();
            let count = 2 * BLOCK as u32 + 1000;
            (0..count).for_each(|place| ends.push(fingerprint(place), place));
            for place in (0..count).step_by(997) {
                let mut found: Vec<u32> = ends.places(fingerprint(place)).collect();
                found.sort_unstable();
                let expected = (0..count).filter(|other| fingerprint(*other) == fingerprint(place));
                assert!(found.into_iter().eq(expected), "{place}");
            }
            assert_eq!(
                ends.places(0x8000_0001).count(),
                (0..count).filter(|at| fingerprint(*at) == 0x8000_0001).count()
            );
        }
    }
}
