//! The published IAM policy: every mode runs under it, and without any of its statements a run is refused.
//!
//! All other tests of this binary run under it too ([`Lab::new`]), and none may be refused ([`Lab::check`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_sim::cloud::SimRegion;
use perennial_sim::policy::Policy;
use perennial_sim::world::settings::{Capacity, RootAdoption};
use perennial_workers::port::permissions::Need;
use perennial_workers::port::{Tags, VolumeRequest};
use perennial_workflows::model::aws::{SnapshotId, VolumeId};
use perennial_workflows::spec::backup::BackupSpec;
use perennial_workflows::spec::node::{DataMode, NetworkMode, NodeSpec, RootMode};
use serde_json::json;

use crate::another_file::launch_template;
use crate::lab::{Lab, NEEDS, published};
use crate::nodes::{may_move, quick};

/// Statements that nothing here needs, each with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("MakeSpotRole", "the region has the spot role"),
    ("UseKeysThroughEc2", "the region encrypts nothing: KMS is asked by EC2, not by Perennial"),
    ("GrantKeysToEc2", "see UseKeysThroughEc2"),
    ("UseQueues", "queues are in memory here; cli/tests/region.rs needs it"),
    ("SendEvents", "it is a policy of a queue, for EventBridge"),
];

/// A life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Replaced and deleted, in its zone.
    Here(RootMode, DataMode, NetworkMode),
    /// The same, by a move to another zone.
    Elsewhere(RootMode, DataMode),
    /// Its root cannot be adopted, a copy of it can.
    Copied,
    /// Backed up, restored, pruned, paused, resumed; with an Elastic IP, a key pair, and a volume that grows.
    Full,
    /// Its groups change while it keeps its interface.
    Regrouped,
    /// Launched under a role.
    Privileged,
    /// Its volume is made of a snapshot of the account's.
    Filled,
    /// It gets a volume by hand.
    Attached,
}

const ROOTS: [RootMode; 3] = [RootMode::Adopt, RootMode::Image, RootMode::None];
const DATA: [DataMode; 2] = [DataMode::Reattach, DataMode::Snapshot];
const NETWORKS: [NetworkMode; 5] = [
    NetworkMode::PrimaryEni,
    NetworkMode::SecondaryEni,
    NetworkMode::SecondaryIp,
    NetworkMode::IpPool,
    NetworkMode::None,
];

fn lives() -> Vec<Life> {
    let modes = || ROOTS.into_iter().flat_map(|root| DATA.into_iter().map(move |data| (root, data)));
    let here = modes().flat_map(|(root, data)| NETWORKS.map(|network| Life::Here(root, data, network)));
    let elsewhere = modes().map(|(root, data)| Life::Elsewhere(root, data));
    let special = [Life::Copied, Life::Full, Life::Regrouped, Life::Privileged, Life::Filled, Life::Attached];
    here.chain(elsewhere).chain(special).collect()
}

