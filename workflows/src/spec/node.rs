//! The node file: what a node is meant to be.
//!
//! A file is YAML or JSON, checked strictly: an unknown field is an error, not a silent no-op.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{AllocationId, GroupId, ImageId, SnapshotId, SubnetId, VolumeId};
use crate::model::capacity::{CapacityPool, MarketPolicy, markets};
use crate::model::name::NodeName;
use crate::model::requirements::{CapacityOrder, Requirements};
use crate::model::resources::Resources;
use crate::model::volume::Slot;
use crate::spec::backup::BackupSpec;
use crate::spec::error::SpecError;
use crate::spec::signals::SignalsSpec;
use crate::spec::windows::MaintenanceWindow;

/// The least time between two moves of a node that runs well: an hour is what EC2 once billed at least, and long against a
/// shortage that flickers.
pub const MIN_LIFETIME_MIN: u32 = 60;

/// Longer than a month would be `never`.
pub const MIN_LIFETIME_MIN_MAX: u32 = 31 * 24 * 60;

/// What becomes of volumes that somebody attached to the node's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttachedVolumes {
    /// They become the node's and are carried like its own; detached by hand, they are given back.
    #[default]
    Keep,
    /// They are left alone, and are no longer attached when the instance is gone.
    Ignore,
}

impl AttachedVolumes {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    pub(crate) const fn is_default(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// What follows when the root volume does not exist any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootLoss {
    /// The root comes back from the newest complete backup, if there is one; what was written after it is lost.
    #[default]
    NewestBackup,
    /// The workflow is stuck until a person decides.
    Stuck,
}

impl Resources {
    /// Whether a data volume is known to be smaller than a spec says.
    #[must_use]
    pub fn is_smaller_than(&self, spec: &NodeSpec) -> bool {
        self.carrier.is_some()
            && spec.data_volumes.iter().any(|wanted| {
                let held = self.volumes.get(&Slot::Data(wanted.name.clone()));
                held.and_then(|held| held.size_gib).is_some_and(|size_gib| size_gib < wanted.size_gib)
            })
    }
}

/// EC2 attaches at most 27 EBS volumes to most Nitro types (EC2 User Guide, instance volume limits); one is the root.
pub const DATA_VOLUMES_MAX: usize = 26;

/// A ladder longer than this only delays the on-demand rung. AWS's advice for spot is ten types.
pub const INSTANCE_TYPES_MAX: usize = 40;

/// More subnets than a region has zones are of no use.
pub const OTHER_SUBNETS_MAX: usize = 8;

/// A node that can wait longer than a week for spot can wait without end (`market: spot_only`).
pub const ON_DEMAND_AFTER_S_MAX: u32 = 7 * 24 * 3600;

/// EC2's limit on user data before encoding (EC2 User Guide).
pub const USER_DATA_BYTES_MAX: usize = 16 * 1024;

/// EC2 allows 50 tags; ours need some.
pub const TAGS_MAX: usize = 40;

/// The format of a node file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeSchema {
    /// The first one.
    #[serde(rename = "perennial.node/v1")]
    V1,
}

