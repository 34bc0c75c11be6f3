//! Signals about an instance: a warning, a loss, a failed check. One of them starts, joins or changes an
//! operation.

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::{Node, NodeEvent};
use crate::domain::command::{Rejection, Sight};
use crate::domain::movement;
use crate::domain::movement::SpotSeen;
use crate::domain::states::{Appends, Decider, Event, Wanted};
use crate::machine::decide::Draft;
use crate::model::operation_id::{OperationKind, node_stream};
use crate::model::signal::{Cause, Effect, News, Signal, StatusCheck};
use crate::spec::signals::{ImpairedPolicy, RebalancePolicy};

impl Decider<'_> {
    /// Something was heard about an instance of a node.
    pub(crate) fn on_signal(
        &self,
        sight: &Sight,
        signal: &Signal,
    ) -> Result<(Disposition, Appends), Rejection> {
        let node = self.seen(sight)?;
        if let Some(open) = &sight.open
            && let Some(operation) = self.operation(open)
            && operation.instances().contains(&signal.instance)
        {
            let mut draft = Draft::from(operation, self.head(&open.stream()), self.now_ms);
            draft.signal(signal)?;
            if draft.events().is_empty() {
                let because = format!("workflow {open} knows, or need not");
                return Ok((Disposition::Noted { because }, Vec::new()));
            }
            return Ok((Disposition::Joined { operation: open.clone() }, self.close(draft)?));
        }
        let carries =
            node.resources.carrier.as_ref().is_some_and(|carrier| carrier.instance == signal.instance);
        if !carries || !node.exists() {
            let disposition =
                Disposition::Past { node: sight.node.clone(), instance: signal.instance.clone() };
            return Ok((disposition, Vec::new()));
        }
        if let (News::Rebalance, Some(spec)) = (&signal.news, &node.spec) {
            match spec.signals.unwrap_or_default().rebalance {
                RebalancePolicy::Ignore => {}
                RebalancePolicy::Prepare if spec.backup.is_some() => {
                    return self.prepare(sight, node, signal, None);
                }
                RebalancePolicy::Prepare => {}
                RebalancePolicy::Move => match movement::may_move(node, self.now_ms) {
                    Ok(()) => return self.replace(sight, node, signal),
                    Err(because) => {
                        let because = format!("it is not moved now: {because}");
                        return self.prepare(sight, node, signal, Some(because));
                    }
                },
            }
        }
        if let News::Impaired { checks, since_ms } = &signal.news {
            return self.on_impaired(sight, node, signal, checks, *since_ms);
        }
        if !signal.is_loss() {
            let Some(because) = noted_because(signal) else {
                return Ok((Disposition::Noted { because: "the instance is well".to_owned() }, Vec::new()));
            };
            let because = because.to_owned();
            let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
            let appends = vec![Append::new(node_stream(&sight.node), vec![Event::Node(noted)])];
            return Ok((Disposition::Noted { because }, appends));
        }
        self.replace(sight, node, signal)
    }

    /// Status checks fail: the node is moved, or it is noted once.
    fn on_impaired(
        &self,
        sight: &Sight,
        node: &Node,
        signal: &Signal,
        checks: &[StatusCheck],
        since_ms: u64,
    ) -> Result<(Disposition, Appends), Rejection> {
        let spec = node.spec.as_ref().and_then(|spec| spec.signals).unwrap_or_default();
        if self.now_ms < since_ms + u64::from(spec.impaired_after_s) * 1_000 {
            let because = format!("for less than {} s", spec.impaired_after_s);
            return Ok((Disposition::Noted { because }, Vec::new()));
        }
        let because = match spec.impaired {
            ImpairedPolicy::Note => "noted: its file says `signals.impaired: note`".to_owned(),
            ImpairedPolicy::Move if checks == [StatusCheck::AttachedEbs] => {
                "noted: another instance does not mend its volumes".to_owned()
            }
            ImpairedPolicy::Move => match movement::has_settled(node, self.now_ms) {
                Ok(()) => return self.replace(sight, node, signal),
                Err(because) => format!("noted, it is not moved now: {because}"),
            },
        };
        let known = node.noted.iter().any(|noted| {
            matches!(&noted.signal.news, News::Impaired { checks: known, .. } if known == checks)
                && noted.signal.instance == signal.instance
                && noted.because == because
        });
        if known {
            return Ok((Disposition::Noted { because }, Vec::new()));
        }
        let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
        let appends = vec![Append::new(node_stream(&sight.node), vec![Event::Node(noted)])];
        Ok((Disposition::Noted { because }, appends))
    }

    /// A fresh backup, if the node has backups, and a note.
    fn prepare(
        &self,
        sight: &Sight,
        node: &Node,
        signal: &Signal,
        because: Option<String>,
    ) -> Result<(Disposition, Appends), Rejection> {
        let mut appends = Vec::new();
        let mut said: Vec<String> = because.into_iter().collect();
        if node.spec.as_ref().is_some_and(|spec| spec.backup.is_some()) {
            let cause = Cause::Signal { signal: signal.clone() };
            let (disposition, begun) = self.back_up(sight, node, cause)?;
            appends.extend(begun);
            said.push(match disposition {
                Disposition::BackupBegan { backup } => format!("backup {backup} is taken at once"),
                Disposition::Noted { because } => because,
                other => format!("no backup at once: {other}"),
            });
        }
        let because = format!("noted: {}", said.join("; "));
        let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
        appends.push(Append::new(node_stream(&sight.node), vec![Event::Node(noted)]));
        Ok((Disposition::Noted { because }, appends))
    }

    /// The node goes on on another instance, because of what was heard.
    fn replace(
        &self,
        sight: &Sight,
        node: &Node,
        signal: &Signal,
    ) -> Result<(Disposition, Appends), Rejection> {
        let spec = node.spec.clone().ok_or(Rejection::Moved { node: sight.node.clone() })?;
        let cause = Cause::Signal { signal: signal.clone() };
        let begun = self.start(
            sight,
            Wanted::new(OperationKind::Replace, spec, node.resources.clone(), node.generation + 1, cause),
        )?;
        let appends = vec![Append::new(node_stream(&sight.node), begun.node_events), begun.append];
        Ok((Disposition::Started { operation: begun.id }, appends))
    }

    /// A node on demand goes back to spot, if it may now.
    pub(crate) fn return_to_spot(&self, sight: &Sight, seen: &SpotSeen) -> Result<Appends, Rejection> {
        let node = self.seen(sight)?;
        let not_now = |why: String| Rejection::NotNow { node: sight.node.clone(), why };
        let because = movement::may_return(node, seen, self.now_ms).map_err(not_now)?;
        let spec = node.spec.clone().ok_or(Rejection::Moved { node: sight.node.clone() })?;
        let wanted = Wanted {
            reimage: false,
            prune: Vec::new(),
            restore: None,
            kind: OperationKind::Replace,
            spec,
            before: node.resources.clone(),
            generation: node.generation + 1,
            keep: None,
            cause: Cause::ReturnToSpot { because },
        };
        let begun = self.start(sight, wanted)?;
        Ok(vec![Append::new(node_stream(&sight.node), begun.node_events), begun.append])
    }
}

/// Why what is no loss is written down all the same; `None` when it is not.
const fn noted_because(signal: &Signal) -> Option<&'static str> {
    match &signal.news {
        News::Rebalance => {
            Some("a recommendation is noted, not followed: it predicts poorly, and a move is an outage")
        }
        News::ScheduledChange { effect, .. } => Some(match effect {
            Effect::Maintenance | Effect::Retirement => {
                "noted: the instance and its volumes stay, and a move would be an outage as well"
            }
            Effect::Settled => "noted: nothing will come of it any more",
        }),
        News::SpotInterruption { .. }
        | News::ReservationInterruption { .. }
        | News::StateChange { .. }
        | News::Impaired { .. }
        | News::Missing { .. } => None,
    }
}
