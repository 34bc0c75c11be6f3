//! What a command fails with: a kind (and so an exit code), a message, and what to do about it.
//!
//! | code | kind | for example |
//! | --- | --- | --- |
//! | 0 | – | done |
//! | 1 | failed | rejected, damaged: the command worked, its answer is no |
//! | 2 | user | an unknown flag, a node file with a mistake, a name that does not exist |
//! | 3 | configuration | an unknown key in `perennial.toml`, a queue that does not exist |
//! | 4 | environment | the journal is locked or missing, AWS cannot be reached |
//! | 5 | unknown | `--wait` ended before the outcome was known; the submission is kept |
//! | 6 | stuck | the workflow that was waited for waits for a person |
//! | 7 | partly | some of several nodes were done, and others were not |
//! | 70 | internal | a bug of ours |
//! | 130 | interrupted | Ctrl-C; what was asked for goes on |

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use perennial_engine::engine::ExecuteError;
use perennial_engine::journal::ReadError;
use perennial_engine::queue::QueueError;
use perennial_views::QueryError;
use perennial_views::query::Subject;

/// The text of `--help` about exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done · 1 the answer is no (rejected, damaged) · 2 usage or input · \
3 configuration\n            4 environment (journal locked or missing, AWS out of reach) · 5 outcome not yet known\n            \
6 stuck: a person is needed · 7 done in part · 70 bug";

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command worked, and its answer is no.
    Failed,
    /// What was typed or written cannot be used.
    User,
    /// The installation's settings cannot be used.
    Configuration,
    /// Something around us does not work.
    Environment,
    /// The outcome is not known yet.
    Unknown,
    /// A workflow waits for a person.
    Stuck,
    /// Some of several things were done.
    Partly,
    /// A bug.
    Internal,
    /// The person at the terminal does not want to wait any longer.
    Interrupted,
    /// The reader of our output has closed its end: not a failure.
    Closed,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Failed => 1,
            Self::User => 2,
            Self::Configuration => 3,
            Self::Environment => 4,
            Self::Unknown => 5,
            Self::Stuck => 6,
            Self::Partly => 7,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }

    /// Its name in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Failed => "failed",
            Self::User => "user",
            Self::Configuration => "configuration",
            Self::Environment => "environment",
            Self::Unknown => "unknown",
            Self::Stuck => "stuck",
            Self::Partly => "partly",
            Self::Internal => "internal",
            Self::Interrupted => "interrupted",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration error",
            Self::Internal => "internal error",
            Self::Unknown => "not known yet",
            Self::Interrupted => "interrupted",
            Self::Failed | Self::User | Self::Environment | Self::Stuck | Self::Partly | Self::Closed => {
                "error"
            }
        }
    }
}

