//! Files that people write: YAML or JSON, checked strictly. Every mistake is told at once, each with the
//! line that it is in and, where a name was meant that is nearly the same, with that name.

mod form;
mod yaml;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use perennial_workflows::spec::address_pool::AddressPoolSpec;
use perennial_workflows::spec::error::SpecError;
use perennial_workflows::spec::node::NodeSpec;
use perennial_workflows::view::schemas;
use serde::de::DeserializeOwned;

use self::form::Mistake;
use self::yaml::{Node, Place};
use crate::failure::Failure;

pub(crate) use self::form::nearest;

/// The largest file that is read. A node file with the largest user data is under 40 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How many mistakes of all files are told.
const MISTAKES_TOLD: usize = 20;

/// The most characters of a line that are shown.
const LINE_MAX: usize = 120;

/// What the files in a directory that are read end with.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads a file; `-` is stdin.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let shown = shown(path);
    let mut text = String::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    match result {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => {
            Err(Failure::user(format!("{shown}: larger than {FILE_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::user(format!("{shown}: {error}"))),
    }
}

/// The name of a file in messages.
pub(crate) fn shown(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
}

/// Parses YAML or JSON that has no schema to check its form by.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str, schema: &str) -> Result<T, Failure> {
    deserialized(text).map_err(|mistake| told(&[(shown(path), text.to_owned(), mistake)], schema))
}

/// Reads a node file and checks all of it.
pub(crate) fn node(path: &Path) -> Result<NodeSpec, Failure> {
    let mut nodes = nodes(std::slice::from_ref(&path.to_path_buf()))?;
    match (nodes.pop(), nodes.len()) {
        (Some((_, spec)), 0) => Ok(spec),
        (_, more) => Err(Failure::user(format!("{}: {} nodes, and one is asked for", shown(path), more + 1))),
    }
}

/// Reads node files, each with its name for messages: every document of every file, and the files of
/// directories.
///
/// # Errors
/// Every mistake in all of them.
pub(crate) fn nodes(paths: &[PathBuf]) -> Result<Vec<(String, NodeSpec)>, Failure> {
    documents(paths, "node", NodeSpec::check_all)
}

/// Reads a pool file and checks all of it.
pub(crate) fn pool(path: &Path) -> Result<AddressPoolSpec, Failure> {
    let check = |spec: &AddressPoolSpec| spec.check().err().into_iter().collect();
    let mut pools = documents(std::slice::from_ref(&path.to_path_buf()), "pool", check)?;
    match (pools.pop(), pools.len()) {
        (Some((_, spec)), 0) => Ok(spec),
        (_, more) => Err(Failure::user(format!("{}: {} pools, and one is asked for", shown(path), more + 1))),
    }
}

/// The files that paths name: a directory stands for those in it.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let listed =
            std::fs::read_dir(path).map_err(|error| Failure::user(format!("{}: {error}", shown(path))))?;
        let is_read = |path: &PathBuf| {
            path.is_file()
                && path
                    .extension()
                    .and_then(|ending| ending.to_str())
                    .is_some_and(|ending| ENDINGS.contains(&ending))
        };
        let mut of_it: Vec<PathBuf> =
            listed.filter_map(Result::ok).map(|entry| entry.path()).filter(is_read).collect();
        if of_it.is_empty() {
            return Err(Failure::user(format!(
                "{}: no file there ends with .yaml, .yml or .json",
                shown(path)
            )));
        }
        of_it.sort();
        files.extend(of_it);
    }
    Ok(files)
}

/// Reads every document of files that have a schema.
fn documents<T: DeserializeOwned>(
    paths: &[PathBuf],
    schema: &str,
    check: impl Fn(&T) -> Vec<SpecError>,
) -> Result<Vec<(String, T)>, Failure> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        let text = read(&path)?;
        let documents = yaml::documents(&text);
        if documents.is_empty() {
            return Err(Failure::user(format!("{}: nothing is in it", shown(&path))));
        }
        for document in documents {
            match checked(&document, schema, &check) {
                Ok(value) => good.push((shown(&path), value)),
                Err(mistakes) => {
                    bad.extend(mistakes.into_iter().map(|mistake| (shown(&path), text.clone(), mistake)));
                }
            }
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(told(&bad, schema)) }
}

