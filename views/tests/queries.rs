//! The queries over the journal in memory: the streams of a released journal, and short ones for what it does
//! not have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jsonschema::Validator;
use perennial_engine::domain::Domain as _;
use perennial_engine::ids::{Position, Seq, StreamId, Token};
use perennial_engine::journal::{
    Batch, EventData, Hash, Journal as _, ProjectionDelta, RecordedEvent, StreamAppend, Which,
};
use perennial_engine::memory::MemoryJournal;
use perennial_engine::projection::Reprojection;
use perennial_views::model::audit::{AuditFilter, AuditKind};
use perennial_views::model::backups::BackupProgress;
use perennial_views::model::node::Condition;
use perennial_views::model::plan::SpecPlans;
use perennial_views::model::status::StatusView;
use perennial_views::model::submission::SubmissionView;
use perennial_views::model::workflow::WorkflowProgress;
use perennial_views::query::Subject;
use perennial_views::{QueryError, Views, schemas};
use perennial_workflows::aggregate::address_pool::{AddressPoolEvent, address_pool_stream};
use perennial_workflows::aggregate::backup_catalog::{BackupEvent, Carried, Failure};
use perennial_workflows::aggregate::engine::{EngineEvent, engine_stream};
use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::domain::submission::PruneParams;
use perennial_workflows::model::backup_id::{BackupId, CatalogId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::model::signal::Cause;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::name::Only;
use perennial_workflows::view::history::Entry;
use perennial_workflows::view::plan::{Assumption, Presence};
use serde::Serialize;
use serde_json::{Value, json};

/// Some time after all of the released journal.
const NOW_MS: u64 = 1_800_000_000_000;

/// Events, as they are written one after the other.
#[derive(Default)]
struct Script(Vec<(StreamId, EventData, u64)>);

impl Script {
    /// The events of the released journal in which `db-1` is provisioned and replaced, as long as `until` is
    /// not met.
    fn of_db_1(until: impl Fn(&StreamId, u64) -> bool) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/samples/journals");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut texts = files.map(|path| std::fs::read_to_string(path).unwrap());
        let text = texts.find(|text| text.contains("\"node/db-1\"")).expect("a journal of db-1");
        let mut script = Self::default();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let text = |field: &str| event[field].as_str().unwrap().to_owned();
            let stream = StreamId::parse(&text("stream")).unwrap();
            if until(&stream, event["seq"].as_u64().unwrap()) {
                return script;
            }
            let body = event["body"].to_string();
            let version = u32::try_from(event["version"].as_u64().unwrap()).unwrap();
            let data = EventData { kind: text("kind"), version, body };
            script.0.push((stream, data, event["recorded_at_ms"].as_u64().unwrap()));
        }
        script
    }

    fn whole() -> Self {
        Self::of_db_1(|_, _| false)
    }

    /// Adds an event a second after the last one.
    fn then(mut self, stream: &StreamId, event: &Event) -> Self {
        let at_ms = self.0.last().map_or(1_000, |(_, _, at_ms)| at_ms + 1_000);
        self.0.push((stream.clone(), Perennial::encode(event), at_ms));
        self
    }

    /// The journal with all of it: events and projections.
    async fn views(self) -> Views {
        let journal = MemoryJournal::new();
        let mut heads: BTreeMap<StreamId, Seq> = BTreeMap::new();
        let mut reprojection = Reprojection::<Perennial>::default();
        let mut batches = Vec::new();
        for (position, (stream, data, at_ms)) in (1..).zip(self.0) {
            let expected = heads.get(&stream).copied().unwrap_or(Seq::NONE);
            let seq = expected.next();
            heads.insert(stream.clone(), seq);
            let event = RecordedEvent {
                position: Position(position),
                stream: stream.clone(),
                seq,
                data: data.clone(),
                recorded_at_ms: at_ms,
                key: None,
                hash: Hash::GENESIS,
            };
            reprojection.apply(&event).unwrap();
            let appends = vec![StreamAppend { stream, expected, events: vec![data] }];
            batches.push(Batch { appends, recorded_at_ms: at_ms, ..Batch::default() });
        }
        let projections = reprojection.finish();
        if let Some(last) = batches.last_mut() {
            last.projection = ProjectionDelta {
                opened: projections.open_steps,
                keys_added: projections.keys,
                summaries: projections.summaries,
                ..ProjectionDelta::default()
            };
        }
        for batch in batches {
            journal.append(batch).await.unwrap();
        }
        Views::new(Arc::new(journal))
    }
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn workflow(text: &str) -> OperationId {
    OperationId::parse(text).unwrap()
}

