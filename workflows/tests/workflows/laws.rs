//! Laws: whatever workers report and whatever is heard, the domain neither panics nor writes what it cannot
//! read.

use std::collections::BTreeSet;

use perennial_engine::domain::Domain;
use perennial_engine::ids::{Seq, Token};
use perennial_workflows::aggregate::backup_catalog::{Backup, BackupEvent};
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::backup_schedule::{BackupTask, due_task};
use perennial_workflows::domain::command::Command;
use perennial_workflows::domain::movement;
use perennial_workflows::domain::movement::SpotSeen;
use perennial_workflows::domain::retention;
use perennial_workflows::domain::states::{Event, State};
use perennial_workflows::domain::submission::{
    ApplyParams, BackupParams, CancelParams, DeleteParams, PauseParams, PruneParams, RecycleParams,
    ReplaceParams, RestoreParams, ResumeNodeParams, ResumeParams, Work,
};
use perennial_workflows::domain::timers::{BACKUP, BACKUPS};
use perennial_workflows::model::aws::{
    AllocationId, GroupId, InstanceId, InstanceState, SnapshotId, VolumeId,
};
use perennial_workflows::model::backup_id::{BackupId, CatalogId};
use perennial_workflows::model::capacity::{NotAsked, PoolSign};
use perennial_workflows::model::operation_id::{OperationId, OperationKind};
use perennial_workflows::model::requirements::CapacityOrder;
use perennial_workflows::model::signal::{Effect, News, StatusCheck};
use perennial_workflows::model::survey::{PassedOver, Survey};
use perennial_workflows::model::uefi::{UEFI_DATA_MAX, UefiVariables};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::model::volume::TakenSnapshot;
use perennial_workflows::model::volume::{DiscoveredVolume, Found, UnmanagedVolume};
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, ReturnToSpot, RootMode, example};
use perennial_workflows::step::backup::{BackupEvidence, BackupIntent};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{
    AdoptRoot, Attach, AttachInterface, ClaimVolume, CreateVolume, DeleteInterface, DeleteVolume, Fence,
    Intent, Launch, Preserve, RegisterImage, Release, ReleaseInterface, SnapshotAhead, SnapshotRoot,
    SnapshotVolume,
};
use perennial_workflows::step::name::{OfVolume, StepName};
use perennial_workflows::view::plan::success;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use crate::desk::{Desk, NODE, OWNER, TICK_MS, name};

/// One look at the backups, as the loop that looks after them does it.
fn reconcile_backups(desk: &mut Desk) {
    let (node, (_, catalog)) = (desk.node(), desk.catalog());
    let operation = |id: &OperationId| match desk.state(&id.stream()) {
        State::Operation(operation) => operation,
        other => panic!("{other:?}"),
    };
    let is_over = |by: &&OperationId| {
        operation(by).is_some_and(|operation| matches!(operation.status, Status::Finished { .. }))
    };
    let over = catalog.known.holds.keys().any(|by| is_over(&by));
    let last = (node.operations > 0).then(|| OperationId::new(name(NODE), node.operations));
    let last = last.as_ref().and_then(operation);
    let task = due_task(&node, last.as_ref(), &name(NODE), &catalog, desk.now_ms);
    let is_due = over || matches!(task, BackupTask::Inherit { .. });
    // Nobody asks but timers. One is set whenever there is something to do, and no later than that. (Before
    // its first backup a node may have one at once while an operation is open; that waits for its turn.)
    let timers = desk.timers();
    let waits = matches!(task, BackupTask::Begin { .. }) && node.open.is_some();
    let is_set = timers.iter().any(|timer| {
        let is_of_backups = timer.name == BACKUPS || timer.name == BACKUP;
        is_of_backups && (waits || timer.due_ms <= desk.now_ms)
    });
    let does_something = over || !matches!(task, BackupTask::Nothing);
    assert!(is_set || !does_something, "{task:?} is due, and no timer says so: {timers:?}");
    let reconciled = desk.reconcile_backups();
    assert!(reconciled.is_ok() || !is_due, "what is due about the backups is done");
}

/// UEFI variables: read, none, too many, or not asked for.
fn variables(how: u8) -> Option<UefiVariables> {
    match how % 5 {
        0 => Some(UefiVariables::read(Some("QU1aTlVFRkk=".to_owned()))),
        1 => Some(UefiVariables::read(None)),
        2 => Some(UefiVariables::read(Some("A".repeat(UEFI_DATA_MAX + 1)))),
        _ => None,
    }
}

/// What happens next, by numbers that are taken modulo what there is.
#[derive(Debug, Clone)]
enum Move {
    /// The nth open step goes well.
    Succeed(usize),
    /// The nth open step ends in some other way.
    Fail(usize, u8),
    /// A step that is over is reported again.
    ReportAgain(usize),
    /// Something is heard about the nth instance.
    Hear(usize, u8),
    Cancel,
    /// The scheduler comes by after so many minutes.
    Tend(u8),
    /// The nth open step of the backups ends, in some way.
    BackupStep(usize, u8),
    ReturnToSpot(bool),
    /// The loop that looks after what is retained comes by, so many days later.
    PruneDue(u8),
    /// The sweep sees so many volumes of somebody's on the carrier, and that found ones have left it.
    Sight(u8, bool),
    /// The nth open step, if it looks at an instance, finds so many of them.
    Find(usize, u8),
    /// A person asks for something.
    Ask(Request),
}

