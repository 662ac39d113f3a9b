//! The list of the rows, and the choice among them.

use super::{answer, dump, events, http, idle, lock, mappings, memory, names, start};
use crate::bench::Bench;
use crate::report::Row;

/// Rows that are measured together, and can be chosen by name or number.
pub struct Measurement {
    pub name: &'static str,
    numbers: &'static [&'static str],
    pub what: &'static str,
    /// Measures. The error says what this machine lacks.
    pub measure: fn(&Bench) -> Result<Vec<Row>, String>,
}

pub const ROWS: [Measurement; 16] = [
    Measurement {
        name: "events",
        numbers: &["1"],
        what: "CPU for one event, against recvmmsg",
        measure: events::against_the_limit,
    },
    Measurement {
        name: "events-tool",
        numbers: &["2"],
        what: "CPU for one event, against conntrack -E",
        measure: events::against_conntrack,
    },
    Measurement {
        name: "filter",
        numbers: &["3"],
        what: "CPU for events that do not match [filter]",
        measure: events::filtered,
    },
    Measurement {
        name: "burst",
        numbers: &["4"],
        what: "a burst of NEW and DESTROY at full speed, without lost events",
        measure: events::burst,
    },
    Measurement {
        name: "start",
        numbers: &["5"],
        what: "start on a full table, against a raw dump and conntrack -L",
        measure: start::measure,
    },
    Measurement {
        name: "http",
        numbers: &["6"],
        what: "lookups per second, against nginx and a bare hyper server",
        measure: http::at_rest,
    },
    Measurement {
        name: "http-load",
        numbers: &["7"],
        what: "lookups per second while connections open",
        measure: http::under_load,
    },
    Measurement {
        name: "memory",
        numbers: &["8"],
        what: "resident memory for one mapping",
        measure: memory::measure,
    },
    Measurement {
        name: "answer",
        numbers: &["9"],
        what: "from a packet's arrival to the response, through real NAT",
        measure: answer::measure,
    },
    Measurement {
        name: "lock",
        numbers: &["10"],
        what: "the longest lookup while the table works",
        measure: lock::measure,
    },
    Measurement { name: "idle", numbers: &["11"], what: "CPU when nothing happens", measure: idle::measure },
    Measurement {
        name: "dump",
        numbers: &["12"],
        what: "a dump read into typed values, against the C library's callback",
        measure: dump::measure,
    },
    Measurement {
        name: "mappings",
        numbers: &["13"],
        what: "the complete table over HTTP, against conntrack -L",
        measure: mappings::measure,
    },
    Measurement {
        name: "http-shared",
        numbers: &["14"],
        what: "lookups per second with all processors, shared with wrk",
        measure: http::shared,
    },
    Measurement {
        name: "history",
        numbers: &["15"],
        what: "lookups per second with a history, against without",
        measure: http::with_history,
    },
    Measurement {
        name: "names",
        numbers: &["16"],
        what: "lookups, events and memory with 100,000 named hosts, against without",
        measure: names::measure,
    },
];

/// The rows named in a list, or all for an empty one. The error is the unknown name.
pub fn choose(list: &str) -> Result<Vec<&'static Measurement>, String> {
    let wanted: Vec<&str> = list.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    let names = |row: &Measurement, name: &str| row.name == name || row.numbers.contains(&name);
    if let Some(unknown) = wanted.iter().find(|name| !ROWS.iter().any(|row| names(row, name))) {
        return Err((*unknown).to_owned());
    }
    Ok(ROWS.iter().filter(|row| wanted.is_empty() || wanted.iter().any(|name| names(row, name))).collect())
}
