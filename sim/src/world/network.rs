//! Interfaces and private addresses.
//!
//! An address belongs to its new holder from the call on, and is shown by it a little later (documented as
//! asynchronous; no length is published). The loser loses it at once; that is a guess.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_workers::port::{InterfaceRequest, Tags};
use perennial_workflows::model::aws::{
    AttachmentId, GroupId, InstanceId, InstanceState, InterfaceId, SubnetId,
};

use super::settings::AddressOrder;
use super::state::{Interface, Plug, Subnet};
use super::{ApiError, Transition, World, mismatch};

/// Addresses of one interface: that of a common type (m5.2xlarge).
const ADDRESSES_MAX: usize = 15;
/// Interfaces of one instance: the same type's.
pub(super) const INTERFACES_MAX: usize = 4;

/// Whether an address may be taken from another interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reassignment {
    /// `AllowReassignment=true`: it moves.
    Allowed,
    /// It must be free.
    Refused,
}

impl Subnet {
    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.prefix))
    }

    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(u32::from(self.network)) < self.size()
    }

    /// Whether an address is one of its.
    #[must_use]
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        self.contains(address)
    }

    /// The first four and the last address are AWS's.
    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        offset < 4 || offset == self.size() - 1
    }

    /// Such as `172.31.0.0/20`.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("{}/{}", self.network, self.prefix)
    }
}

impl World {
    /// CreateNetworkInterface.
    ///
    /// # Errors
    /// EC2's: idempotency, subnet, address outside the subnet or taken, no free address.
    pub fn create_interface(
        &mut self,
        now_ms: u64,
        request: &InterfaceRequest,
    ) -> Result<InterfaceId, ApiError> {
        const ACTION: &str = "CreateNetworkInterface";
        self.begin(now_ms, ACTION)?;
        let parameters = format!("{request:?}");
        if let Some(id) = self.replayed(ACTION, "", &request.client_token, &parameters)? {
            let id = InterfaceId::parse(&id).map_err(|_| mismatch(&request.client_token))?;
            let known = self.interfaces.contains_key(&id);
            return if known { Ok(id) } else { Err(mismatch(&request.client_token)) };
        }
        self.check_interface_quota(1)?;
        let id = self.make_interface(&request.subnet, &request.groups, request.private_ip, &request.tags)?;
        self.remember(ACTION, "", &request.client_token, parameters, id.as_str());
        Ok(id)
    }

    pub(super) fn make_interface(
        &mut self,
        subnet: &SubnetId,
        groups: &[GroupId],
        private_ip: Option<Ipv4Addr>,
        tags: &Tags,
    ) -> Result<InterfaceId, ApiError> {
        self.check_groups(groups)?;
        let found = self.known_subnet(subnet)?;
        let primary_ip = match private_ip {
            Some(address) => {
                self.check_address(found, address)?;
                address
            }
            None => self.free_address(found)?,
        };
        let zone = found.zone.clone();
        let groups = if groups.is_empty() { vec![self.default_group.clone()] } else { groups.to_vec() };
        let id = InterfaceId::parse(&self.fresh("eni-")).expect("BUG: made to fit");
        let visible_at_ms = self.known_at();
        self.hold(primary_ip, &id);
        self.interfaces.insert(
            id.clone(),
            Interface {
                id: id.clone(),
                subnet: subnet.clone(),
                zone,
                groups,
                primary_ip,
                secondary_ips: Vec::new(),
                arriving: BTreeMap::new(),
                attachment: None,
                description: String::new(),
                visible_at_ms,
                tags: tags.clone(),
            },
        );
        Ok(id)
    }

