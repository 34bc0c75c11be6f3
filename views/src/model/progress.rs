//! An operation under way: what it does now and what that waits for, where the data is, when it ends, and
//! what a person must do.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use perennial_workflows::model::aws::{InstanceId, InterfaceId, VolumeId};
use perennial_workflows::model::operation_id::OperationKind;
use perennial_workflows::model::root::RootMethod;
use perennial_workflows::model::signal::Cause;
use perennial_workflows::model::volume::Slot;
use perennial_workflows::operation::facts::{InterfaceFact, Place, VolumeFact};
use perennial_workflows::operation::state::{Operation, Status, StepRecord};
use perennial_workflows::spec::node::DataMode;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{
    AdoptRoot, Attach, AttachInterface, ClaimVolume, DeleteInterface, DeleteVolume, Detach, DetachInterface,
    Fence, Grow, Intent, Preserve, Release, ReleaseInterface, SnapshotRoot, SnapshotVolume, Start,
};
use perennial_workflows::view::plan::{Remaining, remaining, typical_ms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::waits::WaitsView;

/// How many pools a wait for capacity names.
const POOLS_NAMED: usize = 8;

/// An operation under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The workflow.
    pub workflow: String,
    /// What it does.
    pub kind: OperationKind,
    /// Why it was started.
    pub cause: Cause,
    /// When it was started.
    pub started_at_ms: u64,
    /// What it does now, in a few words, such as `no capacity` or `the old instance ends`.
    pub phase: String,
    /// Where it is stuck, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckStep>,
    /// Since when it is stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_since_ms: Option<u64>,
    /// The steps that run or wait for their time.
    pub steps: Vec<OpenStepView>,
    /// What was asked for capacity without success, while the node has no new instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacityWait>,
    /// Where each of the node's volumes is.
    pub volumes: Vec<VolumeNow>,
    /// Where the node's address is; none of a node that keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressNow>,
    /// What is left, if every step succeeds and takes its typical time; a wait for capacity is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Remaining>,
    /// What a person has to do, or may do.
    pub advice: Advice,
}

/// A step that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StuckStep {
    /// The step.
    pub step: String,
    /// Why it cannot be done.
    pub because: String,
    /// What the operator must do.
    pub needs: String,
}

/// A step that runs, or waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenStepView {
    /// The step.
    pub step: String,
    /// Which attempt at it.
    pub attempt: u32,
    /// Since when it is open.
    pub since_ms: u64,
    /// It does not run before this time.
    pub not_before_ms: u64,
    /// How long it takes typically.
    pub typical_ms: u64,
    /// Its patience does not end before this time. What passes by itself, and time in which no server runs,
    /// does not count; then another way is taken, or a person is asked.
    pub deadline_ms: u64,
    /// What it waits for, if it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<WaitsView>,
}

/// Asking for capacity without success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityWait {
    /// The pools that had none, each once.
    pub pools: Vec<String>,
    /// How many launches EC2 has refused.
    pub refused: u32,
    /// When the first one was.
    pub first_ms: u64,
    /// When the last one was.
    pub last_ms: u64,
    /// What EC2 said to the last one.
    pub last_refusal: String,
    /// When the next pool is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
}

/// Where one of the node's volumes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeNow {
    /// `root`, or the name of a data volume.
    pub slot: Slot,
    /// The volume, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Where it is.
    pub place: String,
    /// How the node gets its content.
    pub returns: String,
}

/// Where the node's address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressNow {
    /// The address.
    pub address: Ipv4Addr,
    /// Where it is.
    pub place: String,
}

/// What a person has to do, or may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    /// Whether nothing goes on without a person.
    pub needed: bool,
    /// What, in words.
    pub text: String,
    /// The commands for it, each whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
}

