//! The queue message of a request.
//!
//! A submission is JSON. It is parsed once, at the boundary, in two steps: the envelope, then the parameters
//! of the workflow it names. So an error can say which of the two is wrong, and what would be right.

use std::fmt;

use schemars::JsonSchema;
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

/// Why a text is no valid submission id.
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
    /// `node.apply`, `node.replace`, `node.backup`, `node.recycle`, `node.restore`, `node.pause`,
    /// `node.resume`, `node.prune`, `node.delete`, `pool.apply`, `workflow.resume` or `workflow.cancel`.
    pub workflow: String,
    /// The node; not needed where the parameters name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The workflow's parameters; see its own schema.
    #[serde(default)]
    pub params: serde_json::Value,
    /// The requester, for the record.
    pub requested_by: String,
    /// The queue that gets the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The request is not carried out after this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// `node.apply`: creates a node, or changes it to match a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    /// The content of a node file.
    pub spec: NodeSpec,
    /// A backup of another node that the new node's root and data volumes are made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
    /// The requester's reason, for the history; for a new node from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `pool.apply`: creates an address pool, or changes it to match a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolParams {
    /// The content of a pool file.
    pub spec: AddressPoolSpec,
}

/// `node.replace`: brings the node back on another instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceParams {
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.backup`: takes a backup of the node now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupParams {
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.recycle`: as `node.replace`; with `reimage` the node gets a new root from another image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecycleParams {
    /// The node's image from now on. The content of the present root ends with it: the volume is retained,
    /// not carried over. Data volumes and the address stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reimage: Option<ImageId>,
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.restore`: brings the node back with the content of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreParams {
    /// The backup. Writes after its moment are lost to the node; the present volumes are retained.
    pub backup: BackupId,
    /// Only these volumes; empty means all volumes of the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<Slot>,
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.pause`: the node gives its instance back and keeps everything else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseParams {
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.resume`: brings a paused node onto an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeNodeParams {
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.prune`: deletes retained volumes. A volume stays if it alone holds the content of one of the node's
/// volumes, or if it was created outside Perennial.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneParams {
    /// Only these, each of which must be deletable; empty means all that are old enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub volumes: Vec<VolumeId>,
    /// Only volumes that have been retained for at least this long, in seconds; a week where no volumes are
    /// named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    /// For each of the node's volumes, this many of the newest stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `node.delete`: ends the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteParams {
    /// The classes that are kept; there is no default.
    pub keep: Keep,
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `workflow.resume`: a stuck workflow tries again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeParams {
    /// The workflow.
    pub workflow: OperationId,
    /// The volumes whose loss is accepted: `root` is new, from the node's image; a data volume is created
    /// again.
    #[serde(default)]
    pub accept_loss: Vec<Slot>,
    /// The lost volumes are restored from this backup instead; without a list, all that were lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_backup: Option<BackupId>,
}

/// `workflow.cancel`: undoes an open workflow, if that is still possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// The workflow.
    pub workflow: OperationId,
    /// The requester's reason, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The work of a submission.
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

/// A submission of valid form.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// The idempotency key.
    pub id: SubmissionId,
    /// The node it is about; the pool, for [`Work::Pool`].
    pub node: NodeName,
    /// The requested work.
    pub work: Work,
    /// The requester.
    pub requested_by: String,
    /// The queue that gets the answer.
    pub reply_to: Option<String>,
    /// As it was written; the parser has checked it.
    pub deadline: Option<String>,
}

/// Why a message is no valid submission. The text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadSubmission {
    /// What is wrong.
    pub why: String,
    /// The message's id, if that much could be read: the answer can name it.
    pub id: Option<SubmissionId>,
    /// The destination of the answer, if that much could be read.
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
        let params = |error: serde_json::Error| {
            bad(format!("params of {}: {error}; see `perennial schema submission`", envelope.workflow))
        };
        let given = if envelope.params.is_null() { serde_json::json!({}) } else { envelope.params.clone() };
        let (work, implied) = match envelope.workflow.as_str() {
            "node.apply" => {
                let apply: ApplyParams = serde_json::from_value(given).map_err(params)?;
                apply.spec.check().map_err(|error| bad(format!("params.spec.{error}")))?;
                check_text(apply.reason.as_deref()).map_err(&bad)?;
                if apply.reason.is_some() && apply.from_backup.is_none() {
                    return Err(bad("params.reason: goes with `from_backup` only; remove it".to_owned()));
                }
                let node = apply.spec.name.clone();
                if apply.from_backup.as_ref().is_some_and(|backup| *backup.node() == node) {
                    return Err(bad(format!(
                        "params.from_backup: a new node has another name than {node}; `node.restore` brings {node} itself back"
                    )));
                }
                (Work::Apply(apply), Some(node))
            }
            "node.replace" => {
                let replace: ReplaceParams = serde_json::from_value(given).map_err(params)?;
                check_text(replace.reason.as_deref()).map_err(&bad)?;
                (Work::Replace(replace), None)
            }
            "node.backup" => {
                let backup: BackupParams = serde_json::from_value(given).map_err(params)?;
                check_text(backup.reason.as_deref()).map_err(&bad)?;
                (Work::Backup(backup), None)
            }
            "node.recycle" => {
                let recycle: RecycleParams = serde_json::from_value(given).map_err(params)?;
                check_text(recycle.reason.as_deref()).map_err(&bad)?;
                (Work::Recycle(recycle), None)
            }
            "node.restore" => {
                let restore: RestoreParams = serde_json::from_value(given).map_err(params)?;
                check_text(restore.reason.as_deref()).map_err(&bad)?;
                let node = restore.backup.node().clone();
                (Work::Restore(restore), Some(node))
            }
            "node.pause" => {
                let pause: PauseParams = serde_json::from_value(given).map_err(params)?;
                check_text(pause.reason.as_deref()).map_err(&bad)?;
                (Work::Pause(pause), None)
            }
            "node.resume" => {
                let resume: ResumeNodeParams = serde_json::from_value(given).map_err(params)?;
                check_text(resume.reason.as_deref()).map_err(&bad)?;
                (Work::ResumeNode(resume), None)
            }
            "node.prune" => {
                let prune: PruneParams = serde_json::from_value(given).map_err(params)?;
                check_text(prune.reason.as_deref()).map_err(&bad)?;
                if prune.volumes.len() > PRUNED_MAX {
                    let why = format!(
                        "params.volumes: at most {PRUNED_MAX}; ask for the others with another message"
                    );
                    return Err(bad(why));
                }
                (Work::Prune(prune), None)
            }
            "node.delete" => {
                let delete: DeleteParams = serde_json::from_value(given).map_err(params)?;
                check_text(delete.reason.as_deref()).map_err(&bad)?;
                (Work::Delete(delete), None)
            }
            "pool.apply" => {
                let pool: PoolParams = serde_json::from_value(given).map_err(params)?;
                pool.spec.check().map_err(|error| bad(format!("params.spec.{error}")))?;
                if envelope.node.is_some() {
                    return Err(bad("pool.apply is about no node; remove the field `node`".to_owned()));
                }
                let name = pool.spec.name.clone();
                (Work::Pool(pool), Some(name))
            }
            "workflow.resume" => {
                let resume: ResumeParams = serde_json::from_value(given).map_err(params)?;
                let node = resume.workflow.node().clone();
                (Work::Resume(resume), Some(node))
            }
            "workflow.cancel" => {
                let cancel: CancelParams = serde_json::from_value(given).map_err(params)?;
                check_text(cancel.reason.as_deref()).map_err(&bad)?;
                let node = cancel.workflow.node().clone();
                (Work::Cancel(cancel), Some(node))
            }
            other => {
                return Err(bad(format!(
                    "workflow {:?} is not known; it is one of node.apply, node.replace, node.backup, node.recycle, node.restore, node.pause, node.resume, node.prune, node.delete, pool.apply, workflow.resume, workflow.cancel",
                    other.chars().take(80).collect::<String>()
                )));
            }
        };
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
    /// The disposition of the submission.
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