/// What a node is meant to be: the content of a node file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// The format of this file.
    pub schema: NodeSchema,
    /// The node's name, for ever.
    pub name: NodeName,
    /// The image its first root is made from. With `persist.root: adopt` it also boots the temporary root of each
    /// replacement, so it must be inert: no workload of its own, no enrolment under the node's identity.
    pub image: ImageId,
    /// The subnet, which fixes the availability zone the node lives in at first.
    pub subnet: SubnetId,
    /// Of every interface that is made; empty means the VPC's default group. A kept interface gets them with the next
    /// operation after a change.
    #[serde(default)]
    pub security_groups: Vec<GroupId>,
    /// Where capacity may come from.
    pub capacity: CapacitySpec,
    /// What comes back after an interruption, and how.
    #[serde(default)]
    pub persist: PersistSpec,
    /// The network beyond the kind of the private address.
    #[serde(default, skip_serializing_if = "NetworkSpec::is_default")]
    pub network: NetworkSpec,
    /// The root volume.
    #[serde(default)]
    pub root: RootSpec,
    /// The data volumes.
    #[serde(default)]
    pub data_volumes: Vec<DataVolumeSpec>,
    /// A private address to ask for at first; otherwise the subnet chooses. It is the address that persists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<Ipv4Addr>,
    /// The key pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// The name of the IAM instance profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_profile: Option<String>,
    /// User data as text, at most 16 KiB; encoded by us. It runs at the first boot of each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Backups while the node runs; without it none are taken on a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// When it may be moved although it runs well; none means at any time. See `capacity.return_to_spot`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// What is done about what is heard, where there is a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalsSpec>,
    /// Further tags of every resource; keys must not begin with `perennial:` or `aws:`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Where capacity may come from: a ladder of instance types, then the market's fallback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapacitySpec {
    /// In order of preference; all of the image's architecture. May be left out where `requirements` say what types must be
    /// like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub instance_types: Vec<String>,
    /// What further types must be like; they are found by a survey at the beginning of each operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// In which order pools of one market are asked; without it as `instance_types` lists them, or by price where it lists
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<CapacityOrder>,
    /// Which markets, in which order.
    #[serde(default)]
    pub market: MarketPolicy,
    /// The most to pay per hour on the spot market, as a decimal; none means the on-demand price. A pool that costs more now is
    /// not asked. On-demand pools are not subject to it: for none of them say `market: spot_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_max: Option<String>,
    /// When and how far the on-demand market serves.
    #[serde(default, skip_serializing_if = "OnDemandSpec::is_default")]
    pub on_demand: OnDemandSpec,
    /// Whether a node that had to go on demand goes back.
    #[serde(default, skip_serializing_if = "ReturnToSpot::is_default")]
    pub return_to_spot: ReturnToSpot,
    /// In minutes: the least time between two moves of a node that is not dying.
    #[serde(default = "min_lifetime_min", skip_serializing_if = "is_min_lifetime_min")]
    #[schemars(range(max = 44_640))]
    pub min_lifetime_min: u32,
    /// Further subnets, asked in this order when every pool of the node's present subnet was without capacity. In another
    /// zone the volumes go on as copies made from snapshots, and in another subnet the private address ends: see
    /// `network.zone_change`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_subnets: Vec<SubnetId>,
}

const fn min_lifetime_min() -> u32 {
    MIN_LIFETIME_MIN
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_min_lifetime_min(min: &u32) -> bool {
    *min == MIN_LIFETIME_MIN
}

/// Whether a node that had to go on demand goes back to spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReturnToSpot {
    /// It stays on demand until something else moves it.
    #[default]
    Never,
    /// When spot has looked available for a while.
    WhenAvailable,
    /// The same, in its maintenance windows only.
    Window,
}

impl ReturnToSpot {
    const fn is_default(&self) -> bool {
        matches!(self, Self::Never)
    }
}

/// When and how far the on-demand market serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemandSpec {
    /// Not before so many seconds after an operation began; until then spot is asked again and again.
    #[serde(default)]
    #[schemars(range(max = 604_800))]
    pub after_s: u32,
    /// Not while so many other nodes of this installation are on demand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nodes: Option<u32>,
}

impl CapacitySpec {
    pub(crate) fn check_on_demand(&self) -> Result<(), SpecError> {
        let wrong = |field: &str, why: &str| {
            Err(SpecError { field: format!("capacity.on_demand.{field}"), why: why.to_owned() })
        };
        let OnDemandSpec { after_s, max_nodes } = self.on_demand;
        if after_s > ON_DEMAND_AFTER_S_MAX {
            return wrong("after_s", "is more than a week; say `market: spot_only` to wait without end");
        }
        if after_s > 0 && self.market != MarketPolicy::SpotThenOnDemand {
            return wrong(
                "after_s",
                "waits for spot first: it needs `market: spot_then_on_demand`; remove one",
            );
        }
        if max_nodes.is_some() && self.market == MarketPolicy::SpotOnly {
            return wrong("max_nodes", "has no effect with `market: spot_only`; remove one of the two");
        }
        if max_nodes == Some(0) {
            return wrong("max_nodes", "must be at least 1; for no on-demand at all say `market: spot_only`");
        }
        Ok(())
    }
}