impl Progress {
    /// Makes the view of an operation that is not over; `None` if it is.
    #[must_use]
    pub fn new(operation: &Operation, now_ms: u64) -> Option<Self> {
        let (stuck, stuck_since_ms) = match &operation.status {
            Status::Finished { .. } => return None,
            Status::Running => (None, None),
            Status::Stuck { step, because, needs, since_ms } => {
                let (step, because, needs) = (step.to_string(), because.clone(), needs.clone());
                (Some(StuckStep { step, because, needs }), Some(*since_ms))
            }
        };
        let capacity = capacity(operation);
        let is_open = |record: &&StepRecord| record.outcome.is_none();
        let open: Vec<&StepRecord> = operation.steps.values().filter(is_open).collect();
        Some(Self {
            workflow: operation.id.to_string(),
            kind: operation.order.kind,
            cause: operation.order.cause.clone(),
            started_at_ms: operation.started_at_ms,
            phase: phase(operation, &open, capacity.as_ref()),
            steps: open.iter().map(|record| OpenStepView::new(record)).collect(),
            volumes: volumes(operation),
            address: address(operation),
            remaining: remaining(operation, now_ms),
            advice: advice(operation, stuck.as_ref(), capacity.as_ref()),
            stuck,
            stuck_since_ms,
            capacity,
        })
    }
}

impl OpenStepView {
    fn new(record: &StepRecord) -> Self {
        Self {
            step: record.step.to_string(),
            attempt: record.attempt,
            since_ms: record.intended_at_ms,
            not_before_ms: record.not_before_ms,
            typical_ms: typical_ms(&record.intent),
            deadline_ms: record.deadline_ms,
            waits: record.waits.as_ref().map(WaitsView::new),
        }
    }
}

/// What was asked in vain since the last launch that was accepted.
fn capacity(operation: &Operation) -> Option<CapacityWait> {
    if operation.facts.candidate.is_some() || operation.gives_up() {
        return None;
    }
    let mut wait: Option<CapacityWait> = None;
    let mut pools = BTreeSet::new();
    for record in operation.steps.values() {
        let Intent::Launch(launch) = record.intent.as_ref() else { continue };
        match &record.outcome {
            Some((Evidence::NoCapacity { code, .. }, at_ms)) => {
                let wait = wait.get_or_insert_with(|| CapacityWait {
                    pools: Vec::new(),
                    refused: 0,
                    first_ms: *at_ms,
                    last_ms: *at_ms,
                    last_refusal: String::new(),
                    next_ms: None,
                });
                if pools.insert(launch.pool.clone()) && wait.pools.len() < POOLS_NAMED {
                    wait.pools.push(launch.pool.to_string());
                }
                wait.refused += 1;
                wait.last_ms = *at_ms;
                wait.last_refusal = format!("{}: {code}", launch.pool);
            }
            Some((Evidence::Launched { .. }, _)) => {
                (wait, pools) = (None, BTreeSet::new());
            }
            Some(_) => {}
            None => {
                if let Some(wait) = &mut wait {
                    wait.next_ms = Some(record.not_before_ms);
                }
            }
        }
    }
    wait
}

/// What it does now, in a few words.
fn phase(operation: &Operation, open: &[&StepRecord], capacity: Option<&CapacityWait>) -> String {
    let is = |wanted: fn(&Intent) -> bool| open.iter().any(|record| wanted(&record.intent));
    let words = if matches!(operation.status, Status::Stuck { .. }) {
        "a person must help"
    } else if operation.facts.is_undoing() {
        "it is undone"
    } else if capacity.is_some() && is(|intent| matches!(intent, Intent::Launch(_) | Intent::Survey(_))) {
        "no capacity"
    } else if is(|intent| matches!(intent, Intent::Fence(_))) {
        "the old instance ends"
    } else if is(|intent| matches!(intent, Intent::SnapshotRoot(_) | Intent::SnapshotVolume(_))) {
        "snapshots"
    } else if is(|intent| matches!(intent, Intent::Release(_) | Intent::ReleaseInterface(_))) {
        "volumes come free"
    } else if is(|intent| matches!(intent, Intent::AdoptRoot(_) | Intent::CloneRoot(_))) {
        "the root moves"
    } else if is(|intent| matches!(intent, Intent::Launch(_) | Intent::Survey(_))) {
        "launch"
    } else if is(|intent| matches!(intent, Intent::Start(_))) {
        "the new instance boots"
    } else if is(|intent| matches!(intent, Intent::Attach(_))) {
        "volumes are attached"
    } else if is(|intent| matches!(intent, Intent::MoveAddress(_) | Intent::Associate(_))) {
        "the address moves"
    } else if is(|intent| matches!(intent, Intent::Verify(_))) {
        "everything is looked at"
    } else {
        return open.first().map_or_else(|| "nothing".to_owned(), |record| record.step.to_string());
    };
    words.to_owned()
}

