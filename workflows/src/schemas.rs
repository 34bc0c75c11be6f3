//! The JSON Schemas of everything that comes in or goes out, generated from the types.
//!
//! | name | what |
//! | --- | --- |
//! | `node` | the node file |
//! | `submission` | the queue message; its parameters depend on its workflow |
//! | `reply` | the answer to a submission |
//! | `event` | one line of an exported journal |
//!
//! A schema accepts what the parser accepts, as far as JSON Schema can say it. What it cannot say: lengths in bytes (it
//! counts characters), that a submission's `node` is the node of its parameters, and what [`NodeSpec::check`] checks across
//! fields.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::domain::EVENT_VERSION;
use crate::letter::LetterEvent;
use crate::node::NodeEvent;
use crate::operation::OperationEvent;
use crate::spec::{NodeName, NodeSpec};
use crate::submission::{
    ApplyParams, DeleteParams, ReplaceParams, Reply, ResumeParams, SubmissionId, SubmissionSchema, TEXT_MAX,
};

/// Every schema with its name.
#[must_use]
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![("node", node()), ("submission", submission()), ("reply", reply()), ("event", event())]
}

/// The node file.
#[must_use]
pub fn node() -> Schema {
    let mut schema = generator().into_root_schema_for::<NodeSpec>();
    title(&mut schema, "Perennial node file, version 1");
    schema
}

/// The answer to a submission.
#[must_use]
pub fn reply() -> Schema {
    let mut schema = generator().into_root_schema_for::<Reply>();
    title(&mut schema, "Perennial reply, version 1");
    schema
}

/// The queue message.
#[must_use]
pub fn submission() -> Schema {
    let mut generator = generator();
    let messages = [
        message::<ApplyParams>(&mut generator, "node.apply", Field::Optional, Field::Required),
        message::<ReplaceParams>(&mut generator, "node.replace", Field::Required, Field::Optional),
        message::<DeleteParams>(&mut generator, "node.delete", Field::Required, Field::Required),
        message::<ResumeParams>(&mut generator, "workflow.resume", Field::Optional, Field::Required),
    ];
    let mut schema = json_schema!({ "oneOf": messages });
    finish(&mut generator, &mut schema, "Perennial submission, version 1");
    for params in ["ReplaceParams", "DeleteParams"] {
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
    kinds.extend(variants::<LetterEvent>(&mut generator, "letter"));
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
        },
        "required": ["position", "stream", "seq", "kind", "version", "body", "recorded_at_ms", "key", "hash"],
        "additionalProperties": false,
        "oneOf": kinds,
    });
    finish(&mut generator, &mut schema, "Perennial event, version 1");
    schema
}

/// Whether a field must be there (and not null).
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
            "reply_to": { "description": "The queue that gets the answer.", "type": ["string", "null"] },
            "deadline": {
                "description": "Not to be carried out after this time (RFC 3339).", "type": ["string", "null"]
            },
        },
        "required": required,
        "additionalProperties": false,
    })
}

/// The kinds of events of an area with their bodies: an enum's `{"name": body}` becomes a kind and a body.
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
