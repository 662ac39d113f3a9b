//! Wires the floors together: configuration, logging, tracker, HTTP, signals.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::Cli;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, LogLevel};
use crate::error::{Cause, Fatal};
use crate::http::listener::{self, Server};
use crate::http::workers::Workers;
use crate::http::{App, Rules};
use crate::stats::Stats;
use crate::supervisor::{self, Supervisor};
use crate::tracker::{Settings, Tracker};
use crate::{logging, proc};

/// Open files that suffice for all connections.
const FILES: u64 = 4096;

/// The program: reads the command line, runs until it is told to end, and
/// returns the exit status.
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
                // It ended before logging began.
                complain(&format!("pynatconnd: {fatal}\n"));
            } else {
                log::error!("{fatal}");
            }
            ExitCode::from(fatal.cause as u8)
        }
    }
}

/// Writes to standard output; whoever reads it may have had enough.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes to standard error, likewise.
fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn run(cli: &Cli) -> Result<(), Fatal> {
    let (config, warnings) = load(cli)?;
    if cli.check_config {
        for warning in warnings {
            complain(&format!("warning: {warning}\n"));
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
        .map_err(|error| Fatal::new(Cause::System, format!("cannot start threads: {error}")))?
        .block_on(serve(cli, config, passed))
}

/// The configuration in force: the file, overridden by the command line.
fn load(cli: &Cli) -> Result<(Config, Vec<String>), Fatal> {
    let loaded = Config::load(&cli.config)?;
    let mut config = loaded.config;
    if let Some(level) = &cli.log_level {
        config.log_level = level
            .parse::<LogLevel>()
            .map_err(|error| Fatal::new(Cause::Usage, format!("--log-level: {error}")))?;
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
    // As many connections as are allowed, and what else is open; what the
    // system does not grant shows as errors of accept, which pass.
    let _ = rlimit::increase_nofile_limit(FILES);
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;
    let mut hangup = on_signal(SignalKind::hangup())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let stats = Arc::new(Stats::default());
    let (failed, mut failure) = mpsc::unbounded_channel();
    let settings = Settings::from(&config);
    log::info!(
        "pynatconnd {} ({}) tracks {}, answers by {}",
        env!("CARGO_PKG_VERSION"),
        library(),
        settings.filter,
        settings.key
    );
    let tracker = Tracker::start(settings, clock.clone(), stats.clone(), move |error| {
        let _ = failed.send(error);
    })?;
    log::info!("following the kernel with a receive buffer of {} KiB", tracker.receive_buffer() >> 10);
    if proc::conntrack_events() == Some(0) {
        log::warn!(
            "net.netfilter.nf_conntrack_events is 0, so the kernel tells of no connection: \
             set it to 1 (`sysctl -w net.netfilter.nf_conntrack_events=1`)"
        );
    }
    let publisher = tracker.clone();
    tokio::spawn(async move { publisher.publish().await });

    // Sockets that were passed stay, whatever the configuration says.
    let is_passed = !passed.is_empty();
    let workers = Workers::start()
        .map_err(|error| Fatal::new(Cause::System, format!("cannot start threads: {error}")))?;
    let workers = Arc::new(workers);
    let listeners = if is_passed { take(passed)? } else { bind(&config).await? };
    let (stop, stopping) = watch::channel(false);
    stats.note_configured(clock.now());
    let app = Arc::new(App::new(Rules::from(&config), tracker, stats, clock, stopping));
    let mut server = Server::new(app.clone(), workers.clone());
    server.listen(listeners).await;
    let supervisor = Arc::new(Supervisor::default());
    let (reporter, reported) = (supervisor.clone(), app.tracker.clone());
    tokio::spawn(async move { reporter.report(&reported, &workers).await });
    let mut config = config;
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok("SIGTERM"),
            _ = interrupt.recv() => break Ok("SIGINT"),
            error = failure.recv() => break Err(error.map(Fatal::from)),
            error = server.failure() => break Err(Some(error)),
            _ = hangup.recv() => {
                supervisor.reloading();
                let outcome = reload(cli, &config, &app, &mut server, is_passed).await;
                supervisor.reloaded(outcome.as_ref().map(|_| ()));
                match outcome {
                    Ok(new) => {
                        config = new;
                        app.stats.note_configured(app.clock.now());
                        log::info!("{} is in force", cli.config.display());
                    }
                    Err(fatal) => {
                        app.stats.reload_failed.store(true, Ordering::Relaxed);
                        log::error!("{fatal}; the configuration stays as it was");
                    }
                }
            }
        }
    };
    match ended {
        Ok(name) => {
            log::info!(
                "{name}: ending; the table's lock was held for {:?} at the longest; the most processor time \
                 that one hold took was {:?}",
                app.stats.lock_held.get(),
                app.stats.lock_worked.get()
            );
            supervisor::stopping();
            let _ = stop.send(true);
            server.shut_down(config.join_timeout).await;
            Ok(())
        }
        // Nothing may be answered from a table that nobody feeds.
        Err(Some(fatal)) => Err(fatal),
        Err(None) => Err(Fatal::new(Cause::Software, "the threads that follow the kernel are gone")),
    }
}

/// Puts the file as it is now into force: the table and the connections stay.
/// Whatever can fail comes first, so that it is all or nothing.
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
    let moved = !is_passed && (&config.http.host, config.http.port) != (&old.http.host, old.http.port);
    let listeners = if moved { Some(bind_instead(&config, old, server).await?) } else { None };
    let (tracker, settings) = (app.tracker.clone(), Settings::from(&config));
    let taken = tokio::task::spawn_blocking(move || tracker.reload(settings))
        .await
        .map_err(|error| Fatal::new(Cause::Software, error))?;
    if let Err(error) = taken {
        drop(listeners);
        if !server.is_accepting() {
            server.listen(bind(old).await?).await;
        }
        return Err(error.into());
    }
    start_logging(&config);
    app.set_rules(Rules::from(&config));
    if let Some(listeners) = listeners {
        server.listen(listeners).await;
    }
    Ok(config)
}

