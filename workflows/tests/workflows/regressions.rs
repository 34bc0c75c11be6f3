//! What must not be forgotten, or taken for something else, when files change, people decide and backups are made while an
//! operation is under way.

use std::collections::BTreeSet;

use perennial_engine::ids::{Seq, Token};
use perennial_workflows::aggregate::backup_catalog::BackupEvent;
use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::domain::backup_schedule::{BackupTask, due_task};
use perennial_workflows::domain::states::Event;
use perennial_workflows::domain::submission::{
    ApplyParams, BackupParams, CancelParams, DeleteParams, PauseParams, RecycleParams, ReplaceParams,
    RestoreParams, ResumeParams, Work,
};
use perennial_workflows::model::aws::{ImageId, InstanceState, SnapshotId, SubnetId, VolumeId};
use perennial_workflows::model::backup_id::{BackupId, CatalogId, catalog_key};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome};
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::signal::News;
use perennial_workflows::model::uefi::UefiVariables;
use perennial_workflows::model::volume::Found;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::model::volume::TakenSnapshot;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode, ZoneChange, example};
use perennial_workflows::step::backup::{BackupEvidence, BackupIntent};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{ClaimVolume, CreateVolume, Intent, Launch, Preserve, Release};
use perennial_workflows::step::name::{OfVolume, Only, StepName};
use perennial_workflows::view::plan::success;

use crate::desk::{Desk, NODE, name};
use crate::run::{self, Run};

/// What a case says of one step: another evidence than success.
pub type Otherwise<'a> = &'a dyn Fn(&Intent) -> Option<Evidence>;

pub fn well(_: &Intent) -> Option<Evidence> {
    None
}

fn data() -> Slot {
    Slot::try_from("data".to_owned()).unwrap()
}

fn volume(id: &str) -> VolumeId {
    VolumeId::parse(id).unwrap()
}

fn lost() -> Evidence {
    Evidence::Lost { what: "a volume does not exist any more".into(), not_shown: false }
}

fn refused() -> Evidence {
    Evidence::Refused { code: "InvalidSnapshot.NotFound".into(), message: "no".into() }
}

/// A desk at which a node was asked for.
fn asked(spec: &NodeSpec) -> Desk {
    let mut desk = Desk::at(1_000);
    desk.apply(spec);
    desk
}

/// A node that runs.
pub fn running(spec: &NodeSpec) -> Desk {
    let mut desk = asked(spec);
    desk.drive(&well);
    assert!(desk.node().open.is_none(), "{:?}", desk.open().map(|open| open.status));
    desk
}

impl Desk {
    fn ask(&mut self, work: Work) -> Disposition {
        self.submit(work).unwrap()
    }

    pub fn apply(&mut self, spec: &NodeSpec) -> Disposition {
        self.ask(Work::Apply(ApplyParams { spec: spec.clone(), from_backup: None, reason: None }))
    }

    fn resume(&mut self, accept_loss: Vec<Slot>, from_backup: Option<&str>) -> Disposition {
        let workflow = self.node().open.unwrap().0;
        let from_backup = from_backup.map(|id| BackupId::parse(id).unwrap());
        self.ask(Work::Resume(ResumeParams { workflow, accept_loss, from_backup }))
    }

    pub fn delete(&mut self, root: bool, data: bool, backups: bool) -> Disposition {
        let keep = Keep { root, data, network: false, backups };
        self.ask(Work::Delete(DeleteParams { keep, reason: None }))
    }

    /// Settles the step opened first, unless the case leaves it open; whether there was one.
    fn step(&mut self, otherwise: Otherwise<'_>, leaves: &dyn Fn(&str) -> bool) -> bool {
        let Some(operation) = self.open() else { return false };
        let steps = operation.open_steps().into_iter().filter(|step| !leaves(&step.step));
        let Some(step) = steps.min_by_key(|step| step.token) else { return false };
        let evidence =
            otherwise(&step.intent).unwrap_or_else(|| success(&operation, &step.intent, step.token));
        self.now_ms = self.now_ms.max(step.not_before_ms);
        self.report(operation.id.stream(), step.token, evidence).unwrap();
        true
    }

