//! The node file: the desired state of a node.
//!
//! A file is YAML or JSON. The check is strict: an unknown field is an error and is not ignored.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{AllocationId, GroupId, ImageId, SnapshotId, SubnetId, VolumeId};
use crate::model::capacity::{CapacityPool, MarketPolicy, markets};
use crate::model::launch_template::LaunchTemplate;
use crate::model::metadata::MetadataOptions;
use crate::model::name::NodeName;
use crate::model::requirements::{CapacityOrder, Requirements};
use crate::model::resources::Resources;
use crate::model::volume::Slot;
use crate::spec::backup::BackupSpec;
use crate::spec::error::SpecError;
use crate::spec::signals::SignalsSpec;
use crate::spec::windows::MaintenanceWindow;

/// The shortest time between two moves of a healthy node, in minutes, if the file does not say. EC2 once
/// billed at least an hour, and an hour is long compared with a shortage that comes and goes.
pub const MIN_LIFETIME_MIN: u32 = 60;

/// The largest `capacity.min_lifetime_min`: a month. A longer time has the effect of `never`.
pub const MIN_LIFETIME_MIN_MAX: u32 = 31 * 24 * 60;

/// The treatment of volumes that others attached to the node's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttachedVolumes {
    /// They become the node's and move with it like its own volumes. A volume that is detached by hand is
    /// given back.
    #[default]
    Keep,
    /// Perennial does not touch them. They are no longer attached when the instance is gone.
    Ignore,
}

impl AttachedVolumes {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
    pub(crate) const fn is_default(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

/// The reaction to a root volume that does not exist any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootLoss {
    /// The root is restored from the newest complete backup, if there is one. Writes after that backup are
    /// lost.
    #[default]
    NewestBackup,
    /// The workflow is stuck until a person decides.
    Stuck,
}

impl Resources {
    /// Whether a data volume is known to be smaller than its size in the spec.
    #[must_use]
    pub fn is_smaller_than(&self, spec: &NodeSpec) -> bool {
        self.carrier.is_some()
            && spec.data_volumes.iter().any(|wanted| {
                let held = self.volumes.get(&Slot::Data(wanted.name.clone()));
                held.and_then(|held| held.size_gib).is_some_and(|size_gib| size_gib < wanted.size_gib)
            })
    }
}

/// The most data volumes. EC2 attaches at most 27 EBS volumes to most Nitro types (EC2 User Guide, instance
/// volume limits); one of them is the root.
pub const DATA_VOLUMES_MAX: usize = 26;

/// The most instance types. A longer ladder only delays the on-demand rung. AWS recommends ten types for
/// spot.
pub const INSTANCE_TYPES_MAX: usize = 40;

/// The most further subnets. More subnets than a region has zones are of no use.
pub const OTHER_SUBNETS_MAX: usize = 8;

/// The longest wait for spot, in seconds: a week. A node that can wait longer can wait without end
/// (`market: spot_only`).
pub const ON_DEMAND_AFTER_S_MAX: u32 = 7 * 24 * 3600;

/// EC2's limit on user data before encoding (EC2 User Guide).
pub const USER_DATA_BYTES_MAX: usize = 16 * 1024;

/// The most tags of a file. EC2 allows 50; the tags of Perennial need some of them.
pub const TAGS_MAX: usize = 40;

/// The format of a node file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeSchema {
    /// The first one.
    #[serde(rename = "perennial.node/v1")]
    V1,
}

