//! The observer: one paged, filtered describe per kind and quarter of a second for all nodes in flight.
//!
//! Every waiting step asks for its object by id, up to four times a second; the observer joins the questions
//! of a quarter of a second into one call and hands each asker its answer. A failed call is handed to all who
//! asked in it, once; who retries is the step, not the observer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_workflows::model::aws::{ImageId, InstanceId, InterfaceId, SnapshotId, VolumeId};
use tokio::sync::oneshot;

use crate::port::error::{Action, CloudError};
use crate::port::{Cloud, ImageView, InstanceView, InterfaceView, Select, SnapshotView, VolumeView};

/// Between two describes of one kind. EC2 grants twenty a second of each kind; this uses a fifth. The first
/// question of a step waits no longer than this: with a second, half of what a replacement lost to waiting
/// was lost here.
pub const EVERY: Duration = Duration::from_millis(250);

/// How long the first question waits for others: long enough for steps opened by one append to meet.
const GATHER: Duration = Duration::from_millis(20);

/// How long what was seen is remembered. Describes themselves were seen to be seconds late (`ec2-semantics`,
/// eventual consistency).
const LATELY: Duration = Duration::from_secs(5);

type Answer<V> = Result<Option<V>, CloudError>;

/// Joins questions of one kind.
struct Kind<I, V> {
    waiting: Mutex<Waiting<I, V>>,
}

struct Waiting<I, V> {
    asked: BTreeMap<I, Vec<oneshot::Sender<Answer<V>>>>,
    scheduled: bool,
    /// The last describe, in monotonic milliseconds.
    last_ms: Option<u64>,
    /// What was seen of late, and when; at most what was asked for within [`LATELY`].
    seen: BTreeMap<I, (u64, V)>,
}

impl<I, V> Default for Kind<I, V> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                asked: BTreeMap::new(),
                scheduled: false,
                last_ms: None,
                seen: BTreeMap::new(),
            }),
        }
    }
}

/// A kind of object that can be described.
#[async_trait]
trait Described: Send + Sync + Clone + 'static {
    type Id: Ord + Clone + Send + Sync + 'static;
    const ACTION: Action;
    /// Whether seeing one shows that the endpoint is ours: a public image is seen from every account.
    const IS_OURS: bool;
    fn kind(kinds: &Kinds) -> &Kind<Self::Id, Self>;
    fn id(&self) -> Self::Id;
    async fn describe(cloud: &dyn Cloud, ids: Vec<Self::Id>) -> Result<Vec<Self>, CloudError>;
}

macro_rules! described {
    ($($view:ident, $id:ident, $field:ident, $call:ident, $action:ident, $ours:literal;)*) => {$(
        #[async_trait]
        impl Described for $view {
            type Id = $id;
            const ACTION: Action = Action::$action;
            const IS_OURS: bool = $ours;
            fn kind(kinds: &Kinds) -> &Kind<$id, Self> {
                &kinds.$field
            }
            fn id(&self) -> $id {
                self.id.clone()
            }
            async fn describe(cloud: &dyn Cloud, ids: Vec<$id>) -> Result<Vec<Self>, CloudError> {
                cloud.$call(&Select::Ids(ids)).await
            }
        }
    )*};
}

described! {
    InstanceView, InstanceId, instances, instances, DescribeInstances, true;
    VolumeView, VolumeId, volumes, volumes, DescribeVolumes, true;
    InterfaceView, InterfaceId, interfaces, interfaces, DescribeNetworkInterfaces, true;
    SnapshotView, SnapshotId, snapshots, snapshots, DescribeSnapshots, true;
    ImageView, ImageId, images, images, DescribeImages, false;
}

#[derive(Default)]
struct Kinds {
    instances: Kind<InstanceId, InstanceView>,
    volumes: Kind<VolumeId, VolumeView>,
    interfaces: Kind<InterfaceId, InterfaceView>,
    snapshots: Kind<SnapshotId, SnapshotView>,
    images: Kind<ImageId, ImageView>,
}

/// Joins the looks of all nodes in flight. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Inner>,
}

struct Inner {
    cloud: Arc<dyn Cloud>,
    clock: Clock,
    kinds: Kinds,
    /// When an object of ours was last seen, in monotonic milliseconds.
    seen_ms: AtomicU64,
}