    /// Until nothing is open, or what is left is a person's.
    pub fn drive(&mut self, otherwise: Otherwise<'_>) {
        self.drive_but(otherwise, &|_| false);
    }

    /// The same, but these steps take longer.
    fn drive_but(&mut self, otherwise: Otherwise<'_>, leaves: &dyn Fn(&str) -> bool) {
        for _ in 0..300 {
            if !self.step(otherwise, leaves) {
                return;
            }
        }
        panic!("it does not end: {:?}", self.open().map(|open| open.open_steps()));
    }

    /// The backups are looked after, until nothing is due and every step of theirs has succeeded.
    fn tend_all(&mut self) {
        for _ in 0..300 {
            let (node, (id, catalog)) = (self.node(), self.catalog());
            let last =
                (node.operations > 0).then(|| self.operation(&OperationId::new(name(NODE), node.operations)));
            let due = due_task(&node, last.as_ref(), &name(NODE), &catalog, self.now_ms);
            let is_due = !matches!(due, BackupTask::Nothing | BackupTask::Begin { .. });
            if is_due {
                let before = self.written().count();
                self.reconcile_backups().unwrap();
                if self.written().count() > before {
                    continue;
                }
            }
            let Some(step) = catalog.open_steps().into_iter().next() else { return };
            let evidence = backed_up(&step.intent, step.token);
            self.report(id.stream(), step.token, evidence).unwrap();
        }
        panic!("the backups do not come to rest: {:?}", self.catalog());
    }

    /// A complete backup.
    pub fn back_up(&mut self) {
        let disposition = self.ask(Work::Backup(BackupParams { reason: None }));
        assert!(matches!(disposition, Disposition::BackupBegan { .. }), "{disposition}");
        self.tend_all();
    }

    pub fn lose(&mut self) {
        let instance = self.node().resources.carrier.unwrap().instance;
        self.on_signal(instance, News::StateChange { state: InstanceState::Terminated }).unwrap();
    }

    /// Snapshots that operations took of free volumes, and those that backup catalogs took over.
    fn finals(&self) -> (BTreeSet<SnapshotId>, BTreeSet<SnapshotId>) {
        let (mut taken, mut listed) = (BTreeSet::new(), BTreeSet::new());
        for event in self.written() {
            match event {
                Event::Operation(OperationEvent::StepSettled {
                    step: StepName::OfVolume(OfVolume::FinalSnapshot, _),
                    evidence: Evidence::Backup(BackupEvidence::Taken { snapshots, .. }),
                    ..
                }) => {
                    taken.extend(snapshots.iter().map(|taken| taken.snapshot.clone()));
                }
                Event::Backup(BackupEvent::Inherited { snapshots, .. }) => {
                    listed.extend(snapshots.values().map(|taken| taken.snapshot.clone()));
                }
                _ => {}
            }
        }
        (taken, listed)
    }

    /// What is asked for in the open operation.
    fn steps(&self) -> Vec<String> {
        self.open().iter().flat_map(Operation::open_steps).map(|step| step.step).collect()
    }
}

pub fn backed_up(intent: &Intent, token: Token) -> Evidence {
    let Intent::Backup(intent) = intent else { panic!("{intent:?}") };
    Evidence::Backup(match intent {
        BackupIntent::Take { volumes, .. } => BackupEvidence::Taken {
            snapshots: (0..)
                .zip(volumes)
                .map(|(n, volume)| TakenSnapshot {
                    snapshot: SnapshotId::parse(&format!("snap-b{token}x{n}")).unwrap(),
                    volume: volume.clone(),
                    size_gib: None,
                })
                .collect(),
            taken_at_ms: 1,
            twins: Vec::new(),
        },
        BackupIntent::Await { .. } => BackupEvidence::Complete,
        BackupIntent::Find { .. } => BackupEvidence::Found { snapshots: Vec::new() },
        BackupIntent::Prune { .. } => BackupEvidence::Pruned,
    })
}

fn spec(root: RootMode) -> NodeSpec {
    let mut spec = example("db-1", NetworkMode::SecondaryIp, root);
    spec.backup = Some(BackupSpec { every_min: 7 * 24 * 60, keep: 2, ..BackupSpec::default() });
    spec
}

