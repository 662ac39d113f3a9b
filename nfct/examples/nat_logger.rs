//! Logs NAT: one line for each begin and each end of a translated connection, with the time, the
//! connection as its client sent it, and the tuple of the replies, whose destination is the public
//! address and port of a source NAT. The end has the duration and the bytes of both directions where the
//! kernel records them (`sysctl net.netfilter.nf_conntrack_timestamp=1 net.netfilter.nf_conntrack_acct=1`,
//! before the connection begins). Lost events have a line of their own, and their sum is exact.
//!
//! Usage: `nat_logger >> FILE`. Needs CAP_NET_ADMIN.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nfct::{EventKind, Events, Flow, Groups, Notification};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nat_logger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let events = Events::subscribe(Groups::NEW | Groups::DESTROY)?;
    events.set_receive_buffer(64 << 20)?;
    let mut log = std::io::stdout().lock();
    let mut lost_in_total = 0;
    for notification in events {
        match notification? {
            Notification::Event(event) if is_translated(&event.flow) => match event.kind {
                EventKind::Destroy => writeln!(log, "{}", end(&event.flow))?,
                _ => writeln!(log, "{}", begin(&event.flow))?,
            },
            // Comes when events arrive again, and counts all that were lost since the last time.
            Notification::Recovered { lost } => {
                lost_in_total += u64::from(lost);
                writeln!(log, "{} LOST {lost} events, {lost_in_total} in total", time(SystemTime::now()))?;
            }
            Notification::Malformed(error) => eprintln!("nat_logger: an event cannot be read: {error}"),
            _ => {}
        }
    }
    Ok(())
}

/// Without NAT the tuple of the replies is the reverse of the original.
fn is_translated(flow: &Flow) -> bool {
    flow.reply != flow.original.reversed()
}

fn begin(flow: &Flow) -> String {
    let now = SystemTime::now();
    format!("{} BEGIN {} replies {}", time(flow.started().unwrap_or(now)), flow.original, flow.reply)
}

fn end(flow: &Flow) -> String {
    let end = flow.stopped().unwrap_or_else(SystemTime::now);
    let mut line = format!("{} END {} replies {}", time(end), flow.original, flow.reply);
    if let Some(duration) = flow.started().and_then(|start| end.duration_since(start).ok()) {
        line += &format!(" seconds={:.3}", duration.as_secs_f64());
    }
    if let (Some(sent), Some(received)) = (flow.counters_original, flow.counters_reply) {
        line += &format!(" sent={} received={}", sent.bytes, received.bytes);
    }
    line
}

/// Seconds since the epoch.
fn time(time: SystemTime) -> String {
    format!("{:.3}", time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}
