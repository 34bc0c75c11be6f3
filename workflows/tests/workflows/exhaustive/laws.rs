//! The laws, in every state.

use perennial_workflows::model::aws::{InstanceId, VolumeId};
use perennial_workflows::model::operation_id::{OperationKind, Outcome};
use perennial_workflows::model::resources::{RecoveryPoint, Resource, Resources};
use perennial_workflows::operation::state::{Operation, Status};

use super::state::State;
use super::world::{Disk, Gone, World};

/// The law that a state breaks.
pub fn broken(state: &State) -> Option<String> {
    if let Some(why) = &state.world.broken {
        return Some(why.clone());
    }
    if let Some(why) = state.world.twice_in_service() {
        return Some(why);
    }
    match &state.op.status {
        Status::Running => None,
        Status::Stuck { because, .. } if because.contains("BUG") => Some(because.clone()),
        Status::Stuck { because, step, .. } => {
            let is_excused = state.needs_person || (!state.world.excused.is_empty() && needs_root(&state.op));
            (!is_excused).then(|| format!("stuck at {step} ({because}), which passes by itself"))
        }
        Status::Finished { outcome, .. } => {
            let left = state.left.as_deref().expect("it has finished");
            volume_lost(state, left).or_else(|| ended(state, left, *outcome))
        }
    }
}

/// Whether an operation is to bring the node onto an instance, or back to one: no other one waits for a root that
/// is gone.
fn needs_root(op: &Operation) -> bool {
    let brings =
        matches!(op.order.kind, OperationKind::Replace | OperationKind::Provision | OperationKind::Resume);
    brings && op.facts.diversion().is_none()
}

/// A volume with what must not be lost was deleted.
fn volume_lost(state: &State, left: &Resources) -> Option<String> {
    let deletes = state.op.order.kind == OperationKind::Delete;
    let world = &state.world;
    let is_lost = |(volume, disk): &(&VolumeId, &Disk)| {
        let is_node_s = disk.is_kept || left.volumes.values().any(|held| held.volume == **volume);
        let how = disk.gone.filter(|_| is_node_s && !world.excused.contains_key(*volume));
        how.is_some_and(|how| how != Gone::Deleted || !deletes)
    };
    let lost = world.volumes.iter().find(is_lost);
    lost.map(|(volume, disk)| format!("{volume} was lost ({:?})", disk.gone))
}

/// What an end must be like.
fn ended(state: &State, left: &Resources, outcome: Outcome) -> Option<String> {
    let world = &state.world;
    let launched = world.instances.iter().filter(|(_, machine)| machine.launched_by.is_some());
    for (instance, _) in launched {
        let carries = left.carrier.as_ref().is_some_and(|carrier| carrier.instance == *instance);
        if world.runs(instance) && !carries && !is_listed(world, left, instance) {
            return Some(format!("{instance} runs, and nothing says so"));
        }
    }
    if let Some(why) =
        left.carrier.as_ref().and_then(|carrier| carried(world, left, &carrier.instance, outcome))
    {
        return Some(why);
    }
    old_content(state, left).or_else(|| leaked(state, left))
}

/// A running carrier has every volume of the node, and would leave it behind.
fn carried(world: &World, left: &Resources, carrier: &InstanceId, outcome: Outcome) -> Option<String> {
    if !world.runs(carrier) || outcome == Outcome::Abandoned {
        return None;
    }
    let wrong = left.volumes.iter().find(|(_, held)| {
        let on = world.disk(&held.volume).and_then(|disk| disk.on.as_ref());
        !world.excused.contains_key(&held.volume)
            && on.is_none_or(|on| on.instance != *carrier || on.dies || on.is_leaving)
    });
    wrong.map(|(slot, held)| format!("{slot} ({}) is not safe on {carrier} at the end", held.volume))
}

/// A volume of the node has less than what was written, and nothing says so.
fn old_content(state: &State, left: &Resources) -> Option<String> {
    if state.op.order.kind == OperationKind::Delete {
        return None;
    }
    let old = left.volumes.iter().find(|(slot, held)| {
        let newest = state.world.newest.get(slot).copied().unwrap_or(0);
        let content = state.world.volumes.get(&held.volume).map_or(0, |disk| disk.content);
        let is_told = left.recovery_points.get(slot).is_some_and(RecoveryPoint::is_loss);
        content < newest && !is_told && state.world.excused.is_empty()
    });
    old.map(|(slot, held)| format!("{slot} ({}) is older than what was written", held.volume))
}

/// Whether an instance is listed as left over.
fn is_listed(world: &World, left: &Resources, instance: &InstanceId) -> bool {
    left.orphans.iter().any(|orphan| match &orphan.resource {
        Resource::Instance { instance: listed, .. } => listed == instance,
        Resource::Unsettled { origin, .. } => {
            let token = origin.as_ref().and_then(|origin| origin.client_token.as_ref());
            token.is_some() && token == world.instances[instance].launched_by.as_ref()
        }
        _ => false,
    })
}

/// Whether something is listed as left over: by its id, or by the step that may have made it.
fn is_orphan(left: &Resources, id: &str, made_by: &str) -> bool {
    left.orphans.iter().any(|orphan| match &orphan.resource {
        Resource::Unsettled { tags, .. } => tags.get("perennial:step").is_some_and(|step| step == made_by),
        resource => resource.id() == id,
    })
}

/// Something that was made, and that is neither the node's nor listed.
fn leaked(state: &State, left: &Resources) -> Option<String> {
    let world = &state.world;
    for (volume, disk) in world.volumes.iter().filter(|(_, disk)| disk.gone.is_none()) {
        let held = left.volumes.values().any(|held| held.volume == *volume);
        let retained = left.retained.iter().any(|old| old.volume == *volume);
        let dies = disk.on.as_ref().is_some_and(|on| on.dies || !on.is_root);
        let made_by = disk.made_by.as_deref().unwrap_or("-");
        if !(held || retained || dies || is_orphan(left, volume.as_str(), made_by)) {
            return Some(format!("{volume} is forgotten"));
        }
    }
    for (snapshot, shot) in world.snapshots.iter().filter(|(_, shot)| !shot.is_gone) {
        let made_from = left.volumes.values().any(|held| held.made_from.as_ref() == Some(snapshot));
        let imaged = left.root_images.iter().any(|root| root.snapshot == *snapshot);
        // The backup catalog takes a final one over.
        let is_final = shot.made_by.contains("/final_snapshot:");
        if !(made_from || imaged || is_final || is_orphan(left, snapshot.as_str(), &shot.made_by)) {
            return Some(format!("{snapshot} is forgotten"));
        }
    }
    for (image, picture) in world.images.iter().filter(|(_, picture)| !picture.is_gone) {
        let held = left.root_images.iter().any(|root| root.image == *image);
        if !(held || is_orphan(left, image.as_str(), &picture.made_by)) {
            return Some(format!("{image} is forgotten"));
        }
    }
    for (interface, plug) in world.interfaces.iter().filter(|(_, plug)| !plug.is_gone) {
        let held = left.interface.as_ref().is_some_and(|held| held.interface == *interface);
        let made_by = plug.made_by.as_deref().unwrap_or("-");
        if !(held || is_orphan(left, interface.as_str(), made_by)) {
            return Some(format!("{interface} is forgotten"));
        }
    }
    None
}
