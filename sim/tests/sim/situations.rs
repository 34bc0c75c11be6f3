//! What happens to the users of spot instances, situation by situation: the table is in `docs/situations.md`. Here are those
//! that no other test shows.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lab::Lab;
use crate::sweep::Seen;
use perennial_engine::queue::{Outgoing, Queue as _};
use perennial_sim::faults::{Fault, Rule, Target, When};
use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_sim::world::stuck_detach::StuckDetach;
use perennial_workers::port::error::Action;
use perennial_workflows::model::aws::{InstanceId, Market};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};
use perennial_workflows::spec::signals::{RebalancePolicy, SignalsSpec};
use perennial_workflows::step::intent::Intent;
use serde_json::{Value, json};

/// Everything an interruption leads to, with the longest clean-up.
const SETTLES: Duration = Duration::from_secs(400);

async fn provisioned(settings: Settings, network: NetworkMode, root: RootMode) -> (Lab, NodeSpec) {
    Lab::provisioned(settings, network, root, |_, _| {}).await
}

async fn tell(lab: &Lab, message: &str) {
    lab.interruptions.send(vec![Outgoing::now(message.to_owned())]).await.unwrap();
}

/// An event of EC2's about an instance.
fn event(id: &str, detail_type: &str, time_ms: u64, detail: &Value) -> Value {
    let time = jiff::Timestamp::from_millisecond(time_ms.try_into().unwrap()).unwrap();
    json!({
        "version": "0", "id": id, "detail-type": detail_type, "source": "aws.ec2", "account": "111122223333",
        "time": time.to_string(), "region": "us-east-1", "resources": [], "detail": detail
    })
}

fn warning(id: &str, instance: &str, time_ms: u64) -> Value {
    let detail = json!({ "instance-id": instance, "instance-action": "terminate" });
    event(id, "EC2 Spot Instance Interruption Warning", time_ms, &detail)
}

fn state(id: &str, instance: &str, state: &str, time_ms: u64) -> Value {
    let detail = json!({ "instance-id": instance, "state": state });
    event(id, "EC2 Instance State-change Notification", time_ms, &detail)
}

/// Checks several nodes at rest: each on one instance of its own, with what was written, and nothing beside.
async fn all_are_whole(lab: &Lab, names: &[String]) {
    let mut known = BTreeSet::new();
    for name in names {
        let node = lab.node(name).await;
        let carrier = node.resources.carrier.clone().unwrap();
        lab.region.with(|world, now_ms| {
            let live: Vec<_> = world.instances_of(name).iter().map(|i| i.id.clone()).collect();
            assert_eq!(live, std::slice::from_ref(&carrier.instance), "{name}: exactly one live instance");
            for (slot, held) in &node.resources.volumes {
                let content = world.read(now_ms, &carrier.instance, &held.device).unwrap();
                assert!(
                    content.iter().any(|record| record.as_str() == "before"),
                    "{name} {slot}: {content:?}"
                );
            }
            let on_it = &world.instance(&carrier.instance).unwrap().volumes;
            assert_eq!(on_it.len(), node.resources.volumes.len(), "{name}: no volume too many");
            known.extend(on_it.iter().map(ToString::to_string));
        });
        known.extend([carrier.instance.to_string(), carrier.interface.to_string()]);
        known.extend(node.resources.interface.iter().map(|held| held.interface.to_string()));
        assert_eq!((node.resources.retained.len(), node.resources.orphans.len()), (0, 0), "{name}");
    }
    lab.region.with(|world, _| {
        assert_eq!(world.check_invariants(), Vec::<String>::new());
        assert_eq!(world.leaks("lab", &known), Vec::<String>::new(), "leaked");
    });
}

async fn comes_back(lab: &mut Lab, name: &str, limit: Duration, old: &InstanceId) {
    lab.until(&format!("{name} is on another instance"), limit, async |lab| {
        let node = lab.node(name).await;
        let carrier = node.resources.carrier.as_ref().map(|carrier| carrier.instance.clone());
        let lives = carrier.is_some_and(|instance| {
            instance != *old
                && lab.region.with(|world, _| world.instance(&instance).is_some_and(|i| !i.state.is_over()))
        });
        node.open.is_none() && lives
    })
    .await;
}

