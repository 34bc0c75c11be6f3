//! RunInstances, TerminateInstances, ModifyInstanceAttribute, CancelSpotInstanceRequests, and an instance's
//! life.

use std::collections::{BTreeMap, BTreeSet};

use perennial_workers::port::{AttachmentState, ImageState, InstanceView, VolumeState};
use perennial_workflows::model::aws::{
    InstanceId, InstanceState, Market, SnapshotId, SpotRequestId, SubnetId, VolumeId,
};

use super::events::Happening;
use super::network::INTERFACES_MAX;
use super::requests::{DeviceMapping, Placement, RunInstances, SpotKind};
use super::settings::{Capacity, Span};
use super::state::{Attachment, Instance, SpotRequest, Volume};
use super::stops::{RESTART_AGAIN_MS, transition_reason};
use super::{ApiError, Transition, World, ids_of, mismatch, volume_types};

/// The most instances of one call.
const LAUNCH_MAX: usize = 1000;
/// A forced termination to its end (guess).
const FORCED_SHUTDOWN: Span = Span::ms(5_000, 30_000);
/// Until a persistent spot request launches again (guess).
const RESPAWN_MS: u64 = 10_000;

/// How instances are terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Termination {
    /// The operating system shuts down first.
    Orderly,
    /// With `Force` or `SkipOsShutdown`.
    Forced,
}

/// The parts of a launch, after every check.
#[derive(Clone)]
struct Plan {
    zone: String,
    subnet: SubnetId,
    root_device: String,
    root_snapshot: SnapshotId,
    /// The image's, overridden by the request's.
    devices: Vec<DeviceMapping>,
}

impl World {
    /// RunInstances. The token's scope is the zone (documented).
    ///
    /// # Errors
    /// EC2's: idempotency, unknown or pending image, root snapshot override, interface in use, zone, type,
    /// quota, capacity.
    pub fn run_instances(&mut self, now_ms: u64, request: &RunInstances) -> Result<InstanceView, ApiError> {
        let ids = self.launch_instances(now_ms, request)?;
        let instance = ids.first().and_then(|id| self.instances.get(id)).expect("BUG: just launched");
        Ok(self.instance_view(instance))
    }

    /// RunInstances with `MinCount` and `MaxCount`: at least one id, all of one reservation.
    ///
    /// # Errors
    /// As [`run_instances`](Self::run_instances).
    pub fn launch_instances(
        &mut self,
        now_ms: u64,
        request: &RunInstances,
    ) -> Result<Vec<InstanceId>, ApiError> {
        const ACTION: &str = "RunInstances";
        self.begin_counted(now_ms, ACTION, u64::from(request.more.count_max.max(1)))?;
        let scope = request.zone.clone().unwrap_or_default();
        let parameters = format!("{request:?}");
        if let Some(ids) = self.replayed(ACTION, &scope, &request.client_token, &parameters)? {
            return self.launched_before(&ids, &request.client_token);
        }
        if let Some((id, version)) = &request.more.template {
            self.template(Some(id), None)?.version(Some(version))?;
        }
        let ids = self.launch_counted(request)?;
        let answer = ids.iter().map(InstanceId::as_str).collect::<Vec<_>>().join(",");
        self.remember(ACTION, &scope, &request.client_token, parameters, &answer);
        Ok(ids)
    }

