//! Registers an image from the root's snapshot and sees it available.
//!
//! Call: RegisterImage. The name of the image is unique, and so the key of a repeat. Observed on: the image.
//! An image of a snapshot that is no longer the root's is deleted.

use crate::model::aws::ImageId;
use crate::operation::state::Operation;
use crate::rules::snapshot_ahead;
use crate::step::evidence::Evidence;
use crate::step::intent::RegisterImage;
use crate::step::name::{Only, StepName};
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::{Imagined, imaginary};
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for RegisterImage {
    fn name(&self) -> StepName {
        Only::RegisterImage.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(60 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        matches!(hint, WakeHint::Snapshots { snapshots, .. } if snapshots.contains(&self.snapshot))
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::ImageAvailable { image, .. } = seen.evidence else { return };
        op.facts.root.image = Some(image.clone());
        if op.facts.root.snapshot.as_ref() != Some(&self.snapshot) {
            snapshot_ahead::outdate_image(op);
        }
    }

    fn typical_ms(&self) -> u64 {
        35_000
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        let image = imaginary(ImageId::parse(&format!("ami-{}", imagined.suffix())));
        Evidence::ImageAvailable { image, differs: Vec::new() }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::ImageAvailable { image, differs } if differs.is_empty() => {
                format!("{image} is available")
            }
            Evidence::ImageAvailable { image, differs } => {
                format!("{image} is available, but with {}", differs.join(", "))
            }
            other => words::common(other),
        }
    }
}
