//! The parser of the file format that ConfigObj defined: bytes in, sections with keys and raw values out.
//!
//! Files written for the Python program must have the same meaning here, even where a `#` directly follows a
//! quote. So the rules follow the recorded results of ConfigObj 5, which differ from those of other INI
//! parsers.
//!
//! The crate `rust-ini` only writes files, because its parser gives another result for 137 of the 236 recorded
//! texts (lists, nested sections, triple quotes, duplicates, `:` as a separator) and does not keep the line of a
//! key, which errors must name. Correcting that would take more code than this parser, and would parse every line
//! twice.
//!
//! `encoding` decodes bytes, `line` reads section headers and `key = value`, and `value` reads texts and lists;
//! they share `tokens`. `document` joins the lines to sections, and `interpolation` replaces `%(name)s`. A
//! `fault` names the line on which the parser stopped, and the reason.

mod document;
mod encoding;
mod fault;
mod interpolation;
mod line;
#[cfg(test)]
mod recorded;
mod tokens;
mod value;

pub(super) use document::{Document, ROOT, SectionId};
pub(super) use fault::Fault;
pub(super) use value::{ConfigValue, parse as parse_value};
