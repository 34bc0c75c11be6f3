//! What the Markdown of the repository promises: links that lead somewhere, lines that an editor can show, and
//! a README that is read to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The longest line, in characters: two windows fit beside each other on a laptop.
const COLUMNS_MAX: usize = 110;

/// Two screens.
const README_WORDS_MAX: usize = 1_200;

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's directory");
    root.to_path_buf()
}

/// Every Markdown file of the repository, by its path from the root.
fn documents() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
        .current_dir(root())
        .output();
    let all: Vec<PathBuf> = match listed {
        Ok(listed) if listed.status.success() => {
            let text = String::from_utf8(listed.stdout).expect("names are text");
            text.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect()
        }
        // A source archive has no repository.
        _ => ["", "docs", "docs/decisions", "docs/use-cases"]
            .into_iter()
            .flat_map(|folder| markdown_in(Path::new(folder)))
            .collect(),
    };
    assert!(all.len() > 10, "only {} documents were found", all.len());
    all
}

/// The Markdown files of one folder.
fn markdown_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).into_iter().flatten().flatten();
    let paths = entries.map(|entry| folder.join(entry.file_name()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text without its fenced blocks, which show other languages.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// What the links of a text lead to.
fn links(prose: &str) -> Vec<&str> {
    let ends = prose.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// The name by which a heading is linked to, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Whether a document has a heading of this name.
fn has_heading(document: &Path, name: &str) -> bool {
    let text = prose(&read(document));
    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line.trim_start_matches('#')) == name)
}

#[test]
fn links_in_markdown_resolve() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = prose(&read(&document));
        let folder = document.parent().expect("a file is in a folder");
        for target in links(&text).into_iter().filter(|target| !target.contains("://")) {
            seen += 1;
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() { document.clone() } else { folder.join(path) };
            let is_there = root().join(&file).exists();
            if !is_there || !heading.is_empty() && !has_heading(&file, heading) {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} links were read");
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

#[test]
fn lines_of_markdown_have_at_most_110_columns() {
    let mut long = Vec::new();
    for document in documents() {
        for (number, line) in (1..).zip(read(&document).lines()) {
            // One word, such as a link, has no place to break.
            let has_a_break = line.trim().contains(char::is_whitespace);
            if has_a_break && line.chars().count() > COLUMNS_MAX {
                long.push(format!("{}:{number}: {} columns", document.display(), line.chars().count()));
            }
        }
    }
    assert!(long.is_empty(), "lines of more than {COLUMNS_MAX} columns: {long:#?}");
}

#[test]
fn the_readme_is_two_screens() {
    let words = read(Path::new("README.md")).split_whitespace().count();
    assert!(words <= README_WORDS_MAX, "README.md has {words} words, more than {README_WORDS_MAX}");
}

#[test]
fn a_heading_is_linked_to_as_github_names_it() {
    assert_eq!(anchor(" `persist`: what comes back"), "persist-what-comes-back");
    assert_eq!(anchor("Controlling a rehearsal: `/_region/…`"), "controlling-a-rehearsal-_region");
}
