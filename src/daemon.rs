//! Wires the floors together: configuration, logging, tracker, HTTP, signals.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::acl::Acl;
use crate::cli::Cli;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, LogLevel};
use crate::error::{Cause, Fatal};
use crate::filter::Filter;
use crate::http::{App, listener};
use crate::stats::Stats;
use crate::tracker::{Settings, Tracker};
use crate::{logging, proc};

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
        println!(
            "pynatconnd {} (libnetfilter_conntrack {})",
            env!("CARGO_PKG_VERSION"),
            nfct::LIBRARY_VERSION
        );
        return ExitCode::SUCCESS;
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            // Before logging works, and for whoever reads only the last line.
            eprintln!("pynatconnd: {fatal}");
            ExitCode::from(fatal.cause as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Fatal> {
    let (config, warnings) = load(cli)?;
    if cli.check_config {
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        print!("{}", config.to_ini());
        return Ok(());
    }
    logging::start(config.log_level.to_filter(), config.syslog.as_ref().map(|syslog| syslog.local_facility));
    for warning in warnings {
        log::warn!("{warning}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fatal::new(Cause::System, format!("cannot start threads: {error}")))?
        .block_on(serve(config))
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
        config.http.host.clone_from(host);
    }
    if let Some(port) = cli.port {
        config.http.port = port;
    }
    Ok((config, loaded.warnings))
}

async fn serve(config: Config) -> Result<(), Fatal> {
    let filter = Filter::new(&config.filter);
    log::info!(
        "pynatconnd {} (libnetfilter_conntrack {}) tracks {filter}, answers by {}",
        env!("CARGO_PKG_VERSION"),
        nfct::LIBRARY_VERSION,
        config.data.key_name
    );
    if proc::conntrack_events() == Some(0) {
        log::warn!(
            "net.netfilter.nf_conntrack_events is 0, so the kernel tells of no connection: \
             set it to 1 (`sysctl -w net.netfilter.nf_conntrack_events=1`)"
        );
    }
    let mut terminate = on_signal(SignalKind::terminate())?;
    let mut interrupt = on_signal(SignalKind::interrupt())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let stats = Arc::new(Stats::default());
    let (failed, mut failure) = mpsc::unbounded_channel();
    let settings = Settings::from(&config);
    let tracker = Tracker::start(settings, clock.clone(), stats.clone(), move |error| {
        let _ = failed.send(error);
    })?;
    log::info!("following the kernel with a receive buffer of {} KiB", tracker.receive_buffer() >> 10);

    let listeners = listener::bind(&config.http.host, config.http.port).await.map_err(|error| {
        let Config { http, .. } = &config;
        let hint = "set host and port in [http_server] to an address of this machine that is free";
        Fatal::new(
            Cause::System,
            format!("cannot listen on {} port {}: {error}; {hint}", http.host, http.port),
        )
    })?;
    for listener in &listeners {
        if let Ok(address) = listener.local_addr() {
            log::info!("listening on http://{address}");
        }
    }
    let started = clock.now();
    let app =
        App { acl: Acl::new(config.http.ip_acl), key: config.data.key_name, tracker, stats, clock, started };
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(listener::serve(listeners, Arc::new(app), stopped, config.join_timeout));

    let ended = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        error = failure.recv() => Err(error),
    };
    match ended {
        Ok(name) => {
            log::info!("{name}: ending");
            let _ = stop.send(true);
            let _ = server.await;
            Ok(())
        }
        // Nothing may be answered from a table that nobody feeds.
        Err(Some(error)) => Err(error.into()),
        Err(None) => Err(Fatal::new(Cause::Software, "the threads that follow the kernel are gone")),
    }
}

fn on_signal(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Fatal> {
    signal(kind).map_err(|error| Fatal::new(Cause::System, format!("cannot catch signals: {error}")))
}
