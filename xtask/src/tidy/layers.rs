//! The layers of the examples, from the paths their files name.
//!
//! A path counts wherever it stands: in a `use`, in a type, in an expression, in an attribute or
//! inside a macro's arguments. Code under `#[cfg(test)]` is free.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Meta, UseTree, VisRestricted,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::Violation;
use crate::tree::{SourceFile, Tree};

/// The part of an application that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// Rules; no I/O.
    Domain,
    /// A use case a file.
    Application,
    /// Tables and other outside things.
    Infrastructure,
    /// Wire to use case and back.
    Interfaces,
    /// Chooses: the only place that names adapters.
    Root,
    /// What stands beside the layers in `src/`.
    Other,
}

/// What domain code may name of the framework.
const DOMAIN_NAMES: &[&str] = &["Tx", "Error", "ErrorKind", "Result"];
/// The files that may name adapters.
const ROOT_FILES: &[&str] = &["bootstrap.rs", "main.rs", "lib.rs", "config.rs"];
/// Adapters are backend + port, so that they are known by their names.
const BACKENDS: &[&str] = &["Memory", "Static", "Sql", "Sqlite", "Kafka", "Consul", "Etcd", "Redis"];
const PORTS: &[&str] =
    &["Broker", "Registry", "Database", "TransactionManager", "Outbox", "Inbox", "Parked", "DeadLetters", "Store"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let externs: BTreeMap<String, BTreeSet<String>> = tree
        .metadata
        .workspace_packages()
        .into_iter()
        .filter_map(|package| {
            let folder = package.manifest_path.parent()?.strip_prefix(&tree.metadata.workspace_root).ok()?;
            let names = package
                .dependencies
                .iter()
                .map(|dependency| dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_"));
            Some((folder.as_str().replace('\\', "/"), names.collect()))
        })
        .collect();
    violations(&tree.files, &externs)
}

/// `externs` are the crates that each example depends on, by the example's folder.
fn violations(files: &[SourceFile], externs: &BTreeMap<String, BTreeSet<String>>) -> Vec<Violation> {
    let layered: BTreeSet<&str> = files.iter().filter_map(layered_example).collect();
    files
        .iter()
        .filter(|file| file.path.starts_with("examples/") && file.path.ends_with(".rs"))
        .filter_map(|file| file.path.split_once("/src/").map(|(example, inside)| (file, example, inside)))
        .filter(|(_, example, _)| layered.contains(example))
        .flat_map(|(file, example, inside)| {
            let none = BTreeSet::new();
            of_file(file, inside, externs.get(example).unwrap_or(&none))
        })
        .collect()
}

/// The example a file belongs to, where the file shows that the example has layers.
fn layered_example(file: &SourceFile) -> Option<&str> {
    let (example, inside) = file.path.split_once("/src/")?;
    inside.starts_with("domain/").then_some(example)
}

fn of_file(file: &SourceFile, inside: &str, externs: &BTreeSet<String>) -> Vec<Violation> {
    let syntax = match syn::parse_file(&file.text) {
        Ok(syntax) => syntax,
        Err(error) => {
            return vec![Violation::new(&file.path, error.span().start().line, format!("does not parse: {error}"))];
        }
    };
    let layer = Layer::of(inside);
    let mut names = Names { module: module_of(inside), ..Names::default() };
    names.visit_file(&syntax);
    let mut found: Vec<Violation> = names
        .resolved(externs)
        .into_iter()
        .filter_map(|(path, line)| {
            let reason = complaint(layer, &path)?;
            Some(Violation::new(&file.path, line, format!("{layer:?} names `{}`: {reason}", path.join("::"))))
        })
        .collect();
    found.sort_by_key(|violation| violation.line);
    found.dedup_by_key(|violation| violation.line);
    found
}

impl Layer {
    fn of(inside: &str) -> Self {
        let first = inside.split('/').next().unwrap_or_default();
        match first.trim_end_matches(".rs") {
            "domain" => Self::Domain,
            "application" => Self::Application,
            "infrastructure" => Self::Infrastructure,
            "interfaces" => Self::Interfaces,
            _ if ROOT_FILES.contains(&inside) => Self::Root,
            _ => Self::Other,
        }
    }
}

/// What is wrong with naming `path` in `layer`, and what to do.
fn complaint(layer: Layer, path: &[String]) -> Option<&'static str> {
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    if layer == Layer::Root {
        return None;
    }
    // Infrastructure is written for SQL; which database it is, the database knows.
    let is_own_database = layer == Layer::Infrastructure && is_sql(&names) && names.ends_with(&["SqlDatabase"]);
    if !is_own_database && names.iter().any(|name| is_adapter(name)) || names.starts_with(&["micro_rs", "backends"]) {
        return Some("an adapter: only bootstrap.rs chooses one; pass the port in");
    }
    match layer {
        Layer::Domain if !is_free_of_outside(&names) => {
            Some("domain code names std, its own rules, and of the framework `Tx` and `Error` only")
        }
        Layer::Application
            if is_inside(&names, &["infrastructure", "interfaces", "bootstrap"]) || is_wire_or_sql(&names) =>
        {
            Some("a use case knows the domain and ports; tables and wire formats are further out")
        }
        Layer::Interfaces if is_inside(&names, &["infrastructure", "bootstrap"]) || is_sql(&names) => {
            Some("an interface turns wire into a use case and back; it does not reach past it")
        }
        Layer::Infrastructure
            if is_inside(&names, &["interfaces", "bootstrap"]) || is_wire(&names) && !is_of_a_client(&names) =>
        {
            Some("infrastructure keeps rows and calls other services; it does not know who calls")
        }
        _ => None,
    }
}