/// The desired state of a node: the content of a node file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// The format of this file.
    pub schema: NodeSchema,
    /// The node's name. It never changes.
    pub name: NodeName,
    /// The image that the first root is made from. With `persist.root: adopt` it also boots the temporary
    /// root of each replacement. Therefore it must be inert: no workload of its own, no enrolment under the
    /// node's identity.
    pub image: ImageId,
    /// The subnet. It determines the availability zone that the node lives in at first.
    pub subnet: SubnetId,
    /// The security groups of every interface that Perennial creates. An empty list means the VPC's default
    /// group. After a change, a kept interface gets the groups with the next operation.
    #[serde(default)]
    pub security_groups: Vec<GroupId>,
    /// The sources of capacity.
    pub capacity: CapacitySpec,
    /// The resources that persist over an interruption, and the methods.
    #[serde(default)]
    pub persist: PersistSpec,
    /// Further settings of the network; `persist.network` has the kind of the private address.
    #[serde(default, skip_serializing_if = "NetworkSpec::is_default")]
    pub network: NetworkSpec,
    /// The root volume.
    #[serde(default)]
    pub root: RootSpec,
    /// The data volumes.
    #[serde(default)]
    pub data_volumes: Vec<DataVolumeSpec>,
    /// The first private address; without it the subnet chooses one. This address persists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<Ipv4Addr>,
    /// The key pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// The name of the IAM instance profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_profile: Option<String>,
    /// User data as text, at most 16 KiB. Perennial encodes it. It runs at the first boot of each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Backups of the running node. Without this section no backup is taken on a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
    /// When a healthy node may be moved. None means at any time. See `capacity.return_to_spot`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// The reaction to signals, where the operator has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalsSpec>,
    /// The instance metadata service of each instance. By default every request to it needs a session token.
    #[serde(default, skip_serializing_if = "MetadataOptions::is_default")]
    pub metadata_options: MetadataOptions,
    /// A launch template, for what no other field says. What the file says, or Perennial must, stands above
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_template: Option<LaunchTemplate>,
    /// While it is `true`, no deletion of the node, no new root (`recycle --reimage`) and no restore over its
    /// present volumes is accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protect: bool,
    /// Further tags of every resource. Keys must not begin with `perennial:` or `aws:`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// The sources of capacity: a ladder of instance types, then the fallback of the market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CapacitySpec {
    /// The instance types in order of preference, all of the image's architecture. The list may be omitted if
    /// there are `requirements`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 40))]
    pub instance_types: Vec<String>,
    /// The requirements for further types. A survey at the beginning of each operation finds these types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// The order in which the pools of one market are asked. Without it, the order is that of
    /// `instance_types`, or by price if that list is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<CapacityOrder>,
    /// The markets, in their order.
    #[serde(default)]
    pub market: MarketPolicy,
    /// The highest price per hour on the spot market, as a decimal. None means the on-demand price. A pool
    /// that costs more at the moment is not asked. On-demand pools are not subject to this limit; to exclude
    /// them, say `market: spot_only`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_max: Option<String>,
    /// The limits on the use of the on-demand market.
    #[serde(default, skip_serializing_if = "OnDemandSpec::is_default")]
    pub on_demand: OnDemandSpec,
    /// Whether a node that runs on demand for want of spot capacity returns to spot.
    #[serde(default, skip_serializing_if = "ReturnToSpot::is_default")]
    pub return_to_spot: ReturnToSpot,
    /// The shortest time between two moves of a node that is not about to be lost, in minutes.
    #[serde(default = "min_lifetime_min", skip_serializing_if = "is_min_lifetime_min")]
    #[schemars(range(max = 44_640))]
    pub min_lifetime_min: u32,
    /// Further subnets. They are asked in this order if every pool of the node's present subnet is without
    /// capacity. In another zone the node continues with copies of its volumes, made from snapshots. In
    /// another subnet the private address ends; see `network.zone_change`.
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

/// Whether a node that runs on demand for want of spot capacity returns to spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReturnToSpot {
    /// It stays on demand until it is moved for another reason.
    #[default]
    Never,
    /// It returns when spot capacity has looked available for a while.
    WhenAvailable,
    /// It returns under the same condition, but only in its maintenance windows.
    Window,
}

impl ReturnToSpot {
    const fn is_default(&self) -> bool {
        matches!(self, Self::Never)
    }
}

/// The limits on the use of the on-demand market.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnDemandSpec {
    /// On-demand capacity is not asked for until so many seconds after an operation began. Until then the
    /// spot pools are asked repeatedly.
    #[serde(default)]
    #[schemars(range(max = 604_800))]
    pub after_s: u32,
    /// On-demand capacity is not asked for while so many other nodes of this installation are on demand.
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

/// The resources that persist over an interruption, and the methods.
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
    /// The treatment of volumes that others attached to the node's instance.
    #[serde(default, skip_serializing_if = "AttachedVolumes::is_default")]
    pub attached_volumes: AttachedVolumes,
    /// The reaction to a root volume that does not exist any more. The default is `newest_backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_loss: Option<RootLoss>,
    /// The number of days after which retained volumes that the node no longer needs are deleted. Without it
    /// they are retained until the operator prunes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub retain_days: Option<u32>,
}

impl PersistSpec {
    /// The reaction to a root volume that does not exist any more.
    #[must_use]
    pub fn root_loss(&self) -> RootLoss {
        self.root_loss.unwrap_or_default()
    }
}

