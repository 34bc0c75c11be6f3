//! The submission: a queue message that requests a workflow or a change.
//!
//! A submission is JSON. It is parsed once, where it enters the system, in two steps: first the envelope,
//! then the parameters of the workflow that it names. Therefore an error can say which of the two is wrong,
//! and how to correct it.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::strict;
use crate::model::aws::{ImageId, VolumeId};
use crate::model::backup_id::BackupId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::model::resources::PRUNED_MAX;
use crate::model::restore::Keep;
use crate::model::text::{clip, plain};
use crate::model::volume::Slot;
use crate::spec::address_pool::AddressPoolSpec;
use crate::spec::node::NodeSpec;

/// The longest submission id.
pub const SUBMISSION_ID_MAX: usize = 128;

/// The longest free text of a submission, in characters.
pub const TEXT_MAX: usize = 1_000;

/// The longest name or URL of a queue for the answer. SQS's are under 200 bytes.
pub const REPLY_TO_MAX: usize = 512;

/// How much is said of what is wrong with a message, in characters.
const WHY_MAX: usize = 400;

/// The idempotency key of a submission: printable ASCII without spaces or slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct SubmissionId(#[schemars(regex(pattern = "^[!-.0-~]+$"), length(max = 128))] String);

/// Why a text is not a submission id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a submission id: use 1 to {SUBMISSION_ID_MAX} printable ASCII characters without spaces and slashes, such as a UUID"
)]
pub struct BadSubmissionId {
    text: String,
}

impl TryFrom<String> for SubmissionId {
    type Error = BadSubmissionId;
    fn try_from(text: String) -> Result<Self, BadSubmissionId> {
        let shaped = !text.is_empty()
            && text.len() <= SUBMISSION_ID_MAX
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if shaped { Ok(Self(text)) } else { Err(BadSubmissionId { text: text.chars().take(80).collect() }) }
    }
}

impl From<SubmissionId> for String {
    fn from(id: SubmissionId) -> Self {
        id.0
    }
}

impl fmt::Display for SubmissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SubmissionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The format of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubmissionSchema {
    /// The first one.
    #[serde(rename = "perennial.submission/v1")]
    V1,
}

/// The message as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The format.
    pub schema: SubmissionSchema,
    /// The idempotency key. A message with the id of an earlier message is not executed again.
    pub id: SubmissionId,
    /// `node.apply`, `node.replace`, `node.backup`, `node.recycle`, `node.restore`, `node.pause`,
    /// `node.resume`, `node.prune`, `node.delete`, `pool.apply`, `workflow.resume` or `workflow.cancel`.
    pub workflow: String,
    /// The node. It is not needed if the parameters name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The parameters of the workflow; each workflow has its own schema.
    #[serde(default)]
    pub params: Value,
    /// Who asks, for the record.
    pub requested_by: String,
    /// The queue that gets the answer: a name or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The message is not executed after this time (RFC 3339, such as `2026-09-14T08:31:07Z`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// `node.apply`: declares the desired state of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The content of a node file.
    pub spec: NodeSpec,
    /// A backup of another node. The root and the data volumes of the new node are made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
    /// The reason in the words of the requester, for the history. It goes with `from_backup` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `pool.apply`: declares a pool of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolParams {
    /// The content of a pool file.
    pub spec: AddressPoolSpec,
}

/// `node.replace`: moves the node to another instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.backup`: takes a backup of the node now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.recycle`: as `node.replace`. With `reimage` the node gets a new root from another image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecycleParams {
    /// The node's image from now on. The content of the present root does not move to the new one; the old
    /// root volume is retained. Data volumes and the address stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reimage: Option<ImageId>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.restore`: moves the node to another instance with the content of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreParams {
    /// The backup. Writes after the time of the backup are lost to the node. The present volumes are
    /// retained.
    pub backup: BackupId,
    /// Restores only these volumes. An empty list means all volumes in the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Slot>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.pause`: terminates the node's instance and keeps every other resource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.resume`: brings a paused node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeNodeParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.prune`: deletes retained volumes that the node no longer needs. A volume stays if it is the only one