fn is_free_of_outside(names: &[&str]) -> bool {
    match names {
        ["std" | "core" | "alloc", ..] => true,
        ["crate", inside, ..] => *inside == "domain",
        ["micro_rs", "core" | "prelude", name, ..] | ["micro_core" | "micro_rs", name, ..] => {
            DOMAIN_NAMES.contains(name)
        }
        _ => false,
    }
}

fn is_inside(names: &[&str], layers: &[&str]) -> bool {
    matches!(names, ["crate", layer, ..] if layers.contains(layer))
}

fn is_wire_or_sql(names: &[&str]) -> bool {
    is_wire(names) || is_sql(names)
}

fn is_wire(names: &[&str]) -> bool {
    names[0].starts_with("tonic") || names[0] == "micro_grpc" || names.starts_with(&["micro_rs", "grpc"])
}

/// What it takes to call another service.
fn is_of_a_client(names: &[&str]) -> bool {
    matches!(names, ["micro_grpc", "GrpcClient" | "from_status", ..])
}

fn is_sql(names: &[&str]) -> bool {
    names[0] == "sqlx" || names[0] == "micro_tx" || names.starts_with(&["micro_rs", "tx"])
}

fn is_adapter(name: &str) -> bool {
    BACKENDS
        .iter()
        .filter_map(|backend| name.strip_prefix(backend))
        .any(|rest| PORTS.iter().any(|port| rest.starts_with(port)))
}

/// `domain/order.rs` is `crate::domain::order`.
fn module_of(inside: &str) -> Vec<String> {
    let path = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    let root = ["lib", "main"].contains(&path);
    std::iter::once("crate").chain(path.split('/').filter(|_| !root)).map(str::to_owned).collect()
}

/// The paths a file names.
#[derive(Default)]
struct Names {
    module: Vec<String>,
    /// Names brought in by `use`, and what they stand for.
    aliases: BTreeMap<String, Vec<String>>,
    /// Modules declared in the file: they hide crates of the same name.
    modules: BTreeSet<String>,
    /// As written, with the module they stand in.
    written: Vec<Written>,
}

struct Written {
    path: Vec<String>,
    module: Vec<String>,
    line: usize,
}

