//! A vector that grows without being copied: growing never stalls, and leaves no half unused.

const BITS: u32 = 12;
const CHUNK: usize = 1 << BITS;

#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    length: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), length: 0 }
    }
}

impl<T> Chunks<T> {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends an item; returns its place.
    pub(super) fn push(&mut self, item: T) -> u32 {
        let place = self.length;
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(item),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
        self.length += 1;
        u32::try_from(place).expect("fewer than 2^32 mappings fit into memory")
    }

    pub(super) fn get(&self, place: u32) -> &T {
        &self.chunks[(place >> BITS) as usize][place as usize & (CHUNK - 1)]
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut T {
        &mut self.chunks[(place >> BITS) as usize][place as usize & (CHUNK - 1)]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}
