//! What is found, in words.

use std::io::{self, Write};

use nathistory::log_time::Reference;
use nathistory::{Completeness, End, Gap, Known, Moment, Reason};

/// Names of IP protocols.
const PROTOCOLS: [(u8, &str); 8] = [
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
];

/// The name of a protocol; the number of one without a name.
pub(crate) fn protocol(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The number of a protocol, from its name or number.
pub(crate) fn protocol_number(text: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
    named.map(|(number, _)| *number).or_else(|| text.parse().ok())
}

/// An address and its port.
pub(crate) fn end(end: End) -> String {
    match (end.port, end.ip.is_ipv6()) {
        (Some(port), true) => format!("[{}]:{port}", end.ip),
        (Some(port), false) => format!("{}:{port}", end.ip),
        (None, _) => end.ip.to_string(),
    }
}

/// A moment, and how it is known.
pub(crate) fn moment(moment: &Moment, reference: &Reference) -> String {
    let at = reference.write(moment.at);
    match (moment.known, moment.since) {
        (Known::Kernel, _) => format!("{at} (the kernel's timestamp)"),
        (Known::Event, _) => format!("{at} (when the event was received)"),
        (Known::Dump, _) => format!("{at} or before (when the kernel's table was read)"),
        (Known::Range, Some(since)) => {
            format!("at some moment from {} to {at}", reference.write(since))
        }
        (Known::Range, None) => format!("{at} or before"),
    }
}

/// Why something is not known.
pub(crate) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::BeforeHistory => "the history begins later",
        Reason::NotRunning => "the daemon was not running, or had not yet written this",
        Reason::EventsLost => "events of the kernel were lost",
        Reason::NotReported => "the kernel reported nothing, or only a part",
        Reason::FilterChanged => "another filter was coming into force",
        Reason::RecorderBehind => "entries came faster than they could be written",
        Reason::NotWritten => "writing failed",
        Reason::ClockStepped => "the clock was set",
        Reason::Damaged => "a file is damaged or missing",
        Reason::Removed => "it was removed, because it was older or larger than configured",
    }
}

/// Writes the gaps, one per line.
pub(crate) fn gaps(out: &mut dyn Write, gaps: &[Gap], reference: &Reference) -> io::Result<()> {
    for Gap { from, to, reason: why, detail } in gaps {
        let to = to.map_or_else(|| "now".to_owned(), |to| reference.write(to));
        let detail = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
        // What is before the history has no begin.
        let from = if *from <= 0 { "the beginning".to_owned() } else { reference.write(*from) };
        writeln!(out, "    {from} to {to}: {}{detail}", reason(*why))?;
    }
    Ok(())
}

/// Writes whether an answer is complete, and otherwise what is missing.
pub(crate) fn completeness(
    out: &mut dyn Write,
    found: &Completeness,
    reference: &Reference,
) -> io::Result<()> {
    if found.gaps.is_empty() {
        return writeln!(out, "The history is complete for this time.");
    }
    writeln!(out, "The history is not complete for this time. Mappings can have opened or closed unseen:")?;
    gaps(out, &found.gaps, reference)
}