/// What a person asks for.
#[derive(Debug, Clone)]
enum Request {
    Replace,
    Delete(bool, bool),
    Resume(bool),
    /// What is lost comes back from a backup.
    ResumeFrom(u8),
    Enlarge,
    Regroup(u8),
    /// Another way of finding its pools.
    Require(u8),
    BackUp,
    Restore(u8),
    Pause,
    Wake,
    Recycle(bool),
    /// What is retained shall be deleted: by name, or all but so many.
    Prune(bool, u8),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        12 => any::<usize>().prop_map(Move::Succeed),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Move::Fail(n, how)),
        1 => any::<usize>().prop_map(Move::ReportAgain),
        2 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Move::Hear(n, how)),
        2 => Just(Move::Ask(Request::Replace)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(root, data)| Move::Ask(Request::Delete(root, data))),
        2 => any::<bool>().prop_map(|how| Move::Ask(Request::Resume(how))),
        2 => any::<u8>().prop_map(|how| Move::Ask(Request::ResumeFrom(how))),
        1 => Just(Move::Cancel),
        1 => Just(Move::Ask(Request::Enlarge)),
        1 => any::<u8>().prop_map(|how| Move::Ask(Request::Regroup(how))),
        1 => any::<u8>().prop_map(|how| Move::Ask(Request::Require(how))),
        1 => Just(Move::Ask(Request::BackUp)),
        2 => any::<u8>().prop_map(Move::Tend),
        5 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Move::BackupStep(n, how)),
        1 => any::<bool>().prop_map(Move::ReturnToSpot),
        2 => any::<u8>().prop_map(|how| Move::Ask(Request::Restore(how))),
        1 => Just(Move::Ask(Request::Pause)),
        2 => Just(Move::Ask(Request::Wake)),
        1 => any::<bool>().prop_map(|how| Move::Ask(Request::Recycle(how))),
        2 => (any::<bool>(), any::<u8>()).prop_map(|(by_name, n)| Move::Ask(Request::Prune(by_name, n))),
        1 => any::<u8>().prop_map(Move::PruneDue),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(others, left)| Move::Sight(others, left)),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Move::Find(n, how)),
    ];
    prop::collection::vec(one, 1..160)
}

/// Some unwelcome evidence that a worker can give for an intent.
fn unwelcome(intent: &Intent, how: u8) -> Evidence {
    let deleted = |instance: &InstanceId| Evidence::InstanceGone {
        instance: instance.clone(),
        state: Some(InstanceState::Terminated),
        reason: Some("Server.SpotInstanceTermination".into()),
    };
    let refused = || Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() };
    match (intent, how % 4) {
        (Intent::Launch(Launch { ask_anyway, .. }), 0 | 1) => {
            let sign = PoolSign::Interrupted;
            match how / 4 % 3 {
                0 if !ask_anyway => {
                    Evidence::NotAsked { because: NotAsked::Remembered { sign, ago_s: 1, again_in_s: 179 } }
                }
                1 => Evidence::NotAsked { because: NotAsked::on_demand_budget(vec!["other".into()], 1) },
                _ => Evidence::NoCapacity {
                    code: "InsufficientInstanceCapacity".into(),
                    message: "none".into(),
                },
            }
        }
        (Intent::Launch(_), 2) => deleted(&InstanceId::parse("i-gone").unwrap()),
        // Nothing fits, or everything costs too much.
        (Intent::Survey(_), 1 | 3) => {
            let price = (how % 4 == 3).then(|| "9.0".to_owned());
            let rejected = PassedOver {
                instance_type: "m5.large".into(),
                market: None,
                zone: None,
                price,
                because: "laws".into(),
            };
            Evidence::Surveyed(Survey { rejected: vec![rejected], ..Survey::default() })
        }
        // That may be the volume's fault: a clone of it is tried.
        (Intent::AdoptRoot(_), 0 | 1) if (how / 4).is_multiple_of(2) => {
            Evidence::AdoptRefused { code: "failed".into(), message: "no".into() }
        }
        (Intent::AdoptRoot(_), 0 | 1) | (Intent::CloneRoot(_), 2) => {
            Evidence::AdoptRefused { code: "UnsupportedOperation".into(), message: "no".into() }
        }
        (Intent::Release(_) | Intent::Attach(_) | Intent::CloneRoot(_) | Intent::SnapshotRoot(_), 1) => {
            Evidence::Lost { what: "a volume".into(), not_shown: false }
        }
        (Intent::ReleaseInterface(_) | Intent::AttachInterface(_) | Intent::SetGroups(_), 1) => {
            Evidence::Lost { what: "an interface".into(), not_shown: false }
        }
        (Intent::AttachInterface(_), 3) => {
            Evidence::NoCapacity { code: "AttachmentLimitExceeded".into(), message: "none".into() }
        }
        (Intent::DetachInterface(_), 1) => refused(),
        (Intent::Attach(_), 3) => Evidence::DeviceInUse,
        (Intent::MoveAddress(_) | Intent::Associate(_) | Intent::CreateInterface(_), 1) => {
            Evidence::HeldByAnother { what: "10.0.0.9".into(), by: "a stranger".into() }
        }
        (Intent::FinalSnapshot(_) | Intent::SnapshotAhead(_), 1 | 3) => {
            let (because, in_doubt) = ("laws".to_owned(), (how / 4).is_multiple_of(2));
            Evidence::Backup(BackupEvidence::NotTaken { because, in_doubt })
        }
        (Intent::Detach(_), 0 | 1) => Evidence::StillBusy { because: "mounted".into() },
        (Intent::Find(_), 1) => Evidence::Found {
            resources: vec![perennial_workflows::model::resources::Resource::Instance {
                instance: InstanceId::parse("i-found").unwrap(),
                spot_request: None,
            }],
            kept: Vec::new(),
        },
        (intent, 2) => intent.instance().map_or_else(refused, deleted),
        (_, 0) => Evidence::OutOfTime { because: "waited".into() },
        _ => refused(),
    }
}

/// The nth volume of somebody's.
fn strange(n: u8) -> VolumeId {
    VolumeId::parse(&format!("vol-strange{n}")).unwrap()
}

