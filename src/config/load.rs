//! Reads a configuration: goes through the table, puts values into fields, and defaults where there are none.

use std::{collections::HashSet, path::Path};

use super::{
    contradictions,
    dialect::{self, ConfigValue, Document, ROOT, SectionId},
    error::{ConfigError, KeyLocation},
    names,
    table::{self, KeyDefault, KnownKey, SECTIONS, SYSLOG},
    types::{Config, HttpConfig, Loaded},
    values::{self, Notes},
};

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If the file cannot be read or is not in the dialect, or if a value is not valid or a required key missing.
    pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(text) => Config::parse(&text, &name),
            Err(cause) => Err(ConfigError::Unreadable { file: name, cause }),
        }
    }

    /// Checks the content of a file; errors and warnings call the file `name`.
    ///
    /// ```
    /// use pynatconnd::config::{Config, Key};
    ///
    /// let loaded = Config::parse(b"[data]\nkey_name = nat_port # the public port", "example").unwrap();
    /// assert_eq!(loaded.config.data.key_name, Key::NatPort);
    /// assert_eq!(loaded.config.http.port, 8080);
    ///
    /// let error = Config::parse(b"[data]\nkey_name = port", "example").unwrap_err();
    /// assert!(error.to_string().starts_with("example:2: [data] key_name: found \"port\", expected "));
    /// ```
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &[u8], name: &str) -> Result<Loaded, ConfigError> {
        let document = Document::read(text).map_err(|fault| ConfigError::syntax(name, fault))?;
        reject_sections_as_keys(&document, name)?;
        let root = document.section(ROOT);
        let mut config = Config::default();
        config.syslog.enabled = root.subsection(SYSLOG).is_some();
        let mut warnings = Vec::new();
        let mut used = HashSet::new();
        let mut set = Vec::new();
        for (section, key) in table::keys() {
            let id = root.subsection(section.name);
            let mut location = KeyLocation {
                file: name.to_owned(),
                line: id.map(|id| document.section(id).line),
                section: section.name,
                key: key.name,
            };
            let found = match id {
                Some(id) => find(&document, id, key, &mut location, &mut used)?,
                None => None,
            };
            let value = match (found, key.default) {
                (Some(value), _) => value,
                (None, KeyDefault::Unset) => continue,
                (None, KeyDefault::Is(text)) => default(text),
                (None, KeyDefault::Required) => {
                    return Err(ConfigError::Missing { location, expected: key.expects.to_owned() });
                }
            };
            let mut notes = Notes::new();
            if let Err(found) = (key.field.read)(&mut config, &value, &mut notes) {
                let values::Found { text, hint } = found;
                let expected = hint.map_or(key.expects.to_owned(), |hint| format!("{}: {hint}", key.expects));
                return Err(ConfigError::Value { location, found: text, expected });
            }
            let line = location.line.unwrap_or(0);
            warnings.extend(notes.into_iter().map(|note| (line, format!("{location}: {note}"))));
            if id.is_some_and(|id| document.section(id).key_index(key.name).is_some()) {
                set.push(location);
            }
        }
        warnings.extend(contradictions::find(&config, &set));
        let unknown = names::unknown(&document, &used).into_iter();
        warnings.extend(unknown.map(|(line, text)| (line, format!("{name}:{line}: {text}"))));
        warnings.sort_by_key(|(line, _)| *line);
        Ok(Loaded { config, warnings: warnings.into_iter().map(|(_, text)| text).collect() })
    }
}

impl HttpConfig {
    /// Sets the host to a value that is valid in the file. Brackets around an IPv6 address are removed.
    ///
    /// # Errors
    /// With the text that was expected.
    pub fn set_host(&mut self, host: &str) -> Result<(), String> {
        let value = ConfigValue::Text(host.to_owned());
        self.host = values::host(&value, &mut Notes::new()).map_err(|found| match found.hint {
            Some(hint) => format!("{}: {hint}", table::HOST),
            None => table::HOST.to_owned(),
        })?;
        Ok(())
    }
}

/// The value that a section has for a key. Sets the line of its location.
fn find(
    document: &Document,
    id: SectionId,
    key: &KnownKey,
    location: &mut KeyLocation,
    used: &mut HashSet<(SectionId, usize)>,
) -> Result<Option<ConfigValue>, ConfigError> {
    let section = document.section(id);
    let error = |location: &KeyLocation, found: String, expected: String| {
        Err(ConfigError::Value { location: location.clone(), found, expected })
    };
    if let Some(id) = section.subsection(key.name) {
        location.line = Some(document.section(id).line);
        return error(location, format!("[[{}]]", key.name), "a key, not a section".to_owned());
    }
    let Some(index) = section.key_index(key.name) else {
        return Ok(None);
    };
    let entry = &section.keys[index];
    location.line = Some(entry.line);
    match document.interpolate(id, index) {
        Ok(read) => {
            used.extend(read.used);
            Ok(Some(read.value))
        }
        Err(failure) => error(location, entry.value.to_string(), failure.expected()),
    }
}

/// Rejects `filter = 1` before the first section: the name of a section cannot be a key.
fn reject_sections_as_keys(document: &Document, name: &str) -> Result<(), ConfigError> {
    let root = document.section(ROOT);
    let Some(index) = SECTIONS.iter().find_map(|section| root.key_index(section.name)) else {
        return Ok(());
    };
    let entry = &root.keys[index];
    Err(ConfigError::Syntax {
        file: name.to_owned(),
        line: entry.line,
        found: format!("{} = {}", entry.key, entry.value),
        expected: format!("[{}], because this is a section", entry.key),
    })
}

/// A default as the value that it would be in a file.
fn default(text: &str) -> ConfigValue {
    // A test reads all defaults, so the parser accepts each of them.
    dialect::parse_value(text).unwrap_or_else(|_| ConfigValue::Text(text.to_owned()))
}
