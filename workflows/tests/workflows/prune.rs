//! What is retained is deleted: which volumes, by which steps, and what stays.

use expect_test::expect;
use perennial_engine::domain::Stamp;
use perennial_engine::ids::Seq;
use perennial_workflows::aggregate::node::{Node, NodeEvent};
use perennial_workflows::domain::retention;
use perennial_workflows::domain::retention::{OLDER_THAN_S, SPREAD_MS, TRY_AGAIN_MS};
use perennial_workflows::domain::submission::{PruneParams, Submission, Work};
use perennial_workflows::machine::decide::Draft;
use perennial_workflows::model::aws::{SnapshotId, VolumeId};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::{OperationId, OperationKind, Outcome};
use perennial_workflows::model::resources::{FailedDeletion, PRUNED_MAX, PruneItem};
use perennial_workflows::model::resources::{Orphan, Resource, Resources, Retained};
use perennial_workflows::model::signal::{News, Signal, Source};
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::event::{OperationEvent, Order};
use perennial_workflows::operation::state::Status;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode, example};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{DeleteVolume, Intent};
use perennial_workflows::view::plan::imagined_resources;

use crate::run::{Run, asked, order, well};

const DAY_MS: u64 = 86_400_000;

fn name() -> NodeName {
    NodeName::parse("db-1").unwrap()
}

fn volume(id: &str) -> VolumeId {
    VolumeId::parse(id).unwrap()
}

fn spec() -> NodeSpec {
    example("db-1", NetworkMode::SecondaryIp, RootMode::Image)
}

fn slot(text: &str) -> Slot {
    Slot::try_from(text.to_owned()).unwrap()
}

fn retained(id: &str, of: &str, since_days: u64) -> Retained {
    Retained {
        since_ms: Some(since_days * DAY_MS),
        ..Retained::new(volume(id), slot(of), "db-1.1: it went on".into())
    }
}

/// The history of a node in three events: registered, and provisioned with these resources.
fn folded(spec: &NodeSpec, resources: Resources, at_ms: u64) -> Node {
    let id = OperationId::new(name(), 1);
    let (kind, cause) = (OperationKind::Provision, asked());
    let events = [
        NodeEvent::Registered { spec: spec.clone(), requested_by: "ops".into() },
        NodeEvent::OperationStarted { operation: id, kind, cause },
        finished(1, kind, resources),
    ];
    let mut node = Node::default();
    for (n, event) in (1..).zip(&events) {
        node = node.evolve(Stamp { seq: Seq(n), at_ms }, event).unwrap();
    }
    node
}

fn finished(number: u64, kind: OperationKind, resources: Resources) -> NodeEvent {
    NodeEvent::OperationFinished {
        operation: OperationId::new(name(), number),
        kind,
        generation: 1,
        resources,
        outcome: Outcome::Completed,
        finals: false,
        launched_by: None,
    }
}

/// A node that has left behind a root a day on the first, the second, … day; and two data volumes, one of somebody else's.
fn node() -> Node {
    let spec = spec();
    let mut resources = imagined_resources(&spec).unwrap();
    resources.retained = vec![
        retained("vol-r1", "root", 1),
        retained("vol-r2", "root", 2),
        retained("vol-r3", "root", 3),
        Retained { size_gib: Some(10), ..retained("vol-d2", "data", 2) },
        Retained { foreign: true, went_on: true, ..retained("vol-theirs", "data", 1) },
        retained("vol-logs", "logs", 1),
    ];
    folded(&spec, resources, 0)
}

fn ids(pruned: &[PruneItem]) -> Vec<&str> {
    pruned.iter().map(|pruned| pruned.volume.as_str()).collect()
}

fn wish(change: impl FnOnce(&mut PruneParams)) -> PruneParams {
    let mut wish = PruneParams::default();
    change(&mut wish);
    wish
}

#[test]
fn what_is_old_enough_is_condemned_and_what_must_stay_stays() {
    let node = node();
    let at = |day: u64, change: fn(&mut PruneParams)| {
        let pruned = retention::select(&node, &wish(change), day * DAY_MS).unwrap();
        ids(&pruned).join(" ")
    };
    // A week, when nothing is said.
    assert_eq!(OLDER_THAN_S, 7 * 86_400);
    assert_eq!(at(7, |_| {}), "");
    assert_eq!(at(8, |_| {}), "vol-r1");
    assert_eq!(at(9, |_| {}), "vol-r1 vol-d2 vol-r2");
    assert_eq!(
        at(100, |_| {}),
        "vol-r1 vol-d2 vol-r2 vol-r3",
        "neither another's nor the only one of its content"
    );
    assert_eq!(at(3, |wish| wish.older_than_s = Some(0)), "vol-r1 vol-d2 vol-r2 vol-r3");
    assert_eq!(at(3, |wish| wish.older_than_s = Some(86_400)), "vol-r1 vol-d2 vol-r2");
    assert_eq!(at(100, |wish| wish.keep = Some(1)), "vol-r1 vol-r2", "the newest of each stays");
    assert_eq!(at(100, |wish| wish.keep = Some(9)), "");
    assert_eq!(at(3, |wish| wish.volumes = vec![volume("vol-r3")]), "vol-r3", "a name is enough");
    assert_eq!(at(100, |wish| wish.older_than_s = Some(u64::MAX)), "");
    let pruned = retention::select(&node, &wish(|_| {}), 9 * DAY_MS).unwrap();
    let root = &node.resources.volumes[&Slot::Root].volume;
    assert_eq!(pruned[0].because, format!("older than 7 days; root goes on as {root}"));
    assert_eq!((pruned[0].since_ms, pruned[1].size_gib), (DAY_MS, Some(10)));
}

