//! A new node from another node's backup (`node restore NODE --backup B --as-new NEW`, the submission
//! `node.apply` with `from_backup`).
//!
//! The new node is provisioned as its file says, with this difference: its root is an image of the backup's
//! root snapshot, and its data volumes with names of the backup are made from the backup's snapshots. The
//! snapshots stay the other node's. From the append that begins the provision to its end the backup is
//! *held*, and retention passes it over. The volumes and the image that are made from it are the new node's,
//! and end like its others.
//!
//! ```text
//!   node.apply ──► new node: registered, provision began ─────────► finished (or cancelled)
//!              └─► backup catalog: held ──(retention passes over it)──► hold released ──► prune excess
//! ```
//!
//! Resources that the other node still has cannot be the new node's as well: its address, its Elastic IP
//! address, its volumes.

use std::collections::BTreeMap;

use crate::aggregate::backup_catalog::{Backup, Progress};
use crate::aggregate::node::Node;
use crate::model::aws::SnapshotId;
use crate::model::backup_id::BackupId;
use crate::model::restore::Restore;
use crate::model::volume::Slot;
use crate::spec::node::{NodeSpec, RootMode};

/// The backup content for a new node. The error names the wrong field and the remedy.
///
/// # Errors
/// Why not, as a clause for the sender.
pub(crate) fn restore(
    spec: &NodeSpec,
    id: &BackupId,
    backup: Option<&Backup>,
    source: &Node,
) -> Result<Restore, String> {
    let from = id.node();
    let Some(backup) = backup else {
        return Err(format!("from_backup: there is no backup {id}; see `perennial node backups {from}`"));
    };
    let (Progress::Complete, Some(taken_at_ms)) = (backup.progress, backup.taken_at_ms) else {
        return Err(format!("from_backup: {id} is not complete; see `perennial node backups {from}`"));
    };
    let mut snapshots: BTreeMap<Slot, SnapshotId> = BTreeMap::new();
    if let Some(taken) = backup.snapshots.get(&Slot::Root).filter(|_| spec.persist.root != RootMode::None) {
        if let Some(old) = source.spec.as_ref().filter(|old| old.image != spec.image) {
            return Err(format!(
                "spec.image: the root of {id} was made from {}, and comes back with that image's traits; name it",
                old.image
            ));
        }
        snapshots.insert(Slot::Root, taken.snapshot.clone());
    }
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        let slot = Slot::Data(wanted.name.clone());
        let Some(taken) = backup.snapshots.get(&slot) else { continue };
        let of = |field: &str| format!("spec.data_volumes[{i}].{field}");
        if wanted.volume.is_some() {
            return Err(format!("{}: {slot} comes from {id}; remove the field", of("volume")));
        }
        if wanted.snapshot.is_some() {
            return Err(format!("{}: {slot} comes from {id}; remove the field", of("snapshot")));
        }
        if let Some(size_gib) = taken.size_gib.filter(|size_gib| *size_gib > wanted.size_gib) {
            return Err(format!(
                "{}: in {id} it has {size_gib} GiB, which is the least; say {size_gib} or more",
                of("size_gib")
            ));
        }
        snapshots.insert(slot, taken.snapshot.clone());
    }
    if snapshots.is_empty() {
        let has: Vec<String> = backup.snapshots.keys().map(ToString::to_string).collect();
        return Err(format!(
            "from_backup: {id} has {}, and the new node keeps none of them; name a volume of the backup",
            has.join(" and ")
        ));
    }
    taken_by(spec, id, source)?;
    Ok(Restore { backup: id.clone(), taken_at_ms, snapshots })
}

/// The resources of the file that the other node still has.
fn taken_by(spec: &NodeSpec, id: &BackupId, source: &Node) -> Result<(), String> {
    let (Some(old), false) = (&source.spec, source.deleted) else { return Ok(()) };
    let from = id.node();
    let address = source.resources.address.or(old.private_ip);
    if let Some(wanted) = spec.private_ip.filter(|wanted| Some(*wanted) == address) {
        return Err(format!("spec.private_ip: {wanted} is {from}'s; remove the field or name another"));
    }
    if let Some(wanted) = &spec.network.elastic_ip
        && old.network.elastic_ip.as_ref() == Some(wanted)
    {
        return Err(format!(
            "spec.network.elastic_ip: {wanted} is {from}'s; remove the field or name another"
        ));
    }
    for (i, wanted) in spec.data_volumes.iter().enumerate() {
        if let Some(volume) = &wanted.volume
            && source.resources.volumes.values().any(|held| held.volume == *volume)
        {
            return Err(format!("spec.data_volumes[{i}].volume: {volume} is {from}'s; name another"));
        }
    }
    Ok(())
}
