//! The parameters of the calls that have many: RunInstances and ModifyVolume. Data only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_workers::port::{LaunchNetwork, LaunchRequest, Tags};
use perennial_workflows::model::aws::{GroupId, ImageId, InterfaceId, Market, SnapshotId, SubnetId};
use perennial_workflows::model::metadata::MetadataOptions;
use serde::{Deserialize, Serialize};

/// The parameters of RunInstances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's, see the port's LaunchRequest")]
pub struct RunInstances {
    /// Empty for none.
    pub client_token: String,
    pub image: ImageId,
    pub instance_type: String,
    pub market: Market,
    pub price_max: Option<String>,
    pub zone: Option<String>,
    pub placement: Placement,
    pub devices: Vec<DeviceMapping>,
    pub key_name: Option<String>,
    pub instance_profile: Option<String>,
    pub user_data: Option<String>,
    pub tags: LaunchTags,
    pub more: LaunchExtras,
}

/// The tags of the objects that a launch creates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's resource types")]
pub struct LaunchTags {
    pub instance: Tags,
    pub volume: Tags,
    pub interface: Tags,
    pub spot_request: Tags,
}

impl From<Tags> for LaunchTags {
    /// The same on everything.
    fn from(tags: Tags) -> Self {
        Self { instance: tags.clone(), volume: tags.clone(), interface: tags.clone(), spot_request: tags }
    }
}

/// Parameters of RunInstances that the product does not use; the default is one plain instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct LaunchExtras {
    /// `MinCount`; 0 means 1.
    pub count_min: u32,
    /// `MaxCount`; 0 means 1.
    pub count_max: u32,
    pub spot: SpotKind,
    pub behaviour: Behaviour,
    pub protected: bool,
    /// `DisableApiStop`.
    #[serde(default)]
    pub stop_protected: bool,
    #[serde(default)]
    pub monitoring: bool,
    #[serde(default)]
    pub ebs_optimized: bool,
    pub metadata: BTreeMap<String, String>,
    /// The launch template and the version it was made from: what it says is in the other fields already,
    /// where the call came over the wire.
    #[serde(default)]
    pub template: Option<(String, String)>,
    /// DeleteOnTermination=false for the new primary interface.
    pub keeps_interface: bool,
    /// Beside the primary one.
    pub interfaces: Vec<MoreInterface>,
}

/// An interface of a launch that is not its primary one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct MoreInterface {
    pub device_index: u32,
    pub placement: Placement,
    pub delete_on_termination: bool,
}

/// The kinds of spot request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SpotKind {
    /// Ends with its instance.
    #[default]
    OneTime,
    /// Launches again whenever its instance is gone, until it is cancelled.
    Persistent,
}

/// The interruption behaviour of a spot request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Behaviour {
    /// Terminates.
    #[default]
    Terminate,
    /// Stops; only for persistent requests.
    Stop,
}

/// The primary interface of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub enum Placement {
    /// This interface, at index 0.
    Existing(InterfaceId),
    /// A new interface.
    New { subnet: SubnetId, groups: Vec<GroupId>, private_ip: Option<Ipv4Addr> },
}

/// One entry of a block device mapping. Absent values are the image's, or EC2's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct DeviceMapping {
    pub device: String,
    pub snapshot: Option<SnapshotId>,
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub encrypted: bool,
    pub delete_on_termination: Option<bool>,
    /// `NoDevice`, in a launch: the volume that the image maps here is not made.
    #[serde(default)]
    pub suppressed: bool,
}

impl DeviceMapping {
    pub(super) fn override_with(&mut self, other: &Self) {
        let Self {
            device: _,
            snapshot,
            size_gib,
            volume_type,
            iops,
            throughput,
            encrypted,
            delete_on_termination,
            suppressed,
        } = other.clone();
        self.suppressed |= suppressed;
        // What the image says of IOPS and throughput is for its own volume type (a guess).
        if volume_type.is_some() && volume_type != self.volume_type {
            (self.iops, self.throughput) = (None, None);
        }
        self.snapshot = snapshot.or(self.snapshot.take());
        self.size_gib = size_gib.or(self.size_gib);
        self.volume_type = volume_type.or(self.volume_type.take());
        self.iops = iops.or(self.iops);
        self.throughput = throughput.or(self.throughput);
        self.encrypted |= encrypted;
        self.delete_on_termination = delete_on_termination.or(self.delete_on_termination);
    }
}

impl From<&LaunchRequest> for RunInstances {
    fn from(request: &LaunchRequest) -> Self {
        let device = request.root.as_ref().map(|root| DeviceMapping {
            device: root.device.clone(),
            size_gib: root.size_gib,
            volume_type: root.volume_type.clone(),
            iops: root.iops,
            throughput: root.throughput,
            encrypted: root.encrypted,
            ..DeviceMapping::default()
        });
        let data = request.volumes.iter().map(|volume| DeviceMapping {
            device: volume.device.clone(),
            snapshot: Some(volume.snapshot.clone()),
            size_gib: volume.size_gib,
            volume_type: volume.volume_type.clone(),
            iops: volume.iops,
            throughput: volume.throughput,
            encrypted: volume.encrypted,
            delete_on_termination: Some(false),
            suppressed: false,
        });
        let suppressed = request.suppress.iter().map(|device| DeviceMapping {
            device: device.clone(),
            suppressed: true,
            ..DeviceMapping::default()
        });
        Self {
            client_token: request.client_token.clone(),
            image: request.image.clone(),
            instance_type: request.instance_type.clone(),
            market: request.market,
            price_max: request.price_max.clone(),
            zone: Some(request.zone.clone()),
            placement: match &request.network {
                LaunchNetwork::Existing(id) => Placement::Existing(id.clone()),
                LaunchNetwork::New { subnet, groups } => {
                    Placement::New { subnet: subnet.clone(), groups: groups.clone(), private_ip: None }
                }
            },
            devices: device.into_iter().chain(data).chain(suppressed).collect(),
            key_name: request.key_name.clone(),
            instance_profile: request.instance_profile.clone(),
            user_data: request.user_data.clone(),
            tags: request.tags.clone().into(),
            more: LaunchExtras {
                metadata: request.metadata.as_ref().map(metadata).unwrap_or_default(),
                template: request.template.as_ref().map(|of| (of.id.to_string(), of.version.to_string())),
                ..LaunchExtras::default()
            },
        }
    }
}

/// EC2's names and words of the metadata options.
fn metadata(options: &MetadataOptions) -> BTreeMap<String, String> {
    let MetadataOptions { http_tokens, hop_limit, instance_tags } = options;
    let mut said = BTreeMap::from([("HttpTokens".to_owned(), http_tokens.word().to_owned())]);
    said.extend(hop_limit.map(|hops| ("HttpPutResponseHopLimit".to_owned(), hops.to_string())));
    said.extend(instance_tags.then(|| ("InstanceMetadataTags".to_owned(), "enabled".to_owned())));
    said
}

/// The parameters of ModifyVolume. Absent values stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct ModifyVolume {
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
}