fn volumes(operation: &Operation) -> Vec<VolumeNow> {
    let facts = &operation.facts;
    let now = |(slot, fact): (&Slot, &VolumeFact)| VolumeNow {
        slot: slot.clone(),
        volume: fact.id.as_ref().map(ToString::to_string),
        place: place(operation, &fact.place),
        returns: returns(operation, slot, fact),
    };
    facts.volumes.iter().map(now).collect()
}

fn place(operation: &Operation, place: &Place) -> String {
    match place {
        Place::Absent => "not there".to_owned(),
        Place::Free => "free".to_owned(),
        Place::On(instance) => format!("on {}", described(operation, instance)),
    }
}

/// An instance, and which one it is.
fn described(operation: &Operation, instance: &InstanceId) -> String {
    let facts = &operation.facts;
    if facts.candidate.as_ref().is_some_and(|candidate| candidate.instance == *instance) {
        return format!("{instance}, the new instance");
    }
    match facts.holders.iter().find(|holder| holder.instance == *instance) {
        Some(holder) if holder.fenced => format!("{instance}, which is terminated"),
        Some(holder) if holder.ended => format!("{instance}, which ends"),
        Some(holder) if holder.is_old => format!("{instance}, the old instance"),
        _ => instance.to_string(),
    }
}

/// How the node gets the content of a volume.
fn returns(operation: &Operation, slot: &Slot, fact: &VolumeFact) -> String {
    let facts = &operation.facts;
    let spec = &operation.order.spec;
    if matches!(operation.order.kind, OperationKind::Pause | OperationKind::Delete) {
        return String::new();
    }
    if let Some((backup, _)) = facts.restored.get(slot) {
        return format!("restored from {backup}");
    }
    let existed = operation.order.before.volumes.contains_key(slot);
    match (&fact.id, slot) {
        (None, _) if existed => "made again".to_owned(),
        (None, _) => "new".to_owned(),
        (Some(_), Slot::Root) => match facts.root.method {
            RootMethod::Adopt => "whole, the same volume comes back".to_owned(),
            RootMethod::Image | RootMethod::Clone => "whole, a copy of it comes back".to_owned(),
            RootMethod::Fresh => "new, from the image".to_owned(),
        },
        (Some(_), Slot::Data(_)) if !existed => "new".to_owned(),
        (Some(_), Slot::Data(_)) => match spec.persist.data {
            DataMode::Snapshot => "whole, a copy of it comes back".to_owned(),
            _ => "whole, the same volume comes back".to_owned(),
        },
    }
}

fn address(operation: &Operation) -> Option<AddressNow> {
    let network = &operation.facts.network;
    if let Some(InterfaceFact { held: Some(held), place: at, .. }) = &network.interface {
        let place = format!("kept by {}, {}", held.interface, place(operation, at));
        return Some(AddressNow { address: held.private_ip, place });
    }
    let address = network.address?;
    let before = &operation.order.before;
    let keeper = before.address_interface.as_ref();
    let keeper = keeper.or_else(|| before.carrier.as_ref().map(|carrier| &carrier.interface));
    let place = match (&network.address_on, keeper) {
        (Some(instance), _)
            if operation.facts.candidate.as_ref().is_some_and(|c| c.instance == *instance) =>
        {
            format!("on {}", described(operation, instance))
        }
        (_, Some(interface)) => format!("kept by {interface}"),
        (Some(instance), None) => format!("on {}", described(operation, instance)),
        (None, None) => "reserved for it".to_owned(),
    };
    Some(AddressNow { address, place })
}

