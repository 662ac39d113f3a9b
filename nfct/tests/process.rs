//! What a dump takes of this process, which has no other test that would disturb the figures.
//!
//! Needs root; elsewhere it says so and does nothing.

use nfct::{Family, Query};

use lab::in_fresh_namespace;
use lab::samples::{create, masqueraded};

#[test]
fn a_dump_needs_no_more_memory_for_more_entries_and_leaves_nothing_when_it_is_stopped() {
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for port in 1..=20_000 {
            create(&mut query, masqueraded(port));
        }
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let resident = || {
            // Counted exactly, which /proc/self/status is not.
            let memory = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = memory.lines().find(|line| line.starts_with("Rss:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        let small = resident();
        assert_eq!(query.dump(Family::Any).unwrap().count(), 20_000);
        // As plain values they would take 3 MB.
        let before = (descriptors(), resident());
        assert!(before.1 < small + 1000, "KiB: {small}, {before:?}");
        for round in 0..40 {
            let mut dump = query.dump(Family::Any).unwrap();
            assert!(dump.by_ref().take(10).all(|entry| entry.is_ok()));
            assert!(!dump.was_interrupted());
            if round % 8 == 0 { drop(dump) } else { dump.abandon() }
        }
        assert_eq!(query.count().unwrap().entries, 20_000);
        let after = (descriptors(), resident());
        assert_eq!(after.0, before.0, "descriptors");
        assert!(after.1 < before.1 + 1000, "KiB: {before:?}, {after:?}");
    });
}
