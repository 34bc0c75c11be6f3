//! Formats are promises: whatever a release has ever written, this build reads, and goes on from.
//!
//! `schemas/samples/events/v1/<kind>.json` holds, for each kind of event, bodies as version 1 writes them, with every
//! variant of everything that stands in one. `schemas/samples/journals/` holds a whole journal of each release
//! (`perennial journal export`). Samples are never changed: a new version gets a directory beside the old one, a new
//! variant is added to the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use perennial_engine::domain::{Domain as _, Stamp};
use perennial_engine::ids::{Seq, StreamId};
use perennial_engine::journal::EventData;
use perennial_store::export::verify_export;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::codec::EVENT_VERSION;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::machine::decide::Draft;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::view::{plan, schemas};
use serde_json::{Value, json};

/// An operation of the samples that takes more steps than this does not end.
const STEPS_MAX: usize = 200;

fn samples(directory: &str) -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/samples").join(directory);
    let listed = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    paths.into_iter().map(read).collect()
}

/// Of one version: kind → bodies.
fn events(version: u32) -> BTreeMap<String, Vec<Value>> {
    let parse = |(kind, text): (String, String)| {
        let bodies = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind}.json: {error}"));
        (kind, bodies)
    };
    samples(&format!("events/v{version}")).into_iter().map(parse).collect()
}

fn event_schema() -> Value {
    serde_json::to_value(schemas::event()).expect("a schema is JSON")
}

/// The kinds that the types have, by the schema that is generated from them.
fn kinds(schema: &Value) -> BTreeSet<String> {
    let of = |variant: &Value| variant["properties"]["kind"]["const"].as_str().map(str::to_owned);
    schema["oneOf"].as_array().expect("a kind each").iter().filter_map(of).collect()
}

/// A line of an export that holds this body.
fn line(kind: &str, version: u32, body: &Value) -> Value {
    json!({
        "position": 1, "stream": "node/db-1", "seq": 1, "kind": kind, "version": version, "body": body,
        "recorded_at_ms": 1_789_372_802_207_u64, "key": null, "hash": "0".repeat(64)
    })
}

#[test]
fn every_kind_of_event_has_samples() {
    let sampled: BTreeSet<String> = events(EVENT_VERSION).into_keys().collect();
    assert_eq!(sampled, kinds(&event_schema()), "schemas/samples/events/v{EVENT_VERSION}");
}

#[test]
fn every_sample_is_read_and_those_of_the_newest_version_are_written_back_as_they_were() {
    let schema = event_schema();
    let validator = jsonschema::validator_for(&schema).expect("the schema is a schema");
    for version in 1..=EVENT_VERSION {
        for (kind, bodies) in events(version) {
            assert!(!bodies.is_empty(), "{kind}: no sample");
            for body in bodies {
                let stored = EventData { kind: kind.clone(), version, body: body.to_string() };
                let event =
                    Perennial::decode(&stored).unwrap_or_else(|error| panic!("{kind}: {error}\n{body}"));
                let again = Perennial::encode(&event);
                assert_eq!((again.kind.as_str(), again.version), (kind.as_str(), EVENT_VERSION));
                let written: Value = serde_json::from_str(&again.body).expect("a body is JSON");
                if version == EVENT_VERSION {
                    assert_eq!(written, body, "{kind}");
                }
                let exported = line(&kind, EVENT_VERSION, &written);
                let wrong: Vec<_> = validator.iter_errors(&exported).map(|error| error.to_string()).collect();
                assert!(wrong.is_empty(), "the schema refuses {kind}: {wrong:?}\n{body}");
            }
        }
    }
}