/// A replacement that has the root's last snapshot, while the data volume is not seen free yet.
fn half_freed(held: Otherwise<'_>) -> Desk {
    let mut desk = running(&spec(RootMode::Adopt));
    desk.ask(Work::Replace(ReplaceParams { reason: None }));
    let is_left = |step: &str| step == "release:data" || step == "adopt_root";
    desk.drive_but(&well, &is_left);
    assert_eq!(desk.finals().0.len(), 1, "{:?}", desk.steps());
    desk.drive_but(held, &|step| step == "adopt_root");
    desk
}

#[test]
fn a_last_snapshot_is_taken_over_when_a_deletion_of_all_backups_comes_in_between() {
    let mut desk = running(&spec(RootMode::Adopt));
    desk.ask(Work::Replace(ReplaceParams { reason: None }));
    desk.drive_but(&well, &|step| step == "release:data" || step == "adopt_root");
    assert_eq!(desk.finals().0.len(), 1, "{:?}", desk.steps());
    desk.delete(false, false, false);
    desk.drive(&well);
    assert!(desk.node().deleted);
    desk.tend_all();
    let (taken, listed) = desk.finals();
    assert_eq!(taken, listed, "each is the catalog's, which prunes it");
    assert_eq!(desk.catalog().1.known.backups, []);
    assert!(desk.catalog().1.known.pending_deletions.is_empty());
}

#[test]
fn a_last_snapshot_is_taken_over_when_the_file_asks_for_none_any_more() {
    let another = |what: &Intent| {
        matches!(what, Intent::Release(Release { slot: Slot::Data(_), .. }))
            .then(|| Evidence::HeldByAnother { what: "vol-1".into(), by: "i-another".into() })
    };
    let mut desk = half_freed(&another);
    assert!(desk.is_stuck());
    desk.apply(&NodeSpec { backup: None, ..spec(RootMode::Adopt) });
    desk.drive(&well);
    assert!(desk.node().open.is_none(), "{:?}", desk.steps());
    desk.tend_all();
    let (taken, listed) = desk.finals();
    assert_eq!((taken.len(), &taken), (1, &listed), "it is the catalog's, which prunes it: it is not whole");
}

/// `db-1` names an existing volume, which is lost while it is provisioned; the file names another one then.
#[test]
fn another_existing_volume_is_taken_in_the_place_of_a_lost_one() {
    let mut named = spec(RootMode::None);
    named.data_volumes[0].volume = Some(volume("vol-a"));
    let mut desk = asked(&named);
    desk.drive(&|intent| matches!(intent, Intent::Attach(_)).then(lost));
    assert!(desk.is_stuck());
    named.data_volumes[0].volume = Some(volume("vol-b"));
    let disposition = desk.apply(&named);
    assert!(matches!(disposition, Disposition::Changed), "{disposition}");
    desk.resume(vec![data()], None);
    desk.drive(&well);
    assert_eq!(desk.node().resources.volumes[&data()].volume, volume("vol-b"));
    // Without another one, its loss makes a new one.
    let mut desk = asked(&named);
    desk.drive(&|intent| matches!(intent, Intent::Attach(_)).then(lost));
    desk.resume(vec![data()], None);
    desk.drive(&well);
    assert!(desk.node().resources.volumes[&data()].volume.as_str().starts_with("vol-new"));
}

/// A volume that the file names, or named when it was claimed, is deleted by no operation, whatever is kept. (A file
/// cannot name a volume that the node has already.)
#[test]
fn no_deletion_takes_a_volume_that_a_file_has_named() {
    let unnamed = spec(RootMode::None);
    let mut claimed = unnamed.clone();
    claimed.data_volumes[0].volume = Some(volume("vol-a"));
    // Its first file, its second one, and whether its volume may be deleted.
    for (first, second, may_go) in
        [(&claimed, None, false), (&claimed, Some(&unnamed), false), (&unnamed, None, true)]
    {
        let mut desk = running(first);
        second.map(|second| desk.apply(second));
        assert_eq!(deleted_with_the_node(desk), may_go, "{:?}", second.is_some());
    }
}

