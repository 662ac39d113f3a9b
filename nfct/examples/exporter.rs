//! Exports the state of connection tracking to Prometheus: the number of entries, its limit, and the
//! kernel's counters of each CPU. It reads them from the kernel at each `GET /metrics`, in the network
//! namespace in which it was started, and answers one client at a time.
//!
//! Usage: `exporter ADDRESS:PORT`, for example `exporter 127.0.0.1:9155`. Needs CAP_NET_ADMIN.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use nfct::{CpuStatistics, Query};

type Value = fn(&CpuStatistics) -> u32;

/// Name, help text and value of each counter.
const COUNTERS: [(&str, &str, Value); 6] = [
    ("invalid", "Packets that could not be tracked.", |cpu| cpu.invalid),
    ("drop", "Packets dropped because no entry could be created or inserted.", |cpu| cpu.drop),
    ("early_drop", "Entries removed for new ones while the table was full.", |cpu| cpu.early_drop),
    ("insert_failed", "Entries not inserted: another one had the same tuple.", |cpu| cpu.insert_failed),
    ("clash_resolve", "Resolved clashes between two packets of a new connection.", |cpu| cpu.clash_resolve),
    ("chain_toolong", "Entries not inserted: their hash chain was too long.", |cpu| cpu.chain_toolong),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exporter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: exporter ADDRESS:PORT (such as 127.0.0.1:9155)")?;
    let mut query = Query::open()?;
    // A missing capability is reported now, not at the first request.
    metrics(&mut query)?;
    let listener = TcpListener::bind(&address).map_err(|error| format!("listening on {address}: {error}"))?;
    eprintln!("exporter: http://{}/metrics", listener.local_addr()?);
    for client in listener.incoming() {
        if let Err(error) = client.map_err(Into::into).and_then(|client| respond(client, &mut query)) {
            eprintln!("exporter: {error}");
        }
    }
    Ok(())
}

fn respond(mut client: TcpStream, query: &mut Query) -> Result<(), Box<dyn Error>> {
    client.set_read_timeout(Some(Duration::from_secs(5)))?;
    client.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut head = BufReader::new((&client).take(8192)).lines();
    let request = head.next().transpose()?.unwrap_or_default();
    // The socket must not close with unread data, which would reset the connection.
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}

    let (status, body) = match request.split(' ').take(2).collect::<Vec<_>>()[..] {
        ["GET", "/metrics"] => match metrics(query) {
            Ok(text) => ("200 OK", text),
            Err(error) => ("500 Internal Server Error", format!("{error}\n")),
        },
        _ => ("404 Not Found", "only GET /metrics\n".to_owned()),
    };
    write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    )?;
    Ok(())
}

fn metrics(query: &mut Query) -> Result<String, Box<dyn Error>> {
    let count = query.count()?;
    let cpus: Vec<CpuStatistics> = query.cpu_statistics()?.collect::<Result<_, _>>()?;

    let mut text = String::new();
    writeln!(text, "# HELP conntrack_entries Entries now.\n# TYPE conntrack_entries gauge")?;
    writeln!(text, "conntrack_entries {}", count.entries)?;
    if let Some(limit) = count.limit {
        writeln!(text, "# HELP conntrack_entries_limit Limit of entries (0: no limit).")?;
        writeln!(text, "# TYPE conntrack_entries_limit gauge\nconntrack_entries_limit {limit}")?;
    }
    for (name, help, value) in COUNTERS {
        writeln!(text, "# HELP conntrack_{name}_total {help}\n# TYPE conntrack_{name}_total counter")?;
        for cpu in &cpus {
            writeln!(text, "conntrack_{name}_total{{cpu=\"{}\"}} {}", cpu.cpu, value(cpu))?;
        }
    }
    Ok(text)
}
