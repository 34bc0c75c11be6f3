//! The serialised form of a world, where deriving it does not do: the port's types, maps whose keys are no
//! texts, chance.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use perennial_workers::port::{
    AttachmentState, ImageState, ImageTraits, RootTaskState, SnapshotState, VolumeState,
};

#[derive(Serialize, Deserialize)]
#[serde(remote = "VolumeState")]
pub(super) enum VolumeStateForm {
    Creating,
    Available,
    InUse,
    Deleting,
    Deleted,
    Error,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AttachmentState")]
pub(super) enum AttachmentStateForm {
    Attaching,
    Attached,
    Detaching,
    Busy,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SnapshotState")]
pub(super) enum SnapshotStateForm {
    Pending,
    Completed,
    Error,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ImageState")]
pub(super) enum ImageStateForm {
    Pending,
    Available,
    Failed,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "RootTaskState")]
pub(super) enum RootTaskStateForm {
    InProgress,
    Succeeded,
    Failed,
    FailedDetached,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ImageTraits")]
pub(super) struct ImageTraitsForm {
    architecture: String,
    root_device: String,
    boot_mode: Option<String>,
    ena_support: bool,
    tpm_support: Option<String>,
    imds_support: Option<String>,
    platform: Option<String>,
}

/// A map as a list of its entries.
pub(super) mod pairs {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Where a sequence of chance stands.
pub(crate) mod seeded {
    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(rng: &fastrand::Rng, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(rng.get_seed())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<fastrand::Rng, D::Error> {
        u64::deserialize(deserializer).map(fastrand::Rng::with_seed)
    }
}
