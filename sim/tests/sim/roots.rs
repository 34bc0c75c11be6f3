//! The ladder of the root, and what each of its rungs costs: recorded from what was observed, and checked against what the guest
//! reads.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{quick_snapshots, slot};
use crate::sweep::{Deaths, Seen};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::{RootAdoption, Settings, Span};
use perennial_workers::port::error::Action;
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::model::resources::RecoveryPoint;
use perennial_workflows::model::uefi::UefiVariables;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::RootLoss;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use perennial_workflows::step::evidence::Evidence;
use serde_json::json;

fn settings() -> Settings {
    let mut settings = quick_snapshots(7);
    settings.latencies.shutdown = Span::ms(6_000, 8_000);
    settings
}

/// A node with a backup, and something written after it.
async fn backed_up(settings: Settings, root: RootMode, change: impl FnOnce(&mut NodeSpec)) -> Lab {
    Lab::backed_up(settings, NetworkMode::SecondaryIp, root, change).await.0
}

/// The instance ends unseen, and a volume of the node's with it.
async fn lose(lab: &mut Lab, name: &str) {
    let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", name).await);
    lab.kill().await;
    lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &old).unwrap());
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, &volume).unwrap());
    lab.start();
}

/// What the operation that ended last says of the loss of a volume, in milliseconds; `None` for all of it.
async fn loss_ms(lab: &Lab, name: &str) -> Option<u64> {
    let node = lab.node("db-1").await;
    let origin = node.resources.recovery_points.get(&slot(name));
    origin.unwrap_or_else(|| panic!("{name}: {:?}", node.resources.recovery_points)).loss_ms()
}

