//! Describes. Objects that are not known yet (eventual consistency) are missing from them.

use std::net::Ipv4Addr;

use perennial_workers::port::{
    BlockDevice, ElasticView, ImageView, InstanceInterface, InstanceView, InterfaceAttachment, InterfaceView,
    RootTaskView, Select, SnapshotState, SnapshotView, SpotRequestView, SubnetView, Tags, VolumeAttachment,
    VolumeView,
};
use perennial_workflows::model::aws::{
    AllocationId, ImageId, InstanceId, InstanceState, InterfaceId, SnapshotId, SpotRequestId, SubnetId,
    VolumeId,
};

use super::requests::SpotKind;
use super::settings::Quotas;
use super::state::{
    Elastic, Group, Image, Instance, Interface, RootTask, Snapshot, SpotRequest, Subnet, Template, Volume,
};
use super::{ApiError, World};

/// The objects of a map that a selection means and that are known by now, as views.
macro_rules! select {
    ($world:ident, $map:ident, $select:expr, $view:expr) => {{
        let now_ms = $world.now_ms;
        match $select {
            Select::Ids(ids) => ids
                .iter()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .filter_map(|id| $world.$map.get(id))
                .filter(|found| found.visible_at_ms <= now_ms)
                .map($view)
                .collect(),
            Select::Tagged(sets) => $world
                .$map
                .values()
                .filter(|found| found.visible_at_ms <= now_ms && carries_one(&found.tags, sets))
                .map($view)
                .collect(),
        }
    }};
}

fn carries_one(has: &Tags, sets: &[Tags]) -> bool {
    sets.iter().any(|wanted| carries(has, wanted))
}

fn carries(has: &Tags, wanted: &Tags) -> bool {
    wanted.iter().all(|(key, value)| has.get(key) == Some(value))
}

impl World {
    /// DescribeInstances.
    ///
    /// # Errors
    /// RequestLimitExceeded, as every describe.
    pub fn describe_instances(
        &mut self,
        now_ms: u64,
        select: &Select<InstanceId>,
    ) -> Result<Vec<InstanceView>, ApiError> {
        self.begin(now_ms, "DescribeInstances")?;
        let seen = self.as_seen();
        let world = seen.as_ref().unwrap_or(self);
        Ok(select!(world, instances, select, |found| world.instance_view(found)))
    }

