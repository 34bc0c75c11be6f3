//! Systems Manager's Run Command: commands that agents inside instances carry out.
//!
//! No machine runs, so a [`Script`] decides the outcome of a command: the first whose filter fits, or success
//! without output. Every instance has an agent from its first `running` on, until a test takes it away. An
//! invocation goes `Pending` → `InProgress` → an end, on the region's clock. An agent that is away finds the
//! invocation when it is back, up to the command's own timeout; an agent that never comes back leaves it
//! `InProgress` until the execution timeout. There is no client token: each SendCommand is another command
//! (SSM API reference).

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_workers::port::Tags;
use perennial_workflows::model::aws::{InstanceId, InstanceState};
use serde::{Deserialize, Serialize};

use super::{ApiError, Transition, World};

/// Commands that are remembered; the oldest ended ones go first (SSM keeps them for 30 days).
const COMMANDS_MAX: usize = 10_000;
/// Instances of one SendCommand by id (SSM API reference), and by tag (a bound of this model).
const INSTANCES_MAX: usize = 50;
/// Bytes of all parameters of one command (a bound of this model; SSM's documents have 64 KB).
const PARAMETERS_MAX: usize = 64 * 1024;
/// Scripts at once.
const SCRIPTS_MAX: usize = 1_000;
/// How much of standard output is kept (SSM API reference, GetCommandInvocation).
const STDOUT_MAX: usize = 24_000;
/// The same for standard error.
const STDERR_MAX: usize = 8_000;
/// Until a command that no agent fetched is given up (SSM API reference, the default of TimeoutSeconds).
pub const DELIVERY_S: u64 = 3_600;
/// Until a command that runs is given up (SSM, executionTimeout of AWS-RunShellScript).
const EXECUTION_S: u64 = 3_600;
/// The longest of either.
const TIMEOUT_MAX_S: u64 = 2_592_000;

/// A scripted outcome of commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Only on this instance.
    pub instance: Option<InstanceId>,
    /// Only commands whose parameters contain this text.
    pub contains: Option<String>,
    /// For so many invocations more; `None` for all.
    pub left: Option<u64>,
    /// The outcome.
    pub outcome: Outcome,
}

/// The end of an invocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It ends by itself, with this exit code: 0 is success.
    Exits {
        /// The exit code.
        code: i32,
        /// Standard output.
        stdout: String,
        /// Standard error.
        stderr: String,
        /// After so long.
        after: Duration,
    },
    /// It never ends; the execution timeout ends it.
    Hangs,
    /// It cannot be delivered, which SSM reports after so long.
    Undeliverable(Duration),
    /// No agent fetches it; the delivery timeout ends it.
    Unfetched,
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Exits { code: 0, stdout: String::new(), stderr: String::new(), after: Duration::from_secs(1) }
    }
}

/// The parameters of SendCommand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are SSM's")]
pub struct SendCommand {
    pub document: String,
    pub instances: Vec<InstanceId>,
    /// Instances with these tags instead.
    pub tagged: Tags,
    pub parameters: BTreeMap<String, Vec<String>>,
    pub comment: String,
    pub timeout_s: Option<u64>,
}

/// A command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are SSM's")]
pub struct Command {
    pub id: String,
    pub document: String,
    pub parameters: BTreeMap<String, Vec<String>>,
    pub comment: String,
    pub requested_at_ms: u64,
    pub timeout_s: u64,
    pub expires_at_ms: u64,
    pub by_tag: Tags,
    pub invocations: BTreeMap<InstanceId, Invocation>,
}

/// A command on one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are SSM's")]
pub struct Invocation {
    pub stage: Stage,
    pub visible_at_ms: u64,
    /// When the agent may have it at the earliest.
    pub arrives_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    pub outcome: Outcome,
}

/// How far an invocation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are SSM's")]
pub enum Stage {
    Pending,
    InProgress,
    Success,
    Failed,
    Undeliverable,
    DeliveryTimedOut,
    ExecutionTimedOut,
    Cancelled,
}

impl Stage {
    /// `Status`, which has fewer words than `StatusDetails`.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Success => "Success",
            Self::Failed | Self::Undeliverable => "Failed",
            Self::DeliveryTimedOut | Self::ExecutionTimedOut => "TimedOut",
            Self::Cancelled => "Cancelled",
        }
    }

    /// `StatusDetails`.
    #[must_use]
    pub const fn details(self) -> &'static str {
        match self {
            Self::Undeliverable => "Undeliverable",
            Self::DeliveryTimedOut => "DeliveryTimedOut",
            Self::ExecutionTimedOut => "ExecutionTimedOut",
            other => other.status(),
        }
    }

    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::InProgress)
    }
}

