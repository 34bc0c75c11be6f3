//! Signals about an instance: an interruption warning, a loss, a failed check. One of them starts, joins or
//! changes an operation. `on_signal` decides which; `move_from` starts the replacement.

use perennial_engine::domain::Append;

use crate::aggregate::inbox::Disposition;
use crate::aggregate::node::NodeEvent;
use crate::domain::command::Rejection;
use crate::domain::decider::{Answer, Appends, Decider, Subject, Wanted};
use crate::domain::movement;
use crate::domain::movement::SpotSeen;
use crate::domain::standing;
use crate::domain::states::Event;
use crate::machine::decide::Draft;
use crate::model::operation_id::OperationKind;
use crate::model::signal::{Cause, Effect, News, Signal, StatusCheck};
use crate::spec::signals::{ImpairedPolicy, RebalancePolicy};

impl Decider<'_> {
    /// Something was heard about an instance of a node.
    pub(crate) fn on_signal(&self, subject: Subject<'_>, signal: &Signal) -> Answer {
        let node = subject.node;
        // Whatever it is about, the instance may not be the one that the journal takes it for.
        if let Some(because) = standing::behind(node) {
            return Ok((Disposition::Noted { because }, Vec::new()));
        }
        if let Some(open) = subject.open()
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
                Disposition::Past { node: subject.name.clone(), instance: signal.instance.clone() };
            return Ok((disposition, Vec::new()));
        }
        match &signal.news {
            News::Rebalance => self.on_rebalance(subject, signal),
            News::Impaired { checks, since_ms } => self.on_impaired(subject, signal, checks, *since_ms),
            // A warning becomes an operation here. A state or a change of a healthy instance is no loss.
            News::SpotInterruption { .. }
            | News::ReservationInterruption { .. }
            | News::StateChange { .. }
            | News::ScheduledChange { .. }
            | News::Missing { .. } => {
                if signal.is_loss() {
                    self.move_from(subject, signal)
                } else {
                    Ok(note(subject, signal))
                }
            }
        }
    }

    /// EC2 recommends to leave the instance; the node's file says what comes of it.
    fn on_rebalance(&self, subject: Subject<'_>, signal: &Signal) -> Answer {
        let node = subject.node;
        let Some(spec) = &node.spec else { return Ok(note(subject, signal)) };
        match spec.signals.unwrap_or_default().rebalance {
            RebalancePolicy::Prepare if spec.backup.is_some() => self.prepare(subject, signal, None),
            RebalancePolicy::Ignore | RebalancePolicy::Prepare => Ok(note(subject, signal)),
            RebalancePolicy::Move => match movement::may_move(node, self.now_ms) {
                Ok(()) => self.move_from(subject, signal),
                Err(because) => {
                    let because = format!("it is not moved now: {because}");
                    self.prepare(subject, signal, Some(because))
                }
            },
        }
    }

    /// Status checks fail: the node is moved, or it is noted once.
    fn on_impaired(
        &self,
        subject: Subject<'_>,
        signal: &Signal,
        checks: &[StatusCheck],
        since_ms: u64,
    ) -> Answer {
        let node = subject.node;
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
                Ok(()) => return self.move_from(subject, signal),
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
        let appends = vec![Append::new(subject.stream(), vec![Event::Node(noted)])];
        Ok((Disposition::Noted { because }, appends))
    }

    /// A fresh backup, if the node has backups, and a note.
    fn prepare(&self, subject: Subject<'_>, signal: &Signal, because: Option<String>) -> Answer {
        let mut appends = Vec::new();
        let mut said: Vec<String> = because.into_iter().collect();
        if subject.node.spec.as_ref().is_some_and(|spec| spec.backup.is_some()) {
            let cause = Cause::Signal { signal: signal.clone() };
            let (disposition, begun) = self.back_up(subject, cause)?;
            appends.extend(begun);
            said.push(match disposition {
                Disposition::BackupBegan { backup } => format!("backup {backup} is taken at once"),
                Disposition::Noted { because } => because,
                other => format!("no backup at once: {other}"),
            });
        }
        let because = format!("noted: {}", said.join("; "));
        let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
        appends.push(Append::new(subject.stream(), vec![Event::Node(noted)]));
        Ok((Disposition::Noted { because }, appends))
    }

    /// The node moves to another instance because of a signal: an operation `replace` starts.
    fn move_from(&self, subject: Subject<'_>, signal: &Signal) -> Answer {
        let node = subject.node;
        let spec = node.spec.clone().ok_or(subject.unknown())?;
        let cause = Cause::Signal { signal: signal.clone() };
        let begun = self.start(
            subject.next(),
            Wanted::new(OperationKind::Replace, spec, node.resources.clone(), node.generation + 1, cause),
        )?;
        let appends = vec![Append::new(subject.stream(), begun.node_events), begun.append];
        Ok((Disposition::Started { operation: begun.id }, appends))
    }

    /// A node on demand goes back to spot, if it may now.
    pub(crate) fn return_to_spot(&self, subject: Subject<'_>, seen: &SpotSeen) -> Result<Appends, Rejection> {
        let node = subject.node;
        let not_now = |why: String| Rejection::NotNow { node: subject.name.clone(), why };
        let because = movement::may_return(node, seen, self.now_ms).map_err(not_now)?;
        let spec = node.spec.clone().ok_or(subject.unknown())?;
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
            good: None,
        };
        let begun = self.start(subject.next(), wanted)?;
        Ok(vec![Append::new(subject.stream(), begun.node_events), begun.append])
    }
}

/// What is no loss is written down in the node's stream, or is nothing.
fn note(subject: Subject<'_>, signal: &Signal) -> (Disposition, Appends) {
    let Some(because) = noted_because(signal) else {
        return (Disposition::Noted { because: "the instance is well".to_owned() }, Vec::new());
    };
    let because = because.to_owned();
    let noted = NodeEvent::SignalNoted { signal: signal.clone(), because: because.clone() };
    let appends = vec![Append::new(subject.stream(), vec![Event::Node(noted)])];
    (Disposition::Noted { because }, appends)
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