/// How the root volume persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RootMode {
    /// The same volume becomes the root of the new instance (CreateReplaceRootVolumeTask). If that fails, a
    /// clone of the volume becomes the root (CopyVolumes). If a clone is not possible, the root is
    /// transferred as with `image`, and the journal has the reason.
    #[default]
    Adopt,
    /// A snapshot of the old root is taken after the old instance has terminated, and is registered as the
    /// image of the new instance.
    Image,
    /// Each instance has a new root from the node's image.
    None,
}

/// How data volumes persist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataMode {
    /// The same volumes are attached again. In another zone, new volumes are made from final snapshots.
    #[default]
    Reattach,
    /// Each launch makes new volumes from final snapshots. The old volumes are retained.
    Snapshot,
}

/// How the private address persists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The primary interface moves, with the same address and the same MAC. The old instance must have
    /// terminated before the new one can be launched (break before make).
    PrimaryEni,
    /// A secondary private address moves from instance to instance. The new instance is launched first (make
    /// before break).
    #[default]
    SecondaryIp,
    /// A second interface moves from instance to instance, with its address and MAC. The new instance is
    /// launched first (make before break). The guest configures the interface; two interfaces in one subnet
    /// need routing rules.
    SecondaryEni,
    /// As `secondary_ip`, with an address of the pool that `network.ip_pool` names. In another subnet, the
    /// address comes from the pool that `network.ip_pools_elsewhere` names for it. The node keeps both
    /// addresses until its deletion.
    IpPool,
    /// Each instance has a new address.
    None,
}

/// Further settings of the network; `persist.network` has the kind of the private address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// An Elastic IP address of this account and region. It is associated with the node's private address on
    /// every instance that carries the node. Perennial never allocates or releases it. A change of this field
    /// takes effect with the next replacement. If the field is removed, the association stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elastic_ip: Option<AllocationId>,
    /// The pool of the node's address (`perennial pool apply`), with `persist.network: ip_pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_pool: Option<NodeName>,
    /// With `persist.network: ip_pool`, the pool for each of `capacity.other_subnets`, by subnet. The node
    /// has an address of each of its pools until its deletion. Therefore a move never waits for an address,
    /// and the address in each subnet is known beforehand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ip_pools_elsewhere: BTreeMap<SubnetId, NodeName>,
    /// Whether the node may move to another subnet or zone, although its private address ends with the move.
    #[serde(default, skip_serializing_if = "ZoneChange::is_default")]
    pub zone_change: ZoneChange,
}

/// Whether the node may move to another subnet or zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZoneChange {
    /// It waits for capacity in its present subnet.
    #[default]
    Forbid,
    /// It moves. Its private address ends, and it gets another one.
    Allow,
}

impl ZoneChange {
    const fn is_default(&self) -> bool {
        matches!(self, Self::Forbid)
    }
}

impl NetworkSpec {
    /// Whether every setting is the default.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When data volumes leave an old instance that still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// After the instance has terminated. Its operating system has unmounted them by then.
    #[default]
    Terminate,
    /// While the instance runs, once the new one is up. This is for nodes that unmount their volumes by
    /// themselves at the interruption notice. A volume that is still in use is not detached by force; it
    /// follows after termination.
    Detach,
}

/// The root volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// The size, at least that of the image. None means the size of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// The volume type, such as `gp3`. None means that of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["gp3", "gp2", "io1", "io2", "st1", "sc1", "standard", null]))]
    pub volume_type: Option<String>,
    /// The IOPS, for gp3, io1 and io2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// The throughput in MiB/s, for gp3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Whether the volume is encrypted, with the account's EBS key or with `kms_key`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// A customer managed key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
}

/// One data volume. It is created with the node and kept through every replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataVolumeSpec {
    /// Its name within the node.
    pub name: NodeName,
    /// The device name of the attachment, such as `/dev/sdf`. Without it the volume gets a free name and
    /// keeps that name. If an instance already uses the name, even one given here, the volume gets another
    /// name, which is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^/dev/(sd[b-z]|xvd[b-z][a-z]?)$"))]
    pub device: Option<String>,
    /// Its size. If the size of a registered node's volume is raised, the volume grows while the node runs.
    /// The guest must grow the file system.
    #[schemars(range(min = 1, max = 65536))]
    pub size_gib: u32,
    /// Its type.
    #[serde(default = "gp3")]
    #[schemars(extend("enum" = ["gp3", "gp2", "io1", "io2", "st1", "sc1", "standard"]))]
    pub volume_type: String,
    /// The IOPS, for gp3, io1 and io2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// The throughput in MiB/s, for gp3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Whether the volume is encrypted, with the account's EBS key or with `kms_key`.
    #[serde(default)]
    pub encrypted: bool,
    /// A customer managed key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    /// The snapshot that the first volume is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// An existing volume instead of a new one. It must be free, in the node's zone, for one instance at a
    /// time (no Multi-Attach), and at least `size_gib` large. No deletion of the node deletes it. In another
    /// zone the node continues with a copy of it, and does not return to the original volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
}

