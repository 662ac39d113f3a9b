//! Replaces `%(name)s` by the value of another key.
//!
//! A name is looked up in the section of the value, then in the `DEFAULT` subsection of that section, then
//! in the same way in each enclosing section. This happens only when a value is read, so an invalid
//! `%(name)s` in an unknown key is not an error.

use super::{
    document::{Document, NamedItem, SectionId},
    value::ConfigValue,
};

/// Limit of the replacements in one value. Nested names would otherwise let a small file grow without bound.
const MAX_REPLACEMENTS: usize = 1000;

/// A value with every name replaced, and the keys that it used.
#[derive(Debug)]
pub(in crate::config) struct Interpolated {
    pub(in crate::config) value: ConfigValue,
    pub(in crate::config) used: Vec<(SectionId, usize)>,
}

/// Why a value cannot be interpolated.
#[derive(Debug, PartialEq)]
pub(in crate::config) enum InterpolationError {
    /// No section has that key.
    Missing(String),
    /// The key refers to itself.
    Loop(String),
    /// The key is a list or a section, or `DEFAULT` is a key.
    NotText(String),
    /// The value needs more than [`MAX_REPLACEMENTS`].
    TooMany,
}

impl InterpolationError {
    /// What the file should have: the text after "expected".
    pub(in crate::config) fn expected(&self) -> String {
        match self {
            InterpolationError::Missing(name) => {
                format!("{name} to be a key of this section or of a DEFAULT section")
            }
            InterpolationError::Loop(name) => format!("{name} not to refer to itself"),
            InterpolationError::NotText(name) => {
                format!("{name} to be a key with a single value, and DEFAULT to be a section")
            }
            InterpolationError::TooMany => format!("at most {MAX_REPLACEMENTS} replacements in one value"),
        }
    }
}

impl Document {
    /// The value of one entry of a section, with its names replaced.
    pub(in crate::config) fn interpolate(
        &self,
        section: SectionId,
        entry: usize,
    ) -> Result<Interpolated, InterpolationError> {
        let entry = &self.sections[section].keys[entry];
        let mut used = Vec::new();
        let mut replace = |text: &str| self.replace(text, section, &mut vec![&entry.key], &mut used);
        let value = match &entry.value {
            ConfigValue::Text(text) => ConfigValue::Text(replace(text)?),
            ConfigValue::List(members) => {
                ConfigValue::List(members.iter().map(|member| replace(member)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Interpolated { value, used })
    }

    /// Replaces the names in a text. `trail` has the keys whose values are being replaced.
    fn replace<'a>(
        &'a self,
        mut text: &'a str,
        section: SectionId,
        trail: &mut Vec<&'a str>,
        used: &mut Vec<(SectionId, usize)>,
    ) -> Result<String, InterpolationError> {
        let mut replaced = String::new();
        while let Some((before, name, rest)) = next_name(text) {
            let (id, index) = self.find(name, section)?;
            used.push((id, index));
            if used.len() > MAX_REPLACEMENTS {
                return Err(InterpolationError::TooMany);
            }
            if trail.contains(&name) {
                return Err(InterpolationError::Loop(name.to_owned()));
            }
            let ConfigValue::Text(inner) = &self.sections[id].keys[index].value else {
                return Err(InterpolationError::NotText(name.to_owned()));
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

    /// The key that a name means in a section.
    fn find(&self, name: &str, from: SectionId) -> Result<(SectionId, usize), InterpolationError> {
        let mut id = from;
        loop {
            let section = &self.sections[id];
            if let Some(index) = section.key_index(name) {
                return Ok((id, index));
            }
            match section.names.get("DEFAULT") {
                Some(NamedItem::Key(_)) => return Err(InterpolationError::NotText(name.to_owned())),
                Some(NamedItem::Section(default)) => {
                    if let Some(index) = self.sections[*default].key_index(name) {
                        return Ok((*default, index));
                    }
                }
                None => {}
            }
            if section.parent == id {
                return Err(InterpolationError::Missing(name.to_owned()));
            }
            id = section.parent;
        }
    }
}

/// Splits a text at its first `%(name)s`. Any other `%` is an ordinary character.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    text.match_indices("%(").find_map(|(at, open)| {
        let (name, rest) = text[at + open.len()..].split_once(')')?;
        Some((&text[..at], name, rest.strip_prefix('s')?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::document::ROOT;
    use super::*;

    fn read(text: &str) -> Result<ConfigValue, InterpolationError> {
        let document = Document::read(text.as_bytes()).unwrap();
        let section = document.section(ROOT).subsections[0];
        document.interpolate(section, 0).map(|read| read.value)
    }

    #[test]
    fn names_are_looked_up_from_the_inner_to_the_outer_sections() {
        let text = |text: &str| Ok(ConfigValue::Text(text.to_owned()));
        assert_eq!(read("a = top\n[s]\nx = %(a)s-%(b)s\nb = own"), text("top-own"));
        assert_eq!(read("[s]\nx = %(a)s\n[[DEFAULT]]\na = near\n[DEFAULT]\na = far"), text("near"));
        assert_eq!(read("[s]\nx = 100% %(a) %()"), text("100% %(a) %()"));
        assert_eq!(read("[s]\nx = %(a)s"), Err(InterpolationError::Missing("a".to_owned())));
        assert_eq!(read("[s]\nx = %(a)s\na = %(x)s"), Err(InterpolationError::Loop("x".to_owned())));
        assert_eq!(read("[s]\nx = %(a)s\na = 1, 2"), Err(InterpolationError::NotText("a".to_owned())));
    }

    #[test]
    fn a_value_with_too_many_replacements_is_rejected() {
        let mut text = "[s]\nx = %(k40)s\nk0 =\n".to_owned();
        for n in 1..=40 {
            text.push_str(&format!("k{n} = %(k{0})s%(k{0})s\n", n - 1));
        }
        assert_eq!(read(&text), Err(InterpolationError::TooMany));
    }
}
