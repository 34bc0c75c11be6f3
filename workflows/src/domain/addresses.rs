//! Decisions about the addresses of pools. Each one appends to its pool's stream, so that it is the only one
//! at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::domain::Append;

use crate::aggregate::address_pool::{AddressPool, AddressPoolEvent, address_pool_stream};
use crate::aggregate::inbox::Disposition;
use crate::domain::decider::{Appends, Decider, Subject, Written};
use crate::domain::states::{Event, State};
use crate::model::aws::SubnetId;
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind};
use crate::model::resources::Resources;
use crate::operation::facts::Granted;
use crate::operation::state::{Operation, Status};
use crate::rules::address_pool::held_by_another;
use crate::spec::address_pool::AddressPoolSpec;
use crate::spec::node::NodeSpec;
use crate::step::evidence::Evidence;

/// Addresses of other subnets, and the appends that take and return addresses.
type Repooled = (BTreeMap<SubnetId, Ipv4Addr>, Appends);

/// The field in which a node file names the pool of a subnet.
fn field(spec: &NodeSpec, subnet: &SubnetId) -> String {
    if *subnet == spec.subnet {
        "spec.network.ip_pool".to_owned()
    } else {
        format!("spec.network.ip_pools_elsewhere.{subnet}")
    }
}

fn append(pool: &NodeName, event: AddressPoolEvent) -> Written {
    Append::new(address_pool_stream(pool), vec![Event::AddressPool(event)])
}

