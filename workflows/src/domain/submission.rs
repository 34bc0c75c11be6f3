//! The queue message that asks for something.
//!
//! A submission is JSON. It is parsed once, at the rim, in two steps: the envelope, then the parameters of the workflow it
//! names, so that an error can say which of the two is wrong and what would be right.

use std::fmt;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::aws::{ImageId, VolumeId};
use crate::model::backup_id::BackupId;
use crate::model::name::NodeName;
use crate::model::operation_id::OperationId;
use crate::model::resources::PRUNED_MAX;
use crate::model::restore::Keep;
use crate::model::volume::Slot;
use crate::spec::address_pool::AddressPoolSpec;
use crate::spec::node::NodeSpec;

/// The longest submission id.
pub const SUBMISSION_ID_MAX: usize = 128;

/// The longest free text of a submission.
pub const TEXT_MAX: usize = 1_000;

/// The idempotency key of a submission: printable ASCII without spaces or slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct SubmissionId(#[schemars(regex(pattern = "^[!-.0-~]+$"), length(max = 128))] String);

/// Why a text is no submission id.
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
    /// The idempotency key: a message with an id that was seen before is not carried out again.
    pub id: SubmissionId,
    /// `node.apply`, `node.replace`, `node.backup`, `node.recycle`, `node.restore`, `node.pause`, `node.resume`, `node.prune`, `node.delete`, `pool.apply`,
    /// `workflow.resume` or `workflow.cancel`.
    pub workflow: String,
    /// Which node; not needed where the parameters say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Of the workflow; see its own schema.
    #[serde(default)]
    pub params: serde_json::Value,
    /// Who asks; for the record.
    pub requested_by: String,
    /// The queue that gets the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Not to be carried out after this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// `node.apply`: the node is to be like this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The content of a node file.
    pub spec: NodeSpec,
    /// A backup of another node that the new node's root and data volumes are made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
    /// In the asker's words, for the history; of a new node from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `pool.apply`: a pool of addresses is to be like this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolParams {
    /// The content of a pool file.
    pub spec: AddressPoolSpec,
}

/// `node.replace`: the node is to come back on another instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.backup`: a backup of the node is to be taken now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.recycle`: as `node.replace`, and with `reimage` the root starts anew from another image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecycleParams {
    /// The node's image from now on. The present root's content ends with it: the volume is retained, not carried; data volumes
    /// and the address stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reimage: Option<ImageId>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.restore`: the node is to come back with the content of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreParams {
    /// Which. What was written after its moment is lost to the node; the present volumes are retained.
    pub backup: BackupId,
    /// Only these volumes; empty means all that are in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Slot>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.pause`: the node is to give its instance back and keep everything else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.resume`: a paused node is to come back onto an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeNodeParams {
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.prune`: volumes that the node has outgrown are to be deleted. What is the only one with the content of a volume of the
/// node's, and what somebody else made, stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneParams {
    /// Only these, each of which must be one that can be deleted; empty means all that are old enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub volumes: Vec<VolumeId>,
    /// Only what has been retained for at least so long, in seconds; a week where no volumes are named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    /// So many of each volume of the node's stay, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.delete`: the node is to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteParams {
    /// What is kept, class by class; there is no default.
    pub keep: Keep,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `workflow.resume`: a stuck workflow is to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeParams {
    /// Which.
    pub workflow: OperationId,
    /// What is given up: `root` starts anew from the node's image, a data volume is made anew.
    #[serde(default)]
    pub accept_loss: Vec<Slot>,
    /// What is given up comes back from this backup instead; without a list, all that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
}

/// `workflow.cancel`: an open workflow is to be undone, if it still can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// Which.
    pub workflow: OperationId,
    /// In the asker's words, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is asked for.
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

/// A submission whose form is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The idempotency key.
    pub id: SubmissionId,
    /// The node it is about; the pool, for [`Work::Pool`].
    pub node: NodeName,
    /// What is asked for.
    pub work: Work,
    /// Who asks.
    pub requested_by: String,
    /// The queue that gets the answer.
    pub reply_to: Option<String>,
    /// As it was written; the rim has checked it.
    pub deadline: Option<String>,
}

/// Why a message is no submission. The text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadSubmission {
    /// What is wrong.
    pub why: String,
    /// The message's id, if that much could be read: the answer can name it.
    pub id: Option<SubmissionId>,
    /// Where the answer goes, if that much could be read.
    pub reply_to: Option<String>,
}