impl Observer {
    /// An observer over a cloud.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { cloud, clock, kinds: Kinds::default(), seen_ms: AtomicU64::new(0) }) }
    }

    /// The instance, or `None` when the answer did not hold it.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<InstanceView>, CloudError> {
        self.get(id).await
    }

    /// The volume, or `None` when the answer did not hold it.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub async fn volume(&self, id: &VolumeId) -> Result<Option<VolumeView>, CloudError> {
        self.get(id).await
    }

    /// The interface, or `None` when the answer did not hold it.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub async fn interface(&self, id: &InterfaceId) -> Result<Option<InterfaceView>, CloudError> {
        self.get(id).await
    }

    /// The snapshot, or `None` when the answer did not hold it.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotView>, CloudError> {
        self.get(id).await
    }

    /// The image, or `None` when the answer did not hold it.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub async fn image(&self, id: &ImageId) -> Result<Option<ImageView>, CloudError> {
        self.get(id).await
    }

    /// When the last call was made that showed an object that a step asked for, in monotonic milliseconds; 0
    /// before the first.
    #[must_use]
    pub fn last_seen_ms(&self) -> u64 {
        self.inner.seen_ms.load(Ordering::Relaxed)
    }

    /// The instance as some step saw it a moment ago; no call is made. It serves an act that EC2 itself
    /// refuses where it has changed since.
    #[must_use]
    pub fn instance_lately(&self, id: &InstanceId) -> Option<InstanceView> {
        self.lately(id)
    }

    /// The volume as some step saw it a moment ago, likewise.
    #[must_use]
    pub fn volume_lately(&self, id: &VolumeId) -> Option<VolumeView> {
        self.lately(id)
    }

    fn lately<V: Described>(&self, id: &V::Id) -> Option<V> {
        let waiting = V::kind(&self.inner.kinds).waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (at_ms, view) = waiting.seen.get(id)?;
        is_recent(*at_ms, self.inner.clock.monotonic_ms()).then(|| view.clone())
    }

    /// The volumes in the order of their ids, each `None` when the answer did not hold it. All are asked for
    /// at once.
    ///
    /// # Errors
    /// Of a describe that carried one of the questions.
    pub async fn volumes(
        &self,
        ids: impl IntoIterator<Item = &VolumeId>,
    ) -> Result<Vec<Option<VolumeView>>, CloudError> {
        self.many(ids).await
    }

    /// The snapshots in the order of their ids, likewise.
    ///
    /// # Errors
    /// Of a describe that carried one of the questions.
    pub async fn snapshots(
        &self,
        ids: impl IntoIterator<Item = &SnapshotId>,
    ) -> Result<Vec<Option<SnapshotView>>, CloudError> {
        self.many(ids).await
    }

    async fn many<'i, V: Described>(
        &self,
        ids: impl IntoIterator<Item = &'i V::Id>,
    ) -> Result<Vec<Option<V>>, CloudError>
    where
        V::Id: 'i,
    {
        let asked: Vec<_> = ids.into_iter().map(|id| self.ask(id)).collect();
        let mut views = Vec::with_capacity(asked.len());
        for answer in asked {
            views.push(answered(answer).await?);
        }
        Ok(views)
    }

    async fn get<V: Described>(&self, id: &V::Id) -> Answer<V> {
        answered(self.ask(id)).await
    }

    fn ask<V: Described>(&self, id: &V::Id) -> oneshot::Receiver<Answer<V>> {
        let (sender, receiver) = oneshot::channel();
        let kind = V::kind(&self.inner.kinds);
        let schedule = {
            let mut waiting = kind.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.asked.entry(id.clone()).or_default().push(sender);
            !std::mem::replace(&mut waiting.scheduled, true)
        };
        if schedule {
            tokio::spawn(flush::<V>(Arc::clone(&self.inner)));
        }
        receiver
    }
}

async fn answered<V: Described>(answer: oneshot::Receiver<Answer<V>>) -> Answer<V> {
    answer.await.unwrap_or_else(|_| Err(CloudError::lost(V::ACTION, "the describe was given up")))
}

/// Whether it is not long ago.
fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(at_ms)) < LATELY
}

/// One describe for everything that is asked by then.
async fn flush<V: Described>(inner: Arc<Inner>) {
    let kind = V::kind(&inner.kinds);
    let last_ms = kind.waiting.lock().unwrap_or_else(PoisonError::into_inner).last_ms;
    inner.clock.sleep(GATHER).await;
    let next_ms = last_ms.map_or(0, |last_ms| last_ms + EVERY.as_millis() as u64);
    inner.clock.sleep(Duration::from_millis(next_ms.saturating_sub(inner.clock.monotonic_ms()))).await;
    let now_ms = inner.clock.monotonic_ms();
    let asked = {
        let mut waiting = kind.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.scheduled = false;
        waiting.last_ms = Some(now_ms);
        waiting.seen.retain(|_, (at_ms, _)| is_recent(*at_ms, now_ms));
        std::mem::take(&mut waiting.asked)
    };
    let described = V::describe(inner.cloud.as_ref(), asked.keys().cloned().collect()).await;
    match described {
        Ok(views) => {
            if V::IS_OURS && !views.is_empty() {
                inner.seen_ms.store(now_ms, Ordering::Relaxed);
            }
            let mut views: BTreeMap<V::Id, V> = views.into_iter().map(|view| (view.id(), view)).collect();
            for (id, askers) in asked {
                let view = views.remove(&id);
                let mut waiting = kind.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                match &view {
                    Some(view) => waiting.seen.insert(id, (now_ms, view.clone())),
                    None => waiting.seen.remove(&id),
                };
                drop(waiting);
                for asker in askers {
                    let _ = asker.send(Ok(view.clone()));
                }
            }
        }
        Err(error) => {
            for asker in asked.into_values().flatten() {
                let _ = asker.send(Err(error.clone()));
            }
        }
    }
}