/// Deletes a node with all it has; whether its data volume was to be deleted.
fn deleted_with_the_node(mut desk: Desk) -> bool {
    let held = desk.node().resources.volumes[&data()].volume.clone();
    desk.delete(false, false, false);
    desk.drive(&well);
    assert!(desk.node().deleted);
    desk.written().any(|event| match event {
        Event::Operation(OperationEvent::StepIntended { intent: Intent::DeleteVolume(delete), .. }) => {
            delete.volume == held
        }
        _ => false,
    })
}

fn with_uefi(intent: &Intent) -> Option<Evidence> {
    match intent {
        Intent::Preserve(Preserve { uefi: true, .. }) => Some(Evidence::PreservedWith {
            found: Vec::new(),
            unmanaged: Vec::new(),
            uefi: Some(UefiVariables::read(Some("T0xE".to_owned()))),
        }),
        _ => None,
    }
}

/// The placement of an image that boots by UEFI.
fn boots_by_uefi(desk: &Desk, intent: &Intent) -> Option<Evidence> {
    let operation = desk.open()?;
    let Intent::Resolve(_) = intent else { return with_uefi(intent) };
    let Evidence::Resolved(mut placement) = success(&operation, intent, Token::from(Seq(1))) else {
        panic!()
    };
    placement.image.boot_mode = Some("uefi".to_owned());
    Some(Evidence::Resolved(placement))
}

fn drive_with_uefi(desk: &mut Desk) {
    for _ in 0..300 {
        let Some(operation) = desk.open() else { return };
        let Some(step) = operation.open_steps().into_iter().min_by_key(|step| step.token) else { return };
        let evidence = boots_by_uefi(desk, &step.intent);
        assert!(desk.step(&|_| evidence.clone(), &|_| false));
    }
    panic!("it does not end");
}

#[test]
fn a_root_that_begins_anew_has_no_variables_of_the_one_before() {
    let mut desk = asked(&spec(RootMode::Image));
    drive_with_uefi(&mut desk);
    assert_eq!(desk.node().resources.uefi_data, None);
    desk.ask(Work::Replace(ReplaceParams { reason: None }));
    drive_with_uefi(&mut desk);
    assert_eq!(desk.node().resources.uefi_data.as_deref(), Some("T0xE"), "an image of the root has them");
    // Another image: its instance has its own.
    let reimage = Some(ImageId::parse("ami-0fedcba9876543210").unwrap());
    desk.ask(Work::Recycle(RecycleParams { reimage, reason: None }));
    drive_with_uefi(&mut desk);
    assert_eq!(desk.node().resources.uefi_data, None);
}

#[test]
fn the_variables_of_a_deleted_node_end_with_its_root() {
    for keeps in [false, true] {
        let mut desk = asked(&spec(RootMode::Image));
        drive_with_uefi(&mut desk);
        desk.delete(keeps, false, true);
        drive_with_uefi(&mut desk);
        assert!(desk.node().deleted);
        assert_eq!(desk.node().resources.uefi_data.is_some(), keeps, "what is kept comes back with the name");
    }
}

/// A restore of the oldest backup, in which the other volume turns out to be lost and comes back from a newer one.
#[test]
fn an_operation_holds_every_backup_it_makes_volumes_from() {
    let mut desk = running(&spec(RootMode::Adopt));
    desk.back_up();
    desk.back_up();
    let only = vec![Slot::Root];
    let backup = BackupId::parse("db-1.b1").unwrap();
    desk.ask(Work::Restore(RestoreParams { backup, only, reason: None }));
    desk.drive(&|intent| matches!(intent, Intent::Release(Release { slot: Slot::Data(_), .. })).then(lost));
    assert!(desk.is_stuck(), "{:?}", desk.steps());
    let disposition = desk.resume(vec![data()], Some("db-1.b2"));
    assert!(matches!(disposition, Disposition::Joined { .. }), "{disposition}");
    let held: BTreeSet<u64> = desk.catalog().1.known.held().collect();
    assert_eq!(held, BTreeSet::from([1, 2]));
    desk.drive(&well);
    assert!(desk.node().open.is_none());
    desk.reconcile_backups().unwrap();
    assert_eq!(desk.catalog().1.known.held().count(), 0, "it lets go of both");
}

