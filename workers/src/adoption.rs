//! What the account shows of a node, as the journal would know it: for `perennial journal adopt`.
//!
//! # Guarantees
//! Only looks. What cannot be told for certain is refused with a reason: several live instances, resources of
//! another installation, a volume that is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_engine::engine::{Engine, ExecuteError};
use perennial_engine::journal::ReadError;
use perennial_workflows::aggregate::installation::installation_stream;
use perennial_workflows::aggregate::node::Node;
use perennial_workflows::domain::Perennial;
use perennial_workflows::domain::command::Rejection;
use perennial_workflows::domain::standing::{Adoption, Tagged, newer};
use perennial_workflows::domain::states::State;
use perennial_workflows::model::aws::{InstanceId, InterfaceId, VolumeId};
use perennial_workflows::model::installation::{INSTALLATION_TAG, Mark};
use perennial_workflows::model::name::NodeName;
use perennial_workflows::model::operation_id::node_stream;
use perennial_workflows::model::resources::{Carrier, HeldInterface, HeldVolume, Resources, Retained};
use perennial_workflows::model::volume::{Found, Slot};
use perennial_workflows::operation::state::Operation;
use perennial_workflows::rules::attached_volumes;
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, RootMode};

use crate::pages::Pages;
use crate::port::error::CloudError;
use crate::port::{Cloud, InstanceView, InterfaceView, Select, Tags, VolumeState, VolumeView};
use crate::standing::{tagged_instance, tagged_volume};

/// Why the account cannot be compared with the journal.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The cloud cannot be read.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stream cannot be read.
    #[error(transparent)]
    Execute(#[from] ExecuteError<Rejection>),
}

/// One node, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The node.
    pub node: NodeName,
    /// What the journal cannot know, in words; empty when it knows all.
    pub newer: Vec<String>,
    /// The node as it is in the account, or why that cannot be told.
    pub found: Result<Adoption, String>,
}

/// Compares the account with the journal for every node.
pub struct Comparison {
    engine: Engine<Perennial>,
    cloud: Arc<dyn Cloud>,
    owner: String,
    /// Another installation whose resources are taken over.
    from: Option<String>,
}

impl Comparison {
    /// A comparison. `from` names another installation whose resources are taken over, because its journal is
    /// lost.
    #[must_use]
    pub fn new(
        engine: Engine<Perennial>,
        cloud: Arc<dyn Cloud>,
        owner: String,
        from: Option<String>,
    ) -> Self {
        Self { engine, cloud, owner, from }
    }