impl OnDemandSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What comes back after an interruption, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PersistSpec {
    /// The root volume.
    #[serde(default)]
    pub root: RootMode,
    /// The data volumes.
    #[serde(default)]
    pub data: DataMode,
    /// The address.
    #[serde(default)]
    pub network: NetworkMode,
    /// When data volumes leave an old instance that still runs.
    #[serde(default)]
    pub handover: Handover,
    /// What becomes of volumes that somebody attached to its instance.
    #[serde(default, skip_serializing_if = "AttachedVolumes::is_default")]
    pub attached_volumes: AttachedVolumes,
    /// What follows when the root volume does not exist any more; `newest_backup` where the file does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_loss: Option<RootLoss>,
    /// After how many days volumes that the node has outgrown are deleted; without it they are retained until somebody prunes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub retain_days: Option<u32>,
}

impl PersistSpec {
    /// What follows when the root volume does not exist any more.
    #[must_use]
    pub fn root_loss(&self) -> RootLoss {
        self.root_loss.unwrap_or_default()
    }
}

/// How the root volume comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootMode {
    /// The very same volume becomes the root of the new instance (CreateReplaceRootVolumeTask). Where that
    /// fails, a clone of it does (CopyVolumes); where that cannot be done, `image` carries it, and the journal says why.
    #[default]
    Adopt,
    /// A snapshot of the old root, taken after the old instance is gone, is registered as the image of the new one.
    Image,
    /// The root is new each time, from the node's image.
    None,
}

/// How data volumes come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataMode {
    /// The very same volumes; in another zone new ones, made from final snapshots.
    #[default]
    Reattach,
    /// New volumes each time, made by the launch from final snapshots. The old ones are retained.
    Snapshot,
}

/// How the address comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The same primary interface: same address, same MAC. The old instance must be gone before the new one can be
    /// launched (break before make).
    PrimaryEni,
    /// A secondary private address moves from instance to instance. The new instance is launched first (make before
    /// break).
    #[default]
    SecondaryIp,
    /// A second interface, with its address and MAC, moves from instance to instance. The new instance is launched first
    /// (make before break). The guest configures it; two interfaces of one subnet need rules for their routes.
    SecondaryEni,
    /// As `secondary_ip`, with an address of the pool that `network.ip_pool` names; it is the node's until its deletion. In another
    /// subnet it is one of the pool that `network.ip_pools_elsewhere` names for it, which is the node's likewise.
    IpPool,
    /// A new address each time.
    None,
}

/// The network beyond the kind of the private address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// An Elastic IP address of this account and region that leads to the node's private address, whichever instance carries
    /// it. It is associated, never allocated or released; a change of this field takes effect with the next replacement, and
    /// without it the address is left where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic_ip: Option<AllocationId>,
    /// The pool that the node's address comes from (`perennial pool apply`), with `persist.network: ip_pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_pool: Option<NodeName>,
    /// With `persist.network: ip_pool`, the pool of each of `capacity.other_subnets`, by subnet. The node has an address of each
    /// of its pools until its deletion, so that a move waits for none and its address in each subnet is known beforehand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ip_pools_elsewhere: BTreeMap<SubnetId, NodeName>,
    /// Whether the node may move to another subnet or zone, where its private address ends.
    #[serde(default, skip_serializing_if = "ZoneChange::is_default")]
    pub zone_change: ZoneChange,
}

/// Whether the node may move to another subnet or zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZoneChange {
    /// It waits for capacity where it is.
    #[default]
    Forbid,
    /// It moves; its private address ends, and it gets another one.
    Allow,
}

impl ZoneChange {
    const fn is_default(&self) -> bool {
        matches!(self, Self::Forbid)
    }
}

impl NetworkSpec {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When data volumes leave an old instance that still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// After it is terminated: its operating system has unmounted them.
    #[default]
    Terminate,
    /// While it runs, once the new instance is up: for nodes that unmount by themselves at the interruption notice. A volume
    /// that is still in use is not forced; it follows after termination.
    Detach,
}

/// The root volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// At least the image's size; none means the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Such as `gp3`; none means the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
}