impl Command {
    /// How long it may run.
    fn execution_s(&self) -> u64 {
        let said = self.parameters.get("executionTimeout").and_then(|values| values.first()?.parse().ok());
        said.unwrap_or(EXECUTION_S).clamp(1, TIMEOUT_MAX_S)
    }

    /// The stage of the whole command: the least advanced, then the worst.
    #[must_use]
    pub fn stage(&self) -> Stage {
        let rank = |stage: Stage| match stage {
            Stage::InProgress => 0,
            Stage::Pending => 1,
            Stage::ExecutionTimedOut => 2,
            Stage::DeliveryTimedOut => 3,
            Stage::Failed => 4,
            Stage::Undeliverable => 5,
            Stage::Cancelled => 6,
            Stage::Success => 7,
        };
        self.invocations.values().map(|one| one.stage).min_by_key(|s| rank(*s)).unwrap_or(Stage::Success)
    }
}

impl World {
    /// Scripts the outcome of commands, ahead of all earlier scripts.
    ///
    /// # Errors
    /// When there are too many.
    pub fn script_commands(&mut self, script: Script) -> Result<(), ApiError> {
        if self.scripts.len() >= SCRIPTS_MAX {
            return Err(ApiError::new("BadRequest", format!("at most {SCRIPTS_MAX} scripts")));
        }
        self.scripts.push_front(script);
        Ok(())
    }

    /// Forgets all scripts: commands succeed again.
    pub fn forget_scripts(&mut self) {
        self.scripts.clear();
    }

    /// Takes the agent of an instance away, or gives it back.
    pub fn set_managed(&mut self, now_ms: u64, id: &InstanceId, managed: bool) {
        self.advance(now_ms);
        if let Some(instance) = self.instances.get_mut(id) {
            instance.agentless = !managed;
        }
        self.agent_fetches(id);
    }

    /// Whether an instance has an agent that was ever there: only then can commands be sent to it.
    #[must_use]
    pub fn is_managed(&self, id: &InstanceId) -> bool {
        self.known_instance(id).is_ok_and(|instance| {
            let alive = !matches!(instance.state, InstanceState::ShuttingDown | InstanceState::Terminated);
            alive && instance.ever_ran && !instance.agentless
        })
    }

    /// Whether an agent answers now.
    #[must_use]
    pub fn is_online(&self, id: &InstanceId) -> bool {
        self.is_managed(id)
            && self.instances.get(id).is_some_and(|i| i.state == InstanceState::Running)
            && !self.is_rebooting(id)
    }

