//! Signals as they come through the queue, on a whole Perennial over the simulated region.

mod lab;

use std::time::Duration;

use lab::Lab;
use perennial_engine::queue::{Outgoing, Queue as _};
use perennial_sim::world::settings::Settings;
use perennial_workflows::spec::{NetworkMode, RootMode};
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

async fn tell(lab: &Lab, event: &Value) {
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
    let fates = lab.fates().await;
    let count = |word: &str| fates.iter().filter(|fate| fate.contains(word)).count();
    assert_eq!((count("\"past\""), count("\"foreign\"")), (2, 0), "{fates:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_retirement_of_nothing_of_ours_is_one_foreign_letter() {
    let mut lab = Lab::new(Settings::calm(7));
    lab.provision(&lab.spec("db-1", NetworkMode::None, RootMode::None)).await;
    let before = lab.fates().await.len();
    let entities: Vec<String> = (0..500).map(|n| format!("i-0ee55ff66778{n:05}")).collect();
    tell(&lab, &health("one", RETIREMENT, &entities)).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    let fates = lab.fates().await;
    assert_eq!(fates.len(), before + 1, "{fates:#?}");
    assert!(fates.last().unwrap().contains("foreign"), "{fates:#?}");
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
