//! A volume's place in a node, and the properties of volumes that are attached to an instance.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{SnapshotId, VolumeId};
use crate::model::name::NodeName;

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TakenSnapshot {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The volume.
    pub volume: VolumeId,
    /// The volume's size, if it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
}

/// How many unmanaged volumes are listed; an instance holds no more volumes than these and its own.
pub const UNMANAGED_VOLUMES_MAX: usize = 64;

/// The properties of a found volume, which a copy of it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Such as `gp3`.
    pub volume_type: String,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Whether it was made for the node, as a copy or as the image maps it: it is the node's own, and a
    /// deletion may delete it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_copy: bool,
    /// The snapshot it was first made from, if the image maps it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Whether the file named it or its original (`data_volumes[].volume`); it was not found on the instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

/// An EBS volume that an image maps beside its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MappedVolume {
    /// Under this device name.
    pub device: String,
    /// From this snapshot; none: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotId>,
    /// Its size.
    pub size_gib: u32,
    /// Such as `gp3`.
    pub volume_type: String,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
}

impl Found {
    /// The properties of a copy of it.
    pub(crate) fn copied(&self) -> Self {
        Self { is_copy: true, ..self.clone() }
    }
}

/// A look at the other volumes of an instance, beside those that are to be preserved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtherVolumes {}

/// A volume on an instance that can become the node's: DeleteOnTermination is false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiscoveredVolume {
    /// Its id.
    pub volume: VolumeId,
    /// Its device name.
    pub device: String,
    /// Its tag `Name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its size.
    pub size_gib: u32,
    /// The properties that a copy gets.
    pub traits: Found,
}

/// A volume on the node's instance that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnmanagedVolume {
    /// Its id.
    pub volume: VolumeId,
    /// Its device name.
    pub device: String,
    /// Why it is left alone.
    pub because: String,
}

/// A volume's place in a node: `root`, or the name of a data volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Slot {
    /// The root volume.
    Root,
    /// A data volume.
    Data(NodeName),
}

impl TryFrom<String> for Slot {
    type Error = crate::model::name::BadName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "root" { Ok(Self::Root) } else { NodeName::parse(&text).map(Self::Data) }
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.pad("root"),
            Self::Data(name) => f.pad(name.as_str()),
        }
    }
}

/// The tags of a created resource, sorted by key.
pub type TagMap = BTreeMap<String, String>;