#[test]
fn an_event_that_is_not_as_it_should_be_is_refused_by_the_parser_and_the_schema() {
    let validator = jsonschema::validator_for(&event_schema()).expect("the schema is a schema");
    let samples = events(EVENT_VERSION);
    let body = |kind: &str| samples[kind][0].clone();
    let with = |kind: &str, field: &str, value: Value| {
        let mut body = body(kind);
        body[field] = value;
        body
    };
    let bad = [
        ("node.registered", with("node.registered", "spec", json!({}))),
        ("node.unheard_of", json!({})),
        ("operation.step_settled", with("operation.step_settled", "evidence", json!("guessed"))),
        ("operation.step_settled", with("operation.step_settled", "token", json!("two"))),
        ("operation.step_intended", with("operation.step_intended", "intent", json!({"launch": {}}))),
        ("operation.finished", json!({})),
        ("inbox.answered", json!({"fate": {"started": {"operation": "db-1"}}})),
        ("letter.repeated", json!({"message_id": 7})),
    ];
    for (kind, body) in bad {
        let stored = EventData { kind: kind.to_owned(), version: EVENT_VERSION, body: body.to_string() };
        assert!(Perennial::decode(&stored).is_err(), "{kind} was read: {body}");
        assert!(!validator.is_valid(&line(kind, EVENT_VERSION, &body)), "the schema accepts {kind}: {body}");
    }
    let newer = EventData { kind: "letter.repeated".into(), version: EVENT_VERSION + 1, body: "{}".into() };
    let said = Perennial::decode(&newer).expect_err("it is from the future").to_string();
    assert!(said.contains("upgrade"), "{said}");
}

/// Every variant of every enum that events are made of stands in a sample: intents, evidence, dispositions, signals…
#[test]
fn every_variant_has_a_sample() {
    let mut words = BTreeSet::new();
    for body in events(EVENT_VERSION).into_values().flatten() {
        words_of(&body, &mut words);
    }
    let schema = event_schema();
    let mut variants = BTreeSet::new();
    for definition in schema["$defs"].as_object().expect("definitions").values() {
        variants_of(definition, &mut variants);
    }
    assert!(variants.len() > 50, "the schema names its variants: {variants:?}");
    // Defaults that an event leaves out, so that older samples are written back as they were.
    for unsaid in ["forbid", "never"] {
        assert!(variants.remove(unsaid), "{unsaid} is no variant any more");
    }
    let missing: Vec<_> = variants.difference(&words).collect();
    assert!(missing.is_empty(), "no sample has {missing:?}");
}

fn words_of(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            words.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| words_of(item, words)),
        Value::Object(fields) => {
            for (name, value) in fields {
                words.insert(name.clone());
                words_of(value, words);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn variants_of(definition: &Value, variants: &mut BTreeSet<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    variants.extend(definition["enum"].as_array().into_iter().flatten().filter_map(text));
    for variant in definition["oneOf"].as_array().into_iter().flatten() {
        variants.extend(variant["enum"].as_array().into_iter().flatten().filter_map(text));
        variants.extend(variant.get("const").and_then(text));
        variants.extend(variant["required"].as_array().into_iter().flatten().filter_map(text));
    }
}

/// One stream of a released journal.
type Stream = Vec<(Stamp, Event)>;

/// Checks the journal's hashes and gives its streams.
fn released(name: &str, text: &str) -> BTreeMap<StreamId, Stream> {
    let report = verify_export(text.as_bytes()).expect("the lines can be read");
    assert!(report.findings.is_empty(), "{name}: {:?}", report.findings);
    assert_eq!(report.events, text.lines().count() as u64);
    let validator = jsonschema::validator_for(&event_schema()).expect("the schema is a schema");
    let mut streams: BTreeMap<StreamId, Stream> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line).expect("a line is JSON");
        let version = line["version"].as_u64().expect("a version") as u32;
        assert!(
            version < EVENT_VERSION || validator.is_valid(&line),
            "{name}:{}: not by the schema",
            number + 1
        );
        let text = |field: &str| line[field].as_str().expect("a text").to_owned();
        let data = EventData { kind: text("kind"), version, body: line["body"].to_string() };
        let event = Perennial::decode(&data).unwrap_or_else(|error| panic!("{name}:{}: {error}", number + 1));
        let count = |field: &str| line[field].as_u64().expect("a number");
        let stamp = Stamp { seq: Seq(count("seq")), at_ms: count("recorded_at_ms") };
        streams.entry(StreamId::parse(&text("stream")).expect("a stream")).or_default().push((stamp, event));
    }
    streams
}

/// The state after each event.
fn folded(stream: &StreamId, events: &Stream) -> Vec<State> {
    let mut state = Perennial::empty(stream);
    let mut states = Vec::new();
    for (stamp, event) in events {
        state = Perennial::evolve(state, *stamp, event)
            .unwrap_or_else(|illegal| panic!("{stream}: {illegal}: {event:?}"));
        states.push(state.clone());
    }
    states
}

