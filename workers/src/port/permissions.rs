//! The IAM policies that the calls of this crate need: `schemas/iam`, a file a need, with placeholders.
//!
//! `docs/aws-setup.md` gives the reason of each statement. The tests here compare the files with the calls
//! that the code makes; `sim/tests/sim/policy.rs` runs every mode under them.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

/// What a policy is needed for. Each is a file of `schemas/iam`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// Nodes that stay in their zone, with the same volumes.
    Base,
    /// Snapshots and images: backups, restores, moves to another zone, roots that cannot be adopted.
    Restore,
    /// Volumes that were attached by hand, and carry no tag of ours.
    AttachedVolumes,
    /// Volumes that are encrypted with a key of the customer's.
    CustomerKeys,
    /// The first spot instance of an account.
    SpotRole,
    /// Nodes with an instance profile.
    NodeRole,
    /// The queues in SQS.
    Queues,
    /// The policy of the queue of events itself, which lets the two EventBridge rules send to it.
    QueueOfEvents,
}

impl Need {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Base,
        Self::Restore,
        Self::AttachedVolumes,
        Self::CustomerKeys,
        Self::SpotRole,
        Self::NodeRole,
        Self::Queues,
        Self::QueueOfEvents,
    ];

    /// Its name, which is that of its file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Restore => "restore",
            Self::AttachedVolumes => "attached-volumes",
            Self::CustomerKeys => "customer-keys",
            Self::SpotRole => "spot-role",
            Self::NodeRole => "node-role",
            Self::Queues => "queues",
            Self::QueueOfEvents => "queue-of-events",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Base => "Nodes that stay in their zone, with the same volumes",
            Self::Restore => "Backups, restores, moves to another zone, roots that cannot be adopted",
            Self::AttachedVolumes => "Volumes that were attached by hand, without the owner's tag",
            Self::CustomerKeys => "Volumes encrypted with your own key (--key)",
            Self::SpotRole => "The first spot instance of an account",
            Self::NodeRole => "Nodes with an instance profile (--role)",
            Self::Queues => "The queues in SQS",
            Self::QueueOfEvents => "The policy of the queue of events itself; stands alone",
        }
    }

    /// The file, with placeholders such as `{owner}`.
    #[must_use]
    pub const fn template(self) -> &'static str {
        match self {
            Self::Base => include_str!("../../../schemas/iam/base.json"),
            Self::Restore => include_str!("../../../schemas/iam/restore.json"),
            Self::AttachedVolumes => include_str!("../../../schemas/iam/attached-volumes.json"),
            Self::CustomerKeys => include_str!("../../../schemas/iam/customer-keys.json"),
            Self::SpotRole => include_str!("../../../schemas/iam/spot-role.json"),
            Self::NodeRole => include_str!("../../../schemas/iam/node-role.json"),
            Self::Queues => include_str!("../../../schemas/iam/queues.json"),
            Self::QueueOfEvents => include_str!("../../../schemas/iam/queue-of-events.json"),
        }
    }

    /// Whether it is attached to a queue, and not to the role of the engine.
    #[must_use]
    pub const fn is_of_a_queue(self) -> bool {
        matches!(self, Self::QueueOfEvents)
    }
}

/// What stands in the place of the placeholders. What is not given is [`Unfilled`] where a file has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fillings {
    /// The installation's owner.
    pub owner: Option<String>,
    /// The account, of twelve digits.
    pub account: Option<String>,
    /// The region, such as `eu-central-1`.
    pub region: Option<String>,
    /// The role of the nodes' instance profiles, or a pattern of such roles.
    pub role: Option<String>,
    /// The ARN of the key of the customer's.
    pub key: Option<String>,
    /// The name of the queue, or a pattern of names.
    pub queue: Option<String>,
}

impl Fillings {
    fn of(&self, placeholder: &str) -> Option<&str> {
        let filling = match placeholder {
            "owner" => &self.owner,
            "account" => &self.account,
            "region" => &self.region,
            "role" => &self.role,
            "key" => &self.key,
            "queue" => &self.queue,
            _ => &None,
        };
        filling.as_deref()
    }
}

/// A placeholder has no filling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy for {need} needs the {placeholder}")]
pub struct Unfilled {
    /// The file.
    pub need: &'static str,
    /// The placeholder, without its braces.
    pub placeholder: String,
}

/// One policy document for these needs, each taken once, in the order of [`Need::ALL`].
///
/// # Errors
/// [`Unfilled`], where a file has a placeholder without a filling.
///
/// # Panics
/// Never: the files are parsed by a test.
pub fn policy(needs: &[Need], fillings: &Fillings) -> Result<Json, Unfilled> {
    let wanted: BTreeSet<Need> = needs.iter().copied().collect();
    let mut statements = Vec::new();
    for need in wanted {
        let mut document: Json = serde_json::from_str(need.template()).expect("BUG: a policy is JSON");
        fill(&mut document, fillings).map_err(|placeholder| Unfilled { need: need.name(), placeholder })?;
        if let Json::Array(more) = document["Statement"].take() {
            statements.extend(more);
        }
    }
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
}

