//! The worked examples: every node file of `examples/` is applied, loses its instances with and without
//! notice, and comes back with what its page of `docs/use-cases/` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_sim::world::Notice;
use perennial_sim::world::settings::{Capacity, Settings};
use perennial_workers::port::error::Action;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::model::aws::GroupId;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::spec::address_pool::AddressPoolSpec;
use perennial_workflows::spec::node::{Handover, NodeSpec};
use serde_json::json;

use crate::lab::{EPOCH_MS, Lab};

/// The seed of `perennial region`, whose ids stand in the files.
const SEED: u64 = 1;

/// Files that other pages explain. Their ids may be placeholders.
const ELSEWHERE: [(&str, &str); 2] = [("node", "docs/node-file.md"), ("rehearsal", "docs/rehearsal.md")];

/// A test for each node file; a file without one fails `every_example_has_a_page_and_a_test`.
macro_rules! examples {
    ($($name:ident),+ $(,)?) => {
        const COVERED: &[&str] = &[$(stringify!($name)),+];
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                survives(stringify!($name)).await;
            }
        )+
    };
}

examples! {
    cassandra,
    development,
    elasticsearch,
    kafka,
    mongodb,
    node,
    postgresql,
    redis,
    rehearsal,
    training,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of the files in a folder with an ending, without it.
fn stems(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

/// The documents of a YAML file.
fn documents(path: &str) -> Vec<String> {
    read(path).split("\n---\n").map(str::to_owned).collect()
}

/// The nodes of an example, each checked.
fn nodes(name: &str) -> Vec<NodeSpec> {
    let path = format!("examples/{name}.yaml");
    let parsed = documents(&path).into_iter().map(|document| {
        let spec: NodeSpec =
            serde_saphyr::from_str(&document).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(spec.check_all(), [], "{path}");
        spec
    });
    parsed.collect()
}

/// What a page says of a thing after an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The very same.
    Same,
    /// Another one, with nothing of the old one.
    New,
}

/// The table "what survives" of a page: what, and whether the same comes back.
fn table(page: &str) -> BTreeMap<String, Fate> {
    let text = read(page);
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (what, fate) = (cells.next()?, cells.next()?);
        let fate = match fate {
            "the same" => Fate::Same,
            "new" => Fate::New,
            _ => return None,
        };
        Some((what.to_owned(), fate))
    });
    rows.collect()
}

/// What the node file by itself says, for the files of other pages.
fn by_its_modes() -> BTreeMap<String, Fate> {
    ["root volume", "data volumes", "private address"].map(|what| (what.to_owned(), Fate::Same)).into()
}

/// What is kept of a node, by the words of the pages.
fn kept(before: &Node, after: &Node, lab: &Lab) -> BTreeMap<String, Fate> {
    let fate = |same: bool| if same { Fate::Same } else { Fate::New };
    let volumes = |node: &Node, data: bool| {
        let of = node.resources.volumes.iter().filter(|(slot, _)| (**slot != Slot::Root) == data);
        of.map(|(slot, held)| (slot.clone(), held.volume.clone())).collect::<BTreeMap<_, _>>()
    };
    let same =
        |data: bool| !volumes(before, data).is_empty() && volumes(before, data) == volumes(after, data);
    let interface = |node: &Node| node.resources.carrier.as_ref().unwrap().interface.clone();
    let addresses = [before, after].map(|node| {
        let own = node.resources.address;
        // A node that keeps no address has that of its instance.
        own.unwrap_or_else(|| {
            lab.region
                .with(|world, _| world.interface_view(&interface(node)).map(|view| view.primary_ip))
                .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED)
        })
    });
    let mut kept = BTreeMap::from([
        ("root volume".to_owned(), fate(same(false))),
        ("private address".to_owned(), fate(addresses[0] == addresses[1])),
        ("network interface and MAC address".to_owned(), fate(interface(before) == interface(after))),
    ]);
    if !volumes(before, true).is_empty() {
        kept.insert("data volumes".to_owned(), fate(same(true)));
    }
    kept
}

