//! A file that is applied while an operation is under way, and files that EC2 refuses: what the operation goes on with, and what
//! its sender is told.

use perennial_workflows::aggregate::inbox::Disposition;
use perennial_workflows::domain::submission::{
    ApplyParams, CancelParams, RecycleParams, ReplaceParams, Work,
};
use perennial_workflows::model::aws::{GroupId, ImageId, InstanceId, InstanceState};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::operation_id::{OperationId, Outcome};
use perennial_workflows::model::root::RootMethod;
use perennial_workflows::model::signal::News;
use perennial_workflows::operation::event::{OperationEvent, SpecChange};
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Intent, Launch, LaunchInterface, Resolve, SetGroups};
use perennial_workflows::view::plan::success;

use crate::desk::{Desk, NODE};

type Otherwise<'a> = &'a dyn Fn(&Intent) -> Option<Evidence>;

fn well(_: &Intent) -> Option<Evidence> {
    None
}

fn spec(network: NetworkMode, root: RootMode) -> NodeSpec {
    let mut spec = example(NODE, network, root);
    spec.capacity.market = MarketPolicy::SpotOnly;
    spec.capacity.instance_types = vec!["m6i.large".into()];
    spec
}

fn apply(desk: &mut Desk, spec: &NodeSpec) -> Disposition {
    let apply = ApplyParams { spec: spec.clone(), from_backup: None, reason: None };
    desk.submit(Work::Apply(apply)).unwrap()
}

fn replace(desk: &mut Desk) -> Disposition {
    desk.submit(Work::Replace(ReplaceParams { reason: None })).unwrap()
}

/// Settles the step opened first; whether there was one.
fn step(desk: &mut Desk, otherwise: Otherwise<'_>) -> bool {
    let Some(operation) = desk.open() else { return false };
    let Some(first) = operation.open_steps().into_iter().min_by_key(|step| step.token) else { return false };
    let evidence =
        otherwise(&first.intent).unwrap_or_else(|| success(&operation, &first.intent, first.token));
    desk.now_ms = desk.now_ms.max(first.not_before_ms);
    desk.report(operation.id.stream(), first.token, evidence).unwrap();
    true
}

fn drive(desk: &mut Desk, otherwise: Otherwise<'_>) {
    for _ in 0..300 {
        if !step(desk, otherwise) {
            return;
        }
    }
    panic!("it does not end: {:?}", desk.open().map(|open| open.open_steps()));
}

/// Until a launch is open; its request.
fn to_the_launch(desk: &mut Desk, otherwise: Otherwise<'_>) -> Intent {
    for _ in 0..300 {
        let open = desk.open().unwrap().open_steps();
        if let Some(launch) = open.iter().find(|step| step.step == "launch") {
            return launch.intent.as_ref().clone();
        }
        assert!(step(desk, otherwise), "{open:?}");
    }
    panic!("it does not launch");
}

fn running(spec: &NodeSpec) -> Desk {
    let mut desk = Desk::at(1_000);
    apply(&mut desk, spec);
    drive(&mut desk, &well);
    assert!(desk.node().open.is_none());
    desk
}

fn lose(desk: &mut Desk) {
    let carrier = desk.node().resources.carrier.expect("it runs").instance;
    desk.event(&carrier, News::StateChange { state: InstanceState::Terminated });
}

fn warn(desk: &mut Desk) {
    let carrier = desk.node().resources.carrier.expect("it runs").instance;
    let deadline_ms = desk.now_ms + 120_000;
    desk.event(&carrier, News::SpotInterruption { action: "terminate".into(), deadline_ms });
}

fn no_capacity() -> Evidence {
    Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() }
}

fn refused() -> Evidence {
    Evidence::Refused { code: "InvalidParameterValue".into(), message: "no".into() }
}

fn image(id: &str) -> ImageId {
    ImageId::parse(id).unwrap()
}

/// How the newest operation ended, and the reason that was given for undoing it.
fn ended(desk: &Desk) -> (Status, Option<String>) {
    let newest = OperationId::new(desk.name(), desk.node().operations);
    let reason = desk.events_of(&newest).into_iter().find_map(|event| match event {
        OperationEvent::CancelRequested { reason, .. } => reason,
        _ => None,
    });
    (desk.operation(&newest).status, reason)
}

