//! Storage by slot number. Freed slots are used again. Growth never moves or
//! copies an element, so it takes no longer with millions of entries.

/// Elements per allocation. The kernel clears their memory at the first access. The
/// number is small, so that this does not hold the table's lock long.
const CHUNK: usize = 512;

/// A vector that grows chunk by chunk.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T: Copy> Chunks<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// The number of allocated elements.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Grows until `slot` exists; new elements are `fill`.
    pub(super) fn grow_to(&mut self, slot: u32, fill: T) {
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
