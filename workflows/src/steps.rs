//! The steps: what is intended, and what was observed.
//!
//! An intent is the whole request, made before the first call: a worker adds nothing to it. What makes the repeat of
//! each step safe:
//!
//! | step | call | its repeat is safe because of |
//! | --- | --- | --- |
//! | resolve, survey | describe only | nothing is changed |
//! | create_volume, create_interface, launch, adopt_root, clone_root | tokenised create | the client token in the intent |
//! | snapshot_root, snapshot, snapshot_ahead | CreateSnapshot | the tag `perennial:step`, looked for first |
//! | register_image | RegisterImage | the unique name |
//! | preserve | ModifyInstanceAttribute | it is a declarative set |
//! | fence | TerminateInstances | EC2 documents it as idempotent |
//! | detach | DetachVolume naming the old instance | it cannot hit a newer owner |
//! | attach | AttachVolume | EBS attaches a volume once; the volume is looked at first |
//! | detach_interface | DetachNetworkInterface naming the attachment | an attachment's id is never used again |
//! | attach_interface | AttachNetworkInterface | EC2 attaches an interface once; the interface is looked at first |
//! | set_groups | ModifyNetworkInterfaceAttribute | it is a declarative set; the interface is looked at first |
//! | move_address | AssignPrivateIpAddresses | the interface is looked at first, and who has the address; taking an own address changes nothing |
//! | associate_elastic_ip | AssociateAddress | EC2 documents it as idempotent; where it leads is looked at first, and it is taken only from an own interface |
//! | grow | ModifyVolume | the size is looked at first; a size that is reached is not asked for again |
//! | release | DetachVolume by force, from a terminated instance that it hangs on | it names that instance, and cannot hit a newer owner |
//! | take_volume, release_interface, return_address, start, verify, find | describe only | nothing is changed |
//! | delete_volume, delete_interface, deregister_image, delete_snapshot | by id | "not found" is "done" |
//!
//! The steps of backups stand in [`backup`](crate::backup).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aws::{
    AllocationId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, RootTaskId, SnapshotId,
    SpotRequestId, SubnetId, VolumeId,
};
use crate::backup::{BackupEvidence, BackupIntent};
use crate::found::{Found, FoundVolume, MappedVolume, OtherVolumes, Stranger};
use crate::node::{Made, Thing};
use crate::prune::Succession;
use crate::spec::{NodeName, Pool};
use crate::survey::{PATIENCE_MS, Question, Rank, Survey};
use crate::uefi::UefiVariables;

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
    type Error = crate::spec::BadName;
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

/// What machines launched from an image are like; carried over when an image is registered from a root snapshot.
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

/// Where a node lives and what it boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// The availability zone of the subnet the node lives in.
    pub zone: String,
    /// The zones of the other subnets it may live in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub other_zones: BTreeMap<SubnetId, String>,
    /// Of the node's image.
    pub image: ImageFacts,
}

impl ImageFacts {
    /// Where an image differs from what was asked for, in words.
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

/// The primary interface of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LaunchInterface {
    /// The node's own one, which must be free.
    Kept(InterfaceId),
    /// A new one that dies with the instance.
    New {
        /// In this subnet.
        subnet: SubnetId,
        /// With these groups.
        groups: Vec<GroupId>,
    },
}

/// A data volume in a launch request: made from a snapshot, and kept when the instance ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchVolume {
    /// Whose.
    pub slot: Slot,
    /// Under this device name.
    pub device: String,
    /// From this snapshot.
    pub snapshot: SnapshotId,
    /// Its size, if it is to differ from the snapshot's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Such as `gp3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// Provisioned IOPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// With this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
}