/// with the content of one of the node's volumes, or if Perennial did not create it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneParams {
    /// Deletes only these volumes; each of them must be deletable. An empty list means all that are old
    /// enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub volumes: Vec<VolumeId>,
    /// Deletes only volumes that have been retained for at least this time, in seconds. The default is a week
    /// if no volumes are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    /// The number of retained volumes that stay for each of the node's volumes; the newest ones stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.delete`: deletes the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteParams {
    /// The classes of resources that are kept. There is no default.
    pub keep: Keep,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `workflow.resume`: lets a stuck workflow try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeParams {
    /// The workflow.
    pub workflow: OperationId,
    /// The volumes whose content is given up. `root` starts again from the node's image; a data volume is
    /// created again.
    #[serde(default)]
    pub accept_loss: Vec<Slot>,
    /// The volumes that are given up are restored from this backup instead. Without a list, these are all
    /// volumes that were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
}

/// `workflow.cancel`: undoes an open workflow, if that is still possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// The workflow.
    pub workflow: OperationId,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The request of a submission, with its parameters.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one of it exists at a time")]
pub enum Work {
    /// See [`ApplyParams`].
    Apply(ApplyParams),
    /// See [`ReplaceParams`].
    Replace(ReplaceParams),
    /// See [`BackupParams`].
    Backup(BackupParams),
    /// See [`RecycleParams`].
    Recycle(RecycleParams),
    /// See [`RestoreParams`].
    Restore(RestoreParams),
    /// See [`PauseParams`].
    Pause(PauseParams),
    /// See [`ResumeNodeParams`].
    ResumeNode(ResumeNodeParams),
    /// See [`PruneParams`].
    Prune(PruneParams),
    /// See [`DeleteParams`].
    Delete(DeleteParams),
    /// See [`PoolParams`].
    Pool(PoolParams),
    /// See [`ResumeParams`].
    Resume(ResumeParams),
    /// See [`CancelParams`].
    Cancel(CancelParams),
}

impl Work {
    /// The name of its workflow in messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Apply(_) => "node.apply",
            Self::Replace(_) => "node.replace",
            Self::Backup(_) => "node.backup",
            Self::Recycle(_) => "node.recycle",
            Self::Restore(_) => "node.restore",
            Self::Pause(_) => "node.pause",
            Self::ResumeNode(_) => "node.resume",
            Self::Prune(_) => "node.prune",
            Self::Delete(_) => "node.delete",
            Self::Pool(_) => "pool.apply",
            Self::Resume(_) => "workflow.resume",
            Self::Cancel(_) => "workflow.cancel",
        }
    }
}

/// A submission whose form is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The idempotency key.
    pub id: SubmissionId,
    /// The node that it concerns; the pool, for [`Work::Pool`].
    pub node: NodeName,
    /// The request.
    pub work: Work,
    /// Who asks.
    pub requested_by: String,
    /// The queue that gets the answer.
    pub reply_to: Option<String>,
    /// The deadline as it was written.
    pub deadline: Option<String>,
    /// Who sent it, as the queue has authenticated them.
    pub sender: Option<String>,
    /// The hash of what it asks for: its workflow, its node and its parameters. Its id stands for this.
    pub content: String,
}

/// Why a message is not a submission. The text says how to correct it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadSubmission {
    /// What is wrong.
    pub why: String,
    /// The id of the message, if it could be read. The answer can name it.
    pub id: Option<SubmissionId>,
    /// The queue for the answer, if it could be read.
    pub reply_to: Option<String>,
}

impl Submission {
    /// Parses a message.
    ///
    /// # Errors
    /// [`BadSubmission`], which says how to correct the message.
    pub fn parse(body: &str) -> Result<Self, BadSubmission> {
        let nameless = |why: String| BadSubmission { why: clip(&why, WHY_MAX), id: None, reply_to: None };
        let text = body.strip_prefix('\u{feff}').unwrap_or(body);
        let value = match strict::parse(text) {
            Ok(value) => value,
            // Whoever doubles a key can be answered all the same.
            Err(error) => match serde_json::from_str::<Value>(text) {
                Ok(value) => return Err(bad(&value, format!("not a submission: {error}"))),
                Err(error) => return Err(nameless(format!("not JSON: {error}"))),
            },
        };
        let envelope: Envelope = strict::read(&value).map_err(|error| {
            bad(&value, format!("not a submission: {error}; see `perennial schema submission`"))
        })?;
        Self::of(envelope).map_err(|why| bad(&value, why))
    }

