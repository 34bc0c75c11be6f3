//! Elastic addresses. An association names an interface and one of its private addresses; it outlives the
//! instance when the interface does, and follows a private address that moves (EC2 User Guide,
//! AssignPrivateIpAddresses).

use std::net::Ipv4Addr;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, InstanceState, InterfaceId};

use super::state::{Association, Elastic};
use super::{ApiError, Reassignment, World};

/// Addresses of one account and region. The default quota is 5; rehearsals need more.
const ELASTIC_MAX: usize = 1000;
/// The network they come from: one of those reserved for benchmarks, so that none leads anywhere (RFC 2544).
const ELASTIC_NETWORK: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// The target of an Elastic address.
#[derive(Debug, Clone)]
pub enum Destination {
    /// The primary interface of an instance.
    Instance(InstanceId),
    /// An interface.
    Interface(InterfaceId),
}

impl World {
    /// AllocateAddress.
    ///
    /// # Errors
    /// AddressLimitExceeded.
    pub fn allocate_address(&mut self, now_ms: u64, tags: &Tags) -> Result<String, ApiError> {
        self.begin(now_ms, "AllocateAddress")?;
        if self.elastic.len() >= ELASTIC_MAX {
            let message = "The maximum number of addresses has been reached.";
            return Err(ApiError::new("AddressLimitExceeded", message));
        }
        let network = u32::from(ELASTIC_NETWORK);
        let address = (1..=0xfffe)
            .map(|n| Ipv4Addr::from(network + n))
            .find(|address| !self.elastic.values().any(|known| known.address == *address))
            .expect("BUG: more addresses than may be allocated");
        let id = self.fresh("eipalloc-");
        let elastic = Elastic { id: id.clone(), address, association: None, tags: tags.clone() };
        self.elastic.insert(id.clone(), elastic);
        Ok(id)
    }

    /// ReleaseAddress.
    ///
    /// # Errors
    /// InvalidAllocationID.NotFound, InvalidIPAddress.InUse while it is associated.
    pub fn release_address(&mut self, now_ms: u64, id: &str) -> Result<(), ApiError> {
        self.begin(now_ms, "ReleaseAddress")?;
        let elastic = self.known_elastic(id)?;
        if elastic.association.is_some() {
            let message = format!("Address {} is in use.", elastic.address);
            return Err(ApiError::new("InvalidIPAddress.InUse", message));
        }
        self.elastic.remove(id);
        Ok(())
    }

    /// AssociateAddress; repeating an association succeeds without effect (documented as idempotent).
    ///
    /// # Errors
    /// InvalidAllocationID.NotFound, Resource.AlreadyAssociated without reassociation, IncorrectInstanceState
    /// for an instance that is pending or over, InvalidParameterValue for an address that the interface has
    /// not.
    pub fn associate_address(
        &mut self,
        now_ms: u64,
        id: &str,
        destination: &Destination,
        private_ip: Option<Ipv4Addr>,
        reassociation: Reassignment,
    ) -> Result<String, ApiError> {
        self.begin(now_ms, "AssociateAddress")?;
        let elastic = self.known_elastic(id)?;
        let interface = match destination {
            Destination::Interface(interface) => self.known_interface(interface)?,
            Destination::Instance(instance) => self.primary_interface(instance)?,
        };
        let private_ip = private_ip.unwrap_or(interface.primary_ip);
        let held = std::iter::once(&interface.primary_ip)
            .chain(&interface.secondary_ips)
            .chain(interface.arriving.keys());
        if !held.clone().any(|address| *address == private_ip) {
            let message = format!("{private_ip} is not assigned to {}", interface.id);
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        let interface = interface.id.clone();
        if let Some(association) = &elastic.association {
            if association.interface == interface && association.private_ip == private_ip {
                return Ok(association.id.clone());
            }
            if reassociation == Reassignment::Refused {
                let message =
                    format!("resource {id} is already associated with associate-id {}", association.id);
                return Err(ApiError::new("Resource.AlreadyAssociated", message));
            }
        }
        let other = self.elastic.values().any(|other| {
            other.id != id && other.association.as_ref().is_some_and(|a| a.private_ip == private_ip)
        });
        if other && reassociation == Reassignment::Refused {
            let message = format!("resource {interface} is already associated");
            return Err(ApiError::new("Resource.AlreadyAssociated", message));
        }
        self.disassociate_address_of(private_ip);
        let association = self.fresh("eipassoc-");
        if let Some(elastic) = self.elastic.get_mut(id) {
            elastic.association = Some(Association { id: association.clone(), interface, private_ip });
        }
        Ok(association)
    }

    /// DisassociateAddress.
    ///
    /// # Errors
    /// InvalidAssociationID.NotFound.
    pub fn disassociate_address(&mut self, now_ms: u64, association: &str) -> Result<(), ApiError> {
        self.begin(now_ms, "DisassociateAddress")?;
        let found = self
            .elastic
            .values_mut()
            .find(|elastic| elastic.association.as_ref().is_some_and(|known| known.id == association));
        match found {
            Some(elastic) => {
                elastic.association = None;
                Ok(())
            }
            None => Err(ApiError::new(
                "InvalidAssociationID.NotFound",
                format!("The association ID '{association}' does not exist"),
            )),
        }
    }

    /// An Elastic address.
    ///
    /// # Errors
    /// InvalidAllocationID.NotFound.
    pub fn known_elastic(&self, id: &str) -> Result<&Elastic, ApiError> {
        self.elastic.get(id).ok_or_else(|| {
            let message = format!("The allocation ID '{id}' does not exist");
            ApiError::new("InvalidAllocationID.NotFound", message)
        })
    }

    /// The Elastic address that leads to a private address.
    #[must_use]
    pub fn elastic_of(&self, private_ip: Ipv4Addr) -> Option<&Elastic> {
        self.elastic
            .values()
            .find(|elastic| elastic.association.as_ref().is_some_and(|known| known.private_ip == private_ip))
    }

    fn primary_interface(&self, id: &InstanceId) -> Result<&super::state::Interface, ApiError> {
        let instance = self.known_instance(id)?;
        if !matches!(
            instance.state,
            InstanceState::Running | InstanceState::Stopping | InstanceState::Stopped
        ) {
            let message = format!("The instance '{id}' is {}, which does not allow this", instance.state);
            return Err(ApiError::new("IncorrectInstanceState", message));
        }
        let interfaces = instance.interfaces.iter().filter_map(|id| self.interfaces.get(id));
        let mut primary =
            interfaces.filter(|i| i.attachment.as_ref().is_some_and(|plug| plug.device_index == 0));
        primary.next().ok_or_else(|| ApiError::new("InvalidParameterValue", format!("{id} has no interface")))
    }

    pub(super) fn disassociate_address_of(&mut self, private_ip: Ipv4Addr) {
        for elastic in self.elastic.values_mut() {
            if elastic.association.as_ref().is_some_and(|known| known.private_ip == private_ip) {
                elastic.association = None;
            }
        }
    }

    pub(super) fn disassociate_all_of(&mut self, interface: &InterfaceId) {
        for elastic in self.elastic.values_mut() {
            if elastic.association.as_ref().is_some_and(|known| known.interface == *interface) {
                elastic.association = None;
            }
        }
    }

    /// A private address moved, and with it the Elastic address that leads to it.
    pub(super) fn association_follows(&mut self, private_ip: Ipv4Addr, interface: &InterfaceId) {
        for association in self.elastic.values_mut().filter_map(|elastic| elastic.association.as_mut()) {
            if association.private_ip == private_ip {
                association.interface = interface.clone();
            }
        }
    }
}
