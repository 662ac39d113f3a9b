//! Whether this thread holds the lock of the table. Everybody waits for that lock, so its holder
//! must not read files or write to the log: debug builds check this.

use std::cell::Cell;

thread_local! {
    static IS_HELD: Cell<bool> = const { Cell::new(false) };
}

/// Notes that this thread has taken the lock, or has released it.
#[inline]
pub fn note(is_held: bool) {
    if cfg!(debug_assertions) {
        IS_HELD.set(is_held);
    }
}

/// Panics in a debug build if this thread holds the lock.
#[inline]
#[track_caller]
pub fn forbid(doing: &str) {
    debug_assert!(!IS_HELD.get(), "{doing} while the table's lock is held");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_block_is_forbidden_while_the_lock_is_held() {
        let read = || std::panic::catch_unwind(crate::proc::conntrack_buckets).is_ok();
        assert!(read());
        note(true);
        assert!(!read());
        note(false);
        assert!(read());
    }
}