/// Fills the texts of a document, or names the first placeholder that has no filling.
fn fill(json: &mut Json, fillings: &Fillings) -> Result<(), String> {
    match json {
        Json::String(text) => *text = filled(text, fillings)?,
        Json::Array(items) => items.iter_mut().try_for_each(|item| fill(item, fillings))?,
        Json::Object(fields) => fields.values_mut().try_for_each(|field| fill(field, fillings))?,
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    Ok(())
}

fn filled(text: &str, fillings: &Fillings) -> Result<String, String> {
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (placeholder, after) = after.split_once('}').unwrap_or((after, ""));
        told.push_str(before);
        told.push_str(fillings.of(placeholder).ok_or_else(|| placeholder.to_owned())?);
        rest = after;
    }
    told.push_str(rest);
    Ok(told)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Actions that no call of this code names, each with the reason why a policy has it.
    const HELPERS: &[(&str, &str)] = &[
        ("ec2:CreateTags", "EC2 asks for it where a creating call carries tags"),
        ("iam:PassRole", "EC2 asks for it where a launch names an instance profile"),
        ("iam:CreateServiceLinkedRole", "EC2 makes the spot role at an account's first spot request"),
        ("kms:CreateGrant", "EC2 uses the key for us, as do the four below"),
        ("kms:Decrypt", "see kms:CreateGrant"),
        ("kms:DescribeKey", "see kms:CreateGrant"),
        ("kms:GenerateDataKeyWithoutPlaintext", "see kms:CreateGrant"),
        ("kms:ReEncryptFrom", "see kms:CreateGrant"),
        ("kms:ReEncryptTo", "see kms:CreateGrant"),
    ];

    /// Actions of the port that no policy allows, each with the reason.
    const NOT_ALLOWED: &[(&str, &str)] = &[
        ("GetCallerIdentity", "it needs no permission, and the adapter makes no such call"),
        ("UnassignPrivateIpAddresses", "no step makes this call"),
        ("CreateQueue", "only tests call `ensure_queue`"),
    ];

    fn source(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn complete() -> Fillings {
        let some = |text: &str| Some(text.to_owned());
        Fillings {
            owner: some("prod-eu"),
            account: some("111122223333"),
            region: some("eu-central-1"),
            role: some("db-node"),
            key: some("arn:aws:kms:eu-central-1:111122223333:key/0a1b2c3d-0000-0000-0000-000000000000"),
            queue: some("perennial-*"),
        }
    }

    fn texts(json: &Json) -> Vec<String> {
        match json {
            Json::String(text) => vec![text.clone()],
            Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }

    fn statements(needs: &[Need]) -> Vec<Json> {
        policy(needs, &complete()).unwrap()["Statement"].as_array().unwrap().clone()
    }

    fn of_a_role() -> Vec<Need> {
        Need::ALL.into_iter().filter(|need| !need.is_of_a_queue()).collect()
    }

    fn allowed() -> BTreeSet<String> {
        statements(&of_a_role()).iter().flat_map(|statement| texts(&statement["Action"])).collect()
    }

    /// The variants of the enum, as they stand in its source.
    fn actions_of_the_port() -> BTreeSet<String> {
        let text = source("src/port/error.rs");
        let body = text.split_once("pub enum Action {").unwrap().1.split_once('}').unwrap().0;
        body.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }

    /// SQS's operations by the names of the SDK's methods, with the action that authorises each (Service
    /// Authorization Reference: a batch needs the permission of the single call).
    const SQS: &[(&str, &str)] = &[
        ("add_permission", "AddPermission"),
        ("cancel_message_move_task", "CancelMessageMoveTask"),
        ("change_message_visibility", "ChangeMessageVisibility"),
        ("change_message_visibility_batch", "ChangeMessageVisibility"),
        ("create_queue", "CreateQueue"),
        ("delete_message", "DeleteMessage"),
        ("delete_message_batch", "DeleteMessage"),
        ("delete_queue", "DeleteQueue"),
        ("get_queue_attributes", "GetQueueAttributes"),
        ("get_queue_url", "GetQueueUrl"),
        ("list_dead_letter_source_queues", "ListDeadLetterSourceQueues"),
        ("list_message_move_tasks", "ListMessageMoveTasks"),
        ("list_queue_tags", "ListQueueTags"),
        ("list_queues", "ListQueues"),
        ("purge_queue", "PurgeQueue"),
        ("receive_message", "ReceiveMessage"),
        ("remove_permission", "RemovePermission"),
        ("send_message", "SendMessage"),
        ("send_message_batch", "SendMessage"),
        ("set_queue_attributes", "SetQueueAttributes"),
        ("start_message_move_task", "StartMessageMoveTask"),
        ("tag_queue", "TagQueue"),
        ("untag_queue", "UntagQueue"),
    ];

    fn calls_of_sqs() -> BTreeSet<String> {
        let adapter = source("src/aws/sqs.rs");
        let called = SQS.iter().filter(|(method, _)| adapter.contains(&format!(".{method}()")));
        called.map(|(_, action)| format!("sqs:{action}")).collect()
    }

    /// The calls of the port that some code here makes, by the table of the planner (which has one line a
    /// method: `Action: fn method(…)`).
    fn is_called(action: &str) -> bool {
        let planner = source("src/cloud/planner.rs");
        let methods: Vec<&str> = planner
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&format!("{action}: fn "))?.split('(').next())
            .collect();
        assert!(!methods.is_empty(), "{action} has no line in the table of the planner");
        let mut files = Vec::new();
        for directory in ["src/steps", "src/ingest", "src/periodic", "src/cloud"] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
            files.extend(std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()));
        }
        let own = ["preflight.rs", "standing.rs", "adoption.rs"];
        files.extend(own.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name)));
        files.retain(|path| path.is_file() && !path.ends_with("planner.rs"));
        let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        methods.iter().any(|method| text.contains(&format!(".{method}(")))
    }

    #[test]
    fn every_call_that_the_code_makes_is_allowed_by_a_statement() {
        let allowed = allowed();
        let excepted = |action: &str| NOT_ALLOWED.iter().any(|(name, _)| *name == action);
        let actions = actions_of_the_port();
        assert!(actions.len() > 30 && actions.contains("RunInstances"), "{actions:?}");
        for action in &actions {
            assert_ne!(allowed.contains(&format!("ec2:{action}")), excepted(action), "{action}");
        }
        let sqs = calls_of_sqs();
        assert!(sqs.contains("sqs:ReceiveMessage"), "{sqs:?}");
        for action in sqs {
            let name = action.trim_start_matches("sqs:");
            assert_ne!(allowed.contains(&action), excepted(name), "{action}");
        }
        let opens = source("../cli/src/installation/aws.rs");
        assert!(opens.contains("SqsQueue") && !opens.contains("ensure_queue"), "then it needs CreateQueue");
        // No other service is spoken to.
        let manifest = source("Cargo.toml");
        let services: BTreeSet<_> =
            manifest.split('"').filter_map(|word| word.strip_prefix("dep:aws-")).collect();
        assert_eq!(services, BTreeSet::from(["config", "sdk-ec2", "sdk-sqs"]));
    }

    #[test]
    fn no_statement_allows_an_action_that_no_code_needs() {
        let actions = actions_of_the_port();
        let sqs = calls_of_sqs();
        for action in allowed() {
            let of_the_port = action.strip_prefix("ec2:").filter(|name| actions.contains(*name));
            let helper = HELPERS.iter().any(|(name, _)| *name == action);
            assert!(of_the_port.is_some() || sqs.contains(&action) || helper, "{action}");
            if let Some(name) = of_the_port {
                assert!(is_called(name), "{name} is called by no code");
            }
        }
        assert!(!is_called("UnassignPrivateIpAddresses"), "then a statement must allow it");
        for (helper, why) in HELPERS {
            assert!(allowed().contains(*helper), "{helper} ({why}) is in no statement any more");
        }
    }

    #[test]
    fn statements_have_names_of_their_own_and_no_placeholder_is_left() {
        let all = statements(&Need::ALL);
        let sids: BTreeSet<_> = all.iter().map(|one| one["Sid"].as_str().unwrap().to_owned()).collect();
        assert_eq!(sids.len(), all.len());
        assert!(sids.iter().all(|sid| sid.chars().all(|c| c.is_ascii_alphanumeric())), "{sids:?}");
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.contains("prod-eu") && text.contains("role/db-node"), "{text}");
        assert!(!text.contains("{owner}"), "{text}");
    }

    #[test]
    fn a_placeholder_without_a_filling_is_told_with_its_file() {
        let fillings = Fillings { role: None, ..complete() };
        let error = policy(&[Need::Base, Need::NodeRole], &fillings).unwrap_err();
        assert_eq!(error, Unfilled { need: "node-role", placeholder: "role".to_owned() });
        assert!(policy(&[Need::Base, Need::Restore], &fillings).is_ok());
    }

    /// IAM counts no white space in a managed policy: at most 6,144 characters (IAM User Guide, quotas).
    #[test]
    fn the_policy_of_all_needs_fits_into_one_managed_policy() {
        let document = policy(&of_a_role(), &complete()).unwrap();
        let length = serde_json::to_string(&document).unwrap().len();
        assert!(length <= 6_144, "{length}");
    }

    /// The page explains each statement.
    #[test]
    fn the_page_has_the_reason_of_every_statement() {
        let page = source("../docs/aws-setup.md");
        for statement in statements(&Need::ALL) {
            let sid = statement["Sid"].as_str().unwrap();
            assert!(page.contains(&format!("`{sid}`")), "docs/aws-setup.md does not explain {sid}");
        }
    }
}