fn advice(operation: &Operation, stuck: Option<&StuckStep>, capacity: Option<&CapacityWait>) -> Advice {
    let (id, node) = (&operation.id, operation.id.node());
    if let Some(stuck) = stuck {
        let mut commands = commands_in(&stuck.needs);
        let resume = format!("perennial workflow resume {id}");
        let also = [
            Some(resume.clone()).filter(|_| !commands.iter().any(|command| command.starts_with(&resume))),
            operation.no_return().is_none().then(|| format!("perennial workflow cancel {id}")),
            operation.may_be_diverted().then(|| format!("perennial node pause {node}")),
        ];
        for command in also.into_iter().flatten() {
            if !commands.contains(&command) {
                commands.push(command);
            }
        }
        return Advice { needed: true, text: stuck.needs.clone(), commands };
    }
    let hindered = |record: &&StepRecord| {
        record.outcome.is_none() && record.waits.as_ref().is_some_and(|waits| !waits.hindered)
    };
    let is_refused = |record: &StepRecord| {
        record.outcome.is_none() && record.waits.as_ref().is_some_and(|waits| waits.hindered)
    };
    match operation.steps.values().find(hindered) {
        _ if capacity.is_some() => Advice {
            needed: false,
            text: "nothing; it goes on when there is capacity. Or widen `capacity` in its file, then"
                .to_owned(),
            commands: vec![format!("perennial node apply -f {node}.yaml")],
        },
        Some(record) => {
            let look = look_at(&record.intent);
            let text = match look {
                Some(_) => format!("nothing yet; this shows what {} waits for", record.step),
                None => format!("nothing yet; look at what {} waits for", record.step),
            };
            let look = look.unwrap_or_else(|| format!("perennial workflow show {id}"));
            Advice { needed: false, text, commands: vec![look] }
        }
        None if operation.steps.values().any(is_refused) => Advice {
            needed: false,
            text:
                "nothing, if that passes by itself; if it lasts, see to credentials, permissions and quotas"
                    .to_owned(),
            commands: vec!["perennial doctor".to_owned()],
        },
        None => {
            Advice { needed: false, text: "nothing; it goes on by itself".to_owned(), commands: Vec::new() }
        }
    }
}

/// The commands in a text: what stands in backticks and begins with a program's name.
fn commands_in(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_command = |span: &&str| ["perennial ", "aws "].iter().any(|program| span.starts_with(program));
    let mut commands: Vec<String> = Vec::new();
    for command in quoted.filter(is_command) {
        if !commands.iter().any(|known| known == command) {
            commands.push(command.to_owned());
        }
    }
    commands
}

/// The command that shows what a step waits for, as AWS has it.
fn look_at(intent: &Intent) -> Option<String> {
    let volume = |id: &VolumeId| format!("aws ec2 describe-volumes --volume-ids {id}");
    let instance = |id: &InstanceId| format!("aws ec2 describe-instances --instance-ids {id}");
    let snapshots =
        |of: &VolumeId| format!("aws ec2 describe-snapshots --filters Name=volume-id,Values={of}");
    let interface =
        |id: &InterfaceId| format!("aws ec2 describe-network-interfaces --network-interface-ids {id}");
    Some(match intent {
        Intent::ClaimVolume(ClaimVolume { volume: id, .. })
        | Intent::Detach(Detach { volume: id, .. })
        | Intent::Release(Release { volume: id, .. })
        | Intent::Attach(Attach { volume: id, .. })
        | Intent::Grow(Grow { volume: id, .. })
        | Intent::DeleteVolume(DeleteVolume { volume: id, .. }) => volume(id),
        Intent::Fence(Fence { instance: id, .. })
        | Intent::Start(Start { instance: id, .. })
        | Intent::Preserve(Preserve { instance: id, .. }) => instance(id),
        Intent::SnapshotRoot(SnapshotRoot { volume, .. })
        | Intent::SnapshotVolume(SnapshotVolume { volume, .. }) => snapshots(volume),
        Intent::AdoptRoot(AdoptRoot { instance, .. }) => {
            format!("aws ec2 describe-replace-root-volume-tasks --filters Name=instance-id,Values={instance}")
        }
        Intent::ReleaseInterface(ReleaseInterface { interface: id, .. })
        | Intent::AttachInterface(AttachInterface { interface: id, .. })
        | Intent::DetachInterface(DetachInterface { interface: id, .. })
        | Intent::DeleteInterface(DeleteInterface { interface: id, .. }) => interface(id),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_in_a_text_are_listed_once_each() {
        let text = "correct `capacity`, then `perennial node apply -f FILE`; or `aws ec2 wait x`, then \
                    `perennial node apply -f FILE`";
        assert_eq!(commands_in(text), ["perennial node apply -f FILE", "aws ec2 wait x"]);
        assert_eq!(commands_in("no `end"), [""; 0]);
    }
}
