//! Network namespaces without names: nothing has to be taken away, the kernel
//! does it with the last descriptor, also when a test fails or is killed.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub struct Netns(File);

impl Netns {
    /// A fresh one; `None`, with a word about it, where that takes root. In CI it panics instead.
    pub fn new() -> Option<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok::<_, nix::Error>(File::open("/proc/thread-self/ns/net").expect("a thread's own namespace"))
        });
        match made.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(file) => Some(Self(file)),
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: needs root to make a network namespace: {error}");
                None
            }
            Err(error) => panic!("CI must be able to make a network namespace: {error}"),
        }
    }

    /// Runs `f` on a thread of its own in this namespace. A panic of `f` goes on in the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A path that names it, for `ip`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs `ip` with these words, in the namespace of this thread.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Loads nftables rules, in the namespace of this thread.
pub fn nft(rules: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nftables is installed");
    child
        .stdin
        .take()
        .expect("its input is a pipe")
        .write_all(rules.as_bytes())
        .expect("nft reads its rules");
    let output = child.wait_with_output().expect("nft ends");
    assert!(output.status.success(), "nft: {}{rules}", String::from_utf8_lossy(&output.stderr));
}

/// A link drops what it is given until the kernel has seen its carrier.
pub fn wait_for_links() {
    let start = Instant::now();
    while !ip("-oneline link show type veth").lines().all(|link| link.contains("state UP")) {
        assert!(start.elapsed() < Duration::from_secs(10), "the links stay down");
        thread::sleep(Duration::from_millis(2));
    }
}
