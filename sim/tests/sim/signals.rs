//! Signals as they come through the queue, on a whole Perennial over the simulated region.

use std::time::Duration;

use crate::lab::Lab;
use perennial_engine::queue::{Depth, Outgoing, Queue as _};
use perennial_sim::world::settings::{Settings, Span};
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::OperationEvent;
use perennial_workflows::spec::node::{NetworkMode, RootMode};
use perennial_workflows::step::evidence::Evidence;
use serde_json::{Value, json};

/// AWS Health's event as it is published: about these entities, announced for two weeks later.
fn health(id: &str, code: &str, entities: &[String]) -> Value {
    let entities: Vec<Value> =
        entities.iter().map(|name| json!({ "entityValue": name, "status": "PENDING" })).collect();
    json!({
        "version": "0", "id": id, "detail-type": "AWS Health Event", "source": "aws.health",
        "account": "111122223333", "time": "2026-09-14T08:00:31Z", "region": "us-west-2", "resources": [],
        "detail": {
            "service": "EC2", "eventTypeCode": code, "eventTypeCategory": "scheduledChange",
            "communicationId": "7a1b2c3d-1", "startTime": "Sun, 28 Sep 2026 02:00:00 GMT",
            "lastUpdatedTime": "Mon, 14 Sep 2026 02:00:12 GMT", "statusCode": "upcoming",
            "affectedEntities": entities, "affectedAccount": "111122223333",
            "page": "1", "totalPages": "1", "backupEvent": "false"
        }
    })
}

const RETIREMENT: &str = "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED";

pub async fn tell(lab: &Lab, event: &Value) {
    lab.interruptions.send(vec![Outgoing::now(event.to_string())]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retirement_moves_each_node_it_names_once_whatever_else_is_named_and_however_often_it_comes() {
    let mut lab = Lab::new(Settings::calm(7));
    for name in ["db-1", "db-2", "db-3"] {
        lab.provision(&lab.spec(name, NetworkMode::SecondaryIp, RootMode::Adopt)).await;
    }
    let volumes = [lab.node("db-1").await.resources.volumes, lab.node("db-2").await.resources.volumes];
    let old = [lab.instance("db-1").await, lab.instance("db-2").await, lab.instance("db-3").await];
    let entities = [
        "i-0ee55ff6677889900".to_owned(),
        old[0].to_string(),
        format!("arn:aws:ec2:us-west-2:111122223333:instance/{}", old[1]),
        "h-0123".to_owned(),
    ];
    tell(&lab, &health("one", RETIREMENT, &entities)).await;
    let mut backup = health("two", RETIREMENT, &entities);
    backup["detail"]["backupEvent"] = json!("true");
    tell(&lab, &backup).await;
    lab.rest("db-1", 2).await;
    lab.rest("db-2", 2).await;
    // A reminder of AWS's after all is done.
    let mut reminder = health("three", RETIREMENT, &entities);
    reminder["detail"]["lastUpdatedTime"] = json!("Fri, 25 Sep 2026 02:00:12 GMT");
    tell(&lab, &reminder).await;
    lab.clock.sleep(Duration::from_secs(300)).await;
    for (name, old, volumes) in [("db-1", &old[0], &volumes[0]), ("db-2", &old[1], &volumes[1])] {
        assert_ne!(lab.instance(name).await, *old);
        let node = lab.node(name).await;
        assert_eq!(node.resources.volumes, *volumes, "{name} has its volumes");
        assert_eq!(node.operations, 2, "one operation for all of it");
    }
    assert_eq!(lab.node("db-3").await.operations, 1, "it was not named");
    let dispositions = lab.dispositions().await;
    let count = |word: &str| dispositions.iter().filter(|disposition| disposition.contains(word)).count();
    assert_eq!((count("\"past\""), count("\"foreign\"")), (2, 0), "{dispositions:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_retirement_of_nothing_of_ours_is_counted_and_not_kept() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::None, RootMode::None)).await;
    let before = lab.dispositions().await.len();
    let entities: Vec<String> = (0..500).map(|n| format!("i-0ee55ff66778{n:05}")).collect();
    tell(&lab, &health("one", RETIREMENT, &entities)).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.dispositions().await.len(), before, "it has no entry");
    lab.clock.sleep(Duration::from_secs(660)).await;
    let counted = lab.counted("interruptions").await;
    assert_eq!((counted.foreign, counted.total()), (500, 500), "{counted}");
    assert_eq!(lab.node("db-1").await.operations, 1);
}

#[tokio::test(start_paused = true)]
async fn maintenance_is_noted_and_moves_nothing() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::None, RootMode::None)).await;
    let instance = lab.instance("db-1").await;
    tell(&lab, &health("one", "AWS_EC2_INSTANCE_REBOOT_MAINTENANCE_SCHEDULED", &[instance.to_string()]))
        .await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    let node = lab.node("db-1").await;
    assert_eq!((node.operations, node.noted.len()), (1, 1));
}

