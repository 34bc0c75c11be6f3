//! When the UEFI variables of the root's instance are read, and which of them continue with an image.

use crate::model::root::RootMethod;
use crate::model::uefi::UefiVariables;
use crate::operation::facts::Candidate;
use crate::operation::state::Operation;

/// Whether the old instance's variables are read.
pub(crate) fn is_asked(op: &Operation) -> bool {
    let boots_by_it = |mode: &String| mode.starts_with("uefi");
    op.keeps_root()
        && op
            .facts
            .placement
            .as_ref()
            .is_some_and(|placement| placement.image.boot_mode.as_ref().is_some_and(boots_by_it))
}

/// Variables that were read replace the known ones; unread ones do not.
pub(crate) fn learn(known: &mut Option<String>, seen: Option<&UefiVariables>) {
    match seen {
        Some(UefiVariables::Read { data }) => known.clone_from(data),
        Some(UefiVariables::Unread { .. }) | None => {}
    }
}

/// The known variables once the new instance carries the node: none of a root that is not there any more.
pub(crate) fn of_the_root(op: &Operation, candidate: &Candidate) -> Option<String> {
    let goes_on = op.keeps_root()
        && match op.root_method_of(&candidate.pool) {
            RootMethod::Adopt | RootMethod::Clone | RootMethod::Image => true,
            RootMethod::Fresh => false,
        };
    op.facts.uefi_data.clone().filter(|_| goes_on)
}