/// One data volume, created with the node and kept through every replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataVolumeSpec {
    /// Its name within the node.
    pub name: NodeName,
    /// The device name it is attached under, such as `/dev/sdf`. Without one it gets a free name and keeps it. A name that is in
    /// use on an instance, also one given here, gives way to another, which is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/dev/(sd[b-z]|xvd[b-z][a-z]?)$"))]
    pub device: Option<String>,
    /// Its size. A larger one, applied to a registered node, lets the volume grow while the node runs; the file system in it is
    /// the guest's to grow.
    #[schemars(range(min = 1, max = 65536))]
    pub size_gib: u32,
    /// Its type.
    #[serde(default = "gp3")]
    pub volume_type: String,
    /// For gp3, io1 and io2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// For gp3, in MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Encrypted with the account's EBS key, or `kms_key`.
    #[serde(default)]
    pub encrypted: bool,
    /// A customer managed key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// What the first volume is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// An existing volume instead of a new one: free, in the node's zone, of one instance at a time, at least `size_gib` large. No
    /// deletion of the node deletes it. In another zone a copy with its content goes on, and it is not taken again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
}

fn gp3() -> String {
    "gp3".to_owned()
}

impl NodeSpec {
    /// The field that an operation works with from its start to its end, and that differs from another file.
    #[must_use]
    pub fn fixed_by_a_start(&self, old: &Self) -> Option<&'static str> {
        if self.persist.network != old.persist.network {
            Some("persist.network")
        } else if (self.persist.root == RootMode::None) != (old.persist.root == RootMode::None) {
            Some("persist.root")
        } else {
            None
        }
    }

    /// Whether a data volume is to be larger than before.
    #[must_use]
    pub fn is_larger_than(&self, old: &Self) -> bool {
        self.data_volumes
            .iter()
            .any(|new| old.data_volumes.iter().any(|old| old.name == new.name && old.size_gib < new.size_gib))
    }

    /// The pool that the node's address in its own subnet comes from.
    #[must_use]
    pub fn pool(&self) -> Option<&NodeName> {
        self.network.ip_pool.as_ref().filter(|_| self.persist.network == NetworkMode::IpPool)
    }

    /// Every pool that the node has an address of, by the subnet it is for; that of its own subnet first.
    pub fn ip_pools(&self) -> impl Iterator<Item = (&SubnetId, &NodeName)> {
        let elsewhere = self.network.ip_pools_elsewhere.iter().filter(|_| self.pool().is_some());
        self.pool().map(|pool| (&self.subnet, pool)).into_iter().chain(elsewhere)
    }

    /// The pool of a subnet that the node may live in.
    #[must_use]
    pub fn pool_in(&self, subnet: &SubnetId) -> Option<&NodeName> {
        self.ip_pools().find(|(of, _)| *of == subnet).map(|(_, pool)| pool)
    }

    /// Whether the node has an interface of its own.
    #[must_use]
    pub const fn keeps_interface(&self) -> bool {
        match self.persist.network {
            NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => true,
            NetworkMode::SecondaryIp | NetworkMode::IpPool | NetworkMode::None => false,
        }
    }

    /// Whether the new instance can run before the old one is gone.
    #[must_use]
    pub fn makes_before_breaks(&self) -> bool {
        match self.persist.network {
            NetworkMode::PrimaryEni => false,
            NetworkMode::SecondaryIp
            | NetworkMode::SecondaryEni
            | NetworkMode::IpPool
            | NetworkMode::None => true,
        }
    }

    /// Whether what was looked up for one holds for the other.
    #[must_use]
    pub fn lives_like(&self, other: &Self) -> bool {
        self.image == other.image && self.capacity.other_subnets == other.capacity.other_subnets
    }

    /// Every subnet the node may live in.
    pub fn subnets(&self) -> impl Iterator<Item = &SubnetId> {
        std::iter::once(&self.subnet).chain(&self.capacity.other_subnets)
    }

    pub(crate) fn rungs(&self, subnet: Option<&SubnetId>) -> Vec<CapacityPool> {
        let rungs = |market| {
            self.capacity.instance_types.iter().map(move |name| CapacityPool {
                instance_type: name.clone(),
                market,
                subnet: subnet.cloned(),
            })
        };
        markets(self.capacity.market).iter().copied().flat_map(rungs).collect()
    }
}