impl Names {
    /// The paths from the crate's root or from an extern crate's name; local names are left out.
    fn resolved(&self, externs: &BTreeSet<String>) -> Vec<(Vec<String>, usize)> {
        self.written
            .iter()
            .filter_map(|written| Some((self.resolve(&written.path, &written.module, externs)?, written.line)))
            .collect()
    }

    fn resolve(&self, path: &[String], module: &[String], externs: &BTreeSet<String>) -> Option<Vec<String>> {
        let first = path.first()?;
        match first.as_str() {
            "crate" => Some(path.to_vec()),
            "self" | "super" => Some(relative(module, path)),
            _ if self.modules.contains(first) => Some(module.iter().chain(path).cloned().collect()),
            _ if let Some(import) = self.aliases.get(first) => {
                // Imports are resolved without one another, so that none can stand for itself.
                let alone = Names { modules: self.modules.clone(), ..Names::default() };
                let full = alone.resolve(import, module, externs)?;
                Some(full.into_iter().chain(path[1..].iter().cloned()).collect())
            }
            "std" | "core" | "alloc" => Some(path.to_vec()),
            // A name of this file or of a glob, where it is no crate; an adapter is known by its name.
            _ => (externs.contains(first) || path.iter().any(|name| is_adapter(name))).then(|| path.to_vec()),
        }
    }

    /// Notes a path. A single name is a local one, an import that was judged already, or an adapter
    /// that came by a glob.
    fn write(&mut self, path: Vec<String>, line: usize) {
        if path.len() > 1 || path.iter().any(|name| is_adapter(name)) {
            self.note(path, line);
        }
    }

    fn note(&mut self, path: Vec<String>, line: usize) {
        self.written.push(Written { path, module: self.module.clone(), line });
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(path.ident.to_string())),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.import(item, prefix)),
            UseTree::Glob(glob) => self.write(with("*".to_owned()), glob.span().start().line),
            UseTree::Name(name) if name.ident == "self" => {
                self.bring(prefix.last().cloned().unwrap_or_default(), prefix.to_vec(), name.span().start().line);
            }
            UseTree::Name(name) => {
                let name_text = name.ident.to_string();
                self.bring(name_text.clone(), with(name_text), name.span().start().line);
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { with(rename.ident.to_string()) };
                self.bring(rename.rename.to_string(), path, rename.span().start().line);
            }
        }
    }

    fn bring(&mut self, name: String, path: Vec<String>, line: usize) {
        self.note(path.clone(), line);
        self.aliases.insert(name, path);
    }

    /// Paths among a macro's or an attribute's tokens, which are not parsed.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.finish(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.finish(&mut path, line);
                    colons = 0;
                    self.scan(group.stream());
                }
                _ => {
                    self.finish(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.finish(&mut path, line);
    }

    fn finish(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if !path.is_empty() {
            self.write(path, line);
        }
    }
}

