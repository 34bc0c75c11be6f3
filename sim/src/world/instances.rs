//! RunInstances, TerminateInstances, ModifyInstanceAttribute, CancelSpotInstanceRequests, and an instance's life.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use perennial_workers::cloud::{
    AttachmentState, ImageState, InstanceView, LaunchNetwork, LaunchRequest, Tags, VolumeState,
};
use perennial_workflows::aws::{
    GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, SnapshotId, SpotRequestId, SubnetId,
    VolumeId,
};

use super::events::Happening;
use super::settings::Capacity;
use super::state::{Attachment, Instance, SpotRequest, Volume};
use super::{ApiError, Transition, World, ids_of, mismatch};

/// The parameters of RunInstances for one instance. Tags go on everything the call creates.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub tags: Tags,
}

/// The primary interface of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub enum Placement {
    /// This interface, at index 0.
    Existing(InterfaceId),
    /// A new interface.
    New { subnet: SubnetId, groups: Vec<GroupId>, private_ip: Option<Ipv4Addr> },
}

/// One entry of a block device mapping. Where nothing is said, the image's value or EC2's default holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields are EC2's")]
pub struct DeviceMapping {
    pub device: String,
    pub snapshot: Option<SnapshotId>,
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub delete_on_termination: Option<bool>,
}

impl From<&LaunchRequest> for RunInstances {
    fn from(request: &LaunchRequest) -> Self {
        let device = request.root.as_ref().map(|root| DeviceMapping {
            device: root.device.clone(),
            size_gib: root.size_gib,
            volume_type: root.volume_type.clone(),
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
            devices: device.into_iter().collect(),
            key_name: request.key_name.clone(),
            instance_profile: request.instance_profile.clone(),
            user_data: request.user_data.clone(),
            tags: request.tags.clone(),
        }
    }
}

/// What a launch will use, after every check.
struct Plan {
    zone: String,
    subnet: SubnetId,
    root_device: String,
    root_snapshot: SnapshotId,
}

impl World {
    /// RunInstances. The token's scope is the zone (documented).
    ///
    /// # Errors
    /// EC2's: idempotency, unknown or pending image, root snapshot override, interface in use, zone, type, quota,
    /// capacity.
    pub fn run_instances(&mut self, now_ms: u64, request: &RunInstances) -> Result<InstanceView, ApiError> {
        const ACTION: &str = "RunInstances";
        self.begin(now_ms, ACTION)?;
        let scope = request.zone.clone().unwrap_or_default();
        let parameters = format!("{request:?}");
        if let Some(id) = self.replayed(ACTION, &scope, &request.client_token, &parameters)? {
            return self.launched_before(&id, &request.client_token);
        }
        let plan = self.plan_launch(request)?;
        self.check_quota(request.market)?;
        self.take_capacity(&request.instance_type, &plan.zone, request.market)?;
        let id = self.launch(request, plan)?;
        self.remember(ACTION, &scope, &request.client_token, parameters, id.as_str());
        let instance = self.instances.get(&id).expect("BUG: just launched");
        Ok(self.instance_view(instance))
    }

    /// Whether RunInstances would be allowed (`DryRun`): everything is checked but quota and capacity.
    ///
    /// # Errors
    /// As [`run_instances`](Self::run_instances).
    pub fn may_run_instances(&mut self, now_ms: u64, request: &RunInstances) -> Result<(), ApiError> {
        self.begin(now_ms, "RunInstances")?;
        self.plan_launch(request).map(|_| ())
    }

    fn launched_before(&self, id: &str, token: &str) -> Result<InstanceView, ApiError> {
        let id = InstanceId::parse(id).map_err(|_| mismatch(token))?;
        match self.instances.get(&id) {
            Some(instance) if instance.state != InstanceState::Terminated => Ok(self.instance_view(instance)),
            _ => Err(ApiError::new(
                "IdempotentInstanceTerminated",
                format!("The instance {id} that client token {token} launched is terminated"),
            )),
        }
    }

