//! Instances: launched, seen running, fenced.

use std::time::Duration;

use perennial_engine::dispatcher::StepResult;
use perennial_workflows::model::aws::{ImageId, InstanceId, InstanceState, SpotRequestId};
use perennial_workflows::model::capacity::NotAsked;
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Launch, LaunchInterface};
use tracing::warn;

use super::own::{Claim, made_by};
use super::pass::{
    Answer, LOOK_AGAIN, LOOK_ALONE, Pass, SECOND_READ, force_again_ms, may_work, not_shown, not_yet, settled,
};
use crate::capacity::pool::PoolKey;
use crate::port::error::{Action, Class, CloudError};
use crate::port::{InstanceView, LaunchNetwork, LaunchRequest, RootOverride, Select};

/// How long an instance may be `shutting-down` before it is terminated by force. A metal instance took over
/// 19 minutes in order. Without force EC2 waits for what its guide calls several hours. What had to be
/// preserved was preserved before the termination was asked for; what is shutting down without having been
/// asked cannot be changed any more.
const FORCE_AFTER: Duration = Duration::from_mins(25);

/// Why a launch does not ask its pool. `None` when it may ask, or may have asked already: then only EC2 knows
/// what became of it.
async fn not_asked(pass: &mut Pass<'_>, launch: &Launch) -> Result<Option<NotAsked>, StepResult<Evidence>> {
    if pass.memory.creation().tried || pass.may_be_anothers() {
        return Ok(None);
    }
    if !launch.ask_anyway
        && let Some(why) = pass.tools.refusals.recall(&PoolKey::of_launch(launch))
    {
        return Ok(Some(why));
    }
    let Some(max) = launch.on_demand_max else { return Ok(None) };
    let (workflow, token) = pass.step;
    pass.tools
        .on_demand
        .refuses(workflow, token, max)
        .await
        .map_err(|error| StepResult::NotYet { again_in: LOOK_AGAIN, because: error.to_string() })
}

/// Terminates an instance and sees it terminated, twice.
pub(super) async fn fence(
    pass: &mut Pass<'_>,
    instance: &InstanceId,
    spot: Option<&SpotRequestId>,
) -> Answer {
    let Some(view) = pass.tools.observer.instance(instance).await? else {
        if !pass.is_instance_absent(instance).await? {
            return not_yet(LOOK_AGAIN, format!("{instance} is not shown, which proves nothing yet"));
        }
        pass.tools.clock.sleep(SECOND_READ).await;
        return match pass.tools.observer.instance(instance).await? {
            None => settled(Evidence::Fenced {
                found: pass.memory.fence().found.clone().unwrap_or_else(|| "not known any more".to_owned()),
                terminated_by_us: pass.memory.fence().terminated,
                reason: None,
                forced: pass.memory.fence().force_again_ms.is_some(),
                not_shown: true,
            }),
            Some(_) => not_yet(LOOK_AGAIN, format!("two reads of {instance} did not agree")),
        };
    };
    pass.seen(view.state);
    let found = pass.memory.fence().found.get_or_insert_with(|| view.state.to_string()).clone();
    match view.state {
        InstanceState::Terminated => {
            pass.tools.clock.sleep(SECOND_READ).await;
            match pass.tools.observer.instance(instance).await? {
                Some(again) if again.state == InstanceState::Terminated => {
                    let terminated_by_us = pass.memory.fence().terminated;
                    let reason = again.state_reason.filter(|_| !terminated_by_us);
                    let forced = pass.memory.fence().force_again_ms.is_some();
                    settled(Evidence::Fenced { found, terminated_by_us, reason, forced, not_shown: false })
                }
                _ => not_yet(LOOK_AGAIN, format!("two reads of {instance} did not agree")),
            }
        }
        InstanceState::ShuttingDown => shuts_down(pass, instance).await,
        InstanceState::Pending
        | InstanceState::Running
        | InstanceState::Stopping
        | InstanceState::Stopped => {
            // A persistent request would launch another instance for the one we take away.
            if let Some(request) = view.spot_request.as_ref().or(spot)
                && !pass.memory.fence().terminated
            {
                let requests = pass.tools.cloud.spot_requests(&Select::Ids(vec![request.clone()])).await?;
                if requests.iter().any(|found| found.id == *request && found.persistent) {
                    pass.tools.cloud.cancel_spot_request(request).await?;
                }
            }
            let asked = pass.tools.cloud.terminate_instance(instance).await;
            pass.memory.fence().terminated |= may_work(&asked);
            asked?;
            not_yet(LOOK_AGAIN, format!("{instance} is to terminate"))
        }
    }
}

/// It is on its way; or it hangs there, and is terminated by force.
async fn shuts_down(pass: &mut Pass<'_>, instance: &InstanceId) -> Answer {
    let now_ms = pass.now_ms();
    let past = |since_ms: u64| Duration::from_millis(now_ms.saturating_sub(since_ms));
    let waited = past(*pass.memory.fence().shutting_down_since_ms.get_or_insert(now_ms));
    let again = pass.memory.fence().force_again_ms.is_none_or(|again_ms| now_ms >= again_ms);
    let minutes = waited.as_secs() / 60;
    if waited < FORCE_AFTER {
        return not_yet(LOOK_AGAIN, format!("{instance} has been shutting down for {minutes} min"));
    }
    if again {
        let asked = pass.tools.cloud.force_terminate_instance(instance).await;
        if let Some(again_ms) = force_again_ms(&asked, now_ms) {
            pass.memory.fence().force_again_ms = Some(again_ms);
        }
        asked?;
        warn!("{instance} has been shutting down for {minutes} min: it is terminated by force");
    }
    let hangs = format!("{instance} hangs: it has been shutting down for {minutes} min");
    not_yet(LOOK_AGAIN, format!("{hangs}; a forced termination was asked for and has not ended it"))
}