/// A zone goes: every spot instance at once, with the quotas of a new account. Each node has one replacement, and none starves.
#[tokio::test(start_paused = true)]
async fn many_nodes_that_are_taken_at_once_all_come_back() {
    let names: Vec<String> = (1..=24).map(|n| format!("db-{n}")).collect();
    let mut lab = Lab::new(Settings::realistic(7));
    for (n, name) in names.iter().enumerate() {
        let network = [NetworkMode::SecondaryIp, NetworkMode::PrimaryEni, NetworkMode::SecondaryEni][n % 3];
        let spec = lab.spec(name, network, RootMode::Adopt);
        lab.submit("node.apply", name, json!({ "spec": spec })).await;
    }
    for name in &names {
        lab.rest(name, 1).await;
        lab.write(name, "before").await;
    }
    let began_ms = lab.clock.now_ms();
    for name in &names {
        lab.warn(name).await;
    }
    for name in &names {
        lab.rest(name, 2).await;
    }
    let took = Duration::from_millis(lab.clock.now_ms() - began_ms);
    assert!(took < Duration::from_secs(300), "the last one was back after {took:?}");
    lab.clock.sleep(SETTLES).await;
    for name in &names {
        assert_eq!(lab.node(name).await.operations, 2, "{name}: one replacement");
    }
    all_are_whole(&lab, &names).await;
}

/// A queue as accounts have them: every event in all its forms and several times, other people's by the hundred, and what
/// nobody can read, shuffled, while the process dies.
#[tokio::test(start_paused = true)]
async fn a_queue_full_of_everything_leads_to_one_replacement_for_each_node_and_is_empty_afterwards() {
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut lab, _) = provisioned(Settings::calm(seed), NetworkMode::SecondaryIp, RootMode::Adopt).await;
        let spec = lab.spec("db-2", NetworkMode::PrimaryEni, RootMode::Adopt);
        lab.provision(&spec).await;
        lab.write("db-2", "before").await;
        let (one, two) = (lab.instance("db-1").await, lab.instance("db-2").await);
        let now_ms = lab.clock.now_ms();
        let mut messages = Vec::new();
        for (name, instance) in [("one", &one), ("two", &two)] {
            let instance = instance.as_str();
            let warned = warning(&format!("{name}-w"), instance, now_ms);
            let rebalance = json!({ "instance-id": instance });
            let mut versionless = state(&format!("{name}-s"), instance, "shutting-down", now_ms);
            versionless.as_object_mut().unwrap().remove("version");
            let wrapped = json!({ "Type": "Notification", "Message": warned.to_string() });
            for event in [
                event(&format!("{name}-r"), "EC2 Instance Rebalance Recommendation", now_ms, &rebalance),
                warned.clone(),
                warned,
                warning(&format!("{name}-again"), instance, now_ms),
                versionless.clone(),
                versionless,
                state(&format!("{name}-t"), instance, "terminated", now_ms),
                wrapped,
            ] {
                messages.push(event.to_string());
            }
        }
        for n in 0..100 {
            messages.push(warning(&format!("other-{n}"), &format!("i-0ee{n:014x}"), now_ms).to_string());
        }
        let garbage = ["{", "no event", "[]", r#"{"detail-type": "EC2 Spot Instance Interruption Warning"}"#];
        messages.extend(garbage.map(str::to_owned));
        messages.push(
            json!({
                "version": "0", "id": "asg", "detail-type": "EC2 Instance-terminate Lifecycle Action",
                "source": "aws.autoscaling", "account": "111122223333", "time": "2026-09-14T08:00:00Z",
                "region": "us-east-1", "resources": [], "detail": { "EC2InstanceId": one }
            })
            .to_string(),
        );
        messages.push(json!({ "Event": "autoscaling:TEST_NOTIFICATION" }).to_string());
        rng.shuffle(&mut messages);
        let quarter = messages.len() / 4;
        lab.region.with(|world, now_ms| {
            for instance in [&one, &two] {
                world.interrupt(now_ms, instance, Notice { with_event: false, ..Notice::default() }).unwrap();
            }
        });
        for part in messages.chunks(quarter) {
            for message in part {
                tell(&lab, message).await;
            }
            lab.clock.sleep(Duration::from_millis(rng.u64(0..4_000))).await;
            lab.kill().await;
            lab.clock.sleep(Duration::from_millis(rng.u64(0..4_000))).await;
            lab.start();
        }
        lab.rest("db-1", 2).await;
        lab.rest("db-2", 2).await;
        lab.clock.sleep(Duration::from_secs(900)).await;
        for (name, old) in [("db-1", &one), ("db-2", &two)] {
            assert_ne!(lab.instance(name).await, *old, "seed {seed}");
            assert_eq!(lab.node(name).await.operations, 2, "seed {seed}: {name} has one replacement");
        }
        all_are_whole(&lab, &["db-1".to_owned(), "db-2".to_owned()]).await;
        let depth = lab.interruptions.depth().await.unwrap();
        assert_eq!((depth.visible, depth.in_flight, depth.delayed), (0, 0, 0), "seed {seed}");
        // What nobody can read is kept for a person: these, and the test of a notification that is no event.
        assert_eq!(depth.dead, u64::try_from(garbage.len()).unwrap() + 1, "seed {seed}");
    }
}

