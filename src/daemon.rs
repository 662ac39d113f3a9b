//! Wires the layers together: configuration, logging, tracker, HTTP, signals.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use crate::cli::Cli;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, LogLevel};
use crate::error::{Cause, Fatal};
use crate::http::listener::{self, Server};
use crate::http::past::History;
use crate::http::workers::Workers;
use crate::http::{App, Rules};
use crate::names::{self, Following};
use crate::recorder::{self, Recorder};
use crate::stats::Stats;
use crate::supervisor::{self, Supervisor};
use crate::tracker::{Settings, Tracker};
use crate::{logging, proc};

/// Open files that are enough for everything apart from the connections that `max_connections` allows.
const MORE_OPEN_FILES: u64 = 3072;

/// The pause before the first attempt to bind the addresses again, which doubles with each one.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const MAX_BIND_PAUSE: Duration = Duration::from_secs(30);

/// The program: reads the command line, runs until a signal or an error ends it,
/// and returns the exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(Cause::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    if cli.version {
        let version = env!("CARGO_PKG_VERSION");
        print(&format!("pynatconnd {version} (libnetfilter_conntrack {})\n", nfct::LIBRARY_VERSION));
        return ExitCode::SUCCESS;
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            supervisor::failed(&fatal);
            if log::max_level() == log::LevelFilter::Off {
                // Logging has not begun yet.
                print_error(&format!("pynatconnd: {fatal}\n"));
            } else {
                log::error!("{fatal}");
            }
            ExitCode::from(fatal.cause as u8)
        }
    }
}

/// Writes to standard output. Its reader may be gone, so errors are ignored.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes to standard error, and ignores errors too.
fn print_error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn run(cli: &Cli) -> Result<(), Fatal> {
    let (config, warnings) = load(cli)?;
    if cli.check_config {
        for warning in warnings {
            print_error(&format!("warning: {warning}\n"));
        }
        print(&config.to_ini());
        return Ok(());
    }
    start_logging(&config);
    for warning in warnings {
        log::warn!("{warning}");
    }
    let passed = supervisor::passed_listeners()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot_start_threads)?
        .block_on(serve(cli, config, passed))
}

/// The configuration: the file, overridden by the command line.
fn load(cli: &Cli) -> Result<(Config, Vec<String>), Fatal> {
    let loaded = Config::load(&cli.config)?;
    let mut config = loaded.config;
    if let Some(level) = &cli.log_level {
        config.log_level = level
            .parse::<LogLevel>()
            .map_err(|error| Fatal::new(Cause::Usage, format!("--log-level: {error}")).with_source(error))?;
    }
    if let Some(host) = &cli.ip {
        let checked = config.http.set_host(host);
        checked.map_err(|expected| {
            Fatal::new(Cause::Usage, format!("--ip: found \"{host}\", expected {expected}"))
        })?;
    }
    if let Some(port) = cli.port {
        config.http.port = port;
    }
    Ok((config, loaded.warnings))
}

