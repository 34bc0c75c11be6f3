//! What the reading commands print is as its schema says, and the stored schemas are those of the types.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use perennial_views::schemas;
use serde_json::Value;

/// Runs the binary in a directory; its standard output.
fn stdout(directory: &Path, arguments: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PERENNIAL_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).args(arguments.split_whitespace()).stdin(Stdio::null());
    let output = command.env("PERENNIAL_CLOUD", "sim").env("USER", "tester").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {:?}\n{text}{errors}", output.status);
    text
}

/// Checks a value by the schema of this name.
fn check(schema: &str, what: &str, text: &str) {
    let (_, found) = schemas::all().into_iter().find(|(name, _)| *name == schema).expect("a schema");
    let validator = jsonschema::validator_for(found.as_value()).unwrap();
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: {error}\n{text}"));
    if let Err(error) = validator.validate(&value) {
        panic!("{what}: {error} at {}\n{value:#}", error.instance_path());
    }
}

#[test]
fn every_reading_command_prints_what_its_schema_says() {
    let directory = tempfile::tempdir().unwrap();
    let run = |arguments: &str| stdout(directory.path(), arguments);
    run("demo --speed 60 --keep demo");
    std::fs::write(
        directory.path().join("db-9.yaml"),
        "schema: perennial.node/v1\nname: db-9\nimage: ami-1\nsubnet: subnet-1\ncapacity:\n  instance_types: \
         [m6i.large]\npersist: {root: image, network: none}\n",
    )
    .unwrap();
    let mut seen = vec!["views/workflow-watch", "views/pool-show", "views/server-status"];
    for (schema, arguments) in [
        ("views/node-list", "node list"),
        ("views/node-show", "node show db-ip"),
        ("views/node-history", "node history db-eni"),
        ("views/node-backups", "node backups db-ip"),
        ("views/node-plan", "node plan db-ip"),
        ("views/node-file-plan", "node plan -f db-9.yaml"),
        ("views/node-diff", "node diff db-9.yaml"),
        ("views/node-prune", "node prune db-ip --dry-run"),
        ("views/workflow-list", "workflow list"),
        ("views/workflow-show", "workflow show db-ip.2"),
        ("views/pool-list", "pool list"),
        ("views/submission", "node replace db-ip --id r-1"),
        ("views/journal-head", "journal head"),
        ("views/doctor", "doctor"),
        ("views/status", "status"),
        ("views/audit", "audit"),
        ("views/submission-list", "submission list"),
    ] {
        check(schema, arguments, &run(&format!("--data demo {arguments} --output json")));
        seen.push(schema);
    }
    let watched = run("--data demo workflow watch db-ip.2 --output json");
    assert!(watched.lines().count() > 10, "{watched}");
    for line in watched.lines() {
        check("views/workflow-watch", "workflow watch", line);
    }
    // `pool show` needs a pool, which a demo has not; views/tests/queries.rs checks that one. The status needs a
    // server; cli.rs checks it.
    let unseen = schemas::all().into_iter().map(|(name, _)| name).filter(|name| !seen.contains(name));
    assert_eq!(unseen.collect::<Vec<_>>(), [""; 0], "every schema is checked");
}

/// `UPDATE=1 cargo test -p perennial --test views` writes them anew, as `perennial schema --write schemas/json` does.
#[test]
fn the_files_are_those_of_the_types() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schemas/json");
    for (name, schema) in schemas::all() {
        let path = directory.join(format!("{name}.schema.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == text, "{} is stale: run `perennial schema --write schemas/json`", path.display());
    }
}
