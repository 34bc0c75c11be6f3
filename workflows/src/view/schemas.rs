//! The JSON Schemas of all input and output, generated from the types.
//!
//! - `node`: the node file
//! - `pool`: the file of a pool of addresses
//! - `submission`: the queue message; its parameters depend on its workflow
//! - `reply`: the answer to a submission
//! - `event`: one line of an exported journal
//!
//! A schema accepts the same documents as the parser, as far as JSON Schema can express the rules. It cannot
//! express these rules:
//!
//! - The length of user data is in bytes; JSON Schema counts characters.
//! - The ranges of a pool begin before they end, do not overlap, and have at most so many addresses together.
//! - The `node` of a submission is the node of its parameters.
//! - The names and devices of data volumes differ.
//! - A deadline is a day of the calendar, a time zone one of the database.
//! - Fields of a node file that contradict each other, or have no effect together. The test of generated
//!   documents (`cli/tests/schemas.rs`) names each of these rules.
//!
//! If a type is parsed from a text (a name, an id), `refine` adds its pattern, because the derive does not
//! see the parser.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::aggregate::address_pool::AddressPoolEvent;
use crate::aggregate::backup_catalog::BackupEvent;
use crate::aggregate::engine::EngineEvent;
use crate::aggregate::inbox::InboxEvent;
use crate::aggregate::installation::InstallationEvent;
use crate::aggregate::node::NodeEvent;
use crate::domain::codec::EVENT_VERSION;
use crate::domain::submission::{
    ApplyParams, BackupParams, CancelParams, DeleteParams, PauseParams, PoolParams, PruneParams,
    REPLY_TO_MAX, RecycleParams, ReplaceParams, Reply, RestoreParams, ResumeNodeParams, ResumeParams,
    SUBMISSION_ID_MAX, SubmissionId, SubmissionSchema, TEXT_MAX,
};
use crate::model::name::{NODE_NAME_MAX, NodeName};
use crate::operation::event::OperationEvent;
use crate::spec::address_pool::AddressPoolSpec;
use crate::spec::node::{DATA_VOLUMES_MAX, NodeSpec, TAGS_MAX, USER_DATA_BYTES_MAX};
use crate::spec::requirements::{PATTERN_MAX, PATTERNS_MAX};
use crate::spec::signals::{IMPAIRED_AFTER_S_MAX, IMPAIRED_AFTER_S_MIN};

/// Every schema with its name.
#[must_use]
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("node", node()),
        ("pool", pool()),
        ("submission", submission()),
        ("reply", reply()),
        ("event", event()),
    ]
}

/// The node file.
#[must_use]
pub fn node() -> Schema {
    let mut schema = generator().into_root_schema_for::<NodeSpec>();
    title(&mut schema, "Perennial node file, version 1");
    refine(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        refine_node(root);
    }
    schema
}

/// The file of an address pool.
#[must_use]
pub fn pool() -> Schema {
    let mut schema = generator().into_root_schema_for::<AddressPoolSpec>();
    title(&mut schema, "Perennial pool file, version 1");
    refine(&mut schema);
    schema
}

/// The answer to a submission.
#[must_use]
pub fn reply() -> Schema {
    let mut schema = generator().into_root_schema_for::<Reply>();
    title(&mut schema, "Perennial reply, version 1");
    refine(&mut schema);
    schema
}

/// The queue message.
#[must_use]
pub fn submission() -> Schema {
    let mut generator = generator();
    // A pool concerns no node.
    let mut pool = message::<PoolParams>(&mut generator, "pool.apply", Field::Optional, Field::Required);
    pool["properties"]["node"] = json!({ "type": "null" });
    let messages = [
        pool,
        message::<ApplyParams>(&mut generator, "node.apply", Field::Optional, Field::Required),
        message::<ReplaceParams>(&mut generator, "node.replace", Field::Required, Field::Optional),
        message::<BackupParams>(&mut generator, "node.backup", Field::Required, Field::Optional),
        message::<RecycleParams>(&mut generator, "node.recycle", Field::Required, Field::Optional),
        message::<RestoreParams>(&mut generator, "node.restore", Field::Optional, Field::Required),
        message::<PauseParams>(&mut generator, "node.pause", Field::Required, Field::Optional),
        message::<ResumeNodeParams>(&mut generator, "node.resume", Field::Required, Field::Optional),
        message::<PruneParams>(&mut generator, "node.prune", Field::Required, Field::Optional),
        message::<DeleteParams>(&mut generator, "node.delete", Field::Required, Field::Required),
        message::<ResumeParams>(&mut generator, "workflow.resume", Field::Optional, Field::Required),
        message::<CancelParams>(&mut generator, "workflow.cancel", Field::Optional, Field::Required),
    ];
    let mut schema = json_schema!({ "oneOf": messages });
    finish(&mut generator, &mut schema, "Perennial submission, version 1");
    for params in [
        "ReplaceParams",
        "BackupParams",
        "RecycleParams",
        "RestoreParams",
        "PauseParams",
        "ResumeNodeParams",
        "PruneParams",
        "DeleteParams",
        "CancelParams",
    ] {
        if let Some(reason) = schema.pointer_mut(&format!("/$defs/{params}/properties/reason")) {
            reason["maxLength"] = json!(TEXT_MAX);
        }
    }
    schema
}

