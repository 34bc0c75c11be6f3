//! AWS's clients, made from AWS's own conventions.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::queue::{DeadLetter, Delivery, Depth, Outgoing, Queue, QueueError, Receipt};
use perennial_workers::aws::{Ec2, SqsQueue, load_config, sqs_client};
use perennial_workers::port::Cloud;
use tokio::sync::OnceCell;

/// The clients of one process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Aws {
    region: Option<String>,
    ec2: Arc<Ec2>,
    connect: Arc<dyn Fn(String) -> Opening + Send + Sync>,
}

type Opening = std::pin::Pin<Box<dyn Future<Output = Result<SqsQueue, QueueError>> + Send>>;

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Aws {
    /// Reads region, credentials and endpoint. Makes no call.
    pub(crate) async fn load() -> Self {
        let config = Box::pin(load_config()).await;
        let sqs = sqs_client(&config);
        Self {
            region: config.region().map(ToString::to_string),
            ec2: Arc::new(Ec2::new(&config)),
            connect: Arc::new(move |name| {
                let sqs = sqs.clone();
                Box::pin(async move { SqsQueue::open(sqs, &name).await })
            }),
        }
    }

    /// The region, if one is configured.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// EC2.
    pub(crate) fn cloud(&self) -> Arc<dyn Cloud> {
        Arc::clone(&self.ec2) as Arc<dyn Cloud>
    }

    /// The SQS queue of this name or URL.
    pub(crate) async fn queue(&self, name: &str) -> Result<SqsQueue, QueueError> {
        (self.connect)(name.to_owned()).await
    }

    /// The SQS queue of this name or URL, opened when it is first used.
    pub(crate) fn later(&self, name: &str) -> LaterQueue {
        LaterQueue { aws: self.clone(), name: name.to_owned(), queue: OnceCell::new() }
    }
}

/// An SQS queue that is opened when it is first used.
pub(crate) struct LaterQueue {
    aws: Aws,
    name: String,
    queue: OnceCell<SqsQueue>,
}

impl LaterQueue {
    async fn open(&self) -> Result<&SqsQueue, QueueError> {
        self.queue.get_or_try_init(|| self.aws.queue(&self.name)).await
    }
}

#[async_trait]
impl Queue for LaterQueue {
    async fn send(&self, messages: Vec<Outgoing>) -> Result<(), QueueError> {
        self.open().await?.send(messages).await
    }
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        self.open().await?.receive(max, wait).await
    }
    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<(), QueueError> {
        self.open().await?.extend(receipt, visibility).await
    }
    async fn delete(&self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.open().await?.delete(receipts).await
    }
    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        self.open().await?.dead_letter(delivery, reason).await
    }
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.open().await?.dead_letters(max).await
    }
    async fn depth(&self) -> Result<Depth, QueueError> {
        self.open().await?.depth().await
    }
}
