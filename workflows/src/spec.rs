//! The node file: what a node is meant to be.
//!
//! A file is YAML or JSON, checked strictly: an unknown field is an error, not a silent no-op.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{AllocationId, GroupId, ImageId, Market, SnapshotId, SubnetId, VolumeId};
use crate::backup::BackupSpec;
use crate::capacity::{self, MIN_LIFETIME_MIN};
use crate::found::FoundVolumes;
use crate::loss::{self, RootLoss};
use crate::pool;
use crate::requirements::{CapacityOrder, Requirements};
use crate::signal::SignalsSpec;
use crate::survey::{Kept, markets};
use crate::windows::MaintenanceWindow;

/// The longest node name. Names stand in tags, image names (128 characters) and stream names.
pub const NODE_NAME_MAX: usize = 63;
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

/// The durable name of a node: lower-case letters, digits and dashes, starting with a letter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(#[schemars(regex(pattern = "^[a-z][a-z0-9-]*$"), length(max = 63))] String);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name: use lower-case letters, digits and dashes, start with a letter, at most {NODE_NAME_MAX} characters"
)]
pub struct BadName {
    text: String,
}

impl NodeName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let shaped = text.len() <= NODE_NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if shaped {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadName { text: text.chars().take(80).collect() })
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
    fn check_on_demand(&self) -> Result<(), SpecError> {
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

/// Which markets, in which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarketPolicy {
    /// Spot only: without spot capacity the node waits.
    SpotOnly,
    /// Every type on the spot market first, then every type on demand.
    #[default]
    SpotThenOnDemand,
    /// On demand only.
    OnDemandOnly,
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
    #[serde(default, skip_serializing_if = "FoundVolumes::is_default")]
    pub found_volumes: FoundVolumes,
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

/// One thing that is wrong with a node file whose form is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct SpecError {
    /// Where, such as `data_volumes[1].device`.
    pub field: String,
    /// What is wrong and what to do.
    pub why: String,
}

