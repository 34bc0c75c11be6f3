//! What the sweep looks for on the instances of nodes at rest: volumes that an operator attached, and
//! found ones that an operator detached again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use perennial_workflows::domain::projection::AtRest;
use perennial_workflows::model::aws::{InstanceId, InstanceState, VolumeId};

use crate::port::error::CloudError;
use crate::port::{Cloud, InstanceView, Select, VolumeView};

/// A volume must have left in this many sweeps in a row before it is given back.
const LEFT_SWEEPS: u32 = 2;

/// How many ids one describe asks for.
const CHUNK: usize = 200;

/// What was seen of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Attached volumes that are not known.
    pub(crate) others: Vec<VolumeId>,
    /// Known ones that have left.
    pub(crate) left: Vec<VolumeId>,
}

/// What earlier sweeps saw.
#[derive(Debug, Default)]
pub(crate) struct AttachmentDrift {
    /// In how many sweeps in a row a volume was not on its instance.
    left: HashMap<(InstanceId, VolumeId), u32>,
}

impl AttachmentDrift {
    /// The instances whose volumes must be looked at again in the next sweep.
    pub(crate) fn suspects(&self) -> impl Iterator<Item = &InstanceId> {
        self.left.keys().map(|(instance, _)| instance)
    }

    /// Looks at the instances of nodes at rest.
    ///
    /// # Errors
    /// When the volumes cannot be described; the next sweep looks again.
    pub(crate) async fn look(
        &mut self,
        cloud: &dyn Cloud,
        instances: &BTreeMap<&InstanceId, (&AtRest, &InstanceView)>,
    ) -> Result<BTreeMap<InstanceId, Seen>, CloudError> {
        let mut asked: BTreeSet<VolumeId> = BTreeSet::new();
        let mut others = BTreeMap::new();
        let mut missing: HashMap<(InstanceId, VolumeId), u32> = HashMap::new();
        for (&id, (held, view)) in instances {
            if view.state != InstanceState::Running {
                continue;
            }
            let strange = if held.adopts { view.volumes_beside(&held.known) } else { Vec::new() };
            asked.extend(strange.iter().cloned());
            others.insert(id.clone(), strange);
            for volume in &held.leaving {
                if view.block_devices.iter().all(|device| device.volume != *volume) {
                    asked.insert(volume.clone());
                    missing.insert((id.clone(), volume.clone()), 0);
                }
            }
        }
        let asked: Vec<VolumeId> = asked.into_iter().collect();
        let mut volumes: BTreeMap<VolumeId, VolumeView> = BTreeMap::new();
        for chunk in asked.chunks(CHUNK) {
            for view in cloud.volumes(&Select::Ids(chunk.to_vec())).await? {
                volumes.insert(view.id.clone(), view);
            }
        }
        // The volume is authoritative: it may be on its way, or the mapping old.
        missing.retain(|(instance, volume), _| {
            volumes
                .get(volume)
                .is_none_or(|view| view.attachments.iter().all(|attachment| attachment.instance != *instance))
        });
        for (key, sweeps) in &mut missing {
            *sweeps = self.left.get(key).copied().unwrap_or(0) + 1;
        }
        self.left = missing;
        let mut seen: BTreeMap<InstanceId, Seen> = BTreeMap::new();
        for (id, strange) in others {
            let there =
                |volume: &VolumeId| volumes.get(volume).is_some_and(|view| view.device_on(&id).is_some());
            let others: Vec<VolumeId> = strange.into_iter().filter(there).collect();
            let mut left: Vec<VolumeId> = self
                .left
                .iter()
                .filter(|((instance, _), sweeps)| *instance == id && **sweeps >= LEFT_SWEEPS)
                .map(|((_, volume), _)| volume.clone())
                .collect();
            left.sort();
            if !others.is_empty() || !left.is_empty() {
                seen.insert(id, Seen { others, left });
            }
        }
        Ok(seen)
    }
}
