//! Terminates an instance, after its persistent spot request was cancelled, and sees it terminated.
//!
//! Call: CancelSpotInstanceRequests, TerminateInstances; EC2 documents both as idempotent. Observed on: the
//! instance, `terminated` in two reads. An instance that hangs in `shutting-down` is terminated by force
//! (Force and SkipOsShutdown). From the intention to fence the old instance on, the operation only
//! goes forward. When it is due: `rules::fence`.

use crate::model::aws::InstanceId;
use crate::operation::event::OperationEvent;
use crate::operation::state::Operation;
use crate::step::evidence::Evidence;
use crate::step::intent::Fence;
use crate::step::name::StepName;
use crate::step::wake_hint::WakeHint;
use crate::steps::imagined::Imagined;
use crate::steps::settled::Settled;
use crate::steps::words::in_brackets;
use crate::steps::{MINUTE_MS, Patience, Seen, Step, words};

impl Step for Fence {
    fn name(&self) -> StepName {
        StepName::Fence(self.instance.clone())
    }

    fn patience(&self) -> Patience {
        // A metal instance took over 19 minutes to terminate.
        Patience::until_a_person_is_needed(60 * MINUTE_MS)
    }

    fn waits_for(&self, hint: &WakeHint) -> bool {
        hint.is_about_instance(&self.instance)
    }

    fn learn(&self, op: &mut Operation, seen: &Seen<'_>) {
        let Evidence::Fenced { reason, .. } = seen.evidence else { return };
        op.facts.launches.failed_because(&self.instance, reason.as_deref());
        for holder in op.facts.holders.iter_mut().filter(|holder| holder.instance == self.instance) {
            holder.fenced = true;
            holder.ended = true;
        }
    }

    fn consequence(&self, settled: &Settled<'_>) -> Vec<OperationEvent> {
        let instance = &self.instance;
        match settled.evidence {
            // EC2's code for DisableApiTermination (EC2 API reference, TerminateInstances).
            Evidence::Refused { code, message } if code == "OperationNotPermitted" => settled.stuck(
                format!("{instance} has termination protection: {code}: {message}"),
                format!(
                    "take it off: `aws ec2 modify-instance-attribute --instance-id {instance} \
                     --no-disable-api-termination`, then `perennial workflow resume {}`",
                    settled.op.id
                ),
            ),
            _ => settled.blocked(),
        }
    }

    fn is_needed_by_undo(&self, _op: &Operation) -> bool {
        true
    }

    fn typical_ms(&self) -> u64 {
        // About a minute on virtual types; minutes on GPU and metal.
        40_000
    }

    fn imagined(&self, _imagined: &Imagined<'_>) -> Evidence {
        Evidence::Fenced {
            found: "running".to_owned(),
            terminated_by_us: true,
            reason: None,
            forced: false,
            not_shown: false,
        }
    }

    fn words(&self, seen: &Evidence) -> String {
        match seen {
            Evidence::Fenced { found, not_shown: true, .. } => {
                format!("found {found}; not shown any more, while other things are")
            }
            Evidence::Fenced { found, terminated_by_us, reason, forced, not_shown: false } => {
                let by_us = if *terminated_by_us { ", terminated by us" } else { "" };
                let by_force = if *forced {
                    "; it did not get past shutting-down, and was terminated by force"
                } else {
                    ""
                };
                let reason = in_brackets(reason.as_deref().filter(|_| !terminated_by_us));
                format!("found {found}{by_us}{by_force}; terminated, seen twice{reason}")
            }
            other => words::common(other),
        }
    }

    fn takes_away(&self, old: Option<&InstanceId>) -> Option<String> {
        (old == Some(&self.instance)).then(|| format!("{} was terminated", self.instance))
    }
}