impl NodeSpec {
    /// Checks what the form alone cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SpecError> {
        let wrong = |field: &str, why: String| Err(SpecError { field: field.to_owned(), why });
        let types = &self.capacity.instance_types;
        if types.is_empty() && self.capacity.requirements.is_none() || types.len() > INSTANCE_TYPES_MAX {
            return wrong(
                "capacity.instance_types",
                format!(
                    "name between 1 and {INSTANCE_TYPES_MAX} types, or say in `capacity.requirements` what they must be like"
                ),
            );
        }
        for (i, name) in types.iter().enumerate() {
            let shaped = name.len() <= 32
                && name.split_once('.').is_some_and(|(family, size)| !family.is_empty() && !size.is_empty())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-');
            if !shaped {
                return wrong(
                    &format!("capacity.instance_types[{i}]"),
                    format!("{name:?} is not an instance type such as \"m6i.large\""),
                );
            }
            if types[..i].contains(name) {
                return wrong(&format!("capacity.instance_types[{i}]"), format!("{name} stands there twice"));
            }
        }
        if let Some(price) = &self.capacity.price_max
            && !price.parse::<f64>().is_ok_and(|price| price > 0.0 && price.is_finite())
        {
            return wrong(
                "capacity.price_max",
                format!("{price:?} is not a price per hour such as \"0.12\""),
            );
        }
        self.capacity.check_on_demand()?;
        self.capacity.check_requirements()?;
        capacity::check_moves(self)?;
        let others = &self.capacity.other_subnets;
        if others.len() > OTHER_SUBNETS_MAX {
            return wrong("capacity.other_subnets", format!("at most {OTHER_SUBNETS_MAX}"));
        }
        for (i, other) in others.iter().enumerate() {
            if *other == self.subnet || others[..i].contains(other) {
                return wrong(
                    &format!("capacity.other_subnets[{i}]"),
                    format!("{other} is named already; remove it"),
                );
            }
        }
        if !others.is_empty()
            && self.network.zone_change == ZoneChange::Forbid
            && self.persist.network != NetworkMode::None
        {
            return wrong(
                "capacity.other_subnets",
                "the private address ends in another subnet; say `network.zone_change: allow`, or remove the subnets"
                    .into(),
            );
        }
        pool::check(self)?;
        if let Some(backup) = &self.backup {
            if let Err((field, why)) = backup.check() {
                return wrong(field, why);
            }
            if self.persist.root == RootMode::None && self.data_volumes.is_empty() {
                return wrong(
                    "backup",
                    "the node keeps no volume, so there is nothing to back up; remove the section, or keep a volume"
                        .into(),
                );
            }
        }
        if self.data_volumes.len() > DATA_VOLUMES_MAX {
            return wrong("data_volumes", format!("at most {DATA_VOLUMES_MAX} fit an instance"));
        }
        let (mut names, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for (i, volume) in self.data_volumes.iter().enumerate() {
            if volume.name.as_str() == "root" || !names.insert(&volume.name) {
                return wrong(
                    &format!("data_volumes[{i}].name"),
                    format!(
                        "{:?} is taken; give each data volume its own name (and none `root`)",
                        volume.name
                    ),
                );
            }
            if let Some(device) = &volume.device {
                if !is_data_device(device) {
                    return wrong(
                        &format!("data_volumes[{i}].device"),
                        format!(
                            "{device:?} is not a data device name: use /dev/sdf to /dev/sdp, or /dev/xvdba to /dev/xvddx"
                        ),
                    );
                }
                if !devices.insert(canonical_device(device)) {
                    return wrong(
                        &format!("data_volumes[{i}].device"),
                        format!("{device} names the same device as another volume (sd and xvd are one)"),
                    );
                }
            }
            if volume.size_gib == 0 || volume.size_gib > 65_536 {
                return wrong(&format!("data_volumes[{i}].size_gib"), "must be between 1 and 65536".into());
            }
            if volume.kms_key.is_some() && !volume.encrypted {
                return wrong(&format!("data_volumes[{i}].kms_key"), "needs `encrypted: true`".into());
            }
        }
        crate::taken::check(self)?;
        crate::prune::check(self)?;
        if let Err((field, why)) = loss::check(self) {
            return wrong(field, why);
        }
        if let Some(user_data) = &self.user_data
            && user_data.len() > USER_DATA_BYTES_MAX
        {
            return wrong(
                "user_data",
                format!("{} bytes; EC2 takes at most {USER_DATA_BYTES_MAX}", user_data.len()),
            );
        }
        if self.persist.data == DataMode::Snapshot && self.persist.handover == Handover::Detach {
            return wrong(
                "persist.handover",
                "`detach` has no effect with `persist.data: snapshot`, whose launch waits for the snapshots; use `terminate`"
                    .into(),
            );
        }
        if self.private_ip.is_some() && self.persist.network == NetworkMode::None {
            return wrong(
                "private_ip",
                "is not kept with `persist.network: none`; remove one of the two".into(),
            );
        }
        if self.tags.len() > TAGS_MAX {
            return wrong("tags", format!("{} tags; at most {TAGS_MAX}", self.tags.len()));
        }
        for (key, value) in &self.tags {
            if key.starts_with("perennial:") || key.starts_with("aws:") {
                return wrong("tags", format!("{key:?} is reserved; choose another prefix"));
            }
            if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
                return wrong("tags", format!("{key:?}: a key has 1 to 128 characters, a value at most 256"));
            }
        }
        Ok(())
    }

    /// Checks that a registered node may become this.
    ///
    /// # Errors
    /// The first change that a later replacement could not carry out without losing state.
    pub fn check_change_from(&self, old: &Self) -> Result<(), SpecError> {
        let wrong = |field: &str, why: &str| Err(SpecError { field: field.to_owned(), why: why.to_owned() });
        if self.subnet != old.subnet {
            return wrong(
                "subnet",
                "it says where the node lived at first; name further ones in `capacity.other_subnets`, or register a new node",
            );
        }
        if self.image != old.image && old.persist.root != RootMode::None {
            return wrong(
                "image",
                "the root volume is kept, so a new image would have no effect by itself: `perennial node recycle NODE --reimage IMAGE` makes a new root from it and ends the present one's content",
            );
        }
        if self.persist.root != old.persist.root && old.persist.root == RootMode::None {
            return wrong(
                "persist.root",
                "the present root was launched as one that is not kept; register a new node instead",
            );
        }
        if self.persist.network != old.persist.network {
            return wrong(
                "persist.network",
                "the kind of address cannot change on a registered node; register a new node instead",
            );
        }
        if self.network.ip_pool != old.network.ip_pool {
            return wrong(
                "network.ip_pool",
                "the node has an address of its pool; register a new node for another one",
            );
        }
        if self.keeps_interface() && self.security_groups.is_empty() && !old.security_groups.is_empty() {
            return wrong(
                "security_groups",
                "the interface is kept and would keep the groups it has; name those it is to have",
            );
        }
        if self.private_ip.is_some() && self.private_ip != old.private_ip {
            return wrong(
                "private_ip",
                "the node keeps the address it has; remove the field or give the present one",
            );
        }
        for volume in &old.data_volumes {
            match self.data_volumes.iter().find(|new| new.name == volume.name) {
                None => {
                    return wrong(
                        "data_volumes",
                        "a registered data volume cannot be removed; delete the node with the data kept instead",
                    );
                }
                Some(new) if new.size_gib < volume.size_gib => {
                    return Err(SpecError {
                        field: format!("data_volumes.{}.size_gib", volume.name),
                        why: format!(
                            "a volume can only grow; it has {} GiB. For a smaller one add another volume and move the data",
                            volume.size_gib
                        ),
                    });
                }
                Some(new) if DataVolumeSpec { size_gib: volume.size_gib, ..new.clone() } != *volume => {
                    return wrong(
                        "data_volumes",
                        "a registered data volume can grow, and nothing else; add another volume instead",
                    );
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

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

    /// The pools to try, in order: those of the survey the node goes by, if the file asks for one; otherwise every pool of the
    /// subnet the node lives in, then those of each other subnet, by the file's list.
    #[must_use]
    pub fn ladder(&self, present: &SubnetId, survey: Option<&Kept>) -> Vec<Pool> {
        if let Some(kept) = survey.filter(|kept| kept.answers(self, present)) {
            return kept.pools(self, present);
        }
        let mut pools = self.rungs(None);
        for subnet in self.subnets().filter(|subnet| *subnet != present) {
            pools.extend(self.rungs(Some(subnet)));
        }
        pools
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

    fn rungs(&self, subnet: Option<&SubnetId>) -> Vec<Pool> {
        let rungs = |market| {
            self.capacity.instance_types.iter().map(move |name| Pool {
                instance_type: name.clone(),
                market,
                subnet: subnet.cloned(),
            })
        };
        markets(self.capacity.market).iter().copied().flat_map(rungs).collect()
    }
}

/// One rung of the capacity ladder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Such as `m6i.large`.
    pub instance_type: String,
    /// Spot or on-demand.
    pub market: Market,
    /// Where, if not in the subnet the node lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<SubnetId>,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instance_type, self.market)?;
        match &self.subnet {
            Some(subnet) => write!(f, " in {subnet}"),
            None => Ok(()),
        }
    }
}

/// `/dev/sdf` and `/dev/xvdf` are the same device to the guest.
pub(crate) fn canonical_device(device: &str) -> &str {
    device.strip_prefix("/dev/xvd").or_else(|| device.strip_prefix("/dev/sd")).unwrap_or(device)
}

fn is_data_device(device: &str) -> bool {
    match (device.strip_prefix("/dev/xvd"), device.strip_prefix("/dev/sd")) {
        (Some(tail), _) => match tail.as_bytes() {
            [c] => (b'b'..=b'z').contains(c),
            [a, b] => (b'b'..=b'd').contains(a) && b.is_ascii_lowercase(),
            _ => false,
        },
        (None, Some(tail)) => matches!(tail.as_bytes(), [c] if (b'b'..=b'z').contains(c)),
        (None, None) => false,
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
            found_volumes: FoundVolumes::Keep,
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

    #[test]
    fn every_wrong_value_is_named_with_its_field() {
        let check = |change: fn(&mut NodeSpec), field: &str| {
            let mut spec = good();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().field, field);
        };
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