    fn of(envelope: Envelope) -> Result<Self, String> {
        let characters = envelope.requested_by.chars().count();
        if characters == 0 || characters > TEXT_MAX {
            return Err(format!("requested_by: say who asks, in 1 to {TEXT_MAX} characters"));
        }
        if let Some(reply_to) = &envelope.reply_to
            && !is_queue_name(reply_to)
        {
            return Err(format!(
                "reply_to: the name or URL of a queue, 1 to {REPLY_TO_MAX} printable ASCII characters without spaces"
            ));
        }
        if let Some(deadline) = &envelope.deadline {
            deadline_ms(deadline)?;
        }
        let (work, implied) = asked(&envelope)?;
        let node = match (&envelope.node, implied) {
            (Some(node), Some(implied)) if *node != implied => {
                return Err(format!("node is {node}, but the parameters are about {implied}"));
            }
            (Some(node), _) => node.clone(),
            (None, Some(node)) => node,
            (None, None) => return Err(format!("{} needs the field `node`", envelope.workflow)),
        };
        let params = if envelope.params.is_null() { serde_json::json!({}) } else { envelope.params };
        let asked = serde_json::json!({ "workflow": envelope.workflow, "node": node, "params": params });
        Ok(Self {
            id: envelope.id,
            node,
            work,
            requested_by: plain(&envelope.requested_by),
            reply_to: envelope.reply_to,
            deadline: envelope.deadline,
            sender: None,
            content: strict::hash(&asked),
        })
    }

    /// Its deadline, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline.as_deref().and_then(|deadline| deadline_ms(deadline).ok())
    }

    /// What it asks for, in a few words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let who = clip(&self.requested_by, 80);
        format!("{} of {}, asked for by {who}", self.work.name(), self.node)
    }
}

/// A message that is no submission. Id and reply queue are read from it too, so that its sender gets an
/// answer.
fn bad(value: &Value, why: String) -> BadSubmission {
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    BadSubmission {
        why: clip(&why, WHY_MAX),
        id: text("id").and_then(|id| SubmissionId::try_from(id).ok()),
        reply_to: text("reply_to").filter(|reply_to| is_queue_name(reply_to)),
    }
}