/// The look-up leads to the catalog that was closed meanwhile, or nowhere; its state leads on.
#[test]
fn a_restore_that_comes_as_the_catalog_rolls_over_finds_the_next_one() {
    for stale in [vec![CatalogId::new(name(NODE), 1).stream()], Vec::new()] {
        let mut desk = running(&spec(RootMode::Adopt));
        desk.back_up();
        let (id, catalog) = desk.catalog();
        desk.append(&id.stream(), Event::Backup(BackupEvent::Closed { next: 2 }));
        desk.append(&id.next().stream(), Event::Backup(BackupEvent::Opened { carried: catalog.known }));
        desk.stale.insert(catalog_key(&name(NODE)), stale);
        let (backup, head) = (BackupId::parse("db-1.b1").unwrap(), desk.head(&id.stream()));
        let asked = Work::Restore(RestoreParams { backup, only: Vec::new(), reason: None });
        let disposition = desk.submit(asked).unwrap();
        assert!(matches!(disposition, Disposition::Started { .. }), "{disposition}");
        let (next, catalog) = desk.catalog();
        assert_eq!(next, id.next());
        assert_eq!(catalog.known.held().collect::<Vec<_>>(), [1], "the next one holds it");
        assert_eq!(desk.head(&id.stream()), head, "nothing is written to the closed one");
    }
}

fn seldom() -> NodeSpec {
    let mut spec = spec(RootMode::Adopt);
    spec.backup = spec.backup.map(|backup| BackupSpec { at_release: false, ..backup });
    spec
}

fn without_a_root(intent: &Intent) -> Option<Evidence> {
    matches!(intent, Intent::Release(Release { slot: Slot::Root, .. })).then(lost)
}

/// What somebody has left behind does not come back by itself.
#[test]
fn a_lost_root_comes_back_from_a_backup_of_itself_only() {
    // Begun anew from another image: the only backup is of the root before.
    let mut desk = running(&seldom());
    desk.back_up();
    let reimage = Some(ImageId::parse("ami-0fedcba9876543210").unwrap());
    desk.ask(Work::Recycle(RecycleParams { reimage, reason: None }));
    desk.drive(&well);
    // A later move of the same root changes nothing about that.
    desk.ask(Work::Replace(ReplaceParams { reason: None }));
    desk.drive(&well);
    desk.lose();
    desk.drive(&without_a_root);
    assert!(desk.is_stuck());
    desk.tend_all();
    assert!(desk.is_stuck(), "a person decides: {:?}", desk.steps());
    // Restored from the first of two backups: the second is of what was left behind.
    let mut desk = running(&seldom());
    desk.back_up();
    desk.back_up();
    let backup = BackupId::parse("db-1.b1").unwrap();
    desk.ask(Work::Restore(RestoreParams { backup, only: Vec::new(), reason: None }));
    desk.drive(&well);
    desk.reconcile_backups().unwrap();
    desk.lose();
    desk.drive(&without_a_root);
    desk.tend_all();
    let restored = &desk.open().expect("it goes on").facts.restored[&Slot::Root];
    assert_eq!(restored.0.to_string(), "db-1.b1");
    // A node of the same name that began anew.
    let mut desk = running(&seldom());
    desk.back_up();
    desk.delete(false, false, true);
    desk.drive(&well);
    desk.apply(&seldom());
    desk.drive(&well);
    desk.lose();
    desk.drive(&without_a_root);
    desk.tend_all();
    assert!(desk.is_stuck(), "{:?}", desk.steps());
}

/// Asked for the first of two backups, and the present root is gone when it is looked at: the first it is.
#[test]
fn a_restore_whose_root_is_lost_goes_on_from_the_backup_that_was_asked_for() {
    let mut desk = running(&seldom());
    desk.back_up();
    desk.back_up();
    let backup = BackupId::parse("db-1.b1").unwrap();
    desk.ask(Work::Restore(RestoreParams { backup, only: Vec::new(), reason: None }));
    desk.drive(&without_a_root);
    desk.tend_all();
    desk.drive(&well);
    let recovery_points = desk.node().resources.recovery_points;
    let from = serde_json::to_value(&recovery_points[&Slot::Root]).unwrap();
    assert_eq!(from["backup"]["backup"], "db-1.b1", "{from}");
}