    /// Every node that the journal knows.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub async fn all(&self) -> Result<Vec<Compared>, AdoptError> {
        let mark = match self.engine.load(&installation_stream()).await?.0.as_ref() {
            State::Installation(installation) => installation.mark.clone(),
            _ => None,
        };
        let mut compared = Vec::new();
        let mut pages = Pages::of_nodes(&self.engine);
        let mut names = Vec::new();
        while let Some(page) = pages.next().await? {
            names.extend(page.iter().filter_map(|row| NodeName::parse(row.stream.name()).ok()));
        }
        for name in names {
            compared.extend(self.one(name, mark.as_ref()).await?);
        }
        Ok(compared)
    }

    async fn one(&self, name: NodeName, mark: Option<&Mark>) -> Result<Option<Compared>, AdoptError> {
        let (state, _) = self.engine.load(&node_stream(&name)).await?;
        let State::Node(node) = state.as_ref() else { return Ok(None) };
        let Some(spec) = &node.spec else { return Ok(None) };
        let open = match &node.open {
            Some((open, _)) => match self.engine.load(&open.stream()).await?.0.as_ref() {
                State::Operation(operation) => operation.clone(),
                _ => None,
            },
            None => None,
        };
        let seen = self.see(&name, node).await?;
        let newer = newer(node, open.as_ref(), mark, &seen.not_over(), self.engine.clock().now_ms());
        let found = self.found(node, open.as_ref(), spec, mark, &seen);
        Ok(Some(Compared { node: name, newer, found }))
    }

    /// What carries the tags of a node, and what of it is known by id.
    async fn see(&self, name: &NodeName, node: &Node) -> Result<Sighting, CloudError> {
        let own = Tags::from([
            ("perennial:owner".to_owned(), self.owner.clone()),
            ("perennial:node".to_owned(), name.to_string()),
        ]);
        let cloud = self.cloud.as_ref();
        let instances = cloud.instances(&Select::tagged(own.clone())).await?;
        let mut volumes = cloud.volumes(&Select::tagged(own.clone())).await?;
        let has: BTreeSet<VolumeId> = volumes.iter().map(|view| view.id.clone()).collect();
        // A volume that was attached by hand, or that the file names, carries no tags of the node.
        let held = node.resources.volumes.values().map(|held| held.volume.clone());
        let on = instances.iter().flat_map(|view| view.block_devices.iter().map(|on| on.volume.clone()));
        let others: BTreeSet<VolumeId> = held.chain(on).filter(|id| !has.contains(id)).collect();
        if !others.is_empty() {
            volumes.extend(cloud.volumes(&Select::Ids(others.into_iter().collect())).await?);
        }
        volumes.retain(|view| !matches!(view.state, VolumeState::Deleting | VolumeState::Deleted));
        let mut interfaces = cloud.interfaces(&Select::tagged(own)).await?;
        let on = instances.iter().flat_map(|view| view.interfaces.iter().map(|on| on.id.clone()));
        let others: Vec<InterfaceId> =
            on.filter(|id| !interfaces.iter().any(|view| view.id == *id)).collect();
        if !others.is_empty() {
            interfaces.extend(cloud.interfaces(&Select::Ids(others)).await?);
        }
        Ok(Sighting { instances, volumes, interfaces })
    }

    fn found(
        &self,
        node: &Node,
        open: Option<&Operation>,
        spec: &NodeSpec,
        mark: Option<&Mark>,
        seen: &Sighting,
    ) -> Result<Adoption, String> {
        for thing in seen.tagged() {
            if let (Some(theirs), Some(mark)) = (thing.installation(), mark)
                && theirs != mark.id
                && self.from.as_deref() != Some(theirs)
                && !is_known(node, &thing.id)
            {
                return Err(format!(
                    "{} is of the installation {theirs}; if that one is gone, take it over with --from {theirs}",
                    thing.id
                ));
            }
        }
        let live: Vec<&InstanceView> = seen.instances.iter().filter(|view| !view.state.is_over()).collect();
        let carrier = match live.as_slice() {
            [] => None,
            [one] => Some(*one),
            more => {
                let ids: Vec<&str> = more.iter().map(|view| view.id.as_str()).collect();
                return Err(format!(
                    "{} carry its tags; terminate all but the one that is the node (tag {INSTALLATION_TAG} and perennial:generation tell them apart)",
                    ids.join(" and ")
                ));
            }
        };
        let tagged = seen.tagged();
        let newest = |of: fn(&Tagged) -> u64| tagged.iter().map(of).max().unwrap_or(0);
        let resources = resources(node, open, spec, carrier, seen)?;
        Ok(Adoption {
            generation: newest(Tagged::generation).max(node.generation),
            operations: newest(Tagged::operation).max(node.operations),
            resources,
        })
    }
}

/// Whether an id is among what the node holds.
fn is_known(node: &Node, id: &str) -> bool {
    let held = &node.resources;
    held.carrier.as_ref().is_some_and(|carrier| carrier.instance.as_str() == id)
        || held.volumes.values().any(|held| held.volume.as_str() == id)
        || held.retained.iter().any(|old| old.volume.as_str() == id)
}

/// What was seen of one node.
struct Sighting {
    instances: Vec<InstanceView>,
    volumes: Vec<VolumeView>,
    interfaces: Vec<InterfaceView>,
}

impl Sighting {
    fn tagged(&self) -> Vec<Tagged> {
        let is_tagged = |tags: &Tags| tags.contains_key("perennial:node");
        let instances = self.instances.iter().map(tagged_instance);
        let volumes = self.volumes.iter().filter(|view| is_tagged(&view.tags)).map(tagged_volume);
        instances.chain(volumes).collect()
    }