    /// DescribeVolumes.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_volumes(
        &mut self,
        now_ms: u64,
        select: &Select<VolumeId>,
    ) -> Result<Vec<VolumeView>, ApiError> {
        self.begin(now_ms, "DescribeVolumes")?;
        let seen = self.as_seen();
        let world = seen.as_ref().unwrap_or(self);
        Ok(select!(world, volumes, select, volume_view))
    }

    /// DescribeNetworkInterfaces.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_interfaces(
        &mut self,
        now_ms: u64,
        select: &Select<InterfaceId>,
    ) -> Result<Vec<InterfaceView>, ApiError> {
        self.begin(now_ms, "DescribeNetworkInterfaces")?;
        let seen = self.as_seen();
        let world = seen.as_ref().unwrap_or(self);
        Ok(select!(world, interfaces, select, interface_view))
    }

    /// DescribeNetworkInterfaces by private address within a subnet. An address that is arriving belongs to
    /// its new holder already, but is not shown.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_interface_with(
        &mut self,
        now_ms: u64,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> Result<Option<InterfaceView>, ApiError> {
        self.begin(now_ms, "DescribeNetworkInterfaces")?;
        let now_ms = self.now_ms;
        let found = self.interfaces.values().find(|interface| {
            interface.subnet == *subnet
                && interface.visible_at_ms <= now_ms
                && (interface.primary_ip == address || interface.secondary_ips.contains(&address))
        });
        Ok(found.map(interface_view))
    }

    /// DescribeAddresses of one allocation.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_elastic(
        &mut self,
        now_ms: u64,
        id: &AllocationId,
    ) -> Result<Option<ElasticView>, ApiError> {
        self.begin(now_ms, "DescribeAddresses")?;
        let found = self.elastic.get(id.as_str());
        Ok(found.map(|elastic| {
            let association = elastic.association.as_ref();
            let plug = association
                .and_then(|association| self.interfaces.get(&association.interface))
                .and_then(|interface| interface.attachment.as_ref());
            ElasticView {
                allocation: id.clone(),
                public_ip: elastic.address,
                leads_to: association.map(|found| (found.interface.clone(), Some(found.private_ip))),
                instance: plug.map(|plug| plug.instance.clone()),
            }
        }))
    }

    /// DescribeSnapshots, owned by this account (the default image's is not).
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_snapshots(
        &mut self,
        now_ms: u64,
        select: &Select<SnapshotId>,
    ) -> Result<Vec<SnapshotView>, ApiError> {
        self.begin(now_ms, "DescribeSnapshots")?;
        let now_ms = self.now_ms;
        let mut found: Vec<SnapshotView> =
            select!(self, snapshots, select, |found| snapshot_view(found, now_ms));
        found.retain(|snapshot| snapshot.volume.is_some());
        Ok(found)
    }

    /// DescribeImages.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_images(
        &mut self,
        now_ms: u64,
        select: &Select<ImageId>,
    ) -> Result<Vec<ImageView>, ApiError> {
        self.begin(now_ms, "DescribeImages")?;
        Ok(select!(self, images, select, image_view))
    }

    /// DescribeImages by name.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_image_named(&mut self, now_ms: u64, name: &str) -> Result<Option<ImageView>, ApiError> {
        self.begin(now_ms, "DescribeImages")?;
        let now_ms = self.now_ms;
        let found = self.images.values().find(|image| image.name == name && image.visible_at_ms <= now_ms);
        Ok(found.filter(|image| image.id != self.default_image).map(image_view))
    }

    /// DescribeSubnets; with no ids, all of them.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_subnets(&mut self, now_ms: u64, ids: &[SubnetId]) -> Result<Vec<SubnetView>, ApiError> {
        self.begin(now_ms, "DescribeSubnets")?;
        let wanted = self.subnets.values().filter(|subnet| ids.is_empty() || ids.contains(&subnet.id));
        Ok(wanted
            .map(|subnet| SubnetView {
                id: subnet.id.clone(),
                zone: subnet.zone.clone(),
                cidr: subnet.cidr(),
            })
            .collect())
    }

    /// DescribeSpotInstanceRequests.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_spot_requests(
        &mut self,
        now_ms: u64,
        select: &Select<SpotRequestId>,
    ) -> Result<Vec<SpotRequestView>, ApiError> {
        self.begin(now_ms, "DescribeSpotInstanceRequests")?;
        Ok(select!(self, spot_requests, select, spot_request_view))
    }

    /// DescribeReplaceRootVolumeTasks of one instance.
    ///
    /// # Errors
    /// RequestLimitExceeded.
    pub fn describe_root_tasks(
        &mut self,
        now_ms: u64,
        instance: &InstanceId,
    ) -> Result<Vec<RootTaskView>, ApiError> {
        self.begin(now_ms, "DescribeReplaceRootVolumeTasks")?;
        let of_instance = self.root_tasks.values().filter(|task| task.instance == *instance);
        Ok(of_instance
            .map(|task| RootTaskView { id: task.id.clone(), instance: instance.clone(), state: task.state })
            .collect())
    }

    /// The region as a describe sees it now, when that may differ from its present state.
    #[must_use]
    pub(crate) fn as_seen(&self) -> Option<Self> {
        if !(self.volumes.is_stale() || self.instances.is_stale() || self.interfaces.is_stale()) {
            return None;
        }
        let mut seen = self.clone();
        // The call was charged where it was made.
        seen.settings.quotas = Quotas::Off;
        let seed = self.settings.seed;
        seen.volumes.go_back(seed);
        seen.instances.go_back(seed.wrapping_add(1));
        seen.interfaces.go_back(seed.wrapping_add(2));
        Some(seen)
    }

    /// An instance as EC2 shows it: one that is terminated has neither addresses nor volumes.
    pub(super) fn instance_view(&self, instance: &Instance) -> InstanceView {
        let there = instance.state != InstanceState::Terminated;
        let volumes = instance.volumes.iter().filter(|_| there).filter_map(|id| self.volumes.get(id));
        let block_devices = volumes.filter_map(|volume| {
            volume.attachment.as_ref().map(|attachment| BlockDevice {
                device: attachment.device.clone(),
                volume: volume.id.clone(),
                delete_on_termination: attachment.delete_on_termination,
            })
        });
        let plugged = instance.interfaces.iter().filter(|_| there).filter_map(|id| self.interfaces.get(id));
        let mut interfaces: Vec<(InstanceInterface, Ipv4Addr)> = plugged
            .filter_map(|interface| {
                let plug = interface.attachment.as_ref()?;
                let view = InstanceInterface {
                    id: interface.id.clone(),
                    device_index: plug.device_index,
                    attachment: Some(plug.id.clone()),
                    delete_on_termination: plug.delete_on_termination,
                };
                Some((view, interface.primary_ip))
            })
            .collect();
        interfaces.sort_by_key(|(interface, _)| interface.device_index);
        InstanceView {
            id: instance.id.clone(),
            state: instance.state,
            state_reason: instance.state_reason.clone(),
            instance_type: instance.instance_type.clone(),
            zone: instance.zone.clone(),
            subnet: there.then(|| instance.subnet.clone()),
            market: instance.market,
            image: Some(instance.image.clone()),
            private_ip: interfaces.first().map(|(_, address)| *address),
            root_device: Some(instance.root_device.clone()),
            block_devices: block_devices.collect(),
            interfaces: interfaces.into_iter().map(|(interface, _)| interface).collect(),
            spot_request: instance.spot_request.clone(),
            launched_at_ms: instance.launched_at_ms,
            client_token: Some(instance.client_token.clone()).filter(|token| !token.is_empty()),
            tags: instance.tags.clone(),
        }
    }

    /// The view of one interface, known or not.
    #[must_use]
    pub fn interface_view(&self, id: &InterfaceId) -> Option<InterfaceView> {
        self.interfaces.get(id).map(interface_view)
    }

    /// An instance as the region knows it.
    #[must_use]
    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// A volume as the region knows it, with its content; also one that is gone.
    #[must_use]
    pub fn volume(&self, id: &VolumeId) -> Option<&Volume> {
        self.volumes.get(id).or_else(|| self.graveyard.iter().rev().find(|volume| volume.id == *id))
    }

    /// An interface as the region knows it.
    #[must_use]
    pub fn interface(&self, id: &InterfaceId) -> Option<&Interface> {
        self.interfaces.get(id)
    }

    /// A snapshot as the region knows it, with its content.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> Option<&Snapshot> {
        self.snapshots.get(id)
    }

    /// An image as the region knows it.
    #[must_use]
    pub fn image(&self, id: &ImageId) -> Option<&Image> {
        self.images.get(id)
    }

    /// A spot request as the region knows it.
    #[must_use]
    pub fn spot_request(&self, id: &SpotRequestId) -> Option<&SpotRequest> {
        self.spot_requests.get(id)
    }

    /// All instances, by id.
    pub fn all_instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// All volumes that exist, by id.
    pub fn all_volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    /// All interfaces, by id.
    pub fn all_interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// All snapshots, by id; that of the default image has no volume and is not this account's.
    pub fn all_snapshots(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values()
    }

    /// All images, by id.
    pub fn all_images(&self) -> impl Iterator<Item = &Image> {
        self.images.values()
    }

    /// All subnets, by id.
    pub fn all_subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.subnets.values()
    }

    /// All spot requests, by id.
    pub fn all_spot_requests(&self) -> impl Iterator<Item = &SpotRequest> {
        self.spot_requests.values()
    }

    /// All root replacement tasks, by id.
    pub fn all_root_tasks(&self) -> impl Iterator<Item = &RootTask> {
        self.root_tasks.values()
    }

    /// All security groups, by id.
    pub fn all_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// All Elastic addresses, by allocation id.
    pub fn all_elastic(&self) -> impl Iterator<Item = &Elastic> {
        self.elastic.values()
    }

    /// All launch templates, by id.
    pub fn all_templates(&self) -> impl Iterator<Item = &Template> {
        self.templates.values()
    }

    /// A subnet.
    #[must_use]
    pub fn subnet(&self, id: &SubnetId) -> Option<&Subnet> {
        self.subnets.get(id)
    }

    /// How many addresses of a subnet are free.
    #[must_use]
    pub fn free_addresses(&self, subnet: &Subnet) -> u32 {
        let held = self.addresses.keys().filter(|address| subnet.holds(**address)).count() as u32;
        (1u32 << (32 - u32::from(subnet.prefix))).saturating_sub(5 + held + subnet.taken)
    }
}

