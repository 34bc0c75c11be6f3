//! Signals: any one alone is enough, and together they are one operation.
//!
//! A node that runs hears of its instance; each case says what came of it, in words.

use perennial_workflows::aggregate::backup_catalog::BackupCause;
use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::aggregate::node::NodeEvent;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use perennial_workflows::model::backup_id::CatalogId;
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome, node_stream};
use perennial_workflows::model::signal::{Cause, Effect, News};
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::MIN_LIFETIME_MIN;
use perennial_workflows::spec::node::{NetworkMode, RootMode, example};
use perennial_workflows::spec::signals::{RebalancePolicy, SignalsSpec};
use perennial_workflows::view::plan::{imagined_resources, success};

use crate::desk::{Desk, NODE, name};

const LIFETIME_MS: u64 = MIN_LIFETIME_MIN as u64 * 60_000;
const DAY_MS: u64 = 86_400_000;

/// A node that is in place.
fn in_place() -> Desk {
    let mut desk = Desk::default();
    let spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    let resources = imagined_resources(&spec).unwrap();
    let (operation, kind) = (OperationId::new(name(NODE), 1), OperationKind::Provision);
    let cause =
        Cause::Request { submission: "s".into(), requested_by: "tests".into(), reason: None, sender: None };
    for event in [
        NodeEvent::Registered { spec, requested_by: "tests".into() },
        NodeEvent::OperationStarted { operation: operation.clone(), kind, cause },
        NodeEvent::OperationFinished {
            operation,
            kind,
            generation: 1,
            resources,
            outcome: Outcome::Completed,
            finals: false,
            launched_by: None,
        },
    ] {
        desk.append(&node_stream(&name(NODE)), Event::Node(event));
    }
    desk.now_ms = 1_000;
    desk
}

/// Of the node's operations, by their number.
impl Desk {
    fn numbered(&self, number: u64) -> Operation {
        self.operation(&OperationId::new(name(NODE), number))
    }

    fn carrier(&self) -> InstanceId {
        self.node().resources.carrier.unwrap().instance
    }

    fn candidate(&self, number: u64) -> InstanceId {
        self.numbered(number).facts.candidate.expect("a new instance").instance
    }

    fn settle_one(&mut self, number: u64) {
        let operation = self.numbered(number);
        let step = operation.open_steps().into_iter().min_by_key(|step| step.token).expect("an open step");
        let evidence = success(&operation, &step.intent, step.token);
        self.report(operation.id.stream(), step.token, evidence).unwrap();
    }

    /// Everything goes well, until the operation is over.
    fn finish(&mut self, number: u64) {
        for _ in 0..100 {
            if matches!(self.numbered(number).status, Status::Finished { .. }) {
                return;
            }
            self.settle_one(number);
        }
        panic!("{number} does not end");
    }

    fn settle_to(&mut self, number: u64, name: &str) {
        for _ in 0..100 {
            if self.numbered(number).open_steps().iter().any(|step| step.step.starts_with(name)) {
                return;
            }
            self.settle_one(number);
        }
        panic!("{number} does not come to {name}");
    }
}

fn scheduled(effect: Effect) -> News {
    let code = match effect {
        Effect::Retirement | Effect::Settled => "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
        Effect::Maintenance => "AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED",
    };
    News::ScheduledChange { code: code.into(), effect, begins_ms: Some(14 * DAY_MS) }
}

fn warning() -> News {
    News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 }
}

/// Everything that is enough to start a replacement.
fn losses() -> Vec<(&'static str, News)> {
    vec![
        ("warning", warning()),
        ("retirement", scheduled(Effect::Retirement)),
        (
            "retirement without a date",
            News::ScheduledChange {
                code: "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED".into(),
                effect: Effect::Retirement,
                begins_ms: None,
            },
        ),
        ("stopping", News::StateChange { state: InstanceState::Stopping }),
        ("stopped", News::StateChange { state: InstanceState::Stopped }),
        ("shutting-down", News::StateChange { state: InstanceState::ShuttingDown }),
        ("terminated", News::StateChange { state: InstanceState::Terminated }),
        ("missing", News::Missing { because: "it was not shown".into() }),
    ]
}

/// Everything that moves nothing.
fn others() -> Vec<(&'static str, News)> {
    vec![
        ("rebalance", News::Rebalance),
        ("maintenance", scheduled(Effect::Maintenance)),
        ("settled", scheduled(Effect::Settled)),
        ("running", News::StateChange { state: InstanceState::Running }),
    ]
}

