//! The history for people: the events, in an order that explains them to a reader who was not present.
//!
//! Everything here is folded from the events of the journal; nothing is stored. [`story`] tells one
//! operation, and [`node_history`] tells the life of a node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use perennial_engine::domain::Stamp;
use perennial_engine::ids::Token;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::aggregate::engine::EngineEvent;
use crate::aggregate::node::NodeEvent;
use crate::domain::retention::length;
use crate::model::aws::{InstanceId, VolumeId};
use crate::model::name::NodeName;
use crate::model::operation_id::{OperationId, OperationKind, Outcome};
use crate::model::resources::{HeldVolume, PruneItem, RecoveryPoint, Resources};
use crate::model::restore::Restore;
use crate::model::signal::{Cause, News, Signal};
use crate::model::survey::Survey;
use crate::model::volume::Slot;
use crate::operation::event::{OperationEvent, Order};
use crate::step::evidence::Evidence;
use crate::step::intent::Intent;

/// The life of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeHistory {
    /// The node.
    pub node: NodeName,
    /// The entries in order of time.
    pub entries: Vec<Entry>,
}

/// One entry in the life of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a history is made, printed and dropped")]
pub enum Entry {
    /// The node was registered, its spec changed, or a signal was noted.
    Remark {
        /// The time.
        at_ms: u64,
        /// The remark.
        text: String,
    },
    /// An operation.
    Operation(Story),
}

/// One operation, told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Story {
    /// Its id.
    pub operation: OperationId,
    /// Its kind.
    pub kind: OperationKind,
    /// The reason for it.
    pub cause: String,
    /// When it was started.
    pub started_at_ms: u64,
    /// When it finished; none while it is open.
    pub finished_at_ms: Option<u64>,
    /// `running`, `stuck: …`, `cancelling`, `finished`, `cancelled` or `abandoned`.
    pub status: String,
    /// Every step.
    pub steps: Vec<StepLine>,
    /// The attempts and candidates that were rejected, with the reasons.
    pub rejected: Vec<Remark>,
    /// Other events.
    pub remarks: Vec<Remark>,
    /// The time during which the node did not serve.
    pub outage: Option<Outage>,
    /// The source of the content of its volumes, and therefore the loss. Present if the operation has brought
    /// the node onto an instance, or has made volumes anew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recovery_points: BTreeMap<Slot, RecoveryPoint>,
    /// The resources before and after.
    pub comparison: Vec<Comparison>,
    /// When no engine ran meanwhile: nothing went on then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unattended: Vec<Absence>,
}

/// A time in which no engine ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Absence {
    /// When the last one ended.
    pub from_ms: u64,
    /// When the next one began; none while none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Whether the last one was killed: it did not say that it ended.
    pub killed: bool,
}

impl Absence {
    /// The absences that the engine's events tell of, in order of time.
    #[must_use]
    pub fn all(events: &[(Stamp, EngineEvent)]) -> Vec<Self> {
        let mut all = Vec::new();
        let mut stopped_ms = None;
        for (stamp, event) in events {
            let at_ms = stamp.at_ms;
            match event {
                EngineEvent::Stopped {} => stopped_ms = Some(at_ms),
                EngineEvent::Started { silent_since_ms, .. } => {
                    let from_ms = stopped_ms.take().or(*silent_since_ms);
                    let killed = silent_since_ms.is_some();
                    all.extend(from_ms.map(|from_ms| Self { from_ms, until_ms: Some(at_ms), killed }));
                }
            }
        }
        all.extend(stopped_ms.map(|from_ms| Self { from_ms, until_ms: None, killed: false }));
        all
    }

    /// Whether it overlaps a time; without an end that goes on.
    #[must_use]
    pub fn is_within(&self, from_ms: u64, until_ms: Option<u64>) -> bool {
        until_ms.is_none_or(|until_ms| self.from_ms < until_ms)
            && self.until_ms.is_none_or(|until_ms| until_ms > from_ms)
    }
}

/// One step of a story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepLine {
    /// Its name.
    pub step: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// When it was intended.
    pub intended_at_ms: u64,
    /// When it settled; none while it is open.
    pub settled_at_ms: Option<u64>,
    /// The observation, in words.
    pub evidence: String,
    /// The client token of its request, if it has one.
    pub client_token: Option<String>,
}