/// Reads one document: its form, its types, and its rules.
fn checked<T: DeserializeOwned>(
    text: &str,
    schema: &str,
    check: &impl Fn(&T) -> Vec<SpecError>,
) -> Result<T, Vec<Mistake>> {
    let tree = yaml::tree(text);
    let schemas = schemas::all();
    let known = schemas.iter().find(|(name, _)| *name == schema).map(|(_, schema)| schema.as_value());
    if let (Some(tree), Some(known)) = (&tree, known) {
        if let Some(other) = of_another_kind(tree, schema) {
            return Err(vec![other]);
        }
        let mistakes = form::mistakes(known, tree);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
    }
    let value: T = deserialized(text).map_err(|mistake| vec![mistake])?;
    let wrong = check(&value);
    if wrong.is_empty() {
        return Ok(value);
    }
    let place = |field: &str| tree.as_ref().map(|tree| tree.find(field));
    let mistake = |error: SpecError| Mistake { at: place(&error.field), what: error.to_string(), help: None };
    Err(wrong.into_iter().map(mistake).collect())
}

/// A file of another kind: the command for it.
fn of_another_kind(tree: &Node, schema: &str) -> Option<Mistake> {
    let yaml::Value::Map(entries) = &tree.value else { return None };
    let (_, value) = entries.iter().find(|(key, _)| key.text() == Some("schema"))?;
    let (found, command) = match value.text()? {
        "perennial.pool/v1" => ("pool", "perennial pool apply -f"),
        "perennial.node/v1" => ("node", "perennial node apply -f"),
        "perennial.submission/v1" => ("submission", "perennial workflow submit -f"),
        _ => return None,
    };
    (found != schema).then(|| Mistake {
        at: Some(value.at),
        what: format!("this is a {found}, and a {schema} is asked for"),
        help: Some(format!("`{command} FILE`")),
    })
}

fn deserialized<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    serde_saphyr::from_str(text).map_err(|error| {
        let plain = error.without_snippet();
        let at = plain.location().map(|place| Place {
            line: usize::try_from(place.line()).unwrap_or(usize::MAX),
            column: usize::try_from(place.column()).unwrap_or(usize::MAX),
            length: 1,
        });
        let what = plain.to_string();
        let what = what.lines().next().unwrap_or_default();
        // The place stands at the beginning already, where editors find it.
        let what = what.rsplit_once(" at line ").map_or(what, |(what, _)| what).to_owned();
        Mistake { at, what, help: None }
    })
}

/// Every mistake with the line it is in, and a caret under it.
fn told(mistakes: &[(String, String, Mistake)], schema: &str) -> Failure {
    let mut blocks: Vec<String> =
        mistakes.iter().take(MISTAKES_TOLD).map(|(file, text, mistake)| block(file, text, mistake)).collect();
    if mistakes.len() > MISTAKES_TOLD {
        blocks.push(format!("and {} more", mistakes.len() - MISTAKES_TOLD));
    }
    Failure::user(blocks.join("\n")).hint(format!("`perennial schema {schema}` shows what is allowed"))
}

fn block(file: &str, text: &str, mistake: &Mistake) -> String {
    let Mistake { at, what, help } = mistake;
    let help = help.as_ref().map_or_else(String::new, |help| format!("\n  help: {help}"));
    let Some(at) = at else { return format!("{file}: {what}{help}") };
    let head = format!("{file}:{}:{}: {what}", at.line, at.column);
    let Some(line) = at.line.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
        return format!("{head}{help}");
    };
    let line: String = line.chars().take(LINE_MAX).collect();
    let before = at.column.saturating_sub(1).min(line.chars().count());
    let carets = at.length.min(line.chars().count().saturating_sub(before)).max(1);
    let number = at.line.to_string();
    let gutter = " ".repeat(number.len());
    format!("{head}\n  {number} | {line}\n  {gutter} | {}{}{help}", " ".repeat(before), "^".repeat(carets))
}
