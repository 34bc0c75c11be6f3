//! The structure of our crates, measured from their source: imports run downward between the folders of a crate, no
//! files import each other in a circle, and no function grows beyond a screen.
//!
//! `cargo test -p perennial-tests --test structure -- --nocapture` prints the measures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// A function fits on a screen.
const FUNCTION_LINES_MAX: usize = 80;

/// A comment or a line of prose fits beside the code.
const COLUMNS_MAX: usize = 110;

/// Our crates, by directory, and the layers of each from the lowest to the highest. A layer is a folder or a file
/// right under `src`; those in one entry do not know each other, or stand on one floor. A file that is named nowhere
/// (`lib.rs`, `main.rs`) may import everything.
const CRATES: [(&str, &[&[&str]]); 7] = [
    (
        "engine",
        &[
            &["clock", "ids", "limits", "retry", "shutdown"],
            &["journal", "queue"],
            &["domain"],
            &["cache", "intercept", "machine", "memory", "projection", "reading", "slots", "turns", "wake"],
            &["engine"],
            &["timers"],
            &["dispatcher"],
        ],
    ),
    (
        "workflows",
        &[
            &["model"],
            &["spec", "step"],
            &["aggregate"],
            &["operation"],
            &["rules"],
            &["steps"],
            &["workflow"],
            &["machine"],
            &["domain"],
            &["view"],
        ],
    ),
    ("store", &[]),
    (
        "workers",
        &[
            &["pages", "port"],
            &["aws", "cloud"],
            &["capacity", "standing"],
            &["steps"],
            &["preflight"],
            &["ingest"],
            &["periodic"],
            &["adoption", "service"],
        ],
    ),
    ("views", &[&["model"], &["query", "schemas"]]),
    ("sim", &[&["faults", "world"], &["policy"], &["cloud", "wire"]]),
    ("cli", &[&["failure"], &["installation"], &["output"], &["commands"]]),
];

/// Functions above [`FUNCTION_LINES_MAX`] that were there before the limit: `crate: name: lines`. The list only
/// shrinks.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// A source file of a crate.
struct File {
    /// As a module: `["rules", "acquire"]`.
    module: Vec<String>,
    path: PathBuf,
    text: String,
    parsed: syn::File,
}

struct Function {
    name: String,
    path: PathBuf,
    lines: usize,
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's directory");
    root.to_path_buf()
}

fn sources(directory: &Path, all: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

/// The files of a crate, without those that only hold tests.
fn files(name: &str) -> Vec<File> {
    let source = root().join(name).join("src");
    let mut paths = Vec::new();
    sources(&source, &mut paths);
    assert!(!paths.is_empty(), "{}: no source", source.display());
    let parse = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let relative = path.strip_prefix(&source).expect("it is inside").with_extension("");
        let mut module: Vec<String> =
            relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        File { module, path, text, parsed }
    };
    let is_test = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == "tests");
    paths.into_iter().filter(|path| !is_test(path)).map(parse).collect()
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

/// What a file names within its crate, and its functions.
#[derive(Default)]
struct Reading {
    module: Vec<String>,
    named: BTreeSet<Vec<String>>,
    functions: Vec<(String, usize)>,
    owner: Option<String>,
}

impl Reading {
    fn of(file: &File) -> Self {
        let mut reading = Self { module: file.module.clone(), ..Self::default() };
        reading.visit_file(&file.parsed);
        reading
    }

    /// Notes a path that starts in this crate.
    fn note(&mut self, segments: &[String]) {
        let mut at = self.module.clone();
        let mut rest = segments;
        match segments.first().map(String::as_str) {
            Some("crate") => {
                at.clear();
                rest = &segments[1..];
            }
            Some("self") => rest = &segments[1..],
            Some("super") => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            _ => return,
        }
        at.extend(rest.iter().cloned());
        self.named.insert(at);
    }

    fn note_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.note(before),
            syn::UseTree::Name(name) => self.note(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.note_tree(before, tree);
                }
            }
        }
    }

    fn measure(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line + 1 - span.start().line;
        let owner = self.owner.as_ref().map_or(String::new(), |owner| format!("{owner}::"));
        self.functions.push((format!("{owner}{name}"), lines));
    }
}

