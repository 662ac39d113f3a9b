//! Giving memory back that the C library's allocator keeps.

/// Gives memory back to the system that the C library's allocator keeps although nothing uses it:
/// after a burst of events or a large dump that can be hundreds of megabytes. Returns whether it gave
/// some back. Each part of the heap is locked while it is searched, which takes some milliseconds
/// after such a burst; so do not call it often.
///
/// This is `malloc_trim(3)` of glibc. With another C library it does nothing and returns false.
///
/// ```
/// nfct::release_unused_memory();
/// ```
pub fn release_unused_memory() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) may be called at any time and by any thread. It releases only pages
        // that hold no allocated memory.
        unsafe { libc::malloc_trim(0) != 0 }
    }
    #[cfg(not(target_env = "gnu"))]
    false
}
