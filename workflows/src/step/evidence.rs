//! What a step can observe.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{
    ImageId, InstanceId, InstanceState, InterfaceId, RootTaskId, SnapshotId, SpotRequestId, VolumeId,
};
use crate::model::image::Placement;
use crate::model::name::NodeName;
use crate::model::resources::Resource;
use crate::model::survey::Survey;
use crate::model::uefi::UefiVariables;
use crate::model::volume::{DiscoveredVolume, Found, UnmanagedVolume};
use crate::step::backup::BackupEvidence;

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
    VolumeClaimed {
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
        resources: Vec<Resource>,
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
        found: Vec<DiscoveredVolume>,
        /// Which are left alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unmanaged: Vec<UnmanagedVolume>,
        /// The instance's UEFI variables, where they were asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uefi: Option<UefiVariables>,
    },
}