impl<'ast> Visit<'ast> for Reading {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // What a folder's file shows of its folder is no import.
        if matches!(item.vis, syn::Visibility::Inherited) && !is_for_tests(&item.attrs) {
            self.note_tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.measure(&item.sig.ident, item.block.span().join(item.sig.span()).unwrap_or(item.block.span()));
        visit::visit_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match item.self_ty.as_ref() {
            syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        let outer = std::mem::replace(&mut self.owner, name);
        visit::visit_item_impl(self, item);
        self.owner = outer;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.block.span().join(item.sig.span()).unwrap_or(item.block.span()));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Which files of a crate each file imports, by module.
fn imports(files: &[File]) -> BTreeMap<&[String], BTreeSet<&[String]>> {
    let modules: BTreeSet<&[String]> = files.iter().map(|file| file.module.as_slice()).collect();
    let home = |named: &[String]| {
        (0..=named.len()).rev().map(|end| &named[..end]).find_map(|start| modules.get(start).copied())
    };
    files
        .iter()
        .map(|file| {
            let named = Reading::of(file).named;
            let own = file.module.as_slice();
            // A path to a folder's file is one to the crate's root as well; the root is not a place to live in.
            let homes = named.iter().filter_map(|named| home(named));
            (own, homes.filter(|home| *home != own && !home.is_empty()).collect())
        })
        .collect()
}

fn shown(module: &[String]) -> String {
    module.join("::")
}

/// Files that reach themselves by their imports, each circle once.
fn circles(imports: &BTreeMap<&[String], BTreeSet<&[String]>>) -> Vec<Vec<String>> {
    let reach = |from: &[String]| {
        let mut met: BTreeSet<&[String]> = BTreeSet::new();
        let mut open: Vec<&[String]> = imports.get(from).into_iter().flatten().copied().collect();
        while let Some(next) = open.pop() {
            if met.insert(next) {
                open.extend(imports.get(next).into_iter().flatten().copied());
            }
        }
        met
    };
    let reached: BTreeMap<&[String], BTreeSet<&[String]>> =
        imports.keys().map(|from| (*from, reach(from))).collect();
    let mut circles = BTreeSet::new();
    for (from, met) in &reached {
        if met.contains(from) {
            let ring = met.iter().filter(|other| reached[*other].contains(from));
            circles.insert(ring.map(|module| shown(module)).collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}

/// Imports that run upward between the layers of a crate.
fn upward(layers: &[&[&str]], imports: &BTreeMap<&[String], BTreeSet<&[String]>>) -> Vec<String> {
    let floor = |module: &[String]| {
        let folder = module.first()?;
        layers.iter().position(|layer| layer.contains(&folder.as_str()))
    };
    let mut found = Vec::new();
    for (from, to) in imports {
        for to in to {
            if let (Some(own), Some(other)) = (floor(from), floor(to))
                && (other > own || other == own && from[0] != to[0])
            {
                found.push(format!("{} imports {}", shown(from), shown(to)));
            }
        }
    }
    found
}

fn functions(files: &[File]) -> Vec<Function> {
    let of = |file: &File| {
        let path = file.path.strip_prefix(root()).expect("it is ours").to_path_buf();
        let functions = Reading::of(file).functions;
        functions.into_iter().map(move |(name, lines)| Function { name, path: path.clone(), lines })
    };
    files.iter().flat_map(of).collect()
}

/// Lines of comments above [`COLUMNS_MAX`]; a link or a path cannot be broken.
fn wide_comments(files: &[File]) -> Vec<String> {
    let mut wide = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            let comment = line.trim_start().starts_with("//");
            if comment && line.chars().count() > COLUMNS_MAX {
                wide.push(format!("{}:{}", file.path.display(), number + 1));
            }
        }
    }
    wide
}

#[test]
fn imports_run_downward_between_the_layers_of_a_crate_and_never_in_a_circle() {
    for (name, layers) in CRATES {
        let files = files(name);
        for layer in layers.iter().flat_map(|layer| layer.iter()) {
            let is_there = files.iter().any(|file| file.module.first().is_some_and(|first| first == layer));
            assert!(is_there, "{name}: there is no layer {layer}");
        }
        let imports = imports(&files);
        assert!(imports.values().any(|to| !to.is_empty()), "{name}: its imports are read");
        let (upward, circles) = (upward(layers, &imports), circles(&imports));
        assert!(upward.is_empty(), "{name}: upward: {upward:#?}");
        assert!(circles.is_empty(), "{name}: in a circle: {circles:#?}");
    }
}

#[test]
fn a_function_fits_on_a_screen() {
    for (name, _) in CRATES {
        let mut known: Vec<_> = LONG_FUNCTIONS.iter().filter(|(of, ..)| *of == name).collect();
        for function in functions(&files(name)).iter().filter(|found| found.lines > FUNCTION_LINES_MAX) {
            let place = known.iter().position(|(_, known, _)| *known == function.name);
            let Some(place) = place else {
                panic!(
                    "{name}: {} of {} has {} lines",
                    function.name,
                    function.path.display(),
                    function.lines
                )
            };
            let (.., lines) = known.remove(place);
            assert!(function.lines <= *lines, "{name}: {} grew to {} lines", function.name, function.lines);
        }
        assert!(known.is_empty(), "{name}: shorter now, take them off the list: {known:?}");
    }
}

#[test]
fn comments_fit_beside_the_code() {
    let wide: Vec<String> = CRATES.iter().flat_map(|(name, _)| wide_comments(&files(name))).collect();
    assert!(wide.is_empty(), "comments above {COLUMNS_MAX} columns: {wide:#?}");
}

#[test]
#[expect(clippy::print_stdout, reason = "the measures are for people")]
fn the_measures_are_printed() {
    println!(
        "{:<10} {:>6} {:>7} {:>7} {:>7} {:>8}",
        "crate", "lines", "circles", "upward", "longest", "wide"
    );
    for (name, layers) in CRATES {
        let files = files(name);
        let imports = imports(&files);
        let lines: usize = files.iter().map(|file| file.text.lines().count()).sum();
        let longest =
            functions(&files).into_iter().max_by_key(|function| function.lines).expect("it has some");
        println!(
            "{name:<10} {lines:>6} {:>7} {:>7} {:>7} {:>8}  {}",
            circles(&imports).len(),
            upward(layers, &imports).len(),
            longest.lines,
            wide_comments(&files).len(),
            longest.name
        );
    }
}