/// A remark with its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remark {
    /// The time.
    pub at_ms: u64,
    /// The remark.
    pub text: String,
}

/// The time during which a node did not serve, as far as the journal shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    /// When the old instance lost its first resource, or was itself lost.
    pub from_ms: u64,
    /// The event at that time.
    pub from: String,
    /// When the new instance got its last resource; none until everything is seen to be in place. The start
    /// of the application is not included.
    pub to_ms: Option<u64>,
    /// The event at that time; none while the outage goes on.
    pub to: Option<String>,
}

impl Outage {
    /// Its length in milliseconds, until now if it goes on.
    #[must_use]
    pub fn length_ms(&self, now_ms: u64) -> u64 {
        self.to_ms.unwrap_or(now_ms).saturating_sub(self.from_ms)
    }
}

/// One resource of the node, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The resource.
    pub what: String,
    /// Its id or value before; empty if there was none.
    pub before: String,
    /// Its id or value after; empty if there is none.
    pub after: String,
    /// Whether both are the same.
    pub same: bool,
}

/// Tells the life of a node from the events of its stream and of its operations' streams.
#[must_use]
pub fn node_history(
    node: &NodeName,
    events: &[(Stamp, NodeEvent)],
    operations: &BTreeMap<OperationId, Vec<(Stamp, OperationEvent)>>,
) -> NodeHistory {
    let mut entries = Vec::new();
    for (stamp, event) in events {
        let at_ms = stamp.at_ms;
        match event {
            NodeEvent::Registered { requested_by, .. } => {
                entries.push(Entry::Remark { at_ms, text: format!("registered by {requested_by}") });
            }
            NodeEvent::SpecChanged { requested_by, .. } => entries.push(Entry::Remark {
                at_ms,
                text: format!("spec changed by {requested_by}; the next operation works with it"),
            }),
            NodeEvent::SignalNoted { signal, because } => {
                entries.push(Entry::Remark { at_ms, text: format!("{signal}; {because}") });
            }
            NodeEvent::FellBehind { newer } => entries.push(Entry::Remark {
                at_ms,
                text: format!("the journal is behind the world: {}", newer.join("; ")),
            }),
            NodeEvent::CaughtUp {} => entries.push(Entry::Remark {
                at_ms,
                text: "the journal knows everything of the node again".to_owned(),
            }),
            NodeEvent::Adopted { requested_by, generation, resources, .. } => {
                let carrier = resources.carrier.as_ref().map(|carrier| carrier.instance.to_string());
                let on = carrier.map_or_else(|| "paused".to_owned(), |instance| format!("on {instance}"));
                let text =
                    format!("adopted by {requested_by} as it is in the account: generation {generation}, {on}");
                entries.push(Entry::Remark { at_ms, text });
            }
            NodeEvent::VolumeLeft { slot, volume, instance } => entries.push(Entry::Remark {
                at_ms,
                text: format!("{volume} ({slot}) was detached from {instance} by hand: it is not the node's any more (found by the sweep)"),
            }),
            NodeEvent::OperationStarted { operation, .. } => {
                if let Some(told) = operations.get(operation).and_then(|events| story(operation, events)) {
                    entries.push(Entry::Operation(told));
                }
            }
            NodeEvent::OperationFinished { .. } | NodeEvent::BackupsReconciled {} => {}
        }
    }
    NodeHistory { node: node.clone(), entries }
}

/// The volumes that are restored from a backup, and the writes that are lost.
fn restored(restore: &Restore, at_ms: u64) -> String {
    let slots: Vec<String> = restore.snapshots.keys().map(ToString::to_string).collect();
    let age_s = at_ms.saturating_sub(restore.taken_at_ms) / 1_000;
    let age = if age_s < 120 { format!("{age_s} s") } else { format!("{} min", age_s / 60) };
    format!(
        "{} from backup {}, taken {age} before: what was written later is lost to the node",
        slots.join(" and "),
        restore.backup
    )
}

/// Tells one operation from its events; `None` if it has not started.
#[must_use]
pub fn story(id: &OperationId, events: &[(Stamp, OperationEvent)]) -> Option<Story> {
    let (Stamp { at_ms, .. }, OperationEvent::Started(order)) = events.first()? else { return None };
    let mut teller = Teller::new(id, order, *at_ms);
    for (stamp, event) in &events[1..] {
        teller.hear(*stamp, event);
    }
    teller.told.outage = teller.clock.outage(teller.told.finished_at_ms.is_some());
    Some(teller.told)
}

