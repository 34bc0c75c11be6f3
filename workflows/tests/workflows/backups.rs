//! The table of a backup, row by row: what is opened when, and what an unwelcome observation leads to.
//!
//! A run is told as one line per event, as in `tables.rs`. `UPDATE_EXPECT=1` rewrites the expectations.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use perennial_engine::ids::Seq;
use perennial_workflows::aggregate::backup_catalog::{
    BackupCatalog, BackupCause, BackupEvent, Carried, PENDING_DELETIONS_MAX, PendingDeletion,
};
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::backup_draft::CatalogDraft;
use perennial_workflows::domain::backup_schedule::{BackupTask, due_task};
use perennial_workflows::model::aws::SnapshotId;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::OperationId;
use perennial_workflows::model::schedule::slot_after;
use perennial_workflows::model::volume::TakenSnapshot;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{NetworkMode, RootMode, example};
use perennial_workflows::step::backup::{BackupEvidence, BackupIntent};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::Intent;
use perennial_workflows::view::plan::imagined_resources;

const MINUTE_MS: u64 = 60_000;

fn name() -> NodeName {
    NodeName::parse("db-1").unwrap()
}

/// A node in place since the beginning of time.
fn node(every_min: u32, keep: u32) -> Node {
    let mut spec = example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.backup = Some(BackupSpec { every_min, keep, ..BackupSpec::default() });
    let resources = imagined_resources(&spec).unwrap();
    Node { spec: Some(spec), generation: 1, operations: 1, resources, ..Node::default() }
}

/// What is answered to a step instead of success.
type Otherwise<'a> = &'a dyn Fn(u64, &BackupIntent) -> Option<Evidence>;

struct Books {
    node: Node,
    catalog: BackupCatalog,
    head: Seq,
    now_ms: u64,
    told: String,
}

impl Books {
    fn new(keep: u32) -> Self {
        Self {
            node: node(5, keep),
            catalog: BackupCatalog::default(),
            head: Seq::NONE,
            now_ms: 0,
            told: String::new(),
        }
    }

    fn take(&mut self, draft: CatalogDraft) {
        for event in draft.events() {
            self.head = self.head.next();
            let told = &mut self.told;
            let _ = match event {
                BackupEvent::Opened { .. } => writeln!(told, "! opened"),
                BackupEvent::Began(order) => writeln!(told, "! began {}", order.number),
                BackupEvent::StepIntended { backup, step, not_before_ms, .. } => {
                    let wait = not_before_ms - self.now_ms;
                    let wait = if wait > 0 { format!(", not for {wait} ms") } else { String::new() };
                    writeln!(told, "+ {backup} {step}{wait}")
                }
                BackupEvent::StepSettled { step, evidence, .. } => writeln!(told, "= {step}: {evidence}"),
                BackupEvent::Completed { backup } => writeln!(told, "! completed {backup}"),
                BackupEvent::Failed { backup, because } => writeln!(told, "! failed {backup}: {because}"),
                BackupEvent::Scheduled { .. } => Ok(()),
                BackupEvent::GivenUp { because } => writeln!(told, "! given up: {because}"),
                BackupEvent::Held { backup, by } => writeln!(told, "! {by} holds {backup}"),
                BackupEvent::HoldReleased { by } => writeln!(told, "! {by} lets go"),
                BackupEvent::Closed { next } => writeln!(told, "! closed, {next} goes on"),
                BackupEvent::Inherited { backup, operation, snapshots, .. } => {
                    writeln!(told, "! b{backup}: {} snapshots of {operation}", snapshots.len())
                }
            };
        }
        self.catalog = draft.state().clone();
    }

    fn draft(&self) -> CatalogDraft {
        CatalogDraft::from(&name(), &self.catalog, self.head, self.now_ms)
    }

