//! The screens in each situation that a person on call meets, on terminals of 80 and of 200 columns. The
//! journals are the released one up to some event, and what happened then.
//!
//! Each screen answers: is it up, since when and why, what it waits for and when it goes on, whether the data
//! is safe, and what to do, with the commands.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use expect_test::expect_file;
use perennial_engine::domain::Domain as _;
use perennial_engine::ids::{Seq, StreamId, Token};
use perennial_engine::journal::{
    Batch, EventData, Hash, Journal as _, ProjectionDelta, RecordedEvent, StreamAppend,
};
use perennial_engine::projection::Reprojection;
use perennial_store::{Options, SqliteJournal};
use perennial_workflows::aggregate::node::NodeEvent;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::states::Event;
use perennial_workflows::model::aws::InstanceId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome, node_stream};
use perennial_workflows::model::resources::{Carrier, Resources};
use perennial_workflows::model::signal::Cause;
use perennial_workflows::operation::event::{OperationEvent, Order};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::Intent;
use perennial_workflows::step::name::StepName;
use serde_json::{Value, json};

/// The widths of terminals.
const WIDTHS: [u16; 2] = [80, 200];

/// Whether a server runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Runs,
    Absent,
}

/// Events, as they are written one after the other.
struct Script {
    events: Vec<(StreamId, EventData, u64)>,
    seqs: BTreeMap<StreamId, Seq>,
}

fn workflow() -> OperationId {
    OperationId::parse("db-ip.2").unwrap()
}

fn node() -> NodeName {
    NodeName::parse("db-ip").unwrap()
}

fn step(text: &str) -> StepName {
    StepName::parse(text).unwrap()
}

