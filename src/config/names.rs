//! Warns about sections and keys that nobody knows, with the known name that was most likely meant.

use std::collections::HashSet;

use super::{
    dialect::{Document, ROOT, SectionId},
    error::OneLine,
    table::{self, ROWS},
};

/// The section that only serves interpolation, at any depth.
const DEFAULT: &str = "DEFAULT";

/// A warning and the line that it is about.
pub(super) type Warning = (usize, String);

/// Walks what the table doesn't know. Keys in `used` have served another value, so they are known after all.
pub(super) fn unknown(document: &Document, used: &HashSet<(SectionId, usize)>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    keys(document, ROOT, None, used, &mut warnings);
    for id in &document.section(ROOT).subsections {
        let section = document.section(*id);
        match table::sections().find(|known| *known == section.name) {
            Some(known) => {
                keys(document, *id, Some(known), used, &mut warnings);
                for id in &section.subsections {
                    let inner = document.section(*id);
                    if inner.name != DEFAULT {
                        let text =
                            format!("[{known}] [[{}]]: unknown section, ignored", OneLine(&inner.name));
                        warnings.push((inner.line, text));
                    }
                }
            }
            None if section.name == DEFAULT => {}
            None => {
                let meant = nearest(&section.name, table::sections().map(|name| (name, 0)));
                let meant = meant.map_or(String::new(), |name| format!("; did you mean [{name}]?"));
                let text = format!("[{}]: unknown section, ignored{meant}", OneLine(&section.name));
                warnings.push((section.line, text));
            }
        }
    }
    warnings
}

/// Warns about the unknown keys of a known section, or of the lines before the first one.
fn keys(
    document: &Document,
    id: SectionId,
    section: Option<&str>,
    used: &HashSet<(SectionId, usize)>,
    warnings: &mut Vec<Warning>,
) {
    for (index, entry) in document.section(id).entries.iter().enumerate() {
        let known = ROWS.iter().any(|row| Some(row.section) == section && row.key == entry.key);
        if known || used.contains(&(id, index)) {
            continue;
        }
        // Another section's name has to be nearer to be meant.
        let candidates =
            ROWS.iter().map(|row| ((row.section, row.key), usize::from(Some(row.section) != section)));
        let meant = match nearest(&entry.key, candidates) {
            Some((other, key)) if Some(other) != section => format!("; did you mean {key} in [{other}]?"),
            Some((_, key)) => format!("; did you mean {key}?"),
            None => String::new(),
        };
        let place = section.map_or("before any section".to_owned(), |name| format!("[{name}]"));
        let key = OneLine(&entry.key);
        warnings.push((entry.line, format!("{place} {key}: unknown key, ignored{meant}")));
    }
}

/// A name that suggestions can be made of.
trait Named: Copy {
    fn name(&self) -> &str;
}

impl Named for &str {
    fn name(&self) -> &str {
        self
    }
}

impl Named for (&str, &str) {
    fn name(&self) -> &str {
        self.1
    }
}

/// The candidate that differs least, if it differs in no more than a third; each comes with a handicap.
fn nearest<T: Named>(name: &str, candidates: impl Iterator<Item = (T, usize)>) -> Option<T> {
    let name = name.to_lowercase();
    let most = (name.chars().count() / 3).max(1);
    let distances = candidates.map(|(candidate, handicap)| {
        let distance = strsim::damerau_levenshtein(&name, candidate.name());
        (distance, handicap, candidate)
    });
    let near = distances.filter(|(distance, ..)| *distance <= most);
    near.min_by_key(|(distance, handicap, _)| (distance + handicap, *handicap))
        .map(|(.., candidate)| candidate)
}