    /// One backup, with everything that it opens.
    fn backup(&mut self, otherwise: Otherwise<'_>) {
        self.now_ms += 10_000;
        let mut draft = self.draft();
        draft.begin(&self.node, "tests", None, BackupCause::Schedule).unwrap();
        self.take(draft);
        while let Some(step) = self.catalog.open_steps().into_iter().next() {
            let Intent::Backup(intent) = step.intent.as_ref() else { panic!("{step:?}") };
            let number = self.catalog.steps[&step.token].step.backup;
            let evidence = otherwise(number, intent).unwrap_or_else(|| well(number, intent));
            self.now_ms += 1_000;
            let mut draft = self.draft();
            draft.report(step.token, &evidence).unwrap();
            self.take(draft);
        }
    }
}

fn snapshot(backup: u64, n: usize) -> SnapshotId {
    SnapshotId::parse(&format!("snap-{backup}x{n}")).unwrap()
}

fn well(backup: u64, intent: &BackupIntent) -> Evidence {
    Evidence::Backup(match intent {
        BackupIntent::Take { volumes, .. } => BackupEvidence::Taken {
            snapshots: volumes
                .iter()
                .enumerate()
                .map(|(n, volume)| TakenSnapshot {
                    snapshot: snapshot(backup, n),
                    volume: volume.clone(),
                    size_gib: Some(10),
                })
                .collect(),
            taken_at_ms: backup,
            twins: Vec::new(),
        },
        BackupIntent::Await { .. } => BackupEvidence::Complete,
        BackupIntent::Find { .. } => BackupEvidence::Found { snapshots: Vec::new() },
        BackupIntent::Prune { .. } => BackupEvidence::Pruned,
    })
}

fn check(keep: u32, backups: u32, otherwise: Otherwise<'_>, expected: &Expect) -> Books {
    let mut run = Books::new(keep);
    for _ in 0..backups {
        run.backup(otherwise);
    }
    expected.assert_eq(&run.told);
    run
}

