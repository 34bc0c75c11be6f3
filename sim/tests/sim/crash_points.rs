//! Crash points: run once counting the points (before and after each call and each append); then, for every k, die at
//! k, start again, drive to rest. The same final world every time, nothing lost, nothing leaked.

use std::time::Duration;

use crate::lab::Lab;
use crate::nodes::{may_move, quick};
use crate::sweep::Deaths;
use perennial_sim::world::settings::{Capacity, RootAdoption, Settings};
use perennial_workflows::model::aws::Market;
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::spec::node::{DataMode, Handover, NetworkMode, NodeSpec, RootMode};

/// What a run is about.
#[derive(Debug, Clone, Copy)]
struct Case {
    network: NetworkMode,
    root: RootMode,
    handover: Handover,
    adoption: Adoption,
    loss: Loss,
    data: DataMode,
    zone: Zone,
    boots: Boots,
}

/// Whether the instance has UEFI variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boots {
    Plainly,
    WithVariables,
}

const VARIABLES: &str = "Zmlyc3Q=";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Same,
    /// It could move, and need not.
    Either,
    Other,
}

#[derive(Debug, Clone, Copy)]
enum Adoption {
    Works,
    Refused,
    FailsDetached,
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    Announced,
    Sudden,
}

async fn prepared(case: Case) -> Lab {
    let mut settings = quick(11);
    settings.root_adoption = match case.adoption {
        Adoption::Works => RootAdoption::Supported,
        Adoption::Refused => RootAdoption::Unsupported("UnsupportedOperation".into()),
        Adoption::FailsDetached => RootAdoption::FailedDetached,
    };
    let change = |lab: &Lab, spec: &mut NodeSpec| {
        spec.persist.handover = case.handover;
        spec.persist.data = case.data;
        if case.zone != Zone::Same {
            spec.capacity.instance_types.truncate(1);
            spec.capacity.market = MarketPolicy::SpotOnly;
            may_move(lab, spec);
        }
        // Where an address moves, the public one follows it.
        if matches!(case.network, NetworkMode::SecondaryIp | NetworkMode::SecondaryEni) {
            spec.network.elastic_ip = Some(lab.elastic());
        }
    };
    let (lab, _) = Lab::provisioned(settings, case.network, case.root, change).await;
    if case.boots == Boots::WithVariables {
        let instance = lab.instance("db-1").await;
        lab.region.with(|world, _| world.set_uefi_data(&instance, VARIABLES));
    }
    if case.zone == Zone::Other {
        lab.region.with(|world, _| {
            let zone = world.zones()[0].clone();
            world.set_capacity("m6i.large", &zone, Market::Spot, Capacity::Unsupported);
        });
    }
    lab
}

/// One run that dies at `k`.
async fn run(case: Case, k: u64) -> Lab {
    let mut lab = prepared(case).await;
    let before = lab.node("db-1").await.resources;
    lab.die_at(k);
    match case.loss {
        Loss::Announced => lab.warn("db-1").await,
        Loss::Sudden => lab.reclaim("db-1").await,
    };
    lab.rest("db-1", 2).await;
    lab.disarm();
    lab.clock.sleep(Duration::from_secs(120)).await;
    lab.check("db-1", &["before"]).await;
    let after = lab.node("db-1").await;
    assert_eq!(after.operations, 2, "{case:?} at {k}: one operation\n{}", lab.story().await);
    if case.zone != Zone::Other {
        assert_eq!(after.resources.address, before.address, "{case:?} at {k}");
    }
    assert_eq!(after.resources.elastic, before.elastic, "{case:?} at {k}");
    if case.boots == Boots::WithVariables {
        let instance = lab.instance("db-1").await;
        let has = lab.region.with(|world, _| world.instance(&instance).unwrap().uefi_data.clone());
        assert_eq!(has.as_deref(), Some(VARIABLES), "{case:?} at {k}\n{}", lab.story().await);
        assert_eq!(after.resources.uefi_data.as_deref(), Some(VARIABLES), "{case:?} at {k}");
    }
    if case.network == NetworkMode::IpPool {
        let held = [lab.pool("pool-0").await.held, lab.pool("pool-1").await.held].map(|held| held.len());
        assert_eq!(held, [1, 1], "{case:?} at {k}");
    }
    lab
}

