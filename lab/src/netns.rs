//! Network namespaces: created by `ip netns`, entered by threads with `setns`.
//!
//! A socket stays in the namespace in which it was opened, and a child process starts in that of the
//! thread that spawned it. So everything here runs a closure in a separate thread that has entered the
//! namespace. The test's own threads never leave theirs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// A network namespace. Dropping it removes its name; the kernel removes the namespace with its
/// last process and socket.
pub struct Netns {
    name: String,
    handle: File,
}

impl Netns {
    /// Creates the namespace and sets its loopback interface up.
    pub(crate) fn create(name: String) -> Result<Self, String> {
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        let handle = File::open(Path::new(NAMES).join(&name)).map_err(|error| {
            remove(&name);
            format!("cannot open {NAMES}/{name}: {error}")
        })?;
        let netns = Self { name, handle };
        netns.feed("ip", &["link", "set", "lo", "up"], "")?;
        Ok(netns)
    }

    /// Its name in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in this namespace and returns its value. A panic of `f` continues in the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            change(&self.handle, &self.name);
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs `f` in this namespace, in a thread that may outlive the call.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let handle = self.handle.try_clone().expect("a descriptor can be duplicated");
        let name = self.name.clone();
        thread::spawn(move || {
            change(&handle, &name);
            f()
        })
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> NetnsCommand<'_> {
        NetnsCommand { netns: self, command: Command::new(program) }
    }

    /// Runs a program to its end and returns its output. Panics with its error text when it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        self.feed(program, args, "").unwrap_or_else(|error| panic!("in namespace {}: {error}", self.name))
    }

    /// Loads nftables rules. Panics with nft's error text when it refuses them.
    pub fn nft(&self, ruleset: &str) {
        self.try_nft(ruleset).unwrap_or_else(|error| panic!("in namespace {}: {error}", self.name));
    }

    pub(crate) fn try_nft(&self, ruleset: &str) -> Result<String, String> {
        self.feed("nft", &["-f", "-"], ruleset)
    }

    /// Runs a program to its end with `input` on standard input.
    pub(crate) fn feed(&self, program: &str, args: &[&str], input: &str) -> Result<String, String> {
        self.enter(|| run(Command::new(program).args(args), input))
    }

    /// Sets a kernel parameter by its dotted name, as sysctl does: `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.try_sysctl(name, value).unwrap_or_else(|error| panic!("in namespace {}: {error}", self.name));
    }

    pub(crate) fn try_sysctl(&self, name: &str, value: &str) -> Result<(), String> {
        let path = sysctl_path(name);
        self.enter(|| fs::write(&path, value))
            .map_err(|error| format!("cannot set {path} to {value}: {error}"))
    }

    /// Reads a kernel parameter by its dotted name.
    pub fn read_sysctl(&self, name: &str) -> io::Result<String> {
        self.enter(|| fs::read_to_string(sysctl_path(name))).map(|value| value.trim().to_owned())
    }

    /// Reads a file of this namespace's `/proc/net`.
    pub fn read_proc_net(&self, file: &str) -> io::Result<String> {
        // /proc/net shows the namespace of the process; thread-self that of the thread.
        self.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A command of a namespace, with the methods of [`Command`] that the tests need.
pub struct NetnsCommand<'a> {
    netns: &'a Netns,
    command: Command,
}

impl NetnsCommand<'_> {
    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets its standard input.
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Sets its standard output.
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Sets its standard error.
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> io::Result<Child> {
        let command = &mut self.command;
        self.netns.enter(|| command.spawn())
    }

    /// Runs it to its end and returns its output.
    pub fn output(mut self) -> io::Result<Output> {
        let command = &mut self.command;
        self.netns.enter(|| command.output())
    }

    /// Runs it to its end and returns its exit status.
    pub fn status(mut self) -> io::Result<ExitStatus> {
        let command = &mut self.command;
        self.netns.enter(|| command.status())
    }
}

/// Removes the namespaces named `prefix` + process id + `-`... whose process is gone, with the processes
/// that still run in them. A killed test process leaves them. The first lab of a process does this for
/// every lab's prefix.
pub fn remove_stale(prefix: &str) {
    remove_those_of(prefix, |owner| !Path::new(&format!("/proc/{owner}")).exists());
}

/// Removes the namespaces of this process, with the processes that still run in them: for a process that a
/// signal ends without dropping anything.
pub fn remove_own(prefix: &str) {
    remove_those_of(prefix, |owner| owner == std::process::id());
}

fn remove_those_of(prefix: &str, meant: impl Fn(u32) -> bool) {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let Some(owner) = rest.split('-').next().and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !meant(owner) {
            continue;
        }
        let left_over = run(Command::new("ip").args(["netns", "pids", &name]), "").unwrap_or_default();
        for pid in left_over.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        remove(&name);
    }
}

/// Runs a command to its end with `input` on standard input. The error has the command line, the input, and
/// the command's error text.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let line = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    // A program that ends early closes the pipe; its error text, read below, says why.
    let _ = child.stdin.take().expect("its input is a pipe").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| format!("cannot wait for `{line}`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let given = if input.is_empty() { String::new() } else { format!("\nits input was:\n{input}") };
    Err(format!("`{line}` failed ({}): {}{given}", output.status, complaint.trim()))
}

/// Moves the calling thread into a namespace.
fn change(handle: &File, name: &str) {
    setns(handle, CloneFlags::CLONE_NEWNET)
        .unwrap_or_else(|error| panic!("cannot enter network namespace {name}: {error}"));
}

/// Removes a name. A name that is already gone is no error.
fn remove(name: &str) {
    let _ = run(Command::new("ip").args(["netns", "del", name]), "");
}

/// /proc/sys/net shows the parameters of the reading thread's namespace.
fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