/// The whole request of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Looks up the subnet's zone and the image's traits.
    Resolve {
        /// The node's subnet.
        subnet: SubnetId,
        /// The node's image.
        image: ImageId,
        /// The other subnets it may live in.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<SubnetId>,
    },
    /// Looks which pools there are, and what they cost.
    Survey(Question),
    /// Creates a data volume.
    CreateVolume {
        /// Whose.
        slot: Slot,
        /// Sent as it stands.
        client_token: String,
        /// Where.
        zone: String,
        /// How large.
        size_gib: u32,
        /// Such as `gp3`.
        volume_type: String,
        /// Provisioned IOPS.
        iops: Option<u32>,
        /// In MiB/s.
        throughput: Option<u32>,
        /// Encrypted.
        encrypted: bool,
        /// With this key.
        kms_key: Option<String>,
        /// From this snapshot.
        snapshot: Option<SnapshotId>,
        /// At creation.
        tags: TagMap,
    },
    /// Sees that an existing volume can be the node's.
    TakeVolume {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// Where it must be.
        zone: String,
        /// How large it must be at least.
        size_gib: u32,
        /// The tags of the node's own things.
        own: TagMap,
    },
    /// Creates the node's own interface.
    CreateInterface {
        /// Sent as it stands.
        client_token: String,
        /// Where.
        subnet: SubnetId,
        /// With these groups.
        groups: Vec<GroupId>,
        /// With this address.
        private_ip: Option<Ipv4Addr>,
        /// At creation.
        tags: TagMap,
    },
    /// Sets DeleteOnTermination=false for volumes (and an interface) of an instance, and sees it set.
    Preserve {
        /// Which instance.
        instance: InstanceId,
        /// Which volumes; those not attached to it are passed over.
        volumes: Vec<VolumeId>,
        /// The node's own interface.
        interface: Option<InterfaceId>,
        /// The instance's primary interface, which has the node's address and keeps it until it moves on; where that cannot be, it
        /// is gone without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keeping: Option<InterfaceId>,
        /// Whether the other volumes on it are looked at, and those that can become the node's are preserved as well.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        others: Option<OtherVolumes>,
        /// Whether its UEFI variables are read: they are the instance's, and end with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        uefi: bool,
    },
    /// Detaches a data volume from an instance that still runs, without force.
    Detach {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// From which instance.
        instance: InstanceId,
    },
    /// Cancels a persistent spot request, terminates the instance and sees it terminated, twice.
    Fence {
        /// Which instance.
        instance: InstanceId,
        /// Its spot request, if known.
        spot_request: Option<SpotRequestId>,
    },
    /// Sees a volume free, after its holder was seen terminated, twice.
    Release {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// Where it was.
        from: InstanceId,
    },
    /// Sees the node's interface free, after its holder was seen terminated, twice.
    ReleaseInterface {
        /// Which interface.
        interface: InterfaceId,
        /// Where it was.
        from: InstanceId,
    },
    /// Takes a snapshot of the free root volume and sees it complete.
    SnapshotRoot {
        /// Of this volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Takes a snapshot of a free data volume and sees it complete.
    SnapshotVolume {
        /// Whose.
        slot: Slot,
        /// Of this volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Copies the free root volume (CopyVolumes) and sees the copy available.
    CloneRoot {
        /// Of this volume.
        volume: VolumeId,
        /// Sent as it stands.
        client_token: String,
        /// At creation.
        tags: TagMap,
    },
    /// Registers an image from the root's snapshot and sees it available.
    RegisterImage {
        /// Unique, and so the key of the repeat.
        name: String,
        /// Of the root.
        snapshot: SnapshotId,
        /// From the node's first image.
        facts: ImageFacts,
        /// The UEFI variables of its instances, in base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uefi_data: Option<String>,
        /// At creation.
        tags: TagMap,
    },
    /// Launches one instance in one pool.
    Launch {
        /// Sent as it stands.
        client_token: String,
        /// Where capacity is asked for.
        pool: Pool,
        /// Whether it is asked even if it is remembered as being without capacity.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ask_anyway: bool,
        /// It is asked only while fewer than this many other nodes are on demand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on_demand_max: Option<u32>,
        /// Its place among the pools of the survey, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rank: Option<Rank>,
        /// At most this price per hour.
        price_max: Option<String>,
        /// The zone.
        zone: String,
        /// What to boot.
        image: ImageId,
        /// The primary interface.
        interface: LaunchInterface,
        /// Data volumes that are made with it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        volumes: Vec<LaunchVolume>,
        /// Device names of the image's mapping that nothing is made at: the node's own volumes come there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        suppress: Vec<String>,
        /// The image's root device.
        root_device: String,
        /// The root's size, if it is to differ from the image's.
        root_size_gib: Option<u32>,
        /// The root's type, if it is to differ from the image's.
        root_volume_type: Option<String>,
        /// The key pair.
        key_name: Option<String>,
        /// The instance profile.
        instance_profile: Option<String>,
        /// As text.
        user_data: Option<String>,
        /// At creation.
        tags: TagMap,
    },
    /// Sees the launched instance running.
    Start {
        /// Which instance.
        instance: InstanceId,
        /// The device names of the data volumes it was launched with.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<String>,
    },
    /// Makes the node's own root volume the root of the new instance.
    AdoptRoot {
        /// Which instance.
        instance: InstanceId,
        /// The node's root volume.
        volume: VolumeId,
        /// The root it was launched with, if the endpoint shows one.
        temporary: Option<VolumeId>,
        /// Sent as it stands.
        client_token: String,
        /// At creation.
        tags: TagMap,
    },
    /// Attaches a data volume.
    Attach {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// To which instance.
        instance: InstanceId,
        /// Under this device name.
        device: String,
    },
    /// Attaches the node's second interface.
    AttachInterface {
        /// Which interface.
        interface: InterfaceId,
        /// To which instance.
        instance: InstanceId,
        /// At which index; 0 is the primary interface.
        device_index: u32,
    },
    /// Detaches the node's second interface from an instance that still runs, without force.
    DetachInterface {
        /// Which interface.
        interface: InterfaceId,
        /// From which instance.
        instance: InstanceId,
    },
    /// Gives the node's own interface the security groups of the file, and sees them.
    SetGroups {
        /// Which interface.
        interface: InterfaceId,
        /// All of its groups from now on.
        groups: Vec<GroupId>,
    },
    /// Moves the node's secondary address to the new instance's primary interface.
    MoveAddress {
        /// The instance.
        instance: InstanceId,
        /// Its primary interface.
        interface: InterfaceId,
        /// The node's address; none at first: the subnet chooses.
        address: Option<Ipv4Addr>,
        /// Instances of the node's that it may be taken from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        from: Vec<InstanceId>,
        /// The tags of an interface that it may be taken from: those of this node of this owner.
        #[serde(default, skip_serializing_if = "TagMap::is_empty")]
        own: TagMap,
    },
    /// Sees that nothing of the node's has its address any more, which goes back to its pool.
    ReturnAddress {
        /// Which pool.
        pool: NodeName,
        /// Its subnet.
        subnet: SubnetId,
        /// Which address.
        address: Ipv4Addr,
        /// The tags of an interface of the node's.
        own: TagMap,
    },
    /// Lets the node's Elastic IP address lead to the new instance.
    Associate {
        /// Which.
        allocation: AllocationId,
        /// The instance.
        instance: InstanceId,
        /// Its primary interface.
        interface: InterfaceId,
        /// The private address it is to lead to; none: the interface's primary one.
        private_ip: Option<Ipv4Addr>,
        /// Instances of the node's that it may be taken from.
        from: Vec<InstanceId>,
        /// The tags of an interface that it may be taken from.
        own: TagMap,
    },
    /// Makes a data volume larger, wherever it is.
    Grow {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// To this size.
        size_gib: u32,
    },
    /// Looks at everything once more.
    Verify {
        /// The new instance.
        instance: InstanceId,
        /// Its volumes.
        volumes: BTreeMap<Slot, VolumeId>,
        /// The interface that holds the address.
        interface: Option<InterfaceId>,
        /// The node's address.
        address: Option<Ipv4Addr>,
    },
    /// Deletes a volume by id.
    DeleteVolume {
        /// Which.
        volume: VolumeId,
        /// What it was: `temporary root`, `data`…
        role: String,
        /// Of a retained one: what must be seen before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retained: Option<Succession>,
    },
    /// Deletes the node's interface.
    DeleteInterface {
        /// Which.
        interface: InterfaceId,
    },
    /// Deregisters a superseded root image.
    DeregisterImage {
        /// Which.
        image: ImageId,
    },
    /// Deletes a superseded root snapshot.
    DeleteSnapshot {
        /// Which.
        snapshot: SnapshotId,
    },
    /// Looks for what a step of a cancelled or abandoned operation may have made.
    Find {
        /// What kind of thing.
        made: Made,
        /// The tags it would have.
        tags: TagMap,
    },
    /// A step of a backup, which is no operation.
    Backup(BackupIntent),
    /// Takes a snapshot of a volume that has just become free, for the node's backups; nothing waits for its copy.
    FinalSnapshot {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
    /// Takes a snapshot of a free volume that only another zone would need, while home waits for another one.
    SnapshotAhead {
        /// Whose.
        slot: Slot,
        /// Which volume.
        volume: VolumeId,
        /// At creation; `perennial:step` makes it findable.
        tags: TagMap,
    },
}

impl Intent {
    /// The step's name: the same for every attempt at the same thing.
    #[must_use]
    pub fn step(&self) -> String {
        match self {
            Self::Resolve { .. } => "resolve".into(),
            Self::Survey(_) => "survey".into(),
            Self::CreateVolume { slot, .. } => format!("create_volume:{slot}"),
            Self::TakeVolume { slot, .. } => format!("take_volume:{slot}"),
            Self::CreateInterface { .. } => "create_interface".into(),
            Self::Preserve { instance, .. } => format!("preserve:{instance}"),
            Self::Detach { slot, .. } => format!("detach:{slot}"),
            Self::Fence { instance, .. } => format!("fence:{instance}"),
            Self::Release { slot, .. } => format!("release:{slot}"),
            Self::ReleaseInterface { .. } => "release_interface".into(),
            Self::SnapshotRoot { .. } => "snapshot_root".into(),
            Self::CloneRoot { .. } => "clone_root".into(),
            Self::SnapshotVolume { slot, .. } => format!("snapshot:{slot}"),
            Self::RegisterImage { .. } => "register_image".into(),
            Self::Launch { .. } => "launch".into(),
            Self::Start { .. } => "start".into(),
            Self::AdoptRoot { .. } => "adopt_root".into(),
            Self::Attach { slot, .. } => format!("attach:{slot}"),
            Self::AttachInterface { .. } => "attach_interface".into(),
            Self::DetachInterface { .. } => "detach_interface".into(),
            Self::SetGroups { .. } => "set_groups".into(),
            Self::ReturnAddress { .. } => "return_address".into(),
            Self::MoveAddress { .. } => "move_address".into(),
            Self::Associate { .. } => "associate_elastic_ip".into(),
            Self::Grow { slot, .. } => format!("grow:{slot}"),
            Self::Verify { .. } => "verify".into(),
            Self::DeleteVolume { volume, .. } => format!("delete_volume:{volume}"),
            Self::DeleteInterface { interface } => format!("delete_interface:{interface}"),
            Self::DeregisterImage { image } => format!("deregister_image:{image}"),
            Self::DeleteSnapshot { snapshot } => format!("delete_snapshot:{snapshot}"),
            Self::Find { made, tags } => format!("find:{}", Thing::suspected(*made, tags)),
            Self::Backup(intent) => intent.step(),
            Self::FinalSnapshot { slot, .. } => format!("final_snapshot:{slot}"),
            Self::SnapshotAhead { slot, .. } => format!("snapshot_ahead:{slot}"),
        }
    }

    /// How long a step may take before the workflow does something else, in milliseconds.
    ///
    /// Chosen well above what was measured or documented (`ec2-semantics` §6): a bound catches what hangs, it does not
    /// race what is slow.
    #[must_use]
    pub const fn budget_ms(&self) -> u64 {
        const SECOND: u64 = 1_000;
        const MINUTE: u64 = 60 * SECOND;
        match self {
            // Seconds in practice; an EBS control-plane brown-out can make them minutes.
            Self::Resolve { .. }
            | Self::CreateVolume { .. }
            | Self::CloneRoot { .. }
            | Self::TakeVolume { .. }
            | Self::CreateInterface { .. }
            | Self::Preserve { .. }
            | Self::SetGroups { .. }
            | Self::ReturnAddress { .. }
            | Self::MoveAddress { .. }
            | Self::Associate { .. }
            | Self::Verify { .. } => 15 * MINUTE,
            // With something to go by it holds nothing up for longer.
            Self::Survey(question) if !question.needed => PATIENCE_MS,
            Self::Survey(_) => 15 * MINUTE,
            // Seconds in practice. What cannot be cleaned up by then is left, listed, and tried again by the next operation.
            Self::DeleteInterface { .. }
            | Self::DeregisterImage { .. }
            | Self::DeleteSnapshot { .. }
            | Self::DeleteVolume { .. } => 5 * MINUTE,
            // A volume in use stays so; after termination it comes anyway.
            Self::Detach { .. } | Self::DetachInterface { .. } => 20 * SECOND,
            // A second in practice, and EC2 takes one of a volume every 15 s. The operation does not end before it is seen, but
            // nothing else waits for it.
            Self::FinalSnapshot { .. } => 5 * MINUTE,
            // Likewise; a move waits for it only to wait for the snapshot itself.
            Self::SnapshotAhead { .. } => 5 * MINUTE,
            // Seconds to minutes in practice; EC2 promises nothing.
            // EC2 grants one modification in six hours.
            Self::Grow { .. } => 26 * 60 * MINUTE,
            // Absence is believed after minutes only.
            Self::Find { .. } => 30 * MINUTE,
            // A metal instance took over 19 minutes to terminate.
            Self::Fence { .. } | Self::Release { .. } | Self::ReleaseInterface { .. } => 60 * MINUTE,
            // A first full snapshot takes hours.
            Self::SnapshotRoot { .. } | Self::SnapshotVolume { .. } => 24 * 60 * MINUTE,
            Self::RegisterImage { .. } => 60 * MINUTE,
            Self::Launch { .. } | Self::Start { .. } => 10 * MINUTE,
            // The documentation's example took 20 seconds.
            Self::AdoptRoot { .. } => 10 * MINUTE,
            Self::Attach { .. } | Self::AttachInterface { .. } => 15 * MINUTE,
            Self::Backup(intent) => intent.budget_ms(),
        }
    }

    /// Whether the workflow goes on in another way when the step's time is over. The others are looked at until it is known
    /// what became of them.
    #[must_use]
    pub const fn has_another_way(&self) -> bool {
        matches!(
            self,
            Self::Start { .. }
                | Self::Detach { .. }
                | Self::DetachInterface { .. }
                | Self::AdoptRoot { .. }
                | Self::Survey(Question { needed: false, .. })
                | Self::CloneRoot { .. }
                | Self::FinalSnapshot { .. }
                | Self::SnapshotAhead { .. }
        )
    }

    /// What an intent removes for good, by id.
    #[must_use]
    pub fn cleans(&self) -> Option<String> {
        match self {
            Self::DeleteVolume { volume, .. } => Some(volume.to_string()),
            Self::DeleteInterface { interface } => Some(interface.to_string()),
            Self::DeregisterImage { image } => Some(image.to_string()),
            Self::DeleteSnapshot { snapshot } => Some(snapshot.to_string()),
            Self::Find { made, tags } => Some(Thing::suspected(*made, tags)),
            _ => None,
        }
    }

    /// The instance a step works on, whose loss ends the step.
    #[must_use]
    pub const fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Start { instance, .. }
            | Self::AdoptRoot { instance, .. }
            | Self::Attach { instance, .. }
            | Self::AttachInterface { instance, .. }
            | Self::DetachInterface { instance, .. }
            | Self::MoveAddress { instance, .. }
            | Self::Associate { instance, .. }
            | Self::Verify { instance, .. }
            | Self::Preserve { instance, .. }
            | Self::Detach { instance, .. } => Some(instance),
            Self::Resolve { .. }
            | Self::Survey(_)
            | Self::CreateVolume { .. }
            | Self::CloneRoot { .. }
            | Self::TakeVolume { .. }
            | Self::CreateInterface { .. }
            | Self::Fence { .. }
            | Self::Release { .. }
            | Self::ReleaseInterface { .. }
            | Self::SnapshotRoot { .. }
            | Self::SnapshotVolume { .. }
            | Self::RegisterImage { .. }
            | Self::Launch { .. }
            | Self::DeleteVolume { .. }
            | Self::DeleteInterface { .. }
            | Self::DeregisterImage { .. }
            | Self::DeleteSnapshot { .. }
            | Self::SetGroups { .. }
            | Self::ReturnAddress { .. }
            | Self::Grow { .. }
            | Self::Find { .. }
            | Self::FinalSnapshot { .. }
            | Self::SnapshotAhead { .. }
            | Self::Backup(_) => None,
        }
    }

    /// What a step makes, and the tags it makes it with; `None` for a step that makes nothing.
    #[must_use]
    pub fn makes(&self) -> Vec<(Made, &TagMap)> {
        match self {
            Self::Launch { tags, volumes, .. } if !volumes.is_empty() => {
                vec![(Made::Instance, tags), (Made::Volume, tags)]
            }
            Self::Launch { tags, .. } => vec![(Made::Instance, tags)],
            Self::CreateVolume { tags, .. } | Self::CloneRoot { tags, .. } => vec![(Made::Volume, tags)],
            Self::CreateInterface { tags, .. } => vec![(Made::Interface, tags)],
            Self::SnapshotRoot { tags, .. }
            | Self::SnapshotVolume { tags, .. }
            | Self::FinalSnapshot { tags, .. }
            | Self::SnapshotAhead { tags, .. } => vec![(Made::Snapshot, tags)],
            Self::RegisterImage { tags, .. } => vec![(Made::Image, tags)],
            _ => Vec::new(),
        }
    }
}

