//! The tables of the workflows, row by row: what is opened when, and what an unwelcome observation leads to.
//!
//! Everything goes well except what the case says; a transcript begins where it differs. `UPDATE_EXPECT=1 cargo test -p
//! perennial-workflows --test workflows tables` rewrites the expectations after a change that was meant: run it twice, the
//! transcripts in which all goes well come first.

use expect_test::{Expect, expect};
use perennial_engine::domain::Stamp;
use perennial_engine::ids::Token;
use perennial_workflows::machine::decide::Draft;
use perennial_workflows::machine::fold;
use perennial_workflows::machine::refusal::Refusal;
use perennial_workflows::model::aws::{AllocationId, GroupId, InstanceState, SubnetId, VolumeId};
use perennial_workflows::model::capacity::{MarketPolicy, NotAsked, PoolSign};
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome};
use perennial_workflows::model::resources::{Orphan, Resource};
use perennial_workflows::model::restore::Keep;
use perennial_workflows::model::signal::{Cause, News, Signal, Source};
use perennial_workflows::model::volume::{DiscoveredVolume, Found, UnmanagedVolume};
use perennial_workflows::operation::event::{OperationEvent, Order};
use perennial_workflows::operation::facts::Place;
use perennial_workflows::operation::state::{Operation, Status};
use perennial_workflows::spec::node::{
    DataMode, Handover, NetworkMode, NodeSpec, OnDemandSpec, RootMode, ZoneChange, example,
};
use perennial_workflows::step::backup::BackupEvidence;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Associate, Attach, Intent, Launch, Preserve, Release, Start};
use perennial_workflows::view::plan::{imagined_resources, success};

use crate::run::{Otherwise, Run, asked, order, well};

fn spec(network: NetworkMode, root: RootMode) -> NodeSpec {
    example("db-1", network, root)
}

