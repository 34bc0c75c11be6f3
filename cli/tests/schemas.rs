//! The JSON Schemas: the files are those of the types, and a validator agrees with the parsers.

use std::path::PathBuf;

use perennial_workflows::domain::submission::Submission;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use perennial_workflows::view::schemas;
use serde_json::{Value, json};

fn validator(name: &str) -> jsonschema::Validator {
    let (_, schema) = schemas::all().into_iter().find(|(known, _)| *known == name).unwrap();
    jsonschema::validator_for(schema.as_value()).unwrap()
}

/// `UPDATE=1 cargo test -p perennial --test schemas` writes them anew, as `perennial schema --write schemas/json` does.
#[test]
fn the_files_are_those_of_the_types() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../schemas/json");
    for (name, schema) in schemas::all() {
        let path = directory.join(format!("{name}.schema.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == text, "{} is stale: run `perennial schema --write schemas/json`", path.display());
    }
}

#[test]
fn a_validator_accepts_what_the_node_file_parser_accepts() {
    let validator = validator("node");
    let agree = |label: &str, change: &dyn Fn(&mut Value)| {
        let mut value = json!(example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt));
        change(&mut value);
        let parsed = serde_json::from_value::<NodeSpec>(value.clone()).map_err(|error| error.to_string());
        let parsed = parsed.and_then(|spec| spec.check().map_err(|error| error.to_string()));
        let valid = validator.is_valid(&value);
        assert_eq!(parsed.is_ok(), valid, "{label}: the parser says {parsed:?}");
        valid
    };
    for good in ["/dev/sdb", "/dev/xvdba", "/dev/xvdf", "/dev/xvddx"] {
        assert!(agree(good, &|spec| spec["data_volumes"][0]["device"] = json!(good)));
    }
    for bad in ["/dev/sda", "/dev/xvdea", "sdf", "/dev/sdf1"] {
        assert!(!agree(bad, &|spec| spec["data_volumes"][0]["device"] = json!(bad)));
    }
    for bad in ["Db", "1db", "", "db_1", &"x".repeat(64)] {
        assert!(!agree(bad, &|spec| spec["name"] = json!(bad)));
    }
    assert!(agree("longest name", &|spec| spec["name"] = json!("x".repeat(63))));
    assert!(!agree("ami", &|spec| spec["image"] = json!("image-1")));
    assert!(!agree("no types", &|spec| spec["capacity"]["instance_types"] = json!([])));
    assert!(
        !agree("type twice", &|spec| spec["capacity"]["instance_types"] = json!(["m5.large", "m5.large"]))
    );
    assert!(!agree("no type", &|spec| spec["capacity"]["instance_types"] = json!(["large"])));
    let wanted = json!({"vcpus": {"min": 2, "max": 4}, "memory_gib": {"min": 8}, "families": ["m6*"]});
    assert!(agree("requirements alone", &|spec| spec["capacity"] = json!({"requirements": wanted})));
    assert!(agree("both", &|spec| spec["capacity"]["requirements"] = wanted.clone()));
    assert!(!agree("neither", &|spec| spec["capacity"] = json!({"market": "spot_only"})));
    assert!(!agree("no range", &|spec| spec["capacity"]["requirements"] = json!({"vcpus": {"min": 2}})));
    assert!(!agree("another word", &|spec| spec["capacity"]["order"] = json!("cheapest")));
    assert!(agree("price", &|spec| spec["capacity"]["price_max"] = json!("0.12")));
    assert!(!agree("price", &|spec| spec["capacity"]["price_max"] = json!("cheap")));
    assert!(!agree("unknown field", &|spec| spec["surprise"] = json!(1)));
    assert!(!agree("size", &|spec| spec["data_volumes"][0]["size_gib"] = json!(0)));
    assert!(!agree("iops", &|spec| spec["data_volumes"][0]["iops"] = json!(5_000_000_000_u64)));
    assert!(!agree("volume named root", &|spec| spec["data_volumes"][0]["name"] = json!("root")));
    assert!(!agree("key without encryption", &|spec| spec["data_volumes"][0]["kms_key"] = json!("k")));
    assert!(agree("key", &|spec| {
        spec["data_volumes"][0]["kms_key"] = json!("k");
        spec["data_volumes"][0]["encrypted"] = json!(true);
    }));
    assert!(agree("address", &|spec| spec["private_ip"] = json!("10.0.0.9")));
    assert!(!agree("address", &|spec| spec["private_ip"] = json!("10.0.0.256")));
    assert!(!agree("address that is not kept", &|spec| {
        spec["private_ip"] = json!("10.0.0.9");
        spec["persist"]["network"] = json!("none");
    }));
    assert!(!agree("reserved tag", &|spec| spec["tags"] = json!({"aws:x": "y"})));
    assert!(agree("days", &|spec| spec["persist"]["retain_days"] = json!(14)));
    assert!(!agree("days", &|spec| spec["persist"]["retain_days"] = json!(0)));
    assert!(!agree("days", &|spec| spec["persist"]["retain_days"] = json!(3_651)));
    assert!(agree("tag", &|spec| spec["tags"] = json!({"team": "data"})));
    assert!(!agree("user data", &|spec| spec["user_data"] = json!("x".repeat(16 * 1024 + 1))));
}

