//! What a configuration names, opened: the journal, the queues, the cloud.

#[cfg(feature = "aws")]
pub(crate) mod aws;
pub(crate) mod config;
pub(crate) mod heads;
pub(crate) mod journal_file;
pub(crate) mod status_file;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_engine::queue::Queue;
use perennial_store::{Durability, EmbeddedQueue, QueueSettings, private};
use perennial_views::Views;
use perennial_workers::ingest::ReplyTo;

use crate::failure::{Failure, chain};
use crate::installation::config::{Config, QueueAddress, QueueKind};

/// The file of the embedded queues in the data directory.
const QUEUE_FILE: &str = "queue.sqlite";

/// How many embedded queues may hold something before an answer to one more is not sent. A submission names
/// the queue of its answer, so their number must not be the senders' to choose; programs that ask have one
/// each.
const REPLY_QUEUES_MAX: u64 = 100;

/// Which of the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Submissions of operators and programs.
    Submissions,
    /// AWS's events.
    Interruptions,
    /// Doorbells.
    Steps,
    /// Answers to submissions.
    Replies,
    /// The journal's heads.
    Heads,
}

impl Role {
    /// How an embedded queue of this role behaves. Every process says the same.
    pub(crate) fn settings(self) -> QueueSettings {
        let messages = QueueSettings {
            // A message that cannot be written for lack of disk comes again for ten minutes; one that cannot
            // be read is given up at once, with its reason.
            max_receives: 20,
            ..QueueSettings::default()
        };
        match self {
            Self::Submissions | Self::Interruptions | Self::Heads => messages,
            Self::Replies => QueueSettings { max_queues: Some(REPLY_QUEUES_MAX), ..messages },
            Self::Steps => QueueSettings {
                visibility: Duration::from_secs(60),
                durability: Durability::Hint,
                ..QueueSettings::default()
            },
        }
    }
}

/// Perennial as the configuration describes it.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    /// The settings.
    pub(crate) config: Config,
    #[cfg(feature = "aws")]
    aws: Arc<tokio::sync::OnceCell<crate::installation::aws::Aws>>,
}

impl Installation {
    /// Opens nothing yet.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            #[cfg(feature = "aws")]
            aws: Arc::default(),
        }
    }

    /// The data directory, made if there is none.
    pub(crate) fn make_data_dir(&self) -> Result<(), Failure> {
        let directory = &self.config.data_dir;
        private::create_directory(directory).map_err(|error| {
            Failure::environment(format!(
                "the data directory {} cannot be made: {error}",
                directory.display()
            ))
            .hint("name another one with --data DIR")
        })
    }

    /// What the journal answers, beside a running server or without one.
    pub(crate) fn views(&self) -> Result<Views, Failure> {
        Ok(Views::new(journal_file::open_for_reading(&self.config.journal_path())?))
    }

    /// The same, where no server may have run yet, or one may be starting; then `None`.
    pub(crate) fn views_if_ready(&self) -> Result<Option<Views>, Failure> {
        Ok(journal_file::find_ready(&self.config.journal_path())?.map(Views::new))
    }

    /// One of the queues.
    pub(crate) async fn queue(&self, role: Role) -> Result<Arc<dyn Queue>, Failure> {
        let queues = &self.config.queues;
        let address = match role {
            Role::Submissions => &queues.submissions,
            Role::Interruptions => &queues.interruptions,
            Role::Steps => &queues.steps,
            Role::Replies | Role::Heads => {
                return Err(Failure::internal("BUG: these have no queue by their role"));
            }
        };
        match address.kind {
            QueueKind::Embedded => {
                self.make_data_dir()?;
                self.embedded(&address.name, role)
            }
            QueueKind::Sqs => self.sqs(&address.name).await,
        }
    }

    /// Where the journal's heads go.
    pub(crate) async fn shipping(&self) -> Result<heads::Shipping, Failure> {
        let config = &self.config.heads;
        let queue = match &config.queue {
            None => None,
            Some(QueueAddress { kind: QueueKind::Embedded, name }) => Some(self.embedded(name, Role::Heads)?),
            Some(QueueAddress { kind: QueueKind::Sqs, name }) => Some(self.sqs(name).await?),
        };
        Ok(heads::Shipping { file: config.file.clone(), queue, every: Duration::from_secs(config.every_s) })
    }

    /// An embedded queue. Several processes share it, so its time is the machine's.
    fn embedded(&self, name: &str, role: Role) -> Result<Arc<dyn Queue>, Failure> {
        embedded_queue(&self.config.data_dir, name, role, Clock::system())
    }

    #[cfg(feature = "aws")]
    async fn sqs(&self, name: &str) -> Result<Arc<dyn Queue>, Failure> {
        Ok(Arc::new(self.aws().await.queue(name).await?))
    }

    #[cfg(not(feature = "aws"))]
    #[expect(clippy::unused_async, reason = "the same signature as with AWS")]
    async fn sqs(&self, name: &str) -> Result<Arc<dyn Queue>, Failure> {
        Err(no_aws(&format!("the SQS queue {name}")))
    }

    /// The clients, made when first needed.
    #[cfg(feature = "aws")]
    pub(crate) async fn aws(&self) -> &crate::installation::aws::Aws {
        self.aws.get_or_init(crate::installation::aws::Aws::load).await
    }

    /// Where answers to submissions go.
    pub(crate) async fn replies(&self) -> Arc<dyn ReplyTo> {
        #[cfg(feature = "aws")]
        let aws = match self.config.queues.submissions.kind {
            QueueKind::Sqs => Some(self.aws().await.clone()),
            QueueKind::Embedded => None,
        };
        Arc::new(Replies {
            installation: self.clone(),
            #[cfg(feature = "aws")]
            aws,
        })
    }
}

