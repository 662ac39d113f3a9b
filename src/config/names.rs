//! Warnings about unknown sections and keys, with the known name that is most similar.

use std::collections::HashSet;

use super::{
    dialect::{Document, ROOT, SectionId},
    error::OneLine,
    table::{SECTIONS, keys},
};

/// The name of a section that is only for interpolation, at every depth.
const DEFAULT: &str = "DEFAULT";

/// The line of the file, and the warning.
pub(super) type Warning = (usize, String);

/// Warns about every name that is not in the table. A key in `used` is part of another value through
/// interpolation, so it is not unknown.
pub(super) fn unknown(document: &Document, used: &HashSet<(SectionId, usize)>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    unknown_keys(document, ROOT, None, used, &mut warnings);
    for id in &document.section(ROOT).subsections {
        let section = document.section(*id);
        match SECTIONS.iter().map(|known| known.name).find(|known| *known == section.name) {
            Some(known) => {
                unknown_keys(document, *id, Some(known), used, &mut warnings);
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
                let meant = nearest(&section.name, SECTIONS.iter().map(|known| (known.name, 0, known.name)));
                let suggestion = meant.map_or(String::new(), |name| format!("; did you mean [{name}]?"));
                let text = format!("[{}]: unknown section, ignored{suggestion}", OneLine(&section.name));
                warnings.push((section.line, text));
            }
        }
    }
    warnings
}

/// Warns about the unknown keys of a known section, or before the first section.
fn unknown_keys(
    document: &Document,
    id: SectionId,
    section: Option<&str>,
    used: &HashSet<(SectionId, usize)>,
    warnings: &mut Vec<Warning>,
) {
    for (index, entry) in document.section(id).keys.iter().enumerate() {
        let known = keys().any(|(of, key)| Some(of.name) == section && key.name == entry.key);
        if known || used.contains(&(id, index)) {
            continue;
        }
        // A key of another section must be more similar than one of this section.
        let candidates =
            keys().map(|(of, key)| (key.name, usize::from(Some(of.name) != section), (of.name, key.name)));
        let suggestion = match nearest(&entry.key, candidates) {
            Some((other, key)) if Some(other) != section => format!("; did you mean {key} in [{other}]?"),
            Some((_, key)) => format!("; did you mean {key}?"),
            None => String::new(),
        };
        let place = section.map_or("before any section".to_owned(), |name| format!("[{name}]"));
        let key = OneLine(&entry.key);
        warnings.push((entry.line, format!("{place} {key}: unknown key, ignored{suggestion}")));
    }
}

/// The candidate with the most similar name, if at most a third of the name differs. A candidate's handicap
/// adds to its distance.
fn nearest<'a, T>(name: &str, candidates: impl Iterator<Item = (&'a str, usize, T)>) -> Option<T> {
    let name = name.to_lowercase();
    let most = (name.chars().count() / 3).max(1);
    let distances = candidates
        .map(|(candidate, handicap, value)| (strsim::damerau_levenshtein(&name, candidate), handicap, value));
    let near = distances.filter(|(distance, ..)| *distance <= most);
    near.min_by_key(|(distance, handicap, _)| (distance + handicap, *handicap)).map(|(.., value)| value)
}
