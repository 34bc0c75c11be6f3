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

/// Documents made from a schema, by a seed.
mod documents {
    use serde_json::{Map, Value, json};

    /// Texts that a pattern takes. A new pattern needs some here.
    const TEXTS: [(&str, &[&str]); 21] = [
        ("(-((25[0-5]", &["10.0.1.10", "10.0.1.20-10.0.1.29", "10.0.1.30-10.0.1.30"]),
        ("^((25[0-5]|", &["10.0.0.9", "255.255.255.255", "0.0.0.0"]),
        ("^/dev/(sd[b-z]", &["/dev/sdf", "/dev/xvdf", "/dev/xvdba"]),
        ("^[!-.0-~]+$", &["s-1", "~", "a:b@c"]),
        ("^[!-~]+$", &["answers", "https://sqs.us-east-1.amazonaws.com/1/q"]),
        ("^[+]?([0-9]+", &["0.12", "+.5", "1e-2", "3."]),
        ("^[a-z0-9-]+\\.[a-z0-9.-]+$", &["m6i.large", "u-6tb1.metal", "c7g.medium"]),
        ("^[a-z0-9*", &["m6*", "*.metal", "m6i.large"]),
        ("^[a-z][a-z0-9-]*$", &["db-1", "data", "a"]),
        ("\\.[1-9][0-9]*$", &["db-1.3", "a.18446744073709551615"]),
        ("\\.b[1-9][0-9]*$", &["db-1.b3", "other.b1"]),
        ("^ami-", &["ami-1", "ami-00000000000000000"]),
        ("^eipalloc-", &["eipalloc-1"]),
        ("^lt-", &["lt-1", "lt-0a1b2c3d4e5f60718"]),
        ("^sg-", &["sg-1", "sg-2"]),
        ("^snap-", &["snap-1"]),
        ("^subnet-", &["subnet-1", "subnet-2"]),
        ("^vol-", &["vol-1", "vol-2"]),
        ("^[0-9]{4}-", &["2026-09-14T08:31:07Z", "9999-12-31T23:59:59Z", "2026-09-14T08:31:07.25+02:00"]),
        ("^(([01][0-9]|", &["00:00", "23:59", "24:00"]),
        ("^[A-Za-z]", &["Europe/Berlin", "UTC"]),
    ];

    pub struct Chance(pub u64);

    impl Chance {
        pub fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
        }
    }

    /// A document of a schema, as far as its keywords say it one by one.
    pub fn document(root: &Value, schema: &Value, chance: &mut Chance, depth: usize) -> Value {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let schema = root.pointer(name.trim_start_matches('#')).unwrap();
            return document(root, schema, chance, depth);
        }
        for either in ["oneOf", "anyOf"] {
            if let Some(of) = schema.get(either).and_then(Value::as_array)
                && schema.get("properties").is_none()
            {
                return document(root, &of[chance.below(of.len())], chance, depth);
            }
        }
        if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
            return document(root, &all[0], chance, depth);
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return values[chance.below(values.len())].clone();
        }
        let kind = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds[chance.below(kinds.len())].as_str().unwrap(),
            Some(Value::String(kind)) => kind,
            _ => "null",
        };
        match kind {
            "object" => object(root, schema, chance, depth),
            "array" => {
                let most = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(3).min(3) as usize;
                let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0) as usize;
                let count = least + chance.below(most - least + 1);
                (0..count).map(|_| document(root, &schema["items"], chance, depth + 1)).collect()
            }
            "string" => text(schema, chance),
            "boolean" => json!(chance.below(2) == 0),
            "integer" | "number" => number(schema, chance),
            _ => Value::Null,
        }
    }

    fn object(root: &Value, schema: &Value, chance: &mut Chance, depth: usize) -> Value {
        let mut fields = Map::new();
        let required: Vec<&str> = (schema.get("required").and_then(Value::as_array).into_iter().flatten())
            .filter_map(Value::as_str)
            .collect();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if required.contains(&name.as_str()) || chance.below(3) == 0 {
                fields.insert(name.clone(), document(root, schema, chance, depth + 1));
            }
        }
        if let Some(more) = schema.get("additionalProperties").filter(|more| more.is_object()) {
            let names = schema.get("propertyNames").cloned().unwrap_or(json!({}));
            for _ in 0..chance.below(3) {
                let name = match document(root, &names, chance, depth) {
                    Value::String(name) => name,
                    _ => text(&names, chance).as_str().unwrap().to_owned(),
                };
                fields.insert(name, document(root, more, chance, depth + 1));
            }
        }
        fields.into()
    }

    fn text(schema: &Value, chance: &mut Chance) -> Value {
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            let known = TEXTS.iter().find(|(begins, _)| pattern.contains(begins));
            let (_, texts) = known.unwrap_or_else(|| panic!("no text is known of the pattern {pattern}"));
            return json!(texts[chance.below(texts.len())]);
        }
        let texts =
            ["why", "grüße ✓", "a\nb", "", " ", "\u{202e}x", "x y", "0", "10:00", "m6i.large", "\u{0}"];
        json!(texts[chance.below(texts.len())])
    }

    fn number(schema: &Value, chance: &mut Chance) -> Value {
        let of = |name: &str| schema.get(name).and_then(Value::as_f64);
        let least = of("minimum").or(of("exclusiveMinimum")).unwrap_or(0.0);
        let most = of("maximum").unwrap_or(1e6);
        match chance.below(5) {
            0 => json!(least as u64),
            1 => schema.get("maximum").cloned().unwrap_or(json!(most as u64)),
            2 => json!((least as u64) as f64),
            _ => json!(least as u64 + chance.below((most - least).clamp(1.0, 100.0) as usize) as u64),
        }
    }

    /// Changes one thing in a document.
    pub fn change(value: &mut Value, chance: &mut Chance) {
        let others = [
            Value::Null,
            json!([]),
            json!({}),
            json!(-1),
            json!(1.5),
            json!(u64::MAX),
            json!(true),
            json!(""),
            json!("x"),
            json!("a b/c"),
            json!([true, true, true, true]),
            json!({"x": null}),
        ];
        match value {
            Value::Object(fields) if !fields.is_empty() && chance.below(5) > 0 => {
                let keys: Vec<String> = fields.keys().cloned().collect();
                let key = keys[chance.below(keys.len())].clone();
                match chance.below(6) {
                    0 => drop(fields.remove(&key)),
                    1 => drop(fields.insert("surprise".to_owned(), json!(1))),
                    2 => {
                        // The fields of an object, in their order and without their names.
                        let values: Vec<Value> = fields.values().cloned().collect();
                        *value = values.into();
                    }
                    _ => change(fields.get_mut(&key).unwrap(), chance),
                }
            }
            Value::Array(values) if !values.is_empty() && chance.below(3) > 0 => {
                let at = chance.below(values.len());
                change(&mut values[at], chance);
            }
            value => *value = others[chance.below(others.len())].clone(),
        }
    }
}

