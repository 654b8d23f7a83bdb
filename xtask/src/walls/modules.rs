//! The modules of a crate, read from its sources, and what each names.
//!
//! Paths of code and among the tokens of macros are followed through modules and `use` declarations. What a macro makes
//! is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, Expr, ExprLit, ImplItem, Item, ItemConst, ItemEnum, ItemFn, ItemForeignMod,
    ItemImpl, ItemMacro, ItemMod, ItemStatic, ItemStruct, ItemTrait, ItemType, ItemUnion, ItemUse,
    Lit, Meta, MetaNameValue, Signature, Token, UseTree,
};

/// One module names another, or what is outside the crate.
#[derive(Debug)]
pub struct Naming {
    /// Path of the module that names, from `crate` on.
    pub from: Vec<String>,
    /// Path of the module in which lies what is named, from `crate` on; outside the crate, the path of the item.
    pub to: Vec<String>,
    /// Where. What a `use` declaration brings is named there, not in each place where it stands.
    pub place: Place,
}

/// A line of a source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: PathBuf,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// All that the modules of a crate name, but for what is built for tests only.
///
/// `root` is the file of the crate's root module. Places name files from `base` on.
///
/// # Errors
/// A source that cannot be read or parsed, or a module without one.
pub fn namings(root: &Path, base: &Path) -> Result<Vec<Naming>> {
    let mut modules = vec![Module {
        path: vec!["crate".to_owned()],
        ..Module::default()
    }];
    let folder = root.parent().context("a file without a folder")?;
    let mut source = Source {
        modules: &mut modules,
        base,
        file: root,
        module: 0,
        folder: folder.to_owned(),
        inline: false,
        in_body: false,
        failure: None,
    };
    source.read()?;
    let mut namings = Vec::new();
    for (at, module) in modules.iter().enumerate() {
        let paths = module
            .paths
            .iter()
            .map(|(path, place)| (path, place, false));
        let uses = module
            .uses
            .iter()
            .map(|used| (&used.path, &used.place, true));
        for (path, place, in_use) in paths.chain(uses) {
            let mut search = Search::new(&modules, in_use);
            search.start(at, path);
            let brought = search.brought.filter(|_| !in_use);
            namings.extend(search.named.into_iter().map(|to| Naming {
                from: module.path.clone(),
                to,
                place: brought.unwrap_or(place).clone(),
            }));
        }
    }
    Ok(namings)
}

#[derive(Default)]
struct Module {
    path: Vec<String>,
    /// Itself for the root.
    parent: usize,
    children: BTreeMap<String, usize>,
    /// Names of the items that it defines, but for modules.
    items: BTreeSet<String>,
    uses: Vec<Use>,
    /// Paths in code.
    paths: Vec<(Vec<String>, Place)>,
}

/// One path of a `use` declaration.
struct Use {
    path: Vec<String>,
    /// The name that it gets; `None` for a glob.
    name: Option<String>,
    /// In the body of a function, hence unknown elsewhere.
    in_body: bool,
    place: Place,
}

/// Looks up what a path names.
struct Search<'a> {
    modules: &'a [Module],
    /// Whether the last name may be a module's, as in `use`; in code it is that of a type or value.
    in_use: bool,
    /// The `use` declarations that were followed, by module and index.
    followed: BTreeSet<(usize, usize)>,
    /// The modules, with those that it leads through by `use`, or what is outside.
    named: BTreeSet<Vec<String>>,
    /// What the path names if that is a module.
    module: Option<usize>,
    /// The `use` declaration beside the path that brought its first name.
    brought: Option<&'a Place>,
}

impl<'a> Search<'a> {
    fn new(modules: &'a [Module], in_use: bool) -> Self {
        Search {
            modules,
            in_use,
            followed: BTreeSet::new(),
            named: BTreeSet::new(),
            module: None,
            brought: None,
        }
    }

    /// A path as it stands in a module.
    fn start(&mut self, mut at: usize, path: &[String]) {
        let mut rest = path;
        while let Some((first, tail)) = rest.split_first() {
            at = match first.as_str() {
                "crate" => 0,
                "self" => at,
                "super" => self.modules[at].parent,
                _ => break,
            };
            rest = tail;
        }
        let found = self.follow(at, rest, rest.len() == path.len());
        if !found && rest.len() == path.len() {
            self.named.insert(path.to_vec());
        } else if !found {
            self.named.insert(self.modules[at].path.clone());
        }
    }