/// Every `stride`th point of a case, from `first`.
async fn every_point(case: Case, first: u64, stride: usize) {
    Deaths { more_than: 40, first, stride }.of(async |k| run(case, k).await).await;
}

const BASE: Case = Case {
    network: NetworkMode::SecondaryIp,
    root: RootMode::Adopt,
    handover: Handover::Terminate,
    adoption: Adoption::Works,
    loss: Loss::Announced,
    data: DataMode::Reattach,
    zone: Zone::Same,
    boots: Boots::Plainly,
};

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_while_uefi_variables_go_on_with_an_image() {
    every_point(Case { root: RootMode::Image, boots: Boots::WithVariables, ..BASE }, 0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_data_that_goes_on_by_snapshots() {
    every_point(Case { data: DataMode::Snapshot, ..BASE }, 0, 2).await;
    every_point(
        Case { network: NetworkMode::PrimaryEni, data: DataMode::Snapshot, loss: Loss::Sudden, ..BASE },
        1,
        2,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_move_to_another_zone() {
    every_point(Case { zone: Zone::Other, ..BASE }, 0, 2).await;
    every_point(Case { network: NetworkMode::PrimaryEni, zone: Zone::Other, ..BASE }, 1, 2).await;
    every_point(
        Case {
            network: NetworkMode::None,
            root: RootMode::None,
            handover: Handover::Detach,
            zone: Zone::Other,
            ..BASE
        },
        0,
        2,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_move_whose_snapshots_are_taken_ahead() {
    let case = Case { network: NetworkMode::None, zone: Zone::Other, ..BASE };
    every_point(Case { root: RootMode::Image, ..case }, 0, 2).await;
    every_point(Case { data: DataMode::Snapshot, loss: Loss::Sudden, ..case }, 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_snapshots_ahead_of_a_move_that_does_not_come() {
    let case = Case { network: NetworkMode::None, zone: Zone::Either, ..BASE };
    every_point(Case { root: RootMode::Image, ..case }, 1, 2).await;
    every_point(Case { data: DataMode::Snapshot, ..case }, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_move_of_a_second_interface_to_another_zone() {
    let case = Case { network: NetworkMode::SecondaryEni, root: RootMode::None, zone: Zone::Other, ..BASE };
    every_point(case, 0, 1).await;
    every_point(Case { loss: Loss::Sudden, handover: Handover::Detach, ..case }, 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_move_to_the_pool_of_another_zone() {
    let case = Case { network: NetworkMode::IpPool, root: RootMode::None, zone: Zone::Other, ..BASE };
    every_point(case, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_make_before_break_with_root_adoption() {
    every_point(BASE, 0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_break_before_make_with_root_adoption() {
    every_point(Case { network: NetworkMode::PrimaryEni, ..BASE }, 0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_while_a_second_interface_moves() {
    let case = Case { network: NetworkMode::SecondaryEni, root: RootMode::None, ..BASE };
    every_point(case, 0, 1).await;
    every_point(Case { handover: Handover::Detach, ..case }, 0, 1).await;
    every_point(Case { loss: Loss::Sudden, root: RootMode::Adopt, ..case }, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_the_image_rung() {
    every_point(Case { root: RootMode::Image, ..BASE }, 0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_falling_from_adoption_to_an_image() {
    every_point(Case { network: NetworkMode::PrimaryEni, adoption: Adoption::Refused, ..BASE }, 0, 2).await;
    every_point(Case { adoption: Adoption::FailsDetached, ..BASE }, 1, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_live_handover() {
    every_point(
        Case { network: NetworkMode::None, root: RootMode::None, handover: Handover::Detach, ..BASE },
        0,
        1,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_after_a_sudden_loss() {
    every_point(Case { loss: Loss::Sudden, ..BASE }, 0, 1).await;
    every_point(Case { loss: Loss::Sudden, network: NetworkMode::PrimaryEni, ..BASE }, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_point_of_a_provision() {
    let run = async |k| {
        let mut lab = Lab::new(Settings::calm(5));
        lab.die_at(k);
        lab.provision(&lab.spec("db-1", NetworkMode::PrimaryEni, RootMode::Adopt)).await;
        lab.disarm();
        lab.clock.sleep(Duration::from_secs(60)).await;
        lab.write("db-1", "first").await;
        lab.check("db-1", &["first"]).await;
        lab
    };
    Deaths::at_every_point(30).of(run).await;
}