/// A root of which a snapshot takes so long; how much later than it was complete that was recorded, in milliseconds.
async fn late_by(events_enabled: bool, snapshot_ms: u64) -> u64 {
    let mut settings = Settings::calm(7);
    settings.latencies.snapshot = Span { min_ms: snapshot_ms, max_ms: snapshot_ms };
    settings.events_enabled = events_enabled;
    let mut lab = Lab::new(settings);
    lab.provision(&lab.spec("db-1", NetworkMode::None, RootMode::Image)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let events = lab.operation_events("db-1.2").await;
    let (at_ms, snapshot) = events
        .iter()
        .find_map(|(stamp, event)| match event {
            OperationEvent::StepSettled {
                evidence: Evidence::SnapshotCompleted { snapshot, .. }, ..
            } => Some((stamp.at_ms, snapshot.clone())),
            _ => None,
        })
        .expect("it went on as an image");
    at_ms - lab.region.with(|world, _| world.snapshot(&snapshot).unwrap().completes_at_ms)
}

#[tokio::test(start_paused = true)]
async fn an_event_of_ebs_wakes_the_step_that_waits_for_the_snapshot() {
    let mut without = Vec::new();
    for snapshot_ms in [900_700, 901_700, 902_700, 903_700, 904_700] {
        let woken = late_by(true, snapshot_ms).await;
        assert!(woken < 500, "{woken} ms");
        without.push(late_by(false, snapshot_ms).await);
    }
    let longest = without.iter().max().copied().unwrap_or(0);
    assert!(longest > 2_000, "without the event the next look finds it: {without:?} ms later");
    assert!(longest < 6_000, "and soon: {without:?} ms");
}

#[tokio::test(start_paused = true)]
async fn events_of_ebs_leave_nothing_in_the_journal() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::None, RootMode::Image)).await;
    lab.submit("node.replace", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let event = json!({
        "version": "0", "id": "e705", "detail-type": "EBS Snapshot Notification", "source": "aws.ec2",
        "account": "111122223333", "time": "2026-09-14T08:41:55Z", "region": "us-west-2",
        "resources": ["arn:aws:ec2::us-west-2:snapshot/snap-0a1b2c3d4e5f60718"],
        "detail": { "event": "createSnapshot", "result": "failed",
            "snapshot_id": "arn:aws:ec2::us-west-2:snapshot/snap-0a1b2c3d4e5f60718" }
    });
    for _ in 0..3 {
        tell(&lab, &event).await;
    }
    lab.clock.sleep(Duration::from_secs(60)).await;
    assert!(!lab.story().await.contains("EBS "), "{}", lab.story().await);
    assert_eq!(lab.interruptions.depth().await.unwrap(), Depth::default(), "they are taken off the queue");
}

/// A state change as EventBridge sends it, of another account and region and with an old time.
pub fn state_change(id: &str, instance: &InstanceId, state: &str) -> Value {
    json!({
        "version": "0", "id": id, "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2",
        "account": "999999999999", "time": "2026-09-13T16:00:00Z", "region": "eu-north-1",
        "resources": [format!("arn:aws:ec2:eu-north-1:999999999999:instance/{instance}")],
        "detail": { "instance-id": instance, "state": state }
    })
}

/// An operator has set DeleteOnTermination of a node's data volume.
async fn dies_with_its_instance(lab: &Lab, name: &str) {
    let node = lab.node(name).await;
    let instance = node.resources.carrier.unwrap().instance;
    let slot = Slot::try_from("data".to_owned()).unwrap();
    let device = node.resources.volumes[&slot].device.clone();
    lab.region.with(|world, now_ms| {
        world.modify_delete_on_termination(now_ms, &instance, &[(device, true)]).unwrap();
    });
}

