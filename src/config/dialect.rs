//! Reads the dialect of INI that ConfigObj defined: text in, sections with keys and raw values out.
//!
//! Files written for the Python program must mean the same here, down to what a `#` after a quote does,
//! so the rules follow what ConfigObj 5 was seen to make of the recorded cases rather than what is usual
//! for INI files. The parts are `encoding` (bytes to text), `line` (section headers and `key = value`),
//! `value` (one text, a list, a comment), and `interpolation` (`%(name)s`).

use std::collections::HashMap;

mod encoding;
mod interpolation;
mod line;
#[cfg(test)]
mod recorded;
mod value;

pub(super) use value::{Value, parse as parse_value};

/// What stops a text from being read.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) found: String,
    pub(super) expected: String,
}

impl Fault {
    fn new(line: usize, found: &str, expected: impl Into<String>) -> Fault {
        Fault { line, found: found.trim().to_owned(), expected: expected.into() }
    }
}

/// Index of a [`Section`] in its [`Document`].
pub(super) type SectionId = usize;

/// The section that holds what stands before the first header.
pub(super) const ROOT: SectionId = 0;

/// A key with its value as written, before interpolation.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) line: usize,
}

/// A section; `[a]` has depth 1, `[[b]]` under it depth 2.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
    pub(super) subsections: Vec<SectionId>,
    depth: usize,
    /// The root is its own parent.
    parent: SectionId,
    names: HashMap<String, Member>,
}

/// What a name stands for in a section; keys and subsections share their names.
#[derive(Debug, Clone, Copy)]
enum Member {
    Entry(usize),
    Section(SectionId),
}

impl Section {
    fn new(name: String, line: usize, depth: usize, parent: SectionId) -> Section {
        let (entries, subsections) = (Vec::new(), Vec::new());
        Section { name, line, entries, subsections, depth, parent, names: HashMap::new() }
    }

    /// Index of a key in `entries`.
    pub(super) fn entry(&self, key: &str) -> Option<usize> {
        match self.names.get(key) {
            Some(Member::Entry(index)) => Some(*index),
            _ => None,
        }
    }

    /// The subsection of that name.
    pub(super) fn subsection(&self, name: &str) -> Option<SectionId> {
        match self.names.get(name) {
            Some(Member::Section(id)) => Some(*id),
            _ => None,
        }
    }
}

/// A whole text, read.
#[derive(Debug)]
pub(super) struct Document {
    sections: Vec<Section>,
}

impl Document {
    /// Reads a file's bytes; the first fault ends it.
    pub(super) fn read(bytes: &[u8]) -> Result<Document, Fault> {
        let text = encoding::decode(bytes)?;
        // A line ends at the line feed alone; carriage returns before it belong to the ending.
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

    pub(super) fn section(&self, id: SectionId) -> &Section {
        &self.sections[id]
    }

    /// Adds the section that a header opens, and says which it is.
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
            return fault("as many closing brackets as opening ones".to_owned());
        }
        let mut parent = current;
        if depth > self.sections[current].depth + 1 {
            let allowed = self.sections[current].depth + 1;
            return fault(format!(
                "at most {allowed} opening brackets here, one more than the section around"
            ));
        }
        while self.sections[parent].depth >= depth {
            parent = self.sections[parent].parent;
        }
        if let Some(first) = self.line_of(parent, &header.name) {
            return fault(format!("a name not yet taken (line {first} has it)"));
        }
        let id = self.sections.len();
        self.sections.push(Section::new(header.name.clone(), line, depth, parent));
        self.sections[parent].subsections.push(id);
        self.sections[parent].names.insert(header.name, Member::Section(id));
        Ok(id)
    }

    /// Adds the key on line `at` (from 0), and says on which line its value ends.
    fn add(&mut self, current: SectionId, lines: &[&str], at: usize) -> Result<usize, Fault> {
        let (text, line) = (lines[at], at + 1);
        let Some((key, rest)) = line::key(text) else {
            return Err(Fault::new(line, text, "[section], key = value, or a comment after #"));
        };
        let (value, end) = match value::triple_quoted(rest, &lines[at + 1..]) {
            None => (value::parse(rest).map_err(|expected| Fault::new(line, text, expected))?, at),
            Some(Ok((value, more))) => (Value::Text(value), at + more),
            Some(Err(expected)) => return Err(Fault::new(line, text, expected)),
        };
        if let Some(first) = self.line_of(current, &key) {
            return Err(Fault::new(line, text, format!("each key once (line {first} has it)")));
        }
        let section = &mut self.sections[current];
        section.names.insert(key.clone(), Member::Entry(section.entries.len()));
        section.entries.push(Entry { key, value, line });
        Ok(end)
    }

    /// Where a section already has that name, as a key or as a subsection.
    fn line_of(&self, section: SectionId, name: &str) -> Option<usize> {
        let section = &self.sections[section];
        Some(match section.names.get(name)? {
            Member::Entry(index) => section.entries[*index].line,
            Member::Section(id) => self.sections[*id].line,
        })
    }
}

/// White space as Python counts it: Unicode's, and the four ASCII separators besides.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// The first place at or after `at` that holds no white space.
fn skip_space(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| !is_space(*c)).map_or(chars.len(), |n| at + n)
}

/// Whether nothing but white space and a comment follows.
fn only_comment_from(chars: &[char], at: usize) -> bool {
    matches!(chars.get(skip_space(chars, at)), None | Some('#'))
}

/// Takes the quotes off a text that begins and ends with the same one; a lone quote leaves nothing.
fn unquote(chars: &[char]) -> String {
    match chars {
        ['"'] | ['\''] => String::new(),
        [first @ ('"' | '\''), inner @ .., last] if first == last => inner.iter().collect(),
        _ => chars.iter().collect(),
    }
}