#[test]
fn a_launch_that_waits_for_its_time_makes_room_for_the_file_at_once() {
    let mut file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut desk = running(&file);
    lose(&mut desk);
    let dry = |intent: &Intent| matches!(intent, Intent::Launch(_)).then(no_capacity);
    for _ in 0..60 {
        step(&mut desk, &dry);
    }
    let waiting = desk.open().unwrap().open_steps();
    assert!(waiting.iter().any(|step| step.step == "launch" && step.not_before_ms > desk.now_ms));
    file.capacity.instance_types.push("m5.large".into());
    file.capacity.price_max = Some("1.0".into());
    file.capacity.market = MarketPolicy::SpotThenOnDemand;
    let told = apply(&mut desk, &file);
    assert!(matches!(&told, Disposition::Amended { how, .. } if how.contains("does not wait")), "{told}");
    assert_eq!(desk.node().spec.as_ref(), Some(&file));
    // A price is looked at by a survey first, at once.
    let open = desk.open().unwrap().open_steps();
    assert!(open.iter().any(|step| step.step == "survey" && step.not_before_ms <= desk.now_ms), "{open:?}");
    let Intent::Launch(Launch { price_max, .. }) = to_the_launch(&mut desk, &well) else { panic!() };
    assert_eq!(price_max.as_deref(), Some("1.0"));
    drive(&mut desk, &well);
    assert!(desk.node().open.is_none());
    // It is the file of the instance from now on, and the same one again is nothing new.
    assert_eq!(desk.node().good.as_deref(), Some(&file));
    assert!(matches!(apply(&mut desk, &file), Disposition::Noted { .. }));
}

#[test]
fn a_launch_under_way_is_settled_before_the_one_of_the_new_file() {
    for (evidence, types) in [
        (no_capacity(), vec!["m5.large", "m6i.large"]),
        (refused(), vec!["m5.large", "m6i.large"]),
        (Evidence::Outdated, vec!["m5.large", "m6i.large"]),
    ] {
        let mut file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
        let mut desk = running(&file);
        lose(&mut desk);
        to_the_launch(&mut desk, &well);
        file.capacity.instance_types = types.iter().map(|&name| name.to_owned()).collect();
        apply(&mut desk, &file);
        let launches: Vec<_> =
            desk.open().unwrap().open_steps().into_iter().filter(|step| step.step == "launch").collect();
        assert_eq!(launches.len(), 1, "one launch at a time");
        assert!(launches[0].outdated, "the worker learns that another one takes its place");
        let workflow = desk.open().unwrap().id.stream();
        desk.report(workflow, launches[0].token, evidence.clone()).unwrap();
        assert!(!desk.is_stuck(), "{evidence:?}: it says nothing about the present file");
        let Intent::Launch(Launch { pool, .. }) = to_the_launch(&mut desk, &well) else { panic!() };
        assert_eq!(pool.instance_type, "m5.large", "{evidence:?}: the first of the new file");
        drive(&mut desk, &well);
        assert!(desk.node().open.is_none());
    }
}

#[test]
fn a_stuck_operation_goes_on_with_the_file_and_says_so() {
    let mut file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut desk = running(&file);
    replace(&mut desk);
    drive(&mut desk, &|intent| matches!(intent, Intent::Launch(_)).then(refused));
    assert!(desk.is_stuck());
    let open = desk.open().unwrap();
    assert_eq!(open.no_return(), None, "a refusal is no point of no return");
    let Status::Stuck { needs, .. } = &open.status else { panic!() };
    assert!(needs.contains("node apply") && needs.contains("node pause db-1"), "{needs}");
    // The same file changes nothing, and the answer names the way out.
    let told = apply(&mut desk, &file);
    assert!(told.to_string().contains("perennial workflow resume db-1.2"), "{told}");
    let busy = replace(&mut desk).to_string();
    assert!(busy.contains("node apply") && busy.contains("workflow cancel db-1.2"), "{busy}");
    file.key_name = Some("ops".into());
    let told = apply(&mut desk, &file);
    assert!(matches!(&told, Disposition::Amended { how, .. } if how.contains("stuck at launch")), "{told}");
    let Intent::Launch(Launch { key_name, .. }) = to_the_launch(&mut desk, &well) else { panic!() };
    assert_eq!(key_name.as_deref(), Some("ops"));
    drive(&mut desk, &well);
    assert!(desk.node().open.is_none());
}

#[test]
fn a_termination_that_was_refused_has_not_happened() {
    let mut desk = running(&spec(NetworkMode::PrimaryEni, RootMode::Adopt));
    replace(&mut desk);
    let protected = Evidence::Refused { code: "OperationNotPermitted".into(), message: "protected".into() };
    drive(&mut desk, &|intent| matches!(intent, Intent::Fence(_)).then(|| protected.clone()));
    assert!(desk.is_stuck());
    let workflow = desk.open().unwrap().id;
    let cancel = CancelParams { workflow: workflow.clone(), reason: None };
    let told = desk.submit(Work::Cancel(cancel)).unwrap();
    assert!(matches!(told, Disposition::Joined { .. }), "{told}");
    drive(&mut desk, &well);
    let Status::Finished { outcome, .. } = desk.operation(&workflow).status else { panic!() };
    assert_eq!(outcome, Outcome::Cancelled);
}