async fn serve(cli: &Cli, config: Config, passed: Vec<std::net::TcpListener>) -> Result<(), Fatal> {
    // Enough for all allowed connections. If the system grants fewer, accepting fails
    // at times and is retried.
    let _ = rlimit::increase_nofile_limit(MORE_OPEN_FILES + config.http.max_connections as u64);
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    let mut hangup = on_signal(SignalKind::hangup())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let stats = Arc::new(Stats::default());
    let (failures, mut failure) = mpsc::unbounded_channel();
    let settings = Settings::from(&config);
    log::info!(
        "pynatconnd {} ({}) tracks {}; lookup key {}",
        env!("CARGO_PKG_VERSION"),
        library(),
        settings.filter,
        settings.key
    );
    let (http_failures, recorder_failures) = (failures.clone(), failures.clone());
    let history = Recorder::open(&config.history, &clock, &stats)?;
    let following = names::start(&config)?;
    let tracker = Tracker::start(settings, clock.clone(), stats.clone(), move |error| {
        let _ = failures.send(Fatal::from(error));
    })?;
    log::info!("subscribed to conntrack events, receive buffer {} KiB", tracker.receive_buffer() >> 10);
    if proc::conntrack_events() == Some(0) {
        log::warn!(
            "net.netfilter.nf_conntrack_events is 0, so the kernel does not report connections: \
             set it to 1 (`sysctl -w net.netfilter.nf_conntrack_events=1`)"
        );
    }
    let recorder = history
        .map(|history| history.start(&tracker, move |fatal| drop(recorder_failures.send(fatal))))
        .transpose()?
        .map(Arc::new);
    let history = recorder.clone().map(|recorder| History::new(recorder, config.history.audit.as_ref()));
    let publisher = tracker.clone();
    let mut publishing = tokio::spawn(async move { publisher.publish().await });

    // Sockets that systemd passed stay in use, whatever the configuration says.
    let is_passed = !passed.is_empty();
    let workers =
        Arc::new(Workers::start(move |fatal| drop(http_failures.send(fatal))).map_err(cannot_start_threads)?);
    let listeners = if is_passed { adopt_listeners(passed)? } else { bind(&config, &stats).await? };
    let (stop, stopping) = watch::channel(false);
    stats.note_configured(clock.now());
    let app = App::new(Rules::from(&config), tracker, stats, clock, stopping);
    let app = Arc::new(
        app.with_history(history.map(Arc::new))
            .with_names(following.as_ref().map(|following| following.names.clone())),
    );
    let following = following.map(Arc::new);
    let mut server = Server::new(app.clone(), workers.clone());
    server.listen(listeners).await;
    let supervisor = Arc::new(Supervisor::default());
    let (reporter, reported) = (supervisor.clone(), app.tracker.clone());
    let mut reporting = tokio::spawn(async move { reporter.report(&reported, &workers).await });
    let (mut config, mut bind_attempts) = (config, 0);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok("SIGTERM"),
            _ = interrupt.recv() => break Ok("SIGINT"),
            fatal = failure.recv() => break Err(fatal),
            error = server.failure() => break Err(Some(error)),
            died = &mut publishing => break Err(Some(task_died("passes changes to clients", died.err()))),
            died = &mut reporting => break Err(Some(task_died("reports to systemd", died.err()))),
            () = tokio::time::sleep(bind_pause(bind_attempts)), if !server.is_accepting() => {
                bind_attempts += 1;
                match bind(&config, &app.stats).await {
                    Ok(listeners) => {
                        server.listen(listeners).await;
                        note_listening(&app, &supervisor, None);
                    }
                    Err(fatal) => {
                        let pause = bind_pause(bind_attempts).as_secs();
                        log::error!("listening nowhere, trying again in {pause} s: {fatal}");
                        note_listening(&app, &supervisor, Some(&fatal));
                    }
                }
            }
            _ = hangup.recv() => {
                supervisor.reloading();
                let outcome = reload(cli, &config, &app, &mut server, is_passed).await;
                supervisor.reloaded(outcome.as_ref().map(|_| ()));
                match outcome {
                    Ok(new) => {
                        reload_history(recorder.as_deref(), &config, &new);
                        config = new;
                        app.set_audit(config.history.audit.as_ref());
                        app.stats.note_configured(app.clock.now());
                        log::info!("configuration reloaded: {} is in force", cli.config.display());
                    }
                    Err(fatal) => {
                        // Its file may have been rotated nevertheless.
                        app.set_audit(config.history.audit.as_ref());
                        app.stats.reload_failed.store(true, Ordering::Relaxed);
                        log::error!("reload failed, the old configuration stays in force: {fatal}");
                        if !server.is_accepting() {
                            bind_attempts = 0;
                            log::error!("listening nowhere: neither the new nor the old address can be bound");
                            note_listening(&app, &supervisor, Some(&fatal));
                        }
                    }
                }
                if server.is_accepting() {
                    note_listening(&app, &supervisor, None);
                }
            }
        }
    };
    match ended {
        Ok(name) => {
            log_end(name, &app.stats);
            supervisor::stopping();
            let _ = stop.send(true);
            server.shut_down(config.join_timeout).await;
            stop_recorder(recorder, following).await;
            Ok(())
        }
        // The daemon must not answer from a table that is no longer updated.
        Err(fatal) => {
            stop_recorder(recorder, following).await;
            let unexpected = || Fatal::new(Cause::Software, "the tracker's threads ended unexpectedly");
            Err(fatal.unwrap_or_else(unexpected))
        }
    }
}

/// Puts another `[history]` into force, and warns of what takes effect later.
fn reload_history(recorder: Option<&Recorder>, old: &Config, new: &Config) {
    if let Some(recorder) = recorder {
        recorder.set_sync_interval(new.history.sync_interval);
    }
    recorder::warn_of_restart(&old.history, &new.history);
    names::warn_of_restart(&old.names, &new.names);
}

/// Writes the end of the history, and of the names.
async fn stop_recorder(recorder: Option<Arc<Recorder>>, following: Option<Arc<Following>>) {
    let stop = move || {
        recorder.iter().for_each(|recorder| recorder.stop());
        following.iter().for_each(|following| following.stop());
    };
    // It only fails if the thread panics, and then the panic is logged.
    let _ = tokio::task::spawn_blocking(stop).await;
}

/// Logs why the daemon stops, and how long the table's lock was held at most.
fn log_end(signal: &str, stats: &Stats) {
    let held = stats.longest_lock_hold.get();
    #[cfg(not(feature = "bench"))]
    log::info!("{signal} received, stopping; longest hold of the table's lock {held:?}");
    #[cfg(feature = "bench")]
    log::info!(
        "{signal} received, stopping; longest hold of the table's lock {held:?}, most processor time of a \
         hold {:?}",
        stats.longest_lock_work.get()
    );
}