/// `super::x` in `crate::domain::order` is `crate::domain::x`.
fn relative(module: &[String], path: &[String]) -> Vec<String> {
    let mut full = module.to_vec();
    for name in path {
        match name.as_str() {
            "self" => {}
            "super" => {
                full.pop();
            }
            _ => full.push(name.clone()),
        }
    }
    full
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !attributes.iter().any(is_test_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        self.modules.insert(name.clone());
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.write(names, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.scan(invocation.tokens.clone());
        visit::visit_macro(self, invocation);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.scan(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    // `pub(in crate::domain)` opens nothing.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}
}

fn is_test_only(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().trim() == "test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(inside: &str, text: &str) -> Vec<usize> {
        let folder = "examples/order";
        let externs = ["micro_core", "micro_rs", "micro_tx", "micro_grpc", "sqlx", "tonic", "serde", "thiserror"];
        let externs = BTreeMap::from([(folder.to_owned(), externs.map(str::to_owned).into())]);
        let files = [
            SourceFile { path: format!("{folder}/src/domain/tx.rs"), text: String::new() },
            SourceFile { path: format!("{folder}/src/{inside}"), text: text.to_owned() },
        ];
        violations(&files, &externs).iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn domain_code_that_names_more_than_tx_and_error_is_caught() {
        let text = "\
            use std::fmt;\n\
            use micro_core::{Tx, Error, broker::Message};\n\
            use crate::infrastructure::Rows;\n\
            use super::order::Order;\n\
            use super::super::application::PayOrder;\n\
            #[derive(Debug, serde::Serialize)]\n\
            struct A;\n\
            fn f() { let _ = sqlx::query(\"\"); }\n\
            fn g() { println!(\"{}\", tonic::Code::Ok); }\n\
            use micro_rs::core::{Result, Tx as Handle};\n\
            fn h(tx: &mut Tx) -> fmt::Result { Ok(()) }\n\
            use micro_core as framework;\n\
            type X = framework::Metadata;\n\
            use micro_rs::prelude::*;\n";
        assert_eq!(lines("domain/price.rs", text), [2, 3, 5, 6, 8, 9, 12, 13, 14]);
    }

    #[test]
    fn a_use_case_that_names_tables_or_wire_is_caught() {
        let text = "\
            use crate::domain::Order;\n\
            use micro_core::outbox::Outbox;\n\
            use crate::infrastructure::SqlOrders;\n\
            use tonic::Status;\n\
            use micro_tx::SqlTxExt;\n\
            fn f() -> crate::interfaces::Answer { crate::domain::new() }\n";
        assert_eq!(lines("application/pay_order.rs", text), [3, 4, 5, 6]);
    }

    #[test]
    fn interfaces_do_not_reach_past_the_use_case() {
        let text = "use tonic::Status;\nuse crate::application::PayOrder;\nuse crate::infrastructure::Rows;\n";
        assert_eq!(lines("interfaces/grpc.rs", text), [3]);
    }

    #[test]
    fn infrastructure_keeps_rows_and_knows_no_caller() {
        let text = "\
            use micro_tx::{SqlDatabase, SqlTxExt, Value};\n\
            use crate::interfaces::grpc;\n\
            use micro_core::broker::MemoryBroker;\n\
            type Orders = other::SqlDatabase;\n";
        assert_eq!(lines("infrastructure/persistence.rs", text), [2, 3, 4]);
        assert_eq!(lines("application/pay_order.rs", text), [1, 2, 3, 4]);
    }

    #[test]
    fn infrastructure_calls_other_services_and_serves_none() {
        let text = "use micro_grpc::{GrpcClient, from_status};\nuse micro_grpc::GrpcServer;\nuse tonic::Status;\n";
        assert_eq!(lines("infrastructure/deduction.rs", text), [2, 3]);
        assert_eq!(lines("application/pay_order.rs", text), [1, 2, 3]);
    }

    #[test]
    fn adapters_are_named_in_the_bootstrap_only() {
        let text = "use micro_core::broker::MemoryBroker;\nfn f() { micro_rs::backends::broker(\"memory:\"); }\n";
        assert_eq!(lines("bootstrap.rs", text), [0_usize; 0]);
        assert_eq!(lines("interfaces/events.rs", text), [1, 2]);
        assert_eq!(lines("events.rs", text), [1, 2]);
        let glob = "use micro_rs::prelude::*;\nfn f() { MemoryRegistry::new(); }\n";
        assert_eq!(lines("application/pay_order.rs", glob), [2]);
    }

    #[test]
    fn tests_and_local_names_are_free() {
        let text = "\
            mod order;\n\
            pub use order::Order;\n\
            pub(crate) struct State(Status);\n\
            enum Status { Paid }\n\
            fn f() -> Status { Status::Paid }\n\
            #[cfg(test)]\n\
            mod tests { use sqlx::Row; }\n";
        assert_eq!(lines("domain/mod.rs", text), [0_usize; 0]);
    }
}