/// Launches an instance. The client token makes a repeat safe; what carries the step's tag is looked for
/// first.
pub(super) async fn launch(pass: &mut Pass<'_>, launch: &Launch) -> Answer {
    let cloud = pass.tools.cloud.as_ref();
    let is_first = !pass.memory.creation().tried && !pass.may_be_anothers() && !pass.outdated;
    let _held = if is_first {
        match not_asked(pass, launch).await {
            Ok(None) => {}
            Ok(Some(because)) => return settled(Evidence::NotAsked { because }),
            Err(result) => return Ok(result),
        }
        match pass.ahead(Action::RunInstances) {
            Ok(held) => held,
            Err(because) => return Ok(StepResult::Hindered { again_in: LOOK_ALONE, because }),
        }
    } else {
        None
    };
    let claim = Claim::of(pass, &launch.tags).with_token(&launch.client_token);
    let mine = made_by::<InstanceView>(pass, &claim).await?;
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
    // Every call so far was refused without effect: another request takes its place.
    if pass.outdated && pass.was_surely_not_asked() {
        return settled(Evidence::Outdated);
    }
    let (request, pool) = (launch_request(launch), PoolKey::of_launch(launch));
    let launched = cloud.run_instance(&request).await;
    match &launched {
        Ok(_) => pass.tools.refusals.served(&pool),
        Err(error) if error.is_of_the_pool() => {
            pass.tools.refusals.refused(pool, &error.code);
        }
        Err(_) => {}
    }
    match launched {
        Ok(view) => settled(Evidence::Launched { instance: view.id, spot_request: view.spot_request }),
        Err(error) if pass.may_have_worked(&error) => {
            not_yet(LOOK_AGAIN, format!("{error}; an earlier try may have worked"))
        }
        Err(error) if pass.is_given_up_for(&error) => settled(Evidence::Outdated),
        Err(error) if error.is_of_the_addresses() => {
            settled(Evidence::NoAddress { code: error.code, message: error.message })
        }
        Err(error) if error.is_of_the_image() => match is_image_gone(pass, &request.image).await? {
            true => settled(Evidence::ImageGone { image: request.image, message: error.to_string() }),
            false => not_yet(LOOK_ALONE, error.to_string()),
        },
        Err(error) if error.class == Class::NotFound && request.kept_interface().is_some() => {
            match request.kept_interface() {
                Some(kept)
                    if pass.tools.observer.interface(kept).await?.is_none()
                        && pass.is_absent(kept.as_str()).await? =>
                {
                    not_shown(format!("interface {kept} does not exist any more"))
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

/// Notes a look at the image of a refused launch; whether it can be taken as gone: missed for a while, and
/// more than once, while something else that the journal knows is visible.
async fn is_image_gone(pass: &mut Pass<'_>, image: &ImageId) -> Result<bool, CloudError> {
    let found = pass.tools.cloud.images(&Select::Ids(vec![image.clone()])).await?;
    if found.is_empty() {
        return pass.is_image_gone(image.as_str()).await;
    }
    pass.memory.object.found();
    Ok(false)
}

/// Sees an instance running, with its interface and its root volume.
pub(super) async fn start(pass: &mut Pass<'_>, instance: &InstanceId, devices: &[String]) -> Answer {
    let view = match pass.alive(instance).await? {
        Ok(view) => view,
        Err(result) => return Ok(result),
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
    // Nothing else of ours is attached before this step: a single volume is the root, whatever an endpoint
    // calls its device.
    let named = others.iter().find(|device| view.root_device.as_ref() == Some(&device.device));
    let root = match (named, others.as_slice()) {
        (Some(root), _) | (None, [root]) => Some(root.clone()),
        _ => None,
    };
    // The mapping can lag behind the state. Every EBS-backed instance has a root volume, and one we do not
    // know is one we cannot keep: without it the instance is not taken.
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

/// The request of a launch, exactly as it was intended.
fn launch_request(launch: &Launch) -> LaunchRequest {
    let Launch {
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
        root_iops,
        root_throughput,
        root_encrypted,
        root_kms_key,
        metadata,
        template,
        key_name,
        instance_profile,
        user_data,
        tags,
    } = launch;
    let root = RootOverride {
        device: root_device.clone(),
        size_gib: *root_size_gib,
        volume_type: root_volume_type.clone(),
        iops: *root_iops,
        throughput: *root_throughput,
        encrypted: *root_encrypted,
        kms_key: root_kms_key.clone(),
    };
    LaunchRequest {
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
        root: Some(root).filter(RootOverride::changes_something),
        volumes: volumes.clone(),
        suppress: suppress.clone(),
        key_name: key_name.clone(),
        instance_profile: instance_profile.clone(),
        user_data: user_data.clone(),
        metadata: *metadata,
        template: template.clone(),
        tags: tags.clone(),
    }
}
