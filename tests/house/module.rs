//! The modules of a crate: what each file defines, imports and mentions.

use std::collections::BTreeSet;
use std::path::Path;

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
    /// Names that it defines.
    pub items: BTreeSet<String>,
    /// Names that `use` brings into its scope, with the paths that they stand for.
    pub bindings: Vec<(String, Vec<String>)>,
    /// Paths that it imports whole, with `*`.
    pub globs: Vec<Vec<String>>,
    /// Paths of more than one segment that it mentions anywhere.
    pub mentions: BTreeSet<Vec<String>>,
    /// First segments of these: perhaps names of other crates.
    pub externals: BTreeSet<String>,
}

impl Crate {
    pub fn read(root: &Path, folder: &str) -> Self {
        let mut krate = Self { folder: folder.to_owned(), modules: Vec::new(), documentation: String::new() };
        krate.add(root, &format!("{folder}/lib.rs"), Vec::new(), folder);
        krate
    }

    /// Reads a file and those of its modules, which are in `folder`.
    fn add(&mut self, root: &Path, file: &str, path: Vec<String>, folder: &str) {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        if path.is_empty() {
            self.documentation = documentation(&parsed.attrs);
        }
        let mut reader = Reading::default();
        reader.visit_file(&parsed);
        let externals = reader.mentions.iter().map(|mention| mention[0].clone()).collect();
        let Reading { items, bindings, globs, mentions, children } = reader;
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
}

impl Reading {
    /// Notes what a `use` brings in.
    fn bind(&mut self, tree: &UseTree, before: &[String]) {
        match tree {
            UseTree::Path(path) => self.bind(&path.tree, &[before, &[path.ident.to_string()]].concat()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.bind(tree, before)),
            UseTree::Glob(_) => self.globs.push(before.to_vec()),
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
        self.mentions.insert(path.clone());
        self.bindings.push((name, path));
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
        self.items.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        match &module.content {
            None => self.children.push(module.ident.to_string()),
            // Written out here: its names count as this file's.
            Some(_) => visit::visit_item_mod(self, module),
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.bind(&item.tree, &[]);
    }

    /// `pub(in crate::x)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.mentions.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
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

/// Whether an item is there for tests alone.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            matches!(list.tokens.to_string().as_str(), "test" | "doctest")
        }
        _ => false,
    })
}
