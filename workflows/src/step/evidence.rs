//! The observations that a step can report.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::aws::{
    ImageId, InstanceId, InstanceState, InterfaceId, RootTaskId, SnapshotId, SpotRequestId, VolumeId,
};
use crate::model::capacity::NotAsked;
use crate::model::image::Placement;
use crate::model::name::NodeName;
use crate::model::resources::Resource;
use crate::model::survey::Survey;
use crate::model::uefi::UefiVariables;
use crate::model::volume::{DiscoveredVolume, Found, UnmanagedVolume};
use crate::step::backup::BackupEvidence;

/// A step's observation. It is not an error: the workflow decides on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The zone and the image's traits.
    Resolved(Placement),
    /// The available pools, and the reasons against others.
    Surveyed(Survey),
    /// A volume is available.
    VolumeCreated {
        /// Its id.
        volume: VolumeId,
        /// Whether it was found by its tags, and is older than the process that found it: an instance may
        /// have written to it, and only a person deletes it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        found: bool,
    },
    /// The existing volume can be the node's: free in two reads.
    VolumeClaimed {
        /// Its size.
        size_gib: u32,
        /// The properties that a copy of it gets.
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
    /// The instance is terminated: seen in two reads.
    Fenced {
        /// The state it was first found in.
        found: String,
        /// Whether Perennial asked for the termination.
        terminated_by_us: bool,
        /// EC2's reason, if the instance ended otherwise.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Whether it stayed in `shutting-down`, and was terminated by force.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forced: bool,
        /// Not seen terminated: it is not shown any more, while other things of the journal are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        not_shown: bool,
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
        /// Properties that differ from the request: EC2 takes some of them from the snapshot.
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
        /// EC2's message.
        message: String,
    },
    /// The pool of the launch was not asked: Perennial decided so. EC2 has said nothing.
    NotAsked {
        /// Why.
        because: NotAsked,
    },
    /// EC2 refuses the launch because its image does not exist, or may not be used; nothing was launched.
    ImageGone {
        /// The image.
        image: ImageId,
        /// EC2's message.
        message: String,
    },
    /// EC2 refuses the launch because no address is free in the subnet; nothing was launched.
    NoAddress {
        /// EC2's code.
        code: String,
        /// EC2's message.
        message: String,
    },
    /// The request was given up before it had an effect: the node's file has changed since it was written.
    Outdated,
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
    /// The root cannot be adopted here; another root method must be used.
    AdoptRefused {
        /// EC2's code, or the task's state.
        code: String,
        /// EC2's message.
        message: String,
    },
    /// Attached: seen on the volume, or the interface.
    Attached,
    /// The device name is in use on the instance, and stays in use; the volume is free.
    DeviceInUse,
    /// The interface has exactly these groups: seen there.
    GroupsSet,
    /// The address is on the interface: seen there.
    Moved {
        /// The address.
        address: Ipv4Addr,
    },
    /// No resource of the node has the address any more: it belongs to its pool again.
    AddressReturned {
        /// The pool.
        pool: NodeName,
        /// The address.
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
    /// Every resource is in its place.
    Verified,
    /// Deleted, or already gone.
    Deleted,
    /// The resources that the step in question has made; empty when it certainly made none.
    Found {
        /// The resources.
        resources: Vec<Resource>,
        /// Volumes among them that are not deleted: they are older than the process that found them, so that
        /// another one may have attached them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        kept: Vec<VolumeId>,
    },
    /// The instance that the step works on is terminated or terminating.
    InstanceGone {
        /// The instance.
        instance: InstanceId,
        /// Its state; none when EC2 no longer knows it.
        state: Option<InstanceState>,
        /// EC2's reason code.
        reason: Option<String>,
    },
    /// A resource outside the node has what the node needs; Perennial does not take it away.
    HeldByAnother {
        /// The needed resource.
        what: String,
        /// Its holder.
        by: String,
    },
    /// A resource that holds state no longer exists.
    Lost {
        /// Which resource, and how that was seen.
        what: String,
        /// Whether only its absence was seen, while something else that the journal knows was shown.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        not_shown: bool,
    },
    /// EC2 refuses in a way that repeating cannot change.
    Refused {
        /// EC2's code.
        code: String,
        /// EC2's message.
        message: String,
    },
    /// The step's time is over.
    OutOfTime {
        /// What the step waited for.
        because: String,
    },
    /// An observation of a backup's step.
    Backup(BackupEvidence),
    /// As `preserved`, and other volumes are on the instance.
    PreservedWith {
        /// Volumes that the node can adopt: they are preserved as well.
        found: Vec<DiscoveredVolume>,
        /// Volumes that are left alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unmanaged: Vec<UnmanagedVolume>,
        /// The instance's UEFI variables, if they were requested.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uefi: Option<UefiVariables>,
    },
}
