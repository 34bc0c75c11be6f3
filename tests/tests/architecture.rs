//! What the workspace promises about itself: who may depend on whom, what each dependency is licensed under, and habits
//! that a compiler does not enforce.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// DESIGN §3: every edge that there may be between our crates, of whatever kind.
const EDGES: [(&str, &[&str]); 8] = [
    ("perennial-engine", &[]),
    ("perennial-workflows", &["perennial-engine"]),
    ("perennial-views", &["perennial-engine", "perennial-workflows"]),
    ("perennial-store", &["perennial-engine"]),
    ("perennial-workers", &["perennial-engine", "perennial-workflows"]),
    ("perennial-sim", &["perennial-engine", "perennial-workflows", "perennial-workers"]),
    ("perennial", LIBRARIES),
    ("perennial-tests", LIBRARIES),
];

const LIBRARIES: &[&str] = &[
    "perennial-engine",
    "perennial-workflows",
    "perennial-views",
    "perennial-store",
    "perennial-workers",
    "perennial-sim",
];

/// What decides is pure: the one crate without a runtime, and the two without a database or a cloud. What answers
/// questions has neither: it asks through the engine's port.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("perennial-engine", &["rusqlite", "uuid", "jiff"]),
    // jiff only reckons with a time it is given: its clocks are banned in clippy.toml.
    ("perennial-workflows", &["rusqlite", "tokio", "async-trait", "uuid", "fastrand"]),
    ("perennial-views", &["rusqlite", "tokio", "async-trait", "uuid", "jiff"]),
    ("perennial-sim", &["rusqlite"]),
];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's directory");
    root.to_path_buf()
}

/// All packages that are built on this machine, by Cargo.lock, without asking the registry.
fn metadata() -> Metadata {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let said = Command::new(cargo).arg("-vV").output().expect("cargo tells its version").stdout;
    let said = String::from_utf8(said).expect("it is text");
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).expect("it names its host");
    let options = ["--locked", "--offline", "--filter-platform", host].map(str::to_owned).to_vec();
    let mut command = MetadataCommand::new();
    command.current_dir(root()).other_options(options);
    command.exec().expect("cargo describes the workspace")
}

fn members(metadata: &Metadata) -> BTreeMap<String, &Package> {
    metadata.workspace_packages().into_iter().map(|package| (package.name.to_string(), package)).collect()
}

/// Every file of ours with this extension.
fn files(extension: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", &format!("*.{extension}")])
        .current_dir(root())
        .output();
    match listed {
        Ok(listed) if listed.status.success() => {
            let text = String::from_utf8(listed.stdout).expect("names are text");
            text.lines().map(|name| root().join(name)).filter(|path| path.is_file()).collect()
        }
        // A source archive has no repository; then everything beside Cargo's own directory is ours.
        _ => EDGES
            .iter()
            .flat_map(|(name, _)| walk(&root().join(name.strip_prefix("perennial-").unwrap_or("cli"))))
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect(),
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(walk(&path)) } else { all.push(path) }
    }
    all
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn toml(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn our_crates_depend_on_each_other_only_as_the_design_says() {
    let metadata = metadata();
    let members = members(&metadata);
    let allowed: BTreeMap<_, _> = EDGES.into_iter().collect();
    let names: BTreeSet<_> = members.keys().map(String::as_str).collect();
    assert_eq!(names, allowed.keys().copied().collect(), "a new crate needs its place in DESIGN §3");
    for (name, package) in &members {
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let forbidden = names.contains(to) && !allowed[name.as_str()].contains(&to);
            assert!(!forbidden, "{name} must not depend on {to} ({:?})", dependency.kind);
        }
    }
}

#[test]
fn only_workers_names_the_sdk_and_only_behind_its_feature() {
    let metadata = metadata();
    for (name, package) in members(&metadata) {
        for dependency in package.dependencies.iter().filter(|dependency| dependency.name.starts_with("aws-"))
        {
            let of_workers = name == "perennial-workers" && dependency.optional;
            let of_a_test = name == "perennial-tests" && dependency.kind == DependencyKind::Development;
            assert!(of_workers || of_a_test, "{name} must not depend on {}", dependency.name);
        }
    }
    let inside = [root().join("workers/src/aws"), root().join("tests")];
    for path in files("rs") {
        let names_it =
            ["aws_sdk_", "aws_config::", "aws_smithy_"].iter().any(|name| read(&path).contains(name));
        let may = inside.iter().any(|directory| path.starts_with(directory));
        assert!(may || !names_it, "{} must not name the SDK", path.display());
    }
}