/// Whether a text may be the name or the URL of a queue.
fn is_queue_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= REPLY_TO_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A deadline, in milliseconds since the Unix epoch. One that is beyond the calendar is never reached.
///
/// # Errors
/// It is not RFC 3339.
fn deadline_ms(text: &str) -> Result<u64, String> {
    let wrong = |why: String| {
        format!("deadline {:?} is not RFC 3339 such as 2026-09-14T08:31:07Z: {why}", clip(text, 40))
    };
    // A date, a `T`, a time to the second, and `Z` or a distance from it.
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let digits = |bytes: &[u8], shape: &[u8]| {
        bytes.len() == shape.len()
            && bytes.iter().zip(shape).all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                like => byte == like,
            })
    };
    let rest = match bytes.split_at_checked(shape.len()) {
        Some((moment, rest)) if digits(moment, shape) => rest,
        _ => return Err(wrong("it has another form".to_owned())),
    };
    let zone = match rest.split_first() {
        Some((b'.', fraction)) => {
            let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&length) {
                return Err(wrong("its seconds have another form".to_owned()));
            }
            &fraction[length..]
        }
        _ => rest,
    };
    if zone != b"Z" && !digits(zone, b"+00:00") && !digits(zone, b"-00:00") {
        return Err(wrong("it ends with Z or with a distance such as +02:00".to_owned()));
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(u64::try_from(time.as_millisecond()).unwrap_or(0)),
        // The last day of the calendar is beyond what the library reads.
        Err(_) if text.starts_with("9999-12-31T") => Ok(u64::MAX),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Reads the parameters of a workflow, and the node or the pool that they name.
///
/// # Errors
/// What is wrong, and how to correct it.
fn asked(envelope: &Envelope) -> Result<(Work, Option<NodeName>), String> {
    let work = match envelope.workflow.as_str() {
        "node.apply" => return apply(envelope),
        "node.replace" => Work::Replace(reasoned::<ReplaceParams>(envelope, |params| &mut params.reason)?),
        "node.backup" => Work::Backup(reasoned::<BackupParams>(envelope, |params| &mut params.reason)?),
        "node.recycle" => Work::Recycle(reasoned::<RecycleParams>(envelope, |params| &mut params.reason)?),
        "node.restore" => {
            let restore = reasoned::<RestoreParams>(envelope, |params| &mut params.reason)?;
            let node = restore.backup.node().clone();
            return Ok((Work::Restore(restore), Some(node)));
        }
        "node.pause" => Work::Pause(reasoned::<PauseParams>(envelope, |params| &mut params.reason)?),
        "node.resume" => {
            Work::ResumeNode(reasoned::<ResumeNodeParams>(envelope, |params| &mut params.reason)?)
        }
        "node.prune" => Work::Prune(prune(envelope)?),
        "node.delete" => Work::Delete(reasoned::<DeleteParams>(envelope, |params| &mut params.reason)?),
        "pool.apply" => return pool(envelope),
        "workflow.resume" => {
            let resume: ResumeParams = params(envelope)?;
            let node = resume.workflow.node().clone();
            return Ok((Work::Resume(resume), Some(node)));
        }
        "workflow.cancel" => {
            let cancel = reasoned::<CancelParams>(envelope, |params| &mut params.reason)?;
            let node = cancel.workflow.node().clone();
            return Ok((Work::Cancel(cancel), Some(node)));
        }
        other => {
            return Err(format!(
                "workflow {:?} is not known; it is one of node.apply, node.replace, node.backup, node.recycle, node.restore, node.pause, node.resume, node.prune, node.delete, pool.apply, workflow.resume, workflow.cancel",
                other.chars().take(80).collect::<String>()
            ));
        }
    };
    Ok((work, None))
}

/// The parameters of a message, in the form that its workflow takes.
fn params<P: DeserializeOwned>(envelope: &Envelope) -> Result<P, String> {
    let none = serde_json::json!({});
    let given = if envelope.params.is_null() { &none } else { &envelope.params };
    strict::read(given).map_err(|error| {
        format!("params of {}: {error}; see `perennial schema submission`", envelope.workflow)
    })
}

/// The same, with a reason that is not too long.
fn reasoned<P: DeserializeOwned>(
    envelope: &Envelope,
    reason: fn(&mut P) -> &mut Option<String>,
) -> Result<P, String> {
    let mut params = params(envelope)?;
    plain_reason(reason(&mut params))?;
    Ok(params)
}

fn apply(envelope: &Envelope) -> Result<(Work, Option<NodeName>), String> {
    let mut apply: ApplyParams = params(envelope)?;
    apply.spec.check().map_err(|error| format!("params.spec.{error}"))?;
    plain_reason(&mut apply.reason)?;
    if apply.reason.is_some() && apply.from_backup.is_none() {
        return Err("params.reason: goes with `from_backup` only; remove it".to_owned());
    }
    let node = apply.spec.name.clone();
    if apply.from_backup.as_ref().is_some_and(|backup| *backup.node() == node) {
        return Err(format!(
            "params.from_backup: a new node has another name than {node}; `node.restore` brings {node} itself back"
        ));
    }
    Ok((Work::Apply(apply), Some(node)))
}

fn prune(envelope: &Envelope) -> Result<PruneParams, String> {
    let prune = reasoned::<PruneParams>(envelope, |params| &mut params.reason)?;
    if prune.volumes.len() > PRUNED_MAX {
        return Err(format!("params.volumes: at most {PRUNED_MAX}; ask for the others with another message"));
    }
    Ok(prune)
}

fn pool(envelope: &Envelope) -> Result<(Work, Option<NodeName>), String> {
    let pool: PoolParams = params(envelope)?;
    pool.spec.check().map_err(|error| format!("params.spec.{error}"))?;
    if envelope.node.is_some() {
        return Err("pool.apply is about no node; remove the field `node`".to_owned());
    }
    let name = pool.spec.name.clone();
    Ok((Work::Pool(pool), Some(name)))
}

/// A reason is not too long, and goes on as one line: it is shown beside what others have written.
fn plain_reason(reason: &mut Option<String>) -> Result<(), String> {
    match reason {
        Some(text) if text.chars().count() > TEXT_MAX => {
            Err(format!("params.reason: at most {TEXT_MAX} characters"))
        }
        Some(text) => {
            *text = plain(text);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The answer to a submission, sent to its `reply_to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// `perennial.reply/v1`.
    pub schema: String,
    /// The submission's id, if it could be read.
    pub id: Option<SubmissionId>,
    /// Whether it was accepted.
    pub accepted: bool,
    /// What happened with it.
    pub disposition: crate::aggregate::inbox::Disposition,
    /// In words.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut value = serde_json::json!({
            "schema": "perennial.submission/v1", "id": "s-1", "workflow": "node.replace", "node": "db-1",
            "params": {"reason": "kernel"}, "requested_by": "ops"
        });
        change(&mut value);
        value.to_string()
    }

    #[test]
    fn a_good_message_is_parsed() {
        let submission = Submission::parse(&message(|_| {})).unwrap();
        assert_eq!(submission.node.as_str(), "db-1");
        assert_eq!(submission.work, Work::Replace(ReplaceParams { reason: Some("kernel".into()) }));
    }

    #[test]
    fn a_bad_message_is_answered_with_what_would_be_right() {
        let why = |change: fn(&mut serde_json::Value)| Submission::parse(&message(change)).unwrap_err();
        assert!(Submission::parse("{").unwrap_err().why.starts_with("not JSON"));
        assert!(why(|m| m["workflow"] = "node.explode".into()).why.contains("is one of node.apply"));
        assert!(why(|m| m["surprise"] = 1.into()).why.contains("surprise"));
        assert!(why(|m| m["params"] = serde_json::json!({"resaon": "x"})).why.contains("resaon"));
        assert!(
            why(|m| {
                m.as_object_mut().unwrap().remove("node");
            })
            .why
            .contains("needs the field `node`")
        );
        assert!(
            why(|m| m["schema"] = "perennial.submission/v9".into()).why.contains("perennial.submission/v1")
        );
        assert!(why(|m| m["node"] = "Db 1".into()).why.contains("lower-case"));
        for (field, value) in [
            ("deadline", "tomorrow"),
            ("deadline", "2026-09-14 08:31:07Z"),
            ("deadline", "2026-09-14T08:31:07"),
            ("deadline", "2026-02-30T08:31:07Z"),
            ("reply_to", ""),
            ("reply_to", "answers\nforged"),
        ] {
            let error = Submission::parse(&message(|m| m[field] = value.into())).unwrap_err();
            assert!(error.why.contains(field) && error.why.len() < 600, "{error}");
            assert!(error.reply_to.is_none());
        }
        let error = why(|m| {
            m["reply_to"] = "answers".into();
            m["workflow"] = "x".into();
        });
        assert_eq!(
            (error.id.map(String::from), error.reply_to),
            (Some("s-1".into()), Some("answers".into()))
        );
    }

    #[test]
    fn an_array_is_no_object_and_a_key_comes_once() {
        let why = |body: &str| Submission::parse(body).unwrap_err();
        let positional = r#"["perennial.submission/v1","s-2","node.backup","db-1",{},"t",null,null]"#;
        assert!(why(positional).why.contains("not a submission"));
        for params in [
            serde_json::json!({"keep": [true, true, true, true]}),
            serde_json::json!([{"root": true, "data": true, "network": true, "backups": true}, null]),
        ] {
            let body = message(|m| {
                m["workflow"] = "node.delete".into();
                m["params"] = params;
            });
            assert!(why(&body).why.contains("params of node.delete"), "{body}");
        }
        assert!(Submission::parse(&message(|m| m["params"] = serde_json::json!(["why"]))).is_err());
        assert!(
            why(&message(|m| m["schema"] = serde_json::json!({"perennial.submission/v1": null})))
                .id
                .is_some()
        );
        let doubled = message(|_| {}).replacen('{', r#"{"reply_to":"answers","node":"db-2","#, 1);
        let error = why(&doubled);
        assert!(error.why.contains("\"node\" comes twice"), "{error}");
        assert_eq!(error.reply_to.as_deref(), Some("answers"));
    }

    #[test]
    fn an_id_stands_for_what_is_asked_not_for_how_it_is_written() {
        let of = |change: fn(&mut serde_json::Value)| Submission::parse(&message(change)).unwrap().content;
        let first = of(|_| {});
        for same in [
            of(|m| m["requested_by"] = "another".into()),
            of(|m| m["reply_to"] = "answers".into()),
            of(|m| m["deadline"] = "2030-01-01T00:00:00Z".into()),
            Submission::parse(&format!("\u{feff} {}", message(|_| {}))).unwrap().content,
        ] {
            assert_eq!(same, first);
        }
        for other in [
            of(|m| m["node"] = "db-2".into()),
            of(|m| m["workflow"] = "node.backup".into()),
            of(|m| m["params"] = serde_json::json!({})),
        ] {
            assert_ne!(other, first);
        }
        let none = of(|m| m["params"] = serde_json::json!({"reason": null}));
        assert_eq!(none, of(|m| m["params"] = serde_json::json!(null)));
    }

    #[test]
    fn what_is_wrong_is_told_within_bounds() {
        let body = message(|m| m["schema"] = "y".repeat(130_000).into());
        let error = Submission::parse(&body).unwrap_err();
        assert!(error.why.chars().count() < WHY_MAX + 40, "{}", error.why.len());
        assert!(Submission::parse(&message(|m| m["reply_to"] = "q".repeat(600).into())).is_err());
    }
}