#[test]
fn a_volume_that_is_named_and_must_stay_is_refused_with_why() {
    let node = node();
    let data = node.resources.volumes[&slot("data")].volume.clone();
    let refused = |volumes: &[&str], change: &dyn Fn(&mut PruneParams)| {
        let wish = wish(|wish| {
            wish.volumes = volumes.iter().map(|id| volume(id)).collect();
            change(wish);
        });
        retention::select(&node, &wish, 4 * DAY_MS).unwrap_err()
    };
    let nothing = |_: &mut PruneParams| {};
    let told = [
        refused(&["vol-nobodys"], &nothing),
        refused(&[data.as_str()], &nothing),
        refused(&["vol-theirs"], &nothing),
        refused(&["vol-r1", "vol-logs"], &nothing),
        refused(&["vol-r3"], &|wish| wish.older_than_s = Some(2 * 86_400)),
        refused(&["vol-r3"], &|wish| wish.keep = Some(1)),
    ];
    expect![[r#"
        params.volumes: vol-nobodys is not retained by the node; see `perennial node show` for what is
        params.volumes: vol-new1x4 is not retained by the node; it is the node's data
        params.volumes: vol-theirs: somebody else made it; if nobody needs it, delete it by hand
        params.volumes: vol-logs: it is the only volume with what logs held; if nobody needs that, delete it by hand
        params.volumes: vol-r3: it has been retained for 24 h, less than 2 days
        params.volumes: vol-r3: it is one of the 1 newest of root that are to be kept"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn nothing_is_deleted_while_no_instance_shows_that_the_new_volumes_are_good() {
    let mut node = node();
    node.resources.carrier = None;
    assert_eq!(retention::select(&node, &wish(|_| {}), 100 * DAY_MS), Ok(Vec::new()));
    let named = wish(|wish| wish.volumes = vec![volume("vol-r1")]);
    assert!(retention::select(&node, &named, 100 * DAY_MS).unwrap_err().contains("resume it first"));
    // Nor what the file names, or has become the node's again.
    let mut node = self::node();
    node.spec.as_mut().unwrap().data_volumes[0].volume = Some(volume("vol-d2"));
    node.resources.volumes.get_mut(&Slot::Root).unwrap().volume = volume("vol-r2");
    let pruned = retention::select(&node, &wish(|_| {}), 100 * DAY_MS).unwrap();
    assert_eq!(ids(&pruned), ["vol-r1", "vol-r3"]);
}

#[test]
fn no_more_than_a_hundred_go_at_once_the_oldest_first() {
    let spec = spec();
    let mut resources = imagined_resources(&spec).unwrap();
    resources.retained = (0..150).rev().map(|n| retained(&format!("vol-r{n}"), "root", n)).collect();
    let node = folded(&spec, resources, 0);
    let pruned = retention::select(&node, &wish(|_| {}), 1_000 * DAY_MS).unwrap();
    assert_eq!(pruned.len(), PRUNED_MAX);
    assert_eq!((ids(&pruned)[0], ids(&pruned)[99]), ("vol-r0", "vol-r99"));
    let params = serde_json::json!({ "volumes": (0..101).map(|n| format!("vol-r{n}")).collect::<Vec<_>>() });
    let message = |params: serde_json::Value| {
        serde_json::json!({
            "schema": "perennial.submission/v1", "id": "s-1", "workflow": "node.prune", "node": "db-1",
            "params": params, "requested_by": "ops"
        })
        .to_string()
    };
    let refused = Submission::parse(&message(params)).unwrap_err();
    assert!(refused.why.starts_with("params.volumes: at most 100"), "{refused}");
    let parsed = Submission::parse(&message(serde_json::json!({ "older_than_s": 3_600 }))).unwrap();
    assert_eq!(parsed.work, Work::Prune(wish(|wish| wish.older_than_s = Some(3_600))));
}

#[test]
fn what_is_retained_is_dated_once_also_that_of_older_journals() {
    let spec = spec();
    let mut resources = imagined_resources(&spec).unwrap();
    let data = resources.volumes[&slot("data")].clone();
    resources.retained = vec![Retained::new(volume("vol-r1"), Slot::Root, "an older event".into())];
    let node = folded(&spec, resources.clone(), 5_000);
    assert_eq!(node.resources.retained[0].since_ms, Some(5_000));
    // The next operation began with what that event said, and leaves one more.
    resources.retained.push(Retained::new(data.volume, slot("data"), "db-1.2: it went on".into()));
    let (kind, cause) = (OperationKind::Replace, asked());
    let started = NodeEvent::OperationStarted { operation: OperationId::new(name(), 2), kind, cause };
    let node = node.evolve(Stamp { seq: Seq(4), at_ms: 8_000 }, &started).unwrap();
    let node = node.evolve(Stamp { seq: Seq(5), at_ms: 9_000 }, &finished(2, kind, resources)).unwrap();
    let since: Vec<_> = node.resources.retained.iter().map(|old| (old.since_ms, old.size_gib)).collect();
    assert_eq!(since, [(Some(5_000), None), (Some(9_000), data.size_gib)]);
    assert!(data.size_gib.is_some());
}

#[test]
fn with_retain_days_what_is_too_old_is_due_within_an_hour_and_after_a_failure_a_day_later() {
    let mut node = node();
    let due = |node: &Node, at_ms: u64| ids(&retention::due(node, &name(), at_ms)).join(" ");
    assert_eq!(due(&node, 100 * DAY_MS), "", "for ever, when the file says nothing");
    node.spec.as_mut().unwrap().persist.retain_days = Some(10);
    assert_eq!(due(&node, 11 * DAY_MS - 1), "");
    assert_eq!(due(&node, 11 * DAY_MS + SPREAD_MS), "vol-r1");
    assert_eq!(due(&node, 100 * DAY_MS), "vol-r1 vol-d2 vol-r2 vol-r3");
    // Not all nodes at once.
    let moments = ["a", "b", "c", "d"].map(|name| {
        let name = NodeName::parse(name).unwrap();
        (0..60).find(|minute| !retention::due(&node, &name, 11 * DAY_MS + minute * 60_000).is_empty())
    });
    assert!(moments.iter().any(|moment| *moment != moments[0]), "{moments:?}");
    let because = "InUse: somebody uses it".to_owned();
    let failed_ms = 20 * DAY_MS;
    node.resources.retained[0].failed_deletion = Some(FailedDeletion { at_ms: failed_ms, because });
    assert_eq!(due(&node, failed_ms + 1), "vol-d2 vol-r2 vol-r3");
    assert_eq!(due(&node, failed_ms + TRY_AGAIN_MS - 1), "vol-d2 vol-r2 vol-r3");
    assert_eq!(due(&node, failed_ms + TRY_AGAIN_MS + SPREAD_MS), "vol-r1 vol-d2 vol-r2 vol-r3");
    node.open = Some((OperationId::new(name(), 2), OperationKind::Replace));
    assert_eq!(due(&node, 100 * DAY_MS), "", "not while a workflow holds it");
}

#[test]
fn a_file_says_for_how_long_in_days() {
    let mut spec = spec();
    for (days, fits) in [(0, false), (1, true), (3_650, true), (3_651, false)] {
        spec.persist.retain_days = Some(days);
        assert_eq!(spec.check().is_ok(), fits, "{days}");
    }
    spec.persist.retain_days = Some(7);
    spec.persist.root = RootMode::None;
    assert!(spec.check().is_ok(), "it keeps data");
    spec.data_volumes.clear();
    assert!(spec.check().unwrap_err().to_string().contains("persist.retain_days: the node keeps no volume"));
}

/// A prune of three volumes.
fn pruning(change: impl FnOnce(&mut Resources)) -> Run {
    let node = node();
    let prune =
        retention::select(&node, &wish(|wish| wish.older_than_s = Some(8 * 86_400)), 10 * DAY_MS).unwrap();
    let spec = node.spec.unwrap();
    let mut order =
        Order { generation: 1, before: node.resources, prune, ..order(OperationKind::Prune, &spec, asked()) };
    change(&mut order.before);
    Run::of(order)
}

/// What it leaves behind.
fn resources(run: &Run) -> Resources {
    match run.last() {
        Some((_, OperationEvent::Finished { resources, .. })) => resources,
        other => panic!("{other:?}\n{}", run.told),
    }
}

/// What is retained at the end, each with why it could not be deleted.
fn left(run: &Run) -> String {
    let told = resources(run).retained.into_iter().map(|old| match old.failed_deletion {
        None => old.volume.to_string(),
        Some(failed_deletion) => {
            format!("{} ({} at {})", old.volume, failed_deletion.because, failed_deletion.at_ms)
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Drives a prune to its end; what a case says of one volume's deletion instead of success.
fn drive(run: &mut Run, otherwise: impl Fn(&str) -> Option<Evidence>) {
    run.drive(&|intent, _| {
        let Intent::DeleteVolume(DeleteVolume { volume, .. }) = intent else { panic!("{intent:?}") };
        otherwise(volume.as_str())
    });
    assert!(matches!(run.state.status, Status::Finished { .. }), "{}", run.told);
}

fn refused() -> Option<Evidence> {
    Some(Evidence::Refused { code: "InUse".into(), message: "it is attached".into() })
}

#[test]
fn each_volume_is_a_step_of_its_own_and_one_that_fails_holds_up_no_other() {
    let mut run = pruning(|_| {});
    let carrier = run.state.order.before.carrier.clone().unwrap().instance;
    let root = run.state.order.before.volumes[&Slot::Root].volume.clone();
    let step = run.state.open_steps().into_iter().min_by_key(|step| step.token).unwrap();
    let Intent::DeleteVolume(DeleteVolume { retained: Some(wanted), .. }) = step.intent.as_ref() else {
        panic!("{step:?}")
    };
    assert_eq!((&wanted.successor, &wanted.carrier), (&root, &carrier));
    assert_eq!(
        serde_json::json!(wanted.own),
        serde_json::json!({"perennial:node": "db-1", "perennial:owner": "tables"})
    );
    drive(&mut run, |_| None);
    expect![[r#"
        + delete_volume:vol-r1
        + delete_volume:vol-d2
        + delete_volume:vol-r2
        = delete_volume:vol-r1: deleted
        = delete_volume:vol-d2: deleted
        = delete_volume:vol-r2: deleted
        ! finished
    "#]]
    .assert_eq(&run.told);
    assert_eq!(left(&run), "vol-r3, vol-theirs, vol-logs");

    let mut run = pruning(|_| {});
    drive(&mut run, |volume| (volume == "vol-d2").then(refused).flatten());
    expect![[r#"
        + delete_volume:vol-r1
        + delete_volume:vol-d2
        + delete_volume:vol-r2
        = delete_volume:vol-r1: deleted
        = delete_volume:vol-d2: refused
        = delete_volume:vol-r2: deleted
        ! finished
    "#]]
    .assert_eq(&run.told);
    assert_eq!(left(&run), "vol-r3, vol-d2 (InUse: it is attached at 2000), vol-theirs, vol-logs");
    let mut run = pruning(|_| {});
    drive(&mut run, |_| Some(Evidence::OutOfTime { because: "it is not seen".into() }));
    assert_eq!(left(&run).matches("(not in time: it is not seen at").count(), 3, "{}", left(&run));
}

#[test]
fn a_prune_gives_way_at_once_and_keeps_on_the_list_what_it_was_deleting() {
    // A thing that the next operation cleans up does not hold it either.
    let left_over = |resources: &mut Resources| {
        let resource = Resource::Snapshot { snapshot: SnapshotId::parse("snap-1").unwrap() };
        resources.orphans.push(Orphan { resource, because: "db-1.1: of a data volume".into() });
    };
    let mut run = pruning(left_over);
    run.step(&well);
    let mut draft = Draft::from(&run.state, run.head, 5_000);
    draft.cancel("ops".into(), None).unwrap();
    run.take(draft);
    expect![[r#"
        + delete_volume:vol-r1
        + delete_volume:vol-d2
        + delete_volume:vol-r2
        = delete_volume:vol-r1: deleted
        ! cancelled
        ! cancelled
    "#]]
    .assert_eq(&run.told);
    let expected = "vol-r2 (not in time: cancelled at 5000), vol-r3, vol-d2 (not in time: cancelled at 5000), vol-theirs, vol-logs";
    assert_eq!(left(&run), expected);
    let resources = resources(&run);
    assert!(resources.carrier.is_some() && resources.orphans.len() == 1, "{resources:?}");

    let mut run = pruning(left_over);
    run.step(&well);
    let instance = run.state.order.before.carrier.clone().unwrap().instance;
    let news = News::SpotInterruption { action: "terminate".into(), deadline_ms: 120_000 };
    let mut draft = Draft::from(&run.state, run.head, 6_000);
    draft.signal(&Signal { instance, news, source: Source::Sweep, at_ms: 6_000 }).unwrap();
    run.take(draft);
    assert!(run.told.ends_with("= delete_volume:vol-r1: deleted\n! finished\n"), "{}", run.told);
    assert!(run.state.facts.carried_over.is_some(), "the next operation's cause");
    let expected = "vol-r2 (not in time: the instance is lost at 6000), vol-r3, vol-d2 (not in time: the instance is lost at 6000), vol-theirs, vol-logs";
    assert_eq!(left(&run), expected);
}