/// Nobody served while the instance was warned, went, and was forgotten. The old inbox entries are read late, in any order.
#[tokio::test(start_paused = true)]
async fn letters_that_waited_for_hours_lead_to_one_replacement() {
    for away_s in [30, 110, 400, 3 * 3_600] {
        let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::PrimaryEni, RootMode::Adopt).await;
        let old = lab.instance("db-1").await;
        lab.kill().await;
        lab.region.with(|world, now_ms| world.interrupt(now_ms, &old, Notice::default()).unwrap());
        lab.clock.sleep(Duration::from_secs(away_s)).await;
        lab.start();
        // After an hour EC2 does not show the instance any more, and two steps wait until that is believed.
        comes_back(&mut lab, "db-1", Duration::from_secs(900), &old).await;
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.node("db-1").await.operations, 2, "after {away_s} s");
    }
}

/// One node's volume hangs for ever; the others are replaced meanwhile as if it were not there.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_holds_no_other_up() {
    let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt).await;
    let others: Vec<String> = (2..=6).map(|n| format!("db-{n}")).collect();
    for name in &others {
        lab.provision(&lab.spec(name, NetworkMode::SecondaryIp, RootMode::Adopt)).await;
        lab.write(name, "before").await;
    }
    let hanging = lab.volume("db-1", "data").await;
    lab.region.with(|world, now_ms| world.stick_detach(now_ms, &hanging, StuckDetach::ForEver, None));
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.clock.sleep(Duration::from_secs(200)).await;
    let mut taken = Vec::new();
    for name in &others {
        let old = lab.warn(name).await;
        taken.push((name.clone(), old));
    }
    for (name, old) in &taken {
        comes_back(&mut lab, name, Duration::from_secs(200), old).await;
        assert!(lab.node("db-1").await.open.is_some(), "db-1 still hangs");
    }
    lab.region.with(|world, now_ms| world.release_stuck_detach(now_ms, &hanging));
    lab.until("db-1 is at rest, with help where it is stuck", Duration::from_secs(7_200), async |lab| {
        lab.node("db-1").await.open.is_none()
    })
    .await;
    lab.clock.sleep(SETTLES).await;
    let all: Vec<String> = others.into_iter().chain(["db-1".to_owned()]).collect();
    all_are_whole(&lab, &all).await;
}