fn gp3() -> String {
    "gp3".to_owned()
}

impl NodeSpec {
    /// The metadata options that a launch says; none where a launch template may, and the file does not.
    #[must_use]
    pub fn launch_metadata(&self) -> Option<MetadataOptions> {
        let is_left = self.launch_template.is_some() && self.metadata_options.is_default();
        (!is_left).then_some(self.metadata_options)
    }

    /// The field that differs from another file although it is fixed for the whole duration of an operation.
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

    /// Whether this file raises the size of a data volume.
    #[must_use]
    pub fn is_larger_than(&self, old: &Self) -> bool {
        self.data_volumes
            .iter()
            .any(|new| old.data_volumes.iter().any(|old| old.name == new.name && old.size_gib < new.size_gib))
    }

    /// The pool of the node's address in its own subnet.
    #[must_use]
    pub fn pool(&self) -> Option<&NodeName> {
        self.network.ip_pool.as_ref().filter(|_| self.persist.network == NetworkMode::IpPool)
    }

    /// Every pool in which the node has an address, with its subnet. The node's own subnet is the first.
    pub fn ip_pools(&self) -> impl Iterator<Item = (&SubnetId, &NodeName)> {
        let elsewhere = self.network.ip_pools_elsewhere.iter().filter(|_| self.pool().is_some());
        self.pool().map(|pool| (&self.subnet, pool)).into_iter().chain(elsewhere)
    }

    /// The pool for a subnet that the node may live in.
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

    /// Whether the zones and the image that were looked up for one file hold for the other.
    #[must_use]
    pub fn lives_like(&self, other: &Self) -> bool {
        self.image == other.image && self.capacity.other_subnets == other.capacity.other_subnets
    }

    /// Whether both files ask for the same launches.
    #[must_use]
    pub fn launches_like(&self, other: &Self) -> bool {
        *self == self.with_launches_of(other)
    }