fn no_such_image(intent: &Intent) -> Option<Evidence> {
    let Intent::Resolve(Resolve { image: asked, .. }) = intent else { return None };
    (*asked == image("ami-9")).then(|| Evidence::Refused {
        code: "InvalidAMIID.NotFound".into(),
        message: "there is no image ami-9".into(),
    })
}

fn reimage(desk: &mut Desk) {
    let reimage = Some(image("ami-9"));
    desk.submit(Work::Recycle(RecycleParams { reimage, reason: None })).unwrap();
}

#[test]
fn a_new_root_from_an_image_that_is_not_there_is_undone_by_itself() {
    let file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut desk = running(&file);
    reimage(&mut desk);
    drive(&mut desk, &no_such_image);
    let (status, reason) = ended(&desk);
    assert!(matches!(status, Status::Finished { outcome: Outcome::Cancelled, .. }), "{status:?}");
    assert!(reason.is_some_and(|reason| reason.contains("there is no image ami-9")));
    assert_eq!(desk.node().spec.as_ref(), Some(&file), "the file is as it was");
    // One that is there becomes the file's image with the new root.
    reimage(&mut desk);
    drive(&mut desk, &well);
    assert_eq!(desk.node().spec.unwrap().image, image("ami-9"));
    assert_eq!(desk.node().good.unwrap().image, image("ami-9"));
}

#[test]
fn a_node_that_is_warned_before_its_new_root_is_refused_keeps_its_root() {
    for lost in [false, true] {
        let file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
        let mut desk = running(&file);
        let root = desk.node().resources.volumes.values().next_back().unwrap().volume.clone();
        reimage(&mut desk);
        if lost {
            lose(&mut desk);
        } else {
            warn(&mut desk);
        }
        drive(&mut desk, &no_such_image);
        let (status, _) = ended(&desk);
        assert!(matches!(status, Status::Finished { outcome: Outcome::Completed, .. }), "{status:?}");
        assert!(desk.node().resources.volumes.values().any(|held| held.volume == root), "the same root");
        let newest = OperationId::new(desk.name(), desk.node().operations);
        let changed = desk.events_of(&newest).into_iter().find_map(|event| match event {
            OperationEvent::SpecChanged { because, keeps_root, .. } => Some((because, keeps_root)),
            _ => None,
        });
        assert!(matches!(changed, Some((SpecChange::LastGood { .. }, true))), "{changed:?}");
    }
}

/// A security group that does not exist, in every kind of order of warning and refusal.
#[test]
fn a_file_that_is_refused_does_not_leave_a_dying_node_without_an_instance() {
    let unknown = GroupId::parse("sg-9").unwrap();
    let refuse = |intent: &Intent| match intent {
        Intent::SetGroups(SetGroups { groups, .. }) if groups.contains(&GroupId::parse("sg-9").unwrap()) => {
            Some(refused())
        }
        _ => None,
    };
    for first_stuck in [true, false] {
        for lost in [false, true] {
            let good = spec(NetworkMode::PrimaryEni, RootMode::Adopt);
            let mut good = NodeSpec { security_groups: vec![GroupId::parse("sg-1").unwrap()], ..good };
            good.capacity.instance_types = vec!["m6i.large".into()];
            let mut desk = running(&good);
            let bad = NodeSpec { security_groups: vec![unknown.clone()], ..good.clone() };
            apply(&mut desk, &bad);
            replace(&mut desk);
            if first_stuck {
                drive(&mut desk, &refuse);
                assert!(desk.is_stuck());
            }
            if lost {
                lose(&mut desk);
            } else {
                warn(&mut desk);
            }
            drive(&mut desk, &refuse);
            assert!(!desk.is_stuck(), "{:?}", desk.open().map(|open| open.status));
            let (status, _) = ended(&desk);
            assert!(matches!(status, Status::Finished { outcome: Outcome::Completed, .. }), "{status:?}");
            assert_eq!(desk.node().spec.as_ref(), Some(&bad), "what is wanted stays what is wanted");
            assert_eq!(desk.node().good.as_deref(), Some(&good));
        }
    }
}

