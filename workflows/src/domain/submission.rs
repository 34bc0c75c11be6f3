//! The submission: a queue message that requests a workflow or a change.
//!
//! A submission is JSON. It is parsed once, where it enters the system, in two steps: first the envelope,
//! then the parameters of the workflow that it names. Therefore an error can say which of the two is wrong,
//! and how to correct it.

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
    pub params: serde_json::Value,
    /// Who asks, for the record.
    pub requested_by: String,
    /// The queue that gets the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The message is not executed after this time (RFC 3339).
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
    /// The deadline as it was written. It was checked where the message entered the system.
    pub deadline: Option<String>,
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
        let value: serde_json::Value = serde_json::from_str(body).map_err(|error| BadSubmission {
            why: format!("not JSON: {error}"),
            id: None,
            reply_to: None,
        })?;
        // Id and reply queue are read from a bad message too, so that its sender gets an answer.
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

/// Reads the parameters of a workflow, and the node or the pool that they name.
///
/// # Errors
/// What is wrong, and how to correct it.
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