/// A transcript in which everything goes well, with what it is called.
type Well = (&'static str, fn() -> Expect);

/// All of them, each checked line by line where it stands.
const WELL: [Well; 9] = [
    ("a provision", a_provision),
    ("make before break", make_before_break),
    ("break before make", break_before_make),
    ("a root by image", a_root_by_image),
    ("a live handover", a_live_handover),
    ("an Elastic IP", an_elastic_ip),
    ("a second interface", a_second_interface),
    ("a second interface that leaves alive", a_second_interface_alive),
    ("set groups", set_groups),
];

/// Fewer lines than these are not worth a reference.
const SHORTENED_MIN: usize = 4;

/// A transcript from its first difference on: how many lines it shares with one of [`WELL`], and the rest.
fn differs(told: &str) -> String {
    let told: Vec<&str> = told.lines().collect();
    let shared = |(name, expected): &Well| {
        let expected = expected();
        let lines = expected.data().lines().map(str::trim).filter(|line| !line.is_empty());
        (lines.zip(&told).take_while(|(one, other)| one == *other).count(), *name)
    };
    let (shared, name) =
        WELL.iter().rev().map(shared).max_by_key(|(lines, _)| *lines).expect("there are some");
    let (head, skipped) = match shared {
        0..SHORTENED_MIN => (String::new(), 0),
        lines => (format!("… {lines} lines of {name}\n"), lines),
    };
    told[skipped..].iter().fold(head, |text, line| text + line + "\n")
}

fn all_goes_well(kind: OperationKind, spec: &NodeSpec, expected: &Expect) {
    let mut run = Run::start(kind, spec, asked(), None);
    run.drive(&well);
    expected.assert_eq(&run.told);
}

fn check(kind: OperationKind, spec: &NodeSpec, otherwise: Otherwise<'_>, expected: Expect) {
    let mut run = Run::start(kind, spec, asked(), None);
    run.drive(otherwise);
    expected.assert_eq(&differs(&run.told));
}

fn a_provision() -> Expect {
    expect![[r#"
        + resolve
        = resolve: resolved
        + create_volume:data
        + create_interface
        = create_volume:data: volume_created
        = create_interface: interface_created
        + launch
        = launch: launched
        + start
        = start: started
        + preserve:i-new2x8
        + attach:data
        = preserve:i-new2x8: preserved
        = attach:data: attached
        + preserve:i-new2x8 (2)
        = preserve:i-new2x8: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
}

#[test]
fn provision_makes_launches_and_carries() {
    all_goes_well(OperationKind::Provision, &spec(NetworkMode::PrimaryEni, RootMode::Adopt), &a_provision());
}

fn make_before_break() -> Expect {
    expect![[r#"
            + preserve:i-new1x5
            + launch
            = preserve:i-new1x5: preserved
            = launch: launched
            + start
            = start: started
            + fence:i-new1x5
            + preserve:i-new2x3
            = fence:i-new1x5: fenced
            + release:root
            + release:data
            + move_address
            = preserve:i-new2x3: preserved
            = release:root: released
            + adopt_root
            = release:data: released
            + attach:data
            = move_address: moved
            = adopt_root: adopted
            + preserve:i-new2x3 (2)
            = attach:data: attached
            = preserve:i-new2x3: preserved
            + preserve:i-new2x3 (3)
            = preserve:i-new2x3: preserved
            + verify
            = verify: verified
            + delete_interface:eni-new1x8
            + delete_volume:vol-new2x6
            = delete_interface:eni-new1x8: deleted
            = delete_volume:vol-new2x6: deleted
            ! finished
        "#]]
}

#[test]
fn make_before_break_fences_only_when_the_new_instance_runs() {
    all_goes_well(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryIp, RootMode::Adopt),
        &make_before_break(),
    );
}

fn break_before_make() -> Expect {
    expect![[r#"
            + preserve:i-new1x7
            = preserve:i-new1x7: preserved
            + fence:i-new1x7
            = fence:i-new1x7: fenced
            + release:root
            + release:data
            + release_interface
            = release:root: released
            = release:data: released
            = release_interface: released
            + launch
            = launch: launched
            + start
            = start: started
            + preserve:i-new2x12
            + attach:data
            = preserve:i-new2x12: preserved
            + adopt_root
            = attach:data: attached
            = adopt_root: adopted
            + preserve:i-new2x12 (2)
            = preserve:i-new2x12: preserved
            + preserve:i-new2x12 (3)
            = preserve:i-new2x12: preserved
            + verify
            = verify: verified
            + delete_volume:vol-new2x14
            = delete_volume:vol-new2x14: deleted
            ! finished
        "#]]
}

#[test]
fn break_before_make_launches_only_when_the_interface_is_free() {
    all_goes_well(
        OperationKind::Replace,
        &spec(NetworkMode::PrimaryEni, RootMode::Adopt),
        &break_before_make(),
    );
}

fn a_root_by_image() -> Expect {
    expect![[r#"
            + preserve:i-new1x5
            = preserve:i-new1x5: preserved
            + fence:i-new1x5
            = fence:i-new1x5: fenced
            + release:root
            + release:data
            = release:root: released
            + snapshot_root
            = release:data: released
            = snapshot_root: snapshot_completed
            + register_image
            = register_image: image_available
            + launch
            = launch: launched
            + start
            = start: started
            + preserve:i-new2x14
            + attach:data
            + move_address
            = preserve:i-new2x14: preserved
            = attach:data: attached
            = move_address: moved
            + preserve:i-new2x14 (2)
            = preserve:i-new2x14: preserved
            + verify
            = verify: verified
            + delete_interface:eni-new1x8
            = delete_interface:eni-new1x8: deleted
            ! finished
        "#]]
}

#[test]
fn a_root_by_image_launches_only_when_the_image_is_there() {
    all_goes_well(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryIp, RootMode::Image),
        &a_root_by_image(),
    );
}

fn a_live_handover() -> Expect {
    expect![[r#"
        + preserve:i-new1x5
        + launch
        = preserve:i-new1x5: preserved
        = launch: launched
        + start
        = start: started
        + detach:data
        = detach:data: released
        + fence:i-new1x5
        + attach:data
        = fence:i-new1x5: fenced
        = attach:data: attached
        + preserve:i-new2x3
        = preserve:i-new2x3: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
}

#[test]
fn a_live_handover_detaches_before_it_fences() {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.persist.handover = Handover::Detach;
    all_goes_well(OperationKind::Replace, &spec, &a_live_handover());
}

#[test]
fn a_volume_that_stays_in_use_follows_after_the_fence() {
    let mut spec = spec(NetworkMode::SecondaryIp, RootMode::None);
    spec.persist.handover = Handover::Detach;
    let busy = |intent: &Intent, _: u32| {
        matches!(intent, Intent::Detach(_)).then(|| Evidence::OutOfTime { because: "busy".into() })
    };
    check(
        OperationKind::Replace,
        &spec,
        &busy,
        expect![[r#"
            … 7 lines of a live handover
            = detach:data: out_of_time
            + fence:i-new1x5
            = fence:i-new1x5: fenced
            + release:data
            + move_address
            = release:data: released
            + attach:data
            = move_address: moved
            = attach:data: attached
            + preserve:i-new2x3
            = preserve:i-new2x3: preserved
            + verify
            = verify: verified
            + delete_interface:eni-new1x8
            = delete_interface:eni-new1x8: deleted
            ! finished
        "#]],
    );
}

#[test]
fn an_adoption_that_fails_is_tried_with_a_clone() {
    let fails = |intent: &Intent, attempt: u32| {
        (matches!(intent, Intent::AdoptRoot(_)) && attempt == 1)
            .then(|| Evidence::AdoptRefused { code: "failed".into(), message: "so".into() })
    };
    check(
        OperationKind::Replace,
        &spec(NetworkMode::PrimaryEni, RootMode::Adopt),
        &fails,
        expect![[r#"
            … 19 lines of break before make
            = adopt_root: adopt_refused
            ! root: adopt → clone
            + preserve:i-new2x12 (2)
            = preserve:i-new2x12: preserved
            + fence:i-new2x12
            = fence:i-new2x12: fenced
            + release:root (2)
            + release:data (2)
            + release_interface (2)
            = release:root: released
            + clone_root
            = release:data: released
            = release_interface: released
            + launch (2)
            = clone_root: volume_created
            = launch: launched
            + start (2)
            = start: started
            + preserve:i-new2x34
            + attach:data (2)
            = preserve:i-new2x34: preserved
            + adopt_root (2)
            = attach:data: attached
            = adopt_root: adopted
            + preserve:i-new2x34 (2)
            = preserve:i-new2x34: preserved
            + preserve:i-new2x34 (3)
            = preserve:i-new2x34: preserved
            + verify
            = verify: verified
            + delete_volume:vol-new2x14
            + delete_volume:vol-new2x37
            = delete_volume:vol-new2x14: deleted
            = delete_volume:vol-new2x37: deleted
            ! finished
        "#]],
    );
}

#[test]
fn a_clone_whose_adoption_fails_as_well_is_deleted_and_the_old_volume_goes_on_as_an_image() {
    let fails = |intent: &Intent, _: u32| {
        matches!(intent, Intent::AdoptRoot(_))
            .then(|| Evidence::AdoptRefused { code: "failed-detached".into(), message: "so".into() })
    };
    check(
        OperationKind::Replace,
        &spec(NetworkMode::PrimaryEni, RootMode::Adopt),
        &fails,
        expect![[r#"
            … 19 lines of break before make
            = adopt_root: adopt_refused
            ! root: adopt → clone
            + preserve:i-new2x12 (2)
            = preserve:i-new2x12: preserved
            + fence:i-new2x12
            = fence:i-new2x12: fenced
            + release:root (2)
            + release:data (2)
            + release_interface (2)
            = release:root: released
            + clone_root
            = release:data: released
            = release_interface: released
            + launch (2)
            = clone_root: volume_created
            = launch: launched
            + start (2)
            = start: started
            + preserve:i-new2x34
            + attach:data (2)
            = preserve:i-new2x34: preserved
            + adopt_root (2)
            = attach:data: attached
            = adopt_root: adopt_refused
            ! root: clone → image
            + preserve:i-new2x34 (2)
            + snapshot_root
            = preserve:i-new2x34: preserved
            + fence:i-new2x34
            = snapshot_root: snapshot_completed
            + register_image
            = fence:i-new2x34: fenced
            + release:data (3)
            + release_interface (3)
            = register_image: image_available
            = release:data: released
            = release_interface: released
            + launch (3)
            = launch: launched
            + start (3)
            = start: started
            + preserve:i-new2x58
            + attach:data (3)
            = preserve:i-new2x58: preserved
            = attach:data: attached
            + preserve:i-new2x58 (2)
            = preserve:i-new2x58: preserved
            + verify
            = verify: verified
            + delete_volume:vol-new2x14
            + delete_volume:vol-new2x31
            + delete_volume:vol-new2x37
            = delete_volume:vol-new2x14: deleted
            = delete_volume:vol-new2x31: deleted
            = delete_volume:vol-new2x37: deleted
            ! finished
        "#]],
    );
}

#[test]
fn an_adoption_that_is_refused_falls_to_an_image_and_fences_the_instance_first() {
    let refused = |intent: &Intent, _: u32| {
        matches!(intent, Intent::AdoptRoot(_))
            .then(|| Evidence::AdoptRefused { code: "UnsupportedOperation".into(), message: "no".into() })
    };
    check(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryIp, RootMode::Adopt),
        &refused,
        expect![[r#"
            … 18 lines of make before break
            = adopt_root: adopt_refused
            ! root: adopt → image
            + preserve:i-new2x3 (2)
            = attach:data: attached
            = preserve:i-new2x3: preserved
            + fence:i-new2x3
            = fence:i-new2x3: fenced
            + release:root (2)
            + release:data (2)
            = release:root: released
            + snapshot_root
            = release:data: released
            = snapshot_root: snapshot_completed
            + register_image
            = register_image: image_available
            + launch (2)
            = launch: launched
            + start (2)
            = start: started
            + preserve:i-new2x35
            + attach:data (2)
            + move_address (2)
            = preserve:i-new2x35: preserved
            = attach:data: attached
            = move_address: moved
            + preserve:i-new2x35 (2)
            = preserve:i-new2x35: preserved
            + verify
            = verify: verified
            + delete_interface:eni-new1x8
            + delete_interface:eni-new2x6
            + delete_volume:vol-new2x6
            = delete_interface:eni-new1x8: deleted
            = delete_interface:eni-new2x6: deleted
            = delete_volume:vol-new2x6: deleted
            ! finished
        "#]],
    );
}

#[test]
fn no_capacity_climbs_the_ladder_to_on_demand_and_then_waits() {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.data_volumes.clear();
    let none = |intent: &Intent, attempt: u32| {
        (matches!(intent, Intent::Launch(_)) && attempt <= 5).then(|| Evidence::NoCapacity {
            code: "InsufficientInstanceCapacity".into(),
            message: "none".into(),
        })
    };
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&none);
    let launches: Vec<String> = run
        .state
        .steps
        .values()
        .filter_map(|record| match record.intent.as_ref() {
            Intent::Launch(Launch { pool, .. }) => {
                Some(format!("{pool} at {} s", record.not_before_ms / 1_000))
            }
            _ => None,
        })
        .collect();
    expect![[r#"
        m6i.large spot at 0 s
        m5.large spot at 2 s
        m6i.large on-demand at 3 s
        m5.large on-demand at 4 s
        m6i.large spot at 20 s
        m5.large spot at 21 s"#]]
    .assert_eq(&launches.join("\n"));
}

/// Which pools are asked, and when, if no pool ever serves and launches end as `seen` says.
fn asked_for(spec: &NodeSpec, launches: u32, seen: &dyn Fn(&Intent) -> Evidence) -> String {
    let mut run = Run::start(OperationKind::Provision, spec, asked(), None);
    run.drive(&|intent, attempt| {
        (matches!(intent, Intent::Launch(_)) && attempt < launches).then(|| seen(intent))
    });
    let launches = run.state.steps.values().filter_map(|record| match record.intent.as_ref() {
        Intent::Launch(Launch { pool, ask_anyway, on_demand_max, .. }) => {
            let anyway = if *ask_anyway { ", in any case" } else { "" };
            let max = on_demand_max.map_or(String::new(), |max| format!(", if fewer than {max} are"));
            Some(format!("{pool} at {} s{anyway}{max}", record.not_before_ms / 1_000))
        }
        _ => None,
    });
    launches.collect::<Vec<_>>().join("\n")
}

fn bare() -> NodeSpec {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.data_volumes.clear();
    spec
}

fn no_capacity() -> Evidence {
    Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() }
}

fn remembered() -> Evidence {
    let sign = PoolSign::Interrupted;
    Evidence::NotAsked { because: NotAsked::Remembered { sign, ago_s: 1, again_in_s: 179 } }
}

#[test]
fn the_last_pool_of_a_stretch_is_asked_in_any_case_when_the_others_were_only_remembered() {
    let told = asked_for(&bare(), 9, &|intent| match intent {
        Intent::Launch(Launch { ask_anyway: false, .. }) => remembered(),
        _ => no_capacity(),
    });
    expect![[r#"
        m6i.large spot at 1 s
        m5.large spot at 2 s, in any case
        m6i.large on-demand at 3 s
        m5.large on-demand at 4 s, in any case
        m6i.large spot at 20 s
        m5.large spot at 21 s, in any case
        m6i.large on-demand at 22 s
        m5.large on-demand at 23 s, in any case
        m6i.large spot at 54 s"#]]
    .assert_eq(&told);
    let told = asked_for(&bare(), 9, &|_| no_capacity());
    assert!(!told.contains("in any case"), "what was really asked need not be asked again:\n{told}");
}

#[test]
fn on_demand_opens_at_its_time_and_is_waited_for() {
    let mut spec = bare();
    spec.capacity.on_demand = OnDemandSpec { after_s: 60, max_nodes: Some(3) };
    let told = asked_for(&spec, 10, &|_| no_capacity());
    expect![[r#"
        m6i.large spot at 1 s
        m5.large spot at 2 s
        m6i.large spot at 18 s
        m5.large spot at 19 s
        m6i.large spot at 50 s
        m5.large spot at 51 s
        m6i.large on-demand at 60 s, if fewer than 3 are
        m5.large on-demand at 61 s, if fewer than 3 are
        m6i.large spot at 182 s
        m5.large spot at 183 s"#]]
    .assert_eq(&told);
}

fn back_to_spot() -> Cause {
    Cause::ReturnToSpot { because: "it looks available".into() }
}

#[test]
fn a_return_to_spot_that_finds_none_is_undone_before_anything_was_taken() {
    let mut run = Run::start(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryIp, RootMode::Adopt),
        back_to_spot(),
        None,
    );
    run.drive(&|intent, _| matches!(intent, Intent::Launch(_)).then(remembered));
    expect![[r#"
        + preserve:i-new1x5
        + launch
        = preserve:i-new1x5: preserved
        = launch: not_asked
        + launch (2)
        = launch: not_asked
        ! cancelled
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_return_to_spot_past_the_point_of_no_return_asks_on_demand_again() {
    let mut run = Run::start(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryIp, RootMode::Adopt),
        back_to_spot(),
        None,
    );
    run.drive(&|intent, attempt| match intent {
        Intent::AdoptRoot(_) => {
            Some(Evidence::AdoptRefused { code: "Unsupported".into(), message: "no".into() })
        }
        Intent::Launch(_) if attempt > 1 && attempt < 4 => {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() })
        }
        _ => None,
    });
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
    let pools: Vec<String> = run
        .state
        .steps
        .values()
        .filter_map(|record| match record.intent.as_ref() {
            Intent::Launch(Launch { pool, .. }) => Some(pool.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(
        pools,
        ["m6i.large spot", "m6i.large spot", "m5.large spot", "m6i.large on-demand"],
        "{}",
        run.told
    );
}

#[test]
fn launches_that_fail_again_and_again_are_stuck_and_a_resume_counts_anew() {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.data_volumes.clear();
    let fails = |intent: &Intent, _: u32| match intent {
        Intent::Start(Start { instance, .. }) => Some(Evidence::InstanceGone {
            instance: instance.clone(),
            state: Some(InstanceState::Terminated),
            reason: Some("Server.InternalError".into()),
        }),
        _ => None,
    };
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&fails);
    let Status::Stuck { because, .. } = &run.state.status else { panic!("{}", run.told) };
    assert!(because.starts_with("12 launches in a row"), "{because}");
    assert!(because.contains("Server.InternalError"), "{because}");
    let mut draft = run.draft();
    draft.resume("a person".into(), Vec::new(), run.state.order.spec.clone()).unwrap();
    run.take(draft);
    run.drive(&well);
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
}

#[test]
fn spot_only_never_asks_on_demand() {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.capacity.market = MarketPolicy::SpotOnly;
    assert!(
        spec.ladder(&spec.subnet, None)
            .iter()
            .all(|pool| pool.market == perennial_workflows::model::aws::Market::Spot)
    );
}

#[test]
fn a_new_instance_that_dies_before_it_carries_is_fenced_and_another_is_launched() {
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::Adopt), asked(), None);
    run.drive_to("start");
    let candidate = run.state.facts.candidate.as_ref().unwrap().instance.clone();
    run.told.clear();
    run.on_signal(&candidate, News::StateChange { state: InstanceState::ShuttingDown });
    run.drive(&|intent, attempt| match intent {
        Intent::Start(Start { instance, .. }) if attempt == 1 => Some(Evidence::InstanceGone {
            instance: instance.clone(),
            state: Some(InstanceState::Terminated),
            reason: Some("Server.SpotInstanceTermination".into()),
        }),
        _ => None,
    });
    expect![[r#"
        ! i-new2x3 is lost
        + fence:i-new2x3
        + launch (2)
        = start: instance_gone
        = fence:i-new2x3: fenced
        = launch: launched
        + start (2)
        = start: started
        + fence:i-new1x5
        + preserve:i-new2x10
        = fence:i-new1x5: fenced
        + release:root
        + release:data
        + move_address
        = preserve:i-new2x10: preserved
        = release:root: released
        + adopt_root
        = release:data: released
        + attach:data
        = move_address: moved
        = adopt_root: adopted
        + preserve:i-new2x10 (2)
        = attach:data: attached
        = preserve:i-new2x10: preserved
        + preserve:i-new2x10 (3)
        = preserve:i-new2x10: preserved
        + verify
        = verify: verified
        + delete_interface:eni-new1x8
        + delete_volume:vol-new2x14
        = delete_interface:eni-new1x8: deleted
        = delete_volume:vol-new2x14: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_warning_about_a_new_instance_that_carries_already_waits_for_the_next_operation() {
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::Adopt), asked(), None);
    run.drive_to("verify");
    let candidate = run.state.facts.candidate.as_ref().unwrap().instance.clone();
    run.on_signal(&candidate, News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 });
    assert!(run.state.facts.carried_over.is_some(), "it is the next operation's cause");
    assert!(run.state.facts.candidate.is_some(), "and this one goes on");
    run.drive(&well);
    assert!(matches!(run.state.status, Status::Finished { .. }));
}

#[test]
fn an_old_instance_that_is_gone_needs_no_preserving() {
    let spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let old = imagined_resources(&spec).unwrap().carrier.unwrap().instance;
    let signal = Signal {
        instance: old,
        news: News::StateChange { state: InstanceState::Terminated },
        source: Source::Sweep,
        at_ms: 0,
    };
    let run = Run::start(OperationKind::Replace, &spec, Cause::Signal { signal }, None);
    expect![[r#"
        + fence:i-new1x5
        + launch
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn what_a_person_must_decide_is_stuck_and_resumes() {
    let refused = |intent: &Intent, attempt: u32| {
        (matches!(intent, Intent::Preserve(_)) && attempt == 1)
            .then(|| Evidence::Refused { code: "UnauthorizedOperation".into(), message: "not you".into() })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::PrimaryEni, RootMode::Adopt), asked(), None);
    run.drive(&refused);
    expect![[r#"
        + preserve:i-new1x7
        = preserve:i-new1x7: refused
        ! stuck at preserve:i-new1x7: UnauthorizedOperation: not you
    "#]]
    .assert_eq(&differs(&run.told));
    let mut draft = run.draft();
    draft.resume("a person".into(), Vec::new(), run.state.order.spec.clone()).unwrap();
    run.take(draft);
    run.drive(&well);
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
}

#[test]
fn a_volume_that_is_gone_is_stuck_until_its_loss_is_accepted() {
    let lost = |intent: &Intent, _: u32| {
        matches!(intent, Intent::Release(Release { slot, .. }) if slot.to_string() == "data")
            .then(|| Evidence::Lost { what: "volume vol-x does not exist any more".into(), not_shown: false })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::None), asked(), None);
    run.drive(&lost);
    assert!(matches!(run.state.status, Status::Stuck { .. }), "{}", run.told);
    let slot = |name: &str| perennial_workflows::model::volume::Slot::try_from(name.to_owned()).unwrap();
    let mut draft = run.draft();
    let refusal =
        draft.resume("a person".into(), vec![slot("logs")], run.state.order.spec.clone()).unwrap_err();
    assert!(matches!(refusal, Refusal::NotLost { .. }), "only what is lost can be given up");
    let mut draft = run.draft();
    draft.resume("a person".into(), vec![slot("data")], run.state.order.spec.clone()).unwrap();
    run.told.clear();
    run.take(draft);
    run.drive(&well);
    expect![[r#"
        ! resumed
        + create_volume:data
        = move_address: moved
        = create_volume:data: volume_created
        + attach:data
        = attach:data: attached
        + preserve:i-new2x3
        = preserve:i-new2x3: preserved
        + verify
        = verify: verified
        + delete_interface:eni-new1x8
        = delete_interface:eni-new1x8: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_deletion_makes_everything_survive_first_and_deletes_by_id_what_is_not_kept() {
    let keep = Keep { root: false, data: true, network: false, backups: false };
    let spec = spec(NetworkMode::PrimaryEni, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Delete, &spec, asked(), Some(keep));
    run.drive(&well);
    expect![[r#"
        … 8 lines of break before make
        + delete_volume:vol-new1x10
        = release:data: released
        = release_interface: released
        + delete_interface:eni-new1x5
        = delete_volume:vol-new1x10: deleted
        = delete_interface:eni-new1x5: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn an_interface_that_is_gone_is_made_anew_before_the_launch() {
    let deleted = |intent: &Intent, _: u32| {
        matches!(intent, Intent::ReleaseInterface(_)).then(|| Evidence::Lost {
            what: "interface eni-x does not exist any more".into(),
            not_shown: false,
        })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::PrimaryEni, RootMode::None), asked(), None);
    run.drive_to("release_interface");
    run.told.clear();
    run.drive(&deleted);
    expect![[r#"
        = release:data: released
        = release_interface: lost
        + create_interface
        = create_interface: interface_created
        + launch
        = launch: launched
        + start
        = start: started
        + attach:data
        = attach:data: attached
        + preserve:i-new2x12
        = preserve:i-new2x12: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_clean_up_that_fails_is_left_over_and_the_operation_finishes() {
    let refused = |intent: &Intent, _: u32| {
        matches!(intent, Intent::DeleteVolume(_))
            .then(|| Evidence::Refused { code: "UnauthorizedOperation".into(), message: "not you".into() })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::Adopt), asked(), None);
    run.drive_to("delete_volume");
    run.told.clear();
    run.drive(&refused);
    expect![[r#"
        = delete_interface:eni-new1x8: deleted
        = delete_volume:vol-new2x6: refused
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    assert_eq!(run.state.orphans().len(), 1);
}

#[test]
fn an_address_that_another_has_is_stuck_with_who_has_it() {
    let held = |intent: &Intent, _: u32| {
        matches!(intent, Intent::MoveAddress(_))
            .then(|| Evidence::HeldByAnother { what: "10.0.0.9".into(), by: "eni-x of i-x".into() })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::None), asked(), None);
    run.drive(&held);
    let Status::Stuck { because, needs, .. } = &run.state.status else { panic!("{}", run.told) };
    assert_eq!(because, "10.0.0.9 is held by eni-x of i-x");
    assert_eq!(needs, "free 10.0.0.9, then `perennial workflow resume db-1.2`");
}

fn an_elastic_ip() -> Expect {
    expect![[r#"
            + preserve:i-new1x5
            + launch
            = preserve:i-new1x5: preserved
            = launch: launched
            + start
            = start: started
            + fence:i-new1x5
            = fence:i-new1x5: fenced
            + release:data
            + move_address
            = release:data: released
            + attach:data
            = move_address: moved
            + associate_elastic_ip
            = attach:data: attached
            = associate_elastic_ip: associated
            + preserve:i-new2x3
            = preserve:i-new2x3: preserved
            + verify
            = verify: verified
            + delete_interface:eni-new1x8
            = delete_interface:eni-new1x8: deleted
            ! finished
        "#]]
}

#[test]
fn an_elastic_ip_follows_the_private_address() {
    let mut spec = spec(NetworkMode::SecondaryIp, RootMode::None);
    spec.network.elastic_ip = Some(AllocationId::parse("eipalloc-1").unwrap());
    all_goes_well(OperationKind::Replace, &spec, &an_elastic_ip());
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&|intent, _| match intent {
        Intent::Associate(Associate { private_ip, .. }) => {
            assert!(private_ip.is_some(), "it leads to the address that moves");
            None
        }
        _ => None,
    });
}

#[test]
fn a_larger_size_is_reached_while_the_node_runs_and_a_loss_does_not_wait_for_it() {
    let mut spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let before = imagined_resources(&spec).unwrap();
    spec.data_volumes[0].size_gib = 20;
    let start = || Run::of(Order { before: before.clone(), ..order(OperationKind::Grow, &spec, asked()) });
    let mut run = start();
    run.drive(&well);
    expect![[r#"
        + grow:data
        = grow:data: grown
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!() };
    assert_eq!(resources.carrier, before.carrier, "the same instance");
    assert!(!resources.is_smaller_than(&spec));

    let mut run = start();
    let carrier = before.carrier.clone().unwrap().instance;
    run.on_signal(&carrier, News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 });
    expect![[r#"
        + grow:data
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    assert!(run.state.facts.carried_over.is_some(), "the next operation's cause");
}

#[test]
fn a_replacement_that_is_cancelled_gives_back_what_it_took() {
    let mut spec = spec(NetworkMode::SecondaryIp, RootMode::None);
    spec.persist.handover = Handover::Detach;
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to("move_address");
    assert!(run.state.no_return().is_some(), "the old instance is being fenced by now");
    assert!(matches!(run.cancel(), Err(Refusal::OnlyForward { .. })));

    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to("detach");
    let before = run.state.order.before.clone();
    run.cancel().unwrap();
    run.drive(&well);
    expect![[r#"
        ! cancelled
        + fence:i-new2x3
        = detach:data: released
        + attach:data
        = fence:i-new2x3: fenced
        + delete_volume:vol-new2x6
        = attach:data: attached
        = delete_volume:vol-new2x6: deleted
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
    let Some((_, OperationEvent::Finished { resources, outcome })) = run.last() else { panic!() };
    assert_eq!((outcome.name(), resources), ("cancelled", before));
}

#[test]
fn a_cancellation_whose_old_instance_is_lost_goes_forward_after_all() {
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::Adopt), asked(), None);
    run.drive_to("start");
    let old = run.state.order.before.carrier.clone().unwrap().instance;
    run.cancel().unwrap();
    run.on_signal(&old, News::StateChange { state: InstanceState::ShuttingDown });
    run.drive(&well);
    expect![[r#"
        ! cancelled
        + fence:i-new2x3
        + fence:i-new1x5
        + launch (2)
        = start: started
        = fence:i-new2x3: fenced
        = fence:i-new1x5: fenced
        + release:root
        + release:data
        = launch: launched
        + start (2)
        = release:root: released
        = release:data: released
        = start: started
        + preserve:i-new2x11
        + attach:data
        + move_address
        = preserve:i-new2x11: preserved
        + adopt_root
        = attach:data: attached
        = move_address: moved
        = adopt_root: adopted
        + preserve:i-new2x11 (2)
        = preserve:i-new2x11: preserved
        + preserve:i-new2x11 (3)
        = preserve:i-new2x11: preserved
        + verify
        = verify: verified
        + delete_interface:eni-new1x8
        + delete_volume:vol-new2x18
        = delete_interface:eni-new1x8: deleted
        = delete_volume:vol-new2x18: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_launch_that_waits_for_capacity_is_withdrawn_by_a_cancellation() {
    let mut spec = spec(NetworkMode::None, RootMode::None);
    spec.capacity.instance_types.truncate(1);
    spec.capacity.market = MarketPolicy::SpotOnly;
    let mut run = Run::start(OperationKind::Provision, &spec, asked(), None);
    run.drive_to("launch");
    let launch = run.state.open_steps().into_iter().find(|step| step.step == "launch").unwrap();
    let mut draft = run.draft();
    let none = Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() };
    draft.report(launch.token, none).unwrap();
    run.take(draft);
    run.cancel().unwrap();
    run.drive(&well);
    expect![[r#"
        ! cancelled
        = create_volume:data: volume_created
        + delete_volume:vol-new2x4
        = delete_volume:vol-new2x4: deleted
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
}

/// Its time looks as if it had not come, and it is under way all the same.
#[test]
fn a_launch_is_not_withdrawn_because_the_clock_was_set_back() {
    let mut run =
        Run::start(OperationKind::Provision, &spec(NetworkMode::None, RootMode::None), asked(), None);
    run.drive_to("launch");
    let launch = run.state.open_steps().into_iter().find(|step| step.step == "launch").unwrap();
    run.now_ms = launch.intended_at_ms - 500;
    assert!(run.now_ms < launch.not_before_ms);
    run.cancel().unwrap();
    run.drive(&well);
    expect![[r#"
        ! cancelled
        = create_volume:data: volume_created
        + delete_volume:vol-new2x4
        = launch: launched
        ! i-new2x5 is lost
        + fence:i-new2x5
        = delete_volume:vol-new2x4: deleted
        = fence:i-new2x5: fenced
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
}

/// What it has made is younger than its intention by no clock but that one.
#[test]
fn a_step_that_a_clock_ahead_has_dated_is_as_old_as_the_clock_since_then_says() {
    let mut spec = spec(NetworkMode::None, RootMode::Image);
    spec.persist.data = DataMode::Snapshot;
    let mut run = Run::start(OperationKind::Resume, &spec, asked(), None);
    run.now_ms += 2_000_000;
    run.drive_to("snapshot:data");
    let snapshot = run.state.open_steps().into_iter().find(|step| step.step == "snapshot:data").unwrap();
    run.now_ms -= 1_500_000;
    let set_back_ms = run.now_ms;
    run.cancel().unwrap();
    let find = run.state.open_steps().into_iter().find_map(|step| match step.intent.as_ref() {
        Intent::Find(find) => find.origin.clone(),
        _ => None,
    });
    let intended_at_ms = find.expect("it is looked for").intended_at_ms;
    assert!(intended_at_ms <= set_back_ms, "{intended_at_ms}: {snapshot:?}");
}

#[test]
fn a_provision_that_is_cancelled_keeps_only_what_may_hold_data() {
    let spec = spec(NetworkMode::PrimaryEni, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Provision, &spec, asked(), None);
    run.drive_to("verify");
    run.cancel().unwrap();
    run.drive(&well);
    expect![[r#"
        ! cancelled
        + preserve:i-new2x8 (3)
        = verify: verified
        = preserve:i-new2x8: preserved
        + fence:i-new2x8
        = fence:i-new2x8: fenced
        + release:data
        + release_interface
        = release:data: released
        = release_interface: released
        + delete_interface:eni-new2x5
        = delete_interface:eni-new2x5: deleted
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!() };
    assert_eq!(resources.volumes.len(), 1, "the data volume: {resources:?}");
    assert_eq!(resources.retained.len(), 1, "the root: {resources:?}");
    assert_eq!((resources.carrier, resources.interface), (None, None));
}

#[test]
fn a_stuck_operation_hands_over_everything_it_may_have_made() {
    let spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to("start");
    let refused = |intent: &Intent, _: u32| {
        matches!(intent, Intent::Fence(_))
            .then(|| Evidence::Refused { code: "UnauthorizedOperation".into(), message: "not you".into() })
    };
    run.drive(&refused);
    let handed = run.state.handed_over(run.now_ms);
    let mut run = Run::start(
        OperationKind::Delete,
        &spec,
        asked(),
        Some(Keep { root: false, data: true, network: false, backups: false }),
    );
    let mut order = (*run.state.order).clone();
    order.before = handed;
    let draft = Draft::start(OperationId::parse("db-1.3").unwrap(), order, 0).unwrap();
    run = Run::begun(draft);
    run.drive(&well);
    expect![[r#"
        + preserve:i-new1x5
        + preserve:i-new2x3
        = preserve:i-new1x5: preserved
        + fence:i-new1x5
        = preserve:i-new2x3: preserved
        + fence:i-new2x3
        = fence:i-new1x5: fenced
        + release:root
        + release:data
        = fence:i-new2x3: fenced
        + delete_volume:vol-new2x6
        + delete_interface:eni-new1x8
        = release:root: released
        + delete_volume:vol-new1x8
        = release:data: released
        = delete_volume:vol-new2x6: deleted
        = delete_interface:eni-new1x8: deleted
        = delete_volume:vol-new1x8: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn a_late_or_doubled_report_is_refused() {
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryIp, RootMode::Adopt), asked(), None);
    run.drive_to("start");
    let settled =
        run.state.steps.iter().find(|(_, record)| record.outcome.is_some()).map(|(token, _)| *token).unwrap();
    for token in [settled, Token(9_999)] {
        let mut draft = run.draft();
        assert!(matches!(draft.report(token, Evidence::Preserved), Err(Refusal::Fenced { .. })));
        assert!(draft.events().is_empty(), "it leaves no event");
    }
}

#[test]
fn every_prefix_of_a_run_folds_and_has_something_to_do() {
    let spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    let mut state = run.state.clone();
    let mut head = run.head;
    run.drive(&|_, _| None);
    // Replays the same reports on an own copy, event by event.
    while !matches!(state.status, Status::Finished { .. }) {
        let step =
            state.open_steps().into_iter().min_by_key(|step| step.token).expect("a prefix has an open step");
        let mut draft = Draft::from(&state, head, 0);
        draft.report(step.token, success(&state, &step.intent, step.token)).unwrap();
        for event in draft.events() {
            head = head.next();
            state = fold::evolve(state, Stamp { seq: head, at_ms: 0 }, event).unwrap();
        }
    }
}

fn a_second_interface() -> Expect {
    expect![[r#"
        + preserve:i-new1x6
        + launch
        = preserve:i-new1x6: preserved
        = launch: launched
        + start
        = start: started
        + fence:i-new1x6
        = fence:i-new1x6: fenced
        + release:data
        + release_interface
        = release:data: released
        + attach:data
        = release_interface: released
        + attach_interface
        = attach:data: attached
        = attach_interface: attached
        + preserve:i-new2x3
        = preserve:i-new2x3: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
}

#[test]
fn a_second_interface_moves_after_the_old_instance_is_fenced() {
    all_goes_well(
        OperationKind::Replace,
        &spec(NetworkMode::SecondaryEni, RootMode::None),
        &a_second_interface(),
    );
}

fn a_second_interface_alive() -> Expect {
    expect![[r#"
        + preserve:i-new1x6
        + launch
        = preserve:i-new1x6: preserved
        = launch: launched
        + start
        = start: started
        + detach:data
        = detach:data: released
        + detach_interface
        + attach:data
        = detach_interface: released
        + fence:i-new1x6
        + attach_interface
        = attach:data: attached
        = fence:i-new1x6: fenced
        = attach_interface: attached
        + preserve:i-new2x3
        = preserve:i-new2x3: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
}

#[test]
fn a_second_interface_leaves_a_running_instance_after_its_data() {
    let mut spec = spec(NetworkMode::SecondaryEni, RootMode::None);
    spec.persist.handover = Handover::Detach;
    all_goes_well(OperationKind::Replace, &spec, &a_second_interface_alive());
    // A volume in use stays until the fence, and the address with it.
    let busy = |intent: &Intent, _: u32| {
        matches!(intent, Intent::Detach(_)).then(|| Evidence::StillBusy { because: "mounted".into() })
    };
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&busy);
    assert!(!run.told.contains("detach_interface"), "{}", run.told);
}

#[test]
fn a_second_interface_that_is_gone_is_made_anew_and_one_that_does_not_fit_is_stuck() {
    let lost = |intent: &Intent, attempt: u32| {
        (matches!(intent, Intent::AttachInterface(_)) && attempt == 1).then(|| Evidence::Lost {
            what: "interface eni-x does not exist any more".into(),
            not_shown: false,
        })
    };
    check(
        OperationKind::Provision,
        &spec(NetworkMode::SecondaryEni, RootMode::None),
        &lost,
        expect![[r#"
            … 4 lines of a provision
            + launch
            = create_volume:data: volume_created
            = create_interface: interface_created
            = launch: launched
            + start
            = start: started
            + attach:data
            + attach_interface
            = attach:data: attached
            = attach_interface: lost
            + create_interface (2)
            = create_interface: interface_created
            + attach_interface (2)
            = attach_interface: attached
            + preserve:i-new2x6
            = preserve:i-new2x6: preserved
            + verify
            = verify: verified
            ! finished
        "#]],
    );
    let full = |intent: &Intent, _: u32| {
        matches!(intent, Intent::AttachInterface(_)).then(|| Evidence::NoCapacity {
            code: "AttachmentLimitExceeded".into(),
            message: "4 interfaces are attached".into(),
        })
    };
    let mut run =
        Run::start(OperationKind::Replace, &spec(NetworkMode::SecondaryEni, RootMode::None), asked(), None);
    run.drive(&full);
    let Status::Stuck { because, needs, .. } = &run.state.status else { panic!("{}", run.told) };
    assert!(because.contains("takes no further interface"), "{because}");
    assert!(needs.contains("more interfaces than m6i.large"), "{needs}");
}

#[test]
fn a_second_interface_goes_back_when_the_replacement_is_cancelled() {
    let mut spec = spec(NetworkMode::SecondaryEni, RootMode::None);
    spec.persist.handover = Handover::Detach;
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to("detach_interface");
    run.cancel().unwrap();
    run.drive(&well);
    assert_eq!(run.state.facts.network.interface.as_ref().unwrap().held, run.state.order.before.interface);
    expect![[r#"
        ! cancelled
        + fence:i-new2x3
        = detach_interface: released
        + attach_interface
        = attach:data: attached
        = fence:i-new2x3: fenced
        + release:data
        + delete_volume:vol-new2x6
        = attach_interface: attached
        = release:data: released
        + attach:data (2)
        = delete_volume:vol-new2x6: deleted
        = attach:data: attached
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
}

/// A node with a second interface that may live in two other subnets, of which only the named ones have capacity.
fn second_elsewhere(
    served: &'static [&'static str],
) -> (NodeSpec, impl Fn(&Intent, u32) -> Option<Evidence>) {
    let mut spec = spec(NetworkMode::SecondaryEni, RootMode::None);
    spec.capacity.instance_types.truncate(1);
    spec.capacity.market = MarketPolicy::SpotOnly;
    spec.capacity.other_subnets =
        ["subnet-b", "subnet-c"].map(|name| SubnetId::parse(name).unwrap()).to_vec();
    spec.network.zone_change = ZoneChange::Allow;
    spec.network.elastic_ip = Some(AllocationId::parse("eipalloc-1").unwrap());
    let refusals = move |intent: &Intent, _: u32| match intent {
        Intent::Launch(Launch { pool, .. })
            if !pool.subnet.as_ref().is_some_and(|subnet| served.contains(&subnet.as_str())) =>
        {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: String::new() })
        }
        _ => None,
    };
    (spec, refusals)
}

#[test]
fn a_second_interface_is_made_anew_in_another_subnet_and_the_one_before_goes_at_the_end() {
    let (spec, refusals) = second_elsewhere(&["subnet-b"]);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&refusals);
    expect![[r#"
        + preserve:i-new1x5
        + launch
        = preserve:i-new1x5: preserved
        = launch: no_capacity
        + launch (2)
        = launch: launched
        + create_interface
        + start
        = create_interface: interface_created
        = start: started
        + fence:i-new1x5
        + attach_interface
        = fence:i-new1x5: fenced
        + release:data
        + release_interface
        = attach_interface: attached
        + associate_elastic_ip
        = release:data: released
        + snapshot:data
        = release_interface: released
        = associate_elastic_ip: associated
        = snapshot:data: snapshot_completed
        + create_volume:data
        = create_volume:data: volume_created
        + attach:data
        = attach:data: attached
        + preserve:i-new2x6
        = preserve:i-new2x6: preserved
        + verify
        = verify: verified
        + delete_interface:eni-new1x4
        = delete_interface:eni-new1x4: deleted
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    let before = run.state.order.before.interface.clone().unwrap();
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!("{}", run.told) };
    let after = resources.interface.unwrap();
    assert_ne!(after.interface, before.interface);
    assert_eq!(resources.address, Some(after.private_ip));
    assert_eq!(resources.orphans, []);
    assert!(run.state.facts.cleanup.is_deleted(&before.interface), "{}", run.told);
    // It is the one that the Elastic IP address leads to.
    let leads_to = run.state.steps.values().find_map(|record| match record.intent.as_ref() {
        Intent::Associate(Associate { interface, .. }) => Some(interface.clone()),
        _ => None,
    });
    assert_eq!(leads_to, Some(after.interface));
}

#[test]
fn a_cancellation_deletes_the_interface_of_the_other_subnet_and_leaves_the_node_its_own() {
    let (mut spec, refusals) = second_elsewhere(&["subnet-b"]);
    spec.persist.handover = Handover::Detach;
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to_with("attach_interface", &refusals);
    run.cancel().unwrap();
    run.drive(&refusals);
    expect![[r#"
        ! cancelled
        + fence:i-new2x6
        = detach:data: released
        + attach:data
        = attach_interface: attached
        = fence:i-new2x6: fenced
        + release_interface
        + delete_volume:vol-new2x9
        = attach:data: attached
        = release_interface: released
        + delete_interface:eni-new2x8
        = delete_volume:vol-new2x9: deleted
        = delete_interface:eni-new2x8: deleted
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!("{}", run.told) };
    assert_eq!(resources.interface, run.state.order.before.interface);
    assert_eq!(resources.orphans, []);
}

#[test]
fn the_next_instance_in_a_subnet_gets_the_interface_that_was_made_there_and_one_elsewhere_another() {
    for (served, made) in [(&["subnet-b"] as &[&str], 1), (&["subnet-b", "subnet-c"], 2)] {
        let (spec, refusals) = second_elsewhere(served);
        let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
        // The first instance ends with the interface on it.
        let first = |intent: &Intent, attempt: u32| match intent {
            Intent::Attach(Attach { instance, .. }) if attempt == 1 => Some(Evidence::InstanceGone {
                instance: instance.clone(),
                state: Some(InstanceState::ShuttingDown),
                reason: None,
            }),
            intent => refusals(intent, attempt),
        };
        run.drive(&first);
        let steps =
            |name: &str| run.state.steps.values().filter(|record| record.step.to_string() == name).count();
        assert_eq!(steps("create_interface"), made, "{served:?}\n{}", run.told);
        let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else {
            panic!("{}", run.told)
        };
        assert_eq!(resources.orphans, [], "{}", run.told);
        let own = resources.interface.unwrap().interface.to_string();
        let deleted: Vec<_> = run
            .state
            .facts
            .cleanup
            .all_deleted()
            .map(ToString::to_string)
            .filter(|id| id.starts_with("eni-"))
            .collect();
        assert_eq!(
            deleted.len(),
            made,
            "the one before, and what a third subnet has no use for: {}",
            run.told
        );
        assert!(!deleted.contains(&own), "{}", run.told);
    }
}

#[test]
fn a_pause_in_the_middle_of_a_move_keeps_the_interface_of_the_subnet_the_node_is_in() {
    let (spec, refusals) = second_elsewhere(&["subnet-b"]);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive_to_with("attach_interface", &refusals);
    let mut draft = run.draft();
    draft.divert(asked(), None).unwrap();
    run.take(draft);
    run.drive(&refusals);
    let Some((_, OperationEvent::Finished { resources, outcome })) = run.last() else {
        panic!("{}", run.told)
    };
    assert_eq!(outcome, Outcome::Paused);
    assert_eq!(resources.interface, run.state.order.before.interface);
    assert_eq!(resources.orphans, [], "{}", run.told);
    // A workflow that is stuck there lists it for the deletion that takes over.
    let mut stuck = Run::start(OperationKind::Replace, &spec, asked(), None);
    stuck.drive_to_with("attach_interface", &refusals);
    let left = stuck.state.handed_over(1);
    let listed = |left: &Orphan| matches!(left.resource, Resource::Interface { .. });
    assert_eq!(left.orphans.iter().filter(|left| listed(left)).count(), 1, "{:?}", left.orphans);
    assert_eq!(left.interface, stuck.state.order.before.interface);
}

#[test]
fn what_is_late_about_an_instance_that_was_lost_elsewhere_does_not_change_the_address_at_home() {
    let (mut spec, refusals) = second_elsewhere(&["subnet-b"]);
    spec.persist.network = NetworkMode::SecondaryIp;
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    let home = Some("10.0.0.7".parse().unwrap());
    run.state.facts.network.address = home;
    run.drive_to_with("move_address", &refusals);
    let step = run.state.open_steps().into_iter().find(|step| step.step == "move_address").unwrap();
    let lost = step.intent.instance().unwrap().clone();
    run.on_signal(&lost, News::StateChange { state: InstanceState::ShuttingDown });
    assert!(run.state.facts.candidate.is_none(), "{}", run.told);
    let mut draft = run.draft();
    draft.report(step.token, Evidence::Moved { address: "10.0.16.9".parse().unwrap() }).unwrap();
    run.take(draft);
    assert_eq!(run.state.facts.network.address, home, "{}", run.told);
}

fn set_groups() -> Expect {
    expect![[r#"
        + preserve:i-new1x7
        + set_groups
        = preserve:i-new1x7: preserved
        = set_groups: groups_set
        + fence:i-new1x7
        = fence:i-new1x7: fenced
        + release:data
        + release_interface
        = release:data: released
        = release_interface: released
        + launch
        = launch: launched
        + start
        = start: started
        + attach:data
        = attach:data: attached
        + preserve:i-new2x12
        = preserve:i-new2x12: preserved
        + verify
        = verify: verified
        ! finished
    "#]]
}

#[test]
fn a_kept_interface_has_the_files_groups_before_it_is_used() {
    let mut spec = spec(NetworkMode::PrimaryEni, RootMode::None);
    spec.security_groups = vec![GroupId::parse("sg-1").unwrap()];
    // One that is made has them already.
    let mut made = Run::start(OperationKind::Provision, &spec, asked(), None);
    made.drive(&well);
    assert!(!made.told.contains("set_groups"), "{}", made.told);
    all_goes_well(OperationKind::Replace, &spec, &set_groups());
    // A wrong group harms nothing: the old instance still runs when a person is asked for.
    let unknown = |intent: &Intent, _: u32| {
        matches!(intent, Intent::SetGroups(_))
            .then(|| Evidence::Refused { code: "InvalidGroup.NotFound".into(), message: "no sg-1".into() })
    };
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    run.drive(&unknown);
    assert!(matches!(run.state.status, Status::Stuck { .. }), "{}", run.told);
    assert!(!run.told.contains("fence"), "{}", run.told);
    // The corrected file goes on.
    let mut corrected = spec;
    corrected.security_groups = vec![GroupId::parse("sg-2").unwrap()];
    let mut draft = run.draft();
    draft.resume("a person".into(), Vec::new(), corrected.clone()).unwrap();
    run.take(draft);
    run.drive(&well);
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
    assert_eq!(run.state.facts.network.interface.unwrap().groups, Some(corrected.security_groups));
}

/// What a look at the carrier finds: one volume by name, one by device, and one that is left alone.
fn three_others() -> Evidence {
    let seen = |volume: &str, device: &str, name: Option<&str>| DiscoveredVolume {
        volume: VolumeId::parse(volume).unwrap(),
        device: device.into(),
        name: name.map(str::to_owned),
        size_gib: 5,
        traits: Found {
            volume_type: "gp3".into(),
            iops: None,
            throughput: None,
            is_copy: false,
            snapshot: None,
            named: false,
        },
    };
    let shared = UnmanagedVolume {
        volume: VolumeId::parse("vol-shared").unwrap(),
        device: "/dev/sdz".into(),
        because: "several instances".into(),
    };
    Evidence::PreservedWith {
        found: vec![
            seen("vol-a", "/dev/sdh", Some("logs")),
            // A name of the file's, which is its own.
            seen("vol-b", "/dev/sdi", Some("data")),
            seen("vol-c", "/dev/xvdi", Some("Not a name")),
        ],
        unmanaged: vec![shared],
        uefi: None,
    }
}

fn preserved_with(intent: &Intent, _: u32) -> Option<Evidence> {
    matches!(intent, Intent::Preserve(Preserve { others: Some(_), .. })).then(three_others)
}

#[test]
fn volumes_that_somebody_attached_are_taken_under_names_of_their_own() {
    let spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut run = Run::start(OperationKind::AdoptVolumes, &spec, asked(), None);
    run.drive(&preserved_with);
    expect![[r#"
        + preserve:i-new1x5
        = preserve:i-new1x5: preserved_with
        ! vol-a is the node's: logs
        ! vol-b is the node's: sdi
        ! vol-c is the node's: xvdi
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!() };
    assert!(resources.carrier.is_some(), "the same instance carries it");
    assert_eq!(resources.unmanaged.len(), 1);
    assert!(resources.volumes.values().filter(|held| held.found.is_some()).count() == 3);

    // Nothing was there after all; refused; its instance is lost; another workflow needs the node.
    let mut run = Run::start(OperationKind::AdoptVolumes, &spec, asked(), None);
    run.drive(&well);
    expect![[r#"
        + preserve:i-new1x5
        = preserve:i-new1x5: preserved
        ! finished
    "#]]
    .assert_eq(&differs(&run.told));
    let mut run = Run::start(OperationKind::AdoptVolumes, &spec, asked(), None);
    run.drive(&|_: &Intent, _: u32| {
        Some(Evidence::Refused { code: "UnauthorizedOperation".into(), message: "not you".into() })
    });
    expect![[r#"
        + preserve:i-new1x5
        = preserve:i-new1x5: refused
        ! stuck at preserve:i-new1x5: UnauthorizedOperation: not you
    "#]]
    .assert_eq(&differs(&run.told));
    let mut run = Run::start(OperationKind::AdoptVolumes, &spec, asked(), None);
    let carrier = run.state.order.before.carrier.clone().unwrap().instance;
    run.on_signal(&carrier, News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 });
    assert!(run.state.facts.carried_over.is_some(), "the next operation's cause");
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
    let mut run = Run::start(OperationKind::AdoptVolumes, &spec, asked(), None);
    run.cancel().unwrap();
    expect![[r#"
        ! cancelled
        ! cancelled
    "#]]
    .assert_eq(&differs(&run.told));
}

#[test]
fn an_operation_takes_with_it_what_it_finds_and_gives_it_back_when_it_is_cancelled() {
    let mut with_handover = spec(NetworkMode::SecondaryIp, RootMode::None);
    with_handover.persist.handover = Handover::Detach;
    for (kind, spec) in [
        (OperationKind::Replace, spec(NetworkMode::PrimaryEni, RootMode::Adopt)),
        (OperationKind::Replace, with_handover.clone()),
        (OperationKind::Pause, spec(NetworkMode::SecondaryIp, RootMode::Adopt)),
    ] {
        let mut run = Run::start(kind, &spec, asked(), None);
        run.drive(&preserved_with);
        let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else {
            panic!("{}", run.told)
        };
        let found: Vec<String> = resources
            .volumes
            .iter()
            .filter(|(_, held)| held.found.is_some())
            .map(|(slot, held)| format!("{slot} {}", held.volume))
            .collect();
        assert_eq!(found, ["logs vol-a", "sdi vol-b", "xvdi vol-c"], "{}", run.told);
    }
    let mut run = Run::start(OperationKind::Replace, &with_handover, asked(), None);
    while !run.state.open_steps().iter().any(|step| step.step.starts_with("detach:logs")) {
        let step = run.state.open_steps().into_iter().min_by_key(|step| step.token).unwrap();
        let evidence = preserved_with(&step.intent, 1);
        let evidence = evidence.unwrap_or_else(|| success(&run.state, &step.intent, step.token));
        run.now_ms += 1_000;
        let mut draft = run.draft();
        draft.report(step.token, evidence).unwrap();
        run.take(draft);
    }
    run.cancel().unwrap();
    run.drive(&well);
    let Some((_, OperationEvent::Finished { resources, outcome })) = run.last() else {
        panic!("{}", run.told)
    };
    assert_eq!(outcome, Outcome::Cancelled);
    for step in ["+ attach:logs", "+ attach:sdi", "+ attach:xvdi", "+ attach:data"] {
        assert!(run.told.contains(step), "{step}: {}", run.told);
    }
    assert_eq!(resources.volumes.len(), 4, "{resources:?}");
}

#[test]
fn a_deletion_makes_what_it_finds_survive_and_deletes_it_in_no_case() {
    let keep = Keep { root: false, data: false, network: false, backups: false };
    let spec = spec(NetworkMode::SecondaryIp, RootMode::Adopt);
    let mut run = Run::start(OperationKind::Delete, &spec, asked(), Some(keep));
    run.drive(&preserved_with);
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!("{}", run.told) };
    let left: Vec<String> = resources.volumes.values().map(|held| held.volume.to_string()).collect();
    assert_eq!(left, ["vol-a", "vol-b", "vol-c"]);
    for volume in left {
        assert!(!run.told.contains(&format!("delete_volume:{volume}")), "{}", run.told);
    }
}

/// A node whose home waits for one snapshot, and whose other zone needs two; only the named subnets have capacity.
fn two_snapshots(
    data: DataMode,
    served: &'static [&'static str],
) -> (NodeSpec, impl Fn(&Intent, u32) -> Option<Evidence>) {
    let root = if data == DataMode::Snapshot { RootMode::Adopt } else { RootMode::Image };
    let mut spec = spec(NetworkMode::None, root);
    spec.persist.data = data;
    spec.capacity.instance_types.truncate(1);
    spec.capacity.market = MarketPolicy::SpotOnly;
    spec.capacity.other_subnets = vec![SubnetId::parse("subnet-b").unwrap()];
    let refusals = move |intent: &Intent, _: u32| match intent {
        Intent::Launch(Launch { pool, .. })
            if !served.contains(&pool.subnet.as_ref().map_or("home", |s| s.as_str())) =>
        {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: String::new() })
        }
        _ => None,
    };
    (spec, refusals)
}

#[test]
fn what_only_another_zone_needs_is_taken_while_home_waits_and_goes_where_home_serves() {
    let (spec, refusals) = two_snapshots(DataMode::Reattach, &["home"]);
    check(
        OperationKind::Replace,
        &spec,
        &refusals,
        expect![[r#"
        + preserve:i-new1x4
        = preserve:i-new1x4: preserved
        + fence:i-new1x4
        = fence:i-new1x4: fenced
        + release:root
        + release:data
        = release:root: released
        + snapshot_root
        = release:data: released
        + snapshot_ahead:data
        = snapshot_root: snapshot_completed
        + register_image
        = snapshot_ahead:data: backup
        = register_image: image_available
        + launch
        = launch: launched
        + start
        = start: started
        + preserve:i-new2x16
        + attach:data
        = preserve:i-new2x16: preserved
        = attach:data: attached
        + preserve:i-new2x16 (2)
        = preserve:i-new2x16: preserved
        + verify
        = verify: verified
        + delete_snapshot:snap-new2x11
        = delete_snapshot:snap-new2x11: deleted
        ! finished
    "#]],
    );
    let (spec, refusals) = two_snapshots(DataMode::Snapshot, &["home"]);
    check(
        OperationKind::Replace,
        &spec,
        &refusals,
        expect![[r#"
        + preserve:i-new1x4
        = preserve:i-new1x4: preserved
        + fence:i-new1x4
        = fence:i-new1x4: fenced
        + release:root
        + release:data
        = release:root: released
        + snapshot_ahead:root
        = release:data: released
        + snapshot:data
        = snapshot_ahead:root: backup
        = snapshot:data: snapshot_completed
        + launch
        = launch: launched
        + start
        = start: started
        + preserve:i-new2x14
        = preserve:i-new2x14: preserved
        + adopt_root
        = adopt_root: adopted
        + preserve:i-new2x14 (2)
        = preserve:i-new2x14: preserved
        + preserve:i-new2x14 (3)
        = preserve:i-new2x14: preserved
        + verify
        = verify: verified
        + delete_snapshot:snap-new2x9
        + delete_volume:vol-new2x16
        = delete_snapshot:snap-new2x9: deleted
        = delete_volume:vol-new2x16: deleted
        ! finished
    "#]],
    );
}

#[test]
fn a_move_goes_on_with_the_snapshot_that_was_taken_ahead() {
    for (data, step) in [(DataMode::Reattach, "snapshot:data"), (DataMode::Snapshot, "snapshot_root")] {
        let (spec, refusals) = two_snapshots(data, &["subnet-b"]);
        let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
        run.drive(&refusals);
        let tags = |name: &str| {
            let record =
                run.state.steps.values().find(|record| record.step.to_string().starts_with(name)).unwrap();
            record.intent.makes()[0].1.clone()
        };
        assert_eq!(tags(step), tags("snapshot_ahead:"), "it looks for that one: {}", run.told);
        let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else {
            panic!("{}", run.told)
        };
        assert_eq!(resources.orphans, [], "{}", run.told);
        assert!(!run.told.contains("delete_snapshot"), "{}", run.told);
    }
}

#[test]
fn a_snapshot_ahead_that_is_refused_or_in_doubt_harms_nothing() {
    let answers = [
        Evidence::Backup(BackupEvidence::NotTaken { because: "a limit".into(), in_doubt: false }),
        Evidence::Backup(BackupEvidence::NotTaken { because: "no answer".into(), in_doubt: true }),
        Evidence::OutOfTime { because: "throttled".into() },
        Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() },
    ];
    for answer in answers {
        for served in [&["home"] as &[&str], &["subnet-b"]] {
            for (data, step) in [(DataMode::Reattach, "snapshot:data"), (DataMode::Snapshot, "snapshot_root")]
            {
                let (spec, refusals) = two_snapshots(data, served);
                let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
                run.drive(&|intent, attempt| match intent {
                    Intent::SnapshotAhead(_) => Some(answer.clone()),
                    intent => refusals(intent, attempt),
                });
                assert!(run.told.ends_with("! finished\n"), "{answer:?}: {}", run.told);
                let attempts = run.told.matches("+ snapshot_ahead").count();
                assert_eq!(attempts, 1, "{answer:?}: {}", run.told);
                let in_doubt =
                    !matches!(answer, Evidence::Backup(BackupEvidence::NotTaken { in_doubt: false, .. }));
                assert_eq!(run.told.contains("+ find:"), in_doubt, "{answer:?}: {}", run.told);
                // Its own tags: what is looked for to be deleted is another one.
                let own = run.state.steps.values().find(|record| record.step.to_string() == step);
                let tags = own.map(|record| record.intent.makes()[0].1["perennial:step"].clone());
                let moved = served.contains(&"subnet-b");
                assert_eq!(tags, moved.then(|| format!("db-1.2/{step}/1")), "{answer:?}: {}", run.told);
            }
        }
    }
}

#[test]
fn a_snapshot_ahead_that_fails_later_is_not_waited_for_again() {
    let (spec, refusals) = two_snapshots(DataMode::Reattach, &["subnet-b"]);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    let failing = |intent: &Intent, attempt: u32| match intent {
        Intent::SnapshotVolume(_) if attempt == 1 => {
            Some(Evidence::Refused { code: "SnapshotError".into(), message: "it failed".into() })
        }
        intent => refusals(intent, attempt),
    };
    run.drive(&failing);
    assert!(run.told.contains("! stuck at snapshot:data: SnapshotError"), "{}", run.told);
    let mut draft = run.draft();
    draft.resume("a person".into(), Vec::new(), run.state.order.spec.clone()).unwrap();
    run.take(draft);
    run.drive(&failing);
    assert!(run.told.ends_with("! finished\n"), "{}", run.told);
    let tags: std::collections::BTreeSet<_> = run
        .state
        .steps
        .values()
        .filter(|record| record.step.to_string().starts_with("snapshot"))
        .map(|record| record.intent.makes()[0].1["perennial:step"].clone())
        .collect();
    let expected = ["db-1.2/snapshot:data/2", "db-1.2/snapshot_ahead:data/1", "db-1.2/snapshot_root/1"];
    assert_eq!(tags, expected.map(str::to_owned).into(), "{}", run.told);
    // The one that failed goes at the end.
    assert_eq!(run.told.matches("+ delete_snapshot:").count(), 1, "{}", run.told);
}

/// The volume was on an instance since: what was taken before, and what comes late of it, is another content.
#[test]
fn a_copy_is_never_made_from_a_snapshot_older_than_an_attachment() {
    let (spec, _) = two_snapshots(DataMode::Reattach, &[]);
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    // Home serves, the volume is attached there, and the instance is lost; then only the other zone serves.
    run.drive_to_with("verify", &|_, _| None);
    assert!(run.told.contains("= snapshot_ahead:data"), "{}", run.told);
    let lost = run.state.facts.candidate.clone().unwrap().instance;
    run.on_signal(&lost, News::StateChange { state: InstanceState::ShuttingDown });
    let refusals = |intent: &Intent, _: u32| match intent {
        Intent::Launch(Launch { pool, .. }) if pool.subnet.is_none() => {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: String::new() })
        }
        _ => None,
    };
    run.drive(&refusals);
    assert!(run.told.ends_with("! finished\n"), "{}", run.told);
    let last = run.state.steps.values().rfind(|record| record.step.to_string() == "snapshot:data").unwrap();
    let ahead =
        run.state.steps.values().find(|record| record.step.to_string() == "snapshot_ahead:data").unwrap();
    assert_ne!(last.intent.makes()[0].1, ahead.intent.makes()[0].1, "{}", run.told);
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!("{}", run.told) };
    let made_from = resources.volumes.values().filter_map(|held| held.made_from.clone()).next().unwrap();
    let Some((Evidence::SnapshotCompleted { snapshot, .. }, _)) = &last.outcome else {
        panic!("{}", run.told)
    };
    assert_eq!(made_from, *snapshot, "{}", run.told);
    assert_eq!(resources.orphans, [], "{}", run.told);
}

/// A snapshot of hours: the volume was attached and lost meanwhile, and what completes is of before.
#[test]
fn a_snapshot_that_completes_after_an_attachment_is_not_of_the_volume_any_more() {
    let mut spec = two_snapshots(DataMode::Reattach, &[]).0;
    spec.persist.root = RootMode::None;
    let mut run = Run::start(OperationKind::Replace, &spec, asked(), None);
    let away = |intent: &Intent, _: u32| match intent {
        Intent::Launch(Launch { pool, .. }) if pool.subnet.is_none() => {
            Some(Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: String::new() })
        }
        _ => None,
    };
    run.drive_to_with("snapshot:data", &away);
    let slow = run.state.open_steps().into_iter().find(|step| step.step == "snapshot:data").unwrap();
    // The instance there is lost, the next one is at home.
    let all_but = |run: &mut Run, until: &dyn Fn(&Operation) -> bool, otherwise: Otherwise<'_>| {
        while !until(&run.state) {
            let step = run.state.open_steps().into_iter().filter(|step| step.token != slow.token);
            let step = step.min_by_key(|step| step.token).expect("another open step");
            let evidence =
                otherwise(&step.intent, 1).unwrap_or_else(|| success(&run.state, &step.intent, step.token));
            run.now_ms = run.now_ms.max(step.not_before_ms) + 1_000;
            let mut draft = run.draft();
            draft.report(step.token, evidence).unwrap();
            run.take(draft);
        }
    };
    let instance = |run: &Run| run.state.facts.candidate.clone().unwrap().instance;
    let lost = instance(&run);
    run.on_signal(&lost, News::StateChange { state: InstanceState::ShuttingDown });
    let is_on = |state: &Operation| {
        state.facts.volumes.values().any(|fact| matches!(&fact.place, Place::On(on) if Some(on) == state.facts.candidate.as_ref().map(|c| &c.instance)))
    };
    all_but(&mut run, &is_on, &|_, _| None);
    let lost = instance(&run);
    run.on_signal(&lost, News::StateChange { state: InstanceState::ShuttingDown });
    let is_free = |state: &Operation| {
        state.facts.holders.iter().all(|holder| holder.fenced)
            && state.facts.volumes.values().all(|fact| fact.place == Place::Free)
    };
    all_but(&mut run, &is_free, &away);
    let evidence = success(&run.state, &slow.intent, slow.token);
    let Evidence::SnapshotCompleted { snapshot: old, .. } = evidence.clone() else { panic!("{evidence:?}") };
    let mut draft = run.draft();
    draft.report(slow.token, evidence).unwrap();
    run.take(draft);
    run.drive(&away);
    assert!(run.told.ends_with("! finished\n"), "{}", run.told);
    let Some((_, OperationEvent::Finished { resources, .. })) = run.last() else { panic!("{}", run.told) };
    let made_from = resources.volumes.values().filter_map(|held| held.made_from.clone()).next();
    assert!(made_from.is_some_and(|snapshot| snapshot != old), "{}", run.told);
    assert_eq!(resources.orphans, [], "{}", run.told);
}