/// Recommendations come in floods, and three of four are about nothing. By default they move no node; where the file wants to be moved,
/// it is moved at most once in `min_lifetime_min`.
#[tokio::test(start_paused = true)]
async fn a_flood_of_recommendations_moves_nothing_or_now_and_then() {
    for policy in [RebalancePolicy::Ignore, RebalancePolicy::Prepare, RebalancePolicy::Move] {
        let mut lab = Lab::new(Settings::calm(7));
        let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
        spec.signals = Some(SignalsSpec { rebalance: policy, ..SignalsSpec::default() });
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        // Six hours of one every ten minutes, each about the instance that carries the node by then.
        for _ in 0..36 {
            let instance = lab.instance("db-1").await;
            lab.region.with(|world, now_ms| world.recommend_rebalance(now_ms, &instance).unwrap());
            lab.clock.sleep(Duration::from_secs(600)).await;
        }
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
        let moves = lab.node("db-1").await.operations - 1;
        match policy {
            RebalancePolicy::Ignore | RebalancePolicy::Prepare => assert_eq!(moves, 0, "{policy:?}"),
            RebalancePolicy::Move => assert!((1..=6).contains(&moves), "{moves} moves in six hours"),
        }
    }
}

/// The new instance is warned or lost at any second of a replacement: before it runs, while it adopts the root, after the volumes are on it.
#[tokio::test(start_paused = true)]
async fn a_new_instance_that_is_taken_at_any_second_is_followed_by_another() {
    let mut taken = Seen::at_least(30, "new instances that were taken");
    for (network, root) in [
        (NetworkMode::SecondaryIp, RootMode::Adopt),
        (NetworkMode::PrimaryEni, RootMode::Adopt),
        (NetworkMode::SecondaryEni, RootMode::None),
        (NetworkMode::SecondaryIp, RootMode::Image),
    ] {
        for second in (1..=130).step_by(8) {
            let mut settings = Settings::calm(second);
            settings.latencies.snapshot = Span::ms(5_000, 9_000);
            let (mut lab, _) = provisioned(settings, network, root).await;
            let old = lab.warn("db-1").await;
            lab.clock.sleep(Duration::from_secs(second)).await;
            let sudden = second % 16 == 1;
            let new = lab.region.with(|world, now_ms| {
                let new: Vec<InstanceId> = (world.instances_of("db-1").iter())
                    .map(|instance| instance.id.clone())
                    .filter(|instance| *instance != old)
                    .collect();
                for instance in &new {
                    let done = match sudden {
                        true => world.reclaim_now(now_ms, instance),
                        false => world.interrupt(
                            now_ms,
                            instance,
                            Notice { lead: Duration::from_secs(20), ..Notice::default() },
                        ),
                    };
                    taken.when(done.is_ok());
                }
                new.first().cloned()
            });
            let gone = new.unwrap_or(old);
            comes_back(&mut lab, "db-1", Duration::from_secs(1_800), &gone).await;
            lab.clock.sleep(SETTLES).await;
            lab.check("db-1", &["before"]).await;
        }
    }
}

/// A control plane of EBS that answers with errors for an hour while instances come and go as ever: what has
/// another way takes it, what has none waits, and goes on by itself.
#[tokio::test(start_paused = true)]
async fn an_hour_without_ebs_is_waited_for() {
    for (action, root) in [
        (Action::AttachVolume, RootMode::Adopt),
        (Action::CreateReplaceRootVolumeTask, RootMode::Adopt),
        (Action::CreateSnapshot, RootMode::Image),
        (Action::RegisterImage, RootMode::Image),
    ] {
        let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::SecondaryIp, root).await;
        let fault = Fault::Before("InternalError".to_owned());
        lab.region.inject(Rule { target: Target::Only(action), when: When::Always, fault });
        lab.warn("db-1").await;
        lab.clock.sleep(Duration::from_secs(3_590)).await;
        let is_at_rest = lab.node("db-1").await.open.is_none();
        if action == Action::CreateReplaceRootVolumeTask {
            assert!(is_at_rest, "an image carries the root");
        } else {
            assert!(!is_at_rest, "{action} has no other way");
        }
        assert!(!lab.is_stuck("db-1.2").await, "it passes by itself: {}", lab.story().await);
        lab.region.clear_faults();
        lab.rest("db-1", 2).await;
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
    }
}

