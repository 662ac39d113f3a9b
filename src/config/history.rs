//! The values of `[history]` and `[names]`: paths, the name of a gateway, and where queries are noted.

use std::path::{Path, PathBuf};

use super::{
    dialect::ConfigValue,
    types::{Audit, Paths},
    values::{Found, Notes, Written, parsed},
};

const SYSLOG: &str = "syslog";

/// An absolute path. Characters that would need quotes in a file are not accepted.
fn absolute(text: &str) -> Option<PathBuf> {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:~".contains(c);
    let is_file = text.starts_with('/') && !text.trim_matches('/').is_empty() && text.chars().all(is_plain);
    is_file.then(|| PathBuf::from(text))
}

pub(super) fn path(value: &ConfigValue, _: &mut Notes) -> Result<PathBuf, Found> {
    parsed(value, absolute)
}

pub(super) fn paths(value: &ConfigValue, _: &mut Notes) -> Result<Paths, Found> {
    let entries = match value {
        ConfigValue::Text(entry) => std::slice::from_ref(entry),
        ConfigValue::List(entries) => entries,
    };
    let paths = entries.iter().map(|entry| absolute(entry.trim()).ok_or_else(|| Found::from(entry.clone())));
    paths.collect::<Result<_, _>>().map(Paths)
}

pub(super) fn audit(value: &ConfigValue, _: &mut Notes) -> Result<Audit, Found> {
    parsed(value, |text| match text {
        SYSLOG => Some(Audit::Syslog),
        _ => absolute(text).map(Audit::File),
    })
}

pub(super) fn gateway(value: &ConfigValue, _: &mut Notes) -> Result<String, Found> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    parsed(value, |text| {
        ((1..=253).contains(&text.len()) && text.chars().all(is_plain)).then(|| text.to_owned())
    })
}

fn written(path: &Path) -> String {
    path.display().to_string()
}

impl Written for PathBuf {
    fn written(&self) -> Option<String> {
        Some(written(self))
    }
}

impl Written for Paths {
    fn written(&self) -> Option<String> {
        let paths: Vec<String> = self.0.iter().map(|path| written(path)).collect();
        (!paths.is_empty()).then(|| paths.join(", "))
    }
}

impl Written for Audit {
    fn written(&self) -> Option<String> {
        Some(match self {
            Audit::Syslog => SYSLOG.to_owned(),
            Audit::File(path) => written(path),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_need_no_quotes() {
        let path = |text: &str| path(&ConfigValue::Text(text.to_owned()), &mut Notes::new()).ok();
        for text in ["/var/lib/pynatconnd", "/srv/nat-1/h_2.d"] {
            assert_eq!(path(text), Some(PathBuf::from(text)));
        }
        for text in
            ["", "/", "//", "history", "./history", "/a b", "/a,b", "/a#b", "/%(x)s", "/a\"b", "/a\nb"]
        {
            assert_eq!(path(text), None, "{text:?}");
        }
    }
}
