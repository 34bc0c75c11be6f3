//! The runner: one pass of a step after the other, each by the file of its subject.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use perennial_engine::clock::Clock;
use perennial_engine::dispatcher::{StepResult, StepRunner};
use perennial_engine::domain::OpenStep;
use perennial_engine::ids::StreamId;
use perennial_workflows::domain::Perennial;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{
    AdoptRoot, Associate, AttachInterface, ClaimVolume, CloneRoot, DeleteVolume, Intent, MoveAddress,
    Preserve, RegisterImage, ReturnAddress, Verify,
};

use super::memory::Memories;
use super::pass::{Answer, LOOK_LONGEST, LOOK_SHARE, Pass, Tools};
use super::{
    address, adopt_root, backup, clone_root, final_snapshot, find, image, instance, interface, preserve,
    prune, release, resolve, snapshot, survey, verify, volume,
};
use crate::capacity::on_demand::OnDemandBudget;
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::catalogue::Catalogue;
use crate::cloud::line::Urgency;
use crate::cloud::observer::Observer;
use crate::cloud::planner::{self, Planner};
use crate::port::Cloud;
use crate::standing::{Held, Standing, StandingError};

/// Carries out the steps over a cloud.
pub(crate) struct Runner {
    tools: Tools,
    memories: Mutex<Memories>,
}

impl Runner {
    /// A runner over the cloud that the planner stands before.
    pub(crate) fn new(
        planner: Arc<Planner>,
        clock: Clock,
        refusals: Arc<CapacityRefusals>,
        on_demand: OnDemandBudget,
        standing: Standing,
    ) -> Self {
        let cloud: Arc<dyn Cloud> = Arc::clone(&planner) as Arc<dyn Cloud>;
        let observer = Observer::new(Arc::clone(&cloud), clock.clone());
        let catalogue = Catalogue::new(Arc::clone(&cloud), clock.clone());
        let began_ms = clock.monotonic_ms();
        let tools =
            Tools { cloud, planner, observer, clock, refusals, on_demand, catalogue, standing, began_ms };
        Self { tools, memories: Mutex::default() }
    }

    fn memories(&self) -> MutexGuard<'_, Memories> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl StepRunner<Perennial> for Runner {
    async fn run(&self, workflow: &StreamId, step: &OpenStep<Intent>, tries: u32) -> StepResult<Evidence> {
        let clock = &self.tools.clock;
        let key = (workflow.clone(), step.token);
        // Of one that waits for its time, that time: it was not tried before. A clock that was set since
        // makes it late: then it may have been tried.
        let began_ms = step.intended_at_ms.max(step.not_before_ms);
        let late_by = Duration::from_millis(clock.now_ms().abs_diff(began_ms));
        let memory = self.memories().of(&key, late_by, clock.monotonic_ms());
        let mut pass = Pass {
            tools: &self.tools,
            step: (workflow, step.token),
            memory,
            began_ms: clock.monotonic_ms(),
            made_from_ms: step.made_from_ms,
            tries,
            outdated: step.outdated,
        };
        let urgency = Urgency::of_step(step.priority, step.wanted_by_ms, began_ms);
        let failures = pass.memory.failures;
        let looked = looked(&mut pass, &step.intent);
        let (result, turn) = planner::seated((workflow, step.token), urgency, Box::pin(looked)).await;
        let now_ms = pass.now_ms();
        match result {
            StepResult::NotYet { .. } | StepResult::Hindered { .. } | StepResult::Queued(_)
                if let Some(turn) = turn =>
            {
                pass.memory.failures = failures;
                pass.memory.queued_ms = Some(now_ms);
                self.memories().keep(key, pass.memory, now_ms);
                StepResult::Queued(turn)
            }
            StepResult::Queued(turn) => StepResult::Queued(turn),
            StepResult::NotYet { again_in, because } => {
                let again_in = again_in.max((pass.looked_for() / LOOK_SHARE).min(LOOK_LONGEST));
                self.memories().keep(key, pass.memory, now_ms);
                StepResult::NotYet { again_in, because }
            }
            StepResult::Hindered { again_in, because } => {
                self.memories().keep(key, pass.memory, now_ms);
                StepResult::Hindered { again_in, because }
            }
            settled @ StepResult::Settled(_) => {
                self.memories().forget(&key);
                settled
            }
        }
    }
}

/// One look, and what it comes to.
async fn looked(pass: &mut Pass<'_>, intent: &Intent) -> StepResult<Evidence> {
    let now_ms = pass.now_ms();
    pass.memory.turn_has_come(now_ms);
    let result = match admitted(pass, intent).await {
        Ok(result) => {
            pass.memory.failures = 0;
            result
        }
        Err(error) => pass.trouble(&error),
    };
    pass.doubted(result).await
}