/// One line of an exported journal.
#[must_use]
pub fn event() -> Schema {
    let mut generator = generator();
    let mut kinds = Vec::new();
    kinds.extend(variants::<NodeEvent>(&mut generator, "node"));
    kinds.extend(variants::<OperationEvent>(&mut generator, "operation"));
    kinds.extend(variants::<InboxEvent>(&mut generator, "inbox"));
    kinds.extend(variants::<BackupEvent>(&mut generator, "backup"));
    kinds.extend(variants::<AddressPoolEvent>(&mut generator, "address_pool"));
    kinds.extend(variants::<InstallationEvent>(&mut generator, "installation"));
    kinds.extend(variants::<EngineEvent>(&mut generator, "engine"));
    let hash = json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" });
    let mut schema = json_schema!({
        "type": "object",
        "properties": {
            "position": { "description": "Its place in the whole journal, from 1.", "type": "integer", "minimum": 1 },
            "stream": { "description": "The stream it belongs to, such as `node/db-1`.", "type": "string" },
            "seq": { "description": "Its place in the stream, from 1.", "type": "integer", "minimum": 1 },
            "kind": { "type": "string" },
            "version": { "description": "The format of the body.", "const": EVENT_VERSION },
            "body": { "description": "Exactly the text that was hashed." },
            "recorded_at_ms": { "description": "Milliseconds since the Unix epoch.", "type": "integer", "minimum": 0 },
            "key": { "description": "The idempotency key of its batch.", "type": ["string", "null"] },
            "hash": hash,
            "previous": hash,
            "redacted": {
                "description": "Something of the body is left out because it may be secret; the hash is that of the whole.",
                "const": true
            },
        },
        "required": ["position", "stream", "seq", "kind", "version", "body", "recorded_at_ms", "key", "hash"],
        "additionalProperties": false,
        "oneOf": kinds,
    });
    finish(&mut generator, &mut schema, "Perennial event, version 1");
    schema
}

/// Whether a field must be present and not null.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Required,
    Optional,
}

fn generator() -> SchemaGenerator {
    SchemaGenerator::default()
}

fn title(schema: &mut Schema, title: &str) {
    schema.insert("title".to_owned(), json!(title));
}

/// Adds the shared definitions and the frame of a root schema.
fn finish(generator: &mut SchemaGenerator, schema: &mut Schema, name: &str) {
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    title(schema, name);
    schema.insert("$defs".to_owned(), Value::Object(generator.take_definitions(true)));
    refine(schema);
}

/// A number of an address from 0 to 255, without leading zeros.
macro_rules! byte {
    () => {
        "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
    };
}

/// Four of them.
macro_rules! address {
    () => {
        concat!("(", byte!(), "[.]){3}", byte!())
    };
}