/// What a look at an instance finds: up to three volumes that can be taken, some by a name that is taken, and
/// one that cannot.
fn found(how: u8) -> Evidence {
    let seen = |n: u8| DiscoveredVolume {
        volume: strange(n),
        device: "/dev/sdx".into(),
        name: ["data", "logs", "Not A Name"].get(usize::from(how / 4 % 4)).map(|name| (*name).to_owned()),
        size_gib: 5,
        traits: Found {
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            is_copy: false,
            snapshot: None,
            named: false,
        },
    };
    let shared = UnmanagedVolume { volume: strange(9), device: "/dev/sdy".into(), because: "laws".into() };
    Evidence::PreservedWith {
        found: (0..how % 4).map(seen).collect(),
        unmanaged: vec![shared],
        uefi: variables(how),
    }
}

/// What a worker may answer about a step of a backup: mostly that all is well.
fn backup_evidence(intent: &Intent, token: Token, how: u8) -> Evidence {
    let Intent::Backup(intent) = intent else { panic!("{intent:?}") };
    let snapshot = |n: usize| SnapshotId::parse(&format!("snap-{token}x{n}")).unwrap();
    let because = || "laws".to_owned();
    Evidence::Backup(match (intent, how % 10) {
        (_, 0) => return Evidence::OutOfTime { because: because() },
        (_, 1) => return Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() },
        (BackupIntent::Take { .. }, 2) => BackupEvidence::NotTaken { because: because(), in_doubt: true },
        (BackupIntent::Take { .. }, 3) => BackupEvidence::NotTaken { because: because(), in_doubt: false },
        (BackupIntent::Take { volumes, .. }, how) => BackupEvidence::Taken {
            snapshots: volumes
                .iter()
                .enumerate()
                .skip(usize::from(how == 4))
                .map(|(n, volume)| TakenSnapshot {
                    snapshot: snapshot(n),
                    volume: volume.clone(),
                    size_gib: None,
                })
                .collect(),
            taken_at_ms: 1,
            twins: (how == 5).then(|| snapshot(99)).into_iter().collect(),
        },
        (BackupIntent::Await { .. }, 2) => BackupEvidence::Broken { because: because() },
        (BackupIntent::Await { .. }, _) => BackupEvidence::Complete,
        (BackupIntent::Find { .. }, 2..5) => BackupEvidence::Found { snapshots: vec![snapshot(98)] },
        (BackupIntent::Find { .. }, _) => BackupEvidence::Found { snapshots: Vec::new() },
        (BackupIntent::Prune { .. }, 2..4) => BackupEvidence::Kept { because: because() },
        (BackupIntent::Prune { .. }, _) => BackupEvidence::Pruned,
    })
}

fn news(how: u8) -> News {
    let scheduled = |effect| News::ScheduledChange { code: "CODE".into(), effect, begins_ms: None };
    match how % 10 {
        8 => News::ReservationInterruption { action: "terminate".into(), deadline_ms: 0 },
        0 => News::Rebalance,
        9 => News::Impaired { checks: vec![StatusCheck::System], since_ms: 0 },
        1 => News::StateChange { state: InstanceState::ShuttingDown },
        2 => News::StateChange { state: InstanceState::Stopped },
        3 => News::StateChange { state: InstanceState::Running },
        4 => News::Missing { because: "not shown".into() },
        5 => scheduled(Effect::Retirement),
        6 => scheduled(Effect::Maintenance),
        _ => News::SpotInterruption { action: "terminate".into(), deadline_ms: 0 },
    }
}

/// Lets a node's pools be found in one of four ways.
fn survey_it(spec: &mut NodeSpec, how: u8) {
    let listed = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt).capacity.instance_types;
    let wanted = r#"{"vcpus": {"min": 2}, "memory_gib": {"min": 8}}"#;
    spec.capacity.instance_types = if how == 1 { Vec::new() } else { listed };
    spec.capacity.requirements = (how == 1 || how == 2).then(|| serde_json::from_str(wanted).unwrap());
    spec.capacity.order = (how == 3).then_some(CapacityOrder::Price);
    spec.capacity.price_max = (how == 3 || how == 1).then(|| "0.1".to_owned());
}

/// Plays one move.
fn play(desk: &mut Desk, action: &Move) -> Result<(), TestCaseError> {
    match action {
        Move::Succeed(n) => report(desk, *n, None),
        Move::Fail(n, how) => report(desk, *n, Some(*how)),
        Move::ReportAgain(n) => report_again(desk, *n),
        Move::Hear(n, how) => {
            hear(desk, *n, *how);
            Ok(())
        }
        Move::Sight(others, left) => {
            sight(desk, *others, *left);
            Ok(())
        }
        Move::Find(n, how) => find(desk, *n, *how),
        Move::PruneDue(days) => prune_due(desk, *days),
        Move::Tend(minutes) => {
            desk.now_ms += u64::from(minutes % 16) * 60_000;
            reconcile_backups(desk);
            Ok(())
        }
        Move::BackupStep(n, how) => report_backup_step(desk, *n, *how),
        Move::ReturnToSpot(known) => return_to_spot(desk, *known),
        Move::Cancel => cancel(desk),
        Move::Ask(request) => {
            if let Some(work) = asked(desk, request) {
                let _ = desk.submit(work);
            }
            Ok(())
        }
    }
}

/// A report of an open step: a success, or one of many ways in which it is none.
fn report(desk: &mut Desk, n: usize, how: Option<u8>) -> Result<(), TestCaseError> {
    let Some(operation) = desk.open() else { return Ok(()) };
    let steps = operation.open_steps();
    if steps.is_empty() {
        return Ok(());
    }
    let step = &steps[n % steps.len()];
    let evidence = match how {
        Some(how) => unwelcome(&step.intent, how),
        None => success(&operation, &step.intent, step.token),
    };
    prop_assert!(
        desk.report(operation.id.stream(), step.token, evidence).is_ok(),
        "an open step's report is taken"
    );
    Ok(())
}