/// Why a command ends without what was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }

    /// The answer is no.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The input cannot be used.
    pub(crate) fn user(message: impl fmt::Display) -> Self {
        Self::new(Kind::User, message)
    }

    /// The settings cannot be used.
    pub(crate) fn configuration(message: impl fmt::Display) -> Self {
        Self::new(Kind::Configuration, message)
    }

    /// The surroundings do not work.
    pub(crate) fn environment(message: impl fmt::Display) -> Self {
        Self::new(Kind::Environment, message)
    }

    /// The outcome is not known yet.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::new(Kind::Unknown, message)
    }

    /// A workflow waits for a person.
    pub(crate) fn stuck(message: impl fmt::Display) -> Self {
        Self::new(Kind::Stuck, message)
    }

    /// Some of several things were done.
    pub(crate) fn partly(message: impl fmt::Display) -> Self {
        Self::new(Kind::Partly, message)
    }

    /// Of several things some were done, and these were not; `None` where nothing has failed. When none was
    /// done the kind is that of all failures, if they are of one kind.
    pub(crate) fn of_several(total: usize, failures: Vec<Self>) -> Option<Self> {
        let failed = failures.len();
        let first = failures.first()?;
        let kind = match failures.iter().all(|failure| failure.kind == first.kind) {
            _ if failed < total => Kind::Partly,
            true => first.kind,
            false => Kind::Failed,
        };
        Some(Self::new(kind, format!("{failed} of {total} were not done; see above")))
    }

    /// A bug.
    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// The person at the terminal waits no longer.
    pub(crate) fn interrupted(message: impl fmt::Display) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// The reader of our output has gone.
    pub(crate) fn closed() -> Self {
        Self::new(Kind::Closed, "")
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }

    /// Whether the person at the terminal waits no longer, or nothing reads the output.
    pub(crate) fn is_interruption(&self) -> bool {
        matches!(self.kind, Kind::Interrupted | Kind::Closed)
    }

    /// What is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> &str {
        self.hint.as_deref().unwrap_or("see docs/cli.md")
    }

    /// The document for programs; none when the output has no reader any more.
    pub(crate) fn document(&self) -> Option<serde_json::Value> {
        let Self { kind, message, hint } = self;
        (*kind != Kind::Closed).then(|| {
            serde_json::json!({
                "error": {
                    "kind": kind.name(), "exit_code": kind.code(), "message": message, "hint": hint,
                }
            })
        })
    }

    /// The lines for people; none when the output has no reader any more.
    pub(crate) fn lines(&self) -> Option<String> {
        if self.kind == Kind::Closed {
            return None;
        }
        let mut text = format!("{}: {}", self.kind.label(), self.message);
        if let Some(hint) = &self.hint {
            text.push_str("\nhint: ");
            text.push_str(hint);
        } else if self.kind == Kind::Internal {
            text.push_str("\nhint: this is a bug; nothing was lost, please report it with this message");
        }
        Some(text)
    }
}

/// An error with everything below it, as one clause.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Unavailable { .. } => Self::environment(&error),
            ReadError::Damaged { .. } => Self::environment(&error).hint("run `perennial journal verify`"),
        }
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let text = chain(&error);
        match error {
            QueryError::Missing { subject, .. } => {
                let list = match subject {
                    Subject::Node => "node list",
                    Subject::Workflow => "workflow list",
                    Subject::AddressPool => "pool list",
                };
                Self::user(text).hint(format!("`perennial {list}` shows those there are"))
            }
            QueryError::NotPrunable { .. } => Self::user(text),
            QueryError::NoOtherSubnet { .. } => Self::user(text)
                .hint("`capacity.other_subnets` in the node file names subnets it may move to"),
            QueryError::Plan(_) => Self::internal(text),
            QueryError::Read(error) => error.into(),
            QueryError::Corrupt { .. } | QueryError::Event { .. } | QueryError::Body { .. } => {
                Self::environment(text).hint("run `perennial journal verify`")
            }
            QueryError::Hash { .. } => Self::failed(text),
            QueryError::Summary { .. } => Self::environment(text).hint("run `perennial journal rebuild`"),
        }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match &error {
            QueueError::Refused { .. } => Self::user(&error),
            QueueError::Misconfigured { .. } => Self::configuration(&error).hint("run `perennial doctor`"),
            QueueError::Unavailable { .. } => {
                Self::environment(&error).hint("try again, or run `perennial doctor`")
            }
            QueueError::ReceiptExpired => Self::internal(&error),
        }
    }
}

impl<R: Error + 'static> From<ExecuteError<R>> for Failure {
    fn from(error: ExecuteError<R>) -> Self {
        let text = chain(&error);
        match error {
            ExecuteError::Rejected(_) | ExecuteError::AlreadyDone { .. } => Self::failed(text),
            ExecuteError::Corrupt { .. } => Self::environment(text).hint("run `perennial journal verify`"),
            ExecuteError::Read(error) => error.into(),
            ExecuteError::Inconsistent { .. } => Self::internal(text),
            ExecuteError::Append(_) | ExecuteError::Contended { .. } => Self::environment(text),
        }
    }
}
