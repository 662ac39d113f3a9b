//! Holds the reader against what ConfigObj 5 was recorded to make of small texts
//! (`tests/data/configobj-dialect.json`).

use serde_json::{Map, Value as Json, json};

use super::{Document, ROOT, SectionId, Value, interpolation::Failure};

fn recorded() -> Map<String, Json> {
    let text = include_str!("../../../tests/data/configobj-dialect.json");
    // ConfigObj ran into errors of Python's own where it took something else for a text.
    serde_json::from_str(&text.replace("AttributeError", "TypeError")).unwrap()
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::List(members) => json!(members),
    }
}

/// A section as ConfigObj has it: a mapping of keys to values and of names to sections.
fn mapping(document: &Document, id: SectionId, value: &impl Fn(SectionId, usize) -> Json) -> Json {
    let section = document.section(id);
    let keys = section.entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), value(id, at)));
    let names = section.subsections.iter().map(|id| {
        let name = document.section(*id).name.clone();
        (name, mapping(document, *id, value))
    });
    Json::Object(keys.chain(names).collect())
}

fn raw(document: &Document) -> Json {
    mapping(document, ROOT, &|id, at| json_of(&document.section(id).entries[at].value))
}

fn interpolated(document: &Document) -> Json {
    mapping(document, ROOT, &|id, at| match document.interpolate(id, at) {
        Ok(read) => json_of(&read.value),
        Err(failure) => {
            let class = match failure {
                Failure::Missing(_) => "MissingInterpolationOption",
                Failure::Loop(_) => "InterpolationLoopError",
                Failure::NoText(_) => "TypeError",
                Failure::TooMany => panic!("no case is recorded for that"),
            };
            json!({ "failure": class })
        }
    })
}

#[test]
fn texts_are_read_as_configobj_read_them() {
    let cases = recorded();
    assert!(cases.len() > 200);
    for (name, case) in &cases {
        let ini = case["ini"].as_str().unwrap();
        match (Document::read(ini.as_bytes()), case.get("error")) {
            (Ok(document), None) => {
                assert_eq!(raw(&document), case["raw"], "{name}: {ini:?}");
                let expected = case.get("interpolated").unwrap_or(&case["raw"]);
                assert_eq!(&interpolated(&document), expected, "{name}: {ini:?}");
            }
            (Err(fault), Some(_)) => assert_eq!(json!(fault.line), case["line"], "{name}: {fault:?}"),
            (ours, theirs) => panic!("{name}: {ini:?} is {ours:?} but was recorded as {theirs:?}"),
        }
    }
}
