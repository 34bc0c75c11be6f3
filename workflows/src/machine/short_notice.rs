//! Which steps a short notice leaves out: those that the rules would open if there were time.

use crate::operation::state::Operation;
use crate::step::intent::Intent;
use crate::step::name::StepName;
use crate::workflow::dispatch;

/// The optional steps that hold now and for which there is no time; with the reason.
pub(crate) fn dropped(op: &Operation, now_ms: u64) -> Option<(Vec<StepName>, String)> {
    let old = op.facts.holders.iter().find(|holder| holder.is_old)?;
    let deadline_ms = old.deadline_ms?;
    let left_ms = deadline_ms.saturating_sub(now_ms);
    let is_late =
        |intent: &Intent| intent.as_step().is_dropped_on_short_notice() && left_ms < intent.budget_ms();
    let late: Vec<StepName> = dispatch::rules(op)
        .iter()
        .map(|due| &due.intent)
        .filter(|intent| is_late(intent))
        .map(Intent::step)
        .collect();
    (!late.is_empty()).then(|| {
        let because = format!(
            "{} is taken in {} s, which may not suffice; the outage is longer for it, nothing is lost",
            old.instance,
            left_ms / 1_000
        );
        (late, because)
    })
}