/// Reads the file again and puts it into force. The table and open connections stay.
/// The steps that can fail come first, so either everything takes effect or nothing.
async fn reload(
    cli: &Cli,
    old: &Config,
    app: &Arc<App>,
    server: &mut Server,
    is_passed: bool,
) -> Result<Config, Fatal> {
    let (config, warnings) = load(cli)?;
    for warning in warnings {
        log::warn!("{warning}");
    }
    let is_moved = (&config.http.host, config.http.port) != (&old.http.host, old.http.port);
    // A daemon that listens nowhere does not wait for its next attempt.
    let must_bind = !is_passed && (is_moved || !server.is_accepting());
    let listeners = if must_bind { Some(bind_instead(&config, old, app, server).await?) } else { None };
    let (tracker, settings) = (app.tracker.clone(), Settings::from(&config));
    let reloaded = tokio::task::spawn_blocking(move || tracker.reload(settings))
        .await
        .map_err(|error| Fatal::from_error(Cause::Software, error))?;
    if let Err(error) = reloaded {
        drop(listeners);
        listen_again(old, app, server).await;
        return Err(error.into());
    }
    start_logging(&config);
    app.set_rules(Rules::from(&config));
    if let Some(listeners) = listeners {
        server.listen(listeners).await;
    }
    Ok(config)
}

/// Binds the new addresses while the old ones still accept connections. On the same
/// port, the wildcard address and a single address exclude each other: in that case
/// the old ones are closed first.
async fn bind_instead(
    new: &Config,
    old: &Config,
    app: &App,
    server: &mut Server,
) -> Result<Vec<TcpListener>, Fatal> {
    let bound = listener::bind(&new.http.host, new.http.port).await;
    let excluded = bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    if !excluded || new.http.port != old.http.port {
        return log_bound(new, bound, &app.stats);
    }
    server.listen(Vec::new()).await;
    let bound = bind(new, &app.stats).await;
    if bound.is_err() {
        listen_again(old, app, server).await;
    }
    bound
}

/// Listens on the old addresses after a reload has failed, if they were closed. If they cannot be
/// bound either, `serve` tries it again.
async fn listen_again(old: &Config, app: &App, server: &mut Server) {
    if !server.is_accepting() {
        match bind(old, &app.stats).await {
            Ok(listeners) => server.listen(listeners).await,
            Err(fatal) => log::error!("{fatal}"),
        }
    }
}

async fn bind(config: &Config, stats: &Stats) -> Result<Vec<TcpListener>, Fatal> {
    log_bound(config, listener::bind(&config.http.host, config.http.port).await, stats)
}

/// The pause before the next attempt to bind the addresses, after so many.
fn bind_pause(attempts: u32) -> Duration {
    BIND_PAUSE.saturating_mul(1 << attempts.min(10)).min(MAX_BIND_PAUSE)
}

/// Notes for metrics and systemd why the daemon listens nowhere, or that it listens.
fn note_listening(app: &App, supervisor: &Supervisor, reason: Option<&Fatal>) {
    app.stats.listens_nowhere.store(reason.is_some(), Ordering::Relaxed);
    supervisor.note_deaf(reason);
}

/// Uses the sockets that systemd passed.
fn adopt_listeners(passed: Vec<std::net::TcpListener>) -> Result<Vec<TcpListener>, Fatal> {
    log::info!("listening on sockets that systemd passed; host and port of [http_server] are not used");
    let listeners: io::Result<Vec<TcpListener>> = passed.into_iter().map(TcpListener::from_std).collect();
    let listeners = listeners.map_err(|error| {
        Fatal::new(Cause::System, format!("cannot use a socket that systemd passed: {error}"))
            .with_source(error)
    })?;
    log_addresses(&listeners);
    Ok(listeners)
}

/// Logs the bound addresses, or explains the error.
fn log_bound(
    config: &Config,
    bound: io::Result<Vec<TcpListener>>,
    stats: &Stats,
) -> Result<Vec<TcpListener>, Fatal> {
    let listeners = bound.map_err(|error| {
        stats.bind_failures.increment();
        let (host, port) = (&config.http.host, config.http.port);
        let hint = "set host and port in [http_server] to a free address of this machine";
        Fatal::new(Cause::System, format!("cannot listen on {host} port {port}: {error}; {hint}"))
            .with_source(error)
    })?;
    log_addresses(&listeners);
    Ok(listeners)
}

fn log_addresses(listeners: &[TcpListener]) {
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        log::info!("listening on http://{address}");
    }
}

/// The C library: the loaded file, and the version whose headers were used.
fn library() -> String {
    let built = format!("libnetfilter_conntrack {}", nfct::LIBRARY_VERSION);
    match proc::loaded_library("libnetfilter_conntrack.so") {
        Some(file) => format!("{file}, built against {built}"),
        None => built,
    }
}

fn start_logging(config: &Config) {
    logging::start(
        config.log_level.to_filter(),
        config.syslog.enabled.then_some(config.syslog.local_facility),
    );
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Fatal> {
    signal(kind).map_err(|error| {
        Fatal::new(Cause::System, format!("cannot install a signal handler: {error}")).with_source(error)
    })
}

/// A task that never ends by itself has ended.
fn task_died(does: &str, error: Option<JoinError>) -> Fatal {
    let why = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
    Fatal::new(Cause::Software, format!("the task that {does} died: {why}"))
}

fn cannot_start_threads(error: io::Error) -> Fatal {
    Fatal::new(Cause::System, format!("cannot start threads: {error}")).with_source(error)
}
