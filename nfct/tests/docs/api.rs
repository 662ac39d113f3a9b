//! The crate's public items, read from its sources.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, ImplItem, Item, UseTree, Visibility};

/// What a user of the crate can name.
#[derive(Default)]
pub struct Api {
    /// What `lib.rs` exports by name: types, functions, modules.
    pub exported: BTreeSet<String>,
    /// All public types and functions, with their documentation.
    pub types: BTreeMap<String, String>,
    /// By type: methods, constants, variants and fields.
    pub members: BTreeMap<String, Vec<Member>>,
    /// Names of aliases, and of the types that they stand for.
    aliases: Vec<(String, String)>,
    /// Words inside macros, which may create items.
    in_macros: BTreeSet<String>,
}

/// A method, constant, variant or field.
#[derive(Clone)]
pub struct Member {
    pub name: String,
    /// Its own documentation, and that of its `impl` block.
    pub docs: String,
    /// A public method of the type itself, not of a trait.
    pub is_method: bool,
}

impl Api {
    /// Reads `nfct/src`.
    pub fn read() -> Self {
        let mut api = Api::default();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let library = fs::read_to_string(sources.join("lib.rs")).expect("lib.rs can be read");
        for item in syn::parse_file(&library).expect("lib.rs is Rust").items {
            match item {
                Item::Use(item) if is_public(&item.vis) => api.export(&item.tree),
                Item::Mod(item) if is_public(&item.vis) => api.exported.extend([item.ident.to_string()]),
                Item::Const(item) if is_public(&item.vis) => {
                    api.exported.extend([item.ident.to_string()]);
                }
                _ => {}
            }
        }
        for path in rust_files(&sources) {
            let text = fs::read_to_string(&path).expect("a source file can be read");
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            file.items.into_iter().for_each(|item| api.add(item));
        }
        // An alias has the members of its type too.
        for (alias, of) in std::mem::take(&mut api.aliases) {
            let members = api.members.get(&of).cloned().unwrap_or_default();
            api.members.entry(alias).or_default().extend(members);
        }
        api
    }

    /// Whether a path such as `Type`, `Type::member` or `module::Type::member`
    /// can be named by a user.
    pub fn has(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split("::").collect();
        let Some((first, last)) = parts.first().zip(parts.last()) else { return false };
        if !self.exported.contains(*first) {
            return false;
        }
        let is_member = |of: &str| {
            let members = self.members.get(of).map(Vec::as_slice).unwrap_or_default();
            members.iter().any(|member| member.name == *last)
        };
        match parts[..] {
            [_] => true,
            [of, _] if self.types.contains_key(of) => is_member(of),
            [.., of, _] => is_member(of) || self.types.contains_key(*last) || self.in_macros.contains(*last),
            [] => false,
        }
    }

    fn export(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.export(&path.tree),
            UseTree::Name(name) => self.exported.extend([name.ident.to_string()]),
            UseTree::Rename(rename) => self.exported.extend([rename.rename.to_string()]),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.export(tree)),
            UseTree::Glob(_) => {}
        }
    }

    fn add(&mut self, item: Item) {
        match item {
            Item::Struct(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                let fields = item.fields.iter().filter(|field| is_public(&field.vis));
                let fields =
                    fields.filter_map(|field| Some((field.ident.as_ref()?.to_string(), &field.attrs)));
                for (field, attributes) in fields {
                    self.member(&name, field, docs(attributes), false);
                }
                self.types.insert(name, docs(&item.attrs));
            }
            Item::Enum(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                for variant in &item.variants {
                    self.member(&name, variant.ident.to_string(), docs(&variant.attrs), false);
                }
                self.types.insert(name, docs(&item.attrs));
            }
            Item::Type(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                if let syn::Type::Path(of) = &*item.ty {
                    let of = of.path.segments.last().map(|segment| segment.ident.to_string());
                    self.aliases.extend(of.map(|of| (name.clone(), of)));
                }
                self.types.insert(name, docs(&item.attrs));
            }
            Item::Trait(item) if is_public(&item.vis) => {
                drop(self.types.insert(item.ident.to_string(), docs(&item.attrs)));
            }
            Item::Fn(item) if is_public(&item.vis) => {
                drop(self.types.insert(item.sig.ident.to_string(), docs(&item.attrs)));
            }
            Item::Const(item) if is_public(&item.vis) => {
                drop(self.types.insert(item.ident.to_string(), docs(&item.attrs)));
            }
            Item::Impl(item) => self.add_impl(item),
            Item::Macro(item) => self.add_words(item.mac.tokens.to_string()),
            _ => {}
        }
    }

    fn add_impl(&mut self, block: syn::ItemImpl) {
        let syn::Type::Path(of) = &*block.self_ty else { return };
        let Some(of) = of.path.segments.last().map(|segment| segment.ident.to_string()) else { return };
        let of_trait = block.trait_.is_some();
        for item in block.items {
            let (name, visible, attributes, is_method) = match item {
                ImplItem::Fn(item) => (item.sig.ident, is_public(&item.vis), item.attrs, true),
                ImplItem::Const(item) => (item.ident, is_public(&item.vis), item.attrs, false),
                ImplItem::Macro(item) => {
                    self.add_words(item.mac.tokens.to_string());
                    continue;
                }
                _ => continue,
            };
            if visible || of_trait {
                let docs = docs(&attributes) + &docs(&block.attrs);
                self.member(&of, name.to_string(), docs, is_method && !of_trait);
            }
        }
    }

    fn member(&mut self, of: &str, name: String, docs: String, is_method: bool) {
        self.members.entry(of.to_owned()).or_default().push(Member { name, docs, is_method });
    }

    fn add_words(&mut self, tokens: String) {
        // Most string literals are documentation.
        let mut outside = String::new();
        let (mut quoted, mut escaped) = (false, false);
        for c in tokens.chars() {
            match c {
                '"' if !escaped => quoted = !quoted,
                _ if !quoted => outside.push(c),
                _ => {}
            }
            escaped = quoted && c == '\\' && !escaped;
        }
        let words = outside.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        self.in_macros.extend(words.map(str::to_owned));
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The documentation of an item. Text created by a macro counts as its words.
fn docs(attributes: &[Attribute]) -> String {
    let lines =
        attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
            match &attribute.meta.require_name_value().ok()?.value {
                syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value() + "\n"),
                _ => None,
            }
        });
    lines.collect()
}

/// All Rust files below a folder.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