    fn plan_launch(&self, request: &RunInstances) -> Result<Plan, ApiError> {
        let image = self.known_image(&request.image)?;
        if image.state != ImageState::Available {
            let message = format!("The image id '[{}]' is pending, and cannot be run", image.id);
            return Err(ApiError::new("InvalidAMIID.Unavailable", message));
        }
        let root_device = image.traits.root_device.clone();
        let root = self.known_snapshot(&image.root_snapshot)?;
        for mapping in &request.devices {
            self.check_mapping(mapping, &root_device, root.size_gib)?;
        }
        let devices: BTreeSet<_> = request.devices.iter().map(|mapping| &mapping.device).collect();
        if devices.len() != request.devices.len() {
            return Err(ApiError::new("InvalidBlockDeviceMapping", "A device name is mapped twice"));
        }
        if !request.instance_type.contains('.') {
            let message = format!("Invalid value '{}' for InstanceType.", request.instance_type);
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        let subnet = match &request.placement {
            Placement::Existing(id) => {
                let interface = self.known_interface(id)?;
                if interface.attachment.is_some() {
                    let message = format!("Interface: [{id}] in use.");
                    return Err(ApiError::new("InvalidNetworkInterface.InUse", message));
                }
                interface.subnet.clone()
            }
            Placement::New { subnet, private_ip, .. } => {
                let subnet = self.known_subnet(subnet)?;
                match private_ip {
                    Some(address) => self.check_address(subnet, *address)?,
                    None => self.free_address(subnet).map(|_| ())?,
                }
                subnet.id.clone()
            }
        };
        let zone = self.known_subnet(&subnet)?.zone.clone();
        if request.zone.as_ref().is_some_and(|asked| *asked != zone) {
            let message = format!("The subnet is in {zone}, the placement says otherwise");
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        Ok(Plan { zone, subnet, root_device, root_snapshot: root.id.clone() })
    }

    fn check_mapping(
        &self,
        mapping: &DeviceMapping,
        root_device: &str,
        root_gib: u32,
    ) -> Result<(), ApiError> {
        let least_gib = if mapping.device == root_device {
            if mapping.snapshot.is_some() {
                let message = "snapshotId cannot be modified on root device";
                return Err(ApiError::new("InvalidBlockDeviceMapping", message));
            }
            root_gib
        } else if let Some(snapshot) = &mapping.snapshot {
            self.completed_snapshot(snapshot)?.size_gib
        } else {
            1
        };
        match mapping.size_gib {
            Some(size) if size < least_gib => {
                let message =
                    format!("Volume of size {size}GB is smaller than snapshot, expect size >= {least_gib}GB");
                Err(ApiError::new("InvalidBlockDeviceMapping", message))
            }
            None if mapping.snapshot.is_none() && mapping.device != root_device => Err(ApiError::new(
                "MissingParameter",
                "The request must contain the parameter size or snapshotId",
            )),
            _ => Ok(()),
        }
    }

    fn check_quota(&self, market: Market) -> Result<(), ApiError> {
        let (limit, code) = match market {
            Market::Spot => (self.settings.spot_limit, "MaxSpotInstanceCountExceeded"),
            Market::OnDemand => (self.settings.on_demand_limit, "VcpuLimitExceeded"),
        };
        let Some(limit) = limit else { return Ok(()) };
        let live = self.instances.values().filter(|i| i.market == market && !i.state.is_over()).count();
        if live < limit as usize {
            return Ok(());
        }
        Err(ApiError::new(code, format!("You have {live} of {limit} {market} instances")))
    }

    fn launch(&mut self, request: &RunInstances, plan: Plan) -> Result<InstanceId, ApiError> {
        let id = InstanceId::parse(&self.fresh("i-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.instances.insert(
            id.clone(),
            Instance {
                id: id.clone(),
                state: InstanceState::Pending,
                state_reason: None,
                instance_type: request.instance_type.clone(),
                zone: plan.zone.clone(),
                subnet: plan.subnet.clone(),
                market: request.market,
                image: request.image.clone(),
                root_device: plan.root_device.clone(),
                volumes: BTreeSet::new(),
                interfaces: BTreeSet::new(),
                spot_request: None,
                client_token: request.client_token.clone(),
                user_data: request.user_data.clone(),
                launched_at_ms: self.now_ms,
                visible_at_ms,
                reclaim_at_ms: None,
                silenced: false,
                tags: request.tags.clone(),
            },
        );
        match &request.placement {
            Placement::Existing(interface) => self.plug(interface, &id, 0, false),
            Placement::New { subnet, groups, private_ip } => {
                let interface = self.make_interface(subnet, groups, *private_ip, &request.tags)?;
                self.plug(&interface, &id, 0, true);
            }
        }
        self.make_launch_volumes(request, &plan, &id);
        if request.market == Market::Spot {
            self.make_spot_request(&id, &request.tags);
        }
        self.tell(&id, Happening::Changed(InstanceState::Pending));
        let transition = match self.failing_launches.pop_front() {
            Some(reason) => Transition::LaunchFails(id.clone(), reason),
            None => Transition::Running(id.clone()),
        };
        self.after(self.settings.latencies.start, transition);
        Ok(id)
    }

    /// The root, and what else is mapped. All of them go with the instance unless told otherwise (documented).
    fn make_launch_volumes(&mut self, request: &RunInstances, plan: &Plan, instance: &InstanceId) {
        let mut mappings = request.devices.clone();
        if !mappings.iter().any(|mapping| mapping.device == plan.root_device) {
            mappings
                .insert(0, DeviceMapping { device: plan.root_device.clone(), ..DeviceMapping::default() });
        }
        for mapping in mappings {
            let snapshot = if mapping.device == plan.root_device {
                Some(plan.root_snapshot.clone())
            } else {
                mapping.snapshot
            };
            let source = snapshot.as_ref().and_then(|id| self.snapshots.get(id));
            let content = source.map(|s| s.content.clone()).unwrap_or_default();
            let size_gib = mapping.size_gib.or(source.map(|s| s.size_gib)).unwrap_or(1);
            let id = VolumeId::parse(&self.fresh("vol-")).expect("BUG: made to fit");
            let visible_at_ms = self.known_at();
            self.scheduled += 1;
            self.volumes.insert(
                id.clone(),
                Volume {
                    id: id.clone(),
                    state: VolumeState::InUse,
                    zone: plan.zone.clone(),
                    size_gib,
                    volume_type: mapping.volume_type.unwrap_or_else(|| "gp3".to_owned()),
                    snapshot,
                    attachment: Some(Attachment {
                        instance: instance.clone(),
                        device: mapping.device,
                        state: AttachmentState::Attaching,
                        delete_on_termination: mapping.delete_on_termination.unwrap_or(true),
                        mounted: true,
                        serial: self.scheduled,
                    }),
                    held_by: None,
                    snapshot_taken_at_ms: None,
                    created_at_ms: self.now_ms,
                    visible_at_ms,
                    content,
                    tags: request.tags.clone(),
                },
            );
            self.instances.get_mut(instance).expect("BUG: just launched").volumes.insert(id);
        }
    }

    fn make_spot_request(&mut self, instance: &InstanceId, tags: &Tags) {
        let id = SpotRequestId::parse(&self.fresh("sir-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.spot_requests.insert(
            id.clone(),
            SpotRequest {
                id: id.clone(),
                state: "active",
                status: "fulfilled",
                instance: instance.clone(),
                created_at_ms: self.now_ms,
                visible_at_ms,
                tags: tags.clone(),
            },
        );
        self.instances.get_mut(instance).expect("BUG: just launched").spot_request = Some(id);
    }

    /// TerminateInstances for one instance; again is as good as once (documented).
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, which does not prove that it is not there.
    pub fn terminate_instances(&mut self, now_ms: u64, id: &InstanceId) -> Result<InstanceState, ApiError> {
        self.begin(now_ms, "TerminateInstances")?;
        let instance = self.known_instance(id)?;
        if !instance.state.is_over() {
            let status = match instance.reclaim_at_ms {
                Some(_) => "instance-terminated-no-capacity",
                None => "instance-terminated-by-user",
            };
            self.shut_down(id, "Client.UserInitiatedShutdown");
            self.close_spot_request(id, status);
        }
        Ok(self.instances[id].state)
    }

    /// ModifyInstanceAttribute: DeleteOnTermination of one device.
    ///
    /// # Errors
    /// IncorrectInstanceState when it is terminated, InvalidInstanceAttributeValue for a device with no volume.
    pub fn modify_delete_on_termination(
        &mut self,
        now_ms: u64,
        id: &InstanceId,
        devices: &[(String, bool)],
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyInstanceAttribute")?;
        let instance = self.known_instance(id)?;
        if instance.state == InstanceState::Terminated {
            return Err(ApiError::new(
                "IncorrectInstanceState",
                format!("The instance '{id}' is terminated"),
            ));
        }
        let mut found = Vec::new();
        for (device, value) in devices {
            let volume = self.volume_at(instance, device).ok_or_else(|| {
                ApiError::new(
                    "InvalidInstanceAttributeValue",
                    format!("No device is currently mapped at {device}"),
                )
            })?;
            found.push((volume.id.clone(), *value));
        }
        for (volume, value) in found {
            if let Some(attachment) = self.volumes.get_mut(&volume).and_then(|v| v.attachment.as_mut()) {
                attachment.delete_on_termination = value;
            }
        }
        Ok(())
    }

    /// CancelSpotInstanceRequests for one request. The instance goes on.
    ///
    /// # Errors
    /// InvalidSpotInstanceRequestID.NotFound.
    pub fn cancel_spot_request(&mut self, now_ms: u64, id: &SpotRequestId) -> Result<(), ApiError> {
        self.begin(now_ms, "CancelSpotInstanceRequests")?;
        let now_ms = self.now_ms;
        match self.spot_requests.get_mut(id) {
            Some(request) if request.visible_at_ms <= now_ms => {
                if request.state == "active" {
                    request.state = "cancelled";
                    if request.status == "fulfilled" {
                        request.status = "request-canceled-and-instance-running";
                    }
                }
                Ok(())
            }
            _ => Err(ApiError::new(
                "InvalidSpotInstanceRequestID.NotFound",
                format!("The spot instance request ID '{id}' does not exist"),
            )),
        }
    }

    /// Makes the next launch answer well and then end as `terminated` with this reason's code, such as
    /// `Server.InternalError` or `Client.InternalError`.
    pub fn fail_next_launch(&mut self, reason: &str) {
        self.failing_launches.push_back(reason.to_owned());
    }

    pub(super) fn volume_at(&self, instance: &Instance, device: &str) -> Option<&Volume> {
        instance
            .volumes
            .iter()
            .filter_map(|id| self.volumes.get(id))
            .find(|volume| volume.attachment.as_ref().is_some_and(|attachment| attachment.device == device))
    }

    pub(super) fn starts_running(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.state != InstanceState::Pending {
            return;
        }
        instance.state = InstanceState::Running;
        let volumes = ids_of(&instance.volumes);
        for volume in volumes {
            if let Some(attachment) = self.volumes.get_mut(&volume).and_then(|v| v.attachment.as_mut()) {
                attachment.state = AttachmentState::Attached;
            }
        }
        self.tell(id, Happening::Changed(InstanceState::Running));
    }

    /// From `pending` straight to `terminated`.
    pub(super) fn fails_to_launch(&mut self, id: &InstanceId, reason: &str) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.state != InstanceState::Pending {
            return;
        }
        instance.state_reason = Some(reason.to_owned());
        self.close_spot_request(id, "instance-terminated-launch-failed");
        self.end(id);
    }

    pub(super) fn shut_down(&mut self, id: &InstanceId, reason: &str) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.state.is_over() {
            return;
        }
        instance.state = InstanceState::ShuttingDown;
        instance.state_reason = Some(reason.to_owned());
        instance.reclaim_at_ms = None;
        self.tell(id, Happening::Changed(InstanceState::ShuttingDown));
        self.after(self.settings.latencies.shutdown, Transition::Terminated(id.clone()));
    }

    pub(super) fn is_terminated(&mut self, id: &InstanceId) {
        if self.instances.get(id).is_some_and(|instance| instance.state == InstanceState::ShuttingDown) {
            self.end(id);
        }
    }

    fn end(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.state = InstanceState::Terminated;
        let by_user = instance.state_reason.as_deref() == Some("Client.UserInitiatedShutdown");
        let pool = (instance.instance_type.clone(), instance.zone.clone(), instance.market);
        if let (true, Some(Capacity::Free(free))) = (by_user, self.capacity.get_mut(&pool)) {
            *free += 1;
        }
        self.tell(id, Happening::Changed(InstanceState::Terminated));
        self.after(self.settings.latencies.memory, Transition::Forgotten(id.clone()));
        self.after(self.settings.latencies.release, Transition::Released(id.clone()));
    }

    /// Volumes and interfaces are deleted or become free.
    pub(super) fn is_released(&mut self, id: &InstanceId) {
        self.abandon_root_tasks(id);
        let Some(instance) = self.instances.get_mut(id) else { return };
        let volumes = std::mem::take(&mut instance.volumes);
        let interfaces = std::mem::take(&mut instance.interfaces);
        for volume in volumes {
            self.release_volume(&volume);
        }
        for interface in interfaces {
            self.release_interface(&interface);
        }
    }

    pub(super) fn is_forgotten(&mut self, id: &InstanceId) {
        self.root_tasks.retain(|_, task| task.instance != *id);
        if let Some(instance) = self.instances.remove(id)
            && let Some(request) = instance.spot_request
        {
            self.spot_requests.remove(&request);
        }
    }

    pub(super) fn close_spot_request(&mut self, id: &InstanceId, status: &'static str) {
        let request = self.instances.get(id).and_then(|instance| instance.spot_request.clone());
        if let Some(request) = request.and_then(|request| self.spot_requests.get_mut(&request)) {
            request.status = status;
            if request.state == "active" {
                request.state = "closed";
            }
        }
    }
}