/// Types that are parsed from a text: the pattern that the parser accepts, and the longest text.
const TEXTS: [(&str, &str, usize); 19] = [
    ("AddressRange", concat!("^", address!(), "(-", address!(), ")?$"), 31),
    ("AddressRangeText", concat!("^", address!(), "(-", address!(), ")?$"), 31),
    ("TimeOfDay", "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", 5),
    ("NodeName", "^[a-z][a-z0-9-]*$", NODE_NAME_MAX),
    ("Slot", "^[a-z][a-z0-9-]*$", NODE_NAME_MAX),
    ("OperationId", "^[a-z][a-z0-9-]{0,62}\\.[1-9][0-9]*$", NODE_NAME_MAX + 21),
    ("BackupId", "^[a-z][a-z0-9-]{0,62}\\.b[1-9][0-9]*$", NODE_NAME_MAX + 22),
    ("SubmissionId", "^[!-.0-~]+$", SUBMISSION_ID_MAX),
    ("InstanceId", "^i-[0-9a-zA-Z-]+$", 64),
    ("VolumeId", "^vol-[0-9a-zA-Z-]+$", 64),
    ("SnapshotId", "^snap-[0-9a-zA-Z-]+$", 64),
    ("ImageId", "^ami-[0-9a-zA-Z-]+$", 64),
    ("InterfaceId", "^eni-[0-9a-zA-Z-]+$", 64),
    ("AllocationId", "^eipalloc-[0-9a-zA-Z-]+$", 64),
    ("SubnetId", "^subnet-[0-9a-zA-Z-]+$", 64),
    ("GroupId", "^sg-[0-9a-zA-Z-]+$", 64),
    ("SpotRequestId", "^sir-[0-9a-zA-Z-]+$", 64),
    ("LaunchTemplateId", "^lt-[0-9a-zA-Z-]+$", 64),
    ("RootTaskId", "^replacevol-[0-9a-zA-Z-]+$", 64),
];

/// Adds the rules of the parsers and of [`NodeSpec::check`], which the derive does not see.
fn refine(schema: &mut Schema) {
    let definitions = schema.get_mut("$defs").and_then(Value::as_object_mut);
    for (name, definition) in definitions.into_iter().flatten() {
        let Some(definition) = definition.as_object_mut() else { continue };
        if let Some((_, pattern, longest)) = TEXTS.iter().find(|(text, ..)| text == name) {
            definition.insert("pattern".to_owned(), json!(pattern));
            definition.insert("maxLength".to_owned(), json!(longest));
        }
        match name.as_str() {
            "NodeSpec" => refine_node(definition),
            "CapacitySpec" => {
                let types = &mut definition["properties"]["instance_types"];
                types["items"]["pattern"] = json!("^[a-z0-9-]+\\.[a-z0-9.-]+$");
                types["items"]["maxLength"] = json!(32);
                types["uniqueItems"] = json!(true);
                definition["properties"]["other_subnets"]["uniqueItems"] = json!(true);
                definition.insert(
                    "anyOf".to_owned(),
                    json!([
                        { "required": ["instance_types"], "properties": { "instance_types": { "minItems": 1 } } },
                        { "required": ["requirements"], "properties": { "requirements": { "type": "object" } } }
                    ]),
                );
                let price = &mut definition["properties"]["price_max"];
                price["pattern"] = json!("^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?$");
                price["not"] = json!({ "type": "string", "pattern": "^[+]?[0.]*([eE][+-]?[0-9]+)?$" });
            }
            "SignalsSpec" => {
                let after = &mut definition["properties"]["impaired_after_s"];
                (after["minimum"], after["maximum"]) =
                    (json!(IMPAIRED_AFTER_S_MIN), json!(IMPAIRED_AFTER_S_MAX));
            }
            "OnDemandSpec" => definition["properties"]["max_nodes"]["minimum"] = json!(1),
            "Requirements" => {
                for (field, pattern) in [("families", "^[a-z0-9*-]+$"), ("exclude", "^[a-z0-9*.-]+$")] {
                    let patterns = &mut definition["properties"][field];
                    patterns["items"]["pattern"] = json!(pattern);
                    patterns["items"]["maxLength"] = json!(PATTERN_MAX);
                    patterns["maxItems"] = json!(PATTERNS_MAX);
                    patterns["uniqueItems"] = json!(true);
                }
            }
            "NetworkSpec" => {
                let names = TEXTS.iter().find(|(text, ..)| *text == "SubnetId");
                if let Some((_, pattern, longest)) = names {
                    definition["properties"]["ip_pools_elsewhere"]["propertyNames"] =
                        json!({ "pattern": pattern, "maxLength": longest });
                }
            }
            "DataVolumeSpec" => {
                definition["properties"]["device"]["pattern"] =
                    json!("^/dev/(sd[b-z]|xvd[b-z]|xvd[b-d][a-z])$");
                definition["properties"]["name"] = json!({
                    "allOf": [definition["properties"]["name"], { "not": { "const": "root" } }]
                });
                definition.insert(
                    "if".to_owned(),
                    json!({ "properties": { "kms_key": { "type": "string" } }, "required": ["kms_key"] }),
                );
                definition.insert(
                    "then".to_owned(),
                    json!({ "properties": { "encrypted": { "const": true } }, "required": ["encrypted"] }),
                );
            }
            _ => {}
        }
    }
    schema.as_object_mut().into_iter().flat_map(|root| root.values_mut()).for_each(formats);
}