    /// This file, with what the other one says about launches: what a running operation takes of a file that
    /// is applied. The rest holds from the next operation on.
    #[must_use]
    pub fn with_launches_of(&self, other: &Self) -> Self {
        Self {
            image: other.image.clone(),
            security_groups: other.security_groups.clone(),
            capacity: other.capacity.clone(),
            network: NetworkSpec { zone_change: other.network.zone_change, ..self.network.clone() },
            key_name: other.key_name.clone(),
            instance_profile: other.instance_profile.clone(),
            user_data: other.user_data.clone(),
            root: other.root.clone(),
            metadata_options: other.metadata_options,
            launch_template: other.launch_template.clone(),
            ..self.clone()
        }
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
        metadata_options: MetadataOptions::default(),
        launch_template: None,
        protect: false,
        tags: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::resources::HeldVolume;
    use crate::spec::checks::Present;

    fn good() -> NodeSpec {
        example("db-1", NetworkMode::SecondaryIp, RootMode::Adopt)
    }

    /// A launch that EC2 refuses for any of these is asked for again as a corrected file says.
    #[test]
    fn what_a_launch_says_reaches_the_operation_under_way() {
        let changes: [fn(&mut NodeSpec); 10] = [
            |spec| spec.image = ImageId::parse("ami-another").unwrap(),
            |spec| spec.security_groups.push(GroupId::parse("sg-another").unwrap()),
            |spec| spec.capacity.price_max = Some("1".into()),
            |spec| spec.root.kms_key = Some("another".into()),
            |spec| spec.root.volume_type = Some("gp2".into()),
            |spec| spec.key_name = Some("another".into()),
            |spec| spec.instance_profile = Some("another".into()),
            |spec| spec.user_data = Some("another".into()),
            |spec| spec.metadata_options.hop_limit = Some(7),
            |spec| {
                spec.launch_template = serde_json::from_str(r#"{"id": "lt-1", "version": 1}"#).unwrap();
            },
        ];
        for (place, change) in changes.into_iter().enumerate() {
            let mut changed = good();
            change(&mut changed);
            assert!(!changed.launches_like(&good()), "change {place}");
            assert_eq!(good().with_launches_of(&changed), changed, "change {place}");
        }
        let mut other = good();
        other.protect = true;
        assert!(other.launches_like(&good()));
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
    fn the_speed_of_a_volume_and_the_metadata_options_are_within_ec2s_limits() {
        check(|s| s.data_volumes[0].volume_type = "ssd".into(), "data_volumes[0].volume_type");
        check(|s| s.data_volumes[0].iops = Some(100), "data_volumes[0].iops");
        check(|s| s.data_volumes[0].throughput = Some(5_000), "data_volumes[0].throughput");
        check(|s| s.root.iops = Some(4_000), "root.volume_type");
        check(|s| s.root.kms_key = Some("k".into()), "root.kms_key");
        check(|s| s.metadata_options.hop_limit = Some(65), "metadata_options.hop_limit");
        check(
            |s| s.launch_template = serde_json::from_str(r#"{"id": "lt-1", "version": 0}"#).unwrap(),
            "launch_template.version",
        );
        let mut spec = good();
        spec.root.volume_type = Some("gp2".into());
        spec.root.throughput = Some(250);
        spec.data_volumes[0].size_gib = 0;
        let fields: Vec<String> = spec.check_all().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["data_volumes[0].size_gib", "root.throughput"], "all of them at once");
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
            assert_eq!(new.check_change_from(&old, &Present::default()).unwrap_err().field, field);
        };
        check(|s| s.subnet = SubnetId::parse("subnet-1").unwrap(), "subnet");
        check(|s| s.persist.network = NetworkMode::PrimaryEni, "persist.network");
        check(|s| s.data_volumes.clear(), "data_volumes");
        check(|s| s.data_volumes[0].size_gib = 9, "data_volumes.data.size_gib");
        check(|s| s.data_volumes[0].volume_type = "io2".into(), "data_volumes");
        let mut other = old.clone();
        other.image = ImageId::parse("ami-1").unwrap();
        other.check_change_from(&old, &Present::default()).unwrap();
        let remark = other.remark_on_change_from(&old).expect("it does not change the root");
        assert!(remark.contains("--reimage ami-1"), "{remark}");
        let mut larger = old.clone();
        larger.data_volumes[0].size_gib = 20;
        larger.check_change_from(&old, &Present::default()).unwrap();
        let mut types = old.clone();
        types.capacity.instance_types.push("c5.large".into());
        types.check_change_from(&old, &Present::default()).unwrap();
    }

    #[test]
    fn what_never_took_effect_can_be_taken_back() {
        let mut good = good();
        good.persist.network = NetworkMode::PrimaryEni;
        let mut wrong = good.clone();
        wrong.security_groups = vec![GroupId::parse("sg-1").unwrap()];
        let mut added = good.data_volumes[0].clone();
        added.name = NodeName::parse("logs").unwrap();
        wrong.data_volumes.push(added);
        wrong.data_volumes[0].size_gib = 99_999;
        let volume = VolumeId::parse("vol-1").unwrap();
        let held = |size_gib| HeldVolume {
            volume: volume.clone(),
            device: "/dev/sdf".to_owned(),
            size_gib,
            zone: None,
            made_from: None,
            found: None,
        };
        let data =
            |size_gib| BTreeMap::from([(Slot::Data(NodeName::parse("data").unwrap()), held(size_gib))]);
        let volumes = data(Some(good.data_volumes[0].size_gib));
        let field =
            |present: Present<'_>| good.check_change_from(&wrong, &present).map_err(|wrong| wrong.field);
        assert_eq!(field(Present { good: Some(&good), volumes: Some(&volumes) }), Ok(()));
        assert!(good.remark_on_change_from(&wrong).is_some(), "the interface may have them");
        // What took effect cannot.
        let err = |field: &str| Err(field.to_owned());
        assert_eq!(field(Present { good: Some(&wrong), volumes: Some(&volumes) }), err("security_groups"));
        let grown = data(Some(99_999));
        let present = Present { good: Some(&good), volumes: Some(&grown) };
        assert_eq!(field(present), err("data_volumes.data.size_gib"));
        let logs = BTreeMap::from([(Slot::Data(NodeName::parse("logs").unwrap()), held(None))]);
        let both = volumes.into_iter().chain(logs).collect();
        assert_eq!(field(Present { good: Some(&good), volumes: Some(&both) }), err("data_volumes"));
        // An operation may be making it now.
        let open = Present { good: Some(&good), volumes: None };
        assert_eq!(field(open), err("data_volumes.data.size_gib"));
    }

    #[test]
    fn on_demand_is_the_last_rung() {
        let pools: Vec<_> = good().ladder(&good().subnet, None).iter().map(ToString::to_string).collect();
        assert_eq!(pools, ["m6i.large spot", "m5.large spot", "m6i.large on-demand", "m5.large on-demand"]);
    }
}