#[tokio::test(start_paused = true)]
async fn every_way_of_carrying_records_what_it_lost() {
    for root in [RootMode::Adopt, RootMode::Image, RootMode::None] {
        for data in [DataMode::Reattach, DataMode::Snapshot] {
            for adoption in
                [RootAdoption::Supported, RootAdoption::Unsupported("UnsupportedOperation".into())]
            {
                let what = format!("{root:?} {data:?} {adoption:?}");
                let mut settings = settings();
                settings.root_adoption = adoption.clone();
                let mut lab = backed_up(settings, root, |spec| spec.persist.data = data).await;
                let first = lab.node("db-1").await.resources;
                assert!(
                    first.recovery_points.is_empty(),
                    "{what}: nothing was there before: {:?}",
                    first.recovery_points
                );
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.rest("db-1", 2).await;
                lab.check("db-1", &[]).await;
                let after = lab.node("db-1").await.resources;
                // What is said to be the same volume is, and what is said to be a copy is another one.
                for (slot, origin) in &after.recovery_points {
                    let is_same = first.volumes[slot].volume == after.volumes[slot].volume;
                    assert_eq!(is_same, *origin == RecoveryPoint::SameVolume, "{what} {slot}: {origin:?}");
                    assert!(!origin.is_loss(), "{what} {slot}: {origin:?}");
                    assert!(lab.reads("db-1", &slot.to_string(), "after the backup").await, "{what} {slot}");
                }
                let kept: Vec<String> = after.recovery_points.keys().map(ToString::to_string).collect();
                let expected: &[&str] = if root == RootMode::None { &["data"] } else { &["root", "data"] };
                assert_eq!(kept, expected, "{what}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_and_a_new_image_record_what_they_lost() {
    let mut lab = backed_up(settings(), RootMode::Adopt, |_| ()).await;
    let taken_at_ms = lab.catalog("db-1").await.last_complete().unwrap().taken_at_ms.unwrap();
    lab.submit("node.restore", "db-1", json!({ "backup": "db-1.b1", "only": ["data"] })).await;
    lab.rest("db-1", 2).await;
    let lost_ms = loss_ms(&lab, "data").await.expect("a window");
    assert!(lost_ms >= 60_000 && lost_ms <= lab.clock.now_ms() - taken_at_ms, "{lost_ms}");
    assert_eq!(loss_ms(&lab, "root").await, Some(0));
    assert!(
        !lab.reads("db-1", "data", "after the backup").await
            && lab.reads("db-1", "root", "after the backup").await
    );
    let image = lab.node("db-1").await.spec.unwrap().image;
    lab.submit("node.recycle", "db-1", json!({ "reimage": image })).await;
    lab.rest("db-1", 3).await;
    assert_eq!(loss_ms(&lab, "root").await, None, "all of it");
    assert_eq!(loss_ms(&lab, "data").await, Some(0), "of this operation, not of the one before");
    assert!(!lab.reads("db-1", "root", "after the backup").await);
    // A pause brings nothing anywhere, and a growth neither.
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 4).await;
    lab.submit("node.resume", "db-1", json!({})).await;
    lab.rest("db-1", 5).await;
    assert_eq!(loss_ms(&lab, "root").await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_is_lost_comes_back_from_the_newest_backup_by_itself() {
    for root in [RootMode::Adopt, RootMode::Image] {
        let mut lab = backed_up(settings(), root, |_| ()).await;
        let before = lab.node("db-1").await.resources;
        lose(&mut lab, "root").await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        let after = lab.node("db-1").await.resources;
        assert!(
            lab.reads("db-1", "root", "before").await && !lab.reads("db-1", "root", "after the backup").await
        );
        assert!(
            lab.reads("db-1", "data", "after the backup").await,
            "only what is lost comes from the backup"
        );
        let lost_ms = loss_ms(&lab, "root").await.expect("a window");
        assert!((60_000..900_000).contains(&lost_ms), "{root:?}: {lost_ms}\n{}", lab.story().await);
        assert_eq!(loss_ms(&lab, "data").await, Some(0));
        assert_eq!(after.address, before.address);
        assert_eq!(after.volumes[&slot("data")].volume, before.volumes[&slot("data")].volume);
        lab.check("db-1", &[]).await;
        // The backup stays the node's; from here on it is a node like any other.
        assert_eq!(lab.catalog("db-1").await.complete().count(), 1);
        lab.write("db-1", "new times").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        assert!(lab.reads("db-1", "root", "new times").await);
        assert_eq!(loss_ms(&lab, "root").await, Some(0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_lost_root_of_a_paused_node_comes_back_as_well() {
    for root in [RootMode::Adopt, RootMode::Image] {
        let mut lab = backed_up(settings(), root, |_| ()).await;
        let volume = lab.volume("db-1", "root").await;
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.region.with(|world, now_ms| world.delete_volume(now_ms, &volume).unwrap());
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        assert!(lab.reads("db-1", "root", "before").await, "{root:?}\n{}", lab.story().await);
        assert!(loss_ms(&lab, "root").await.is_some_and(|lost_ms| lost_ms > 0));
        lab.check("db-1", &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_person_decides_where_the_file_says_so_or_no_backup_is_complete_or_data_is_lost() {
    for case in ["stuck", "none", "data"] {
        let mut lab = backed_up(settings(), RootMode::Adopt, |spec| {
            spec.persist.root_loss = (case == "stuck").then_some(RootLoss::Stuck);
        })
        .await;
        if case == "none" {
            // One that has failed is none.
            lab = Lab::new(settings());
            let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
            lab.provision(&spec).await;
        }
        lose(&mut lab, if case == "data" { "data" } else { "root" }).await;
        let why = lab.stuck("db-1.2").await;
        lab.clock.sleep(Duration::from_secs(3_600)).await;
        assert!(lab.is_stuck("db-1.2").await, "{case}: {why}\n{}", lab.story().await);
        assert_eq!(why.contains("goes on from by itself"), case == "none", "{case}: {why}");
        // And a person can.
        let lost = if case == "data" { "data" } else { "root" };
        lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2", "accept_loss": [lost] })).await;
        lab.rest("db-1", 2).await;
        assert_eq!(loss_ms(&lab, lost).await, None, "{case}: all of it");
        assert!(!lab.reads("db-1", lost, "before").await);
    }
}

/// A backup that is under way when the root is lost is waited for: it is the newest.
#[tokio::test(start_paused = true)]
async fn the_backup_under_way_is_the_one_that_is_taken() {
    let mut settings = settings();
    settings.latencies.snapshot = Span::ms(200_000, 200_000);
    let mut lab = Lab::new(settings);
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    spec.backup = Some(BackupSpec { every_min: 720, keep: 1, ..BackupSpec::default() });
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    lab.submit("node.backup", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(30)).await;
    assert!(lab.catalog("db-1").await.under_way().is_some());
    lose(&mut lab, "root").await;
    lab.rest("db-1", 2).await;
    assert!(lab.reads("db-1", "root", "before").await, "{}", lab.story().await);
    assert!(loss_ms(&lab, "root").await.is_some_and(|lost_ms| lost_ms > 0));
}

/// Dies at every second point of an operation that finds the root lost.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_rescue() {
    let run = async |k| {
        let mut lab = backed_up(settings(), RootMode::Adopt, |_| ()).await;
        lose(&mut lab, "root").await;
        lab.die_at(k);
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(400)).await;
        assert!(lab.reads("db-1", "root", "before").await, "at {k}\n{}", lab.story().await);
        assert!(lab.reads("db-1", "data", "after the backup").await, "at {k}");
        lab.check("db-1", &[]).await;
        let node = lab.node("db-1").await;
        assert_eq!((node.operations, node.generation), (2, 2), "at {k}");
        assert_eq!(lab.operation("db-1.2").await.order.kind, OperationKind::Replace);
        lab
    };
    Deaths::at_every_other_point(40).of(run).await;
}

/// Where the adoption of the very volume fails, a clone of it is adopted: the content is the same, the old volume is retained.
#[tokio::test(start_paused = true)]
async fn a_clone_carries_the_root_whose_adoption_fails() {
    for network in [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni] {
        let mut lab = backed_up(settings(), RootMode::Adopt, |spec| spec.persist.network = network).await;
        let old = lab.volume("db-1", "root").await;
        lab.region.with(|world, _| world.set_root_adoption(RootAdoption::FailsFor(old.to_string())));
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        let after = lab.node("db-1").await.resources;
        assert_eq!(
            after.recovery_points[&slot("root")],
            RecoveryPoint::Clone { of: old.clone() },
            "{}",
            lab.story().await
        );
        assert!(after.root_images.is_empty(), "no image was needed");
        assert!(after.retained.iter().any(|kept| kept.volume == old), "{:?}", after.retained);
        assert!(lab.region.with(|world, _| world.volume(&old).is_some()));
        lab.check("db-1", &["before", "after the backup"]).await;
        // From here on the clone is the very volume.
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        assert_eq!(
            lab.node("db-1").await.resources.recovery_points[&slot("root")],
            RecoveryPoint::SameVolume
        );
        lab.check("db-1", &["after the backup"]).await;
    }
}

/// How the root was carried in the end, with the rungs that were given up.
async fn rungs(lab: &Lab, workflow: &str) -> Vec<String> {
    let chosen = lab.operation_events(workflow).await.into_iter().filter_map(|(_, event)| match event {
        OperationEvent::RootMethodChosen { from, to, because, .. } => {
            Some(format!("{from} > {to}: {because}"))
        }
        _ => None,
    });
    chosen.collect()
}

/// Every other refusal, of the task or of the copy, ends with an image of the old volume; no copy is left.
#[tokio::test(start_paused = true)]
async fn an_image_carries_the_root_where_a_clone_cannot() {
    let refusals = ["UnsupportedOperation", "UnauthorizedOperation", "VolumeLimitExceeded", "IncorrectState"];
    let copies = refusals.map(|code| (RootAdoption::FailsEachTime, Some(code), 2));
    let tasks = [
        (RootAdoption::FailsEachTime, None, 2),
        (RootAdoption::FailedDetached, None, 2),
        (RootAdoption::Unsupported("UnsupportedOperation".into()), None, 1),
    ];
    for (adoption, copy, steps) in copies.into_iter().chain(tasks) {
        let what = format!("{adoption:?} {copy:?}");
        let mut settings = settings();
        settings.root_adoption = adoption;
        let mut lab = backed_up(settings, RootMode::Adopt, |_| ()).await;
        if let Some(code) = copy {
            lab.region.inject(Rule {
                target: Target::Only(Action::CopyVolumes),
                when: When::Always,
                fault: Fault::Before(code.into()),
            });
        }
        let old = lab.volume("db-1", "root").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        let told = rungs(&lab, "db-1.2").await;
        assert_eq!(told.len(), steps, "{what}: {told:?}");
        assert!(told.last().unwrap().contains("> image: "), "{what}: {told:?}");
        if let Some(code) = copy {
            assert!(told[1].starts_with(&format!("clone > image: CopyVolumes: {code}")), "{what}: {told:?}");
        }
        let after = lab.node("db-1").await.resources;
        assert!(
            matches!(after.recovery_points[&slot("root")], RecoveryPoint::FinalSnapshot { .. }),
            "{what}"
        );
        assert!(after.orphans.is_empty(), "{what}: {:?}", after.orphans);
        let kept: Vec<_> = after.retained.iter().map(|kept| kept.volume.clone()).collect();
        assert_eq!(kept, [old], "{what}: the old volume, and no copy of it");
        lab.check("db-1", &["before", "after the backup"]).await;
    }
}

/// Dies at every fifth point of a replacement that goes on by a clone.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_clone() {
    let run = async |k| {
        let mut lab = backed_up(settings(), RootMode::Adopt, |_| ()).await;
        let old = lab.volume("db-1", "root").await;
        lab.region.with(|world, _| world.set_root_adoption(RootAdoption::FailsFor(old.to_string())));
        lab.die_at(k);
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(400)).await;
        lab.check("db-1", &["before", "after the backup"]).await;
        let after = lab.node("db-1").await.resources;
        let told = rungs(&lab, "db-1.2").await;
        let expected = match after.recovery_points[&slot("root")] {
            RecoveryPoint::Clone { .. } => vec![old.clone()],
            // A death in the middle of an adoption can make it end in another way.
            _ => panic!("at {k}: {told:?}"),
        };
        let kept: Vec<_> = after.retained.iter().map(|kept| kept.volume.clone()).collect();
        assert_eq!(kept, expected, "at {k}: {told:?}");
        lab
    };
    Deaths { stride: 5, ..Deaths::at_every_point(60) }.of(run).await;
}

/// The instance that adopts the clone is lost, at any second: the next one adopts it, or an image carries what it has.
#[tokio::test(start_paused = true)]
async fn an_interruption_at_any_second_of_a_clone() {
    let mut news = Seen::at_least(20, "new instances that were lost");
    for second in (2..150).step_by(4) {
        let mut lab = backed_up(settings(), RootMode::Adopt, |_| ()).await;
        let (old, carrier) = (lab.volume("db-1", "root").await, lab.instance("db-1").await);
        lab.region.with(|world, _| world.set_root_adoption(RootAdoption::FailsFor(old.to_string())));
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(second)).await;
        lab.region.with(|world, now_ms| {
            let live: Vec<_> = world.instances_of("db-1").iter().map(|i| i.id.clone()).collect();
            for instance in live {
                let lost = world.reclaim_now(now_ms, &instance).is_ok();
                news.when(lost && instance != carrier);
            }
        });
        lab.until("at rest", Duration::from_secs(4 * 3_600), async |lab| {
            let node = lab.node("db-1").await;
            let carrier = node.resources.carrier.as_ref().map(|carrier| carrier.instance.clone());
            let lives = carrier.is_some_and(|instance| {
                lab.region.with(|world, _| world.instance(&instance).is_some_and(|i| !i.state.is_over()))
            });
            node.open.is_none() && lives
        })
        .await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        lab.check("db-1", &["before", "after the backup"]).await;
        let retained = lab.node("db-1").await.resources.retained;
        assert!(retained.iter().any(|kept| kept.volume == old), "second {second}: {retained:?}");
        assert!(lab.region.with(|world, _| world.volume(&old).is_some()), "second {second}");
    }
}

/// EC2 takes the platform of an image from its snapshot's own metadata, or not; whatever differs is told, and the node comes back.
#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_as_the_nodes_own_is_told() {
    for platform in [None, Some("windows")] {
        let mut lab = Lab::new(settings());
        let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Image);
        if let Some(platform) = platform {
            lab.region.with(|world, _| world.set_platform(&spec.image, platform));
        }
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(300)).await;
        lab.check("db-1", &["before"]).await;
        let events = lab.operation_events("db-1.2").await;
        let told = events.iter().find_map(|(_, event)| match event {
            OperationEvent::StepSettled { evidence: Evidence::ImageAvailable { differs, .. }, .. } => {
                Some(differs.clone())
            }
            _ => None,
        });
        let expected: &[&str] = if platform.is_some() { &["platform none instead of windows"] } else { &[] };
        assert_eq!(told.expect("the root went on as an image"), expected, "{platform:?}");
    }
}

/// The UEFI variables of a node's instance.
async fn variables(lab: &Lab) -> Option<String> {
    let instance = lab.instance("db-1").await;
    lab.region.with(|world, _| world.instance(&instance).unwrap().uefi_data.clone())
}

async fn set_variables(lab: &Lab, data: &str) {
    let instance = lab.instance("db-1").await;
    lab.region.with(|world, _| world.set_uefi_data(&instance, data));
}

/// They are the instance's and would end with it; an image gets them, and what was read last serves after an unannounced loss.
#[tokio::test(start_paused = true)]
async fn the_uefi_variables_go_on_with_an_image_of_the_root() {
    for workflow in ["node.replace", "node.pause"] {
        let mut lab = backed_up(settings(), RootMode::Image, |_| ()).await;
        set_variables(&lab, "Zmlyc3Q=").await;
        lab.submit(workflow, "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        if workflow == "node.pause" {
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 3).await;
        }
        assert_eq!(variables(&lab).await.as_deref(), Some("Zmlyc3Q="), "{workflow}");
        // Nobody reads what was changed since.
        set_variables(&lab, "c2Vjb25k").await;
        let old = lab.reclaim("db-1").await;
        lab.clock.sleep(Duration::from_secs(900)).await;
        lab.check("db-1", &["before", "after the backup"]).await;
        assert_ne!(lab.instance("db-1").await, old);
        assert_eq!(variables(&lab).await.as_deref(), Some("Zmlyc3Q="), "{workflow}");
    }
}

/// What cannot be read holds nothing up, and the history says why.
#[tokio::test(start_paused = true)]
async fn uefi_variables_that_cannot_be_read_hold_nothing_up() {
    for code in ["UnauthorizedOperation", "RequestLimitExceeded", "InternalError"] {
        let mut lab = backed_up(settings(), RootMode::Image, |_| ()).await;
        set_variables(&lab, "Zmlyc3Q=").await;
        lab.region.inject(Rule {
            target: Target::Only(Action::GetInstanceUefiData),
            when: When::Always,
            fault: Fault::Before(code.into()),
        });
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.check("db-1", &["before", "after the backup"]).await;
        assert_eq!(variables(&lab).await, None, "{code}");
        let steps = lab.operation("db-1.2").await.steps;
        let read = steps.values().find_map(|record| match &record.outcome {
            Some((Evidence::PreservedWith { uefi: Some(seen), .. }, at_ms)) => {
                Some((seen.clone(), at_ms - record.intended_at_ms))
            }
            _ => None,
        });
        let (seen, took_ms) = read.expect("they were asked for");
        assert!(matches!(&seen, UefiVariables::Unread { because } if because.contains(code)), "{seen:?}");
        assert!(took_ms < 10_000, "{code}: {took_ms}");
    }
}

/// Where EC2 refuses them, the image is registered without: the root comes back all the same.
#[tokio::test(start_paused = true)]
async fn an_image_that_is_refused_with_uefi_variables_is_registered_without() {
    let mut lab = backed_up(settings(), RootMode::Image, |_| ()).await;
    set_variables(&lab, "Zmlyc3Q=").await;
    lab.region.inject(Rule {
        target: Target::Only(Action::RegisterImage),
        when: When::Next(1),
        fault: Fault::Before("InvalidParameterValue".into()),
    });
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    lab.check("db-1", &["before", "after the backup"]).await;
    assert_eq!(variables(&lab).await, None);
}

/// A node without a root of its own, or whose image boots otherwise, is not asked for them.
#[tokio::test(start_paused = true)]
async fn uefi_variables_are_asked_for_only_where_there_are_any() {
    for (root, boot_mode, expected) in [
        (RootMode::Image, "uefi", true),
        (RootMode::Image, "legacy-bios", false),
        (RootMode::None, "uefi", false),
    ] {
        let mut lab = Lab::new(settings());
        let spec = lab.spec("db-1", NetworkMode::SecondaryIp, root);
        lab.region.with(|world, _| world.set_boot_mode(&spec.image, boot_mode));
        lab.provision(&spec).await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        let asked = lab.region.calls().iter().any(|call| call.action == Action::GetInstanceUefiData);
        assert_eq!(asked, expected, "{root:?} {boot_mode}");
    }
}
