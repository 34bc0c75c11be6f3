//! An image's properties for the instances launched from it, and the zones a node may live in.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::SubnetId;
use crate::model::volume::MappedVolume;

/// The properties of instances launched from an image; carried over when an image is registered from a root
/// snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFacts {
    /// `x86_64`, `arm64`…
    pub architecture: String,
    /// The device name of the root.
    pub root_device: String,
    /// `legacy-bios`, `uefi`, `uefi-preferred`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<String>,
    /// Enhanced networking.
    pub ena_support: bool,
    /// `v2.0` with a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm_support: Option<String>,
    /// `v2.0` when instances require IMDSv2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imds_support: Option<String>,
    /// Set for Windows and some licensed systems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The EBS volumes it maps beside its root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mapped: Vec<MappedVolume>,
}

/// The node's zone and the image it boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The availability zone of the subnet the node lives in.
    pub zone: String,
    /// The zones of the other subnets it may live in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other_zones: BTreeMap<SubnetId, String>,
    /// The properties of the node's image.
    pub image: ImageFacts,
}

impl ImageFacts {
    /// The differences between an image and the requested one, in words.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let pairs = [
            ("architecture", self.architecture.clone(), found.architecture.clone()),
            ("root device", self.root_device.clone(), found.root_device.clone()),
            ("boot mode", said(&self.boot_mode), said(&found.boot_mode)),
            ("ENA", self.ena_support.to_string(), found.ena_support.to_string()),
            ("TPM", said(&self.tpm_support), said(&found.tpm_support)),
            ("IMDS", said(&self.imds_support), said(&found.imds_support)),
            ("platform", said(&self.platform), said(&found.platform)),
        ];
        let differs = pairs.into_iter().filter(|(_, asked, found)| asked != found);
        differs.map(|(what, asked, found)| format!("{what} {found} instead of {asked}")).collect()
    }
}

impl Placement {
    /// The same after a move from one subnet to another.
    #[must_use]
    pub fn moved(&self, from: &SubnetId, to: &SubnetId) -> Self {
        let mut moved = self.clone();
        if let Some(zone) = moved.other_zones.remove(to) {
            moved.other_zones.insert(from.clone(), std::mem::replace(&mut moved.zone, zone));
        }
        moved
    }
}
