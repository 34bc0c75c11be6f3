//! The names of steps: the same for every attempt at the same thing. They stand in events, tags and client
//! tokens, and people read them.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{ImageId, InstanceId, InterfaceId, SnapshotId, VolumeId};
use crate::model::volume::Slot;

/// What a step is called: `launch`, `attach:data`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum StepName {
    /// Of a step that there is once.
    Only(Only),
    /// Of a step for each volume.
    OfVolume(OfVolume, Slot),
    /// The look at an instance before anything is taken from it.
    Preserve(InstanceId),
    /// The end of an instance.
    Fence(InstanceId),
    /// The deletion of a volume.
    DeleteVolume(VolumeId),
    /// The deletion of an interface.
    DeleteInterface(InterfaceId),
    /// The end of an image.
    DeregisterImage(ImageId),
    /// The deletion of a snapshot.
    DeleteSnapshot(SnapshotId),
    /// The deletion of a snapshot of a backup.
    Prune(SnapshotId),
    /// The search for what an attempt may have made, by the name of that.
    Find(String),
}

/// Declares names, and each with its text.
macro_rules! names {
    ($(#[$doc:meta])* $enum:ident { $($name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $(#[doc = concat!("`", $text, "`.")] $name,)*
        }

        impl $enum {
            /// Each of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|name| name.as_str() == text)
            }
        }
    };
}

names! {
    /// The steps that there are once.
    Only {
        Resolve = "resolve",
        Survey = "survey",
        CreateInterface = "create_interface",
        ReleaseInterface = "release_interface",
        SnapshotRoot = "snapshot_root",
        CloneRoot = "clone_root",
        RegisterImage = "register_image",
        Launch = "launch",
        Start = "start",
        AdoptRoot = "adopt_root",
        AttachInterface = "attach_interface",
        DetachInterface = "detach_interface",
        SetGroups = "set_groups",
        MoveAddress = "move_address",
        ReturnAddress = "return_address",
        AssociateElasticIp = "associate_elastic_ip",
        Verify = "verify",
        TakeBackup = "take_backup",
        AwaitBackup = "await_backup",
        FindBackup = "find_backup",
        // No steps, but what an operation can be stuck at: a pool without an address, and no rule that holds.
        TakeAddress = "take_address",
        Rules = "rules",
    }
}

names! {
    /// The steps for each volume.
    OfVolume {
        Create = "create_volume",
        Claim = "claim_volume",
        Detach = "detach",
        Release = "release",
        Snapshot = "snapshot",
        SnapshotAhead = "snapshot_ahead",
        FinalSnapshot = "final_snapshot",
        Attach = "attach",
        Grow = "grow",
    }
}

impl OfVolume {
    /// Its name for a volume.
    #[must_use]
    pub fn of(self, slot: &Slot) -> StepName {
        StepName::OfVolume(self, slot.clone())
    }
}

impl From<Only> for StepName {
    fn from(only: Only) -> Self {
        Self::Only(only)
    }
}

impl PartialEq<Only> for StepName {
    fn eq(&self, other: &Only) -> bool {
        matches!(self, Self::Only(only) if only == other)
    }
}

/// Why a text is no step's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no step")]
pub struct BadStepName {
    text: String,
}

impl StepName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`BadStepName`].
    pub fn parse(text: &str) -> Result<Self, BadStepName> {
        Self::read(text).ok_or_else(|| BadStepName { text: text.chars().take(80).collect() })
    }

    fn read(text: &str) -> Option<Self> {
        let Some((kind, of)) = text.split_once(':') else { return Only::parse(text).map(Self::Only) };
        Some(match kind {
            "preserve" => Self::Preserve(InstanceId::parse(of).ok()?),
            "fence" => Self::Fence(InstanceId::parse(of).ok()?),
            "delete_volume" => Self::DeleteVolume(VolumeId::parse(of).ok()?),
            "delete_interface" => Self::DeleteInterface(InterfaceId::parse(of).ok()?),
            "deregister_image" => Self::DeregisterImage(ImageId::parse(of).ok()?),
            "delete_snapshot" => Self::DeleteSnapshot(SnapshotId::parse(of).ok()?),
            "prune" => Self::Prune(SnapshotId::parse(of).ok()?),
            "find" => Self::Find(of.to_owned()),
            kind => Self::OfVolume(OfVolume::parse(kind)?, Slot::try_from(of.to_owned()).ok()?),
        })
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, of): (&str, &dyn fmt::Display) = match self {
            Self::Only(only) => return f.pad(only.as_str()),
            Self::OfVolume(kind, slot) => (kind.as_str(), slot),
            Self::Preserve(instance) => ("preserve", instance),
            Self::Fence(instance) => ("fence", instance),
            Self::DeleteVolume(volume) => ("delete_volume", volume),
            Self::DeleteInterface(interface) => ("delete_interface", interface),
            Self::DeregisterImage(image) => ("deregister_image", image),
            Self::DeleteSnapshot(snapshot) => ("delete_snapshot", snapshot),
            Self::Prune(snapshot) => ("prune", snapshot),
            Self::Find(what) => ("find", what),
        };
        f.pad(&format!("{kind}:{of}"))
    }
}

impl TryFrom<String> for StepName {
    type Error = BadStepName;

    fn try_from(text: String) -> Result<Self, BadStepName> {
        Self::parse(&text)
    }
}

impl From<StepName> for String {
    fn from(name: StepName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        let slots = [Slot::Root, Slot::try_from("logs".to_owned()).unwrap()];
        let of_volumes = OfVolume::ALL.iter().flat_map(|kind| slots.iter().map(|slot| kind.of(slot)));
        let others = [
            StepName::Preserve(InstanceId::parse("i-1").unwrap()),
            StepName::Fence(InstanceId::parse("i-1").unwrap()),
            StepName::DeleteVolume(VolumeId::parse("vol-1").unwrap()),
            StepName::DeleteInterface(InterfaceId::parse("eni-1").unwrap()),
            StepName::DeregisterImage(ImageId::parse("ami-1").unwrap()),
            StepName::DeleteSnapshot(SnapshotId::parse("snap-1").unwrap()),
            StepName::Prune(SnapshotId::parse("snap-1").unwrap()),
            StepName::Find("db-1.1/launch/1 volumes".into()),
        ];
        let only = Only::ALL.iter().copied().map(StepName::from);
        let all: Vec<StepName> = only.chain(of_volumes).chain(others).collect();
        for name in &all {
            assert_eq!(StepName::parse(&name.to_string()).as_ref(), Ok(name));
        }
        let texts: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), all.len(), "no two have one text");
    }

    #[test]
    fn what_names_no_step_is_refused() {
        for text in ["", "jump", "attach", "attach:", "launch:root", "fence:vol-1", "fence", "attach:Root!"] {
            assert!(StepName::parse(text).is_err(), "{text}");
        }
    }
}