/// A story in progress: the lines so far, and the state that later events need.
struct Teller<'a> {
    order: &'a Order,
    told: Story,
    clock: OutageClock,
    /// The line of each step, and its request.
    lines: BTreeMap<Token, (usize, &'a Intent)>,
    /// The last survey that was told.
    surveyed: Option<&'a Survey>,
}

impl<'a> Teller<'a> {
    fn new(id: &OperationId, order: &'a Order, started_at_ms: u64) -> Self {
        let told = Story {
            operation: id.clone(),
            kind: order.kind,
            cause: order.cause.to_string(),
            started_at_ms,
            finished_at_ms: None,
            status: "running".to_owned(),
            steps: Vec::new(),
            rejected: Vec::new(),
            remarks: Vec::new(),
            outage: None,
            recovery_points: BTreeMap::new(),
            comparison: Vec::new(),
            unattended: Vec::new(),
        };
        let clock = OutageClock::new(order, started_at_ms);
        let mut teller = Self { order, told, clock, lines: BTreeMap::new(), surveyed: None };
        if let Some(restore) = &order.restore {
            teller.remark(started_at_ms, restored(restore, started_at_ms));
        }
        for pruned in &order.prune {
            teller.remark(started_at_ms, prune_in_words(pruned, started_at_ms));
        }
        teller
    }

    fn remark(&mut self, at_ms: u64, text: String) {
        self.told.remarks.push(Remark { at_ms, text });
    }

    fn reject(&mut self, at_ms: u64, text: String) {
        self.told.rejected.push(Remark { at_ms, text });
    }

    fn hear(&mut self, stamp: Stamp, event: &'a OperationEvent) {
        let at_ms = stamp.at_ms;
        match event {
            OperationEvent::Started(_) => {}
            OperationEvent::StepIntended { step, attempt, intent, .. } => {
                self.clock.intended(at_ms, intent);
                self.lines.insert(stamp.seq.into(), (self.told.steps.len(), intent));
                self.told.steps.push(StepLine {
                    step: step.to_string(),
                    attempt: *attempt,
                    intended_at_ms: at_ms,
                    settled_at_ms: None,
                    evidence: "open".to_owned(),
                    client_token: intent.client_token().map(str::to_owned),
                });
            }
            OperationEvent::StepSettled { token, evidence, .. } => self.settled(at_ms, *token, evidence),
            OperationEvent::StepWaits { token, because, .. } => {
                if let Some(&(line, _)) = self.lines.get(token) {
                    self.told.steps[line].evidence = format!("open: {because}");
                }
            }
            OperationEvent::RootMethodChosen { from, to, because, .. } => {
                self.reject(at_ms, format!("root {from}: {because}; going on with {to}"));
            }
            OperationEvent::Dropped { steps, because } => {
                let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
                self.remark(at_ms, format!("left out {}: {because}", steps.join(", ")));
            }
            OperationEvent::CandidateLost { instance, because } => {
                self.clock.candidate_lost();
                self.reject(at_ms, format!("new instance {instance}: {because}"));
            }
            OperationEvent::SignalReceived { signal } => self.signal_received(at_ms, signal),
            OperationEvent::Stuck { step, because, needs } => {
                self.told.status = format!("stuck at {step}: {because}");
                self.remark(at_ms, format!("stuck at {step}: {because}. Needs: {needs}"));
            }
            OperationEvent::Resumed { requested_by, accept_loss, restore, .. } => {
                self.told.status = "running".to_owned();
                let loss: Vec<String> = accept_loss.iter().map(ToString::to_string).collect();
                let loss = if loss.is_empty() {
                    String::new()
                } else {
                    format!(", accepting the loss of {}", loss.join(", "))
                };
                self.remark(at_ms, format!("resumed by {requested_by}{loss}"));
                if let Some(restore) = restore {
                    self.remark(at_ms, restored(restore, at_ms));
                }
            }
            OperationEvent::SpecChanged { because, keeps_root, .. } => {
                if self.told.status.starts_with("stuck") {
                    self.told.status = "running".to_owned();
                }
                let root = if *keeps_root { "; the present root stays" } else { "" };
                self.remark(at_ms, format!("{because}{root}"));
            }
            OperationEvent::CancelRequested { requested_by, reason } => {
                self.told.status = "cancelling".to_owned();
                let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
                self.remark(at_ms, format!("cancelled by {requested_by}{reason}"));
            }
            OperationEvent::Diverted { cause, delete } => {
                self.told.status = "freeing".to_owned();
                let what = if delete.is_some() { "deletion" } else { "pause" };
                self.remark(at_ms, format!("{what}: {cause}"));
            }
            OperationEvent::VolumeFound { instance, slot, held } => {
                self.remark(at_ms, discovered_in_words(instance, slot, held));
            }
            OperationEvent::Finished { resources, outcome } => self.finished(at_ms, resources, *outcome),
        }
    }