/// The types that are asked may have fewer places for volumes than the node has volumes. A person chooses others.
#[tokio::test(start_paused = true)]
async fn an_instance_without_a_place_for_another_volume_is_told() {
    let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt).await;
    let fault = Fault::Before("AttachmentLimitExceeded".to_owned());
    lab.region.inject(Rule { target: Target::Only(Action::AttachVolume), when: When::Always, fault });
    lab.submit("node.replace", "db-1", json!({})).await;
    let why = lab.stuck("db-1.2").await;
    assert!(why.contains("AttachmentLimitExceeded") && why.contains("workflow resume db-1.2"), "{why}");
    lab.region.clear_faults();
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.2" })).await;
    lab.rest("db-1", 2).await;
    lab.clock.sleep(SETTLES).await;
    lab.check("db-1", &["before"]).await;
}

/// Somebody detaches the node's own volume while it runs. The next operation attaches it again, also where its old instance is lost.
#[tokio::test(start_paused = true)]
async fn an_own_volume_that_was_detached_by_hand_is_attached_again_by_the_next_operation() {
    for sudden in [false, true] {
        let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt).await;
        let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
        lab.region.with(|world, now_ms| {
            world.unmount(now_ms, &old, &volume).unwrap();
            world.detach_volume(now_ms, &volume, Some(&old)).unwrap();
        });
        lab.clock.sleep(Duration::from_secs(600)).await;
        assert_eq!(lab.node("db-1").await.operations, 1, "nobody takes it for a loss");
        if sudden {
            lab.region.with(|world, now_ms| world.vanish(now_ms, &old).unwrap());
        } else {
            lab.submit("node.replace", "db-1", json!({})).await;
        }
        lab.rest("db-1", 2).await;
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.volume("db-1", "data").await, volume);
    }
}

/// Somebody stops or terminates the instance by hand, with events or without: the node is kept, as after any loss.
#[tokio::test(start_paused = true)]
async fn an_instance_that_somebody_stops_or_terminates_is_replaced() {
    for (stop, heard) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut settings = Settings::calm(7);
        settings.events_enabled = heard;
        let mut lab = Lab::new(settings);
        let mut spec = lab.spec("db-1", NetworkMode::PrimaryEni, RootMode::Adopt);
        // A one-time spot request cannot be stopped.
        spec.capacity.market = MarketPolicy::OnDemandOnly;
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        let old = lab.instance("db-1").await;
        lab.region.with(|world, now_ms| {
            if stop {
                world.stop_instances(now_ms, std::slice::from_ref(&old)).unwrap();
            } else {
                world.terminate_instances(now_ms, &old).unwrap();
            }
        });
        comes_back(&mut lab, "db-1", Duration::from_secs(600), &old).await;
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
        assert_eq!(lab.node("db-1").await.operations, 2);
    }
}

/// EC2 warns and then does not take the instance. Who was warned has moved: the old instance does not go on beside the new one.
#[tokio::test(start_paused = true)]
async fn an_instance_that_is_spared_after_its_warning_does_not_live_on_beside_the_new_one() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp] {
        for spared_s in [1, 20, 60, 115] {
            let (mut lab, _) = provisioned(Settings::calm(7), network, RootMode::Adopt).await;
            let old = lab.warn("db-1").await;
            lab.clock.sleep(Duration::from_secs(spared_s)).await;
            lab.region.with(|world, now_ms| world.spare(now_ms, &old));
            lab.rest("db-1", 2).await;
            lab.clock.sleep(SETTLES).await;
            lab.check("db-1", &["before"]).await;
            assert_ne!(lab.instance("db-1").await, old, "{network:?}, spared after {spared_s} s");
        }
    }
}

