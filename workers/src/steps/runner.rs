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
use perennial_workflows::step::intent::Intent;

use super::memory::Memories;
use super::pass::{Answer, LOOK_LONGEST, LOOK_SHARE, Pass, Tools, not_yet};
use super::{
    address, backup, final_snapshot, find, image, instance, interface, preserve, prune, resolve,
    root_adoption, root_clone, snapshot, stuck_detach, survey, verify, volume,
};
use crate::capacity::on_demand::OnDemandBudget;
use crate::capacity::refusals::CapacityRefusals;
use crate::cloud::catalogue::Catalogue;
use crate::cloud::observer::Observer;
use crate::port::Cloud;
use crate::standing::{Held, Standing, StandingError};

/// Carries out the steps over a cloud.
pub(crate) struct Runner {
    tools: Tools,
    memories: Mutex<Memories>,
}

impl Runner {
    /// A runner over a cloud, which should be [`Budgeted`](crate::cloud::budget::Budgeted).
    pub(crate) fn new(
        cloud: Arc<dyn Cloud>,
        clock: Clock,
        refusals: Arc<CapacityRefusals>,
        on_demand: OnDemandBudget,
        standing: Standing,
    ) -> Self {
        let observer = Observer::new(Arc::clone(&cloud), clock.clone());
        let catalogue = Catalogue::new(Arc::clone(&cloud), clock.clone());
        let started_ms = clock.now_ms();
        let tools = Tools { cloud, observer, clock, refusals, on_demand, catalogue, standing, started_ms };
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
        let memory = self.memories().of(&key, clock.now_ms());
        let intended_at_ms = step.intended_at_ms.max(step.not_before_ms);
        let mut pass =
            Pass { tools: &self.tools, step: (workflow, step.token), memory, intended_at_ms, tries };
        let result = match admitted(&mut pass, &step.intent).await {
            Ok(result) => {
                pass.memory.failures = 0;
                result
            }
            Err(error) => pass.trouble(&error),
        };
        let now_ms = clock.now_ms();
        match result {
            StepResult::NotYet { again_in, because } => {
                let waited = Duration::from_millis(now_ms.saturating_sub(pass.memory.first_look_ms));
                let again_in = again_in.max((waited / LOOK_SHARE).min(LOOK_LONGEST));
                self.memories().keep(key, pass.memory, now_ms);
                StepResult::NotYet { again_in, because }
            }
            settled @ StepResult::Settled(_) => {
                self.memories().forget(&key);
                settled
            }
        }
    }
}

/// A step is carried out when the journal knows the world of its node.
async fn admitted(pass: &mut Pass<'_>, intent: &Intent) -> Answer {
    if let Some(node) = pass.node() {
        match pass.tools.standing.holds(&node).await {
            Ok(None) => {}
            Ok(Some(Held { again_in, because })) => return not_yet(again_in, because),
            Err(StandingError::Cloud(error)) => return Err(error),
            Err(StandingError::Journal(error)) => return not_yet(LOOK_LONGEST, error.to_string()),
        }
    }
    carry_out(pass, intent).await
}

/// What carries out each kind of step.
async fn carry_out(pass: &mut Pass<'_>, intent: &Intent) -> Answer {
    match intent {
        Intent::Resolve { subnet, image, others } => resolve::resolve(pass, subnet, image, others).await,
        Intent::Survey(question) => survey::survey(pass, question).await,
        Intent::CreateVolume { .. } => volume::create(pass, intent).await,
        Intent::ClaimVolume { volume, zone, size_gib, own, .. } => {
            volume::take(pass, volume, zone, *size_gib, own).await
        }
        Intent::CreateInterface { .. } => interface::create(pass, intent).await,
        Intent::Preserve { instance, volumes, interface, address_interface, others, uefi } => {
            let asked = if *uefi { preserve::Uefi::Asked } else { preserve::Uefi::NotAsked };
            let interfaces = preserve::Interfaces {
                own: interface.as_ref(),
                address_interface: address_interface.as_ref(),
            };
            preserve::preserve(pass, instance, volumes, interfaces, others.as_ref(), asked).await
        }
        Intent::Detach { volume, instance, .. } => volume::detach(pass, volume, instance).await,
        Intent::Fence { instance, spot_request } => {
            instance::fence(pass, instance, spot_request.as_ref()).await
        }
        Intent::Release { volume, from, .. } => stuck_detach::release(pass, volume, from).await,
        Intent::ReleaseInterface { interface, from } => interface::release(pass, interface, from).await,
        Intent::SnapshotRoot { volume, tags } | Intent::SnapshotVolume { volume, tags, .. } => {
            snapshot::create(pass, volume, tags).await
        }
        Intent::CloneRoot { volume, client_token, tags } => {
            root_clone::clone_root(pass, volume, client_token, tags).await
        }
        Intent::RegisterImage { name, snapshot, facts, uefi_data, tags } => {
            image::register(pass, name, snapshot, facts, uefi_data.as_deref(), tags).await
        }
        Intent::Launch { .. } => instance::launch(pass, intent).await,
        Intent::Start { instance, devices } => instance::start(pass, instance, devices).await,
        Intent::AdoptRoot { instance, volume, client_token, tags, .. } => {
            root_adoption::adopt(pass, instance, volume, client_token, tags).await
        }
        Intent::Attach { volume, instance, device, .. } => {
            volume::attach(pass, volume, instance, device).await
        }
        Intent::AttachInterface { interface, instance, device_index } => {
            interface::attach(pass, interface, instance, *device_index).await
        }
        Intent::DetachInterface { interface, instance } => interface::detach(pass, interface, instance).await,
        Intent::ReturnAddress { pool, subnet, address, own } => {
            address::give_back(pass, pool, subnet, *address, own).await
        }
        Intent::SetGroups { interface, groups } => interface::set_groups(pass, interface, groups).await,
        Intent::MoveAddress { instance, interface, address, from, own } => {
            address::move_to(pass, instance, interface, *address, from, own).await
        }
        Intent::Grow { volume, size_gib, .. } => volume::grow(pass, volume, *size_gib).await,
        Intent::Associate { allocation, instance, interface, private_ip, from, own } => {
            address::associate(pass, allocation, instance, (interface, *private_ip), from, own).await
        }
        Intent::Verify { instance, volumes, interface, address } => {
            verify::verify(pass, instance, volumes, interface.as_ref(), *address).await
        }
        Intent::DeleteVolume { volume, retained: Some(wanted), .. } => {
            prune::delete(pass, volume, wanted).await
        }
        Intent::DeleteVolume { volume, role, retained: None } => volume::delete(pass, volume, role).await,
        Intent::DeleteInterface { interface } => interface::delete(pass, interface).await,
        Intent::DeregisterImage { image } => image::deregister(pass, image).await,
        Intent::Find { kind: made, tags, origin } => find::find(pass, *made, tags, origin.as_ref()).await,
        Intent::Backup(intent) => backup::backup(pass, intent).await,
        Intent::FinalSnapshot { volume, tags, .. } | Intent::SnapshotAhead { volume, tags, .. } => {
            final_snapshot::take(pass, volume, tags).await
        }
        Intent::DeleteSnapshot { snapshot } => snapshot::delete(pass, snapshot).await,
    }
}
