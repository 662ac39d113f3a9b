//! The namespace of the calling thread: a fresh one for a test that needs no gateway, and programs in it.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::netns::run;

/// Runs `test` on a thread in a fresh network namespace, which ends with it. Without root it prints that it was skipped and does
/// nothing; in CI it panics.
pub fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    let result = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: needs root to create a network namespace: {error}");
        }
        Err(error) => panic!("CI must be able to create a network namespace: {error}"),
    });
    if let Err(panic) = result.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` with these words and returns its output. Panics when it fails.
pub fn ip(words: &str) -> String {
    run(Command::new("ip").args(words.split(' ')), "").unwrap_or_else(|error| panic!("{error}"))
}

/// Loads nftables rules. Panics with nft's error text when it refuses them.
pub fn nft(rules: &str) {
    run(Command::new("nft").args(["-f", "-"]), rules).unwrap_or_else(|error| panic!("{error}"));
}
