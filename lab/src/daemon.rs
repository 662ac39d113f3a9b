//! The daemon under test: started with the test's configuration, observed through its standard error, and
//! killed at the end of the test.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::netns::Netns;
use super::wait::{PATIENCE, wait_until};

/// The text before the address in the daemon's line about its listener.
const LISTENING: &str = "listening on http://";

/// The daemon's binary, which exists only where Cargo names it: `env!("CARGO_BIN_EXE_pynatconnd")` in a test or
/// benchmark of the daemon's package.
#[derive(Debug, Clone, Copy)]
pub struct DaemonBinary(&'static str);

impl DaemonBinary {
    /// The binary at this path.
    pub const fn at(path: &'static str) -> Self {
        Self(path)
    }

    /// The path of the binary.
    pub const fn path(self) -> &'static str {
        self.0
    }

    /// Prepares a daemon with this configuration, INI text.
    pub fn builder(self, config: impl Into<String>) -> DaemonBuilder {
        DaemonBuilder {
            config: config.into(),
            args: Vec::new(),
            variables: Vec::new(),
            wrapper: Vec::new(),
            program: self.0.into(),
        }
    }

    /// Starts a daemon with this configuration in a namespace and waits until it listens.
    pub fn start(self, netns: &Netns, config: impl Into<String>) -> Daemon {
        self.builder(config).start(netns)
    }
}

/// The settings of a daemon to start; see [`DaemonBinary::builder`].
pub struct DaemonBuilder {
    config: String,
    args: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    wrapper: Vec<OsString>,
    program: OsString,
}

impl DaemonBuilder {
    /// Starts the daemon through another program, given with its arguments. That program must execute the
    /// command line that follows its own arguments.
    pub fn under<S: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(Into::into).collect();
        self
    }

    /// Runs a copy of the daemon's binary instead of the built one.
    pub fn program(mut self, path: impl Into<OsString>) -> Self {
        self.program = path.into();
        self
    }

    /// Adds an argument to `-c FILE`.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts the daemon in a namespace and waits until it listens. Panics with its log when it does not.
    pub fn start(self, netns: &Netns) -> Daemon {
        let mut daemon = self.spawn(netns);
        daemon.wait_for_address();
        daemon
    }

    /// Starts the daemon in a namespace without waiting for its listener.
    pub fn spawn(self, netns: &Netns) -> Daemon {
        netns.enter(|| self.spawn_here())
    }

    /// Starts the daemon in the namespace of the calling thread.
    pub fn spawn_here(self) -> Daemon {
        let directory = TempDir::with_prefix("pynatconnd-").expect("a temporary directory can be created");
        let path = directory.path().join("pynatconnd.conf");
        fs::write(&path, &self.config).expect("the configuration can be written");
        // A daemon without root privileges reads the file again on reload.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))
            .expect("the directory belongs to this user");

        let mut line = self.wrapper.iter().chain([&self.program]);
        let mut child = Command::new(line.next().expect("the program is there"))
            .args(line)
            .arg("-c")
            .arg(&path)
            .args(self.args)
            .envs(self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon's binary can be started");
        let stderr = child.stderr.take().expect("its standard error is a pipe");
        let log = Arc::new(Log::default());
        let writer = Arc::clone(&log);
        thread::spawn(move || writer.read(BufReader::new(stderr)));
        Daemon { child, log, directory, address: None, status: None }
    }
}

/// A running daemon. Dropping it kills it. When the test panics, the daemon's log is printed.
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
    directory: TempDir,
    address: Option<SocketAddr>,
    status: Option<ExitStatus>,
}

impl Daemon {
    /// The address of its log line about the listener.
    pub fn addr(&self) -> SocketAddr {
        self.address.expect("the daemon was started with start()")
    }

    /// Its address as seen from its own namespace: loopback when it listens on the unspecified address.
    pub fn local_addr(&self) -> SocketAddr {
        let mut address = self.addr();
        match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        address
    }

    /// Its port on another address of its gateway.
    pub fn addr_on(&self, ip: IpAddr) -> SocketAddr {
        (ip, self.addr().port()).into()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration file.
    pub fn config_path(&self) -> std::path::PathBuf {
        self.directory.path().join("pynatconnd.conf")
    }

    /// Writes another configuration, for a reload.
    pub fn rewrite_config(&self, config: &str) {
        fs::write(self.config_path(), config).expect("the configuration can be written");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.process(), signal)
            .unwrap_or_else(|error| panic!("cannot send {signal} to the daemon: {error}"));
    }

    /// Stops it (SIGSTOP), and waits until all of its threads have stopped.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let is_stopped = |thread: std::io::Result<fs::DirEntry>| {
            // `man 5 proc`: the state follows the name in parentheses.
            let stat = fs::read_to_string(thread?.path().join("stat"))?;
            Ok::<_, std::io::Error>(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        };
        let threads = format!("/proc/{}/task", self.pid());
        wait_until("the daemon has stopped", || {
            fs::read_dir(&threads).is_ok_and(|mut all| all.all(|thread| is_stopped(thread).unwrap_or(true)))
        });
    }

    /// Resumes it (SIGCONT).
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits for its end. Panics when it still runs after [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        let child = &mut self.child;
        let mut status = None;
        wait_until("the daemon has ended", || {
            status = child.try_wait().expect("the daemon is our child");
            status.is_some()
        });
        // Its last lines may still be in the pipe.
        self.log.wait_for(|state| state.ended.then_some(()), PATIENCE);
        self.status = status;
        status.expect("it has ended")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the daemon is our child");
        }
        self.status.is_none()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    /// Waits for a line that contains `text` and returns it. Panics when none comes within [`PATIENCE`].
    pub fn wait_for_line(&self, text: &str) -> String {
        self.line_within(text, PATIENCE)
            .unwrap_or_else(|| panic!("the daemon wrote no line with {text:?}; it wrote:\n{}", self.stderr()))
    }

    fn line_within(&self, text: &str, limit: Duration) -> Option<String> {
        let find = |state: &LogState| state.lines.iter().find(|line| line.contains(text)).cloned();
        self.log
            .wait_for(|state| find(state).map(Some).or_else(|| state.ended.then_some(None)), limit)
            .flatten()
    }

    /// Waits until one that was started with [`spawn`](DaemonBuilder::spawn) listens.
    pub fn wait_for_address(&mut self) {
        let line = self.wait_for_line(LISTENING);
        let (_, rest) = line.split_once(LISTENING).expect("the line has it");
        let text = rest.split_whitespace().next().unwrap_or_default().trim_end_matches([',', '.', ';', '/']);
        let address = text.parse().unwrap_or_else(|error| panic!("{text:?} is no address and port: {error}"));
        self.address = Some(address);
    }

    fn process(&self) -> Pid {
        Pid::from_raw(self.pid().try_into().expect("a process id is positive"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the daemon wrote:\n{}\n---", self.stderr());
        }
        // A child that has been waited for is not killed: another process may have its id by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of standard error, as they come.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, mut from: impl BufRead) {
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            self.lock().lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            self.changed.notify_all();
            line.clear();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until `find` returns a value.
    fn wait_for<T>(&self, find: impl Fn(&LogState) -> Option<T>, limit: Duration) -> Option<T> {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match find(&state) {
                Some(answer) => return Some(answer),
                None if left.is_zero() => return None,
                None => {
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}