/// Rules over several fields, and a few over one, that JSON Schema does not express. What the schema takes and
/// the server refuses is refused for one of them.
const BEYOND_THE_SCHEMA: [&str; 36] = [
    // The node of a message is the node of its parameters.
    "but the parameters are about",
    "params.from_backup: a new node has another name",
    "params.reason: goes with `from_backup` only",
    // Ranges, windows and lists.
    "overlaps",
    "addresses; at most",
    "max: is less than `min`",
    "min: must be at least 1",
    "min: none is what is taken without this field",
    "is named already",
    "is taken; give each data volume its own name",
    "names the same device as another volume",
    "stands there twice",
    "which `instance_types` names",
    "is no time zone",
    "is not a price",
    "ends when it begins",
    // What has no effect beside something else, or contradicts it.
    "has no effect",
    "remove it",
    "remove them",
    "remove the field",
    "remove one",
    "remove the section",
    "remove the subnet",
    "needs `",
    "name the pool that the address comes from",
    "is none of `capacity.other_subnets`",
    "name two at",
    "say `window`",
    "say `reattach`",
    "use `terminate`",
    "is named twice",
    "bytes; EC2 takes at most",
    // What a type of volume takes.
    "; gp3 takes",
    "; io1 takes",
    "; io2 takes",
    "name it where `iops` or `throughput` are said",
];

#[test]
fn documents_that_are_made_from_the_schema_are_taken_or_refused_by_a_stated_rule() {
    let validator = validator("submission");
    let (_, schema) = schemas::all().into_iter().find(|(known, _)| *known == "submission").unwrap();
    let root = schema.as_value();
    let (mut taken, mut by_rule, mut refused) = (0, 0, 0);
    let mut unknown = std::collections::BTreeMap::<String, (usize, String)>::new();
    let mut check =
        |document: &Value| match (validator.is_valid(document), Submission::parse(&document.to_string())) {
            (true, Ok(_)) => taken += 1,
            (true, Err(why)) if BEYOND_THE_SCHEMA.iter().any(|rule| why.why.contains(rule)) => by_rule += 1,
            (true, Err(why)) => {
                let entry = unknown.entry(why.why.chars().take(100).collect()).or_default();
                *entry = (entry.0 + 1, document.to_string());
            }
            (false, Ok(_)) => {
                let because: Vec<String> =
                    validator.iter_errors(document).map(|error| error.to_string()).collect();
                panic!("the server takes what the schema refuses: {document}\n{because:?}");
            }
            (false, Err(_)) => refused += 1,
        };
    let mut chance = documents::Chance(20_261_130);
    for _ in 0..4_000 {
        let mut document = documents::document(root, root, &mut chance, 0);
        check(&document);
        documents::change(&mut document, &mut chance);
        check(&document);
    }
    assert!(unknown.is_empty(), "the schema takes what the server refuses, by no stated rule: {unknown:#?}");
    assert!(
        taken > 1_500 && refused > 2_000,
        "taken {taken}, refused by a rule {by_rule}, refused {refused}"
    );
}