    /// SendCommand.
    ///
    /// # Errors
    /// InvalidInstanceId for an instance that has no agent or is going, DuplicateInstanceId, InvalidDocument,
    /// InvalidParameters, ValidationException.
    pub fn send_command(&mut self, now_ms: u64, request: &SendCommand) -> Result<&Command, ApiError> {
        self.advance(now_ms);
        let invalid = |message: String| ApiError::new("ValidationException", message);
        let name = &request.document;
        let named = (3..=128).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b));
        if !named {
            return Err(ApiError::new("InvalidDocument", format!("document {name} does not exist")));
        }
        if name.starts_with("AWS-Run") && request.parameters.get("commands").is_none_or(Vec::is_empty) {
            return Err(ApiError::new("InvalidParameters", "Parameter \"commands\" is required"));
        }
        let texts = request.parameters.iter().flat_map(|(key, values)| values.iter().chain([key]));
        if texts.map(String::len).sum::<usize>() > PARAMETERS_MAX {
            let message = format!("parameters have at most {PARAMETERS_MAX} bytes");
            return Err(ApiError::new("InvalidParameters", message));
        }
        if request.comment.chars().count() > 100 {
            return Err(invalid("a comment has at most 100 characters".to_owned()));
        }
        let timeout_s = request.timeout_s.unwrap_or(DELIVERY_S);
        if !(30..=TIMEOUT_MAX_S).contains(&timeout_s) {
            return Err(invalid(format!("TimeoutSeconds is between 30 and {TIMEOUT_MAX_S}")));
        }
        let instances = self.targets_of_command(request)?;
        let id = self.command_id();
        let text = request.parameters.values().flatten().cloned().collect::<Vec<_>>().join("\n");
        let visible = self.settings.latencies.command_visible;
        let deliver = self.settings.latencies.command_deliver;
        let mut invocations = BTreeMap::new();
        for instance in instances {
            let visible_at_ms = self.now_ms + visible.draw(&mut self.rng);
            let outcome = self.outcome_for(&instance, &text);
            let transition = Transition::CommandArrives(id.clone(), instance.clone());
            let arrives_at_ms = self.after(deliver, transition);
            let stage = Stage::Pending;
            let invocation = Invocation {
                stage,
                visible_at_ms,
                arrives_at_ms,
                started_at_ms: None,
                ended_at_ms: None,
                outcome,
            };
            invocations.insert(instance, invocation);
        }
        let expires_at_ms = self.now_ms + timeout_s * 1000;
        self.at(expires_at_ms, Transition::CommandExpires(id.clone()));
        let command = Command {
            id: id.clone(),
            document: request.document.clone(),
            parameters: request.parameters.clone(),
            comment: request.comment.clone(),
            requested_at_ms: self.now_ms,
            timeout_s,
            expires_at_ms,
            by_tag: request.tagged.clone(),
            invocations,
        };
        if self.commands.len() >= COMMANDS_MAX {
            let ended = self.commands.values().filter(|command| command.stage().is_over());
            let oldest =
                ended.min_by_key(|command| command.requested_at_ms).map(|command| command.id.clone());
            let oldest = oldest.ok_or_else(|| {
                ApiError::new("InternalServerError", format!("{COMMANDS_MAX} commands are under way"))
            })?;
            self.commands.remove(&oldest);
        }
        Ok(self.commands.entry(id).or_insert(command))
    }

    fn targets_of_command(&self, request: &SendCommand) -> Result<Vec<InstanceId>, ApiError> {
        if !request.tagged.is_empty() {
            let tagged = self.instances.values().filter(|instance| {
                request.tagged.iter().all(|(key, value)| instance.tags.get(key) == Some(value))
            });
            let ids = tagged.map(|instance| instance.id.clone()).filter(|id| self.is_managed(id));
            return Ok(ids.take(INSTANCES_MAX).collect());
        }
        if request.instances.is_empty() || request.instances.len() > INSTANCES_MAX {
            let message = format!("1 to {INSTANCES_MAX} instances, or targets");
            return Err(ApiError::new("ValidationException", message));
        }
        let wrong: Vec<_> = request.instances.iter().filter(|id| !self.is_managed(id)).collect();
        if !wrong.is_empty() {
            let wrong = wrong.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
            let message =
                format!("Instances [[{wrong}]] not in a valid state for account {}", super::ACCOUNT);
            return Err(ApiError::new("InvalidInstanceId", message));
        }
        let mut ids = request.instances.clone();
        ids.sort();
        ids.dedup();
        if ids.len() < request.instances.len() {
            return Err(ApiError::new("DuplicateInstanceId", "You can't specify an instance ID twice."));
        }
        Ok(ids)
    }

    fn command_id(&mut self) -> String {
        let hex = format!("{:032x}", self.rng.u128(..));
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    fn outcome_for(&mut self, instance: &InstanceId, text: &str) -> Outcome {
        let fits = |script: &Script| {
            script.instance.as_ref().is_none_or(|only| only == instance)
                && script.contains.as_ref().is_none_or(|part| text.contains(part))
                && script.left != Some(0)
        };
        let Some(index) = self.scripts.iter().position(fits) else { return Outcome::default() };
        let script = &mut self.scripts[index];
        let outcome = script.outcome.clone();
        if let Some(left) = &mut script.left {
            *left -= 1;
            if *left == 0 {
                self.scripts.remove(index);
            }
        }
        outcome
    }

    /// A command, as soon as it is known on that instance.
    ///
    /// # Errors
    /// InvocationDoesNotExist, also while it is too young.
    pub fn command_on(
        &mut self,
        now_ms: u64,
        command: &str,
        instance: &InstanceId,
    ) -> Result<(&Command, &Invocation), ApiError> {
        self.advance(now_ms);
        let found = self.commands.get(command);
        found
            .and_then(|command| Some((command, command.invocations.get(instance)?)))
            .filter(|(_, invocation)| invocation.visible_at_ms <= self.now_ms)
            .ok_or_else(|| ApiError::new("InvocationDoesNotExist", ""))
    }

    /// All commands, by id.
    pub fn all_commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.values()
    }

    /// CancelCommand, on some instances or (none given) on all. Ended invocations stay as they are.
    ///
    /// # Errors
    /// InvalidCommandId.
    pub fn cancel_command(&mut self, now_ms: u64, id: &str, on: &[InstanceId]) -> Result<(), ApiError> {
        self.advance(now_ms);
        let command = self.commands.get_mut(id).ok_or_else(|| ApiError::new("InvalidCommandId", ""))?;
        for (instance, invocation) in &mut command.invocations {
            if on.is_empty() || on.contains(instance) {
                invocation.end(Stage::Cancelled, self.now_ms);
            }
        }
        Ok(())
    }

    /// An agent that is online fetches the invocations that wait for it.
    pub(super) fn agent_fetches(&mut self, instance: &InstanceId) {
        if !self.is_online(instance) {
            return;
        }
        let now_ms = self.now_ms;
        let waiting: Vec<_> = self
            .commands
            .values()
            .filter(|command| {
                command.invocations.get(instance).is_some_and(|one| {
                    one.stage == Stage::Pending
                        && one.arrives_at_ms <= now_ms
                        && one.outcome != Outcome::Unfetched
                })
            })
            .map(|command| (command.id.clone(), command.execution_s()))
            .collect();
        for (id, execution_s) in waiting {
            let Some(one) = self.commands.get_mut(&id).and_then(|c| c.invocations.get_mut(instance)) else {
                continue;
            };
            let over_after_ms = match &one.outcome {
                Outcome::Undeliverable(_) | Outcome::Unfetched => continue,
                Outcome::Exits { after, .. } if after.as_secs() < execution_s => after.as_millis() as u64,
                Outcome::Exits { .. } | Outcome::Hangs => execution_s * 1000,
            };
            one.stage = Stage::InProgress;
            one.started_at_ms = Some(now_ms);
            self.at(now_ms + over_after_ms, Transition::CommandEnds(id.clone(), instance.clone()));
            // When its machine is gone, only the timeout ends it.
            self.at(now_ms + execution_s * 1000, Transition::CommandRunsOut(id, instance.clone()));
        }
    }

    pub(super) fn command_arrives(&mut self, id: &str, instance: &InstanceId) {
        let now_ms = self.now_ms;
        let Some(one) = self.commands.get_mut(id).and_then(|c| c.invocations.get_mut(instance)) else {
            return;
        };
        if let Outcome::Undeliverable(after) = one.outcome
            && one.stage == Stage::Pending
        {
            let told_ms = one.arrives_at_ms + after.as_millis() as u64;
            if told_ms > now_ms {
                self.at(told_ms, Transition::CommandArrives(id.to_owned(), instance.clone()));
            } else {
                one.end(Stage::Undeliverable, now_ms);
            }
            return;
        }
        self.agent_fetches(instance);
    }

    pub(super) fn command_ends(&mut self, id: &str, instance: &InstanceId) {
        let now_ms = self.now_ms;
        let running_since_ms =
            self.instances.get(instance).filter(|i| i.has_guest()).and_then(|i| i.running_since_ms);
        let Some(command) = self.commands.get_mut(id) else { return };
        let execution_s = command.execution_s();
        let Some(one) = command.invocations.get_mut(instance) else { return };
        if one.stage != Stage::InProgress
            || running_since_ms.is_none_or(|since| Some(since) > one.started_at_ms)
        {
            return;
        }
        match &one.outcome {
            Outcome::Exits { code, after, .. } if after.as_secs() < execution_s => {
                let stage = if *code == 0 { Stage::Success } else { Stage::Failed };
                one.end(stage, now_ms);
            }
            _ => one.end(Stage::ExecutionTimedOut, now_ms),
        }
    }

    pub(super) fn command_runs_out(&mut self, id: &str, instance: &InstanceId) {
        let now_ms = self.now_ms;
        let one = self.commands.get_mut(id).and_then(|command| command.invocations.get_mut(instance));
        if let Some(one) = one.filter(|one| one.stage == Stage::InProgress) {
            one.end(Stage::ExecutionTimedOut, now_ms);
        }
    }

    pub(super) fn command_expires(&mut self, id: &str) {
        let now_ms = self.now_ms;
        let command = self.commands.get_mut(id);
        for one in command.into_iter().flat_map(|command| command.invocations.values_mut()) {
            if one.stage == Stage::Pending {
                one.end(Stage::DeliveryTimedOut, now_ms);
            }
        }
    }
}

impl Invocation {
    fn end(&mut self, stage: Stage, now_ms: u64) {
        if !self.stage.is_over() {
            self.stage = stage;
            self.ended_at_ms = Some(now_ms);
        }
    }

    /// The exit code; -1 as long as there is none (SSM API reference).
    #[must_use]
    pub const fn code(&self) -> i32 {
        match (&self.outcome, self.stage) {
            (Outcome::Exits { code, .. }, Stage::Success | Stage::Failed) => *code,
            _ => -1,
        }
    }

    /// Standard output and standard error, as much as SSM keeps of them.
    #[must_use]
    pub fn output(&self) -> (&str, &str) {
        match (&self.outcome, self.stage) {
            (Outcome::Exits { stdout, stderr, .. }, Stage::Success | Stage::Failed) => {
                (beginning(stdout, STDOUT_MAX), beginning(stderr, STDERR_MAX))
            }
            _ => ("", ""),
        }
    }
}

/// At most so many characters.
fn beginning(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}
