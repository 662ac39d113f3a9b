//! The machine: its name, its processors, and the kernel settings that the rows need, which are restored at
//! the end.

use std::fs;
use std::process::exit;
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// More than the largest row creates.
const NEEDED: [(&str, u64); 2] = [("nf_conntrack_max", 4_500_000), ("nf_conntrack_buckets", 1_048_576)];

/// The processors for the measured process, and those for the load.
pub struct Cpus {
    pub measured: Vec<usize>,
    pub load: Vec<usize>,
}

impl Cpus {
    /// The first and the second half of the processors of this process; the same one twice when
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

    /// All for both.
    pub fn shared(&self) -> Self {
        let mut all: Vec<usize> = self.measured.iter().chain(&self.load).copied().collect();
        all.dedup();
        Self { measured: all.clone(), load: all }
    }

    /// All but one for the measured process, when nothing is compared with it.
    pub fn with_one_for_load(&self) -> Self {
        let mut measured = self.shared().measured;
        let load = if measured.len() > 1 { measured.split_off(measured.len() - 1) } else { measured.clone() };
        Self { measured, load }
    }
}

/// Runs `f`, and the processes it starts, on these processors.
pub fn on<T: Send>(cpus: &[usize], f: impl FnOnce() -> T + Send) -> T {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu).expect("the kernel has named it"));
    let pinned = || {
        sched_setaffinity(Pid::from_raw(0), &set).expect("a thread may narrow its own affinity");
        f()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A description of the machine.
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

/// The average number of runnable tasks: other work makes the figures worse.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// The previous values of the changed settings.
static CHANGED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// The kernel settings that the rows need. Dropping this restores the previous values.
pub struct KernelSettings(());

impl KernelSettings {
    /// Raises the values that are too low, and makes the scheduler prefer this session, daemon and peers, to the
    /// rest of the machine, if the kernel has autogroups.
    ///
    /// # Errors
    /// A remedy when the kernel refuses: these settings can be changed in the initial namespace only.
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

impl Drop for KernelSettings {
    fn drop(&mut self) {
        restore();
    }
}

/// Runs `f` while the default receive buffer has this number of bytes, or without the change when the kernel
/// refuses it.
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

/// Restores settings and removes namespaces on a signal.
pub fn clean_up_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be created");
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
