//! A file that is corrected while an operation waits, an image that goes away, a subnet without a free address, a new root that
//! cannot be had: the node comes back by itself, or stays where it is.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::quick;
use crate::sweep::{Deaths, Seen};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::World;
use perennial_sim::world::settings::Capacity;
use perennial_workers::port::error::Action;
use perennial_workers::port::{ImageRequest, Tags};
use perennial_workers::preflight;
use perennial_workers::preflight::Verdict;
use perennial_workflows::model::aws::{GroupId, ImageId, LaunchTemplateId, Market, SubnetId};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::launch_template::LaunchTemplate;
use perennial_workflows::model::operation_id::Outcome;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::Intent;
use serde_json::json;

/// Past every clean-up.
const REST: Duration = Duration::from_secs(300);

/// An image of the account's own, like the region's.
pub fn own_image(lab: &Lab) -> ImageId {
    lab.region.with(|world, now_ms| {
        let image = world.image(&world.default_image()).unwrap();
        let request = ImageRequest {
            name: "own".into(),
            root_snapshot: image.root_snapshot.clone(),
            traits: image.traits.clone(),
            uefi_data: None,
            tags: Tags::new(),
        };
        world.register_image(now_ms, &request).unwrap()
    })
}

pub fn deregister(lab: &Lab, image: &ImageId) {
    lab.region.with(|world, now_ms| world.deregister_image(now_ms, image).unwrap());
}

fn no_capacity(lab: &Lab, types: &[&str]) {
    lab.region.with(|world, _| {
        let zone = world.zones()[0].clone();
        for name in types {
            for market in [Market::Spot, Market::OnDemand] {
                // Not `Free(0)`: the instance that ends would give its place back.
                world.set_capacity(name, &zone, market, Capacity::Unsupported);
            }
        }
    });
}

async fn apply(lab: &mut Lab, spec: &NodeSpec) {
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
}

async fn spot_only(seed: u64, network: NetworkMode, root: RootMode) -> (Lab, NodeSpec) {
    let change = |_: &Lab, spec: &mut NodeSpec| {
        spec.capacity.market = MarketPolicy::SpotOnly;
        spec.capacity.instance_types = vec!["m6i.large".into()];
    };
    Lab::provisioned(quick(seed), network, root, change).await
}

