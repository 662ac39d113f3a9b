//! The wrapper's use of process resources: memory, descriptors, and inherited sockets. The tests run one at a
//! time, in a process without other tests.
//!
//! Needs root. Without it each test prints a message and does nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lab::in_fresh_namespace;
use lab::samples::{create, masqueraded};
use nfct::{Events, Family, Groups, Query};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_dump_needs_no_more_memory_for_more_entries_and_leaks_nothing_when_stopped() {
    let _alone = alone();
    in_fresh_namespace(|| {
        let mut query = Query::open().unwrap();
        for port in 1..=20_000 {
            create(&mut query, masqueraded(port));
        }
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let resident = || {
            // Exact, unlike /proc/self/status.
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

#[test]
fn a_started_program_inherits_no_socket() {
    let _alone = alone();
    in_fresh_namespace(|| {
        let netlink = || {
            let listed = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            let sockets = listed.filter(|fd| {
                std::fs::read_link(fd.path())
                    .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
            });
            sockets.count()
        };
        let query = Query::open().unwrap();
        let events = Events::subscribe(Groups::ALL).unwrap();
        let expect = nfct::ExpectEvents::subscribe(nfct::ExpectGroups::ALL).unwrap();
        assert!(netlink() >= 3);
        // The shell lists its inherited descriptors.
        let output = std::process::Command::new("sh")
            .args(["-c", "ls -l /proc/$$/fd"])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("-> ") && !text.contains("socket:"), "{text}");
        drop((query, events, expect));
    });
}