/// An embedded queue of a data directory, on this clock.
pub(crate) fn embedded_queue(
    data_dir: &Path,
    name: &str,
    role: Role,
    clock: Clock,
) -> Result<Arc<dyn Queue>, Failure> {
    Ok(Arc::new(EmbeddedQueue::open(&data_dir.join(QUEUE_FILE), name, role.settings(), clock)?))
}

/// The failure of asking for AWS in a build without it.
#[cfg(not(feature = "aws"))]
pub(crate) fn no_aws(what: &str) -> Failure {
    Failure::configuration(format!("{what} needs AWS, and this build has no AWS SDK"))
        .hint("build without --no-default-features, or configure embedded queues and cloud = \"sim\"")
}

/// Queues by the names that submissions give. A name is untrusted: it may not be one of our own three queues.
struct Replies {
    installation: Installation,
    #[cfg(feature = "aws")]
    aws: Option<crate::installation::aws::Aws>,
}

impl ReplyTo for Replies {
    fn queue(&self, name: &str) -> Result<Arc<dyn Queue>, String> {
        let queues = &self.installation.config.queues;
        let address = QueueAddress::parse(name, queues.submissions.kind)?;
        // Of a queue at SQS the name is the end of its URL: an answer must not come back as a request.
        let is_same = |own: &QueueAddress| own.kind == address.kind && own.base_name() == address.base_name();
        if [&queues.submissions, &queues.interruptions, &queues.steps].into_iter().any(is_same) {
            return Err(format!("{address} is one of our own queues; answers go elsewhere"));
        }
        match address.kind {
            QueueKind::Embedded => self
                .installation
                .embedded(&address.name, Role::Replies)
                .map_err(|failure| failure.lines().unwrap_or_default()),
            #[cfg(feature = "aws")]
            QueueKind::Sqs => match &self.aws {
                Some(aws) => Ok(Arc::new(aws.later(&address.name))),
                None => Err("SQS answers need SQS submissions".to_owned()),
            },
            #[cfg(not(feature = "aws"))]
            QueueKind::Sqs => Err("this build has no AWS SDK".to_owned()),
        }
    }
}

/// An error of the operating system about a file.
pub(crate) fn file_failure(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("{doing} {}: {}", path.display(), chain(error)))
}