/// A step is carried out when the journal knows the world of its node.
async fn admitted(pass: &mut Pass<'_>, intent: &Intent) -> Answer {
    if let Some(node) = pass.node() {
        match pass.tools.standing.holds(&node).await {
            Ok(None) => {}
            // A person brings the journal up to the world, or takes what is not the node's away: no step's
            // patience is spent on that.
            Ok(Some(Held { again_in, because })) => {
                return Ok(StepResult::Hindered { again_in, because });
            }
            Err(StandingError::Cloud(error)) => return Err(error),
            Err(error) => {
                return Ok(StepResult::Hindered { again_in: LOOK_LONGEST, because: error.to_string() });
            }
        }
    }
    carry_out(pass, intent).await
}

/// What carries out each kind of step.
async fn carry_out(pass: &mut Pass<'_>, intent: &Intent) -> Answer {
    match intent {
        Intent::Resolve(step) => resolve::resolve(pass, &step.subnet, &step.image, &step.others).await,
        Intent::Survey(question) => survey::survey(pass, question).await,
        Intent::CreateVolume(step) => volume::create(pass, step).await,
        Intent::ClaimVolume(ClaimVolume { volume, zone, size_gib, own, .. }) => {
            volume::take(pass, volume, zone, *size_gib, own).await
        }
        Intent::CreateInterface(step) => interface::create(pass, step).await,
        Intent::Preserve(Preserve { instance, volumes, interface, address_interface, others, uefi }) => {
            let asked = if *uefi { preserve::Uefi::Asked } else { preserve::Uefi::NotAsked };
            let interfaces = preserve::Interfaces {
                own: interface.as_ref(),
                address_interface: address_interface.as_ref(),
            };
            preserve::preserve(pass, instance, volumes, interfaces, others.as_ref(), asked).await
        }
        Intent::Detach(step) => volume::detach(pass, &step.volume, &step.instance).await,
        Intent::Fence(step) => instance::fence(pass, &step.instance, step.spot_request.as_ref()).await,
        Intent::Release(step) => release::release(pass, &step.volume, &step.from).await,
        Intent::ReleaseInterface(step) => interface::release(pass, &step.interface, &step.from).await,
        Intent::SnapshotRoot(step) => snapshot::create(pass, &step.volume, &step.tags, step.ahead_ms).await,
        Intent::SnapshotVolume(step) => snapshot::create(pass, &step.volume, &step.tags, step.ahead_ms).await,
        Intent::CloneRoot(CloneRoot { volume, client_token, tags }) => {
            clone_root::clone_root(pass, volume, client_token, tags).await
        }
        Intent::RegisterImage(RegisterImage { name, snapshot, facts, uefi_data, tags }) => {
            image::register(pass, name, snapshot, facts, uefi_data.as_deref(), tags).await
        }
        Intent::Launch(step) => instance::launch(pass, step).await,
        Intent::Start(step) => instance::start(pass, &step.instance, &step.devices).await,
        Intent::AdoptRoot(AdoptRoot { instance, volume, client_token, tags, .. }) => {
            adopt_root::adopt(pass, instance, volume, client_token, tags).await
        }
        Intent::Attach(step) => volume::attach(pass, &step.volume, &step.instance, &step.device).await,
        Intent::AttachInterface(AttachInterface { interface, instance, device_index }) => {
            interface::attach(pass, interface, instance, *device_index).await
        }
        Intent::DetachInterface(step) => interface::detach(pass, &step.interface, &step.instance).await,
        Intent::ReturnAddress(ReturnAddress { pool, subnet, address, own }) => {
            address::give_back(pass, pool, subnet, *address, own).await
        }
        Intent::SetGroups(step) => interface::set_groups(pass, &step.interface, &step.groups).await,
        Intent::MoveAddress(MoveAddress { instance, interface, address, from, own }) => {
            address::move_to(pass, instance, interface, *address, from, own).await
        }
        Intent::Grow(step) => volume::grow(pass, &step.volume, step.size_gib).await,
        Intent::Associate(Associate { allocation, instance, interface, private_ip, from, own }) => {
            address::associate(pass, allocation, instance, (interface, *private_ip), from, own).await
        }
        Intent::Verify(Verify { instance, volumes, interface, address }) => {
            verify::verify(pass, instance, volumes, interface.as_ref(), *address).await
        }
        Intent::DeleteVolume(DeleteVolume { volume, role, retained }) => match retained {
            Some(wanted) => prune::delete(pass, volume, wanted).await,
            None => volume::delete(pass, volume, role).await,
        },
        Intent::DeleteInterface(step) => interface::delete(pass, &step.interface).await,
        Intent::DeregisterImage(step) => image::deregister(pass, &step.image).await,
        Intent::Find(step) => find::find(pass, step.kind, &step.tags, step.origin.as_ref()).await,
        Intent::Backup(intent) => backup::backup(pass, intent).await,
        Intent::FinalSnapshot(step) => final_snapshot::take(pass, &step.volume, &step.tags).await,
        Intent::SnapshotAhead(step) => final_snapshot::take(pass, &step.volume, &step.tags).await,
        Intent::DeleteSnapshot(step) => snapshot::delete(pass, &step.snapshot).await,
    }
}