/// A report of a step that is over.
fn report_again(desk: &mut Desk, n: usize) -> Result<(), TestCaseError> {
    let Some(operation) = desk.open() else { return Ok(()) };
    let over: Vec<_> = operation.steps.iter().filter(|(_, record)| record.outcome.is_some()).collect();
    if over.is_empty() {
        return Ok(());
    }
    let (token, record) = over[n % over.len()];
    let evidence = record.outcome.clone().unwrap().0;
    let taken = desk.report(operation.id.stream(), *token, evidence);
    prop_assert!(taken.is_err(), "a report given twice is fenced");
    Ok(())
}

/// News of an instance of the node.
fn hear(desk: &mut Desk, n: usize, how: u8) {
    let mut instances: Vec<InstanceId> =
        desk.node().resources.carrier.iter().map(|carrier| carrier.instance.clone()).collect();
    instances.extend(desk.open().iter().flat_map(Operation::instances));
    if instances.is_empty() {
        return;
    }
    let instance = instances[n % instances.len()].clone();
    let _ = desk.on_signal(instance, news(how));
}

/// The sweep sees volumes that were attached, or have left.
fn sight(desk: &mut Desk, others: u8, left: bool) {
    let node = desk.node();
    let Some(carrier) = node.resources.carrier else { return };
    let volumes = node.resources.volumes.values().map(|held| held.volume.clone());
    let command = Command::Attachments {
        node: name(NODE),
        instance: carrier.instance,
        others: (0..others % 4).map(strange).collect(),
        left: volumes.filter(|_| left).collect(),
        owner: OWNER.into(),
    };
    let _ = desk.execute(&command);
}

/// A look at what is attached finds something.
fn find(desk: &mut Desk, n: usize, how: u8) -> Result<(), TestCaseError> {
    let Some(operation) = desk.open() else { return Ok(()) };
    let steps = operation.open_steps();
    let looks = steps
        .iter()
        .filter(|step| matches!(&*step.intent, Intent::Preserve(Preserve { others: Some(_), .. })));
    let looks: Vec<_> = looks.collect();
    if looks.is_empty() {
        return Ok(());
    }
    let step = looks[n % looks.len()];
    prop_assert!(
        desk.report(operation.id.stream(), step.token, found(how)).is_ok(),
        "an open step's report is taken"
    );
    Ok(())
}

/// A prune begins when something is due, and only then.
fn prune_due(desk: &mut Desk, days: u8) -> Result<(), TestCaseError> {
    desk.now_ms += u64::from(days % 3) * 86_400_000;
    let node = desk.node();
    let due = retention::due(&node, &name(NODE), desk.now_ms + TICK_MS);
    let before = node.operations;
    let begun = desk.execute(&Command::Prune { node: name(NODE) }).is_ok();
    prop_assert_eq!(begun, !due.is_empty(), "a prune begins when something is due, and only then");
    prop_assert_eq!(desk.node().operations > before, begun);
    Ok(())
}

/// A report of a step of the backup catalog, twice.
fn report_backup_step(desk: &mut Desk, n: usize, how: u8) -> Result<(), TestCaseError> {
    let (id, catalog) = desk.catalog();
    let steps = catalog.open_steps();
    if steps.is_empty() {
        return Ok(());
    }
    let step = &steps[n % steps.len()];
    let evidence = backup_evidence(&step.intent, step.token, how);
    let first = desk.report(id.stream(), step.token, evidence.clone());
    prop_assert!(first.is_ok(), "an open step's report is taken");
    let second = desk.report(id.stream(), step.token, evidence);
    prop_assert!(second.is_err(), "a report given twice is fenced");
    Ok(())
}

/// A return begins when it may, and only then.
fn return_to_spot(desk: &mut Desk, known: bool) -> Result<(), TestCaseError> {
    let node = desk.node();
    let before = node.operations;
    let seen = if known { SpotSeen::Available("it looks so".into()) } else { SpotSeen::Unknown };
    let may = movement::may_return(&node, &seen, desk.now_ms + TICK_MS).is_ok();
    let begun = desk.execute(&Command::ReturnToSpot { node: name(NODE), seen, owner: OWNER.into() }).is_ok();
    prop_assert_eq!(begun, may, "a return begins when it may, and only then");
    prop_assert_eq!(desk.node().operations > before, may);
    Ok(())
}

/// What can be undone is undone.
fn cancel(desk: &mut Desk) -> Result<(), TestCaseError> {
    let Some(operation) = desk.open() else { return Ok(()) };
    let can = operation.no_return().is_none() && !operation.facts.is_undoing();
    let before = operation.id.clone();
    let _ = desk.submit(Work::Cancel(CancelParams { workflow: operation.id, reason: None }));
    let after = desk.operation(&before);
    prop_assert!(
        !can || after.facts.is_undoing() || matches!(after.status, Status::Finished { .. }),
        "what can be undone is being undone"
    );
    Ok(())
}

