//! Compares the parser with results recorded from ConfigObj 5 (`tests/data/configobj-dialect.json`).

use serde_json::{Map, Value as Json, json};

use super::{
    document::{Document, ROOT, SectionId},
    interpolation::InterpolationError,
    value::ConfigValue,
};

fn recorded() -> Map<String, Json> {
    let text = include_str!("../../../tests/data/configobj-dialect.json");
    // ConfigObj raised errors of Python itself where it used a value that is not a text.
    serde_json::from_str(&text.replace("AttributeError", "TypeError")).unwrap()
}

fn json_of(value: &ConfigValue) -> Json {
    match value {
        ConfigValue::Text(text) => json!(text),
        ConfigValue::List(members) => json!(members),
    }
}

/// A section as in ConfigObj: an object with a value for each key and an object for each subsection.
fn mapping(document: &Document, id: SectionId, value: &impl Fn(SectionId, usize) -> Json) -> Json {
    let section = document.section(id);
    let keys = section.keys.iter().enumerate().map(|(at, entry)| (entry.key.clone(), value(id, at)));
    let names = section.subsections.iter().map(|id| {
        let name = document.section(*id).name.clone();
        (name, mapping(document, *id, value))
    });
    Json::Object(keys.chain(names).collect())
}

fn raw(document: &Document) -> Json {
    mapping(document, ROOT, &|id, at| json_of(&document.section(id).keys[at].value))
}

fn interpolated(document: &Document) -> Json {
    mapping(document, ROOT, &|id, at| match document.interpolate(id, at) {
        Ok(read) => json_of(&read.value),
        Err(failure) => {
            let class = match failure {
                InterpolationError::Missing(_) => "MissingInterpolationOption",
                InterpolationError::Loop(_) => "InterpolationLoopError",
                InterpolationError::NotText(_) => "TypeError",
                InterpolationError::TooMany => panic!("no recorded case has this failure"),
            };
            json!({ "failure": class })
        }
    })
}

#[test]
fn texts_are_read_as_configobj_reads_them() {
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