#[test]
fn a_file_that_names_other_volumes_mends_a_provision_that_is_stuck() {
    let mut bad = spec(RootMode::None);
    bad.data_volumes[0].snapshot = Some(SnapshotId::parse("snap-0").unwrap());
    let mut desk = asked(&bad);
    desk.drive(&|intent| matches!(intent, Intent::CreateVolume(_)).then(refused));
    assert!(desk.is_stuck());
    let mut good = spec(RootMode::None);
    good.data_volumes[0].name = NodeName::parse("logs").unwrap();
    let disposition = desk.apply(&good);
    assert!(matches!(disposition, Disposition::Amended { .. }), "{disposition}");
    desk.drive(&well);
    assert!(desk.node().open.is_none(), "{:?}", desk.open().unwrap().status);
    let slots: Vec<String> = desk.node().resources.volumes.keys().map(ToString::to_string).collect();
    assert_eq!(slots, ["logs"]);
}

#[test]
fn a_file_that_names_another_address_mends_a_provision_that_is_stuck() {
    let mut wanted = example("db-1", NetworkMode::PrimaryEni, RootMode::None);
    wanted.private_ip = Some("10.0.0.9".parse().unwrap());
    let mut desk = asked(&wanted);
    let held = |intent: &Intent| {
        matches!(intent, Intent::CreateInterface(_))
            .then(|| Evidence::HeldByAnother { what: "10.0.0.9".into(), by: "a stranger".into() })
    };
    desk.drive(&held);
    assert!(desk.is_stuck());
    wanted.private_ip = Some("10.0.0.10".parse().unwrap());
    let disposition = desk.apply(&wanted);
    assert!(matches!(disposition, Disposition::Amended { .. }), "{disposition}");
    desk.drive(&well);
    assert_eq!(desk.node().resources.address, wanted.private_ip);
}

#[test]
fn what_a_provision_has_begun_with_does_not_change_under_it() {
    for root in [RootMode::None, RootMode::Adopt] {
        let mut desk = asked(&spec(root));
        let mut other = spec(root);
        other.persist.network = NetworkMode::SecondaryEni;
        let disposition = desk.apply(&other);
        assert!(
            matches!(&disposition, Disposition::Rejected { because } if because.contains("spec.persist.network")),
            "{disposition}"
        );
        let other = if root == RootMode::None { RootMode::Adopt } else { RootMode::None };
        let disposition = desk.apply(&spec(other));
        assert!(
            matches!(&disposition, Disposition::Rejected { because } if because.contains("spec.persist.root")),
            "{disposition}"
        );
    }
}

/// A volume that is to come back from a backup, and is not made yet, would begin empty after a pause.
#[test]
fn a_node_that_comes_back_from_a_backup_is_not_paused_before_it_has() {
    let mut spec = spec(RootMode::Adopt);
    spec.capacity.other_subnets = vec![SubnetId::parse("subnet-0123456789abcdef1").unwrap()];
    spec.network.zone_change = ZoneChange::Allow;
    let mut desk = running(&spec);
    desk.back_up();
    desk.lose();
    desk.drive(&|intent| matches!(intent, Intent::Release(Release { slot: Slot::Data(_), .. })).then(lost));
    assert!(desk.is_stuck());
    desk.resume(vec![data()], Some("db-1.b1"));
    let disposition = desk.ask(Work::Pause(PauseParams { reason: None }));
    assert!(
        matches!(&disposition, Disposition::Rejected { because } if because.contains("from a backup")),
        "{disposition}"
    );
    desk.drive(&well);
    let origin = serde_json::to_value(&desk.node().resources.recovery_points[&data()]).unwrap();
    assert_eq!(origin["backup"]["backup"], "db-1.b1", "{origin}");
    let paused = desk.ask(Work::Pause(PauseParams { reason: None }));
    assert!(matches!(paused, Disposition::Started { .. }), "{paused}");
}

