//! The observer: one paged, filtered describe per kind and quarter of a second for all nodes in flight.
//!
//! Every waiting step asks for its object by id, or for what carries its tags, up to four times a second; the
//! observer joins the questions of a quarter of a second into one call and hands each asker its answer. A
//! failed call is handed to all who asked in it, once; who retries is the step, not the observer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_workflows::model::aws::{ImageId, InstanceId, InterfaceId, SnapshotId, VolumeId};
use tokio::sync::oneshot;

use crate::port::error::{Action, CloudError};
use crate::port::{Cloud, ImageView, InstanceView, InterfaceView, Select, SnapshotView, Tags, VolumeView};

/// Between two describes of one kind. EC2 grants twenty a second of each kind; this uses a fifth. The first
/// question of a step waits no longer than this: with a second, half of what a replacement lost to waiting
/// was lost here.
pub const EVERY: Duration = Duration::from_millis(250);

/// Looks by tags come before an act, and one after the other: a call that this many asked for keeps the
/// distance of [`EVERY`], and one that fewer asked for so much less.
const TAGS_AT_ONCE: u32 = 8;

/// How long the first question waits for others: long enough for steps opened by one append to meet.
const GATHER: Duration = Duration::from_millis(20);

/// How long what was seen is remembered. Describes themselves were seen to be seconds late (`ec2-semantics`,
/// eventual consistency).
const LATELY: Duration = Duration::from_secs(5);

type Answer<A> = Result<A, CloudError>;

/// Joins questions of one kind into one call.
struct Line<Q, A> {
    waiting: Mutex<Waiting<Q, A>>,
    /// A call with this many questions keeps the whole distance to the next one.
    at_once: u32,
}

struct Waiting<Q, A> {
    asked: BTreeMap<Q, Vec<oneshot::Sender<Answer<A>>>>,
    scheduled: bool,
    /// When the next call may be made, in monotonic milliseconds.
    next_ms: u64,
}

impl<Q: Ord + Clone + Send + 'static, A: Clone + Send + 'static> Line<Q, A> {
    fn new(at_once: u32) -> Arc<Self> {
        let waiting = Waiting { asked: BTreeMap::new(), scheduled: false, next_ms: 0 };
        Arc::new(Self { waiting: Mutex::new(waiting), at_once })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<Q, A>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks with the next call. `call` answers each of its questions, in their order.
    fn ask<Called>(
        self: &Arc<Self>,
        question: Q,
        clock: &Clock,
        call: impl FnOnce(Vec<Q>) -> Called + Send + 'static,
    ) -> oneshot::Receiver<Answer<A>>
    where
        Called: Future<Output = Answer<Vec<A>>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let schedule = {
            let mut waiting = self.waiting();
            waiting.asked.entry(question).or_default().push(sender);
            !std::mem::replace(&mut waiting.scheduled, true)
        };
        if schedule {
            tokio::spawn(Arc::clone(self).flush(clock.clone(), call));
        }
        receiver
    }

    /// One call for everything that is asked by then.
    async fn flush<Called>(self: Arc<Self>, clock: Clock, call: impl FnOnce(Vec<Q>) -> Called + Send)
    where
        Called: Future<Output = Answer<Vec<A>>> + Send + 'static,
    {
        let next_ms = self.waiting().next_ms;
        clock.sleep(GATHER).await;
        clock.sleep(Duration::from_millis(next_ms.saturating_sub(clock.monotonic_ms()))).await;
        let asked = {
            let mut waiting = self.waiting();
            waiting.scheduled = false;
            let asked = std::mem::take(&mut waiting.asked);
            let share = u32::try_from(asked.len()).unwrap_or(u32::MAX).min(self.at_once);
            let distance = EVERY * share / self.at_once;
            waiting.next_ms = clock.monotonic_ms() + distance.as_millis() as u64;
            asked
        };
        let mut answers = call(asked.keys().cloned().collect()).await.map(Vec::into_iter);
        for askers in asked.into_values() {
            let answer = match &mut answers {
                // An asker that gets none reads it as a call that was given up.
                Ok(answers) => match answers.next() {
                    Some(answer) => Ok(answer),
                    None => return,
                },
                Err(error) => Err(error.clone()),
            };
            for asker in askers {
                let _ = asker.send(answer.clone());
            }
        }
    }
}

/// What is asked of one kind of object.
pub(crate) struct Kind<V: Described> {
    by_id: Arc<Line<V::Id, Option<V>>>,
    by_tags: Arc<Line<Tags, Vec<V>>>,
    /// What was seen of late by id, and when; at most what was asked for within [`LATELY`].
    seen: Mutex<BTreeMap<V::Id, (u64, V)>>,
}

impl<V: Described> Kind<V> {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<V::Id, (u64, V)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Described> Default for Kind<V> {
    fn default() -> Self {
        Self { by_id: Line::new(1), by_tags: Line::new(TAGS_AT_ONCE), seen: Mutex::default() }
    }
}

/// A kind of object that can be described.
#[async_trait]
pub(crate) trait Described: Send + Sync + Clone + Sized + 'static {
    /// What names one.
    type Id: Ord + Clone + Send + Sync + 'static;
    /// The call that shows it.
    const ACTION: Action;
    /// Whether seeing one shows that the endpoint is ours: a public image is seen from every account.
    const IS_OURS: bool;
    /// Where it is asked for.
    fn kind(kinds: &Kinds) -> &Kind<Self>;
    /// Its id.
    fn id(&self) -> Self::Id;
    /// Its tags.
    fn tags(&self) -> &Tags;
    /// Those that a selection means.
    async fn describe(cloud: &dyn Cloud, select: Select<Self::Id>) -> Result<Vec<Self>, CloudError>;
}