    /// The same, without instances that are over: they can hold nothing any more.
    fn not_over(&self) -> Vec<Tagged> {
        let is_over = |thing: &Tagged| {
            self.instances.iter().any(|view| view.id.as_str() == thing.id && view.state.is_over())
        };
        self.tagged().into_iter().filter(|thing| !is_over(thing)).collect()
    }

    fn volume(&self, id: &VolumeId) -> Option<&VolumeView> {
        self.volumes.iter().find(|view| view.id == *id)
    }

    fn interface(&self, id: &InterfaceId) -> Option<&InterfaceView> {
        self.interfaces.iter().find(|view| view.id == *id)
    }
}

fn resources(
    node: &Node,
    open: Option<&Operation>,
    spec: &NodeSpec,
    on: Option<&InstanceView>,
    seen: &Sighting,
) -> Result<Resources, String> {
    let before = &node.resources;
    let mut now = Resources { carrier: None, orphans: Vec::new(), ..before.clone() };
    now.recovery_points.clear();
    now.volumes = volumes(node, open, spec, on, seen)?;
    if let Some(view) = on {
        let primary = view.interfaces.iter().find(|interface| interface.device_index == 0);
        let (Some(primary), Some(private_ip)) = (primary, view.private_ip) else {
            return Err(format!("{} does not show its interface; try again", view.id));
        };
        now.carrier = Some(Carrier {
            instance: view.id.clone(),
            instance_type: view.instance_type.clone(),
            market: view.market,
            interface: primary.id.clone(),
            private_ip,
            spot_request: view.spot_request.clone(),
        });
        now.address_interface = None;
        now.subnet = view.subnet.clone().filter(|subnet| *subnet != spec.subnet);
        if before.placement.as_ref().is_some_and(|placement| placement.zone != view.zone) {
            now.placement = None;
        }
        network(&mut now, spec, view, seen)?;
    }
    let kept: BTreeSet<VolumeId> = now.volumes.values().map(|held| held.volume.clone()).collect();
    now.retained.retain(|old| !kept.contains(&old.volume) && seen.volume(&old.volume).is_some());
    let listed: BTreeSet<VolumeId> = now.retained.iter().map(|old| old.volume.clone()).collect();
    let free = seen
        .volumes
        .iter()
        .filter(|view| view.attachments.is_empty() && !kept.contains(&view.id) && !listed.contains(&view.id));
    now.retained.extend(free.map(|view| {
        let slot = slot_of(node, spec, &view.id);
        Retained::new(view.id.clone(), slot, "it was free when the journal was adopted".to_owned())
    }));
    Ok(now)
}

/// The place that a volume had, or may have had.
fn slot_of(node: &Node, spec: &NodeSpec, volume: &VolumeId) -> Slot {
    let held = node.resources.volumes.iter().find(|(_, held)| held.volume == *volume);
    held.map(|(slot, _)| slot.clone())
        .or_else(|| spec.data_volumes.first().map(|data| Slot::Data(data.name.clone())))
        .unwrap_or(Slot::Root)
}