impl Submission {
    /// Parses a message.
    ///
    /// # Errors
    /// [`BadSubmission`] with what would be right.
    pub fn parse(body: &str) -> Result<Self, BadSubmission> {
        let value: serde_json::Value = serde_json::from_str(body).map_err(|error| BadSubmission {
            why: format!("not JSON: {error}"),
            id: None,
            reply_to: None,
        })?;
        // What can be known of a bad message, so that its sender hears of it.
        let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str).map(str::to_owned);
        let id = text("id").and_then(|id| SubmissionId::try_from(id).ok());
        let reply_to = text("reply_to");
        let bad = |why: String| BadSubmission { why, id: id.clone(), reply_to: reply_to.clone() };
        let envelope: Envelope = serde_json::from_value(value.clone())
            .map_err(|error| bad(format!("not a submission: {error}; see `perennial schema submission`")))?;
        if envelope.requested_by.is_empty() || envelope.requested_by.len() > TEXT_MAX {
            return Err(bad(format!("requested_by: say who asks, in 1 to {TEXT_MAX} bytes")));
        }
        let (work, implied) = asked(&envelope).map_err(&bad)?;
        let node = match (envelope.node, implied) {
            (Some(node), Some(implied)) if node != implied => {
                return Err(bad(format!("node is {node}, but the parameters are about {implied}")));
            }
            (Some(node), _) | (None, Some(node)) => node,
            (None, None) => return Err(bad(format!("{} needs the field `node`", envelope.workflow))),
        };
        Ok(Self {
            id: envelope.id,
            node,
            work,
            requested_by: envelope.requested_by,
            reply_to: envelope.reply_to,
            deadline: envelope.deadline,
        })
    }
}

/// Reads the parameters of a workflow; the node or the pool that they name, if they name one.
///
/// # Errors
/// What is wrong, and what would be right.
fn asked(envelope: &Envelope) -> Result<(Work, Option<NodeName>), String> {
    let work = match envelope.workflow.as_str() {
        "node.apply" => return apply(envelope),
        "node.replace" => Work::Replace(reasoned::<ReplaceParams>(envelope, |params| &params.reason)?),
        "node.backup" => Work::Backup(reasoned::<BackupParams>(envelope, |params| &params.reason)?),
        "node.recycle" => Work::Recycle(reasoned::<RecycleParams>(envelope, |params| &params.reason)?),
        "node.restore" => {
            let restore = reasoned::<RestoreParams>(envelope, |params| &params.reason)?;
            let node = restore.backup.node().clone();
            return Ok((Work::Restore(restore), Some(node)));
        }
        "node.pause" => Work::Pause(reasoned::<PauseParams>(envelope, |params| &params.reason)?),
        "node.resume" => Work::ResumeNode(reasoned::<ResumeNodeParams>(envelope, |params| &params.reason)?),
        "node.prune" => Work::Prune(prune(envelope)?),
        "node.delete" => Work::Delete(reasoned::<DeleteParams>(envelope, |params| &params.reason)?),
        "pool.apply" => return pool(envelope),
        "workflow.resume" => {
            let resume: ResumeParams = params(envelope)?;
            let node = resume.workflow.node().clone();
            return Ok((Work::Resume(resume), Some(node)));
        }
        "workflow.cancel" => {
            let cancel = reasoned::<CancelParams>(envelope, |params| &params.reason)?;
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
    let given = if envelope.params.is_null() { serde_json::json!({}) } else { envelope.params.clone() };
    serde_json::from_value(given).map_err(|error| {
        format!("params of {}: {error}; see `perennial schema submission`", envelope.workflow)
    })
}

/// The same, with a reason that is not too long.
fn reasoned<P: DeserializeOwned>(
    envelope: &Envelope,
    reason: fn(&P) -> &Option<String>,
) -> Result<P, String> {
    let params = params(envelope)?;
    check_text(reason(&params).as_deref())?;
    Ok(params)
}

fn apply(envelope: &Envelope) -> Result<(Work, Option<NodeName>), String> {
    let apply: ApplyParams = params(envelope)?;
    apply.spec.check().map_err(|error| format!("params.spec.{error}"))?;
    check_text(apply.reason.as_deref())?;
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
    let prune = reasoned::<PruneParams>(envelope, |params| &params.reason)?;
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

fn check_text(text: Option<&str>) -> Result<(), String> {
    match text {
        Some(text) if text.len() > TEXT_MAX => Err(format!("params.reason: at most {TEXT_MAX} bytes")),
        _ => Ok(()),
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
    /// What became of it.
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
        let error = why(|m| {
            m["reply_to"] = "answers".into();
            m["workflow"] = "x".into();
        });
        assert_eq!(
            (error.id.map(String::from), error.reply_to),
            (Some("s-1".into()), Some("answers".into()))
        );
    }
}
