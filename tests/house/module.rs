//! The modules of a crate: what each file defines, imports and mentions.

use std::collections::BTreeSet;
use std::path::Path;

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, UseTree};

/// A crate's modules, each a file; the first is `lib.rs`.
pub struct Crate {
    /// Its source folder below the repository's root.
    pub folder: String,
    pub modules: Vec<Module>,
    /// The documentation of `lib.rs`.
    pub documentation: String,
}

/// One file.
pub struct Module {
    /// Names from the crate's root to here.
    pub path: Vec<String>,
    /// Path below the repository's root.
    pub file: String,
    /// Names of the items that it defines, and what defines items without a name here.
    pub items: BTreeSet<String>,
    /// Names that `use` brings into its scope, with the paths that they stand for.
    pub bindings: Vec<(String, Vec<String>)>,
    /// Paths before `::*` in a `use`.
    pub globs: Vec<Vec<String>>,
    /// Paths that it imports, and paths of more than one segment anywhere else, also within a macro's arguments.
    pub mentions: BTreeSet<Vec<String>>,
    /// First segments of the mentioned paths. Some are names of other crates.
    pub externals: BTreeSet<String>,
}

impl Module {
    /// Whether it is a `mod.rs` or `lib.rs`, which only declares and re-exports.
    pub fn is_index(&self) -> bool {
        self.file.ends_with("/mod.rs") || self.file.ends_with("/lib.rs")
    }
}

impl Crate {
    pub fn read(root: &Path, folder: &str) -> Self {
        let mut krate = Self { folder: folder.to_owned(), modules: Vec::new(), documentation: String::new() };
        krate.add(root, &format!("{folder}/lib.rs"), Vec::new(), folder);
        krate
    }

    /// Reads a file and the files of its child modules, which are in `folder`.
    fn add(&mut self, root: &Path, file: &str, path: Vec<String>, folder: &str) {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        if path.is_empty() {
            self.documentation = documentation(&parsed.attrs);
        }
        let mut reader = Reading::default();
        reader.visit_file(&parsed);
        let externals = reader.mentions.iter().map(|mention| mention[0].clone()).collect();
        let Reading { items, bindings, globs, mentions, children, .. } = reader;
        self.modules.push(Module {
            path: path.clone(),
            file: file.to_owned(),
            items,
            bindings,
            globs,
            mentions,
            externals,
        });
        for child in children {
            let inner = format!("{folder}/{child}");
            let candidates = [format!("{inner}.rs"), format!("{inner}/mod.rs")];
            let file = candidates.iter().find(|file| root.join(file).exists());
            let file = file.unwrap_or_else(|| panic!("{inner}: no file for this module"));
            self.add(root, file, [path.clone(), vec![child]].concat(), &inner);
        }
    }
}

fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[derive(Default)]
struct Reading {
    items: BTreeSet<String>,
    bindings: Vec<(String, Vec<String>)>,
    globs: Vec<Vec<String>>,
    mentions: BTreeSet<Vec<String>>,
    children: Vec<String>,
    /// How many inline modules are open.
    inline: usize,
}

impl Reading {
    fn mention(&mut self, mut path: Vec<String>) -> Vec<String> {
        // In an inline module `super` is this file.
        if self.inline > 0 && path.first().is_some_and(|first| first == "super") {
            path[0] = "self".to_owned();
        }
        self.mentions.insert(path.clone());
        path
    }

    /// Notes what a `use` brings in.
    fn bind(&mut self, tree: &UseTree, before: &[String]) {
        match tree {
            UseTree::Path(path) => self.bind(&path.tree, &[before, &[path.ident.to_string()]].concat()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.bind(tree, before)),
            UseTree::Glob(_) => {
                let path = self.mention(before.to_vec());
                // `use super::*` in an inline module imports from this file itself.
                if path != ["self"] {
                    self.globs.push(path);
                }
            }
            UseTree::Name(name) if name.ident == "self" => {
                self.bind_name(before.last().cloned().unwrap_or_default(), before.to_vec());
            }
            UseTree::Name(name) => {
                self.bind_name(name.ident.to_string(), [before, &[name.ident.to_string()]].concat());
            }
            UseTree::Rename(name) if name.ident == "self" => {
                self.bind_name(name.rename.to_string(), before.to_vec());
            }
            UseTree::Rename(name) => {
                self.bind_name(name.rename.to_string(), [before, &[name.ident.to_string()]].concat());
            }
        }
    }

    fn bind_name(&mut self, name: String, path: Vec<String>) {
        let path = self.mention(path);
        self.bindings.push((name, path));
    }

    /// Notes the paths among the tokens of a macro's arguments or body.
    fn scan(&mut self, mut cursor: Cursor) {
        while !cursor.eof() {
            if let Some((mut name, mut rest)) = cursor.ident() {
                let mut path = vec![name.to_string()];
                while let Some((next, after)) = after_colons(rest).and_then(Cursor::ident) {
                    (name, rest) = (next, after);
                    path.push(name.to_string());
                }
                if path.len() > 1 {
                    self.mention(path);
                }
                cursor = rest;
            } else if let Some((inside, _, _, rest)) = cursor.any_group() {
                self.scan(inside);
                cursor = rest;
            } else {
                let Some((_, rest)) = cursor.token_tree() else { return };
                cursor = rest;
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            return;
        }
        let name = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Macro(item) => item.ident.as_ref(),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        match (name, item) {
            (Some(name), _) => self.items.insert(name.to_string()),
            (None, Item::Impl(_)) => self.items.insert("an impl block".to_owned()),
            (None, Item::Macro(_)) => self.items.insert("the items of a macro".to_owned()),
            _ => false,
        };
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        match &module.content {
            None => self.children.push(module.ident.to_string()),
            // An inline module: its names count as this file's.
            Some(_) => {
                self.inline += 1;
                visit::visit_item_mod(self, module);
                self.inline -= 1;
            }
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.bind(&item.tree, &[]);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.mention(vec![item.ident.to_string()]);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.scan(TokenBuffer::new2(call.tokens.clone()).begin());
        visit::visit_macro(self, call);
    }

    /// `pub(in crate::x)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.mention(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

fn after_colons(cursor: Cursor) -> Option<Cursor> {
    let (first, rest) = cursor.punct()?;
    let (second, rest) = rest.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(rest)
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an item exists only in tests.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            matches!(list.tokens.to_string().as_str(), "test" | "doctest")
        }
        _ => false,
    })
}

#[test]
fn paths_are_read_in_macros_and_inline_modules() {
    let text = "
        use a::{self as first, b::*};
        mod inline { use super::c::D; }
        fn f() { assert!(crate::e::f(), \"{}\", g::h(crate::i::J)); }
        macro_rules! m { () => { $crate::k::L } }
        #[cfg(test)] fn t() { crate::m::N; }
        impl O {}
    ";
    let mut reader = Reading::default();
    reader.visit_file(&syn::parse_file(text).unwrap());
    let mentions: Vec<_> = reader.mentions.iter().map(|path| path.join("::")).collect();
    assert_eq!(mentions, ["a", "a::b", "crate::e::f", "crate::i::J", "crate::k::L", "g::h", "self::c::D"]);
    assert_eq!(reader.globs, [["a", "b"]]);
    assert!(reader.items.iter().eq(["an impl block", "f", "m"]));
}
