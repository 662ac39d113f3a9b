//! Storage by slot number, in chunks. Growth never moves or copies an element, so it takes no
//! longer with millions of entries. A chunk that is not needed any more gives its memory back.

/// Elements per allocation. The kernel clears their memory at the first access. The
/// number is small, so that this does not hold the table's lock long.
pub(super) const CHUNK: usize = 512;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// The chunk of a slot.
pub(super) fn chunk_of(slot: u32) -> usize {
    slot as usize / CHUNK
}

/// A vector that grows chunk by chunk.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    /// One that has been released is empty.
    chunks: Vec<Box<[T]>>,
}

impl<T: Copy> Chunks<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// The slots of all chunks, also of released ones: 0 up to this number.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// Whether a chunk has memory.
    pub(super) fn has(&self, chunk: usize) -> bool {
        self.chunks.get(chunk).is_some_and(|chunk| !chunk.is_empty())
    }

    /// Makes sure that the chunk of `slot` has memory; new elements are `fill`.
    pub(super) fn grow_to(&mut self, slot: u32, fill: T) {
        let chunk = chunk_of(slot);
        if !self.has(chunk) {
            self.chunks.resize_with(self.chunks.len().max(chunk + 1), Box::default);
            self.chunks[chunk] = vec![fill; CHUNK].into_boxed_slice();
        }
    }

    /// Gives the memory of a chunk back. Its elements must not be used before it grows again.
    pub(super) fn release(&mut self, chunk: usize) {
        if let Some(released) = self.chunks.get_mut(chunk) {
            *released = Box::default();
        }
        while self.chunks.last().is_some_and(|last| last.is_empty()) {
            self.chunks.pop();
        }
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> &T {
        &self.chunks[chunk_of(slot)][slot as usize % CHUNK]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[chunk_of(slot)][slot as usize % CHUNK]
    }
}