impl Script {
    /// The released journal of three nodes, of which one remains, up to this position.
    fn until(last: u64) -> Self {
        let path = "../schemas/samples/journals/v0.1.0-replacement.jsonl";
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let mut script = Self { events: Vec::new(), seqs: BTreeMap::new() };
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| event[name].as_str().unwrap();
            if event["position"].as_u64().unwrap() > last {
                break;
            }
            let is_of_another = ["db-eni", "batch"].iter().any(|other| field("stream").contains(other));
            if is_of_another || field("stream").starts_with("inbox/") {
                continue;
            }
            let version = u32::try_from(event["version"].as_u64().unwrap()).unwrap();
            let body = event["body"].to_string();
            let data = EventData { kind: field("kind").to_owned(), version, body };
            let stream = StreamId::parse(field("stream")).unwrap();
            script.push(stream, data, event["recorded_at_ms"].as_u64().unwrap());
        }
        script
    }

    fn push(&mut self, stream: StreamId, data: EventData, at_ms: u64) {
        let seq = self.seqs.entry(stream.clone()).or_insert(Seq::NONE);
        *seq = seq.next();
        self.events.push((stream, data, at_ms));
    }

    fn now_ms(&self) -> u64 {
        self.events.last().unwrap().2
    }

    /// Adds an event some milliseconds after the last one.
    fn then(mut self, after_ms: u64, event: Event) -> Self {
        let at_ms = self.now_ms() + after_ms;
        let stream = match &event {
            Event::Node(_) => node_stream(&node()),
            _ => workflow().stream(),
        };
        self.push(stream, Perennial::encode(&event), at_ms);
        self
    }

    fn step(self, after_ms: u64, event: OperationEvent) -> Self {
        self.then(after_ms, Event::Operation(event))
    }

    /// The newest intent of a step of the workflow, with its token.
    fn intended(&self, wanted: &str) -> (Token, Intent) {
        let mut seq = Seq::NONE;
        let mut found = None;
        for (stream, data, _) in &self.events {
            if *stream != workflow().stream() {
                continue;
            }
            seq = seq.next();
            if let Event::Operation(OperationEvent::StepIntended { step, intent, .. }) =
                Perennial::decode(data).unwrap()
                && step.to_string() == wanted
            {
                found = Some((seq.into(), intent));
            }
        }
        found.unwrap_or_else(|| panic!("{wanted} was not intended"))
    }

    /// The step has settled in this way.
    fn settled(self, after_ms: u64, name: &str, evidence: Evidence) -> Self {
        let (token, _) = self.intended(name);
        self.step(after_ms, OperationEvent::StepSettled { token, step: step(name), evidence })
    }

    /// The step waits for this.
    fn waits(self, after_ms: u64, name: &str, because: &str) -> Self {
        self.held_up(after_ms, name, (because, false))
    }

    /// The step waits for this, which passes by itself or not.
    fn held_up(self, after_ms: u64, name: &str, (because, hindered): (&str, bool)) -> Self {
        let (token, _) = self.intended(name);
        let because = because.to_owned();
        let event = OperationEvent::StepWaits { token, step: step(name), because, hindered, looks: 40 };
        self.step(after_ms, event)
    }

    /// The order of the workflow.
    fn order(&self) -> Order {
        let orders = self.events.iter().filter(|(stream, _, _)| *stream == workflow().stream());
        let mut orders = orders.filter_map(|(_, data, _)| match Perennial::decode(data).unwrap() {
            Event::Operation(OperationEvent::Started(order)) => Some(order),
            _ => None,
        });
        orders.next().expect("it has begun")
    }

    /// The data directory that a server leaves behind.
    async fn written(&self, directory: &Path) {
        let mut heads: BTreeMap<StreamId, Seq> = BTreeMap::new();
        let mut reprojection = Reprojection::<Perennial>::default();
        let mut batches = Vec::new();
        for (position, (stream, data, at_ms)) in (1..).zip(&self.events) {
            let expected = heads.get(stream).copied().unwrap_or(Seq::NONE);
            heads.insert(stream.clone(), expected.next());
            let event = RecordedEvent {
                position: perennial_engine::ids::Position(position),
                stream: stream.clone(),
                seq: expected.next(),
                data: data.clone(),
                recorded_at_ms: *at_ms,
                key: None,
                hash: Hash::GENESIS,
            };
            reprojection.apply(&event).unwrap();
            let appends = vec![StreamAppend { stream: stream.clone(), expected, events: vec![data.clone()] }];
            batches.push(Batch { appends, recorded_at_ms: *at_ms, ..Batch::default() });
        }
        let shown = reprojection.finish();
        batches.last_mut().unwrap().projection = ProjectionDelta {
            opened: shown.open_steps,
            keys_added: shown.keys,
            summaries: shown.summaries,
            ..ProjectionDelta::default()
        };
        let journal =
            Arc::new(SqliteJournal::open(&directory.join("journal.sqlite"), Options::default()).unwrap());
        for batch in batches {
            journal.append(batch).await.unwrap();
        }
    }

    /// Compares every screen with the golden text, at each width, so long after the last event.
    async fn check(self, name: &str, server: Server, after_ms: u64) {
        let directory = tempfile::tempdir().unwrap();
        self.written(directory.path()).await;
        // Written later than any clock says, so that the time stands still.
        let status = json!({
            "process": 4711, "written_at_ms": u64::MAX / 2, "now_ms": self.now_ms() + after_ms, "tasks": []
        });
        std::fs::write(directory.path().join("status.json"), status.to_string()).unwrap();
        let lock = std::fs::File::create(directory.path().join("journal.sqlite.lock")).unwrap();
        std::fs::write(directory.path().join("journal.sqlite.lock"), "4711").unwrap();
        if server == Server::Runs {
            lock.lock().unwrap();
        }
        for width in WIDTHS {
            let text = screens(directory.path(), width);
            let wide: Vec<&str> = text.lines().filter(|line| is_too_wide(line, width)).collect();
            assert!(wide.is_empty(), "wider than {width}: {wide:#?}");
            expect_file![format!("screens/{name}-{width}.txt")].assert_eq(&text);
        }
        drop(lock);
    }
}

/// Whether a line is wider than a terminal though it could be broken: neither a command is nor a word.
fn is_too_wide(line: &str, width: u16) -> bool {
    let last = line.rsplit("  ").next().unwrap_or_default().trim();
    let is_whole =
        ["aws ", "perennial "].iter().any(|program| last.starts_with(program)) || !last.contains(' ');
    line.chars().count() > usize::from(width) && !is_whole
}