/// What a request asks for; `None` where there is nothing to ask for it.
fn asked(desk: &Desk, request: &Request) -> Option<Work> {
    Some(match request {
        Request::Replace => Work::Replace(ReplaceParams { reason: None }),
        Request::Restore(n) => {
            let backup =
                perennial_workflows::model::backup_id::BackupId::new(name(NODE), u64::from(*n % 6) + 1);
            Work::Restore(RestoreParams { backup, only: Vec::new(), reason: None })
        }
        Request::Pause => Work::Pause(PauseParams { reason: None }),
        Request::Wake => Work::ResumeNode(ResumeNodeParams { reason: None }),
        Request::Recycle(reimage) => {
            let image = perennial_workflows::model::aws::ImageId::parse("ami-0fedcba9876543210").unwrap();
            let reimage = reimage.then_some(image);
            Work::Recycle(RecycleParams { reimage, reason: None })
        }
        Request::Prune(by_name, n) => {
            let retained = desk.node().resources.retained;
            let named = retained.iter().map(|old| old.volume.clone()).skip(usize::from(*n % 4));
            Work::Prune(PruneParams {
                volumes: if *by_name { named.take(2).collect() } else { Vec::new() },
                older_than_s: Some(u64::from(*n / 64)),
                keep: (*n % 2 == 0).then_some(u32::from(*n % 3)),
                reason: None,
            })
        }
        Request::Delete(root, data) => {
            let keep = perennial_workflows::model::restore::Keep {
                root: *root,
                data: *data,
                network: *root,
                backups: *data,
            };
            Work::Delete(DeleteParams { keep, reason: None })
        }
        Request::Enlarge => {
            let mut spec = desk.node().spec?;
            spec.data_volumes[0].size_gib += 1;
            Work::Apply(ApplyParams { spec, from_backup: None, reason: None })
        }
        Request::Regroup(n) => {
            let mut spec = desk.node().spec?;
            spec.security_groups = vec![GroupId::parse(&format!("sg-{}", n % 3)).unwrap()];
            Work::Apply(ApplyParams { spec, from_backup: None, reason: None })
        }
        Request::Require(n) => {
            let mut spec = desk.node().spec?;
            survey_it(&mut spec, n % 4);
            Work::Apply(ApplyParams { spec, from_backup: None, reason: None })
        }
        Request::BackUp => Work::Backup(BackupParams { reason: None }),
        Request::ResumeFrom(n) => {
            let operation = desk.open()?;
            let number =
                desk.catalog().1.known.complete().map(|backup| backup.order.number).nth(usize::from(*n % 3));
            let from_backup = number.map(|number| BackupId::new(name(NODE), number));
            Work::Resume(ResumeParams { workflow: operation.id, accept_loss: Vec::new(), from_backup })
        }
        Request::Resume(accept) => {
            let operation = desk.open()?;
            let lost = |record: &perennial_workflows::operation::state::StepRecord| match (
                record.intent.as_ref(),
                &record.outcome,
            ) {
                (
                    Intent::Release(Release { slot, .. }) | Intent::Attach(Attach { slot, .. }),
                    Some((Evidence::Lost { .. }, _)),
                ) => Some(slot.clone()),
                _ => None,
            };
            let accept_loss: Vec<Slot> =
                operation.steps.values().filter_map(lost).filter(|_| *accept).collect();
            Work::Resume(ResumeParams { workflow: operation.id, accept_loss, from_backup: None })
        }
    })
}

/// What must hold after every move.
fn laws(desk: &Desk) -> Result<(), TestCaseError> {
    let Some(operation) = desk.open() else { return Ok(()) };
    let open = operation.open_steps();
    let names: BTreeSet<_> = open.iter().map(|step| &step.step).collect();
    prop_assert_eq!(names.len(), open.len(), "no step is open twice");
    let facts = &operation.facts;
    for step in &open {
        match step.intent.as_ref() {
            Intent::Launch(_) => prop_assert!(facts.candidate.is_none(), "one launch at a time"),
            Intent::ClaimVolume(ClaimVolume { volume, .. }) => {
                let mut retained = facts.superseded.iter().chain(&operation.order.before.retained);
                prop_assert!(
                    !retained.any(|old| old.volume == *volume && old.went_on),
                    "a volume whose content goes on in another one is taken again"
                );
            }
            Intent::DeleteVolume(DeleteVolume { volume, .. })
                if volume.as_str() == "vol-taken" || volume.as_str().starts_with("vol-strange") =>
            {
                prop_assert!(false, "what was there before the node is deleted");
            }
            Intent::DeleteVolume(DeleteVolume { volume, retained, .. })
                if operation.order.kind == OperationKind::Prune =>
            {
                let before = &operation.order.before;
                let old = before.retained.iter().find(|old| old.volume == *volume);
                let is_held = before.volumes.values().any(|held| held.volume == *volume);
                prop_assert!(!is_held && old.is_some_and(|old| !old.foreign), "{volume} is pruned");
                let next = retained.as_ref().map(|wanted| &wanted.successor);
                let has_its_place =
                    old.and_then(|old| before.volumes.get(&old.slot)).map(|held| &held.volume);
                prop_assert!(next.is_some() && next == has_its_place, "only one is left of {volume}");
            }
            Intent::DeleteVolume(DeleteVolume { volume, .. }) if operation.order.keep.is_none() => {
                prop_assert!(
                    !operation.order.before.volumes.values().any(|held| held.volume == *volume),
                    "a replacement deletes no volume of the node's"
                );
            }
            Intent::Attach(Attach { slot, .. }) => {
                // The attachment may have been intended before its candidate was lost; it was free then.
                prop_assert!(facts.volumes.contains_key(slot));
            }
            _ => {}
        }
    }
    match operation.status {
        Status::Running => prop_assert!(!open.is_empty(), "a running operation has something to do"),
        Status::Stuck { .. } => prop_assert!(open.is_empty(), "a stuck operation waits for a person"),
        Status::Finished { .. } => prop_assert!(false, "a finished operation holds no node"),
    }
    Ok(())
}