/// A volume of the account's, without a tag of ours.
async fn unowned(lab: &Lab) -> VolumeId {
    let made = lab.region.with(|world, now_ms| {
        let request = VolumeRequest {
            client_token: "by hand".to_owned(),
            zone: world.zones()[0].clone(),
            size_gib: 10,
            volume_type: "gp3".to_owned(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            tags: Tags::from([("Name".to_owned(), "logs".to_owned())]),
        };
        world.create_volume(now_ms, &request).unwrap()
    });
    lab.clock.sleep(Duration::from_secs(30)).await;
    made
}

async fn snapshot(lab: &Lab) -> SnapshotId {
    let volume = unowned(lab).await;
    let made = lab.region.with(|world, now_ms| world.create_snapshot(now_ms, &volume, &Tags::new()).unwrap());
    lab.clock.sleep(Duration::from_secs(600)).await;
    made
}

impl Life {
    /// The needs that the documentation names for it.
    fn needs(self) -> Vec<Need> {
        let more = match self {
            Self::Privileged => Some(Need::NodeRole),
            Self::Attached => Some(Need::AttachedVolumes),
            _ => None,
        };
        [Need::Base, Need::Restore].into_iter().chain(more).collect()
    }

    async fn spec(self, lab: &mut Lab) -> NodeSpec {
        let (root, data, network) = match self {
            Self::Here(root, data, network) => (root, data, network),
            Self::Elsewhere(root, data) => (root, data, NetworkMode::SecondaryIp),
            Self::Regrouped => (RootMode::Adopt, DataMode::Reattach, NetworkMode::PrimaryEni),
            _ => (RootMode::Adopt, DataMode::Reattach, NetworkMode::SecondaryIp),
        };
        let mut spec = lab.spec("db-1", network, root);
        spec.persist.data = data;
        match self {
            Self::Here(_, _, NetworkMode::IpPool) => lab.pools_for(&mut spec).await,
            Self::Elsewhere(..) => may_move(lab, &mut spec),
            Self::Full => {
                spec.backup = Some(BackupSpec { every_min: 720, keep: 1, ..BackupSpec::default() });
                spec.network.elastic_ip = Some(lab.elastic());
                spec.key_name = Some("ops".to_owned());
                spec.launch_template = Some(launch_template(lab, 1));
            }
            Self::Privileged => spec.instance_profile = Some("db-node".to_owned()),
            Self::Filled => spec.data_volumes[0].snapshot = Some(snapshot(lab).await),
            _ => {}
        }
        spec
    }

    /// Lives it, to the end.
    async fn live(self, lab: &mut Lab) {
        let mut spec = self.spec(lab).await;
        lab.provision(&spec).await;
        lab.write("db-1", "before").await;
        match self {
            Self::Elsewhere(..) => lab.set_capacity(&spec, 0, Capacity::Unsupported),
            Self::Copied => {
                let root = lab.volume("db-1", "root").await;
                lab.region.with(|world, _| world.set_root_adoption(RootAdoption::FailsFor(root.to_string())));
            }
            Self::Full => full(lab, &mut spec).await,
            Self::Regrouped => {
                let make = |world: &mut perennial_sim::world::World, now_ms| {
                    world.create_group(now_ms, "second", "of a test", &Tags::new()).unwrap()
                };
                spec.security_groups = vec![lab.region.with(make)];
                apply(lab, &spec).await;
            }
            Self::Attached => {
                let (volume, instance) = (unowned(lab).await, lab.instance("db-1").await);
                lab.region.with(|world, now_ms| {
                    world.attach_volume(now_ms, &volume, &instance, "/dev/sdh").unwrap();
                });
                lab.rest("db-1", 2).await;
                lab.write("db-1", "before").await;
            }
            _ => {}
        }
        settle(lab, "node.replace", json!({})).await;
        lab.clock.sleep(Duration::from_secs(400)).await;
        lab.check("db-1", &["before"]).await;
        let keep = json!({ "root": false, "data": false, "network": false, "backups": false });
        settle(lab, "node.delete", json!({ "keep": keep })).await;
        lab.check_without_instance("db-1").await;
    }
}

/// Asks for an operation and waits for its end.
async fn settle(lab: &mut Lab, workflow: &str, params: serde_json::Value) {
    let operations = lab.node("db-1").await.operations;
    lab.submit(workflow, "db-1", params).await;
    lab.rest("db-1", operations + 1).await;
}

async fn apply(lab: &mut Lab, spec: &NodeSpec) {
    lab.submit("node.apply", "db-1", json!({ "spec": spec })).await;
    lab.until("the change is answered", Duration::from_secs(60), async |lab| {
        lab.dispositions().await.iter().any(|disposition| disposition.contains("changed"))
    })
    .await;
}

async fn full(lab: &mut Lab, spec: &mut NodeSpec) {
    // The second backup takes the place of the first one, which is deleted.
    for complete in [1, 2] {
        lab.submit("node.backup", "db-1", json!({})).await;
        lab.clock.sleep(Duration::from_secs(120)).await;
        let backups = lab.catalog("db-1").await.complete().count();
        assert!(backups >= 1, "{complete}\n{}", lab.story().await);
    }
    spec.data_volumes[0].size_gib = 20;
    settle(lab, "node.apply", json!({ "spec": spec })).await;
    let number = lab.catalog("db-1").await.last_complete().unwrap().order.number;
    let backup = format!("db-1.b{number}");
    settle(lab, "node.restore", json!({ "backup": backup, "only": ["data"] })).await;
    lab.clock.sleep(Duration::from_secs(60)).await;
    let retained = lab.node("db-1").await.resources.retained;
    settle(lab, "node.prune", json!({ "volumes": [retained[0].volume] })).await;
    settle(lab, "node.pause", json!({})).await;
    settle(lab, "node.resume", json!({})).await;
}

/// Waits until a policy refuses a call, and says which.
async fn refused(region: SimRegion) -> String {
    loop {
        if let Some(refusal) = region.checks().refused.first() {
            return refusal.clone();
        }
        region.clock().sleep(Duration::from_millis(500)).await;
    }
}

/// Lives a life until a call is refused; `None` if none is.
async fn first_refusal(life: Life, policy: Policy) -> Option<String> {
    let mut lab = Lab::under(quick(7), policy);
    let region = lab.region.clone();
    tokio::select! {
        biased;
        refusal = refused(region) => Some(refusal),
        () = life.live(&mut lab) => None,
    }
}

/// The statements that each life needs: by evaluation, where only one allows a call; and then by trial.
#[tokio::test(start_paused = true)]
async fn every_mode_runs_under_the_published_policy_and_needs_every_statement() {
    let mut needed_by = BTreeMap::<String, Life>::new();
    for life in lives() {
        let mut lab = Lab::under(quick(7), published("lab", &life.needs()));
        life.live(&mut lab).await;
        let checks = lab.region.checks();
        assert_eq!(checks.refused, BTreeSet::new(), "{life:?}\n{}", lab.story().await);
        for sid in checks.needed {
            needed_by.entry(sid).or_insert(life);
        }
    }
    let all = published("lab", &NEEDS);
    for sid in all.sids() {
        let life = *needed_by.get(sid).unwrap_or_else(|| panic!("no life needs {sid}: {needed_by:?}"));
        let without = published("lab", &life.needs()).without(sid);
        let refusal = first_refusal(life, without).await;
        let refusal = refusal.unwrap_or_else(|| panic!("{life:?} was not refused without {sid}"));
        assert!(refusal.contains("because no identity-based policy allows"), "{sid}: {refusal}");
    }
}

#[test]
fn every_published_statement_is_needed_here_or_listed_with_a_reason() {
    let here: BTreeSet<String> = published("lab", &NEEDS).sids().into_iter().map(str::to_owned).collect();
    for need in Need::ALL {
        let template: serde_json::Value = serde_json::from_str(need.template()).unwrap();
        for statement in template["Statement"].as_array().unwrap() {
            let sid = statement["Sid"].as_str().unwrap();
            let reason = ELSEWHERE.iter().find(|(name, _)| *name == sid);
            assert_ne!(here.contains(sid), reason.is_some(), "{sid}");
        }
    }
}

/// Nothing of another owner may be changed, and nothing may be tagged afterwards.
#[tokio::test(start_paused = true)]
async fn what_another_owner_has_may_not_be_touched() {
    use perennial_workers::port::Cloud as _;
    let mut lab = Lab::new(quick(7));
    let spec = lab.spec("db-1", NetworkMode::SecondaryIp, RootMode::Adopt);
    lab.provision(&spec).await;
    let (volume, instance) = (lab.volume("db-1", "data").await, lab.instance("db-1").await);
    let stranger = lab.region.connect().under(std::sync::Arc::new(published("them", &NEEDS)));
    let codes = [
        stranger.delete_volume(&volume).await.unwrap_err().code,
        stranger.detach_volume(&volume, &instance).await.unwrap_err().code,
        stranger.terminate_instance(&instance).await.unwrap_err().code,
        stranger.create_snapshot(&volume, "", &Tags::new()).await.unwrap_err().code,
    ];
    assert_eq!(codes, ["UnauthorizedOperation"; 4]);
    let Some(refusal) = lab.region.checks().refused.pop_last() else { panic!("they are told") };
    assert!(refusal.contains("arn:aws:ec2:us-east-1:111122223333:"), "{refusal}");
}