    fn settled(&mut self, at_ms: u64, token: Token, evidence: &'a Evidence) {
        let Some(&(line, intent)) = self.lines.get(&token) else { return };
        self.clock.settled(at_ms, intent, evidence);
        self.told.steps[line].settled_at_ms = Some(at_ms);
        self.told.steps[line].evidence = in_words(intent, evidence);
        // A node that waits for capacity is surveyed repeatedly. A survey equal to the last one is not told.
        if let Evidence::Surveyed(survey) = evidence
            && self.surveyed.replace(survey) != Some(survey)
        {
            let remark = |text: String| Remark { at_ms, text };
            self.told.rejected.extend(survey.rejections().into_iter().map(remark));
            self.told.remarks.extend(survey.remarks().into_iter().map(remark));
        }
        if let Some(rejection) = intent.as_step().rejection(evidence) {
            self.reject(at_ms, rejection);
        }
    }

    fn signal_received(&mut self, at_ms: u64, signal: &Signal) {
        // The old instance is lost after all: there is nothing to return to.
        if self.told.status == "cancelling" && self.clock.old.as_ref() == Some(&signal.instance) {
            self.told.status = "running".to_owned();
            self.remark(at_ms, "the cancellation ends: only forward".to_owned());
        }
        self.clock.heard(signal.at_ms, &signal.instance, &signal.news);
        self.remark(at_ms, signal.to_string());
    }

    fn finished(&mut self, at_ms: u64, resources: &Resources, outcome: Outcome) {
        let order = self.order;
        self.told.status = outcome.to_string();
        self.told.finished_at_ms = Some(at_ms);
        self.told.comparison = compare(&order.before, resources);
        let brought =
            resources.carrier.is_some() && !matches!(order.kind, OperationKind::Grow | OperationKind::Prune);
        let is_told = |slot: &Slot, origin: &RecoveryPoint| {
            outcome.is_completed() && brought || order.before.recovery_points.get(slot) != Some(origin)
        };
        let recovery_points = resources.recovery_points.iter().filter(|(slot, origin)| is_told(slot, origin));
        self.told.recovery_points =
            recovery_points.map(|(slot, origin)| (slot.clone(), origin.clone())).collect();
    }
}

/// A volume that became the node's.
#[must_use]
pub fn discovered_in_words(instance: &InstanceId, slot: &Slot, held: &HeldVolume) -> String {
    let size = held.size_gib.map_or_else(String::new, |size_gib| format!(", {size_gib} GiB"));
    format!("{} at {} of {instance} is the node's from now on, as {slot}{size}", held.volume, held.device)
}

/// Measures the time during which a node did not serve, from the journal.
struct OutageClock {
    kind: OperationKind,
    old: Option<InstanceId>,
    from: Option<(u64, String)>,
    to: Option<(u64, String)>,
    /// Whether everything was seen to be in place after it.
    is_whole: bool,
}

impl OutageClock {
    fn new(order: &Order, started_at_ms: u64) -> Self {
        let mut clock = Self {
            kind: order.kind,
            old: order.before.carrier.as_ref().map(|carrier| carrier.instance.clone()),
            from: None,
            to: None,
            is_whole: false,
        };
        if let Cause::Signal { signal } = &order.cause {
            clock.heard(signal.at_ms.min(started_at_ms), &signal.instance, &signal.news);
        }
        clock
    }

    fn begins(&mut self, at_ms: u64, what: impl Into<String>) {
        if self.from.as_ref().is_none_or(|(from, _)| at_ms < *from) {
            self.from = Some((at_ms, what.into()));
        }
    }

