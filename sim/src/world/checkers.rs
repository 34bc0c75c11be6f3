//! Checks for tests: the world's invariants, leaks, objects at risk, and a dump.

use std::collections::{BTreeMap, BTreeSet};

use perennial_workers::port::{Tags, VolumeState};
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use serde_json::{Value, json};

use super::World;
use super::state::Instance;

/// The tag that names the installation that owns an object.
pub const OWNER_TAG: &str = "perennial:owner";
/// The tag that names the node an object belongs to.
pub const NODE_TAG: &str = "perennial:node";

impl World {
    /// Violated invariants, which no sequence of calls may bring about; empty when all is well. A violation
    /// is a bug of this model.
    #[must_use]
    pub fn check_invariants(&self) -> Vec<String> {
        let mut violations = Vec::new();
        self.check_instances(&mut violations);
        self.check_volumes(&mut violations);
        self.check_interfaces(&mut violations);
        for ((due, _), transition) in &self.schedule {
            if *due < self.now_ms {
                violations.push(format!("{transition:?} was due at {due}, it is {}", self.now_ms));
            }
        }
        violations
    }

    fn check_instances(&self, violations: &mut Vec<String>) {
        let mut users = BTreeMap::new();
        for instance in self.instances.values() {
            let id = &instance.id;
            let mut devices = BTreeSet::new();
            for volume in &instance.volumes {
                if let Some(other) = users.insert(volume, id) {
                    violations.push(format!("{volume} is attached to {other} and {id}"));
                }
                match self.volumes.get(volume).and_then(|volume| volume.attachment.as_ref()) {
                    Some(attachment) if attachment.instance == *id => {
                        if !devices.insert(&attachment.device) {
                            violations.push(format!("{id} has two volumes at {}", attachment.device));
                        }
                    }
                    _ => violations.push(format!("{id} lists {volume}, which knows nothing of it")),
                }
            }
            let mut indexes = BTreeSet::new();
            for interface in &instance.interfaces {
                match self.interfaces.get(interface).and_then(|interface| interface.attachment.as_ref()) {
                    Some(plug) if plug.instance == *id => {
                        if !indexes.insert(plug.device_index) {
                            violations.push(format!("{id} has two interfaces at {}", plug.device_index));
                        }
                    }
                    _ => violations.push(format!("{id} lists {interface}, which knows nothing of it")),
                }
            }
            if instance.state != InstanceState::Terminated && !indexes.contains(&0) {
                violations.push(format!("{id} is {} without a primary interface", instance.state));
            }
            let request = instance.spot_request.as_ref().and_then(|id| self.spot_requests.get(id));
            let active = request.is_some_and(|r| r.state == "active" && r.instance.as_ref() == Some(id));
            if active && instance.state.is_over() {
                violations.push(format!("{id} is {}, its spot request is active", instance.state));
            }
        }
    }