/// No capacity for a night: the pools are asked again and again, ever less often, and the first that has some is taken.
#[tokio::test(start_paused = true)]
async fn a_night_without_capacity_is_waited_for_without_haste() {
    for network in [NetworkMode::PrimaryEni, NetworkMode::SecondaryIp] {
        let (mut lab, spec) = provisioned(Settings::calm(7), network, RootMode::Adopt).await;
        let set = |lab: &Lab, capacity| {
            lab.region.with(|world, _| {
                let zone = world.zones()[0].clone();
                for name in &spec.capacity.instance_types {
                    for market in [Market::Spot, Market::OnDemand] {
                        world.set_capacity(name, &zone, market, capacity);
                    }
                }
            });
        };
        set(&lab, Capacity::Free(0));
        let old = lab.reclaim("db-1").await;
        lab.clock.sleep(Duration::from_secs(4 * 3_600)).await;
        lab.kill().await;
        lab.start();
        lab.clock.sleep(Duration::from_secs(4 * 3_600)).await;
        assert!(!lab.is_stuck("db-1.2").await, "it needs nobody");
        let asked = (lab.operation_events("db-1.2").await.iter())
            .filter(|(_, event)| {
                matches!(event, OperationEvent::StepIntended { intent, .. } if matches!(intent, Intent::Launch(_)))
            })
            .count();
        // Every pool a few times in the first minutes, and once in some minutes from then on.
        assert!((40..2_000).contains(&asked), "{network:?}: {asked} launches in eight hours");
        set(&lab, Capacity::Unlimited);
        comes_back(&mut lab, "db-1", Duration::from_secs(900), &old).await;
        lab.clock.sleep(SETTLES).await;
        lab.check("db-1", &["before"]).await;
    }
}

/// A snapshot can take hours. A root that goes on as an image waits for its own, and the old volume is there all the time.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_hours_is_waited_for() {
    let mut settings = Settings::calm(7);
    settings.latencies.snapshot = Span::ms(3 * 3_600_000, 3 * 3_600_000);
    let (mut lab, _) = provisioned(settings, NetworkMode::SecondaryIp, RootMode::Image).await;
    let root = lab.volume("db-1", "root").await;
    let old = lab.reclaim("db-1").await;
    lab.clock.sleep(Duration::from_secs(2 * 3_600)).await;
    assert!(!lab.is_stuck("db-1.2").await, "it needs nobody");
    assert!(lab.region.with(|world, _| world.volume(&root).is_some()));
    comes_back(&mut lab, "db-1", Duration::from_secs(2 * 3_600), &old).await;
    lab.clock.sleep(SETTLES).await;
    lab.check("db-1", &["before"]).await;
}

/// A launch that is answered well and ends before it runs (a key that may not be used, a volume limit): the next pool is asked, and when none
/// is different a person is told.
#[tokio::test(start_paused = true)]
async fn launches_that_end_before_they_run_are_not_repeated_for_ever() {
    let (mut lab, _) = provisioned(Settings::calm(7), NetworkMode::SecondaryIp, RootMode::Adopt).await;
    lab.region.with(|world, _| world.fail_next_launch("Server.InternalError"));
    let old = lab.instance("db-1").await;
    lab.submit("node.replace", "db-1", json!({})).await;
    comes_back(&mut lab, "db-1", Duration::from_secs(900), &old).await;
    lab.region.with(|world, _| {
        for _ in 0..40 {
            world.fail_next_launch("Client.InvalidKMSKey.InvalidState");
        }
    });
    lab.submit("node.replace", "db-1", json!({})).await;
    let why = lab.stuck("db-1.3").await;
    assert!(why.contains("Client.InvalidKMSKey.InvalidState"), "{why}");
    assert!(why.contains("perennial workflow resume db-1.3"), "{why}");
    assert_eq!(
        lab.region.with(|world, _| world.instances_of("db-1").len()),
        1,
        "the old one still carries it"
    );
}

/// The table names the test of each situation; a test that is renamed is renamed there.
#[test]
fn every_row_names_a_test_that_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/situations.md")).unwrap();
    let mut links = 0;
    for link in table.split("[`").skip(1) {
        let (test, rest) = link.split_once("`](../").expect("a link to a test");
        let (file, _) = rest.split_once(')').unwrap();
        let source =
            std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(&format!("fn {test}(")), "{file} has no {test}");
        links += 1;
    }
    assert!(links > 60, "only {links} links were read");
    let done = table.split_once("## Not done").unwrap().0;
    let entries: Vec<&str> = done.split("\n- ").skip(1).collect();
    assert!(entries.len() > 40, "only {} entries were read", entries.len());
    for entry in entries {
        assert!(entry.contains("](../"), "no test shows it: {entry}");
    }
}
