//! Storage by slot number: freed slots are used again, and growing never moves
//! or copies what is there, so that it takes no longer with millions of entries.

/// Elements allocated together: so few that the first touch of their memory,
/// which is the kernel's work, does not hold the table's lock long.
const CHUNK: usize = 512;

/// A vector that grows by whole chunks.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T: Copy> Chunks<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Makes sure that `slot` exists; new elements are `fill`.
    pub(super) fn reach(&mut self, slot: u32, fill: T) {
        while slot as usize >= self.len() {
            self.chunks.push(vec![fill; CHUNK].into_boxed_slice());
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> &T {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}