/// What a step observed. Not an error: the workflow decides on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The zone and the image's traits.
    Resolved(Placement),
    /// The pools there are, and what is against others.
    Surveyed(Survey),
    /// A volume is available.
    VolumeCreated {
        /// Its id.
        volume: VolumeId,
    },
    /// The existing volume can be the node's: free, seen twice.
    VolumeTaken {
        /// Its size.
        size_gib: u32,
        /// What a copy of it is made as.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traits: Option<Found>,
    },
    /// An interface is available.
    InterfaceCreated {
        /// Its id.
        interface: InterfaceId,
        /// Its address.
        private_ip: Ipv4Addr,
    },
    /// DeleteOnTermination is false for all of them.
    Preserved,
    /// The instance is terminated: seen twice.
    Fenced {
        /// The state it was first found in.
        found: String,
        /// Whether we asked for the termination.
        terminated_by_us: bool,
        /// EC2's reason, if it ended without us.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Free, with nothing attached.
    Released,
    /// The operating system still uses the volume.
    StillBusy {
        /// What was seen.
        because: String,
    },
    /// The snapshot is complete.
    SnapshotCompleted {
        /// Its id.
        snapshot: SnapshotId,
        /// The size of its volume, if that was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_gib: Option<u32>,
    },
    /// The image is available.
    ImageAvailable {
        /// Its id.
        image: ImageId,
        /// Where it is not as the node's own image is, though it was asked for: EC2 takes some of it from the snapshot.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        differs: Vec<String>,
    },
    /// EC2 has accepted the launch.
    Launched {
        /// The new instance.
        instance: InstanceId,
        /// Its spot request.
        spot_request: Option<SpotRequestId>,
    },
    /// This pool cannot serve now; another may.
    NoCapacity {
        /// EC2's code.
        code: String,
        /// EC2's words.
        message: String,
    },
    /// The instance runs.
    Started {
        /// Its primary interface.
        interface: InterfaceId,
        /// Its primary address.
        private_ip: Ipv4Addr,
        /// The device name of its root.
        root_device: String,
        /// The volume it booted from; unknown where the endpoint shows none.
        root_volume: Option<VolumeId>,
        /// The data volumes it was launched with, by device name.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        volumes: BTreeMap<String, VolumeId>,
    },
    /// The node's volume is the root now: seen on the volume.
    Adopted {
        /// The task, if one was needed.
        task: Option<RootTaskId>,
    },
    /// The root cannot be adopted here; another way must carry it.
    AdoptRefused {
        /// EC2's code, or the task's state.
        code: String,
        /// EC2's words.
        message: String,
    },
    /// Attached: seen on the volume, or the interface.
    Attached,
    /// The device name is in use on the instance, and stays so; the volume is free.
    DeviceInUse,
    /// The interface has exactly these groups: seen there.
    GroupsSet,
    /// The address is on the interface: seen there.
    Moved {
        /// Which address.
        address: Ipv4Addr,
    },
    /// Nothing of the node's has the address any more: it belongs to its pool again.
    AddressReturned {
        /// Which pool.
        pool: NodeName,
        /// Which address.
        address: Ipv4Addr,
    },
    /// The Elastic IP address leads to the instance: seen there.
    Associated {
        /// The public address.
        public_ip: Ipv4Addr,
    },
    /// The volume is this large: seen on the volume.
    Grown {
        /// Its size.
        size_gib: u32,
    },
    /// Everything is where it should be.
    Verified,
    /// Deleted, or already gone.
    Deleted,
    /// What the step in question has made; nothing, when it has surely made nothing.
    Found {
        /// What.
        things: Vec<Thing>,
    },
    /// The instance the step works on is gone or going.
    InstanceGone {
        /// Which.
        instance: InstanceId,
        /// Its state; none when it is not known any more.
        state: Option<InstanceState>,
        /// EC2's reason code.
        reason: Option<String>,
    },
    /// Somebody else has what the node needs; it is not taken from them.
    HeldByAnother {
        /// What.
        what: String,
        /// Who has it.
        by: String,
    },
    /// Something that holds state does not exist any more.
    Lost {
        /// What and how that was seen.
        what: String,
    },
    /// EC2 refuses in a way that repeating cannot change.
    Refused {
        /// EC2's code.
        code: String,
        /// EC2's words.
        message: String,
    },
    /// The step's time is over.
    OutOfTime {
        /// What was waited for.
        because: String,
    },
    /// Of a step of a backup.
    Backup(BackupEvidence),
    /// As `preserved`; and there are other volumes on the instance.
    PreservedWith {
        /// Which can become the node's: they are preserved as well.
        found: Vec<FoundVolume>,
        /// Which are left alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        strangers: Vec<Stranger>,
        /// The instance's UEFI variables, where they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uefi: Option<UefiVariables>,
    },
}