/// The journal as it was when a step of `db-1.2` could not be done.
fn stuck() -> Script {
    let stream = workflow("db-1.2").stream();
    let script = Script::of_db_1(|of, seq| *of == workflow("db-1.2").stream() && seq == 4);
    let stuck = OperationEvent::Stuck {
        step: Only::Launch.into(),
        because: "no such subnet".to_owned(),
        needs: "name another subnet".to_owned(),
    };
    script.then(&stream, &Event::Operation(stuck))
}

/// Checks that an answer is as its schema says.
fn valid(schema: &str, answer: &impl Serialize) -> Value {
    let (_, found) = schemas::all().into_iter().find(|(name, _)| *name == schema).expect("a schema");
    let validator: Validator = jsonschema::validator_for(found.as_value()).unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    if let Err(error) = validator.validate(&answer) {
        panic!("{schema}: {error} at {}\n{answer:#}", error.instance_path());
    }
    answer
}

#[tokio::test]
async fn a_node_in_place_is_listed_and_shown_with_all_that_belongs_to_it() {
    let views = Script::whole().views().await;
    let lines = views.nodes(NOW_MS).await.unwrap();
    valid("views/node-list", &lines);
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].name.as_str(), lines[0].state.as_str(), lines[0].generation),
        ("db-1", "in place", 2)
    );
    let view = views.node(&name("db-1"), NOW_MS).await.unwrap();
    let shown = valid("views/node-show", &view);
    assert_eq!(view.at_rest(), "in place");
    assert_eq!((view.operations, view.open.is_none(), view.past_instances.len()), (2, true, 1));
    assert_eq!(shown["resources"]["carrier"]["instance"], json!(lines[0].carrier.as_ref().unwrap().instance));
    assert_eq!(shown["spec"]["name"], "db-1");
    assert!(view.spec.is_some_and(|spec| spec.check().is_ok()));
}

#[tokio::test]
async fn a_stuck_workflow_is_named_in_the_list_in_the_node_and_by_itself() {
    let views = stuck().views().await;
    let lines = views.nodes(NOW_MS).await.unwrap();
    assert_eq!(lines[0].state, "STUCK in replace");
    let view = views.node(&name("db-1"), NOW_MS).await.unwrap();
    valid("views/node-show", &view);
    assert_eq!((view.condition, lines[0].condition), (Condition::Stuck, Condition::Stuck));
    let open = view.open.unwrap();
    assert_eq!(open.workflow, "db-1.2");
    assert_eq!(open.stuck.unwrap().needs, "name another subnet");
    assert!(open.advice.needed);
    assert_eq!(
        open.advice.commands[..2],
        ["perennial workflow resume db-1.2", "perennial workflow cancel db-1.2"]
    );
    let shown = views.workflow(&workflow("db-1.2"), NOW_MS).await.unwrap();
    valid("views/workflow-show", &shown);
    assert_eq!((shown.status.as_str(), shown.because.as_deref()), ("stuck", Some("no such subnet")));
    let open: Vec<_> = views.workflows(Which::Open).await.unwrap();
    valid("views/workflow-list", &open);
    assert_eq!(open.iter().map(|line| line.workflow.as_str()).collect::<Vec<_>>(), ["db-1.2"]);
    assert_eq!((open[0].status.as_str(), open[0].because.as_deref()), ("stuck", Some("no such subnet")));
}

