//! Volumes that were there before the node, where it moves to another zone: a copy goes on, the volume stays and is never taken again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Deaths;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_sim::world::{Notice, World};
use perennial_workers::port::{Tags, VolumeRequest};
use perennial_workflows::model::aws::{Market, VolumeId};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::facts::{Facts, VolumeFact};
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, ZoneChange};
use perennial_workflows::view::plan::{Assumption, Presence, plan_assuming};
use serde_json::json;

/// What was on the volume before the node.
const OLDER: &str = "before the node";

/// A volume of the account's in the first zone, with something on it.
async fn existing(lab: &Lab) -> VolumeId {
    let made = lab.region.with(|world, now_ms| {
        let request = VolumeRequest {
            client_token: "by hand".to_owned(),
            zone: world.zones()[0].clone(),
            size_gib: 20,
            volume_type: "gp3".into(),
            iops: Some(4_000),
            throughput: Some(200),
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags: Tags::new(),
        };
        world.create_volume(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(60)).await;
    lab.region.with(|world, now_ms| world.write_volume(now_ms, &made, OLDER).unwrap());
    made
}

fn spec(lab: &Lab, network: NetworkMode, root: RootMode, volume: &VolumeId) -> NodeSpec {
    let mut spec = lab.spec("db-1", network, root);
    spec.data_volumes[0].volume = Some(volume.clone());
    spec.capacity.other_subnets =
        vec![lab.region.with(|world, _| world.subnet_in(&world.zones()[1].clone()))];
    spec.network.zone_change = ZoneChange::Allow;
    spec
}

/// Capacity in one zone, the nth, and in no other.
fn only_in(lab: &Lab, spec: &NodeSpec, zone: usize) {
    lab.region.with(|world, _| {
        for (n, name) in world.zones().iter().enumerate() {
            let capacity = if n == zone { Capacity::Unlimited } else { Capacity::Unsupported };
            for instance_type in &spec.capacity.instance_types {
                for market in [Market::Spot, Market::OnDemand] {
                    world.set_capacity(instance_type, name, market, capacity);
                }
            }
        }
    });
}

/// The existing volume is as it was left: there, free, in its zone, retained as somebody else's.
async fn is_left(lab: &Lab, volume: &VolumeId) {
    let node = lab.node("db-1").await;
    let old = node.resources.retained.iter().find(|old| old.volume == *volume);
    let old = old.unwrap_or_else(|| panic!("{volume} is not listed: {:?}", node.resources.retained));
    assert!(old.foreign && old.went_on, "{old:?}");
    assert!(node.resources.volumes.values().all(|held| held.volume != *volume));
    lab.region.with(|world, _| {
        let left = world.volume(volume).expect("it was there before the node");
        assert!(left.attachment.is_none(), "it is free");
        assert_eq!(left.zone, world.zones()[0]);
    });
}

/// The copy is like the volume it is a copy of, in the second zone.
async fn is_alike(lab: &Lab) {
    let copy = lab.volume("db-1", "data").await;
    lab.region.with(|world, _| {
        let copy = world.volume(&copy).expect("the node has it");
        let like = (copy.size_gib, copy.volume_type.as_str(), copy.iops, copy.throughput);
        assert_eq!(like, (20, "gp3", Some(4_000), Some(200)));
        assert_eq!(copy.zone, world.zones()[1]);
    });
}

/// The names of steps, without the ids in them, and how often each is intended.
fn counted(steps: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    for step in steps {
        let name = match step.split_once(':') {
            Some((kind, of)) if of.contains('-') => kind,
            _ => &step,
        };
        *counted.entry(name.to_owned()).or_default() += 1;
    }
    counted
}

#[tokio::test(start_paused = true)]
async fn a_copy_goes_on_in_another_zone_as_the_plan_says_and_the_volume_is_never_taken_again() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp, NetworkMode::None] {
        for root in [RootMode::Adopt, RootMode::Image, RootMode::None] {
            let mut lab = Lab::new(Settings::calm(7));
            let volume = existing(&lab).await;
            let spec = spec(&lab, network, root, &volume);
            lab.provision(&spec).await;
            assert_eq!(lab.volume("db-1", "data").await, volume);
            lab.write("db-1", "before").await;
            only_in(&lab, &spec, 1);
            let node = lab.node("db-1").await;
            let missing = Assumption { capacity_here: Presence::Missing, ..Assumption::default() };
            let plan = plan_assuming(&spec, Some(&node), missing).unwrap();
            let note = format!("data is {volume}, which was there before the node and stays in its zone");
            assert!(plan.notes.iter().any(|told| told.starts_with(&note)), "{:?}", plan.notes);
            let predicted = counted(plan.story.steps.iter().map(|step| step.step.clone()));
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", 2).await;
            let done = lab.operation("db-1.2").await;
            let done = counted(done.steps.values().map(|record| record.step.to_string()));
            assert_eq!(done, predicted, "{network:?} {root:?}: the plan\n{}", lab.story().await);
            lab.check("db-1", &["before"]).await;
            is_left(&lab, &volume).await;
            is_alike(&lab).await;
            lab.write("db-1", "after").await;

            // The copy is the node's own: it is carried as such, and the file stays valid.
            let copy = lab.volume("db-1", "data").await;
            let node = lab.node("db-1").await;
            let plan = plan_assuming(&spec, Some(&node), Assumption::default()).unwrap();
            assert!(!plan.notes.iter().any(|told| told.contains(volume.as_str())), "{:?}", plan.notes);
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", 3).await;
            lab.submit("node.pause", "db-1", json!({})).await;
            lab.rest("db-1", 4).await;
            is_left(&lab, &volume).await;
            lab.submit("node.resume", "db-1", json!({})).await;
            lab.rest("db-1", 5).await;
            let mut larger = spec.clone();
            larger.data_volumes[0].size_gib = 30;
            lab.submit("node.apply", "db-1", json!({ "spec": larger })).await;
            lab.rest("db-1", 6).await;
            assert_eq!(lab.volume("db-1", "data").await, copy);
            let size_gib = lab.region.with(|world, _| world.volume(&copy).unwrap().size_gib);
            assert_eq!(size_gib, 30, "the copy grows");
            lab.check("db-1", &["after"]).await;
            is_left(&lab, &volume).await;

            // Back where the volume is: again a copy, with what is newest.
            only_in(&lab, &spec, 0);
            lab.submit("node.replace", "db-1", json!({})).await;
            lab.rest("db-1", 7).await;
            lab.check("db-1", &["after"]).await;
            is_left(&lab, &volume).await;

            // The end of the node is not the volume's; that of the copies it is.
            let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
            lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
            lab.rest("db-1", 8).await;
            lab.check_without_instance("db-1").await;
            lab.region.with(|world, _| {
                let content = &world.volume(&volume).expect("it was there before the node").content;
                assert!(content.iter().any(|record| record.as_str() == OLDER));
                let exists = |world: &World| world.all_volumes().any(|left| left.id == copy);
                assert!(!exists(world), "the copy was the node's own");
            });
            // Nothing of the node's has its content any more: a new node of that name takes it.
            lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
            lab.rest("db-1", 9).await;
            assert_eq!(lab.volume("db-1", "data").await, volume, "{}", lab.story().await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lands_elsewhere_in_the_first_place_begins_with_a_copy() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp] {
        let mut lab = Lab::new(Settings::calm(7));
        let volume = existing(&lab).await;
        let spec = spec(&lab, network, RootMode::Adopt, &volume);
        only_in(&lab, &spec, 1);
        lab.provision(&spec).await;
        is_left(&lab, &volume).await;
        is_alike(&lab).await;
        let node = lab.node("db-1").await;
        let device = node.resources.volumes.iter().find(|(slot, _)| slot.to_string() == "data");
        let device = device.map(|(_, held)| held.device.clone()).unwrap();
        let carrier = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| {
            let content = world.read(now_ms, &carrier, &device).unwrap();
            assert!(content.iter().any(|record| record.as_str() == OLDER), "{content:?}");
        });
        lab.write("db-1", "before").await;
        lab.check("db-1", &["before"]).await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.check("db-1", &["before"]).await;
        is_left(&lab, &volume).await;
    }
}

/// A provision that is cancelled after its copy was made leaves both listed, and goes on with the copy.
#[tokio::test(start_paused = true)]
async fn a_cancelled_provision_elsewhere_loses_neither_the_volume_nor_the_copy() {
    let mut lab = Lab::new(Settings::calm(7));
    let volume = existing(&lab).await;
    let spec = spec(&lab, NetworkMode::SecondaryIp, RootMode::Adopt, &volume);
    only_in(&lab, &spec, 1);
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.until("the copy is made", Duration::from_secs(600), async |lab| {
        lab.node("db-1").await.open.is_some() && !lab.operation("db-1.1").await.facts.superseded.is_empty()
    })
    .await;
    lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.1" })).await;
    lab.rest("db-1", 1).await;
    lab.check_without_instance("db-1").await;
    is_left(&lab, &volume).await;
    let copy = lab.volume("db-1", "data").await;
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.rest("db-1", 2).await;
    assert_eq!(lab.volume("db-1", "data").await, copy);
    is_left(&lab, &volume).await;
    lab.write("db-1", "first").await;
    lab.check("db-1", &["first"]).await;
}

/// What was written since is on the copy alone: when that is lost, the volume does not come back in its place.
#[tokio::test(start_paused = true)]
async fn when_the_copy_is_lost_and_given_up_a_new_one_begins_not_the_old_content() {
    let mut lab = Lab::new(Settings::calm(7));
    let volume = existing(&lab).await;
    let spec = spec(&lab, NetworkMode::SecondaryIp, RootMode::Adopt, &volume);
    lab.provision(&spec).await;
    only_in(&lab, &spec, 1);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let copy = lab.volume("db-1", "data").await;
    lab.lose_unseen("db-1").await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, &copy).unwrap());
    lab.start();
    let why = lab.stuck("db-1.3").await;
    assert!(why.contains(copy.as_str()), "{why}");
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.3", "accept_loss": ["data"] })).await;
    // Given up as well before it was made anew: the next operation makes it.
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.until("it is paused", Duration::from_secs(600), async |lab| {
        let node = lab.node("db-1").await;
        node.open.is_none() && node.resources.carrier.is_none()
    })
    .await;
    let number = lab.node("db-1").await.operations;
    lab.submit("node.resume", "db-1", json!({})).await;
    lab.rest("db-1", number + 1).await;
    is_left(&lab, &volume).await;
    lab.write("db-1", "anew").await;
    lab.check("db-1", &["anew"]).await;
}

