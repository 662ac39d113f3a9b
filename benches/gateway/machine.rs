//! The machine that is measured on: its name, its processors, and the kernel's settings that the rows
//! need, which are put back at the end.

use std::fs;
use std::process::exit;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// More than the largest row makes.
const NEEDED: [(&str, u64); 2] = [("nf_conntrack_max", 4_500_000), ("nf_conntrack_buckets", 1_048_576)];

/// Processors for what is measured, and others for what loads it.
pub struct Cpus {
    pub measured: Vec<usize>,
    pub load: Vec<usize>,
}

impl Cpus {
    /// The first half and the second half of those that this process may use; all of them twice where
    /// there is only one.
    pub fn split() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a process may read its own affinity");
        let mut measured: Vec<usize> =
            (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
        let load = measured.split_off(measured.len() / 2);
        if measured.is_empty() {
            measured.clone_from(&load);
        }
        Self { measured, load }
    }

    /// All but one for what is measured, where nothing is held against it.
    pub fn with_one_for_load(&self) -> Self {
        let mut measured: Vec<usize> = self.measured.iter().chain(&self.load).copied().collect();
        measured.dedup();
        let load = if measured.len() > 1 { measured.split_off(measured.len() - 1) } else { measured.clone() };
        Self { measured, load }
    }
}

/// Runs `f` on these processors; so does all that it starts.
pub fn on<T: Send>(cpus: &[usize], f: impl FnOnce() -> T + Send) -> T {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu).expect("the kernel has named it"));
    let pinned = || {
        sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may narrow its own affinity");
        f()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the figures were measured on.
pub fn describe() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpu, "model name").unwrap_or("unknown").to_owned();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let virtual_machine = cpu.split_whitespace().any(|flag| flag == "hypervisor");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "virtual": virtual_machine,
        "memory_mib": memory.unwrap_or(0) >> 10,
        "kernel": kernel.trim(),
    })
}

/// How many runnable tasks there are on average: others' work makes figures worse.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// What stood in the settings that were changed.
static CHANGED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// Settings of the kernel as the rows need them. Dropping it puts back what was there.
pub struct Settings(());

impl Settings {
    /// Raises what is too low, and has the scheduler prefer this session, daemons and peers alike, to what
    /// else runs on the machine; where there are no autogroups it does without.
    ///
    /// # Errors
    /// With what to do when the kernel does not let it: these can be set in the first namespace only.
    pub fn raise() -> Result<Self, String> {
        for (name, needed) in NEEDED {
            let path = format!("/proc/sys/net/netfilter/{name}");
            let before = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
            let before = before.trim();
            if before.parse::<u64>().is_ok_and(|before| before >= needed) {
                continue;
            }
            fs::write(&path, needed.to_string()).map_err(|error| {
                format!("cannot set {path} to {needed}: {error}; run this outside of any container")
            })?;
            CHANGED.lock().unwrap_or_else(PoisonError::into_inner).push((path, before.to_owned()));
        }
        // It reads "/autogroup-41 nice 0".
        let path = "/proc/self/autogroup";
        let group = fs::read_to_string(path).unwrap_or_default();
        if let Some((_, nice)) = group.trim().rsplit_once(' ').filter(|_| fs::write(path, "-20").is_ok()) {
            let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
            changed.push((path.to_owned(), nice.to_owned()));
        }
        Ok(Self(()))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        restore();
    }
}

/// Runs `f` while sockets that ask for nothing get a receive buffer of so many bytes; does without where
/// the kernel does not let it.
pub fn with_default_buffer<T>(bytes: u32, f: impl FnOnce() -> T) -> T {
    let path = "/proc/sys/net/core/rmem_default";
    if let Ok(before) = fs::read_to_string(path) {
        if fs::write(path, bytes.to_string()).is_ok() {
            let mut changed = CHANGED.lock().unwrap_or_else(PoisonError::into_inner);
            changed.push((path.to_owned(), before.trim().to_owned()));
        }
    }
    let value = f();
    restore_if(|changed| changed == path);
    value
}

fn restore() {
    restore_if(|_| true);
}

fn restore_if(meant: impl Fn(&str) -> bool) {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner).retain(|(path, before)| {
        if !meant(path) {
            return true;
        }
        if let Err(error) = fs::write(path, before) {
            eprintln!("cannot set {path} back to {before}: {error}");
        }
        false
    });
}

/// Leaves nothing behind when it is told to end.
pub fn clean_up_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let code = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).expect("signals can be caught");
            let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be caught");
            tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            }
        });
        restore();
        lab::remove_own(lab::PREFIX);
        exit(code);
    });
}
