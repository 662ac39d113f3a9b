//! A complete file: its sections and keys, each with its line number.

use std::collections::HashMap;

use super::{encoding, fault::Fault, line, value, value::ConfigValue};

/// Index of a [`Section`] in its [`Document`].
pub(in crate::config) type SectionId = usize;

/// The section for the keys before the first section header.
pub(in crate::config) const ROOT: SectionId = 0;

/// A key and its value in the file, before interpolation.
#[derive(Debug)]
pub(in crate::config) struct FileKey {
    pub(in crate::config) key: String,
    pub(in crate::config) value: ConfigValue,
    pub(in crate::config) line: usize,
}

/// A section: `[a]` has depth 1, and `[[b]]` below it has depth 2.
#[derive(Debug)]
pub(in crate::config) struct Section {
    pub(in crate::config) name: String,
    pub(in crate::config) line: usize,
    pub(in crate::config) keys: Vec<FileKey>,
    pub(in crate::config) subsections: Vec<SectionId>,
    depth: usize,
    /// The root section is its own parent.
    pub(super) parent: SectionId,
    pub(super) names: HashMap<String, NamedItem>,
}

/// What a name means in a section. Keys and subsections share one set of names.
#[derive(Debug, Clone, Copy)]
pub(super) enum NamedItem {
    Key(usize),
    Section(SectionId),
}

impl Section {
    fn new(name: String, line: usize, depth: usize, parent: SectionId) -> Section {
        let (keys, subsections) = (Vec::new(), Vec::new());
        Section { name, line, keys, subsections, depth, parent, names: HashMap::new() }
    }

    /// Index of a key in `keys`.
    pub(in crate::config) fn key_index(&self, key: &str) -> Option<usize> {
        match self.names.get(key) {
            Some(NamedItem::Key(index)) => Some(*index),
            _ => None,
        }
    }

    /// The subsection with this name.
    pub(in crate::config) fn subsection(&self, name: &str) -> Option<SectionId> {
        match self.names.get(name) {
            Some(NamedItem::Section(id)) => Some(*id),
            _ => None,
        }
    }
}

/// A parsed file.
#[derive(Debug)]
pub(in crate::config) struct Document {
    pub(super) sections: Vec<Section>,
}

impl Document {
    /// Parses a file and stops at the first fault.
    pub(in crate::config) fn read(bytes: &[u8]) -> Result<Document, Fault> {
        let text = encoding::decode(bytes)?;
        // Only a line feed ends a line; carriage returns before it belong to the line end.
        let lines: Vec<&str> = text.split('\n').map(|line| line.trim_end_matches('\r')).collect();
        let mut document = Document { sections: vec![Section::new(String::new(), 1, 0, ROOT)] };
        let (mut current, mut at) = (ROOT, 0);
        while at < lines.len() {
            let line = lines[at];
            if !line::is_blank_or_comment(line) {
                if let Some(header) = line::header(line) {
                    current = document.open(header, current, line, at + 1)?;
                } else {
                    at = document.add(current, &lines, at)?;
                }
            }
            at += 1;
        }
        Ok(document)
    }

    /// A section of this document.
    pub(in crate::config) fn section(&self, id: SectionId) -> &Section {
        &self.sections[id]
    }

    /// Adds the section that a header opens, and returns its index.
    fn open(
        &mut self,
        header: line::Header,
        current: SectionId,
        text: &str,
        line: usize,
    ) -> Result<SectionId, Fault> {
        let fault = |expected: String| Err(Fault::new(line, text, expected));
        let depth = header.opened;
        if depth != header.closed {
            return fault("as many closing brackets as opening brackets".to_owned());
        }
        let mut parent = current;
        if depth > self.sections[current].depth + 1 {
            let allowed = self.sections[current].depth + 1;
            return fault(format!(
                "at most {allowed} opening brackets here: one more than the enclosing section has"
            ));
        }
        while self.sections[parent].depth >= depth {
            parent = self.sections[parent].parent;
        }
        if let Some(first) = self.line_of(parent, &header.name) {
            return fault(format!("a name that is not used yet (line {first} has it)"));
        }
        let id = self.sections.len();
        self.sections.push(Section::new(header.name.clone(), line, depth, parent));
        self.sections[parent].subsections.push(id);
        self.sections[parent].names.insert(header.name, NamedItem::Section(id));
        Ok(id)
    }

    /// Adds the key on line `at` (counted from 0), and returns the line on which its value ends.
    fn add(&mut self, current: SectionId, lines: &[&str], at: usize) -> Result<usize, Fault> {
        let (text, line) = (lines[at], at + 1);
        let Some((key, rest)) = line::key(text) else {
            return Err(Fault::new(line, text, "[section], key = value, or # and a comment"));
        };
        let (value, end) = match value::triple_quoted(rest, &lines[at + 1..]) {
            None => (value::parse(rest).map_err(|expected| Fault::new(line, text, expected))?, at),
            Some(Ok((value, more))) => (ConfigValue::Text(value), at + more),
            Some(Err(expected)) => return Err(Fault::new(line, text, expected)),
        };
        if let Some(first) = self.line_of(current, &key) {
            return Err(Fault::new(line, text, format!("each key only once (line {first} has it)")));
        }
        let section = &mut self.sections[current];
        section.names.insert(key.clone(), NamedItem::Key(section.keys.len()));
        section.keys.push(FileKey { key, value, line });
        Ok(end)
    }

    /// The line on which a section already uses this name, for a key or a subsection.
    fn line_of(&self, section: SectionId, name: &str) -> Option<usize> {
        let section = &self.sections[section];
        Some(match section.names.get(name)? {
            NamedItem::Key(index) => section.keys[*index].line,
            NamedItem::Section(id) => self.sections[*id].line,
        })
    }
}