fn refine_node(node: &mut Map<String, Value>) {
    let fields = &mut node["properties"];
    fields["data_volumes"]["maxItems"] = json!(DATA_VOLUMES_MAX);
    fields["user_data"]["maxLength"] = json!(USER_DATA_BYTES_MAX);
    fields["tags"]["maxProperties"] = json!(TAGS_MAX);
    fields["tags"]["propertyNames"] =
        json!({ "minLength": 1, "maxLength": 128, "not": { "pattern": "^(perennial|aws):" } });
    fields["tags"]["additionalProperties"]["maxLength"] = json!(256);
    // A file may name an address only if the address persists.
    node.insert(
        "if".to_owned(),
        json!({
            "properties": { "persist": { "properties": { "network": { "const": "none" } }, "required": ["network"] } },
            "required": ["persist"]
        }),
    );
    node.insert("then".to_owned(), json!({ "properties": { "private_ip": { "type": "null" } } }));
}

/// Adds the pattern or bound of a format, for validators that ignore formats.
fn formats(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            match fields.get("format").and_then(Value::as_str) {
                Some("ipv4") => {
                    fields.insert("pattern".to_owned(), json!(concat!("^", address!(), "$")));
                }
                Some("uint32") if !fields.contains_key("maximum") => {
                    fields.insert("maximum".to_owned(), json!(u32::MAX));
                }
                _ => {}
            }
            fields.values_mut().for_each(formats);
        }
        Value::Array(items) => items.iter_mut().for_each(formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn or_null(schema: &Schema) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

/// A submission of one workflow.
fn message<P: JsonSchema>(
    generator: &mut SchemaGenerator,
    workflow: &str,
    node: Field,
    params: Field,
) -> Value {
    let name = generator.subschema_for::<NodeName>();
    let given = generator.subschema_for::<P>();
    let mut required = vec!["schema", "id", "workflow", "requested_by"];
    for (field, name) in [(node, "node"), (params, "params")] {
        if field == Field::Required {
            required.push(name);
        }
    }
    json!({
        "type": "object",
        "properties": {
            "schema": generator.subschema_for::<SubmissionSchema>(),
            "id": generator.subschema_for::<SubmissionId>(),
            "workflow": { "const": workflow },
            "node": if node == Field::Required { json!(name) } else { or_null(&name) },
            "params": if params == Field::Required { json!(given) } else { or_null(&given) },
            "requested_by": {
                "description": "Who asks; for the record.", "type": "string", "minLength": 1, "maxLength": TEXT_MAX
            },
            "reply_to": {
                "description": "The queue that gets the answer: a name or a URL.", "type": ["string", "null"],
                "pattern": "^[!-~]+$", "maxLength": REPLY_TO_MAX
            },
            "deadline": {
                "description": "Not to be carried out after this time (RFC 3339).", "type": ["string", "null"],
                "format": "date-time",
                "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
            },
        },
        "required": required,
        "additionalProperties": false,
    })
}

/// The event kinds of an area with their bodies. `{"name": body}` of an enum becomes a kind and a body.
fn variants<E: JsonSchema>(generator: &mut SchemaGenerator, area: &str) -> Vec<Value> {
    let schema = E::json_schema(generator);
    let one_of = schema.get("oneOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut kinds = Vec::new();
    for variant in one_of {
        if let Some(properties) = variant.get("properties").and_then(Value::as_object) {
            kinds.extend(properties.iter().map(|(name, body)| kind(area, name, body.clone(), &variant)));
        } else {
            let unit = variant.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
            let names = unit.into_iter().chain(variant.get("const").cloned());
            kinds.extend(names.filter_map(|name| {
                name.as_str().map(|name| kind(area, name, json!({ "type": "object" }), &variant))
            }));
        }
    }
    kinds
}

fn kind(area: &str, name: &str, body: Value, variant: &Value) -> Value {
    let mut schema = Map::new();
    if let Some(description) = variant.get("description") {
        schema.insert("description".to_owned(), description.clone());
    }
    schema.insert(
        "properties".to_owned(),
        json!({ "kind": { "const": format!("{area}.{name}") }, "body": body }),
    );
    Value::Object(schema)
}