/// The end of an instance is believed when EC2 shows it, not when a message says so.
#[tokio::test(start_paused = true)]
async fn an_event_that_ends_a_running_instance_does_nothing_to_it() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt)).await;
    let instance = lab.instance("db-1").await;
    // An end of the instance would be the end of the data.
    dies_with_its_instance(&lab, "db-1").await;
    for state in ["shutting-down", "terminated", "stopping", "stopped"] {
        tell(&lab, &state_change(state, &instance, state)).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
    }
    assert_eq!(lab.node("db-1").await.operations, 1, "{}", lab.story().await);
    assert_eq!(lab.instance("db-1").await, instance);
    let dispositions = lab.dispositions().await;
    let noted = dispositions.iter().filter(|body| body.contains("but EC2 shows it running")).count();
    assert_eq!(noted, 4, "{dispositions:#?}");
    let running = lab.region.with(|world, _| world.instance(&instance).unwrap().state);
    assert_eq!(running, InstanceState::Running);
}

/// The same in the middle of a replacement, at every half second of it: what protects the data is not left out.
#[tokio::test(start_paused = true)]
async fn an_event_that_ends_the_old_instance_too_early_loses_nothing() {
    let mut contradicted = 0;
    for half_seconds in 0..16 {
        let mut lab = Lab::new(Settings::calm(7));
        lab.provision(&lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt)).await;
        lab.write("db-1", "before").await;
        let instance = lab.instance("db-1").await;
        dies_with_its_instance(&lab, "db-1").await;
        lab.submit("node.replace", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_millis(500 * half_seconds)).await;
        tell(&lab, &state_change("early", &instance, "terminated")).await;
        lab.rest("db-1", 2).await;
        lab.clock.sleep(Duration::from_secs(300)).await;
        lab.check("db-1", &["before"]).await;
        let dispositions = lab.dispositions().await;
        contradicted += dispositions.iter().filter(|body| body.contains("but EC2 shows it running")).count();
    }
    assert!(contradicted > 0, "no event came while the old instance still ran");
}

/// The status checks of a node's present instance fail from now on.
async fn impair(lab: &Lab, name: &str) -> InstanceId {
    let instance = lab.instance(name).await;
    lab.region.with(|world, _| world.set_impaired(&instance, true));
    instance
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_fails_its_status_checks_is_left_once_that_has_lasted() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt)).await;
    lab.write("db-1", "before").await;
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    let first = impair(&lab, "db-1").await;
    lab.clock.sleep(Duration::from_secs(290)).await;
    assert_eq!(lab.node("db-1").await.operations, 1, "a reboot fails them for a while as well");
    lab.clock.sleep(Duration::from_secs(90)).await;
    lab.rest("db-1", 2).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    assert_ne!(lab.instance("db-1").await, first);
    lab.check("db-1", &["before"]).await;
    let cause = lab.node("db-1").await;
    assert_eq!(cause.operations, 2);
    // A root that does not start fails on every instance: no second move within the hour, and one note.
    let second = impair(&lab, "db-1").await;
    lab.clock.sleep(Duration::from_secs(1_800)).await;
    assert_eq!(lab.instance("db-1").await, second);
    let noted = lab.node("db-1").await.noted;
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert!(noted[0].because.contains("less than 60 minutes"), "{noted:?}");
    let notes = lab.story().await.matches("node.signal_noted").count();
    assert_eq!(notes, 1, "one note, not one a minute");
    lab.clock.sleep(Duration::from_secs(2_400)).await;
    lab.rest("db-1", 3).await;
    assert_ne!(lab.instance("db-1").await, second);
}

#[tokio::test(start_paused = true)]
async fn status_checks_that_pass_again_in_time_or_are_only_to_be_noted_move_nothing() {
    let mut lab = Lab::new(Settings::calm(7));
    let mut spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    let instance = impair(&lab, "db-1").await;
    lab.clock.sleep(Duration::from_secs(200)).await;
    lab.region.with(|world, _| world.set_impaired(&instance, false));
    lab.clock.sleep(Duration::from_secs(200)).await;
    lab.region.with(|world, _| world.set_impaired(&instance, true));
    lab.clock.sleep(Duration::from_secs(200)).await;
    assert_eq!(lab.node("db-1").await.operations, 1, "each time it counts anew");
    spec.signals = serde_json::from_value(json!({ "impaired": "note" })).unwrap();
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.clock.sleep(Duration::from_secs(3_600)).await;
    let node = lab.node("db-1").await;
    assert_eq!((node.operations, lab.instance("db-1").await), (1, instance));
    assert!(node.noted[0].because.contains("signals.impaired: note"), "{:?}", node.noted);
}