/// Binds the new addresses while the old ones are still accepted on; but every
/// address and one of them exclude each other on one port, and then the old ones
/// go first.
async fn bind_instead(new: &Config, old: &Config, server: &mut Server) -> Result<Vec<TcpListener>, Fatal> {
    let bound = listener::bind(&new.http.host, new.http.port).await;
    let excluded = bound.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    if !excluded || new.http.port != old.http.port {
        return said(new, bound);
    }
    server.listen(Vec::new()).await;
    let bound = bind(new).await;
    if bound.is_err() {
        server.listen(bind(old).await?).await;
    }
    bound
}

async fn bind(config: &Config) -> Result<Vec<TcpListener>, Fatal> {
    said(config, listener::bind(&config.http.host, config.http.port).await)
}

/// Takes the sockets that systemd passed.
fn take(passed: Vec<std::net::TcpListener>) -> Result<Vec<TcpListener>, Fatal> {
    log::info!("listening on what systemd passed: host and port of [http_server] are not used");
    let listeners: io::Result<Vec<TcpListener>> = passed.into_iter().map(TcpListener::from_std).collect();
    let listeners = listeners
        .map_err(|error| Fatal::new(Cause::System, format!("cannot use a passed socket: {error}")))?;
    log_addresses(&listeners);
    Ok(listeners)
}

/// Logs what was bound, or says why it was not.
fn said(config: &Config, bound: io::Result<Vec<TcpListener>>) -> Result<Vec<TcpListener>, Fatal> {
    let listeners = bound.map_err(|error| {
        let (host, port) = (&config.http.host, config.http.port);
        let hint = "set host and port in [http_server] to an address of this machine that is free";
        Fatal::new(Cause::System, format!("cannot listen on {host} port {port}: {error}; {hint}"))
    })?;
    log_addresses(&listeners);
    Ok(listeners)
}

fn log_addresses(listeners: &[TcpListener]) {
    for address in listeners.iter().filter_map(|listener| listener.local_addr().ok()) {
        log::info!("listening on http://{address}");
    }
}

/// The C library: the file that is loaded, and the version whose headers were used.
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
    signal(kind).map_err(|error| Fatal::new(Cause::System, format!("cannot catch signals: {error}")))
}