/// The new instance is in another subnet, which the file names no more: its zone is still known.
#[test]
fn a_file_that_drops_the_subnet_of_a_new_instance_is_for_the_next_operation() {
    let mut wide = spec(RootMode::None);
    wide.capacity.instance_types.truncate(1);
    wide.capacity.market = MarketPolicy::SpotOnly;
    let other = SubnetId::parse("subnet-0123456789abcdef1").unwrap();
    wide.capacity.other_subnets = vec![other.clone()];
    wide.network.zone_change = ZoneChange::Allow;
    let mut desk = running(&wide);
    desk.ask(Work::Replace(ReplaceParams { reason: None }));
    let elsewhere = |intent: &Intent| match intent {
        Intent::Launch(Launch { pool, .. }) if pool.subnet.is_none() => {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() })
        }
        Intent::CreateVolume(_) => Some(refused()),
        _ => None,
    };
    desk.drive(&elsewhere);
    assert!(desk.is_stuck(), "{:?}", desk.steps());
    let mut narrow = wide.clone();
    narrow.capacity.other_subnets.clear();
    narrow.network.zone_change = ZoneChange::default();
    let disposition = desk.apply(&narrow);
    assert!(matches!(disposition, Disposition::Amended { .. }), "{disposition}");
    let mut zones = BTreeSet::new();
    for _ in 0..100 {
        for step in desk.open().iter().flat_map(Operation::open_steps) {
            if let Intent::CreateVolume(CreateVolume { zone, .. }) = step.intent.as_ref() {
                zones.insert(zone.clone());
            }
        }
        if !desk.step(&well, &|_| false) {
            break;
        }
    }
    assert_eq!(zones, BTreeSet::from([format!("zone-of-{other}")]), "where the instance is");
    assert_eq!(desk.node().resources.subnet, Some(other));
}

/// A volume that was taken is somebody's even when the file has stopped naming it.
#[test]
fn a_cancellation_deletes_no_volume_that_the_file_named_before() {
    let mut named = spec(RootMode::None);
    named.data_volumes[0].volume = Some(volume("vol-a"));
    let mut desk = asked(&named);
    let traits = Found {
        volume_type: "gp3".into(),
        iops: None,
        throughput: None,
        is_copy: false,
        snapshot: None,
        named: true,
    };
    desk.drive(&|intent| match intent {
        Intent::ClaimVolume(ClaimVolume { size_gib, .. }) => {
            Some(Evidence::VolumeClaimed { size_gib: *size_gib, traits: Some(traits.clone()) })
        }
        Intent::Launch(_) => Some(refused()),
        _ => None,
    });
    assert!(desk.is_stuck());
    desk.apply(&spec(RootMode::None));
    let workflow = desk.node().open.unwrap().0;
    desk.ask(Work::Cancel(CancelParams { workflow: workflow.clone(), reason: None }));
    desk.drive(&|intent| {
        assert!(!matches!(intent, Intent::DeleteVolume(_)), "{intent:?}");
        matches!(intent, Intent::Launch(_))
            .then(|| Evidence::NoCapacity { code: "x".into(), message: "none".into() })
    });
    let ended = desk.operation(&workflow).status;
    assert!(matches!(ended, Status::Finished { outcome: Outcome::Cancelled, .. }), "{ended:?}");
}

/// The walk of every order (`exhaustive`) found that no rule held then.
#[test]
fn a_root_that_an_adoption_missed_is_looked_for_again_after_a_resume() {
    let spec = example("db-1", NetworkMode::None, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Replace, &spec, run::asked(), None);
    run.drive(&|intent, attempt| (matches!(intent, Intent::AdoptRoot(_)) && attempt == 1).then(lost));
    assert!(
        matches!(&run.state.status, Status::Stuck { step, .. } if *step == Only::AdoptRoot),
        "{}",
        run.told
    );
    let mut draft = run.draft();
    draft.resume("ops".into(), Vec::new(), spec).unwrap();
    run.take(draft);
    assert!(run.state.open_steps().iter().any(|step| step.step == "adopt_root"), "{}", run.told);
    run.drive(&run::well);
    let Status::Finished { outcome, .. } = run.state.status else { panic!("{}", run.told) };
    assert_eq!(outcome, Outcome::Completed);
}