/// What an open operation makes volumes from stays; and a last snapshot is its operation's until it is a
/// catalog's.
fn no_snapshot_is_forgotten(desk: &Desk) -> Result<(), TestCaseError> {
    let (_, catalog) = desk.catalog();
    if let Some(operation) = desk.open() {
        let facts = &operation.facts;
        let root = facts.root.snapshot.iter().filter(|_| facts.root.is_borrowed);
        for snapshot in facts.restore.values().chain(root) {
            prop_assert!(
                !catalog.known.pending_deletions.contains_key(snapshot),
                "{snapshot} is used, and is to be deleted"
            );
        }
    }
    let (mut taken, mut known) = (BTreeSet::new(), BTreeSet::new());
    for (stream, (state, _, events)) in &desk.streams {
        for (_, event) in events {
            match event {
                Event::Operation(OperationEvent::StepSettled {
                    step: StepName::OfVolume(OfVolume::FinalSnapshot, _),
                    evidence: Evidence::Backup(BackupEvidence::Taken { snapshots, .. }),
                    ..
                }) => {
                    taken.extend(snapshots.iter().map(|taken| (stream.clone(), taken.snapshot.clone())));
                }
                Event::Backup(BackupEvent::Inherited { operation, snapshots, .. }) => {
                    known
                        .extend(snapshots.values().map(|taken| (operation.stream(), taken.snapshot.clone())));
                }
                _ => {}
            }
        }
        if let State::Operation(Some(operation)) = state
            && (desk.node().finals.contains(&operation.id)
                || !matches!(operation.status, Status::Finished { .. }))
            && !catalog.known.has_inherited_from(&operation.id)
        {
            let open = matches!(operation.status, Status::Running | Status::Stuck { .. });
            let steps = operation.steps.values().filter_map(|record| match &record.outcome {
                Some((Evidence::Backup(BackupEvidence::Taken { snapshots, .. }), _)) if open => {
                    Some(snapshots)
                }
                _ => None,
            });
            let steps = steps.flatten().map(|taken| taken.snapshot.clone());
            let finals = operation.finals().into_iter().flat_map(|finals| finals.taken.into_values());
            known.extend(
                steps.chain(finals.map(|taken| taken.snapshot)).map(|snapshot| (stream.clone(), snapshot)),
            );
        }
    }
    for forgotten in taken.difference(&known) {
        prop_assert!(false, "{forgotten:?} is forgotten");
    }
    Ok(())
}

/// A snapshot is deleted only when its backup has failed, was given up, or as many newer ones as are kept are
/// complete; and only snapshots that were recorded.
fn backups_are_kept(desk: &Desk) -> Result<(), TestCaseError> {
    let mut complete: Vec<u64> = Vec::new();
    let (mut ended, mut recorded, mut finals) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut given_up = 0;
    let catalogs = desk.streams.iter().filter(|(stream, _)| stream.category() == "backup");
    let mut catalogs: Vec<_> =
        catalogs.map(|(stream, kept)| (CatalogId::of_stream(stream).unwrap().number(), kept)).collect();
    catalogs.sort_by_key(|(number, _)| *number);
    for (_, event) in catalogs.iter().flat_map(|(_, (_, _, events))| events) {
        let Event::Backup(event) = event else { continue };
        match event {
            BackupEvent::Completed { backup } => complete.push(*backup),
            BackupEvent::Inherited { backup, snapshots, .. } => {
                finals.insert(*backup);
                for taken in snapshots.values() {
                    prop_assert!(recorded.insert(taken.snapshot.clone()), "it is taken over once");
                }
            }
            BackupEvent::Failed { backup, .. } => {
                ended.insert(*backup);
            }
            BackupEvent::GivenUp { .. } => given_up = complete.last().copied().unwrap_or(0),
            BackupEvent::StepSettled { evidence, .. } => match evidence {
                BackupEvidence::Taken { snapshots, twins, .. } => {
                    recorded.extend(snapshots.iter().map(|taken| taken.snapshot.clone()));
                    recorded.extend(twins.iter().cloned());
                }
                BackupEvidence::Found { snapshots } => recorded.extend(snapshots.iter().cloned()),
                _ => {}
            },
            BackupEvent::StepIntended { backup, intent: BackupIntent::Prune { snapshot, .. }, .. } => {
                let is_final = finals.contains(backup);
                let alike = complete.iter().filter(|other| finals.contains(*other) == is_final);
                let newer = alike.filter(|other| *other > backup).count();
                let keep = if is_final { 1 } else { 2 };
                let twin = snapshot.as_str().ends_with("x99") || snapshot.as_str().ends_with("x98");
                prop_assert!(recorded.contains(snapshot), "{snapshot} was never recorded");
                prop_assert!(
                    newer >= keep || twin || ended.contains(backup) || *backup <= given_up,
                    "backup {backup} is pruned while {newer} newer ones are complete"
                );
            }
            _ => {}
        }
    }
    let (_, catalog) = desk.catalog();
    let finals = catalog.known.complete().filter(|backup| backup.order.is_final()).count();
    prop_assert!(finals <= 1, "the newest final one");
    // One that volumes are being made from stays as long as that takes.
    let held: BTreeSet<u64> = catalog.known.held().collect();
    let is_kept = |backup: &&Backup| !backup.order.is_final() && !held.contains(&backup.order.number);
    prop_assert!(catalog.known.complete().filter(is_kept).count() <= 2, "no more than are kept");
    prop_assert!(
        catalog.known.failures.len() <= perennial_workflows::aggregate::backup_catalog::FAILURES_MAX
    );
    Ok(())
}

/// Every prefix of every stream folds to what was seen then.
fn prefixes_fold(desk: &Desk) -> Result<(), TestCaseError> {
    for (stream, (state, _, events)) in &desk.streams {
        let mut folded = Perennial::empty(stream);
        for (stamp, event) in events {
            folded = Perennial::evolve(folded, *stamp, event).unwrap();
            let _ = Perennial::project(stream, &folded);
        }
        prop_assert_eq!(&folded, state, "{} folds to its state", stream);
    }
    Ok(())
}