/// The node's volumes: those on its instance, or, where it has none, those that it is known to hold.
fn volumes(
    node: &Node,
    open: Option<&Operation>,
    spec: &NodeSpec,
    on: Option<&InstanceView>,
    seen: &Sighting,
) -> Result<BTreeMap<Slot, HeldVolume>, String> {
    let known = |slot: &Slot| {
        let of_open = open.and_then(|open| open.order.before.volumes.get(slot));
        node.resources.volumes.get(slot).or(of_open)
    };
    let mut volumes = BTreeMap::new();
    for (slot, device) in places(node, spec, on, known(&Slot::Root)) {
        let is_known_here = |held: &&HeldVolume| seen.volume(&held.volume).is_some();
        let held = match on {
            Some(view) => {
                let at = known(&slot)
                    .and_then(|held| view.block_devices.iter().find(|on| on.volume == held.volume));
                let at =
                    at.or_else(|| view.block_devices.iter().find(|on| Some(&on.device) == device.as_ref()));
                at.map(|at| (at.volume.clone(), at.device.clone()))
            }
            None => known(&slot).filter(is_known_here).map(|held| (held.volume.clone(), held.device.clone())),
        };
        let Some((volume, device)) = held else {
            let held = known(&slot);
            // Whichever of the free volumes it was, or whether it was made at all, a person knows.
            if held.is_none() && on.is_none() && (node.generation > 0 || !seen.volumes.is_empty()) {
                return Err(format!("{slot}: no volume of it is known"));
            }
            volumes.extend(elsewhere(&slot, held, on, device.as_deref(), seen)?.map(|held| (slot, held)));
            continue;
        };
        // The instance may still have the root that it was launched with, the node's own being free.
        if let Some(view) = on
            && slot == Slot::Root
            && known(&slot).is_none()
            && spec.persist.root == RootMode::Adopt
        {
            may_not_be_free(&slot, view, Some(&device), seen)?;
        }
        let same = known(&slot).filter(|held| held.volume == volume);
        let found = match known(&slot) {
            Some(held) if held.volume == volume => held.found.clone(),
            // The journal knows the one that this is a copy of.
            Some(HeldVolume { found: Some(found), .. }) => Some(Found { is_copy: true, ..found.clone() }),
            _ if is_of_the_file(spec, &slot) => None,
            _ => seen.volume(&volume).map(found_there),
        };
        let size_gib = seen.volume(&volume).map(|view| view.size_gib);
        volumes.insert(
            slot,
            HeldVolume {
                volume,
                device,
                size_gib: size_gib.or(same.and_then(|held| held.size_gib)),
                zone: None,
                made_from: same.and_then(|held| held.made_from.clone()),
                found,
            },
        );
    }
    if let Some(view) = on {
        attached_copies(spec, view, seen, &mut volumes);
    }
    Ok(volumes)
}

/// Volumes that the node has taken on in the part of the journal that is lost, and that were copied since.
/// One that was not copied carries no tag of the node; the sweep finds it on the instance.
fn attached_copies(
    spec: &NodeSpec,
    on: &InstanceView,
    seen: &Sighting,
    volumes: &mut BTreeMap<Slot, HeldVolume>,
) {
    for there in &on.block_devices {
        let is_known = volumes.values().any(|held| held.volume == there.volume);
        if is_known || on.root_device.as_deref() == Some(there.device.as_str()) {
            continue;
        }
        let view = seen.volume(&there.volume).filter(|view| view.tags.contains_key("perennial:node"));
        let Some(view) = view else { continue };
        let slots: Vec<Slot> = volumes.keys().cloned().collect();
        let slot = Slot::Data(attached_volumes::name(spec, &slots, &there.device, None));
        let held = HeldVolume {
            volume: view.id.clone(),
            device: there.device.clone(),
            size_gib: Some(view.size_gib),
            zone: None,
            made_from: None,
            found: Some(found_there(view)),
        };
        volumes.insert(slot, held);
    }
}

/// Whether the node file says what a volume is to be like.
fn is_of_the_file(spec: &NodeSpec, slot: &Slot) -> bool {
    match slot {
        Slot::Root => true,
        Slot::Data(name) => spec.data_volumes.iter().any(|wanted| wanted.name == *name),
    }
}

/// What a volume is like of which neither the file nor the journal speaks. One with the node's tags was made
/// for it.
fn found_there(view: &VolumeView) -> Found {
    Found { is_copy: view.tags.contains_key("perennial:node"), ..view.as_found() }
}

/// A volume that the instance does not have in its place: where the journal knows it, if anywhere. None where
/// it does not exist yet: the next operation makes it.
fn elsewhere(
    slot: &Slot,
    held: Option<&HeldVolume>,
    on: Option<&InstanceView>,
    device: Option<&str>,
    seen: &Sighting,
) -> Result<Option<HeldVolume>, String> {
    match (held, on) {
        (Some(held), _) if seen.volume(&held.volume).is_some() => Ok(Some(held.clone())),
        (Some(held), _) => {
            Err(format!("{slot}: {} is not there, and no volume is in its place", held.volume))
        }
        (None, Some(view)) => may_not_be_free(slot, view, device, seen).map(|()| None),
        (None, None) => Ok(None),
    }
}