/// A new node is being made from the oldest backup while newer ones are complete.
#[test]
fn a_backup_that_is_held_is_pruned_when_it_is_let_go() {
    let mut run = Books::new(1);
    run.backup(&|_, _| None);
    let by = OperationId::parse("db-2.1").unwrap();
    let mut draft = run.draft();
    draft.hold(1, by.clone()).unwrap();
    run.take(draft);
    run.told.clear();
    run.backup(&|_, _| None);
    run.backup(&|_, _| None);
    let deleted = Node { deleted: true, ..run.node.clone() };
    assert_eq!(due_task(&deleted, None, &name(), &run.catalog, run.now_ms), BackupTask::Nothing);
    assert!(run.draft().hold(2, by.clone()).is_err(), "what is pruned cannot be held");
    let mut draft = run.draft();
    draft.release_hold(by.clone()).unwrap();
    run.take(draft);
    assert!(run.draft().release_hold(by).is_err(), "once");
    expect![[r#"
        ! began 2
        + 2 take_backup, not for 4000 ms
        = take_backup: 2 snapshots of one moment
        + 2 await_backup
        = await_backup: complete
        ! completed 2
        ! began 3
        + 3 take_backup, not for 4000 ms
        = take_backup: 2 snapshots of one moment
        + 3 await_backup
        = await_backup: complete
        ! completed 3
        + 2 prune:snap-2x0
        + 2 prune:snap-2x1
        = prune:snap-2x0: gone
        = prune:snap-2x1: gone
        ! db-2.1 lets go
        + 1 prune:snap-1x0
        + 1 prune:snap-1x1
    "#]]
    .assert_eq(&run.told);
}

#[test]
fn all_goes_well_and_the_oldest_goes_when_a_newer_one_is_complete() {
    check(
        1,
        2,
        &|_, _| None,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: 2 snapshots of one moment
        + 1 await_backup
        = await_backup: complete
        ! completed 1
        ! began 2
        + 2 take_backup, not for 4000 ms
        = take_backup: 2 snapshots of one moment
        + 2 await_backup
        = await_backup: complete
        ! completed 2
        + 1 prune:snap-1x0
        + 1 prune:snap-1x1
        = prune:snap-1x0: gone
        = prune:snap-1x1: gone
    "#]],
    );
}

#[test]
fn what_surely_was_not_taken_is_not_looked_for() {
    let deleted = |_: u64, intent: &BackupIntent| match intent {
        BackupIntent::Take { .. } => Some(Evidence::Backup(BackupEvidence::NotTaken {
            because: "i-1 is gone".into(),
            in_doubt: false,
        })),
        _ => None,
    };
    check(
        1,
        1,
        &deleted,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: not taken: i-1 is gone
        ! failed 1: i-1 is gone
    "#]],
    );
}

#[test]
fn what_may_have_been_taken_is_looked_for_and_pruned() {
    let otherwise = |backup: u64, intent: &BackupIntent| match (backup, intent) {
        (2, BackupIntent::Take { .. }) => Some(Evidence::OutOfTime { because: "no answer".into() }),
        (2, BackupIntent::Find { .. }) => {
            Some(Evidence::Backup(BackupEvidence::Found { snapshots: vec![snapshot(2, 0), snapshot(2, 1)] }))
        }
        _ => None,
    };
    let run = check(
        1,
        2,
        &otherwise,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: 2 snapshots of one moment
        + 1 await_backup
        = await_backup: complete
        ! completed 1
        ! began 2
        + 2 take_backup, not for 4000 ms
        = take_backup: out of time: no answer
        ! failed 2: not in time: no answer
        + 2 find_backup
        = find_backup: it has made 2 snapshots
        + 2 prune:snap-2x0
        + 2 prune:snap-2x1
        = prune:snap-2x0: gone
        = prune:snap-2x1: gone
    "#]],
    );
    assert_eq!(run.catalog.known.last_complete().unwrap().order.number, 1, "the one before it stays");
}

#[test]
fn a_set_of_which_one_has_failed_is_pruned_and_the_one_before_it_stays() {
    let broken = |backup: u64, intent: &BackupIntent| match (backup, intent) {
        (2, BackupIntent::Await { .. }) => {
            Some(Evidence::Backup(BackupEvidence::Broken { because: "snap-2x1 has failed".into() }))
        }
        _ => None,
    };
    let run = check(
        1,
        2,
        &broken,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: 2 snapshots of one moment
        + 1 await_backup
        = await_backup: complete
        ! completed 1
        ! began 2
        + 2 take_backup, not for 4000 ms
        = take_backup: 2 snapshots of one moment
        + 2 await_backup
        = await_backup: of no use: snap-2x1 has failed
        ! failed 2: snap-2x1 has failed
        + 2 prune:snap-2x0
        + 2 prune:snap-2x1
        = prune:snap-2x0: gone
        = prune:snap-2x1: gone
    "#]],
    );
    assert_eq!(run.catalog.known.last_complete().unwrap().order.number, 1);
    assert_eq!(run.catalog.known.failed_in_a_row, 1);
}

#[test]
fn a_snapshot_that_is_not_deleted_is_left_over_and_tried_again_after_the_next_backup() {
    let kept = |_: u64, intent: &BackupIntent| match intent {
        BackupIntent::Prune { snapshot, .. } if snapshot.as_str() == "snap-1x0" => {
            Some(Evidence::Backup(BackupEvidence::Kept { because: "in use by ami-1".into() }))
        }
        _ => None,
    };
    let run = check(
        1,
        3,
        &kept,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: 2 snapshots of one moment
        + 1 await_backup
        = await_backup: complete
        ! completed 1
        ! began 2
        + 2 take_backup, not for 4000 ms
        = take_backup: 2 snapshots of one moment
        + 2 await_backup
        = await_backup: complete
        ! completed 2
        + 1 prune:snap-1x0
        + 1 prune:snap-1x1
        = prune:snap-1x0: not deleted: in use by ami-1
        = prune:snap-1x1: gone
        ! began 3
        + 3 take_backup, not for 2000 ms
        + 1 prune:snap-1x0
        = take_backup: 2 snapshots of one moment
        + 3 await_backup
        = prune:snap-1x0: not deleted: in use by ami-1
        = await_backup: complete
        ! completed 3
        + 2 prune:snap-2x0
        + 2 prune:snap-2x1
        = prune:snap-2x0: gone
        = prune:snap-2x1: gone
    "#]],
    );
    let left = &run.catalog.known.pending_deletions[&snapshot(1, 0)];
    assert_eq!((left.because.as_deref(), left.tried_at), (Some("in use by ami-1"), Some(3)));
}

#[test]
fn a_set_that_lacks_a_volume_is_no_backup() {
    let partial = |backup: u64, intent: &BackupIntent| match intent {
        BackupIntent::Take { volumes, .. } => Some(Evidence::Backup(BackupEvidence::Taken {
            snapshots: vec![TakenSnapshot {
                snapshot: snapshot(backup, 0),
                volume: volumes[0].clone(),
                size_gib: None,
            }],
            taken_at_ms: 1,
            twins: vec![snapshot(backup, 7)],
        })),
        _ => None,
    };
    check(
        1,
        1,
        &partial,
        &expect![[r#"
        ! opened
        ! began 1
        + 1 take_backup
        = take_backup: 1 snapshots of one moment
        ! failed 1: only 1 of 2 volumes are in 1 snapshots
        + 1 prune:snap-1x0
        + 1 prune:snap-1x7
        = prune:snap-1x0: gone
        = prune:snap-1x7: gone
    "#]],
    );
}

#[test]
fn a_node_is_due_once_in_each_interval_at_a_moment_of_its_own() {
    let node = node(5, 3);
    let mut catalog = BackupCatalog::default();
    let first = (0..)
        .map(|minute| minute * 1_000)
        .find(|now| matches!(due_task(&node, None, &name(), &catalog, *now), BackupTask::Begin { .. }));
    let first = first.unwrap();
    assert!(first <= 5 * MINUTE_MS, "{first}");
    catalog.opened = true;
    catalog.known = Carried { newest: 1, newest_began_at_ms: Some(first), ..Carried::default() };
    assert_eq!(due_task(&node, None, &name(), &catalog, first + 4 * MINUTE_MS), BackupTask::Nothing);
    let again = due_task(&node, None, &name(), &catalog, first + 5 * MINUTE_MS);
    assert!(matches!(again, BackupTask::Begin { .. }), "{again:?}");
    let mut none = node.clone();
    none.resources.carrier = None;
    assert_eq!(due_task(&none, None, &name(), &catalog, first + 60 * MINUTE_MS), BackupTask::Nothing);
    let mut without = node;
    without.spec.as_mut().unwrap().backup = None;
    assert_eq!(due_task(&without, None, &name(), &catalog, first + 60 * MINUTE_MS), BackupTask::Nothing);
}

#[test]
fn the_turns_of_a_fleet_are_spread_and_each_comes_once_an_interval() {
    let every_ms = 5 * MINUTE_MS;
    let mut in_a_minute = [0; 5];
    for n in 0..1_000 {
        let name = NodeName::parse(&format!("node-{n}")).unwrap();
        let first = slot_after(&name, every_ms, 7 * every_ms);
        assert!((7 * every_ms..8 * every_ms).contains(&(first - 1)), "{first}");
        assert_eq!(slot_after(&name, every_ms, first), first + every_ms);
        assert_eq!(slot_after(&name, every_ms, first - 1), first);
        in_a_minute[((first / MINUTE_MS) % 5) as usize] += 1;
    }
    assert!(in_a_minute.iter().all(|count| (150..250).contains(count)), "{in_a_minute:?}");
}

#[test]
fn too_many_snapshots_that_cannot_be_deleted_end_the_backups_until_somebody_helps() {
    let mut catalog = BackupCatalog { opened: true, ..BackupCatalog::default() };
    let left = PendingDeletion {
        backup: 1,
        own: Default::default(),
        because: Some("UnauthorizedOperation: no".into()),
        tried_at: Some(1),
    };
    catalog.known.pending_deletions =
        (0..PENDING_DELETIONS_MAX).map(|n| (snapshot(1, n), left.clone())).collect();
    let node = node(5, 3);
    assert!(matches!(due_task(&node, None, &name(), &catalog, u64::MAX / 2), BackupTask::Begin { .. }));
    catalog.known.pending_deletions.insert(snapshot(2, 0), left);
    assert_eq!(due_task(&node, None, &name(), &catalog, u64::MAX / 2), BackupTask::Nothing);
    assert!(catalog.known.paused().unwrap().contains("UnauthorizedOperation"));
}