/// Before its first instance may be terminated, a replacement has made everything on it survive, and seen it.
/// While nothing holds the node, every interface that was made for it is its own, listed as left over, or
/// gone.
fn no_interface_is_forgotten(desk: &Desk) -> Result<(), TestCaseError> {
    if desk.open().is_some() {
        return Ok(());
    }
    let (mut made, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    for (_, _, events) in desk.streams.values() {
        let mut intents = std::collections::BTreeMap::new();
        for (stamp, event) in events {
            match event {
                Event::Operation(OperationEvent::StepIntended { intent, .. }) => {
                    intents.insert(Token::from(stamp.seq), intent.clone());
                }
                Event::Operation(OperationEvent::StepSettled { token, evidence, .. }) => {
                    match (&intents[token], evidence) {
                        (_, Evidence::InterfaceCreated { interface, .. }) => made.insert(interface.clone()),
                        (Intent::DeleteInterface(DeleteInterface { interface }), Evidence::Deleted)
                        | (
                            Intent::ReleaseInterface(ReleaseInterface { interface, .. })
                            | Intent::AttachInterface(AttachInterface { interface, .. })
                            | Intent::Launch(Launch {
                                interface: perennial_workflows::step::intent::LaunchInterface::Kept(interface),
                                ..
                            }),
                            Evidence::Lost { .. },
                        ) => deleted.insert(interface.clone()),
                        _ => false,
                    };
                }
                _ => {}
            }
        }
    }
    let resources = desk.node().resources;
    let own = resources.interface.iter().map(|held| held.interface.to_string());
    let known: BTreeSet<String> =
        own.chain(resources.orphans.iter().map(|left| left.resource.id())).collect();
    for interface in made.difference(&deleted) {
        prop_assert!(known.contains(interface.as_str()), "{interface} is forgotten; {known:?}");
    }
    Ok(())
}

/// What is made from a snapshot has all that an instance of the operation may have written: no attachment or
/// adoption of its volume was intended between the snapshot and its use, and none was under way when it was
/// taken.
fn no_copy_is_older_than_a_write(desk: &Desk) -> Result<(), TestCaseError> {
    for (stream, (_, _, events)) in &desk.streams {
        if stream.category() != "workflow" {
            continue;
        }
        let mut intents = std::collections::BTreeMap::new();
        // The volume of each snapshot, and since when it is of it; the snapshot of each image.
        let mut made: std::collections::BTreeMap<SnapshotId, (VolumeId, Seq)> = Default::default();
        let mut images = std::collections::BTreeMap::new();
        let mut writes: Vec<(VolumeId, Seq)> = Vec::new();
        let mut attaching: BTreeSet<VolumeId> = BTreeSet::new();
        for (stamp, event) in events {
            let Event::Operation(event) = event else { continue };
            match event {
                OperationEvent::StepIntended { intent, .. } => {
                    let used: Vec<SnapshotId> = match intent {
                        Intent::CreateVolume(CreateVolume { snapshot, .. }) => {
                            snapshot.iter().cloned().collect()
                        }
                        Intent::Launch(Launch { image, volumes, .. }) => {
                            let data = volumes.iter().map(|volume| volume.snapshot.clone());
                            data.chain(images.get(image).cloned()).collect()
                        }
                        _ => Vec::new(),
                    };
                    for snapshot in used {
                        let Some((volume, since)) = made.get(&snapshot) else { continue };
                        let is_old = writes.iter().any(|(of, at)| of == volume && at > since);
                        prop_assert!(!is_old, "{snapshot} is older than what was written to {volume}");
                    }
                    match intent {
                        Intent::Attach(Attach { volume, .. })
                        | Intent::AdoptRoot(AdoptRoot { volume, .. }) => {
                            writes.push((volume.clone(), stamp.seq));
                            if matches!(intent, Intent::Attach(_)) {
                                attaching.insert(volume.clone());
                            }
                        }
                        Intent::SnapshotVolume(SnapshotVolume { volume, .. })
                        | Intent::SnapshotAhead(SnapshotAhead { volume, .. }) => {
                            prop_assert!(!attaching.contains(volume), "{volume} is being attached");
                        }
                        _ => {}
                    }
                    intents.insert(Token::from(stamp.seq), (intent.clone(), stamp.seq));
                }
                OperationEvent::StepSettled { token, evidence, .. } => match (&intents[token], evidence) {
                    (
                        (
                            Intent::SnapshotRoot(SnapshotRoot { volume, .. })
                            | Intent::SnapshotVolume(SnapshotVolume { volume, .. }),
                            since,
                        ),
                        Evidence::SnapshotCompleted { snapshot, .. },
                    ) => {
                        made.entry(snapshot.clone()).or_insert_with(|| (volume.clone(), *since));
                    }
                    (
                        (Intent::SnapshotAhead(SnapshotAhead { volume, .. }), since),
                        Evidence::Backup(BackupEvidence::Taken { snapshots, .. }),
                    ) => {
                        for taken in snapshots {
                            made.insert(taken.snapshot.clone(), (volume.clone(), *since));
                        }
                    }
                    (
                        (Intent::RegisterImage(RegisterImage { snapshot, .. }), _),
                        Evidence::ImageAvailable { image, .. },
                    ) => {
                        images.insert(image.clone(), snapshot.clone());
                    }
                    ((Intent::Attach(Attach { volume, .. }), _), _) => {
                        attaching.remove(volume);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
    Ok(())
}

fn nothing_is_fenced_unpreserved(desk: &Desk) -> Result<(), TestCaseError> {
    for (stream, (_, _, events)) in &desk.streams {
        if stream.category() != "workflow" {
            continue;
        }
        let mut safe: BTreeSet<InstanceId> = BTreeSet::new();
        let mut intents = std::collections::BTreeMap::new();
        for (stamp, event) in events {
            let Event::Operation(event) = event else { continue };
            match event {
                OperationEvent::StepIntended { intent, .. } => {
                    if let Intent::Fence(Fence { instance, .. }) = intent
                        && let Some((_, Event::Operation(OperationEvent::Started(order)))) = events.first()
                        && let Some(carrier) = &order.before.carrier
                        && carrier.instance == *instance
                        && !order.before.volumes.is_empty()
                    {
                        let over = match &order.cause {
                            perennial_workflows::model::signal::Cause::Signal { signal } => signal.is_over(),
                            perennial_workflows::model::signal::Cause::Request { .. }
                            | perennial_workflows::model::signal::Cause::Found { .. }
                            | perennial_workflows::model::signal::Cause::FileChanged { .. }
                            | perennial_workflows::model::signal::Cause::RetainedLonger { .. }
                            | perennial_workflows::model::signal::Cause::ReturnToSpot { .. } => false,
                        };
                        prop_assert!(
                            over || safe.contains(instance),
                            "{instance} is fenced before it is made safe"
                        );
                    }
                    intents.insert(Token::from(stamp.seq), intent.clone());
                }
                OperationEvent::StepSettled { token, evidence, .. } => match (&intents[token], evidence) {
                    (
                        Intent::Preserve(Preserve { instance, .. }),
                        Evidence::Preserved | Evidence::PreservedWith { .. },
                    )
                    | (_, Evidence::InstanceGone { instance, .. }) => {
                        safe.insert(instance.clone());
                    }
                    _ => {}
                },
                OperationEvent::SignalReceived { signal } if signal.is_over() => {
                    safe.insert(signal.instance.clone());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 400, ..Default::default() })]

    #[test]
    fn whatever_happens_the_laws_hold(
        network in prop_oneof![Just(NetworkMode::PrimaryEni), Just(NetworkMode::SecondaryIp), Just(NetworkMode::SecondaryEni), Just(NetworkMode::None)],
        root in prop_oneof![Just(RootMode::Adopt), Just(RootMode::Image), Just(RootMode::None)],
        handover in prop_oneof![Just(Handover::Terminate), Just(Handover::Detach)],
        elastic in any::<bool>(),
        by_snapshot in any::<bool>(),
        moves_away in any::<bool>(),
        taken in any::<bool>(),
        surveyed in 0_u8..4,
        moves in moves(),
    ) {
        let mut desk = Desk::at(1_000);
        let mut spec = example("db-1", network, root);
        spec.persist.handover = handover;
        let taken = taken && !by_snapshot;
        spec.data_volumes[0].volume = taken.then(|| VolumeId::parse("vol-taken").unwrap());
        // A manual backup keeps three without the section: one number, so that the law is simple.
        spec.backup = Some(BackupSpec { every_min: 5, keep: 2, ..BackupSpec::default() });
        if by_snapshot && handover == Handover::Terminate {
            spec.persist.data = perennial_workflows::spec::node::DataMode::Snapshot;
        }
        if moves_away {
            spec.capacity.other_subnets =
                vec![perennial_workflows::model::aws::SubnetId::parse("subnet-0123456789abcdef1").unwrap()];
            spec.network.zone_change = perennial_workflows::spec::node::ZoneChange::Allow;
        }
        // One refusal, and the node is elsewhere.
        let leaves_soon = moves_away && elastic;
        if leaves_soon {
            spec.capacity.instance_types.truncate(1);
            spec.capacity.market = perennial_workflows::model::capacity::MarketPolicy::SpotOnly;
        }
        if spec.makes_before_breaks() && root != RootMode::Image && !leaves_soon {
            spec.capacity.return_to_spot = ReturnToSpot::WhenAvailable;
            spec.capacity.min_lifetime_min = 0;
        }
        survey_it(&mut spec, surveyed);
        spec.persist.retain_days = by_snapshot.then_some(1);
        spec.network.elastic_ip = elastic.then(|| AllocationId::parse("eipalloc-1").unwrap());
        let applied = desk.submit(Work::Apply(ApplyParams { spec, from_backup: None, reason: None }));
        prop_assert!(applied.is_ok());
        laws(&desk)?;
        for action in &moves {
            play(&mut desk, action)?;
            laws(&desk)?;
            no_interface_is_forgotten(&desk)?;
            no_snapshot_is_forgotten(&desk)?;
        }
        prefixes_fold(&desk)?;
        backups_are_kept(&desk)?;
        nothing_is_fenced_unpreserved(&desk)?;
        no_copy_is_older_than_a_write(&desk)?;
    }
}

/// What happens to a node that goes to another zone and back, and loses the instances that it gets.
#[derive(Debug, Clone)]
enum Trip {
    Succeed(usize),
    Refuse,
    Lose,
    Replace,
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 100, ..Default::default() })]

    #[test]
    fn no_move_to_and_fro_copies_what_is_old(
        root in prop_oneof![Just(RootMode::Adopt), Just(RootMode::Image), Just(RootMode::None)],
        by_snapshot in any::<bool>(),
        trips in prop::collection::vec(prop_oneof![
            16 => any::<usize>().prop_map(Trip::Succeed),
            3 => Just(Trip::Refuse),
            1 => Just(Trip::Lose),
            1 => Just(Trip::Replace),
        ], 60..140),
    ) {
        let mut desk = Desk::at(1_000);
        let mut spec = example("db-1", NetworkMode::None, root);
        if by_snapshot {
            spec.persist.data = perennial_workflows::spec::node::DataMode::Snapshot;
        }
        spec.capacity.instance_types.truncate(1);
        spec.capacity.market = perennial_workflows::model::capacity::MarketPolicy::SpotOnly;
        spec.capacity.other_subnets =
            vec![perennial_workflows::model::aws::SubnetId::parse("subnet-0123456789abcdef1").unwrap()];
        let applied = desk.submit(Work::Apply(ApplyParams { spec, from_backup: None, reason: None }));
        prop_assert!(applied.is_ok());
        for trip in &trips {
            let operation = desk.open();
            let candidate = operation.as_ref().and_then(|operation| operation.facts.candidate.clone());
            match (trip, operation) {
                (Trip::Succeed(n), Some(_)) => play(&mut desk, &Move::Succeed(*n))?,
                (Trip::Refuse, Some(operation)) => {
                    let launch = operation.open_steps().iter().position(|step| step.step == "launch");
                    if let Some(n) = launch {
                        // EC2 has no capacity there.
                        play(&mut desk, &Move::Fail(n, 8))?;
                    }
                }
                (Trip::Lose, Some(_)) => {
                    if let Some(candidate) = candidate {
                        let _ = desk.on_signal(candidate.instance, News::StateChange { state: InstanceState::ShuttingDown });
                    }
                }
                (_, None) => play(&mut desk, &Move::Ask(Request::Replace))?,
                (Trip::Replace, Some(_)) => {}
            }
            laws(&desk)?;
        }
        no_copy_is_older_than_a_write(&desk)?;
        no_interface_is_forgotten(&desk)?;
    }
}
