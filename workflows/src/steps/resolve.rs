//! Looks up the zones of the node's subnets and the traits of its image.
//!
//! Call: DescribeSubnets, DescribeImages; nothing is changed. Observed on: both.

use crate::model::image::{ImageFacts, Placement};
use crate::operation::state::Operation;
use crate::rules::attached_volumes;
use crate::step::evidence::Evidence;
use crate::step::intent::Resolve;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Resolve {
    fn name(&self) -> StepName {
        Only::Resolve.into()
    }

    fn patience(&self) -> Patience {
        Patience::until_a_person_is_needed(15 * MINUTE_MS)
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        if let Evidence::Resolved(placement) = seen.evidence {
            op.facts.placement = Some(placement.clone());
            attached_volumes::map(op);
        }
    }

    fn typical_ms(&self) -> u64 {
        500
    }

    /// The zones and the image that a lookup would show, as far as the other steps need them.
    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        let zone_of = |other: &_| format!("zone-of-{other}");
        Evidence::Resolved(Placement {
            zone: "the-subnets-zone".to_owned(),
            other_zones: self.others.iter().map(|other| (other.clone(), zone_of(other))).collect(),
            image: ImageFacts {
                architecture: "x86_64".to_owned(),
                root_device: "/dev/xvda".to_owned(),
                boot_mode: None,
                ena_support: true,
                tpm_support: None,
                imds_support: None,
                platform: None,
                mapped: Vec::new(),
            },
        })
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Resolved(placement) => {
                format!("zone {}, {} image", placement.zone, placement.image.architecture)
            }
            other => words::common(other),
        }
    }
}