    /// DeleteNetworkInterface.
    ///
    /// # Errors
    /// InvalidParameterValue while it is attached (that is EC2's code, seen in many reports).
    pub fn delete_interface(&mut self, now_ms: u64, id: &InterfaceId) -> Result<(), ApiError> {
        self.begin(now_ms, "DeleteNetworkInterface")?;
        if self.known_interface(id)?.attachment.is_some() {
            let message = format!("Network interface '{id}' is currently in use.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        self.remove_interface(id);
        Ok(())
    }

    fn remove_interface(&mut self, id: &InterfaceId) {
        if let Some(interface) = self.interfaces.remove(id) {
            self.disassociate_all_of(id);
            self.addresses.remove(&interface.primary_ip);
            for address in interface.secondary_ips.iter().chain(interface.arriving.keys()) {
                self.addresses.remove(address);
            }
        }
    }

    /// AttachNetworkInterface, at an index other than 0. Hot attaching takes no time here (no length is
    /// published).
    ///
    /// # Errors
    /// InvalidNetworkInterface.InUse, IncorrectInstanceState, InvalidParameterValue (index taken, other
    /// zone), AttachmentLimitExceeded.
    pub fn attach_interface(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
    ) -> Result<AttachmentId, ApiError> {
        self.begin(now_ms, "AttachNetworkInterface")?;
        let interface = self.known_interface(id)?;
        let holder = self.known_instance(instance)?;
        let refuse = |code: &str, message: String| Err(ApiError::new(code, message));
        if interface.attachment.is_some() {
            return refuse("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use."));
        }
        if !matches!(holder.state, InstanceState::Running | InstanceState::Stopped) {
            return refuse("IncorrectInstanceState", format!("Instance '{instance}' is {}.", holder.state));
        }
        if interface.zone != holder.zone {
            return refuse("InvalidParameterValue", "The interface is in another zone".to_owned());
        }
        if holder.interfaces.iter().any(|other| self.index_of(other) == Some(device_index)) {
            let message = format!("Instance '{instance}' already has an interface at index {device_index}.");
            return refuse("InvalidParameterValue", message);
        }
        if holder.interfaces.len() >= INTERFACES_MAX {
            return refuse("AttachmentLimitExceeded", format!("{INTERFACES_MAX} interfaces are attached"));
        }
        self.plug(id, instance, device_index, false);
        let plug = self.interfaces[id].attachment.as_ref();
        Ok(plug.expect("BUG: just attached").id.clone())
    }

    /// DetachNetworkInterface.
    ///
    /// # Errors
    /// InvalidAttachmentID.NotFound; OperationNotPermitted for a primary interface.
    pub fn detach_interface(&mut self, now_ms: u64, attachment: &AttachmentId) -> Result<(), ApiError> {
        self.begin(now_ms, "DetachNetworkInterface")?;
        let found = self
            .interfaces
            .values()
            .find_map(|i| i.attachment.as_ref().filter(|plug| plug.id == *attachment).map(|plug| (i, plug)));
        let Some((interface, plug)) = found else {
            return Err(no_attachment(attachment));
        };
        if plug.device_index == 0 {
            let message = format!("The network interface at device index 0 cannot be detached: {attachment}");
            return Err(ApiError::new("OperationNotPermitted", message));
        }
        let id = interface.id.clone();
        self.unplug(&id);
        Ok(())
    }

    /// ModifyNetworkInterfaceAttribute: DeleteOnTermination of one attachment.
    ///
    /// # Errors
    /// InvalidAttachmentID.NotFound when it is not, or no longer, attached so.
    pub fn modify_interface_delete_on_termination(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        attachment: &AttachmentId,
        value: bool,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyNetworkInterfaceAttribute")?;
        self.known_interface(id)?;
        match self.interfaces.get_mut(id).and_then(|interface| interface.attachment.as_mut()) {
            Some(plug) if plug.id == *attachment => {
                plug.delete_on_termination = value;
                Ok(())
            }
            _ => Err(no_attachment(attachment)),
        }
    }

    /// AssignPrivateIpAddresses for one address, or for one that the subnet chooses.
    ///
    /// # Errors
    /// InvalidParameterValue outside the subnet, or when it is the primary address of another interface;
    /// or held by another interface without reassignment (reports say this code, EC2's list has
    /// Resource.AlreadyAssigned); PrivateIpAddressLimitExceeded.
    pub fn assign_private_ip(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        address: Option<Ipv4Addr>,
        reassignment: Reassignment,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "AssignPrivateIpAddresses")?;
        let interface = self.known_interface(id)?;
        let subnet = self.known_subnet(&interface.subnet)?;
        let address = match address {
            Some(address) => {
                check_range(subnet, address)?;
                address
            }
            None => self.free_address(subnet)?,
        };
        let holder = self.addresses.get(&address).cloned();
        if holder.as_ref() == Some(id) {
            return Ok(());
        }
        let held = 1 + interface.secondary_ips.len() + interface.arriving.len();
        if held >= ADDRESSES_MAX {
            let message = format!("{id} has {held} addresses");
            return Err(ApiError::new("PrivateIpAddressLimitExceeded", message));
        }
        if let Some(holder) = holder {
            if self.interfaces.get(&holder).is_some_and(|loser| loser.primary_ip == address) {
                let message = format!("{address} is the primary address of {holder}");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            if reassignment == Reassignment::Refused {
                let message = format!("[{address}] assigned, but move is not allowed.");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            self.drop_address(&holder, address);
            self.association_follows(address, id);
        }
        self.hold(address, id);
        self.scheduled += 1;
        let serial = self.scheduled;
        self.interfaces.get_mut(id).expect("BUG: just found").arriving.insert(address, serial);
        let shows = Transition::AddressShows(id.clone(), address, serial);
        self.after(self.settings.latencies.move_address, shows);
        Ok(())
    }

    pub(super) fn address_shows(&mut self, id: &InterfaceId, address: Ipv4Addr, serial: u64) {
        if let Some(interface) = self.interfaces.get_mut(id)
            && interface.arriving.get(&address) == Some(&serial)
        {
            interface.arriving.remove(&address);
            interface.secondary_ips.push(address);
        }
    }

    /// UnassignPrivateIpAddresses for one address.
    ///
    /// # Errors
    /// InvalidParameterValue when it is not a secondary address of this interface (that code is a guess).
    pub fn unassign_private_ip(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        address: Ipv4Addr,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "UnassignPrivateIpAddresses")?;
        let interface = self.known_interface(id)?;
        if interface.primary_ip == address || self.addresses.get(&address) != Some(id) {
            let message = format!("{address} is not a secondary address of {id}");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        self.drop_address(id, address);
        self.addresses.remove(&address);
        self.disassociate_address_of(address);
        Ok(())
    }

    /// ModifyNetworkInterfaceAttribute: the security groups.
    ///
    /// # Errors
    /// InvalidGroup.NotFound.
    pub fn modify_interface_groups(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        groups: &[GroupId],
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyNetworkInterfaceAttribute")?;
        self.known_interface(id)?;
        self.check_groups(groups)?;
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.groups = groups.to_vec();
        }
        Ok(())
    }

    /// The description of an interface that was just created; the port does not carry it.
    pub fn name_interface(&mut self, id: &InterfaceId, description: &str) {
        if let Some(interface) = self.interfaces.get_mut(id) {
            description.clone_into(&mut interface.description);
        }
    }

    /// ModifyNetworkInterfaceAttribute: the description.
    ///
    /// # Errors
    /// InvalidNetworkInterfaceID.NotFound.
    pub fn modify_interface_description(
        &mut self,
        now_ms: u64,
        id: &InterfaceId,
        description: &str,
    ) -> Result<(), ApiError> {
        self.begin(now_ms, "ModifyNetworkInterfaceAttribute")?;
        self.known_interface(id)?;
        if let Some(interface) = self.interfaces.get_mut(id) {
            description.clone_into(&mut interface.description);
        }
        Ok(())
    }

    fn drop_address(&mut self, id: &InterfaceId, address: Ipv4Addr) {
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.arriving.remove(&address);
            interface.secondary_ips.retain(|held| *held != address);
        }
    }