/// The journal as it was when the second launch of `db-1.2` waited for its time.
fn dry() -> Script {
    let of = workflow("db-1.2").stream();
    let mut script = Script::of_db_1(|stream, seq| *stream == of && seq == 4);
    // EC2 has taken the old instance.
    let launch =
        script.0.iter().rev().find(|(stream, data, _)| *stream == of && data.body.contains("launch"));
    let Event::Operation(OperationEvent::StepIntended { step, intent, .. }) =
        Perennial::decode(&launch.unwrap().1).unwrap()
    else {
        panic!("a launch")
    };
    let refused = |token| {
        let evidence = Evidence::NoCapacity {
            code: "InsufficientInstanceCapacity".to_owned(),
            message: "none".to_owned(),
        };
        OperationEvent::StepSettled { token: Token(token), step: step.clone(), evidence }
    };
    let again = |attempt, not_before_ms| OperationEvent::StepIntended {
        step: step.clone(),
        attempt,
        intent: intent.clone(),
        not_before_ms,
        deadline_ms: u64::MAX,
    };
    for event in [refused(3), again(2, 0), refused(5), again(3, NOW_MS + 240_000)] {
        script = script.then(&of, &Event::Operation(event));
    }
    script
}

#[tokio::test]
async fn a_node_that_waits_for_capacity_says_what_was_asked_how_often_when_again_and_what_to_do() {
    let views = dry().views().await;
    let view = views.node(&name("db-1"), NOW_MS).await.unwrap();
    valid("views/node-show", &view);
    let open = view.open.unwrap();
    let wait = open.capacity.unwrap();
    assert_eq!((wait.refused, wait.pools.len(), wait.next_ms), (2, 1, Some(NOW_MS + 240_000)));
    assert!(wait.first_ms < wait.last_ms && wait.last_refusal.ends_with(": InsufficientInstanceCapacity"));
    assert_eq!(open.phase, "no capacity");
    assert!(!open.advice.needed && open.advice.commands == ["perennial node apply -f db-1.yaml"]);
    let left = open.remaining.unwrap();
    assert!(left.whole_ms.is_some_and(|whole_ms| whole_ms > 10_000 && whole_ms <= left.total_ms), "{left:?}");
    let slots: Vec<String> = open.volumes.iter().map(|volume| volume.slot.to_string()).collect();
    assert_eq!(slots, ["root", "data"]);
    assert!(
        open.volumes.iter().all(|volume| volume.place.contains("the old instance")),
        "{:?}",
        open.volumes
    );
    let line = &views.nodes(NOW_MS).await.unwrap()[0];
    assert_eq!((line.condition, line.doing.as_deref()), (Condition::Working, Some("no capacity")));
    let status = StatusView::new(None, vec![line.clone()]);
    assert_eq!((status.count(Condition::Working), status.trouble.len()), (1, 0));
}

#[tokio::test]
async fn a_history_says_when_no_engine_ran_and_whether_the_last_one_was_killed() {
    let engine = engine_stream();
    let started = |silent_since_ms| {
        let version = "0.1.0".to_owned();
        Event::Engine(EngineEvent::Started { version, process: 1, silent_since_ms })
    };
    let script = dry();
    let at_ms = script.0.last().unwrap().2;
    let script = script.then(&engine, &started(Some(at_ms)));
    let views = script.then(&engine, &Event::Engine(EngineEvent::Stopped {})).views().await;
    let story = views.story(&workflow("db-1.2")).await.unwrap();
    let told: Vec<_> = story.unattended.iter().map(|absence| (absence.killed, absence.until_ms)).collect();
    assert_eq!(told, [(true, Some(at_ms + 1_000)), (false, None)]);
    assert_eq!((story.unattended[0].from_ms, story.unattended[1].from_ms), (at_ms, at_ms + 2_000));
    let first = views.story(&workflow("db-1.1")).await.unwrap();
    assert!(first.unattended.is_empty(), "it was over before");
    let audit =
        views.audit(&AuditFilter { kind: Some(AuditKind::Engine), ..AuditFilter::default() }).await.unwrap();
    let whats: Vec<&str> = audit.lines.iter().map(|line| line.what.as_str()).collect();
    assert_eq!(whats, ["engine started", "engine stopped"]);
    valid("views/audit", &audit);
}

