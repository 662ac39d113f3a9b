//! Puts other keys' values in place of `%(name)s`.
//!
//! A name is looked up in the section of the value that is read, then in that section's `DEFAULT`
//! subsection, then likewise in the sections around it. It happens only when a value is read, so a stray
//! `%(` in a key that nobody asks for does no harm.

use super::{Document, Member, SectionId, Value};

/// More replacements than this in one value are no configuration but a trap: each may name many others.
const MOST_REPLACEMENTS: usize = 1000;

/// A value with every name replaced, and which keys it took them from.
#[derive(Debug)]
pub(in crate::config) struct Interpolated {
    pub(in crate::config) value: Value,
    pub(in crate::config) used: Vec<(SectionId, usize)>,
}

/// Why a value can't be interpolated.
#[derive(Debug, PartialEq)]
pub(in crate::config) enum Failure {
    /// No section has that key.
    Missing(String),
    /// The key needs itself.
    Loop(String),
    /// The key is a list or a section, or `DEFAULT` is a key.
    NoText(String),
    /// The value needs more than [`MOST_REPLACEMENTS`].
    TooMany,
}

impl Failure {
    /// What the file should have had, to follow "expected".
    pub(in crate::config) fn expected(&self) -> String {
        match self {
            Failure::Missing(name) => {
                format!("{name} to be a key of this section or of a DEFAULT section")
            }
            Failure::Loop(name) => format!("{name} not to need its own value"),
            Failure::NoText(name) => format!("{name} to be a key with one value, and DEFAULT a section"),
            Failure::TooMany => format!("at most {MOST_REPLACEMENTS} replacements in one value"),
        }
    }
}

impl Document {
    /// The value of one entry of a section, with its names replaced.
    pub(in crate::config) fn interpolate(
        &self,
        section: SectionId,
        entry: usize,
    ) -> Result<Interpolated, Failure> {
        let entry = &self.sections[section].entries[entry];
        let mut used = Vec::new();
        let mut replace = |text: &str| self.replace(text, section, &mut vec![&entry.key], &mut used);
        let value = match &entry.value {
            Value::Text(text) => Value::Text(replace(text)?),
            Value::List(members) => {
                Value::List(members.iter().map(|member| replace(member)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Interpolated { value, used })
    }

    /// Replaces the names in a text; `trail` holds the keys whose values are under way.
    fn replace<'a>(
        &'a self,
        mut text: &'a str,
        section: SectionId,
        trail: &mut Vec<&'a str>,
        used: &mut Vec<(SectionId, usize)>,
    ) -> Result<String, Failure> {
        let mut replaced = String::new();
        while let Some((before, name, rest)) = next_name(text) {
            let (id, index) = self.find(name, section)?;
            used.push((id, index));
            if used.len() > MOST_REPLACEMENTS {
                return Err(Failure::TooMany);
            }
            if trail.contains(&name) {
                return Err(Failure::Loop(name.to_owned()));
            }
            let Value::Text(inner) = &self.sections[id].entries[index].value else {
                return Err(Failure::NoText(name.to_owned()));
            };
            trail.push(name);
            replaced.push_str(before);
            replaced.push_str(&self.replace(inner, section, trail, used)?);
            trail.pop();
            text = rest;
        }
        replaced.push_str(text);
        Ok(replaced)
    }

    /// The key that a name means, seen from a section.
    fn find(&self, name: &str, from: SectionId) -> Result<(SectionId, usize), Failure> {
        let mut id = from;
        loop {
            let section = &self.sections[id];
            if let Some(index) = section.entry(name) {
                return Ok((id, index));
            }
            match section.names.get("DEFAULT") {
                Some(Member::Entry(_)) => return Err(Failure::NoText(name.to_owned())),
                Some(Member::Section(default)) => {
                    if let Some(index) = self.sections[*default].entry(name) {
                        return Ok((*default, index));
                    }
                }
                None => {}
            }
            if section.parent == id {
                return Err(Failure::Missing(name.to_owned()));
            }
            id = section.parent;
        }
    }
}

/// Splits a text at its first `%(name)s`; a `%` that begins no such thing is itself.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices("%(").find_map(|(at, open)| {
        let (name, rest) = text[at + open.len()..].split_once(')')?;
        Some((&text[..at], name, rest.strip_prefix('s')?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, Failure> {
        let document = Document::read(text.as_bytes()).unwrap();
        let section = document.section(super::super::ROOT).subsections[0];
        document.interpolate(section, 0).map(|read| read.value)
    }

    #[test]
    fn names_are_looked_up_outwards() {
        let text = |text: &str| Ok(Value::Text(text.to_owned()));
        assert_eq!(read("a = top\n[s]\nx = %(a)s-%(b)s\nb = own"), text("top-own"));
        assert_eq!(read("[s]\nx = %(a)s\n[[DEFAULT]]\na = near\n[DEFAULT]\na = far"), text("near"));
        assert_eq!(read("[s]\nx = 100% %(a) %()"), text("100% %(a) %()"));
        assert_eq!(read("[s]\nx = %(a)s"), Err(Failure::Missing("a".to_owned())));
        assert_eq!(read("[s]\nx = %(a)s\na = %(x)s"), Err(Failure::Loop("x".to_owned())));
        assert_eq!(read("[s]\nx = %(a)s\na = 1, 2"), Err(Failure::NoText("a".to_owned())));
    }

    #[test]
    fn values_that_grow_without_end_are_refused() {
        let mut text = "[s]\nx = %(k40)s\nk0 =\n".to_owned();
        for n in 1..=40 {
            text.push_str(&format!("k{n} = %(k{0})s%(k{0})s\n", n - 1));
        }
        assert_eq!(read(&text), Err(Failure::TooMany));
    }
}