    /// Follows a path on from a module; `inside`, it stands there. Returns whether its first name is known.
    fn follow(&mut self, at: usize, path: &[String], inside: bool) -> bool {
        let module = &self.modules[at];
        let Some((name, rest)) = path.split_first() else {
            self.named.insert(module.path.clone());
            self.module = Some(at);
            return true;
        };
        let mut known = false;
        if let Some(&child) = module.children.get(name)
            && (self.in_use || !rest.is_empty())
        {
            if !self.follow(child, rest, false) {
                self.named.insert(self.modules[child].path.clone());
            }
            // Functions and macros may have the names of modules.
            if !rest.is_empty() {
                return true;
            }
            known = true;
        }
        for (index, used) in module.uses.iter().enumerate() {
            let named = used.name.as_ref() == Some(name) && (inside || !used.in_body);
            let first = self.followed.is_empty();
            if named && self.followed.insert((at, index)) {
                if first && inside {
                    self.brought = Some(&used.place);
                }
                self.named.insert(module.path.clone());
                self.start(at, &[&used.path, rest].concat());
                known = true;
            }
        }
        if !known && module.items.contains(name) {
            self.named.insert(module.path.clone());
            known = true;
        }
        for (index, used) in module.uses.iter().enumerate() {
            let glob = used.name.is_none() && (inside || !used.in_body);
            if known || !glob || !self.followed.insert((at, index)) {
                continue;
            }
            let mut search = Search::new(self.modules, true);
            search.followed.clone_from(&self.followed);
            search.start(at, &used.path);
            if let Some(of) = search.module {
                known = self.follow(of, path, false);
            }
        }
        known
    }
}

/// Reads one file into the modules of its crate.
struct Source<'a> {
    modules: &'a mut Vec<Module>,
    base: &'a Path,
    file: &'a Path,
    /// The module that is read, of those in the file.
    module: usize,
    /// Where the files of its children lie.
    folder: PathBuf,
    /// Whether it stands within braces.
    inline: bool,
    /// Whether the body of a function is read.
    in_body: bool,
    /// The first module that could not be read.
    failure: Option<anyhow::Error>,
}