/// The places of the node's volumes, each with its device where that is known.
fn places(
    node: &Node,
    spec: &NodeSpec,
    on: Option<&InstanceView>,
    root: Option<&HeldVolume>,
) -> Vec<(Slot, Option<String>)> {
    let mut wanted: Vec<(Slot, Option<String>)> = Vec::new();
    if spec.persist.root != RootMode::None {
        let device = on.and_then(|view| view.root_device.clone());
        wanted.push((Slot::Root, device.or_else(|| root.map(|held| held.device.clone()))));
    }
    let data = spec.data_volumes.iter().map(|data| (Slot::Data(data.name.clone()), data.device.clone()));
    wanted.extend(data);
    let found = node.resources.volumes.iter().filter(|(_, held)| held.found.is_some());
    for (slot, held) in
        found.filter(|(slot, _)| !wanted.iter().any(|(known, _)| known == *slot)).collect::<Vec<_>>()
    {
        wanted.push((slot.clone(), Some(held.device.clone())));
    }
    wanted
}

/// A volume that the journal does not know is the one that the instance has in its place. One that is free
/// may be it as well, if an operation was under way: then it cannot be told.
fn may_not_be_free(
    slot: &Slot,
    on: &InstanceView,
    device: Option<&str>,
    seen: &Sighting,
) -> Result<(), String> {
    let role = |view: &VolumeView| view.tags.get("perennial:role").cloned().unwrap_or_default();
    let is_data = *slot != Slot::Root;
    let may_be = |view: &&VolumeView| {
        view.attachments.is_empty()
            && view.tags.contains_key("perennial:node")
            && (role(view) == "data") == is_data
    };
    let free: Vec<&str> = seen.volumes.iter().filter(may_be).map(|view| view.id.as_str()).collect();
    if free.is_empty() {
        return Ok(());
    }
    let place = match (is_data, device) {
        (true, Some(device)) => format!("attach the one that is it to {} at {device}", on.id),
        (true, None) => format!("attach the one that is it to {}", on.id),
        (false, _) => format!("see which of these and the root of {} is the node's", on.id),
    };
    Err(format!(
        "{slot}: it cannot be told from the free volumes with the node's tags ({}): {place}, and remove the tag perennial:node from the others",
        free.join(", ")
    ))
}

/// The node's interface and address, as its instance has them.
fn network(now: &mut Resources, spec: &NodeSpec, view: &InstanceView, seen: &Sighting) -> Result<(), String> {
    let at = |index: u32| view.interfaces.iter().find(|interface| interface.device_index == index);
    let on = |index: u32, of: &InstanceId| {
        let interface = at(index).and_then(|on| seen.interface(&on.id));
        interface.ok_or_else(|| format!("{of} shows no interface at index {index}"))
    };
    match spec.persist.network {
        NetworkMode::PrimaryEni | NetworkMode::SecondaryEni => {
            let index = u32::from(spec.persist.network == NetworkMode::SecondaryEni);
            let own = on(index, &view.id)?;
            now.interface = Some(HeldInterface { interface: own.id.clone(), private_ip: own.primary_ip });
            now.address = Some(own.primary_ip);
        }
        NetworkMode::SecondaryIp | NetworkMode::IpPool => {
            let primary = on(0, &view.id)?;
            let known = now.address.filter(|address| primary.secondary_ips.contains(address));
            now.address = known.or_else(|| primary.secondary_ips.first().copied());
            if now.address.is_none() {
                return Err(format!(
                    "{} has no secondary address: assign the node's to {} (`aws ec2 assign-private-ip-addresses`)",
                    view.id, primary.id
                ));
            }
        }
        NetworkMode::None => {}
    }
    Ok(())
}
