//! Observations that several steps can make, for people.

use std::fmt::Display;

use crate::step::backup::BackupEvidence;
use crate::step::evidence::Evidence;

/// The words for an observation that does not belong to one step.
pub(crate) fn common(evidence: &Evidence) -> String {
    match evidence {
        Evidence::StillBusy { because } => format!("still busy: {because}"),
        Evidence::NoCapacity { code, .. } => code.clone(),
        Evidence::NoAddress { code, message } => format!("{code}: {message}"),
        Evidence::Outdated => "given up without effect: the file has changed".to_owned(),
        Evidence::AdoptRefused { code, message } | Evidence::Refused { code, message } => {
            format!("refused: {code}: {message}")
        }
        Evidence::NotAsked { because } => because.to_string(),
        Evidence::InstanceGone { instance, state, reason } => {
            let state = state.map_or_else(|| "not known any more".to_owned(), |state| state.to_string());
            format!("{instance} is {state}{}", in_brackets(reason.as_deref()))
        }
        Evidence::HeldByAnother { what, by } => format!("{what} is held by {by}"),
        Evidence::Lost { what, .. } => format!("lost: {what}"),
        Evidence::OutOfTime { because } => format!("out of time: {because}"),
        Evidence::Backup(BackupEvidence::Taken { snapshots, .. }) => {
            let ids: Vec<String> = snapshots.iter().map(|taken| taken.snapshot.to_string()).collect();
            format!("{} is being copied", ids.join(", "))
        }
        Evidence::Backup(evidence) => evidence.to_string(),
        // Each of these is told by the step that can observe it.
        Evidence::Resolved(_)
        | Evidence::Surveyed(_)
        | Evidence::VolumeCreated { .. }
        | Evidence::VolumeClaimed { .. }
        | Evidence::InterfaceCreated { .. }
        | Evidence::Preserved
        | Evidence::PreservedWith { .. }
        | Evidence::Fenced { .. }
        | Evidence::Released
        | Evidence::SnapshotCompleted { .. }
        | Evidence::ImageAvailable { .. }
        | Evidence::Launched { .. }
        | Evidence::ImageGone { .. }
        | Evidence::Started { .. }
        | Evidence::Adopted { .. }
        | Evidence::Attached
        | Evidence::DeviceInUse
        | Evidence::GroupsSet
        | Evidence::Moved { .. }
        | Evidence::AddressReturned { .. }
        | Evidence::Associated { .. }
        | Evidence::Grown { .. }
        | Evidence::Verified
        | Evidence::Deleted
        | Evidence::Found { .. } => "an observation of another step".to_owned(),
    }
}

pub(crate) fn in_brackets(text: Option<impl Display>) -> String {
    text.map_or(String::new(), |text| format!(" ({text})"))
}