fn data(facts: &Facts) -> &VolumeFact {
    let is_data = |slot: &Slot| *slot != Slot::Root;
    facts.volumes.iter().find(|(slot, _)| is_data(slot)).expect("it has a data volume").1
}

/// The same within one operation: the copy is lost with the instance that has just got it.
#[tokio::test(start_paused = true)]
async fn when_the_copy_is_lost_before_the_end_a_new_one_begins_not_the_old_content() {
    let mut lab = Lab::new(Settings::calm(7));
    let volume = existing(&lab).await;
    let spec = spec(&lab, NetworkMode::SecondaryIp, RootMode::Adopt, &volume);
    lab.provision(&spec).await;
    only_in(&lab, &spec, 1);
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.until("the copy is attached", Duration::from_secs(1_200), async |lab| {
        if lab.node("db-1").await.operations < 2 {
            return false;
        }
        let facts = lab.operation("db-1.2").await.facts;
        data(&facts).touched
            && facts.candidate.is_some()
            && facts.superseded.iter().any(|old| old.volume == volume)
    })
    .await;
    let facts = lab.operation("db-1.2").await.facts;
    let (copy, new) = (data(&facts).id.clone().unwrap(), facts.candidate.unwrap().instance);
    assert_ne!(copy, volume);
    lab.kill().await;
    lab.region.with(|world, now_ms| world.reclaim_now(now_ms, &new).unwrap());
    lab.clock.sleep(Duration::from_secs(300)).await;
    lab.region.with(|world, now_ms| world.delete_volume(now_ms, &copy).unwrap());
    lab.start();
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains(copy.as_str()), "{why}");
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2", "accept_loss": ["data"] })).await;
    lab.rest("db-1", 2).await;
    let operation = lab.operation("db-1.2").await;
    let taken =
        operation.steps.values().filter(|record| record.step.to_string() == "claim_volume:data").count();
    assert_eq!(taken, 0, "{}", lab.story().await);
    assert_ne!(lab.volume("db-1", "data").await, volume);
    is_left(&lab, &volume).await;
    lab.write("db-1", "anew").await;
    lab.check("db-1", &["anew"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_the_move() {
    let run = async |k| {
        let mut settings = Settings::calm(11);
        settings.latencies.shutdown = Span::ms(6_000, 8_000);
        settings.latencies.snapshot = Span::ms(3_000, 4_000);
        let mut lab = Lab::new(settings);
        let volume = existing(&lab).await;
        let mut spec = spec(&lab, NetworkMode::SecondaryIp, RootMode::None, &volume);
        spec.capacity.instance_types.truncate(1);
        spec.capacity.market = MarketPolicy::SpotOnly;
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        only_in(&lab, &spec, 1);
        let old = lab.instance("db-1").await;
        lab.die_at(k);
        lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
        lab.rest("db-1", 2).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.check("db-1", &["before"]).await;
        is_left(&lab, &volume).await;
        assert_eq!(lab.node("db-1").await.operations, 2, "at {k}");
        lab
    };
    Deaths::at_every_point(60).of(run).await;
}