#[test]
fn what_decides_knows_no_database_no_cloud_and_no_chance() {
    let metadata = metadata();
    let members = members(&metadata);
    for (name, forbidden) in FORBIDDEN {
        for dependency in &members[name].dependencies {
            let real = dependency.kind == DependencyKind::Normal;
            let bad = real && forbidden.contains(&dependency.name.as_str());
            assert!(!bad, "{name} must not depend on {}", dependency.name);
        }
    }
}

/// RUSTSEC-2025-0012: see deny.toml.
#[test]
fn the_unmaintained_backoff_stands_behind_one_module() {
    let metadata = metadata();
    for (name, package) in members(&metadata) {
        let has = package.dependencies.iter().any(|dependency| dependency.name == "backoff");
        assert_eq!(has, name == "perennial-engine", "{name}: backoff is the engine's alone");
    }
    let users = files("rs").into_iter().filter(|path| read(path).contains(concat!("backoff", "::")));
    let users: Vec<_> = users.collect();
    assert_eq!(users, [root().join("engine/src/retry.rs")]);
}

#[test]
fn every_dependency_has_a_licence_that_we_may_distribute() {
    let list = toml(&root().join("deny.toml"));
    let allowed: Vec<spdx::Licensee> = list["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|name| spdx::Licensee::parse(name.as_str().expect("a name")).expect("an SPDX name"))
        .collect();
    let mut refused = Vec::new();
    for package in &metadata().packages {
        let licence = package.license.as_deref().unwrap_or("none");
        // Old manifests write "MIT/Apache-2.0" for a choice.
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
        let good = expression.is_ok_and(|expression| {
            expression.evaluate(|needed| allowed.iter().any(|licensee| licensee.satisfies(needed)))
        });
        if !good {
            refused.push(format!("{} {} ({licence})", package.name, package.version));
        }
    }
    assert!(refused.is_empty(), "not in deny.toml's list: {refused:#?}");
}

#[test]
fn every_crate_has_the_workspaces_lints_licence_and_versions() {
    for (name, package) in members(&metadata()) {
        let manifest = toml(package.manifest_path.as_std_path());
        let inherits = |table: &str, key: &str| {
            manifest.get(table).and_then(|table| table.get(key)).and_then(|key| key.get("workspace"))
                == Some(&toml::Value::Boolean(true))
        };
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(lints, Some(&toml::Value::Boolean(true)), "{name}: [lints] workspace = true");
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            assert!(inherits("package", key), "{name}: {key}.workspace = true");
        }
    }
}

/// The file of a target and those of its modules, by their declarations.
fn with_modules(file: PathBuf, is_root: bool) -> Vec<PathBuf> {
    let beside = file.parent().expect("a directory").to_path_buf();
    let names_its_directory = is_root || file.ends_with("mod.rs");
    let inside = if names_its_directory { beside } else { file.with_extension("") };
    let text = read(&file);
    let mut all = vec![file];
    let declared = text.lines().filter_map(|line| line.strip_suffix(';')?.strip_prefix("mod "));
    for name in declared {
        let places = [inside.join(format!("{name}.rs")), inside.join(name).join("mod.rs")];
        let module = places.into_iter().find(|path| path.is_file());
        all.extend(with_modules(module.unwrap_or_else(|| panic!("no file of module {name}")), false));
    }
    all
}

#[test]
fn every_test_file_is_run() {
    for (name, package) in members(&metadata()) {
        let targets = package.targets.iter().filter(|target| target.is_test());
        let run: BTreeSet<PathBuf> =
            targets.flat_map(|target| with_modules(target.src_path.clone().into(), true)).collect();
        let directory = package.manifest_path.parent().expect("a directory").join("tests");
        for path in walk(directory.as_std_path()) {
            let is_test = path.extension().is_some_and(|extension| extension == "rs");
            assert!(!is_test || run.contains(&path), "{name}: {} is run by nobody", path.display());
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("todo", "!("),
        concat!("dbg", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
    ];
    for path in files("rs") {
        let text = read(&path);
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn the_emulators_are_pinned() {
    for kind in ["moto", "ministack"] {
        let requirements = read(&root().join(format!("tests/emulators/{kind}.txt")));
        for line in requirements.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert!(line.contains("=="), "{kind}.txt: {line:?} names no version");
        }
    }
}