#[test]
fn every_loss_alone_starts_a_replacement_and_nothing_else_does() {
    for (name, news) in losses() {
        let mut desk = in_place();
        let old = desk.carrier();
        let disposition = desk.event(&old, news);
        assert!(matches!(disposition, Disposition::Started { .. }), "{name}: {disposition}");
        assert_eq!(desk.numbered(2).order.kind, OperationKind::Replace, "{name}");
        desk.finish(2);
        assert_ne!(desk.carrier(), old, "{name}");
    }
    for (name, news) in others() {
        let mut desk = in_place();
        let old = desk.carrier();
        let disposition = desk.event(&old, news);
        assert!(matches!(disposition, Disposition::Noted { .. }), "{name}: {disposition}");
        assert_eq!(desk.node().operations, 1, "{name}");
    }
}

/// A node whose file says what to do about a recommendation, some time after it was made.
fn told(rebalance: RebalancePolicy, backup: Option<BackupSpec>) -> Desk {
    let mut desk = in_place();
    let mut spec = desk.node().spec.unwrap();
    spec.signals = Some(SignalsSpec { rebalance, ..SignalsSpec::default() });
    spec.backup = backup;
    let (requested_by, addresses_elsewhere) = ("tests".into(), Default::default());
    let changed = NodeEvent::SpecChanged { spec, requested_by, addresses_elsewhere };
    desk.append(&node_stream(&name(NODE)), Event::Node(changed));
    desk.now_ms += LIFETIME_MS;
    desk
}

#[test]
fn a_recommendation_is_ignored_prepared_for_or_followed_as_the_node_file_says() {
    let every = Some(BackupSpec::default());
    let first = |desk: &Desk| match desk.state(&CatalogId::new(name(NODE), 1).stream()) {
        State::BackupCatalog(catalog) => catalog.known.under_way().map(|backup| backup.order.cause.clone()),
        other => panic!("{other:?}"),
    };
    for (policy, backup) in [(RebalancePolicy::Ignore, every), (RebalancePolicy::Prepare, None)] {
        let mut desk = told(policy, backup);
        let old = desk.carrier();
        let disposition = desk.event(&old, News::Rebalance).to_string();
        assert!(disposition.contains("noted, not followed"), "{policy:?}: {disposition}");
        assert_eq!((first(&desk), desk.node().operations), (None, 1), "{policy:?}");
    }

    let mut desk = told(RebalancePolicy::Prepare, every);
    let old = desk.carrier();
    let disposition = desk.event(&old, News::Rebalance).to_string();
    assert_eq!(disposition, "nothing to do: noted: backup db-1.b1 is taken at once");
    assert!(matches!(first(&desk), Some(BackupCause::Asked { cause: Cause::Signal { .. } })));
    assert!(desk.node().noted[0].because.contains("db-1.b1"), "it is in the history, with its name");
    let again = desk.event(&old, News::Rebalance).to_string();
    assert_eq!(again, "nothing to do: noted: backup db-1.b1 is under way");
    assert_eq!(desk.node().operations, 1);
    // The loss that it predicted is one operation, and does not wait for the backup.
    assert!(matches!(desk.event(&old, warning()), Disposition::Started { .. }));

    let mut desk = told(RebalancePolicy::Move, None);
    let old = desk.carrier();
    assert!(matches!(desk.event(&old, News::Rebalance), Disposition::Started { .. }));
    assert!(
        matches!(&desk.numbered(2).order.cause, Cause::Signal { signal } if signal.news == News::Rebalance)
    );
    desk.finish(2);
    // The new instance is recommended to be left as well: not at once.
    let new = desk.carrier();
    assert_ne!(new, old);
    let disposition = desk.event(&new, News::Rebalance).to_string();
    assert!(disposition.contains("its instance has carried it for less than"), "{disposition}");
    assert_eq!(desk.node().operations, 2);
    desk.now_ms += LIFETIME_MS;
    assert!(matches!(desk.event(&new, News::Rebalance), Disposition::Started { .. }));
}