    fn check_volumes(&self, violations: &mut Vec<String>) {
        for volume in self.volumes.values() {
            let id = &volume.id;
            if (volume.state == VolumeState::InUse) != volume.attachment.is_some() {
                violations.push(format!(
                    "{id} is {:?}, attached: {}",
                    volume.state,
                    volume.attachment.is_some()
                ));
            }
            if let Some(attachment) = &volume.attachment {
                match self.instances.get(&attachment.instance) {
                    None => violations.push(format!("{id} is attached to an instance that is gone")),
                    Some(instance) if instance.zone != volume.zone => {
                        violations.push(format!("{id} is attached across zones"));
                    }
                    Some(instance) if !instance.volumes.contains(id) => {
                        violations.push(format!("{id} is attached to {}, unlisted", instance.id));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn check_interfaces(&self, violations: &mut Vec<String>) {
        let mut holders = BTreeMap::new();
        for interface in self.interfaces.values() {
            let shown = std::iter::once(&interface.primary_ip).chain(&interface.secondary_ips);
            for address in shown.chain(interface.arriving.keys()) {
                if let Some(other) = holders.insert(*address, interface.id.clone()) {
                    violations.push(format!("{address} is held by {other} and {}", interface.id));
                }
            }
            if let Some(plug) = &interface.attachment
                && !self.instances.get(&plug.instance).is_some_and(|i| i.interfaces.contains(&interface.id))
            {
                violations.push(format!("{} is attached to {}, unlisted", interface.id, plug.instance));
            }
        }
        if holders != self.addresses {
            violations.push(format!("addresses are held by {holders:?}, listed as {:?}", self.addresses));
        }
    }

    /// The instances of a node that are not over.
    #[must_use]
    pub fn instances_of(&self, node: &str) -> Vec<&Instance> {
        let of_node = |tags: &Tags| tags.get(NODE_TAG).is_some_and(|value| value == node);
        self.instances.values().filter(|i| of_node(&i.tags) && !i.state.is_over()).collect()
    }

    /// Everything of an owner that still exists or costs and is not expected: instances that are not over,
    /// volumes, interfaces, snapshots and images, by id.
    #[must_use]
    pub fn leaks(&self, owner: &str, expected: &BTreeSet<String>) -> Vec<String> {
        let owned = |tags: &Tags| tags.get(OWNER_TAG).is_some_and(|value| value == owner);
        let instances = self.instances.values().filter(|i| owned(&i.tags) && !i.state.is_over());
        let volumes = self
            .volumes
            .values()
            .filter(|v| owned(&v.tags) && !matches!(v.state, VolumeState::Deleting | VolumeState::Deleted));
        let interfaces = self.interfaces.values().filter(|i| owned(&i.tags));
        let snapshots = self.snapshots.values().filter(|s| owned(&s.tags));
        let images = self.images.values().filter(|i| owned(&i.tags));
        let ids = instances
            .map(|i| i.id.to_string())
            .chain(volumes.map(|v| v.id.to_string()))
            .chain(interfaces.map(|i| i.id.to_string()))
            .chain(snapshots.map(|s| s.id.to_string()))
            .chain(images.map(|i| i.id.to_string()));
        ids.filter(|id| !expected.contains(id)).collect()
    }

    /// The volumes and interfaces that the termination of this instance would delete.
    #[must_use]
    pub fn would_be_deleted_with(&self, instance: &InstanceId) -> Vec<String> {
        let volumes = self.volumes.values().filter(|volume| {
            let attachment = volume.attachment.as_ref();
            attachment.is_some_and(|a| a.instance == *instance && a.delete_on_termination)
        });
        let interfaces = self.interfaces.values().filter(|interface| {
            let plug = interface.attachment.as_ref();
            plug.is_some_and(|p| p.instance == *instance && p.delete_on_termination)
        });
        volumes.map(|v| v.id.to_string()).chain(interfaces.map(|i| i.id.to_string())).collect()
    }

    /// What the region knows of a resource, as JSON for people; `null` if it knows none of this id.
    #[must_use]
    pub fn describe(&self, id: &str) -> Value {
        let dump = self.dump();
        let kinds = dump.as_object().into_iter().flat_map(|dump| dump.values());
        let of_id = |kind: &Value| match kind {
            Value::Object(things) => things.get(id).cloned(),
            Value::Array(things) => things.iter().find(|thing| thing["id"] == id).cloned(),
            _ => None,
        };
        kinds.filter_map(of_id).next().unwrap_or_default()
    }

    /// The whole world, for comparison and for people.
    #[must_use]
    pub fn dump(&self) -> Value {
        json!({
            "now_ms": self.now_ms,
            "instances": *self.instances,
            "volumes": *self.volumes,
            "deleted_volumes": self.graveyard,
            "snapshots": self.snapshots,
            "images": self.images,
            "interfaces": *self.interfaces,
            "addresses": self.addresses,
            "subnets": self.subnets,
            "spot_requests": self.spot_requests,
            "root_tasks": self.root_tasks,
            "target_groups": self.target_groups,
            "commands": self.commands,
            "scripts": self.scripts,
            "due": self.schedule.iter().map(|((due, _), what)| json!([due, format!("{what:?}")])).collect::<Vec<_>>(),
        })
    }
}