/// A type is added at any moment of an operation that has no capacity: the operation uses it, and soon.
#[tokio::test(start_paused = true)]
async fn a_corrected_file_reaches_the_operation_that_waits_at_any_moment() {
    let mut waiting = Seen::at_least(10, "files that came while a launch waited for its time");
    let mut amended = Seen::at_least(24, "files that the open operation took");
    for (seed, wait_ms) in (0..30_u64).map(|n| (n % 3, 400 + 17_300 * (n / 3) + 290 * n)) {
        for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni] {
            let (mut lab, mut spec) = spot_only(seed, network, RootMode::Adopt).await;
            no_capacity(&lab, &["m6i.large"]);
            lab.warn("db-1").await;
            lab.clock.sleep(Duration::from_millis(wait_ms)).await;
            if lab.node("db-1").await.operations < 2 {
                continue;
            }
            let now_ms = lab.clock.now_ms();
            let open = lab.operation("db-1.2").await.open_steps();
            waiting.when(open.iter().any(|step| step.step == "launch" && step.not_before_ms > now_ms));
            spec.capacity.instance_types.push("m5.large".into());
            apply(&mut lab, &spec).await;
            // Without the file it would wait for five minutes in the end.
            let limit = Duration::from_secs(150);
            lab.until("it comes back", limit, async |lab| lab.node("db-1").await.open.is_none()).await;
            amended.when(lab.dispositions().await.iter().any(|answer| answer.contains("amended")));
            assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// The same, with a death of the engine at every other point from the file on.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_after_a_corrected_file() {
    let run = async |k| {
        let (mut lab, mut spec) = spot_only(5, NetworkMode::SecondaryIp, RootMode::Adopt).await;
        no_capacity(&lab, &["m6i.large"]);
        lab.warn("db-1").await;
        lab.clock.sleep(Duration::from_secs(140)).await;
        lab.die_at(k);
        spec.capacity.instance_types.push("m5.large".into());
        apply(&mut lab, &spec).await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        assert_eq!(lab.carried_by("db-1").await, "m5.large spot");
        lab.clock.sleep(REST).await;
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths::at_every_other_point(20).of(run).await;
}

/// A price, as a survey sees it: it is looked at again at once.
#[tokio::test(start_paused = true)]
async fn a_raised_price_is_used_by_the_operation_that_waits() {
    let change = |_: &Lab, spec: &mut NodeSpec| spec.capacity.market = MarketPolicy::SpotOnly;
    let (mut lab, mut spec) =
        Lab::provisioned(quick(3), NetworkMode::SecondaryIp, RootMode::Adopt, change).await;
    spec.capacity.price_max = Some("0.0001".into());
    apply(&mut lab, &spec).await;
    lab.clock.sleep(Duration::from_secs(5)).await;
    lab.warn("db-1").await;
    lab.clock.sleep(Duration::from_secs(900)).await;
    assert!(lab.node("db-1").await.open.is_some(), "it is too expensive");
    spec.capacity.price_max = Some("10.0".into());
    apply(&mut lab, &spec).await;
    lab.until("it comes back", Duration::from_secs(120), async |lab| lab.node("db-1").await.open.is_none())
        .await;
    lab.clock.sleep(REST).await;
    lab.check("db-1", &["before"]).await;
}

/// A launch that EC2 refuses again and again without effect makes room for the one of the corrected file; so does one that is
/// stuck, and no other command is needed.
#[tokio::test(start_paused = true)]
async fn a_clean_refusal_makes_room_for_the_request_of_the_corrected_file() {
    let mut repeated = Seen::at_least(1, "files that came while a refused launch was repeated");
    let mut stuck = Seen::at_least(1, "files that came when the operation was stuck");
    for code in ["InvalidKeyPair.NotFound", "InvalidParameterValue", "UnauthorizedOperation"] {
        for root in [RootMode::Adopt, RootMode::None] {
            let (mut lab, mut spec) = spot_only(2, NetworkMode::SecondaryIp, root).await;
            lab.region.inject(Rule {
                target: Target::Only(Action::RunInstances),
                when: When::Always,
                fault: Fault::Before(code.into()),
            });
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.clock.sleep(Duration::from_secs(60)).await;
            let operation = lab.operation("db-1.2").await;
            stuck.when(matches!(operation.status, Status::Stuck { .. }));
            repeated.when(operation.open_steps().iter().any(|step| step.step == "launch"));
            assert_eq!(operation.no_return(), None, "{code}: a refusal is no point of no return");
            lab.region.clear_faults();
            spec.instance_profile = Some("corrected".into());
            apply(&mut lab, &spec).await;
            lab.until("it ends", Duration::from_secs(200), async |lab| lab.node("db-1").await.open.is_none())
                .await;
            let launched = lab.operation("db-1.2").await.facts.launches.last_order.expect("it has launched");
            assert_eq!(launched.spec.instance_profile.as_deref(), Some("corrected"), "{code}");
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// The same for an interface that cannot be made with the groups of the file, also when its step was stuck, and when another process
/// may have tried it.
#[tokio::test(start_paused = true)]
async fn a_corrected_group_reaches_the_interface_that_is_being_made() {
    let mut stuck = Seen::at_least(2, "files that came when the operation was stuck");
    let mut repeated = Seen::at_least(4, "files that came while the refused call was repeated");
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni, NetworkMode::SecondaryIp] {
        for (wait_s, dies) in [(20, false), (20, true), (1_500, false)] {
            let mut lab = Lab::new(quick(3));
            let mut spec = lab.spec("db-1", network, RootMode::None);
            spec.security_groups = vec![GroupId::parse("sg-0123456789abcdef9").unwrap()];
            apply(&mut lab, &spec).await;
            lab.clock.sleep(Duration::from_secs(wait_s)).await;
            let operation = lab.operation("db-1.1").await;
            stuck.when(matches!(operation.status, Status::Stuck { .. }));
            repeated.when(operation.open_steps().iter().any(|step| step.step == "create_interface"));
            if dies {
                lab.kill().await;
                lab.start();
            }
            spec.security_groups.clear();
            apply(&mut lab, &spec).await;
            lab.until("it ends", Duration::from_secs(400), async |lab| lab.node("db-1").await.open.is_none())
                .await;
            lab.clock.sleep(REST).await;
            lab.check("db-1", &[]).await;
        }
    }
}

/// A new root from an image that does not exist is undone by itself; warned at any moment, the node comes back with its root.
#[tokio::test(start_paused = true)]
async fn a_new_root_that_cannot_be_had_leaves_the_node_under_care() {
    let mut undone = Seen::at_least(8, "operations that were undone by themselves");
    let mut taken_over = Seen::at_least(3, "operations that went on with the last good file");
    for wait_ms in (0..24).map(|n| 100 * n).chain([5_000, 60_000]) {
        for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni] {
            let (mut lab, _) = Lab::provisioned(quick(4), network, RootMode::Adopt, |_, _| ()).await;
            let image = lab.node("db-1").await.spec.unwrap().image;
            lab.submit("node.recycle", "db-1", json!({ "reimage": "ami-0123456789abcdef9" })).await;
            lab.clock.sleep(Duration::from_millis(wait_ms)).await;
            let old = lab.warn("db-1").await;
            lab.until("it is carried by another one", Duration::from_secs(600), async |lab| {
                let node = lab.node("db-1").await;
                node.open.is_none() && node.resources.carrier.is_some_and(|carrier| carrier.instance != old)
            })
            .await;
            assert_eq!(lab.node("db-1").await.spec.unwrap().image, image, "the file is as it was");
            let second = lab.operation("db-1.2").await;
            undone.when(matches!(second.status, Status::Finished { outcome: Outcome::Cancelled, .. }));
            let events = lab.operation_events("db-1.2").await;
            let changed = |event: &OperationEvent| {
                matches!(event, OperationEvent::SpecChanged { keeps_root: true, .. })
            };
            taken_over.when(events.iter().any(|(_, event)| changed(event)));
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// A file that EC2 refuses: the node is warned or lost before or after the operation is stuck, and comes back with the file that
/// its instance was launched by.
#[tokio::test(start_paused = true)]
async fn a_stuck_operation_does_not_unprotect_the_node() {
    let mut stuck = Seen::at_least(4, "operations that were stuck when the warning came");
    let mut taken_over = Seen::at_least(6, "operations that went on with the last good file");
    for wait_ms in [0, 500, 1_500, 3_000, 10_000, 60_000] {
        for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni] {
            let (mut lab, mut spec) = Lab::provisioned(quick(6), network, RootMode::Adopt, |_, _| ()).await;
            spec.security_groups = vec![GroupId::parse("sg-0123456789abcdef9").unwrap()];
            apply(&mut lab, &spec).await;
            lab.clock.sleep(Duration::from_secs(2)).await;
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.clock.sleep(Duration::from_millis(wait_ms)).await;
            let begun = lab.node("db-1").await.operations > 1;
            stuck.when(begun && lab.is_stuck("db-1.2").await);
            let old = lab.warn("db-1").await;
            lab.until("it is carried by another one", Duration::from_secs(600), async |lab| {
                let node = lab.node("db-1").await;
                node.open.is_none() && node.resources.carrier.is_some_and(|carrier| carrier.instance != old)
            })
            .await;
            let operations = lab.node("db-1").await.operations;
            let mut took = false;
            for n in 2..=operations {
                let events = lab.operation_events(&format!("db-1.{n}")).await;
                took |= events.iter().any(|(_, event)| matches!(event, OperationEvent::SpecChanged { .. }));
            }
            taken_over.when(took);
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// The image goes away before or in the middle of a replacement: the root goes on as an image of itself, and nothing of it is lost.
#[tokio::test(start_paused = true)]
async fn a_root_that_is_kept_goes_on_without_its_image() {
    let mut own = Seen::at_least(4, "roots that went on as an image of themselves");
    for wait_ms in [None, Some(0), Some(700), Some(2_000), Some(20_000)] {
        for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni] {
            let change = |lab: &Lab, spec: &mut NodeSpec| spec.image = own_image(lab);
            let (mut lab, spec) = Lab::provisioned(quick(8), network, RootMode::Adopt, change).await;
            lab.clock.sleep(Duration::from_secs(60)).await;
            if wait_ms.is_none() {
                deregister(&lab, &spec.image);
            }
            lab.warn("db-1").await;
            if let Some(wait_ms) = wait_ms {
                lab.clock.sleep(Duration::from_millis(wait_ms)).await;
                deregister(&lab, &spec.image);
            }
            lab.rest("db-1", 2).await;
            let events = lab.operation_events("db-1.2").await;
            own.when(
                events.iter().any(|(_, event)| {
                    matches!(event, OperationEvent::RootMethodChosen { instance: None, .. })
                }),
            );
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// Nobody is in a hurry: the node stays on its instance. With another image in the file it moves; a root that is not kept waits for
/// one, and goes on by itself.
#[tokio::test(start_paused = true)]
async fn another_image_is_named_where_one_is_gone() {
    let change = |lab: &Lab, spec: &mut NodeSpec| spec.image = own_image(lab);
    let (mut lab, mut spec) =
        Lab::provisioned(quick(9), NetworkMode::SecondaryIp, RootMode::Adopt, change).await;
    deregister(&lab, &spec.image);
    let old = lab.instance("db-1").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let second = lab.operation("db-1.2").await;
    assert!(matches!(second.status, Status::Finished { outcome: Outcome::Cancelled, .. }), "{second:?}");
    assert_eq!(lab.instance("db-1").await, old);
    lab.clock.sleep(REST).await;
    lab.check("db-1", &["before"]).await;
    spec.image = lab.region.with(|world, _| world.default_image());
    apply(&mut lab, &spec).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    assert_ne!(lab.instance("db-1").await, old);
    lab.clock.sleep(REST).await;
    lab.check("db-1", &["before"]).await;
    let said = lab.dispositions().await.join(" ");
    assert!(said.contains("does not change its content"), "{said}");

    let change = |lab: &Lab, spec: &mut NodeSpec| spec.image = own_image(lab);
    let (mut lab, mut spec) =
        Lab::provisioned(quick(9), NetworkMode::SecondaryIp, RootMode::None, change).await;
    deregister(&lab, &spec.image);
    lab.warn("db-1").await;
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains(spec.image.as_str()) && why.contains("node apply"), "{why}");
    spec.image = lab.region.with(|world, _| world.default_image());
    apply(&mut lab, &spec).await;
    lab.rest("db-1", 2).await;
    lab.clock.sleep(REST).await;
    lab.check("db-1", &["before"]).await;
}

/// No address is free: the node comes back onto the interface that it holds, in every mode, whenever the subnet fills up.
#[tokio::test(start_paused = true)]
async fn a_full_subnet_holds_no_node_that_has_an_address_there() {
    let mut refused = Seen::at_least(6, "launches that were refused for want of an address");
    let mut kept = Seen::at_least(4, "launches onto the interface that holds the address");
    for network in [
        NetworkMode::SecondaryIp,
        NetworkMode::IpPool,
        NetworkMode::SecondaryEni,
        NetworkMode::PrimaryEni,
        NetworkMode::None,
    ] {
        for (seed, with_notice) in [(1, true), (2, false), (3, true)] {
            let (mut lab, spec) = Lab::provisioned(quick(seed), network, RootMode::Adopt, |_, _| ()).await;
            lab.region.with(|world, _| world.leave_free_addresses(&spec.subnet, 0));
            if with_notice {
                lab.warn("db-1").await;
            } else {
                lab.reclaim("db-1").await;
            }
            lab.rest("db-1", 2).await;
            let events = lab.operation_events("db-1.2").await;
            let is_refused = |event: &OperationEvent| {
                matches!(event, OperationEvent::StepSettled { evidence: Evidence::NoAddress { .. }, .. })
            };
            refused.when(events.iter().any(|(_, event)| is_refused(event)));
            let moves = matches!(network, NetworkMode::SecondaryIp | NetworkMode::IpPool);
            kept.when(moves);
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
            // It is a node like any other again.
            lab.region.with(|world, _| world.leave_free_addresses(&spec.subnet, 100));
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", 3).await;
            lab.clock.sleep(REST).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// The same, with a death at every third point.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_in_a_full_subnet() {
    let run = async |k| {
        let (mut lab, spec) =
            Lab::provisioned(quick(4), NetworkMode::SecondaryIp, RootMode::Adopt, |_, _| ()).await;
        lab.region.with(|world, _| world.leave_free_addresses(&spec.subnet, 0));
        lab.die_at(k);
        lab.reclaim("db-1").await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(REST).await;
        lab.check("db-1", &["before"]).await;
        lab
    };
    Deaths { more_than: 20, first: 1, stride: 3 }.of(run).await;
}

/// The checks that fail for a file, by what they look at.
async fn fails(lab: &Lab, spec: &NodeSpec, is_new: bool) -> Vec<String> {
    let cloud = lab.region.connect();
    let checks = preflight::of_node(&cloud, spec, is_new).await;
    assert!(
        checks.iter().all(|check| (check.verdict == Verdict::Ok) == check.to_do.is_empty()),
        "{checks:?}"
    );
    let failed = checks.into_iter().filter(|check| check.verdict == Verdict::Fail);
    failed.map(|check| check.check).collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_is_checked_before_it_is_applied() {
    let lab = Lab::new(quick(1));
    let good = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    assert_eq!(fails(&lab, &good, true).await, Vec::<String>::new());
    let check = async |change: fn(&mut NodeSpec), wanted: &[&str]| {
        let mut spec = good.clone();
        change(&mut spec);
        let failed = fails(&lab, &spec, true).await;
        for wanted in wanted {
            assert!(failed.iter().any(|check| check == wanted), "{wanted}: {failed:?}");
        }
        let others = failed.iter().filter(|check| !check.starts_with("launch"));
        assert_eq!(others.count(), wanted.len(), "{wanted:?}: {failed:?}");
    };
    check(|spec| spec.image = ImageId::parse("ami-9").unwrap(), &["image"]).await;
    check(|spec| spec.subnet = SubnetId::parse("subnet-9").unwrap(), &["subnet"]).await;
    check(|spec| spec.private_ip = Some("10.9.9.9".parse().unwrap()), &["private_ip"]).await;
    check(|spec| spec.capacity.instance_types = vec!["m6g.large".into()], &["m6g.large"]).await;
    check(|spec| spec.data_volumes[0].volume_type = "gp9".into(), &["volume data"]).await;
    check(
        |spec| {
            spec.data_volumes[0].volume_type = "io2".into();
            spec.data_volumes[0].iops = None;
        },
        &["volume data"],
    )
    .await;
    check(
        |spec| {
            spec.data_volumes[0].volume_type = "st1".into();
            spec.data_volumes[0].size_gib = 10;
        },
        &["volume data"],
    )
    .await;
    check(|spec| spec.data_volumes[0].throughput = Some(5), &["volume data"]).await;
    check(|spec| spec.security_groups = vec![GroupId::parse("sg-0123456789abcdef9").unwrap()], &[]).await;
    // A full subnet is nothing to a node that holds an address, and no mistake in the file of a new one.
    lab.region.with(|world, _| world.leave_free_addresses(&good.subnet, 0));
    assert_eq!(fails(&lab, &good, false).await, Vec::<String>::new());
    assert_eq!(fails(&lab, &good, true).await, Vec::<String>::new());
    let image = preflight::of_image(&lab.region.connect(), &ImageId::parse("ami-9").unwrap()).await;
    assert!(image.is_err_and(|why| why.contains("ami-9")));
    assert_eq!(preflight::of_image(&lab.region.connect(), &good.image).await, Ok(()));
}

/// The first version of a new launch template is the only one.
pub fn launch_template(lab: &Lab, version: u32) -> LaunchTemplate {
    let make =
        |world: &mut World, now_ms| world.create_template(now_ms, "base", BTreeMap::new(), &Tags::new());
    let id = lab.region.with(make).unwrap();
    LaunchTemplate { id: LaunchTemplateId::parse(&id).unwrap(), version }
}

#[tokio::test(start_paused = true)]
async fn a_launch_template_is_a_version_that_exists_and_every_launch_names_it() {
    let mut lab = Lab::new(quick(4));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.launch_template = Some(launch_template(&lab, 2));
    apply(&mut lab, &spec).await;
    let told = lab.stuck("db-1.1").await;
    assert!(told.contains("InvalidLaunchTemplateId.VersionNotFound"), "{told}");
    let template = spec.launch_template.as_mut().unwrap();
    template.version = 1;
    let template = template.clone();
    apply(&mut lab, &spec).await;
    lab.rest("db-1", 1).await;
    lab.reclaim("db-1").await;
    lab.rest("db-1", 2).await;
    let launch = lab.operation_events("db-1.2").await.into_iter().find_map(|(_, event)| match event {
        OperationEvent::StepIntended { intent: Intent::Launch(launch), .. } => Some(launch),
        _ => None,
    });
    let launch = launch.unwrap();
    assert_eq!((launch.template, launch.metadata), (Some(template), None), "the template says the rest");
}