fn volume_view(volume: &Volume) -> VolumeView {
    let attachment = volume.attachment.as_ref().map(|attachment| VolumeAttachment {
        instance: attachment.instance.clone(),
        device: attachment.device.clone(),
        state: attachment.state,
        delete_on_termination: attachment.delete_on_termination,
    });
    VolumeView {
        id: volume.id.clone(),
        state: volume.state,
        zone: volume.zone.clone(),
        size_gib: volume.size_gib,
        volume_type: volume.volume_type.clone(),
        iops: volume.iops,
        throughput: volume.throughput,
        snapshot: volume.snapshot.clone(),
        multi_attach: volume.multi_attach,
        attachments: attachment.into_iter().collect(),
        created_at_ms: Some(volume.created_at_ms),
        tags: volume.tags.clone(),
    }
}

fn interface_view(interface: &Interface) -> InterfaceView {
    InterfaceView {
        id: interface.id.clone(),
        available: interface.attachment.is_none(),
        subnet: interface.subnet.clone(),
        zone: interface.zone.clone(),
        primary_ip: interface.primary_ip,
        secondary_ips: interface.secondary_ips.clone(),
        groups: interface.groups.clone(),
        attachment: interface.attachment.as_ref().map(|plug| InterfaceAttachment {
            id: plug.id.clone(),
            instance: Some(plug.instance.clone()),
            device_index: plug.device_index,
            delete_on_termination: plug.delete_on_termination,
        }),
        tags: interface.tags.clone(),
    }
}