/// The nodes of a file in the region whose ids stand in it, each provisioned, with `before` on each volume.
async fn provisioned(name: &str) -> (Lab, Vec<NodeSpec>) {
    let mut lab = Lab::new(Settings::calm(SEED));
    let mut specs = nodes(name);
    let is_elsewhere = ELSEWHERE.iter().any(|(file, _)| *file == name);
    for spec in &mut specs {
        lab.region.with(|world, _| {
            let known: Vec<_> = world.zones().iter().map(|zone| world.subnet_in(zone)).collect();
            let is_here =
                spec.subnets().all(|subnet| known.contains(subnet)) && spec.image == world.default_image();
            assert!(is_here || is_elsewhere, "{}: ids that `perennial region` does not have", spec.name);
            if !is_here {
                (spec.subnet, spec.image) = (known[0].clone(), world.default_image());
                let group = world.all_groups().next().map(|group| group.id.clone());
                spec.security_groups = group.into_iter().collect::<Vec<GroupId>>();
            }
        });
    }
    for spec in &specs {
        lab.submit("node.apply", spec.name.as_str(), json!({ "spec": spec })).await;
    }
    for spec in &specs {
        lab.rest(spec.name.as_str(), 1).await;
        lab.write(spec.name.as_str(), "before").await;
    }
    (lab, specs)
}

/// The guest lets go of its data volumes, as the page of a live handover says that it must.
fn unmount(lab: &Lab, node: &Node) {
    let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
    lab.region.with(|world, now_ms| {
        for (_, held) in node.resources.volumes.iter().filter(|(slot, _)| **slot != Slot::Root) {
            world.unmount(now_ms, &instance, &held.volume).unwrap();
        }
    });
}

/// The other nodes of a file.
fn others<'s>(specs: &'s [NodeSpec], one: &NodeSpec) -> Vec<&'s str> {
    specs.iter().map(|spec| spec.name.as_str()).filter(|name| *name != one.name.as_str()).collect()
}

/// How the instances are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Warned,
    Unannounced,
}

/// Takes the instances of all nodes of a file, and checks each node against its page.
async fn lose(
    lab: &mut Lab,
    specs: &[NodeSpec],
    promised: &BTreeMap<String, Fate>,
    loss: Loss,
    record: &str,
) {
    let mut before = BTreeMap::new();
    for spec in specs {
        let node = lab.node(spec.name.as_str()).await;
        let instance = node.resources.carrier.as_ref().unwrap().instance.clone();
        lab.region.with(|world, now_ms| match loss {
            Loss::Warned => world.interrupt(now_ms, &instance, Notice::default()).unwrap(),
            Loss::Unannounced => world.reclaim_now(now_ms, &instance).unwrap(),
        });
        if loss == Loss::Warned && spec.persist.handover == Handover::Detach {
            unmount(lab, &node);
        }
        before.insert(spec.name.clone(), node);
    }
    for spec in specs {
        let (name, before) = (spec.name.as_str(), &before[&spec.name]);
        lab.rest(name, before.operations + 1).await;
    }
    // Nothing comes after, and nothing dies later.
    lab.clock.sleep(Duration::from_secs(400)).await;
    for spec in specs {
        let (name, before) = (spec.name.as_str(), &before[&spec.name]);
        let after = lab.node(name).await;
        assert_eq!(
            after.operations,
            before.operations + 1,
            "{name}, {loss:?}: one operation\n{}",
            lab.story().await
        );
        assert_ne!(lab.instance(name).await, before.resources.carrier.as_ref().unwrap().instance);
        let found = kept(before, &after, lab);
        for (what, fate) in promised {
            // A file may have nodes with and without data volumes.
            if let Some(found) = found.get(what) {
                assert_eq!(found, fate, "{name}, {loss:?}: {what}\n{}", lab.story().await);
            }
        }
        lab.check_beside(name, &others(specs, spec), &[record]).await;
    }
}

/// The whole course of a file: applied, interrupted with notice, lost without one.
async fn survives(name: &str) {
    let promised = match ELSEWHERE.iter().any(|(file, _)| *file == name) {
        true => by_its_modes(),
        false => table(&format!("docs/use-cases/{name}.md")),
    };
    for what in ["root volume", "data volumes", "private address"] {
        assert!(promised.contains_key(what), "{name}: the page's table says nothing of the {what}");
    }
    let (mut lab, specs) = provisioned(name).await;
    lose(&mut lab, &specs, &promised, Loss::Warned, "before").await;
    for spec in &specs {
        lab.write(spec.name.as_str(), "after the first").await;
    }
    lose(&mut lab, &specs, &promised, Loss::Unannounced, "after the first").await;
    for spec in &specs {
        lab.check_beside(spec.name.as_str(), &others(&specs, spec), &["before"]).await;
    }
}