    fn heard(&mut self, at_ms: u64, instance: &InstanceId, news: &News) {
        if self.old.as_ref() != Some(instance) {
            return;
        }
        match news {
            News::StateChange { state } => self.begins(at_ms, format!("{instance} was {state}")),
            News::Missing { .. } => self.begins(at_ms, format!("{instance} was gone")),
            News::SpotInterruption { .. }
            | News::ReservationInterruption { .. }
            | News::Rebalance
            | News::Impaired { .. }
            | News::ScheduledChange { .. } => {}
        }
    }

    fn intended(&mut self, at_ms: u64, intent: &Intent) {
        if let Some(what) = intent.as_step().takes_away(self.old.as_ref()) {
            self.begins(at_ms, what);
        }
    }

    fn settled(&mut self, at_ms: u64, intent: &Intent, evidence: &Evidence) {
        if let Some(what) = intent.as_step().brings(evidence) {
            self.to = Some((at_ms, what));
        }
        self.is_whole |= matches!(evidence, Evidence::Verified);
    }

    fn candidate_lost(&mut self) {
        self.to = None;
        self.is_whole = false;
    }

    /// Closed when everything has arrived, or the operation is over; open before.
    fn outage(self, is_over: bool) -> Option<Outage> {
        let (from_ms, from) = self.from.filter(|_| self.kind == OperationKind::Replace)?;
        match self.to.filter(|_| is_over || self.is_whole) {
            Some((to_ms, to)) => {
                Some(Outage { from_ms, from, to_ms: Some(to_ms.max(from_ms)), to: Some(to) })
            }
            // What ends without the node on an instance has said why.
            None => (!is_over).then_some(Outage { from_ms, from, to_ms: None, to: None }),
        }
    }
}

/// The observation of a step, for people.
#[must_use]
pub fn in_words(intent: &Intent, evidence: &Evidence) -> String {
    intent.as_step().words(evidence)
}

/// The resources before and after, one by one.
#[must_use]
pub fn compare(before: &Resources, after: &Resources) -> Vec<Comparison> {
    let mut lines = Vec::new();
    let mut line = |what: &str, before: Option<String>, after: Option<String>| {
        if before.is_some() || after.is_some() {
            lines.push(Comparison {
                what: what.to_owned(),
                same: before == after,
                before: before.unwrap_or_default(),
                after: after.unwrap_or_default(),
            });
        }
    };
    let carrier = |resources: &Resources| resources.carrier.clone();
    line(
        "instance",
        carrier(before).map(|carrier| carrier.instance.to_string()),
        carrier(after).map(|carrier| carrier.instance.to_string()),
    );
    let kind = |resources: &Resources| {
        carrier(resources).map(|carrier| format!("{} {}", carrier.instance_type, carrier.market))
    };
    line("type", kind(before), kind(after));
    let slots: std::collections::BTreeSet<&Slot> =
        before.volumes.keys().chain(after.volumes.keys()).collect();
    for slot in slots {
        let id =
            |resources: &Resources| resources.volumes.get(slot).map(|held| VolumeId::to_string(&held.volume));
        line(&format!("volume {slot}"), id(before), id(after));
        let size = |resources: &Resources| resources.volumes.get(slot).and_then(|held| held.size_gib);
        if size(before).is_some() && size(before) != size(after) {
            let told = |size: Option<u32>| size.map(|size| format!("{size} GiB"));
            line(&format!("size of {slot}"), told(size(before)), told(size(after)));
        }
    }
    let interface =
        |resources: &Resources| resources.interface.as_ref().map(|held| held.interface.to_string());
    line("interface", interface(before), interface(after));
    let address = |resources: &Resources| resources.address.map(|address: Ipv4Addr| address.to_string());
    line("address", address(before), address(after));
    let public = |resources: &Resources| resources.elastic.as_ref().map(|held| held.public_ip.to_string());
    line("public address", public(before), public(after));
    lines
}

/// The line of the history about a volume that is to be deleted.
pub(crate) fn prune_in_words(pruned: &PruneItem, at_ms: u64) -> String {
    let PruneItem { volume, slot, since_ms, size_gib, because, .. } = pruned;
    let size = size_gib.map_or_else(String::new, |size_gib| format!(", {size_gib} GiB"));
    let age = length(at_ms.saturating_sub(*since_ms));
    format!("{volume} ({slot}{size}), retained for {age}, is to be deleted: {because}")
}