#[tokio::test]
async fn workflows_are_listed_in_the_order_in_which_they_were_started() {
    let views = Script::whole().views().await;
    let lines = views.workflows(Which::All).await.unwrap();
    valid("views/workflow-list", &lines);
    assert_eq!(lines.iter().map(|line| line.workflow.as_str()).collect::<Vec<_>>(), ["db-1.1", "db-1.2"]);
    assert!(lines[0].started_at_ms < lines[1].started_at_ms);
    assert!(views.workflows(Which::Open).await.unwrap().is_empty());
    let shown = views.workflow(&workflow("db-1.2"), NOW_MS).await.unwrap();
    let json = valid("views/workflow-show", &shown);
    assert_eq!(shown.status, "finished");
    assert!(shown.steps.len() > 10 && shown.steps.iter().all(|step| step.evidence.is_some()));
    assert_eq!(json["steps"][0]["token"], shown.steps[0].token);
    assert_eq!(views.story(&workflow("db-1.2")).await.unwrap().steps.len(), shown.steps.len());
}

#[tokio::test]
async fn a_history_has_every_workflow_or_the_newest_ones() {
    let views = Script::whole().views().await;
    let workflows = |entries: &[Entry]| {
        entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Operation(story) => Some(story.operation.to_string()),
                Entry::Remark { .. } => None,
            })
            .collect::<Vec<_>>()
    };
    let all = views.history(&name("db-1"), None).await.unwrap();
    valid("views/node-history", &all);
    assert_eq!(workflows(&all.entries), ["db-1.1", "db-1.2"]);
    assert!(matches!(all.entries[0], Entry::Remark { .. }), "it was registered");
    let last = views.history(&name("db-1"), Some(1)).await.unwrap();
    assert_eq!(workflows(&last.entries), ["db-1.2"]);
    assert_eq!(last.entries.len(), 1, "what was before it is left out");
    assert_eq!(workflows(&views.history(&name("db-1"), Some(0)).await.unwrap().entries), [""; 0]);
}

#[tokio::test]
async fn a_watch_sees_each_event_once_and_knows_how_far_the_workflow_is() {
    let views = Script::whole().views().await;
    let mut watch = views.watch(&workflow("db-1.2"));
    assert_eq!(*watch.progress(), WorkflowProgress::Running);
    let events = watch.next_events().await.unwrap();
    assert_eq!(*watch.progress(), WorkflowProgress::Finished(Outcome::Completed));
    for (seq, event) in (1..).zip(&events) {
        valid("views/workflow-watch", &event.line);
        assert_eq!((event.line.seq, event.line.stream.as_str()), (seq, "workflow/db-1.2"));
    }
    assert_eq!(events.last().unwrap().line.seq, 51);
    assert!(watch.next_events().await.unwrap().is_empty());

    let stream = workflow("db-1.2").stream();
    let mut watch = stuck().views().await.watch(&workflow("db-1.2"));
    watch.next_events().await.unwrap();
    let WorkflowProgress::Stuck(step) = watch.progress() else { panic!("{:?}", watch.progress()) };
    assert_eq!((step.step.as_str(), step.because.as_str()), ("launch", "no such subnet"));
    // Whoever waits for what was asked for next must not be told of the old mark.
    let cancelled = OperationEvent::CancelRequested { requested_by: "ops".to_owned(), reason: None };
    let paused = Cause::Request {
        submission: "s".to_owned(),
        requested_by: "ops".to_owned(),
        reason: None,
        sender: None,
    };
    let diverted = OperationEvent::Diverted { cause: paused, delete: None };
    for event in [cancelled, diverted] {
        let views = stuck().then(&stream, &Event::Operation(event.clone())).views().await;
        let mut watch = views.watch(&workflow("db-1.2"));
        watch.next_events().await.unwrap();
        assert_eq!(*watch.progress(), WorkflowProgress::Running, "it goes on: {event:?}");
    }
}