#[test]
fn every_example_has_a_page_and_a_test() {
    let (mut with_nodes, mut others) = (BTreeSet::new(), BTreeSet::new());
    for name in stems("examples", ".yaml") {
        let path = format!("examples/{name}.yaml");
        let is_pool =
            documents(&path).iter().all(|document| document.contains("\nschema: perennial.pool/v1"));
        if is_pool {
            others.insert(name)
        } else {
            with_nodes.insert(name)
        };
    }
    let covered: BTreeSet<String> = COVERED.iter().map(ToString::to_string).collect();
    assert_eq!(with_nodes, covered, "files with nodes, and tests");
    for name in others {
        for document in documents(&format!("examples/{name}.yaml")) {
            let pool: AddressPoolSpec = serde_saphyr::from_str(&document).expect("it is a pool");
            pool.check().expect("its rules hold");
        }
    }
    let mut pages = stems("docs/use-cases", ".md");
    assert!(pages.remove("README"), "the use cases have an index");
    let elsewhere = ELSEWHERE.map(|(name, _)| name.to_owned());
    let with_pages: BTreeSet<String> = covered.into_iter().filter(|name| !elsewhere.contains(name)).collect();
    assert_eq!(pages, with_pages, "pages of use cases, and files");
    let index = read("docs/use-cases/README.md");
    for name in &pages {
        assert!(index.contains(&format!("({name}.md)")), "the index does not lead to {name}");
        let page = read(&format!("docs/use-cases/{name}.md"));
        assert!(page.contains(&format!("(../../examples/{name}.yaml)")), "{name}: no link to its file");
        assert!(page.contains(&format!("examples/{name}.yaml")), "{name}: no command");
    }
    for (name, page) in ELSEWHERE {
        assert!(read(page).contains(&format!("examples/{name}.yaml")), "{page} does not explain {name}.yaml");
    }
}

/// `docs/use-cases/training.md`: without capacity at home the job goes on in another zone, with copies of its
/// volumes.
#[tokio::test(start_paused = true)]
async fn training_goes_on_in_another_zone_with_copies() {
    let (mut lab, specs) = provisioned("training").await;
    lab.set_capacity(&specs[0], 0, Capacity::Unsupported);
    let before = lab.node("train-1").await;
    lab.warn("train-1").await;
    lab.rest("train-1", 2).await;
    lab.check("train-1", &["before"]).await;
    let after = lab.node("train-1").await;
    assert_eq!(after.resources.subnet, Some(specs[0].capacity.other_subnets[0].clone()));
    assert_eq!(after.resources.retained.len(), 2, "the volumes at home stay for `retain_days`");
    for slot in ["warm", "checkpoints"].map(|name| Slot::try_from(name.to_owned()).unwrap()) {
        assert_ne!(after.resources.volumes[&slot].volume, before.resources.volumes[&slot].volume);
    }
}

/// `docs/use-cases/training.md`: what the guest unmounts moves while the old instance runs.
#[tokio::test(start_paused = true)]
async fn training_hands_over_while_the_old_instance_runs() {
    let (mut lab, _) = provisioned("training").await;
    let node = lab.node("train-1").await;
    lab.warn("train-1").await;
    unmount(&lab, &node);
    lab.rest("train-1", 2).await;
    let detached = lab.region.calls().iter().filter(|call| call.action == Action::DetachVolume).count();
    assert_eq!(detached, 2, "both volumes left before the instance\n{}", lab.story().await);
}

/// `docs/use-cases/redis.md`: a recommendation moves a replica before any warning, at most once in two hours.
#[tokio::test(start_paused = true)]
async fn a_redis_replica_leaves_ahead_of_a_warning() {
    let (mut lab, _) = provisioned("redis").await;
    lab.clock.sleep(Duration::from_secs(2 * 3600)).await;
    for operations in [2, 2] {
        let instance = lab.instance("redis-replica-1").await;
        lab.region.with(|world, now_ms| world.recommend_rebalance(now_ms, &instance).unwrap());
        lab.clock.sleep(Duration::from_secs(600)).await;
        lab.rest("redis-replica-1", operations).await;
        assert_eq!(lab.node("redis-replica-1").await.operations, operations, "{}", lab.story().await);
        lab.check_beside("redis-replica-1", &["redis-replica-2"], &["before"]).await;
    }
}

/// `docs/use-cases/mongodb.md` and others: no two nodes of a cluster return to spot in one window.
#[test]
fn nodes_of_a_cluster_have_windows_of_their_own() {
    for name in ["cassandra", "kafka", "mongodb"] {
        let windows: Vec<_> = nodes(name).into_iter().flat_map(|spec| spec.maintenance_windows).collect();
        let day = 24 * 3_600_000;
        // A minute apart over two weeks.
        for minute in 0..14 * 24 * 60 {
            let at_ms = EPOCH_MS - EPOCH_MS % day + minute * 60_000;
            let open = windows.iter().filter(|window| window.at(at_ms).is_some()).count();
            assert!(open <= 1, "{name}: {open} windows at {at_ms}");
        }
    }
}