fn snapshot_view(snapshot: &Snapshot, now_ms: u64) -> SnapshotView {
    let progress = match snapshot.state {
        SnapshotState::Completed => 100,
        SnapshotState::Error => 0,
        SnapshotState::Pending => {
            let all = snapshot.completes_at_ms.saturating_sub(snapshot.started_at_ms).max(1);
            (now_ms.saturating_sub(snapshot.started_at_ms) * 100 / all).min(99) as u8
        }
    };
    SnapshotView {
        id: snapshot.id.clone(),
        state: snapshot.state,
        volume: snapshot.volume.clone(),
        progress,
        started_at_ms: snapshot.started_at_ms,
        tags: snapshot.tags.clone(),
    }
}

fn image_view(image: &Image) -> ImageView {
    ImageView {
        id: image.id.clone(),
        name: image.name.clone(),
        state: image.state,
        traits: image.traits.clone(),
        root_snapshot: Some(image.root_snapshot.clone()),
        mapped: image.mapped(),
        created_at_ms: Some(image.created_at_ms),
        tags: image.tags.clone(),
    }
}

fn spot_request_view(request: &SpotRequest) -> SpotRequestView {
    SpotRequestView {
        id: request.id.clone(),
        status: request.status.to_string(),
        persistent: request.kind == SpotKind::Persistent,
        instance: request.instance.clone(),
    }
}