    /// As many as there is quota and capacity for, or none when that is less than `MinCount`.
    pub(super) fn launch_counted(&mut self, request: &RunInstances) -> Result<Vec<InstanceId>, ApiError> {
        let plan = self.plan_launch(request)?;
        let least = request.more.count_min.max(1) as usize;
        let most = (request.more.count_max.max(1) as usize).max(least);
        if most > LAUNCH_MAX {
            let message = format!("You have requested more instances ({most}) than {LAUNCH_MAX}");
            return Err(ApiError::new("InstanceLimitExceeded", message));
        }
        let addresses = self.addresses_for(request);
        if addresses < least {
            let message = format!("There are not enough free addresses in subnet '{}'", plan.subnet);
            return Err(ApiError::new("InsufficientFreeAddressesInSubnet", message));
        }
        let most = most.min(addresses);
        let before = self.capacity.clone();
        let mut granted = 0;
        while granted < most {
            let next = self.check_quota(request, granted);
            let next =
                next.and_then(|()| self.take_capacity(&request.instance_type, &plan.zone, request.market));
            match next {
                Ok(()) => granted += 1,
                Err(_) if granted >= least => break,
                Err(refusal) => {
                    self.capacity = before;
                    return Err(refusal);
                }
            }
        }
        let mut ids: Vec<InstanceId> = Vec::new();
        for _ in 0..granted {
            let id = self.launch(request, plan.clone(), &ids, None)?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// A persistent spot request launches again.
    pub(super) fn respawns(&mut self, id: &SpotRequestId) {
        let Some(request) = self.spot_requests.get(id).filter(|request| request.state == "open") else {
            return;
        };
        let mut launch = request.launch.clone();
        launch.client_token.clear();
        let plan = self.plan_launch(&launch).and_then(|plan| {
            self.check_quota(&launch, 0)?;
            if self.addresses_for(&launch) == 0 {
                return Err(ApiError::new("InsufficientFreeAddressesInSubnet", "no address is free"));
            }
            self.take_capacity(&launch.instance_type, &plan.zone, launch.market)?;
            Ok(plan)
        });
        if let Err(refusal) = plan.and_then(|plan| self.launch(&launch, plan, &[], Some(id))) {
            if let Some(request) = self.spot_requests.get_mut(id) {
                let code = if refusal.code == "InsufficientInstanceCapacity" {
                    "capacity-not-available"
                } else {
                    "constraint-not-fulfillable"
                };
                request.status = code.into();
            }
            self.at(self.now_ms + RESTART_AGAIN_MS, Transition::Respawn(id.clone()));
        }
    }

    /// Whether RunInstances would be allowed (`DryRun`): everything is checked but quota and capacity.
    ///
    /// # Errors
    /// As [`run_instances`](Self::run_instances).
    pub fn may_run_instances(&mut self, now_ms: u64, request: &RunInstances) -> Result<(), ApiError> {
        self.begin(now_ms, "RunInstances")?;
        self.plan_launch(request).map(|_| ())
    }

    fn launched_before(&self, ids: &str, token: &str) -> Result<Vec<InstanceId>, ApiError> {
        let ids: Vec<_> =
            ids.split(',').map(InstanceId::parse).collect::<Result<_, _>>().map_err(|_| mismatch(token))?;
        for id in &ids {
            if self.instances.get(id).is_none_or(|instance| instance.state == InstanceState::Terminated) {
                return Err(ApiError::new(
                    "IdempotentInstanceTerminated",
                    format!("The instance {id} that client token {token} launched is terminated"),
                ));
            }
        }
        Ok(ids)
    }

    fn plan_launch(&self, request: &RunInstances) -> Result<Plan, ApiError> {
        let image = self.known_image(&request.image)?;
        if image.state != ImageState::Available {
            let message = format!("The image id '[{}]' is pending, and cannot be run", image.id);
            return Err(ApiError::new("InvalidAMIID.Unavailable", message));
        }
        let root_device = image.traits.root_device.clone();
        let root = self.known_snapshot(&image.root_snapshot)?;
        for mapping in request.devices.iter().filter(|mapping| !mapping.suppressed) {
            self.check_mapping(mapping, &root_device, root.size_gib)?;
        }
        let names: BTreeSet<_> = request.devices.iter().map(|mapping| &mapping.device).collect();
        if names.len() != request.devices.len() {
            return Err(ApiError::new("InvalidBlockDeviceMapping", "A device name is mapped twice"));
        }
        let devices = merged(&image.devices, &request.devices);
        for mapping in &devices {
            self.check_launch_volume(mapping, &root_device, root.size_gib)?;
        }
        let Some(shape) = super::catalogue::Shape::of(&request.instance_type) else {
            let message = format!("Invalid value '{}' for InstanceType.", request.instance_type);
            return Err(ApiError::new("InvalidParameterValue", message));
        };
        if shape.architecture != image.traits.architecture {
            let message = format!(
                "The architecture '{}' of the specified instance type does not match the architecture '{}' of the specified AMI.",
                shape.architecture, image.traits.architecture
            );
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
            Placement::New { subnet, private_ip, groups } => {
                self.check_groups(groups)?;
                let subnet = self.known_subnet(subnet)?;
                match private_ip {
                    Some(address) => self.check_address(subnet, *address)?,
                    None => self.free_address(subnet).map(|_| ())?,
                }
                subnet.id.clone()
            }
        };
        let zone = self.known_subnet(&subnet)?.zone.clone();
        self.check_more_interfaces(request, &zone)?;
        if request.zone.as_ref().is_some_and(|asked| *asked != zone) {
            let message = format!("The subnet is in {zone}, the placement says otherwise");
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        Ok(Plan { zone, subnet, root_device, root_snapshot: root.id.clone(), devices })
    }

    fn check_more_interfaces(&self, request: &RunInstances, zone: &str) -> Result<(), ApiError> {
        let more = &request.more.interfaces;
        let refuse = |code: &str, message: String| Err(ApiError::new(code, message));
        let all = || std::iter::once(&request.placement).chain(more.iter().map(|one| &one.placement));
        let named = || all().filter(|one| !matches!(one, Placement::New { private_ip: None, .. }));
        if request.more.count_max.max(request.more.count_min) > 1 && named().next().is_some() {
            let message = "An interface or an address can be given to one instance only".to_owned();
            return refuse("InvalidParameterCombination", message);
        }
        if more.len() + 1 > INTERFACES_MAX {
            return refuse("AttachmentLimitExceeded", format!("at most {INTERFACES_MAX} interfaces"));
        }
        let indexes: BTreeSet<_> = more.iter().map(|one| one.device_index).chain([0]).collect();
        if indexes.len() <= more.len() {
            return refuse("InvalidParameterValue", "a device index is given twice".to_owned());
        }
        let names: Vec<_> = named().map(|one| format!("{one:?}")).collect();
        if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
            return refuse("InvalidParameterValue", "an interface or an address is given twice".to_owned());
        }
        for one in more {
            let subnet = match &one.placement {
                Placement::Existing(id) => {
                    let interface = self.known_interface(id)?;
                    if interface.attachment.is_some() {
                        return refuse("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use."));
                    }
                    interface.subnet.clone()
                }
                Placement::New { subnet, private_ip, groups } => {
                    self.check_groups(groups)?;
                    if let Some(address) = private_ip {
                        self.check_address(self.known_subnet(subnet)?, *address)?;
                    }
                    subnet.clone()
                }
            };
            if self.known_subnet(&subnet)?.zone != zone {
                return refuse("InvalidParameterValue", "The interfaces are in different zones".to_owned());
            }
        }
        Ok(())
    }

    /// How many instances there are addresses for.
    fn addresses_for(&self, request: &RunInstances) -> usize {
        let placements = std::iter::once(&request.placement)
            .chain(request.more.interfaces.iter().map(|one| &one.placement));
        let mut needed: BTreeMap<&SubnetId, usize> = BTreeMap::new();
        for placement in placements {
            if let Placement::New { subnet, .. } = placement {
                *needed.entry(subnet).or_default() += 1;
            }
        }
        let free = |subnet: &SubnetId| {
            self.subnets.get(subnet).map_or(0, |subnet| self.free_addresses(subnet) as usize)
        };
        let least = needed.iter().map(|(subnet, each)| free(subnet) / each).min();
        least.unwrap_or(usize::MAX)
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

    /// What the type of a launch's volume does not permit.
    fn check_launch_volume(
        &self,
        mapping: &DeviceMapping,
        root_device: &str,
        root_gib: u32,
    ) -> Result<(), ApiError> {
        let kind = mapping.volume_type.as_deref().unwrap_or("gp3");
        if mapping.throughput.is_some() && kind != "gp3" {
            let device = &mapping.device;
            let message = format!("throughput cannot be specified with the volumeType of device '{device}'");
            return Err(ApiError::new("InvalidBlockDeviceMapping", message));
        }
        let of_snapshot = mapping.snapshot.as_ref().and_then(|id| self.snapshots.get(id)).map(|s| s.size_gib);
        let usual = if mapping.device == root_device { Some(root_gib) } else { of_snapshot };
        let size_gib = mapping.size_gib.or(usual).unwrap_or(1);
        volume_types::check(kind, size_gib, mapping.iops, mapping.throughput)
    }

    fn launch(
        &mut self,
        request: &RunInstances,
        plan: Plan,
        launched: &[InstanceId],
        spot_request: Option<&SpotRequestId>,
    ) -> Result<InstanceId, ApiError> {
        let id = InstanceId::parse(&self.fresh("i-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        let first = launched.first().unwrap_or(&id).as_str();
        let reservation = format!("r-{}", first.trim_start_matches("i-"));
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
                key_name: request.key_name.clone(),
                instance_profile: request.instance_profile.clone(),
                reservation,
                launch_index: launched.len() as u32,
                transition_reason: String::new(),
                protected: request.more.protected,
                stop_protected: request.more.stop_protected,
                monitoring: request.more.monitoring,
                ebs_optimized: request.more.ebs_optimized,
                metadata: request.more.metadata.clone(),
                occupies: true,
                running_since_ms: None,
                ever_ran: false,
                agentless: false,
                rebalance_at_ms: None,
                impaired: false,
                impaired_since_ms: None,
                uefi_data: self.images.get(&request.image).and_then(|image| image.uefi_data.clone()),
                launched_at_ms: self.now_ms,
                visible_at_ms,
                reclaim_at_ms: None,
                silenced: false,
                tags: request.tags.instance.clone(),
            },
        );
        self.plug_launch_interfaces(request, &id)?;
        self.make_launch_volumes(request, &plan, &id);
        if request.market == Market::Spot {
            match spot_request {
                Some(request) => self.fulfil_again(request, &id),
                None => self.make_spot_request(&id, request),
            }
        }
        self.tell(&id, Happening::Changed(InstanceState::Pending));
        let transition = match self.failing_launches.pop_front() {
            Some(reason) => Transition::LaunchFails(id.clone(), reason),
            // EC2 tells it of an instance that was pending.
            None if self.is_storage_exceeded() => {
                Transition::LaunchFails(id.clone(), "Client.VolumeLimitExceeded".to_owned())
            }
            None => Transition::Running(id.clone()),
        };
        self.after(self.settings.latencies.start, transition);
        Ok(id)
    }

    /// The primary interface, and the others that the request has.
    fn plug_launch_interfaces(&mut self, request: &RunInstances, id: &InstanceId) -> Result<(), ApiError> {
        match &request.placement {
            Placement::Existing(interface) => self.plug(interface, id, 0, false),
            Placement::New { subnet, groups, private_ip } => {
                let interface = self.make_interface(subnet, groups, *private_ip, &request.tags.interface)?;
                self.plug(&interface, id, 0, !request.more.keeps_interface);
            }
        }
        for more in &request.more.interfaces {
            let interface = match &more.placement {
                Placement::Existing(interface) => interface.clone(),
                Placement::New { subnet, groups, private_ip } => {
                    self.make_interface(subnet, groups, *private_ip, &request.tags.interface)?
                }
            };
            self.plug(&interface, id, more.device_index, more.delete_on_termination);
        }
        Ok(())
    }

    /// The root and the other mapped volumes. They are deleted with the instance unless the mapping says
    /// otherwise (documented).
    fn make_launch_volumes(&mut self, request: &RunInstances, plan: &Plan, instance: &InstanceId) {
        let mut mappings = plan.devices.clone();
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
            let encrypted = mapping.encrypted || source.is_some_and(|s| s.encrypted);
            let product_codes = source.map(|s| s.product_codes.clone()).unwrap_or_default();
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
                    iops: mapping.iops,
                    throughput: mapping.throughput,
                    encrypted,
                    product_codes,
                    snapshot,
                    multi_attach: false,
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
                    modification: None,
                    created_at_ms: self.now_ms,
                    visible_at_ms,
                    content,
                    tags: request.tags.volume.clone(),
                },
            );
            self.instances.get_mut(instance).expect("BUG: just launched").volumes.insert(id);
        }
    }

    fn make_spot_request(&mut self, instance: &InstanceId, launch: &RunInstances) {
        let id = SpotRequestId::parse(&self.fresh("sir-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.spot_requests.insert(
            id.clone(),
            SpotRequest {
                id: id.clone(),
                state: "active".into(),
                status: "fulfilled".into(),
                instance: Some(instance.clone()),
                kind: launch.more.spot,
                behaviour: launch.more.behaviour,
                launch: launch.clone(),
                created_at_ms: self.now_ms,
                visible_at_ms,
                tags: launch.tags.spot_request.clone(),
            },
        );
        self.instances.get_mut(instance).expect("BUG: just launched").spot_request = Some(id);
    }

    fn fulfil_again(&mut self, request: &SpotRequestId, instance: &InstanceId) {
        if let Some(found) = self.spot_requests.get_mut(request) {
            found.state = "active".into();
            found.status = "fulfilled".into();
            found.instance = Some(instance.clone());
        }
        self.instances.get_mut(instance).expect("BUG: just launched").spot_request = Some(request.clone());
    }

    /// TerminateInstances for one instance; repeating it succeeds (documented).
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, which does not prove that the instance does not exist.
    pub fn terminate_instances(&mut self, now_ms: u64, id: &InstanceId) -> Result<InstanceState, ApiError> {
        self.terminate_all(now_ms, std::slice::from_ref(id), Termination::Orderly)?;
        Ok(self.instances[id].state)
    }

    /// TerminateInstances: all, or none when one is unknown or protected. The states before, in order.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, OperationNotPermitted with termination protection.
    pub fn terminate_all(
        &mut self,
        now_ms: u64,
        ids: &[InstanceId],
        how: Termination,
    ) -> Result<Vec<InstanceState>, ApiError> {
        self.begin_counted(now_ms, "TerminateInstances", ids.len() as u64)?;
        for id in ids {
            if self.known_instance(id)?.protected {
                let message = format!(
                    "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
                );
                return Err(ApiError::new("OperationNotPermitted", message));
            }
        }
        let mut before = Vec::new();
        for id in ids {
            let instance = &self.instances[id];
            before.push(instance.state);
            if !instance.state.is_over() {
                let status = match instance.reclaim_at_ms {
                    Some(_) => "instance-terminated-no-capacity",
                    None => "instance-terminated-by-user",
                };
                self.shut_down(id, "Client.UserInitiatedShutdown");
                self.close_spot_request(id, status);
            }
            if how == Termination::Forced {
                self.hanging_shutdowns.remove(id);
                self.after(FORCED_SHUTDOWN, Transition::Terminated(id.clone()));
            }
        }
        Ok(before)
    }

    /// ModifyInstanceAttribute: `DisableApiTermination`.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound.
    pub fn modify_protection(
        &mut self,
        now_ms: u64,
        id: &InstanceId,
        protected: bool,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyInstanceAttribute")?;
        self.known_instance(id)?;
        if let Some(instance) = self.instances.get_mut(id) {
            instance.protected = protected;
        }
        Ok(())
    }

    /// ModifyInstanceAttribute: `DisableApiStop`.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound.
    pub fn modify_stop_protection(
        &mut self,
        now_ms: u64,
        id: &InstanceId,
        protected: bool,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyInstanceAttribute")?;
        self.known_instance(id)?;
        if let Some(instance) = self.instances.get_mut(id) {
            instance.stop_protected = protected;
        }
        Ok(())
    }

    /// ModifyInstanceMetadataOptions: by EC2's names; those that are not given stay.
    ///
    /// # Errors
    /// InvalidInstanceID.NotFound, IncorrectInstanceState for one that is over (a guess).
    pub fn modify_metadata(
        &mut self,
        now_ms: u64,
        id: &InstanceId,
        options: BTreeMap<String, String>,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyInstanceMetadataOptions")?;
        let state = self.known_instance(id)?.state;
        if state.is_over() {
            let message =
                format!("The instance '{id}' is not in a state from which this is possible: {state}");
            return Err(ApiError::new("IncorrectInstanceState", message));
        }
        if let Some(instance) = self.instances.get_mut(id) {
            instance.metadata.extend(options);
        }
        Ok(())
    }

    /// ModifyInstanceAttribute: DeleteOnTermination of one device.
    ///
    /// # Errors
    /// IncorrectInstanceState when it is terminated, InvalidInstanceAttributeValue for a device with no
    /// volume.
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
                if matches!(&*request.state, "active" | "open" | "disabled") {
                    request.state = "cancelled".into();
                    if request.status == "fulfilled" {
                        request.status = "request-canceled-and-instance-running".into();
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
        instance.running_since_ms = Some(self.now_ms);
        instance.ever_ran = true;
        let root_device = instance.root_device.clone();
        let volumes = ids_of(&instance.volumes);
        for volume in volumes {
            if let Some(attachment) = self.volumes.get_mut(&volume).and_then(|v| v.attachment.as_mut()) {
                attachment.mounted |= attachment.device == root_device;
                if attachment.state == AttachmentState::Attaching {
                    attachment.state = AttachmentState::Attached;
                }
            }
        }
        self.tell(id, Happening::Changed(InstanceState::Running));
        self.agent_fetches(id);
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
        let was_off = instance.state == InstanceState::Stopped;
        instance.state = InstanceState::ShuttingDown;
        instance.state_reason = Some(reason.to_owned());
        instance.transition_reason = transition_reason(reason, self.now_ms);
        instance.reclaim_at_ms = None;
        self.tell(id, Happening::Changed(InstanceState::ShuttingDown));
        self.drain_targets_of(id);
        let shutdown = if was_off { Span::ZERO } else { self.settings.latencies.shutdown };
        self.after(shutdown, Transition::Terminated(id.clone()));
    }

    /// From now on this instance stays in `shutting-down` until it is terminated by force.
    pub fn hang_shutdown(&mut self, id: &InstanceId) {
        self.hanging_shutdowns.insert(id.clone());
    }

    pub(super) fn is_terminated(&mut self, id: &InstanceId) {
        if self.hanging_shutdowns.contains(id) {
            return;
        }
        if self.instances.get(id).is_some_and(|instance| instance.state == InstanceState::ShuttingDown) {
            self.end(id);
        }
    }

    fn end(&mut self, id: &InstanceId) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.state = InstanceState::Terminated;
        let by_user = instance.state_reason.as_deref() == Some("Client.UserInitiatedShutdown");
        let pool = (instance.instance_type.clone(), instance.zone.clone(), instance.market);
        let occupied = std::mem::take(&mut instance.occupies);
        if let (true, Some(Capacity::Free(free))) = (by_user && occupied, self.capacity.get_mut(&pool)) {
            *free += 1;
        }
        self.drop_own_interfaces(id);
        self.tell(id, Happening::Changed(InstanceState::Terminated));
        self.after(self.settings.latencies.memory, Transition::Forgotten(id.clone()));
        self.after(self.settings.latencies.release, Transition::Released(id.clone()));
    }

    /// Volumes and interfaces are deleted or become free.
    pub(super) fn is_released(&mut self, id: &InstanceId) {
        self.abandon_root_tasks(id);
        let Some(instance) = self.instances.get_mut(id) else { return };
        let volumes = instance.volumes.clone();
        let interfaces = std::mem::take(&mut instance.interfaces);
        for volume in volumes {
            self.release_volume(&volume);
        }
        for interface in interfaces {
            self.release_interface(&interface);
        }
    }

    pub(super) fn is_forgotten(&mut self, id: &InstanceId) {
        // It is shown as long as a volume is attached to it.
        if self.instances.get(id).is_some_and(|instance| !instance.volumes.is_empty()) {
            self.after(self.settings.latencies.memory, Transition::Forgotten(id.clone()));
            return;
        }
        self.root_tasks.retain(|_, task| task.instance != *id);
        if let Some(instance) = self.instances.remove(id)
            && let Some(request) = instance.spot_request
            && self.spot_requests.get(&request).is_some_and(|found| found.instance.as_ref() == Some(id))
        {
            self.spot_requests.remove(&request);
        }
    }

    pub(super) fn close_spot_request(&mut self, id: &InstanceId, status: &'static str) {
        let request = self.instances.get(id).and_then(|instance| instance.spot_request.clone());
        let Some(request) = request.and_then(|request| self.spot_requests.get_mut(&request)) else { return };
        let open = matches!(&*request.state, "active" | "disabled");
        request.status = status.into();
        match request.kind {
            SpotKind::Persistent if open => {
                // Documented: it opens again after every termination of its instance, unless it was cancelled
                // first.
                request.state = "open".into();
                request.status = "pending-evaluation".into();
                request.instance = None;
                let id = request.id.clone();
                self.at(self.now_ms + RESPAWN_MS, Transition::Respawn(id));
            }
            SpotKind::OneTime if open => request.state = "closed".into(),
            SpotKind::OneTime | SpotKind::Persistent => {}
        }
    }
}

/// The image's devices with the request's values over them; devices that the image does not have come last.
fn merged(image: &[DeviceMapping], asked: &[DeviceMapping]) -> Vec<DeviceMapping> {
    let mut devices = image.to_vec();
    for mapping in asked {
        match devices.iter_mut().find(|device| device.device == mapping.device) {
            Some(device) => device.override_with(mapping),
            None => devices.push(mapping.clone()),
        }
    }
    devices.retain(|device| !device.suppressed);
    devices
}