#[test]
fn every_pair_of_signals_in_either_order_is_one_operation() {
    let all: Vec<_> = losses().into_iter().chain(others()).collect();
    for (first, one) in &all {
        for (second, other) in &all {
            for gap in [0, 1, 3] {
                let label = format!("{first}, {gap} steps, {second}");
                let mut desk = in_place();
                let old = desk.carrier();
                let is_loss = |name: &str| losses().iter().any(|(loss, _)| *loss == name);
                desk.event(&old, one.clone());
                for _ in 0..gap {
                    if desk.node().open.is_some() {
                        desk.settle_one(2);
                    }
                }
                let disposition = desk.event(&old, other.clone());
                let expected = 1 + u64::from(is_loss(first) || is_loss(second));
                assert_eq!(desk.node().operations, expected, "{label}: {disposition}");
                if is_loss(first) {
                    assert!(!matches!(disposition, Disposition::Started { .. }), "{label}: {disposition}");
                }
                if expected == 2 {
                    desk.finish(2);
                    let late = desk.event(&old, other.clone());
                    assert!(matches!(late, Disposition::Past { .. }), "{label}, late: {late}");
                    assert_eq!(desk.node().operations, 2, "{label}, late");
                    assert!(desk.node().open.is_none(), "{label}, late");
                }
            }
        }
    }
}

#[test]
fn certainty_rises_and_what_is_no_surer_is_not_written_again() {
    let mut desk = in_place();
    let old = desk.carrier();
    desk.event(&old, News::Rebalance);
    let told: Vec<String> = [
        scheduled(Effect::Retirement),
        scheduled(Effect::Retirement),
        warning(),
        warning(),
        scheduled(Effect::Retirement),
        News::StateChange { state: InstanceState::Stopping },
        News::StateChange { state: InstanceState::ShuttingDown },
        News::StateChange { state: InstanceState::Terminated },
    ]
    .into_iter()
    .map(|news| desk.event(&old, news).to_string())
    .collect();
    let known = "nothing to do: workflow db-1.2 knows, or need not";
    let joined = "went on into workflow db-1.2";
    assert_eq!(told, ["started workflow db-1.2", known, joined, known, known, known, joined, known]);
    assert!(desk.numbered(2).facts.holders[0].ended);
}

#[test]
fn what_is_noted_is_known_of_the_node_until_another_instance_carries_it() {
    let mut desk = in_place();
    let old = desk.carrier();
    desk.event(&old, News::Rebalance);
    desk.event(&old, scheduled(Effect::Maintenance));
    desk.event(&old, News::Rebalance);
    let noted: Vec<String> = desk.node().noted.iter().map(|noted| noted.signal.to_string()).collect();
    assert_eq!(
        noted,
        [
            format!(
                "scheduled change: {old} will be maintained in 13 days (AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED) (event)"
            ),
            format!("rebalance recommendation for {old} (event)"),
        ],
        "the newest of each kind"
    );
    desk.event(&old, warning());
    desk.finish(2);
    assert!(desk.node().noted.is_empty());
}

#[test]
fn a_new_instance_that_is_to_be_retired_is_kept_and_the_next_operation_moves_on() {
    let mut desk = in_place();
    let old = desk.carrier();
    desk.event(&old, warning());
    desk.settle_to(2, "start");
    let candidate = desk.candidate(2);
    let disposition = desk.event(&candidate, scheduled(Effect::Retirement));
    assert!(matches!(disposition, Disposition::Joined { .. }), "{disposition}");
    assert_eq!(desk.candidate(2), candidate, "it has days left: the node comes back first");
    desk.finish(2);
    assert_eq!(desk.carrier(), candidate);
    assert!(
        matches!(&desk.numbered(3).order.cause, Cause::Signal { signal } if signal.instance == candidate)
    );
    desk.finish(3);
    assert_ne!(desk.carrier(), candidate);
    assert!(desk.node().open.is_none());
}

#[test]
fn a_new_instance_that_is_to_be_retired_and_then_warned_is_lost_if_it_carries_nothing() {
    let mut desk = in_place();
    let old = desk.carrier();
    desk.event(&old, warning());
    desk.settle_to(2, "start");
    let candidate = desk.candidate(2);
    desk.event(&candidate, scheduled(Effect::Retirement));
    desk.event(&candidate, warning());
    assert!(desk.numbered(2).facts.candidate.is_none(), "a warning is surer than a retirement");
    desk.finish(2);
    assert_ne!(desk.carrier(), candidate);
    assert!(desk.node().open.is_none(), "what was heard of a lost instance is no cause");
}