impl Decider<'_> {
    fn pool(&self, name: &NodeName) -> Option<&AddressPool> {
        match self.world.get(&address_pool_stream(name)) {
            Some(State::AddressPool(pool)) => Some(pool),
            _ => None,
        }
    }

    pub(super) fn apply_pool(&self, spec: &AddressPoolSpec, requested_by: &str) -> (Disposition, Appends) {
        let Some(pool) = self.pool(&spec.name) else {
            return (Disposition::Rejected { because: "BUG: the pool was not read".to_owned() }, Vec::new());
        };
        if pool.spec.as_ref() == Some(spec) && pool.passed_over.is_empty() {
            return (
                Disposition::Noted { because: "the pool is meant to be so already".to_owned() },
                Vec::new(),
            );
        }
        if let Err(error) = pool.check_change(spec) {
            return (Disposition::Rejected { because: format!("spec.{error}") }, Vec::new());
        }
        let event = AddressPoolEvent::Declared { spec: spec.clone(), requested_by: requested_by.to_owned() };
        let free = spec.all().filter(|address| !pool.held.contains_key(address)).count();
        let disposition = Disposition::PoolDeclared { pool: spec.name.clone(), free: free as u64 };
        (disposition, vec![append(&spec.name, event)])
    }

    /// A pool that a node file names for a subnet, if it is declared and of that subnet.
    fn declared(&self, spec: &NodeSpec, subnet: &SubnetId, name: &NodeName) -> Result<&AddressPool, String> {
        let field = field(spec, subnet);
        let declared = self.pool(name).and_then(|pool| Some((pool, &pool.spec.as_ref()?.subnet)));
        match declared {
            None => Err(format!(
                "{field}: there is no pool {name}; declare it with `perennial pool apply -f FILE`"
            )),
            Some((_, of)) if of != subnet && *subnet == spec.subnet => Err(format!(
                "{field}: the pool {name} has addresses of {of}, the node lives in {subnet}; name a pool of its subnet"
            )),
            Some((_, of)) if of != subnet => {
                Err(format!("{field}: the pool {name} has addresses of {of}; name a pool of {subnet}"))
            }
            Some((pool, _)) => Ok(pool),
        }
    }

    /// An address of each pool for a node's first operation, if the pool has one. Otherwise the operation
    /// starts stuck.
    pub(super) fn take_for_start(
        &self,
        operation: &OperationId,
        spec: &NodeSpec,
        before: &Resources,
    ) -> Result<(Granted, Appends), String> {
        let (mut granted, mut appends) = (Granted::default(), Vec::new());
        // Resources that a deletion kept may be in another subnet.
        let present = before.subnet.as_ref().unwrap_or(&spec.subnet);
        if spec.pool().is_some() && spec.pool_in(present).is_none() {
            return Err(format!(
                "spec.network.ip_pools_elsewhere: what the deletion kept is in {present}; name that subnet in `capacity.other_subnets`, and a pool of it here"
            ));
        }
        for (subnet, name) in spec.ip_pools() {
            let Some(address) = self.declared(spec, subnet, name)?.free().next() else { continue };
            let (node, operation) = (operation.node().clone(), operation.clone());
            appends.push(append(name, AddressPoolEvent::Allocated { address, node, operation }));
            if subnet == present {
                granted.here = Some(address);
            } else {
                granted.elsewhere.insert(subnet.clone(), address);
            }
        }
        Ok((granted, appends))
    }

    /// Addresses for a node that is stuck without one, or with one that an interface outside the node has.
    pub(super) fn take_for_resume(&self, operation: &Operation, spec: &NodeSpec) -> (Granted, Appends) {
        let (mut granted, mut appends) = (Granted::default(), Vec::new());
        if !matches!(operation.status, Status::Stuck { .. }) {
            return (granted, appends);
        }
        let begins = operation.order.kind == OperationKind::Provision && !operation.facts.is_undoing();
        let mut unmanaged = held_by_another(operation);
        for (subnet, name) in spec.ip_pools() {
            let (id, node) = (operation.id.clone(), operation.id.node().clone());
            let mut events = Vec::new();
            let by = unmanaged.take_if(|(of, _)| of == subnet).map(|(_, by)| by);
            match (operation.facts.address_in(subnet), by) {
                (Some(address), Some(because)) => {
                    let (node, operation) = (node.clone(), id.clone());
                    events.push(Event::AddressPool(AddressPoolEvent::PassedOver {
                        address,
                        node,
                        operation,
                        because,
                    }));
                }
                (None, _) if begins => {}
                _ => continue,
            }
            // If no other address is free, it tries again with its present one.
            let Some(address) = self.pool(name).and_then(|pool| pool.free().next()) else { continue };
            events.push(Event::AddressPool(AddressPoolEvent::Allocated { address, node, operation: id }));
            appends.push(Append::new(address_pool_stream(name), events));
            if *subnet == operation.facts.subnet {
                granted.here = Some(address);
            } else {
                granted.elsewhere.insert(subnet.clone(), address);
            }
        }
        (granted, appends)
    }

    /// A changed file names other pools for other subnets: new addresses are taken, dropped ones given back.
    pub(super) fn repool(&self, subject: Subject<'_>, spec: &NodeSpec) -> Result<Repooled, String> {
        let (mut taken, mut appends) = (BTreeMap::new(), Vec::new());
        let node = subject.node;
        let Some(old) = &node.spec else { return Ok((taken, appends)) };
        let is_of = |spec: &NodeSpec, subnet: &SubnetId, pool: &NodeName| spec.pool_in(subnet) == Some(pool);
        let dropped: Vec<_> = old.ip_pools().filter(|(subnet, pool)| !is_of(spec, subnet, pool)).collect();
        let added: Vec<_> = spec.ip_pools().filter(|(subnet, pool)| !is_of(old, subnet, pool)).collect();
        if let (Some((open, kind)), false) = (&node.open, dropped.is_empty() && added.is_empty()) {
            return Err(format!(
                "spec.network.ip_pools_elsewhere: workflow {open} ({kind}) holds the node and its addresses; wait for it with `perennial workflow watch {open}`, or delete the node"
            ));
        }
        // Its last one: none holds the node now.
        let operation = OperationId::new(subject.name.clone(), node.operations);
        for (subnet, pool) in dropped {
            if node.resources.subnet.as_ref() == Some(subnet) {
                return Err(format!(
                    "{}: the node lives in {subnet} with an address of the pool {pool}; leave the subnet and its pool in the file, or delete the node",
                    field(old, subnet)
                ));
            }
            let Some(address) = node.resources.addresses_elsewhere.get(subnet).copied() else { continue };
            let (node, operation) = (subject.name.clone(), operation.clone());
            appends.push(append(pool, AddressPoolEvent::Released { address, node, operation }));
        }
        for (subnet, pool) in added {
            let Some(address) = self.declared(spec, subnet, pool)?.free().next() else {
                return Err(format!(
                    "{}: the pool {pool} has no free address; apply a larger one (`perennial pool apply -f FILE`), or delete another node",
                    field(spec, subnet)
                ));
            };
            let (node, operation) = (subject.name.clone(), operation.clone());
            appends.push(append(pool, AddressPoolEvent::Allocated { address, node, operation }));
            taken.insert(subnet.clone(), address);
        }
        Ok((taken, appends))
    }

    /// The append that gives an address back to its pool, if it is the node's.
    pub(super) fn given_back(&self, operation: &OperationId, evidence: &Evidence) -> Option<Written> {
        let Evidence::AddressReturned { pool: name, address } = evidence else { return None };
        let is_held = self.pool(name)?.held.get(address) == Some(operation.node());
        let (node, operation) = (operation.node().clone(), operation.clone());
        let event = AddressPoolEvent::Released { address: *address, node, operation };
        is_held.then(|| append(name, event))
    }
}
