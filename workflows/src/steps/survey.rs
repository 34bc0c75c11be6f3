//! Looks up the available pools, and their prices.
//!
//! Call: DescribeInstanceTypes, DescribeInstanceTypeOfferings, DescribeSpotPriceHistory,
//! GetSpotPlacementScores; nothing is changed. With pools to fall back on, the launch goes by those when the
//! survey takes too long. Without any pool a person is needed.

use crate::model::operation_id::OperationKind;
use crate::model::survey::{PATIENCE_MS, Question};
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::rules::survey;
use crate::step::evidence::Evidence;
use crate::step::name::{Only, StepName};
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, Withdrawal, words};

impl Step for Question {
    fn name(&self) -> StepName {
        Only::Survey.into()
    }

    fn patience(&self) -> Patience {
        if self.needed {
            Patience::until_a_person_is_needed(15 * MINUTE_MS)
        } else {
            // With pools to fall back on, the survey delays the launch no longer than this.
            Patience::then_another_way(PATIENCE_MS)
        }
    }

    fn follows_the_file(&self) -> bool {
        true
    }

    fn is_only_good_in_time(&self) -> bool {
        !self.needed
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        survey::learn(op, self, seen.evidence, seen.at_ms);
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let missing = survey::missing(settled.op, settled.evidence);
        missing.map_or_else(Vec::new, |(because, needs)| settled.stuck(because, needs))
    }

    fn withdrawal(&self, _kind: OperationKind, _is_asked: bool) -> Withdrawal {
        // Nothing more is launched.
        Withdrawal::Ends
    }

    fn typical_ms(&self) -> u64 {
        600
    }

    fn imagined(&self, imagined: &Imagined<'_>) -> Evidence {
        Evidence::Surveyed(survey::imagined(imagined.state, self))
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Surveyed(survey) => survey.in_words(),
            other => words::common(other),
        }
    }
}
