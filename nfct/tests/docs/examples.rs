//! Every public type, function and method has an example that uses it.
//!
//! `cargo test` compiles the examples; this test checks that they exist.

use super::api::Api;

#[test]
fn every_public_item_has_an_example() {
    let api = Api::read();
    let mut without = Vec::new();
    for (name, docs) in api.types.iter().filter(|(name, _)| api.exported.contains(*name)) {
        let members = api.members.get(name).map(Vec::as_slice).unwrap_or_default();
        let shown_with_a_member = members.iter().any(|member| code(&member.docs).contains(name.as_str()));
        if code(docs).is_empty() && !shown_with_a_member {
            without.push(name.clone());
        }
        for method in members.iter().filter(|member| member.is_method) {
            let code = code(&method.docs) + &code(docs);
            let is_called =
                [".", "::"].iter().any(|before| code.contains(&format!("{before}{}", method.name)));
            if !is_called {
                without.push(format!("{name}::{}", method.name));
            }
        }
    }
    assert!(api.exported.len() > 40, "{:?}", api.exported);
    assert!(without.is_empty(), "{} without an example:\n{}", without.len(), without.join("\n"));
}

/// The blocks of code in these docs.
fn code(docs: &str) -> String {
    docs.split("```").skip(1).step_by(2).collect()
}