/// What the commands print.
fn screens(directory: &Path, width: u16) -> String {
    let mut text = String::new();
    for arguments in
        ["node show db-ip", "node list", "workflow show db-ip", "workflow list", "status", "doctor"]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PERENNIAL_")) {
            command.env_remove(name);
        }
        command.arg("--data").arg(directory).args(arguments.split_whitespace()).stdin(Stdio::null());
        command.env("PERENNIAL_CLOUD", "sim").env("COLUMNS", width.to_string()).current_dir(directory);
        let output = command.output().unwrap();
        let said = [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let shown = match arguments {
            "doctor" => about_the_node(&said),
            _ => said.trim_end().to_owned(),
        };
        let code = output.status.code().unwrap();
        writeln!(text, "$ perennial {arguments}\n{shown}\n[exit {code}]\n").unwrap();
    }
    text
}

/// The checks of doctor that are about nodes and the server; the others have names of this machine.
fn about_the_node(said: &str) -> String {
    let mut is_shown = false;
    let mut lines = Vec::new();
    for line in said.lines() {
        if ["ok ", "WARN ", "FAIL "].iter().any(|verdict| line.starts_with(verdict)) {
            is_shown =
                line[4..].trim_start().starts_with("node ") || line[4..].trim_start().starts_with("server");
        }
        if is_shown {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// Every pool was asked in vain, and the old instance ends.
fn without_capacity() -> Script {
    let signal = |state: &str| -> Event {
        let signal = json!({
            "instance": "i-0130f66dc256bdb83", "news": {"state_change": {"state": state}},
            "source": {"event": {"id": "e-1"}}, "at_ms": 1_789_372_890_000_u64
        });
        let signal = serde_json::from_value(signal).unwrap();
        Event::Operation(OperationEvent::SignalReceived { signal })
    };
    let preserved = Evidence::Preserved;
    let mut script = Script::until(98).settled(100, "preserve:i-0130f66dc256bdb83", preserved);
    let no_capacity = || Evidence::NoCapacity {
        code: "InsufficientInstanceCapacity".to_owned(),
        message: "We currently do not have sufficient capacity.".to_owned(),
    };
    let (_, Intent::Launch(first)) = script.intended("launch") else { panic!("a launch") };
    script = script.settled(300, "launch", no_capacity());
    for (attempt, (kind, wait_ms)) in
        (2..).zip([("m5.large", 0), ("m6i.large", 15_000), ("m5.large", 0), ("m6i.large", 240_000)])
    {
        let mut launch = first.clone();
        launch.pool.instance_type = kind.to_owned();
        let not_before_ms = script.now_ms() + wait_ms;
        script = script.step(
            0,
            OperationEvent::StepIntended {
                step: step("launch"),
                attempt,
                intent: Intent::Launch(launch),
                not_before_ms,
                deadline_ms: not_before_ms + 900_000,
            },
        );
        if attempt < 5 {
            script = script.settled(wait_ms + 100, "launch", no_capacity());
        }
    }
    script.then(60_000, signal("shutting-down"))
}

#[tokio::test]
async fn waiting_for_capacity() {
    without_capacity().check("capacity", Server::Runs, 50_000).await;
    without_capacity().check("capacity-no-server", Server::Absent, 50_000).await;
}

#[tokio::test]
async fn fencing() {
    let of = "fence:i-0130f66dc256bdb83";
    let script = Script::until(131).waits(88_000, of, "i-0130f66dc256bdb83 has been shutting down for 1 min");
    script.check("fencing", Server::Runs, 20_000).await;
}

#[tokio::test]
async fn refused_for_who_asks() {
    let refused = "TerminateInstances was answered with UnauthorizedOperation: You are not authorized to perform this \
                   operation.";
    let script = Script::until(131).held_up(400_000, "fence:i-0130f66dc256bdb83", (refused, true));
    script.check("refused", Server::Runs, 20_000).await;
}

#[tokio::test]
async fn adopting_the_root() {
    Script::until(164).check("adopting-the-root", Server::Runs, 9_000).await;
}

#[tokio::test]
async fn a_hanging_volume() {
    let hangs = "vol-03b823f94f00ab213 hangs: it has been detaching on i-0130f66dc256bdb83, which is terminated, for 7 min";
    let script = Script::until(155).settled(400, "release:root", Evidence::Released);
    script.waits(430_000, "release:data", hangs).check("hanging-volume", Server::Runs, 4_000).await;
}

#[tokio::test]
async fn stuck() {
    let script = || {
        Script::until(128).step(
            1_000,
            OperationEvent::Stuck {
                step: step("launch"),
                because: "InvalidSubnetID.NotFound: The subnet ID 'subnet-0123' does not exist".to_owned(),
                needs: "correct the node file, `perennial node apply -f FILE` makes it go on; or remove the cause (or begin \
                        anew: `perennial node pause db-ip`, then `perennial node resume db-ip`), then \
                        `perennial workflow resume db-ip.2`"
                    .to_owned(),
            },
        )
    };
    script().check("stuck", Server::Runs, 300_000).await;
    script().check("stuck-no-server", Server::Absent, 300_000).await;
}

fn paused() -> Script {
    let begun = Script::until(96);
    let before = begun.order().before;
    let cause: Cause = serde_json::from_value(json!({"request": {
        "requested_by": "anna", "submission": "pause-db-ip", "reason": "the night"
    }}))
    .unwrap();
    let kind = OperationKind::Pause;
    let carrier = before.carrier.clone().unwrap();
    let resources = Resources { carrier: None, address_interface: Some(carrier.interface), ..before };
    let finished = NodeEvent::OperationFinished {
        operation: workflow(),
        kind,
        generation: 1,
        resources: resources.clone(),
        outcome: Outcome::Completed,
        finals: false,
        launched_by: None,
    };
    let order = Order { kind, cause: cause.clone(), ..begun.order() };
    let started = NodeEvent::OperationStarted { operation: workflow(), kind, cause };
    Script::until(83)
        .then(3_600_000, Event::Node(started))
        .step(0, OperationEvent::Started(order))
        .step(40_000, OperationEvent::Finished { resources, outcome: Outcome::Completed })
        .then(0, Event::Node(finished))
}

#[tokio::test]
async fn a_paused_node() {
    paused().check("paused", Server::Runs, 7_200_000).await;
    paused().check("paused-no-server", Server::Absent, 7_200_000).await;
}

#[tokio::test]
async fn a_node_whose_journal_is_behind_the_world() {
    let newer = "i-00a948e045bd47d23 (instance, running): its tags say generation 2, workflow number 2; the journal is at 1 and 1";
    let script = || {
        let newer = vec![newer.to_owned()];
        Script::until(83).then(86_400_000, Event::Node(NodeEvent::FellBehind { newer }))
    };
    script().check("behind", Server::Runs, 240_000).await;
    script().check("behind-no-server", Server::Absent, 240_000).await;
}

#[tokio::test]
async fn a_node_that_was_adopted() {
    let before = Script::until(96).order().before;
    let carrier = before
        .carrier
        .clone()
        .map(|carrier| Carrier { instance: InstanceId::parse("i-00a948e045bd47d23").unwrap(), ..carrier });
    let adopted = NodeEvent::Adopted {
        generation: 2,
        operations: 2,
        resources: Resources { carrier, ..before },
        requested_by: "anna".to_owned(),
    };
    let newer = vec!["i-00a948e045bd47d23 (instance, running): its tags say generation 2".to_owned()];
    let script = Script::until(83).then(86_400_000, Event::Node(NodeEvent::FellBehind { newer }));
    let script = script.then(600_000, Event::Node(adopted));
    script.check("adopted", Server::Runs, 120_000).await;
}

#[tokio::test]
async fn in_place_and_no_server() {
    Script::until(83).check("in-place-no-server", Server::Absent, 600_000).await;
}
