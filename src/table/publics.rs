//! Which public addresses the table has had: a cheap answer to "can this address be one?".

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::packed::Address;

/// Bits of the set: with a thousand addresses, one of 65 other addresses seems to be in it.
const BITS: usize = 65_536;
/// 2^64 divided by the golden ratio, made odd: a multiplication spreads every bit to the highest ones.
const MIXER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A set of addresses that may seem to have others too, never fewer (a Bloom filter with one
/// hash function). It fits the processor's cache, unlike an index.
#[derive(Debug)]
pub(super) struct PublicAddresses {
    words: Box<[u64]>,
    hasher: DefaultHashBuilder,
}

impl PublicAddresses {
    pub(super) fn new() -> Self {
        Self { words: vec![0; BITS / 64].into_boxed_slice(), hasher: DefaultHashBuilder::default() }
    }

    #[inline]
    pub(super) fn insert<A: Address>(&mut self, address: A) {
        let bit = self.bit(address);
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// False only if the address was never inserted.
    #[inline]
    pub(super) fn may_contain<A: Address>(&self, address: A) -> bool {
        let bit = self.bit(address);
        self.words[bit / 64] & 1 << (bit % 64) != 0
    }

    #[inline]
    fn bit<A: Address>(&self, address: A) -> usize {
        let hash = self.hasher.hash_one(address.bits());
        // With some of its random seeds this hash maps a row of addresses to few values of any 16 bits.
        ((hash ^ hash >> 32).wrapping_mul(MIXER) >> (u64::BITS - BITS.ilog2())) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_was_inserted_is_there_and_little_else() {
        let mut publics = PublicAddresses::new();
        let address = |number: u32| Ipv4Addr::from(0x6440_0000 + number);
        assert!((0..1000).all(|number| !publics.may_contain(address(number))));
        (0..1000).for_each(|number| publics.insert(address(number)));
        assert!((0..1000).all(|number| publics.may_contain(address(number))));
        let others = (1000..101_000).filter(|number| publics.may_contain(address(*number))).count();
        assert!(others < 5_000, "{others} of 100,000");
    }
}
