//! What this machine lacks for a lab.

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::OnceLock;

use super::gateway::Lab;
use super::netns;

/// What this machine lacks for a lab, in words; `None` when it has everything.
pub fn requirements() -> Option<String> {
    static LACKING: OnceLock<Option<String>> = OnceLock::new();
    LACKING.get_or_init(find_lacking).clone()
}

fn find_lacking() -> Option<String> {
    if !is_root() {
        return Some("root, to create network namespaces (`make test` asks sudo for it)".to_owned());
    }
    for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if let Err(error) = netns::run(Command::new(tool).arg("-V"), "") {
            return Some(format!("the tool {tool} of the package {package}: {error}"));
        }
    }
    let lab = match Lab::builder().try_build() {
        Ok(lab) => lab,
        Err(error) => return Some(format!("network namespaces with NAT: {error}")),
    };
    // The parameter exists once the NAT rules have started connection tracking.
    match lab.gateway().read_sysctl("net.netfilter.nf_conntrack_events") {
        Ok(value) if value != "0" => None,
        Ok(_) => {
            Some("connection tracking events: set net.netfilter.nf_conntrack_events to 1 or 2".to_owned())
        }
        Err(error) => Some(format!(
            "a kernel with connection tracking events (CONFIG_NF_CONNTRACK_EVENTS): \
             net.netfilter.nf_conntrack_events: {error}"
        )),
    }
}

/// Whether the test can run. In CI and as root, where it must run, it panics instead of returning `false`.
pub fn require() -> bool {
    let Some(lacking) = requirements() else { return true };
    assert!(std::env::var_os("CI").is_none() && !is_root(), "this test needs {lacking}");
    println!("skipped: needs {lacking}");
    false
}

/// /proc/self belongs to the effective user.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
