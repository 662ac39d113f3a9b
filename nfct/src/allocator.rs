//! Free memory of the process.

/// Gives memory that is free, but kept by the C library's allocator, back to the
/// system. Returns whether there was some.
///
/// A program that follows connections needs much memory for a burst of them. glibc
/// keeps most of it afterwards. Call this when a burst is over. It takes a few
/// milliseconds, during which other threads may wait for memory. With another C
/// library than glibc it does nothing.
///
/// ```
/// let burst: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 4096]).collect();
/// drop(burst);
/// nfct::release_memory();
/// ```
pub fn release_memory() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: `malloc_trim` has no precondition. It takes the allocator's locks, so
        // it can be called in any thread, and it changes free memory only.
        unsafe { libc::malloc_trim(0) != 0 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}
