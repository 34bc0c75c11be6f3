//! The node's own address in other subnets: nodes that move there, are paused and resumed there, are cancelled on the way.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{may_move, quick_snapshots};
use crate::sweep::Seen;
use perennial_sim::world::settings::{Capacity, Settings, Span};
use perennial_workers::port::{InterfaceRequest, Tags};
use perennial_workflows::spec::node::{Handover, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

/// A node that may live in two zones, in the first one.
async fn provisioned(network: NetworkMode, handover: Handover) -> (Lab, NodeSpec) {
    let mut settings = quick_snapshots(7);
    settings.latencies.shutdown = Span::ms(6_000, 8_000);
    Lab::provisioned(settings, network, RootMode::None, |lab, spec| {
        spec.persist.handover = handover;
        may_move(lab, spec);
        spec.network.elastic_ip = Some(lab.elastic());
    })
    .await
}

const OWN: [NetworkMode; 4] =
    [NetworkMode::PrimaryEni, NetworkMode::SecondaryEni, NetworkMode::SecondaryIp, NetworkMode::IpPool];

#[tokio::test(start_paused = true)]
async fn a_node_that_was_paused_comes_back_in_another_subnet_and_from_there() {
    for network in OWN {
        let (mut lab, spec) = provisioned(network, Handover::Terminate).await;
        let before = lab.node("db-1").await.resources;
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 2).await;
        lab.check_without_instance("db-1").await;
        lab.set_capacity(&spec, 0, Capacity::Unsupported);
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.rest("db-1", 3).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
        lab.check("db-1", &["before"]).await;
        let there = lab.node("db-1").await.resources;
        assert!(there.subnet.is_some(), "{network:?}");
        assert_ne!(there.address, before.address, "{network:?}");
        assert_eq!(there.elastic, before.elastic, "{network:?}");
        // Paused there, it comes back with what it has there, and then home again.
        lab.submit("node.pause", "db-1", json!({})).await;
        lab.rest("db-1", 4).await;
        lab.submit("node.resume", "db-1", json!({})).await;
        lab.rest("db-1", 5).await;
        let again = lab.node("db-1").await.resources;
        assert_eq!((again.address, again.interface), (there.address, there.interface), "{network:?}");
        lab.set_capacity(&spec, 0, Capacity::Unlimited);
        lab.set_capacity(&spec, 1, Capacity::Unsupported);
        lab.warn("db-1").await;
        lab.rest("db-1", 6).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
        lab.check("db-1", &["before"]).await;
        let home = lab.node("db-1").await.resources;
        assert_eq!(home.subnet, None, "{network:?}");
        if network == NetworkMode::IpPool {
            assert_eq!(home.address, before.address, "it has been the node's all the time");
        }
        let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
        lab.submit("node.delete", "db-1", json!({ "keep": keep })).await;
        lab.rest("db-1", 7).await;
        lab.check_without_instance("db-1").await;
        for (_, pool) in spec.ip_pools() {
            assert_eq!(lab.pool(pool.as_str()).await.held.len(), 0, "{pool}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_at_any_second_of_a_move_ends_on_either_side_whole() {
    let mut went_back = Seen::at_least(30, "moves that were undone");
    let mut went_on = Seen::at_least(30, "moves past the point of no return");
    for network in [NetworkMode::SecondaryEni, NetworkMode::IpPool] {
        for handover in [Handover::Terminate, Handover::Detach] {
            for tenths in (0..400).step_by(13) {
                let (mut lab, spec) = provisioned(network, handover).await;
                let before = lab.node("db-1").await.resources;
                let (old, volume) = (lab.instance("db-1").await, lab.volume("db-1", "data").await);
                lab.set_capacity(&spec, 0, Capacity::Unsupported);
                if handover == Handover::Detach {
                    lab.region.with(|world, now_ms| world.unmount(now_ms, &old, &volume).unwrap());
                }
                lab.submit("node.replace", "db-1", json!({})).await;
                lab.clock.sleep(Duration::from_millis(tenths * 100)).await;
                lab.submit("workflow.cancel", "db-1", json!({ "workflow": "db-1.2" })).await;
                lab.rest("db-1", 2).await;
                lab.clock.sleep(Duration::from_secs(120)).await;
                lab.check("db-1", &["before"]).await;
                let after = lab.node("db-1").await.resources;
                assert_eq!(after.elastic, before.elastic);
                if lab.instance("db-1").await == old {
                    went_back.when(true);
                    assert_eq!(
                        (after.address, after.interface, after.addresses_elsewhere),
                        (before.address, before.interface, before.addresses_elsewhere),
                        "{network:?} {handover:?} after {tenths} tenths"
                    );
                } else {
                    went_on.when(true);
                    assert!(after.subnet.is_some(), "{network:?} {handover:?} after {tenths} tenths");
                }
                assert_eq!(after.orphans, [], "{network:?} {handover:?} after {tenths} tenths");
            }
        }
    }
}

/// The interface that keeps a paused node's address was deleted by hand: who has the address now is named, and it is taken from nobody.
#[tokio::test(start_paused = true)]
async fn an_address_that_somebody_got_during_a_pause_is_stuck_with_its_holder_and_the_command() {
    let mut lab = Lab::new(Settings::calm(7));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::None);
    lab.provision(&spec).await;
    lab.write("db-1", "before").await;
    let address = lab.node("db-1").await.resources.address;
    lab.submit("node.pause", "db-1", json!({})).await;
    lab.rest("db-1", 2).await;
    let keeper = lab.node("db-1").await.resources.address_interface.expect("something keeps the address");
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &keeper).unwrap());
    let stranger = InterfaceRequest {
        client_token: "stranger".into(),
        subnet: spec.subnet.clone(),
        groups: Vec::new(),
        private_ip: address,
        tags: Tags::new(),
    };
    let stranger = lab.region.with(|world, now_ms| world.create_interface(now_ms, &stranger).unwrap());
    lab.submit("node.resume", "db-1", json!({})).await;
    let why = lab.stuck("db-1.3").await;
    assert!(why.contains(&format!("{} is held by {stranger}", address.unwrap())), "{why}");
    assert!(why.contains(&format!("free {}", address.unwrap())), "{why}");
    assert!(why.contains("perennial workflow resume db-1.3"), "{why}");
    let view = lab.region.with(|world, _| world.interface(&stranger).unwrap().primary_ip);
    assert_eq!(Some(view), address, "it is taken from nobody");
    lab.region.with(|world, now_ms| world.delete_interface(now_ms, &stranger).unwrap());
    lab.submit("workflow.resume", "db-1", json!({ "workflow": "db-1.3" })).await;
    lab.rest("db-1", 3).await;
    lab.check("db-1", &["before"]).await;
    assert_eq!(lab.node("db-1").await.resources.address, address);
}
