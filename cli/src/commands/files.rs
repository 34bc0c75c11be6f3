//! Files that people write: YAML or JSON, checked as strictly as a message is (`strict`). Every mistake is
//! told at once, each with the line that it is in and, where a name was meant that is nearly the same, with
//! that name.

mod form;
mod yaml;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use perennial_workflows::domain::strict;
use perennial_workflows::spec::address_pool::AddressPoolSpec;
use perennial_workflows::spec::error::SpecError;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
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

/// Reads a submission in YAML or JSON. Its form is the server's to check: it depends on what is asked for.
pub(crate) fn submission(path: &Path, text: &str) -> Result<serde_json::Value, Failure> {
    let read = match yaml::tree(text) {
        Some(tree) if tree.mistakes.is_empty() => Ok(tree.root.json()),
        // An empty schema allows everything.
        Some(tree) => Err(form::mistakes(&serde_json::Value::Bool(true), &tree)),
        None => Err(vec![not_yaml(text)]),
    };
    let named = |mistake| (shown(path), text.to_owned(), mistake);
    read.map_err(|mistakes| told(&mistakes.into_iter().map(named).collect::<Vec<_>>(), "submission"))
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

/// Reads one document: its form, its types, and its rules. It is read as the server reads a message, by its
/// exact form.
fn checked<T: DeserializeOwned>(
    text: &str,
    schema: &str,
    check: &impl Fn(&T) -> Vec<SpecError>,
) -> Result<T, Vec<Mistake>> {
    let tree = yaml::tree(text).ok_or_else(|| vec![not_yaml(text)])?;
    let schemas = schemas::all();
    let (_, known) = schemas
        .iter()
        .find(|(name, _)| *name == schema)
        .unwrap_or_else(|| unreachable!("BUG: the file {schema} has no schema"));
    if let Some(other) = of_another_kind(&tree.root, schema) {
        return Err(vec![other]);
    }
    let mistakes = form::mistakes(known.as_value(), &tree);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let value: T = typed(form::json(known.as_value(), &tree), &tree.root).map_err(|mut mistakes| {
        mistakes.sort_by_key(|mistake| mistake.at);
        mistakes
    })?;
    let wrong = check(&value);
    if wrong.is_empty() {
        return Ok(value);
    }
    let mistake = |error: SpecError| Mistake {
        at: Some(tree.root.find(&error.field)),
        what: error.to_string(),
        help: None,
    };
    Err(wrong.into_iter().map(mistake).collect())
}

/// Reads a value of the right form. What is wrong with it is told of everything that can be left out of the
/// question: after a mistake the rest is read with what an example has in its place.
fn typed<T: DeserializeOwned>(mut value: serde_json::Value, tree: &Node) -> Result<T, Vec<Mistake>> {
    let mut mistakes: Vec<Mistake> = Vec::new();
    let mut places: Vec<String> = Vec::new();
    loop {
        let (path, error) = match strict::read_located(&value) {
            Ok(read) if mistakes.is_empty() => return Ok(read),
            Ok(_) => return Err(mistakes),
            Err(wrong) => wrong,
        };
        if places.contains(&path) || places.len() >= MISTAKES_TOLD {
            return Err(mistakes);
        }
        let what = if path.is_empty() { error.to_string() } else { format!("{path}: {error}") };
        mistakes.push(Mistake { at: Some(tree.find_value(&path)), what, help: None });
        if !put_right(&mut value, &path) {
            return Err(mistakes);
        }
        places.push(path);
    }
}

/// Puts what an example has, or nothing, in the place of something; whether that was possible.
fn put_right(value: &mut serde_json::Value, path: &str) -> bool {
    let pointer: String =
        path.split(['.', '[']).map(|part| format!("/{}", part.trim_end_matches(']'))).collect();
    let example = serde_json::to_value(example("example", NetworkMode::None, RootMode::None)).ok();
    if let Some(good) = example.as_ref().and_then(|example| example.pointer(&pointer))
        && let Some(place) = value.pointer_mut(&pointer)
    {
        *place = good.clone();
        return true;
    }
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    value
        .pointer_mut(parent)
        .and_then(serde_json::Value::as_object_mut)
        .is_some_and(|fields| fields.remove(name).is_some())
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

/// Why a text is no YAML, as its parser says it.
fn not_yaml(text: &str) -> Mistake {
    let read: Result<serde_json::Value, _> = serde_saphyr::from_str(text);
    let Err(error) = read else {
        let what = "it is too deep, or its aliases repeat too much".to_owned();
        return Mistake { at: None, what, help: None };
    };
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Result<NodeSpec, Vec<String>> {
        let line = |mistake: Mistake| {
            let at = mistake.at.map_or_else(String::new, |at| format!("{}:{} ", at.line, at.column));
            let help = mistake.help.map_or_else(String::new, |help| format!(" ({help})"));
            format!("{at}{}{help}", mistake.what)
        };
        checked(text, "node", &NodeSpec::check_all).map_err(|wrong| wrong.into_iter().map(line).collect())
    }

    fn good() -> Value {
        json!({
            "schema": "perennial.node/v1", "name": "db-1", "image": "ami-0123456789abcdef0",
            "subnet": "subnet-0123456789abcdef0", "capacity": {"instance_types": ["m6i.large"]},
            "persist": {"root": "adopt", "network": "secondary_ip"}, "protect": true,
            "data_volumes": [{"name": "data", "device": "/dev/sdf", "size_gib": 10}], "tags": {"team": "db"}
        })
    }

    /// Changes of a good file that a message with it would be refused for.
    fn bad() -> Vec<(&'static str, Value)> {
        vec![
            ("/protect", json!("true")),
            ("/protect", json!("yes")),
            ("/protect", json!(1)),
            ("/protect", json!(null)),
            ("/persist", json!(["adopt"])),
            ("/persist", json!(null)),
            ("/persist/root", json!({"adopt": null})),
            ("/persist/root", json!("adopted")),
            ("/persist/network", json!(["secondary_ip"])),
            ("/capacity", json!([["m6i.large"]])),
            ("/capacity/instance_types", json!("m6i.large")),
            ("/capacity/instance_types", json!([["m6i.large"]])),
            ("/data_volumes", json!({"name": "data"})),
            ("/data_volumes/0", json!(["data", "/dev/sdf", 10])),
            ("/data_volumes/0/size_gib", json!("10")),
            ("/data_volumes/0/size_gib", json!(10.5)),
            ("/data_volumes/0/size_gib", json!(-1)),
            ("/data_volumes/0/size_gib", json!(1e30)),
            ("/data_volumes/0/name", json!({"a": 1})),
            ("/data_volumes/0/name", json!("Data Volume")),
            ("/tags", json!([["team", "db"]])),
            ("/tags/team", json!(null)),
            ("/tags/team", json!(["db"])),
            ("/name", json!("DB 1")),
            ("/name", json!(null)),
            ("/image", json!("the newest one")),
            ("/schema", json!("perennial.node/v2")),
            ("/unknown", json!(1)),
        ]
    }

    #[test]
    fn a_file_is_read_as_strictly_as_a_message_in_json_and_in_yaml() {
        assert!(read(&good().to_string()).is_ok());
        for (pointer, change) in bad() {
            let mut file = good();
            match file.pointer_mut(pointer) {
                Some(place) => *place = change.clone(),
                None => {
                    file.as_object_mut().unwrap().insert(pointer[1..].to_owned(), change.clone());
                }
            }
            let by_message = strict::read::<NodeSpec>(&file).ok().filter(|spec| spec.check().is_ok());
            assert!(by_message.is_none(), "a message takes {pointer} {change}");
            let by_file = read(&file.to_string());
            assert!(
                by_file.as_ref().is_err_and(|wrong| !wrong.is_empty()),
                "a file takes {pointer} {change}"
            );
            let block = serde_saphyr::to_string(&file).unwrap();
            assert!(read(&block).is_err(), "a file takes {pointer} {change} in\n{block}");
        }
    }

    #[test]
    fn what_the_types_refuse_is_told_at_once_and_with_its_place() {
        let text = "schema: perennial.node/v1\nname: DB 1\nimage: newest\nsubnet: subnet-1\ncapacity:\n  \
                    instance_types: [m6i.large]\npersist: {root: adopt, network: secondary_ip}\nprivate_ip: 10.0.0\n\
                    data_volumes:\n  - {name: My Data, device: /dev/sdf, size_gib: 10}\n";
        let wrong = read(text).unwrap_err();
        let places: Vec<&str> = wrong.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(places, ["2:7", "3:8", "8:13", "10:12"], "{wrong:#?}");
    }

    #[test]
    fn a_file_with_comments_is_read_as_strictly() {
        let text = "# the database\nschema: perennial.node/v1 # of today\n\n# who\nname: db-1\nimage: ami-1\nsubnet: subnet-1\n\
                    capacity: # where\n  # many\n  instance_types: [m6i.large, # small\n    m5.large]\n  markt: spot_only # here\n\
                    persist: {root: adopt, network: secondary_ip}\nprotect: maybe # not\n# the end\n";
        let expected = [
            "12:3 unknown field `markt` in `capacity` (did you mean `market`?)",
            "14:10 protect: expects true or false, not \"maybe\"",
        ];
        assert_eq!(read(text).unwrap_err(), expected);
    }

    #[test]
    fn texts_that_look_like_numbers_stay_as_they_stand_and_keys_come_once() {
        let text = "schema: perennial.node/v1\nname: db-1\nimage: ami-1\nsubnet: subnet-1\ncapacity: {instance_types: [m6i.large], \
                    price_max: 0.10}\npersist: &p {root: adopt, network: secondary_ip}\ntags: {version: 1.10, account: 007, on: yes}\n";
        let spec = read(text).unwrap();
        assert_eq!(spec.capacity.price_max.as_deref(), Some("0.10"));
        let tags: Vec<&str> = spec.tags.values().map(String::as_str).collect();
        assert_eq!(tags, ["007", "yes", "1.10"]);
        let twice = format!("{text}name: db-2\nprotect: yes\n");
        let expected = [
            "8:1 the key `name` comes twice",
            "9:10 protect: expects true or false, not \"yes\" (write true)",
        ];
        assert_eq!(read(&twice).unwrap_err(), expected);
    }
}