    fn hold(&mut self, address: Ipv4Addr, id: &InterfaceId) {
        self.addresses.insert(address, id.clone());
        if let Some(subnet) = self.subnets.values_mut().find(|subnet| subnet.contains(address)) {
            // An address chosen by a caller lies behind the cursor as often as before it; released addresses
            // wait for their turn.
            let place = u32::from(address) - u32::from(subnet.network);
            if (place + subnet.size() - subnet.cursor) % subnet.size() < subnet.size() / 2 {
                subnet.cursor = (place + 1) % subnet.size();
            }
        }
    }

    /// That an address may become the primary one of a new interface.
    pub(super) fn check_address(&self, subnet: &Subnet, address: Ipv4Addr) -> Result<(), ApiError> {
        check_range(subnet, address)?;
        if self.addresses.contains_key(&address) {
            return Err(ApiError::new("InvalidIPAddress.InUse", format!("Address {address} is in use.")));
        }
        Ok(())
    }

    pub(super) fn free_address(&self, subnet: &Subnet) -> Result<Ipv4Addr, ApiError> {
        let none = || {
            ApiError::new(
                "InsufficientFreeAddressesInSubnet",
                format!("There are not enough free addresses in subnet '{}'", subnet.id),
            )
        };
        if self.free_addresses(subnet) == 0 {
            return Err(none());
        }
        let size = subnet.size();
        let network = u32::from(subnet.network);
        let first = match self.settings.addresses {
            AddressOrder::Next => subnet.cursor,
            AddressOrder::Scattered => {
                let chance = self.settings.seed.wrapping_add(self.ids.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                fastrand::Rng::with_seed(chance).u32(0..size)
            }
        };
        (0..size)
            .map(|step| Ipv4Addr::from(network + (first + step) % size))
            .find(|address| !subnet.is_reserved(*address) && !self.addresses.contains_key(address))
            .ok_or_else(none)
    }

    /// Others take addresses of a subnet, or give them back, until so many are free.
    pub fn leave_free_addresses(&mut self, id: &SubnetId, free: u32) {
        let Some(subnet) = self.subnets.get(id) else { return };
        let subnet = Subnet { taken: 0, ..subnet.clone() };
        let taken = self.free_addresses(&subnet).saturating_sub(free);
        self.subnets.insert(id.clone(), Subnet { taken, ..subnet });
    }

    fn index_of(&self, id: &InterfaceId) -> Option<u32> {
        self.interfaces.get(id)?.attachment.as_ref().map(|plug| plug.device_index)
    }

    pub(super) fn plug(
        &mut self,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
        delete_on_termination: bool,
    ) {
        let plug = AttachmentId::parse(&self.fresh("eni-attach-")).expect("BUG: made to fit");
        if let (Some(interface), Some(holder)) =
            (self.interfaces.get_mut(id), self.instances.get_mut(instance))
        {
            interface.attachment =
                Some(Plug { id: plug, instance: instance.clone(), device_index, delete_on_termination });
            holder.interfaces.insert(id.clone());
        }
    }

    fn unplug(&mut self, id: &InterfaceId) -> Option<Plug> {
        let plug = self.interfaces.get_mut(id)?.attachment.take()?;
        if let Some(holder) = self.instances.get_mut(&plug.instance) {
            holder.interfaces.remove(id);
        }
        Some(plug)
    }

    /// Interfaces that die with their instance are gone when it is `terminated`, and their addresses free;
    /// those that outlive it are let go with the volumes, a little later. Neither order is documented.
    pub(super) fn drop_own_interfaces(&mut self, instance: &InstanceId) {
        let Some(holder) = self.instances.get(instance) else { return };
        let own = holder.interfaces.iter().filter(|id| {
            let plug = self.interfaces.get(id).and_then(|interface| interface.attachment.as_ref());
            plug.is_some_and(|plug| plug.delete_on_termination)
        });
        for id in own.cloned().collect::<Vec<_>>() {
            self.release_interface(&id);
        }
    }

    /// The instance is gone: the interface goes with it, or is free.
    pub(super) fn release_interface(&mut self, id: &InterfaceId) {
        if self.unplug(id).is_some_and(|plug| plug.delete_on_termination) {
            self.remove_interface(id);
        }
    }
}

fn check_range(subnet: &Subnet, address: Ipv4Addr) -> Result<(), ApiError> {
    if subnet.contains(address) && !subnet.is_reserved(address) {
        Ok(())
    } else {
        let message = format!("Address {address} does not fall within the subnet's address range");
        Err(ApiError::new("InvalidParameterValue", message))
    }
}

fn no_attachment(attachment: &AttachmentId) -> ApiError {
    ApiError::new("InvalidAttachmentID.NotFound", format!("The attachment '{attachment}' does not exist"))
}
