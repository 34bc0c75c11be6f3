//! Volumes that somebody attached to the instance by hand: the node's from then on, until somebody detaches them.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::slot;
use crate::sweep::{Deaths, Seen};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_sim::world::{DeviceMapping, Notice, World};
use perennial_workers::periodic::sweep;
use perennial_workers::port::error::Action;
use perennial_workers::port::{ImageRequest, Tags, VolumeRequest};
use perennial_workflows::model::aws::{ImageId, InstanceId, Market, VolumeId};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::operation_id::{OperationKind, Outcome};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::AttachedVolumes;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, NodeSpec, RootMode, ZoneChange};
use perennial_workflows::spec::signals::{RebalancePolicy, SignalsSpec};
use serde_json::json;

/// A free volume of somebody's, in the node's zone.
pub async fn volume(lab: &Lab, tags: &[(&str, &str)]) -> VolumeId {
    let tags: Tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let made = lab.region.with(|world, now_ms| {
        let request = VolumeRequest {
            client_token: format!("{} {now_ms}", tags.len()),
            zone: world.zones()[0].clone(),
            size_gib: 20,
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags,
        };
        world.create_volume(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(30)).await;
    made
}

/// Attaches it to an instance, and waits until it is.
pub async fn attach(lab: &Lab, instance: &InstanceId, volume: &VolumeId, device: &str) {
    lab.region.with(|world, now_ms| world.attach_volume(now_ms, volume, instance, device).unwrap());
    lab.clock.sleep(Duration::from_secs(8)).await;
}

pub async fn detach(lab: &Lab, instance: &InstanceId, volume: &VolumeId) {
    lab.region.with(|world, now_ms| {
        world.unmount(now_ms, instance, volume).unwrap();
        world.detach_volume(now_ms, volume, Some(instance)).unwrap();
    });
    lab.clock.sleep(Duration::from_secs(20)).await;
}

async fn provisioned(settings: Settings, change: impl FnOnce(&mut NodeSpec)) -> Lab {
    let change = |_: &Lab, spec: &mut NodeSpec| change(spec);
    Lab::provisioned(settings, NetworkMode::SecondaryIp, RootMode::Adopt, change).await.0
}

/// A node with a volume that the sweep has found, and a record on each of its volumes.
async fn with_found(settings: Settings, change: impl FnOnce(&mut NodeSpec)) -> (Lab, VolumeId) {
    let mut lab = provisioned(settings, change).await;
    let logs = volume(&lab, &[("Name", "logs")]).await;
    let instance = lab.instance("db-1").await;
    attach(&lab, &instance, &logs, "/dev/sdh").await;
    lab.rest("db-1", 2).await;
    lab.write("db-1", "before").await;
    (lab, logs)
}

/// Whether a volume exists still; the world also remembers what is gone.
fn exists(world: &World, volume: &VolumeId) -> bool {
    world.all_volumes().any(|known| known.id == *volume)
}

fn slots(node: &perennial_workflows::aggregate::node::Node) -> Vec<String> {
    node.resources.volumes.keys().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn what_somebody_attached_becomes_the_nodes_and_is_carried_like_its_own() {
    let (mut lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    let node = lab.node("db-1").await;
    assert_eq!((node.generation, node.operations), (1, 2), "the same instance carries it");
    assert_eq!(slots(&node), ["root", "data", "logs"]);
    let held = &node.resources.volumes[&Slot::try_from("logs".to_owned()).unwrap()];
    assert_eq!((&held.volume, held.device.as_str(), held.size_gib), (&logs, "/dev/sdh", Some(20)));
    lab.check("db-1", &["before"]).await;
    // Planned, warned and unannounced; paused and resumed.
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    lab.check("db-1", &["before"]).await;
    for (operations, sudden) in [(4, false), (5, true)] {
        let old = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| {
            if sudden {
                world.reclaim_now(now_ms, &old).unwrap();
            } else {
                world.interrupt(now_ms, &old, Notice::default()).unwrap();
            }
        });
        lab.rest("db-1", operations).await;
        lab.check("db-1", &["before"]).await;
    }
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 6).await;
    lab.submit("node.resume", "db-1", json!({})).await;
    lab.rest("db-1", 7).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.volume("db-1", "logs").await, logs, "the very same volume");
    lab.clock.sleep(sweep::EVERY * 5).await;
    assert_eq!(lab.node("db-1").await.operations, 7, "nothing new is found");
}

#[tokio::test(start_paused = true)]
async fn no_deletion_deletes_what_somebody_else_made() {
    let (mut lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    let data = lab.volume("db-1", "data").await;
    let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
    lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
    lab.rest("db-1", 3).await;
    lab.check_without_instance("db-1").await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.region.with(|world, _| {
        assert!(!exists(world, &data), "the node's own is gone");
        assert!(exists(world, &logs) && world.volume(&logs).unwrap().attachment.is_none(), "{logs} is free");
    });
    assert_eq!(slots(&lab.node("db-1").await), ["logs"], "and stays listed");
}

#[tokio::test(start_paused = true)]
async fn an_operation_finds_what_no_sweep_has_seen_before_it_takes_anything_away() {
    for (workflow, handover, kept) in [
        ("node.replace", Handover::Terminate, true),
        ("node.replace", Handover::Detach, true),
        ("node.pause", Handover::Terminate, true),
        ("node.delete", Handover::Terminate, true),
        ("node.delete", Handover::Terminate, false),
    ] {
        let mut lab = provisioned(Settings::calm(7), |spec| spec.persist.handover = handover).await;
        let logs = volume(&lab, &[]).await;
        let instance = lab.instance("db-1").await;
        // A termination would delete it.
        lab.region.with(|world, now_ms| {
            world.attach_volume(now_ms, &logs, &instance, "/dev/sdh").unwrap();
        });
        lab.clock.sleep(Duration::from_secs(3)).await;
        lab.region.with(|world, now_ms| {
            let devices = [("/dev/sdh".to_owned(), true)];
            world.modify_delete_on_termination(now_ms, &instance, &devices).unwrap();
            world.write(now_ms, &instance, "/dev/sdh", "before").unwrap();
        });
        lab.write("db-1", "before").await;
        let keep = json!({ "root": kept, "data": kept, "network": kept, "backups": kept });
        let params = if workflow == "node.delete" { json!({ "keep": keep }) } else { json!({}) };
        lab.submit(workflow, "db-1", params).await;
        lab.rest("db-1", 2).await;
        let node = lab.node("db-1").await;
        let about = format!("{workflow} {handover:?}\n{}", lab.story().await);
        assert!(slots(&node).contains(&"sdh".to_owned()), "{about}");
        match workflow {
            "node.replace" => lab.check("db-1", &["before"]).await,
            "node.pause" => {
                lab.check_without_instance("db-1").await;
                lab.submit("node.resume", "db-1", json!({})).await;
                lab.rest("db-1", 3).await;
                lab.check("db-1", &["before"]).await;
            }
            _ => lab.check_without_instance("db-1").await,
        }
        lab.region.with(|world, _| {
            assert!(exists(world, &logs), "{about}");
            assert!(world.volume(&logs).unwrap().content.contains(&"before".to_owned()), "{about}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_sweep_finds_would_survive_its_instance_at_once() {
    let mut lab = provisioned(Settings::calm(7), |_| {}).await;
    let logs = volume(&lab, &[]).await;
    let instance = lab.instance("db-1").await;
    attach(&lab, &instance, &logs, "/dev/sdh").await;
    lab.region.with(|world, now_ms| {
        let devices = [("/dev/sdh".to_owned(), true)];
        world.modify_delete_on_termination(now_ms, &instance, &devices).unwrap();
    });
    lab.rest("db-1", 2).await;
    let at_risk = lab.region.with(|world, _| world.would_be_deleted_with(&instance));
    assert!(!at_risk.contains(&logs.to_string()), "{at_risk:?}");
    let events = lab.operation_events("db-1.2").await;
    let told = format!("{events:?}");
    assert!(told.contains("VolumeFound") && told.contains("sdh"), "{told}");
    assert_eq!(lab.operation("db-1.2").await.order.kind, OperationKind::AdoptVolumes);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_detaches_is_given_back_and_taken_again() {
    let (mut lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    let instance = lab.instance("db-1").await;
    detach(&lab, &instance, &logs).await;
    lab.until("it is given back", Duration::from_secs(120), async |lab| {
        !slots(&lab.node("db-1").await).contains(&"logs".to_owned())
    })
    .await;
    lab.check("db-1", &["before"]).await;
    lab.region.with(|world, _| assert!(exists(world, &logs)));
    assert_eq!(lab.node("db-1").await.operations, 2, "no operation was needed");
    attach(&lab, &instance, &logs, "/dev/sdj").await;
    lab.rest("db-1", 3).await;
    assert_eq!(lab.volume("db-1", "logs").await, logs);
    // What the file names stays the node's.
    let data = lab.volume("db-1", "data").await;
    detach(&lab, &instance, &data).await;
    lab.clock.sleep(sweep::EVERY * 6).await;
    assert_eq!(lab.volume("db-1", "data").await, data);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 4).await;
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_moment_without_it_is_no_farewell() {
    let (lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    let instance = lab.instance("db-1").await;
    for _ in 0..10 {
        lab.region.with(|world, now_ms| {
            world.unmount(now_ms, &instance, &logs).unwrap();
            world.detach_volume(now_ms, &logs, Some(&instance)).unwrap();
        });
        lab.clock.sleep(Duration::from_secs(7)).await;
        attach(&lab, &instance, &logs, "/dev/sdh").await;
    }
    lab.clock.sleep(sweep::EVERY * 3).await;
    assert_eq!(lab.volume("db-1", "logs").await, logs);
    assert_eq!(lab.node("db-1").await.operations, 2);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_taken_is_left_alone_and_told_once() {
    let shared = async |lab: &Lab| {
        let made = volume(lab, &[]).await;
        lab.region.with(|world, _| world.enable_multi_attach(&made));
        made
    };
    let others =
        async |lab: &Lab| volume(lab, &[("perennial:owner", "another"), ("perennial:node", "db-9")]).await;
    for (multi, because) in [(true, "several instances at once"), (false, "another made for node db-9")] {
        let mut lab = provisioned(Settings::calm(7), |_| {}).await;
        let stranger = if multi { shared(&lab).await } else { others(&lab).await };
        let instance = lab.instance("db-1").await;
        attach(&lab, &instance, &stranger, "/dev/sdh").await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(sweep::EVERY * 8).await;
        let node = lab.node("db-1").await;
        assert_eq!(node.operations, 2, "told once\n{}", lab.story().await);
        assert_eq!(slots(&node), ["root", "data"]);
        let [left] = node.resources.unmanaged.as_slice() else { panic!("{:?}", node.resources.unmanaged) };
        assert!(left.volume == stranger && left.because.contains(because), "{left:?}");
        // A replacement goes on without it.
        lab.write("db-1", "before").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.check("db-1", &["before"]).await;
        lab.region.with(|world, _| {
            assert!(world.forced_detaches().is_empty());
            assert!(exists(world, &stranger), "it was never ours to delete");
            assert!(world.volume(&stranger).unwrap().attachment.is_none(), "it was on the old instance only");
        });
        assert_eq!(lab.node("db-1").await.resources.unmanaged, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ignores_them_goes_on_without() {
    let mut lab =
        provisioned(Settings::calm(7), |spec| spec.persist.attached_volumes = AttachedVolumes::Ignore).await;
    let logs = volume(&lab, &[]).await;
    let instance = lab.instance("db-1").await;
    attach(&lab, &instance, &logs, "/dev/sdh").await;
    lab.clock.sleep(sweep::EVERY * 4).await;
    assert_eq!(lab.node("db-1").await.operations, 1);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    assert_eq!(slots(&lab.node("db-1").await), ["root", "data"]);
    lab.check("db-1", &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_on_where_copies_go_on_and_the_found_one_is_never_deleted() {
    for zone_move in [true, false] {
        let mut settings = Settings::calm(11);
        settings.latencies.snapshot = Span::ms(3_000, 4_000);
        settings.latencies.image = Span::ms(2_000, 3_000);
        let other =
            Lab::new(settings.clone()).region.with(|world, _| world.subnet_in(&world.zones()[1].clone()));
        let (mut lab, logs) = with_found(settings, |spec| {
            if zone_move {
                spec.capacity.instance_types.truncate(1);
                spec.capacity.market = MarketPolicy::SpotOnly;
                spec.capacity.other_subnets = vec![other];
                spec.network.zone_change = ZoneChange::Allow;
            } else {
                spec.persist.data = DataMode::Snapshot;
            }
        })
        .await;
        if zone_move {
            lab.region.with(|world, _| {
                let zone = world.zones()[0].clone();
                world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Unsupported);
            });
        }
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.check("db-1", &["before"]).await;
        let copy = lab.volume("db-1", "logs").await;
        assert_ne!(copy, logs);
        let retained = lab.node("db-1").await.resources.retained;
        assert!(retained.iter().any(|old| old.volume == logs && old.foreign), "{retained:?}");
        // Once more, from a copy.
        if !zone_move {
            lab.write("db-1", "on the copy").await;
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", 4).await;
            lab.check("db-1", &["before", "on the copy"]).await;
        }
        let operations = lab.node("db-1").await.operations;
        let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", operations + 1).await;
        lab.check_without_instance("db-1").await;
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.region.with(|world, _| {
            assert!(exists(world, &logs), "somebody else made it");
            assert!(!exists(world, &copy), "the copy was the node's own");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_it_is_accepted_and_it_is_not_made_anew() {
    let (mut lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    lab.kill().await;
    lab.reclaim("db-1").await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, &logs).unwrap());
    lab.start();
    let why = lab.stuck("db-1.3").await;
    assert!(why.contains(&logs.to_string()), "{why}");
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.3", "accept_loss": ["logs"] })).await;
    lab.rest("db-1", 3).await;
    assert_eq!(slots(&lab.node("db-1").await), ["root", "data"]);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_file_is_not_taken_for_it_by_accident() {
    let (mut lab, logs) = with_found(Settings::calm(7), |_| {}).await;
    let mut spec = lab.node("db-1").await.spec.unwrap();
    let mut wanted = spec.data_volumes[0].clone();
    wanted.name = "logs".to_owned().try_into().unwrap();
    wanted.device = None;
    spec.data_volumes.push(wanted);
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(30)).await;
    let dispositions = lab.dispositions().await.join(" ");
    assert!(dispositions.contains(&format!("say `volume: {logs}`")), "{dispositions}");
    spec.data_volumes[1].volume = Some(logs.clone());
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(30)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 3).await;
    assert_eq!(lab.volume("db-1", "logs").await, logs);
    lab.check("db-1", &["before"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_the_taking() {
    let run = async |k| {
        let mut lab = provisioned(Settings::calm(7), |_| {}).await;
        let logs = volume(&lab, &[]).await;
        let instance = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| {
            world.attach_volume(now_ms, &logs, &instance, "/dev/sdh").unwrap();
        });
        lab.clock.sleep(Duration::from_secs(3)).await;
        lab.region.with(|world, now_ms| {
            let devices = [("/dev/sdh".to_owned(), true)];
            world.modify_delete_on_termination(now_ms, &instance, &devices).unwrap();
        });
        lab.die_at(k);
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(sweep::EVERY * 3).await;
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(slots(&lab.node("db-1").await), ["root", "data", "sdh"], "at {k}");
        assert_eq!(lab.node("db-1").await.operations, 2, "at {k}: one operation\n{}", lab.story().await);
        lab
    };
    Deaths::at_every_point(6).of(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_loss_in_the_middle_of_the_taking_waits_for_nothing() {
    let mut in_the_middle = Seen::at_least(5, "losses while a volume was being taken");
    for moment in 0..45 {
        let mut lab = provisioned(Settings::calm(7), |_| {}).await;
        let logs = volume(&lab, &[]).await;
        let old = lab.instance("db-1").await;
        attach(&lab, &old, &logs, "/dev/sdh").await;
        lab.write("db-1", "before").await;
        let moment = match moment {
            0..30 => Duration::from_millis(800 * moment),
            // And closely after it has begun.
            close => {
                while lab.node("db-1").await.operations == 1 {
                    lab.clock.sleep(Duration::from_millis(20)).await;
                }
                Duration::from_millis(40 * (close - 30))
            }
        };
        lab.clock.sleep(moment).await;
        in_the_middle.when(lab.node("db-1").await.open.is_some());
        lab.region.with(|world, now_ms| {
            world.write(now_ms, &old, "/dev/sdh", "before").unwrap();
            world.interrupt(now_ms, &old, Notice::default()).unwrap();
        });
        lab.until("it has moved", Duration::from_secs(1200), async |lab| {
            let node = lab.node("db-1").await;
            node.open.is_none() && node.generation == 2
        })
        .await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.volume("db-1", "sdh").await, logs, "after {moment:?}");
    }
}

/// Who cancels a taking is not asked again with every sweep: an hour later, or when a changed file is applied.
#[tokio::test(start_paused = true)]
async fn a_taking_that_somebody_cancelled_is_begun_again_an_hour_later_or_when_it_is_asked_for() {
    for asks in [false, true] {
        let mut lab = provisioned(Settings::calm(7), |_| {}).await;
        let logs = volume(&lab, &[("Name", "logs")]).await;
        let instance = lab.instance("db-1").await;
        // What may not be preserved yet keeps the taking open.
        lab.region.inject(Rule {
            target: Target::Only(Action::ModifyInstanceAttribute),
            when: When::Always,
            fault: Fault::Before("InternalError".to_owned()),
        });
        lab.kill().await;
        attach(&lab, &instance, &logs, "/dev/sdh").await;
        lab.region.with(|world, now_ms| {
            let dies = [("/dev/sdh".to_owned(), true)];
            world.modify_delete_on_termination(now_ms, &instance, &dies).unwrap();
        });
        lab.start();
        lab.until("the taking has begun", sweep::EVERY * 3, async |lab| {
            lab.node("db-1").await.open.is_some_and(|(_, kind)| kind == OperationKind::AdoptVolumes)
        })
        .await;
        lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
        lab.region.clear_faults();
        lab.rest("db-1", 2).await;
        let cancelled = lab.operation("db-1.2").await.status;
        assert!(
            matches!(cancelled, Status::Finished { outcome: Outcome::Cancelled, .. }),
            "it was not cancelled in time: {cancelled:?}"
        );
        lab.clock.sleep(Duration::from_secs(3_000)).await;
        assert_eq!(lab.node("db-1").await.operations, 2, "it is left alone");
        assert_eq!(slots(&lab.node("db-1").await), ["root", "data"]);
        if asks {
            let mut spec = lab.node("db-1").await.spec.unwrap();
            spec.capacity.min_lifetime_min = 61;
            spec.signals = Some(SignalsSpec { rebalance: RebalancePolicy::Move, ..SignalsSpec::default() });
            lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            lab.clock.sleep(sweep::EVERY * 4).await;
        } else {
            lab.clock.sleep(Duration::from_secs(700)).await;
        }
        lab.rest("db-1", 3).await;
        assert_eq!(lab.volume("db-1", "logs").await, logs);
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
    }
}

/// What was attached since the last look at an instance that then goes without a word is known to nobody. It survives, free; and it is the node's
/// as soon as it is attached to the new instance.
#[tokio::test(start_paused = true)]
async fn what_no_look_has_seen_before_an_unannounced_loss_survives_and_is_taken_when_it_is_attached_again() {
    let mut lab = provisioned(Settings::calm(7), |_| {}).await;
    lab.write("db-1", "before").await;
    let logs = volume(&lab, &[("Name", "logs")]).await;
    let old = lab.instance("db-1").await;
    lab.kill().await;
    attach(&lab, &old, &logs, "/dev/sdh").await;
    lab.region.with(|world, now_ms| {
        world.write(now_ms, &old, "/dev/sdh", "before").unwrap();
        world.vanish(now_ms, &old).unwrap();
    });
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.start();
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    assert_eq!(slots(&lab.node("db-1").await), ["root", "data"]);
    lab.region.with(|world, _| {
        assert!(
            world.volume(&logs).is_some_and(|volume| volume.attachment.is_none()),
            "it is there, and free"
        );
    });
    let new = lab.instance("db-1").await;
    attach(&lab, &new, &logs, "/dev/sdh").await;
    lab.rest("db-1", 3).await;
    assert_eq!(lab.volume("db-1", "logs").await, logs);
    lab.check("db-1", &["before"]).await;
}

/// An image that maps two volumes beside its root: one with content, which a termination would delete, and an empty one.
async fn mapping_image(lab: &Lab) -> ImageId {
    let image = lab.region.with(|world, now_ms| {
        let zone = world.zones()[0].clone();
        let request = VolumeRequest {
            client_token: "golden".into(),
            zone,
            size_gib: 12,
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags: Tags::new(),
        };
        world.create_volume(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(30)).await;
    let snapshot = lab.region.with(|world, now_ms| {
        world.write_volume(now_ms, &image, "of the image").unwrap();
        world.create_snapshot(now_ms, &image, &Tags::new()).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(1200)).await;
    let image = lab.region.with(|world, now_ms| {
        let plain = world.image(&world.default_image()).unwrap().clone();
        let request = ImageRequest {
            name: "maps-volumes".into(),
            root_snapshot: plain.root_snapshot,
            traits: plain.traits,
            uefi_data: None,
            tags: Tags::new(),
        };
        let mapped = |device: &str, snapshot, delete| DeviceMapping {
            device: device.to_owned(),
            snapshot,
            size_gib: Some(12),
            volume_type: Some("gp3".to_owned()),
            delete_on_termination: Some(delete),
            ..DeviceMapping::default()
        };
        let devices = [mapped("/dev/sdm", Some(snapshot), true), mapped("/dev/sdn", None, false)];
        world.register_image_with(now_ms, &request, &devices).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(600)).await;
    image
}

async fn with_mapping(
    root: RootMode,
    network: NetworkMode,
    change: impl FnOnce(&mut NodeSpec),
) -> (Lab, NodeSpec) {
    let lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", network, root);
    spec.image = mapping_image(&lab).await;
    change(&mut spec);
    (lab, spec)
}

fn content(lab: &Lab, instance: &InstanceId, device: &str) -> Vec<String> {
    lab.region.with(|world, now_ms| world.read(now_ms, instance, device).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_the_image_maps_is_made_once_and_comes_back() {
    for (root, network, data) in [
        (RootMode::Adopt, NetworkMode::SecondaryIp, DataMode::Reattach),
        (RootMode::Image, NetworkMode::PrimaryEni, DataMode::Reattach),
        (RootMode::None, NetworkMode::None, DataMode::Reattach),
        (RootMode::Adopt, NetworkMode::SecondaryIp, DataMode::Snapshot),
    ] {
        let (mut lab, spec) = with_mapping(root, network, |spec| spec.persist.data = data).await;
        lab.provision(&spec).await;
        let about = format!("{root:?} {network:?}\n{}", lab.story().await);
        let first = lab.node("db-1").await;
        assert!(slots(&first).ends_with(&["sdm".to_owned(), "sdn".to_owned()]), "{about}");
        let instance = lab.instance("db-1").await;
        assert_eq!(content(&lab, &instance, "/dev/sdm"), ["of the image"], "{about}");
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        for operations in [2, 3] {
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", operations).await;
            lab.check("db-1", &["before"]).await;
            let instance = lab.instance("db-1").await;
            assert_eq!(content(&lab, &instance, "/dev/sdm"), ["of the image", "before"], "{about}");
            assert_eq!(content(&lab, &instance, "/dev/sdn"), ["before"], "{about}");
        }
        let same = lab.volume("db-1", "sdm").await == first.resources.volumes[&slot("sdm")].volume;
        assert_eq!(same, data == DataMode::Reattach, "{about}");
        let images = lab.node("db-1").await.resources.root_images;
        lab.region.with(|world, _| {
            for ours in images {
                let devices = &world.image(&ours.image).unwrap().devices;
                assert!(
                    devices.iter().all(|device| device.device == "/dev/xvda"),
                    "only the root: {devices:?}"
                );
            }
        });
        lab.clock.sleep(sweep::EVERY * 4).await;
        assert_eq!(
            lab.node("db-1").await.operations,
            3,
            "nothing is found beside them\n{}",
            lab.story().await
        );
        // They are the node's own.
        let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 4).await;
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check_without_instance("db-1").await;
        assert_eq!(slots(&lab.node("db-1").await), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn the_files_volume_takes_the_place_of_the_images_at_its_device_and_an_ignored_mapping_is_the_instances()
 {
    let (mut lab, spec) = with_mapping(RootMode::Adopt, NetworkMode::SecondaryIp, |spec| {
        spec.data_volumes[0].device = Some("/dev/xvdm".into());
    })
    .await;
    lab.provision(&spec).await;
    assert_eq!(slots(&lab.node("db-1").await), ["root", "data", "sdn"]);
    lab.write("db-1", "before").await;
    lab.check("db-1", &["before"]).await;
    let (mut lab, spec) = with_mapping(RootMode::Adopt, NetworkMode::SecondaryIp, |spec| {
        spec.persist.attached_volumes = AttachedVolumes::Ignore;
    })
    .await;
    lab.provision(&spec).await;
    assert_eq!(slots(&lab.node("db-1").await), ["root", "data"]);
    let instance = lab.instance("db-1").await;
    let attached = lab.region.with(|world, _| world.instance(&instance).unwrap().volumes.len());
    assert_eq!(attached, 4, "as the image says");
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_provision_with_a_mapping() {
    let run = async |k| {
        let (mut lab, spec) = with_mapping(RootMode::Adopt, NetworkMode::SecondaryIp, |_| {}).await;
        lab.die_at(k);
        lab.provision(&spec).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(slots(&lab.node("db-1").await), ["root", "data", "sdm", "sdn"], "at {k}");
        lab
    };
    Deaths { stride: 3, ..Deaths::at_every_point(30) }.of(run).await;
}