impl Source<'_> {
    fn read(&mut self) -> Result<()> {
        let of = || self.file.display().to_string();
        let text = fs::read_to_string(self.file).with_context(of)?;
        let file = syn::parse_file(&text).with_context(of)?;
        self.visit_file(&file);
        self.failure.take().map_or(Ok(()), Err)
    }

    fn place(&self, span: Span) -> Place {
        let file = self.file.strip_prefix(self.base).unwrap_or(self.file);
        Place {
            file: file.to_owned(),
            line: span.start().line,
        }
    }

    fn this(&mut self) -> &mut Module {
        &mut self.modules[self.module]
    }

    /// A path of code.
    fn path(&mut self, path: Vec<String>, span: Span) {
        let place = self.place(span);
        self.this().paths.push((path, place));
    }

    /// What a `use` declaration brings, below a path.
    fn uses(&mut self, tree: &UseTree, prefix: &[String]) {
        let (path, name, span) = match tree {
            UseTree::Path(path) => {
                return self.uses(&path.tree, &[prefix, &[word(&path.ident)]].concat());
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.uses(tree, prefix));
            }
            UseTree::Glob(glob) => (prefix.to_vec(), None, glob.star_token.span),
            UseTree::Name(name) => self.used(prefix, &name.ident, None),
            UseTree::Rename(rename) => self.used(prefix, &rename.ident, Some(&rename.rename)),
        };
        let used = Use {
            path,
            name,
            in_body: self.in_body,
            place: self.place(span),
        };
        self.this().uses.push(used);
    }

    /// Path, name and place of one name of a `use` declaration. `self` stands for what it is below.
    fn used(
        &self,
        prefix: &[String],
        ident: &Ident,
        alias: Option<&Ident>,
    ) -> (Vec<String>, Option<String>, Span) {
        let mut path = prefix.to_vec();
        if ident != "self" || prefix.is_empty() {
            path.push(word(ident));
        }
        let name = alias.map(word).or_else(|| path.last().cloned());
        (path, name, ident.span())
    }

    /// Reads a module, which stands here or in a file of its own.
    fn read_module(&mut self, item: &ItemMod) -> Result<()> {
        let name = word(&item.ident);
        let module = self.child(&name);
        let named_path = path_attribute(&item.attrs);
        if let Some((_, items)) = &item.content {
            let folder = self.folder.join(named_path.unwrap_or(name));
            let outer = (
                mem::replace(&mut self.module, module),
                mem::replace(&mut self.folder, folder),
                mem::replace(&mut self.inline, true),
                mem::replace(&mut self.in_body, false),
            );
            items.iter().for_each(|item| self.visit_item(item));
            (self.module, self.folder, self.inline, self.in_body) = outer;
            return Ok(());
        }
        let below = self.folder.join(&name);
        let (file, folder) = match named_path {
            Some(path) => {
                let from = match self.inline {
                    true => &self.folder,
                    false => self.file.parent().context("a file without a folder")?,
                };
                let file = from.join(path);
                let folder = file.parent().context("a file without a folder")?.to_owned();
                (file, folder)
            }
            None => {
                let file = self.folder.join(format!("{name}.rs"));
                match file.exists() {
                    true => (file, below),
                    false => (below.join("mod.rs"), below),
                }
            }
        };
        let mut source = Source {
            modules: self.modules,
            base: self.base,
            file: &file,
            module,
            folder,
            inline: false,
            in_body: false,
            failure: None,
        };
        source.read()
    }

    /// The child of this name, which is there already if it was declared under another condition too.
    fn child(&mut self, name: &str) -> usize {
        let next = self.modules.len();
        let parent = self.module;
        let child = *self.this().children.entry(name.to_owned()).or_insert(next);
        if child == next {
            let path = [&self.this().path[..], &[name.to_owned()]].concat();
            self.modules.push(Module {
                path,
                parent,
                ..Module::default()
            });
        }
        child
    }

    /// Paths among tokens, each below `prefix`.
    fn tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is = |at: Option<usize>, c| {
            let token = at.and_then(|at| tokens.get(at));
            matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == c)
        };
        let mut at = 0;
        while at < tokens.len() {
            let before = at.checked_sub(1);
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream(), prefix),
                // A field, a method, or what a macro is given; not a range.
                TokenTree::Ident(ident)
                    if is(before, '.') && !is(at.checked_sub(2), '.')
                        || is(before, '$') && ident != "crate" => {}
                TokenTree::Ident(ident) => {
                    let mut path = [prefix, &[word(ident)]].concat();
                    while is(Some(at + 1), ':') && is(Some(at + 2), ':') {
                        match tokens.get(at + 3) {
                            Some(TokenTree::Ident(next)) => path.push(word(next)),
                            Some(TokenTree::Group(group)) => self.tokens(group.stream(), &path),
                            _ => break,
                        }
                        at += 3;
                    }
                    self.path(path, ident.span());
                }
                _ => {}
            }
            at += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Source<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = match item {
            Item::Const(ItemConst { ident, attrs, .. })
            | Item::Enum(ItemEnum { ident, attrs, .. })
            | Item::Fn(ItemFn {
                sig: Signature { ident, .. },
                attrs,
                ..
            })
            | Item::Static(ItemStatic { ident, attrs, .. })
            | Item::Struct(ItemStruct { ident, attrs, .. })
            | Item::Trait(ItemTrait { ident, attrs, .. })
            | Item::Type(ItemType { ident, attrs, .. })
            | Item::Union(ItemUnion { ident, attrs, .. }) => (Some(ident), attrs),
            Item::Macro(ItemMacro { ident, attrs, .. }) => (ident.as_ref(), attrs),
            Item::ForeignMod(ItemForeignMod { attrs, .. })
            | Item::Impl(ItemImpl { attrs, .. })
            | Item::Mod(ItemMod { attrs, .. })
            | Item::Use(ItemUse { attrs, .. }) => (None, attrs),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        if let Some(name) = name.filter(|_| !self.in_body) {
            let name = word(name);
            self.this().items.insert(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if let Err(error) = self.read_module(item) {
            self.failure.get_or_insert(error);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.uses(&item.tree, &[]);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let for_tests = match item {
            ImplItem::Const(item) => is_for_tests(&item.attrs),
            ImplItem::Fn(item) => is_for_tests(&item.attrs),
            _ => false,
        };
        if !for_tests {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let outer = mem::replace(&mut self.in_body, true);
        visit::visit_block(self, block);
        self.in_body = outer;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words = path.segments.iter().map(|segment| word(&segment.ident));
        if let Some(first) = path.segments.first() {
            self.path(words.collect(), first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.tokens(tokens.clone(), &[]);
    }
}

fn word(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            Meta::NameValue(MetaNameValue {
                path,
                value:
                    Expr::Lit(ExprLit {
                        lit: Lit::Str(file),
                        ..
                    }),
                ..
            }) if path.is_ident("path") => Some(file.value()),
            _ => None,
        })
}

/// Whether a `#[cfg(…)]` leaves out what it stands before unless tests are built.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.parse_args::<Meta>();
        attribute.path().is_ident("cfg") && condition.is_ok_and(|condition| needs_test(&condition))
    })
}

fn needs_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return condition.path().is_ident("test");
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
    parts.is_ok_and(|parts| {
        list.path.is_ident("all") && parts.iter().any(needs_test)
            || list.path.is_ident("any") && parts.iter().all(needs_test)
    })
}

#[cfg(test)]
mod tests {
    use crate::walls::tests::Fixture;

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (files, said) in [
            (&[("lib.rs", "mod absent;")][..], "absent/mod.rs"),
            (&[("lib.rs", "mod a;"), ("a.rs", "fn fn")], "a.rs"),
            (&[], "lib.rs"),
        ] {
            let error = Fixture::new(files).try_namings().expect_err(said);
            assert!(error.to_string().ends_with(said), "{error}");
        }
    }
}