macro_rules! described {
    ($($view:ident, $id:ident, $field:ident, $call:ident, $action:ident, $ours:literal;)*) => {$(
        #[async_trait]
        impl Described for $view {
            type Id = $id;
            const ACTION: Action = Action::$action;
            const IS_OURS: bool = $ours;
            fn kind(kinds: &Kinds) -> &Kind<Self> {
                &kinds.$field
            }
            fn id(&self) -> $id {
                self.id.clone()
            }
            fn tags(&self) -> &Tags {
                &self.tags
            }
            async fn describe(cloud: &dyn Cloud, select: Select<$id>) -> Result<Vec<Self>, CloudError> {
                cloud.$call(&select).await
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

/// A kind of question for each kind of object.
#[derive(Default)]
pub(crate) struct Kinds {
    instances: Kind<InstanceView>,
    volumes: Kind<VolumeView>,
    interfaces: Kind<InterfaceView>,
    snapshots: Kind<SnapshotView>,
    images: Kind<ImageView>,
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
        let seen = V::kind(&self.inner.kinds).seen();
        let (at_ms, view) = seen.get(id)?;
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

    /// What carries all these tags, in no order.
    ///
    /// # Errors
    /// Of the describe that carried the question.
    pub(crate) async fn tagged<V: Described>(&self, tags: Tags) -> Result<Vec<V>, CloudError> {
        let inner = Arc::clone(&self.inner);
        let line = &V::kind(&self.inner.kinds).by_tags;
        let answer = line.ask(tags, &self.inner.clock, |asked| inner.tagged(asked));
        answered::<V, _>(answer).await
    }

    async fn many<'i, V: Described>(
        &self,
        ids: impl IntoIterator<Item = &'i V::Id>,
    ) -> Result<Vec<Option<V>>, CloudError>
    where
        V::Id: 'i,
    {
        let asked: Vec<_> = ids.into_iter().map(|id| self.ask::<V>(id)).collect();
        let mut views = Vec::with_capacity(asked.len());
        for answer in asked {
            views.push(answered::<V, _>(answer).await?);
        }
        Ok(views)
    }

    async fn get<V: Described>(&self, id: &V::Id) -> Answer<Option<V>> {
        answered::<V, _>(self.ask::<V>(id)).await
    }

    fn ask<V: Described>(&self, id: &V::Id) -> oneshot::Receiver<Answer<Option<V>>> {
        let inner = Arc::clone(&self.inner);
        let line = &V::kind(&self.inner.kinds).by_id;
        line.ask(id.clone(), &self.inner.clock, |asked| inner.shown(asked))
    }
}

impl Inner {
    /// What is shown of each id.
    async fn shown<V: Described>(self: Arc<Self>, ids: Vec<V::Id>) -> Answer<Vec<Option<V>>> {
        let now_ms = self.clock.monotonic_ms();
        let views = V::describe(self.cloud.as_ref(), Select::Ids(ids.clone())).await?;
        if V::IS_OURS && !views.is_empty() {
            self.seen_ms.store(now_ms, Ordering::Relaxed);
        }
        let mut views: BTreeMap<V::Id, V> = views.into_iter().map(|view| (view.id(), view)).collect();
        let shown: Vec<Option<V>> = ids.iter().map(|id| views.remove(id)).collect();
        let mut seen = V::kind(&self.kinds).seen();
        seen.retain(|_, (at_ms, _)| is_recent(*at_ms, now_ms));
        for (id, view) in ids.into_iter().zip(&shown) {
            match view {
                Some(view) => seen.insert(id, (now_ms, view.clone())),
                None => seen.remove(&id),
            };
        }
        Ok(shown)
    }

    /// What carries each set of tags.
    async fn tagged<V: Described>(self: Arc<Self>, asked: Vec<Tags>) -> Answer<Vec<Vec<V>>> {
        let views = V::describe(self.cloud.as_ref(), Select::Tagged(asked.clone())).await?;
        // Sets of the same keys are told apart by one look at the values.
        let keys: BTreeSet<Vec<&String>> = asked.iter().map(|tags| tags.keys().collect()).collect();
        let mut carrying: BTreeMap<&Tags, Vec<V>> = BTreeMap::new();
        for (view, keys) in views.iter().flat_map(|view| keys.iter().map(move |keys| (view, keys))) {
            let value = |key: &&String| view.tags().get(*key).map(|value| ((*key).clone(), value.clone()));
            let Some(shown) = keys.iter().map(value).collect::<Option<Tags>>() else { continue };
            if let Ok(at) = asked.binary_search(&shown) {
                carrying.entry(&asked[at]).or_default().push(view.clone());
            }
        }
        Ok(asked.iter().map(|tags| carrying.remove(tags).unwrap_or_default()).collect())
    }
}

async fn answered<V: Described, A>(answer: oneshot::Receiver<Answer<A>>) -> Answer<A> {
    answer.await.unwrap_or_else(|_| Err(CloudError::lost(V::ACTION, "the describe was given up")))
}

/// Whether it is not long ago.
fn is_recent(at_ms: u64, now_ms: u64) -> bool {
    Duration::from_millis(now_ms.saturating_sub(at_ms)) < LATELY
}
