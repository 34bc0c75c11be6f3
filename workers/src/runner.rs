//! Carries out the steps: look, act, look.
//!
//! Every pass begins with a look at the authoritative object (the volume for an attachment, the interface for an address);
//! if it shows what is wanted, the step is settled with that as evidence, whoever did it. Otherwise one act, and the next
//! pass looks again. So a first try, a retry and a recovery are the same code, and a call whose answer was lost is repeated
//! with the same token until a look shows what became of it.

mod backups;
mod cloning;
mod finals;
mod hanging;
pub(crate) mod preserve;
mod prune;
mod survey;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::domain::OpenStep;
use perennial_engine::ids::{StreamId, Token};
use perennial_engine::retry::Intervals;
use perennial_engine::workers::{StepResult, StepRunner};
use perennial_workflows::domain::Perennial;
use perennial_workflows::model::aws::{
    AllocationId, GroupId, InstanceId, InstanceState, InterfaceId, SnapshotId, SpotRequestId, VolumeId,
};
use perennial_workflows::model::image::{ImageFacts, Placement};
use perennial_workflows::model::resources::{Made, Thing};
use perennial_workflows::model::volume::Found;
use perennial_workflows::model::volume::{Slot, TagMap};
use perennial_workflows::rules::capacity;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Intent, LaunchInterface};
use tracing::warn;

use crate::catalogue::Catalogue;
use crate::classify::{Class, CloudError, Disposition, Effect};
use crate::cloud::{
    AttachmentState, Cloud, ImageRequest, ImageState, ImageTraits, InstanceView, InterfaceRequest,
    InterfaceView, LaunchNetwork, LaunchRequest, RootOverride, RootTaskState, Select, SnapshotState, Tags,
    Taking, VolumeRequest, VolumeState, VolumeView,
};
use crate::observer::Observer;
use crate::on_demand::OnDemand;
use crate::pools::{PoolKey, Pools};

/// Between two tries to modify a volume that was modified within the last six hours.
const MODIFICATION_PAUSE: Duration = Duration::from_mins(15);

/// Between two looks at something that is on its way, at first. The looks of all steps share one describe of a kind and quarter
/// of a second (the observer), so looking this often costs no calls that another step does not make.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Between two looks of a live handover: the node is away meanwhile. The observer keeps describes a quarter of a second apart whatever a step
/// asks; with this pause the way of the answer falls into that quarter.
const LOOK_CLOSELY: Duration = Duration::from_millis(100);

/// Between two looks that no other step shares: each is a call of its own, and a fleet has many at a time.
const LOOK_ALONE: Duration = Duration::from_secs(1);

/// Later a look follows after this part of the time waited: what is seen late adds at most 2 % to any wait, and a long one
/// costs few calls.
const LOOK_SHARE: u32 = 50;

/// The longest pause for that reason. What takes minutes (snapshots) is told by events as well.
const LOOK_LONGEST: Duration = Duration::from_secs(5);

/// After a call that should show its effect at once.
const LOOK_SOON: Duration = Duration::from_millis(250);

/// Between the two reads before a destructive or fencing decision (DESIGN, decision 6).
const SECOND_READ: Duration = Duration::from_secs(1);

/// An object that every look has missed for this long does not exist. EC2's own advice speaks of "a few minutes";
/// Terraform waits five.
const ABSENCE: Duration = Duration::from_secs(300);

/// A volume that an instance is to have and that no look has shown on it for this long, is not on it. Describes were seen to
/// be seconds late (`ec2-semantics`, eventual consistency).
const ARRIVAL: Duration = Duration::from_secs(5);

/// A step that is not fresh may follow a crash between a create and its answer. A create without client token looks this
/// long before it creates again.
const DOUBT: Duration = Duration::from_secs(15);

/// A step intended less than this long ago, and not tried by this process, has not been tried by anybody.
const FRESH: Duration = Duration::from_secs(2);

/// How often CreateReplaceRootVolumeTask is repeated when no clear answer comes, before another rung carries the root. The
/// doubt left is settled by fencing the instance.
const ADOPT_UNCLEAR_MAX: u32 = 3;

/// How often in a row, a second apart, a device name is found in use before another one is taken: a volume leaves in seconds.
const DEVICE_BUSY_MAX: u32 = 5;

/// After a call that failed in a way that repeating may change.
const TROUBLE: Intervals =
    Intervals { first: Duration::from_millis(500), longest: Duration::from_secs(15), jitter: 0.0 };

type Pass = StepResult<Evidence>;

/// What a step remembers between the passes of one process. Losing it costs looks, never a wrong act.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// The state an instance to be fenced was first found in.
    found: Option<String>,
    /// Whether we asked for its termination.
    terminated: bool,
    /// How many answers were unclear.
    unclear: u32,
    /// The snapshot we made.
    snapshot: Option<SnapshotId>,
    /// Failed calls in a row.
    failures: u32,
    /// When this process first looked, in milliseconds.
    first_look_ms: u64,
    /// A call of this step succeeded or was unclear.
    tried: bool,
    /// When the last unclear answer came, in milliseconds.
    doubt_since_ms: u64,
    /// Since when every look has missed the object, in milliseconds, and how many did.
    missing: Option<(u64, u32)>,
    /// The same for the instance the step works on.
    missing_instance: Option<(u64, u32)>,
    /// The same for another volume that an instance lists.
    missing_other: Option<(u64, u32)>,
    /// The same for an answer about root replacements.
    unanswered: Option<(u64, u32)>,
    /// The same for the UEFI variables of an instance.
    unread: Option<(u64, u32)>,
    /// EC2 refused to let an interface outlive its instance.
    unkept: bool,
    /// When a volume was last detached by force, in milliseconds.
    forced_at_ms: Option<u64>,
}

/// Carries out the steps over a cloud.
pub struct Runner {
    cloud: Arc<dyn Cloud>,
    observer: Observer,
    clock: Clock,
    pools: Arc<Pools>,
    on_demand: OnDemand,
    catalogue: Catalogue,
    memory: Mutex<HashMap<(StreamId, Token), Memory>>,
}

/// One pass's surroundings.
struct Look<'a> {
    runner: &'a Runner,
    step: (&'a StreamId, Token),
    memory: Memory,
    /// When it was intended; of one that waits for its time, that time: nobody has tried it before.
    intended_at_ms: u64,
    tries: u32,
}