#[tokio::test]
async fn the_disposition_of_a_message_is_known_once_it_is_processed() {
    let script = Script::whole();
    let entry = script.0.iter().find_map(|(stream, ..)| stream.as_str().split_once("/submissions/"));
    let key = entry.expect("a submission").1.to_owned();
    let views = script.views().await;
    let disposition = views.disposition("submissions", &key).await.unwrap();
    assert_eq!(disposition, Some(Disposition::Started { operation: workflow("db-1.1") }));
    assert_eq!(views.disposition("submissions", "another").await.unwrap(), None);
    assert_eq!(views.disposition("interruptions", &key).await.unwrap(), None);
    let answer = SubmissionView {
        submission: key,
        disposition,
        workflow: Some(workflow("db-1.1")),
        state: "finished".to_owned(),
    };
    valid("views/submission", &answer);
    let sent = SubmissionView { disposition: None, workflow: None, state: "sent".to_owned(), ..answer };
    assert_eq!(valid("views/submission", &sent), json!({ "submission": sent.submission, "state": "sent" }));
}

#[tokio::test]
async fn backups_that_failed_stand_in_the_catalogue_and_in_the_history() {
    let known = Carried {
        newest: 2,
        failures: vec![Failure { backup: 2, at_ms: NOW_MS - 1_000, because: "not allowed".to_owned() }],
        failed_in_a_row: 1,
        ..Carried::default()
    };
    let opened = Event::Backup(BackupEvent::Opened { carried: known });
    let views = Script::whole().then(&CatalogId::new(name("db-1"), 1).stream(), &opened).views().await;
    let view = views.backups(&name("db-1"), NOW_MS).await.unwrap();
    valid("views/node-backups", &view);
    assert_eq!((view.loss_window_ms, view.failed_in_a_row, view.last_complete()), (None, 1, None));
    assert_eq!(view.failures[0].id.to_string(), "db-1.b2");
    let history = views.history(&name("db-1"), None).await.unwrap();
    let remark = "backup db-1.b2 has failed: not allowed".to_owned();
    assert_eq!(history.entries.last(), Some(&Entry::Remark { at_ms: NOW_MS - 1_000, text: remark }));
    let progress = async |number| views.backup_progress(&BackupId::new(name("db-1"), number)).await.unwrap();
    assert_eq!(progress(2).await, BackupProgress::Failed { because: "not allowed".to_owned() });
    assert_eq!(progress(1).await, BackupProgress::Complete);
}

#[tokio::test]
async fn an_address_pool_says_which_node_has_which_address() {
    let spec = json!({
        "schema": "perennial.pool/v1", "name": "brokers", "subnet": "subnet-1", "addresses": ["10.0.1.10-10.0.1.12"]
    });
    let declared = AddressPoolEvent::Declared {
        spec: serde_json::from_value(spec).unwrap(),
        requested_by: "ops".to_owned(),
    };
    let allocated = AddressPoolEvent::Allocated {
        address: [10, 0, 1, 11].into(),
        node: name("db-1"),
        operation: workflow("db-1.1"),
    };
    let stream = address_pool_stream(&name("brokers"));
    let script = Script::default().then(&stream, &Event::AddressPool(declared));
    let views = script.then(&stream, &Event::AddressPool(allocated)).views().await;
    let lines = views.address_pools().await.unwrap();
    valid("views/pool-list", &lines);
    assert_eq!(
        (lines[0].name.as_str(), lines[0].addresses, lines[0].held, lines[0].free),
        ("brokers", 3, 1, 2)
    );
    let view = views.address_pool(&name("brokers")).await.unwrap();
    valid("views/pool-show", &view);
    assert_eq!((view.held[0].address.as_str(), view.held[0].node.as_str()), ("10.0.1.11", "db-1"));
    assert_eq!(view.free, ["10.0.1.10", "10.0.1.12"]);
}