#[test]
fn every_released_journal_is_whole_and_every_stream_of_it_folds() {
    let journals = samples("journals");
    assert!(!journals.is_empty());
    for (name, text) in journals {
        let streams = released(&name, &text);
        let mut finished = BTreeSet::new();
        for (stream, events) in &streams {
            let states = folded(stream, events);
            match states.last() {
                Some(State::Operation(Some(operation))) => {
                    assert!(
                        matches!(operation.status, Status::Finished { .. }),
                        "{name}: {stream} has ended"
                    );
                    finished.insert(operation.order.kind);
                }
                Some(State::Node(node)) => {
                    assert!(node.open.is_none() && node.generation == 2, "{name}: {stream}");
                }
                Some(State::Inbox(letter)) => {
                    assert!(letter.disposition.is_some(), "{name}: {stream}");
                }
                other => panic!("{name}: {stream}: {other:?}"),
            }
        }
        assert_eq!(finished, BTreeSet::from([OperationKind::Provision, OperationKind::Replace]), "{name}");
    }
}

/// An upgrade may come at any moment of an operation: whatever had been written by then, this build goes on from.
#[test]
fn every_operation_of_a_released_journal_is_continued_from_every_append() {
    for (name, text) in samples("journals") {
        let mut continued = 0;
        for (stream, events) in
            released(&name, &text).iter().filter(|(stream, _)| stream.category() == "workflow")
        {
            let states = folded(stream, events);
            for (n, state) in states.iter().enumerate() {
                let State::Operation(Some(operation)) = state else { panic!("{stream}: {state:?}") };
                if !begins_an_append(events.get(n + 1)) {
                    continue;
                }
                let (stamp, _) = events[n];
                go_on(operation, stamp)
                    .unwrap_or_else(|why| panic!("{name}: {stream} after {}: {why}", stamp.seq));
                continued += 1;
            }
        }
        assert!(continued > 20, "{name}: only {continued} moments");
    }
}

/// Whether an event is the first of its append: a report, something heard, a person's word; or there is none any more.
/// What lies between is written with it, atomically, or not at all.
fn begins_an_append(event: Option<&(Stamp, Event)>) -> bool {
    match event {
        None => true,
        Some((_, Event::Operation(event))) => match event {
            OperationEvent::StepSettled { .. }
            | OperationEvent::StepWaits { .. }
            | OperationEvent::SignalReceived { .. }
            | OperationEvent::Resumed { .. }
            | OperationEvent::CancelRequested { .. }
            | OperationEvent::SpecChanged { .. }
            | OperationEvent::Diverted { .. } => true,
            OperationEvent::Started(_)
            | OperationEvent::StepIntended { .. }
            | OperationEvent::RootMethodChosen { .. }
            | OperationEvent::CandidateLost { .. }
            | OperationEvent::VolumeFound { .. }
            | OperationEvent::Stuck { .. }
            | OperationEvent::Dropped { .. }
            | OperationEvent::Finished { .. } => false,
        },
        Some((
            _,
            Event::Node(_)
            | Event::Inbox(_)
            | Event::Backup(_)
            | Event::AddressPool(_)
            | Event::Installation(_)
            | Event::Engine(_),
        )) => false,
    }
}

/// Takes an operation to its end in a region where everything succeeds.
fn go_on(operation: &Operation, from: Stamp) -> Result<(), String> {
    let (mut state, mut head, mut at_ms) = (operation.clone(), from.seq, from.at_ms);
    for _ in 0..STEPS_MAX {
        if matches!(state.status, Status::Finished { .. }) {
            return Ok(());
        }
        let open = state.open_steps();
        let step = open.first().ok_or_else(|| format!("nothing is open in {:?}", state.status))?;
        at_ms = at_ms.max(step.not_before_ms) + 1_000;
        let evidence = plan::success(&state, &step.intent, step.token);
        let mut draft = Draft::from(&state, head, at_ms);
        draft.report(step.token, evidence).map_err(|refusal| refusal.to_string())?;
        head = Seq(head.0 + draft.events().len() as u64);
        state = draft.state().clone();
    }
    Err(format!("no end after {STEPS_MAX} steps"))
}
