//! Sees the launched instance running.
//!
//! Call: DescribeInstances; nothing is changed. Observed on: the instance. An instance that does not start in
//! time is lost, and another one is launched.

use crate::model::aws::{InstanceId, SnapshotId, VolumeId};
use crate::model::capacity::CapacityPool;
use crate::model::volume::{Found, Slot};
use crate::operation::event::OperationEvent;
use crate::operation::facts::{Running, VolumeFact};
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::{Intent, Start};
use crate::step::name::{Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::{Imagined, imaginary};
use crate::steps::settled::{Settled, is_candidate, lost};
use crate::steps::{MINUTE_MS, Patience, Seen, Step, WhenGone, words};

impl Step for Start {
    fn name(&self) -> StepName {
        Only::Start.into()
    }

    fn patience(&self) -> Patience {
        Patience::then_another_way(10 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_instance(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::Started { interface, private_ip, root_device, root_volume, volumes } = seen.evidence
        else {
            return;
        };
        let Some(candidate) = op.facts.candidate.as_mut().filter(|c| c.instance == self.instance) else {
            return;
        };
        op.facts.launches.failed_in_a_row = 0;
        candidate.running = Some(Running {
            interface: interface.clone(),
            private_ip: *private_ip,
            root_device: root_device.clone(),
            root_volume: root_volume.clone(),
        });
        if root_volume.is_none() {
            candidate.protected = true;
        }
        let (pool, launched_with) = (candidate.pool.clone(), candidate.launched_with.clone());
        for (device, volume) in volumes {
            let Some((slot, snapshot)) = launched_with.get(device) else { continue };
            replace_by_copy(op, slot, volume, snapshot, &pool);
            if let Some(fact) = op.facts.volumes.get_mut(slot) {
                fact.goes_to(&self.instance);
            }
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        match settled.evidence {
            Evidence::OutOfTime { because } if is_candidate(settled.op, &self.instance) => {
                lost(&self.instance, format!("it did not start in time: {because}"))
            }
            _ => settled.blocked(),
        }
    }

    fn when_instance_gone(&self) -> WhenGone {
        WhenGone::LaunchFailed
    }

    fn typical_ms(&self) -> u64 {
        6_500
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let volume = |k: usize| imaginary(VolumeId::parse(&format!("vol-{}x{k}", imagined.suffix())));
        Evidence::Started {
            interface: imagined.interface(),
            private_ip: imagined.address(),
            root_device: "/dev/xvda".to_owned(),
            root_volume: Some(imagined.volume()),
            volumes: self.devices.iter().zip(1..).map(|(device, k)| (device.clone(), volume(k))).collect(),
        }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Started { private_ip, .. } => format!("running, {private_ip}"),
            other => words::common(other),
        }
    }

    fn brings(&self, seen: &Evidence) -> Option<String> {
        matches!(seen, Evidence::Started { .. }).then(|| format!("{} runs", self.instance))
    }
}

/// The launch has made a copy of a volume.
fn replace_by_copy(
    op: &mut Operation,
    slot: &Slot,
    volume: &VolumeId,
    snapshot: &SnapshotId,
    pool: &CapacityPool,
) {
    let zone = op.facts.placement.as_ref().map(|placement| op.zone_of(placement, pool).to_owned());
    let Some(fact) = op.facts.volumes.get(slot) else { return };
    let superseded = op.superseded(slot, fact, "it went on as a copy, by its snapshot");
    op.facts.superseded.extend(superseded);
    let restored = op.facts.restore.remove(slot).is_some();
    let wanted = launch_size(op, slot, pool);
    if let Some(fact) = op.facts.volumes.get_mut(slot) {
        *fact = VolumeFact {
            id: Some(volume.clone()),
            size_gib: wanted.or(fact.size_gib),
            zone,
            made_from: (!restored).then(|| snapshot.clone()),
            found: fact.found.as_ref().map(Found::copied),
            ..VolumeFact::absent(fact.device.clone())
        };
    }
}

/// How large the launch made a volume.
fn launch_size(op: &Operation, slot: &Slot, pool: &CapacityPool) -> Option<u32> {
    op.steps.values().rev().find_map(|record| match record.intent.as_ref() {
        Intent::Launch(launch) if launch.pool == *pool => {
            launch.volumes.iter().find(|volume| volume.slot == *slot)?.size_gib
        }
        _ => None,
    })
}