/// Launches that end before their instance runs, with the present file only.
#[test]
fn launches_that_fail_with_the_present_file_give_way_to_the_last_good_one() {
    let good = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut desk = running(&good);
    let bad = NodeSpec { instance_profile: Some("new".into()), ..good.clone() };
    apply(&mut desk, &bad);
    lose(&mut desk);
    let fails = |intent: &Intent| match intent {
        Intent::Launch(Launch { instance_profile: Some(_), .. }) => Some(Evidence::InstanceGone {
            instance: InstanceId::parse("i-dead").unwrap(),
            state: Some(InstanceState::Terminated),
            reason: Some("Server.InternalError".into()),
        }),
        _ => None,
    };
    drive(&mut desk, &fails);
    let (status, _) = ended(&desk);
    assert!(matches!(status, Status::Finished { outcome: Outcome::Completed, .. }), "{status:?}");
    assert_eq!(desk.node().good.as_deref(), Some(&good));
    assert_eq!(desk.node().spec.as_ref(), Some(&bad));
}

fn gone(intent: &Intent) -> Option<Evidence> {
    match intent {
        Intent::Launch(Launch { image: asked, .. })
            if *asked == spec(NetworkMode::None, RootMode::None).image =>
        {
            Some(Evidence::ImageGone { image: asked.clone(), message: "it is gone".into() })
        }
        _ => None,
    }
}

#[test]
fn an_image_that_is_gone_is_replaced_by_one_of_the_root_itself_or_by_a_person() {
    // Lost: its own root becomes the image.
    let mut desk = running(&spec(NetworkMode::SecondaryIp, RootMode::Adopt));
    lose(&mut desk);
    drive(&mut desk, &gone);
    let (status, _) = ended(&desk);
    assert!(matches!(status, Status::Finished { outcome: Outcome::Completed, .. }), "{status:?}");
    let newest = OperationId::new(desk.name(), desk.node().operations);
    assert_eq!(desk.operation(&newest).facts.root.method, RootMethod::Image);
    // Well: it stays where it is.
    let mut desk = running(&spec(NetworkMode::SecondaryIp, RootMode::Adopt));
    let before = desk.node().resources.carrier;
    replace(&mut desk);
    drive(&mut desk, &gone);
    assert!(matches!(ended(&desk).0, Status::Finished { outcome: Outcome::Cancelled, .. }));
    assert_eq!(desk.node().resources.carrier, before);
    // Another image boots the temporary roots; the answer says what it does not do.
    let mut file = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    file.image = image("ami-8");
    let told = apply(&mut desk, &file).to_string();
    assert!(told.contains("does not change its content") && told.contains("--reimage ami-8"), "{told}");
    replace(&mut desk);
    drive(&mut desk, &gone);
    assert!(matches!(ended(&desk).0, Status::Finished { outcome: Outcome::Completed, .. }));
    // A root that is not kept has no other source.
    let mut file = spec(NetworkMode::SecondaryIp, RootMode::None);
    let mut desk = running(&file);
    lose(&mut desk);
    drive(&mut desk, &gone);
    assert!(desk.is_stuck());
    file.image = image("ami-8");
    let told = apply(&mut desk, &file);
    assert!(matches!(told, Disposition::Amended { .. }), "{told}");
    drive(&mut desk, &gone);
    assert!(desk.node().open.is_none());
}

#[test]
fn without_a_free_address_the_node_is_launched_onto_the_interface_that_it_holds() {
    let no_address = |intent: &Intent| match intent {
        Intent::Launch(Launch { interface: LaunchInterface::New { .. }, .. }) => Some(Evidence::NoAddress {
            code: "InsufficientFreeAddressesInSubnet".into(),
            message: "none".into(),
        }),
        _ => None,
    };
    let mut desk = running(&spec(NetworkMode::SecondaryIp, RootMode::Adopt));
    let held = desk.node().resources.carrier.unwrap().interface;
    lose(&mut desk);
    drive(&mut desk, &no_address);
    assert!(desk.node().open.is_none(), "{:?}", desk.open().map(|open| open.open_steps()));
    let newest = OperationId::new(desk.name(), desk.node().operations);
    let kept: Vec<_> = desk
        .operation(&newest)
        .steps
        .values()
        .filter_map(|record| match record.intent.as_ref() {
            Intent::Launch(Launch { interface: LaunchInterface::Kept(kept), .. }) => Some(kept.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(kept, [held]);
    // Where the old instance runs, it is waited for: no interface is free to launch onto.
    let mut desk = running(&spec(NetworkMode::SecondaryIp, RootMode::Adopt));
    replace(&mut desk);
    for _ in 0..40 {
        step(&mut desk, &no_address);
    }
    let open = desk.open().unwrap();
    assert_eq!(open.no_return(), None);
    assert!(!desk.is_stuck());
}
