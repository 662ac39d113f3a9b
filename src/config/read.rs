//! Walks the table of known keys over a document: values into fields, defaults where there are none.

use std::collections::HashSet;

use super::{
    Error, Loaded, Syslog,
    dialect::{self, Document, ROOT, SectionId, Value},
    error::Place,
    names,
    table::{self, Absent, ROWS, Row, SYSLOG},
    values::Notes,
};

pub(super) fn read(text: &[u8], name: &str) -> Result<Loaded, Error> {
    let document = Document::read(text).map_err(|fault| Error::syntax(name, fault))?;
    sections_are_no_keys(&document, name)?;
    let root = document.section(ROOT);
    let mut config = table::blank();
    config.syslog = root.subsection(SYSLOG).map(|_| Syslog { local_facility: 0 });
    let mut warnings = Vec::new();
    let mut used = HashSet::new();
    for row in ROWS {
        let section = root.subsection(row.section);
        let found = match section {
            Some(section) => find(&document, section, row, name, &mut used)?,
            None => None,
        };
        let mut place = Place {
            file: name.to_owned(),
            line: section.map(|id| document.section(id).line),
            section: row.section,
            key: row.key,
        };
        let value = match (found, &row.default) {
            (Some((value, line)), _) => {
                place.line = Some(line);
                value
            }
            (None, Absent::Unset) => continue,
            (None, Absent::Means(text)) => default(text),
            (None, Absent::Refused(expected)) => {
                return Err(Error::Missing { place, expected: (*expected).to_owned() });
            }
        };
        let mut notes = Notes::new();
        if let Err(expected) = (row.read)(&mut config, &value, &mut notes) {
            return Err(Error::Value { place, found: shown(&value), expected });
        }
        warnings.extend(notes.into_iter().map(|note| (place.line.unwrap_or(0), format!("{place}: {note}"))));
    }
    let unknown = names::unknown(&document, &used).into_iter();
    warnings.extend(unknown.map(|(line, text)| (line, format!("{name}:{line}: {text}"))));
    warnings.sort_by_key(|(line, _)| *line);
    Ok(Loaded { config, warnings: warnings.into_iter().map(|(_, text)| text).collect() })
}

/// The value that a file has for a row, with its line.
fn find(
    document: &Document,
    id: SectionId,
    row: &Row,
    name: &str,
    used: &mut HashSet<(SectionId, usize)>,
) -> Result<Option<(Value, usize)>, Error> {
    let section = document.section(id);
    let error = |line: usize, found: String, expected: String| {
        let place = Place { file: name.to_owned(), line: Some(line), section: row.section, key: row.key };
        Err(Error::Value { place, found, expected })
    };
    if let Some(id) = section.subsection(row.key) {
        let line = document.section(id).line;
        return error(line, format!("[[{}]]", row.key), "a key, not a section".to_owned());
    }
    let Some(index) = section.entry(row.key) else {
        return Ok(None);
    };
    let entry = &section.entries[index];
    match document.interpolate(id, index) {
        Ok(read) => {
            used.extend(read.used);
            Ok(Some((read.value, entry.line)))
        }
        Err(failure) => error(entry.line, shown(&entry.value), failure.expected()),
    }
}

/// Refuses `filter = 1` before the first section, which can only be meant for something else.
fn sections_are_no_keys(document: &Document, name: &str) -> Result<(), Error> {
    let root = document.section(ROOT);
    let Some(index) = table::sections().find_map(|section| root.entry(section)) else {
        return Ok(());
    };
    let entry = &root.entries[index];
    Err(Error::Syntax {
        file: name.to_owned(),
        line: entry.line,
        found: format!("{} = {}", entry.key, shown(&entry.value)),
        expected: format!("[{}], as that is a section", entry.key),
    })
}

/// A default as the value that it would be in a file.
fn default(text: &str) -> Value {
    // Defaults are our own text, and a test reads them all.
    dialect::parse_value(text).unwrap_or_else(|_| Value::Text(text.to_owned()))
}

/// A value as text, with a list's commas.
fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::List(members) if members.len() == 1 => format!("{},", members[0]),
        Value::List(members) if members.is_empty() => ",".to_owned(),
        Value::List(members) => members.join(", "),
    }
}