#[tokio::test]
async fn a_plan_is_of_the_node_as_it_is_or_of_a_file() {
    let views = Script::whole().views().await;
    let plan = views.plan(&name("db-1"), Assumption::default()).await.unwrap();
    valid("views/node-plan", &plan);
    assert!(plan.total_ms > 0 && !plan.story.steps.is_empty());
    let elsewhere = Assumption { capacity_here: Presence::Missing, ..Assumption::default() };
    let refused = views.plan(&name("db-1"), elsewhere).await.unwrap_err();
    assert_eq!(refused.to_string(), "db-1 waits for capacity where it is");
    let plans = SpecPlans::new(&views.node_spec(&name("db-1")).await.unwrap()).unwrap();
    valid("views/node-file-plan", &plans);
    assert!(plans.provision.order.is_none() && plans.replace.order.is_some());
}

#[tokio::test]
async fn a_prune_is_previewed_and_refused_for_a_volume_that_is_not_retained() {
    let views = Script::whole().views().await;
    let preview = views.prune_preview(&name("db-1"), &PruneParams::default(), NOW_MS).await.unwrap();
    let shown = valid("views/node-prune", &preview);
    let node = views.node(&name("db-1"), NOW_MS).await.unwrap();
    let retained = &node.resources.retained;
    assert_eq!(preview.delete.len() + preview.stay.len(), retained.len());
    assert!(!retained.is_empty(), "its root went on as an image: {shown}");
    let volume = node.resources.volumes.values().next().unwrap().volume.clone();
    let params = PruneParams { volumes: vec![volume], ..PruneParams::default() };
    let refused = views.prune_preview(&name("db-1"), &params, NOW_MS).await.unwrap_err();
    assert!(matches!(refused, QueryError::NotPrunable { .. }), "{refused:?}");
}

#[tokio::test]
async fn the_head_of_a_journal_is_its_last_event() {
    let views = Script::default().views().await;
    let empty = views.head().await.unwrap();
    valid("views/journal-head", &empty);
    assert_eq!((empty.position, empty.hash.as_str()), (0, "0".repeat(64).as_str()));
    assert_eq!(views.checked_head().await.unwrap(), None);
    let first = Script::of_db_1(|_, seq| seq == 2).views().await;
    assert_eq!(first.checked_head().await.unwrap().unwrap().position, 1);
    let views = Script::whole().views().await;
    let head = views.head().await.unwrap();
    valid("views/journal-head", &head);
    assert_eq!(views.checked_head().await.unwrap().unwrap().position, head.position);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let views = Script::whole().views().await;
    let missing = |error: QueryError| match error {
        QueryError::Missing { subject, name } => (subject, name),
        other => panic!("{other:?}"),
    };
    let node = views.node(&name("db-2"), NOW_MS).await.unwrap_err();
    assert_eq!(node.to_string(), "there is no node db-2");
    assert_eq!(missing(node), (Subject::Node, "db-2".to_owned()));
    let workflow_9 = views.workflow(&workflow("db-1.9"), NOW_MS).await.unwrap_err();
    assert_eq!(missing(workflow_9), (Subject::Workflow, "db-1.9".to_owned()));
    let story = views.story(&workflow("db-1.9")).await.unwrap_err();
    assert_eq!(missing(story), (Subject::Workflow, "db-1.9".to_owned()));
    let pool = views.address_pool(&name("brokers")).await.unwrap_err();
    assert_eq!(missing(pool), (Subject::AddressPool, "brokers".to_owned()));
}

#[tokio::test]
async fn a_stream_that_cannot_be_folded_is_named() {
    let stream = workflow("db-1.2").stream();
    let started_twice = Script::whole().0.into_iter().find(|(of, ..)| *of == stream).unwrap();
    let journal = MemoryJournal::new();
    for expected in [Seq::NONE, Seq::NONE.next()] {
        let events = vec![started_twice.1.clone()];
        let appends = vec![StreamAppend { stream: stream.clone(), expected, events }];
        journal.append(Batch { appends, recorded_at_ms: 1, ..Batch::default() }).await.unwrap();
    }
    let error = Views::new(Arc::new(journal)).workflow(&workflow("db-1.2"), NOW_MS).await.unwrap_err();
    assert!(matches!(&error, QueryError::Corrupt { stream: named, .. } if *named == stream), "{error:?}");
}