impl Runner {
    /// A runner over a cloud, which should be [`Budgeted`](crate::budget::Budgeted).
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, clock: Clock, pools: Arc<Pools>, on_demand: OnDemand) -> Self {
        let observer = Observer::new(Arc::clone(&cloud), clock.clone());
        let catalogue = Catalogue::new(Arc::clone(&cloud), clock.clone());
        Self { cloud, observer, clock, pools, on_demand, catalogue, memory: Mutex::new(HashMap::new()) }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, HashMap<(StreamId, Token), Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StepRunner<Perennial> for Runner {
    async fn run(&self, workflow: &StreamId, step: &OpenStep<Intent>, tries: u32) -> Pass {
        let key = (workflow.clone(), step.token);
        let mut memory = self.memory().get(&key).cloned().unwrap_or_default();
        if memory.first_look_ms == 0 {
            memory.first_look_ms = self.clock.now_ms();
        }
        let intended_at_ms = step.intended_at_ms.max(step.not_before_ms);
        let mut look = Look { runner: self, step: (workflow, step.token), memory, intended_at_ms, tries };
        let pass = match look.pass(&step.intent).await {
            Ok(pass) => {
                look.memory.failures = 0;
                pass
            }
            Err(error) => look.trouble(&error),
        };
        let waited = Duration::from_millis(self.clock.now_ms().saturating_sub(look.memory.first_look_ms));
        let pass = match pass {
            StepResult::NotYet { again_in, because } => StepResult::NotYet {
                again_in: again_in.max((waited / LOOK_SHARE).min(LOOK_LONGEST)),
                because,
            },
            settled @ StepResult::Settled(_) => settled,
        };
        let mut memories = self.memory();
        match &pass {
            StepResult::Settled(_) => {
                memories.remove(&key);
            }
            StepResult::NotYet { .. } => {
                // A step parked or fenced meanwhile leaves its memory here; it is small, and bounded by a sweep now and then.
                if memories.len() > 10_000 {
                    memories.clear();
                }
                memories.insert(key, look.memory);
            }
        }
        pass
    }
}

/// Counts a look that missed; whether enough did for long enough.
fn missed(missing: &mut Option<(u64, u32)>, now_ms: u64, length: Duration) -> bool {
    let (since_ms, looks) = missing.get_or_insert((now_ms, 0));
    *looks += 1;
    *looks > 1 && Duration::from_millis(now_ms.saturating_sub(*since_ms)) >= length
}

fn settled(evidence: Evidence) -> Result<Pass, CloudError> {
    Ok(StepResult::Settled(evidence))
}

fn not_yet(again_in: Duration, because: impl Into<String>) -> Result<Pass, CloudError> {
    Ok(StepResult::NotYet { again_in, because: because.into() })
}

fn refused(code: &str, message: impl Into<String>) -> Result<Pass, CloudError> {
    settled(Evidence::Refused { code: code.to_owned(), message: message.into() })
}

fn lost(what: impl Into<String>) -> Result<Pass, CloudError> {
    settled(Evidence::Lost { what: what.into() })
}

impl Look<'_> {
    /// What an error that the step has no use for leads to.
    fn trouble(&mut self, error: &CloudError) -> Pass {
        self.memory.failures += 1;
        match error.disposition() {
            Disposition::Retry => StepResult::NotYet {
                again_in: TROUBLE.after(self.memory.failures, 0.5),
                because: error.to_string(),
            },
            Disposition::Done => StepResult::NotYet { again_in: LOOK_SOON, because: error.to_string() },
            Disposition::Elsewhere | Disposition::Person => StepResult::Settled(Evidence::Refused {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
        }
    }

    /// Notes that a look missed the object; whether it can be taken as absent: missed for long, and more than once.
    fn is_absent(&mut self) -> bool {
        self.is_missing_for(ABSENCE)
    }

    fn is_missing_for(&mut self, length: Duration) -> bool {
        let now_ms = self.runner.clock.now_ms();
        missed(&mut self.memory.missing, now_ms, length)
    }

    /// Notes that a look found the object.
    fn found<'v, V>(&mut self, view: &'v V) -> &'v V {
        self.memory.missing = None;
        view
    }

    /// Notes that a look found the instance.
    fn seen(&mut self, state: InstanceState) -> InstanceState {
        self.memory.missing_instance = None;
        state
    }

    /// The same for the instance the step works on.
    fn is_instance_absent(&mut self) -> bool {
        let now_ms = self.runner.clock.now_ms();
        missed(&mut self.memory.missing_instance, now_ms, ABSENCE)
    }

    /// Whether a create without client token may have been tried before, and must be looked for a while longer.
    fn in_doubt(&self) -> bool {
        let first_look = Duration::from_millis(self.memory.first_look_ms.saturating_sub(self.intended_at_ms));
        let looked =
            Duration::from_millis(self.runner.clock.now_ms().saturating_sub(self.memory.first_look_ms));
        (first_look > FRESH || self.tries > 0 && self.memory.unclear > 0) && looked < DOUBT
    }

    /// Whether a definite refusal follows a try that may have taken effect without being seen yet: then it says nothing
    /// of that try, and the object is looked for a while longer. Notes unclear answers.
    fn may_have_worked(&mut self, error: &CloudError) -> bool {
        if error.effect == Effect::Unknown {
            self.memory.tried = true;
            self.memory.doubt_since_ms = self.runner.clock.now_ms();
            return false;
        }
        let another_process = self.may_be_anothers();
        let since_ms = self.memory.doubt_since_ms.max(self.memory.first_look_ms);
        let looked = Duration::from_millis(self.runner.clock.now_ms().saturating_sub(since_ms));
        error.disposition() != Disposition::Retry && (self.memory.tried || another_process) && looked < DOUBT
    }

    /// Whether another process may have tried the step before this one.
    fn may_be_anothers(&self) -> bool {
        Duration::from_millis(self.memory.first_look_ms.saturating_sub(self.intended_at_ms)) > FRESH
    }

    /// Why a launch asks nobody: its pool had no capacity a moment ago, or as many nodes are on demand as may be. `None` when
    /// it may ask, or may have asked already: then only EC2 knows what became of it.
    async fn passed_over(&self, intent: &Intent) -> Result<Option<Evidence>, Pass> {
        let Intent::Launch { ask_anyway, on_demand_max, .. } = intent else { return Ok(None) };
        if self.memory.tried || self.may_be_anothers() {
            return Ok(None);
        }
        if !ask_anyway
            && let Some(pool) = PoolKey::of(intent)
            && let Some(message) = self.runner.pools.recall(&pool)
        {
            return Ok(Some(Evidence::NoCapacity { code: capacity::REMEMBERED.to_owned(), message }));
        }
        if let Some(max) = on_demand_max {
            let (workflow, token) = self.step;
            match self.runner.on_demand.refuses(workflow, token, *max).await {
                Ok(None) => {}
                Ok(Some(message)) => {
                    let code = capacity::ON_DEMAND_BUDGET.to_owned();
                    return Ok(Some(Evidence::NoCapacity { code, message }));
                }
                Err(error) => {
                    return Err(StepResult::NotYet { again_in: LOOK_AGAIN, because: error.to_string() });
                }
            }
        }
        Ok(None)
    }

    async fn pass(&mut self, intent: &Intent) -> Result<Pass, CloudError> {
        let cloud = self.runner.cloud.as_ref();
        match intent {
            Intent::Resolve { subnet, image, others } => {
                let asked: Vec<_> = std::iter::once(subnet).chain(others).cloned().collect();
                let mut zones: BTreeMap<_, _> =
                    cloud.subnets(&asked).await?.into_iter().map(|view| (view.id, view.zone)).collect();
                if let Some(missing) = asked.iter().find(|asked| !zones.contains_key(asked)) {
                    return refused("InvalidSubnetID.NotFound", format!("there is no subnet {missing}"));
                }
                let zone = zones.remove(subnet).unwrap_or_default();
                let images = cloud.images(&Select::Ids(vec![image.clone()])).await?;
                let Some(view) = images.first() else {
                    return refused("InvalidAMIID.NotFound", format!("there is no image {image}"));
                };
                settled(Evidence::Resolved(Placement {
                    zone,
                    other_zones: zones,
                    image: ImageFacts { mapped: view.mapped.clone(), ..facts(&view.traits) },
                }))
            }
            Intent::Survey(question) => self.survey(question).await,
            Intent::CreateVolume { .. } => self.create_volume(intent).await,
            Intent::TakeVolume { volume, zone, size_gib, own, .. } => {
                self.take_volume(volume, zone, *size_gib, own).await
            }
            Intent::CreateInterface { client_token, subnet, groups, private_ip, tags } => {
                let mine = cloud.interfaces(&Select::Tagged(step_tags(tags))).await?;
                if let Some(view) = mine.first() {
                    return settled(Evidence::InterfaceCreated {
                        interface: view.id.clone(),
                        private_ip: view.primary_ip,
                    });
                }
                let request = InterfaceRequest {
                    client_token: client_token.clone(),
                    subnet: subnet.clone(),
                    groups: groups.clone(),
                    private_ip: *private_ip,
                    tags: tags.clone(),
                };
                match (cloud.create_interface(&request).await, private_ip) {
                    (Ok(view), _) => not_yet(LOOK_SOON, format!("interface {} is to be seen", view.id)),
                    (Err(error), Some(address)) if error.class == Class::InUse => {
                        match cloud.interface_with(subnet, *address).await? {
                            Some(holder) if !carries(&holder.tags, &own_tags(tags)) => {
                                settled(held_by(*address, &holder))
                            }
                            // Of an earlier instance of the node, and on its way out.
                            _ => Err(error),
                        }
                    }
                    (Err(error), _) => Err(error),
                }
            }
            Intent::Preserve { instance, volumes, interface, keeping, others, uefi } => {
                let asked = if *uefi { preserve::Uefi::Asked } else { preserve::Uefi::NotAsked };
                let interfaces = preserve::Interfaces { own: interface.as_ref(), keeping: keeping.as_ref() };
                preserve::preserve(self, instance, volumes, interfaces, others.as_ref(), asked).await
            }
            Intent::Detach { volume, instance, .. } => self.detach(volume, instance).await,
            Intent::Fence { instance, spot_request } => self.fence(instance, spot_request.as_ref()).await,
            Intent::Release { volume, from, .. } => hanging::release(self, volume, from).await,
            Intent::ReleaseInterface { interface, from } => self.release_interface(interface, from).await,
            Intent::SnapshotRoot { volume, tags } | Intent::SnapshotVolume { volume, tags, .. } => {
                self.snapshot(volume, tags).await
            }
            Intent::CloneRoot { volume, client_token, tags } => {
                cloning::clone_root(self, volume, client_token, tags).await
            }
            Intent::RegisterImage { name, snapshot, facts, uefi_data, tags } => {
                self.register_image(name, snapshot, facts, uefi_data.as_deref(), tags).await
            }
            Intent::Launch { .. } => self.launch(intent).await,
            Intent::Start { instance, devices } => self.start(instance, devices).await,
            Intent::AdoptRoot { instance, volume, client_token, tags, .. } => {
                self.adopt_root(instance, volume, client_token, tags).await
            }
            Intent::Attach { volume, instance, device, .. } => self.attach(volume, instance, device).await,
            Intent::AttachInterface { interface, instance, device_index } => {
                self.attach_interface(interface, instance, *device_index).await
            }
            Intent::DetachInterface { interface, instance } => {
                self.detach_interface(interface, instance).await
            }
            Intent::ReturnAddress { pool, subnet, address, own } => {
                match cloud.interface_with(subnet, *address).await? {
                    None if self.is_missing_for(SECOND_READ) => {
                        settled(Evidence::AddressReturned { pool: pool.clone(), address: *address })
                    }
                    None => not_yet(LOOK_AGAIN, "a second look, before it is taken as free"),
                    Some(view) if carries(&view.tags, own) => {
                        not_yet(LOOK_AGAIN, format!("{address} is still on {}", view.id))
                    }
                    // A stranger's: the node has it no more, and whoever takes it next finds out.
                    Some(_) => settled(Evidence::AddressReturned { pool: pool.clone(), address: *address }),
                }
            }
            Intent::SetGroups { interface, groups } => self.set_groups(interface, groups).await,
            Intent::MoveAddress { instance, interface, address, from, own } => {
                self.move_address(instance, interface, *address, from, own).await
            }
            Intent::Grow { volume, size_gib, .. } => self.grow(volume, *size_gib).await,
            Intent::Associate { allocation, instance, interface, private_ip, from, own } => {
                self.associate(allocation, instance, (interface, *private_ip), from, own).await
            }
            Intent::Verify { instance, volumes, interface, address } => {
                self.verify(instance, volumes, interface.as_ref(), *address).await
            }
            Intent::DeleteVolume { volume, retained: Some(wanted), .. } => {
                prune::delete(self, volume, wanted).await
            }
            Intent::DeleteVolume { volume, role, retained: None } => self.delete_volume(volume, role).await,
            Intent::DeleteInterface { interface } => match self.runner.observer.interface(interface).await? {
                None if self.is_missing_for(SECOND_READ) => settled(Evidence::Deleted),
                None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
                Some(view) if !view.tags.contains_key("perennial:owner") => {
                    refused("NotOurs", format!("{interface} does not carry our tags; delete it by hand"))
                }
                Some(view) if view.attachment.is_some() => {
                    not_yet(LOOK_AGAIN, format!("{interface} is still attached"))
                }
                Some(_) => {
                    cloud.delete_interface(interface).await?;
                    not_yet(LOOK_SOON, format!("{interface} is to be gone"))
                }
            },
            Intent::DeregisterImage { image } => match self.runner.observer.image(image).await? {
                None if self.is_missing_for(SECOND_READ) => settled(Evidence::Deleted),
                None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
                Some(_) => {
                    cloud.deregister_image(image).await?;
                    not_yet(LOOK_SOON, format!("{image} is to be gone"))
                }
            },
            Intent::Find { made, tags } => self.find(*made, tags).await,
            Intent::Backup(intent) => self.backup(intent).await,
            Intent::FinalSnapshot { volume, tags, .. } | Intent::SnapshotAhead { volume, tags, .. } => {
                finals::take(self, volume, tags).await
            }
            Intent::DeleteSnapshot { snapshot } => match self.runner.observer.snapshot(snapshot).await? {
                None if self.is_missing_for(SECOND_READ) => settled(Evidence::Deleted),
                None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
                Some(_) => {
                    cloud.delete_snapshot(snapshot).await?;
                    not_yet(LOOK_SOON, format!("{snapshot} is to be gone"))
                }
            },
        }
    }

    /// The instance, if it may still do what is asked; otherwise what ends the step.
    async fn alive(&mut self, id: &InstanceId) -> Result<Result<InstanceView, Pass>, CloudError> {
        Ok(match self.runner.observer.instance(id).await? {
            None if self.is_instance_absent() => Err(StepResult::Settled(Evidence::InstanceGone {
                instance: id.clone(),
                state: None,
                reason: None,
            })),
            None => Err(StepResult::NotYet { again_in: LOOK_AGAIN, because: format!("{id} is not shown") }),
            Some(view) => match self.seen(view.state) {
                InstanceState::Pending | InstanceState::Running => Ok(view),
                InstanceState::ShuttingDown
                | InstanceState::Terminated
                | InstanceState::Stopping
                | InstanceState::Stopped => Err(StepResult::Settled(Evidence::InstanceGone {
                    instance: id.clone(),
                    state: Some(view.state),
                    reason: view.state_reason,
                })),
            },
        })
    }

    async fn create_volume(&mut self, intent: &Intent) -> Result<Pass, CloudError> {
        let Intent::CreateVolume {
            client_token,
            zone,
            size_gib,
            volume_type,
            iops,
            throughput,
            encrypted,
            kms_key,
            snapshot,
            tags,
            ..
        } = intent
        else {
            unreachable!("BUG: called for another intent");
        };
        let cloud = self.runner.cloud.as_ref();
        let mine = cloud.volumes(&Select::Tagged(step_tags(tags))).await?;
        match mine.first().map(|view| (view.state, view)) {
            None => {
                let request = VolumeRequest {
                    client_token: client_token.clone(),
                    zone: zone.clone(),
                    size_gib: *size_gib,
                    volume_type: volume_type.clone(),
                    iops: *iops,
                    throughput: *throughput,
                    encrypted: *encrypted,
                    kms_key: kms_key.clone(),
                    snapshot: snapshot.clone(),
                    tags: tags.clone(),
                };
                match cloud.create_volume(&request).await {
                    Ok(id) => {
                        self.memory.tried = true;
                        not_yet(LOOK_SOON, format!("{id} is to be available"))
                    }
                    // At a limit even the repeat of a call that succeeded is refused (EBS CSI driver): look first.
                    Err(error) if self.may_have_worked(&error) => {
                        not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
                    }
                    Err(error) if error.class == Class::NoCapacity => {
                        settled(Evidence::NoCapacity { code: error.code, message: error.message })
                    }
                    Err(error) => Err(error),
                }
            }
            Some((VolumeState::Creating, view)) => {
                not_yet(LOOK_AGAIN, format!("{} is being created", view.id))
            }
            Some((VolumeState::Available | VolumeState::InUse, view)) => {
                settled(Evidence::VolumeCreated { volume: view.id.clone() })
            }
            Some((VolumeState::Error | VolumeState::Deleting | VolumeState::Deleted, view)) => refused(
                "VolumeError",
                format!("{} failed after its creation (often: the key cannot be used)", view.id),
            ),
        }
    }

    async fn take_volume(
        &mut self,
        volume: &VolumeId,
        zone: &str,
        size_gib: u32,
        own: &TagMap,
    ) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.volume(volume).await? else {
            return if self.is_missing_for(DOUBT) {
                refused("InvalidVolume.NotFound", format!("there is no volume {volume}"))
            } else {
                not_yet(LOOK_AGAIN, format!("{volume} is not shown"))
            };
        };
        self.memory.missing = None;
        if view.multi_attach {
            let message = format!(
                "{volume} can be attached to several instances at once, so no fence would hold: name a volume of one instance"
            );
            return refused("MultiAttach", message);
        }
        if view.zone != zone {
            let message =
                format!("{volume} is in {}, the node lives in {zone}: name one of that zone", view.zone);
            return refused("ZoneMismatch", message);
        }
        if view.size_gib < size_gib {
            let has = view.size_gib;
            let message = format!("{volume} has {has} GiB, the file says {size_gib}: say at most {has}");
            return refused("TooSmall", message);
        }
        // Free for a moment, because its node is being replaced, is not free.
        if let Some(node) = view.tags.get("perennial:node")
            && !carries(&view.tags, own)
        {
            let owner = view.tags.get("perennial:owner").map_or("", String::as_str);
            return settled(Evidence::HeldByAnother {
                what: volume.to_string(),
                by: format!(
                    "node {node} of the installation {owner}, by its tags (if that node is gone, remove its tag perennial:node)"
                ),
            });
        }
        if let Some(attachment) = view.attachments.first() {
            let by = attachment.instance.to_string();
            return settled(Evidence::HeldByAnother { what: volume.to_string(), by });
        }
        match view.state {
            VolumeState::Creating => not_yet(LOOK_AGAIN, format!("{volume} is being created")),
            VolumeState::Available | VolumeState::InUse if is_free(&view) => {
                match self.free_twice(volume).await? {
                    StepResult::Settled(_) => settled(Evidence::VolumeTaken {
                        size_gib: view.size_gib,
                        traits: Some(Found { named: true, ..preserve::traits(&view) }),
                    }),
                    pass @ StepResult::NotYet { .. } => Ok(pass),
                }
            }
            VolumeState::Available | VolumeState::InUse => {
                not_yet(LOOK_AGAIN, format!("{volume} is not free"))
            }
            VolumeState::Deleting | VolumeState::Deleted | VolumeState::Error => {
                refused("VolumeError", format!("{volume} is {:?}", view.state))
            }
        }
    }

    async fn detach(&mut self, volume: &VolumeId, instance: &InstanceId) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.volume(volume).await? else {
            return not_yet(LOOK_AGAIN, format!("{volume} is not shown"));
        };
        if is_free(&view) {
            // Seen attached before it was asked to leave, and free after: that it is gone needs no second witness.
            return if self.memory.tried {
                settled(Evidence::Released)
            } else {
                self.free_twice(volume).await
            };
        }
        match view.attachments.iter().find(|attachment| attachment.instance == *instance) {
            None => refused("HeldByAnother", format!("{volume} is not on {instance}")),
            Some(attachment) => match attachment.state {
                AttachmentState::Attached => {
                    self.runner.cloud.detach_volume(volume, instance).await?;
                    self.memory.tried = true;
                    not_yet(LOOK_SOON, format!("{volume} is to leave {instance}"))
                }
                AttachmentState::Attaching => not_yet(LOOK_AGAIN, format!("{volume} is attaching")),
                AttachmentState::Detaching => not_yet(LOOK_CLOSELY, format!("{volume} is detaching")),
                AttachmentState::Busy => {
                    not_yet(LOOK_AGAIN, format!("{volume} is busy: the operating system still uses it"))
                }
            },
        }
    }

    /// The second of two reads, at least a second after the first.
    async fn free_twice(&self, volume: &VolumeId) -> Result<Pass, CloudError> {
        self.runner.clock.sleep(SECOND_READ).await;
        match self.runner.observer.volume(volume).await? {
            Some(view) if is_free(&view) => settled(Evidence::Released),
            _ => not_yet(LOOK_AGAIN, format!("two reads of {volume} did not agree")),
        }
    }

    async fn fence(
        &mut self,
        instance: &InstanceId,
        spot: Option<&SpotRequestId>,
    ) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.instance(instance).await? else {
            if !self.is_instance_absent() {
                return not_yet(LOOK_AGAIN, format!("{instance} is not shown, which proves nothing yet"));
            }
            self.runner.clock.sleep(SECOND_READ).await;
            return match self.runner.observer.instance(instance).await? {
                None => settled(Evidence::Fenced {
                    found: self.memory.found.clone().unwrap_or_else(|| "not known any more".to_owned()),
                    terminated_by_us: self.memory.terminated,
                    reason: None,
                }),
                Some(_) => not_yet(LOOK_AGAIN, format!("two reads of {instance} did not agree")),
            };
        };
        self.seen(view.state);
        let found = self.memory.found.get_or_insert_with(|| view.state.to_string()).clone();
        match view.state {
            InstanceState::Terminated => {
                self.runner.clock.sleep(SECOND_READ).await;
                match self.runner.observer.instance(instance).await? {
                    Some(again) if again.state == InstanceState::Terminated => {
                        let terminated_by_us = self.memory.terminated;
                        let reason = again.state_reason.filter(|_| !terminated_by_us);
                        settled(Evidence::Fenced { found, terminated_by_us, reason })
                    }
                    _ => not_yet(LOOK_AGAIN, format!("two reads of {instance} did not agree")),
                }
            }
            InstanceState::ShuttingDown => not_yet(LOOK_AGAIN, format!("{instance} is shutting down")),
            InstanceState::Pending
            | InstanceState::Running
            | InstanceState::Stopping
            | InstanceState::Stopped => {
                // A persistent request would launch another instance for the one we take away.
                if let Some(request) = view.spot_request.as_ref().or(spot)
                    && !self.memory.terminated
                {
                    let requests =
                        self.runner.cloud.spot_requests(&Select::Ids(vec![request.clone()])).await?;
                    if requests.iter().any(|found| found.id == *request && found.persistent) {
                        self.runner.cloud.cancel_spot_request(request).await?;
                    }
                }
                self.memory.terminated = true;
                self.runner.cloud.terminate_instance(instance).await?;
                not_yet(LOOK_AGAIN, format!("{instance} is to terminate"))
            }
        }
    }

    async fn release_interface(&mut self, id: &InterfaceId, from: &InstanceId) -> Result<Pass, CloudError> {
        match self.runner.observer.interface(id).await? {
            None if self.is_absent() => lost(format!("interface {id} does not exist any more")),
            None => not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet")),
            // As for a volume: its holder was seen terminated, twice, and EC2 refuses to attach one that is not free.
            Some(view) if is_plugless(self.found(&view)) => settled(Evidence::Released),
            Some(_) => not_yet(LOOK_AGAIN, format!("{id} is still on {from}")),
        }
    }

    /// The second of two reads, at least a second after the first.
    async fn plugless_twice(&self, id: &InterfaceId) -> Result<Pass, CloudError> {
        self.runner.clock.sleep(SECOND_READ).await;
        match self.runner.observer.interface(id).await? {
            Some(again) if is_plugless(&again) => settled(Evidence::Released),
            _ => not_yet(LOOK_AGAIN, format!("two reads of {id} did not agree")),
        }
    }

    async fn attach_interface(
        &mut self,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        let (machine, view) = tokio::join!(self.alive(instance), runner.observer.interface(id));
        let (machine, view) = (machine?, view?);
        if let Err(pass @ StepResult::Settled(_)) = machine {
            return Ok(pass);
        }
        let Some(view) = view else {
            return if self.is_absent() {
                lost(format!("interface {id} does not exist any more"))
            } else {
                not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet"))
            };
        };
        self.memory.missing = None;
        match view.attachment.as_ref().map(|attachment| attachment.instance.as_ref()) {
            Some(Some(on)) if on == instance => settled(Evidence::Attached),
            Some(Some(on)) => not_yet(LOOK_AGAIN, format!("{id} is on {on}: detach it")),
            Some(None) => not_yet(LOOK_AGAIN, format!("{id} is attached to something else: detach it")),
            None if !view.available => not_yet(LOOK_AGAIN, format!("{id} is not free")),
            None => match runner.cloud.attach_interface(id, instance, device_index).await {
                Ok(()) => not_yet(LOOK_SOON, format!("{id} is to be attached")),
                Err(error) if error.class == Class::NoCapacity => {
                    settled(Evidence::NoCapacity { code: error.code, message: error.message })
                }
                Err(error) => Err(error),
            },
        }
    }

    async fn set_groups(&mut self, id: &InterfaceId, groups: &[GroupId]) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.interface(id).await? else {
            return if self.is_absent() {
                lost(format!("interface {id} does not exist any more"))
            } else {
                not_yet(LOOK_AGAIN, format!("{id} is not shown, which proves nothing yet"))
            };
        };
        self.memory.missing = None;
        let sorted = |groups: &[GroupId]| groups.iter().cloned().collect::<BTreeSet<_>>();
        if sorted(&view.groups) == sorted(groups) {
            return settled(Evidence::GroupsSet);
        }
        self.runner.cloud.set_interface_groups(id, groups).await?;
        not_yet(LOOK_SOON, format!("{id} is to have its groups"))
    }

    async fn detach_interface(
        &mut self,
        id: &InterfaceId,
        instance: &InstanceId,
    ) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.interface(id).await? else {
            return not_yet(LOOK_AGAIN, format!("{id} is not shown"));
        };
        match &view.attachment {
            // As of a volume: seen attached before it was asked to leave, and free after.
            None if view.available && self.memory.tried => settled(Evidence::Released),
            None if view.available => self.plugless_twice(id).await,
            Some(attachment) if attachment.instance.as_ref() == Some(instance) => {
                self.runner.cloud.detach_interface(&attachment.id).await?;
                self.memory.tried = true;
                not_yet(LOOK_SOON, format!("{id} is to leave {instance}"))
            }
            Some(_) => refused("HeldByAnother", format!("{id} is not on {instance}")),
            None => not_yet(LOOK_AGAIN, format!("{id} is leaving {instance}")),
        }
    }

    /// What a step has made, by its tags. Nothing is believed only after every look has missed it for long.
    async fn find(&mut self, made: Made, tags: &TagMap) -> Result<Pass, CloudError> {
        let cloud = self.runner.cloud.as_ref();
        let tags = step_tags(tags);
        let things: Vec<Thing> = match made {
            Made::Instance => {
                let found = cloud.instances(&Select::Tagged(tags)).await?;
                if !found.is_empty() && found.iter().all(|view| view.state.is_over()) {
                    return settled(Evidence::Found { things: Vec::new() });
                }
                let live = found.into_iter().filter(|view| !view.state.is_over());
                live.map(|view| Thing::Instance { instance: view.id, spot_request: view.spot_request })
                    .collect()
            }
            Made::Volume => {
                let found = cloud.volumes(&Select::Tagged(tags)).await?;
                found.into_iter().map(|view| Thing::Volume { volume: view.id }).collect()
            }
            Made::Interface => {
                let found = cloud.interfaces(&Select::Tagged(tags)).await?;
                found.into_iter().map(|view| Thing::Interface { interface: view.id }).collect()
            }
            Made::Snapshot => {
                let found = cloud.snapshots(&Select::Tagged(tags)).await?;
                found.into_iter().map(|view| Thing::Snapshot { snapshot: view.id }).collect()
            }
            Made::Image => {
                let found = cloud.images(&Select::Tagged(tags)).await?;
                found.into_iter().map(|view| Thing::Image { image: view.id }).collect()
            }
        };
        if things.is_empty() && !self.is_absent() {
            return not_yet(LOOK_AGAIN, "nothing of that step is shown, which proves nothing yet");
        }
        settled(Evidence::Found { things })
    }

    async fn snapshot(&mut self, volume: &VolumeId, tags: &TagMap) -> Result<Pass, CloudError> {
        let cloud = self.runner.cloud.as_ref();
        let mut mine = cloud.snapshots(&Select::Tagged(step_tags(tags))).await?;
        mine.sort_by(|a, b| (a.started_at_ms, &a.id).cmp(&(b.started_at_ms, &b.id)));
        // A crash between the call and its answer can leave two of the same moment; the first one stays.
        for twin in mine.iter().skip(1) {
            cloud.delete_snapshot(&twin.id).await?;
        }
        match mine.first() {
            Some(view) => match view.state {
                SnapshotState::Completed => {
                    // What the volume costs when it is retained; it is not needed for anything else.
                    let of = self.runner.observer.volume(volume).await.ok().flatten();
                    settled(Evidence::SnapshotCompleted {
                        snapshot: view.id.clone(),
                        size_gib: of.map(|of| of.size_gib),
                    })
                }
                SnapshotState::Pending => {
                    not_yet(LOOK_ALONE, format!("{} is at {} %", view.id, view.progress))
                }
                SnapshotState::Error => refused("SnapshotError", format!("{} failed", view.id)),
            },
            None if self.memory.snapshot.is_some() => not_yet(LOOK_ALONE, "the snapshot is to be seen"),
            None if self.in_doubt() => not_yet(LOOK_AGAIN, "a snapshot of an earlier try may still appear"),
            None => {
                let description =
                    format!("perennial {}", tags.get("perennial:step").map_or("", String::as_str));
                match cloud.create_snapshot(volume, &description, tags).await {
                    Ok(id) => {
                        self.memory.snapshot = Some(id.clone());
                        not_yet(LOOK_SOON, format!("{id} is to be complete"))
                    }
                    Err(error) if error.class == Class::NotFound => {
                        if self.runner.observer.volume(volume).await?.is_none() && self.is_absent() {
                            lost(format!("volume {volume} does not exist any more"))
                        } else {
                            not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
                        }
                    }
                    Err(error) => {
                        if error.effect == Effect::Unknown {
                            self.memory.unclear += 1;
                            self.memory.first_look_ms = self.runner.clock.now_ms();
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    async fn register_image(
        &mut self,
        name: &str,
        snapshot: &SnapshotId,
        facts: &ImageFacts,
        uefi_data: Option<&str>,
        tags: &TagMap,
    ) -> Result<Pass, CloudError> {
        let cloud = self.runner.cloud.as_ref();
        match cloud.image_named(name).await? {
            Some(view) if view.root_snapshot.as_ref().is_some_and(|root| root != snapshot) => refused(
                "InvalidAMIName.Duplicate",
                format!(
                    "the image named {name} ({}) is of another snapshot than {snapshot}; deregister it",
                    view.id
                ),
            ),
            Some(view) => match view.state {
                ImageState::Available => settled(Evidence::ImageAvailable {
                    differs: facts.differences(&self::facts(&view.traits)),
                    image: view.id,
                }),
                ImageState::Pending => not_yet(LOOK_ALONE, format!("{} is pending", view.id)),
                ImageState::Failed => refused("ImageFailed", format!("{} failed", view.id)),
            },
            None => {
                let mut request = ImageRequest {
                    name: name.to_owned(),
                    root_snapshot: snapshot.clone(),
                    traits: traits(facts),
                    uefi_data: uefi_data.map(str::to_owned),
                    tags: tags.clone(),
                };
                let id = match cloud.register_image(&request).await {
                    // The root is worth more than they are: whether EC2 takes them was not seen on a live account.
                    Err(error) if uefi_data.is_some() && error.disposition() == Disposition::Person => {
                        warn!(%error, "an image is registered without the UEFI variables of its instance");
                        request.uefi_data = None;
                        cloud.register_image(&request).await?
                    }
                    answer => answer?,
                };
                not_yet(LOOK_SOON, format!("{id} is to be available"))
            }
        }
    }

    async fn launch(&mut self, intent: &Intent) -> Result<Pass, CloudError> {
        let cloud = self.runner.cloud.as_ref();
        let Intent::Launch { tags, .. } = intent else { unreachable!("BUG: called for another intent") };
        let mine = cloud.instances(&Select::Tagged(step_tags(tags))).await?;
        if let Some(view) = mine.iter().find(|view| !view.state.is_over()).or_else(|| mine.first()) {
            return settled(if view.state.is_over() {
                Evidence::InstanceGone {
                    instance: view.id.clone(),
                    state: Some(view.state),
                    reason: view.state_reason.clone(),
                }
            } else {
                Evidence::Launched { instance: view.id.clone(), spot_request: view.spot_request.clone() }
            });
        }
        match self.passed_over(intent).await {
            Ok(None) => {}
            Ok(Some(evidence)) => return settled(evidence),
            Err(pass) => return Ok(pass),
        }
        let Some(request) = launch_request(intent) else { unreachable!("BUG: called for another intent") };
        let launched = cloud.run_instance(&request).await;
        match (&launched, PoolKey::of(intent)) {
            (Ok(_), Some(pool)) => self.runner.pools.served(&pool),
            (Err(error), Some(pool)) if error.is_of_the_pool() => {
                self.runner.pools.refused(pool, &error.code, self.runner.clock.now_ms());
            }
            _ => {}
        }
        match launched {
            Ok(view) => settled(Evidence::Launched { instance: view.id, spot_request: view.spot_request }),
            Err(error) if self.may_have_worked(&error) => {
                not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
            }
            Err(error) if error.class == Class::NotFound && request.kept_interface().is_some() => {
                match request.kept_interface() {
                    Some(kept)
                        if self.runner.observer.interface(kept).await?.is_none() && self.is_absent() =>
                    {
                        lost(format!("interface {kept} does not exist any more"))
                    }
                    _ => Err(error),
                }
            }
            Err(error) => match error.class {
                Class::NoCapacity | Class::Quota | Class::TokenSpent => {
                    settled(Evidence::NoCapacity { code: error.code, message: error.message })
                }
                _ => Err(error),
            },
        }
    }

    async fn start(&mut self, instance: &InstanceId, devices: &[String]) -> Result<Pass, CloudError> {
        let view = match self.alive(instance).await? {
            Ok(view) => view,
            Err(pass) => return Ok(pass),
        };
        if view.state != InstanceState::Running {
            return not_yet(LOOK_AGAIN, format!("{instance} is {}", view.state));
        }
        let primary = view.interfaces.iter().find(|interface| interface.device_index == 0);
        let (Some(primary), Some(private_ip)) = (primary, view.private_ip) else {
            return not_yet(LOOK_AGAIN, format!("{instance} runs, but does not show its interface yet"));
        };
        let (launched_with, others): (Vec<_>, Vec<_>) =
            view.block_devices.iter().cloned().partition(|device| devices.contains(&device.device));
        if launched_with.len() < devices.len() {
            return not_yet(LOOK_AGAIN, format!("{instance} runs, but does not show all its volumes yet"));
        }
        // Nothing else of ours is attached before this step: a single volume is the root, whatever an endpoint calls its device.
        let named = others.iter().find(|device| view.root_device.as_ref() == Some(&device.device));
        let root = match (named, others.as_slice()) {
            (Some(root), _) | (None, [root]) => Some(root.clone()),
            _ => None,
        };
        // The mapping can lag behind the state. Every EBS-backed instance has a root volume, and one we do not know is one we
        // cannot keep: without it the instance is not taken.
        let Some(root) = root else {
            return not_yet(LOOK_AGAIN, format!("{instance} runs, but does not show its root volume yet"));
        };
        settled(Evidence::Started {
            interface: primary.id.clone(),
            private_ip,
            root_device: root.device,
            root_volume: Some(root.volume),
            volumes: launched_with.into_iter().map(|device| (device.device, device.volume)).collect(),
        })
    }

    async fn adopt_root(
        &mut self,
        instance: &InstanceId,
        volume: &VolumeId,
        client_token: &str,
        tags: &TagMap,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        let (machine, view) = tokio::join!(self.alive(instance), runner.observer.volume(volume));
        let machine = match machine? {
            Ok(view) => view,
            Err(pass) => return Ok(pass),
        };
        let Some(view) = view? else {
            return not_yet(LOOK_AGAIN, format!("{volume} is not shown"));
        };
        let is_root = view.attachments.iter().any(|attachment| {
            attachment.instance == *instance
                && attachment.state == AttachmentState::Attached
                && machine.root_device.as_deref().is_none_or(|root| root == attachment.device)
        });
        let tasks = match self.runner.cloud.root_tasks(instance).await {
            Ok(tasks) => tasks,
            Err(error) if error.disposition() == Disposition::Retry && error.class != Class::Transient => {
                return Err(error);
            }
            // An endpoint that cannot list tasks may know none; the tokenised call below repeats itself safely.
            Err(_) => Vec::new(),
        };
        if let Some(running) = tasks.iter().find(|task| task.state == RootTaskState::InProgress) {
            return not_yet(LOOK_ALONE, format!("{} is in progress", running.id));
        }
        if is_root {
            return settled(Evidence::Adopted { task: tasks.last().map(|task| task.id.clone()) });
        }
        match tasks.last() {
            Some(task) if task.state == RootTaskState::Succeeded => {
                not_yet(LOOK_AGAIN, format!("{} succeeded; the volume is to show it", task.id))
            }
            Some(task) => settled(Evidence::AdoptRefused {
                code: if task.state == RootTaskState::FailedDetached { "failed-detached" } else { "failed" }
                    .to_owned(),
                message: format!("{} ended so", task.id),
            }),
            None if !is_free(&view) => not_yet(LOOK_AGAIN, format!("{volume} is not free")),
            None => match self.runner.cloud.replace_root(instance, volume, client_token, tags).await {
                Ok(task) => {
                    self.memory.unclear = 0;
                    not_yet(LOOK_ALONE, format!("{task} is in progress"))
                }
                Err(error) => match error.class {
                    Class::Transient => self.adoption_unclear(&error),
                    Class::Unsupported | Class::Person | Class::NoCapacity | Class::Quota => {
                        settled(Evidence::AdoptRefused { code: error.code, message: error.message })
                    }
                    _ => Err(error),
                },
            },
        }
    }

    /// An answer that says neither yes nor no. After a few of them another rung carries the root, and fencing the instance
    /// settles the doubt.
    fn adoption_unclear(&mut self, error: &CloudError) -> Result<Pass, CloudError> {
        self.memory.unclear += 1;
        if error.class == Class::Transient && self.memory.unclear < ADOPT_UNCLEAR_MAX {
            return not_yet(LOOK_AGAIN, error.to_string());
        }
        let code = if error.code.is_empty() { "no clear answer".to_owned() } else { error.code.clone() };
        settled(Evidence::AdoptRefused { code, message: error.message.clone() })
    }

    async fn attach(
        &mut self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        if self.tries == 0 && self.was_free_lately(volume, instance) {
            return self.call_attach(volume, instance, device).await;
        }
        let (machine, view) = tokio::join!(self.alive(instance), runner.observer.volume(volume));
        let (machine, view) = (machine?, view?);
        if let Err(pass @ StepResult::Settled(_)) = machine {
            return Ok(pass);
        }
        let Some(view) = view else {
            return if self.is_absent() {
                lost(format!("volume {volume} does not exist any more"))
            } else {
                not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
            };
        };
        self.memory.missing = None;
        if view.multi_attach {
            return refused("MultiAttach", format!("{volume} can be attached to several instances at once"));
        }
        match view.attachments.iter().find(|attachment| attachment.instance == *instance) {
            Some(attachment) if attachment.state == AttachmentState::Attached => settled(Evidence::Attached),
            Some(attachment) => match attachment.state {
                AttachmentState::Detaching | AttachmentState::Busy => not_yet(
                    LOOK_AGAIN,
                    format!(
                        "{volume} is to leave {instance} as it was asked to, before it can be attached again: \
                         unmount it there if it is in use"
                    ),
                ),
                AttachmentState::Attaching | AttachmentState::Attached => {
                    not_yet(LOOK_CLOSELY, format!("{volume} is attaching"))
                }
            },
            None if !is_free(&view) => not_yet(LOOK_AGAIN, format!("{volume} is not free")),
            None => self.call_attach(volume, instance, device).await,
        }
    }

    /// Whether the look that let the volume go, or one as young, may serve as the one before the act: EC2 itself refuses to attach what is
    /// not free, and to an instance that does not run. So one that is out of date costs a refused call.
    fn was_free_lately(&self, volume: &VolumeId, instance: &InstanceId) -> bool {
        let observer = &self.runner.observer;
        let runs = |machine: InstanceView| machine.state == InstanceState::Running;
        let is_ready = |view: VolumeView| is_free(&view) && !view.multi_attach;
        observer.volume_lately(volume).is_some_and(is_ready)
            && observer.instance_lately(instance).is_some_and(runs)
    }

    async fn call_attach(
        &mut self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<Pass, CloudError> {
        match self.runner.cloud.attach_volume(volume, instance, device).await {
            Ok(()) => not_yet(LOOK_SOON, format!("{volume} is to be attached")),
            // Another volume may be leaving it; one that stays is somebody's.
            Err(error) if names_device_in_use(&error) => {
                self.memory.unclear += 1;
                if self.memory.unclear < DEVICE_BUSY_MAX {
                    not_yet(SECOND_READ, error.to_string())
                } else {
                    settled(Evidence::DeviceInUse)
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn move_address(
        &mut self,
        instance: &InstanceId,
        interface: &InterfaceId,
        address: Option<Ipv4Addr>,
        from: &[InstanceId],
        own: &TagMap,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        let (machine, view) = tokio::join!(self.alive(instance), runner.observer.interface(interface));
        let (machine, view) = (machine?, view?);
        if let Err(pass @ StepResult::Settled(_)) = machine {
            return Ok(pass);
        }
        let Some(view) = view else {
            return not_yet(LOOK_AGAIN, format!("{interface} is not shown"));
        };
        let held = match address {
            None => view.secondary_ips.first().copied(),
            Some(address) => {
                (view.primary_ip == address || view.secondary_ips.contains(&address)).then_some(address)
            }
        };
        match held {
            Some(address) => settled(Evidence::Moved { address }),
            None => {
                let mut taking = Taking::Unheld;
                let mut is_going = false;
                if let Some(address) = address
                    && let Some(holder) = runner.cloud.interface_with(&view.subnet, address).await?
                    && holder.id != *interface
                {
                    let on = holder.attachment.as_ref().and_then(|attachment| attachment.instance.as_ref());
                    let is_own = on.is_some_and(|on| from.contains(on)) || carries(&holder.tags, own);
                    if !is_own {
                        return settled(held_by(address, &holder));
                    }
                    taking = Taking::FromOwn;
                    is_going = holder.attachment.is_some();
                }
                match runner.cloud.assign_private_ip(interface, address, taking).await {
                    Ok(()) => not_yet(LOOK_SOON, format!("the address is to be seen on {interface}")),
                    // Nobody was seen to have it, but somebody has: who, is seen a moment later.
                    Err(error)
                        if taking == Taking::Unheld && address.is_some() && !self.is_missing_for(DOUBT) =>
                    {
                        not_yet(LOOK_AGAIN, error.to_string())
                    }
                    // Not while it is on an instance that terminates, perhaps: then when it is free.
                    Err(error)
                        if is_going
                            && (error.class == Class::InUse || error.code == "InvalidParameterValue") =>
                    {
                        not_yet(LOOK_AGAIN, error.to_string())
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn grow(&mut self, volume: &VolumeId, size_gib: u32) -> Result<Pass, CloudError> {
        let Some(view) = self.runner.observer.volume(volume).await? else {
            return if self.is_absent() {
                lost(format!("volume {volume} does not exist any more"))
            } else {
                not_yet(LOOK_AGAIN, format!("{volume} is not shown, which proves nothing yet"))
            };
        };
        self.memory.missing = None;
        if view.size_gib >= size_gib {
            return settled(Evidence::Grown { size_gib: view.size_gib });
        }
        // The new size is shown once the modification has passed its first state; until then the call says that one goes on.
        if !self.memory.tried {
            match self.runner.cloud.grow_volume(volume, size_gib).await {
                Ok(()) => self.memory.tried = true,
                // One modification in six hours, and one at a time: the next is asked for when its time has come.
                Err(error) if is_modified_too_often(&error.code) => {
                    return not_yet(MODIFICATION_PAUSE, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        not_yet(LOOK_AGAIN, format!("{volume} has {} GiB and is to have {size_gib}", view.size_gib))
    }

    async fn associate(
        &mut self,
        allocation: &AllocationId,
        instance: &InstanceId,
        (interface, private_ip): (&InterfaceId, Option<Ipv4Addr>),
        from: &[InstanceId],
        own: &TagMap,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        let (machine, view) = tokio::join!(self.alive(instance), runner.cloud.elastic_address(allocation));
        let (machine, view) = (machine?, view?);
        if let Err(pass @ StepResult::Settled(_)) = machine {
            return Ok(pass);
        }
        let Some(view) = view else {
            return if self.is_missing_for(DOUBT) {
                refused("InvalidAllocationID.NotFound", format!("there is no {allocation} in this region"))
            } else {
                not_yet(LOOK_AGAIN, format!("{allocation} is not shown"))
            };
        };
        self.memory.missing = None;
        let mut taking = Taking::Unheld;
        if let Some((on, at)) = &view.leads_to {
            // Without a private address it is the primary one, which need not be named.
            if on == interface && (private_ip.is_none() || private_ip == *at) {
                return settled(Evidence::Associated { public_ip: view.public_ip });
            }
            let is_own = on == interface
                || view.instance.as_ref().is_some_and(|instance| from.contains(instance))
                || runner.observer.interface(on).await?.is_some_and(|seen| carries(&seen.tags, own));
            if !is_own {
                let of = view.instance.as_ref().map_or_else(String::new, |of| format!(" of {of}"));
                return settled(Evidence::HeldByAnother {
                    what: format!("{} ({allocation})", view.public_ip),
                    by: format!("{on}{of}"),
                });
            }
            taking = Taking::FromOwn;
        }
        match runner.cloud.associate_address(allocation, interface, private_ip, taking).await {
            Ok(()) => not_yet(LOOK_SOON, format!("{} is to lead to {interface}", view.public_ip)),
            // The private address has just come: the interface shows it before everybody knows it.
            Err(error) if error.class == Class::Person && !self.is_missing_for(DOUBT) => {
                not_yet(LOOK_AGAIN, error.to_string())
            }
            Err(error) => Err(error),
        }
    }

    async fn verify(
        &mut self,
        instance: &InstanceId,
        volumes: &BTreeMap<Slot, VolumeId>,
        interface: Option<&InterfaceId>,
        address: Option<Ipv4Addr>,
    ) -> Result<Pass, CloudError> {
        let runner = self.runner;
        let look_at_interface = async {
            match interface {
                Some(interface) => runner.observer.interface(interface).await,
                None => Ok(None),
            }
        };
        let (machine, views, on_interface) =
            tokio::join!(self.alive(instance), runner.observer.volumes(volumes.values()), look_at_interface);
        let machine = match machine? {
            Ok(view) => view,
            Err(pass) => return Ok(pass),
        };
        if machine.state != InstanceState::Running {
            return not_yet(LOOK_AGAIN, format!("{instance} is {}", machine.state));
        }
        for ((slot, volume), view) in volumes.iter().zip(views?) {
            let Some(view) = view else {
                return not_yet(LOOK_AGAIN, format!("{volume} ({slot}) is not shown"));
            };
            let here = view.attachments.iter().any(|attachment| {
                attachment.instance == *instance && attachment.state == AttachmentState::Attached
            });
            if !here || view.attachments.len() != 1 {
                return not_yet(
                    LOOK_AGAIN,
                    format!("{volume} ({slot}) is not where it was left: on {instance}"),
                );
            }
        }
        if let (Some(interface), Some(address)) = (interface, address) {
            let listed = machine.interfaces.iter().any(|own| own.id == *interface);
            let held = on_interface?.is_some_and(|view| {
                let on = view.attachment.and_then(|attachment| attachment.instance);
                on.map_or(listed, |on| on == *instance)
                    && (view.primary_ip == address || view.secondary_ips.contains(&address))
            });
            if !held {
                return not_yet(LOOK_AGAIN, format!("{address} is not on {interface} of {instance}"));
            }
        }
        settled(Evidence::Verified)
    }

    async fn delete_volume(&mut self, volume: &VolumeId, role: &str) -> Result<Pass, CloudError> {
        match self.runner.observer.volume(volume).await? {
            None if self.is_missing_for(SECOND_READ) => settled(Evidence::Deleted),
            None => not_yet(LOOK_AGAIN, "a second look, before it is taken as gone"),
            Some(view) => match view.state {
                VolumeState::Deleted | VolumeState::Deleting => settled(Evidence::Deleted),
                _ if !view.tags.contains_key("perennial:owner") => refused(
                    "NotOurs",
                    format!("{volume} ({role}) does not carry our tags; delete it by hand"),
                ),
                _ if !view.attachments.is_empty() => {
                    not_yet(LOOK_AGAIN, format!("{volume} is still attached"))
                }
                _ => {
                    self.runner.cloud.delete_volume(volume).await?;
                    not_yet(LOOK_SOON, format!("{volume} is to be gone"))
                }
            },
        }
    }
}

/// Whether EC2 will modify the volume later (API reference, ModifyVolume).
fn is_modified_too_often(code: &str) -> bool {
    matches!(code, "VolumeModificationRateExceeded" | "IncorrectModificationState")
}

/// Whether AttachVolume was refused for the device's name. The volume's own attachment has other codes.
fn names_device_in_use(error: &CloudError) -> bool {
    error.code == "InvalidDevice.InUse"
        || (error.code == "InvalidParameterValue" && error.message.contains("already in use"))
}

/// Free for another instance: `available` and nothing attached.
fn is_free(view: &VolumeView) -> bool {
    view.state == VolumeState::Available && view.attachments.is_empty()
}

/// The same of an interface.
const fn is_plugless(view: &InterfaceView) -> bool {
    view.available && view.attachment.is_none()
}

fn carries(has: &Tags, wanted: &TagMap) -> bool {
    !wanted.is_empty() && wanted.iter().all(|(key, value)| has.get(key) == Some(value))
}

/// The tags that say whose a thing is, of those it is made with.
fn own_tags(tags: &TagMap) -> TagMap {
    tags.iter()
        .filter(|(key, _)| matches!(key.as_str(), "perennial:owner" | "perennial:node"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Who has an address, in words.
fn held_by(address: Ipv4Addr, holder: &InterfaceView) -> Evidence {
    let on = holder.attachment.as_ref().and_then(|attachment| attachment.instance.as_ref());
    let on = on.map_or_else(|| ", which is attached to nothing".to_owned(), |on| format!(" of {on}"));
    let whose = match (holder.tags.get("perennial:node"), holder.tags.get("perennial:owner")) {
        (Some(node), Some(owner)) => format!(" (node {node} of the installation {owner})"),
        _ => String::new(),
    };
    Evidence::HeldByAnother { what: address.to_string(), by: format!("{}{on}{whose}", holder.id) }
}

/// The tags that find what one attempt at one step has made.
fn step_tags(tags: &TagMap) -> Tags {
    tags.iter()
        .filter(|(key, _)| matches!(key.as_str(), "perennial:owner" | "perennial:step"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn facts(traits: &ImageTraits) -> ImageFacts {
    ImageFacts {
        architecture: traits.architecture.clone(),
        root_device: traits.root_device.clone(),
        boot_mode: traits.boot_mode.clone(),
        ena_support: traits.ena_support,
        tpm_support: traits.tpm_support.clone(),
        imds_support: traits.imds_support.clone(),
        platform: traits.platform.clone(),
        mapped: Vec::new(),
    }
}

fn traits(facts: &ImageFacts) -> ImageTraits {
    ImageTraits {
        architecture: facts.architecture.clone(),
        root_device: facts.root_device.clone(),
        boot_mode: facts.boot_mode.clone(),
        ena_support: facts.ena_support,
        tpm_support: facts.tpm_support.clone(),
        imds_support: facts.imds_support.clone(),
        platform: facts.platform.clone(),
    }
}

/// The request of a launch, exactly as it was intended.
#[must_use]
pub fn launch_request(intent: &Intent) -> Option<LaunchRequest> {
    let Intent::Launch {
        client_token,
        pool,
        price_max,
        ask_anyway: _,
        on_demand_max: _,
        rank: _,
        zone,
        image,
        interface,
        volumes,
        suppress,
        root_device,
        root_size_gib,
        root_volume_type,
        key_name,
        instance_profile,
        user_data,
        tags,
    } = intent
    else {
        return None;
    };
    let changed = root_size_gib.is_some() || root_volume_type.is_some();
    Some(LaunchRequest {
        client_token: client_token.clone(),
        image: image.clone(),
        instance_type: pool.instance_type.clone(),
        market: pool.market,
        price_max: price_max.clone(),
        zone: zone.clone(),
        network: match interface {
            LaunchInterface::Kept(id) => LaunchNetwork::Existing(id.clone()),
            LaunchInterface::New { subnet, groups } => {
                LaunchNetwork::New { subnet: subnet.clone(), groups: groups.clone() }
            }
        },
        root: changed.then(|| RootOverride {
            device: root_device.clone(),
            size_gib: *root_size_gib,
            volume_type: root_volume_type.clone(),
        }),
        volumes: volumes.clone(),
        suppress: suppress.clone(),
        key_name: key_name.clone(),
        instance_profile: instance_profile.clone(),
        user_data: user_data.clone(),
        tags: tags.clone(),
    })
}
