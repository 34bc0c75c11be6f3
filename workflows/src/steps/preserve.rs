//! Sets DeleteOnTermination to false for what must outlive an instance, and sees it so.
//!
//! Call: ModifyInstanceAttribute and ModifyNetworkInterfaceAttribute, which are declarative. Observed on: the
//! instance's mapping, and its interfaces. The same look finds other volumes on the instance, and the node
//! adopts those it can (`rules::attached_volumes`); it also reads the UEFI variables, which end with it.

use crate::model::aws::InstanceId;
use crate::model::operation_id::OperationKind;
use crate::model::uefi::UefiVariables;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::rules::{address_retention, attached_volumes, uefi};
use crate::step::evidence::Evidence;
use crate::step::intent::Preserve;
use crate::step::name::StepName;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, Withdrawal, words};

impl Step for Preserve {
    fn name(&self) -> StepName {
        StepName::Preserve(self.instance.clone())
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        attached_volumes::leave(op, seen.evidence);
        let read = match seen.evidence {
            Evidence::Preserved => None,
            Evidence::PreservedWith { uefi, .. } => Some(uefi.as_ref()),
            _ => return,
        };
        // One that was asked for before the address was to come here has not looked at its interface.
        let is_all =
            self.address_interface.is_some() || address_retention::preserved(op, &self.instance).is_none();
        let facts = &mut op.facts;
        if let Some(read) = read {
            uefi::learn(&mut facts.uefi_data, read);
        }
        for holder in facts.holders.iter_mut().filter(|holder| holder.instance == self.instance) {
            holder.preserved |= is_all;
        }
        if let Some(candidate) = facts.candidate.as_mut().filter(|c| c.instance == self.instance) {
            if candidate.protected {
                candidate.preserved = true;
            } else {
                candidate.protected = true;
            }
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let mut events = attached_volumes::taken(settled.op, self, settled.evidence);
        events.extend(settled.blocked());
        events
    }

    fn is_needed_by_undo(&self, _op: &Operation) -> bool {
        true
    }

    fn withdrawal(&self, kind: OperationKind, _is_asked: bool) -> Withdrawal {
        // The volumes on the instance are looked at again by the operation that follows.
        if kind == OperationKind::AdoptVolumes { Withdrawal::Ends } else { Withdrawal::Settles }
    }

    fn typical_ms(&self) -> u64 {
        1_500
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Preserved
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Preserved => SAFE.to_owned(),
            Evidence::PreservedWith { found, unmanaged, uefi } => {
                let found = found.iter().map(|found| found.volume.as_str()).collect();
                let unmanaged = unmanaged.iter().map(|other| other.volume.as_str()).collect();
                with(found, unmanaged, uefi.as_ref())
            }
            other => words::common(other),
        }
    }
}

const SAFE: &str = "DeleteOnTermination is false";

fn with(found: Vec<&str>, unmanaged: Vec<&str>, uefi: Option<&UefiVariables>) -> String {
    let mut said = SAFE.to_owned();
    for (what, ids) in [("found", found), ("left alone:", unmanaged)] {
        if !ids.is_empty() {
            said.push_str(&format!("; {what} {}", ids.join(", ")));
        }
    }
    match uefi {
        Some(UefiVariables::Read { data: Some(_) }) => said.push_str("; UEFI variables read"),
        Some(UefiVariables::Unread { because }) => {
            said.push_str(&format!("; UEFI variables not read: {because}"));
        }
        Some(UefiVariables::Read { data: None }) | None => {}
    }
    said
}