#[test]
fn a_validator_accepts_what_the_submission_parser_accepts() {
    let validator = validator("submission");
    let spec = json!(example("db-1", NetworkMode::None, RootMode::None));
    let pool = json!({
        "schema": "perennial.pool/v1", "name": "brokers", "subnet": "subnet-1",
        "addresses": ["10.0.1.10", "10.0.1.20-10.0.1.29"]
    });
    let keep = json!({"root": true, "data": true, "network": false, "backups": false});
    let message = |workflow: &str, node: Value, params: Value| {
        json!({
            "schema": "perennial.submission/v1", "id": "s-1", "workflow": workflow, "node": node, "params": params,
            "requested_by": "ops"
        })
    };
    let replace = || message("node.replace", json!("db-1"), json!({}));
    let with = |field: &str, value: Value| {
        let mut message = replace();
        message[field] = value;
        message
    };
    let without = |field: &str| {
        let mut message = replace();
        message.as_object_mut().unwrap().remove(field);
        message
    };
    let good = [
        message("node.apply", Value::Null, json!({ "spec": spec })),
        message("node.apply", json!("db-1"), json!({ "spec": spec })),
        replace(),
        without("params"),
        with("params", Value::Null),
        with("params", json!({"reason": null})),
        with("reply_to", json!("answers")),
        with("deadline", json!("2026-09-14T08:00:00Z")),
        message("node.delete", json!("db-1"), json!({ "keep": keep, "reason": "old" })),
        message("node.prune", json!("db-1"), Value::Null),
        message("node.prune", json!("db-1"), json!({"volumes": ["vol-1"], "older_than_s": 0, "keep": 1})),
        message("pool.apply", Value::Null, json!({ "spec": pool })),
        message(
            "workflow.resume",
            Value::Null,
            json!({"workflow": "db-1.3", "accept_loss": ["root", "data"]}),
        ),
    ];
    let bad = [
        message("node.explode", json!("db-1"), json!({})),
        message("pool.apply", json!("db-1"), json!({ "spec": pool })),
        message("pool.apply", Value::Null, json!({ "spec": { "name": "brokers" } })),
        message("node.replace", Value::Null, json!({})),
        message("node.delete", json!("db-1"), json!({})),
        message("node.delete", json!("db-1"), json!({"keep": {"root": true}})),
        message("node.prune", Value::Null, json!({})),
        message("node.prune", json!("db-1"), json!({"volumes": ["snap-1"]})),
        message("node.prune", json!("db-1"), json!({"older_than": "7d"})),
        message("node.prune", json!("db-1"), json!({"older_than_s": -1})),
        message("node.prune", json!("db-1"), json!({"volumes": vec!["vol-1"; 101]})),
        message("node.apply", Value::Null, json!({})),
        message("node.apply", Value::Null, Value::Null),
        message("workflow.resume", Value::Null, json!({"workflow": "db-1"})),
        message("workflow.resume", Value::Null, json!({"workflow": "db-1.0"})),
        without("node"),
        without("id"),
        without("requested_by"),
        without("schema"),
        with("requested_by", json!("")),
        with("id", json!("a/b")),
        with("id", json!("x".repeat(129))),
        with("surprise", json!(1)),
        with("params", json!({"resaon": "x"})),
        with("params", json!({"reason": "x".repeat(1_001)})),
        with("schema", json!("perennial.submission/v9")),
        with("node", json!("Db 1")),
        json!([]),
        json!("x"),
    ];
    for (message, expected) in good.iter().map(|m| (m, true)).chain(bad.iter().map(|m| (m, false))) {
        let parsed = Submission::parse(&message.to_string());
        assert_eq!(parsed.is_ok(), expected, "{message}: {parsed:?}");
        assert_eq!(validator.is_valid(message), expected, "the schema disagrees on {message}");
    }
}

/// The names of all fields below a schema, however deep.
fn fields(schema: &Value, into: &mut std::collections::BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                into.extend(properties.keys().cloned());
            }
            map.values().for_each(|below| fields(below, into));
        }
        Value::Array(all) => all.iter().for_each(|below| fields(below, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_reference_of_the_node_file_has_every_field() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/node-file.md");
    let text = std::fs::read_to_string(path).unwrap();
    // What stands between backticks, word by word.
    let code = text.split('`').skip(1).step_by(2);
    let told: std::collections::BTreeSet<&str> =
        code.flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect();
    let (_, schema) = schemas::all().into_iter().find(|(known, _)| *known == "node").unwrap();
    let mut all = std::collections::BTreeSet::new();
    fields(schema.as_value(), &mut all);
    assert!(all.len() > 50, "there are many: {all:?}");
    let missing: Vec<_> = all.iter().filter(|field| !told.contains(field.as_str())).collect();
    assert!(missing.is_empty(), "docs/node-file.md does not tell of {missing:?}");
}