/// A small valid spec for tests and examples.
#[must_use]
pub fn example(name: &str, network: NetworkMode, root: RootMode) -> NodeSpec {
    let id = |text: &str| text.to_owned();
    NodeSpec {
        schema: NodeSchema::V1,
        name: NodeName::try_from(id(name)).unwrap_or_else(|error| unreachable!("BUG: {error}")),
        image: ImageId::try_from(id("ami-0123456789abcdef0"))
            .unwrap_or_else(|error| unreachable!("BUG: {error}")),
        subnet: SubnetId::try_from(id("subnet-0123456789abcdef0"))
            .unwrap_or_else(|error| unreachable!("BUG: {error}")),
        security_groups: Vec::new(),
        capacity: CapacitySpec {
            instance_types: vec!["m6i.large".into(), "m5.large".into()],
            requirements: None,
            order: None,
            market: MarketPolicy::SpotThenOnDemand,
            price_max: None,
            on_demand: OnDemandSpec::default(),
            return_to_spot: ReturnToSpot::Never,
            min_lifetime_min: MIN_LIFETIME_MIN,
            other_subnets: Vec::new(),
        },
        persist: PersistSpec {
            root,
            data: DataMode::Reattach,
            network,
            handover: Handover::Terminate,
            root_loss: None,
            attached_volumes: AttachedVolumes::Keep,
            retain_days: None,
        },
        network: NetworkSpec::default(),
        root: RootSpec::default(),
        data_volumes: vec![DataVolumeSpec {
            name: NodeName::try_from(id("data")).unwrap_or_else(|error| unreachable!("BUG: {error}")),
            device: Some("/dev/sdf".into()),
            size_gib: 10,
            volume_type: gp3(),
            iops: None,
            throughput: None,
            encrypted: false,
            kms_key: None,
            snapshot: None,
            volume: None,
        }],
        private_ip: None,
        key_name: None,
        instance_profile: None,
        user_data: None,
        backup: None,
        maintenance_windows: Vec::new(),
        signals: None,
        tags: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodeSpec {
        example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt)
    }

    #[test]
    fn windows_serve_any_move_that_nobody_needs_at_once() {
        let mut spec = good();
        spec.maintenance_windows = nights();
        assert_eq!(spec.check().unwrap_err().field, "maintenance_windows");
        let mut moved = spec.clone();
        moved.signals = serde_json::from_str(r#"{"rebalance": "move"}"#).unwrap();
        moved.capacity.min_lifetime_min = 5;
        moved.check().unwrap();
        spec.capacity.return_to_spot = ReturnToSpot::Window;
        spec.check().unwrap();
    }

    fn nights() -> Vec<MaintenanceWindow> {
        let text = r#"[{"from": "02:00", "to": "05:00", "time_zone": "Europe/Berlin"}]"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_example_is_valid_and_survives_json() {
        let spec = good();
        spec.check().unwrap();
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<NodeSpec>(&text).unwrap(), spec);
    }

    /// A change of the good file is refused, and the error names this field.
    fn check(change: fn(&mut NodeSpec), field: &str) {
        let mut spec = good();
        change(&mut spec);
        assert_eq!(spec.check().unwrap_err().field, field);
    }

    #[test]
    fn every_wrong_value_of_the_capacity_is_named_with_its_field() {
        check(|s| s.capacity.instance_types.clear(), "capacity.instance_types");
        check(|s| s.capacity.instance_types.push("large".into()), "capacity.instance_types[2]");
        check(|s| s.capacity.instance_types.push("m5.large".into()), "capacity.instance_types[2]");
        check(|s| s.capacity.price_max = Some("cheap".into()), "capacity.price_max");
        check(|s| s.capacity.on_demand.after_s = ON_DEMAND_AFTER_S_MAX + 1, "capacity.on_demand.after_s");
        check(
            |s| {
                s.capacity.on_demand.after_s = 60;
                s.capacity.market = MarketPolicy::OnDemandOnly;
            },
            "capacity.on_demand.after_s",
        );
        check(
            |s| {
                s.capacity.on_demand.max_nodes = Some(2);
                s.capacity.market = MarketPolicy::SpotOnly;
            },
            "capacity.on_demand.max_nodes",
        );
        check(|s| s.capacity.on_demand.max_nodes = Some(0), "capacity.on_demand.max_nodes");
    }

    #[test]
    fn every_wrong_value_of_a_move_is_named_with_its_field() {
        check(|s| s.maintenance_windows = nights(), "maintenance_windows");
        check(
            |s| {
                s.capacity.min_lifetime_min = 5;
                s.signals = serde_json::from_str(r#"{"impaired": "note"}"#).unwrap();
            },
            "capacity.min_lifetime_min",
        );
        check(
            |s| s.signals = serde_json::from_str(r#"{"impaired_after_s": 60}"#).unwrap(),
            "signals.impaired_after_s",
        );
        check(|s| s.capacity.return_to_spot = ReturnToSpot::Window, "capacity.return_to_spot");
        check(
            |s| {
                s.capacity.return_to_spot = ReturnToSpot::WhenAvailable;
                s.persist.network = NetworkMode::PrimaryEni;
            },
            "capacity.return_to_spot",
        );
        check(
            |s| {
                s.capacity.return_to_spot = ReturnToSpot::WhenAvailable;
                s.maintenance_windows = nights();
            },
            "maintenance_windows",
        );
        check(
            |s| {
                s.capacity.return_to_spot = ReturnToSpot::WhenAvailable;
                s.capacity.market = MarketPolicy::SpotOnly;
            },
            "capacity.return_to_spot",
        );
    }

    #[test]
    fn every_wrong_value_of_volumes_address_and_tags_is_named_with_its_field() {
        check(|s| s.data_volumes.push(s.data_volumes[0].clone()), "data_volumes[1].name");
        check(|s| s.data_volumes[0].device = Some("/dev/sda1".into()), "data_volumes[0].device");
        check(|s| s.data_volumes[0].size_gib = 0, "data_volumes[0].size_gib");
        check(
            |s| s.backup = Some(BackupSpec { every_min: 0, keep: 3, ..BackupSpec::default() }),
            "backup.every_min",
        );
        check(
            |s| s.backup = Some(BackupSpec { every_min: 20_000, keep: 3, ..BackupSpec::default() }),
            "backup.every_min",
        );
        check(
            |s| s.backup = Some(BackupSpec { every_min: 5, keep: 0, ..BackupSpec::default() }),
            "backup.keep",
        );
        check(
            |s| s.backup = Some(BackupSpec { every_min: 5, keep: 97, ..BackupSpec::default() }),
            "backup.keep",
        );
        check(
            |s| {
                s.backup = Some(BackupSpec::default());
                s.persist.root = RootMode::None;
                s.data_volumes.clear();
            },
            "backup",
        );
        check(|s| s.data_volumes[0].kms_key = Some("k".into()), "data_volumes[0].kms_key");
        check(|s| s.user_data = Some("x".repeat(USER_DATA_BYTES_MAX + 1)), "user_data");
        check(
            |s| {
                s.tags.insert("perennial:node".into(), "x".into());
            },
            "tags",
        );
        check(
            |s| {
                s.private_ip = Some(Ipv4Addr::new(10, 0, 0, 9));
                s.persist.network = NetworkMode::None;
            },
            "private_ip",
        );
    }

    #[test]
    fn sd_and_xvd_of_the_same_letter_are_one_device() {
        let mut spec = good();
        let mut twin = spec.data_volumes[0].clone();
        twin.name = NodeName::parse("logs").unwrap();
        twin.device = Some("/dev/xvdf".into());
        spec.data_volumes.push(twin);
        assert_eq!(spec.check().unwrap_err().field, "data_volumes[1].device");
    }

    #[test]
    fn a_change_that_would_lose_state_or_do_nothing_is_refused() {
        let old = good();
        let check = |change: fn(&mut NodeSpec), field: &str| {
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(new.check_change_from(&old).unwrap_err().field, field);
        };
        check(|s| s.subnet = SubnetId::parse("subnet-1").unwrap(), "subnet");
        check(|s| s.image = ImageId::parse("ami-1").unwrap(), "image");
        check(|s| s.persist.network = NetworkMode::PrimaryEni, "persist.network");
        check(|s| s.data_volumes.clear(), "data_volumes");
        check(|s| s.data_volumes[0].size_gib = 9, "data_volumes.data.size_gib");
        check(|s| s.data_volumes[0].volume_type = "io2".into(), "data_volumes");
        let mut larger = old.clone();
        larger.data_volumes[0].size_gib = 20;
        larger.check_change_from(&old).unwrap();
        let mut types = old.clone();
        types.capacity.instance_types.push("c5.large".into());
        types.check_change_from(&old).unwrap();
    }

    #[test]
    fn on_demand_is_the_last_rung() {
        let pools: Vec<_> = good().ladder(&good().subnet, None).iter().map(ToString::to_string).collect();
        assert_eq!(pools, ["m6i.large spot", "m5.large spot", "m6i.large on-demand", "m5.large on-demand"]);
    }
}