/// An instance that boots an image of the root, or with copies of the data, is a copy of the node. The walk of
/// every order found two of them at once: the second was launched when the first had not started in time.
#[test]
fn a_copy_of_the_node_is_not_launched_while_another_one_may_run() {
    let image = example("db-1", NetworkMode::None, RootMode::Image);
    let mut copies = example("db-1", NetworkMode::None, RootMode::None);
    copies.persist.data = DataMode::Snapshot;
    for spec in [image, copies] {
        let mut run = Run::start(OperationKind::Replace, &spec, run::asked(), None);
        run.drive_to("start");
        let first = run.state.facts.candidate.clone().unwrap().instance;
        assert!(run.step(&|_, _| Some(Evidence::OutOfTime { because: "pending".into() })));
        let open: Vec<String> = run.state.open_steps().into_iter().map(|step| step.step).collect();
        assert_eq!(open, [format!("fence:{first}")], "{}", run.told);
        run.drive(&run::well);
        let Status::Finished { outcome, .. } = run.state.status else { panic!("{}", run.told) };
        assert_eq!(outcome, Outcome::Completed);
    }
}

/// A volume that was made before a death is found by its tags after it, perhaps when the instance runs. With
/// `data: snapshot` it was taken for one that goes on by a snapshot in the launch request, which was over; then no
/// rule held. A cancellation still deletes none that an instance may have written to.
#[test]
fn a_new_volume_that_is_found_after_a_death_is_attached_as_it_is() {
    for data in [DataMode::Reattach, DataMode::Snapshot] {
        let mut spec = example("db-1", NetworkMode::None, RootMode::None);
        spec.persist.data = data;
        let mut run = Run::start(OperationKind::Provision, &spec, run::asked(), None);
        let is_create = |intent: &Intent| matches!(intent, Intent::CreateVolume(_));
        let later = |run: &Run| {
            let open = run.state.open_steps();
            open.into_iter().filter(|step| !is_create(&step.intent)).min_by_key(|step| step.token)
        };
        while let Some(step) = later(&run) {
            run.report(&step, None);
        }
        assert!(run.state.facts.candidate.is_some(), "{data:?}: {}", run.told);
        let volume = VolumeId::parse("vol-0dcb1631a83a5347b").unwrap();
        let found = |intent: &Intent, _: u32| {
            is_create(intent).then(|| Evidence::VolumeCreated { volume: volume.clone(), found: true })
        };
        run.drive(&found);
        let Status::Finished { outcome, .. } = run.state.status else { panic!("{data:?}: {}", run.told) };
        assert_eq!(outcome, Outcome::Completed, "{data:?}");
    }
}

/// An attachment to a candidate that is lost may take effect after the next launch was asked for: the volume has
/// content then, and the launch request had no copy of it. With `data: snapshot` no rule held.
#[test]
fn a_volume_that_was_attached_late_to_a_lost_candidate_goes_on_as_it_is() {
    for data in [DataMode::Reattach, DataMode::Snapshot] {
        let mut spec = example("db-1", NetworkMode::None, RootMode::Image);
        spec.persist.data = data;
        let mut run = Run::start(OperationKind::Provision, &spec, run::asked(), None);
        run.drive_to("attach:data");
        let open = |run: &Run, name: &str| {
            let steps = run.state.open_steps();
            steps.into_iter().find(|step| step.step.starts_with(name))
        };
        let attach = open(&run, "attach:data").unwrap();
        let first = run.state.facts.candidate.clone().unwrap().instance;
        run.on_signal(&first, News::StateChange { state: InstanceState::ShuttingDown });
        let launch = open(&run, "launch").expect("the next one is launched at once");
        run.report(&launch, None);
        run.report(&attach, Some(Evidence::Attached));
        run.drive(&run::well);
        let Status::Finished { outcome, .. } = run.state.status else { panic!("{data:?}: {}", run.told) };
        assert_eq!(outcome, Outcome::Completed, "{data:?}");
    }
}
